# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's scheduler by itself, over simulated CPUs that only have clocks."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Ready, Switch
from pvlock.engines.emulator.scheduler import Place, Scheduler, ScriptedScheduler
from pvlock.engines.emulator.yields import DirectedYield
from schedulers import SLICE, FakeCpus, Host

BOTH = pytest.mark.parametrize("policy", list(Policy))


# ---- queue and slices ----


def test_everything_begins_off_and_idle() -> None:
    host = Host(3, 2)
    assert host.scheduler.idle
    assert [task.place for task in host.scheduler.tasks] == [Place.OFF] * 3
    host.check()


def test_a_vcpu_that_wakes_takes_an_idle_cpu() -> None:
    host = Host(3, 2)
    host.wake_all(500)
    assert host.cpus.vcpus == [0, 1]
    assert host.cpus.deadlines == [500 + SLICE] * 2
    assert list(host.scheduler.queue) == [2]
    host.check()


def test_waking_what_is_awake_changes_nothing() -> None:
    host = Host(2, 1)
    host.wake_all()
    before = list(host.history)
    host.wake_all(10)
    assert host.history == before
    assert list(host.scheduler.queue) == [1]


def test_the_queue_is_first_in_first_out() -> None:
    host = Host(4, 1)
    for vcpu in (2, 0, 3, 1):
        host.scheduler.wake(vcpu, 0)
    order = []
    for _ in range(8):
        order.append(host.cpus.vcpus[0])
        host.end_slice()
        host.check()
    assert order == [2, 0, 3, 1] * 2


def test_a_slice_that_ends_with_nobody_waiting_begins_again() -> None:
    host = Host(1, 1)
    host.wake_all()
    host.end_slice()
    assert host.cpus.vcpus == [0]
    assert host.cpus.deadlines == [2 * SLICE]
    assert host.scheduler.switches == 0


def test_first_slices_are_shorter_once() -> None:
    host = Host(2, 1, options={"first_slices": [100, 200]})
    host.wake_all()
    deadlines = []
    for _ in range(4):
        deadlines.append(host.cpus.deadlines[0])
        host.end_slice()
    assert deadlines == [100, 300, 300 + SLICE, 300 + 2 * SLICE]


def test_a_switch_costs_its_cpu_time() -> None:
    host = Host(2, 1, options={"switch_ns": 30})
    host.wake_all()
    assert host.cpus.clocks == [30]
    host.end_slice()
    assert host.cpus.clocks == [30 + SLICE + 30]
    assert host.cpus.deadlines == [30 + SLICE + 30 + SLICE]


def test_an_idle_cpu_that_is_ahead_does_not_go_back_in_time() -> None:
    host = Host(1, 1)
    host.at(700)
    host.scheduler.wake(0, 200)
    assert host.cpus.clocks == [700]
    assert host.cpus.deadlines == [700 + SLICE]


def test_a_vcpu_never_starts_before_it_stopped() -> None:
    """It moves from a CPU that is ahead to one that is behind."""
    host = Host(3, 2)
    host.wake_all()
    host.cpus.clocks = [1_000, 400]
    host.scheduler.slice_end(0)  # 0 was on its CPU up to 1000
    host.scheduler.block(1)
    assert host.cpus.vcpus == [2, 0]
    assert host.cpus.clocks[1] >= 1_000
    host.check()


@pytest.mark.parametrize(
    ("leave", "place", "event"),
    [("block", Place.BLOCKED, HostEvent.WFI), ("off", Place.OFF, HostEvent.OFF)],
)
def test_a_vcpu_that_leaves_makes_room_for_the_next(
    leave: str, place: Place, event: HostEvent
) -> None:
    host = Host(2, 1)
    host.wake_all()
    host.at(300)
    getattr(host.scheduler, leave)(0)
    assert host.cpus.vcpus == [1]
    assert host.scheduler.tasks[0].place is place
    assert host.history[-2:] == [Switch(300, 0, 0, event), Switch(300, 0, 1, HostEvent.IN)]
    host.at(400)
    getattr(host.scheduler, leave)(0)
    assert host.cpus.vcpus == [None]
    assert host.scheduler.idle
    host.scheduler.wake(0, 450)
    assert host.cpus.vcpus == [0]
    host.check()


