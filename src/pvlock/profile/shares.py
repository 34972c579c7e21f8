# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPUs' time went to: locks, idling, user programs, the rest."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pvlock.engines.contract import Awaits
from pvlock.profile import spinning
from pvlock.profile.samples import Sample, Stack

USER, IDLE, KERNEL, NOBODY = "user programs", "idle loop", "rest of the kernel", "no VCPU"
SPINNING: dict[str, tuple[str, ...]] = {
    "osq_lock": spinning.QUEUES,
    "mutex spinning": spinning.MUTEXES,
    "rwsem spinning": spinning.RWSEMS,
    "qspinlock slow path": spinning.SPINLOCKS,
    "qrwlock slow path": spinning.RWLOCKS,
    "rtmutex spinning": spinning.RT_MUTEXES,
}
"""The kinds of spinning by the functions in which it happens."""
KINDS = (*SPINNING, KERNEL, USER, IDLE, NOBODY)
_OF_FUNCTION = {name: kind for kind, names in SPINNING.items() for name in names}
_IDLE = frozenset(spinning.IDLE)
_HELPERS = frozenset(spinning.HELPERS)


@dataclass
class Share:
    """Part of the CPUs' time; all numbers are points of the grid.

    Of `points`, `in_wfe` were spent waiting in WFE. Of spinning, `off` is while the VCPU waited for
    was off its CPU, `running` while it ran, `sleeping` while the owner's task ran on no VCPU;
    `readers` is waiting for readers; of the rest, the awaited is not known.
    """

    points: int = 0
    in_wfe: int = 0
    off: int = 0
    running: int = 0
    sleeping: int = 0
    readers: int = 0


@dataclass
class Shares:
    """What `total` points of the grid, all CPUs together, were spent on."""

    total: int
    period_ns: int
    kinds: dict[str, Share] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    """Points by the innermost function."""

    def of(self, kind: str) -> float:
        """Return the share of the CPUs' time, 0 to 1, that one of KINDS took."""
        return self.kinds[kind].points / self.total if self.total else 0.0

    def of_function(self, name: str) -> float:
        """Return the share of the CPUs' time in which this function was the innermost."""
        return self.functions.get(name, 0) / self.total if self.total else 0.0

    @property
    def spinning(self) -> Share:
        """All spinning together."""
        together = Share()
        for kind in SPINNING:
            for name, value in asdict(self.kinds[kind]).items():
                setattr(together, name, getattr(together, name) + value)
        return together

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "total": self.total,
            "period_ns": self.period_ns,
            "kinds": {name: asdict(share) for name, share in self.kinds.items()},
            "functions": dict(sorted(self.functions.items(), key=lambda item: (-item[1], item[0]))),
        }


def kind_of(stack: Stack) -> str:
    """Return what a VCPU does that has this call stack: one of KINDS."""
    if not stack[0].kernel:
        return USER
    for frame in stack:
        name = frame.name.partition(".")[0] if frame.kernel else ""
        if name in _HELPERS:
            continue
        return _OF_FUNCTION.get(name, IDLE if name in _IDLE else KERNEL)
    return KERNEL


def shares(
    samples: Iterable[Sample], stacks: Sequence[Stack], total: int, period_ns: int
) -> Shares:
    """Add up samples; `total` is how many points there were, on all CPUs together."""
    found = Shares(total, period_ns, {kind: Share() for kind in KINDS})
    kinds = [kind_of(stack) for stack in stacks]
    functions: Counter[str] = Counter()
    all_samples = list(samples)
    waiting = _by_time(all_samples)
    for sample in all_samples:
        kind = kinds[sample.stack]
        share = found.kinds[kind]
        share.points += sample.points
        share.in_wfe += sample.points if sample.waits else 0
        functions[stacks[sample.stack][0].name] += sample.points
        if kind in SPINNING:
            _add_awaited(share, sample, waiting)
    used = sum(share.points for share in found.kinds.values())
    found.total = max(total, used)
    found.kinds[NOBODY].points = found.total - used
    found.functions = dict(functions)
    return found


def _by_time(samples: Sequence[Sample]) -> dict[tuple[int, int], Sample]:
    """Return the samples of waiters that know for whom they wait, by time and VCPU."""
    return {
        (sample.time_ns, sample.vcpu): sample
        for sample in samples
        if sample.awaits is not Awaits.NOBODY
    }


def _add_awaited(share: Share, sample: Sample, waiting: dict[tuple[int, int], Sample]) -> None:
    """Count for whom a waiter spins: in a queue, that is whom the first of the queue waits for."""
    awaits, seen = sample.awaits, {sample.vcpu}
    while awaits is Awaits.RUNNING and sample.awaited is not None and sample.awaited not in seen:
        seen.add(sample.awaited)
        further = waiting.get((sample.time_ns, sample.awaited))
        if further is None:
            break
        sample, awaits = further, further.awaits
    points = sample.points
    if awaits is Awaits.OFF:
        share.off += points
    elif awaits is Awaits.RUNNING:
        share.running += points
    elif awaits is Awaits.SLEEPING:
        share.sleeping += points
    elif awaits is Awaits.READERS:
        share.readers += points
