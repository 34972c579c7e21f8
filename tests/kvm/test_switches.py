# SPDX-License-Identifier: GPL-2.0-or-later
"""The flags in a bounded run on KVM are right after each switch that a second BPF program sees."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm.conftest import DEADLINE_NS, FILES
from pvlock import Machine, Policy, SystemEvent
from pvlock.engines.kvm import engine
from recorder import Recorder, judge, permitted

VCPUS, PCPUS = 6, 2
ROOM = 2_000_000


def clock(machine: Machine) -> tuple[int, int, int]:
    """Return the guest's counter, and CLOCK_MONOTONIC just before and after it was read."""
    readings = []
    for _ in range(200):
        before = time.monotonic_ns()
        ticks = machine.vcpus[0].get("cntvct_el0")
        readings.append((ticks, before, time.monotonic_ns()))
    return min(readings, key=lambda reading: reading[2] - reading[1])


@pytest.mark.parametrize("policy", list(Policy))
def test_every_switch_and_every_sample(
    nothing_left: None,
    policy: Policy,
    guest: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = Path(FILES) if FILES is not None else tmp_path
    with Recorder(VCPUS, policy, ROOM, folder) as recorder:
        add = recorder.publisher.add_current_thread

        def add_and_follow(vcpu: int, index: int | None = None) -> None:
            add(vcpu, index)
            recorder.follow(vcpu)

        monkeypatch.setattr(recorder.publisher, "add_current_thread", add_and_follow)
        monkeypatch.setattr(engine, "Publisher", lambda _vcpus, _policy: recorder.publisher)
        with Machine(VCPUS, PCPUS, engine="kvm", policy=policy) as machine:
            machine.load(guest("samples"))
            first = clock(machine)
            assert machine.run(DEADLINE_NS) is SystemEvent.OFF, machine.console.text
            last = clock(machine)
            _, where, count, _, own_not_zero = machine.console.text.split()
            samples = machine.memory.read(int(where, 16), int(count) * 32, "samples")
            exits = machine.usage().exits
        recorder.wait_for_end(range(VCPUS))
        changes = judge(recorder.records(), policy)
        switches = recorder.count
    assert own_not_zero == "0"
    # A line through the two readings turns ticks into ns, exact to the time that a reading took.
    ticks = last[0] - first[0]
    slope = (last[1] - first[1]) / ticks
    slack = max(last[2] - last[1], first[2] - first[1])
    seen = set()
    for begin, end, vcpu, flag in struct.iter_unpack("<4Q", samples):
        from_ns = first[1] + int((begin - first[0]) * slope) - slack
        to_ns = first[1] + int((end - first[0]) * slope) + slack
        assert permitted(changes[vcpu], from_ns, to_ns, flag), (vcpu, flag, from_ns, to_ns)
        seen.add(flag)
    assert seen == {0, 1}
    assert switches > 100
    # One call on each VCPU asks where its flag is, two calls find PV-lock; no other exits are made.
    assert exits["hypercall"] <= VCPUS + 2, exits
    assert exits["abort"] == 0
    print(f"{policy}: {switches} switches, {int(count)} samples to {slack} ns, exits {exits}")
