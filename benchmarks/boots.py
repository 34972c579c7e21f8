# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots Linux on the emulator to the prompt and off again, once for each of many seeds.

A seed decides when VCPUs start and how long their first slices are, so each boot takes another
course. Prints what failed, and how much guest time and host CPU time a boot took. The kernel and
the initrd are those of `pvlock kernel fetch`, or --kernel and --initrd.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pvlock.errors import PvlockError
from pvlock.kernel import fetch

SCRIPT = 'wait "~ # "\ntype "poweroff -f\\n"\n'


@dataclass(frozen=True)
class Boot:
    """How a boot ended: an error, or "" and what it took."""

    seed: int
    error: str
    console: bytes = b""
    guest_ms: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0


def boot(arguments: argparse.Namespace, folder: Path, seed: int) -> Boot:
    """Boot once, by `pvlock run`."""
    results, console = folder / f"{seed}.json", folder / f"{seed}.console"
    command = [
        *(sys.executable, "-m", "pvlock", "run", "--engine", "emulator", "--seed", str(seed)),
        *("--kernel", str(arguments.kernel), "--initrd", str(arguments.initrd)),
        *("--append", arguments.append, "--memory", str(arguments.memory)),
        *("--vcpus", str(arguments.vcpus), "--pcpus", str(arguments.pcpus)),
        *("--wfe", arguments.wfe, "--no-reboot"),
        *("--input", str(folder / "input"), "--json", str(results)),
    ]
    errors = folder / f"{seed}.errors"
    with console.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return Boot(seed, errors.read_text(errors="replace").strip())
    run = json.loads(results.read_text())
    if run["event"] != "off":
        return Boot(seed, f"ended by {run['event']}")
    return Boot(
        seed,
        "",
        console.read_bytes(),
        run["usage"]["time_ns"] / 1e6,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
    )


def shown(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boots", type=int, default=100)
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--append", default="console=ttyAMA0")
    parser.add_argument("--memory", type=int, default=512, metavar="MIB")
    parser.add_argument("--vcpus", type=int, default=8)
    parser.add_argument("--pcpus", type=int, default=3)
    parser.add_argument("--wfe", default="trap")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.kernel is None or arguments.initrd is None:
        try:
            folder = fetch.default_folder()
            made = fetch.get("trixie", "cloud-arm64", folder, None, print)
        except PvlockError as error:
            sys.exit(f"{error}")
        arguments.kernel = arguments.kernel or made.kernel
        arguments.initrd = arguments.initrd or made.initrd
    boots: list[Boot] = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        ThreadPoolExecutor(arguments.jobs) as threads,
    ):
        (Path(temporary) / "input").write_text(SCRIPT)
        seeds = range(arguments.first, arguments.first + arguments.boots)
        for done in threads.map(lambda seed: boot(arguments, Path(temporary), seed), seeds):
            boots.append(done)
            took = f"{done.guest_ms:.0f} ms of guest time, {done.cpu_s:.1f} CPU seconds"
            print(f"seed {done.seed}: {done.error or took}", file=sys.stderr, flush=True)
    good = [done for done in boots if not done.error]
    print(f"{len(boots)} boots, {len(boots) - len(good)} failed: {arguments.kernel}")
    print(f"{len({done.console for done in good})} different consoles")
    if good:
        print(f"guest time: {shown([done.guest_ms for done in good])} ms")
        print(f"host: {shown([done.cpu_s for done in good])} CPU seconds")
        print(f"peak memory: {shown([done.peak_mib for done in good])} MiB")
    sys.exit(len(good) != len(boots))


if __name__ == "__main__":
    main()
