# SPDX-License-Identifier: GPL-2.0-or-later
"""Many fuzz cases, each beside a machine that must not notice, and what they leave on the host.

That other machine, the neighbour, runs a workload of known result. Virtual time is deterministic,
so the neighbour must have the same result, to the byte, as when it runs alone.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from pvlock import workload
from pvlock.errors import PvlockError
from pvlock.fuzz.case import Case, draw
from pvlock.fuzz.play import Played, play
from pvlock.workload import Settings

REPEAT_EVERY = 16
"""One case in so many is played twice, and must leave the same bytes."""
MOST_GROWTH = 64 << 20
"""Bytes by which this process may grow from the first cases to the last."""
LARGEST_WORKER = 1 << 30
"""Bytes that a worker process may take."""
_WARM_UP = 4
_NEIGHBOUR = Settings("mutex", vcpus=3, pcpus=2, duration_ns=2_000_000, slice_ns=100_000, seed=7)


@dataclass(frozen=True)
class Finding:
    """A case and its problems. `case` is None if no single case has caused them."""

    case: Case | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """When to stop: after `operations` of all VCPUs or after `seconds`, whichever comes first."""

    operations: int
    seconds: float = float("inf")


@dataclass
class Totals:
    """What a campaign has done so far. Sizes are in bytes; `largest_worker` is the peak of any."""

    cases: int = 0
    operations: int = 0
    first_seed: int = 0
    last_seed: int = 0
    repeated: int = 0
    seconds: float = 0.0
    growth: int = 0
    largest_worker: int = 0
    findings: list[Finding] = field(default_factory=list)


class Neighbour:
    """A workload on a machine of its own, whose result is known."""

    def __init__(self, engine: str = "emulator") -> None:
        """Run the workload alone, once. Raises EngineError if it cannot run at all."""
        self._settings = replace(_NEIGHBOUR, engine=engine)
        if engine == "kvm":  # a real host has its own CPUs and slices
            pcpus = min(_NEIGHBOUR.pcpus, len(os.sched_getaffinity(0)))
            self._settings = replace(self._settings, pcpus=pcpus, slice_ns=Settings.slice_ns)
        self._alone = self._run()

    def problems(self) -> tuple[str, ...]:
        """Run the workload again; return how its result differs from the one it had alone.

        Where time is not virtual, it only has to end with a valid report.
        """
        try:
            now = self._run()
        except PvlockError as error:
            return (f"the neighbour failed: {error}",)
        if self._settings.engine == "emulator" and now != self._alone:
            return ("the neighbour ended otherwise than alone",)
        return ()

    def _run(self) -> workload.Result | None:
        return workload.run("with", self._settings)


def run(
    first_seed: int,
    per_case: int,
    budget: Budget,
    jobs: int = 1,
    engine: str = "emulator",
    done: Callable[[Totals], None] = lambda _totals: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Totals:
    """Play the cases of `first_seed`, `first_seed` + 1, ... until the budget is spent.

    `jobs` cases run at a time. `done` is called when a case has ended. Raises ConfigError for a
    case of which no machine can be made; anything else that goes wrong is a finding.
    """
    totals = Totals(first_seed=first_seed, last_seed=first_seed)
    neighbour = Neighbour(engine)
    begin, before = time.monotonic(), _Host.now()
    grown_from = before.bytes
    seed, running = first_seed, set[Future[_Examined]]()
    with ThreadPoolExecutor(max_workers=2 * jobs) as pool:
        while True:
            spent = totals.operations >= budget.operations or totals.seconds >= budget.seconds
            while len(running) < jobs and not spent and not cancelled():
                case = draw(seed, per_case, engine)
                running.add(pool.submit(_examine, pool, case, neighbour, cancelled))
                seed += 1
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            totals.seconds = time.monotonic() - begin
            for future in ended:
                _count(totals, future.result())
                if totals.cases == _WARM_UP:
                    grown_from = _Host.now().bytes
                totals.growth = _Host.now().bytes - grown_from
                totals.largest_worker = _largest_child()
                done(totals)
    if left := _Host.now().left_since(before):
        totals.findings.append(Finding(None, left))
    if totals.growth > MOST_GROWTH:
        totals.findings.append(Finding(None, (f"this process grew by {totals.growth} bytes",)))
    if totals.largest_worker > LARGEST_WORKER:
        what = f"a worker process took {totals.largest_worker} bytes"
        totals.findings.append(Finding(None, (what,)))
    return totals


@dataclass(frozen=True)
class _Examined:
    case: Case
    played: Played
    problems: tuple[str, ...]
    repeated: bool


def _examine(
    pool: ThreadPoolExecutor, case: Case, neighbour: Neighbour, cancelled: Callable[[], bool]
) -> _Examined:
    beside = pool.submit(neighbour.problems)
    played = play(case, cancelled)
    problems = played.problems + beside.result()
    repeat = case.seed % REPEAT_EVERY == 0 and case.engine == "emulator"
    if repeat and not problems and not played.cancelled:
        again = play(case, cancelled)
        if not again.cancelled and again != played:
            problems = ("played again, it ended otherwise",)
    return _Examined(case, played, problems, repeat)


def _count(totals: Totals, examined: _Examined) -> None:
    if examined.played.cancelled and not examined.problems:
        return
    totals.cases += 1
    totals.repeated += examined.repeated
    totals.operations += examined.played.operations
    totals.last_seed = max(totals.last_seed, examined.case.seed)
    if examined.problems:
        totals.findings.append(Finding(examined.case, examined.problems))


@dataclass(frozen=True)
class _Host:
    """What this process takes of the host."""

    descriptors: int
    children: frozenset[int]
    bytes: int

    @classmethod
    def now(cls) -> "_Host":
        mine = Path("/proc/self")
        resident = int((mine / "statm").read_text().split()[1])
        return cls(
            len(list((mine / "fd").iterdir())), _children(), resident * resource.getpagesize()
        )

    def left_since(self, before: "_Host") -> tuple[str, ...]:
        problems = []
        if self.descriptors > before.descriptors:
            problems.append(f"{self.descriptors - before.descriptors} descriptors are left open")
        if self.children - before.children:
            problems.append(f"{len(self.children - before.children)} processes are left")
        return tuple(problems)


def _children() -> frozenset[int]:
    """Return the children of this process, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process may have ended meanwhile
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return frozenset(found)


def _largest_child() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
