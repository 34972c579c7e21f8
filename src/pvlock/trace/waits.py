# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits and holds: a guest's lock events put together, and what would not fit counted.

Of each VCPU and lock the events must come as in events.py. Guests have bugs, rings overflow, and a
guest may write anything: what does not fit makes no wait. Where it leaves open who owned a lock,
that time is `unknown`, not guessed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError
from pvlock.trace.columns import (
    Bools,
    Ints,
    distinct,
    expand,
    keys,
    last_at,
    next_at,
    pick,
    stable_order,
    stops,
)
from pvlock.trace.events import Events, Flag, Kind

MOST_VCPUS = 1024
"""Twice what KVM/arm64 allows; totals by pair take space for the square of it."""

_END = 255
"""Stands for the kind of the event that is not there any more."""


@dataclass
class Intervals:
    """Intervals [first, last) of event positions, in which VCPU `vcpu` has to do with a `lock`."""

    vcpu: Ints
    lock: Ints
    first: Ints
    last: Ints

    def take(self, which: Ints | Bools) -> "Intervals":
        """Return some of them."""
        columns = (self.vcpu, self.lock, self.first, self.last)
        return Intervals(*(column[which] for column in columns))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.first)


@dataclass
class Stages:
    """The parts of the waits between their CONTENDED events, in the order of waits and time.

    `wait` is the number of the wait, `other` who was before it in the queue.
    """

    wait: Ints
    first: Ints
    last: Ints
    other: Ints


@dataclass
class Pairing:
    """Who waited and who owned, by the events.

    `time` has the ns of each position, the end of the table included. `locks` are the addresses;
    elsewhere a lock is its place in there. `granted` is from where on a waiter owned the lock
    already, `shared` says who waited as a reader. `unknown` are times in which nobody can say who
    owned the lock. `cut` counts waits and holds with lost events in them, `unmatched` those with
    events that do not fit. `acquired` counts by lock.
    """

    span: int
    time: Ints
    locks: list[int]
    waits: Intervals
    granted: Ints
    shared: Bools
    stages: Stages
    holds: Intervals
    acquired: Ints
    unknown: Intervals
    cut: int
    unmatched: int


@dataclass
class _Row:
    """The CONTENDED, ACQUIRED and RELEASED events by lock and VCPU, each with its successor."""

    at: Ints
    vcpu: Ints
    lock: Ints
    kind: NDArray[np.uint8]
    next_at: Ints
    next_kind: NDArray[np.uint8]
    broken: Bools
    """Events were lost between this one and the next, or the end of the run."""
    previous: NDArray[np.uint8]
    """The kind of the event before, where none was lost between."""


def pair(events: Events) -> Pairing:
    """Put together what belongs together. Raises TraceError for a table that is none."""
    _check(events)
    guest = np.flatnonzero(_is(events, Kind.CONTENDED, Kind.ACQUIRED, Kind.RELEASED))
    grants = np.flatnonzero(_is(events, Kind.GRANTED))
    objects = events.object[np.append(guest, grants)]
    addresses = distinct(objects)
    lock = np.searchsorted(addresses, objects).astype(np.int32)
    lost = _Lost(events)
    row = _rows(events, guest, lock[: len(guest)], len(addresses), lost)
    waits, shared, stages, cut, unmatched = _waits(events, row)
    time = np.append(events.time, int(events.time.max(initial=events.end)))
    granted, stray_grants = _grants(events, waits, grants, lock[len(guest) :], time)
    holds, fits, broken = _holds(events, row, waits, shared, granted, time)
    strays, strays_cut, strays_unmatched = _strays(row, lost)
    torn = ~fits[: len(broken)]
    return Pairing(
        span=len(events) + 1,
        time=time,
        locks=[int(address) for address in addresses],
        waits=waits,
        granted=granted,
        shared=shared,
        stages=stages,
        holds=holds.take(fits),
        acquired=np.bincount(row.lock[row.kind == Kind.ACQUIRED], minlength=len(addresses)),
        unknown=joined([holds.take(~fits), strays, lost.gaps(row, len(addresses))]),
        cut=cut + strays_cut + int(np.count_nonzero(torn & broken)),
        unmatched=unmatched
        + strays_unmatched
        + stray_grants
        + int(np.count_nonzero(torn & ~broken)),
    )


def _check(events: Events) -> None:
    if events.vcpus > MOST_VCPUS:
        raise TraceError(f"{events.vcpus:,} VCPUs are more than {MOST_VCPUS:,}")
    if len(events) and not 0 <= int(events.vcpu.min()) <= int(events.vcpu.max()) < events.vcpus:
        raise TraceError(f"an event is of a VCPU that is none of the {events.vcpus}")
    if len(events) and bool((np.diff(events.time) < 0).any()):
        raise TraceError("the events are not in the order of their times")


