# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that get nowhere: a run of one ends at its limit, or says that the guest is stalled."""

import pytest

from asm import assemble, words
from fragments import SETUP, SKIPPING_VECTOR
from hostile import BRANCH_TO_SELF, MS, WFI, run
from pvlock.errors import GuestStalled
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")


def test_a_branch_to_itself_runs_until_the_limit() -> None:
    end = run(words(BRANCH_TO_SELF))
    assert end.event is None
    assert end.usage is not None
    assert end.usage.time_ns >= 5 * MS


def test_a_guest_that_never_powers_off_runs_until_the_limit() -> None:
    end = run(assemble("1: add x0, x0, #1\nb 1b"), registers=("x0",))
    assert end.event is None
    assert end.registers["x0"] > 0


@pytest.mark.parametrize("vcpus", [1, 4])
def test_wfi_that_nothing_can_end_is_stalled(vcpus: int) -> None:
    end = run(words(WFI, 0x17FFFFFF), vcpus=vcpus, start_all=True)
    assert isinstance(end.event, GuestStalled), end


def test_all_vcpus_off_is_stalled() -> None:
    # CPU_OFF; were it to return: branch to self
    guest = assemble("set x0, 0x84000002\nhvc #0\nb .")
    for vcpus in (1, 4):
        end = run(guest, vcpus=vcpus, start_all=True)
        assert isinstance(end.event, GuestStalled), end


def test_a_machine_in_which_nothing_was_started_is_stalled() -> None:
    with Machine() as machine, pytest.raises(GuestStalled):
        machine.run(MS)


@pytest.mark.parametrize(
    "instruction", ["tlbi vmalle1is", "tlbi vmalle1", "ic iallu", "ic ialluis", "ic ivau, x1"]
)
def test_maintenance_without_end_runs_until_the_limit(instruction: str) -> None:
    loop = f"\n1: {instruction}\ndsb ish\nisb\nb 1b\n"
    end = run(
        assemble(SETUP + loop + SKIPPING_VECTOR), vcpus=4, start_all=True, until_ns=2 * MS
    )  # fmt: skip
    assert end.event is None


@pytest.mark.parametrize("instruction", ["wfe", "wfi", "yield", "sevl\nwfe"])
def test_waiting_without_end_while_others_wait_for_a_cpu_runs_until_the_limit(
    instruction: str,
) -> None:
    guest = assemble(f"cbz x0, .\n1: {instruction}\nb 1b")
    assert run(guest, vcpus=4, pcpus=1, start_all=True).event is None


@pytest.mark.parametrize("costs", [(1_000, 0, 100), (100_000, 3_000, 1_000), (MS, 0, 100)], ids=str)
def test_no_vcpu_ever_sees_its_counter_go_back(costs: tuple[int, int, int]) -> None:
    """A VCPU that moves to another CPU takes its time with it, however the CPUs' clocks differ."""
    quantum_ns, switch_ns, exit_ns = costs
    guest = """
	mov x28, #0
	mrs x1, cntvct_el0
1:	mrs x2, cntvct_el0
	cmp x1, x2
	b.hi 2f
	mov x1, x2
	wfe
	b 1b
2:	sub x28, x1, x2
	off
"""
    end = run(
        assemble(guest), vcpus=3, pcpus=2, start_all=True, slice_ns=20_000, quantum_ns=quantum_ns,
        switch_ns=switch_ns, exit_ns=exit_ns,
    )  # fmt: skip
    assert end.event is None
    assert end.usage is not None
    assert end.usage.switches > 10
