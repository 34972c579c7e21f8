# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions of a Linux kernel are watched, so that its tasks and locks can be recorded.

Compilers give parts of a function names of their own (.constprop, .isra), and put functions into
others. So a function is looked for by its name and those; what a kernel has not is listed, with
what cannot be said without it.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from pvlock.engines.contract import VALUE, Read, Watch, WatchPoint
from pvlock.errors import MissingSymbols, MissingTypes
from pvlock.linux_image import Btf, Symbols


class Role(Enum):
    """What a call of a watched function means."""

    SWITCH = auto()
    """The VCPU goes from task X0 to task X1."""
    NEW = auto()
    """Task X0 has been made, and can run."""
    WAKE = auto()
    """Task X0 is woken, if it sleeps; then 1 is returned."""
    MUTEX = auto()
    """A wait for a mutex; 0 is returned to whoever has got it."""
    RWSEM_READ = auto()
    """A reader's wait for an rwsem; it is returned to whoever has got it."""
    RWSEM_WRITE = auto()
    SPIN = auto()
    """A wait for a spinlock."""
    RWLOCK_READ = auto()
    RWLOCK_WRITE = auto()
    OSQ = auto()
    """A wait in the queue of those who spin for a mutex or an rwsem; 1 is returned to its head, 0
    to who gave up."""
    OSQ_UNLOCK = auto()
    MUTEX_UNLOCK = auto()
    UP_READ = auto()
    UP_WRITE = auto()
    DOWNGRADE = auto()
    FUTEX_WAIT = auto()
    FUTEX_WAKE = auto()


OWNER, COUNT, FRAME, CALLER, CALLERS_CALLER = range(5)
"""Where the values of a wait are in its record: of the lock, and of the stack."""
NEXT_PID, PREVIOUS_COMM, PREVIOUS_PID = 0, 1, 3
"""Where the values of Role.SWITCH are; the name takes two."""

MUTEX_FLAGS = 7
"""The bits of mutex.owner that are flags."""
RWSEM_FLAGS = 3
"""The bits of rw_semaphore.owner that are flags: reader-owned, and not to be spun for."""
READER_OWNED = 1
WRITER_LOCKED = 1
"""In rw_semaphore.count."""
READERS_SHIFT = 8
"""From where on rw_semaphore.count has the number of readers."""

_FRAME_POINTER, _LR_IN_FRAME = 29, 8
_COMM = b"swapper\0"
_COMM_SIZE = 16
_LARGEST_TASK = 1 << 14
_ALL = (1 << 64) - 1
_WAIT = Watch.ALWAYS | Watch.RETURN | Watch.WAIT
_SUFFIX = re.compile(r"\.(constprop|isra|part|cold|llvm)\..*")


@dataclass
class Points:
    """What to watch in one kernel, and what its build leaves out.

    `roles` has the role of each of `points`. `missing` has a line for each thing that cannot be
    seen. `has_pid` and `has_comm` say whether the record of Role.SWITCH has these.
    """

    symbols: Symbols
    points: list[WatchPoint] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    has_pid: bool = False
    has_comm: bool = False


def find(data: bytes, name: str, symbols: Symbols) -> Points:
    """Find what to watch in the Image `data`; `name` is for messages.

    Raises MissingSymbols where not even tasks can be seen.
    """
    found = Points(symbols)
    types: Btf | None = None
    try:
        types = Btf(data, name)
    except MissingTypes:
        found.missing.append("the kernel has no BTF: no process numbers")
    _tasks(found, name, data, types)
    _mutexes(found, types)
    _rwsems(found, types)
    _spinlocks(found)
    _add(found, Role.FUTEX_WAIT, ["futex_wait"], _WAIT | Watch.USER, "futexes")
    _add(found, Role.FUTEX_WAKE, ["futex_wake"], Watch.AWAITED | Watch.USER, "futexes")
    return found


def _tasks(found: Points, name: str, data: bytes, types: Btf | None) -> None:
    comm, pid = _comm_offset(found.symbols, data, types), None
    if types is not None and types.has("task_struct", "pid"):
        pid = types.field("task_struct", "pid").offset
    # A value that is not there is 0, and those behind it must be read all the same.
    nowhere = Read(0, -(1 << 31), 4)
    reads = [
        nowhere if pid is None else Read(1, pid, 4),
        *([nowhere] * 2 if comm is None else [Read(0, comm), Read(0, comm + 8)]),
        nowhere if pid is None else Read(0, pid, 4),
    ]
    found.has_pid, found.has_comm = pid is not None, comm is not None
    if comm is None:
        found.missing.append("names of tasks: where they are is not known")
    if not _add(found, Role.SWITCH, ["cpu_switch_to"], Watch.ALWAYS, None, tuple(reads)):
        raise MissingSymbols(f"{name}: no cpu_switch_to among its symbols: its tasks are not seen")
    if not _add(
        found, Role.WAKE, ["try_to_wake_up"], Watch.ALWAYS | Watch.RETURN,
        "when a task is woken (try_to_wake_up): a task that waits for a VCPU seems to sleep",
    ):  # fmt: skip
        return
    _add(
        found, Role.NEW, ["wake_up_new_task"], Watch.ALWAYS,
        "when a new task could run (wake_up_new_task)",
    )  # fmt: skip


def _comm_offset(symbols: Symbols, data: bytes, types: Btf | None) -> int | None:
    """Return where the name in a task_struct is: by BTF, or by the first task in the Image."""
    if types is not None and types.has("task_struct", "comm"):
        return types.field("task_struct", "comm").offset
    start = symbols.get("init_task")
    if start is None:
        return None
    at = start - symbols.text
    offset = data[at : at + _LARGEST_TASK].find(_COMM.ljust(_COMM_SIZE, b"\0"))
    return offset if offset >= 0 and offset % 8 == 0 else None


