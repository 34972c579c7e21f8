# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests: guests built from C, and what counts as a skip.

Modules beside this one, and build_native.py, are found by `pythonpath` in pyproject.toml.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import build_native
import hypothesis
import pytest

from asm import ROOT, children
from pvlock import engines
from pvlock.engines.kvm import probe

pytest_plugins = ["linux_guest"]

# They need an arm64 host with KVM. Elsewhere tests/lab/test_kvm_in_lab.py runs them in the lab.
collect_ignore = [] if probe.usable() else ["kvm"]

# All other tests are of the emulator, and of what `auto` takes where there is no KVM.
if probe.usable():
    os.environ.setdefault(engines.VARIABLE, "emulator")

# Machines differ in speed, and a failure must be the same for everybody.
hypothesis.settings.register_profile("pvlock", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("pvlock")

PATIENCE_S: Final = 300
"""What no hostile guest may take. A hang becomes a failure, not a test run that never ends."""


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that builds tests/guests/NAME.c with the guests' library."""
    folder = tmp_path_factory.mktemp("guests")

    def build(name: str) -> Path:
        output = folder / f"{name}.elf"
        if not output.exists():
            sources = [ROOT / "tests" / "guests" / f"{name}.c", *build_native.library_sources()]
            build_native.build_guest(sources, output)
        return output

    return build


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail when a test does not end within minutes, or leaves a worker process behind."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {PATIENCE_S} s")

    before, old = children(), signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert children() <= before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where everything must run (PVLOCK_NO_SKIP)."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("PVLOCK_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may skip: {report.longrepr}"
    return report
