# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance suite on our own machine, and on machines that are not what they claim."""

import errno
import functools
import re
from collections.abc import Collection
from typing import Any

import pytest

from clauses import clauses
from other_vm import OtherVm
from pvlock import Machine, Policy, SystemEvent, abi, engines
from pvlock.conformance import Outcome, Verdict, audit, plans, run, runner, schedule, userspace
from pvlock.conformance.cases import HOST_DECIDES, Case, binary, guest_cases, select
from pvlock.conformance.outcome import RUN, Judgement, in_profile, judge
from pvlock.conformance.runner import MakeMachine
from pvlock.conformance.tap import parse
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.errors import ConfigError

CASES = (*guest_cases(), *audit.CASES, *userspace.cases())


@functools.cache
def outcomes(policy: Policy) -> tuple[Outcome, ...]:
    return tuple(run(Machine, policy))


def named(found: Collection[Outcome], name: str) -> Outcome:
    (outcome,) = (outcome for outcome in found if outcome.case.name == name)
    return outcome


def only(make: MakeMachine, *names: str, **options: Any) -> dict[str, Outcome]:
    found = run(make, Policy.SCHEDULED_OUT, names, vcpus=2, pcpus=2, user_space=False, **options)
    return {outcome.case.name: outcome for outcome in found}


@pytest.mark.parametrize("policy", Policy)
def test_all_cases_pass_on_the_emulator(policy: Policy) -> None:
    """All cases pass, and only those that are about the other policy are skipped."""
    bad = [(o.case.name, o.run, o.verdict, o.reason) for o in outcomes(policy)
           if o.verdict is not Verdict.OK]  # fmt: skip
    other = "sparing" if policy is Policy.SCHEDULED_OUT else "letter"
    assert bad == [
        (f"{name}-{other}", str(policy), "skipped", "about the other policy")
        for name in ("blocked", "sleepers")
    ]
    heard = {outcome.case for outcome in outcomes(policy)}
    assert heard == {*CASES, RUN}


@pytest.mark.parametrize("policy", Policy)
def test_timing_cases_have_evidence(policy: Policy) -> None:
    found = outcomes(policy)
    running = named(found, "running-reads-0").evidence
    assert isinstance(running["advanced"], int)
    assert running["advanced"] > 1000
    preempted = named(found, "preempted-reads-1").evidence
    assert isinstance(preempted["stops-flagged"], int)
    assert preempted["stops-flagged"] >= 3
    assert preempted["stops-not-flagged"] == 0
    assert isinstance(preempted["worst-set-ticks"], int)
    own = named(found, "own-flag").evidence
    assert isinstance(own["reads"], int)
    assert own["reads"] > 100_000
    stolen = named(found, "time-is-stolen").evidence
    assert isinstance(stolen["stolen-ns"], int)
    assert stolen["stolen-ns"] > 1_000_000


@pytest.mark.parametrize("policy", Policy)
def test_every_way_to_switch_is_gone_often(policy: Policy) -> None:
    """The audit judges thousands of switches; a guest sees hundreds of each kind."""

    def number(name: str, key: str) -> int:
        value = named(outcomes(policy), name).evidence[key]
        assert isinstance(value, int)
        return value

    assert number("every-switch", "switches") > 4000
    assert min(number("every-switch", way) for way in audit.WAYS) > 100
    assert number("every-wait", "waits") >= number("every-switch", "switches")
    assert number("return-reads-0", "after-wfe") > 2000
    assert number("return-reads-0", "after-wfi") > 500
    assert number("return-reads-0", "after-cpu-on") > 50
    assert number("yielding-reads-1", "stood-still") > 100
    assert number("off-again", "stood-still") > 50


def test_each_structure_case_runs_with_many_vcpus() -> None:
    assert {case.name for case in guest_cases()} > plans.OF_EACH_VCPU
    vcpus, _ = plans.MANY
    assert vcpus > 65
    found = {o.run for o in run(Machine, Policy.PREEMPTED, ["distinct"]) if o.case is RUN}
    assert found == {"preempted", f"preempted, {vcpus} VCPUs"}


def test_the_same_twice() -> None:
    """In virtual time the evidence is the same to the last digit."""
    again = tuple(run(Machine, Policy.PREEMPTED, ["6.*"]))
    first = [o for o in outcomes(Policy.PREEMPTED) if o.case.clause.startswith("6.")]
    assert [(o.case, o.verdict) for o in again if o.case is not RUN] == [
        (o.case, o.verdict) for o in first
    ]
    twice = tuple(run(Machine, Policy.PREEMPTED, ["6.*"]))
    assert again == twice


# ---- the list of cases ----


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(re.fullmatch(r"[a-z0-9-]{1,22}", case.name) for case in CASES)


def test_cases_cite_clauses_by_their_tags() -> None:
    tags = {clause.name: clause.tags for clause in clauses()}
    for case in CASES:
        assert case.tag in tags[case.clause], case