def _is(events: Events, *kinds: Kind) -> Bools:
    table = np.zeros(256, bool)
    table[list(kinds)] = True
    return table[events.kind]


class _Lost:
    """Where events of a VCPU were lost: between its last guest event before and the first after."""

    def __init__(self, events: Events) -> None:
        at = np.flatnonzero(_is(events, Kind.LOST))
        order = stable_order(events.vcpu[at], events.vcpus)
        self._at, self._vcpu, self._span = at[order], events.vcpu[at[order]], len(events) + 1
        self._keys = keys(self._vcpu, self._span, self._at)
        self.first, self.last = self._at, self._at
        if len(at):
            guest = np.flatnonzero((events.kind >= Kind.CONTENDED) & (events.kind != Kind.LOST))
            known = np.sort(keys(events.vcpu[guest], self._span, guest))
            base = self._keys - self._at
            before = pick(known, last_at(known, self._keys), 0)
            self.first = np.maximum(before - base, 0)
            self.last = np.minimum(next_at(known, self._keys) - base, len(events))

    def between(self, vcpu: Ints, first: Ints, last: Ints) -> Bools:
        """Return whether events of `vcpu` were lost between two positions."""
        if not len(self._keys):
            return np.zeros(len(first), bool)
        before = last_at(self._keys, keys(vcpu, self._span, first))
        result: Bools = last_at(self._keys, keys(vcpu, self._span, last)) > before
        return result

    def after(self, vcpu: Ints, at: Ints) -> Ints:
        """Return where the first gap of `vcpu` after `at` begins; there must be one."""
        return self.first[last_at(self._keys, keys(vcpu, self._span, at)) + 1]

    def gaps(self, row: _Row, locks: int) -> Intervals:
        """Return the gaps, for every lock that the VCPU ever had to do with."""
        pairs = distinct(keys(row.vcpu, locks, row.lock)) if len(self._at) else self._keys
        base = self._vcpu.astype(np.int64) * locks
        which, user = expand(np.searchsorted(pairs, base), np.searchsorted(pairs, base + locks))
        lock = pairs[user] - base[which]
        return Intervals(self._vcpu[which], lock, self.first[which], self.last[which])


def _rows(events: Events, guest: Ints, lock: Ints, locks: int, lost: _Lost) -> _Row:
    group = keys(lock, events.vcpus, events.vcpu[guest])
    order = stable_order(group, max(locks * events.vcpus, 1))
    at, group, lock = guest[order].astype(np.int32), group[order], lock[order]
    kind, vcpu = events.kind[at], events.vcpu[at]
    alone = stops(len(at), group[1:] == group[:-1])
    after = np.append(at[1:], 0)[: len(at)]
    after[alone] = len(events)
    next_kind = np.append(kind[1:], 0)[: len(at)].astype(np.uint8)
    next_kind[alone] = _END
    broken = lost.between(vcpu, at, after)
    previous = np.append(0, kind[:-1])[: len(at)].astype(np.uint8)
    previous[np.append(True, alone | broken)[: len(at)]] = _END
    return _Row(at, vcpu, lock, kind, after, next_kind, broken, previous)


def _waits(events: Events, row: _Row) -> tuple[Intervals, Bools, Stages, int, int]:
    """Return the waits, which are readers', their stages, how many were cut, and unmatched."""
    at = np.flatnonzero(row.kind == Kind.CONTENDED)
    first = row.previous[at] != Kind.CONTENDED
    number = np.cumsum(first, dtype=np.int32) - 1
    start, final = at[first], at[np.append(first[1:], True)[: len(at)]]
    fits = np.isin(row.next_kind[final], (Kind.ACQUIRED, _END)) & ~row.broken[final]
    waits = Intervals(row.vcpu[start], row.lock[start], row.at[start], row.next_at[final])
    kept = fits[number]
    stages = Stages(
        (np.cumsum(fits, dtype=np.int32) - 1)[number[kept]],
        row.at[at][kept],
        row.next_at[at][kept],
        events.other[row.at[at][kept]],
    )
    shared = (events.flags[row.at[start]] & Flag.SHARED).astype(bool)
    cut = int(np.count_nonzero(row.broken[final]))
    unmatched = int(np.count_nonzero(~fits)) - cut
    return waits.take(fits), shared[fits], stages, cut, unmatched


