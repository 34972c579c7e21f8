# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants that are right but for one way to lose a CPU or to get one, one VCPU, or one time."""

import functools
from collections.abc import Callable

from mutants.catalogue import Patch, mutant
from mutants.flags import judged, publish, publishing
from pvlock import abi
from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent
from pvlock.engines.emulator.scheduler import Place, Scheduler
from pvlock.engines.emulator.vm import Vm
from pvlock.hypercall import Hypercalls

path_mutant = functools.partial(mutant, in_worker=True)
sparing_mutant = functools.partial(path_mutant, policy=Policy.PREEMPTED)

switch_out, put, wake = Scheduler._switch_out, Scheduler._put, Scheduler.wake


def after_out(
    patch: Patch, change: Callable[[Scheduler, int, Place, HostEvent], bool | None]
) -> None:
    """Publish `change(scheduler, vcpu, place, event)` too, unless None, when one lost its CPU."""

    def changed(self: Scheduler, cpu: int, now: int, place: Place, event: HostEvent) -> None:
        vcpu = self._running(cpu)
        switch_out(self, cpu, now, place, event)
        if (value := change(self, vcpu, place, event)) is not None:
            self.publish(vcpu, value)

    patch(Scheduler, "_switch_out", changed)


@sparing_mutant(
    "6.4",
    "under preempted a VCPU that gives its CPU away in WFE is not flagged",
    "every-switch",
    "yielding-reads-1",
)
def yield_not_flagged(patch: Patch) -> None:
    after_out(patch, lambda _s, _v, _p, event: False if event is HostEvent.YIELD else None)


@path_mutant("6.1", "only the first 16 VCPUs are ever published", "every-switch", "off-vcpu")
def first_16(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if vcpu < 16 or not hasattr(self, "scheduler"):
            publish(self, vcpu, preempted)

    publishing(patch, changed)


@path_mutant("6.1", "no flag in the second page of the region changes", "every-switch")
def first_page(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if vcpu < 4096 // abi.STRUCTURE_STRIDE:
            publish(self, vcpu, preempted)

    publishing(patch, changed)


@path_mutant("6.1", "every 500th switch is not published", "every-switch")
def every_500th(patch: Patch) -> None:
    count = 0

    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        nonlocal count
        count += 1
        if count % 500:
            publish(self, vcpu, preempted)

    publishing(patch, changed)


@path_mutant("6.1", "a VCPU that gets another's CPU by a directed yield stays flagged",
             "every-switch", "return-reads-0")  # fmt: skip
def stays_flagged_by_a_yield(patch: Patch) -> None:
    def changed(self: Scheduler, cpu: int, vcpu: int, now: int, left: int | None = None) -> None:
        before = self.publish
        if left is not None:
            self.publish = lambda _vcpu, _value: None
        put(self, cpu, vcpu, now, left)
        self.publish = before

    patch(Scheduler, "_put", changed)


@path_mutant("6.1", "a VCPU that wakes up on another CPU than its last stays flagged",
             "every-switch", "return-reads-0")  # fmt: skip
def migration_stays_flagged(patch: Patch) -> None:
    last: dict[int, int] = {}

    def changed(self: Scheduler, cpu: int, vcpu: int, now: int, left: int | None = None) -> None:
        before, moved = self.publish, last.get(vcpu, cpu) != cpu
        if moved:
            self.publish = lambda _vcpu, _value: None
        put(self, cpu, vcpu, now, left)
        self.publish = before
        last[vcpu] = cpu

    patch(Scheduler, "_put", changed)


@sparing_mutant("6.4", "under preempted a VCPU that was woken and waits for a CPU is flagged",
                "every-switch")  # fmt: skip
def woken_is_flagged(patch: Patch) -> None:
    judged(
        patch,
        lambda self, vcpu: (
            self.tasks[vcpu].place is Place.QUEUED
            if self.policy is Policy.PREEMPTED and not self.tasks[vcpu].preempted
            else None
        ),
    )

    def changed(self: Scheduler, vcpu: int, now: int) -> None:
        wake(self, vcpu, now)
        self.publish(vcpu, self.flag(vcpu))

    patch(Scheduler, "wake", changed)


@path_mutant("6.3", "only the first 20 waits in WFI of a VCPU are flagged",
             "every-switch", "sleepers-letter")  # fmt: skip
def first_sleeps(patch: Patch) -> None:
    slept: dict[int, int] = {}

    def change(_s: Scheduler, vcpu: int, place: Place, _event: HostEvent) -> bool | None:
        slept[vcpu] = slept.get(vcpu, 0) + (place is Place.BLOCKED)
        return False if place is Place.BLOCKED and slept[vcpu] > 20 else None

    after_out(patch, change)


@sparing_mutant("6.4", "under preempted a VCPU that was preempted once is flagged when it sleeps",
                "every-switch", "sleepers-sparing")  # fmt: skip
def sleeper_once_preempted(patch: Patch) -> None:
    once: set[int] = set()

    def change(_s: Scheduler, vcpu: int, place: Place, _event: HostEvent) -> bool | None:
        if place is Place.QUEUED:
            once.add(vcpu)
        return True if place is Place.BLOCKED and vcpu in once else None

    after_out(patch, change)


@sparing_mutant("6.6", "under preempted a VCPU that turns itself off a second time is flagged",
                "every-switch", "off-again")  # fmt: skip
def off_twice(patch: Patch) -> None:
    offs: dict[int, int] = {}

    def change(_s: Scheduler, vcpu: int, place: Place, _event: HostEvent) -> bool | None:
        offs[vcpu] = offs.get(vcpu, 0) + (place is Place.OFF)
        return True if place is Place.OFF and offs[vcpu] > 1 else None

    after_out(patch, change)


@path_mutant("10.3", "stolen time counts the time that a VCPU sleeps, too", "every-wait")
def sleep_is_stolen(patch: Patch) -> None:
    ready = Scheduler._ready

    def changed(self: Scheduler, vcpu: int, now: int) -> None:
        task = self.tasks[vcpu]
        if task.place is Place.BLOCKED:
            task.queued_ns += max(0, now - task.since)
        ready(self, vcpu, now)

    patch(Scheduler, "_ready", changed)


@path_mutant("10.3", "stolen time leaves out the wait after a directed yield", "every-wait")
def yield_is_not_stolen(patch: Patch) -> None:
    yielded: set[int] = set()

    def changed(self: Scheduler, cpu: int, vcpu: int, now: int, left: int | None = None) -> None:
        if vcpu in yielded:
            yielded.remove(vcpu)
            self.tasks[vcpu].since = max(now, self.cpus.clock(cpu), self.tasks[vcpu].since)
        put(self, cpu, vcpu, now, left)

    def change(_s: Scheduler, vcpu: int, _place: Place, event: HostEvent) -> bool | None:
        if event is HostEvent.YIELD:
            yielded.add(vcpu)
        return None

    patch(Scheduler, "_put", changed)
    after_out(patch, change)


@mutant("2.1", "VCPUs whose Aff0 is the same share a structure", "distinct", "layout")
def by_aff0(patch: Patch) -> None:
    result = Hypercalls._result

    def changed(self: Hypercalls, vcpu: int, function: int, argument: int) -> int:
        return result(self, vcpu % 16, function, argument)

    patch(Hypercalls, "_result", changed)
