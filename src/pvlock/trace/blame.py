# SPDX-License-Identifier: GPL-2.0-or-later
"""Who answers for a lock at each instant: the segments of its two views (lives.py).

A claim says that while it lasts, a lock cannot be had because of one VCPU. Of several claims at an
instant the first by `_Level` counts, and of equal ones the oldest. Where the VCPU that answers
waits for another lock itself, that lock's segments take the place of its own: the chain is followed
to its end.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np

from pvlock.trace.columns import (
    Bools,
    Ints,
    distinct,
    expand,
    keys,
    last_at,
    pick,
    reach,
    starts,
    stops,
)
from pvlock.trace.lives import Lives, State
from pvlock.trace.queues import Queues
from pvlock.trace.waits import Intervals, Pairing

_MOST_LINKS = 8
"""How long a chain is followed. VCPUs that wait for each other in a circle have no end."""


class Part(IntEnum):
    """What a part of a wait is put down to."""

    OWN_PREEMPTED = 0
    OWN_BLOCKED = 1
    OWNER_RUNNING = 2
    OWNER_PREEMPTED = 3
    OWNER_BLOCKED = 4
    QUEUE_PREEMPTED = 5
    QUEUE_BLOCKED = 6
    NO_OWNER = 7
    UNKNOWN = 8


class _Level(IntEnum):
    UNKNOWN = 0
    OWNER_PREEMPTED = 1
    OWNER_BLOCKED = 2
    QUEUE_PREEMPTED = 3
    QUEUE_BLOCKED = 4
    OWNER_RUNNING = 5


_PART_OF = np.array(
    [
        Part.UNKNOWN,
        Part.OWNER_PREEMPTED,
        Part.OWNER_BLOCKED,
        Part.QUEUE_PREEMPTED,
        Part.QUEUE_BLOCKED,
        Part.OWNER_RUNNING,
    ],
    np.int8,
)
_OWNER_LEVEL = np.array(
    [_Level.OWNER_RUNNING, _Level.OWNER_PREEMPTED, _Level.OWNER_BLOCKED], np.int8
)
_QUEUE_LEVEL = np.array([-1, _Level.QUEUE_PREEMPTED, _Level.QUEUE_BLOCKED], np.int8)


@dataclass
class Segments:
    """Stretches of a view, [first, last), in which one VCPU answers for it; all views, in order.

    `owner` is who has the lock (or is the head of its queue). At the end of the chain of `links`
    more waits, `vcpu` answers, which has `lock`, or is the head of its queue; -1 for nobody.
    `switch` is the schedule event that took the CPU of `vcpu`, if it has none. `link` is the view
    that `vcpu` waits for: -1, but within this module.
    """

    view: Ints
    first: Ints
    last: Ints
    owner: Ints
    vcpu: Ints
    lock: Ints
    part: Ints
    switch: Ints
    links: Ints
    link: Ints

    def take(self, which: Ints | Bools) -> Self:
        """Return some of them."""
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.first)


@dataclass
class _Claims:
    view: Ints
    first: Ints
    last: Ints
    level: Ints
    vcpu: Ints
    switch: Ints
    link: Ints

    def take(self, which: Ints | Bools) -> Self:
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))


def segments(pairing: Pairing, queue: Queues, life: Lives) -> tuple[Segments, int]:
    """Return the segments of all views that somebody waits for, and how many chains have no end."""
    span, locks = pairing.span, len(pairing.locks)
    queued = np.zeros(locks, bool)
    queued[queue.places.lock] = True
    holds = pairing.holds.take(_wanted(pairing.holds, pairing.waits, span))
    doubt = pairing.unknown
    nobody = np.full(len(doubt), -1, np.int32)
    level = np.full(len(doubt), _Level.UNKNOWN, np.int8)
    unknown = _Claims(doubt.lock, doubt.first, doubt.last, level, nobody, nobody, nobody)
    plain = _joined([_owners(holds, pairing.waits, life, locks), unknown])
    second = plain.take(queued[plain.view])
    second.view = second.view + locks
    claims = _joined([plain, second, _heads(pairing.holds, queue, life, locks)])
    views = np.append(distinct(pairing.waits.lock), np.flatnonzero(queued) + locks)
    del plain, second, holds
    return _follow(_overlay(claims, views, locks, span), span)


def _wanted(holds: Intervals, waits: Intervals, span: int) -> Bools:
    """Return during which holds anybody waited for the lock."""
    order = np.argsort(begins := keys(waits.lock, span, waits.first), kind="stable")
    begins = begins[order]
    furthest = reach(begins, waits.last[order], span)
    before = last_at(begins, keys(holds.lock, span, holds.last) - 1)
    same = pick(begins, before, -1) >= keys(holds.lock, span)
    result: Bools = same & (pick(furthest, before, -1) > holds.first)
    return result


def _pieces(of: Intervals, life: Lives) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut intervals where the lives of their VCPUs change: which, piece, first and last of each."""
    start = life.at(of.vcpu, of.first)
    end = np.where(of.last > of.first, life.until(of.vcpu, of.last), start)
    which, piece = expand(start, end)
    first = np.maximum(of.first[which], life.first[piece])
    return which, piece, first, np.minimum(of.last[which], life.last[piece])


