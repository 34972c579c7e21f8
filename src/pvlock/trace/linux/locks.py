# SPDX-License-Identifier: GPL-2.0-or-later
"""The locks of the guest's kernel that somebody waits for: from waits to events."""

from collections import Counter
from collections.abc import Sequence

from pvlock.trace.events import Flag, Kind
from pvlock.trace.linux.model import Lock, Task, Wait
from pvlock.trace.linux.owners import SPIN_LOCKED, Owners
from pvlock.trace.linux.points import Role
from pvlock.trace.linux.rows import Rows
from pvlock.trace.linux.tasks import Tasks

KIND_OF = {
    Role.MUTEX: "mutex",
    Role.RWSEM_READ: "rwsem",
    Role.RWSEM_WRITE: "rwsem",
    Role.OSQ: "osq",
    Role.SPIN: "spinlock",
    Role.RWLOCK_READ: "rwlock",
    Role.RWLOCK_WRITE: "rwlock",
    Role.FUTEX_WAIT: "futex",
}
_SHARED = (Role.RWSEM_READ, Role.RWLOCK_READ)
_TAIL_SHIFT = 18
"""From where on a spinlock has 1 + the number of the CPU that is the last in its queue."""
_ERRORS = (1 << 64) - 4096


class Locks:
    """All locks that anybody waited for, and what happened to them, as `rows`.

    `callers` has, for each lock, its kind, and from where it was wanted; `behind` has, for each
    queue of those who spin, the lock that they spin for.
    """

    def __init__(self, rows: Rows, tasks: Tasks) -> None:
        self._tasks, self._owners = tasks, Owners(rows, tasks)
        self._live: dict[int, Lock] = {}
        self.callers: dict[int, tuple[str, Counter[tuple[int, ...]]]] = {}
        self.behind: dict[int, int] = {}

    def wait(
        self, task: Task, address: int, role: Role, words: tuple[int, int],
        callers: Sequence[int], time: int,
    ) -> None:  # fmt: skip
        """Take note that `task` begins to wait; `words` are those of the lock."""
        lock = self._live.get(address)
        if lock is None:
            lock = self._live[address] = Lock(address, KIND_OF[role])
            lock.asked = time
            self.callers.setdefault(address, (lock.kind, Counter()))
        self.callers[address][1][tuple(callers)] += 1
        own = 1 if role is Role.RWSEM_READ else 0  # it counts itself already
        self._owners.look(lock, words, time, own)
        before = None
        if lock.kind == "osq":
            if task.waits:
                self.behind[address] = task.waits[-1].lock.address
            before = self._on_cpu(words[0])
            if before is None:
                return  # it is free: no wait
        elif lock.kind == "spinlock":
            before = self._before(lock, words[0])
        wait = Wait(task, lock, role in _SHARED)
        flags = Flag.SHARED if wait.shared else 0
        other = -1 if before is None else before.number
        wait.row = self._owners.event(task, Kind.CONTENDED, lock, time, flags, other)
        task.waits.append(wait)
        lock.waiters.append(wait)

    def wait_over(self, task: Task, address: int, role: Role, result: int, time: int) -> None:
        """Take note that a wait ended; `result` is what its function returned."""
        lock, got = self._live.get(address), _has_it(role, result)
        if lock is None:
            return
        wait = next((one for one in reversed(task.waits) if one.lock is lock), None)
        if wait is None:
            if role is Role.OSQ and got:
                self._owners.take_alone(lock, task, time)
            return
        _forget_waits(task, wait)
        if got:
            self._owners.take(wait, time)
        else:
            self._owners.event(task, Kind.ABANDONED, lock, time)
            if wait.shared and task in lock.readers:
                lock.readers.remove(task)
            lock.left[task.number] = task.last
            if lock.kind == "futex" and result:
                self._owners.futex(lock, None, time)
        if not lock.waiters and lock.kind == "futex":
            del self._live[address]

    def released(self, task: Task, address: int, role: Role, time: int) -> None:
        """Take note that `task` releases a lock, or (Role.DOWNGRADE) goes on as a reader."""
        lock = self._live.get(address)
        if lock is None:
            return
        if role is Role.UP_READ:
            self._owners.leave(lock, task, time)
            return
        self._owners.only(lock, None, time)
        if role is Role.DOWNGRADE:
            self._owners.share(lock, task, time)
        if role is Role.OSQ_UNLOCK and not lock.waiters:
            del self._live[address]

    def words(self, address: int, words: tuple[int, int], last: bool, time: int) -> None:
        """Take note that the words of a lock have changed; `last`: nobody waits for it any more."""
        lock = self._live.get(address)
        if lock is None:
            return
        if last:
            self._owners.free(lock, time)
            del self._live[address]
        else:
            self._owners.look(lock, words, time)

    def woken(self, task: Task, address: int, time: int) -> None:
        """Take note that `task` wakes who waits for a futex: it had what they waited for."""
        lock = self._live.get(address)
        if lock is not None:
            self._owners.futex(lock, task, time)

    def forget(self) -> None:
        """Forget all: records are missing."""
        self._live.clear()
        for task in self._tasks.all:
            task.waits.clear()

    def _before(self, lock: Lock, word: int) -> Task | None:
        """Return who is the last in a spinlock's queue."""
        if word >> _TAIL_SHIFT:
            return self._on_cpu(word >> _TAIL_SHIFT)
        return lock.waiters[-1].task if lock.waiters and word & ~SPIN_LOCKED else None

    def _on_cpu(self, number: int) -> Task | None:
        """Return the task on a CPU of the guest, which is named by 1 + its number."""
        return self._tasks.running[number - 1] if 0 < number <= len(self._tasks.running) else None


def _forget_waits(task: Task, until: Wait) -> None:
    """Forget the waits of a task, the innermost first, up to `until`."""
    while True:
        wait = task.waits.pop()
        wait.lock.waiters.remove(wait)
        if wait in wait.lock.sleepers:
            wait.lock.sleepers.remove(wait)
        if wait is until:
            return


def _has_it(role: Role, result: int) -> bool:
    """Tell by what a function returned whether its caller has the lock."""
    if role is Role.MUTEX:
        return not result & 0xFFFFFFFF
    if role in (Role.RWSEM_READ, Role.RWSEM_WRITE):
        return result < _ERRORS
    if role is Role.OSQ:
        return bool(result & 0xFFFFFFFF)
    return role is not Role.FUTEX_WAIT
