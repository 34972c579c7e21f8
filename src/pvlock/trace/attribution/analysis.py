# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole analysis of a table of events, and what it found."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pvlock.trace.attribution.blame import segments
from pvlock.trace.attribution.ledger import Delays, Ledger, Waits
from pvlock.trace.attribution.lives import lives
from pvlock.trace.attribution.pairing import Pairing, pair
from pvlock.trace.attribution.queues import queues
from pvlock.trace.columns import Bools, Ints, stable_order, stops
from pvlock.trace.events import Events, Kind


@dataclass
class Attribution:
    """The waits of a run and what they were for.

    `locks` are the locks' addresses, `acquired` the number of acquisitions of each. `by_vcpu` has,
    for each VCPU, how many ns of its waiting are put down to each Part, every instant once.

    The rest says what could not be used. `cut` waits and holds lost events, and `unmatched` ones
    have events that do not fit. In `endless` segments, VCPUs wait for each other in a circle.
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
    ledger: Ledger

    @property
    def total(self) -> Ints:
        """How many VCPU ns of all waiting are put down to each Part."""
        return np.asarray(self.by_vcpu.sum(axis=0))

    def costs(self, which: Bools | None = None) -> tuple[Ints, Ints]:
        """Return the schedule events that delayed waits, and what each cost, in VCPU ns.

        The events are positions in the table. The cost of an event is the sum of its delays. Only
        the delays marked by `which` count; by default all do.
        """
        delays, mine = self.delays, slice(None) if which is None else which
        ns = (delays.end - delays.start)[mine]
        # Doubles are exact for sums of up to 104 days.
        cost = np.bincount(delays.event[mine], ns).astype(np.int64)
        event = np.flatnonzero(cost)
        return event, cost[event]

    def ends_at(self, event: Ints) -> Ints:
        """Return, for each of these schedule events, when the state that it began ended, in ns."""
        result: Ints = self.ledger.time[self._next_switch[event]]
        return result

    @cached_property
    def _next_switch(self) -> Ints:
        """For each schedule event, the next one of its VCPU, or the end of the table."""
        switches = np.flatnonzero(self.events.kind <= Kind.READY)
        vcpu = self.events.vcpu[switches]
        order = stable_order(vcpu, self.events.vcpus)
        last = stops(len(order), vcpu[order][1:] == vcpu[order][:-1])
        result = np.full(len(self.events), len(self.events), np.int32)
        at = switches[order]
        result[at[~last]] = at[1:][~last[:-1]]
        return result

    def pairs(self, which: Bools | None = None) -> Ints:
        """Return how long each VCPU waited for each other one, in ns, by Part.

        The result is indexed by waiter, by VCPU waited for, and by Part. Only the waits marked by
        `which` count; by default all do. This takes longer the more VCPUs wait at once, unlike all
        else here.
        """
        return self.ledger.pairs(np.ones(len(self.waits), bool) if which is None else which)

    def chain(self, wait: int, at: int) -> list[tuple[int, int]]:
        """Return who waits for whom at time `at`, in ns, of a wait: a (lock, VCPU) for each link.

        The first is the lock of the wait and the VCPU that it waits for. If that VCPU waits itself,
        the second is its lock and the VCPU that it waits for, and so on. The VCPU is -1 where there
        is none. Of a circle, each lock and VCPU comes once.
        """
        return self.ledger.chain(wait, at)


def attribute(events: Events) -> Attribution:
    """Put every wait in `events` down to what it was for.

    Raises TraceError for a broken table, and for one in which locks, waits and preemptions overlap
    in too many places.

    VCPU 0 is preempted at 20 ns with the lock at 0x1000, and VCPU 1 waits for it:

    >>> from pvlock.trace.attribution import Part
    >>> rows = [  # time, VCPU, kind, object, other
    ...     (0, 0, Kind.SCHED_IN, 0, -1), (0, 1, Kind.SCHED_IN, 1, -1),
    ...     (5, 0, Kind.ACQUIRED, 0x1000, -1), (10, 1, Kind.CONTENDED, 0x1000, -1),
    ...     (20, 0, Kind.PREEMPTED, 0, -1), (60, 0, Kind.SCHED_IN, 0, -1),
    ...     (65, 0, Kind.RELEASED, 0x1000, -1), (66, 1, Kind.ACQUIRED, 0x1000, -1),
    ... ]
    >>> columns = np.array(rows).T
    >>> events = Events(*columns, flags=columns[0] * 0, vcpus=2, pcpus=2, start=0, end=70)
    >>> found = attribute(events)
    >>> waits = found.waits
    >>> waits.vcpu.tolist(), waits.start.tolist(), waits.end.tolist()
    ([1], [10], [66])
    >>> {part.name: int(waits.parts[0, part]) for part in Part if waits.parts[0, part]}
    {'OWNER_RUNNING': 15, 'OWNER_PREEMPTED': 40, 'NO_OWNER': 1}
    >>> event, cost = found.costs()
    >>> event.tolist(), cost.tolist(), found.ends_at(event).tolist()
    ([4], [40], [60])
    >>> int(found.pairs()[1, 0].sum())  # how long VCPU 1 waited for VCPU 0
    55
    >>> found.chain(0, 30)  # The wait is for the lock found.locks[0], and so for VCPU 0.
    [(0, 0)]
    """
    pairing = pair(events)
    queue = queues(events, pairing)
    life = lives(events, pairing, queue)
    found, endless = segments(pairing, queue, life)
    ledger = Ledger(events, pairing, life, found)
    waits, by_vcpu = ledger.waits()
    return Attribution(
        events=events,
        pairing=pairing,
        locks=pairing.locks,
        acquired=pairing.acquired,
        waits=waits,
        by_vcpu=by_vcpu,
        delays=ledger.delays(),
        cut=pairing.cut,
        unmatched=pairing.unmatched,
        endless=endless,
        ledger=ledger,
    )
