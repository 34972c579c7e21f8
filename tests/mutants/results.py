# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of derived mutants, kept in files of a line of JSON for each.

A line has the mutant's words, and either the `case` that noticed it, and why, or how thoroughly it
was judged: it `survives` "quick" or "all" cases. The last line about a mutant counts.
"""

import json
from pathlib import Path

KEPT = Path(__file__).with_name("results.jsonl")
"""What `make mutants` found."""
OF_THE_PUBLISHER = Path(__file__).with_name("publisher.jsonl")
"""What `python -m mutants.publisher` found."""
QUICK, ALL = "quick", "all"

Result = dict[str, str]


def read(path: Path) -> dict[str, Result]:
    """Return the results in a file, by the mutants' words; empty if there is no file."""
    found: dict[str, Result] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[entry.pop("mutant")] = entry
    return found


def add(path: Path, mutant: str, result: Result) -> None:
    """Add a result to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"mutant": mutant, **result}, ensure_ascii=False) + "\n")


def survivors(found: dict[str, Result]) -> list[str]:
    """Return the words of those that nothing noticed."""
    return [mutant for mutant, result in found.items() if "survives" in result]
