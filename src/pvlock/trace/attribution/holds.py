# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds, in which a VCPU owns a lock: from its ACQUIRED, or from GRANTED by another, to RELEASED.

Where the events leave it open whether a VCPU owned a lock, that time becomes a doubt.
"""

from dataclasses import dataclass

import numpy as np

from pvlock.trace.attribution.gaps import Gaps
from pvlock.trace.attribution.histories import NONE, Histories
from pvlock.trace.attribution.intervals import Intervals, joined
from pvlock.trace.attribution.waits import WaitsFound
from pvlock.trace.columns import Bools, Ints, keys, next_at
from pvlock.trace.events import Events, Flag, Kind


@dataclass
class HoldsFound:
    """The holds, and the `doubts`: intervals in which nobody can say who owned the lock.

    Of the intervals that became doubts, events were lost in `cut`, and `unmatched` have events that
    do not fit.
    """

    holds: Intervals
    doubts: Intervals
    cut: int
    unmatched: int


def find_holds(
    events: Events, past: Histories, gaps: Gaps, waited: WaitsFound, granted: Ints, time: Ints
) -> HoldsFound:
    """Find all holds; `granted` is where each waiter came to own the lock."""
    holds, fits, cut = _holds(events, past, waited, granted, time)
    torn = ~fits[: len(cut)]
    unseen = (events.flags[holds.first] & Flag.UNSEEN) != 0
    before, before_cut, before_unmatched = _before_releases(past, gaps)
    return HoldsFound(
        holds=holds.take(fits & ~unseen),
        doubts=joined([holds.take(~fits | unseen), before]),
        cut=before_cut + int(np.count_nonzero(torn & cut)),
        unmatched=before_unmatched + int(np.count_nonzero(torn & ~cut)),
    )


def _holds(
    events: Events, past: Histories, waited: WaitsFound, granted: Ints, time: Ints
) -> tuple[Intervals, Bools, Bools]:
    """Return the holds, which of them end in RELEASED, and in which of them events were lost.

    A hold begins where the VCPU was granted the lock, if it was. Holds that a grant began, and in
    which the run ended before ACQUIRED, come last; the third column does not have them.
    """
    waits = waited.waits
    at = np.flatnonzero(past.kind == Kind.ACQUIRED)
    first = past.at[at].copy()
    closed = waits.last < len(events)
    got = closed.copy()
    got[closed] = events.kind[waits.last[closed]] == Kind.ACQUIRED
    # Both are in the order of locks and VCPUs, and each of these ACQUIRED ends one of those waits.
    first[past.previous[at] == Kind.CONTENDED] = granted[got]
    fits = np.isin(past.next_kind[at], (Kind.RELEASED, NONE)) & ~past.cut[at]
    readers = (events.flags[past.at[at]] & Flag.SHARED).astype(bool)
    given = np.flatnonzero(~closed & (granted < waits.last))
    holds = Intervals(past.vcpu[at], past.lock[at], first, past.next_at[at])
    mine = waits.take(given)
    mine.first = granted[given]
    holds = joined([holds, mine])
    readers = np.append(readers, waited.shared[given])
    _clip(events, holds, readers, time)
    return holds, np.append(fits, np.ones(len(given), bool)), past.cut[at]


def _clip(events: Events, holds: Intervals, readers: Bools, time: Ints) -> None:
    """End each hold where another VCPU took the lock and cannot have shared it.

    RELEASED is recorded after the release, and its VCPU may be preempted before that. Within the
    skew of the clocks, the order of two VCPUs says nothing.
    """
    span, nothing = len(events) + 1, len(events)
    order = np.argsort(begin := keys(holds.lock, span, holds.first), kind="stable")
    first, lock, begin = holds.first[order], holds.lock[order], begin[order]
    # Who ends a hold: the next VCPU that took the lock; for a reader, the next writer.
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


def _before_releases(past: Histories, gaps: Gaps) -> tuple[Intervals, int, int]:
    """Return the doubts before each RELEASED that does not follow an ACQUIRED.

    The VCPU may have owned the lock since it lost events, or since the trace began. Where neither
    explains the RELEASED, it makes no doubt. Also return how many lost events explain, and how many
    of these RELEASED are left.
    """
    at = np.flatnonzero((past.kind == Kind.RELEASED) & (past.previous != Kind.ACQUIRED))
    same = np.append(False, (past.next_at[:-1] == past.at[1:]))[: len(past.at)][at]
    cut = same & (past.previous[at] == NONE)
    first = np.where(same, past.at[at], 0)
    before = past.at[at[cut] - 1]
    first[cut] = np.maximum(gaps.after(past.vcpu[at[cut]], before), before)
    found = Intervals(past.vcpu[at], past.lock[at], first, past.at[at]).take(first < past.at[at])
    count = int(np.count_nonzero(cut))
    return found, count, len(at) - count
