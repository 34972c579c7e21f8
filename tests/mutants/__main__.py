# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges all derived mutants: python -m mutants RESULTS [--jobs N] [--quick] [--only WORD].

RESULTS gets a line for each (results.py). A mutant that has a line there is not judged again, so
the run can be stopped and goes on where it was. --quick runs the cases that are likely to fail, and
leaves the survivors to a run without it. --only, which may repeat, chooses the mutants in whose
words WORD occurs. At the end it prints the survivors that docs/mutants.md does not explain; the
status is 1 then.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mutants import derive, in_place, results
from mutants.derive import Derived
from mutants.survivors import SURVIVORS

_SECONDS = 1800
_ENDED = "(ended by a signal)"


def result_of(mutant: Derived, quick: bool) -> results.Result:
    """Judge a mutant in a process of its own."""
    variable = f"{mutant.module}:{mutant.place}:{mutant.variant}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mutants.judge", *(["quick"] if quick else [])],
            env=os.environ
            | {in_place.VARIABLE: variable, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"case": "(does not end)", "why": f"after {_SECONDS} s"}
    if done.returncode < 0:
        return {"case": _ENDED, "why": f"signal {-done.returncode}"}
    if done.returncode:
        return {"case": "(does not run)", "why": done.stderr.strip().split("\n")[-1]}
    found: results.Result = json.loads(done.stdout)
    return found or {"survives": results.QUICK if quick else results.ALL}


def chosen(words: Iterable[str]) -> list[Derived]:
    every = [mutant for module in derive.MODULES for mutant in derive.mutants(module)]
    return [m for m in every if not words or any(word in m.key for word in words)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("results", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="WORD", action="append", default=[])
    arguments = parser.parse_args()
    found = results.read(arguments.results)
    mutants = chosen(arguments.only)
    done = (results.QUICK, results.ALL) if arguments.quick else (results.ALL,)
    rest = [
        mutant
        for mutant in mutants
        if (result := found.get(mutant.key)) is None or result.get("survives", done[0]) not in done
    ]
    print(f"{len(mutants)} mutants, {len(rest)} of them not judged yet", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(result_of, mutant, arguments.quick): mutant for mutant in rest}
        for number, future in enumerate(as_completed(futures), 1):
            mutant, result = futures[future], future.result()
            found[mutant.key] = result
            results.add(arguments.results, mutant.key, result)
            print(
                f"{number}/{len(rest)} {mutant.key}: {result.get('case', 'SURVIVES')}", flush=True
            )
    survivors = [mutant.key for mutant in mutants if "survives" in found[mutant.key]]
    new = [key for key in survivors if key not in SURVIVORS]
    noticed = len(mutants) - len(survivors)
    print(f"{noticed} of {len(mutants)} are noticed, {len(new)} survivors are new")
    print("".join(f"{key}\n" for key in new), end="")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
