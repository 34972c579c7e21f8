# SPDX-License-Identifier: GPL-2.0-or-later
"""What publishing costs a context switch, compared with an empty program on the same hook.

Two threads on one CPU pass a byte to and fro through pipes. Each pass is a switch, and its cost is
the CPU time of both threads. Compare figures within one run only. With --write the report becomes a
section of docs/benchmarks.md. This needs root.
"""

import argparse
import ctypes
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import document

from pvlock.abi import Policy
from pvlock.engines.kvm import bpf
from pvlock.engines.kvm.publisher import Publisher
from pvlock.errors import EngineUnavailable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build_native  # noqa: E402 - not installed

RUNS = 5
ROUNDS = 8_000
VMS = (1, 8, 64)
HERE = ROOT / "benchmarks" / "bpf"
TITLE = "What publishing costs a context switch"
SIZE = {"flags": 64}
STATS_RUN_TIME = 0  # linux/bpf.h


@dataclass
class Row:
    """A setting: what is attached, for how many VMs, and whether the threads are VCPUs of one."""

    label: str
    attach: Callable[[ExitStack], Callable[[int], None] | None]
    vms: int
    vcpus: bool = False
    ns: list[float] = field(default_factory=list)


def build(folder: Path) -> tuple[Any, Path]:
    """Compile the two threads' C code, and the programs to compare with."""
    load, programs = folder / "pingpong.so", folder / "alternatives.bpf.o"
    flags = ["-O2", "-fPIC", "-shared", str(HERE / "pingpong.c"), "-o", str(load)]
    subprocess.run([*build_native.ZIG_CC, *build_native.WARNINGS, *flags], check=True)
    build_native.build_bpf(HERE / "alternatives.bpf.c", programs)
    library = ctypes.CDLL(str(load))
    library.pingpong.restype = ctypes.c_long
    library.pingpong.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int]
    library.burn.argtypes = [ctypes.c_long]
    return library, programs


