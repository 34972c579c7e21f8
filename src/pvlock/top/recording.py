# SPDX-License-Identifier: GPL-2.0-or-later
"""Records every switch of a host for a while, and makes a table of events of it; needs NumPy.

The rows of the table are the VCPUs of all VMs, by VM, and then whoever else had a CPU: a process
has a row for each CPU, as two threads of it can run at once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pvlock.errors import WatchError
from pvlock.top import slots, usage
from pvlock.top.threads import IDLE, Displacer, Key, Snapshot, Thread
from pvlock.top.usage import Names
from pvlock.top.watch import Watcher
from pvlock.trace.columns import MOST_VCPUS
from pvlock.trace.events import MOST_EVENTS, VM, Events, Kind

RING_SIZE = 1 << 24
_TAKE_SECONDS = 0.05
_LOOK_SECONDS = 0.25
_MOST_DISPLACERS = 200
"""Rows of those who are no VCPUs; the others of a CPU share one."""


class Switch(NamedTuple):
    """A switch, or the wake-up of `following`; who is as in struct record. The kernel `told` it."""

    at: int
    cpu: int
    woken: int
    leaving: int
    following: int
    runnable: int
    name: bytes
    told: bool


@dataclass
class Recording:
    """What was recorded between two snapshots, packed (slots.RECORD)."""

    first: Snapshot
    last: Snapshot
    records: bytes
    lost: int

    def switches(self) -> Iterator[Switch]:
        """Yield all records, and put in switches that the kernel did not tell.

        Such a one shows when somebody leaves a CPU who was not on it. The scheduler's own note says
        since when that one had it; whether whoever was there before could have gone on is unknown.
        """
        on: dict[int, tuple[int, int]] = {}
        for fields in slots.RECORD.iter_unpack(self.records):
            at, cpu, woken, leaving, following, _, had, _ = fields
            if not woken:
                before, since = on.get(cpu, (leaving, 0))
                came = at - had
                if before != leaving:
                    known = bool(had) and came >= since
                    name = b"?"
                    yield Switch(came if known else at, cpu, 0, before, leaving, 0, name, False)
                on[cpu] = following, at
            yield Switch(at, cpu, woken, leaving, following, fields[5], fields[7], True)

    def untold(self) -> dict[int, int]:
        """Count, by CPU, switches that the kernel did not tell."""
        found: dict[int, int] = defaultdict(int)
        for switch in self.switches():
            if not switch.told:
                found[switch.cpu] += 1
        return dict(found)


def record(watcher: Watcher, seconds: float, names: Names, go_on: Callable[[], bool]) -> Recording:
    """Record for so long, or while `go_on`. Raises WatchError."""
    watcher.take()
    first = watcher.snapshot()
    names.learn(first)
    taken = bytearray()
    end = time.monotonic() + seconds
    look = time.monotonic() + _LOOK_SECONDS
    while (left := end - time.monotonic()) > 0 and go_on():
        time.sleep(min(left, _TAKE_SECONDS))
        taken += watcher.take()
        if time.monotonic() > look:
            watcher.look()
            look = time.monotonic() + _LOOK_SECONDS
        if len(taken) > MOST_EVENTS // 2 * slots.RECORD.size:
            break
    last = watcher.snapshot()
    names.learn(last)
    taken += watcher.take()
    return Recording(first, last, bytes(taken), watcher.lost)


@dataclass
class _Row:
    """Somebody's events: time, kind, CPU."""

    name: str
    vm: str = ""
    events: list[tuple[int, Kind, int]] = field(default_factory=list)
    ran: int = 0


def table(recording: Recording, names: Names) -> Events:
    """Return the events. Raises WatchError where there is no VCPU, or too many."""
    first, last = recording.first, recording.last
    threads = {**first.threads, **last.threads}
    keys = sorted(threads, key=lambda key: _place(threads[key]))
    if not keys:
        raise WatchError("no VCPU has run on this host")
    cpus = 1 + max((r[1] for r in slots.RECORD.iter_unpack(recording.records)), default=0)
    if len(keys) + _MOST_DISPLACERS + cpus > MOST_VCPUS:
        raise WatchError(f"{len(keys)} VCPUs are more than a trace can have; choose some")
    vms = _unique({threads[key].tgid for key in keys}, names)
    rows = {key.tid: _Row(_label(threads[key], vms), vms[threads[key].tgid]) for key in keys}
    others = _read(recording, rows, names)
    _begin(recording, rows, keys)
    return _events(recording, [*rows.values(), *_fewer(others, last.at)], len(rows), cpus)


def _place(thread: Thread) -> tuple[int, int, int]:
    return thread.tgid, -1 if thread.vcpu is None else thread.vcpu, thread.key.tid


def _unique(tgids: Iterable[int], names: Names) -> dict[int, str]:
    """Name VMs; those that share a name have their process in it."""
    called = {tgid: names.vm(tgid) for tgid in tgids}
    count: dict[str, int] = defaultdict(int)
    for name in called.values():
        count[name] += 1
    return {tgid: name if count[name] == 1 else f"{name}:{tgid}" for tgid, name in called.items()}


def _label(thread: Thread, vms: dict[int, str]) -> str:
    if thread.vcpu is not None:
        return f"{vms[thread.tgid]}/{thread.vcpu}"
    return f"{thread.name}:{thread.key.tid}"


