# SPDX-License-Identifier: GPL-2.0-or-later
"""Exceptions that a guest takes to its vector, and guests whose vector cannot take them."""

import pytest

from asm import assemble
from fragments import SETUP, TELLING_VECTOR
from hostile import fault, run
from pvlock.engines.contract import SystemEvent

pytestmark = pytest.mark.usefixtures("bounded")


def test_a_jump_into_nowhere_without_a_vector_is_a_guest_fault() -> None:
    error = fault(run(assemble("set x1, 0xdead0000\nbr x1")))
    assert error.vcpu == 0
    assert error.pc == 0x200  # VBAR_EL1 resets to 0 here, and nothing is there either


def test_a_jump_into_nowhere_reaches_the_guests_vector() -> None:
    guest = SETUP + "set x1, 0xdead0000\nbr x1" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1", "far_el1", "elr_el1"))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 == 0x21  # instruction abort, same exception level
    assert end.registers["far_el1"] == end.registers["elr_el1"] == 0xDEAD0000


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_misaligned_pc_reaches_the_guests_vector(offset: int) -> None:
    guest = SETUP + f"adr x1, vectors\nadd x1, x1, #{offset}\nbr x1" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] >> 26 == 0x22  # PC alignment fault


def test_a_misaligned_pc_without_a_vector_is_a_guest_fault() -> None:
    fault(run(assemble("adr x1, _start + 2\nbr x1")))


def test_svc_from_el0_reaches_the_guests_vector() -> None:
    guest = SETUP + "to_el0\nsvc #0x123\n" + TELLING_VECTOR
    end = run(assemble(guest), registers=("esr_el1",))
    assert (end.event, end.console) == (SystemEvent.OFF, "v")
    assert end.registers["esr_el1"] == 0x15 << 26 | 1 << 25 | 0x123


@pytest.mark.parametrize(
    ("vector", "lost"),
    [
        ("udf #0", True),
        ("svc #0", False),
        ("brk #0", True),
        ("ldr x0, [x1]", True),
        ("nop\nudf #0", False),
        ("eret", False),
        ("b .", False),
    ],
)
def test_a_vector_that_faults_for_ever_is_a_fault_or_runs_until_the_limit(
    vector: str, lost: bool
) -> None:
    body = "adr x1, vectors\nmsr vbar_el1, x1\nmov x1, #1 << 60\nudf #0\n.balign 2048\nvectors:\n"
    end = run(assemble(body + f".rept 16\n.balign 128\n{vector}\n.endr"))
    if lost:
        error = fault(end)
        assert (error.vcpu, error.pc & 0x7FF) == (0, 0x200)
    else:
        assert end.event is None


@pytest.mark.parametrize("vbar", [0, 0x3000_0000, 0x0900_0000, 0x7FFF_F800, 2**64 - 2048, 1 << 47])
def test_a_vector_that_is_nowhere_is_a_fault(vbar: int) -> None:
    # In the PV-lock region there are zeros, which are UDF; in a device nothing can be executed.
    error = fault(run(assemble(f"set x1, {vbar:#x}\nmsr vbar_el1, x1\nudf #0")))
    assert error.vcpu == 0
    assert error.pc == vbar + 0x200


def test_el0_that_faults_into_a_vector_that_returns_runs_until_the_limit() -> None:
    guest = SETUP + "to_el0\nudf #0"
    vector = "\n.balign 2048\nvectors:\n.rept 16\n.balign 128\neret\n.endr"
    assert run(assemble(guest + vector)).event is None


def test_a_lost_guest_is_told_the_first_fault_not_only_the_last() -> None:
    """A guest without vectors touches a device that is not there."""
    error = fault(run(assemble("mov x1, #0x0a000000\nldr w0, [x1]\nb .")))
    assert (error.vcpu, error.pc) == (0, 0x200)
    first = "an exception at 0x40200004 (ESR_EL1 0x96000010, FAR_EL1 0xa000000)"
    assert str(error).endswith(f"it had been called by {first}")


def test_a_vcpu_started_at_a_virtual_address_is_told_that_address() -> None:
    guest = """
	set x0, 0xc4000003		// CPU_ON
	mov x1, #1
	set x2, 0xffff000040200000
	mov x3, #0
	hvc #0
1:	wfi
	b 1b
"""
    error = fault(run(assemble(guest), vcpus=2, pcpus=2))
    assert error.vcpu == 1
    assert "called by an exception at 0xffff000040200000" in str(error)


def test_what_a_vcpu_was_before_it_went_off_is_no_ones_first_fault() -> None:
    """VCPU 1 takes an exception, goes off, and is started in nowhere: that is what is told."""
    guest = """
	cbnz x0, 2f
	set x0, 0xc4000003
	mov x1, #1
	adr x2, _start
	mov x3, #1
	hvc #0
1:	set x0, 0xc4000004		// AFFINITY_INFO
	mov x1, #1
	mov x2, #0
	hvc #0
	cbz x0, 1b
	set x0, 0xc4000003
	mov x1, #1
	mov x2, #0x200
	hvc #0
	b .
2:	adr x1, vectors
	msr vbar_el1, x1
	svc #0
	.balign 2048
vectors:
	.skip 0x200
	set x0, 0x84000002		// CPU_OFF
	hvc #0
"""
    error = fault(run(assemble(guest), vcpus=2, pcpus=2))
    assert (error.vcpu, error.pc) == (1, 0x200)
    assert "called by" not in str(error)