def test_selection() -> None:
    assert {case.clause for case in select(CASES, ["3.7"])} == {"3.7"}
    assert {case.name for case in select(CASES, ["store-*", "own-flag"])} >= {"store-zva"}
    with pytest.raises(ConfigError, match="'no-such'"):
        select(CASES, ["3.7", "no-such"])


# ---- machines that are not what they claim ----


def test_a_machine_without_pvlock_cannot_skip() -> None:
    """The engine claims PV-lock, so a guest that finds none has found a failure."""

    def make(vcpus: int, pcpus: int, **options: Any) -> Machine:
        return Machine(vcpus, pcpus, **options | {"pvlock": False})

    found = only(make, "own-flag", "features-preempted", "discovery-order")
    assert found["own-flag"].verdict is Verdict.FAILED
    assert "although this machine has what it needs" in found["own-flag"].reason
    assert found["discovery-order"].verdict is Verdict.OK
    assert not judge(found.values(), "document").conforms


def test_what_the_host_forces_is_neither_pass_nor_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOST_DECIDES, engines.choose("auto"), {"arch-features": "the kernel"})

    class Forced(Machine):
        def hypercall(self, vcpu: int, registers: Any) -> Any:
            if registers[0] == abi.SMCCC_ARCH_FEATURES and registers[1] == abi.PV_LOCK_FEATURES:
                return [2**64 - 1, *registers[1:]]
            return super().hypercall(vcpu, registers)

    found = only(Forced, "arch-features", "discovery-order", "features-preempted")
    assert (found["arch-features"].verdict, found["arch-features"].reason) == (
        Verdict.HOST,
        "the kernel",
    )
    # The node in the device tree is the second way in, and the document does not know it.
    assert found["discovery-order"].verdict is Verdict.FAILED
    assert found["features-preempted"].verdict is Verdict.OK
    judgement = judge([found["arch-features"], found["features-preempted"]], "pvlock")
    assert judgement.conforms
    assert "1 forced by the host" in judgement.sentence
    assert not judge([found["arch-features"]], "pvlock").conforms


def test_a_machine_that_cannot_be_made() -> None:
    def make(vcpus: int, pcpus: int, **options: Any) -> Machine:
        raise ConfigError("no such machine")

    found = only(make, "own-flag", "uid")
    assert found["completes"].reason == "no such machine"
    assert {outcome.verdict for outcome in found.values()} == {Verdict.FAILED}


def test_a_guest_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LIMIT_NS", 1_000_000)
    monkeypatch.setattr(runner, "_LIMIT_PER_VCPU_NS", 0)
    monkeypatch.setattr(EmulatorEngine, "slack_ns", 0)
    found = only(Machine, "own-flag")
    assert found["completes"].reason == "the guest still runs after 0.001 s"
    assert found["own-flag"].reason == "the run ended before it"


def test_overcommitment_is_observed_or_not() -> None:
    """The case is never ok where nothing is overcommitted."""
    found = only(Machine, "preempted-reads-1", "time-is-stolen", "running-reads-0")
    for name in ("preempted-reads-1", "time-is-stolen"):
        assert found[name].verdict is Verdict.SKIPPED
        assert found[name].reason.startswith("not observed: ")
    assert found["running-reads-0"].verdict is Verdict.OK


@pytest.mark.parametrize("pv_time", [True, False])
def test_a_flag_that_is_never_set(pv_time: bool) -> None:
    """The case fails also where nobody promised that the host stops VCPUs in one way (strict)."""

    class Silent(Machine):
        def publish(self, vcpu: int) -> None:
            pass

    with Silent(4, 2, bootargs="cases=preempted-reads-1 observe=20") as machine:
        machine.stolen_time.enabled = pv_time
        machine.load(binary("Image"))
        assert machine.run(1_000_000_000) is SystemEvent.OFF
        (found,) = parse(machine.console.text).outcomes
    assert (found.verdict, found.reason) == (
        Verdict.FAILED,
        "most VCPUs that stood still had a flag of 0",
    )
    assert found.evidence["stops-flagged"] == 0
    proven = found.evidence.get("stops-not-flagged-but-waiting-for-a-cpu", 0)
    assert isinstance(proven, int)
    assert (proven > 0) is pv_time


def test_one_vcpu() -> None:
    found = run(Machine, Policy.PREEMPTED, vcpus=1, pcpus=1, user_space=False)
    skipped = {o.case.name: o.reason for o in found if o.verdict is Verdict.SKIPPED}
    smp = {case.name for case in guest_cases() if "SMP" in case.needs}
    assert smp | {case.name for case in audit.CASES} == set(skipped)
    assert set(skipped.values()) <= {"one VCPU", "about the other policy"}
    assert not [outcome for outcome in found if outcome.verdict is Verdict.FAILED]


# ---- the schedule ----

