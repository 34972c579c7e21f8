# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace says about waiting: totals, the preemptions that cost most, and one sentence."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pvlock import report
from pvlock.errors import TraceError
from pvlock.trace.attribution import OFF_CPU, Attribution, Part, attribute
from pvlock.trace.columns import Bools, Ints
from pvlock.trace.events import Events, Flag, Kind

_REASONS = {
    Kind.PREEMPTED: "preempted",
    Kind.BLOCKED: "blocked",
    Kind.OFF: "off",
    Kind.READY: "woken, no CPU",
}
_QUEUE = (Part.QUEUE_PREEMPTED, Part.QUEUE_BLOCKED)


@dataclass
class Total:
    """Some waits together: how many, the ns of all and of the longest, by `parts`."""

    waits: int
    longest: int
    parts: Ints
    spun: int
    asleep: int

    @property
    def ns(self) -> int:
        """How long all of them waited, in VCPU ns."""
        return int(self.parts.sum())

    @property
    def off_cpu(self) -> int:
        """How much of that was for VCPUs off their CPUs."""
        return int(self.parts[list(OFF_CPU)].sum())


@dataclass
class Culprit:
    """Why a VCPU was off its CPU from `start` to `end`, and what waiting of others it `cost`.

    Most of it `lock`, which the VCPU owned, or, if `queue`, at whose queue's head it was. Times in
    ns, the cost in VCPU ns, that of `waits` waits.
    """

    vcpu: int
    reason: str
    start: int
    end: int
    cost: int
    waits: int
    lock: str
    queue: bool


@dataclass
class Pair:
    """How long, in ns, `waiter` waited for `vcpu`, and how much of it that was off its CPU."""

    waiter: int
    vcpu: int
    ns: int
    off_cpu: int


@dataclass
class Chain:
    """For `ns` from `at` on, VCPU `waiter` waited for each lock's VCPU to wait for the next one."""

    waiter: int
    links: list[tuple[str, int]]
    reason: str
    at: int
    ns: int


@dataclass
class Findings:
    """Everything there is to say; `locks` and `pairs` worst first, `vcpus` by number.

    `culprits` and `chains` are the worst ones only; `worst` is the worst preemption.
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
        """The events that all this was found in."""
        return self.attribution.events


def find(events: Events, lock: str | None = None, top: int = 4) -> Findings:
    """Attribute the waiting in `events`: for all locks, or for those that `lock` means.

    That is one by its address or by what the findings call it; or all to which the guest gave that
    name. Raises TraceError where the guest recorded no locks, or not this one.
    """
    if not events.locks():
        raise TraceError("the guest recorded no locks")
    found = attribute(events)
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
    off_cpu = pairs[:, :, list(OFF_CPU)].sum(axis=2)
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
    return Total(
        waits=len(ns),
        longest=int(ns.max(initial=0)),
        parts=waits.parts[which].sum(axis=0) if parts is None else parts,
        spun=int(waits.spun[which & ~waits.inside].sum()),
        asleep=int(waits.asleep[which & ~waits.inside].sum()),
    )


def _culprits(
    found: Attribution, delayed: Bools, names: list[str], top: int
) -> tuple[list[Culprit], Culprit | None]:
    """Return what had the highest costs, the highest first, and the worst preemption."""
    event, cost = found.costs(delayed)
    order = np.lexsort((event, -cost))
    preempted = found.events.kind[event[order]] == Kind.PREEMPTED
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
    return Culprit(
        vcpu=int(events.vcpu[event]),
        reason=_reason(events, event),
        start=int(events.time[event]),
        end=int(found.ends_at(np.array([event]))[0]),
        cost=cost,
        waits=len(np.unique(delays.wait[mine])),
        lock=names[most // len(Part)],
        queue=most % len(Part) in _QUEUE,
    )


def _reason(events: Events, at: int) -> str:
    reason = _REASONS.get(Kind(events.kind[at]), "")
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
    """Return the longest chains that end in a VCPU off its CPU, one for each wait."""
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
    """Say in a sentence or two what the waiting was for."""
    total = found.total
    if not total.ns:
        return "Nobody waited for a lock."
    where = f"for {found.only} " if found.only else ""
    share = percent(total.off_cpu, total.ns)
    text = (
        f"{share} of all waiting {where}was for VCPUs that were off their CPUs "
        f"({vcpu_ms(total.off_cpu)} of {vcpu_ms(total.ns)} VCPU·ms)"
    )
    worst = found.worst
    if worst is None:
        return text + "; no preemption kept anybody waiting."
    role = f"at the head of the queue for {worst.lock}" if worst.queue else f"owner of {worst.lock}"
    return text + (
        f"; the worst preemption, VCPU {worst.vcpu} ({role}) at {report.time(worst.start)} for "
        f"{report.time(worst.end - worst.start)}, cost {vcpu_ms(worst.cost)} VCPU·ms."
    )


def doubts(found: Findings) -> list[str]:
    """Say what is missing in the trace or makes no sense, a sentence each."""
    of, events = found.attribution, found.events
    unknown = int(found.total.parts[Part.UNKNOWN])
    texts = (
        (sum(events.dropped), "events were lost"),
        (sum(events.rejected), "records of the guest were no events"),
        (of.cut, "waits and holds were cut by lost events"),
        (of.unmatched, "waits and holds have events that do not fit"),
        (of.endless, "times VCPUs wait for each other in a circle"),
        (unknown, "VCPU ns of waiting: nobody can say who had the lock"),
    )
    return [f"{count:,} {text}" for count, text in texts if count]


def vcpu_ms(ns: int) -> str:
    """Return a sum over VCPUs in VCPU·ms, three digits or more."""
    ms = ns / 1e6
    return f"{ms:,.0f}" if ms >= 100 else f"{float(f'{ms:.3g}'):.10g}"


def percent(ns: int, of: int) -> str:
    """Return a share in whole percent, and no 0 % where there is something."""
    share = ns / max(of, 1)
    return f"{share:.0%}" if share >= 0.005 or not ns else "<1%"


def as_dict(found: Findings) -> dict[str, Any]:
    """Return everything, for programs; times in ns."""
    return {
        **found.events.settings,
        "run_ns": found.events.end - found.events.start,
        "events": len(found.events),
        "lost": list(found.events.dropped),
        "lock": found.only,
        "summary": sentence(found),
        "doubts": doubts(found),
        "total": _dict(found.total),
        "locks": [
            {"name": name, "acquired": acquired} | _dict(total)
            for name, (acquired, total) in found.locks.items()
        ],
        "per_vcpu": [
            _dict(total) | {"caused_off_cpu": caused}
            for total, caused in zip(found.vcpus, found.caused, strict=True)
        ],
        "culprits": [vars(culprit) for culprit in found.culprits],
        "pairs": [vars(pair) for pair in found.pairs],
        "chains": [vars(chain) for chain in found.chains],
    }


def _dict(total: Total) -> dict[str, Any]:
    parts = {part.name.lower(): int(total.parts[part]) for part in Part}
    facts = {"waits": total.waits, "wait_ns": total.ns, "longest": total.longest}
    return facts | {"spun": total.spun, "asleep": total.asleep, "parts": parts}
