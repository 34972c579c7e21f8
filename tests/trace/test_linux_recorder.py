# SPDX-License-Identifier: GPL-2.0-or-later
"""What the records of watched functions become: tasks, waits and owners, on invented records."""

from collections.abc import Sequence

import numpy as np

from pvlock.engines.contract import (
    READS,
    WATCHED,
    Counter,
    HostEvent,
    Seen,
    Switch,
    Watch,
    WatchPoint,
    pack,
)
from pvlock.linux_image import Symbol, Symbols
from pvlock.trace.attribution import Attribution, Part, attribute
from pvlock.trace.events import Events, Flag, Kind
from pvlock.trace.linux.points import Points, Role
from pvlock.trace.linux.recorder import LinuxRecorder
from pvlock.trace.tasks import by_task

A, B, C, IDLE = 0xFFFF_0000_0001_0000, 0xFFFF_0000_0002_0000, 0xFFFF_0000_0003_0000, 1 << 63
LOCK, QUEUE = 0xFFFF_0000_0009_0000, 0xFFFF_0000_0009_000C
ROLES = list(Role)
TEXT = 0xFFFF_8000_0000_0000
PIDS = {A: 11, B: 12, C: 13, IDLE: 0}


class Fake:
    """An engine of which the records are known."""

    counter = Counter(1_000_000_000)
    skew_ns = ring_events = 0
    lost_switches = ()

    def __init__(self, switches: Sequence[Switch], records: Sequence[bytes], lost: int) -> None:
        self._taken = b"".join(map(pack, switches)), b"".join(records)
        self._lost = lost

    def watch(self, points: Sequence[WatchPoint]) -> None:
        assert len(points) == len(ROLES)

    def take_switches(self) -> bytes:
        return self._taken[0]

    def take_watched(self) -> tuple[bytes, int]:
        return self._taken[1], self._lost


def seen(
    time: int, vcpu: int, task: int, role: Role, lock: int = 0, result: int | None = None,
    values: Sequence[int] = (), x1: int = 0,
) -> bytes:  # fmt: skip
    """A call, or with `result` its return."""
    kind, x0 = (Seen.CALL, lock) if result is None else (Seen.RETURN, result)
    rest = [*values, *[0] * READS][:READS]
    return WATCHED.pack(
        time, lock, x0, x1, 0, TEXT + 0x104, task, *rest, ROLES.index(role), vcpu, kind, 0
    )


def words(time: int, role: Role, first: int, second: int = 0, last: bool = False) -> bytes:
    place = ROLES.index(role)
    return WATCHED.pack(
        time, LOCK, first, second, 0, 0, 0, *[0] * READS, place, 0, Seen.WORDS, last
    )


def switch(time: int, vcpu: int, previous: int, task: int) -> bytes:
    name = int.from_bytes(b"task", "little")
    values = (PIDS[task], name, 0, PIDS[previous])
    return seen(time, vcpu, previous, Role.SWITCH, previous, values=values, x1=task)


def record(records: Sequence[bytes], switches: Sequence[Switch] = (), lost: int = 0) -> Events:
    """The events of 3 VCPUs, each on a CPU from 0 on but for these switches."""
    on = [Switch(0, cpu, cpu, HostEvent.IN) for cpu in range(3)]
    symbols = Symbols(TEXT, [Symbol(TEXT + 0x100, "T", "wants_it")])
    points = Points(
        symbols, [WatchPoint(TEXT, Watch.ALWAYS)] * len(ROLES), ROLES, has_pid=True, has_comm=True
    )
    recorder = LinuxRecorder(points, 3, 3, Fake([*on, *switches], records, lost))
    recorder.collect(1000)
    return recorder.events(1000, {})


def found(events: Events) -> tuple[Events, Attribution]:
    tasks = by_task(events)
    result = attribute(tasks)
    waits = result.waits
    assert (waits.parts.sum(axis=1) == waits.end - waits.start).all()
    return tasks, result


def parts(found: Attribution, wait: int = 0) -> dict[str, int]:
    ns = found.waits.parts[wait]
    return {part.name.lower(): int(ns[part]) for part in Part if ns[part]}


def test_a_mutex_and_both_schedulers() -> None:
    """A has the mutex. The host takes its VCPU's CPU; later the guest takes its VCPU."""
    records = [
        switch(10, 0, IDLE, A),
        seen(20, 1, B, Role.MUTEX, LOCK, values=[A | 1]),
        switch(100, 0, A, C),
        switch(160, 0, C, A),
        seen(170, 0, A, Role.MUTEX_UNLOCK, LOCK),
        words(172, Role.MUTEX, B),
        seen(175, 1, B, Role.MUTEX, LOCK, result=0),
    ]
    off = [Switch(40, 0, 0, HostEvent.SLICE), Switch(90, 0, 0, HostEvent.IN)]
    events, of = found(record(records, off))
    assert events.vcpu_name(int(of.waits.vcpu[0])).startswith("task")
    assert events.name_of(of.locks[0]) == "mutex of wants_it"
    assert parts(of) == {
        "owner_running": 20 + 10 + 10, "owner_preempted": 50, "owner_queued": 60, "no_owner": 5,
    }  # fmt: skip
    assert of.unmatched == 0


