# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims: each says that, while it lasts, a view cannot be had because of one VCPU.

An owner of a lock makes a claim on both views of the lock. The head of a queue makes one on the
queue's view, while it is off its CPU although the lock has come free for it. A doubt about who owns
the lock is a claim of nobody.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np

from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.attribution.lives import Lives, State
from pvlock.trace.attribution.pairing import Pairing
from pvlock.trace.attribution.queues import Queues
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


class Level(IntEnum):
    """What a claim says of its VCPU. Of several claims at an instant the lowest level counts."""

    UNKNOWN = 0
    OWNER_PREEMPTED = 1
    OWNER_QUEUED = 2
    OWNER_BLOCKED = 3
    QUEUE_PREEMPTED = 4
    QUEUE_QUEUED = 5
    QUEUE_BLOCKED = 6
    OWNER_RUNNING = 7


_OWNER_LEVEL = np.array(
    [Level.OWNER_RUNNING, Level.OWNER_PREEMPTED, Level.OWNER_BLOCKED, Level.OWNER_QUEUED], np.int8
)  # by State
_QUEUE_LEVEL = np.array(
    [-1, Level.QUEUE_PREEMPTED, Level.QUEUE_BLOCKED, Level.QUEUE_QUEUED], np.int8
)
"""By State as well. A head that runs makes no claim."""


@dataclass
class Claims:
    """Claims on views, each for [first, last), by VCPU `vcpu`, or by nobody (-1).

    `switch` is the position of the schedule event with which `vcpu` came into its state off its
    CPU, or -1 if it runs, or never ran. `link` is the view that `vcpu` waits for itself, or -1.
    """

    view: Ints
    first: Ints
    last: Ints
    level: Ints
    vcpu: Ints
    switch: Ints
    link: Ints

    def take(self, which: Ints | Bools) -> Self:
        """Return some of the claims: those at these places, or those marked True."""
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))


def find_claims(pairing: Pairing, queue: Queues, life: Lives) -> tuple[Claims, Ints]:
    """Return all claims, and the views that a VCPU waits for at any time."""
    locks = len(pairing.locks)
    queued = np.zeros(locks, bool)
    queued[queue.places.lock] = True
    wanted = _wanted(pairing.holds, pairing.waits, pairing.span)
    owners = _owners(
        pairing.holds.take(wanted), pairing.standing[wanted], pairing.waits, life, locks
    )
    plain = _joined([owners, _doubts(pairing.unknown)])
    second = plain.take(queued[plain.view])
    second.view = second.view + locks
    claims = _joined([plain, second, _heads(pairing.holds, queue, life, locks)])
    views = np.append(distinct(pairing.waits.lock), np.flatnonzero(queued) + locks)
    return claims, views


def _wanted(holds: Intervals, waits: Intervals, span: int) -> Bools:
    """Return the holds during which a VCPU waited for the lock."""
    order = np.argsort(begins := keys(waits.lock, span, waits.first), kind="stable")
    begins = begins[order]
    furthest = reach(begins, waits.last[order], span)
    before = last_at(begins, keys(holds.lock, span, holds.last) - 1)
    same = pick(begins, before, -1) >= keys(holds.lock, span)
    result: Bools = same & (pick(furthest, before, -1) > holds.first)
    return result


def _pieces(of: Intervals, life: Lives) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut intervals at the ends of their VCPUs' pieces.

    Return, for each of the resulting intervals, the number of the interval that it was cut from,
    the piece that it is in, and its first and last position.
    """
    start = life.at(of.vcpu, of.first)
    end = np.where(of.last > of.first, life.until(of.vcpu, of.last), start)
    which, piece = expand(start, end)
    first = np.maximum(of.first[which], life.first[piece])
    return which, piece, first, np.minimum(of.last[which], life.last[piece])


def _owners(holds: Intervals, standing: Bools, waits: Intervals, life: Lives, locks: int) -> Claims:
    """Return the claims of the owners on the first view of their locks."""
    which, piece, first, last = _pieces(holds, life)
    state, lock, view = life.state[piece], holds.lock[which], life.view[piece]
    # A VCPU that waits cannot release the locks that it took before the wait. A lock that it took
    # since, as the one around the list of waiters, it took to get on with waiting. But a place in a
    # queue it keeps for as long as it waits.
    had_before = holds.first[which] < pick(waits.first, life.wait[piece], -1)
    had_before |= standing[which]
    elsewhere = life.waiting[piece] & (view >= 0) & (view % max(locks, 1) != lock) & had_before
    link = np.where(elsewhere, view, -1)
    switch = np.where(state == State.RUNNING, -1, life.switch[piece])
    # Pieces that do not change the claim make one claim: of equal claims, the oldest counts.
    goes_on = (which[1:] == which[:-1]) & (link[1:] == link[:-1]) & (switch[1:] == switch[:-1])
    begins = starts(len(which), goes_on)
    vcpu, level = holds.vcpu[which], _OWNER_LEVEL[state]
    claims = Claims(lock, first, last, level, vcpu, switch, link).take(begins)
    claims.last = last[stops(len(which), goes_on)]
    return claims


def _doubts(unknown: Intervals) -> Claims:
    """Return the claims of nobody, on the first view of the locks."""
    nobody = np.full(len(unknown), -1, np.int32)
    level = np.full(len(unknown), Level.UNKNOWN, np.int8)
    return Claims(unknown.lock, unknown.first, unknown.last, level, nobody, nobody, nobody)


def _heads(holds: Intervals, queue: Queues, life: Lives, locks: int) -> Claims:
    """Return the claims of the heads of queues, on the second view of the locks."""
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
    claims = Claims(view, first, last, level, late.vcpu[which], life.switch[piece], nothing)
    return claims.take(level >= 0)


def _joined(parts: list[Claims]) -> Claims:
    return Claims(
        *(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Claims))
    )
