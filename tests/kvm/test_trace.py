# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces of machines on KVM: the host's switches and the guest's locks, on the guest's counter."""

import itertools
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kvm.conftest import DEADLINE_NS
from pvlock import Machine, SystemEvent, engines, workload
from pvlock.engines.contract import Ready, Recording, Switch, unpack
from pvlock.explain import findings
from pvlock.memory_map import RAM_BASE
from pvlock.trace import perfetto
from pvlock.trace.attribution import attribute
from pvlock.trace.events import Events, Kind

VCPUS, PCPUS = 4, 2
REST = (Kind.BLOCKED, Kind.OFF)
SPIN = struct.pack("<I", 0x14000000)  # B .
SLEEP = struct.pack("<2I", 0xD503207F, 0x17FFFFFF)  # WFI; B .-4


def schedule(events: Events, vcpu: int) -> list[tuple[int, int, int]]:
    """Return what the host did with a VCPU: time, kind, CPU."""
    mine = (events.vcpu == vcpu) & (events.kind <= Kind.READY)
    columns = (events.time[mine], events.kind[mine], events.object[mine])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def turns(events: Events, vcpu: int) -> list[tuple[int, int, int]]:
    """Check that a VCPU goes from state to state as one can; return when it was on which CPU."""
    found = []
    before, since, cpu = int(Kind.OFF), 0, -1
    for at, kind, where in schedule(events, vcpu):
        if kind == Kind.SCHED_IN:
            assert before != Kind.SCHED_IN
            cpu = where
        elif kind == Kind.READY:
            assert before in REST
        else:
            assert (before, where) == (Kind.SCHED_IN, cpu)
            found.append((since, at, cpu))
        before, since = kind, at
    assert before == Kind.OFF, "a VCPU that pvlock has stopped is off"
    return found


@pytest.mark.parametrize("name", workload.RUNS[:2])
def test_what_a_guest_does_it_does_on_a_cpu(nothing_left: None, name: str) -> None:
    """A VCPU that records an event is on a CPU, to the skew. Two clocks that drift would show."""
    settings = workload.Settings("mutex", vcpus=VCPUS, pcpus=PCPUS, engine="kvm", think_ns=20_000)
    result = workload.run(name, settings, trace=True)
    assert result is not None and result.events is not None
    events = result.events
    assert sum(events.dropped) == sum(events.rejected) == 0
    assert events.start == 0 < int(events.time[0]) < events.end
    # The skew must be far less than a turn, or the test would prove nothing. It is half of what
    # the quickest reading in user space took.
    assert 0 < events.skew_ns < 500_000
    by_cpu: dict[int, list[tuple[int, int]]] = {}
    for vcpu in range(VCPUS):
        on_cpu = turns(events, vcpu)
        for came, left, cpu in on_cpu:
            by_cpu.setdefault(cpu, []).append((came, left))
        came_at = np.array([came for came, _, _ in on_cpu])
        left_at = np.array([left for _, left, _ in on_cpu])
        did = events.time[(events.vcpu == vcpu) & (events.kind >= Kind.CONTENDED)]
        assert len(did) > 10
        turn = np.searchsorted(came_at, did + events.skew_ns, "right") - 1
        assert (turn >= 0).all()
        assert (did <= left_at[turn] + events.skew_ns).all()
        ran = int((left_at - came_at).sum())
        assert 0 < ran <= result.usage.vcpus[vcpu].running_ns + len(on_cpu) * events.skew_ns
    assert set(by_cpu) == set(range(PCPUS))
    for of_one in by_cpu.values():
        of_one.sort()
        assert all(left <= came for (_, left), (came, _) in itertools.pairwise(of_one))
    acquired = int((events.kind == Kind.ACQUIRED).sum())
    assert acquired >= sum(vcpu.acquisitions for vcpu in result.report.vcpus) > 0
    assert (events.kind == Kind.PREEMPTED).any()
    found = attribute(events)
    assert (found.waits.parts.sum(axis=1) == found.waits.end - found.waits.start).all()
    assert found.cut == found.unmatched == 0
    print(findings.sentence(findings.find(events)), events.skew_ns, len(events))


def test_a_vcpu_that_sleeps_in_wfi_is_blocked(nothing_left: None) -> None:
    """From its first lock to its last, a VCPU of this guest sleeps only for the mutex, by WFI."""
    settings = workload.Settings("mutex", vcpus=VCPUS, pcpus=1, cs_ns=50_000, engine="kvm")
    result = workload.run("with", settings, trace=True)
    assert result is not None and result.events is not None
    events = result.events
    turned = {Kind.BLOCKED: 0, Kind.READY: 0}
    for vcpu in range(1, VCPUS):
        mine = events.vcpu == vcpu
        did = events.time[mine & (events.kind >= Kind.CONTENDED)]
        sleeps = events.time[mine & (events.kind == Kind.SLEPT)]
        wakes = np.append(events.time[mine & (events.kind == Kind.WOKEN)], events.end)
        for at, kind, _ in schedule(events, vcpu):
            if kind == Kind.BLOCKED and did[0] < at < did[-1] - events.skew_ns:
                slept = np.searchsorted(sleeps, at + events.skew_ns, "right") - 1
                assert slept >= 0 and at <= wakes[slept] + events.skew_ns
            if kind in turned:
                turned[Kind(kind)] += 1
    assert turned[Kind.BLOCKED] > 0 and turned[Kind.READY] > 0, turned