def test_every_schedule_out_is_counted_and_recorded() -> None:
    host = Host(3, 2)
    host.wake_all()
    host.end_slice(0)
    host.at(5_000)
    host.scheduler.block(1)
    assert host.scheduler.switches == 2
    events = Counter(switch.event for switch in host.history)
    assert events == {HostEvent.IN: 4, HostEvent.SLICE: 1, HostEvent.WFI: 1}


def test_a_vcpu_is_ready_when_it_wakes_and_not_when_it_is_preempted() -> None:
    host = Host(2, 1)
    host.wake_all(20)
    host.wake_all(30)
    assert host.ready == [Ready(20, 0), Ready(20, 1)]
    host.end_slice()
    host.at(5_000)
    host.scheduler.block(0)
    assert len(host.ready) == 2
    host.scheduler.wake(1, 5_500)
    assert host.ready[2:] == [Ready(5_500, 1)]


# ---- what is published ----


@BOTH
def test_the_flag_at_every_transition(policy: Policy) -> None:
    """(flag of VCPU 0, what just happened to it) under both policies."""
    host = Host(2, 1, policy)
    out = policy is Policy.SCHEDULED_OUT
    assert host.flags == {0: out, 1: out}  # off
    host.scheduler.wake(0, 0)
    assert host.flags[0] is False  # on a CPU
    host.scheduler.wake(1, 0)
    assert host.flags[1] is out  # queued, but it was not preempted: it has just woken
    host.end_slice()
    assert host.flags == {0: True, 1: False}  # preempted at the end of its slice
    host.end_slice()
    assert host.flags == {0: False, 1: True}
    host.scheduler.yield_(0)
    assert host.flags == {0: True, 1: False}  # gave its CPU away, but wants to run
    host.end_slice()
    assert host.flags == {0: False, 1: True}
    host.scheduler.block(0)
    assert host.flags == {0: out, 1: False}  # sleeps
    host.scheduler.wake(0, 99_000)
    assert host.flags[0] is out
    host.scheduler.off(0)
    assert host.flags == {0: False, 1: out}
    host.scheduler.off(0)
    assert host.flags == {0: out, 1: out}


def test_the_flag_is_set_before_the_successor_runs_and_cleared_with_it() -> None:
    order: list[tuple[int, bool]] = []
    scheduler = Scheduler(
        FakeCpus(1), 2, 1, SLICE, Policy.SCHEDULED_OUT, lambda v, p: order.append((v, p))
    )
    scheduler.wake(0, 0)
    scheduler.wake(1, 0)
    order.clear()
    scheduler.slice_end(0)
    assert order == [(0, True), (1, False)]


# ---- directed yield ----


def test_a_yield_with_nobody_waiting_does_nothing() -> None:
    host = Host(2, 1)
    host.scheduler.wake(0, 0)
    before = list(host.history)
    host.scheduler.yield_(0)
    assert host.history == before
    assert not host.scheduler.tasks[0].in_spin_loop


def test_a_yield_passes_over_what_has_only_just_woken() -> None:
    host = Host(2, 1)
    host.wake_all()
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [0]


def test_a_yield_gives_the_rest_of_the_slice_to_a_preempted_vcpu() -> None:
    host = Host(3, 1)
    host.wake_all()
    host.end_slice()  # 1 runs; 2 has woken, 0 is preempted
    assert list(host.scheduler.queue) == [2, 0]
    host.at(SLICE + 400)
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [0]
    assert host.cpus.deadlines == [2 * SLICE]
    assert list(host.scheduler.queue) == [2, 1]
    assert host.history[-2].event is HostEvent.YIELD
    host.check()


def test_a_yield_costs_a_switch_beyond_the_slice_that_it_hands_on() -> None:
    host = Host(2, 1, options={"switch_ns": 30})
    host.wake_all()
    host.end_slice()
    left = host.cpus.deadlines[0] - host.cpus.clocks[0]
    host.cpus.clocks[0] += 100
    now = host.cpus.clocks[0]
    host.scheduler.yield_(0)
    assert host.cpus.clocks[0] == now + 30
    assert host.cpus.deadlines[0] == now + 30 + left - 100


def test_candidates_begin_after_the_vcpu_that_was_boosted_last() -> None:
    host = Host(5, 1)
    host.wake_all()
    for _ in range(5):
        host.end_slice()
    boosted = []
    for _ in range(4):  # those that were never in a spin loop
        host.scheduler.yield_(0)
        boosted.append(host.cpus.vcpus[0])
        host.check()
    assert host.history[-1].event is HostEvent.IN
    assert boosted[:4] == [1, 2, 3, 4]


