# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest contract, on guests that use it; and the machine as its users script it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asm import assemble
from pvlock import Machine, Placement, SystemEvent
from pvlock.errors import ConfigError, GuestStalled, ImageError, MemoryAccessError, StateError
from pvlock.memory_map import GICD_BASE, UART_BASE, gicr_base

Guest = Callable[[str], Path]
SAME_EL, LOWER_EL, IRQ = 0x200, 0x400, 0x280
# Of a machine with one VCPU, and what of GICD_CTLR is always set (DS, ARE).
GICD_TYPER, GICR_TYPER, GICD_CTLR_FIXED = 0x0648_0001, 0x10, 0x50


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
    # EL0 and EL1, no AArch32; no EL2, EL3 or SVE; a GICv3 CPU interface.
    assert registers["pfr0"] & 0xFFFF == 0x0011
    assert registers["pfr0"] >> 24 & 0xF == 1
    assert registers["pfr0"] >> 32 & 0xF == 0


# Keeps ESR_EL1 and FAR_EL1 in X20 and X21, and steps over what aborted.
KEEPING_VECTOR = """
	.balign 2048
vectors:
	.rept 16
	.balign 128
	mrs x20, esr_el1
	mrs x21, far_el1
	mrs x22, elr_el1
	add x22, x22, #4
	msr elr_el1, x22
	eret
	.endr
"""
SETUP = """
	adr x1, vectors
	msr vbar_el1, x1
	mov x1, #3 << 20
	msr cpacr_el1, x1
	isb
	mov x20, #0
"""


def registers_after(guest: str, *names: str) -> tuple[list[int], str]:
    """Return registers at SYSTEM_OFF, and the console."""
    with Machine(1, pauth=True) as machine:
        machine.load(assemble(SETUP + guest + "\noff\n" + KEEPING_VECTOR))
        assert machine.run(5_000_000) is SystemEvent.OFF, machine.console.text
        return [machine.vcpus[0].get(name) for name in names], machine.console.text


@pytest.mark.parametrize(
    ("access", "value"),
    [
        ("ldr w1, [x9, #4]", GICD_TYPER),
        ("ldr w1, [x9, x10]", GICD_TYPER),
        ("ldr w1, [x11]", GICD_TYPER),
        ("ldur w1, [x9, #4]", GICD_TYPER),
        ("ldtr w1, [x11]", GICD_TYPER),
        ("ldar w1, [x11]", GICD_TYPER),
        ("ldrsw x1, [x9, #4]", GICD_TYPER),
    ],
)
def test_an_access_with_a_syndrome_is_the_devices(access: str, value: int) -> None:
    guest = f"set x9, {GICD_BASE}\nmov x10, #4\nadd x11, x9, x10\nmov x1, #0\n{access}"
    assert registers_after(guest, "x1", "x20") == ([value, 0], "")


@pytest.mark.parametrize("device", [GICD_BASE, UART_BASE], ids=["gicd", "uart"])
@pytest.mark.parametrize(
    ("access", "offset"),
    [
        *((f"{load}, [x9], #4", 0) for load in ("ldr w1", "ldrb w1", "ldrsh w1", "ldrsw x1")),
        *((f"{store}, [x9], #4", 0) for store in ("str w1", "strb w1", "strh w1", "str x1")),
        *(("ldr w1, [x9, #4]!", 4), ("ldr x1, [x9], #-8", 0), ("str w1, [x9, #0]!", 0)),
        *(("strb w1, [x9, #8]!", 8), ("ldraa x1, [x9, #8]!", 8)),
        *((f"{pair}, [x9]", 0) for pair in ("ldp w1, w2", "stp w1, w2", "ldnp x1, x2")),
        *((f"{pair}, [x9], #8", 0) for pair in ("ldp w1, w2", "stp w1, w2", "ldpsw x1, x2")),
        *((f"{load}, [x9]", 0) for load in ("ldxr w1", "ldaxrb w1", "ldxp w1, w2")),
        *((f"{atomic}, [x9]", 0) for atomic in ("ldadd w1, w2", "swpal w1, w2", "cas w1, w2")),
        *((f"{simd}, [x9]", 0) for simd in ("ldr q0", "str s0", "stp d0, d1", "st1 {v0.16b}")),
        *((f"{simd}, [x9], #16", 0) for simd in ("ldr q0", "str b0", "st1 {v0.16b}")),
    ],
)
def test_an_access_without_a_syndrome_aborts_and_changes_nothing(
    access: str, offset: int, device: int
) -> None:
    """Writeback is among them, as on silicon: whoever emulated the access would forget it."""
    guest = f"""
	set x9, {device}
	set x10, {GICD_BASE}
	ldr w3, [x10]
	mov x1, #3			// GICD_CTLR: both groups; UARTDR: a character
	mov x2, #3
	{access}
	ldr w4, [x10]
"""
    names = ("x20", "x21", "x9", "x1", "x2")
    found, console = registers_after(guest, *names, "x3", "x4")
    before, after = found[-2:]
    external_abort = 0x25 << 26 | 1 << 25 | 0x10
    assert found[:-2] == [external_abort, device + offset, device, 3, 3]
    assert before == after
    assert console == ""


