# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits and holds: a guest's lock events put together, and what would not fit counted.

Of each VCPU and lock the events must come as in events.py. Guests have bugs, rings overflow, and a
guest may write anything: what does not fit makes no wait. Where it leaves open who owned a lock,
that time is `unknown`, not guessed.
"""

from dataclasses import dataclass

import numpy as np

from pvlock.errors import TraceError
from pvlock.trace.columns import Bools, Ints, expand, last_at, reach, stable_order
from pvlock.trace.events import Events, Flag, Kind

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

    `locks` are the addresses; elsewhere a lock is its place in there. `granted` is from where on a
    waiter owned the lock already, `shared` says who waited as a reader. `unknown` are times in
    which nobody can say who owned the lock. `cut` counts waits and holds with lost events in them,
    `unmatched` those with events that do not fit.
    """

    span: int
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
    kind: Ints
    next_at: Ints
    next_kind: Ints
    broken: Bools
    """Events were lost between this one and the next, or the end of the run."""
    previous: Ints
    """The kind of the event before, where none was lost between."""


def pair(events: Events) -> Pairing:
    """Put together what belongs together. Raises TraceError for a table that is none."""
    _check(events)
    span = len(events) + 1
    guest = np.flatnonzero(_is(events, Kind.CONTENDED, Kind.ACQUIRED, Kind.RELEASED))
    grants = np.flatnonzero(_is(events, Kind.GRANTED))
    addresses, lock = np.unique(
        events.object[np.concatenate([guest, grants])], return_inverse=True
    )
    lock, grant_lock = lock[: len(guest)], lock[len(guest) :]
    lost = _Lost(events, span)
    row = _rows(events, guest, lock, len(addresses), lost)
    waits, shared, stages, bad_waits = _waits(events, row, span)
    granted, stray_grants = _grants(events, waits, grants, grant_lock, span)
    holds, readers, acquired, torn = _holds(events, row, waits, granted)
    strays = _strays(row, lost)
    parts = [torn[0], strays[0], lost.gaps(row)]
    unknown = _clip(events, _joined(parts), np.ones(sum(map(len, parts)), bool), holds, readers)
    return Pairing(
        span=span,
        locks=[int(address) for address in addresses],
        waits=waits,
        granted=granted,
        shared=shared,
        stages=stages,
        holds=_clip(events, holds, readers, holds, readers),
        acquired=acquired,
        unknown=unknown,
        cut=bad_waits[0] + torn[1] + strays[1],
        unmatched=bad_waits[1] + torn[2] + strays[2] + stray_grants,
    )


def _check(events: Events) -> None:
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

    def __init__(self, events: Events, span: int) -> None:
        at = np.flatnonzero(_is(events, Kind.LOST))
        order = stable_order(events.vcpu[at], events.vcpus)
        self._at = at[order]
        self._vcpu = events.vcpu[self._at].astype(np.int64)
        self._keys = self._vcpu * span + self._at
        self._span = span
        self.first, self.last = self._at, self._at
        if len(at):
            guest = np.flatnonzero((events.kind >= Kind.CONTENDED) & (events.kind != Kind.LOST))
            keys = np.sort(events.vcpu[guest].astype(np.int64) * span + guest)
            before, base = last_at(keys, self._keys), self._vcpu * span
            after = before + 1
            keys = np.append(keys, span * events.vcpus)
            self.first = np.maximum(np.where(before >= 0, keys[before], 0) - base, 0)
            self.last = np.minimum(keys[after] - base, span - 1)

    def between(self, vcpu: Ints, first: Ints, last: Ints) -> Bools:
        """Return whether events of `vcpu` were lost between two positions."""
        if not len(self._keys):
            return np.zeros(len(first), bool)
        base = vcpu * self._span
        return last_at(self._keys, base + last) > last_at(self._keys, base + first)

    def after(self, vcpu: Ints, at: Ints) -> Ints:
        """Return where the first gap of `vcpu` after `at` begins; there must be one."""
        return self.first[last_at(self._keys, vcpu * self._span + at) + 1]

    def gaps(self, row: _Row) -> Intervals:
        """Return the gaps, for every lock that the VCPU ever had to do with."""
        pairs = np.unique(row.vcpu << 32 | row.lock) if len(self._at) else np.empty(0, np.int64)
        which, user = expand(
            np.searchsorted(pairs, self._vcpu << 32), np.searchsorted(pairs, self._vcpu + 1 << 32)
        )
        lock = pairs[user] & (1 << 32) - 1
        return Intervals(self._vcpu[which], lock, self.first[which], self.last[which])


