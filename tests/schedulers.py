# SPDX-License-Identifier: GPL-2.0-or-later
"""Simulated CPUs that only have clocks, and a scheduler of the host over them."""

from dataclasses import dataclass, field
from typing import Any, Final

from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Ready, Switch
from pvlock.engines.emulator.scheduler import Place, Scheduler, ScriptedScheduler

SLICE: Final = 1_000


class FakeCpus:
    """scheduler.Cpus: clocks that the test turns, and what was put where."""

    def __init__(self, count: int) -> None:
        self.clocks = [0] * count
        self.deadlines = [0] * count
        self.vcpus: list[int | None] = [None] * count

    def assign(self, cpu: int, vcpu: int | None, now: int, deadline: int) -> None:
        self.vcpus[cpu], self.deadlines[cpu] = vcpu, deadline
        self.clocks[cpu] = max(self.clocks[cpu], now)

    def deadline(self, cpu: int) -> int:
        return self.deadlines[cpu]

    def clock(self, cpu: int) -> int:
        return self.clocks[cpu]


@dataclass
class Host:
    """A scheduler under test, what it published, and what it recorded, by kind."""

    vcpus: int
    pcpus: int
    policy: Policy = Policy.SCHEDULED_OUT
    kind: type[Scheduler] = Scheduler
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cpus = FakeCpus(self.pcpus)
        self.flags: dict[int, bool] = {}
        self.history: list[Switch] = []
        self.ready: list[Ready] = []
        self.scheduler = self.kind(
            self.cpus, self.vcpus, self.pcpus, SLICE, self.policy, self.flags.__setitem__,
            record=self._record, **self.options,
        )  # fmt: skip

    def _record(self, record: Switch | Ready) -> None:
        if isinstance(record, Ready):
            self.ready.append(record)
        else:
            self.history.append(record)

    @property
    def script(self) -> ScriptedScheduler:
        assert isinstance(self.scheduler, ScriptedScheduler)
        return self.scheduler

    def wake_all(self, now: int = 0) -> None:
        for vcpu in range(self.vcpus):
            self.scheduler.wake(vcpu, now)

    def at(self, now: int) -> None:
        """Turn the clock of every CPU to `now`."""
        self.cpus.clocks = [now] * self.pcpus

    def end_slice(self, cpu: int = 0) -> None:
        self.cpus.clocks[cpu] = self.cpus.deadlines[cpu]
        self.scheduler.slice_end(cpu)

    def check(self) -> None:
        """What must hold at all times, whatever happened."""
        scheduler = self.scheduler
        assert scheduler.on == self.cpus.vcpus
        assert HostEvent.READY not in {switch.event for switch in self.history}
        running = [vcpu for vcpu in scheduler.on if vcpu is not None]
        assert len(running) == len(set(running)), "one VCPU on two CPUs"
        assert len(scheduler.queue) == len(set(scheduler.queue)), "twice in the queue"
        assert scheduler.idle == (not running)
        for vcpu, task in enumerate(scheduler.tasks):
            assert (task.place is Place.RUNNING) == (vcpu in running)
            assert (task.place is Place.QUEUED) == (vcpu in scheduler.queue)
            assert task.cpu == (scheduler.on.index(vcpu) if vcpu in running else -1)
            assert task.running_ns >= 0
            assert task.queued_ns >= 0
            if self.policy is Policy.SCHEDULED_OUT:
                expected = task.place is not Place.RUNNING
            else:
                expected = task.preempted
                assert not expected or task.place is Place.QUEUED
            assert self.flags[vcpu] == scheduler.flag(vcpu) == expected
