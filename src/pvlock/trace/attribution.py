# SPDX-License-Identifier: GPL-2.0-or-later
"""What the waiting was for: every nanosecond of every wait is put down to one thing.

At each instant of a wait the first of these that holds decides (docs/explain.md has examples):

1. The waiter could run and has no CPU, or is blocked without having gone to sleep for the lock: its
   own time. A waiter that sleeps for the lock is waiting, as one that spins is.
2. Nobody can say who owned the lock, because events are missing: unknown.
3. An owner of the lock is off its CPU: preempted before blocked. Readers are several owners; the
   one that has been so for longest counts.
4. The head of the queue that the waiter is in is off its CPU, and the lock has come free since it
   became the head: preempted or blocked.
5. An owner runs.
6. Nobody has the lock, or it has been granted to the waiter, which is on its way.

If the VCPU found in 3 or 5 itself waits for another lock, awake or asleep, the same question is
asked for that lock, and so on: the time is put down to the VCPU at the end of the chain. A wait
inside a wait counts in both, and once in all totals over locks. Everything is in whole ns, and the
parts of a wait add up to it exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pvlock.trace import blame
from pvlock.trace.blame import Part
from pvlock.trace.columns import Bools, Ints, stable_order, stops
from pvlock.trace.events import Events, Kind
from pvlock.trace.lives import lives
from pvlock.trace.measure import Delays, Meter, Waits
from pvlock.trace.queues import queues
from pvlock.trace.waits import Pairing, pair

__all__ = ["OFF_CPU", "Attribution", "Delays", "Part", "Waits", "attribute"]

OFF_CPU = (Part.OWNER_PREEMPTED, Part.OWNER_BLOCKED, Part.QUEUE_PREEMPTED, Part.QUEUE_BLOCKED)
"""The parts in which a wait is kept waiting by a VCPU that is off its CPU."""


@dataclass
class Attribution:
    """The waits of a run and what they were for.

    `locks` are addresses, `acquired` how often each was acquired. `by_vcpu` has the parts of all
    waiting of each VCPU, every instant once. What could not be used: `cut` waits and holds in which
    events were lost, `unmatched` ones whose events do not fit, `endless` stretches in which VCPUs
    wait for each other in a circle.
    """

    events: Events
    pairing: Pairing
    locks: list[int]
    acquired: Ints
    waits: Waits
    by_vcpu: Ints
    delays: Delays
    cut: int
    unmatched: int
    endless: int
    meter: Meter

    @property
    def total(self) -> Ints:
        """The parts of all waiting, in VCPU ns."""
        return np.asarray(self.by_vcpu.sum(axis=0))

    def costs(self, which: Bools | None = None) -> tuple[Ints, Ints]:
        """Return the schedule events that kept others waiting, and for how many VCPU ns each.

        By `which` delays (default: all).
        """
        delays, mine = self.delays, slice(None) if which is None else which
        ns = (delays.end - delays.start)[mine]
        # Doubles are exact for sums of up to 104 days.
        cost = np.bincount(delays.event[mine], ns).astype(np.int64)
        event = np.flatnonzero(cost)
        return event, cost[event]

    def ends_at(self, event: Ints) -> Ints:
        """Return when, in ns, the state ended that each of these schedule events began."""
        result: Ints = self.meter.time[self._next_switch[event]]
        return result

    @cached_property
    def _next_switch(self) -> Ints:
        """By schedule event, the next one of its VCPU, or the end."""
        switches = np.flatnonzero(self.events.kind <= Kind.READY)
        vcpu = self.events.vcpu[switches]
        order = stable_order(vcpu, self.events.vcpus)
        last = stops(len(order), vcpu[order][1:] == vcpu[order][:-1])
        result = np.full(len(self.events), len(self.events), np.int32)
        at = switches[order]
        result[at[~last]] = at[1:][~last[:-1]]
        return result

    def pairs(self, which: Bools | None = None) -> Ints:
        """Return, by waiter, by VCPU waited for, and by Part, how long in ns.

        `which` waits count (default: all). Unlike all else this takes longer the more VCPUs wait at
        once.
        """
        return self.meter.pairs(np.ones(len(self.waits), bool) if which is None else which)

    def chain(self, wait: int, at: int) -> list[tuple[int, int]]:
        """Return who waits for whom at `at` ns of a wait: (lock, VCPU), then that VCPU's, ..."""
        return self.meter.chain(wait, at)


def attribute(events: Events) -> Attribution:
    """Put every wait in `events` down to what it was for. Raises TraceError for a broken table."""
    pairing = pair(events)
    queue = queues(events, pairing)
    life = lives(events, pairing, queue)
    found, endless = blame.segments(pairing, queue, life)
    meter = Meter(events, pairing, life, found)
    waits, by_vcpu = meter.waits()
    return Attribution(
        events=events,
        pairing=pairing,
        locks=pairing.locks,
        acquired=pairing.acquired,
        waits=waits,
        by_vcpu=by_vcpu,
        delays=meter.delays(),
        cut=pairing.cut,
        unmatched=pairing.unmatched,
        endless=endless,
        meter=meter,
    )
