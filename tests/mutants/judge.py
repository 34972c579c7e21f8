# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges one derived mutant by the conformance suite: python -m mutants.judge, with in_place's
variable set. Prints a line of JSON: which case failed, and why, or that none did.

The cases are those of `pvlock check --engine emulator`, under both policies. Those that are likely
to fail come first, so most mutants are done in a second.
"""

import functools
import json
import os
import resource
import sys

from mutants import in_place

_CPU_SECONDS = 120
"""A mutant that takes longer than this is in an endless loop: the whole suite takes ten."""
_FIRST = {"scheduler": ["every-*"], "vm": ["every-*"], "attribute": ["attr-*"], "region": ["attr-*"],
          "hypercall": ["[1-5].*"]}  # fmt: skip


def judge(module: str) -> dict[str, str]:
    """Run the cases until one fails."""
    from pvlock import Machine, Policy, conformance
    from pvlock.conformance import Verdict
    from pvlock.engines.emulator.engine import EmulatorEngine

    EmulatorEngine.worker = in_place.__name__
    make = functools.partial(Machine, engine="emulator")
    first = _FIRST[module.rpartition(".")[2]]
    rounds = [(policy, first) for policy in (Policy.PREEMPTED, Policy.SCHEDULED_OUT)]
    for policy, cases in [*rounds, *((policy, ["*"]) for policy in Policy)]:
        for outcome in conformance.run(make, policy, cases):
            if outcome.verdict is Verdict.FAILED:
                return {"case": outcome.case.name, "policy": policy, "why": outcome.reason}
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
