# SPDX-License-Identifier: GPL-2.0-or-later
"""What `pvlock top` costs a context switch, beside an empty program and beside nothing; needs root.

First, two threads that pass a byte to and fro, as in benchmarks/publisher.py, which are watched or
not, beside others that are watched and sleep. Then threads that pass one CPU around: what
each switch costs the more of them wait. With --write the report becomes a section of
docs/benchmarks.md.
"""

import argparse
import functools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import document
import publisher
from publisher import figure, switch_ns

from pvlock.errors import WatchError
from pvlock.top.slots import LOG_SIZE, SLOT_SIZE
from pvlock.top.watch import PAIRS, SLOTS, Watcher

RUNS = 5
WATCHED = (1, 100, 1000)
WAITERS = (1, 10, 100, 1000)
SETTLE, SECONDS = 3, 4
TITLE = "What `pvlock top` costs a context switch"
PROGRAM = "switched"
WAITING = """\
The program at sched_switch, as the kernel counts its time (which reads the clock
twice), while threads pass one CPU around as fast as they can (sched_yield), so that
each wait is one stretch of every other thread. All switches of the host are in it. A
wait is charged to the last 1,023 stretches at most, which bounds what a switch costs.
"""


class Sleepers:
    """Threads that do nothing, to be watched."""

    def __init__(self, count: int) -> None:
        self._end = threading.Event()
        self.threads = [threading.Thread(target=self._end.wait) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self._end.set()
        for thread in self.threads:
            thread.join()

    def __enter__(self) -> list[int]:
        return [thread.native_id or 0 for thread in self.threads]

    def __exit__(self, *exception: object) -> None:
        self.close()


def beside(library: Any, path: Path) -> Iterator[str]:
    """Measure switches with and without, in turns."""

    def of_pair(sleepers: int) -> float:
        with Sleepers(sleepers) as tids, Watcher() as watcher:
            together = threading.Barrier(2)
            both: list[int] = []

            def begin(_me: int) -> None:
                both.append(threading.get_native_id())
                if together.wait() == 0:
                    watcher.want([*tids, *both])
                    watcher.look()
                together.wait()

            return switch_ns(library, begin)

    def of_others() -> float:
        with Watcher() as watcher:
            watcher.look()
            return switch_ns(library, None)

    def of_empty() -> float:
        with ExitStack() as stack:
            publisher.programs(path, "empty", 1)(stack)
            return switch_ns(library, None)

    cases: dict[str, Callable[[], float]] = {
        "nothing": lambda: switch_ns(library, None),
        "an empty program": of_empty,
        "top, threads that are not watched": of_others,
        **{
            f"top, two of {count + 2:,} watched threads": functools.partial(of_pair, count)
            for count in WATCHED
        },
    }
    ns: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(RUNS):
        for name, case in cases.items():
            ns[name].append(case())
    yield "| attached | ns per switch | more than nothing | more than an empty one |"
    yield "| --- | --- | --- | --- |"
    for name, values in ns.items():
        over = [
            figure([a - b for a, b in zip(values, ns[base], strict=True)])
            if list(ns).index(name) > list(ns).index(base)
            else ""
            for base in ("nothing", "an empty program")
        ]
        yield f"| {name} | {figure(values)} | {over[0]} | {over[1]} |"


def crowd(library: Any, waiters: int) -> tuple[float, int]:
    """Let threads pass one CPU around; return the program's ns per run, and its runs."""
    cpu = max(os.sched_getaffinity(0))
    go, until = threading.Event(), [0]
    with Watcher() as watcher:

        def spin() -> None:
            go.wait()
            os.sched_setaffinity(0, {cpu})
            library.burn(until[0])

        threads = [threading.Thread(target=spin) for _ in range(waiters + 1)]
        for thread in threads:
            thread.start()
        watcher.want(thread.native_id or 0 for thread in threads)
        watcher.look()
        until[0] = time.monotonic_ns() + (SETTLE + SECONDS) * 10**9
        go.set()
        time.sleep(SETTLE)
        with publisher.counting():
            time.sleep(SECONDS)
            info = Path(f"/proc/self/fdinfo/{watcher.program_fd(PROGRAM)}").read_text()
        for thread in threads:
            thread.join()
    values = dict(line.split(":") for line in info.splitlines())
    return int(values["run_time_ns"]) / int(values["run_cnt"]), int(values["run_cnt"])


def waits(library: Any) -> Iterator[str]:
    yield "| threads that wait for one CPU | ns per run | runs |"
    yield "| --- | --- | --- |"
    for waiters in WAITERS:
        ns, runs = crowd(library, waiters)
        yield f"| {waiters:,} | {ns:,.0f} | {runs:,} |"


def report() -> Iterator[str]:
    """Measure, line by line."""
    yield "Written by benchmarks/top_cost.py. Two threads on one CPU pass a byte through pipes:"
    yield f"their CPU time, in {RUNS} turns of one run; median (range), differences within a turn."
    yield ""
    with tempfile.TemporaryDirectory() as folder:
        library, path = publisher.build(Path(folder))
        yield from beside(library, path)
        yield ""
        yield from WAITING.splitlines()
        yield ""
        yield from waits(library)
    yield ""
    megabytes = SLOTS * SLOT_SIZE / 1e6
    log = f"a log of {LOG_SIZE >> 10} KiB for each CPU"
    yield f"Memory: {SLOTS:,} slots of {SLOT_SIZE} bytes ({megabytes:.1f} MB), {log}, and two"
    yield f"tables of {PAIRS:,} pairs of a VCPU and a displacer (some 6 MB each)."
    yield "All are there from the start, and do not grow."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into docs/benchmarks.md")
    options = parser.parse_args()
    try:
        Watcher().close()
    except WatchError as error:
        sys.exit(f"not measured: {error}")
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if options.write:
        document.write(TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()
