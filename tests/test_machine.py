# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest contract, on guests that use it; and the machine as its users script it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asm import assemble
from pvlock import Machine, Placement, SystemEvent
from pvlock.errors import ConfigError, GuestStalled, ImageError, MemoryAccessError, StateError

Guest = Callable[[str], Path]
SAME_EL, LOWER_EL, IRQ = 0x200, 0x400, 0x280


def run(path: Path, vcpus: int = 1, bootargs: str = "", limit_ns: int = 50_000_000) -> list[str]:
    with Machine(vcpus, bootargs=bootargs) as machine:
        machine.load(path)
        assert machine.run(limit_ns) is SystemEvent.OFF, machine.console.text
        return machine.console.text.splitlines()


@pytest.fixture(scope="module")
def contract(guest: Guest) -> dict[str, dict[str, int]]:
    facts: dict[str, dict[str, int]] = {}
    for line in run(guest("contract")):
        name, *words = line.split()
        facts[name] = {k: int(v, 16) for k, v in zip(words[::2], words[1::2], strict=True)}
    return facts


@pytest.mark.parametrize(
    ("name", "esr", "far"),
    [
        ("SVC", 0x15 << 26 | 1 << 25 | 7, None),
        ("UDF", 1 << 25, None),
        ("BRK", 0x3C << 26 | 1 << 25 | 5, None),
        ("SMC", 1 << 25, None),
        ("SYSREG", 1 << 25, None),
        ("LOAD", 0x25 << 26 | 1 << 25 | 0x05, 0x70_0000_0000),
        ("STORE", 0x25 << 26 | 1 << 25 | 1 << 6 | 0x05, 0x70_0000_0000),
        ("JUMP", 0x21 << 26 | 1 << 25 | 0x05, 0x70_0000_0000),
        ("EXECUTE-DATA", 0x21 << 26 | 1 << 25 | 0x0F, ...),
        ("WRITE-CODE", 0x25 << 26 | 1 << 25 | 1 << 6 | 0x0F, ...),
        ("UNALIGNED-PC", 0x22 << 26 | 1 << 25, ...),
        ("NO-DEVICE", 0x25 << 26 | 1 << 25 | 0x10, 0x0A00_0000),
        ("NO-SYNDROME", 0x25 << 26 | 1 << 25 | 0x10, 0x0900_0000),
    ],
)
def test_exceptions_reach_the_guests_vector(
    contract: dict[str, dict[str, int]], name: str, esr: int, far: object
) -> None:
    fact = contract[name]
    assert fact["vector"] == SAME_EL
    assert fact["esr"] == esr
    if isinstance(far, int):
        assert fact["far"] == far
    elif far is ...:
        assert 0x4020_0000 <= fact["far"] < 0x4040_0000
    jumps = ("JUMP", "EXECUTE-DATA", "UNALIGNED-PC")
    assert fact["elr"] == (fact["far"] if name in jumps else fact["at"])


def test_exception_from_el0(contract: dict[str, dict[str, int]]) -> None:
    assert contract["EL0"]["vector"] == LOWER_EL
    assert contract["EL0"]["esr"] == 0x15 << 26 | 1 << 25 | 9


def test_interrupts_reach_the_guests_vector(contract: dict[str, dict[str, int]]) -> None:
    assert contract["SGI"]["vector"] == IRQ
    assert contract["TIMER"]["vector"] == IRQ


def test_timer_is_in_virtual_time(contract: dict[str, dict[str, int]]) -> None:
    assert 50_000 <= contract["TIMER"]["at"] <= 56_000


def test_identification_registers(contract: dict[str, dict[str, int]]) -> None:
    registers = contract["REGISTERS"]
    assert registers["mpidr"] == 0x8000_0000
    assert registers["el"] == 1
    # AArch64 EL0 and EL1; no EL2, EL3 or SVE; a GICv3 CPU interface.
    assert registers["pfr0"] >> 8 & 0xFF == 0
    assert registers["pfr0"] >> 24 & 0xF == 1
    assert registers["pfr0"] >> 32 & 0xF == 0


