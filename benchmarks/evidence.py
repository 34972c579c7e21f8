# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/evidence.md: published results of PV-lock beside loads of a Linux guest.

    evidence.py              writes the page and its picture from docs/evidence.csv
    evidence.py --run        first does the machines of docs/evidence.toml that are missing there

A machine is one run of one guest. Its results are kept as soon as it has ended, so the same command
goes on where it was stopped. --only NAME does one group, --seeds N the first N seeds, --jobs N or
--scheduler tcp://HOST:PORT (Dask) say where. The kernel is that of `pvlock kernel build guest`.
"""

import argparse
import csv
import importlib
import itertools
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import evidence_report

from pvlock import image
from pvlock.abi import Policy
from pvlock.duration import nanoseconds
from pvlock.kernel import build, busybox, fetch
from pvlock.loads import catalogue, run
from pvlock.loads.run import Files, Settings
from pvlock.profile import Profiler
from pvlock.sweep.executors import cores

DOCS = Path(__file__).resolve().parent.parent / "docs"
CELLS, KEPT = DOCS / "evidence.toml", DOCS / "evidence.csv"
SPENT = DOCS / "evidence-profile.csv"
PROFILED = "profiled"
"""The group whose machines are sampled: where the CPUs' time went is kept, too."""
_WFE = {"trap": True, "notrap": False}


@dataclass(frozen=True)
class Machine:
    """What decides the result of a run, but for the files."""

    group: str
    vcpus: int
    pcpus: int
    wfe: str
    policy: str
    pvlock: bool
    seed: int
    duration_ns: int
    kernel: str
    program: str
    busybox: str
    """The first digits of the SHA-256 of the kernel's Image, of the loads and of busybox."""


@dataclass(frozen=True)
class Row:
    """A line of evidence.csv: what one load did on one machine."""

    machine: Machine
    load: str
    throughput: float
    fairness: float
    spent: tuple[tuple[str, float, float], ...] = ()
    """Of each kind of work, its share of the CPUs' time, and of that the waits for a VCPU that was
    off its CPU."""


Job = tuple[Machine, tuple[str, ...]]


def digits(files: Files) -> dict[str, str]:
    """Return the first digits of the hashes of files, by the names that a Machine has for them."""
    hashes = files.hashes()
    return {
        name: hashes[of][:16]
        for name, of in (("kernel", "kernel"), ("program", "loads"), ("busybox", "busybox"))
    }


def jobs(files: dict[str, str], only: str | None, seeds: int) -> Iterator[Job]:
    """Yield the machines of evidence.toml with these files, and the loads of each."""
    for group, keys in tomllib.loads(CELLS.read_text("utf-8")).items():
        if only not in (None, group):
            continue
        axes = {
            name: value if isinstance(value, list) else [value]
            for name, value in ({"wfe": "trap", "policy": "preempted"} | keys).items()
        }
        loads = catalogue.parse(axes.pop("loads")[0])
        duration_ns = nanoseconds(axes.pop("duration")[0])
        most = min(axes.pop("seeds")[0], seeds)
        for seed in range(1, most + 1):
            for values in itertools.product(*axes.values()):
                chosen: dict[str, Any] = dict(zip(axes, values, strict=True)) | files
                yield Machine(group, seed=seed, duration_ns=duration_ns, **chosen), loads


def execute(job: Job, files: Files) -> list[Row]:
    """Run one machine."""
    machine, loads = job
    settings = Settings(
        loads, engine="emulator", vcpus=machine.vcpus, pcpus=machine.pcpus,
        trap_wfe=_WFE[machine.wfe], policy=Policy(machine.policy), seed=machine.seed,
        duration_ns=machine.duration_ns,
    )  # fmt: skip
    profiler = Profiler.of_image(files.kernel) if machine.group == PROFILED else None
    result = run.run("with" if machine.pvlock else "without", settings, files, profiler=profiler)
    assert result is not None
    return [
        Row(machine, name, counted.throughput, counted.fairness, _spent(result, name))
        for name, counted in result.loads.items()
    ]


