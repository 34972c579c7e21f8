# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges one derived mutant by the conformance suite: python -m mutants.judge [quick].

in_place's variable says which. It prints a line of JSON: which case failed, and why, or that none
did. The cases are those of `pvlock check --engine emulator`, under both policies. Those that are
likely to fail come first, on few machines, and the first failure ends it. With `quick` only those
are run.
"""

import functools
import json
import os
import resource
import sys
from collections.abc import Iterable
from typing import Any
from unittest import mock

from mutants import in_place

_CPU_SECONDS = 60
"""A mutant that takes longer than this is in an endless loop: the whole suite takes ten."""
_LIMIT_NS = 200_000_000
"""A guest that runs longer than this hangs: the right machine takes 68 ms at most."""
_SWITCHING = ("pvlock.engines.emulator.scheduler", "pvlock.engines.emulator.vm")

_SWITCHES = ("every-*", "watch", "*-reads-0", "sleepers-*", "off-again")


class _Found(Exception):
    """A case has failed."""


def judge(module: str, quick: bool) -> dict[str, str]:
    """Run the cases until one fails."""
    from pvlock import Machine, Policy, conformance
    from pvlock.conformance import Verdict, plans, runner, userspace
    from pvlock.conformance.outcome import RUN, Outcome
    from pvlock.engines.emulator.engine import EmulatorEngine

    run, all_plans = runner._run, plans.plans
    make = functools.partial(Machine, engine="emulator")
    few = True

    def look(policy: str, outcomes: Iterable[Outcome]) -> None:
        # How a run ended says more than which cases it did not get to.
        for outcome in sorted(outcomes, key=lambda outcome: outcome.case is not RUN):
            if outcome.verdict is Verdict.FAILED:
                raise _Found(outcome.case.name, policy, outcome.reason)

    def run_one(make: Any, plan: Any, cases: Any, vcpus: int, pcpus: int, audits: Any) -> Any:
        outcomes = run(make, plan, cases, vcpus, pcpus, audits)
        look(plan.options["policy"], outcomes)
        return outcomes

    def chosen(*arguments: Any) -> list[Any]:
        found = list(all_plans(*arguments))
        if few and module in _SWITCHING:
            found = [
                plan for plan in found if plan.size == plans.SWITCHING or "WATCH" in plan.needed
            ]
        elif few:
            found = [plan for plan in found if plan.size is None]
        return sorted(found, key=lambda plan: not plan.drives)

    first = _SWITCHES if module in _SWITCHING else ["[1-57-9].*", "10.[124]"]
    try:
        with (
            mock.patch.multiple(runner, _run=run_one, plans=chosen, _LIMIT_NS=_LIMIT_NS),
            mock.patch.multiple(EmulatorEngine, worker=in_place.__name__, slack_ns=0),
            mock.patch.object(runner, "_LIMIT_PER_VCPU_NS", 0),
        ):
            if module not in _SWITCHING:
                from other_vm import OtherVm

                look("", userspace.check(OtherVm))
            for policy in Policy if module in _SWITCHING else [Policy.PREEMPTED]:
                look(policy, conformance.run(make, policy, first, user_space=False))
            few = False
            for policy in () if quick else Policy:
                # The checks of user space run no VCPU; the others have had them above.
                look(policy, conformance.run(make, policy, user_space=False))
    except _Found as found:
        return dict(zip(("case", "policy", "why"), map(str, found.args), strict=True))
    return {}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    in_place.install()
    try:
        module = os.environ[in_place.VARIABLE].partition(":")[0]
        found = judge(module, "quick" in sys.argv)
    except Exception as error:
        found = {"case": "(does not run)", "why": f"{type(error).__name__}: {error}"}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
