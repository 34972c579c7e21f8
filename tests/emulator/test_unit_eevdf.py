# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's EEVDF scheduler by itself, over simulated CPUs that only have clocks."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pvlock.abi import Policy
from pvlock.engines.contract import HostEvent, Ready
from pvlock.engines.emulator.eevdf import NICE_0, EevdfScheduler, Entity, RunQueue
from pvlock.engines.emulator.scheduler import Place
from pvlock.engines.emulator.yields import DirectedYield
from schedulers import SLICE, Host


class EevdfHost(Host):
    """A Host whose scheduler is EEVDF, and what must hold of its queues."""

    def __init__(
        self, vcpus: int, pcpus: int, policy: Policy = Policy.SCHEDULED_OUT, **options: Any
    ) -> None:
        super().__init__(vcpus, pcpus, policy, EevdfScheduler, options)

    @property
    def eevdf(self) -> EevdfScheduler:
        assert isinstance(self.scheduler, EevdfScheduler)
        return self.scheduler

    def pass_time(self, ns: int) -> None:
        """Let all CPUs run for `ns`, and end slices where they end."""
        end = max(self.cpus.clocks) + ns
        while True:
            due = [
                (self.cpus.deadlines[cpu], cpu)
                for cpu, vcpu in enumerate(self.cpus.vcpus)
                if vcpu is not None
            ]
            time, cpu = min(due, default=(end, 0))
            if time >= end:
                self.cpus.clocks = [max(clock, end) for clock in self.cpus.clocks]
                return
            self.cpus.clocks = [max(clock, time) for clock in self.cpus.clocks]
            self.scheduler.slice_end(cpu)

    def check(self) -> None:
        super().check()
        for cpu, rq in enumerate(self.eevdf.queues):
            assert rq.current == self.cpus.vcpus[cpu]
            for vcpu in rq.members:
                assert self.eevdf.entities[vcpu].cpu == cpu
                delayed = self.eevdf.entities[vcpu].delayed
                assert (self.eevdf.tasks[vcpu].place is Place.BLOCKED) == delayed
            assert rq.buddy is None or rq.buddy in rq.waiting()
        members = [vcpu for rq in self.eevdf.queues for vcpu in rq.members]
        assert len(members) == len(set(members))
        assert set(self.eevdf.queue) <= set(members)
        assert not self.eevdf.queue or None not in self.eevdf.on, "a CPU idles while VCPUs wait"


# ---- one queue ----


def queue_with(*vruntimes: int) -> tuple[RunQueue, list[Entity]]:
    entities = [Entity(SLICE) for _ in vruntimes]
    rq = RunQueue(entities)
    for vcpu, vruntime in enumerate(vruntimes):
        rq.add(vcpu)
        entities[vcpu].vruntime = vruntime
        entities[vcpu].next_request()
    return rq, entities


def test_only_who_has_had_no_more_than_the_average_is_eligible() -> None:
    rq, entities = queue_with(0, 100, 200)
    assert rq.average() == 100
    assert [rq.eligible(vcpu) for vcpu in range(3)] == [True, True, False]
    entities[2].weight *= 4  # it pulls the average to itself
    assert rq.average() == 150
    assert [rq.eligible(vcpu) for vcpu in range(3)] == [True, True, False]


def test_the_earliest_deadline_of_the_eligible_is_the_best() -> None:
    rq, entities = queue_with(0, 100, 200)
    assert rq.best() == 0
    entities[1].deadline = 900
    assert rq.best() == 1
    entities[2].deadline = 0  # not eligible, so it does not count
    assert rq.best() == 1


def test_who_runs_goes_on_until_its_request_is_done_or_it_is_not_eligible() -> None:
    """Linux: RUN_TO_PARITY, protect_slice()."""
    rq, entities = queue_with(0, 0)
    rq.run(0)
    entities[1].deadline = 500
    assert rq.best() == 0
    rq.advance(10)
    assert rq.best() == 1


def test_a_lag_survives_a_sleep() -> None:
    rq, entities = queue_with(0, 300)
    rq.remove(0)
    assert entities[0].lag == 150
    entities[1].vruntime += 5_000
    rq.add(0)
    assert rq.average() - entities[0].vruntime == 150


