# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits, from CONTENDED to ACQUIRED, and their stages, from one CONTENDED to the next."""

from dataclasses import dataclass

import numpy as np

from pvlock.trace.attribution.histories import NONE, Histories
from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.columns import Bools, Ints
from pvlock.trace.events import Events, Flag, Kind


@dataclass
class Stages:
    """Stages [first, last) of the waits, in the order of the waits, and of each wait by time.

    `wait` is the number of the wait that a stage belongs to. `other` is the VCPU that stood before
    the waiter in the lock's queue, by the CONTENDED event; -1 where that named none.
    """

    wait: Ints
    first: Ints
    last: Ints
    other: Ints


@dataclass
class WaitsFound:
    """The waits of all histories, by lock, VCPU and time.

    `shared` marks the waits of readers. `cut` is the number of waits that are left out because
    events were lost in them, `unmatched` that of waits that do not end as waits do.
    """

    waits: Intervals
    shared: Bools
    stages: Stages
    cut: int
    unmatched: int


def find_waits(events: Events, past: Histories) -> WaitsFound:
    """Find all waits: runs of CONTENDED before an ACQUIRED, an ABANDONED, or the end of the run."""
    at = np.flatnonzero(past.kind == Kind.CONTENDED)
    first = past.previous[at] != Kind.CONTENDED
    number = np.cumsum(first, dtype=np.int32) - 1
    start, final = at[first], at[np.append(first[1:], True)[: len(at)]]
    fits = np.isin(past.next_kind[final], (Kind.ACQUIRED, Kind.ABANDONED, NONE)) & ~past.cut[final]
    waits = Intervals(past.vcpu[start], past.lock[start], past.at[start], past.next_at[final])
    kept = fits[number]
    stages = Stages(
        wait=(np.cumsum(fits, dtype=np.int32) - 1)[number[kept]],
        first=past.at[at][kept],
        last=past.next_at[at][kept],
        other=events.other[past.at[at][kept]],
    )
    shared = (events.flags[past.at[start]] & Flag.SHARED).astype(bool)
    cut = int(np.count_nonzero(past.cut[final]))
    unmatched = int(np.count_nonzero(~fits)) - cut
    return WaitsFound(waits.take(fits), shared[fits], stages, cut, unmatched)
