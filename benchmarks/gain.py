# SPDX-License-Identifier: GPL-2.0-or-later
"""The gain from PV-lock with the defaults: medians and ranges over seeds, in virtual time (exact).

python benchmarks/gain.py [--seeds 10] [--duration-ms 100]
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pvlock import workload
from pvlock.workload import Settings


def throughputs(name: str, settings: Settings, seeds: int) -> list[float]:
    """Return acquisitions per second of guest time for seeds 1 to `seeds`, two runs at a time."""

    def one(seed: int) -> float:
        result = workload.run(name, replace(settings, seed=seed))
        assert result is not None
        return result.throughput

    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(one, range(1, seeds + 1)))


def spread(values: list[float], digits: int) -> str:
    """Return the median and the range of `values`."""
    low, mid, high = min(values), statistics.median(values), max(values)
    return f"{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--duration-ms", type=int, default=100)
    options = parser.parse_args()
    base = Settings(duration_ns=options.duration_ms * 1_000_000, engine="emulator")
    baseline = throughputs("baseline", base, options.seeds)
    print(f"median (range) of {options.seeds} seeds, {options.duration_ms} ms each\n")
    print("| host | VCPUs on CPUs | with / without | with / not overcommitted |")
    print("| --- | --- | --- | --- |")
    for wfe in (True, False):
        for vcpus in (4, 8, 12):
            settings = replace(base, vcpus=vcpus, trap_wfe=wfe)
            with_ = throughputs("with", settings, options.seeds)
            without = throughputs("without", settings, options.seeds)
            gains = [a / b for a, b in zip(with_, without, strict=True)]
            kept = [a / b for a, b in zip(with_, baseline, strict=True)]
            host = "WFE trapped" if wfe else "WFE not trapped"
            row = (host, f"{vcpus} on 4", spread(gains, 3), spread(kept, 3))
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
