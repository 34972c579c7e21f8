# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock record`, and what `pvlock explain` says of its traces."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pvlock.explain import host
from pvlock.top import names, proc, recording, slots, usage
from pvlock.top.threads import Snapshot
from pvlock.top.usage import Names
from pvlock.top.watch import Watcher
from pvlock.trace import perfetto
from pvlock.trace.events import VM, Events, Kind
from top.workers import Worker, workers

MS = 10**6
PATIENCE_S = 60
PVLOCK = [sys.executable, "-m", "pvlock"]


def trace(rows: list[str], vms: dict[int, str], events: list[tuple[int, int, Kind, int]]) -> Events:
    """Return a table: events are time in ms, row, kind, CPU; it lasts 100 ms."""
    columns = np.array([(at * MS, row, kind, cpu) for at, row, kind, cpu in events], np.int64)
    return Events(
        time=columns[:, 0].copy(),
        vcpu=columns[:, 1].astype(np.int32),
        kind=columns[:, 2].astype(np.uint8),
        object=columns[:, 3].astype(np.uint64),
        other=np.full(len(events), -1, np.int32),
        flags=np.zeros(len(events), np.uint8),
        vcpus=len(rows),
        pcpus=2,
        start=0,
        end=100 * MS,
        names=dict(enumerate(rows)) | {VM + row: name for row, name in vms.items()},
        settings={"host": True, "watched": len(vms), "lost": 0},
    )


@pytest.fixture
def known() -> Events:
    """VM a has VCPUs on both CPUs; b, and a compiler, take one of them for a while."""
    rows = ["a/0", "a/1", "b/0", "cc1 on CPU 0"]
    return trace(
        rows,
        {0: "a", 1: "a", 2: "b"},
        [
            (0, 0, Kind.SCHED_IN, 0),
            (0, 1, Kind.SCHED_IN, 1),
            (0, 2, Kind.BLOCKED, 0),
            (10, 2, Kind.READY, 0),
            (10, 0, Kind.PREEMPTED, 0),
            (10, 2, Kind.SCHED_IN, 0),
            (40, 2, Kind.PREEMPTED, 0),
            (40, 3, Kind.SCHED_IN, 0),
            (50, 3, Kind.OFF, 0),
            (50, 0, Kind.SCHED_IN, 0),
            (70, 0, Kind.BLOCKED, 0),
            (80, 0, Kind.READY, 0),
            (85, 0, Kind.SCHED_IN, 0),
        ],
    )


def test_who_lost_to_whom(known: Events) -> None:
    one, other = host.find(known)
    assert (one.name, one.vcpus, other.name, other.vcpus) == ("b", 1, "a", 2)
    assert (other.span, other.running, other.ready, other.blocked) == (
        *(200 * MS, 145 * MS, 45 * MS, 10 * MS),
    )
    # 40 to 50 somebody else's, 50 to 70 a's, then nobody's to 85, and a's again.
    assert one.ready == 60 * MS and one.by["VM a"] == 35 * MS and one.by["cc1"] == 10 * MS
    assert one.by[host.IDLE] == 15 * MS
    assert other.by == {"VM b": 30 * MS, "cc1": 10 * MS, host.IDLE: 5 * MS}
    gap = other.longest
    assert gap is not None
    assert (gap.vcpu, gap.start, gap.end, gap.siblings) == ("a/0", 10 * MS, 50 * MS, 1)
    assert gap.by == {"VM b": 30 * MS, "cc1": 10 * MS}
    assert host.sentence(other) == (
        "VM a lost 22% of its time, most of it to VM b (15%); the longest gap, 40 ms, VCPU 0;"
        " 1 of its siblings was on a CPU all that time."
    )


def test_a_vm_that_lost_nothing() -> None:
    (vm,) = host.find(trace(["a/0"], {0: "a"}, [(0, 0, Kind.SCHED_IN, 0)]))
    assert vm.running == vm.span == 100 * MS
    assert host.sentence(vm) == "VM a lost nothing: whenever it could run, it had a CPU."


