# SPDX-License-Identifier: GPL-2.0-or-later
"""What README.md, docs/tutorial.md and docs/explain.md show is what happens.

In the order of the document, in a folder that looks like the clone: a block ```console runs each
line that starts with "$ " and compares what it prints, where a line "..." stands for any lines; a
block ```python runs, and what it prints is compared when "prints" and a block ```text follow; a
block after <!-- file: NAME --> is saved as NAME. Other blocks are not run.

When figures have moved for a good reason, `PVLOCK_UPDATE=1 pytest tests/docs/test_docs.py` writes
the new ones into the documents. Then read them: the prose may name a figure too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from asm import ROOT
from pvlock import engines

BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```\n"
    r"(?:\n(?:[^\n]* )?prints:?\n\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
SECONDS = 120
AUTO = "(auto: kvm cannot run here, see pvlock doctor)"


class Step(NamedTuple):
    """One thing to do: a command, or a script; `expected` is None where nothing is compared."""

    line: int
    command: list[str] | str
    expected: str | None


def steps(document: Path, folder: Path) -> list[Step]:
    """Return the steps of `document`; writes its files into `folder`."""
    text = document.read_text(encoding="utf-8")
    found: list[Step] = []
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        body = block["body"]
        if block["file"]:
            (folder / block["file"]).write_text(body, encoding="utf-8")
        elif block["language"] == "python":
            found.append(Step(line, [sys.executable, "-c", body], block["output"]))
        elif block["language"] == "console":
            assert body.startswith("$ "), f"{document.name}:{line}: a command comes first"
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, expected = part.partition("\n")
                found.append(Step(line, command, expected))
    return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A clone to work in, and `pvlock` and `python` on the path, as after the installation."""
    for name in ("build_native.py", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("pvlock", " -m pvlock")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"}


def renewed(expected: str, printed: str) -> str:
    """Return `expected` with each line, but for "...", as it is printed now."""
    result, left = [], printed.splitlines()
    skip = False
    for line in expected.splitlines():
        if line != "..." and left:
            start = next((i for i, now in enumerate(left) if skip and now[:9] == line[:9]), 0)
            line, left = left[start], left[start + 1 :]
        skip = line == "..."
        result.append(line)
    return "".join(f"{line}\n" for line in result + ([] if skip else left))


def pattern(expected: str) -> re.Pattern[str]:
    lines = (line.rstrip() for line in expected.splitlines())
    return re.compile("".join(r"(?:.*\n)*?" if x == "..." else re.escape(x) + "\n" for x in lines))


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md", "docs/explain.md"])
def test_what_is_shown_is_what_happens(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    document = ROOT / name
    for step in steps(document, tmp_path):
        done = subprocess.run(
            step.command,
            shell=isinstance(step.command, str),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        printed = "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())
        where = f"{name}:{step.line}: {step.command}\n"
        assert isinstance(step.command, str) or done.returncode == 0, where + printed
        expected = step.expected
        if expected is not None and engines.named():  # as on a host that has KVM: see conftest.py
            expected = expected.replace(AUTO, f"(auto: {engines.VARIABLE} names it)")
        if step.expected is not None and os.environ.get("PVLOCK_UPDATE"):
            text = document.read_text(encoding="utf-8")
            assert "Traceback" not in printed, where + printed
            command = f"$ {step.command}\n" if isinstance(step.command, str) else ""
            new = command + renewed(step.expected, printed)
            document.write_text(text.replace(command + step.expected, new), encoding="utf-8")
        elif expected is not None:
            assert pattern(expected).fullmatch(printed), where + printed


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
