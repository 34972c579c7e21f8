# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace says about waiting: totals, the preemptions that cost most, and one sentence."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvlock import report
from pvlock.errors import TraceError
from pvlock.trace.attribution import (
    HOST_OFF_CPU,
    OF_TASKS,
    OFF_CPU,
    Attribution,
    Part,
    attribute,
)
from pvlock.trace.columns import Bools, Ints
from pvlock.trace.events import Events, Flag, Kind
from pvlock.trace.tasks import by_task

_REASONS = {
    Kind.PREEMPTED: "preempted",
    Kind.BLOCKED: "blocked",
    Kind.OFF: "off",
    Kind.READY: "woken, no CPU",
}
_GUEST_REASONS = {
    Kind.PREEMPTED: "no VCPU",
    Kind.BLOCKED: "asleep",
    Kind.READY: "woken, no VCPU",
}
"""Of a task: what the guest's scheduler did."""
_NOT_SEEN = "not_seen_"
"""How the settings are called that say what a kernel's build leaves out, one line each."""
_QUEUE = (Part.QUEUE_PREEMPTED, Part.QUEUE_BLOCKED, Part.QUEUE_QUEUED)


@dataclass
class Total:
    """Some waits together: their number, the longest, and the sums of their times; all in ns.

    `parts` has the ns that are put down to each Part, and `off_cpu` says for how long VCPUs off
    their CPUs kept the waiters waiting. `spun` and `asleep` are sums of those columns of Waits.
    """

    waits: int
    longest: int
    parts: Ints
    spun: int
    asleep: int
    off_cpu: int

    @property
    def ns(self) -> int:
        """The length of all these waits together, in VCPU ns."""
        return int(self.parts.sum())


@dataclass
class Culprit:
    """A VCPU that was off its CPU from `start` to `end`, in ns, while others waited for it.

    Of a Linux guest it is the VCPU of `task`; or that task had no VCPU (-1), or slept. Otherwise
    `task` is None. `row` is its number in the events, of the task or of the VCPU.

    `reason` says why it was. `cost` is the sum of the delays, in VCPU ns, in `waits` waits. `lock`
    is the one that caused most of the cost: the VCPU owned it, or, if `queue`, was the head of the
    queue in front of it.
    """

    vcpu: int
    reason: str
    start: int
    end: int
    cost: int
    waits: int
    lock: str
    queue: bool
    task: str | None = None
    row: int = -1

    @property
    def who(self) -> str:
        """What to call it: a VCPU, a task, or both."""
        if self.task is None:
            return f"VCPU {self.vcpu}"
        return self.task if self.vcpu < 0 else f"{self.task} on VCPU {self.vcpu}"


@dataclass
class Pair:
    """VCPU `waiter` waited for VCPU `vcpu` for `ns`; for `off_cpu` of it, that was off its CPU.

    Of a Linux guest both are tasks.
    """

    waiter: int
    vcpu: int
    ns: int
    off_cpu: int


@dataclass
class Chain:
    """From `at` on, for `ns`, VCPU `waiter` waited for a VCPU that waited for another, and so on.

    `links` has, in this order, each lock and the VCPU that it was waited for. `reason` says why the
    last of these VCPUs was off its CPU.
    """

    waiter: int
    links: list[tuple[str, int]]
    reason: str
    at: int
    ns: int


@dataclass
class Findings:
    """Everything that can be said of a trace, for all its locks, or for those called `only`.

    Of a Linux guest, those who wait and who are waited for are its tasks, here as well as in the
    events, which are by_task(). Elsewhere they are VCPUs.

    `locks` has, for each lock's name, how often it was acquired and the waits for it. `vcpus` has
    the waits of each VCPU. `caused` says how much waiting of others, in ns, each VCPU caused while
    it was off its CPU. `culprits` and `chains` are the worst ones only, and `worst` is the
    preemption that cost most. `locks`, `culprits`, `pairs` and `chains` have the worst first.
    """

    attribution: Attribution
    only: str | None
    total: Total
    locks: dict[str, tuple[int, Total]]
    vcpus: list[Total]
    caused: list[int]
    worst: Culprit | None
    culprits: list[Culprit]
    pairs: list[Pair]
    chains: list[Chain]

    @property
    def events(self) -> Events:
        """The table of events in which all this was found."""
        return self.attribution.events

    @property
    def of_tasks(self) -> bool:
        """Whether tasks of a Linux guest wait, and not VCPUs."""
        return self.events.tasks > 0

    @property
    def unit(self) -> str:
        """In what sums of waiting are given."""
        return "task·ms" if self.of_tasks else "VCPU·ms"


