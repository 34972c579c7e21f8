# SPDX-License-Identifier: GPL-2.0-or-later
"""What `preempted` says, and when (SPECIFICATION.md, section 6), on known schedules."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pvlock import Machine, Placement, Policy, SystemEvent
from pvlock.engines.contract import Switch

Guest = Callable[[str], Path]
QUANTUM_NS = 1_000
# One turn of the guest's sampling loop, and the rest of a translated block.
SLACK_NS = 60
ON_AND_OFF = [300_000, 340_000, 350_000, 351_000, 420_000, 500_000, 777_000, 900_000]


def script(changes: Sequence[int]) -> list[Placement]:
    """Give VCPU 0 a CPU of its own, VCPU 1 another one from the first time to the second, ..."""
    lines = [Placement(0, 0, 0)]
    lines += [Placement(at, 1, 1 if i % 2 == 0 else None) for i, at in enumerate(changes)]
    return lines


def play(
    path: Path, bootargs: str, policy: Policy, changes: Sequence[int] = ON_AND_OFF
) -> tuple[list[tuple[int, int, int]], dict[str, int], list[Switch]]:
    machine = Machine(
        2, 2, policy=policy, script=script(changes), bootargs=f"until=1000000 {bootargs}",
        record=True, quantum_ns=QUANTUM_NS,
    )  # fmt: skip
    with machine:
        machine.load(path)
        assert machine.run(5_000_000) is SystemEvent.OFF
        lines = [line.split() for line in machine.console.text.splitlines()]
        words = lines[-1]
        totals = {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)}
        events = [(int(at), int(flag), int(beats)) for _, at, flag, beats in lines[:-1]]
        return events, totals, machine.switches()


@pytest.mark.parametrize("policy", Policy)
def test_flag_is_zero_on_a_cpu(guest: Guest, policy: Policy) -> None:
    _, totals, _ = play(guest("flags"), "", policy)
    assert totals["beats"] > 10_000
    assert totals["own-not-zero"] == 0
    assert totals["self"] == 0


@pytest.mark.parametrize("policy", Policy)
def test_flag_is_one_off_a_cpu(guest: Guest, policy: Policy) -> None:
    """Every change is seen at the first look after the switch, and none is seen otherwise."""
    events, totals, _ = play(guest("flags"), "", policy)
    wanted = [(at, i % 2) for i, at in enumerate(ON_AND_OFF)]
    if policy is Policy.PREEMPTED:
        # Nobody has preempted a VCPU that never ran.
        wanted = wanted[1:]
    assert [flag for _, flag, _ in events[1:]] == [flag for _, flag in wanted]
    for (seen, _, _), (at, _) in zip(events[1:], wanted, strict=True):
        assert at <= seen <= at + SLACK_NS
    assert events[0][1] == (policy is Policy.SCHEDULED_OUT)
    # While the flag said 1 the VCPU did not get on.
    assert totals["ran-while-flagged"] == 0
    for (_, flag, beats), (_, _, later) in itertools.pairwise(events):
        assert flag == 0 or beats == later


@pytest.mark.parametrize("policy", Policy)
def test_preempted_policy_ignores_wfi(guest: Guest, policy: Policy) -> None:
    """A sleeping VCPU is off its CPU, yet nobody preempted it (E3)."""
    events, _, switches = play(guest("flags"), "wfi=1", policy)
    slept = next(s.time_ns for s in switches if s.reason == "wfi")
    if policy is Policy.PREEMPTED:
        assert [flag for _, flag, _ in events] == [0]
    else:
        assert [flag for _, flag, _ in events] == [1, 0, 1]
        assert slept - QUANTUM_NS <= events[2][0] <= slept + QUANTUM_NS + SLACK_NS


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("bootargs", ["alone=1", "beats=100"])
def test_off_vcpus(guest: Guest, policy: Policy, bootargs: str) -> None:
    """A VCPU that was never turned on, or turned itself off (E6)."""
    events, _, switches = play(guest("flags"), bootargs, policy)
    assert events[-1][1] == (policy is Policy.SCHEDULED_OUT)
    if bootargs == "alone=1":
        assert len(events) == 1
    else:
        assert any(s.reason == "off" for s in switches)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("trap_wfe", [False, True])
def test_flags_follow_every_recorded_switch(guest: Guest, policy: Policy, trap_wfe: bool) -> None:
    """On an unscripted, overcommitted run no VCPU is ever on two CPUs, nor a CPU two VCPUs'."""
    with Machine(3, 1, policy=policy, slice_ns=20_000, record=True, trap_wfe=trap_wfe,
                 bootargs="until=1000000") as machine:  # fmt: skip
        machine.load(guest("flags"))
        machine.run(20_000_000)
        on: dict[int, int] = {}
        last = 0
        for switch in machine.switches():
            assert switch.time_ns >= last
            last = switch.time_ns
            if switch.reason is None:
                assert switch.cpu not in on.values()
                assert switch.vcpu not in on
                on[switch.vcpu] = switch.cpu
            else:
                assert on.pop(switch.vcpu) == switch.cpu
        assert len(machine.switches()) > 50
