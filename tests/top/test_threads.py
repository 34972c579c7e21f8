# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program counts of ordinary threads, beside what the kernel counts itself."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvlock.top import names, proc, usage
from pvlock.top.slots import Feature
from pvlock.top.threads import Displacer, Snapshot
from pvlock.top.usage import ThreadUsage
from pvlock.top.watch import Watcher
from recorder import object_ids, object_ids_of
from top.workers import Worker, workers

PERCENT = 0.01


def by_pid(before: Snapshot, after: Snapshot) -> dict[int, ThreadUsage]:
    """Return what threads did. VCPUs of somebody else's VMs on this host are not ours to judge."""
    found = usage.between(before, after)
    return {each.thread.key.tid: each for vm in found for each in vm.threads if not each.thread.vm}


def ours(found: Snapshot) -> set[int]:
    return {key.tid for key, thread in found.threads.items() if not thread.vm}


def adds_up(each: usage.Usage) -> None:
    total = each.running + each.ready + each.blocked + (each.throttled or 0)
    assert total == pytest.approx(each.span, rel=PERCENT)


def test_four_on_one_cpu(watcher: Watcher, cpu: int) -> None:
    """A quarter each, three quarters of a wait for the others; as the kernel's own sums are."""
    seconds = 4
    with workers(4, "busy", cpu) as busy:
        watcher.want(each.pid for each in busy)
        before = watcher.snapshot()
        counted = {each.pid: (each.times(), each.preemptions()) for each in busy}
        for each in busy:
            each.do(f"spin {seconds}")
        time.sleep(seconds / 2)
        middle = watcher.snapshot()
        for each in busy:
            each.done()
        # They sleep again, so that no wait is open in either count.
        after = watcher.snapshot()
        whole = by_pid(before, after)
        assert set(whole) == {each.pid for each in busy}
        for each in busy:
            found, (times, preemptions) = whole[each.pid], counted[each.pid]
            running, ready = (now - then for now, then in zip(each.times(), times, strict=True))
            adds_up(found)
            assert not found.throttled and found.migrations == 0
            assert found.ready == pytest.approx(ready, rel=PERCENT)
            # The kernel leaves out of a thread's time what interrupts took, and the hypervisor.
            assert found.running >= running * (1 - PERCENT)
            assert found.running < running * 1.25
            assert found.preemptions == each.preemptions() - preemptions
            gaps = found.gaps
            assert gaps is not None and sum(gaps) == found.waits
    names_of = usage.Names(names.vm_name, proc.name)
    names_of.learn(middle)
    for pid, found in by_pid(before, middle).items():
        busy_ns = found.running + found.ready
        assert found.running / busy_ns == pytest.approx(0.25, abs=0.08)
        assert found.displaced is not None and found.longest is not None
        others = sum(found.displaced.get(Displacer(each, True), 0) for each in whole if each != pid)
        # The kernel lets what is not real-time have 5 % of a CPU, in every second.
        assert others / found.ready > 0.85
        assert sum(found.displaced.values()) == pytest.approx(found.ready, rel=PERCENT)
        assert Displacer(pid, True) not in found.displaced
        top = [name for name, _ in names_of.displaced_by(found) or ()][:3]
        assert set(top) == {f"busy{i}:{each.pid}" for i, each in enumerate(busy)} - {
            f"{found.thread.name}:{pid}"
        }
        assert found.p99 is not None and 0 < found.p99 <= found.longest
        assert found.longest < seconds * 10**9


def test_no_switch_is_lost(watcher: Watcher, cpu: int) -> None:
    """A million of them, counted by the kernel too."""
    with workers(2, "turns", cpu) as both:
        watcher.want(each.pid for each in both)
        before = watcher.snapshot()
        counted = [(each.switches(), each.preemptions()) for each in both]
        until = time.monotonic() + 120
        # A yield is no switch while the other one has not begun, or has ended.
        while sum(each.switches() for each in both) - sum(n for n, _ in counted) <= 10**6:
            assert time.monotonic() < until
            for each in both:
                each.do("yield 100000")
            for each in both:
                each.done()
        after = watcher.snapshot()
        found = by_pid(before, after)
        total = 0
        for each, (switches, preemptions) in zip(both, counted, strict=True):
            counts = found[each.pid]
            adds_up(counts)
            # Each time it left its CPU, it came back once.
            assert counts.waits == each.switches() - switches
            assert counts.preemptions == each.preemptions() - preemptions
            total += counts.waits
        assert total > 10**6


