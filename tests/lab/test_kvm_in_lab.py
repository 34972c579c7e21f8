# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs tests/kvm on a virtual arm64 host (pvlock lab), where this host has no arm64 KVM."""

import ast
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import build_native
import pytest

from asm import ROOT
from pvlock import Machine, SystemEvent
from pvlock.cli.lab import TRACE_PACKAGES, TRACE_WITH
from pvlock.lab import tools

TESTS = ROOT / "tests"
GUESTS = ("calls", "contract", "flags", "reset", "samples", "stores")
COMPARED = ("calls", "contract", "stores")
HELPERS = ("recorder.py", "ftrace.py", "../build_native.py")
WITH = ("pytest", *TRACE_WITH)
PACKAGES = (*TRACE_PACKAGES, "qemu-system-arm")
# For how long top is compared with the kernel's own recorder.
SECONDS = [f"{name}={os.environ[name]}" for name in ["PVLOCK_TOP_SECONDS"] if name in os.environ]


def names() -> list[str]:
    """Return the name of each test function in tests/kvm, found without importing it."""
    return [
        f"{path.stem}::{node.name}"
        for path in sorted((TESTS / "kvm").glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.fixture(scope="module")
def results(
    guest: Callable[[str], Path],
    pvlock_kernel: Path,
    init: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[tuple[str, str]]]:
    """Run all tests in one lab; return the outcome and the words of each, by name."""
    for name in tools.NAMES:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    files, out = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("out")
    for name in GUESTS:
        (files / f"{name}.elf").write_bytes(guest(name).read_bytes())
    shutil.copy(pvlock_kernel, files / "pvlock.Image")
    shutil.copy(init, files / "pvlock.initrd")
    consoles = {}
    for name in COMPARED:
        with Machine(2, engine="emulator") as machine:
            machine.load(guest(name))
            assert machine.run(1_000_000_000) is SystemEvent.OFF
            consoles[name] = machine.console.text
    (files / "emulated.json").write_text(json.dumps(consoles))
    build_native.build_bpf(TESTS / "bpf" / "recorder.bpf.c", files / "recorder.bpf.o")
    added = [f"{TESTS / 'kvm'}:/root/kvm", f"{files}:/root/files"]
    added += [f"{TESTS / name}:/root/{Path(name).name}" for name in HELPERS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pvlock", "lab", "--timeout", "840", "--out", str(out)),
            *("--exec", *(word for name in WITH for word in ("--with", name))),
            *(word for name in PACKAGES for word in ("--package", name)),
            *(word for path in added for word in ("--add", path)),
            *("--", "env", "PVLOCK_LAB_FILES=/root/files", *SECONDS),
            *("python3", "-m", "pytest", "-q"),
            *("-p", "no:cacheprovider", "--junitxml=/out/kvm.xml"),
            *sorted(f"/root/kvm/{path.name}" for path in (TESTS / "kvm").glob("test_*.py")),
        ],
        capture_output=True,
        text=True,
        timeout=900,
    )
    report = out / "kvm.xml"
    assert report.exists(), f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name', '').split('[')[0]}"
        bad = [node for node in case if node.tag in ("failure", "error", "skipped")]
        words = "\n".join(node.text or node.get("message") or "" for node in bad)
        found.setdefault(name, []).append((bad[0].tag if bad else "passed", words))
    return found


@pytest.mark.parametrize("name", names())
def test_on_kvm(results: dict[str, list[tuple[str, str]]], name: str) -> None:
    assert name in results, f"did not run; these did: {sorted(results)}"
    for outcome, words in results[name]:
        assert outcome == "passed", words
