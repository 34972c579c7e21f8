# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace costs the guest, in virtual time (exact), and the host, with the defaults.

The benchmark fails if tracing takes more than 3 % of a guest's throughput over all seeds.

python benchmarks/trace_cost.py [--seeds 10] [--duration-ms 100]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pvlock import workload
from pvlock.workload import RUNS, Settings

MOST = 0.03

Figures = tuple[int, int, float, int]
"""Acquisitions without a trace and with one, the ratio of the host's times, and how many events."""


def measure(guest: str, name: str, base: Settings, seed: int) -> Figures:
    """Run a guest with one seed, without a trace and with one."""
    settings = replace(base, guest=guest, seed=seed)
    counts, seconds, events = [], [], 0
    for trace in (False, True):
        start = time.perf_counter()
        result = workload.run(name, settings, trace=trace)
        seconds.append(time.perf_counter() - start)
        assert result is not None
        counts.append(result.acquisitions)
        if result.events is not None:
            assert not sum(result.events.dropped) + sum(result.events.rejected)
            events = len(result.events)
    return counts[0], counts[1], seconds[1] / seconds[0], events


def report(seeds: int, duration_ms: int) -> Iterator[tuple[str, float]]:
    """Measure; yield each line of the report, and the share of throughput that it lost."""
    base = Settings(duration_ns=duration_ms * 1_000_000, engine="emulator")
    with ThreadPoolExecutor(max_workers=2) as pool:
        for guest in workload.names():
            for name in RUNS[:2]:
                figures = list(
                    pool.map(
                        measure, [guest] * seeds, [name] * seeds, [base] * seeds,
                        range(1, seeds + 1),
                    )
                )  # fmt: skip
                plain, traced = (sum(each[i] for each in figures) for i in (0, 1))
                change = traced / plain - 1
                each_change = [t / p - 1 for p, t, _, _ in figures]
                slower = statistics.median(each[2] for each in figures)
                events = statistics.median(each[3] for each in figures)
                spread = f"{min(each_change):+.1%} to {max(each_change):+.1%}"
                cells = (guest, name, f"{change:+.2%}", spread, f"{events:,.0f}", f"{slower:.2f}")
                yield "| " + " | ".join(cells) + " |", -change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--duration-ms", type=int, default=100)
    options = parser.parse_args()
    print(f"{options.seeds} seeds, {options.duration_ms} ms each; throughput with a trace, over")
    print("that without: all seeds together, and one by one\n")
    print("| guest | PV-lock | change | one by one | events | host time, x |")
    print("| --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    for line, loss in report(options.seeds, options.duration_ms):
        print(line, flush=True)
        worst = max(worst, loss)
    print(f"\nworst: {worst:.2%} of a guest's throughput")
    if worst > MOST:
        sys.exit(f"tracing costs more than {MOST:.0%}")


if __name__ == "__main__":
    main()