def test_threads_that_come_and_go(watcher: Watcher, cpu: int) -> None:
    """Who ends is there once more, with what it did until then, and its slot is used again."""
    with Worker("first", cpu) as first:
        watcher.want([first.pid])
        before = watcher.snapshot()
        first.do("spin 0.2")
        first.done()
        pid = first.pid
    at_end = time.monotonic_ns()
    last = watcher.snapshot()
    found = by_pid(before, last)[pid]
    adds_up(found)
    assert not found.thread.alive and found.thread.at <= at_end
    # By the clock it spun for 0.2 s, with a CPU or, where it is not real-time, without one.
    assert found.running + found.ready > 0.15 * 10**9
    assert pid not in by_pid(last, watcher.snapshot())
    for _ in range(3):
        with Worker("next", cpu) as other:
            watcher.want([other.pid])
            assert ours(watcher.snapshot()) == {other.pid}
        watcher.snapshot()


def test_more_threads_than_slots(may_watch: None, cpu: int) -> None:
    for _ in range(60):
        try:
            fill_two_slots(cpu)
        except AssertionError:
            # Somebody else's VM on this host takes slots too; then this says nothing.
            with Watcher() as watcher:
                if len(ours(found := watcher.snapshot())) == len(found.threads):
                    raise
            time.sleep(1)
        else:
            return
    pytest.fail("there was never a time without somebody else's VMs")


def fill_two_slots(cpu: int) -> None:
    with Watcher(limit=2) as watcher, workers(2, "placed", cpu) as two:
        watcher.want(each.pid for each in two)
        assert watcher.snapshot().unplaced == 0
        with Worker("late", cpu) as third:
            two[0].end()
            watcher.want([two[1].pid, third.pid])
            first = watcher.snapshot()
            assert {key.tid for key in first.threads if first.threads[key].alive} == {two[1].pid}
            # The place of who has ended is given away when its last sums have been read.
            second = watcher.snapshot()
            assert third.pid in {key.tid for key in second.threads} and second.unplaced == 0


@contextlib.contextmanager
def quota(share: float) -> Iterator[Path]:
    """A cgroup whose processes may use so much of one CPU in each tenth of a second."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    root = Path("/sys/fs/cgroup") if unified.exists() else Path("/sys/fs/cgroup/cpu")
    group = root / f"pvlock-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        if unified.exists():
            (root / "cgroup.subtree_control").write_text("+cpu")
            (group / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))
        yield group
    finally:
        deadline = time.monotonic() + 5
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        group.rmdir()


def throttled_ns(group: Path) -> int:
    """Return what the cgroup itself counts: for how long its one queue was throttled."""
    lines = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    if "throttled_time" in lines:
        return int(lines["throttled_time"])
    return int(lines["throttled_usec"]) * 1000


def test_throttled_by_a_quota(watcher: Watcher, cpu: int) -> None:
    """Two threads may use a tenth of a CPU: most of their time is the quota's, as cpu.stat says."""
    watcher.look()
    if not watcher.features & Feature.THROTTLED:
        pytest.skip("this kernel does not count for how long a queue is throttled (6.6 does)")
    with quota(0.1) as group, workers(2, "poor", cpu, "fair") as poor:
        for each in poor:
            (group / "cgroup.procs").write_text(str(each.pid))
        watcher.want(each.pid for each in poor)
        before, counted = watcher.snapshot(), throttled_ns(group)
        for each in poor:
            each.do("spin 3")
        time.sleep(1.5)
        middle = watcher.snapshot()
        for each in poor:
            each.done()
        after, counted = watcher.snapshot(), throttled_ns(group) - counted
        for found in by_pid(middle, after).values():
            adds_up(found)
        for found in by_pid(before, after).values():
            adds_up(found)
            assert found.throttled is not None
            # What they wait for before they are done is the same for both, and that is the group's
            # but for the period in which one of the two had ended.
            assert found.throttled > 0.5 * (found.running + found.ready + found.throttled)
            assert found.throttled <= counted * (1 + PERCENT)
        most = max(found.throttled or 0 for found in by_pid(before, after).values())
        assert most == pytest.approx(counted, rel=0.1)


def test_killed_process_leaves_nothing(may_watch: None) -> None:
    """SIGKILL: the kernel detaches and frees programs, maps and links."""
    script = """
        import time
        from pvlock.top.watch import Watcher

        watcher = Watcher()
        watcher.snapshot()
        print("ready", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            its = object_ids_of(process.pid)
            kinds = [kind for kind, _ in its]
            assert kinds.count("link") >= 5 and kinds.count("prog") >= 5 and "map" in kinds
        finally:
            process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while its & object_ids():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_close_leaves_nothing(may_watch: None) -> None:
    before = object_ids_of()
    watcher = Watcher()
    assert object_ids_of() > before
    watcher.close()
    watcher.close()
    assert object_ids_of() == before
