# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of each VCPU, cut into pieces in which it is in one state and waits for one view.

A piece begins with every event that changes the state or the view. A VCPU in several waits, one
inside another, waits for the lock of the innermost. A lock has two views, since two sets of VCPUs
can stand between a waiter and the lock:

- The owners alone. View number `lock`, for a waiter without a queue, and for the head of one.
- The owners, and the head of the queue. View number `lock` + the number of locks, for a waiter that
  has others before it in the queue.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.attribution.pairing import Pairing
from pvlock.trace.attribution.queues import Queues
from pvlock.trace.columns import (
    Bools,
    Ints,
    among,
    distinct,
    fill,
    keys,
    last_at,
    pick,
    stable_order,
    sums,
)
from pvlock.trace.events import Events, Flag, Kind

_DEEPEST = 8
"""How many waits may be inside one another. No lock needs more; deeper ones count as unknown."""


class State(IntEnum):
    """What a VCPU does, as the host sees it."""

    RUNNING = 0
    PREEMPTED = 1
    """The VCPU could run and has no CPU."""
    BLOCKED = 2
    """The VCPU waits for an interrupt, or is off; the task sleeps."""
    QUEUED = 3
    """The task could run and has no VCPU."""


_STATE_OF = {
    Kind.SCHED_IN: State.RUNNING,
    Kind.PREEMPTED: State.PREEMPTED,
    Kind.BLOCKED: State.BLOCKED,
    Kind.OFF: State.BLOCKED,
    Kind.READY: State.PREEMPTED,
}

NOTHING = -1
"""Stands for a view, a wait or an event where there is none."""
GRANTED = -2
"""Stands for a view where the lock that the VCPU waits for is its own already."""


@dataclass
class Lives:
    """The pieces [first, last) of the lives of all VCPUs, by VCPU and time.

    `key` is VCPU * span + first. `switch` is the position of the VCPU's latest schedule event, or
    NOTHING. `wait` is the number of its innermost wait, or NOTHING; `view` is what it waits for,
    GRANTED, or NOTHING. `waiting` marks the pieces in which the VCPU waits for a lock on a CPU, or
    asleep; `asleep` marks those in which it went to sleep for the lock. `bounds` has, for each
    VCPU, the number of its first piece, and last the number of all pieces.
    """

    span: int
    key: Ints
    first: Ints
    last: Ints
    state: NDArray[np.int8]
    switch: Ints
    wait: Ints
    view: Ints
    waiting: Bools
    asleep: Bools
    bounds: Ints
    _vcpu_of: Ints
    _piece_of: Ints

    def at(self, vcpu: Ints, position: Ints) -> Ints:
        """Return, for each VCPU, its piece that a position is in; its last at the table's end."""
        result: Ints = self.bounds[vcpu + 1] - 1
        inside = np.flatnonzero(position < self.span - 1)
        result[inside] = self._piece_of[position[inside]]
        inside = inside[self._vcpu_of[position[inside]] != vcpu[inside]]
        wanted = keys(vcpu[inside], self.span, position[inside])
        result[inside] = last_at(self.key, wanted)
        return result

    def until(self, vcpu: Ints, position: Ints) -> Ints:
        """Return, for each VCPU, the number after its last piece that begins before a position."""
        piece = self.at(vcpu, position)
        result: Ints = piece + (self.first[piece] < position)
        return result


def lives(events: Events, pairing: Pairing, queue: Queues) -> Lives:
    """Cut the life of every VCPU, from the beginning to the end of the table, into pieces."""
    span, waits, stages = pairing.span, pairing.waits, pairing.stages
    sched = np.flatnonzero(events.kind <= Kind.READY).astype(np.int32)
    sleep = np.flatnonzero(among(events.kind, Kind.SLEPT, Kind.WOKEN, Kind.LOST)).astype(np.int32)
    closed = waits.last < span - 1
    ends = waits.last[closed]
    key, bounds, piece_of = _pieces(events, pairing, queue, [sched, sleep, ends, stages.first])
    size, origins = len(key), bounds[:-1]
    # A VCPU that has had no schedule event yet is blocked.
    kinds = np.full(256, State.BLOCKED, np.int8)
    kinds[list(_STATE_OF)] = list(_STATE_OF.values())
    number = np.arange(len(sched), dtype=np.int32)
    number = fill(size, piece_of[sched], number, origins, NOTHING)
    switch = pick(sched, number, NOTHING)
    states = kinds[events.kind[sched]]
    of_guest = (events.flags[sched] & Flag.GUEST) != 0
    states[of_guest & (states == State.PREEMPTED)] = State.QUEUED
    state = pick(states, number, State.BLOCKED)
    # A VCPU is asleep from SLEPT on, to WOKEN, LOST, its next stage, or the end of a wait.
    awake = np.append(stages.first, ends)
    slept = np.append(events.kind[sleep] == Kind.SLEPT, np.zeros(len(awake), bool))
    asleep = fill(size, piece_of[np.append(sleep, awake)], slept, origins, False).astype(bool)
    # After a wait inside another, the stage around it goes on.
    number = np.append(np.arange(len(stages.first), dtype=np.int32), _stage_after(pairing)[closed])
    stage = fill(size, piece_of[np.append(stages.first, ends)], number, origins, NOTHING)
    first = (key % span).astype(np.int32)
    last = np.append(first[1:], 0)[:size]
    last[bounds[1:] - 1] = span - 1
    wait, view = _views(pairing, queue, first, stage)
    running, blocked = state == State.RUNNING, state == State.BLOCKED
    waiting = (wait >= 0) & (running | (asleep & blocked))
    asleep &= waiting
    return Lives(
        span, key, first, last, state, switch, wait, view, waiting, asleep, bounds, events.vcpu,
        piece_of,
    )  # fmt: skip