def switch_ns(library: Any, begin: Callable[[int], None] | None) -> float:
    """Return ns per switch; each of the two threads calls `begin` first."""
    there, back = os.pipe(), os.pipe()
    taken = [-1, -1]

    def main(me: int) -> None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        if begin is not None:
            begin(me)
        ends = (back[0], there[1]) if me else (there[0], back[1])
        taken[me] = library.pingpong(*ends, ROUNDS, me)

    threads = [threading.Thread(target=main, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for end in (*there, *back):
        os.close(end)
    assert min(taken) > 0, "the threads could not speak to each other"
    return sum(taken) / (2 * ROUNDS)


def add(target: bpf.BpfObject, structure: int) -> None:
    """Do as Publisher.add_current_thread() does."""
    assert not target.run("add", structure)


def publishers(vms: int, vcpus: bool) -> Callable[[ExitStack], Callable[[int], None] | None]:
    """Attach a publisher for each of `vms` VMs."""

    def attach(stack: ExitStack) -> Callable[[int], None] | None:
        all_vms = [stack.enter_context(Publisher(2, Policy.PREEMPTED)) for _ in range(vms)]
        return all_vms[0].add_current_thread if vcpus else None

    return attach


def programs(
    path: Path, name: str, vms: int, vcpus: bool = False
) -> Callable[[ExitStack], Callable[[int], None] | None]:
    """Attach a program of alternatives.bpf.c once for each of `vms` VMs."""

    def attach(stack: ExitStack) -> Callable[[int], None] | None:
        objects = []
        for _ in range(vms):
            objects.append(stack.enter_context(bpf.BpfObject(path, (name, "add"), SIZE)))
            objects[-1].attach(name)

        return functools.partial(add, objects[0]) if vcpus else None

    return attach


def rows(path: Path) -> list[Row]:
    """Return all settings, in the order of the table."""
    table = [Row("nothing", lambda _: None, 0)]
    for vms in VMS:
        table += [
            Row("empty program", programs(path, "empty", vms), vms),
            Row("publisher, threads of no VM", publishers(vms, False), vms),
            Row("publisher, VCPUs of one VM", publishers(vms, True), vms, True),
            Row("look-up first, threads of no VM", programs(path, "lookup", vms), vms),
            Row("look-up first, VCPUs of one VM", programs(path, "lookup", vms, True), vms, True),
        ]
    return table


def figure(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def compared(library: Any, path: Path) -> Iterator[str]:
    """Measure all settings in turn, RUNS times; yield the lines of a table."""
    table = rows(path)
    for _ in range(RUNS):
        for row in table:
            with ExitStack() as stack:
                row.ns.append(switch_ns(library, row.attach(stack)))
    nothing = table[0].ns
    empty = {row.vms: row.ns for row in table if row.label == "empty program"}
    yield "| attached | VMs | ns per switch | more than nothing | more than as many empty ones |"
    yield "| --- | --- | --- | --- | --- |"
    for row in table:
        over = figure([a - b for a, b in zip(row.ns, nothing, strict=True)]) if row.vms else ""
        beside = ""
        if row.vms and row.label != "empty program":
            beside = figure([a - b for a, b in zip(row.ns, empty[row.vms], strict=True)])
        yield f"| {row.label} | {row.vms or ''} | {figure(row.ns)} | {over} | {beside} |"


def run_ns(target: bpf.BpfObject, name: str) -> float:
    """Return ns per run of a program, as the kernel counted them."""
    info = Path(f"/proc/self/fdinfo/{target.program_fd(name)}").read_text()
    values = dict(line.split(":") for line in info.splitlines())
    assert int(values["recursion_misses"]) == 0
    return int(values["run_time_ns"]) / int(values["run_cnt"])


@contextmanager
def counting() -> Iterator[None]:
    """Let the kernel count the runs of BPF programs, and their time, while the block runs."""
    fd = bpf.libbpf().bpf_enable_stats(STATS_RUN_TIME)
    assert fd >= 0, os.strerror(-fd)
    try:
        yield
    finally:
        os.close(fd)


def counted(library: Any, path: Path) -> Iterator[str]:
    """Yield the lines of a table with the programs' times, as the kernel counts them."""
    cases = [
        ("empty program", "empty", False),
        ("publisher, threads of no VM", "preempted", False),
        ("publisher, VCPUs of one VM", "preempted", True),
        ("look-up first, threads of no VM", "lookup", False),
        ("look-up first, VCPUs of one VM", "lookup", True),
    ]
    times: dict[str, list[float]] = {}
    with counting():
        for _ in range(RUNS):
            for label, name, vcpus in cases:
                with bpf.BpfObject(path, (name, "add"), SIZE) as target:
                    target.attach(name)
                    begin = functools.partial(add, target) if vcpus else None
                    switch_ns(library, begin)
                    times.setdefault(label, []).append(run_ns(target, name))
    yield "| program | ns per run |"
    yield "| --- | --- |"
    for label, values in times.items():
        yield f"| {label} | {figure(values)} |"


def report() -> Iterator[str]:
    """Measure, and yield the report line by line."""
    yield "Written by benchmarks/publisher.py. Two threads on one CPU pass a byte through pipes:"
    yield f"their CPU time, in {RUNS} turns of one run; median (range), differences within a turn."
    yield ""
    with tempfile.TemporaryDirectory() as folder:
        library, path = build(Path(folder))
        yield from compared(library, path)
        yield ""
        yield "The same, as the kernel counts it (BPF_ENABLE_STATS, which reads the clock twice):"
        yield ""
        yield from counted(library, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into docs/benchmarks.md")
    options = parser.parse_args()
    try:
        Publisher(1, Policy.PREEMPTED).close()
    except EngineUnavailable as error:
        sys.exit(f"not measured: {error}")
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if options.write:
        document.write(TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()
