# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc tells about VCPU threads, for those who may not load BPF programs.

It has the time on a CPU and the time in a queue, and no more: not who had the CPU, not how long
single gaps were. A wait is counted when it ends, so a VCPU that has waited all the time since the
last look seems blocked until it runs.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

from pvlock.top import names, proc
from pvlock.top.threads import Key, Snapshot, Thread


class Reader:
    """The same as watch.Watcher, as far as it goes."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._wanted: set[int] = set()
        self._first: dict[int, tuple[int, int, int, int]] = {}
        self._last: dict[int, Thread] = {}

    def want(self, tids: Iterable[int]) -> None:
        """Read these threads too."""
        self._wanted = set(tids)

    def snapshot(self) -> Snapshot:
        """Return all sums. Threads that have ended are there once more, as they were."""
        pids = proc.processes()
        vcpus = names.vcpu_threads(pids)
        owners = {tid: pid for tid, (pid, _) in vcpus.items()}
        if missing := self._wanted - owners.keys():
            owners |= {tid: pid for pid in pids for tid in proc.threads(pid) if tid in missing}
        threads = {}
        for tid, pid in owners.items():
            number = vcpus[tid][1] if tid in vcpus else None
            if (thread := self._thread(pid, tid, number)) is not None:
                threads[tid] = thread
        for tid, last in self._last.items():
            if tid not in threads and last.alive:
                threads[tid] = replace(last, alive=False)
                self._first.pop(tid, None)
        self._last = threads
        by_key = {thread.key: thread for thread in threads.values()}
        return Snapshot(time.monotonic_ns(), by_key)

    def _thread(self, pid: int, tid: int, vcpu: int | None) -> Thread | None:
        times, status = proc.schedstat(pid, tid), proc.status(pid, tid)
        at = time.monotonic_ns()
        if times is None or not status:
            return None
        preemptions = int(status.get("nonvoluntary_ctxt_switches", 0))
        now = (times[0], times[1], preemptions, at)
        first = self._first.setdefault(tid, now)
        running, ready = now[0] - first[0], now[1] - first[1]
        began = first[3]
        return Thread(
            key=Key(tid, began),
            tgid=pid,
            name=status.get("Name", "?"),
            vm=pid if vcpu is not None else 0,
            vcpu=vcpu,
            at=at,
            alive=True,
            running=running,
            ready=ready,
            blocked=max(0, at - began - running - ready),
            preemptions=preemptions - first[2],
        )