def test_explain(known: Events, tmp_path: Path) -> None:
    path = tmp_path / "host.pftrace"
    with path.open("wb") as file:
        perfetto.write(file, known)
    done = subprocess.run(
        [*PVLOCK, "explain", str(path), "--json", "-"], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert [vm["name"] for vm in facts["vms"]] == ["b", "a"]
    assert "VM a lost 22% of its time" in done.stderr
    assert done.stderr.startswith("a host: 2 VMs, 3 VCPUs, 2 CPUs: 100 ms, 13 events\n")
    for wrong in (["--lock", "x"], [str(path)], ["--figure", str(tmp_path / "x.svg")]):
        refused = subprocess.run(
            [*PVLOCK, "explain", str(path), *wrong], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
        assert "is of a host: it has no locks" in refused.stderr


def recorded(cpu: int, known: Names) -> tuple[recording.Recording, list[Worker], list[int]]:
    """Record two busy workers and one that yields; return that, them, and their switches."""
    with Watcher(ring_size=recording.RING_SIZE) as watcher, workers(3, "taped", cpu) as taped:
        watcher.want(each.pid for each in taped)
        watcher.look()
        counted = [each.switches() for each in taped]
        told = False

        def go_on() -> bool:
            # The recording has begun when it asks first, and ends when all have done their work.
            nonlocal told
            if not told:
                for each in taped[:2]:
                    each.do("spin 2")
                taped[2].do("yield 20000")
                told = True
            return not all(each.is_done() for each in taped)

        taken = recording.record(watcher, PATIENCE_S, known, go_on)
        for each in taped:
            each.done()
        counted = [each.switches() - before for each, before in zip(taped, counted, strict=True)]
        return taken, taped, counted


def test_every_switch_is_in_it(may_watch: None, cpu: int, tmp_path: Path) -> None:
    """As many as the kernel counts; and what is found in it is what top finds, on one clock.

    Some kernels do not tell a switch now and then, and the recording has it nevertheless.
    """
    known = Names(names.vm_name, proc.name)
    taken, taped, counted = recorded(cpu, known)
    summed = {
        each.thread.key.tid: each
        for vm in usage.between(taken.first, taken.last)
        for each in vm.threads
    }
    assert taken.lost == 0
    events = recording.table(taken, known)
    path = tmp_path / "host.pftrace"
    with path.open("wb") as file:
        perfetto.write(file, events)
    assert perfetto.read(path).time.tolist() == events.time.tolist()
    vms = {vm.name: vm for vm in host.find(events)}
    # There may be VCPUs of somebody else's VMs on this host, too.
    watched = events.settings["watched"]
    assert isinstance(watched, int)
    rows = {events.vcpu_name(row): row for row in range(watched)}
    for number, (each, switches) in enumerate(zip(taped, counted, strict=True)):
        mine = events.kind[events.vcpu == rows[f"taped{number}:{each.pid}"]].tolist()
        assert mine.count(Kind.SCHED_IN) == switches
        found, sums = vms[f"taped{number}"], summed[each.pid]
        # It sleeps at both ends, which are for the trace when all sums have been read.
        key = sums.thread.key
        begin = taken.first.at - taken.first.threads[key].at
        end = taken.last.at - taken.last.threads[key].at
        assert found.span == sums.span - begin + end
        assert found.running == pytest.approx(sums.running, rel=0.01)
        assert found.ready == pytest.approx(sums.waited, rel=0.01)
        assert found.blocked == pytest.approx(sums.blocked - begin + end, rel=0.01, abs=MS)
        assert sum(found.by.values()) == pytest.approx(found.ready, rel=0.01)
    assert vms["taped0"].by["VM taped1"] > 0.2 * vms["taped0"].ready


def test_the_command(may_watch: None, cpu: int, tmp_path: Path) -> None:
    path = tmp_path / "out.pftrace"
    with Worker("filmed", cpu) as worker:
        worker.do("spin 120")
        command = [*PVLOCK, "record", "-o", str(path), "--seconds", "1", "--threads", "filmed"]
        begin = time.monotonic_ns()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took = time.monotonic_ns() - begin
    said = done.stderr.splitlines()
    assert done.stdout.startswith(f"{path}: ") and said.pop(0) == "pvlock: record: 1 s ..."
    assert all(line.startswith("pvlock: record: the kernel did not tell ") for line in said)
    events = perfetto.read(path)
    assert "filmed" in events.names.values()
    assert 0.9 * 10**9 <= events.end <= took


def test_wrong_input(may_watch: None, tmp_path: Path) -> None:
    for arguments, words in (
        (["--threads", "no such thread"], "no thread's name matches"),
        (["-o", str(tmp_path / "no" / "x")], "-o "),
        (["-o", str(tmp_path)], "-o "),
    ):
        done = subprocess.run(
            [*PVLOCK, "record", "--seconds", "1", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode != 0 and words in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_switch_that_the_kernel_did_not_tell_is_put_in() -> None:
    def packed(at: int, cpu: int, leaving: int, following: int, had: int = 0) -> bytes:
        return slots.RECORD.pack(at, cpu, 0, leaving, following, 0, had, b"")

    def switches(records: bytes) -> list[tuple[int, int, int, int]]:
        taken = recording.Recording(Snapshot(0, {}), Snapshot(0, {}), records, 0)
        return [(s.at, s.cpu, s.leaving, s.following) for s in taken.switches() if not s.told]

    told = packed(10, 0, 7, 8, 5) + packed(20, 1, 7, 9, 15) + packed(30, 0, 8, 7, 20)
    assert switches(told) == []
    assert switches(told + packed(40, 0, 9, 7, 3)) == [(37, 0, 7, 9)]
    # What the scheduler says cannot be: the other one got the CPU later than that.
    assert switches(told + packed(40, 0, 9, 7, 11)) == [(40, 0, 7, 9)]
    assert switches(told + packed(40, 0, 9, 7)) == [(40, 0, 7, 9)]
