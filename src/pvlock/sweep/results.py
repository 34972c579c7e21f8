# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of a sweep: one for each cell, and medians with ranges over the seeds."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pvlock import report
from pvlock.sweep.grid import AXES
from pvlock.sweep.run import Failure, Measurement, Outcome, Run, runs_of
from pvlock.workload import RUNS, Settings

NOISE = 0.005
"""A gain that differs from 1 by no more than this is no effect."""

Row = dict[str, Any]
"""A row of a table: text, numbers, and None where there is no result."""


@dataclass(frozen=True)
class Spread:
    """A median with its range."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the spread of the values that are not None; None if there are none.

        >>> Spread.of([3.0, None, 1.0, 2.0])
        Spread(low=1.0, median=2.0, high=3.0)
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(min(known), statistics.median(known), max(known))


@dataclass(frozen=True)
class CellResult:
    """A cell and the outcomes of its runs, by name (workload.RUNS)."""

    cell: Settings
    runs: Mapping[str, Outcome]

    def throughput(self, name: str) -> float | None:
        """Acquisitions per second of the run called `name`; None if it failed."""
        outcome = self.runs[name]
        return outcome.throughput if isinstance(outcome, Measurement) else None

    @property
    def gain(self) -> float | None:
        """Throughput with PV-lock over that without; None if one is missing, or the latter is 0."""
        return _ratio(self.throughput("with"), self.throughput("without"))

    @property
    def kept(self) -> float | None:
        """Throughput with PV-lock over that without overcommitment."""
        return _ratio(self.throughput("with"), self.throughput("baseline"))

    @property
    def error(self) -> str:
        """Which runs failed, and why; empty if none failed."""
        failed = ((name, self.runs[name]) for name in RUNS)
        return "; ".join(f"{name}: {o.reason}" for name, o in failed if isinstance(o, Failure))


@dataclass(frozen=True)
class Group:
    """Cells that differ in nothing but the seed. `settings` are those of the first."""

    settings: Settings
    cells: Sequence[CellResult]

    @property
    def gain(self) -> Spread | None:
        """The gain from PV-lock, over the seeds."""
        return Spread.of(cell.gain for cell in self.cells)

    @property
    def kept(self) -> Spread | None:
        """What is left of the throughput without overcommitment, over the seeds."""
        return Spread.of(cell.kept for cell in self.cells)

    def throughput(self, name: str) -> Spread | None:
        """Throughput of the runs called `name`, over the seeds."""
        return Spread.of(cell.throughput(name) for cell in self.cells)

    @property
    def failed(self) -> int:
        """How many cells lack a run."""
        return sum(1 for cell in self.cells if cell.error)

    @property
    def verdict(self) -> str:
        """Gain or loss if every seed agrees; no effect if no seed is further from 1 than NOISE."""
        gain = self.gain
        if gain is None:
            return "failed" if self.failed else "no acquisitions"
        if max(abs(gain.low - 1), abs(gain.high - 1)) <= NOISE:
            return "no effect"
        if gain.low > 1:
            return "gain"
        return "loss" if gain.high < 1 else "mixed"


def collect(cells: Iterable[Settings], outcomes: Mapping[Run, Outcome]) -> list[CellResult]:
    """Return the result of each cell, in the order of the cells."""
    return [
        CellResult(cell, {name: outcomes[run] for name, run in runs_of(cell).items()})
        for cell in cells
    ]


def grouped(results: Iterable[CellResult]) -> list[Group]:
    """Return the groups in the order in which they first appear."""
    found: dict[Settings, list[CellResult]] = {}
    for result in results:
        found.setdefault(replace(result.cell, seed=0), []).append(result)
    return [Group(cells[0].cell, cells) for cells in found.values()]


def cell_row(result: CellResult) -> Row:
    """Return everything that is known of a cell; a missing value is None."""
    row = setting_columns(result.cell) | {"seed": result.cell.seed}
    row |= {"gain": result.gain, "kept": result.kept}
    for name in RUNS:
        outcome = result.runs[name]
        for column in Measurement.__dataclass_fields__:
            row[f"{name}_{column}"] = getattr(outcome, column, None)
    return row | {"error": result.error}


def group_row(group: Group) -> Row:
    """Return the medians and ranges of a group."""
    row = setting_columns(group.settings)
    row |= {"seeds": len(group.cells), "failed": group.failed, "verdict": group.verdict}
    spreads = {"gain": group.gain, "kept": group.kept}
    spreads |= {f"{name}_throughput": group.throughput(name) for name in RUNS}
    for name, spread in spreads.items():
        for column in ("median", "low", "high"):
            row[f"{name}_{column}"] = getattr(spread, column, None)
    return row


WFE: Mapping[bool | str, str] = {True: "trapped", False: "not trapped", "always": "always trapped"}
"""What pictures say of a WFE, by Settings.trap_wfe, in their order."""


def wfe_rank(cell: Settings) -> int:
    """Return where pictures have the cells with this kind of WFE: 0 comes first."""
    return list(WFE).index(cell.trap_wfe)


def setting_columns(cell: Settings) -> Row:
    """Return the settings of a cell without the seed; times in ns."""
    return {axis.column: axis.cell(getattr(cell, axis.field)) for axis in AXES}


def shown(column: str, value: Any) -> tuple[str, str]:
    """Return a setting for people: its title and its value."""
    if column.endswith("_ns"):
        return column.removesuffix("_ns"), report.time(value)
    return column, str(value)


def summary(groups: Sequence[Group]) -> tuple[str, list[str], list[list[str]]]:
    """Return text for people: what all groups have in common, titles, and a line for each group."""
    settings = [setting_columns(group.settings) for group in groups]
    varying = [c for c in settings[0] if len({row[c] for row in settings}) > 1]
    common = [" ".join(shown(c, v)) for c, v in settings[0].items() if c not in varying]
    common.append(count(len(groups[0].cells), "seed"))
    titles = [shown(c, settings[0][c])[0] for c in varying]
    titles += ["without /s", "with /s", "not overc. /s", "gain (range)", "kept (range)", ""]
    lines = []
    for group, row in zip(groups, settings, strict=True):
        line = [shown(c, row[c])[1] for c in varying]
        line += [_text(group.throughput(name), lambda s: f"{s.median:,.0f}") for name in RUNS]
        line.append(_text(group.gain, lambda s: f"x{s.median:.3f} ({s.low:.3f}–{s.high:.3f})"))
        line.append(_text(group.kept, lambda s: f"{s.median:.1%} ({s.low:.1%}–{s.high:.1%})"))
        failed = f", {group.failed} failed" if group.failed and group.gain else ""
        lines.append([*line, group.verdict + failed])
    return ", ".join(common), titles, lines


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "seed"), count(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _text(spread: Spread | None, form: Callable[[Spread], str]) -> str:
    return "–" if spread is None else form(spread)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
