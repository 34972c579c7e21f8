# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example prints exactly what the .out file beside it holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from asm import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = 120


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_output(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", str(example)],
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == example.with_suffix(".out").read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert EXAMPLES
