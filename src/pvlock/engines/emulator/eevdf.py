# SPDX-License-Identifier: GPL-2.0-or-later
"""A host scheduler near to Linux's: a queue for each CPU, and EEVDF within each.

The rules are those of kernel/sched/fair.c in Linux 6.12; each function names the one it is after.
What is left out is in docs/models.md. It is deterministic, and work-conserving: no CPU is idle
while a VCPU waits for any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pvlock.engines.contract import HostEvent
from pvlock.engines.emulator.scheduler import Place, Scheduler

NICE_0 = 1024
"""The weight of a task of nice 0 (`NICE_0_LOAD`); virtual time is real time at this weight."""
_TRIES = 3
"""How many VCPUs that cannot be yielded to a yield tries (`try` in kvm_vcpu_on_spin())."""


@dataclass(slots=True)
class Entity:
    """A VCPU's thread as a run queue sees it (`struct sched_entity`); times in virtual ns."""

    request: int
    """What it asks for at a time, in real ns (`slice`)."""
    weight: int = NICE_0
    vruntime: int = 0
    deadline: int = 0
    lag: int = 0
    """While it is in no queue: how far it was behind the average when it left."""
    relative: bool = False
    """Whether `deadline` counts from `vruntime`: so it is kept in a move."""
    protected: bool = False
    """It runs on until its request is done, unless it is ahead of the average (RUN_TO_PARITY)."""
    delayed: bool = False
    """It sleeps, but stays in its queue until the average has caught up (DELAY_DEQUEUE)."""
    cpu: int = -1
    """The CPU whose queue it is in, or was in last."""

    def virtual(self, ns: int) -> int:
        """Return `ns` of real time as virtual time (calc_delta_fair())."""
        return ns * NICE_0 // self.weight

    def next_request(self) -> None:
        """Begin a request: set the deadline by which it should have been served."""
        self.deadline = self.vruntime + self.virtual(self.request)