def test_a_vcpu_that_itself_was_spinning_is_passed_over_every_other_time() -> None:
    host = Host(2, 1)
    host.wake_all()
    host.end_slice()
    host.scheduler.yield_(0)  # 1 spins, 0 gets its CPU
    assert host.cpus.vcpus == [0]
    assert host.scheduler.tasks[1].in_spin_loop
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [0]
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]
    assert not host.scheduler.tasks[1].in_spin_loop
    host.check()


def test_a_vcpu_that_spins_anew_is_passed_over_first_again() -> None:
    """KVM: "Ensure vcpu is not eligible during next spinloop" (kvm_vcpu_on_spin)."""
    host = Host(2, 1)
    host.wake_all()
    host.end_slice()
    host.scheduler.yield_(0)  # 1 spins
    host.scheduler.yield_(0)  # 1 is passed over, and would not be the next time
    host.end_slice()  # but it gets its CPU in turn
    assert host.cpus.vcpus == [1]
    host.scheduler.yield_(0)  # a new loop of 1: 0 was not spinning
    assert host.cpus.vcpus == [0]
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [0]
    host.check()


def test_a_vcpu_that_was_off_or_asleep_is_no_candidate() -> None:
    host = Host(3, 1)
    host.wake_all()
    host.end_slice()
    host.end_slice()  # 2 runs; 0, 1 preempted
    host.scheduler.block(0)  # 0 runs
    host.scheduler.off(0)  # 1 runs
    assert host.cpus.vcpus == [1]
    assert host.scheduler.candidates() == []
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]


def test_a_yield_may_go_to_what_has_only_just_woken_if_that_is_asked_for() -> None:
    """KVM: `ready` is set by kvm_vcpu_wake_up() too."""
    host = Host(2, 1, options={"directed": DirectedYield(woken=True)})
    host.wake_all()
    assert host.scheduler.candidates() == [1]
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]


@pytest.mark.parametrize(
    ("in_kernel", "boosted"),
    [
        ({0, 1, 2, 3}, 1),  # the spinner, 0, is in its kernel, and so is 1
        ({0, 2, 3}, 2),  # 1 was preempted in user space
        ({1, 2, 3}, 1),  # a spinner in user space passes over nobody
        ({2, 3}, 1),
        ({0}, 0),  # nobody is left
    ],
)
def test_a_spinner_in_the_kernel_passes_over_what_was_preempted_in_user_space(
    in_kernel: set[int], boosted: int
) -> None:
    """KVM: kvm_arch_vcpu_preempted_in_kernel() in kvm_vcpu_on_spin()."""
    directed = DirectedYield(in_kernel=in_kernel.__contains__)
    host = Host(4, 1, options={"directed": directed})
    host.wake_all()
    for _ in range(4):
        host.end_slice()
    assert host.cpus.vcpus == [0]
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [boosted]
    host.check()


def test_what_has_only_just_woken_is_not_passed_over_wherever_it_is() -> None:
    """KVM asks for the mode of a VCPU only if it was preempted."""
    directed = DirectedYield(woken=True, in_kernel={0}.__contains__)
    host = Host(2, 1, options={"directed": directed})
    host.wake_all()
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]


def test_to_be_passed_over_for_user_space_leaves_its_turn_as_it_was() -> None:
    """The filter comes before kvm_vcpu_eligible_for_directed_yield(), which changes its answer."""
    user: set[int] = set()
    directed = DirectedYield(in_kernel=lambda vcpu: vcpu not in user)
    host = Host(2, 1, options={"directed": directed})
    host.wake_all()
    host.end_slice()
    host.scheduler.yield_(0)  # 1 spins, 0 gets its CPU
    user.add(1)
    host.scheduler.yield_(0)
    assert not host.scheduler.tasks[1].eligible
    user.clear()
    host.scheduler.yield_(0)
    assert host.scheduler.tasks[1].eligible
    assert host.cpus.vcpus == [0]


# ---- accounting ----