def _views(pairing: Pairing, queue: Queues, first: Ints, stage: Ints) -> tuple[Ints, Ints]:
    """Return the wait and the view of each piece, which begins at `first` and is in `stage`."""
    wait, view = (np.full(len(first), NOTHING, np.int32) for _ in range(2))
    some = np.flatnonzero(stage >= 0)
    wait[some] = mine = pairing.stages.wait[stage[some]]
    lock = pairing.waits.lock[mine]
    queued = first[some] < queue.queued_until[stage[some]]
    wanted = np.where(queued, lock + len(pairing.locks), lock)
    view[some] = np.where(first[some] >= pairing.granted[mine], GRANTED, wanted)
    return wait, view


def _pieces(
    events: Events, pairing: Pairing, queue: Queues, own: list[Ints]
) -> tuple[Ints, Ints, Ints]:
    """Return the keys of all pieces, their bounds by VCPU, and which piece each event is in.

    A piece begins with each of the VCPU's `own` events, and where another VCPU's event grants it a
    lock or makes it the head of a queue.
    """
    span, waits, count = pairing.span, pairing.waits, len(events)
    granted = np.flatnonzero(pairing.granted < waits.last)
    head = (queue.head > queue.places.first) & (queue.head < queue.places.last)
    begins = np.zeros(count, bool)
    for positions in own:
        begins[positions] = True
    order = stable_order(events.vcpu, events.vcpus)
    begins = begins[order]
    every = keys(events.vcpu[order], span, order)
    others = [
        np.arange(events.vcpus, dtype=np.int64) * span,
        keys(waits.vcpu[granted], span, pairing.granted[granted]),
        keys(queue.places.vcpu[head], span, queue.head[head]),
    ]
    foreign = distinct(np.concatenate(others))
    at = np.searchsorted(every, foreign)
    # Where an own event of the VCPU has the same position, that event begins the piece already.
    inside = np.flatnonzero(at < count)
    inside = inside[(every[at[inside]] == foreign[inside]) & begins[at[inside]]]
    foreign, at = np.delete(foreign, inside), np.delete(at, inside)
    so_far = sums(begins)
    inserted = np.bincount(at, minlength=count + 1)[:count]
    piece_of = np.empty(count, np.int32)
    piece_of[order] = so_far[1:] + np.cumsum(inserted) - 1
    key = np.empty(int(so_far[-1]) + len(foreign), np.int64)
    mine = np.ones(len(key), bool)
    places = so_far[at] + np.arange(len(at))
    mine[places] = False
    key[places], key[mine] = foreign, every[begins]
    bounds = np.searchsorted(key, np.arange(events.vcpus + 1) * span).astype(np.int32)
    return key, bounds, piece_of


def _stage_after(pairing: Pairing) -> Ints:
    """Return, for each wait inside another, the other's stage that goes on after it, or NOTHING."""
    waits, stages, span = pairing.waits, pairing.stages, pairing.span
    result = np.full(len(waits), NOTHING, np.int32)
    begin, end = (keys(waits.vcpu, span, position) for position in (waits.first, waits.last))
    order = np.argsort(begin, kind="stable")
    # The depth of a wait: how many of its VCPU's waits began before it and have not ended.
    depth = np.empty(len(waits), np.int64)
    depth[order] = np.arange(len(waits)) - np.searchsorted(np.sort(end), begin[order])
    level = order[depth[order] == 0]
    for number in range(1, min(int(depth.max(initial=0)), _DEEPEST) + 1):
        inner = order[depth[order] == number]
        around = level[last_at(begin[level], begin[inner])]
        within = (waits.vcpu[around] == waits.vcpu[inner]) & (end[around] >= end[inner])
        stage_key = keys(stages.wait, span, stages.first)
        wanted = keys(around[within], span, waits.last[inner[within]])
        result[inner[within]] = last_at(stage_key, wanted)
        level = inner
    return result
