# SPDX-License-Identifier: GPL-2.0-or-later
"""Derives wrong publishers from bpf/publisher.bpf.c, and judges them by tests/kvm_parts.

python -m mutants.publisher RESULTS, as root where BPF may be loaded. `pvlock check` needs KVM to
judge this program; what judges it here are ordinary threads in place of VCPUs, whose every switch
an independent program records. RESULTS is as for `python -m mutants`: the run goes on where it was.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import build_native

from asm import ROOT
from mutants import results
from mutants.survivors import OF_THE_PUBLISHER

SOURCE = ROOT / "bpf" / "publisher.bpf.c"
_SWITCHES = "5000"
_SECONDS = 900
_SWAPS = (
    (r"==", "!="), (r"!=", "=="), (r"&&", "||"), (r"\|\|", "&&"), (r"!(?=[a-z])", ""),
    (r"\bprev\b", "next"), (r"\bnext\b", "prev"), (r"\b0\b", "1"), (r"\b1\b", "0"),
    (r"if \((.*)\)$", r"if (!(\1))"), (r"return -", "return "), (r"\btgid\b", "pid"),
)  # fmt: skip
_STATEMENT = re.compile(r"\t+(?!return 0|return \w+;)[^/].*;$")
_DECLARATION = re.compile(r"\t+(const )?(struct \w+|u32|u64|int) ")


@dataclass(frozen=True)
class Derived:
    """One mutant: line `number` (from 0) of the program has become `after`."""

    number: int
    function: str
    before: str
    after: str
    which: int

    @property
    def key(self) -> str:
        """The mutant's words, which no other mutant has."""
        more = f" #{self.which}" if self.which else ""
        return (
            f"publisher.bpf.c {self.function}: {self.before.strip()} → {self.after.strip()}{more}"
        )


def mutants() -> list[Derived]:
    """Return all mutants, in the order of their lines."""
    words: Counter[tuple[str, str, str]] = Counter()
    found = []
    for number, function, before, after in _derive(SOURCE.read_text("utf-8").split("\n")):
        text = function, before.strip(), after.strip()
        found.append(Derived(number, function, before, after, words[text]))
        words[text] += 1
    return found


def program(mutant: Derived) -> str:
    """Return the mutated program."""
    lines = SOURCE.read_text(encoding="utf-8").split("\n")
    lines[mutant.number] = mutant.after if mutant.after != "nothing" else ""
    return "\n".join(lines)


def _derive(lines: list[str]) -> Iterator[tuple[int, str, str, str]]:
    function = ""
    for number, line in enumerate(lines):
        if found := re.match(r"(?:static inline )?(?:int|void) (\w+)\(", line):
            function = found[1]
        if not function or not line.startswith("\t") or line.lstrip().startswith("/*"):
            continue
        for pattern, replacement in _SWAPS:
            for match in re.finditer(pattern, line):
                changed = line[: match.start()] + match.expand(replacement) + line[match.end() :]
                yield number, function, line, changed
        if _STATEMENT.fullmatch(line) and not _DECLARATION.match(line):
            under_if = lines[number - 1].lstrip().startswith("if (")
            yield number, function, line, "\t;" if under_if else "nothing"


def result_of(mutant: Derived) -> results.Result:
    """Build the mutant in a copy of this tree, and run the tests there."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for folder in ("src", "tests", "bpf"):
            shutil.copytree(ROOT / folder, tree / folder)
        for file in ("build_native.py", "pyproject.toml"):
            shutil.copy(ROOT / file, tree)
        source = tree / "bpf" / SOURCE.name
        source.write_text(program(mutant), encoding="utf-8")
        try:
            build_native.build_bpf(source, tree / "src/pvlock/engines/kvm/publisher.bpf.o")
        except subprocess.CalledProcessError:
            return {"case": "(does not compile)"}
        paths = os.pathsep.join(map(str, (tree / "src", tree / "tests", tree)))
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, "tests/kvm_parts/test_publisher.py"],
                cwd=tree, capture_output=True, text=True, check=False, timeout=_SECONDS,
                env=os.environ
                | {"PYTHONPATH": paths, "PVLOCK_SWITCHES": _SWITCHES, "PVLOCK_NO_SKIP": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"case": "(does not end)"}
    if done.returncode == 0:
        return {"survives": results.ALL}
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
    return {"case": failed[1] if failed else "(does not run)"}


def main() -> int:
    path = Path(sys.argv[1]).resolve()
    found = results.read(path)
    every = mutants()
    for number, mutant in enumerate(every, 1):
        if mutant.key in found:
            continue
        found[mutant.key] = result = result_of(mutant)
        results.add(path, mutant.key, result)
        print(f"{number}/{len(every)} {mutant.key}: {result.get('case', 'SURVIVES')}", flush=True)
    new = [m.key for m in every if "survives" in found[m.key] and m.key not in OF_THE_PUBLISHER]
    print(f"{len(every) - len(results.survivors(found))} of {len(every)} are noticed")
    print("".join(f"{key}\n" for key in new), end="")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