def test_time_is_either_running_or_queued_or_neither() -> None:
    host = Host(2, 1)
    host.wake_all()
    host.at(400)
    host.scheduler.account(400)
    assert [(t.running_ns, t.queued_ns) for t in host.scheduler.tasks] == [(400, 0), (0, 400)]
    host.end_slice()
    host.at(1_300)
    host.scheduler.block(0)
    host.at(1_700)
    host.scheduler.account(1_700)
    host.scheduler.account(1_700)
    assert [(t.running_ns, t.queued_ns) for t in host.scheduler.tasks] == [
        (1_000 + 400, 300),
        (300, 1_000),
    ]


class AnyOrder(RuleBasedStateMachine):
    """Any sequence of events, on CPUs whose clocks are level: all sums come out exactly."""

    @initialize(
        vcpus=st.integers(1, 7),
        pcpus=st.integers(1, 4),
        policy=st.sampled_from(Policy),
        firsts=st.lists(st.integers(1, SLICE), max_size=7),
    )
    def create(self, vcpus: int, pcpus: int, policy: Policy, firsts: list[int]) -> None:
        self.now = 0
        self.host = Host(vcpus, pcpus, policy, options={"first_slices": firsts[:vcpus]})
        self.elsewhere = [0] * vcpus

    @rule(by=st.integers(0, 3 * SLICE))
    def time_passes(self, by: int) -> None:
        for vcpu, task in enumerate(self.host.scheduler.tasks):
            if task.place in (Place.BLOCKED, Place.OFF):
                self.elsewhere[vcpu] += by
        self.now += by
        self.host.at(self.now)

    @rule(which=st.integers(0, 6))
    def wake(self, which: int) -> None:
        self.host.scheduler.wake(which % self.host.vcpus, self.now)

    @rule(which=st.integers(0, 3), what=st.sampled_from(("slice_end", "block", "off", "yield_")))
    def leave(self, which: int, what: str) -> None:
        cpu = which % self.host.pcpus
        if self.host.cpus.vcpus[cpu] is not None:
            getattr(self.host.scheduler, what)(cpu)

    @invariant()
    def holds(self) -> None:
        self.host.check()
        scheduler = self.host.scheduler
        assert not scheduler.queue or None not in scheduler.on, "a CPU idles while VCPUs wait"
        scheduler.account(self.now)
        for task, elsewhere in zip(scheduler.tasks, self.elsewhere, strict=True):
            assert task.running_ns + task.queued_ns + elsewhere == self.now


class AnySkew(RuleBasedStateMachine):
    """The same where clocks differ and switches cost time: order and flags hold all the same."""

    @initialize(
        vcpus=st.integers(1, 7), pcpus=st.integers(1, 4), policy=st.sampled_from(Policy)
    )  # fmt: skip
    def create(self, vcpus: int, pcpus: int, policy: Policy) -> None:
        self.host = Host(vcpus, pcpus, policy, options={"switch_ns": 30})

    @rule(which=st.integers(0, 3), by=st.integers(0, 3 * SLICE))
    def time_passes(self, which: int, by: int) -> None:
        self.host.cpus.clocks[which % self.host.pcpus] += by

    @rule(which=st.integers(0, 6), now=st.integers(0, 100 * SLICE))
    def wake(self, which: int, now: int) -> None:
        self.host.scheduler.wake(which % self.host.vcpus, min(now, min(self.host.cpus.clocks)))

    @rule(which=st.integers(0, 3), what=st.sampled_from(("slice_end", "block", "off", "yield_")))
    def leave(self, which: int, what: str) -> None:
        cpu = which % self.host.pcpus
        if self.host.cpus.vcpus[cpu] is not None:
            getattr(self.host.scheduler, what)(cpu)

    @invariant()
    def holds(self) -> None:
        self.host.check()
        self.host.scheduler.account(min(self.host.cpus.clocks))
        self.host.check()
        last = [0] * self.host.vcpus
        for switch in self.host.history:
            assert switch.time_ns >= last[switch.vcpu], "a VCPU starts before it stopped"
            last[switch.vcpu] = switch.time_ns


# ---- scripts ----


def test_a_script_alone_decides_who_runs() -> None:
    host = Host(2, 1, kind=ScriptedScheduler)
    host.wake_all()
    assert host.cpus.vcpus == [None]
    host.script.place(0, 1, 100)
    assert host.cpus.vcpus == [1]
    host.at(500)
    host.scheduler.slice_end(0)
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]
    host.script.place(0, 0, 900)
    assert host.cpus.vcpus == [0]
    host.script.place(0, None, 1_000)
    assert host.cpus.vcpus == [None]
    assert [(s.time_ns, s.vcpu, s.event) for s in host.history] == [
        (100, 1, HostEvent.IN),
        (900, 1, HostEvent.SCRIPT),
        (900, 0, HostEvent.IN),
        (1_000, 0, HostEvent.SCRIPT),
    ]
    host.check()


