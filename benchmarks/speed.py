# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast the emulator is, beside Unicorn alone; what 128 VCPUs take; how long a start takes.

The figures are wall-clock times of a shared machine: compare them within one run only. With --write
the report becomes a section of docs/benchmarks.md.
"""

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import document
from unicorn import arm64_const as arm64
from unicorn import unicorn_const as const
from unicorn.unicorn_py3.unicorn import Uc, UcError

from pvlock import __version__, fdt, image, memory_map, workload
from pvlock.machine import Machine
from pvlock.memory import GuestMemory, anonymous_slot

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build_native  # noqa: E402 - not installed

RUNS = 5
TURNS = 40_000_000
DTB = memory_map.RAM_BASE
HVC = bytes.fromhex("020000d4")
SCR_EL3 = (1, 1, 3, 6, 0)
SCR_EL3_AARCH64 = 0x430


def median(values: list[float]) -> str:
    """Return the median and the range, as whole numbers."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def loop_guest() -> image.Image:
    """Compile the guest that runs a loop."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "loop.elf"
        sources = [ROOT / "benchmarks" / "guests" / "loop.c", *build_native.library_sources()]
        build_native.build_guest(sources, output)
        return image.parse(output.read_bytes(), "loop")


def emulated(guest: image.Image, quantum_ns: int) -> tuple[float, int]:
    """Run the loop in a machine; return seconds and instructions."""
    with Machine(1, engine="emulator", quantum_ns=quantum_ns, bootargs=f"turns={TURNS}") as machine:
        machine.load(guest)
        machine.run(200_000)  # then the VCPU has started
        start = time.perf_counter()
        assert machine.run(1 << 50) is not None
        return time.perf_counter() - start, machine.usage().vcpus[0].instructions or 0


def bare(guest: image.Image) -> float:
    """Run the same loop, MMU and all, in Unicorn with no hook and no count; return seconds."""
    memory = GuestMemory()
    memory.add(anonymous_slot(memory_map.RAM_BASE, memory_map.RAM_SIZE, "ram"))
    loaded = image.load(guest, memory, memory_map.RAM_BASE)
    board = fdt.Board(
        vcpus=1, ram_base=memory_map.RAM_BASE, ram_size=memory_map.RAM_SIZE,
        gicd_base=memory_map.GICD_BASE, gicd_size=memory_map.GICD_SIZE,
        gicr_base=memory_map.gicr_base(1), gicr_size=memory_map.GICR_STRIDE,
        uart_base=memory_map.UART_BASE, bootargs=f"turns={TURNS}",
    )  # fmt: skip
    memory.write(DTB, fdt.build(board), "device tree")
    uc: Any = Uc(const.UC_ARCH_ARM64, const.UC_MODE_ARM)
    uc.ctl_set_cpu_model(arm64.UC_CPU_ARM64_MAX)
    uc.ctl_exits_enabled(True)
    uc.ctl_set_tlb_mode(const.UC_TLB_CPU)
    uc.mem_map(memory_map.RAM_BASE, memory_map.RAM_SIZE)
    uc.mem_map(memory_map.UART_BASE, memory_map.UART_SIZE)  # the guest sets its console up
    uc.mem_write(memory_map.RAM_BASE, memory.read(memory_map.RAM_BASE, 16 << 20, "copy"))
    uc.reg_write(arm64.UC_ARM64_REG_CP_REG, (*SCR_EL3, SCR_EL3_AARCH64))
    uc.reg_write(arm64.UC_ARM64_REG_X0, DTB)
    start = time.perf_counter()
    try:
        uc.emu_start(loaded.entry, 0)
    except UcError as error:
        # Nobody handles the HVC at the guest's end.
        assert error.errno == const.UC_ERR_EXCEPTION, error
    taken = time.perf_counter() - start
    assert uc.mem_read(uc.reg_read(arm64.UC_ARM64_REG_PC), 4) == HVC
    memory.close()
    return taken


def mutex_rate(quantum_ns: int) -> float:
    """Return million instructions per second, one core, of 8 contending VCPUs on 4 CPUs."""
    with Machine(
        8, 4, engine="emulator", quantum_ns=quantum_ns, bootargs="duration=60000000"
    ) as machine:
        machine.load(workload.image_of("mutex"))
        machine.run(5_000_000)
        before, start = machine.usage(), time.perf_counter()
        machine.run(55_000_000)
        taken, after = time.perf_counter() - start, machine.usage()
    done = sum(v.instructions or 0 for v in after.vcpus)
    done -= sum(v.instructions or 0 for v in before.vcpus)
    return done / taken / 1e6


def big_machine(pvlock: bool) -> tuple[float, float]:
    """Run 10 ms of `mutex` on 128 VCPUs and 64 CPUs; return seconds and MiB of the worker."""
    start = time.perf_counter()
    with Machine(
        128, 64, engine="emulator", pvlock=pvlock, bootargs="duration=10000000"
    ) as machine:
        machine.load(workload.image_of("mutex"))
        assert machine.run(100_000_000) is not None
    taken = time.perf_counter() - start
    return taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def seconds(*arguments: str) -> float:
    """Return how long `python arguments` takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def cpu_model() -> str:
    """Return what the host's CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def report() -> Iterator[str]:
    """Measure, and yield the report line by line."""
    yield f"- CPU: {cpu_model()}, {os.cpu_count()} usable"
    yield f"- {platform.platform()}; Python {platform.python_version()}"
    engine = f"Unicorn {importlib.metadata.version('unicorn')}"
    yield f"- pvlock {__version__}, {engine}; median (range) of {RUNS} runs"
    yield ""
    yield "### One VCPU: arithmetic, loads, stores, branches"
    yield ""
    yield "| | million instructions per second | of bare Unicorn |"
    yield "| --- | --- | --- |"
    guest = loop_guest()
    rates: dict[str, list[float]] = {}
    for _ in range(RUNS):
        count = 0
        for quantum_us in (1, 10):
            taken, count = emulated(guest, 1_000 * quantum_us)
            rates.setdefault(f"pvlock, quantum {quantum_us} µs", []).append(count / taken / 1e6)
        rates.setdefault("bare Unicorn, uncounted", []).append(count / bare(guest) / 1e6)
    bares = rates["bare Unicorn, uncounted"]
    for label, values in rates.items():
        share = statistics.median(v / b for v, b in zip(values, bares, strict=True))
        yield f"| {label} | {median(values)} | {share:.0%} |"
    yield ""
    yield "### `mutex`, 8 VCPUs on 4 CPUs, one core of the host"
    yield ""
    yield "| quantum | million instructions per second |"
    yield "| --- | --- |"
    for quantum_us in (1, 10):
        mutex = [mutex_rate(1000 * quantum_us) for _ in range(RUNS)]
        yield f"| {quantum_us} µs | {median(mutex)} |"
    yield ""
    yield "### `mutex`, 128 VCPUs on 64 CPUs, 10 ms of guest time"
    yield ""
    yield "| | seconds, with creating and ending the machine | peak MiB of the worker so far |"
    yield "| --- | --- | --- |"
    for pvlock in (False, True):
        taken, peak = big_machine(pvlock)
        yield f"| {'with' if pvlock else 'without'} PV-lock | {taken:.1f} | {peak:.0f} |"
    yield ""
    yield "### Start-up, ms over bare Python"
    yield ""
    yield "| | ms |"
    yield "| --- | --- |"
    commands: dict[str, Callable[[], float]] = {
        "`import pvlock`": lambda: seconds("-c", "import pvlock"),
        "`pvlock --help`": lambda: seconds("-m", "pvlock", "--help"),
    }
    for label, command in commands.items():
        over = [1e3 * (command() - seconds("-c", "")) for _ in range(RUNS)]
        yield f"| {label} | {median(over)} |"
    created = []
    for _ in range(RUNS):
        start = time.perf_counter()
        with Machine(8, 4, engine="emulator"):
            created.append(1e3 * (time.perf_counter() - start))
    yield f"| `Machine(8, 4)`, until it can run | {median(created)} |"


TITLE = "The emulator"
WHAT = """Written by benchmarks/speed.py. What bounds the emulator: each translated block calls the
helper's block hook, which counts it, so code with short blocks pays most; each step of a quantum
costs an `emu_start` of Unicorn, some 0.1 µs from C; YIELD and WFE leave Unicorn's fast path. Python
runs only at exits and slice ends.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if options.write:
        document.write(TITLE, "\n".join([WHAT, *lines]))


if __name__ == "__main__":
    main()
