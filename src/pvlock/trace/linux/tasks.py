# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's tasks: which of them has which VCPU, which sleeps, and which waits for a VCPU.

A task that has lost its VCPU slept if somebody wakes it before it gets one again. Else it could
have gone on. So that is known in hindsight only, and the events are corrected then.
"""

from collections.abc import Callable

from pvlock.trace.events import Flag, Kind
from pvlock.trace.linux.model import NOBODY, Task, Wait
from pvlock.trace.linux.rows import NOTHING, Rows


class Tasks:
    """All tasks that were seen, and what the guest's scheduler did with them, as `rows`."""

    def __init__(self, rows: Rows, vcpus: int) -> None:
        self.rows = rows
        nobody = Task(NOBODY, 0)
        nobody.name, nobody.pid = "(not seen)", 0
        self.all = [nobody]
        self.running: list[Task | None] = [None] * vcpus
        self._by_address: dict[int, Task] = {}
        self._waking: dict[int, list[int]] = {}
        self.on_wake: Callable[[Task, int], None] = lambda _task, _time: None
        """What is told that a task can run again, and when."""

    def get(self, address: int) -> Task | None:
        """Return the task at an address of the guest, if one has been seen there."""
        return self._by_address.get(address)

    def on(self, vcpu: int, address: int, time: int) -> Task:
        """Return the task at `address`, which runs on `vcpu`."""
        task = self.running[vcpu]
        if task is None or task.address != address:
            task = self._by_address.get(address) or self._new(address)
            self._enter(task, vcpu, time)
        return task

    def at(self, task: Task, time: int) -> int:
        """Return the time of a new event of `task`: never before the one that it had last.

        The clocks of two VCPUs differ by up to the skew.
        """
        task.last = max(task.last, time)
        return task.last

    def switched(self, vcpu: int, previous: Task, address: int, pid: int | None, time: int) -> None:
        """Let the task at `address` have `vcpu`, in place of `previous`."""
        time = self.at(previous, time)
        previous.out = self.rows.add(time, previous.number, Kind.BLOCKED, vcpu, flags=Flag.GUEST)
        previous.woken = None
        if previous.waits:
            self._fell_asleep(previous, previous.waits[-1], time)
        task = self._by_address.get(address)
        if task is None or (task.pid is not None and pid is not None and task.pid != pid):
            task = self._new(address)
        if pid is not None:
            task.pid = pid
        self._enter(task, vcpu, time)

    def made(self, address: int, time: int) -> None:
        """Take note of a new task, which can run."""
        self._ready(self._new(address), time)

    def waking(self, address: int, time: int) -> None:
        """Take note that somebody begins to wake a task."""
        self._waking.setdefault(address, []).append(time)

    def woke(self, address: int, done: bool) -> None:
        """Take note of what came of it: it was asleep, or it was not."""
        times = self._waking.get(address)
        if not times:
            return
        time = times.pop(0)
        if not times:
            del self._waking[address]
        task = self._by_address.get(address)
        if done and task is not None and task.out >= 0 and task.woken is None:
            self._ready(task, time)

    def _new(self, address: int) -> Task:
        task = Task(len(self.all), address)
        self.all.append(task)
        self._by_address[address] = task
        return task

    def _fell_asleep(self, task: Task, wait: Wait, time: int) -> None:
        """Take note that a task sleeps for a lock; it is the last of those that do."""
        lock = wait.lock
        if wait not in lock.sleepers and lock.kind in ("mutex", "rwsem"):
            before = lock.sleepers[-1].task.number if lock.sleepers else -1
            shared = Flag.SHARED if wait.shared else 0
            row = self.rows.add(time, task.number, Kind.CONTENDED, lock.address, before, shared)
            task.slept.append(row)
            lock.sleepers.append(wait)
        task.slept.append(self.rows.add(time, task.number, Kind.SLEPT, lock.address))

    def _ready(self, task: Task, time: int) -> None:
        task.woken = self.at(task, time)
        self.rows.add(task.woken, task.number, Kind.READY, 0, flags=Flag.GUEST)
        self.on_wake(task, task.woken)

    def _enter(self, task: Task, vcpu: int, time: int) -> None:
        if task.out >= 0 and task.woken is None:
            if task.address in self._waking:
                self._ready(task, self._waking[task.address][0])
            else:
                self.rows.kind[task.out] = Kind.PREEMPTED
                for row in task.slept:
                    self.rows.kind[row] = NOTHING
                if len(task.slept) > 1:
                    task.waits[-1].lock.sleepers.remove(task.waits[-1])
                task.slept = []
        time = self.at(task, time)
        self.rows.add(time, task.number, Kind.SCHED_IN, vcpu, flags=Flag.GUEST)
        if task.slept and task.waits:
            self.rows.add(time, task.number, Kind.WOKEN, task.waits[-1].lock.address)
        task.out = -1
        task.slept = []
        task.woken = None
        self.running[vcpu] = task
