# SPDX-License-Identifier: GPL-2.0-or-later
"""What time and memory `pvlock explain` takes for up to 10 million events, and how both grow.

The events are those of real runs of four guests, with PV-lock and without, one run after the other
as often as needed. Each size is measured in a process of its own. Seconds depend on the host and on
what else it does; so they are compared with the time in which as many keys are sorted. The
benchmark fails where 10 million events take more than 12 such sorts, or more than 2 GiB.
"""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pvlock import workload
from pvlock.explain.findings import find
from pvlock.trace.events import Events
from pvlock.workload import Settings

SIZES = 1_250_000, 2_500_000, 5_000_000, 10_000_000
MOST_SORTS, MOST_GIB, MOST_GROWTH = 12.0, 2.0, 1.25
COLUMNS = ("time", "vcpu", "kind", "object", "other", "flags")
GUESTS = ("mutex", "rwsem", "qspinlock", "ticket")


def runs() -> list[Events]:
    """Return the events of real runs, with 16 VCPUs on 8 CPUs."""
    found = []
    for guest in GUESTS:
        for name in ("without", "with"):
            settings = Settings(guest, vcpus=16, pcpus=8, duration_ns=30_000_000, engine="emulator")
            result = workload.run(name, settings, trace=True)
            assert result
            assert result.events
            found.append(result.events)
    return found


def repeated(parts: list[Events], size: int) -> Events:
    """Return `size` events: the runs one after the other, each run with locks of its own."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    now = done = 0
    while done < size:
        number = len(columns["time"])
        part = parts[number % len(parts)]
        for name in COLUMNS:
            columns[name].append(getattr(part, name)[: size - done])
        columns["time"][-1] = columns["time"][-1] + now
        columns["object"][-1] = columns["object"][-1] + np.uint64(number % len(parts) << 40)
        done, now = done + len(part), now + part.end
    whole: dict[str, Any] = {name: np.concatenate(some) for name, some in columns.items()}
    return dataclasses.replace(parts[0], **whole, end=now)


def measure(folder: Path) -> None:
    """Print events, CPU and wall-clock seconds, GiB, and seconds of a sort of as many keys."""
    columns = {name: np.load(folder / f"{name}.npy") for name in COLUMNS}
    end = int(columns["time"][-1])
    events = Events(**columns, vcpus=16, pcpus=8, start=0, end=end, skew_ns=5_000)
    cpu, wall = time.process_time(), time.perf_counter()
    found = find(events)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = found.attribution.waits.parts
    assert int(parts.sum()) > 0
    assert (found.attribution.cut, found.attribution.unmatched) == (0, 0)
    keys = np.random.default_rng(1).integers(0, 1 << 60, len(events))
    sort = time.process_time()
    np.argsort(keys, kind="stable")
    sort = time.process_time() - sort
    print(len(events), cpu, wall, peak, sort)


def main() -> None:
    """Measure each size, and fail if one takes too much."""
    parts, taken = runs(), []
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{'events':>12} {'CPU s':>7} {'wall s':>7} {'GiB':>6} {'of a sort':>10}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            events = repeated(parts, size)
            for name in COLUMNS:
                np.save(Path(folder) / name, getattr(events, name))
            del events
            command = [sys.executable, __file__, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        count, cpu, wall, peak, sort = map(float, done.split())
        taken.append(cpu / sort)
        print(f"{count:12,.0f} {cpu:7.1f} {wall:7.1f} {peak:6.2f} {cpu / sort:9.1f}x")
    growth = taken[-1] / taken[-2]
    print(f"an event takes x{growth:.2f} of the time where there are twice as many")
    if taken[-1] > MOST_SORTS or peak > MOST_GIB or growth > MOST_GROWTH:
        sys.exit(f"more than {MOST_SORTS:g} sorts, {MOST_GIB:g} GiB or x{MOST_GROWTH:g}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        main()