def find(events: Events, lock: str | None = None, top: int = 4) -> Findings:
    """Find what the waiting in `events` was for, for all locks, or for those that `lock` means.

    `lock` is a lock's address, or what Events.name_of() calls it, or a name that the guest gave to
    several locks: then it means all of these. `top` is how many culprits and chains are kept.
    Raises TraceError where the guest recorded no locks, or none that `lock` means.

    >>> from pvlock import Machine
    >>> from pvlock.workload import image_of
    >>> guest = {"bootargs": "duration=1000000", "engine": "emulator", "trap_wfe": False}
    >>> with Machine(3, 2, slice_ns=50_000, pvlock=False, trace=True, **guest) as machine:
    ...     _ = machine.load(image_of("ticket", trace=True))
    ...     _ = machine.run(100_000_000)
    ...     events = machine.events()
    >>> found = find(events)
    >>> print("It says:", sentence(found))  # doctest: +ELLIPSIS
    It says: ...% of all waiting was for VCPUs that were off their CPUs (...
    >>> found.culprits[0].reason, found.culprits[0].lock
    ('preempted', 'ticket lock')
    """
    if not events.locks():
        nobody = "nobody waited for a lock" if events.tasks else "the guest recorded no locks"
        raise TraceError(nobody)
    found = attribute(by_task(events))
    events = found.events
    names = [events.name_of(address) for address in found.locks]
    which = _chosen(found, names, lock)
    mine = np.isin(found.waits.lock, which)
    waits, delays = found.waits, found.delays
    by_vcpu = found.by_vcpu
    if lock is not None:
        by_vcpu = np.zeros_like(found.by_vcpu)
        np.add.at(by_vcpu, waits.vcpu[mine], waits.parts[mine])
    delayed = mine[delays.wait]
    culprits, worst = _culprits(found, delayed, names, top)
    pairs = found.pairs(mine)
    off_cpu = pairs[:, :, list(_off_cpu(events))].sum(axis=2)
    by_lock = {
        names[i]: (int(found.acquired[i]), _total(found, waits.lock == i)) for i in which.tolist()
    }
    return Findings(
        attribution=found,
        only=lock,
        total=_total(found, mine, by_vcpu.sum(axis=0)),
        locks=dict(sorted(by_lock.items(), key=lambda item: -item[1][1].ns)),
        vcpus=[
            _total(found, mine & (waits.vcpu == vcpu), by_vcpu[vcpu])
            for vcpu in range(events.vcpus)
        ],
        caused=[int(ns) for ns in off_cpu.sum(axis=0)],
        worst=worst,
        culprits=culprits,
        pairs=_pairs(pairs.sum(axis=2), off_cpu),
        chains=_chains(found, delayed, names, top),
    )


def _chosen(found: Attribution, names: list[str], lock: str | None) -> Ints:
    if lock is None:
        return np.arange(len(names))
    called = list(enumerate(zip(names, found.locks, strict=True)))
    which = [i for i, (name, at) in called if lock in (name, f"{at:#x}")]
    which = which or [i for i, (name, at) in called if name == f"{lock}@{at:#x}"]
    if not which:
        some = ", ".join(sorted(names)[:8])
        raise TraceError(f"no lock is called {lock!r}; there are: {some}")
    return np.array(which)


def _total(found: Attribution, which: Bools, parts: Ints | None = None) -> Total:
    waits = found.waits
    ns = (waits.end - waits.start)[which]
    parts = waits.parts[which].sum(axis=0) if parts is None else parts
    return Total(
        waits=len(ns),
        longest=int(ns.max(initial=0)),
        parts=parts,
        spun=int(waits.spun[which & ~waits.inside].sum()),
        asleep=int(waits.asleep[which & ~waits.inside].sum()),
        off_cpu=int(parts[list(_off_cpu(found.events))].sum()),
    )


def _off_cpu(events: Events) -> tuple[Part, ...]:
    """Return the parts in which somebody who is waited for lacks a CPU, by the host's doing."""
    return HOST_OFF_CPU if events.tasks else OFF_CPU


