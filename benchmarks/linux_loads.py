# SPDX-License-Identifier: GPL-2.0-or-later
"""Host CPU time of fixed work in a Linux guest: the emulator beside QEMU.

Both run Debian's kernel with the same initrd, and count one instruction as one nanosecond. QEMU
does so with -icount shift=0,sleep=off, which makes its runs repeatable too. Neither offers pointer
authentication. --write makes the table a section of docs/benchmarks.md. QEMU must be installed.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import document

from pvlock.kernel import fetch
from pvlock.lab.cpio import Writer

TITLE = "Linux on the emulator"
WHAT = """\
Written by benchmarks/linux_loads.py: host CPU seconds, median of the turns, of Debian's cloud
kernel with one process that does a fixed amount of work and turns the machine off; the emulator
beside QEMU's TCG with `-icount shift=0,sleep=off`, in turn. "Net" is without the same run that does
nothing.
"""
SOURCE = Path(__file__).resolve().parent / "linux" / "load.c"
LOADS = {
    "boot and power off": "",
    "nothing": "nothing 0",
    "300,000 system calls": "syscall 300000",
    "400 forks": "fork 400",
    "300 forks and execs": "exec 300",
    "15,000 mmaps and munmaps": "mmap 15000",
}
"""Work of each worker; there is one worker on each VCPU."""


def initrd(folder: Path) -> Path:
    """Compile the load and put it, alone, into an archive."""
    program = folder / "load"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    subprocess.run([*command, "-O2", "-s", str(SOURCE), "-o", str(program)], check=True)
    data = io.BytesIO()
    archive = Writer(data)
    archive.folder("dev")
    archive.add("init", program.read_bytes(), 0o755)
    archive.close()
    path = folder / "initrd"
    path.write_bytes(data.getvalue())
    return path


def cpu_seconds(command: list[str]) -> float:
    """Run a guest to its end; return the CPU time of all processes that this takes."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    after = os.times()
    if done.returncode or "reboot: Power down" not in done.stdout:
        sys.exit(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system


def commands(kernel: Path, disk: Path, work: str, cpus: int) -> list[list[str]]:
    """Return how the emulator and QEMU are called."""
    append = "console=ttyAMA0 quiet" + (f" -- {work} {cpus}" if work else "")
    files = ["--kernel", str(kernel), "--initrd", str(disk), "--append", append]
    ours = [sys.executable, "-m", "pvlock", "run", "--engine", "emulator", *files]
    theirs = [
        *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "max,pauth=off", "-nographic"),
        *("-nic", "none", "-m", "512", "-smp", str(cpus), "-icount", "shift=0,sleep=off"),
        *("-kernel", str(kernel), "-initrd", str(disk), "-append", append),
    ]
    return [[*ours, "--vcpus", str(cpus), "--pcpus", str(cpus)], theirs]


def table(kernel: Path, disk: Path, turns: int, sizes: list[int]) -> str:
    """Measure every load, and return the table."""
    lines = [
        "| VCPUs | work of each | emulator (s) | QEMU (s) | emulator / QEMU | net |",
        "|---|---|---|---|---|---|",
    ]
    for cpus in sizes:
        idle = [0.0, 0.0]
        for name, work in LOADS.items():
            both = commands(kernel, disk, work, cpus)
            runs = [[cpu_seconds(command) for command in both] for _ in range(turns)]
            ours, theirs = (median(values) for values in zip(*runs, strict=True))
            if name == "nothing":
                idle = [ours, theirs]
            net = ""
            if work and name != "nothing":
                net = f"{(ours - idle[0]) / max(theirs - idle[1], 0.01):.2f}"
            lines.append(
                f"| {cpus} | {name} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {net} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--vcpus", default="1,4", help="sizes of the guest")
    options = parser.parse_args()
    if not shutil.which("qemu-system-aarch64"):
        sys.exit("qemu-system-aarch64 is missing: apt-get install qemu-system-arm")
    kernel = fetch.get("trixie", "cloud-arm64", fetch.default_folder(), None, print)
    with tempfile.TemporaryDirectory() as folder:
        sizes = [int(size) for size in options.vcpus.split(",")]
        text = table(kernel.kernel, initrd(Path(folder)), options.turns, sizes)
    if options.write:
        document.write(TITLE, f"{WHAT}\n{text}")
    else:
        print(text)


if __name__ == "__main__":
    main()
