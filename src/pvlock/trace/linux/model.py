# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks, locks, and waits of the one for the other, as they are at one moment."""

NOBODY = 0
"""The number of what stands for an owner that could not be seen."""


class Task:
    """A task of the guest. `number` is its place among all, `last` the time of its last event.

    `out` is the row with which it lost its VCPU, or -1 while it has one; `slept` are those with
    which it went to sleep for a lock. `woken` is when it could run again. `waits` are its waits for
    locks, the innermost last.
    """

    __slots__ = ("address", "last", "name", "number", "out", "pid", "slept", "waits", "woken")

    def __init__(self, number: int, address: int) -> None:
        self.number, self.address = number, address
        self.pid: int | None = None
        self.name = ""
        self.last = 0
        self.out = -1
        self.slept: list[int] = []
        self.woken: int | None = None
        self.waits: list[Wait] = []

    @property
    def called(self) -> str:
        """What to call it: name/number, as far as these are known."""
        name = self.name or "task"
        if self.pid is None:
            return f"{name}@{self.address:x}"
        return name if self.pid == 0 else f"{name}/{self.pid}"


class Lock:
    """A lock: its writer or only owner, its readers, and who waits for it, in the order of coming.

    `sleepers` are those waiters that have slept, in the order in which they first did. `unseen`
    says that NOBODY has it, besides those that are known, and `unseen_at` since when. `asked` is,
    of a futex, since when who will wake its waiters has it; `left` when waiters went, by number.
    """

    __slots__ = (
        "address", "asked", "kind", "left", "owner", "readers", "sleepers", "unseen", "unseen_at",
        "waiters",
    )  # fmt: skip

    def __init__(self, address: int, kind: str) -> None:
        self.address, self.kind = address, kind
        self.owner: Task | None = None
        self.readers: list[Task] = []
        self.unseen = False
        self.asked = self.unseen_at = 0
        self.left: dict[int, int] = {}
        self.sleepers: list[Wait] = []
        self.waiters: list[Wait] = []


class Wait:
    """A task's wait for a lock. `row` is its first event; `granted` says that it has the lock."""

    __slots__ = ("granted", "lock", "row", "shared", "task")

    def __init__(self, task: Task, lock: Lock, shared: bool) -> None:
        self.task, self.lock, self.shared = task, lock, shared
        self.row = -1
        self.granted = False
