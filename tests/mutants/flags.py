# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of publishing: what the flag says, and when. They run in the emulator's worker."""

import functools
from collections.abc import Callable

from mutants.catalogue import Patch, mutant
from pvlock.abi import Policy
from pvlock.engines.emulator.scheduler import Place, Scheduler
from pvlock.engines.emulator.vm import Vm

flag_mutant = functools.partial(mutant, in_worker=True)

publish = Vm._publish
flag = Scheduler.flag


def publishing(patch: Patch, changed: Callable[[Vm, int, bool], None]) -> None:
    """Let `changed(vm, vcpu, preempted)` write the flag."""
    patch(Vm, "_publish", changed)


def values(patch: Patch, value: Callable[[bool], int]) -> None:
    """Write `value(preempted)` instead of 0 or 1."""

    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if vcpu in self._flags:
            self._flags[vcpu].value = value(preempted)

    publishing(patch, changed)


def judged(patch: Patch, judge: Callable[[Scheduler, int], bool | None]) -> None:
    """Let `judge(scheduler, vcpu)` say what the flag is, and where it returns None, nothing."""

    def changed(self: Scheduler, vcpu: int) -> bool:
        wrong = judge(self, vcpu)
        return flag(self, vcpu) if wrong is None else wrong

    patch(Scheduler, "flag", changed)


def later(self: Vm, delay_ns: int, action: Callable[[], None]) -> None:
    """Do `action` after this time; events fall due at the end of a quantum."""
    self._at(self.now + self.config.quantum_ns + delay_ns, lambda _now: action())


@flag_mutant(
    "6.1",
    "the document's inverted paragraph: 1 on a CPU, 0 off it",
    "own-flag",
    "running-reads-0",
    "preempted-reads-1",
)
def inverted(patch: Patch) -> None:
    judged(patch, lambda self, vcpu: not flag(self, vcpu))