SEEN = [[4_000_000, 0, 10]] + [
    [time + 20, (number + 1) % 2, 20 + number // 2 * 10]
    for number, time in enumerate(schedule.CHANGES_NS)
]


def changed(index: int, *event: int) -> list[list[int]]:
    return [list(event) if i == index else old for i, old in enumerate(SEEN)]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (SEEN, ""),
        ([[t + d, f, b] for (t, f, b), d in zip(SEEN, [0] + [100] * 10, strict=True)], "seen at"),
        (changed(1, SEEN[1][0] - 21, 1, 20), "was seen at"),
        (changed(2, SEEN[2][0], 1, 20), "the flag became 1"),
        (changed(0, 4_000_000, 1, 10), "not 0 before the first switch"),
        (changed(0, 4_000_000, 0, 20), "did not run before"),
        (SEEN[:-1], "9 changes of the flag at 10 switches"),
        ([*SEEN, [42_099_999, 1, 99]], "11 changes"),
        ([], "not 0 before"),
        (None, "no events"),
        ([[1, 2]], "no events"),
        ([[1, 2, "x"]], "no events"),
    ],
)
def test_what_a_guest_must_have_seen(events: object, why: str) -> None:
    found = schedule.mismatch(events)
    assert (why in found) if why else found == ""


# ---- profiles ----


def outcome(tag: str, verdict: Verdict, name: str = "x") -> Outcome:
    return Outcome(Case("1.1", tag, name, frozenset(), ""), verdict)


def test_profiles_include_each_other() -> None:
    tags = ["document", "DEN0028", "DEN0057", "series", "pvlock"]
    counts = {
        profile: [tag for tag in tags if in_profile(outcome(tag, Verdict.OK).case, profile)]
        for profile in ("document", "series", "pvlock")
    }
    assert counts == {"document": tags[:3], "series": tags[:4], "pvlock": tags}


@pytest.mark.parametrize(
    ("verdicts", "profile", "conforms"),
    [
        ([("document", Verdict.OK)], "document", True),
        ([("document", Verdict.OK), ("pvlock", Verdict.FAILED)], "document", True),
        ([("document", Verdict.OK), ("pvlock", Verdict.FAILED)], "pvlock", False),
        ([("document", Verdict.OK), ("series", Verdict.FAILED)], "series", False),
        ([("document", Verdict.SKIPPED)], "document", False),
        ([("pvlock", Verdict.OK)], "document", False),
        ([], "pvlock", False),
    ],
)
def test_judgement(verdicts: list[tuple[str, Verdict]], profile: str, conforms: bool) -> None:
    judgement = judge([outcome(tag, verdict) for tag, verdict in verdicts], profile)
    assert judgement.conforms is conforms
    ending = ": conforms" if conforms else ("does not conform", "which is a failure")
    assert judgement.sentence.endswith(ending)


def test_a_run_alone_is_nothing() -> None:
    """A run in which the guest only ended does not conform: no clause was judged."""
    judgement: Judgement = judge([Outcome(RUN, Verdict.OK)], "pvlock")
    assert not judgement.conforms
    assert not judge([outcome("document", Verdict.OK), Outcome(RUN, Verdict.FAILED)],
                     "document").conforms  # fmt: skip


# ---- user space: any VM object ----


def refused(vm: type[OtherVm]) -> dict[str, str]:
    found = userspace.check(vm)
    assert len(found) == len(userspace.cases())
    return {o.case.name: o.reason for o in found if o.verdict is Verdict.FAILED}


def test_another_vm_object() -> None:
    assert refused(OtherVm) == {}


def test_vm_that_forgets_at_reset() -> None:
    class Forgetful(OtherVm):
        def reset(self, vcpu: int) -> None:
            self.structures.addresses.pop(vcpu)

    assert refused(Forgetful) == {"attr-reset": f"get read {abi.UNSET:#x}, not 0x80000040"}


def test_vm_that_accepts_anything() -> None:
    class Careless(OtherVm):
        def set_attr(self, vcpu: int, group: int, attr: int, value: int | None) -> int:
            self.structures.addresses[vcpu] = value or 0
            return 0

    found = refused(Careless)
    right = {"attr-set-get", "attr-has", "attr-unset", "attr-reset"}
    assert set(found) == {case.name for case in userspace.cases()} - right
    assert found["attr-twice"] == "the second set returned 0, not -EEXIST"


def test_vm_that_writes_while_it_refuses() -> None:
    class Writer(OtherVm):
        def set_attr(self, vcpu: int, group: int, attr: int, value: int | None) -> int:
            result = super().set_attr(vcpu, group, attr, value)
            if result == -errno.EEXIST:
                self.structures.memory.write(self.region, b"x", "test")
            return result

    assert refused(Writer) == {"attr-refusal": "a refused set wrote to guest memory"}


def test_vm_that_raises_is_reported() -> None:
    class Broken(OtherVm):
        def has_attr(self, vcpu: int, group: int, attr: int) -> int:
            raise OSError(errno.ENXIO, "No such device or address")

    assert set(refused(Broken)) == {"attr-has", "attr-off"}
    assert refused(Broken)["attr-has"].startswith("raised OSError: ")