def _grants(events: Events, waits: Intervals, at: Ints, lock: Ints, time: Ints) -> tuple[Ints, int]:
    """Return from where on each waiter owned the lock, and how many grants were to no waiter.

    The clocks of giver and taker differ by up to the skew: a grant can seem to come before the
    wait, or after its end.
    """
    span = len(events) + 1
    granted = waits.last.copy()
    vcpu = events.other[at]
    valid = (vcpu >= 0) & (vcpu < events.vcpus)
    at, lock, vcpu = at[valid], lock[valid], vcpu[valid]
    stray = int(np.count_nonzero(~valid))
    if not len(at) or not len(waits):
        return granted, stray + len(at)
    group = keys(waits.lock, events.vcpus, waits.vcpu) * span
    mine = keys(lock, events.vcpus, vcpu) * span
    before = last_at(group + waits.first, mine + at)
    after = np.minimum(before + 1, len(waits) - 1)
    same_before = (before >= 0) & (group[before] == mine)
    inside = same_before & (waits.last[before] > at)
    early = (
        ~inside
        & (before + 1 < len(waits))
        & (group[after] == mine)
        & (time[waits.first[after]] - time[at] <= events.skew_ns)
    )
    late = same_before & ~inside & (time[at] - time[waits.last[before]] <= events.skew_ns)
    np.minimum.at(granted, before[inside], at[inside])
    granted[after[early]] = waits.first[after[early]]
    return granted, stray + int(np.count_nonzero(~(inside | early | late)))


def _holds(
    events: Events, row: _Row, waits: Intervals, shared: Bools, granted: Ints, time: Ints
) -> tuple[Intervals, Bools, Bools]:
    """Return the holds, which of them fit, and those of which events were lost.

    A hold begins where its waiter was granted the lock, if it was.
    """
    at = np.flatnonzero(row.kind == Kind.ACQUIRED)
    first = row.at[at].copy()
    closed = waits.last < len(events)
    # Both are in the order of locks and VCPUs, and each of these ACQUIRED ends one of those waits.
    first[row.previous[at] == Kind.CONTENDED] = granted[closed]
    fits = np.isin(row.next_kind[at], (Kind.RELEASED, _END)) & ~row.broken[at]
    readers = (events.flags[row.at[at]] & Flag.SHARED).astype(bool)
    given = np.flatnonzero(~closed & (granted < waits.last))
    holds = Intervals(row.vcpu[at], row.lock[at], first, row.next_at[at])
    mine = waits.take(given)
    mine.first = granted[given]
    holds = joined([holds, mine])
    readers = np.append(readers, shared[given])
    _clip(events, holds, readers, time)
    return holds, np.append(fits, np.ones(len(given), bool)), row.broken[at]


def _clip(events: Events, holds: Intervals, readers: Bools, time: Ints) -> None:
    """End each hold where somebody else took the lock who cannot have had it at the same time.

    RELEASED is recorded after the release, and its VCPU may be preempted before that. Within the
    skew of the clocks, the order of two VCPUs says nothing.
    """
    span, nothing = len(events) + 1, len(events)
    order = np.argsort(begin := keys(holds.lock, span, holds.first), kind="stable")
    first, lock, begin = holds.first[order], holds.lock[order], begin[order]
    # Who took the lock next: anybody, for readers a writer.
    after = np.append(np.where(lock[1:] == lock[:-1], first[1:], nothing), nothing)[: len(order)]
    if readers.any():
        writer = np.where(readers[order], nothing, first) + begin - first
        coming = np.minimum.accumulate(writer[::-1])[::-1]
        coming = np.append(coming[1:], np.iinfo(np.int64).max)[: len(order)] - begin + first
        after = np.where(readers[order], np.minimum(coming, nothing), after).astype(np.int32)
    near = np.flatnonzero((after < nothing) & (time[after] - time[first] <= events.skew_ns))
    if len(near):
        far = np.searchsorted(events.time, events.time[first[near]] + events.skew_ns, "right")
        base = begin[near] - first[near]
        anybody = next_at(begin, base + far) - base
        writers = next_at(begin[~readers[order]], base + far) - base
        taken = np.where(readers[order][near], writers, anybody)
        after[near] = np.minimum(taken, nothing)
    holds.last[order] = np.minimum(holds.last[order], after)


def _strays(row: _Row, lost: _Lost) -> tuple[Intervals, int, int]:
    """Return when a lock may have been held before a RELEASED that has no ACQUIRED.

    Since the trace began, or since events were lost; else nobody can say. Also counts both.
    """
    at = np.flatnonzero((row.kind == Kind.RELEASED) & (row.previous != Kind.ACQUIRED))
    same = np.append(False, (row.next_at[:-1] == row.at[1:]))[: len(row.at)][at]
    broken = same & (row.previous[at] == _END)
    first = np.where(same, row.at[at], 0)
    before = row.at[at[broken] - 1]
    first[broken] = np.maximum(lost.after(row.vcpu[at[broken]], before), before)
    found = Intervals(row.vcpu[at], row.lock[at], first, row.at[at]).take(first < row.at[at])
    cut = int(np.count_nonzero(broken))
    return found, cut, len(at) - cut


def joined(parts: list[Intervals]) -> Intervals:
    """Return all intervals of all parts."""
    return Intervals(
        np.concatenate([part.vcpu for part in parts]),
        np.concatenate([part.lock for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.last for part in parts]),
    )
