# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges one derived mutant by the conformance suite: python -m mutants.judge, with in_place's
variable set. Prints a line of JSON: which case failed, and why, or that none did.

The cases are those of `pvlock check --engine emulator`, under both policies. The machines on which
mutants are likely to show come first, and the first failure ends it: most take a second.
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

_CPU_SECONDS = 120
"""A mutant that takes longer than this is in an endless loop: the whole suite takes ten."""
_OF_USER_SPACE = ("attribute", "region")


class _Found(Exception):
    """A case has failed."""


def judge(module: str) -> dict[str, str]:
    """Run the cases until one fails."""
    from pvlock import Machine, Policy, conformance
    from pvlock.conformance import Verdict, audit, plans, runner
    from pvlock.conformance.outcome import Outcome
    from pvlock.engines.emulator.engine import EmulatorEngine

    def look(policy: str, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.verdict is Verdict.FAILED:
                raise _Found(outcome.case.name, policy, outcome.reason)

    def run_one(make: Any, plan: Any, cases: Any, vcpus: int, pcpus: int, audits: Any) -> Any:
        outcomes = run(make, plan, cases, vcpus, pcpus, audits)
        look(plan.options["policy"], outcomes)
        # Too few switches of a kind are no failure as long as there are more machines to come.
        if audits and audits[-1][1].wrong:
            look(plan.options["policy"], audit.judge(audits))
        return outcomes

    def ordered(*arguments: Any) -> list[Any]:
        return sorted(all_plans(*arguments), key=lambda plan: not plan.drives)

    run, all_plans = runner._run, plans.plans
    make = functools.partial(Machine, engine="emulator")
    try:
        with (
            mock.patch.multiple(runner, _run=run_one, plans=ordered),
            mock.patch.object(EmulatorEngine, "worker", in_place.__name__),
        ):
            if module.endswith(_OF_USER_SPACE):
                look("", conformance.run(make, Policy.PREEMPTED, ["attr-*"]))
            for number, policy in enumerate(Policy):
                look(policy, conformance.run(make, policy, user_space=number == 0))
    except _Found as found:
        return dict(zip(("case", "policy", "why"), map(str, found.args), strict=True))
    return {}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    in_place.install()
    try:
        found = judge(os.environ[in_place.VARIABLE].partition(":")[0])
    except Exception as error:
        found = {"case": "(does not run)", "why": f"{type(error).__name__}: {error}"}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
