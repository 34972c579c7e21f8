# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has a lock of the guest's kernel, as far as that can be said.

Who has a mutex, and which writer has an rwsem, the kernel keeps in the lock. A reader of an rwsem
is known if it had to wait: who sleeps for it as a reader is woken when it has it. A spinlock is
handed from one waiter to the next, so its owner is known if it was a waiter. Of a futex only its
users know what it is for: whoever wakes a waiter is taken for its owner, and that is marked
(Flag.INFERRED). Where nobody can say who has a lock, the task NOBODY has it (Flag.UNSEEN).
"""

from pvlock.trace.events import Flag, Kind
from pvlock.trace.linux.model import NOBODY, Lock, Task, Wait
from pvlock.trace.linux.points import (
    MUTEX_FLAGS,
    READER_OWNED,
    READERS_SHIFT,
    RWSEM_FLAGS,
    WRITER_LOCKED,
)
from pvlock.trace.linux.rows import Rows
from pvlock.trace.linux.tasks import Tasks

SPIN_LOCKED = 0xFF
"""The byte of a spinlock, and of a writer of an rwlock."""
_RWLOCK_READERS_SHIFT = 9
_READ_FAILED = 1 << 63


class Owners:
    """Keeps the owners of locks up to date, and what happened to them as `rows`."""

    def __init__(self, rows: Rows, tasks: Tasks) -> None:
        self._rows, self._tasks = rows, tasks
        tasks.on_wake = self._woken

    def look(self, lock: Lock, words: tuple[int, int], time: int, own: int = 0) -> None:
        """Find out from its words who has a lock; `own` of its readers only want it."""
        first, second = words
        if lock.kind == "mutex":
            self._mutex(lock, first, time)
        elif lock.kind == "rwsem":
            self._rwsem(lock, first, second, own, time)
        elif lock.kind == "spinlock":
            if not first & SPIN_LOCKED:
                self.free(lock, time)
            elif lock.owner is None:
                self._unseen(lock, True, time)
        elif lock.kind == "rwlock":
            self._rwlock(lock, first, time)

    def take(self, wait: Wait, time: int) -> None:
        """Take note that a wait ended because its task has the lock."""
        if wait.shared:
            self.only(wait.lock, None, time)
            if not wait.granted:
                wait.lock.readers.append(wait.task)
            self.event(wait.task, Kind.ACQUIRED, wait.lock, time, Flag.SHARED)
        else:
            self.take_alone(wait.lock, wait.task, time)

    def take_alone(self, lock: Lock, task: Task, time: int) -> None:
        """Take note that a task has got a lock for itself, with or without a wait."""
        if lock.owner is not task:
            self.free(lock, time)
            lock.owner = task
        flags = Flag.STANDING if lock.kind == "osq" else 0
        self.event(task, Kind.ACQUIRED, lock, time, flags)

    def share(self, lock: Lock, task: Task, time: int) -> None:
        """Take note that a task has become a reader."""
        lock.readers.append(task)
        self.event(task, Kind.ACQUIRED, lock, time, Flag.SHARED)

    def leave(self, lock: Lock, task: Task, time: int) -> None:
        """Take note that a task is no reader any more."""
        if task in lock.readers:
            lock.readers.remove(task)
            self.event(task, Kind.RELEASED, lock, time, Flag.SHARED)

    def only(self, lock: Lock, owner: Task | None, time: int) -> None:
        """Take note of who is the only owner, or that there is none."""
        if lock.owner is owner:
            return
        if lock.owner is not None:
            self.event(lock.owner, Kind.RELEASED, lock, time)
        lock.owner = owner
        if owner is None:
            return
        wait = next((one for one in lock.waiters if one.task is owner), None)
        if wait is not None:
            wait.granted = True
            self.event(owner, Kind.GRANTED, lock, time, other=owner.number)
        elif owner.waits:
            # It has had it since before it began to wait for another lock.
            before = owner.waits[0].row
            self._rows.add(time, owner.number, Kind.ACQUIRED, lock.address, before=before)
        else:
            self.event(owner, Kind.ACQUIRED, lock, time)

    def free(self, lock: Lock, time: int) -> None:
        """Take note that nobody has the lock."""
        self.only(lock, None, time)
        self._readers(lock, 0, time)

    def futex(self, lock: Lock, owner: Task | None, time: int) -> None:
        """Take note of who, in hindsight, had a futex since the last one; None: nobody knows."""
        number, flags, since = NOBODY, Flag.UNSEEN | Flag.SHARED, lock.asked
        if owner is not None:
            # Not while it waited for it itself.
            number, flags = owner.number, Flag.INFERRED
            since = max(since, lock.left.get(number, 0))
        if time > since:
            self._rows.add(since, number, Kind.ACQUIRED, lock.address, flags=flags)
            self._rows.add(time, number, Kind.RELEASED, lock.address, flags=flags)
        lock.asked = max(lock.asked, time)

    def event(
        self, task: Task, kind: Kind, lock: Lock, time: int, flags: int = 0, other: int = -1
    ) -> int:
        """Add an event of a task and a lock; return its row."""
        return self._rows.add(
            self._tasks.at(task, time), task.number, kind, lock.address, other, flags
        )

    def _mutex(self, lock: Lock, word: int, time: int) -> None:
        address = word & ~MUTEX_FLAGS
        owner = self._tasks.get(address)
        self.only(lock, owner, time)
        self._unseen(lock, bool(address) and owner is None, time)

    def _rwsem(self, lock: Lock, count: int, owner: int, own: int, time: int) -> None:
        if count & WRITER_LOCKED:
            self._readers(lock, 0, time)
            writer = None if owner & READER_OWNED else self._tasks.get(owner & ~RWSEM_FLAGS)
            if writer is not None or lock.owner is None:
                self.only(lock, writer, time)
            self._unseen(lock, lock.owner is None, time)
        else:
            self.only(lock, None, time)
            self._readers(lock, ((count & ~_READ_FAILED) >> READERS_SHIFT) - own, time)

    def _rwlock(self, lock: Lock, word: int, time: int) -> None:
        if word & SPIN_LOCKED:
            self._readers(lock, 0, time)
            self._unseen(lock, lock.owner is None, time)
        else:
            self.only(lock, None, time)
            self._readers(lock, word >> _RWLOCK_READERS_SHIFT, time)

    def _readers(self, lock: Lock, count: int, time: int) -> None:
        """Take note of how many readers there are; who they are, only some are known."""
        if count <= 0:
            for reader in lock.readers:
                self.event(reader, Kind.RELEASED, lock, time, Flag.SHARED)
            lock.readers.clear()
        self._unseen(lock, count > len(lock.readers), time)

    def _woken(self, task: Task, time: int) -> None:
        """Take note that a task that slept was woken: a reader of an rwsem only when it has it."""
        wait = task.waits[-1] if task.waits else None
        if wait is not None and wait.lock.kind == "rwsem" and wait.shared and not wait.granted:
            wait.granted = True
            wait.lock.readers.append(task)
            self.event(task, Kind.GRANTED, wait.lock, time, Flag.SHARED, task.number)

    def _unseen(self, lock: Lock, unseen: bool, time: int) -> None:
        if lock.unseen != unseen:
            lock.unseen = unseen
            lock.unseen_at = max(lock.unseen_at, time)
            kind = Kind.ACQUIRED if unseen else Kind.RELEASED
            flags = Flag.UNSEEN | Flag.SHARED  # it ends no other hold
            self._rows.add(lock.unseen_at, NOBODY, kind, lock.address, flags=flags)
