# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces for tests: tables of events, and a slow attribution with which the fast one is compared.

`reckon` does what pvlock.trace.attribution does, with lists and loops. It goes from event to event
and asks, for every VCPU that waits, the questions of that package in their order. It handles
consistent tables only: those that a correct guest and a lossless ring can make.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pvlock.trace.attribution import Part
from pvlock.trace.events import Events, Flag, Kind

IN, PREEMPTED, BLOCKED, OFF, READY = (
    Kind.SCHED_IN, Kind.PREEMPTED, Kind.BLOCKED, Kind.OFF, Kind.READY,
)  # fmt: skip
CONTENDED, ACQUIRED, RELEASED = Kind.CONTENDED, Kind.ACQUIRED, Kind.RELEASED
SLEPT, WOKEN, LOST, GRANTED = Kind.SLEPT, Kind.WOKEN, Kind.LOST, Kind.GRANTED

Line = tuple[int, int, Kind] | tuple[int, int, Kind, int] | tuple[int, int, Kind, int, int]
"""Time, VCPU, kind; then, for kinds that have them, the lock, and the other VCPU."""


def table(
    lines: Sequence[tuple[int, ...]],
    vcpus: int | None = None,
    end: int | None = None,
    shared: Sequence[int] = (),
    skew_ns: int = 0,
) -> Events:
    """Return the table with these lines; those whose numbers are in `shared` are readers'."""
    full = [(*line, *(0, -1)[len(line) - 3 :]) for line in lines]
    columns = list(zip(*full, strict=True)) or [()] * 5
    flags = np.zeros(len(full), np.uint8)
    flags[list(shared)] = Flag.SHARED
    return Events(
        time=np.array(columns[0], np.int64),
        vcpu=np.array(columns[1], np.int32),
        kind=np.array(columns[2], np.uint8),
        object=np.array(columns[3], np.uint64),
        other=np.array(columns[4], np.int32),
        flags=flags,
        vcpus=max(columns[1], default=0) + 1 if vcpus is None else vcpus,
        pcpus=1,
        start=0,
        end=max(columns[0], default=0) if end is None else end,
        skew_ns=skew_ns,
    )


@dataclass
class Hold:
    """A lock that a VCPU owns, and since which event its `claim` on others' waits is the same."""

    vcpu: int
    first: int
    shared: bool
    claim: object = None
    since: int = -1


@dataclass
class Place:
    """A place in a queue from one event to another; `final` is the first event of its last stage.

    `head` is the event with which it became the head of the queue, or -1.
    """

    vcpu: int
    lock: int
    first: int
    last: int
    final: int = -1
    head: int = -1


@dataclass
class Wait:
    """A wait from one event to another, and how many ns of it are put down to what."""

    vcpu: int
    lock: int
    start: int
    granted: bool = False
    end: int = -1
    parts: dict[Part, int] = field(default_factory=dict)


@dataclass
class Reckoning:
    """All waits in the order in which they began.

    `costs` has what each schedule event cost others, by its position. `by_vcpu` has the parts of
    all waiting of each VCPU. `pairs` is by waiter, VCPU waited for, and part.
    """

    waits: list[Wait]
    costs: dict[int, int]
    by_vcpu: list[dict[Part, int]]
    pairs: dict[tuple[int, int, Part], int]