def test_an_sgi_wakes_a_guest_that_forgot_nothing(guest: Guest) -> None:
    assert run(guest("forgets")) == ["woken by 1"]


@pytest.mark.parametrize("forget", range(1, 7))
def test_what_a_guest_forgets_to_enable_does_not_work(guest: Guest, forget: int) -> None:
    with Machine(1, bootargs=f"forget={forget}") as machine:
        machine.load(guest("forgets"))
        with pytest.raises(GuestStalled):
            machine.run(50_000_000)


def test_ic_and_tlbi_reach_every_vcpu(guest: Guest) -> None:
    assert run(guest("broadcast"), vcpus=2) == ["1 100 2 200 3 100 4 200 5 200 "]


def test_registers_and_memory() -> None:
    with Machine(1) as machine:
        machine.load(assemble("add x2, x0, x1\n str x2, [x3]\n off"))
        vcpu = machine.vcpus[0]
        vcpu.set("x0", 40)
        vcpu.set("x1", 2)
        vcpu.set("x3", 0x4100_0000)
        assert machine.run(1_000_000) is SystemEvent.OFF
        assert vcpu.get("x2") == 42
        assert machine.memory.read_u64(0x4100_0000, "test") == 42
        with pytest.raises(ConfigError, match="x31"):
            vcpu.get("x31")
        with pytest.raises(MemoryAccessError):
            machine.memory.read(0x1000, 8, "test")


def test_time_is_instructions() -> None:
    """One instruction is one nanosecond: a loop of N turns of 2 takes 2 N ns."""
    text = "mrs x1, cntvct_el0\n set x3, 50000\n 1: subs x3, x3, #1\n b.ne 1b\n mrs x2, cntvct_el0"
    with Machine(1, script=[Placement(0, 0, 0)]) as machine:
        machine.load(assemble(text + "\n off"))
        machine.run(1_000_000)
        vcpu = machine.vcpus[0]
        assert abs(vcpu.get("x2") - vcpu.get("x1") - 100_000) <= 8


def test_time_does_not_depend_on_how_often_run_is_called() -> None:
    """Same guest, same end, whether it runs in one call or in a thousand."""
    text = "1: mrs x1, cntvct_el0\n yield\n b 1b"
    ends = []
    for step in (1_000_000, 1_000):
        with Machine(2, 1, seed=3) as machine:
            machine.load(assemble(text))
            for now in range(step, 1_000_000 + step, step):
                assert machine.run(now) is None
            ends.append((machine.vcpus[0].get("x1"), machine.usage().vcpus[0].instructions))
    assert ends[0] == ends[1]


def test_reset_ends_the_run() -> None:
    with Machine(1) as machine:
        machine.load(assemble("set x0, 0x84000009\n hvc #0"))
        assert machine.run(1_000_000) is SystemEvent.RESET


def test_states_are_checked() -> None:
    machine = Machine(1)
    machine.load(assemble("b ."))
    with pytest.raises(StateError):
        machine.load(assemble("b ."))
    machine.close()
    machine.close()
    with pytest.raises(StateError):
        machine.run(1)


@pytest.mark.parametrize(
    "options",
    [
        {"vcpus": 0},
        {"vcpus": 513},
        {"pcpus": 0},
        {"slice_ns": 0},
        {"quantum_ns": -1},
        {"ram_size": 1},
        {"ram_size": 3 << 20},
        {"engine": "tcg"},
        {"bootargs": "\0"},
        {"script": [Placement(0, 5, 0)]},
        {"script": [Placement(-1, 0, 0)]},
    ],
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Machine(**options)  # type: ignore[arg-type]


def test_no_room_for_the_device_tree() -> None:
    with Machine(1, ram_size=4 << 20) as machine, pytest.raises(ImageError, match="device tree"):
        machine.load(assemble("b .\n .bss\n .skip 0x100000"))
