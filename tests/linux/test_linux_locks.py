# SPDX-License-Identifier: GPL-2.0-or-later
"""The locks of Debian's own kernel: what is seen, and what waiting for them is put down to."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pvlock import linux_image
from pvlock.abi import Policy
from pvlock.engines.contract import Placement, SystemEvent, Usage
from pvlock.explain import findings
from pvlock.kernel import fetch
from pvlock.lab import cpio
from pvlock.machine import Machine
from pvlock.trace.attribution import Attribution, Part, attribute
from pvlock.trace.events import Events, Flag, Kind
from pvlock.trace.linux import points
from pvlock.trace.tasks import by_task

PROGRAM = Path(__file__).parent / "locks.c"
PAIR = "futex=1 makers=2 operations=60"
SECOND = 1_000_000_000
OFF_NS = 2_000_000
"""How long a VCPU is taken off its CPU."""
READ, WRITE, MUTEX, SPIN = 2, 4, 32, 1
"""The flags of the tracepoint lock:contention_begin (include/trace/events/lock.h)."""


@dataclass
class Ran:
    """A boot: its console, what it used, and its events if it was traced."""

    console: str
    usage: Usage
    events: Events | None

    def tasks(self) -> tuple[Events, Attribution]:
        """What its tasks waited for."""
        assert self.events is not None
        events = by_task(self.events)
        return events, attribute(events)


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initrd with locks.c and nothing else."""
    folder = tmp_path_factory.mktemp("initrd")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-s"]
    subprocess.run([*compiler, *flags, str(PROGRAM), "-o", str(folder / "init")], check=True)
    with (folder / "initrd").open("wb") as file:
        archive = cpio.Writer(file)
        archive.folder("dev")
        archive.add("init", (folder / "init").read_bytes(), 0o755)
        archive.close()
    return (folder / "initrd").read_bytes()


Boot = Callable[..., Ran]


@pytest.fixture(scope="module")
def boot(kernel: fetch.Kernel, initrd: bytes) -> Boot:
    """Return a function that boots Debian's kernel and runs locks.c."""
    image = kernel.kernel.read_bytes()
    found = points.find(image, "vmlinuz", linux_image.read_symbols(image, "vmlinuz"))

    def run(
        arguments: str, vcpus: int, pcpus: int, script: Sequence[Placement] | None = None,
        trace: bool = True,
    ) -> Ran:  # fmt: skip
        with Machine(
            vcpus, pcpus, engine="emulator", ram_size=256 << 20, policy=Policy.PREEMPTED,
            trap_wfe=False, script=script, trace=trace, watched=found if trace else None,
            # The kernel's tests of its ciphers would take the VCPUs for half a second.
            bootargs=f"console=ttyAMA0 quiet cryptomgr.notests {arguments}",
        ) as machine:  # fmt: skip
            machine.load(image, initrd)
            event = machine.run(5 * SECOND)
            text = machine.console.text
            assert event is SystemEvent.OFF and "init: done" in text, text
            return Ran(text, machine.usage(), machine.events() if trace else None)

    return run


def placed(*changes: tuple[int, int, int | None]) -> list[Placement]:
    """3 VCPUs, each on a CPU of its own but for these changes."""
    return [Placement(0, cpu, cpu) for cpu in range(3)] + [Placement(*one) for one in changes]


def without_vcpu_1(at: int) -> list[Placement]:
    return placed((at, 1, None), (at + OFF_NS, 1, 1))


def absence(ran: Ran, at: int) -> tuple[int, int]:
    """When VCPU 1 lost its CPU and got it back: within a block of what the script says."""
    events = ran.events
    assert events is not None
    mine = np.flatnonzero((events.vcpu == 1) & (events.kind <= Kind.READY))
    (lost,) = np.flatnonzero((events.flags[mine] & Flag.SCRIPT) != 0)
    assert events.kind[mine[lost + 1]] == Kind.SCHED_IN
    start, end = (int(events.time[mine[place]]) for place in (lost, lost + 1))
    assert 0 <= start - at < 100 and 0 <= end - at - OFF_NS < 100
    return start, end - start


def named(events: Events, name: str) -> int:
    found = [i for i in range(events.vcpus) if events.vcpu_name(i).startswith(name + "/")]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def add_up(found: Attribution) -> None:
    waits = found.waits
    assert (waits.parts.sum(axis=1) == waits.end - waits.start).all()
    assert not found.unmatched and not found.cut


def parts_of(found: Attribution, wait: int) -> dict[str, int]:
    return {
        part.name: int(ns) for part, ns in zip(Part, found.waits.parts[wait], strict=True) if ns
    }


@pytest.fixture(scope="module")
def undisturbed(boot: Boot) -> tuple[Ran, Ran]:
    """A run in which nobody loses a CPU: traced, and not."""
    with ThreadPoolExecutor(2) as pool:
        ran = [pool.submit(boot, PAIR, 3, 3, placed(), trace) for trace in (True, False)]
        return ran[0].result(), ran[1].result()


def test_that_a_kernel_is_watched_changes_nothing(undisturbed: tuple[Ran, Ran]) -> None:
    traced, plain = undisturbed
    assert traced.console == plain.console
    assert traced.usage == plain.usage