def _read(recording: Recording, rows: dict[int, _Row], names: Names) -> dict[tuple[int, int], _Row]:
    """Put each record to its rows; return those of displacers, by process and CPU."""
    others: dict[tuple[int, int], _Row] = {}
    start, end = recording.first.at, recording.last.at

    def displacer(who: int, cpu: int, name: str) -> _Row:
        found = slots.displacer(who)
        row = others.get((found.pid, cpu))
        if row is None:
            known = names.displacer(Displacer(found.pid, is_thread=False), by_thread=False)[0]
            if known == f"process {found.pid}":
                known = name
            row = others[found.pid, cpu] = _Row(f"{known} on CPU {cpu}")
        return row

    for at, cpu, woken, prev, following, runnable, name, _ in recording.switches():
        if not start <= at <= end:
            continue
        if woken:
            if (row := rows.get(slots.displacer(following).pid)) is not None:
                row.events.append((at, Kind.READY, cpu))
            continue
        who = slots.displacer(prev)
        if who.is_thread and who.pid in rows:
            kind = Kind.PREEMPTED if runnable else Kind.BLOCKED
            rows[who.pid].events.append((at, kind, cpu))
        elif who.pid != IDLE:
            row = displacer(prev, cpu, "?")
            if row.events and row.events[-1][1] is Kind.SCHED_IN:
                row.ran += at - row.events[-1][0]
                row.events.append((at, Kind.OFF, cpu))
        who = slots.displacer(following)
        if who.is_thread and who.pid in rows:
            rows[who.pid].events.append((at, Kind.SCHED_IN, cpu))
        elif who.pid != IDLE:
            row = displacer(following, cpu, slots.text(name))
            if not row.events or row.events[-1][1] is not Kind.SCHED_IN:
                row.events.append((at, Kind.SCHED_IN, cpu))
    return others


def _begin(recording: Recording, rows: dict[int, _Row], keys: list[Key]) -> None:
    """Say what each was doing when the recording began, which its first event tells."""
    before = {
        Kind.PREEMPTED: Kind.SCHED_IN,
        Kind.BLOCKED: Kind.SCHED_IN,
        Kind.READY: Kind.BLOCKED,
        Kind.SCHED_IN: Kind.PREEMPTED,
    }
    done = {
        each.thread.key: each
        for vm in usage.between(recording.first, recording.last)
        for each in vm.threads
    }
    for key in keys:
        row = rows[key.tid]
        at = recording.first.at if key in recording.first.threads else key.began
        if row.events:
            _, kind, cpu = row.events[0]
            row.events.insert(0, (min(at, row.events[0][0]), before[kind], cpu))
        elif key in done:
            # Without a switch, all its time went one way.
            each = done[key]
            kind = Kind.SCHED_IN if each.running else Kind.PREEMPTED
            row.events.append((at, Kind.BLOCKED if each.blocked else kind, 0))
        last = recording.last.threads.get(key)
        if last is not None and not last.alive:
            row.events = [event for event in row.events if event[0] <= last.at]
            row.events.append((last.at, Kind.OFF, 0))


def _fewer(others: dict[tuple[int, int], _Row], end: int) -> list[_Row]:
    """Return the rows of those who ran longest, and for each CPU one of all others there."""
    for row in others.values():
        if row.events and row.events[-1][1] is Kind.SCHED_IN:
            row.ran += end - row.events[-1][0]
    ordered = sorted(others.items(), key=lambda item: -item[1].ran)
    kept = [row for _, row in ordered[:_MOST_DISPLACERS]]
    rest: dict[int, _Row] = {}
    for (_, cpu), row in ordered[_MOST_DISPLACERS:]:
        rest.setdefault(cpu, _Row(f"others on CPU {cpu}")).events += row.events
    for row in rest.values():
        # One ends as the next begins: then the end comes first.
        row.events.sort(key=lambda event: (event[0], event[1] is Kind.SCHED_IN))
    return kept + list(rest.values())


def _events(recording: Recording, rows: list[_Row], watched: int, cpus: int) -> Events:
    start = recording.first.at
    flat = [
        (at - start, number, kind, cpu)
        for number, row in enumerate(rows)
        for at, kind, cpu in row.events
    ]
    # Who leaves a CPU is out before the next one comes.
    flat.sort(key=lambda event: (event[0], event[2] is Kind.SCHED_IN))
    columns = np.array(flat, np.int64).reshape(-1, 4)
    names = {number: row.name for number, row in enumerate(rows)}
    names |= {VM + number: row.vm for number, row in enumerate(rows) if row.vm}
    return Events(
        time=columns[:, 0].copy(),
        vcpu=columns[:, 1].astype(np.int32),
        kind=columns[:, 2].astype(np.uint8),
        object=columns[:, 3].astype(np.uint64),
        other=np.full(len(flat), -1, np.int32),
        flags=np.zeros(len(flat), np.uint8),
        vcpus=len(rows),
        pcpus=cpus,
        start=0,
        end=recording.last.at - start,
        names={number: _printable(name) for number, name in names.items()},
        settings={
            "host": True,
            "watched": watched,
            "guest": "a host",
            "lost": recording.lost,
            "monotonic_ns": start,
        },
    )


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:200]