def test_a_lag_is_no_more_than_two_requests() -> None:
    rq, entities = queue_with(0, 100 * SLICE)
    rq.remove(0)
    assert entities[0].lag == 2 * SLICE


def test_who_sleeps_ahead_of_the_average_lingers_until_it_is_picked() -> None:
    """Linux: DELAY_DEQUEUE and DELAY_ZERO."""
    rq, entities = queue_with(0, 300)
    rq.sleep(1)
    assert entities[1].delayed
    assert rq.members == [0, 1]
    assert rq.waiting() == [0]
    entities[0].vruntime = 2_000
    entities[0].next_request()
    assert rq.pick() == 0  # 1 was the best, and has left
    assert rq.members == [0]
    assert entities[1].lag == 0


def test_time_is_virtual_by_the_weight() -> None:
    entity = Entity(SLICE, weight=2 * NICE_0)
    assert entity.virtual(1_000) == 500
    rq = RunQueue([entity])
    rq.add(0)
    rq.run(0)
    assert rq.due_in() == SLICE
    rq.advance(400)
    assert entity.vruntime == 200
    assert rq.due_in() == SLICE - 400


# ---- slices and shares ----


def test_two_on_a_cpu_take_turns_of_a_slice() -> None:
    host = EevdfHost(2, 1)
    host.wake_all()
    order = []
    for _ in range(6):
        order.append((host.cpus.vcpus[0], host.cpus.deadlines[0] - host.cpus.clocks[0]))
        host.end_slice()
        host.check()
    assert order == [(0, SLICE), (1, SLICE)] * 3


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 1), (1, 3, 2)])
def test_shares_are_as_the_weights(weights: tuple[int, ...]) -> None:
    host = EevdfHost(3, 1, weights=[NICE_0 * weight for weight in weights])
    host.wake_all()
    host.pass_time(1_000 * SLICE)
    host.scheduler.account(1_000 * SLICE)
    for weight, task in zip(weights, host.scheduler.tasks, strict=True):
        assert task.running_ns == pytest.approx(1_000 * SLICE * weight / sum(weights), rel=0.01)


def test_a_switch_counts_as_time_of_who_comes() -> None:
    host = EevdfHost(2, 1, switch_ns=30)
    host.wake_all()
    assert host.cpus.deadlines == [SLICE]
    host.end_slice()
    host.check()
    assert (host.cpus.clocks, host.cpus.deadlines) == ([SLICE + 30], [2 * SLICE])


def test_the_seed_cuts_the_first_request() -> None:
    host = EevdfHost(2, 1, first_slices=[100, 200])
    host.wake_all()
    lengths = []
    for _ in range(4):
        lengths.append(host.cpus.deadlines[0] - host.cpus.clocks[0])
        host.end_slice()
    assert lengths == [100, 200, SLICE, SLICE]


# ---- wake-ups ----


def test_a_new_vcpu_goes_where_the_fewest_are() -> None:
    host = EevdfHost(5, 2)
    host.wake_all()
    assert [entity.cpu for entity in host.eevdf.entities] == [0, 1, 0, 1, 0]
    host.check()


def test_a_vcpu_that_wakes_goes_back_to_its_cpu_if_that_is_idle() -> None:
    host = EevdfHost(2, 3)
    host.wake_all()
    for cpu in (1, 0):
        host.at(50 + cpu)
        host.scheduler.block(cpu)
    host.scheduler.wake(1, 100)
    assert host.cpus.vcpus == [None, 1, None]
    host.check()


def test_else_to_the_next_idle_one() -> None:
    host = EevdfHost(4, 3)
    host.wake_all()  # 3 waits for CPU 0
    host.at(500)
    host.scheduler.block(0)
    assert host.cpus.vcpus == [3, 1, 2]
    host.at(600)
    host.scheduler.block(2)
    host.scheduler.wake(0, 700)
    assert host.cpus.vcpus == [3, 1, 0]
    host.check()


