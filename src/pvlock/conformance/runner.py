# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs both halves of the suite on machines that Python can make.

The guest runs on the machines of plans.py, and on each it runs the cases whose needs that machine
meets, so it may skip none of them. The user-space checks make machines of their own.
"""

from collections.abc import Callable, Collection, Mapping

from pvlock.abi import STRUCTURE_SIZE, Policy
from pvlock.conformance import audit, schedule, userspace
from pvlock.conformance.cases import HOST_DECIDES, Case, binary, guest_cases, select
from pvlock.conformance.outcome import RUN, Outcome, Verdict
from pvlock.conformance.plans import Plan, belongs, plans
from pvlock.conformance.tap import Log, read
from pvlock.engines.contract import Audit, Auditing, SystemEvent
from pvlock.errors import LogError, PvlockError
from pvlock.machine import Machine

MakeMachine = Callable[..., Machine]
"""Called as make(vcpus, pcpus, **options), with options of machine.Machine."""

POISON = b"\xa5"
"""What the padding of the structures holds when the guest starts, as if left by another."""

_LIMIT_NS = 2_000_000_000
_LIMIT_PER_VCPU_NS = 100_000_000


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
    chosen = select((*guest_cases(), *audit.CASES, *userspace.cases()), cases)
    if not user_space:
        chosen = [case for case in chosen if case.name not in of_user_space]
    audited = scripted and vcpus > 1 and any(case in audit.CASES for case in chosen)
    found: dict[str, Outcome] = {}
    runs: list[Outcome] = []
    audits: list[tuple[str, Audit]] = []
    for plan in plans(policy, vcpus, pcpus, scripted, frozenset(without)):
        mine = [case for case in chosen if belongs(case, plan, found)]
        if audited and not mine and plan.drives:
            mine = [case for case in guest_cases() if case.name == plan.drives]
        if mine:
            result = _run(make_machine, plan, mine, vcpus, pcpus, audits if audited else None)
            runs += [outcome for outcome in result if outcome.case is RUN]
            for outcome in result:
                # What fails on one machine has failed, whatever it did on others.
                if outcome.case in chosen and (
                    outcome.case.name not in found or outcome.verdict is Verdict.FAILED
                ):
                    found[outcome.case.name] = outcome
    if audited:
        found |= {outcome.case.name: outcome for outcome in audit.judge(audits)}
    names = [case.name for case in chosen if case.name in of_user_space]
    if names:
        make_vm = _vm_maker(make_machine, policy, max(vcpus, 2), pcpus)
        found |= {outcome.case.name: outcome for outcome in userspace.check(make_vm, names)}
    for case in chosen:
        if case.name not in found:
            found[case.name] = Outcome(case, Verdict.SKIPPED, str(policy), _missing(case, vcpus))
    return [found[case.name] for case in chosen] + runs


def _missing(case: Case, vcpus: int) -> str:
    if case in audit.CASES:
        return "one VCPU" if vcpus < 2 else "only a simulated host knows the truth of every switch"
    if {"LETTER", "SPARING"} & case.needs:
        return "about the other policy"
    if "SMP" in case.needs and vcpus < 2:
        return "one VCPU"
    return f"no machine of this run has all of {', '.join(sorted(case.needs))}"


def _run(
    make_machine: MakeMachine,
    plan: Plan,
    cases: list[Case],
    vcpus: int,
    pcpus: int,
    audits: list[tuple[str, Audit]] | None,
) -> list[Outcome]:
    names = ",".join(case.name for case in cases)
    bootargs = f"cases={names} policy={plan.options['policy']} {plan.bootargs}"
    options = dict(plan.options)
    if "script" in options:
        vcpus = pcpus = 2
    vcpus, pcpus = plan.size or (vcpus, pcpus)
    if audits is not None and "PVLOCK" in plan.claims:
        options["audit"] = True
    log = Log()
    ended = ""
    forced: Mapping[str, str] = {}
    try:
        with make_machine(vcpus, pcpus, bootargs=bootargs.strip(), **options) as machine:
            forced = HOST_DECIDES.get(machine.engine.name, {})
            _prepare(machine, plan)
            ended = _until_off(machine, vcpus)
            if audits is not None and "audit" in options:
                assert isinstance(machine.engine, Auditing)
                audits.append((plan.name, machine.engine.audit()))
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


def _prepare(machine: Machine, plan: Plan) -> None:
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


def _settle(outcome: Outcome, plan: Plan, forced: Mapping[str, str]) -> Outcome:
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
