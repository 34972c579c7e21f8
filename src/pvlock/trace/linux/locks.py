# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's locks that somebody waits for: who waits, and who has them.

Who has a mutex, and which writer has an rwsem, the kernel keeps in the lock. A reader of an rwsem is
known if it had to wait: who sleeps for it as a reader is woken when it has it. A spinlock is handed from one waiter to the next, so its owner is known if
it was a waiter. Of a futex only its users know what it is for: whoever wakes a waiter is taken for
its owner, and that is marked (Flag.INFERRED). Where nobody can say who has a lock, the task NOBODY
has it (Flag.UNSEEN).
"""

from collections import Counter
from collections.abc import Sequence

from pvlock.trace.events import Flag, Kind
from pvlock.trace.linux.points import (
    MUTEX_FLAGS,
    READER_OWNED,
    READERS_SHIFT,
    RWSEM_FLAGS,
    WRITER_LOCKED,
    Role,
)
from pvlock.trace.linux.rows import Rows
from pvlock.trace.linux.tasks import NOBODY, Task, Tasks

KIND_OF = {
    Role.MUTEX: "mutex",
    Role.RWSEM_READ: "rwsem",
    Role.RWSEM_WRITE: "rwsem",
    Role.SPIN: "spinlock",
    Role.RWLOCK_READ: "rwlock",
    Role.RWLOCK_WRITE: "rwlock",
    Role.FUTEX_WAIT: "futex",
}
SHARED = (Role.RWSEM_READ, Role.RWLOCK_READ)

_SPIN_LOCKED = 0xFF
_TAIL_SHIFT = 18
"""From where on a spinlock has 1 + the number of the CPU that is the last in its queue."""
_RWLOCK_READERS_SHIFT = 9
_READ_FAILED = 1 << 63
_ERRORS = (1 << 64) - 4096


class Lock:
    """A lock: its writer or only owner, its readers, and who waits for it, in the order of coming.

    `sleepers` are those waiters that have slept, in the order in which they first did. `unseen` says
    that NOBODY has it, besides those that are known, and `unseen_at` since when. `asked` is, of a futex, when its
    owner began to be asked for. `callers` counts from where it was wanted.
    """

    __slots__ = (
        "address", "asked", "callers", "kind", "owner", "readers", "sleepers", "unseen",
        "unseen_at", "waiters",
    )  # fmt: skip

    def __init__(self, address: int, kind: str) -> None:
        self.address, self.kind = address, kind
        self.owner: Task | None = None
        self.readers: list[Task] = []
        self.unseen = False
        self.asked = self.unseen_at = 0
        self.sleepers: list[Wait] = []
        self.waiters: list[Wait] = []
        self.callers: Counter[tuple[int, ...]] = Counter()


class Wait:
    """A task's wait for a lock. `row` is its first event; `granted` says that it has the lock."""

    __slots__ = ("granted", "lock", "row", "shared", "task")

    def __init__(self, task: Task, lock: Lock, shared: bool) -> None:
        self.task, self.lock, self.shared = task, lock, shared
        self.row = -1
        self.granted = False


