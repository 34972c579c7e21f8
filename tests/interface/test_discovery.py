# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest finds PV-lock, and the calls as it sees them (SPECIFICATION.md, sections 3 and 4)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from asm import assemble
from pvlock import Machine, SystemEvent, abi
from pvlock.hypercall import Hypercalls
from pvlock.workload import image_of

Guest = Callable[[str], Path]
MINUS_ONE = 2**64 - 1


@pytest.mark.parametrize("pvlock", [True, False])
def test_documented_order(monkeypatch: pytest.MonkeyPatch, pvlock: bool) -> None:
    """The bundled guests ask in the documented order, and stop at the first no."""
    asked: list[tuple[int, int, int]] = []
    answer = Hypercalls.call

    def call(self: Hypercalls, vcpu: int, registers: Sequence[int]) -> tuple[int, int, int, int]:
        asked.append((vcpu, registers[0], registers[1]))
        return answer(self, vcpu, registers)

    monkeypatch.setattr(Hypercalls, "call", call)
    with Machine(2, pvlock=pvlock, bootargs="duration=10000") as machine:
        machine.load(image_of("mutex"))
        assert machine.run(10_000_000) is SystemEvent.OFF
        state = "present" if pvlock else "absent"
        assert f"pvlock {state}\n" in machine.console.text
    # PV time is looked for in the same way, on the way.
    pv_time = (abi.PV_TIME_FEATURES, abi.PV_TIME_ST)
    ours = [line for line in asked if not {line[1], line[2]} & set(pv_time)]
    ours = list(dict.fromkeys(ours))
    wanted = [
        (0, abi.SMCCC_VERSION, 0),
        (0, abi.SMCCC_ARCH_FEATURES, abi.PV_LOCK_FEATURES),
    ]
    if pvlock:
        wanted += [(0, abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED), (0, abi.PV_LOCK_PREEMPTED, 0)]
    assert ours[: len(wanted)] == wanted
    per_vcpu = [vcpu for vcpu, function, _ in ours if function == abi.PV_LOCK_PREEMPTED]
    assert sorted(per_vcpu) == ([0, 1] if pvlock else [])


def test_registers_preserved() -> None:
    """X4 to X30 and SP survive each call; so do X1 to X3, which nobody judges."""
    functions = [abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED, abi.SMCCC_VERSION, 0xC600_003F,
                 abi.PV_TIME_ST, abi.PSCI_VERSION, 0x8600_0021]  # fmt: skip
    for function in functions:
        with Machine(1) as machine:
            machine.load(assemble("hvc #0\n 1: b 1b\n"))
            vcpu = machine.vcpus[0]
            for n in range(1, 31):
                vcpu.set(f"x{n}", 0x1111_1111_1111_1111 * (n % 15 + 1) ^ n)
            vcpu.set("sp", 0x4242_0000)
            vcpu.set("x0", function)
            machine.run(1_000_000)
            for n in range(4, 31):
                assert vcpu.get(f"x{n}") == 0x1111_1111_1111_1111 * (n % 15 + 1) ^ n, function
            assert vcpu.get("sp") == 0x4242_0000


def answers(path: Path, pvlock: bool = True, place: bool = True) -> dict[str, int]:
    with Machine(1, pvlock=pvlock, place=place) as machine:
        machine.load(path)
        assert machine.run(10_000_000) is SystemEvent.OFF
        lines = [line.split() for line in machine.console.text.splitlines()]
        return {name: int(value, 16) for name, value in lines}


def test_calls_from_a_guest(guest: Guest) -> None:
    structure = 0x3000_0000
    assert answers(guest("calls")) == {
        "arch-features": 0,
        "arch-features-preempted": MINUS_ONE,
        "arch-features-high": 0,
        "arch-features-other": MINUS_ONE,
        "features": 0,
        "features-self": 0,
        "features-high": 0,
        "features-other": MINUS_ONE,
        "features-smc32": MINUS_ONE,
        "preempted": structure,
        "preempted-high": structure,
        "smc32-features": MINUS_ONE,
        "smc32-preempted": MINUS_ONE,
        "unknown": MINUS_ONE,
    }


def test_calls_before_an_address_is_set(guest: Guest) -> None:
    """ARCH_FEATURES says yes; the two calls themselves say no."""
    found = answers(guest("calls"), place=False)
    assert {name for name, value in found.items() if value == 0} == {
        "arch-features",
        "arch-features-high",
    }
    assert set(found.values()) == {0, MINUS_ONE}


def test_calls_without_pvlock(guest: Guest) -> None:
    assert set(answers(guest("calls"), pvlock=False).values()) == {MINUS_ONE}
