# SPDX-License-Identifier: GPL-2.0-or-later
"""A record of the host's context switches by tests/bpf/recorder.bpf.c, and a judge of flags."""

import bisect
import contextlib
import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from pvlock.abi import Policy
from pvlock.engines.kvm.bpf import BpfObject, libbpf
from pvlock.engines.kvm.publisher import Publisher

HERE = Path(__file__).resolve().parent
NOBODY = 2**32 - 1
TASK_DEAD = 0x80  # in a task's state when it leaves its CPU for ever (the kernel's sched.h)
CLOCK_NS = 1_000  # the two clocks of the kernel that are compared may differ by less
_RECORD = struct.Struct("<6Q6I")


class Record(NamedTuple):
    """One switch: `prev` and `next` are numbers given to follow(), or NOBODY."""

    before_ns: int
    after_ns: int
    voluntary: int
    preempted: int
    prev_flag: int
    next_flag: int
    prev: int
    next: int
    prev_state: int
    state: int
    preempt: int
    untraced: int

    @property
    def runnable(self) -> bool:
        """Say whether `prev` could have gone on."""
        return bool(self.preempt) or self.state == 0


class Recorder:
    """A Publisher, and between two programs that see each switch before and after it."""

    def __init__(self, vcpus: int, policy: Policy, room: int, folder: Path) -> None:
        path = folder / "recorder.bpf.o"
        if not path.exists():
            import build_native  # where there is no compiler, the object is there

            build_native.build_bpf(HERE / "bpf" / "recorder.bpf.c", path)
        size = -(-room * _RECORD.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.room = room
        # In this order: a tracepoint calls first what was attached first.
        self._first = BpfObject(path, ["before"])
        self._first.attach("before")
        self.publisher = Publisher(vcpus, policy)
        shared = {"flags": self.publisher.fd, "cpus": self._first.map_fd("cpus")}
        self._second = BpfObject(path, ["after", "follow"], {"records": room}, shared)
        self._second.attach("after")
        self._records = mmap.mmap(self._second.map_fd("records"), size, prot=mmap.PROT_READ)
        self._count = mmap.mmap(self._second.map_fd("count"), mmap.PAGESIZE, prot=mmap.PROT_READ)

    def follow(self, number: int) -> None:
        """From now on record the switches of the calling thread, as `number`."""
        deadline = time.monotonic() + 60
        while self._second.run("follow", number):
            assert time.monotonic() < deadline

    @property
    def count(self) -> int:
        """How many switches there were; more than `room`, and records are missing."""
        return int.from_bytes(self._count[:8], "little")

    def records(self) -> Iterator[Record]:
        """Return the records, those of one thread in its order."""
        assert self.count <= self.room, f"{self.count - self.room} switches were not recorded"
        used = memoryview(self._records)[: self.count * _RECORD.size]
        return (Record(*fields) for fields in _RECORD.iter_unpack(used))

    def wait_for_end(self, numbers: Iterable[int]) -> None:
        """Wait until the kernel has switched away from these threads for the last time.

        Thread.join() returns earlier: Python's part of the thread has ended then, but the kernel's
        still has to leave its CPU, and can be preempted on the way there.
        """
        running = set(numbers)
        deadline = time.monotonic() + 60
        while running:
            assert time.monotonic() < deadline, f"threads {running} have not ended"
            time.sleep(0.01)
            # A record is whole when it has its last field.
            running -= {r.prev for r in self.records() if r.state & TASK_DEAD and r.after_ns}

    def close(self) -> None:
        self._second.close()
        self.publisher.close()
        self._first.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def judge(records: Iterator[Record], policy: Policy) -> dict[int, list[tuple[int, int, int]]]:
    """Compare each flag with the policy, and find no switch missing; return each one's changes.

    A change is: the flag was not yet so at this time, was so at that time, and what it was.
    """
    counted: dict[int, tuple[int, int]] = {}
    changes: dict[int, list[tuple[int, int, int]]] = {}
    for r in records:
        if r.prev != NOBODY:
            expected = 1 if policy is Policy.SCHEDULED_OUT or r.runnable else 0
            assert r.prev_flag == expected, r
            if r.prev in counted:
                voluntary, preempted = counted[r.prev]
                # The kernel's own count goes up by one at each switch: none is missing.
                assert r.voluntary + r.preempted == voluntary + preempted + 1, r
                # It calls a switch involuntary only if the thread is still runnable; voluntary if
                # it is not, or if it was about to sleep and a signal kept it from that.
                assert r.runnable if r.preempted > preempted else not r.preempt, r
                # Out without having been in: only if the kernel told nobody.
                assert changes[r.prev][-1][2] == 0 or r.untraced, r
            counted[r.prev] = r.voluntary, r.preempted
            changes.setdefault(r.prev, []).append((r.before_ns, r.after_ns, r.prev_flag))
        if r.next != NOBODY:
            assert r.next_flag == 0, r
            changes.setdefault(r.next, []).append((r.before_ns, r.after_ns, r.next_flag))
    return changes


def permitted(changes: list[tuple[int, int, int]], from_ns: int, to_ns: int, value: int) -> bool:
    """Say whether the flag can have had this value at some time between the two."""
    first = bisect.bisect_left(changes, from_ns - CLOCK_NS, key=lambda change: change[1]) - 1
    if first < 0:
        return True  # before the first record of this thread
    for index in range(first, len(changes)):
        before_ns, _, flag = changes[index]
        if before_ns > to_ns + CLOCK_NS:
            return False
        if flag == value:
            return True
    return False


def object_ids() -> set[tuple[str, int]]:
    """Return every BPF program, map and link in the kernel, by kind and ID."""
    found = set()
    for kind in ("prog", "map", "link"):
        after: Callable[..., int] = getattr(libbpf(), f"bpf_{kind}_get_next_id")
        number = ctypes.c_uint32(0)
        while after(number, ctypes.byref(number)) == 0:
            found.add((kind, number.value))
    return found


def object_ids_of(pid: int | str = "self") -> set[tuple[str, int]]:
    """Return those that a process has a file descriptor of."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this very list
            for line in info.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("prog_id", "map_id", "link_id"):
                    found.add((name.removesuffix("_id"), int(value)))
    return found


def object_ids_of_others() -> set[tuple[str, int]]:
    """Return those that any other process of this host has a file descriptor of."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found |= object_ids_of(int(folder.name))
    return found
