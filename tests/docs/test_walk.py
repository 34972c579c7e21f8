# SPDX-License-Identifier: GPL-2.0-or-later
"""The walks in docs/architecture.md name places in the code, and these are where it says.

When lines have moved, `PVLOCK_UPDATE=1 pytest tests/docs/test_walk.py` writes their new numbers.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
STEP = re.compile(r"^- `(?P<file>[\w/.]+):(?P<line>\d+)` \(`(?P<name>[\w.]+)`\): `(?P<text>[^`]+)`")


def steps() -> list[re.Match[str]]:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    return [found for line in lines if (found := STEP.match(line))]


def python_lines(text: str, name: str) -> range:
    """Return the lines of the class or function `name`, a qualified name, with its decorators."""

    def children(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.stmt]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield prefix + child.name, child
                yield from children(child, f"{prefix}{child.name}.")

    node = dict(children(ast.parse(text), ""))[name]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    first = min(part.lineno for part in (node, *node.decorator_list))
    assert node.end_lineno is not None
    return range(first, node.end_lineno + 1)


def c_lines(text: str, name: str) -> range:
    """Return the lines of the C function `name`."""
    lines = text.splitlines()
    pattern = re.compile(rf"\w.*\b{name}\(.*[^;]$")
    first = next(number for number, line in enumerate(lines, 1) if pattern.match(line))
    last = next(number for number, line in enumerate(lines, 1) if number > first and line == "}")
    return range(first, last + 1)


def lines_of(step: re.Match[str]) -> list[int]:
    """Return the lines of the step's function that have its text."""
    text = (ROOT / step["file"]).read_text(encoding="utf-8")
    find = python_lines if step["file"].endswith(".py") else c_lines
    lines = text.splitlines()
    return [n for n in find(text, step["name"]) if step["text"] in lines[n - 1]]


def test_the_walk_goes_from_the_command_line_to_both_stores() -> None:
    files = [step["file"] for step in steps()]
    assert len(files) >= 12
    assert "src/pvlock/cli/run.py" in files
    assert "src/pvlock/engines/emulator/vm.py" in files
    assert files[-1] == "bpf/publisher.bpf.c"


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"{step['file']}:{step['name']}")
def test_each_step_is_where_the_document_says(step: re.Match[str]) -> None:
    found = lines_of(step)
    assert found, f"{step['file']}: {step['name']} has no {step['text']}"
    if os.environ.get("PVLOCK_UPDATE"):
        text = DOCUMENT.read_text(encoding="utf-8")
        new = step[0].replace(f":{step['line']}`", f":{found[0]}`", 1)
        DOCUMENT.write_text(text.replace(step[0], new), encoding="utf-8")
    else:
        assert int(step["line"]) in found
