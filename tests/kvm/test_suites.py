# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance suite and the hostile guest on KVM, by the command line."""

import json
import subprocess
import sys

from pvlock.conformance.cases import HOST_DECIDES

FORCED = "forced by the host"


def pvlock(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pvlock", *arguments],
        capture_output=True, text=True, timeout=400, check=False, cwd="/",
    )  # fmt: skip


def test_conformance(nothing_left: None) -> None:
    """Only the cases fail that a stock kernel decides, and they do not count as passed."""
    done = pvlock("check", "--engine", "kvm", "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    verdicts: dict[str, set[str]] = {}
    for each in report["cases"]:
        verdicts.setdefault(each["verdict"], set()).add(each["name"])
    assert verdicts.keys() <= {"ok", FORCED, "skipped"}, verdicts
    assert verdicts[FORCED] == set(HOST_DECIDES["kvm"])
    assert not verdicts[FORCED] & verdicts["ok"]
    assert len(verdicts["ok"]) > 50


def test_hostile_guests(nothing_left: None) -> None:
    """The host survives the guests, and a machine beside them notices nothing."""
    done = pvlock("fuzz", "--engine", "kvm", "--operations", "20000", "--per-case", "5000",
                  "--seed", "1", "--jobs", "1", "--findings", "/tmp/findings")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
