# SPDX-License-Identifier: GPL-2.0-or-later
"""The publisher, with ordinary threads in place of VCPUs: on any Linux with BPF, as root.

PVLOCK_SWITCHES=1000000 makes the proof of every switch that long (the default is 100,000).
"""

import ctypes
import itertools
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import build_native
import pytest

from asm import ROOT
from pvlock import abi
from pvlock.abi import Policy
from pvlock.engines.kvm.publisher import Publisher
from pvlock.errors import ConfigError, EngineError, EngineUnavailable
from recorder import (
    NOBODY,
    Record,
    Recorder,
    judge,
    object_ids,
    object_ids_of,
    permitted,
)

SWITCHES = int(os.environ.get("PVLOCK_SWITCHES", "100000"))
ROUND_NS = 200_000_000
POLICIES = pytest.mark.parametrize("policy", list(Policy))


@pytest.fixture(scope="module", autouse=True)
def _can_publish() -> None:
    try:
        Publisher(1, Policy.PREEMPTED).close()
    except EngineUnavailable as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What threads do outside Python (tests/bpf/load.c)."""
    output = tmp_path_factory.mktemp("load") / "load.so"
    source = str(ROOT / "tests" / "bpf" / "load.c")
    flags = ["-O2", "-fPIC", "-shared", source, "-o", str(output)]
    subprocess.run([*build_native.ZIG_CC, *build_native.WARNINGS, *flags], check=True)
    return ctypes.CDLL(str(output))


def off(policy: Policy) -> int:
    """What a VCPU without a thread reads (SPECIFICATION.md, clause 6.6)."""
    return 1 if policy is Policy.SCHEDULED_OUT else 0


def flag(publisher: Publisher, index: int) -> int:
    start = index * abi.STRUCTURE_STRIDE + abi.PREEMPTED_OFFSET
    return int.from_bytes(publisher.buffer[start : start + 8], "little")


def own_flag(publisher: Publisher, index: int) -> int:
    """Return what the calling thread, which sets it, reads in a flag: it runs, so this is 0.

    A kernel can have switches that it does not trace (one in 10,000 where this was written, from
    threads of the machine's maker to anybody): then the value is old until the next switch.
    """
    for _ in range(5):
        if flag(publisher, index) == 0:
            return 0
        time.sleep(0.001)
    return flag(publisher, index)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def run_python(script: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


class Workers:
    """Threads that spin, yield, sleep, wait for each other and are interrupted, on two CPUs."""

    KINDS = ("spin", "spin", "yield", "yield", "yield", "doze", "doze", "turns", "turns")

    def __init__(self, recorder: Recorder, load: Any) -> None:
        self._recorder, self._load = recorder, load
        self._turn = ctypes.c_uint32(0)
        self._goes_on = True
        self._started = threading.Barrier(len(self.KINDS) + 1)
        cpus = set(sorted(os.sched_getaffinity(0))[-2:])
        self.errors: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._main, args=(number, kind, cpus))
            for number, kind in enumerate(self.KINDS)
        ]

    def _main(self, number: int, kind: str, cpus: set[int]) -> None:
        try:
            os.sched_setaffinity(0, cpus)
            self._recorder.publisher.add_current_thread(number)
            self._recorder.follow(number)
        except BaseException as error:
            self.errors.append(error)
        self._started.wait()
        arguments = (ctypes.byref(self._turn), number & 1) if kind == "turns" else ()
        while self._goes_on:
            until = ctypes.c_uint64(time.monotonic_ns() + ROUND_NS)
            getattr(self._load, kind)(until, *arguments)

    def run(self, switches: int, watch: Callable[[int], bool]) -> None:
        """Let them run until so many switches are recorded and `watch(until)` has seen enough."""
        for thread in self.threads:
            thread.start()
        self._started.wait()
        dozer = self.threads[self.KINDS.index("doze")].native_id
        deadline = time.monotonic() + 60 + switches / 2_000
        enough = False
        while (self._recorder.count < switches or not enough) and time.monotonic() < deadline:
            until = time.monotonic_ns() + ROUND_NS
            self._load.poke(ctypes.c_uint64(until), dozer)
            enough = watch(until + ROUND_NS)
        self._goes_on = False
        for thread in self.threads:
            thread.join()
        assert not self.errors
        self._recorder.wait_for_end(range(len(self.KINDS)))
        assert self._recorder.count >= switches, "too few switches in the time"


@POLICIES
def test_every_switch(policy: Policy, load: Any, tmp_path: Path) -> None:
    """Each flag after each switch is what the policy says, as an independent program saw it."""
    samples = (ctypes.c_uint64 * (4 * 20_000))()
    seen: list[tuple[int, int, int, int]] = []
    load.watch.restype = ctypes.c_uint64
    with Recorder(len(Workers.KINDS), policy, 4 * SWITCHES + 1_000_000, tmp_path) as recorder:
        flags = ctypes.addressof(ctypes.c_uint64.from_buffer(recorder.publisher.buffer))

        def watch(until_ns: int) -> bool:
            room = ctypes.c_uint64(len(samples) // 4)
            structures, until = ctypes.c_uint64(len(Workers.KINDS)), ctypes.c_uint64(until_ns)
            count = load.watch(until, ctypes.c_void_p(flags), structures, samples, room)
            values = iter(samples[: 4 * count])
            seen.extend(zip(values, values, values, values, strict=True))
            return {flag for _, _, _, flag in seen} == {0, 1}

        Workers(recorder, load).run(SWITCHES, watch)
        changes = judge(recorder.records(), policy)
        other = next(p for p in Policy if p is not policy)
        with pytest.raises(AssertionError):  # the judge can tell the policies apart
            judge(itertools.islice(recorder.records(), 10_000), other)
        report(policy, recorder.records(), len(seen))
    assert {flag for _, _, _, flag in seen} == {0, 1}
    for from_ns, to_ns, structure, value in seen:
        assert permitted(changes[structure], from_ns, to_ns, value), (structure, from_ns, value)


def report(policy: Policy, records: Iterator[Record], samples: int) -> None:
    switches = out = still = untraced = 0
    for r in records:
        switches += 1
        untraced += r.untraced
        if r.prev != NOBODY:
            out += 1
            still += r.runnable
    print(
        f"{policy}: {switches:,} switches, none lost; {out:,} away from a VCPU's thread, {still:,}"
        f" of them while runnable; {samples:,} samples; {untraced} others untraced by the kernel"
    )
    assert 0 < still < out


@POLICIES
def test_flags_of_vcpus_without_thread(policy: Policy) -> None:
    """Whole pages of the host; each VCPU reads as one that is off, the rest is zero."""
    vcpus = mmap.PAGESIZE // abi.STRUCTURE_SIZE + 1
    with Publisher(vcpus, policy) as publisher:
        assert publisher.buffer.format == "B" and not publisher.buffer.readonly
        assert len(publisher.buffer) == 2 * mmap.PAGESIZE
        expected = (off(policy).to_bytes(8, "little") + bytes(56)) * vcpus
        assert bytes(publisher.buffer) == expected.ljust(2 * mmap.PAGESIZE, b"\0")


@POLICIES
def test_sleeping_and_running(policy: Policy) -> None:
    """A thread reads 0 of itself, and asleep it is not running, but was not preempted."""
    with Publisher(4, policy) as publisher:
        own, wake = [], threading.Event()

        def vcpu() -> None:
            publisher.add_current_thread(2)
            own.append(own_flag(publisher, 2))
            wake.wait()
            own.append(own_flag(publisher, 2))
            publisher.remove_current_thread()
            own.append(flag(publisher, 2))
            publisher.remove_current_thread()

        thread = threading.Thread(target=vcpu)
        thread.start()
        wait_for(lambda: len(own) == 1 and flag(publisher, 2) == off(policy))
        wake.set()
        thread.join()
        assert own == [0, 0, off(policy)]


def test_512_vcpus() -> None:
    """All are added at once, and each has a flag of its own."""
    vcpus, wrong, gates = 512, [], [threading.Event() for _ in range(512)]
    asleep = threading.Barrier(vcpus + 1)
    with Publisher(vcpus, Policy.SCHEDULED_OUT) as publisher:

        def vcpu(number: int) -> None:
            # Every structure but the own one belongs to somebody else: mirror them.
            index = vcpus - 1 - number
            publisher.add_current_thread(number, index)
            asleep.wait()
            gates[number].wait()
            if own_flag(publisher, index) != 0:
                wrong.append(number)

        threads = [threading.Thread(target=vcpu, args=(n,)) for n in range(vcpus)]
        for thread in threads:
            thread.start()
        asleep.wait()
        wait_for(lambda: all(flag(publisher, i) == 1 for i in range(vcpus)))
        for gate in gates:
            gate.set()
        for thread in threads:
            thread.join()
        assert not wrong
        wait_for(lambda: all(flag(publisher, i) == 1 for i in range(vcpus)))


@POLICIES
def test_nothing_is_left_or_inherited(policy: Policy, tmp_path: Path) -> None:
    """A thread that ends leaves its flag as off; its threads and child processes set nothing."""
    done = run_python(f"""
        import os, threading, time
        from pathlib import Path
        from pvlock.abi import Policy
        from recorder import Recorder

        recorder = Recorder(1, Policy("{policy}"), 10_000, Path("{tmp_path}"))
        publisher = recorder.publisher
        seen, done = [], threading.Event()

        def look():
            for _ in range(50):
                time.sleep(0.0002)
                seen.append(publisher.buffer[0])

        def vcpu():
            publisher.add_current_thread(0)
            recorder.follow(0)
            later = threading.Thread(target=lambda: (ended.wait(), look()))
            later.start()
            child = os.fork()
            if child == 0:
                go = os.read(pipe[0], 1)
                look()
                os._exit(set(seen) != {{mark}})
            return later, child

        mark = 7  # no switch writes this
        pipe, ended, result = os.pipe(), threading.Event(), []
        thread = threading.Thread(target=lambda: result.extend(vcpu()))
        thread.start()
        thread.join()
        recorder.wait_for_end([0])
        print(publisher.buffer[0])
        publisher.buffer[0] = mark
        ended.set()
        os.write(pipe[1], b"x")
        result[0].join()
        status = os.waitpid(result[1], 0)[1]
        print(set(seen) == {{mark}}, status, publisher.buffer[0] == mark)
    """)
    assert done.stdout.splitlines() == [str(off(policy)), "True 0 True"], done.stderr


def test_only_one_process_adds_threads() -> None:
    """A child cannot take the publisher over: its parent's VCPUs would stop being published."""
    done = run_python("""
        import os, time
        from pvlock.abi import Policy
        from pvlock.engines.kvm.publisher import Publisher
        from pvlock.errors import EngineError

        publisher = Publisher(2, Policy.SCHEDULED_OUT)
        publisher.add_current_thread(0)
        if os.fork() == 0:
            try:
                publisher.add_current_thread(1)
            except EngineError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        publisher.buffer[0] = 7
        deadline = time.monotonic() + 10
        while publisher.buffer[0] == 7 and time.monotonic() < deadline:
            time.sleep(0.001)  # out, and in again
        print(publisher.buffer[0])
    """)
    refusal, own = done.stdout.splitlines()
    assert "not in the process" in refusal and own == "0", done.stderr


def test_two_of_one_process_do_not_meet() -> None:
    """A thread can be in two, under two policies; a thread of one is nothing to the other."""
    with Publisher(2, Policy.SCHEDULED_OUT) as one, Publisher(2, Policy.PREEMPTED) as two:
        wake, ready = threading.Event(), threading.Barrier(3)

        def vcpu(*places: tuple[Publisher, int]) -> None:
            for publisher, index in places:
                publisher.add_current_thread(index)
            ready.wait()
            wake.wait()

        both = threading.Thread(target=vcpu, args=((one, 0), (two, 1)))
        single = threading.Thread(target=vcpu, args=((two, 0),))
        both.start()
        single.start()
        ready.wait()
        one.buffer[64] = two.buffer[8] = 7  # no thread's: nobody may write there
        wait_for(lambda: (flag(one, 0), flag(two, 0), flag(two, 1)) == (1, 0, 0))
        wake.set()
        both.join()
        single.join()
        assert (flag(one, 1), two.buffer[8]) == (7, 7)


def test_many_of_many_processes() -> None:
    """Eight processes publish at once, each its own VM; each finds only its own switches."""
    script = """
        import sys, threading, time
        from pvlock.abi import Policy
        from pvlock.engines.kvm.publisher import Publisher

        with Publisher(3, Policy.SCHEDULED_OUT) as publisher:
            publisher.buffer[64] = 7
            publisher.add_current_thread(0)
            own = []
            for _ in range(300):
                time.sleep(0.0002)
                own.append(publisher.buffer[0])
                assert bytes(publisher.buffer[64:192:64]) == b"\\7\\1"
            print(own.count(0) > 270)
    """
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(run_python(script).stdout)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["True\n"] * 8


def test_killed_process_leaves_nothing() -> None:
    """SIGKILL: the kernel detaches and frees program, maps and link."""
    script = """
        import time
        from pvlock.abi import Policy
        from pvlock.engines.kvm.publisher import Publisher

        publisher = Publisher(2, Policy.PREEMPTED)
        publisher.add_current_thread(0)
        print("ready", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            its = object_ids_of(process.pid)
            kinds = [kind for kind, _ in its]
            assert kinds.count("link") == 1 and kinds.count("prog") == 3 and "map" in kinds
            assert its <= object_ids()
        finally:
            process.send_signal(signal.SIGKILL)
    wait_for(lambda: not its & object_ids())


def test_close() -> None:
    """It frees everything, twice is once, and what somebody still views stays readable."""
    publisher = Publisher(2, Policy.SCHEDULED_OUT)
    its = object_ids_of()
    assert its
    view = publisher.buffer[:8]
    publisher.close()
    publisher.close()
    assert bytes(view) == b"\1" + bytes(7) and len(publisher.buffer) == 0
    view.release()
    wait_for(lambda: not its & object_ids())


def test_wrong_uses() -> None:
    with Publisher(2, Policy.SCHEDULED_OUT) as publisher:
        for index in (mmap.PAGESIZE // 64, -1, 2**32, 2**64):
            with pytest.raises(ConfigError, match="VCPU 0 has no structure"):
                publisher.add_current_thread(0, index)
        publisher.add_current_thread(1)
        with pytest.raises(EngineError, match="VCPU 0 has been added already"):
            publisher.add_current_thread(0)
        publisher.remove_current_thread()
        publisher.add_current_thread(0)
        publisher.remove_current_thread()


def test_pid_namespace() -> None:
    """Where process IDs are others than the host's, every switch is published all the same."""
    done = run_python(
        f"""
        import os, sys, pytest
        assert os.getpid() == 1
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "{__file__}", "-k", "every_switch"]))
        """,
        *("env", "PVLOCK_SWITCHES=5000", "PVLOCK_NO_SKIP=1", "unshare", "--pid", "--fork"),
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