def _spent(result: run.Result, load: str) -> tuple[tuple[str, float, float], ...]:
    if load not in result.profiles:
        return ()
    shares = result.profiles[load].shares()
    return tuple(
        (kind, share.points / shares.total, share.off / shares.total)
        for kind, share in shares.kinds.items()
    )


def finished(todo: list[Job], files: Files, options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each machine when it has ended."""
    if options.scheduler:
        dask: Any = importlib.import_module("distributed")
        client = dask.Client(options.scheduler)
        shared = client.scatter(files, broadcast=True)
        futures = [client.submit(execute, job, shared, pure=False) for job in todo]
        for future in dask.as_completed(futures):
            yield future.result()
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for done in as_completed([pool.submit(execute, job, files) for job in todo]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def kept() -> list[Row]:
    """Return the rows of evidence.csv."""
    if not KEPT.exists():
        return []
    with KEPT.open(newline="", encoding="utf-8") as file:
        return [_row(raw) for raw in csv.DictReader(file)]


def _row(raw: dict[str, str]) -> Row:
    machine: dict[str, Any] = {
        field.name: int(raw[field.name]) if field.type is int else raw[field.name]
        for field in fields(Machine)
    }
    machine["pvlock"] = raw["pvlock"] == "True"
    return Row(Machine(**machine), raw["load"], float(raw["throughput"]), float(raw["fairness"]))


def keep(rows: Iterable[Row]) -> None:
    """Write evidence.csv in an order that does not depend on when what was done."""
    ordered = sorted(rows, key=lambda row: (*map(str, asdict(row.machine).values()), row.load))
    new = KEPT.with_suffix(".new")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Machine)]
        writer.writerow([*names, "load", "throughput", "fairness"])
        for row in ordered:
            values = asdict(row.machine).values()
            writer.writerow([*values, row.load, f"{row.throughput:.1f}", f"{row.fairness:.3f}"])
    new.replace(KEPT)


def keep_spent(rows: Iterable[Row]) -> None:
    """Put what profiles say into evidence-profile.csv; what is there of other machines stays."""
    kept = SPENT.read_text("utf-8").splitlines()[1:] if SPENT.exists() else []
    for row in rows:
        where = ",".join(str(value) for value in (*asdict(row.machine).values(), row.load))
        kept = [line for line in kept if not (row.spent and line.startswith(f"{where},"))]
        kept += [f"{where},{kind},{share:.4f},{off:.4f}" for kind, share, off in row.spent]
    names = ",".join(field.name for field in fields(Machine))
    lines = [f"{names},load,kind,share,off", *sorted(kept)]
    SPENT.write_text("\n".join(lines) + "\n", "utf-8")


def files_of_here() -> Files:
    """Return the kernel that `pvlock kernel build guest` made here, and busybox."""
    cache = fetch.default_folder()
    path = build.find("guest", cache).image
    data = path.read_bytes()
    shell = busybox.get(cache, None, lambda text: print(text, file=sys.stderr))
    # The parsed image keeps the bytes, so that it can be sent to another process.
    return Files(image.parse(data, str(path)), data, shell)


def run_missing(options: argparse.Namespace) -> None:
    """Do the machines that are not kept."""
    files = files_of_here()
    rows = kept()
    known = {row.machine for row in rows}
    wanted = list(jobs(digits(files), options.only, options.seeds))
    todo = [job for job in wanted if job[0] not in known]
    print(f"{len(todo)} of {len(wanted)} machines are missing", file=sys.stderr, flush=True)
    began = time.monotonic()
    for number, new in enumerate(finished(todo, files, options), 1):
        rows += new
        keep(rows)
        keep_spent(new)
        spent = time.monotonic() - began
        left = spent / number * (len(todo) - number) / 60
        print(f"{number} of {len(todo)}, about {left:.0f} min left", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="do the machines that are missing")
    parser.add_argument("--only", metavar="GROUP", help="of evidence.toml")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--scheduler", metavar="ADDRESS")
    options = parser.parse_args()
    if options.run:
        run_missing(options)
    evidence_report.write(DOCS)


if __name__ == "__main__":
    main()