def test_a_pause_is_not_the_guests(nothing_left: None) -> None:
    """Between two calls of run() every VCPU is off, and the clock goes on."""
    with Machine(2, 1, engine="kvm", bootargs="duration=100000000", trace=True) as machine:
        machine.load(workload.image_of("mutex", trace=True))
        assert machine.run(100_000_000) is None
        before = machine.events()
        time.sleep(0.2)
        assert machine.run(DEADLINE_NS) is SystemEvent.OFF
        after = machine.events()
    assert sum(after.rejected) == 0
    assert len(turns(before, 0)) > 0
    paused = int(before.time[-1])
    for vcpu in range(2):
        stopped, went_on = turns(before, vcpu), turns(after, vcpu)
        assert went_on[: len(stopped)] == stopped
        assert went_on[len(stopped)][0] > paused + 200_000_000


def test_why_a_vcpu_leaves_its_cpu(nothing_left: None) -> None:
    """One VCPU spins, one sleeps in WFI, one is never started; then pvlock stops all three."""
    with Machine(3, 1, engine="kvm", record=True) as machine:
        machine.memory.write(RAM_BASE, SPIN + SLEEP, "code")
        machine.vcpus[0].start(RAM_BASE)
        machine.vcpus[1].start(RAM_BASE + len(SPIN))
        assert machine.run(1_000_000_000) is None
        switches = machine.switches()
        assert isinstance(machine.engine, Recording)
        records = unpack(machine.engine.take_switches())
    assert [record for record in records if isinstance(record, Switch)] == switches
    stories: list[list[str | None]] = [[], [], []]
    preempted = [0, 0, 0]
    for record in records:
        story = stories[record.vcpu]
        if isinstance(record, Ready):
            story.append("ready")
        elif record.reason is None and story[-1:] == ["slice"]:
            story.pop()
            preempted[record.vcpu] += 1
        else:
            story.append(record.reason)
    assert stories[0] == [None, "off"]
    assert stories[1] == [None, "wfi", "ready", None, "off"]
    assert stories[2] == [None, "off", "ready", None, "off"]
    assert preempted[0] > 0


def test_record_without_a_trace(nothing_left: None) -> None:
    with Machine(2, 1, engine="kvm", bootargs="duration=20000000", record=True) as machine:
        machine.load(workload.image_of("mutex"))
        assert machine.run(DEADLINE_NS) is SystemEvent.OFF
        switches = machine.switches()
        assert {switch.vcpu for switch in switches} == {0, 1}
        assert {switch.cpu for switch in switches} == {0}
        reasons = [switch.reason for switch in switches if switch.vcpu == 0]
        assert (reasons[0], reasons[-1]) == (None, "off")
        assert machine.switches() == switches


def test_a_trace_file_is_of_the_run_and_is_explained(tmp_path: Path, nothing_left: None) -> None:
    def pvlock(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pvlock", *arguments],
            capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = pvlock("run", "mutex", "--engine", "kvm", "--vcpus", str(VCPUS), "--pcpus", str(PCPUS),
                  "--duration", "20ms", "--trace", "t.pftrace", "--repeat", "2",
                  "--json", "t.json")  # fmt: skip
    facts = json.loads((tmp_path / "t.json").read_text())
    assert len(facts["repetitions"]) == 2 and "baseline, 2 of 2: done" in said
    # In the lab a CPU's time means nothing, and nothing is said of it.
    assert facts["emulated_cpus"] is engines.cpus_are_emulated()
    assert ("No verdict: " in said) is (facts["verdict"] == "none") is facts["emulated_cpus"]
    for name, pvlock_there in (("without", False), ("with", True)):
        events = perfetto.read(tmp_path / f"t.{name}.pftrace")
        assert (events.vcpus, events.pcpus) == (VCPUS, PCPUS)
        assert events.settings["engine"] == "kvm"
        assert events.settings["pvlock"] is pvlock_there
        assert events.locks() and "mutex" in events.names.values()
        assert events.skew_ns > 0
        assert all(turns(events, vcpu) for vcpu in range(VCPUS))
    assert "kvm" in pvlock("explain", "t.without.pftrace", "t.with.pftrace").splitlines()[0]
