# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sweep has to do: each run once, and none whose result is in the cache."""

import contextlib
import time
from collections.abc import Callable, Iterable

from pvlock.sweep.cache import Cache
from pvlock.sweep.executors import Executor
from pvlock.sweep.run import Measurement, Outcome, Run, runs_of
from pvlock.workload import Settings


class Plan:
    """The runs that cells need: the `outcomes` of those that are done, and the `missing` ones."""

    def __init__(self, cells: Iterable[Settings], cache: Cache) -> None:
        """Take the outcomes that are in the cache."""
        self._cache = cache
        needed = dict.fromkeys(run for cell in cells for run in runs_of(cell).values())
        found = {run: cache.get(run) for run in needed}
        self.outcomes: dict[Run, Outcome] = {r: known for r, known in found.items() if known}
        self.missing = [run for run in needed if run not in self.outcomes]

    def carry_out(self, executor: Executor, done: Callable[[Run, Outcome], None]) -> None:
        """Do the missing runs. Each result is kept at once; `done` is called for each run."""
        jobs = [(run, self._cache.code(run.settings.guest)) for run in self.missing]
        with contextlib.closing(executor.run(jobs)) as finished:
            for run, outcome in finished:
                if isinstance(outcome, Measurement):
                    self._cache.put(run, outcome)
                self.outcomes[run] = outcome
                self.missing.remove(run)
                done(run, outcome)


class Estimate:
    """How long the runs of a plan will still take, judged by those that are done.

    The estimate is that the cost of a run is its duration on all its CPUs, plus that of a start.
    """

    _START_NS = 20_000_000

    def __init__(self, runs: Iterable[Run], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begin = clock, clock()
        self._left = sum(map(self._cost, runs))
        self._done = 0

    def add(self, run: Run) -> None:
        """Count a run as done."""
        self._done += self._cost(run)
        self._left -= self._cost(run)

    @property
    def share(self) -> float:
        """The share that is done, from 0 to 1."""
        return self._done / max(self._done + self._left, 1)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all runs are done; None until the first one is."""
        return (self._clock() - self._begin) * self._left / self._done if self._done else None

    def _cost(self, run: Run) -> int:
        settings = run.settings
        return self._START_NS + min(settings.vcpus, settings.pcpus) * settings.duration_ns