class RunQueue:
    """What runs on one CPU and waits for it (`struct cfs_rq`)."""

    def __init__(self, entities: Sequence[Entity]) -> None:
        self._all = entities
        self.members: list[int] = []
        """Who is here, in the order in which they came; the one that runs is one of them."""
        self.current: int | None = None
        self.buddy: int | None = None
        """Whom a yield wants to run next (`next`)."""
        self.started = 0
        """Up to when the time of `current` is counted, in ns of the CPU's clock."""

    def _weighted(self) -> tuple[int, int]:
        here = [self._all[vcpu] for vcpu in self.members]
        return sum(e.weight * e.vruntime for e in here), sum(e.weight for e in here)

    def average(self) -> int:
        """Return the queue's virtual time, the average of its members (avg_vruntime())."""
        total, weight = self._weighted()
        return total // weight if weight else 0

    def eligible(self, vcpu: int) -> bool:
        """Tell whether a member has had no more than its share (entity_eligible())."""
        total, weight = self._weighted()
        return total >= weight * self._all[vcpu].vruntime

    def waiting(self) -> list[int]:
        """Return who waits for the CPU, who came first first."""
        return [v for v in self.members if v != self.current and not self._all[v].delayed]

    def advance(self, now: int) -> None:
        """Count the time of the VCPU that runs, up to `now` (update_curr())."""
        if self.current is None or now <= self.started:
            return
        entity = self._all[self.current]
        entity.vruntime += entity.virtual(now - self.started)
        self.started = now
        if entity.vruntime >= entity.deadline:  # update_deadline()
            entity.next_request()
            entity.protected = False

    def due_in(self) -> int:
        """Return after how many ns the VCPU that runs has had what it asked for."""
        assert self.current is not None
        entity = self._all[self.current]
        left = entity.deadline - entity.vruntime
        return max(-(-left * entity.weight // NICE_0), 1)

    def add(self, vcpu: int) -> None:
        """Let a VCPU join, as far behind the average as it was when it left (place_entity())."""
        entity = self._all[vcpu]
        _, load = self._weighted()
        # Its own weight moves the average: more of the lag is needed for that to come out.
        lag = entity.lag * (load + entity.weight) // load if load else 0
        entity.vruntime = self.average() - lag
        if entity.relative:
            entity.deadline += entity.vruntime
            entity.relative = False
        else:
            entity.next_request()
        self.members.append(vcpu)

    def remove(self, vcpu: int, *, moved: bool = False) -> None:
        """Let a VCPU leave, to sleep or (`moved`) for another queue (dequeue_entity())."""
        entity = self._all[vcpu]
        limit = entity.virtual(2 * entity.request)
        entity.lag = max(-limit, min(self.average() - entity.vruntime, limit))  # entity_lag()
        if entity.delayed:
            entity.lag, entity.delayed = min(entity.lag, 0), False  # DELAY_ZERO
        if moved:
            entity.deadline -= entity.vruntime
            entity.relative = True
        self.members.remove(vcpu)
        if self.buddy == vcpu:
            self.buddy = None

    def sleep(self, vcpu: int) -> None:
        """Let a VCPU leave to sleep: later, if it has had more than its share (DELAY_DEQUEUE)."""
        if self.eligible(vcpu):
            self.remove(vcpu)
        else:
            self._all[vcpu].delayed = True

    def best(self) -> int | None:
        """Return the eligible member with the earliest deadline (pick_eevdf())."""
        running = self.current
        if running is not None and not self.eligible(running):
            running = None
        if running is not None and self._all[running].protected:
            return running
        others = [v for v in self.members if v != self.current and self.eligible(v)]
        found = min(others, key=lambda v: self._all[v].deadline, default=None)
        if running is None or found is None:
            return found if running is None else running
        return running if self._all[running].deadline < self._all[found].deadline else found

    def pick(self) -> int | None:
        """Return who runs next: the buddy of a yield if it is eligible, else the best one awake.

        This is pick_next_entity(). A delayed one that is picked has lingered long enough, and goes.
        """
        if self.buddy is not None and self.eligible(self.buddy):
            return self.buddy
        while (vcpu := self.best()) is not None and self._all[vcpu].delayed:
            self.remove(vcpu)
        return vcpu

    def run(self, vcpu: int) -> None:
        """Let a member run (set_next_entity())."""
        self.current = vcpu
        self._all[vcpu].protected = True
        if self.buddy == vcpu:
            self.buddy = None

    def put_back(self) -> None:
        """Let who ran wait again, behind those with an equal deadline (put_prev_entity())."""
        assert self.current is not None
        self.members.remove(self.current)
        self.members.append(self.current)
        self.current = None


@dataclass
class EevdfScheduler(Scheduler):
    """EEVDF on each CPU, with wake-up placement and balancing between them.

    `slice_ns` is the length of a request (`base_slice_ns`). A request ends exactly when it is done,
    not at the next tick. `kick_ns` is how long one CPU's interrupt takes to another. `weights` are
    the VCPUs' weights, NICE_0 where there are none.
    """

    kick_ns: int = 0
    weights: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Start with empty queues."""
        super().__post_init__()
        self.entities = [Entity(self.slice_ns) for _ in range(self.vcpus)]
        for entity, weight in zip(self.entities, self.weights, strict=False):
            entity.weight = weight
        self.queues = [RunQueue(self.entities) for _ in range(self.pcpus)]

    def wake(self, vcpu: int, now: int) -> None:
        """Make a blocked or new VCPU runnable; it may preempt who runs on its CPU."""
        task, entity = self.tasks[vcpu], self.entities[vcpu]
        if task.place in (Place.RUNNING, Place.QUEUED):
            return
        self._ready(vcpu, now)
        if entity.delayed:
            cpu = entity.cpu
            self._requeue(vcpu)
        else:
            cpu = self._placed(vcpu)
            self._advance(cpu)
            self._join(vcpu, cpu)
        rq = self.queues[cpu]
        if rq.current is None:
            self._switch_in(cpu, now)
            return
        if rq.best() == vcpu:  # check_preempt_wakeup_fair()
            self._kick(cpu, now)
        self._fill_idle(now)

    def slice_end(self, cpu: int) -> None:
        """Let `cpu` choose again, where a request is done, after it has looked for work to pull."""
        self._advance(cpu)
        self._balance(cpu)
        self._reschedule(cpu, HostEvent.SLICE)

    def others_wait(self, cpu: int) -> bool:
        """Tell whether there is more than one in the queue of `cpu`, those included that linger."""
        return len(self.queues[cpu].members) > 1

    def yield_(self, cpu: int) -> None:
        """See Scheduler. The search ends after three VCPUs that there is no point to yield to."""
        me, tries = self._running(cpu), _TRIES
        mine = self.tasks[me]
        mine.in_spin_loop = True
        for vcpu in self.directed.targets(me, tuple(self.queue), self.tasks):
            if self._pointless(cpu, vcpu):
                tries -= 1
                if not tries:
                    break
            elif self.yield_to(cpu, vcpu):
                self.directed.boosted = vcpu
                break
        if self.on[cpu] == me:  # else it is still in there, until it gets a CPU
            mine.in_spin_loop = mine.eligible = False

    def _pointless(self, cpu: int, vcpu: int) -> bool:
        return not self.others_wait(cpu) and not self.others_wait(self.entities[vcpu].cpu)

    def yield_to(self, cpu: int, vcpu: int) -> bool:
        """Let `vcpu` run next on the CPU that it waits for, if it is eligible there (yield_to()).

        The VCPU on `cpu` gives up the rest of its request, and `cpu` chooses anew. Only if `vcpu`
        waits for this very CPU can it get it.
        """
        if self.tasks[vcpu].place is not Place.QUEUED or self._pointless(cpu, vcpu):
            return False
        me, mine, theirs = self._running(cpu), self.queues[cpu], self.entities[vcpu].cpu
        self.queues[theirs].buddy = vcpu
        self._advance(cpu)
        if self.others_wait(cpu):  # yield_task_fair()
            if mine.buddy == me:
                mine.buddy = None
            if mine.eligible(me):
                entity = self.entities[me]
                entity.vruntime = entity.deadline
                entity.next_request()
                entity.protected = False
        if theirs != cpu:
            self._kick(theirs, self.cpus.clock(cpu))
        self._reschedule(cpu, HostEvent.YIELD)
        return True

    def _leave(self, cpu: int, place: Place, event: HostEvent) -> None:
        vcpu, now = self._running(cpu), self.cpus.clock(cpu)
        rq = self.queues[cpu]
        self._advance(cpu)
        self._switch_out(cpu, now, place, event)
        rq.current = None
        if place is Place.BLOCKED:
            rq.sleep(vcpu)
        else:
            rq.remove(vcpu)
        self._switch_in(cpu, now)

    def _switch_in(self, cpu: int, now: int) -> None:
        """Give an idle CPU to the next of its queue, or of another's (sched_balance_newidle())."""
        rq = self.queues[cpu]
        vcpu = rq.pick()
        if vcpu is None and (busiest := self._busiest()) is not None:
            vcpu = self._pull(busiest, cpu)
        if vcpu is None:
            self.cpus.assign(cpu, None, now, 0)
            return
        self._run(cpu, vcpu, now)

    def _run(self, cpu: int, vcpu: int, now: int) -> None:
        rq = self.queues[cpu]
        rq.run(vcpu)
        self.queue.remove(vcpu)
        # Linux counts the switch as time of the one that comes.
        self._put(cpu, vcpu, now, max(rq.due_in() - self.switch_ns, 1))
        rq.started = self.cpus.clock(cpu) - self.switch_ns

    def _kick(self, cpu: int, now: int) -> None:
        """Make `cpu` choose again soon: the interrupt takes `kick_ns` (resched_curr()).

        A kick before the last has arrived changes nothing.
        """
        clock = self.cpus.clock(cpu)
        soon = max(now, clock) + self.kick_ns
        if soon < self.cpus.deadline(cpu):
            self.cpus.assign(cpu, self._running(cpu), clock, soon)

    def _reschedule(self, cpu: int, event: HostEvent) -> None:
        """Let `cpu` choose; whoever ran, if not chosen, goes back into the queue (schedule())."""
        rq, vcpu, now = self.queues[cpu], self._running(cpu), self.cpus.clock(cpu)
        chosen = rq.pick()
        if chosen is None or chosen == vcpu:
            self.cpus.assign(cpu, vcpu, now, now + rq.due_in())
            return
        self._switch_out(cpu, now, Place.QUEUED, event)
        self.queue.append(vcpu)
        rq.put_back()
        self._run(cpu, chosen, now)

    def _advance(self, cpu: int) -> None:
        self.queues[cpu].advance(self.cpus.clock(cpu))

    def _join(self, vcpu: int, cpu: int) -> None:
        entity = self.entities[vcpu]
        entity.cpu = cpu
        self.queues[cpu].add(vcpu)
        first = self._first.pop(vcpu, None)
        if first is not None:  # PLACE_DEADLINE_INITIAL takes half a request; here the seed chooses
            entity.deadline = entity.vruntime + entity.virtual(first)

    def _requeue(self, vcpu: int) -> None:
        """Wake one that lingers in its queue: its lag may not be to its favour (DELAY_ZERO)."""
        entity = self.entities[vcpu]
        rq = self.queues[entity.cpu]
        self._advance(entity.cpu)
        if rq.average() > entity.vruntime:
            rq.remove(vcpu)
            rq.add(vcpu)
        entity.delayed = False

    def _placed(self, vcpu: int) -> int:
        """Return the CPU for a VCPU that wakes: its last one if that is idle, else an idle one.

        If none is idle, it is its last one (select_task_rq_fair(), select_idle_sibling()). A VCPU
        that never ran goes where the fewest are (sched_balance_find_dst_cpu()).
        """
        last = self.entities[vcpu].cpu
        order = [(max(last, 0) + step) % self.pcpus for step in range(self.pcpus)]
        for cpu in order:
            if self.on[cpu] is None:
                return cpu
        return last if last >= 0 else min(order, key=lambda cpu: len(self.queues[cpu].members))

    def _busiest(self) -> int | None:
        """Return the CPU for which most VCPUs wait; None if none waits."""
        cpu = max(range(self.pcpus), key=lambda c: len(self.queues[c].waiting()))
        return cpu if self.queues[cpu].waiting() else None

    def _pull(self, source: int, cpu: int) -> int:
        """Move who has waited longest in the queue of `source` to `cpu` (detach_tasks())."""
        vcpu = self.queues[source].waiting()[0]
        self._advance(source)
        self._advance(cpu)
        self.queues[source].remove(vcpu, moved=True)
        self._join(vcpu, cpu)
        return vcpu

    def _balance(self, cpu: int) -> None:
        """Pull a VCPU to a CPU that has two fewer than the busiest (sched_balance_rq())."""
        busiest = self._busiest()
        if busiest is None or busiest == cpu:
            return
        if len(self.queues[busiest].waiting()) >= len(self.queues[cpu].waiting()) + 2:
            self._pull(busiest, cpu)

    def _fill_idle(self, now: int) -> None:
        for cpu, running in enumerate(self.on):
            if running is None:
                self._switch_in(cpu, now)
