# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairing: what the guest's lock events say about who waited and who owned, put together.

Of each VCPU and lock the events must come as pvlock.trace.events says. Guests have bugs, rings
overflow, and a guest may write anything: events that do not fit make no wait and are counted. Where
they leave it open who owned a lock, that time is unknown, and nothing is guessed.
"""

from dataclasses import dataclass

import numpy as np

from pvlock.errors import TraceError
from pvlock.trace.attribution.gaps import Gaps
from pvlock.trace.attribution.grants import find_grants
from pvlock.trace.attribution.histories import USED, histories
from pvlock.trace.attribution.holds import find_holds
from pvlock.trace.attribution.intervals import Intervals, joined
from pvlock.trace.attribution.waits import Stages, find_waits
from pvlock.trace.columns import MOST_VCPUS, Bools, Ints, among, distinct
from pvlock.trace.events import Events, Flag, Kind


@dataclass
class Pairing:
    """Who waited and who owned, by the events.

    `span` is greater than every position. `time` has the ns of each position, the end of the table
    included. `locks` are the locks' addresses; elsewhere a lock is its place in this list.
    `granted` has, for each wait, the position from which on the waiter owned the lock. `shared`
    marks the waits of readers. `acquired` counts the acquisitions of each lock. `unknown` are the
    intervals in which nobody can say who owned the lock. `standing` marks the holds of locks that
    their owners took in order to wait for another (Flag.STANDING). `cut` counts waits and holds in
    which events were lost, `unmatched` those that have events that do not fit.
    """

    span: int
    time: Ints
    locks: list[int]
    waits: Intervals
    granted: Ints
    shared: Bools
    stages: Stages
    holds: Intervals
    standing: Bools
    acquired: Ints
    unknown: Intervals
    cut: int
    unmatched: int


def pair(events: Events) -> Pairing:
    """Find the waits and the holds in `events`. Raises TraceError for a broken table."""
    _check(events)
    used = np.flatnonzero(among(events.kind, *USED))
    grants = np.flatnonzero(among(events.kind, Kind.GRANTED))
    objects = events.object[np.append(used, grants)]
    addresses = distinct(objects)
    lock = np.searchsorted(addresses, objects).astype(np.int32)
    time = np.append(events.time, int(events.time.max(initial=events.end)))
    gaps = Gaps(events)
    past = histories(events, used, lock[: len(used)], len(addresses), gaps)
    waited = find_waits(events, past)
    granted, stray_grants = find_grants(events, waited.waits, grants, lock[len(used) :], time)
    held = find_holds(events, past, gaps, waited, granted, time)
    return Pairing(
        span=len(events) + 1,
        time=time,
        locks=[int(address) for address in addresses],
        waits=waited.waits,
        granted=granted,
        shared=waited.shared,
        stages=waited.stages,
        holds=held.holds,
        standing=(events.flags[held.holds.first] & Flag.STANDING) != 0,
        acquired=np.bincount(past.lock[past.kind == Kind.ACQUIRED], minlength=len(addresses)),
        unknown=joined([held.doubts, gaps.by_lock(past.vcpu, past.lock, len(addresses))]),
        cut=waited.cut + held.cut,
        unmatched=waited.unmatched + stray_grants + held.unmatched,
    )


def _check(events: Events) -> None:
    if events.vcpus > MOST_VCPUS:
        raise TraceError(f"{events.vcpus:,} VCPUs are more than {MOST_VCPUS:,}")
    if len(events) and not 0 <= int(events.vcpu.min()) <= int(events.vcpu.max()) < events.vcpus:
        raise TraceError(f"an event is of a VCPU that is none of the {events.vcpus}")
    if len(events) and bool((np.diff(events.time) < 0).any()):
        raise TraceError("the events are not in the order of their times")
