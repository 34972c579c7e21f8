# SPDX-License-Identifier: GPL-2.0-or-later
"""The queues in front of locks: which VCPU has a place in which queue, and who is at the head."""

from dataclasses import dataclass

import numpy as np

from pvlock.trace.attribution.intervals import Intervals
from pvlock.trace.attribution.pairing import Pairing
from pvlock.trace.columns import Bools, Ints, keys, last_at, next_at, pick, reach, starts, stops
from pvlock.trace.events import Events, Kind


@dataclass
class Queues:
    """The places in the locks' queues, by lock, and for each lock in the order of coming.

    `head` has, for each place, the position from which on it is the head of its queue; for a place
    that never is, its `last`. `queued_until` has, for each stage of a wait, the position up to
    which its VCPU waits for its turn in the queue: where its place becomes the head, `span` if it
    never does, and the stage's own `first` if the stage names no VCPU before it.
    """

    places: Intervals
    head: Ints
    queued_until: Ints


def queues(events: Events, pairing: Pairing) -> Queues:
    """Find all places, and when each was the head of its queue.

    A place begins with a stage that names the VCPU before it in the queue, or with one whose VCPU
    is named by another's. It lasts to the end of the wait. But if a VCPU that came later acquired
    the lock first, then this one had given up its place: when it went to sleep, or else when its
    last stage began.

    Of the tasks of a Linux guest more is known: a stage says which place its task has from there
    on, and nobody loses a place by being overtaken.
    """
    stages, span = pairing.stages, pairing.span
    member = _members(events, pairing)
    # From the first member of a wait on, all of its stages are within the place.
    so_far = np.cumsum(member, dtype=np.int32)
    same_wait = stages.wait[1:] == stages.wait[:-1]
    new = starts(len(member), same_wait)
    before = np.maximum.accumulate(np.where(new, so_far - member, 0))
    within = so_far > before
    begins = np.flatnonzero(member & (so_far == before + 1))
    ends = np.flatnonzero(within & stops(len(member), same_wait))
    if events.tasks:
        within, begins, ends = member, np.flatnonzero(member), np.flatnonzero(member)
    waits = pairing.waits.take(stages.wait[begins])
    last = stages.last[begins] if events.tasks else waits.last
    places = Intervals(waits.vcpu, waits.lock, stages.first[begins], last)
    order = np.argsort(coming := keys(places.lock, span, places.first), kind="stable")
    coming, places = coming[order], places.take(order)
    if not events.tasks:
        _give_up(events, pairing, places, stages.first[ends][order])
    # A place is the head once all places that came before it have ended.
    gone = np.append(0, reach(coming, places.last, span)[:-1])[: len(coming)]
    gone[starts(len(coming), places.lock[1:] == places.lock[:-1])] = 0
    head = np.minimum(np.maximum(places.first, gone), places.last).astype(np.int32)
    place_of = np.empty(len(order), np.int32)
    place_of[order] = np.arange(len(order))
    queued_until = stages.first.copy()
    naming = np.flatnonzero(within & (stages.other >= 0))
    mine = place_of[np.searchsorted(begins, naming, "right") - 1]
    queued_until[naming] = np.where(head[mine] < places.last[mine], head[mine], span)
    return Queues(places, head, queued_until)


def _members(events: Events, pairing: Pairing) -> Bools:
    """Return which stages name a VCPU before theirs, or belong to a VCPU that another names."""
    waits, stages, span = pairing.waits, pairing.stages, pairing.span
    member = np.zeros(len(stages.first), bool)
    behind = np.flatnonzero((stages.other >= 0) & (stages.other < events.vcpus))
    if not len(behind):
        return member
    lock = waits.lock[stages.wait]
    # Stages are in the order of locks, VCPUs and time.
    group = keys(lock, events.vcpus, waits.vcpu[stages.wait]) * span
    wanted = keys(lock[behind], events.vcpus, stages.other[behind]) * span
    before = last_at(group + stages.first, wanted + stages.first[behind])
    there = pick(group, before, -1) == wanted
    there &= pick(stages.last, before, -1) > stages.first[behind]
    member[behind] = True
    member[before[there]] = True
    return member


def _give_up(events: Events, pairing: Pairing, places: Intervals, final: Ints) -> None:
    """End the places that were overtaken; `final` has where the last stage of each begins."""
    span, time = pairing.span, pairing.time
    base = keys(places.lock, span)
    out = np.minimum.accumulate((base + places.last)[::-1])[::-1]
    out = np.append(out[1:], np.iinfo(np.int64).max)[: len(base)] - base
    overtaken = np.flatnonzero(out < places.last)
    late = time[places.last[overtaken]] - time[out[overtaken]] > events.skew_ns
    overtaken, final = overtaken[late], final[overtaken[late]]
    slept = np.flatnonzero(events.kind == Kind.SLEPT)
    mine = keys(places.vcpu[overtaken], span)
    sleep = next_at(np.sort(keys(events.vcpu[slept], span, slept)), mine + final) - mine
    last = np.where(sleep < places.last[overtaken], sleep, final)
    places.last[overtaken] = np.maximum(last, places.first[overtaken])