class Locks:
    """All locks that anybody waited for, and what happened to them, as `rows`."""

    def __init__(self, rows: Rows, tasks: Tasks) -> None:
        self._rows, self._tasks = rows, tasks
        self._live: dict[int, Lock] = {}
        tasks.on_wake = self._woken
        self.callers: dict[int, tuple[str, Counter[tuple[int, ...]]]] = {}
        """For each lock, its kind, and from where it was wanted."""

    # -- what was seen --

    def wait(
        self, task: Task, address: int, role: Role, words: tuple[int, int],
        callers: Sequence[int], time: int,
    ) -> None:  # fmt: skip
        """Take note that `task` begins to wait; `words` are those of the lock."""
        lock = self._live.get(address)
        if lock is None:
            lock = self._live[address] = Lock(address, KIND_OF[role])
            lock.asked = time
            known = self.callers.setdefault(address, (lock.kind, lock.callers))
            lock.callers = known[1]
        lock.callers[tuple(callers)] += 1
        own = 1 if role is Role.RWSEM_READ else 0  # it counts itself already
        self._see(lock, words, time, own)
        wait = Wait(task, lock, role in SHARED)
        before = self._before(lock, words[0]) if lock.kind == "spinlock" else None
        wait.row = self._rows.add(
            self._tasks.at(task, time), task.number, Kind.CONTENDED, address,
            -1 if before is None else before.number,
            Flag.SHARED if wait.shared else 0,
        )  # fmt: skip
        task.waits.append(wait)
        lock.waiters.append(wait)

    def wait_over(self, task: Task, address: int, role: Role, result: int, time: int) -> None:
        """Take note that a wait ended; `result` is what its function returned."""
        wait = next((one for one in reversed(task.waits) if one.lock.address == address), None)
        if wait is None:
            return
        while task.waits.pop() is not wait:
            pass
        lock = wait.lock
        lock.waiters.remove(wait)
        if wait in lock.sleepers:
            lock.sleepers.remove(wait)
        if _has_it(role, result):
            if wait.shared:
                self._writer(lock, None, time)
                if not wait.granted:
                    lock.readers.append(task)
            elif lock.owner is not task:
                self._free(lock, time)
                lock.owner = task
            flags = Flag.SHARED if wait.shared else 0
            self._event(task, Kind.ACQUIRED, lock, time, flags)
        else:
            self._event(task, Kind.ABANDONED, lock, time)
            if wait.shared and task in lock.readers:
                lock.readers.remove(task)
            if lock.kind == "futex" and result:
                self._futex_owner(lock, None, time)
        if not lock.waiters and lock.kind == "futex":
            del self._live[address]

    def queued(self, task: Task, before: Task | None, time: int) -> None:
        """Take note that `task` spins behind the task `before`, or has left that queue (None)."""
        if task.waits:
            wait = task.waits[-1]
            self._rows.add(
                self._tasks.at(task, time), task.number, Kind.CONTENDED, wait.lock.address,
                -1 if before is None else before.number, Flag.SHARED if wait.shared else 0,
            )  # fmt: skip

    def released(self, task: Task, address: int, role: Role, time: int) -> None:
        """Take note that `task` releases a lock, or (Role.DOWNGRADE) goes on as a reader."""
        lock = self._live.get(address)
        if lock is None:
            return
        if role is Role.UP_READ:
            if task in lock.readers:
                lock.readers.remove(task)
                self._event(task, Kind.RELEASED, lock, time, Flag.SHARED)
            return
        self._writer(lock, None, time)
        if role is Role.DOWNGRADE:
            lock.readers.append(task)
            self._event(task, Kind.ACQUIRED, lock, time, Flag.SHARED)

    def words(self, address: int, words: tuple[int, int], last: bool, time: int) -> None:
        """Take note that the words of a lock have changed; `last`: nobody waits for it any more."""
        lock = self._live.get(address)
        if lock is None:
            return
        if last:
            self._free(lock, time)
            del self._live[address]
        else:
            self._see(lock, words, time)

    def woken(self, task: Task, address: int, time: int) -> None:
        """Take note that `task` wakes who waits for a futex: it had what they waited for."""
        lock = self._live.get(address)
        if lock is not None:
            self._futex_owner(lock, task, time)

    def forget(self) -> None:
        """Forget all: records are missing."""
        self._live.clear()
        for task in self._tasks.all:
            task.waits.clear()

    # -- who has it --

    def _see(self, lock: Lock, words: tuple[int, int], time: int, own: int = 0) -> None:
        first, second = words
        if lock.kind == "mutex":
            self._mutex(lock, first, time)
        elif lock.kind == "rwsem":
            self._rwsem(lock, first, second, own, time)
        elif lock.kind == "spinlock":
            self._spinlock(lock, first, time)
        elif lock.kind == "rwlock":
            self._rwlock(lock, first, time)

    def _mutex(self, lock: Lock, word: int, time: int) -> None:
        address = word & ~MUTEX_FLAGS
        owner = self._tasks.get(address)
        self._writer(lock, owner, time)
        self._unseen(lock, bool(address) and owner is None, time)

    def _rwsem(self, lock: Lock, count: int, owner: int, own: int, time: int) -> None:
        if count & WRITER_LOCKED:
            self._readers(lock, 0, time)
            writer = self._tasks.get(owner & ~RWSEM_FLAGS) if not owner & READER_OWNED else None
            if writer is not None or lock.owner is None:
                self._writer(lock, writer, time)
            self._unseen(lock, lock.owner is None, time)
            return
        self._writer(lock, None, time)
        readers = ((count & ~_READ_FAILED) >> READERS_SHIFT) - own
        self._readers(lock, readers, time)

    def _rwlock(self, lock: Lock, word: int, time: int) -> None:
        if word & _SPIN_LOCKED:
            self._readers(lock, 0, time)
            self._unseen(lock, lock.owner is None, time)
            return
        self._writer(lock, None, time)
        self._readers(lock, word >> _RWLOCK_READERS_SHIFT, time)

    def _readers(self, lock: Lock, count: int, time: int) -> None:
        """Take note of how many readers there are; who they are, as far as that follows."""
        if count <= 0:
            for reader in lock.readers:
                self._event(reader, Kind.RELEASED, lock, time, Flag.SHARED)
            lock.readers.clear()
        self._unseen(lock, count > len(lock.readers), time)

    def _spinlock(self, lock: Lock, word: int, time: int) -> None:
        if not word & _SPIN_LOCKED:
            self._free(lock, time)
        elif lock.owner is None:
            self._unseen(lock, True, time)

    def _before(self, lock: Lock, word: int) -> Task | None:
        """Return who is the last in a spinlock's queue."""
        tail = word >> _TAIL_SHIFT
        if tail and tail <= len(self._tasks.running):
            return self._tasks.running[tail - 1]
        return lock.waiters[-1].task if lock.waiters and word & ~_SPIN_LOCKED else None

    def _writer(self, lock: Lock, owner: Task | None, time: int) -> None:
        """Take note of who is the only owner, or that there is none."""
        if lock.owner is owner:
            return
        if lock.owner is not None:
            self._event(lock.owner, Kind.RELEASED, lock, time)
        lock.owner = owner
        if owner is None:
            return
        wait = next((one for one in lock.waiters if one.task is owner), None)
        if wait is not None:
            wait.granted = True
            self._event(owner, Kind.GRANTED, lock, time, other=owner.number)
        elif owner.waits:
            # It has had it since before it began to wait for another lock.
            self._rows.add(
                time, owner.number, Kind.ACQUIRED, lock.address, before=owner.waits[0].row
            )
        else:
            self._event(owner, Kind.ACQUIRED, lock, time)

    def _woken(self, task: Task, time: int) -> None:
        """Take note that a task that slept was woken: a reader of an rwsem only when it has it."""
        wait = task.waits[-1] if task.waits else None
        if wait is not None and wait.lock.kind == "rwsem" and wait.shared and not wait.granted:
            wait.granted = True
            wait.lock.readers.append(task)
            self._event(task, Kind.GRANTED, wait.lock, time, Flag.SHARED, task.number)

    def _unseen(self, lock: Lock, unseen: bool, time: int) -> None:
        if lock.unseen != unseen:
            lock.unseen = unseen
            lock.unseen_at = max(lock.unseen_at, time)
            kind = Kind.ACQUIRED if unseen else Kind.RELEASED
            self._rows.add(lock.unseen_at, NOBODY, kind, lock.address, flags=Flag.UNSEEN)

    def _free(self, lock: Lock, time: int) -> None:
        """Take note that nobody has the lock."""
        self._writer(lock, None, time)
        for reader in lock.readers:
            self._event(reader, Kind.RELEASED, lock, time, Flag.SHARED)
        lock.readers.clear()
        self._unseen(lock, False, time)

    def _futex_owner(self, lock: Lock, owner: Task | None, time: int) -> None:
        """Take note of who, in hindsight, was waited for since the last one was."""
        number, flags = (NOBODY, Flag.UNSEEN) if owner is None else (owner.number, Flag.INFERRED)
        if time > lock.asked:
            self._rows.add(lock.asked, number, Kind.ACQUIRED, lock.address, flags=flags)
            self._rows.add(time, number, Kind.RELEASED, lock.address, flags=flags)
        lock.asked = max(lock.asked, time)

    def _event(
        self, task: Task, kind: Kind, lock: Lock, time: int, flags: int = 0, other: int = -1
    ) -> None:
        self._rows.add(self._tasks.at(task, time), task.number, kind, lock.address, other, flags)


def _has_it(role: Role, result: int) -> bool:
    """Tell by what a function returned whether its caller has the lock."""
    if role is Role.MUTEX:
        return not result & 0xFFFFFFFF
    if role in (Role.RWSEM_READ, Role.RWSEM_WRITE):
        return result < _ERRORS
    return role is not Role.FUTEX_WAIT
