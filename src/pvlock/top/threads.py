# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a thread at a moment: sums since it was first seen. Times are in ns.

None stands for what the source of a snapshot cannot tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

IDLE = 0
"""The process ID that stands for a CPU that has nothing to run."""

CLASSES = 96
"""The classes of gaps: below 1 µs, then four to an octave, up to 16 s."""


class Displacer(NamedTuple):
    """Who has a CPU that a thread waits for: a thread that is watched itself, or a process."""

    pid: int
    """The ID of the thread or process, in the initial PID namespace."""
    is_thread: bool


class Key(NamedTuple):
    """A thread, for certain: IDs are used again."""

    tid: int
    began: int


@dataclass(frozen=True)
class Thread:
    """The sums of one thread at the time `at`. `ready` has `throttled` in it."""

    key: Key
    tgid: int
    name: str
    vm: int
    """Tells the VMs of one process apart; 0: the thread is no VCPU, or it is not known."""
    vcpu: int | None
    at: int
    alive: bool
    running: int
    ready: int
    blocked: int
    preemptions: int
    throttled: int | None = None
    waits: int | None = None
    """Gaps that have ended."""
    migrations: int | None = None
    exits: int | None = None
    """WFE exits, or on x86 directed yields tried after a PLE exit: KVM's own count."""
    vain: int | None = None
    """Of `exits`, those of stretches on a CPU at whose end a sibling VCPU was ready."""
    yields: int | None = None
    """Directed yields that gave this thread a CPU."""
    longest: int | None = None
    """The longest gap that lasted in the interval that ends now."""
    gaps: tuple[int, ...] | None = None
    """Gaps that have ended, by class."""
    displaced: Mapping[Displacer, int] | None = None
    """Who had its CPU while it waited, in the interval that ends now."""


@dataclass(frozen=True)
class Snapshot:
    """All threads that are watched, at one time (CLOCK_MONOTONIC)."""

    at: int
    threads: Mapping[Key, Thread]
    names: Mapping[Displacer, str] = field(default_factory=dict)
    """What the kernel called displacers when it first saw them."""
    unplaced: int = 0
    """Threads that could not be watched, as there are too many."""


def upper_bound(number: int) -> int:
    """Return the ns below which all gaps of a class are."""
    octave, quarter = divmod(number, 4)
    return (4 + quarter + 1) << (octave + 8)


def percentile(gaps: tuple[int, ...], share: float) -> int | None:
    """Return the upper bound of the class of the gap below which `share` of all are."""
    total = sum(gaps)
    seen = 0
    for number, count in enumerate(gaps):
        seen += count
        if count and seen >= share * total:
            return upper_bound(number)
    return None