@flag_mutant("6.1", "the flag becomes 1 one slice late", "watch", "preempted-reads-1")
def one_slice_late(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if not preempted:
            publish(self, vcpu, False)
            return
        later(
            self, self.config.slice_ns,
            lambda: publish(self, vcpu, self.scheduler.flag(vcpu)),
        )  # fmt: skip

    publishing(patch, changed)


@flag_mutant(
    "6.1", "the flag becomes 1 at the next switch of another VCPU, not at its own", "watch"
)
def one_switch_late(patch: Patch) -> None:
    waiting: list[int] = []

    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        for other in waiting:
            publish(self, other, self.scheduler.flag(other))
        waiting.clear()
        if preempted and hasattr(self, "scheduler"):  # it publishes while it is made, too
            waiting.append(vcpu)
        else:
            publish(self, vcpu, preempted)

    publishing(patch, changed)


@flag_mutant("6.1", "the flag is never cleared", "own-flag", "running-reads-0")
def never_cleared(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if preempted:
            publish(self, vcpu, True)

    publishing(patch, changed)


@flag_mutant("6.1", "the flag is never set", "preempted-reads-1")
def never_set(patch: Patch) -> None:
    publishing(patch, lambda self, vcpu, _preempted: publish(self, vcpu, False))


@flag_mutant(
    "6.1", "the flag becomes 1 a tenth of a slice before the VCPU's last instruction", "own-flag"
)
def too_early(patch: Patch) -> None:
    assign = Vm.assign

    def changed(self: Vm, cpu: int, vcpu: int | None, now: int, deadline: int) -> None:
        assign(self, cpu, vcpu, now, deadline)
        if vcpu is None:
            return

        def early(_now: int) -> None:
            if self.scheduler.on[cpu] == vcpu and self.deadline(cpu) == deadline:
                publish(self, vcpu, True)

        self._at(max(now, deadline - self.config.slice_ns // 10), early)

    patch(Vm, "assign", changed)


@flag_mutant(
    "6.1",
    "the flag becomes 0 a while after the VCPU has begun to run",
    "first-instruction",
    "own-flag",
)
def cleared_late(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if preempted:
            publish(self, vcpu, True)
        else:
            later(self, 20_000, lambda: publish(self, vcpu, self.scheduler.flag(vcpu)))

    publishing(patch, changed)


@flag_mutant("6.1", "the flag is written into the next VCPU's structure", "own-flag")
def next_vcpus_flag(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        publish(self, (vcpu + 1) % self.config.vcpus, preempted)

    publishing(patch, changed)


@flag_mutant("6.1", "a VCPU that has been off is flagged for ever", "first-instruction")
def stuck_after_off(patch: Patch) -> None:
    off = Scheduler.off
    been_off: set[int] = set()

    def turned_off(self: Scheduler, cpu: int) -> None:
        been_off.add(self._running(cpu))
        off(self, cpu)

    patch(Scheduler, "off", turned_off)
    judged(patch, lambda _self, vcpu: True if vcpu in been_off else None)


@flag_mutant("6.1", "the flag becomes 1 only every second time", "preempted-reads-1")
def every_second_time(patch: Patch) -> None:
    times: dict[int, int] = {}

    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        times[vcpu] = times.get(vcpu, 0) + preempted
        publish(self, vcpu, preempted and times[vcpu] % 2 == 0)

    publishing(patch, changed)


@flag_mutant("6.3", "under scheduled-out a VCPU in WFI is not flagged", "blocked-letter")
def wfi_not_flagged(patch: Patch) -> None:
    judged(patch, lambda self, vcpu: False if is_at(self, vcpu, Place.BLOCKED) else None)


@flag_mutant(
    "6.4", "under preempted a VCPU in WFI is flagged", "blocked-sparing", policy=Policy.PREEMPTED
)
def wfi_flagged(patch: Patch) -> None:
    judged(patch, lambda self, vcpu: True if is_at(self, vcpu, Place.BLOCKED) else None)


@flag_mutant(
    "6.6",
    "a VCPU that is off, or was never started, reads the other policy's value",
    "off-vcpu",
    "never-started",
)
def off_swapped(patch: Patch) -> None:
    judged(
        patch,
        lambda self, vcpu: (
            self.policy is not Policy.SCHEDULED_OUT if is_at(self, vcpu, Place.OFF) else None
        ),
    )


@flag_mutant("6.4", "the policies are swapped", "blocked-letter", "off-vcpu")
def policies_swapped(patch: Patch) -> None:
    def judge(self: Scheduler, vcpu: int) -> bool:
        task = self.tasks[vcpu]
        if self.policy is Policy.PREEMPTED:
            return task.place is not Place.RUNNING
        return task.preempted

    judged(patch, judge)


@flag_mutant("2.4", "preempted is 2", "zero-or-one")
def two(patch: Patch) -> None:
    values(patch, lambda preempted: 2 * preempted)


@flag_mutant("2.2", "the field is big-endian", "zero-or-one")
def big_endian(patch: Patch) -> None:
    values(patch, lambda preempted: preempted << 56)


@flag_mutant(
    "2.4", "the field counts preemptions: odd while preempted, even while not", "zero-or-one"
)
def counting(patch: Patch) -> None:
    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        if vcpu in self._flags and self._flags[vcpu].value % 2 != preempted:
            self._flags[vcpu].value += 1

    publishing(patch, changed)


@flag_mutant("2.2", "the hypervisor keeps a count in the padding", "padding")
def dirty_padding(patch: Patch) -> None:
    import ctypes as c

    def changed(self: Vm, vcpu: int, preempted: bool) -> None:
        publish(self, vcpu, preempted)
        if vcpu in self._flags:
            c.c_uint64.from_address(c.addressof(self._flags[vcpu]) + 8).value += 1

    publishing(patch, changed)


def is_at(self: Scheduler, vcpu: int, place: Place) -> bool:
    return self.tasks[vcpu].place is place