def _waits(owner: Read | None, count: Read | None) -> tuple[Read, ...]:
    nowhere = Read(0, -(1 << 31), 4)
    return (
        owner or nowhere,
        count or nowhere,
        Read(_FRAME_POINTER, 0),
        Read(_FRAME_POINTER, _LR_IN_FRAME),
        Read(VALUE + FRAME, _LR_IN_FRAME),
    )


def _mutexes(found: Points, types: Btf | None) -> None:
    if types is not None and not types.has("mutex", "owner"):
        found.missing.append("mutexes: they are rt_mutexes in this kernel (PREEMPT_RT)")
        return
    # The owner has been the first member since Linux 4.10.
    offset = 0 if types is None else types.field("mutex", "owner").offset
    if offset:
        found.missing.append("mutexes: their owner is not at their beginning")
        return
    reads = _waits(Read(0, 0), None)
    masks = (_ALL ^ MUTEX_FLAGS, 0)
    names = ["__mutex_lock"]
    for extra in (names, ["__ww_mutex_lock"]):
        _add(
            found, Role.MUTEX, extra, _WAIT,
            f"waits for mutexes ({extra[0]})", reads, 8, masks,
        )  # fmt: skip
    _add(
        found, Role.MUTEX_UNLOCK, ["mutex_unlock"], Watch.AWAITED,
        "when a mutex is released, to the ns (mutex_unlock)",
    )  # fmt: skip
    _add(found, Role.MUTEX_UNLOCK, ["ww_mutex_unlock"], Watch.AWAITED, None)
    _osq(found)


def _osq(found: Points) -> None:
    if Role.OSQ in found.roles:
        return
    what = "who spins behind whom for a mutex or an rwsem"
    if addresses(found.symbols, "osq_unlock"):
        reads = _waits(Read(0, 0, 4), None)
        _add(found, Role.OSQ, ["osq_lock"], _WAIT, f"{what} (osq_lock)", reads)
        _add(found, Role.OSQ_UNLOCK, ["osq_unlock"], Watch.ALWAYS, None)
    else:
        found.missing.append(f"{what} (osq_unlock)")


def _rwsems(found: Points, types: Btf | None) -> None:
    if types is not None and not types.has("rw_semaphore", "owner"):
        found.missing.append("rwsems: they have no owner in this kernel")
        return
    places = [8, 0]
    if types is not None:
        places = [types.field("rw_semaphore", part).offset for part in ("owner", "count")]
    if places != [8, 0]:
        found.missing.append("rwsems: their count and their owner are not at their beginning")
        return
    reads = _waits(Read(0, 8), Read(0, 0))
    masks = (_ALL << READERS_SHIFT & _ALL | WRITER_LOCKED, _ALL ^ (RWSEM_FLAGS & ~READER_OWNED))
    for role, name in (
        (Role.RWSEM_READ, "rwsem_down_read_slowpath"),
        (Role.RWSEM_WRITE, "rwsem_down_write_slowpath"),
    ):
        _add(found, role, [name], _WAIT, f"waits for rwsems ({name})", reads, 8, masks)
    for role, name in (
        (Role.UP_READ, "up_read"),
        (Role.UP_WRITE, "up_write"),
        (Role.DOWNGRADE, "downgrade_write"),
    ):
        _add(
            found, role, [name], Watch.AWAITED,
            f"when an rwsem is released, to the ns ({name})",
        )  # fmt: skip
    _osq(found)


def _spinlocks(found: Points) -> None:
    reads = _waits(Read(0, 0, 4), None)
    for role, name, mask in (
        # Where a kernel has both, the first is called by the second.
        (Role.SPIN, "native_queued_spin_lock_slowpath", 0xFF),
        (Role.SPIN, "__pv_queued_spin_lock_slowpath", 0xFF),
        (Role.SPIN, "queued_spin_lock_slowpath", 0xFF),
        (Role.RWLOCK_READ, "queued_read_lock_slowpath", 0xFFFFFFFF),
        (Role.RWLOCK_WRITE, "queued_write_lock_slowpath", 0xFFFFFFFF),
    ):
        if role is Role.SPIN and name == "queued_spin_lock_slowpath" and role in found.roles:
            continue
        wanted = None if "_pv_" in name or name.startswith("native") else name
        why = None if wanted is None else f"waits for spinlocks ({name})"
        _add(found, role, [name], _WAIT, why, reads, 4, (mask, 0))
    found.missing.append(
        "who has a spinlock that was free when it was taken: that code is inlined everywhere. The "
        "owner is known if it had to wait itself"
    )


def _add(
    found: Points, role: Role, names: list[str], flags: Watch, missing: str | None,
    reads: tuple[Read, ...] = (), word_size: int = 0, masks: tuple[int, int] = (0, 0),
) -> bool:  # fmt: skip
    """Add the functions with one of these names; False, and a line of `missing`, without any."""
    places = [place for name in names for place in addresses(found.symbols, name)]
    for place in places:
        found.points.append(WatchPoint(place, flags, word_size, masks, reads))
        found.roles.append(role)
    if not places and missing is not None:
        found.missing.append(missing)
    return bool(places)


def addresses(symbols: Symbols, name: str) -> list[int]:
    """Return where the function `name` begins, and versions of it that a compiler has made."""
    places = {
        symbol.address
        for symbol in symbols.all
        if _SUFFIX.sub("", symbol.name) == name and ".cold" not in symbol.name
        and ".part" not in symbol.name and symbol.kind in "tTwW"
    }  # fmt: skip
    return sorted(places)