def _owners(holds: Intervals, waits: Intervals, life: Lives, locks: int) -> _Claims:
    which, piece, first, last = _pieces(holds, life)
    state, lock, view = life.state[piece], holds.lock[which], life.view[piece]
    # A wait keeps its VCPU from releasing what it had before. What it took since then, as a lock
    # around the list of waiters, it took to get on with waiting.
    had_before = holds.first[which] < pick(waits.first, life.wait[piece], -1)
    elsewhere = life.waiting[piece] & (view >= 0) & (view % max(locks, 1) != lock) & had_before
    link = np.where(elsewhere, view, -1)
    switch = np.where(state == State.RUNNING, -1, life.switch[piece])
    # What goes on as it was is one claim: the oldest counts.
    goes_on = (which[1:] == which[:-1]) & (link[1:] == link[:-1]) & (switch[1:] == switch[:-1])
    begins = starts(len(which), goes_on)
    vcpu, level = holds.vcpu[which], _OWNER_LEVEL[state]
    claims = _Claims(lock, first, last, level, vcpu, switch, link).take(begins)
    claims.last = last[stops(len(which), goes_on)]
    return claims


def _heads(holds: Intervals, queue: Queues, life: Lives, locks: int) -> _Claims:
    """Return when the head of a queue was off its CPU although the lock had come free for it."""
    span, places = life.span, queue.places
    order = np.argsort(begins := keys(holds.lock, span, holds.first), kind="stable")
    begins = begins[order]
    furthest = reach(begins, holds.last[order], span)
    before = last_at(begins, keys(places.lock, span, queue.head))
    same = pick(begins, before, -1) >= keys(places.lock, span)
    free = np.where(same, np.maximum(pick(furthest, before, -1), queue.head), queue.head)
    late = Intervals(places.vcpu, places.lock, free.astype(np.int32), places.last)
    which, piece, first, last = _pieces(late, life)
    level = _QUEUE_LEVEL[life.state[piece]]
    nothing = np.full(len(which), -1, np.int32)
    view = late.lock[which] + locks
    claims = _Claims(view, first, last, level, late.vcpu[which], life.switch[piece], nothing)
    return claims.take(level >= 0)


def _joined(parts: list[_Claims]) -> _Claims:
    return _Claims(
        *(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(_Claims))
    )


def _overlay(claims: _Claims, views: Ints, locks: int, span: int) -> Segments:
    """Return for each view who answers from the first event to the last, one VCPU at a time."""
    claims = claims.take(claims.last > claims.first)
    begin, end = keys(claims.view, span, claims.first), keys(claims.view, span, claims.last)
    bounds = distinct(np.concatenate([views * span, begin, end]))
    # An end at the end of the table begins nothing.
    bounds = bounds[bounds % span < span - 1]
    start, stop = (np.searchsorted(bounds, key).astype(np.int32) for key in (begin, end))
    del begin, end
    winner = np.full(len(bounds), -1, np.int32)
    for level in reversed(_Level):
        mine = np.flatnonzero(claims.level == level)
        mine = mine[np.argsort(start[mine], kind="stable")]
        # The oldest counts, so each has what those before it have left.
        earlier = np.append(0, np.maximum.accumulate(stop[mine]))[:-1]
        which, cell = expand(np.maximum(start[mine], earlier), stop[mine])
        winner[cell] = mine[which]
    view = (bounds // span).astype(np.int32)
    first = (bounds - keys(view, span)).astype(np.int32)
    last = np.append(first[1:], 0)[: len(first)]
    last[stops(len(first), view[1:] == view[:-1])] = span - 1
    vcpu = pick(claims.vcpu, winner, -1)
    del start, stop, bounds
    return Segments(
        view=view,
        first=first,
        last=last,
        owner=vcpu,
        vcpu=vcpu.copy(),
        lock=view % max(locks, 1),
        part=pick(_PART_OF[claims.level], winner, Part.NO_OWNER),
        switch=pick(claims.switch, winner, -1),
        links=np.zeros(len(view), np.int16),
        link=pick(claims.link, winner, -1),
    )


def _follow(found: Segments, span: int) -> tuple[Segments, int]:
    """Put, for each segment with a link, the segments of the view that it leads to."""
    for _ in range(_MOST_LINKS):
        away = np.flatnonzero(found.link >= 0)
        if not len(away):
            break
        begins = keys(found.view, span, found.first)
        target = np.arange(len(found), dtype=np.int32)
        stop = target + 1
        link = found.link[away]
        target[away] = last_at(begins, keys(link, span, found.first[away]))
        stop[away] = np.searchsorted(begins, keys(link, span, found.last[away]))
        which, target = expand(target, stop)
        new, moved = found.take(target), which != target
        old = which[moved]
        new.view[moved], new.owner[moved] = found.view[old], found.owner[old]
        new.first[moved] = np.maximum(found.first[old], new.first[moved])
        new.last[moved] = np.minimum(found.last[old], new.last[moved])
        new.links[moved] += found.links[old] + np.int16(1)
        found = new
    endless = found.link >= 0
    found.part[endless] = Part.UNKNOWN
    found.vcpu[endless] = found.switch[endless] = found.link[endless] = -1
    return found, int(np.count_nonzero(endless))
