# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of each VCPU: pieces in which it is in one state and waits for one thing.

A piece begins with every event that changes either. What a VCPU waits for is its innermost wait. It
waits in the lock's queue until it is the head of it, then, or without a queue, for the lock itself.
These are the two `views` of a lock: view `lock` is what its owners do; view `lock` + the number of
locks is what its owners and the head of its queue do.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pvlock.trace.columns import (
    Bools,
    Ints,
    distinct,
    fill,
    keys,
    last_at,
    pick,
    stable_order,
    sums,
)
from pvlock.trace.events import Events, Kind
from pvlock.trace.queues import Queues
from pvlock.trace.waits import Pairing

_DEEPEST = 8
"""Waits inside one another; no lock needs more, and what is deeper counts as unknown."""


class State(IntEnum):
    """What a VCPU does, as the host sees it."""

    RUNNING = 0
    PREEMPTED = 1
    """It could run and has no CPU."""
    BLOCKED = 2
    """It waits for an interrupt, or is off."""


_STATE_OF = {
    Kind.SCHED_IN: State.RUNNING,
    Kind.PREEMPTED: State.PREEMPTED,
    Kind.BLOCKED: State.BLOCKED,
    Kind.OFF: State.BLOCKED,
    Kind.READY: State.PREEMPTED,
}

NOTHING = -1
GRANTED = -2
"""Instead of a view: the lock is this VCPU's already."""


@dataclass
class Lives:
    """Pieces of the lives of all VCPUs, by VCPU and time: [first, last) and what is in them.

    `key` is VCPU * span + first. `switch` is the last schedule event of the VCPU up to there, or
    NOTHING. `wait` is the innermost wait, or NOTHING. `view` is what it waits for. `waiting`: it
    waits for somebody else, awake, or `asleep` for that. `bounds`: where each VCPU's pieces begin.
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
        """Return the piece of each VCPU that a position is in; the last one at the very end."""
        result: Ints = self.bounds[vcpu + 1] - 1
        inside = np.flatnonzero(position < self.span - 1)
        result[inside] = self._piece_of[position[inside]]
        inside = inside[self._vcpu_of[position[inside]] != vcpu[inside]]
        wanted = keys(vcpu[inside], self.span, position[inside])
        result[inside] = last_at(self.key, wanted)
        return result

    def until(self, vcpu: Ints, position: Ints) -> Ints:
        """Return the end of the pieces of each VCPU that begin before a position."""
        piece = self.at(vcpu, position)
        result: Ints = piece + (self.first[piece] < position)
        return result


def lives(events: Events, pairing: Pairing, queue: Queues) -> Lives:
    """Return the pieces of all VCPUs' lives, each from the beginning to the end of the table."""
    span, waits, stages = pairing.span, pairing.waits, pairing.stages
    sched = np.flatnonzero(events.kind <= Kind.READY).astype(np.int32)
    sleep = np.flatnonzero(_is_sleep(events)).astype(np.int32)
    closed = waits.last < span - 1
    ends = waits.last[closed]
    key, bounds, piece_of = _pieces(events, pairing, queue, [sched, sleep, ends, stages.first])
    size, origins = len(key), bounds[:-1]
    kinds = np.full(256, State.BLOCKED, np.int8)
    kinds[list(_STATE_OF)] = list(_STATE_OF.values())
    number = np.arange(len(sched), dtype=np.int32)
    number = fill(size, piece_of[sched], number, origins, NOTHING)
    switch = pick(sched, number, NOTHING)
    state = pick(kinds[events.kind[sched]], number, State.BLOCKED)
    awake = np.append(stages.first, ends)
    asleep = fill(
        size,
        piece_of[np.append(sleep, awake)],
        np.append(events.kind[sleep] == Kind.SLEPT, np.zeros(len(awake), bool)),
        origins,
        False,
    ).astype(bool)
    outer = _stage_after(pairing)[closed]
    number = np.arange(len(stages.first), dtype=np.int32)
    places = piece_of[np.append(stages.first, ends)]
    stage = fill(size, places, np.append(number, outer), origins, NOTHING)
    first = (key % span).astype(np.int32)
    last = np.append(first[1:], 0)[:size]
    last[bounds[1:] - 1] = span - 1
    some = np.flatnonzero(stage >= 0)
    wait, view = (np.full(size, NOTHING, np.int32) for _ in range(2))
    wait[some] = mine = stages.wait[stage[some]]
    lock = waits.lock[mine]
    behind = first[some] < queue.behind[stage[some]]
    wanted = np.where(behind, lock + len(pairing.locks), lock)
    view[some] = np.where(first[some] >= pairing.granted[mine], GRANTED, wanted)
    running, blocked = state == State.RUNNING, state == State.BLOCKED
    waiting = (wait >= 0) & (running | (asleep & blocked))
    asleep &= waiting
    return Lives(
        span, key, first, last, state, switch, wait, view, waiting, asleep, bounds, events.vcpu,
        piece_of,
    )  # fmt: skip


def _is_sleep(events: Events) -> Bools:
    kind = events.kind
    result: Bools = (kind == Kind.SLEPT) | (kind == Kind.WOKEN) | (kind == Kind.LOST)
    return result


def _pieces(
    events: Events, pairing: Pairing, queue: Queues, own: list[Ints]
) -> tuple[Ints, Ints, Ints]:
    """Return the keys of all pieces, where each VCPU's begin, and which piece each event is in.

    `own` are the events that begin pieces of their VCPUs' lives. Being granted a lock, and becoming
    the head of a queue, are events of others.
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
    # A VCPU that grants itself a lock, or begins with the table, is there already.
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
    """Return, by wait, the stage of the wait around it that goes on when it ends, or NOTHING."""
    waits, stages, span = pairing.waits, pairing.stages, pairing.span
    result = np.full(len(waits), NOTHING, np.int32)
    begin, end = (keys(waits.vcpu, span, position) for position in (waits.first, waits.last))
    order = np.argsort(begin, kind="stable")
    # How many waits of the VCPU are open when each begins: those before it less those ended.
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
