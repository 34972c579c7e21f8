# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs both halves of the suite on a machine that Python can make.

The guest runs on up to four machines: one as it should be, one with no structure placed, one with
PV-lock off, and one with a known schedule. On each it runs the cases whose needs that machine
meets, so it may skip none of them. The user-space checks make machines of their own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pvlock.abi import STRUCTURE_SIZE, Policy
from pvlock.conformance import schedule, userspace
from pvlock.conformance.cases import HOST_DECIDES, Case, binary, guest_cases, select
from pvlock.conformance.outcome import RUN, Outcome, Verdict
from pvlock.conformance.tap import Log, read
from pvlock.engines.contract import SystemEvent
from pvlock.errors import LogError, PvlockError
from pvlock.machine import Machine

MakeMachine = Callable[..., Machine]
"""Called as make(vcpus, pcpus, **options), with options of machine.Machine."""

POISON = b"\xa5"
"""What the padding of the structures holds when the guest starts, as if left by another."""

_LIMIT_NS = 2_000_000_000
_LIMIT_PER_VCPU_NS = 100_000_000
_OBSERVE_MS = 20
"""How long the guest watches flags on the emulator."""
_OBSERVE_REAL_MS = 500
"""How long the guest watches flags on a real host, whose scheduler may take its time."""
_ALWAYS = frozenset({"SMCCC", "TIME", "LSE", "GIC"})
"""What a machine has whether PV-lock is on or off."""
_FOUND_OUT = frozenset({"OVERCOMMIT", "STALE", "LSE", "BLOCKS", "PARALLEL"})
"""Needs of which only the run of a case tells whether the machine meets them. A case may be skipped
for one that the machine does not claim to meet."""


@dataclass(frozen=True)
class _Plan:
    """One machine: its name, what its cases may need, and the options that make it."""

    name: str
    claims: frozenset[str]
    options: dict[str, Any]
    bootargs: str = ""
    needed: frozenset[str] = frozenset()
    """If not empty, only cases that need one of these run."""


def run(
    make_machine: MakeMachine,
    policy: Policy,
    cases: Collection[str] = ("*",),
    *,
    vcpus: int = 4,
    pcpus: int = 2,
    scripted: bool = True,
    without: Collection[str] = (),
    user_space: bool = True,
) -> list[Outcome]:
    """Judge the machines that `make_machine` makes, under `policy`; return each case's outcome.

    `cases` are patterns of names or clauses; without `user_space` they select the guest's cases
    only. `scripted` says that the engine takes scripts, and that its host stops a VCPU in no other
    way than by a switch. `without` are needs (see cases.h) that this engine does not claim to meet.
    A case that no machine can run is SKIPPED. A case that the guest skips although its needs are
    met has FAILED. Only ConfigError is raised: what a machine raises is the outcome of its run.

    >>> def make(vcpus, pcpus, **options):
    ...     return Machine(vcpus, pcpus, engine="emulator", **options)
    >>> for outcome in run(make, Policy.SCHEDULED_OUT, ["own-flag", "attr-twice"]):
    ...     print(outcome.case.name, outcome.verdict, f"({outcome.run})")
    own-flag ok (scheduled-out)
    attr-twice ok (user space)
    completes ok (scheduled-out)
    """
    of_user_space = {case.name for case in userspace.cases()}
    chosen = select((*guest_cases(), *userspace.cases()), cases)
    if not user_space:
        chosen = [case for case in chosen if case.name not in of_user_space]
    found: dict[str, Outcome] = {}
    runs: list[Outcome] = []
    for plan in _plans(policy, vcpus, pcpus, scripted, frozenset(without)):
        mine = [case for case in chosen if _belongs(case, plan) and case.name not in found]
        if mine:
            result = _run(make_machine, plan, mine, vcpus, pcpus)
            runs += [outcome for outcome in result if outcome.case is RUN]
            found |= {o.case.name: o for o in result if o.case is not RUN}
    names = [case.name for case in chosen if case.name in of_user_space]
    if names:
        make_vm = _vm_maker(make_machine, policy, max(vcpus, 2), pcpus)
        found |= {outcome.case.name: outcome for outcome in userspace.check(make_vm, names)}
    for case in chosen:
        if case.name not in found:
            found[case.name] = Outcome(case, Verdict.SKIPPED, str(policy), _missing(case, vcpus))
    return [found[case.name] for case in chosen] + runs