def test_who_has_slept_preempts_who_has_run() -> None:
    """Linux: check_preempt_wakeup_fair(). The interrupt for it takes its time."""
    host = EevdfHost(2, 1, kick_ns=20)
    host.wake_all()
    host.end_slice()
    host.at(SLICE + 100)
    host.scheduler.block(0)  # 1 has had less than 0
    host.at(SLICE + 500)
    host.scheduler.wake(1, SLICE + 500)
    assert host.cpus.vcpus == [0]
    assert host.cpus.deadlines == [SLICE + 520]
    assert host.ready[-1] == Ready(SLICE + 500, 1)
    host.end_slice()
    assert host.cpus.vcpus == [1]
    assert host.history[-2].event is HostEvent.SLICE
    host.check()


def test_who_has_had_its_share_does_not() -> None:
    host = EevdfHost(2, 1)
    host.wake_all()
    host.at(900)
    host.scheduler.block(0)
    host.at(950)
    host.scheduler.wake(0, 950)
    assert host.cpus.vcpus == [1]
    assert host.cpus.deadlines == [900 + SLICE]
    host.check()


def test_a_second_kick_changes_nothing() -> None:
    host = EevdfHost(3, 1, kick_ns=100)
    host.wake_all()
    host.end_slice()
    for now in (SLICE + 100, SLICE + 200):
        host.at(now)
        host.scheduler.block(0)
    assert host.cpus.vcpus == [0]
    for now, vcpu in ((SLICE + 500, 2), (SLICE + 550, 1)):
        host.at(now)
        host.scheduler.wake(vcpu, now)
        assert host.cpus.deadlines == [SLICE + 600]
    host.check()


# ---- balance ----


def test_a_cpu_that_falls_idle_takes_from_the_longest_queue() -> None:
    """Linux: sched_balance_newidle()."""
    host = EevdfHost(5, 2)
    host.wake_all()
    host.at(300)
    host.scheduler.block(1)  # CPU 1 runs 3, and nobody waits for it
    assert host.cpus.vcpus == [0, 3]
    host.scheduler.block(1)
    assert host.cpus.vcpus == [0, 2]
    host.check()


def test_a_move_keeps_what_is_left_until_the_deadline() -> None:
    """Linux: PLACE_REL_DEADLINE."""
    host = EevdfHost(3, 2)
    host.wake_all()
    entity = host.eevdf.entities[2]
    entity.deadline -= 300
    left = entity.deadline - entity.vruntime
    host.at(100)
    host.scheduler.block(1)
    assert host.cpus.vcpus == [0, 2]
    assert entity.deadline - entity.vruntime == left
    host.check()


def test_a_cpu_with_two_fewer_takes_one_when_its_slice_ends() -> None:
    """Linux: sched_balance_rq()."""
    host = EevdfHost(5, 2)
    host.wake_all()
    host.at(10)
    host.scheduler.off(1)  # 1
    host.end_slice(1)
    host.check()
    assert [len(rq.members) for rq in host.eevdf.queues] == [2, 2]


# ---- WFE ----


def test_others_wait_only_in_the_queue_of_the_same_cpu() -> None:
    """Linux: single_task_running() looks at one CPU."""
    host = EevdfHost(3, 2)
    host.wake_all()
    assert [host.scheduler.others_wait(cpu) for cpu in range(2)] == [True, False]


