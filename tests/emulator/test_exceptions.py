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
