# SPDX-License-Identifier: GPL-2.0-or-later
"""Exception returns: legal ones, illegal ones, and those into AArch32, in which nothing runs."""

from typing import Final

import pytest

from asm import assemble
from fragments import SETUP, TELLING_VECTOR
from hostile import run
from pvlock.engines.contract import SystemEvent
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")

ILLEGAL_STATE: Final = 0x0E << 26 | 1 << 25
PSTATE_IL: Final = 1 << 20
# MOV R4, #0x42000000; MRRC CNTVCT into R2 and R3; STR both; branch to self. And in Thumb.
A32 = ".word 0xe3a04442, 0xec532f1e, 0xe5842000, 0xe5843004, 0xeafffffe"
T32 = ".hword 0xf04f, 0x4484, 0xec53, 0x2f1e, 0x6022, 0x6063, 0xe7fe"


def return_with(spsr: int, eret: str = "eret", target: str = "mov x3, #1\nsvc #0") -> bytes:
    """Assemble a guest that returns to `target`, from where EL0 may read the counters."""
    return assemble(SETUP + f"""
	mov x3, #3
	msr cntkctl_el1, x3
	mov x3, #0
	adr x1, target
	msr elr_el1, x1
	set x1, {spsr:#x}
	msr spsr_el1, x1
	{eret}
	.balign 16
target:
	{target}
	.balign 16
""" + TELLING_VECTOR)  # fmt: skip


@pytest.mark.parametrize("eret", ["eret", "eretaa", "eretab"])
@pytest.mark.parametrize(
    ("spsr", "saved"),
    [
        (0x8, 0x5),  # to EL2, which is not the guest's
        (0x9, 0x5),
        (0xD, 0x5),
        (0x1, 0x5),  # EL0 has no SP_ELx
        (0x2, 0x5),
        (0x3C6, 0x3C5),
        (0x13, 0x5),  # to AArch32 at EL1
        (0x5, None),
        (0x4, None),
        (0x0, None),
        (PSTATE_IL | 0x5, 0x5),  # legal, into the illegal state
        (PSTATE_IL | 0x0, 0x0),
    ],
)
def test_an_illegal_exception_return_reaches_the_guests_vector(
    spsr: int, saved: int | None, eret: str
) -> None:
    pauth = eret != "eret"
    end = run(return_with(spsr, eret), registers=("esr_el1", "spsr_el1", "x3"), pauth=pauth)
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    if saved is None:
        assert end.registers == {"esr_el1": 0x15 << 26 | 1 << 25, "spsr_el1": spsr, "x3": 1}
    else:
        expected = {"esr_el1": ILLEGAL_STATE, "spsr_el1": PSTATE_IL | saved, "x3": 0}
        assert end.registers == expected


@pytest.mark.parametrize(("spsr", "code"), [(0x10, A32), (0x1D0, A32), (0x30, T32)])
def test_nothing_runs_in_aarch32(spsr: int, code: str) -> None:
    """The host's time, which MRRC would read, cannot make two runs differ."""
    stored = bytearray()

    def look(machine: Machine) -> None:
        stored.extend(machine.memory.read(0x4200_0000, 8, "test"))

    guest = return_with(spsr, target=code)
    ends = [run(guest, registers=("esr_el1", "spsr_el1", "x3"), finish=look) for _ in range(3)]
    assert ends[0] == ends[1] == ends[2]
    assert (ends[0].event, ends[0].console) == (SystemEvent.OFF, "v")
    saved = PSTATE_IL | 0x5 | spsr & 0x3C0
    assert ends[0].registers == {"esr_el1": ILLEGAL_STATE, "spsr_el1": saved, "x3": 0}
    assert not any(stored)


def test_nothing_runs_in_aarch32_when_the_host_says_so() -> None:
    guest = SETUP + "adr x1, 1f\nmsr elr_el1, x1\neret\n.balign 16\n1: " + A32 + TELLING_VECTOR

    def prepare(machine: Machine) -> None:
        machine.vcpus[0].set("spsr_el1", 0x10)

    end = run(assemble(guest), prepare=prepare, registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] == ILLEGAL_STATE


def test_a_guest_that_repairs_the_illegal_state_goes_on() -> None:
    guest = SETUP + """
	mov x3, #0
	adr x1, 1f
	msr elr_el1, x1
	mov x1, #8
	msr spsr_el1, x1
	eret
1:	off
	.balign 2048
vectors:
	.rept 16
	.balign 128
	add x3, x3, #1
	mrs x4, spsr_el1
	bic x4, x4, #1 << 20
	msr spsr_el1, x4
	eret
	.endr
"""  # fmt: skip
    end = run(assemble(guest), registers=("x3",))
    assert (end.event, end.registers) == (SystemEvent.OFF, {"x3": 1})