def test_a_scripted_vcpu_that_sleeps_keeps_its_cpu() -> None:
    host = Host(2, 1, kind=ScriptedScheduler)
    host.wake_all()
    host.script.place(0, 0, 0)
    host.at(100)
    host.scheduler.block(0)
    assert host.cpus.vcpus == [None]
    assert host.flags[0] is True
    host.scheduler.wake(0, 200)
    assert host.cpus.vcpus == [0]
    assert host.flags[0] is False
    host.check()


def test_a_scripted_vcpu_may_have_its_cpu_before_it_wakes() -> None:
    host = Host(1, 1, kind=ScriptedScheduler)
    host.script.place(0, 0, 0)
    assert host.cpus.vcpus == [None]
    host.scheduler.wake(0, 50)
    assert host.cpus.vcpus == [0]


@BOTH
def test_a_scripted_preemption_is_published(policy: Policy) -> None:
    host = Host(1, 1, policy, kind=ScriptedScheduler)
    host.wake_all()
    host.script.place(0, 0, 0)
    host.script.place(0, None, 100)
    assert host.flags[0] is True
    host.script.place(0, 0, 200)
    assert host.flags[0] is False


def test_a_script_swaps_two_vcpus() -> None:
    """From 100 ns on, CPU 0 belongs to VCPU 1 and CPU 1 to VCPU 0, so both run."""
    host = Host(2, 2, kind=ScriptedScheduler)
    host.wake_all()
    host.script.place(0, 0, 0)
    host.script.place(1, 1, 0)
    host.script.place(0, 1, 100)
    host.check()
    host.script.place(1, 0, 100)
    host.check()
    assert host.cpus.vcpus == [1, 0]


def test_a_script_moves_a_vcpu_whichever_line_comes_first() -> None:
    host = Host(1, 2, kind=ScriptedScheduler)
    host.wake_all()
    host.script.place(0, 0, 0)
    host.script.place(1, 0, 100)
    host.script.place(0, None, 100)
    assert host.cpus.vcpus == [None, 0]
    host.check()


class AnyScript(RuleBasedStateMachine):
    """Any script, any sleeps: a VCPU is on a CPU only where the script has it."""

    @initialize(
        vcpus=st.integers(1, 5), pcpus=st.integers(1, 3), policy=st.sampled_from(Policy)
    )  # fmt: skip
    def create(self, vcpus: int, pcpus: int, policy: Policy) -> None:
        self.now = 0
        self.host = Host(vcpus, pcpus, policy, kind=ScriptedScheduler)
        self.wanted: list[int | None] = [None] * pcpus

    @rule(by=st.integers(0, 3 * SLICE))
    def time_passes(self, by: int) -> None:
        self.now += by
        self.host.at(self.now)

    @rule(which=st.integers(0, 2), who=st.none() | st.integers(0, 4))
    def place(self, which: int, who: int | None) -> None:
        cpu = which % self.host.pcpus
        vcpu = None if who is None else who % self.host.vcpus
        self.wanted[cpu] = vcpu
        self.host.script.place(cpu, vcpu, self.now)

    @rule(which=st.integers(0, 4))
    def wake(self, which: int) -> None:
        self.host.scheduler.wake(which % self.host.vcpus, self.now)

    @rule(which=st.integers(0, 2), what=st.sampled_from(("slice_end", "block", "off", "yield_")))
    def leave(self, which: int, what: str) -> None:
        cpu = which % self.host.pcpus
        if self.host.cpus.vcpus[cpu] is not None:
            getattr(self.host.scheduler, what)(cpu)

    @invariant()
    def holds(self) -> None:
        self.host.check()
        for wanted, running in zip(self.wanted, self.host.cpus.vcpus, strict=True):
            assert running in (None, wanted)


TestAnyOrder = AnyOrder.TestCase
TestAnySkew = AnySkew.TestCase
TestAnyScript = AnyScript.TestCase
THOROUGH = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAnyOrder.settings = TestAnySkew.settings = TestAnyScript.settings = THOROUGH
