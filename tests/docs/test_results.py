# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/results.md is what benchmarks/results.py makes of a sweep's cells: here, of a small one."""

import subprocess
import sys
from pathlib import Path

from asm import ROOT


def test_every_group_gets_a_row_and_a_sentence(tmp_path: Path) -> None:
    cells, report = tmp_path / "cells.csv", tmp_path / "results.md"
    grid = "--guest mutex,idle --vcpus 2,4 --pcpus 2 --slice 500us --duration 2ms --seeds 2"
    for command in (
        ["-m", "pvlock", "sweep", *grid.split(), "--out", str(cells), "--cache", str(tmp_path)],
        [str(ROOT / "benchmarks" / "results.py"), str(cells), "--to", str(report)],
    ):
        subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=100)
    lines = report.read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| trap |")]
    assert len(rows) == 4
    assert all(row[-1].startswith(("Gain", "Loss", "No effect", "Depends")) for row in rows)
    assert rows[-2][-1] == "No effect: nobody is preempted. |"
    assert "## mutex" in lines
    assert "## idle" in lines
