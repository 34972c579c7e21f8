# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of top: workers, and the kernel's own view of them."""

import os
import platform
from collections.abc import Iterator

import pytest

from pvlock.errors import WatchError
from pvlock.top.watch import Watcher

# They need VMs that an x86 host can run. In the lab, tests/kvm has what takes arm64.
collect_ignore = (
    []
    if platform.machine() == "x86_64" and os.access("/dev/kvm", os.R_OK | os.W_OK)
    else ["test_vms.py"]
)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """A watcher, on a host that lets us; else a skip that says why."""
    try:
        made = Watcher()
    except WatchError as error:
        pytest.skip(f"{error}")
    with made:
        yield made


@pytest.fixture
def may_watch(watcher: Watcher) -> None:
    """Skip where BPF may not be used, and leave it free for the test."""
    watcher.close()


@pytest.fixture
def cpu() -> int:
    """The CPU for workers."""
    return max(os.sched_getaffinity(0))
