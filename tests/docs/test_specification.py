# SPDX-License-Identifier: GPL-2.0-or-later
"""SPECIFICATION.md: every clause has a tag and a test that exists; its numbers are abi.py's."""

import ast
import re
import uuid
from functools import cache

import pytest

from asm import ROOT
from clauses import TEXT, Clause, clauses
from pvlock import abi

TAGS = {"document", "series", "pvlock", "DEN0028", "DEN0022", "DEN0057"}

REFERENCE = re.compile(r"`(tests/\w+/\w+\.py)::(\w+)`")
ROW = re.compile(r"^\| `(\w+)` \| `(\S+)` \|.*\| \[(\w+)\] \|$", re.MULTILINE)


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def numbers() -> dict[str, int]:
    return {name: int(value, 0) for name, value, _ in ROW.findall(TEXT)}


def test_clauses_are_numbered_without_gaps() -> None:
    expected: list[tuple[int, int]] = []
    section = 0
    for clause in clauses():
        number = expected[-1][1] + 1 if clause.section == section else 1
        section = clause.section
        expected.append((section, number))
    assert [(c.section, c.number) for c in clauses()] == expected
    headings = [int(n) for n in re.findall(r"^## (\d+) ", TEXT, re.MULTILINE)]
    assert sorted({c.section for c in clauses()}) == headings == list(range(1, 12))
    assert len(clauses()) == len(re.findall(r"^\*\*\d", TEXT, re.MULTILINE))


@pytest.mark.parametrize("clause", clauses(), ids=lambda c: c.name)
def test_clause_has_tag_and_test(clause: Clause) -> None:
    assert clause.tags
    assert set(clause.tags) <= TAGS
    *_, last = clause.text.splitlines()
    if last.startswith("No test: "):
        assert len(last) > len("No test: ") + 10, "a reason"
    else:
        references = REFERENCE.findall(last)
        assert references
        assert last == "Tests: " + ", ".join(f"`{path}::{test}`" for path, test in references)


@pytest.mark.parametrize(("path", "test"), sorted(set(REFERENCE.findall(TEXT))))
def test_named_test_exists(path: str, test: str) -> None:
    assert test.startswith("test_")
    assert test in functions_of(path)


def test_numbers_equal_abi() -> None:
    constants = {name: value for name, value in vars(abi).items() if type(value) is int}
    assert numbers() == {k: v for k, v in constants.items() if not k.startswith("_")}
    assert {tag for _, _, tag in ROW.findall(TEXT)} <= TAGS


def test_no_other_function_id_is_named() -> None:
    twins = {i & ~(1 << 30) for i in (abi.PV_LOCK_FEATURES, abi.PV_LOCK_PREEMPTED)}
    named = {int(n, 16) for n in re.findall(r"\b0x[0-9A-F]{8}\b", TEXT)}
    assert named - twins <= set(numbers().values())


def test_uid_equals_abi() -> None:
    found = re.findall(r"`([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})`", TEXT)
    assert [uuid.UUID(uid) for uid in found] == [abi.HYPERVISOR_UID]


def test_compatible_equals_abi() -> None:
    for compatible in (abi.DT_COMPATIBLE, abi.DT_TRACE_COMPATIBLE):
        assert f"`compatible` = `{compatible}`" in TEXT


def test_policies_equal_abi() -> None:
    assert re.findall(r"Publish policy `([a-z-]+)`", TEXT) == list(abi.Policy)


def test_modules_cite_clauses_that_exist() -> None:
    known = {clause.name for clause in clauses()}
    citation = re.compile(r"\bclauses? (\d+\.\d+(?:(?:, | and | to )\d+\.\d+)*)")
    for module in ("abi", "memory", "region", "attribute", "hypercall", "fdt"):
        source = (ROOT / "src" / "pvlock" / f"{module}.py").read_text(encoding="utf-8")
        for cited in citation.findall(source):
            assert set(re.split(", | and | to ", cited)) <= known, module


def test_every_contradiction_is_settled() -> None:
    assert re.findall(r"^\*\*(E\d): ", TEXT, re.MULTILINE) == [f"E{n}" for n in range(1, 9)]
