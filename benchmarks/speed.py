# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast the emulator is on the mutex guest, and how long pvlock takes to start.

Wall-clock figures of a shared machine: compare them within one run only.
"""

import platform
import statistics
import subprocess
import sys
import time

from pvlock import workload
from pvlock.machine import Machine

RUNS = 5


def instructions_per_second(quantum_ns: int) -> float:
    """Return what one core does on the mutex guest, 8 VCPUs on 4 simulated CPUs."""
    with Machine(8, 4, quantum_ns=quantum_ns, bootargs="duration=60000000") as machine:
        machine.load(workload.image_of("mutex"))
        machine.run(5_000_000)
        before, start = machine.usage(), time.perf_counter()
        machine.run(55_000_000)
        taken, after = time.perf_counter() - start, machine.usage()
    count = sum(v.instructions for v in after.vcpus) - sum(v.instructions for v in before.vcpus)
    return count / taken


def seconds(*arguments: str) -> float:
    """Return how long `python arguments` takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def spread(values: list[float], scale: float, unit: str) -> str:
    low, mid, high = (f(values) * scale for f in (min, statistics.median, max))
    return f"{mid:.0f} {unit} ({low:.0f} to {high:.0f})"


def main() -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}; median (range) of {RUNS}\n")
    for quantum_ns in (1_000, 10_000):
        rates = [instructions_per_second(quantum_ns) for _ in range(RUNS)]
        label = f"mutex, quantum {quantum_ns // 1000} us"
        print(f"{label:28}{spread(rates, 1e-6, 'million instructions/s')}")
    bare = [seconds("-c", "") for _ in range(RUNS)]
    for label, arguments in (
        ("import pvlock", ("-c", "import pvlock")),
        ("pvlock --help", ("-m", "pvlock", "--help")),
    ):
        over = [seconds(*arguments) - b for b in bare]
        print(f"{label:28}{spread(over, 1e3, 'ms over bare Python')}")


if __name__ == "__main__":
    main()
