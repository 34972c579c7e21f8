# SPDX-License-Identifier: GPL-2.0-or-later
"""What a profile says of Linux under overcommitment: with PV-lock, nobody spins in vain."""

import subprocess
import sys
from pathlib import Path

import pytest

from asm import ROOT
from pvlock import Machine, SystemEvent
from pvlock.abi import Policy
from pvlock.lab import cpio
from pvlock.profile import Profile, Profiler

VCPUS, PCPUS = 8, 4
SETTLED_NS = 5_000_000_000
"""When the load begins (benchmarks/linux/load.c)."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initrd with threads that map and unmap memory of one process: an rwsem, and its queue."""
    folder = tmp_path_factory.mktemp("load")
    source = ROOT / "benchmarks" / "linux" / "load.c"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    subprocess.run([*compiler, "-O2", "-s", str(source), "-o", str(folder / "load")], check=True)
    with (folder / "initrd").open("wb") as file:
        archive = cpio.Writer(file)
        archive.folder("dev")
        archive.add("init", (folder / "load").read_bytes(), 0o755)
        archive.close()
    return (folder / "initrd").read_bytes()


def profiled(kernel: Path, load: bytes, pvlock: bool) -> Profile:
    profiler = Profiler.open(kernel, period_ns=19_997)
    with Machine(
        VCPUS, PCPUS, engine="emulator", policy=Policy.PREEMPTED, pvlock=pvlock, trap_wfe=False,
        ram_size=256 << 20, bootargs=f"console=ttyAMA0 quiet -- mmap 1000 {VCPUS}",
        profile=profiler,
    ) as machine:  # fmt: skip
        machine.load(kernel, load)
        assert machine.run(2 * SETTLED_NS) is SystemEvent.OFF
        return machine.profile().part(SETTLED_NS)


@pytest.fixture(scope="module")
def without_pvlock(pvlock_kernel: Path, load: bytes) -> Profile:
    return profiled(pvlock_kernel, load, pvlock=False)


def test_who_spins_and_for_whom(pvlock_kernel: Path, load: bytes, without_pvlock: Profile) -> None:
    without = without_pvlock.shares()
    with_ = profiled(pvlock_kernel, load, pvlock=True).shares()
    # Of the CPUs' time, spinning for VCPUs that are off their CPUs.
    assert without.spinning.off > 0.08 * without.total
    assert with_.spinning.off < 0.008 * with_.total
    queue = without.kinds["osq_lock"]
    # Where WFE does not trap, a waiter in the queue stays in it, on its CPU, while others are off.
    assert queue.in_wfe > 0.9 * queue.points
    assert queue.off > 0.5 * queue.points
    # Nearly every waiter in the queue is told apart by whom it waits for.
    assert queue.off + queue.running + queue.sleeping + queue.readers > 0.95 * queue.points


def test_stacks_lead_from_the_program_to_the_lock(without_pvlock: Profile) -> None:
    found = without_pvlock
    inside = [stack for stack in found.stacks if stack[0].name == "osq_lock"]
    callers = {stack[1].name.partition(".")[0] for stack in inside}
    assert callers <= {"rwsem_down_write_slowpath", "__mutex_lock"}
    waiting = [stack for stack in inside if stack[1].name == "rwsem_down_write_slowpath"]
    assert waiting
    for stack in waiting:
        assert [frame.name for frame in stack[-3:]] == [
            "el0t_64_sync_handler", "el0t_64_sync", "[user]",
        ]  # fmt: skip