def preempted(vcpus: int, pcpus: int, **options: Any) -> EevdfHost:
    """Return a host each of whose VCPUs has run, 0 on CPU 0 and so on again."""
    host = EevdfHost(vcpus, pcpus, **options)
    host.wake_all()
    for _ in range(vcpus // pcpus):
        for cpu in range(pcpus):
            host.end_slice(cpu)
    assert host.cpus.vcpus == list(range(pcpus))
    return host


def test_a_yield_within_a_cpu_hands_it_over() -> None:
    host = preempted(2, 1)
    host.at(2 * SLICE + 100)
    host.scheduler.yield_(0)
    assert host.cpus.vcpus == [1]
    assert host.history[-2].event is HostEvent.YIELD
    host.check()


def test_a_yield_does_not_move_its_target() -> None:
    """Linux's yield_to(): the target runs next where it waits, and the yielder's CPU goes on."""
    host = preempted(4, 2, kick_ns=10)
    host.at(2 * SLICE + 100)
    host.eevdf.directed.boosted = 2
    host.scheduler.yield_(0)  # 0 on CPU 0, to 3, which waits for CPU 1
    assert host.eevdf.directed.boosted == 3
    assert host.cpus.vcpus == [2, 1]
    assert host.cpus.deadlines[1] == 2 * SLICE + 110
    host.end_slice(1)
    assert host.cpus.vcpus == [2, 3]
    host.check()


def test_a_yielder_gives_up_its_request_if_it_was_eligible() -> None:
    """Linux: yield_task_fair()."""
    host = preempted(4, 2)
    entity = host.eevdf.entities[0]
    deadline = entity.deadline
    host.scheduler.yield_(0)
    assert (entity.vruntime, entity.deadline) == (deadline, deadline + SLICE)


def test_a_target_that_is_ahead_of_its_queue_does_not_run() -> None:
    """Linux: pick_next_entity() takes the buddy only if it is eligible."""
    host = preempted(4, 2)
    host.eevdf.entities[3].vruntime += 10 * SLICE
    host.eevdf.directed.boosted = 2
    host.scheduler.yield_(0)
    host.end_slice(1)
    assert host.cpus.vcpus[1] == 1
    host.check()


def test_a_yield_between_cpus_with_one_vcpu_each_is_given_up_after_three() -> None:
    """KVM: `try`, where yield_to() returns -ESRCH."""
    host = preempted(2, 1, directed=DirectedYield(woken=True))
    host.scheduler.block(0)
    before = list(host.history)
    host.scheduler.yield_(0)
    assert host.history == before
    assert not host.scheduler.tasks[1].in_spin_loop


class AnyOrder(RuleBasedStateMachine):
    """Any sequence of events, on CPUs whose clocks are level: all sums come out exactly."""

    @initialize(
        vcpus=st.integers(1, 9),
        pcpus=st.integers(1, 4),
        policy=st.sampled_from(Policy),
        firsts=st.lists(st.integers(1, SLICE), max_size=9),
        weights=st.lists(st.integers(3, 90_000), max_size=9),
        woken=st.booleans(),
    )
    def create(
        self, vcpus: int, pcpus: int, policy: Policy, firsts: list[int], weights: list[int],
        woken: bool,
    ) -> None:  # fmt: skip
        self.now = 0
        self.host = EevdfHost(
            vcpus, pcpus, policy, first_slices=firsts[:vcpus], weights=weights[:vcpus], kick_ns=7,
            directed=DirectedYield(woken),
        )  # fmt: skip
        self.elsewhere = [0] * vcpus

    @rule(by=st.integers(0, 3 * SLICE))
    def time_passes(self, by: int) -> None:
        for vcpu, task in enumerate(self.host.scheduler.tasks):
            if task.place in (Place.BLOCKED, Place.OFF):
                self.elsewhere[vcpu] += by
        self.now += by
        self.host.at(self.now)

    @rule(which=st.integers(0, 8))
    def wake(self, which: int) -> None:
        self.host.scheduler.wake(which % self.host.vcpus, self.now)

    @rule(which=st.integers(0, 3), what=st.sampled_from(("slice_end", "block", "off", "yield_")))
    def leave(self, which: int, what: str) -> None:
        cpu = which % self.host.pcpus
        if self.host.cpus.vcpus[cpu] is not None:
            getattr(self.host.scheduler, what)(cpu)

    @rule(which=st.integers(0, 3), to=st.integers(0, 8))
    def yield_to(self, which: int, to: int) -> None:
        cpu = which % self.host.pcpus
        if self.host.cpus.vcpus[cpu] is not None:
            self.host.scheduler.yield_to(cpu, to % self.host.vcpus)

    @invariant()
    def holds(self) -> None:
        self.host.check()
        scheduler = self.host.scheduler
        scheduler.account(self.now)
        for task, elsewhere in zip(scheduler.tasks, self.elsewhere, strict=True):
            assert task.running_ns + task.queued_ns + elsewhere == self.now


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
