# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that need an arm64 host with KVM. On other hosts they run in the lab.

In the lab (tests/lab/test_kvm_in_lab.py) there is no compiler and no emulator. There
PVLOCK_LAB_FILES names a folder with the test guests, and with what they print on the emulator.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvlock import Machine, SystemEvent
from recorder import object_ids, object_ids_of_others

FILES = os.environ.get("PVLOCK_LAB_FILES")
DEADLINE_NS = 60_000_000_000

if FILES is not None:
    FOLDER = Path(FILES)

    @pytest.fixture(scope="session")
    def guest() -> Callable[[str], Path]:
        """Return a function that finds a test guest by its name."""
        return lambda name: FOLDER / f"{name}.elf"


@pytest.fixture(scope="session")
def emulated(guest: Callable[[str], Path]) -> Callable[[str], str]:
    """Return a function that gives the console of a test guest on the emulator."""
    if FILES is not None:
        consoles: dict[str, str] = json.loads((Path(FILES) / "emulated.json").read_text())
        return consoles.__getitem__

    def run(name: str) -> str:
        with Machine(2, engine="emulator") as machine:
            machine.load(guest(name))
            assert machine.run(1_000_000_000) is SystemEvent.OFF
            return machine.console.text

    return run


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail when a test leaves a BPF object, a descriptor or a thread behind."""
    objects, descriptors, threads = object_ids(), _descriptors(), _threads()
    yield
    until = time.monotonic() + 30
    # The kernel may free what an earlier test has left while this test runs, and other processes
    # of the host may load objects of their own.
    while (
        (left := object_ids() - objects - object_ids_of_others())
        or _descriptors() > descriptors
        or _threads() > threads
    ):
        assert time.monotonic() < until, (left, _descriptors(), _threads())
        time.sleep(0.1)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


@pytest.fixture
def script() -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a Python program that uses pvlock."""

    def start(text: str, *prefix: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
