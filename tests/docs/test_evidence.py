# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/evidence.md is made of docs/evidence.csv, and what is in there comes out again."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from asm import ROOT
from pvlock.errors import PvlockError

DOCS = ROOT / "docs"
SEED = 1
STEADY = ("create", "fscopy1024", "fscopy4096")
"""Loads whose gain, where WFE does not trap, is far from 1 in every run."""


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import evidence

    return evidence


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    for path in (*DOCS.glob("evidence*.csv"), DOCS / "published.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import evidence_report;"
        "evidence_report.write(pathlib.Path(sys.argv[2]))"
    )
    benchmarks = str(ROOT / "benchmarks")
    subprocess.run([sys.executable, "-c", program, benchmarks, str(tmp_path)], check=True)
    written = (tmp_path / "evidence.md").read_text("utf-8")
    assert written == (DOCS / "evidence.md").read_text("utf-8")
    assert (tmp_path / "evidence.png").stat().st_size > 10_000


@pytest.mark.usefixtures("pvlock_kernel")
def test_a_pair_of_machines_gives_the_kept_digits(
    evidence: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the guest's files are the kept ones; elsewhere, the directions."""
    try:
        files = evidence.files_of_here()
    except PvlockError as error:
        pytest.skip(str(error))
    here = evidence.digits(files)
    pair = [job for job in evidence.jobs(here, "overcommitted", SEED) if job[0].wfe == "notrap"]
    rows = [row for job in pair for row in evidence.execute(job, files)]
    kept = {(row.machine, row.load): row for row in evidence.kept()}
    assert len(pair) == 2
    same = all((row.machine, row.load) in kept for row in rows)
    with capsys.disabled():
        print("\nevidence: digits compared" if same else f"\nevidence: directions only: {here}")
    for row in rows:
        if same:
            assert row.throughput == pytest.approx(kept[row.machine, row.load].throughput, abs=0.1)
    throughput = {(row.machine.pvlock, row.load): row.throughput for row in rows}
    for load in STEADY:
        assert throughput[True, load] > 1.3 * throughput[False, load]
    assert throughput[True, "pipe"] == pytest.approx(throughput[False, "pipe"], rel=0.02)