def _plans(
    policy: Policy, vcpus: int, pcpus: int, scripted: bool, without: frozenset[str]
) -> Iterable[_Plan]:
    common = _ALWAYS | ({"SMP"} if vcpus > 1 else set())
    present = common | {"PVLOCK", "NODE", "STALE", "BLOCKS"}
    present |= {"LETTER"} if policy is Policy.SCHEDULED_OUT else {"SPARING"}
    present |= {"OVERCOMMIT"} if vcpus > pcpus else set()
    present |= {"PARALLEL"} if pcpus > 1 else set()
    observe = _OBSERVE_MS if scripted else _OBSERVE_REAL_MS
    arguments = f"observe={observe} strict={int(scripted)}"
    yield _Plan(str(policy), present - without, {"policy": policy}, arguments)
    yield _Plan(
        "no structure placed",
        common - without | {"UNSET", "NODE"},
        {"policy": policy, "place": False},
        needed=frozenset({"UNSET"}),
    )
    # On a real host the kernel has PV time, and we cannot switch it off.
    no_time = {"NO_TIME"} if scripted else set()
    yield _Plan(
        "PV-lock and PV time off" if scripted else "PV-lock off",
        (common - without - ({"TIME"} if scripted else set())) | {"ABSENT"} | no_time,
        {"policy": policy, "pvlock": False},
        "probe=1",
        needed=frozenset({"ABSENT"} | no_time),
    )
    if scripted and vcpus > 1:
        yield _Plan(
            f"{policy}, scripted",
            present - without | {"WATCH"},
            {"policy": policy, "script": schedule.script()},
            f"watch={schedule.WATCH_NS}",
            needed=frozenset({"WATCH"}),
        )


def _belongs(case: Case, plan: _Plan) -> bool:
    if case in userspace.cases() or not case.needs - _FOUND_OUT <= plan.claims:
        return False
    return not plan.needed or bool(case.needs & plan.needed)


def _missing(case: Case, vcpus: int) -> str:
    if {"LETTER", "SPARING"} & case.needs:
        return "about the other policy"
    if "SMP" in case.needs and vcpus < 2:
        return "one VCPU"
    return f"no machine of this run has all of {', '.join(sorted(case.needs))}"


def _run(
    make_machine: MakeMachine, plan: _Plan, cases: list[Case], vcpus: int, pcpus: int
) -> list[Outcome]:
    names = ",".join(case.name for case in cases)
    bootargs = f"cases={names} policy={plan.options['policy']} {plan.bootargs}"
    if "script" in plan.options:
        vcpus = pcpus = 2
    log = Log()
    ended = ""
    forced: Mapping[str, str] = {}
    try:
        with make_machine(vcpus, pcpus, bootargs=bootargs.strip(), **plan.options) as machine:
            forced = HOST_DECIDES.get(machine.engine.name, {})
            _prepare(machine, plan)
            ended = _until_off(machine, vcpus)
            text = machine.console.text
        read(text, log, plan.name)
    except LogError as error:
        ended = ended or str(error)
    except PvlockError as error:
        ended = str(error)
    outcomes = [_settle(outcome, plan, forced) for outcome in log.outcomes]
    heard = {outcome.case.name for outcome in outcomes}
    for case in cases:
        if case.name not in heard:
            outcomes.append(Outcome(case, Verdict.FAILED, plan.name, "the run ended before it"))
    verdict = Verdict.FAILED if ended else Verdict.OK
    outcomes.append(Outcome(RUN, verdict, plan.name, ended, dict(log.facts)))
    return outcomes


def _prepare(machine: Machine, plan: _Plan) -> None:
    """Load the guest, and fill the structures' padding, which the guest's first call must zero."""
    for ipa in machine.pvlock.addresses.values():
        machine.memory.write(ipa + 8, POISON * (STRUCTURE_SIZE - 8), "conformance")
    if "NO_TIME" in plan.claims:
        machine.stolen_time.enabled = False
    machine.load(binary("Image"))


def _until_off(machine: Machine, vcpus: int) -> str:
    """Run the machine until it is off; return what went wrong, or an empty text."""
    limit = _LIMIT_NS + vcpus * _LIMIT_PER_VCPU_NS + machine.engine.slack_ns
    event = machine.run(limit)
    if event is SystemEvent.OFF:
        return ""
    if event is SystemEvent.RESET:
        return "the machine was reset"
    return f"the guest still runs after {limit / 1e9:g} s"


def _settle(outcome: Outcome, plan: _Plan, forced: Mapping[str, str]) -> Outcome:
    """Return the outcome in the light of what the guest cannot know: claims, schedule, host."""
    case = outcome.case
    if outcome.verdict is Verdict.SKIPPED and case.needs <= plan.claims:
        reason = f"skipped, although this machine has what it needs: {outcome.reason}"
        outcome = outcome.but(Verdict.FAILED, reason)
    if outcome.verdict is Verdict.OK and "WATCH" in case.needs:
        why = schedule.mismatch(outcome.evidence.get("events"))
        outcome = outcome.but(Verdict.FAILED, why) if why else outcome
    if outcome.verdict is Verdict.FAILED and case.name in forced:
        outcome = outcome.but(Verdict.HOST, forced[case.name])
    return outcome


def _vm_maker(make_machine: MakeMachine, policy: Policy, vcpus: int, pcpus: int) -> userspace.Make:
    def make(pvlock: bool) -> userspace.Vm:
        machine = make_machine(vcpus, pcpus, policy=policy, pvlock=pvlock, place=False)
        return userspace.MachineVm(machine)

    return make
