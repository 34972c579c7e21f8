# SPDX-License-Identifier: GPL-2.0-or-later
"""What to call a lock of the guest's kernel: by its symbol, or by who wanted it."""

from collections import Counter
from collections.abc import Iterable

from pvlock.linux_image import Symbols

_LOCKING = (
    "mutex_lock", "__mutex_", "ww_mutex_lock", "__ww_mutex_", "down_read", "down_write", "rwsem_",
    "_raw_spin_", "_raw_read_", "_raw_write_", "queued_", "native_queued_", "__pv_queued_",
    "futex_", "do_futex", "__arm64_sys_futex",
)  # fmt: skip
"""How functions begin that want a lock for others."""
_OF_SPINLOCKS = ("_raw_", "queued_", "native_queued_", "__pv_queued_")
"""For a spinlock, a mutex or an rwsem is who wants it."""
_CANONICAL = 0xFFFF << 48
"""A return address may be signed: then its upper bits are not those of an address."""


def name_of(kind: str, lock: int, callers: Counter[tuple[int, ...]], symbols: Symbols) -> str:
    """Return a name for the `kind` of lock at an address, which others may have too.

    A lock that has a symbol is called by it. Else `callers`, the return addresses on the stacks of
    those who waited, the innermost first, say which function wanted it most often.
    """
    if kind == "futex":
        return "futex"
    place = symbols.at(lock)
    if place is not None and lock < _end(symbols):
        name, offset = place
        return f"{kind} {name}" + (f"+{offset:#x}" if offset else "")
    wanted: Counter[str] = Counter()
    for stack, count in callers.items():
        wanted[caller(kind, stack, symbols)] += count
    # Of equal ones the first in the alphabet: the same run has the same names.
    best = min(wanted.items(), key=lambda item: (-item[1], item[0]))[0] if wanted else ""
    return f"{kind} of {best}" if best else kind


def caller(kind: str, stack: Iterable[int], symbols: Symbols) -> str:
    """Return the function that wanted a lock, or nothing: it is not among these addresses."""
    passed = _OF_SPINLOCKS if kind in ("spinlock", "rwlock") else _LOCKING
    for address in stack:
        # A call may be the last instruction of its function.
        place = symbols.at((address | _CANONICAL) - 4) if address else None
        if place is not None and not place[0].startswith(passed):
            return place[0]
    return ""


def _end(symbols: Symbols) -> int:
    end = symbols.get("_end")
    return symbols.all[-1].address if end is None else end
