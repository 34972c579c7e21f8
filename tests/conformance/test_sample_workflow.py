# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/vmm-ci.yml: its steps, run as a CI service runs them, with the real QEMU."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asm import ROOT

WORKFLOW = ROOT / "examples" / "vmm-ci.yml"
STEP = re.compile(
    r"^      - name: (?P<name>.+)\n(?: +#.*\n)*"
    r"        run: (?:\|\n(?P<lines>(?: {10}.*\n)+)|(?P<line>[^|\n]+)\n)",
    re.MULTILINE,
)
SECONDS = 180

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None,
    reason="no qemu-system-aarch64: apt-get install qemu-system-arm",
)


def steps() -> dict[str, str]:
    text = WORKFLOW.read_text(encoding="utf-8")
    return {s["name"]: textwrap.dedent(s["lines"] or s["line"]) for s in STEP.finditer(text)}


def run(step: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a step in `folder`, with pvlock on the path, as a workflow runs it."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "pvlock").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pvlock "$@"\n')
    (programs / "pvlock").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def failures(folder: Path) -> list[str]:
    suite = ElementTree.fromstring((folder / "pvlock.xml").read_text(encoding="utf-8"))
    assert int(suite.get("tests", "")) > 0
    return [failure.get("message", "") for failure in suite.iter("failure")]


def test_the_steps() -> None:
    assert list(steps()) == ["Install", "Boot the conformance guest", "Judge its console"]
    assert "path: |\n            pvlock.xml\n" in WORKFLOW.read_text(encoding="utf-8")


def test_a_hypervisor_that_has_no_pvlock_is_red_and_says_why(tmp_path: Path) -> None:
    booted = run(steps()["Boot the conformance guest"], tmp_path)
    assert booted.returncode == 0, booted.stderr
    assert (tmp_path / "guest.Image").exists()
    judged = run(steps()["Judge its console"], tmp_path)
    assert judged.returncode == 1
    (why,) = failures(tmp_path)
    assert "PV-lock was not offered: interface absent" in why
    # What QEMU can be judged by is right: who asks for no more than that has a green step.
    asked = steps()["Judge its console"].replace("--present", "--absent-ok")
    assert run(asked, tmp_path).returncode == 0
    assert not failures(tmp_path)


def test_a_hypervisor_that_does_not_start_is_red_and_says_why(tmp_path: Path) -> None:
    boot = steps()["Boot the conformance guest"].replace("virt,gic-version=3", "no-such-board")
    booted = run(boot, tmp_path)
    assert booted.returncode == 0, booted.stderr
    assert "the hypervisor ended with status 1" in booted.stdout
    assert run(steps()["Judge its console"], tmp_path).returncode == 1
    (why,) = failures(tmp_path)
    assert "the log is empty" in why