def test_a_task_slept_if_somebody_woke_it() -> None:
    def between(*more: bytes) -> dict[str, int]:
        records = [
            switch(10, 0, IDLE, A),
            seen(20, 1, B, Role.MUTEX, LOCK, values=[A]),
            switch(30, 0, A, C),
            *more,
            switch(80, 0, C, A),
            seen(90, 0, A, Role.MUTEX_UNLOCK, LOCK),
            seen(91, 1, B, Role.MUTEX, LOCK, result=0),
        ]
        return parts(found(record(records))[1])

    assert between()["owner_queued"] == 50, "it could have gone on"
    wake = seen(60, 2, IDLE, Role.WAKE, A), seen(62, 2, IDLE, Role.WAKE, A, result=1)
    assert between(*wake)["owner_blocked"] == 30
    assert between(*wake)["owner_queued"] == 20
    vain = seen(60, 2, IDLE, Role.WAKE, A), seen(62, 2, IDLE, Role.WAKE, A, result=0)
    assert between(*vain)["owner_queued"] == 50


def test_the_queue_of_those_who_spin_leads_to_the_owner() -> None:
    """C waits behind B in the queue for a mutex of A, which is off its CPU."""
    records = [
        switch(1, 0, IDLE, A), switch(2, 1, IDLE, B), switch(3, 2, IDLE, C),
        seen(10, 1, B, Role.MUTEX, LOCK, values=[A]),
        seen(11, 1, B, Role.OSQ, QUEUE),
        seen(12, 1, B, Role.OSQ, QUEUE, result=1),
        seen(20, 2, C, Role.MUTEX, LOCK, values=[A]),
        seen(21, 2, C, Role.OSQ, QUEUE, values=[2]),
        seen(110, 0, A, Role.MUTEX_UNLOCK, LOCK),
        seen(111, 1, B, Role.OSQ_UNLOCK, QUEUE),
        seen(112, 1, B, Role.MUTEX, LOCK, result=0),
        seen(113, 2, C, Role.OSQ, QUEUE, result=1),
    ]  # fmt: skip
    off = [Switch(30, 0, 0, HostEvent.SLICE), Switch(100, 0, 0, HostEvent.IN)]
    events, of = found(record(records, off))
    names = [events.name_of(lock) for lock in of.locks]
    queue = names.index("osq of mutex of wants_it")
    (wait,) = np.flatnonzero(of.waits.lock == queue).tolist()
    assert parts(of, wait)["owner_preempted"] == 70
    chain = [(names[lock], events.vcpu_name(vcpu)) for lock, vcpu in of.chain(wait, 50)]
    assert [lock for lock, _ in chain] == ["osq of mutex of wants_it", "mutex of wants_it"]
    assert chain[1][1] == "task/11"


def test_readers_are_known_if_they_had_to_wait() -> None:
    reader = 1 << 8
    records = [
        switch(1, 0, IDLE, A), switch(2, 1, IDLE, B), switch(3, 2, IDLE, C),
        # A has it to write; B comes to read and sleeps; A leaves it to B, which C then waits for.
        seen(10, 1, B, Role.RWSEM_READ, LOCK, values=[A, 1 | reader]),
        switch(12, 1, B, IDLE),
        seen(20, 0, A, Role.UP_WRITE, LOCK),
        seen(22, 0, A, Role.WAKE, B), seen(23, 0, A, Role.WAKE, B, result=1),
        words(24, Role.RWSEM_WRITE, reader, B | 1),
        seen(30, 2, C, Role.RWSEM_WRITE, LOCK, values=[B | 1, reader]),
        switch(50, 1, IDLE, B),
        seen(55, 1, B, Role.RWSEM_READ, LOCK, result=LOCK),
        seen(70, 1, B, Role.UP_READ, LOCK),
        seen(72, 2, C, Role.RWSEM_WRITE, LOCK, result=LOCK),
    ]  # fmt: skip
    _, of = found(record(records))
    (wait,) = np.flatnonzero(of.waits.start == 30).tolist()
    assert parts(of, wait) == {"owner_queued": 20, "owner_running": 20, "no_owner": 2}
    # Without B's wait nobody can say who reads.
    alone = [
        seen(30, 2, C, Role.RWSEM_WRITE, LOCK, values=[B | 1, reader]),
        words(70, Role.RWSEM_WRITE, 0),
        seen(72, 2, C, Role.RWSEM_WRITE, LOCK, result=LOCK),
    ]
    assert parts(found(record(alone))[1]) == {"unknown": 40, "no_owner": 2}


def test_who_gives_up_has_nothing() -> None:
    records = [
        switch(10, 0, IDLE, A),
        seen(20, 1, B, Role.MUTEX, LOCK, values=[A]),
        seen(50, 1, B, Role.MUTEX, LOCK, result=2**32 - 4),
        seen(60, 2, C, Role.MUTEX, LOCK, values=[A]),
    ]
    events, of = found(record(records))
    assert parts(of, 0) == {"owner_running": 30}
    assert Kind.ABANDONED in events.kind
    assert of.unmatched == 0


def test_the_owner_of_a_futex_is_who_wakes() -> None:
    records = [
        switch(10, 0, IDLE, A),
        seen(20, 1, B, Role.FUTEX_WAIT, LOCK),
        seen(70, 0, A, Role.FUTEX_WAKE, LOCK),
        seen(75, 1, B, Role.FUTEX_WAIT, LOCK, result=0),
        seen(80, 1, B, Role.FUTEX_WAIT, LOCK),
        seen(90, 1, B, Role.FUTEX_WAIT, LOCK, result=2**64 - 110),
    ]
    events, of = found(record(records))
    assert parts(of, 0) == {"owner_running": 50, "no_owner": 5}
    assert parts(of, 1) == {"unknown": 10}, "nobody woke it"
    assert (events.flags & Flag.INFERRED).any()


def test_lost_records_are_counted() -> None:
    events = record([switch(10, 0, IDLE, A), seen(20, 1, B, Role.MUTEX, LOCK)], lost=7)
    assert sum(events.dropped) == 7