def test_the_owner_of_a_futex_loses_its_cpu(boot: Boot, undisturbed: tuple[Ran, Ran]) -> None:
    events, found = undisturbed[0].tasks()
    add_up(found)
    waits = found.waits
    waiting = (waits.vcpu == named(events, "waiter")) & (waits.end - waits.start > 3_000_000)
    (wait,) = np.flatnonzero(waiting).tolist()
    start, length = int(waits.start[wait]), int(waits.end[wait] - waits.start[wait])
    assert waits.parts[wait, Part.OWNER_PREEMPTED] == 0
    assert found.chain(wait, start + 1_000_000)[0][1] == named(events, "owner")

    at = start // 1000 * 1000 + 1_000_000
    ran = boot(PAIR, 3, 3, without_vcpu_1(at))
    lost_at, off_ns = absence(ran, at)
    events, found = ran.tasks()
    add_up(found)
    waits = found.waits
    waiting = (waits.vcpu == named(events, "waiter")) & (waits.start == start)
    (wait,) = np.flatnonzero(waiting).tolist()
    assert parts_of(found, wait)["OWNER_PREEMPTED"] == off_ns
    # The owner computes until a time is over, whether it has a CPU or not.
    assert abs(int(waits.end[wait]) - start - length) < 50_000
    event, cost = found.costs()
    worst = event[cost.argmax()]
    # The first thread waits, too, for the owner's end.
    assert (int(events.time[worst]), int(cost.max())) == (lost_at, 2 * off_ns)
    assert int(events.object[worst]) == 1, "it was VCPU 1"
    holds = found.pairing.holds
    mine = holds.take(holds.lock == waits.lock[wait])
    assert (events.flags[mine.first] & Flag.INFERRED).all(), "who has a futex is inferred"


def test_the_owner_of_an_rwsem_loses_its_cpu(boot: Boot, undisturbed: tuple[Ran, Ran]) -> None:
    events, found = undisturbed[0].tasks()
    waits = found.waits
    names = [events.name_of(lock) for lock in found.locks]
    of_directory = [i for i, name in enumerate(names) if name.startswith("rwsem of ")]
    mine = (waits.vcpu == named(events, "maker-1")) & np.isin(waits.lock, of_directory)
    held = np.where(mine, waits.parts[:, Part.OWNER_RUNNING], 0)
    wait = int(held.argmax())
    assert held[wait] > 2500, "the two are in each other's way"
    start, length = int(waits.start[wait]), int(waits.end[wait] - waits.start[wait])
    lock = found.locks[int(waits.lock[wait])]
    at = start // 1000 * 1000 + 1000
    assert found.chain(wait, at) == [(int(waits.lock[wait]), named(events, "maker-0"))]

    ran = boot(PAIR, 3, 3, without_vcpu_1(at))
    _, off_ns = absence(ran, at)
    events, found = ran.tasks()
    add_up(found)
    waits = found.waits
    waiting = (waits.vcpu == named(events, "maker-1")) & (waits.start == start)
    waiting &= waits.lock == found.locks.index(lock)
    (wait,) = np.flatnonzero(waiting).tolist()
    assert parts_of(found, wait)["OWNER_PREEMPTED"] == off_ns
    assert abs(int(waits.end[wait]) - start - length - off_ns) < 1000


def test_the_waits_are_those_that_the_kernel_counts(boot: Boot) -> None:
    """A hist trigger within the guest counts lock:contention_begin by thread and by its flags."""
    ran = boot("makers=10 operations=200 count=1", 8, 4)
    events, found = ran.tasks()
    add_up(found)
    counted: Counter[tuple[int, int]] = Counter()
    for pid, flags, hits in re.findall(
        r"common_pid: +(\d+), flags: +(\d+) \} hitcount: +(\d+)", ran.console
    ):
        counted[int(pid), int(flags)] += int(hits)
    threads = {int(pid) for pid in re.findall(r"init: maker-\d (\d+)", ran.console)}
    assert len(threads) == 10
    number = {
        i: int(events.vcpu_name(i).rsplit("/", 1)[1])
        for i in range(events.vcpus) if events.vcpu_name(i).startswith("maker-")
    }  # fmt: skip
    assert set(number.values()) == threads
    kinds = [events.name_of(lock).split()[0] for lock in found.locks]
    mine: Counter[tuple[int, str]] = Counter()
    asleep: Counter[tuple[int, str]] = Counter()
    for wait in range(len(found.waits)):
        vcpu, lock = int(found.waits.vcpu[wait]), int(found.waits.lock[wait])
        if vcpu in number:
            mine[number[vcpu], kinds[lock]] += 1
            asleep[number[vcpu], kinds[lock]] += bool(found.waits.asleep[wait])
    for pid in threads:
        # An rwsem counts once its waiter is in the list of those that sleep.
        queued = counted[pid, READ] + counted[pid, WRITE]
        assert asleep[pid, "rwsem"] <= queued <= mine[pid, "rwsem"]
        # A mutex counts each time that it is tried anew.
        assert mine[pid, "mutex"] <= counted[pid, MUTEX | SPIN]
        # The only waiter for a spinlock is not in the queue, and does not count.
        assert counted[pid, SPIN] <= mine[pid, "spinlock"]


def test_findings_of_tasks_have_the_documented_keys(undisturbed: tuple[Ran, Ran]) -> None:
    events = undisturbed[0].events
    assert events is not None
    facts = findings.as_dict(findings.find(events))
    assert any(name.startswith("maker-0/") for name in facts["tasks"])
    assert len(facts["per_vcpu"]) == len(facts["tasks"])
    assert {"own_queued", "owner_queued", "queue_queued"} <= facts["total"]["parts"].keys()
    assert all("task" in culprit for culprit in facts["culprits"])