def _rows(events: Events, guest: Ints, lock: Ints, locks: int, lost: _Lost) -> _Row:
    group = lock * events.vcpus + events.vcpu[guest]
    order = stable_order(group, max(locks * events.vcpus, 1))
    at, group, lock = guest[order], group[order], lock[order]
    kind, vcpu = events.kind[at].astype(np.int64), events.vcpu[at].astype(np.int64)
    end = np.array([len(events)])
    alone = np.append(group[1:] != group[:-1], True)[: len(at)]
    next_at = np.where(alone, end, np.append(at[1:], end)[: len(at)])
    next_kind = np.where(alone, _END, np.append(kind[1:], _END)[: len(at)])
    broken = lost.between(vcpu, at, next_at)
    cut = np.append(True, alone | broken)[: len(at)]
    previous = np.where(cut, _END, np.append(_END, kind)[: len(at)])
    return _Row(at, vcpu, lock, kind, next_at, next_kind, broken, previous)


def _waits(
    events: Events, row: _Row, span: int
) -> tuple[Intervals, Bools, Stages, tuple[int, int]]:
    """Return the waits, which are readers', their stages, how many were cut, and unmatched."""
    at = np.flatnonzero(row.kind == Kind.CONTENDED)
    first = row.previous[at] != Kind.CONTENDED
    number = np.cumsum(first) - 1
    start, final = at[first], at[np.append(first[1:], True)[: len(at)]]
    fits = np.isin(row.next_kind[final], (Kind.ACQUIRED, _END)) & ~row.broken[final]
    waits = Intervals(row.vcpu[start], row.lock[start], row.at[start], row.next_at[final])
    kept = fits[number]
    stages = Stages(
        (np.cumsum(fits) - 1)[number[kept]],
        row.at[at][kept],
        row.next_at[at][kept],
        events.other[row.at[at][kept]].astype(np.int64),
    )
    shared = (events.flags[row.at[start]] & Flag.SHARED).astype(bool)
    cut = int(np.count_nonzero(row.broken[final]))
    return waits.take(fits), shared[fits], stages, (cut, int(np.count_nonzero(~fits)) - cut)


def _grants(
    events: Events, waits: Intervals, at: Ints, lock: Ints, span: int
) -> tuple[Ints, int]:
    """Return from where on each waiter owned the lock, and how many grants were to no waiter.

    The clocks of giver and taker differ by up to the skew: a grant can seem to come before the
    wait, or after its end.
    """
    granted = waits.last.copy()
    vcpu = events.other[at].astype(np.int64)
    valid = (vcpu >= 0) & (vcpu < events.vcpus)
    at, lock, vcpu = at[valid], lock[valid], vcpu[valid]
    stray = int(np.count_nonzero(~valid))
    if not len(at):
        return granted, stray
    if not len(waits):
        return granted, stray + len(at)
    group = (waits.lock * events.vcpus + waits.vcpu) * span
    mine = (lock * events.vcpus + vcpu) * span
    before = last_at(group + waits.first, mine + at)
    after = np.minimum(before + 1, len(waits) - 1)
    same_before = (before >= 0) & (group[before] == mine)
    inside = same_before & (waits.last[before] > at)
    time = np.append(events.time, events.end)
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
    events: Events, row: _Row, waits: Intervals, granted: Ints
) -> tuple[Intervals, Bools, Ints, tuple[Intervals, int, int]]:
    """Return the holds, which are readers', how often each lock was acquired, and torn holds.

    A hold begins where its waiter was granted the lock, if it was. It is torn where its RELEASED is
    missing: by loss (the first count) or by itself (the second).
    """
    at = np.flatnonzero(row.kind == Kind.ACQUIRED)
    first = row.at[at]
    order = np.argsort(waits.last, kind="stable")
    early = order[granted[order] < waits.last[order]]
    ended = np.searchsorted(first_sorted := np.sort(first), waits.last[early])
    begins = dict.fromkeys(()) if not len(early) else None
    del first_sorted, ended, begins
    acquired = np.bincount(row.lock[at], minlength=int(row.lock.max(initial=-1)) + 1)
    start = np.arange(len(events) + 1) if len(early) else None
    if start is not None:
        start[waits.last[early]] = granted[early]
        first = start[first]
    everything = Intervals(row.vcpu[at], row.lock[at], first, row.next_at[at])
    readers = (events.flags[row.at[at]] & Flag.SHARED).astype(bool)
    broken = row.broken[at]
    fits = np.isin(row.next_kind[at], (Kind.RELEASED, _END)) & ~broken
    torn = int(np.count_nonzero(broken)), int(np.count_nonzero(~fits & ~broken))
    return everything.take(fits), readers[fits], acquired, (everything.take(~fits), *torn)
