# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's scheduler in virtual time: which VCPU is on which simulated CPU, and its flag.

All CPUs share one first-in first-out queue, and take turns of one slice. This is simpler than a
host's real scheduler, and no CPU idles while a VCPU waits: results depend on preemption and not on
load balancing. eevdf.py has a scheduler that is nearer to Linux's. A scheduler knows nothing of
Unicorn; vm.py tells it what happened and when.
"""

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Ready, Switch
from pvlock.engines.emulator.yields import DirectedYield


class Place(enum.Enum):
    """Where a VCPU is, as the host's scheduler sees it."""

    OFF = "off"
    QUEUED = "queued"
    RUNNING = "running"
    BLOCKED = "blocked"


class Cpus(Protocol):
    """The simulated CPUs, whose clocks belong to vm.py."""

    def assign(self, cpu: int, vcpu: int | None, now: int, deadline: int) -> None:
        """Put `vcpu` on `cpu` (None: idle) from `now` until `deadline`, both in ns."""

    def deadline(self, cpu: int) -> int:
        """Return when the slice of the VCPU on `cpu` ends, in ns."""

    def clock(self, cpu: int) -> int:
        """Return the clock of `cpu` in ns."""


@dataclass(slots=True)
class Task:
    """A VCPU as the scheduler knows it; times in ns."""

    place: Place = Place.OFF
    cpu: int = -1
    since: int = 0
    running_ns: int = 0
    queued_ns: int = 0
    preempted: bool = False
    in_spin_loop: bool = False
    eligible: bool = False


Publish = Callable[[int, bool], None]
"""Write the `preempted` field of a VCPU's structure."""


@dataclass
class Scheduler:
    """Round robin over one queue.

    `first_slices` shortens the first slice of each VCPU, so that slices do not end in step.
    `switch_ns` is what a switch costs the CPU. `switches` counts how often a VCPU lost its CPU.
    `record` is called with every switch, and with every VCPU that begins to wait for a CPU after it
    was blocked or off. `directed` chooses whom a VCPU whose WFE trapped yields to.
    """

    cpus: Cpus
    vcpus: int
    pcpus: int
    slice_ns: int
    policy: Policy
    publish: Publish
    switch_ns: int = 0
    first_slices: Sequence[int] = ()
    record: Callable[[Switch | Ready], None] | None = None
    directed: DirectedYield = field(default_factory=DirectedYield)
    queue: deque[int] = field(default_factory=deque)
    switches: int = 0

    def __post_init__(self) -> None:
        """Start with every CPU idle and every VCPU off."""
        self.tasks = [Task() for _ in range(self.vcpus)]
        self.on: list[int | None] = [None] * self.pcpus
        self._first = dict(enumerate(self.first_slices))
        for vcpu in range(self.vcpus):
            self.publish(vcpu, self.flag(vcpu))

    @property
    def idle(self) -> bool:
        """Whether no CPU runs a VCPU."""
        return not any(vcpu is not None for vcpu in self.on)

    def flag(self, vcpu: int) -> bool:
        """Return what `preempted` should read under the policy (SPECIFICATION.md, section 6)."""
        task = self.tasks[vcpu]
        if self.policy is Policy.SCHEDULED_OUT:
            return task.place is not Place.RUNNING
        return task.preempted

    def wake(self, vcpu: int, now: int) -> None:
        """Make a blocked or new VCPU runnable: on an idle CPU if there is one, else queued."""
        task = self.tasks[vcpu]
        if task.place in (Place.RUNNING, Place.QUEUED):
            return
        self._ready(vcpu, now)
        for cpu, running in enumerate(self.on):
            if running is None:
                self._switch_in(cpu, now)
                return

    def slice_end(self, cpu: int) -> None:
        """Give `cpu`, where a slice is over, to the next VCPU in the queue, if there is one."""
        vcpu, now = self._running(cpu), self.cpus.clock(cpu)
        if not self.queue:
            self.cpus.assign(cpu, vcpu, now, now + self.slice_ns)
            return
        self._switch_out(cpu, now, Place.QUEUED, HostEvent.SLICE)
        self.queue.append(vcpu)
        self._switch_in(cpu, now)

    def block(self, cpu: int) -> None:
        """Take the VCPU off `cpu` until an interrupt wakes it."""
        self._leave(cpu, Place.BLOCKED, HostEvent.WFI)

    def off(self, cpu: int) -> None:
        """Take the VCPU off `cpu` until it is turned on again."""
        self._leave(cpu, Place.OFF, HostEvent.OFF)

    def others_wait(self, cpu: int) -> bool:
        """Tell whether a VCPU waits for `cpu`: Linux's single_task_running() is false then."""
        return bool(self.queue)

    def yield_(self, cpu: int) -> None:
        """Give `cpu` to a VCPU that waits for one, as KVM's kvm_vcpu_on_spin() does when WFE traps.

        Whom, says yields.py.
        """
        me = self._running(cpu)
        mine = self.tasks[me]
        mine.in_spin_loop = True
        for vcpu in self.directed.targets(me, tuple(self.queue), self.tasks):
            if self.yield_to(cpu, vcpu):
                self.directed.boosted = vcpu
                return
        mine.in_spin_loop = mine.eligible = False

    def yield_to(self, cpu: int, vcpu: int) -> bool:
        """Let `vcpu` run instead of the VCPU on `cpu`; False if it does not wait for a CPU.

        It gets the rest of the slice: if each yield gave a fresh one, no slice would ever end.
        """
        if self.tasks[vcpu].place is not Place.QUEUED:
            return False
        me, now = self._running(cpu), self.cpus.clock(cpu)
        self.queue.remove(vcpu)
        left = self.cpus.deadline(cpu) - now
        self._switch_out(cpu, now, Place.QUEUED, HostEvent.YIELD)
        self.queue.append(me)
        self._put(cpu, vcpu, now, left)
        return True

    def candidates(self) -> list[int]:
        """Return the VCPUs that a directed yield may go to, unless the spinner passes over them."""
        return [vcpu for vcpu in self.queue if self.directed.may_get_it(self.tasks[vcpu])]

    def account(self, now: int) -> None:
        """Bring `running_ns` and `queued_ns` of every VCPU up to `now`."""
        for task in self.tasks:
            self._account(task, max(now, task.since))

    def _ready(self, vcpu: int, now: int) -> None:
        task = self.tasks[vcpu]
        task.place, task.since = Place.QUEUED, max(now, task.since)
        self.queue.append(vcpu)
        if self.record:
            self.record(Ready(task.since, vcpu))

    def _leave(self, cpu: int, place: Place, event: HostEvent) -> None:
        now = self.cpus.clock(cpu)
        self._switch_out(cpu, now, place, event)
        self._switch_in(cpu, now)

    def _switch_out(self, cpu: int, now: int, place: Place, event: HostEvent) -> None:
        vcpu = self._running(cpu)
        task = self.tasks[vcpu]
        self._account(task, now)
        task.place, task.cpu = place, -1
        task.preempted = place is Place.QUEUED
        self.on[cpu] = None
        self.switches += 1
        self.publish(vcpu, self.flag(vcpu))
        if self.record:
            self.record(Switch(now, cpu, vcpu, event))

    def _switch_in(self, cpu: int, now: int) -> None:
        if not self.queue:
            self.cpus.assign(cpu, None, now, 0)
            return
        self._put(cpu, self.queue.popleft(), now)

    def _put(self, cpu: int, vcpu: int, now: int, slice_ns: int | None = None) -> None:
        # CPUs' clocks differ by up to a quantum, but no VCPU's own time goes back.
        task = self.tasks[vcpu]
        now = max(now, self.cpus.clock(cpu), task.since) + self.switch_ns
        self._account(task, max(now, task.since))
        task.place, task.cpu = Place.RUNNING, cpu
        # KVM forgets these two when the VCPU comes back from its yield, which is here.
        task.in_spin_loop = task.eligible = False
        task.preempted = False
        self.on[cpu] = vcpu
        if slice_ns is None:
            slice_ns = self._first.pop(vcpu, self.slice_ns)
        self.cpus.assign(cpu, vcpu, now, now + slice_ns)
        self.publish(vcpu, self.flag(vcpu))
        if self.record:
            self.record(Switch(now, cpu, vcpu, HostEvent.IN))

    def _running(self, cpu: int) -> int:
        vcpu = self.on[cpu]
        assert vcpu is not None
        return vcpu

    @staticmethod
    def _account(task: Task, now: int) -> None:
        if task.place is Place.RUNNING:
            task.running_ns += now - task.since
        elif task.place is Place.QUEUED:
            task.queued_ns += now - task.since
        task.since = now