class _Machine:
    """What is known of all VCPUs, locks and queues after each event."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.state = [BLOCKED] * events.vcpus
        self.switch = [-1] * events.vcpus
        self.asleep = [False] * events.vcpus
        self.open: list[list[Wait]] = [[] for _ in range(events.vcpus)]
        self.owners: dict[int, list[Hold]] = {}
        self.places = _places(events)
        self.heads: dict[int, Place] = {}
        self.before_head: dict[int, list[Hold]] = {}
        self.other: dict[tuple[int, int], int] = {}

    def apply(self, i: int) -> None:
        e = self.events
        v, kind, lock = int(e.vcpu[i]), Kind(e.kind[i]), int(e.object[i])
        shared, mine = bool(e.flags[i] & Flag.SHARED), self.open[v]
        if kind <= READY:
            self.state[v] = {IN: IN, OFF: BLOCKED, READY: PREEMPTED}.get(kind, kind)
            self.switch[v] = i
        elif kind is SLEPT:
            self.asleep[v] = True
        elif kind is WOKEN:
            self.asleep[v] = False
        elif kind is CONTENDED:
            self.asleep[v] = False
            self.other[v, lock] = int(e.other[i])
            if not mine or mine[-1].lock != lock:
                mine.append(Wait(v, lock, i))
        elif kind is ACQUIRED:
            granted = mine and mine[-1].lock == lock and mine[-1].granted
            if mine and mine[-1].lock == lock:
                mine.pop().end = i
                self.asleep[v] = False
            if not granted:
                self.take(lock, Hold(v, i, shared))
        elif kind is RELEASED:
            self.owners[lock] = [h for h in self.owners.get(lock, []) if h.vcpu != v]
        elif kind is GRANTED:
            other = int(e.other[i])
            self.open[other][-1].granted = True
            self.take(lock, Hold(other, i, shared))
        for k in {place.lock for place in self.places}:
            queue = [p for p in self.places if p.lock == k and p.first <= i < p.last]
            if not queue:
                self.heads.pop(k, None)
            elif self.heads.get(k) is not queue[0]:
                self.heads[k] = queue[0]
                queue[0].head = i
                self.before_head[k] = list(self.owners.get(k, []))
        for k, holds in self.owners.items():
            for hold in holds:
                state = self.state[hold.vcpu]
                switch = self.switch[hold.vcpu] if state != IN else -1
                claim = state, switch, self.link(hold, k)
                if claim != hold.claim:
                    hold.claim, hold.since = claim, i

    def take(self, lock: int, hold: Hold) -> None:
        others = self.owners.get(lock, [])
        self.owners[lock] = [h for h in others if hold.shared and h.shared] + [hold]

    def waits_for(self, v: int) -> tuple[int, bool] | None:
        """The lock that a VCPU waits for, awake or asleep, and whether it is still in the queue."""
        if not self.open[v] or self.open[v][-1].granted or self.state[v] == PREEMPTED:
            return None
        if self.state[v] == BLOCKED and not self.asleep[v]:
            return None
        wait = self.open[v][-1]
        been_head = any(
            p.head >= 0 for p in self.places
            if (p.vcpu, p.lock) == (v, wait.lock) and p.first >= wait.start
        )  # fmt: skip
        return wait.lock, self.other[v, wait.lock] >= 0 and not been_head

    def answer(self, lock: int, queued: bool, seen: tuple[object, ...]) -> tuple[Part, int]:
        """The part that a wait for a lock is put down to now, and the VCPU that answers, or -1."""
        if (lock, queued) in seen:
            return Part.UNKNOWN, -1
        seen = (*seen, (lock, queued))

        owners = sorted(self.owners.get(lock, []), key=lambda hold: (hold.since, hold.vcpu))
        for state, part in ((PREEMPTED, Part.OWNER_PREEMPTED), (BLOCKED, Part.OWNER_BLOCKED)):
            for hold in owners:
                if self.state[hold.vcpu] == state:
                    return self.follow(hold, lock, part, seen)
        if queued and lock in self.heads:
            head = self.heads[lock].vcpu
            late = not any(h in self.owners.get(lock, []) for h in self.before_head[lock])
            if late and self.state[head] == PREEMPTED:
                return Part.QUEUE_PREEMPTED, head
            if late and self.state[head] == BLOCKED:
                return Part.QUEUE_BLOCKED, head
        for hold in owners:
            return self.follow(hold, lock, Part.OWNER_RUNNING, seen)
        return Part.NO_OWNER, -1

    def link(self, hold: Hold, lock: int) -> tuple[int, bool] | None:
        """The other lock that an owner waits for, if that keeps it from releasing this one."""
        target = self.waits_for(hold.vcpu)
        if target is None or target[0] == lock:
            return None
        return target if hold.first < self.open[hold.vcpu][-1].start else None

    def follow(
        self, hold: Hold, lock: int, part: Part, seen: tuple[object, ...]
    ) -> tuple[Part, int]:
        target = self.link(hold, lock)
        return self.answer(*target, seen) if target else (part, hold.vcpu)

    def part_of(self, v: int) -> tuple[Part, int]:
        if self.state[v] == PREEMPTED:
            return Part.OWN_PREEMPTED, -1
        if self.state[v] == BLOCKED and not self.asleep[v]:
            return Part.OWN_BLOCKED, -1
        if self.open[v][-1].granted:
            return Part.NO_OWNER, -1
        target = self.waits_for(v)
        assert target is not None
        return self.answer(*target, ())


def _places(events: Events) -> list[Place]:
    """All places in queues, in the order of coming. A place that was overtaken ends early."""
    stages: dict[tuple[int, int], list[int]] = {}
    member: set[int] = set()
    found: list[Place] = []
    end = len(events)
    time = [*map(int, events.time), events.end]

    def close(v: int, lock: int, last: int) -> None:
        mine = stages.pop((v, lock), [])
        of = [i for i, stage in enumerate(mine) if stage in member]
        if of:
            found.append(Place(v, lock, mine[of[0]], last, mine[-1]))

    for i in range(end):
        v, lock, other = int(events.vcpu[i]), int(events.object[i]), int(events.other[i])
        if events.kind[i] == CONTENDED:
            stages.setdefault((v, lock), []).append(i)
            if other >= 0:
                member.add(i)
                if (other, lock) in stages:
                    member.add(stages[other, lock][-1])
        elif events.kind[i] == ACQUIRED:
            close(v, lock, i)
    for v, lock in list(stages):
        close(v, lock, end)
    found.sort(key=lambda place: place.first)
    out = {id(place): place.last for place in found}
    for n, place in enumerate(found):
        later = [out[id(p)] for p in found[n + 1 :] if p.lock == place.lock]
        if any(time[place.last] - time[x] > events.skew_ns for x in later if x < place.last):
            slept = (
                i for i in range(place.final, place.last)
                if events.vcpu[i] == place.vcpu and events.kind[i] == SLEPT
            )  # fmt: skip
            place.last = next(slept, max(place.final, place.first))
    return found


def reckon(events: Events) -> Reckoning:
    """Put every wait down to what it was for, event by event."""
    machine = _Machine(events)
    time = [*map(int, events.time), events.end]
    waits: list[Wait] = []
    result = Reckoning(waits, {}, [{} for _ in range(events.vcpus)], {})
    for i in range(len(events)):
        known = [len(mine) for mine in machine.open]
        machine.apply(i)
        waits += [m[-1] for m, n in zip(machine.open, known, strict=True) if len(m) > n]
        ns = time[i + 1] - time[i]
        for v in range(events.vcpus):
            if not ns or not machine.open[v]:
                continue
            part, culprit = machine.part_of(v)
            for wait in machine.open[v]:
                wait.parts[part] = wait.parts.get(part, 0) + ns
            mine = result.by_vcpu[v]
            mine[part] = mine.get(part, 0) + ns
            if culprit >= 0:
                key = v, culprit, part
                result.pairs[key] = result.pairs.get(key, 0) + ns
            off = part not in (Part.OWNER_RUNNING, Part.NO_OWNER, Part.UNKNOWN)
            if culprit >= 0 and off and machine.switch[culprit] >= 0:
                event = machine.switch[culprit]
                result.costs[event] = result.costs.get(event, 0) + ns
    for wait in waits:
        wait.end = len(events) if wait.end < 0 else wait.end
    return result


def random_run(rng: random.Random, steps: int, vcpus: int = 4, locks: int = 3) -> Events:
    """Return a consistent table: what some guest under some scheduler could have done."""
    lines: list[tuple[int, int, Kind, int, int]] = []
    shared: list[int] = []
    now = 0
    state: list[Kind] = [OFF] * vcpus
    open_: list[list[int]] = [[] for _ in range(vcpus)]
    asleep, granted = [False] * vcpus, [False] * vcpus
    reads: list[dict[int, bool]] = [{} for _ in range(vcpus)]
    held: list[list[int]] = [[] for _ in range(vcpus)]
    queue: dict[int, list[int]] = {lock: [] for lock in range(locks)}

    def owners(lock: int) -> list[int]:
        return [v for v in range(vcpus) if lock in held[v]]

    def free_for(lock: int, reader: bool) -> bool:
        mine = owners(lock)
        return not mine or (reader and all(reads[v][lock] for v in mine))

    def add(v: int, kind: Kind, lock: int = 0, other: int = -1, reader: bool = False) -> None:
        if reader:
            shared.append(len(lines))
        lines.append((now, v, kind, lock, other))

    def guest_step(v: int) -> None:
        lock = open_[v][-1] if open_[v] else -1
        if asleep[v]:
            add(v, WOKEN, lock)
            asleep[v] = False
        elif lock >= 0 and (granted[v] or (free_for(lock, reads[v][lock]) and rng.random() < 0.6)):
            add(v, ACQUIRED, lock, reader=reads[v][lock])
            if not granted[v]:
                held[v].append(lock)
            granted[v] = False
            open_[v].pop()
            if v in queue[lock]:
                queue[lock].remove(v)
        elif held[v] and rng.random() < 0.3:
            gone = held[v].pop(rng.randrange(len(held[v])))
            if gone not in open_[v]:
                add(v, RELEASED, gone, reader=reads[v][gone])
            else:
                held[v].append(gone)
        elif rng.random() < 0.5:
            wanted = rng.randrange(locks)
            if wanted in held[v] or wanted in open_[v] or len(open_[v]) >= 2:
                return
            reads[v][wanted] = rng.random() < 0.3
            open_[v].append(wanted)
            other = -1
            if rng.random() < 0.5:
                if queue[wanted]:
                    other = queue[wanted][-1]
                queue[wanted].append(v)
            add(v, CONTENDED, wanted, other, reads[v][wanted])
        elif lock >= 0 and not granted[v]:
            choice = rng.random()
            if choice < 0.4:
                add(v, SLEPT, lock)
                asleep[v] = True
            elif choice < 0.6:
                if v in queue[lock]:
                    queue[lock].remove(v)
                add(v, CONTENDED, lock, -1, reads[v][lock])
            else:
                choices = [
                    w for w in range(vcpus)
                    if w != v and open_[w] and open_[w][-1] == lock and not granted[w]
                ]  # fmt: skip
                if choices and not owners(lock):
                    w = rng.choice(choices)
                    granted[w] = True
                    held[w].append(lock)
                    add(v, GRANTED, lock, w, reads[w][lock])

    for _ in range(steps):
        now += rng.choice([0, 1, 1, 2, 5, 30])
        v = rng.randrange(vcpus)
        if state[v] == IN and rng.random() < 0.75:
            guest_step(v)
        elif state[v] == IN:
            kind = BLOCKED if asleep[v] and rng.random() < 0.8 else PREEMPTED
            kind = OFF if not open_[v] and rng.random() < 0.05 else kind
            kind = BLOCKED if rng.random() < 0.05 else kind
            add(v, kind)
            state[v] = kind
        elif state[v] in (BLOCKED, OFF) and rng.random() < 0.4:
            add(v, READY)
            state[v] = READY
        else:
            add(v, IN)
            state[v] = IN
    return table(lines, vcpus, now + rng.choice([0, 7]), shared)
