# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/conformance.md: its lists are whole, and what it shows of QEMU is what happens."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asm import ROOT
from clauses import clauses
from pvlock import Policy
from pvlock.conformance import audit, userspace
from pvlock.conformance.cases import binary, guest_cases
from pvlock.conformance.outcome import Conclusion

DOCUMENT = ROOT / "docs" / "conformance.md"
EXAMPLES = ROOT / "examples"
EXCUSE = re.compile(r"^\| (\d+)\.(\d+)(?: to \1\.(\d+))? \| (.{10,}) \|$", re.MULTILINE)
CASES = (*guest_cases(), *audit.CASES, *userspace.cases())


def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def table() -> str:
    rows = ["| clause | tag | case | needs | it asserts that |", "|---|---|---|---|---|"]
    for case in CASES:
        needs = ", ".join(sorted(case.needs)) or ("a VM" if case in userspace.cases() else "")
        needs = "the truth" if case in audit.CASES else needs
        rows.append(f"| {case.clause} | {case.tag} | `{case.name}` | {needs} | {case.what} |")
    return "\n" + "\n".join(rows) + "\n\n"


def test_table_of_cases_is_current() -> None:
    before, after = text().split("<!-- cases: ", 1)
    mark, rest = after.split("\n", 1)
    old, end = rest.split("<!-- end of cases -->", 1)
    if os.environ.get("PVLOCK_UPDATE"):
        new = f"{before}<!-- cases: {mark}\n{table()}<!-- end of cases -->{end}"
        DOCUMENT.write_text(new, encoding="utf-8")
    else:
        assert old == table()


def test_every_clause_has_a_case_or_a_reason() -> None:
    excused: set[str] = set()
    for major, first, last, _ in EXCUSE.findall(section("Clauses without a case")):
        excused |= {f"{major}.{n}" for n in range(int(first), int(last or first) + 1)}
    covered = {case.clause for case in CASES}
    known = {clause.name for clause in clauses()}
    assert covered | excused == known
    assert not covered & excused


def test_needs_are_those_of_the_header() -> None:
    header = (ROOT / "guest" / "conformance" / "cases.h").read_text(encoding="utf-8")
    needs = set(re.findall(r"^\t([A-Z_]+) = 1 << \d+,", header, re.MULTILINE))
    assert set().union(*(case.needs for case in CASES)) == needs


def test_numbers_of_the_derivation_are_those_of_the_guest() -> None:
    source = (ROOT / "guest" / "conformance" / "case_observe.c").read_text(encoding="utf-8")
    for pattern in (r"RUN = 5,", r"PACE_NS 5000ul", r"GAP_NS 100000ul", r"LOOK_NS 2000ul",
                    r"STILL_NS 1000000ul", r"OBSERVE_MS 300ul"):  # fmt: skip
        assert re.search(pattern, source), pattern
    (case,) = (case for case in CASES if case.name == "running-reads-0")
    assert "5 consecutive" in case.what


def test_boot_arguments_are_those_of_the_guest() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "guest/conformance").glob("*.c"))
    used = set(re.findall(r'bootarg(?:_number)?\("(\w+)"', sources))
    assert used == set(re.findall(r"^\| `(\w+)=", section("Your hypervisor, in three steps"), re.M))
    assert all(f"policy={policy}" in text() for policy in Policy)


def test_cases_that_the_prose_names_exist() -> None:
    names = {case.name for case in CASES}
    for group in re.findall(r"^\*\*((?:`[a-z0-9-]+`[, ]*)+)", text(), re.MULTILINE):
        assert set(re.findall(r"`([a-z0-9-]+)`", group)) <= names | {"--parse"}, group


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="no qemu-system-aarch64")
def test_the_qemu_recipe_works(tmp_path: Path) -> None:
    recipe = re.search(r"<!-- run: qemu -->\n```sh\n(.*?)```", text(), re.DOTALL)
    assert recipe
    program = tmp_path / "bin" / "pvlock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pvlock "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        ["sh", "-e", "-c", recipe[1]], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    # QEMU has no PV-lock: the recipe says so, and ends as a failure.
    assert done.returncode == 1, done.stderr
    assert "interface: absent" in done.stdout
    assert "PV-lock was not offered: interface absent" in done.stderr


def test_conclusions_are_all_in_the_table() -> None:
    shown = re.findall(r"^\| `([^`]+)` \| \d \|", text(), re.MULTILINE)
    assert sorted(shown) == sorted(Conclusion)


def test_every_recipe_demands_that_pvlock_is_there() -> None:
    """A hypervisor that loses PV-lock must not stay green for who followed a recipe."""
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *EXAMPLES.glob("*.yml")]:
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            if "check --parse" in line:
                assert "--present" in line or "--absent-ok" in line, f"{document}:{number}"


def test_size_that_the_document_gives() -> None:
    assert "The guest is smaller than 64 KiB" in text()
    assert len(binary("Image")) < 64 << 10
