# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of switches, with ordinary threads in place of VCPUs: on any Linux with BPF, as root.

What takes a real VCPU (WFI, off, woken) is in tests/kvm/test_trace.py.
"""

import itertools
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pvlock.engines.contract import SWITCH, HostEvent
from pvlock.engines.kvm import bpf
from pvlock.engines.kvm.switches import Switches
from pvlock.errors import EngineError, EngineUnavailable
from recorder import object_ids_of

THREADS = 4
SPIN_SECONDS = 0.5

Record = tuple[int, int, int, HostEvent]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    try:
        Switches(1).close()
    except (EngineUnavailable, bpf.LoadError) as error:
        pytest.skip(f"{error}")
    before = object_ids_of()
    yield
    assert object_ids_of() == before


def spin() -> None:
    """Lose the CPU to the other threads, and to Python's lock."""
    until = time.monotonic() + SPIN_SECONDS
    while time.monotonic() < until:
        pass


def doze() -> None:
    for _ in range(50):
        time.sleep(0.001)


class Worker:
    """A thread that is recorded while it does `work`, on one CPU; and the kernel's own counts."""

    def __init__(self, switches: Switches, number: int, work: Callable[[], None], cpu: int) -> None:
        self.number, self.fewest, self.most = number, 0, 0
        self._switches, self._work, self._cpu = switches, work, cpu
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()
        assert self.most >= self.fewest > 0

    def _main(self) -> None:
        os.sched_setaffinity(0, {self._cpu})
        outer = _switches_of_this_thread()
        self._switches.enter(self.number)
        inner = _switches_of_this_thread()
        self._work()
        self.fewest = _switches_of_this_thread() - inner
        self._switches.leave()
        self.most = _switches_of_this_thread() - outer


def _switches_of_this_thread() -> int:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nvcsw + usage.ru_nivcsw


def records(switches: Switches) -> list[Record]:
    packed = switches.take(lambda time_ns: time_ns)
    return [(at, vcpu, cpu, HostEvent(n)) for at, vcpu, cpu, n in SWITCH.iter_unpack(packed)]


def test_every_switch_is_recorded_once() -> None:
    """As many as the kernel itself counts, each on its CPU, in order, and of nobody else."""
    cpu = max(os.sched_getaffinity(0))
    begin = time.monotonic_ns()
    with_none = threading.Thread(target=doze)
    switches = Switches(THREADS, {cpu: 7})
    try:
        workers = [
            Worker(switches, number, (spin, doze)[number % 2], cpu) for number in range(THREADS)
        ]
        with_none.start()
        for worker in workers:
            worker.join()
        with_none.join()
        found = records(switches)
        assert records(switches) == []
        assert switches.lost == (0,) * THREADS
    finally:
        switches.close()
    end = time.monotonic_ns()
    assert {vcpu for _, vcpu, _, _ in found} == set(range(THREADS))
    assert {number for _, _, number, _ in found} == {7}
    for worker in workers:
        mine = [record for record in found if record[1] == worker.number]
        times = [at for at, _, _, _ in mine]
        assert times == sorted(times) and begin <= times[0] and times[-1] <= end
        events = [event for _, _, _, event in mine]
        assert events[0] is HostEvent.IN and events[-1] is HostEvent.OFF
        # Nobody here is inside a VCPU: all could go on, as far as a guest goes.
        assert set(events[:-1]) == {HostEvent.IN, HostEvent.SLICE}
        assert worker.fewest <= events.count(HostEvent.SLICE) <= worker.most
        # A kernel can have switches that it does not trace, away from threads of its own maker's:
        # who comes then is not seen to. Nobody is seen to come twice.
        for one, following in itertools.pairwise(events):
            assert (one, following) != (HostEvent.IN, HostEvent.IN)
        assert events.count(HostEvent.IN) >= 0.99 * (events.count(HostEvent.SLICE) + 1)


def test_what_finds_no_place_is_counted() -> None:
    """By VCPU, and to the record."""
    cpu = max(os.sched_getaffinity(0))
    switches = Switches(2, ring_size=mmap.PAGESIZE)
    try:
        workers = [Worker(switches, number, work, cpu) for number, work in enumerate((spin, doze))]
        for _ in range(3):
            for worker in workers:
                worker.join()
            workers = [
                Worker(switches, number, work, cpu) for number, work in enumerate((spin, doze))
            ]
        for worker in workers:
            worker.join()
        kept = records(switches)
        assert len(kept) == mmap.PAGESIZE // (8 + SWITCH.size)
        assert min(switches.lost) > 0
        # Each worker comes twice more often than it goes, at most: enter and leave are one each.
        assert len(kept) + sum(switches.lost) > 2 * sum(worker.fewest for worker in workers)
        before = switches.lost
        Worker(switches, 1, doze, cpu).join()
        assert switches.lost[0] == before[0]
        assert len(records(switches)) > 2
    finally:
        switches.close()


def test_a_clock_that_falls_back_keeps_the_order() -> None:
    switches = Switches(1)
    try:
        clock = iter(range(10**6, 0, -1))
        Worker(switches, 0, doze, max(os.sched_getaffinity(0))).join()
        taken = switches.take(lambda time_ns: next(clock))
        assert {at for at, *_ in SWITCH.iter_unpack(taken)} == {10**6}
    finally:
        switches.close()


def test_only_vcpus_that_there_are() -> None:
    switches = Switches(1)
    try:
        with pytest.raises(EngineError, match="the switches of a VCPU: enter: ERANGE"):
            switches.enter(1)
    finally:
        switches.close()
        switches.close()
    assert switches.take(int) == b""