SCTLR_E0E, SCTLR_EE = 1 << 24, 1 << 25


def swap(value: int, size: int = 4) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


@pytest.mark.parametrize(
    ("sctlr", "go_on", "swapped"),
    [
        (SCTLR_EE, "", True),
        (SCTLR_E0E, "", False),
        (SCTLR_E0E, "to_el0", True),
        (SCTLR_EE, "to_el0", False),
    ],
    ids=["el1", "el0-only", "el0", "el1-only"],
)
def test_a_big_endian_guest_finds_devices_as_it_finds_memory(
    sctlr: int, go_on: str, swapped: bool
) -> None:
    """The devices are little-endian, so a guest must swap; bytes are bytes."""
    enable = swap(2) if swapped else 2
    guest = f"""
	set x9, {GICD_BASE}
	set x10, {gicr_base(1)}
	set x11, {UART_BASE}
	adr x12, 1f
	set x13, {enable}
	mrs x1, sctlr_el1
	set x2, {sctlr}
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
	{go_on}
	ldr w3, [x12]
	ldr w4, [x9, #4]
	ldr x5, [x10, #8]		// GICR_TYPER
	str w13, [x9]			// GICD_CTLR
	ldr w6, [x9]
	mov w7, #'b'
	strb w7, [x11]
	b .
1:	.word 0x11223344
"""
    with Machine(1) as machine:
        machine.load(assemble(SETUP + guest + KEEPING_VECTOR))
        assert machine.run(200_000) is None
        found = [machine.vcpus[0].get(name) for name in ("x20", "x3", "x4", "x5", "x6")]
        assert machine.console.text == "b"
    values = [(0x1122_3344, 4), (GICD_TYPER, 4), (GICR_TYPER, 8), (2 | GICD_CTLR_FIXED, 4)]
    assert found == [0, *(swap(*value) if swapped else value[0] for value in values)]


@pytest.mark.parametrize(
    ("group", "sgi", "iar", "bit"),
    [
        (1, "s3_0_c12_c11_5", "s3_0_c12_c12_0", 1 << 7),
        (0, "s3_0_c12_c11_7", "s3_0_c12_c8_0", 1 << 6),
    ],
    ids=["irq", "fiq"],
)
def test_isr_el1_shows_what_is_signalled_though_masked(
    group: int, sgi: str, iar: str, bit: int
) -> None:
    guest = f"""
	set x9, {GICD_BASE}
	set x10, {gicr_base(1) + 0x10000}
	mov w1, #3
	str w1, [x9]
	mov w1, #-{group}
	str w1, [x10, #0x80]		// GICR_IGROUPR0
	mov w1, #-1
	str w1, [x10, #0x100]		// GICR_ISENABLER0
	mov x1, #1
	msr s3_0_c12_c12_6, x1		// ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1
	msr s3_0_c12_c12_7, x1
	msr {sgi}, x1			// INTID 0, to this VCPU
	isb
	mrs x3, isr_el1			// ICC_PMR_EL1 is still 0
	mov x1, #0xf8
	msr s3_0_c4_c6_0, x1
	isb
	mrs x4, isr_el1
	mrs x5, {iar}
	isb
	mrs x6, isr_el1
"""
    found, _ = registers_after(guest, "x20", "x3", "x4", "x5", "x6")
    assert found == [0, 0, bit, 0, 0]


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
