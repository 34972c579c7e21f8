# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of the command line for tests: a process of its own, its status, and its one complaint."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asm import ROOT

PVLOCK: Final = [sys.executable, "-m", "pvlock"]
ENVIRONMENT: Final = os.environ | {
    # As pytest found the package, so that other working directories find it too.
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    "PYTHONUNBUFFERED": "1",
}
PATIENCE_S: Final = 120
SHORT: Final = ["--duration", "2ms"]
"""Options of a run that takes no time worth mentioning."""


@dataclass
class Done:
    """A finished pvlock: its status and what it wrote."""

    status: int
    out: str
    err: str


def pvlock(*arguments: str, cwd: Path | None = None, seconds: int = PATIENCE_S) -> Done:
    done = subprocess.run(
        [*PVLOCK, *arguments],
        capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=seconds, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def complaint(done: Done) -> str:
    """Return the one line that says what is wrong; click's usage lines do not count."""
    assert done.status in (1, 2), done
    noise = ("Usage:", "Try ", "pvlock 0")
    lines = [line for line in done.err.splitlines() if line and not line.startswith(noise)]
    assert len(lines) == 1, done.err
    assert all(line.startswith("pvlock 0") for line in done.out.splitlines()), done.out
    return lines[0]