@dataclass
class ScriptedScheduler(Scheduler):
    """A schedule given in advance: only `place` puts VCPUs on CPUs and takes them off.

    A VCPU that sleeps keeps its CPU, idle, until the script takes it away; one that wakes runs when
    the script has it on a CPU. Used where every switch must be known: tests, and explanations.
    """

    def __post_init__(self) -> None:
        """Start with no VCPU wanted anywhere."""
        super().__post_init__()
        self._wanted: list[int | None] = [None] * self.pcpus

    def place(self, cpu: int, vcpu: int | None, now: int) -> None:
        """Give `cpu` to `vcpu`, or to nobody, from `now` on."""
        if self.on[cpu] is not None:
            queued = self._running(cpu)
            self._switch_out(cpu, max(now, self.cpus.clock(cpu)), Place.QUEUED, HostEvent.SCRIPT)
            self.queue.append(queued)
        self._wanted[cpu] = vcpu
        # The VCPU that lost this CPU may be the one that another CPU has been kept for.
        for other in [cpu, *range(self.pcpus)]:
            if self.on[other] is None:
                self._switch_in(other, now)

    def wake(self, vcpu: int, now: int) -> None:
        """Make a VCPU runnable; it runs if the script has it on a CPU."""
        task = self.tasks[vcpu]
        if task.place in (Place.RUNNING, Place.QUEUED):
            return
        self._ready(vcpu, now)
        if vcpu in self._wanted:
            self._switch_in(self._wanted.index(vcpu), now)

    def slice_end(self, cpu: int) -> None:
        """Begin another slice: a script alone ends the turn of a VCPU."""
        self.cpus.assign(cpu, self._running(cpu), self.cpus.clock(cpu), 1 << 62)

    def yield_to(self, cpu: int, vcpu: int) -> bool:
        """Do nothing: a script alone ends the turn of a VCPU."""
        return False

    def _switch_in(self, cpu: int, now: int) -> None:
        vcpu = self._wanted[cpu]
        if vcpu is None or vcpu not in self.queue:
            self.cpus.assign(cpu, None, now, 0)
            return
        self.queue.remove(vcpu)
        self._put(cpu, vcpu, now)