def _culprits(
    found: Attribution, delayed: Bools, names: list[str], top: int
) -> tuple[list[Culprit], Culprit | None]:
    """Return the culprits with the highest costs, the highest first, and the worst preemption."""
    event, cost = found.costs(delayed)
    order = np.lexsort((event, -cost))
    preempted = found.events.kind[event[order]] == Kind.PREEMPTED
    preempted &= (found.events.flags[event[order]] & Flag.GUEST) == 0
    result = [_culprit(found, delayed, names, int(event[i]), int(cost[i])) for i in order[:top]]
    worst = [
        _culprit(found, delayed, names, int(event[i]), int(cost[i])) for i in order[preempted][:1]
    ]
    return result, worst[0] if worst else None


def _culprit(
    found: Attribution, delayed: Bools, names: list[str], event: int, cost: int
) -> Culprit:
    delays, events = found.delays, found.events
    mine = np.flatnonzero(delayed & (delays.event == event))
    kinds = delays.lock[mine] * len(Part) + delays.part[mine]
    most = int(np.bincount(kinds, (delays.end - delays.start)[mine]).argmax())
    vcpu, task = int(events.vcpu[event]), None
    if events.tasks:
        of_guest = bool(events.flags[event] & Flag.GUEST)
        vcpu, task = -1 if of_guest else int(events.object[event]), events.vcpu_name(vcpu)
    return Culprit(
        row=int(events.vcpu[event]),
        vcpu=vcpu,
        task=task,
        reason=_reason(events, event),
        start=int(events.time[event]),
        end=int(found.ends_at(np.array([event]))[0]),
        cost=cost,
        waits=len(np.unique(delays.wait[mine])),
        lock=names[most // len(Part)],
        queue=most % len(Part) in _QUEUE,
    )


def _reason(events: Events, at: int) -> str:
    reasons = _GUEST_REASONS if events.flags[at] & Flag.GUEST else _REASONS
    reason = reasons.get(Kind(events.kind[at]), "")
    for flag in (Flag.YIELD, Flag.SCRIPT):
        if events.flags[at] & flag:
            reason += f" ({str(flag.name).lower()})"
    return reason


def _pairs(all_: Ints, off_cpu: Ints) -> list[Pair]:
    found = [
        Pair(int(w), int(v), int(all_[w, v]), int(off_cpu[w, v]))
        for w, v in zip(*np.nonzero(all_), strict=True)
    ]
    return sorted(found, key=lambda pair: -pair.ns)


def _chains(found: Attribution, delayed: Bools, names: list[str], top: int) -> list[Chain]:
    """Return the chains with the most links that end in a VCPU off its CPU, one for each wait."""
    delays = found.delays
    rows = np.flatnonzero(delayed & (delays.links > 0))
    ns = (delays.end - delays.start)[rows]
    rows = rows[np.lexsort((rows, -ns, -delays.links[rows]))]
    result: dict[int, Chain] = {}
    for row in rows.tolist():
        wait, at = int(delays.wait[row]), int(delays.start[row])
        if wait in result:
            continue
        links = [(names[lock], vcpu) for lock, vcpu in found.chain(wait, at)]
        reason = _reason(found.events, int(delays.event[row]))
        length = int(delays.end[row]) - at
        result[wait] = Chain(int(found.waits.vcpu[wait]), links, reason, at, length)
        if len(result) == top:
            break
    return list(result.values())


def sentence(found: Findings) -> str:
    """Return a sentence or two that say what the waiting was for."""
    total = found.total
    if not total.ns:
        return "Nobody waited for a lock."
    where = f"for {found.only} " if found.only else ""
    share = percent(total.off_cpu, total.ns)
    text = (
        f"{share} of all waiting {where}was for VCPUs that were off their CPUs "
        f"({vcpu_ms(total.off_cpu)} of {vcpu_ms(total.ns)} {found.unit})"
    )
    if found.of_tasks:
        queued = int(total.parts[[Part.OWNER_QUEUED, Part.QUEUE_QUEUED]].sum())
        asleep = int(total.parts[[Part.OWNER_BLOCKED, Part.QUEUE_BLOCKED]].sum())
        text += (
            f", {percent(queued, total.ns)} for tasks that had no VCPU, and "
            f"{percent(asleep, total.ns)} for tasks that slept"
        )
    worst = found.worst
    if worst is None:
        return text + "; no preemption kept anybody waiting."
    role = f"at the head of the queue for {worst.lock}" if worst.queue else f"owner of {worst.lock}"
    return text + (
        f"; the worst preemption, {worst.who} ({role}) at {report.time(worst.start)} for "
        f"{report.time(worst.end - worst.start)}, cost {vcpu_ms(worst.cost)} {found.unit}."
    )


def doubts(found: Findings) -> list[str]:
    """Return a line for each thing that is missing in the trace, or that makes no sense."""
    of, events = found.attribution, found.events
    unknown = int(found.total.parts[Part.UNKNOWN])
    texts = (
        (sum(events.dropped), "events were lost"),
        (sum(events.rejected), "records of the guest were no events"),
        (of.cut, "waits and holds were cut by lost events"),
        (of.unmatched, "waits and holds have events that do not fit"),
        (of.endless, "times VCPUs wait for each other in a circle"),
        (unknown, f"{found.unit[:4]} ns of waiting: nobody can say who had the lock"),
        (_inferred(found), "times an owner is inferred: that task woke those who waited"),
    )
    found_texts = [f"{count:,} {text}" for count, text in texts if count]
    if events.settings.get("emulated_cpus"):
        found_texts.insert(0, "all times, as the host's CPUs were emulated (the lab)")
    return found_texts


def not_seen(events: Events) -> list[str]:
    """Return a line for each thing that cannot be seen in this build of Linux."""
    named = (f"{_NOT_SEEN}{number}" for number in itertools.count(1))
    lines = itertools.takewhile(lambda line: line is not None, map(events.settings.get, named))
    return [str(line) for line in lines]


def _inferred(found: Findings) -> int:
    holds, flags = found.attribution.pairing.holds, found.events.flags
    locks = {found.attribution.locks.index(lock) for lock in _addresses(found)}
    mine = np.isin(holds.lock, list(locks))
    return int(np.count_nonzero(flags[holds.first[mine]] & Flag.INFERRED))


def _addresses(found: Findings) -> list[int]:
    return [lock for lock in found.attribution.locks if found.events.name_of(lock) in found.locks]


def vcpu_ms(ns: int) -> str:
    """Return a sum over VCPUs in VCPU·ms, with at least three digits if it has as many.

    >>> vcpu_ms(57_412_345), vcpu_ms(1_234_567_890), vcpu_ms(12_000_000)
    ('57.4', '1,235', '12')
    """
    ms = ns / 1e6
    return f"{ms:,.0f}" if ms >= 100 else f"{float(f'{ms:.3g}'):.10g}"


def percent(ns: int, of: int) -> str:
    """Return a share in whole percent; a share that is not 0 is not written as 0 %.

    >>> percent(57, 117), percent(1, 1000), percent(0, 1000)
    ('49%', '<1%', '0%')
    """
    share = ns / max(of, 1)
    return f"{share:.0%}" if share >= 0.005 or not ns else "<1%"


def as_dict(found: Findings) -> dict[str, Any]:
    """Return the findings as the JSON of `pvlock explain --json` has them, with times in ns."""
    settings = found.events.settings
    return {
        **{name: value for name, value in settings.items() if not name.startswith(_NOT_SEEN)},
        "run_ns": found.events.end - found.events.start,
        "events": len(found.events),
        "lost": list(found.events.dropped),
        "lock": found.only,
        "summary": sentence(found),
        "doubts": doubts(found),
        **_tasks(found),
        "total": _dict(found, found.total),
        "locks": [
            {"name": name, "acquired": acquired} | _dict(found, total)
            for name, (acquired, total) in found.locks.items()
        ],
        "per_vcpu": [
            _dict(found, total) | {"caused_off_cpu": caused}
            for total, caused in zip(found.vcpus, found.caused, strict=True)
        ],
        "culprits": [_culprit_dict(culprit) for culprit in found.culprits],
        "pairs": [vars(pair) for pair in found.pairs],
        "chains": [vars(chain) for chain in found.chains],
    }


def _tasks(found: Findings) -> dict[str, Any]:
    """Return what is said only of a Linux guest, whose tasks are in place of VCPUs."""
    if not found.of_tasks:
        return {}
    names = [found.events.vcpu_name(task) for task in range(found.events.vcpus)]
    return {"tasks": names, "not_seen": not_seen(found.events)}


def _culprit_dict(culprit: Culprit) -> dict[str, Any]:
    facts = {name: value for name, value in vars(culprit).items() if name != "row"}
    if culprit.task is None:
        del facts["task"]
    return facts


def _dict(found: Findings, total: Total) -> dict[str, Any]:
    possible = [part for part in Part if found.of_tasks or part not in OF_TASKS]
    parts = {part.name.lower(): int(total.parts[part]) for part in possible}
    facts = {"waits": total.waits, "wait_ns": total.ns, "longest": total.longest}
    return facts | {"spun": total.spun, "asleep": total.asleep, "parts": parts}
