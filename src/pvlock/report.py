# SPDX-License-Identifier: GPL-2.0-or-later
"""Results for people (a table and one sentence) and for programs (JSON)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pvlock import __version__
from pvlock.host import without_simulated
from pvlock.workload import RUNS, Comparison, Result

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
"""The number of what is documented in docs/formats.md."""
NOISE = 0.005
"""Throughputs that differ by no more, as a share, are the same."""


def time(ns: float) -> str:
    """Return a time in ns with the unit that suits it.

    >>> time(12_345)
    '12.3 µs'
    """
    # Round first: 999.9 ns is a microsecond.
    ns = float(f"{ns:.3g}")
    for limit, unit, scale in ((1e3, "ns", 1), (1e6, "µs", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return f"{ns / scale:.10g} {unit}"
    return f"{ns / 1e9:.10g} s"


Row = tuple[str, Callable[[Result], float], Callable[[float], str]]
ROWS: tuple[Row, ...] = (
    ("acquisitions per second", lambda r: r.throughput, "{:,.0f}".format),
    ("slowest VCPU / fastest", lambda r: r.fairness, "{:.2f}".format),
    ("wait for the lock, p50", lambda r: r.report.wait_percentile(50), time),
    ("                   p99", lambda r: r.report.wait_percentile(99), time),
    ("                   max", lambda r: r.longest_wait_ns, time),
    ("CPU time spent spinning", lambda r: r.spin_share, "{:.1%}".format),
    ("VCPU switches", lambda r: r.usage.switches, "{:,.0f}".format),
)
"""The rows of a table: what each is called, its value, and how that is written."""


def title(name: str, result: Result) -> str:
    """Return the head of the column of a run."""
    what = "not overcommitted" if name == "baseline" else f"{name} PV-lock"
    return f"{what}\n{result.vcpus} VCPUs, {result.pcpus} CPUs"


def table(comparison: Comparison) -> "Table":
    """Return the finished runs side by side."""
    # The library is large, and runs of guest files do not need it.
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    runs = [(name, comparison.runs[name]) for name in RUNS if name in comparison.runs]
    for name, result in runs:
        shown.add_column(title(name, result), justify="right", no_wrap=True)
    for label, value, text in ROWS:
        shown.add_row(label, *(text(value(result)) for _, result in runs))
    return shown


def sentence(comparison: Comparison) -> str:
    """Say in one sentence what PV-lock bought."""
    missing = [name for name in RUNS if name not in comparison.runs]
    if missing:
        return f"Interrupted: no result for {', '.join(missing)}."
    without, with_, baseline = (comparison.runs[name].throughput for name in RUNS)
    if not without or not baseline:
        return "The lock was hardly ever taken: the run is too short to say anything."
    gain, lost = with_ / without, baseline - without
    change = f"{without:,.0f} to {with_:,.0f} acquisitions per second (x{gain:.2f})"
    if abs(gain - 1) <= NOISE:
        return f"PV-lock made no difference here: {change}."
    if gain < 1:
        return f"PV-lock cost {1 - gain:.1%} here: {change}."
    if lost > NOISE * baseline:
        return (
            f"PV-lock won back {(with_ - without) / lost:.0%} of what overcommitting cost: "
            f"{change}, {with_ / baseline:.1%} of what the CPUs do without overcommitment."
        )
    return f"PV-lock gained {gain - 1:.1%}: {change}."


def as_dict(comparison: Comparison, engine: str) -> dict[str, Any]:
    """Return everything that was measured; equal settings (and seeds) give equal content."""
    facts = {
        **without_simulated(comparison.settings.facts() | {"engine": engine}, engine),
        "interrupted": comparison.interrupted,
        "runs": as_runs(comparison),
        "summary": sentence(comparison),
    }
    return document("run", facts)


def document(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `facts` with what every JSON that pvlock writes begins with; docs/formats.md has all.

    `format` is raised when a key goes or changes its meaning. A new key raises nothing.

    >>> document("example", {"answer": 42})["kind"]
    'example'
    """
    return {"format": FORMAT, "kind": kind, "version": __version__, **facts}


class Measured(Protocol):
    """What was measured of a workload: one comparison, or several (pvlock.repeats)."""

    @property
    def first(self) -> Comparison:
        """The first comparison, of which there can be traces."""
        ...

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        ...

    def table(self) -> "Table":
        """Return the runs side by side."""
        ...

    def sentence(self) -> str:
        """Say what PV-lock bought."""
        ...

    def as_dict(self, engine: str) -> dict[str, Any]:
        """Return everything that was measured."""
        ...


@dataclass(frozen=True)
class One:
    """One comparison, where another would be the same to the byte."""

    first: Comparison

    @property
    def interrupted(self) -> bool:
        """See Measured."""
        return self.first.interrupted

    def table(self) -> "Table":
        """See Measured."""
        return table(self.first)

    def sentence(self) -> str:
        """See Measured."""
        return sentence(self.first)

    def as_dict(self, engine: str) -> dict[str, Any]:
        """See Measured."""
        return as_dict(self.first, engine)


def as_runs(comparison: Comparison) -> dict[str, Any]:
    """Return what was measured of each finished run."""
    return {name: _run(comparison.runs[name]) for name in RUNS if name in comparison.runs}


def to_json(value: dict[str, Any]) -> str:
    """Return JSON text that ends in a newline, with the keys in their order."""
    return json.dumps(value, indent=2) + "\n"


def _run(result: Result) -> dict[str, Any]:
    report = result.report
    return {
        "vcpus": result.vcpus,
        "pcpus": result.pcpus,
        "pvlock": report.pvlock,
        "throughput": result.throughput,
        "fairness": result.fairness,
        "wait_ns": {
            "p50": report.wait_percentile(50),
            "p99": report.wait_percentile(99),
            "max": result.longest_wait_ns,
        },
        "spin_share": result.spin_share,
        "sleeps": sum(vcpu.sleeps for vcpu in report.vcpus),
        "per_vcpu": [
            asdict(counts) | asdict(used)
            for counts, used in zip(report.vcpus, result.usage.vcpus, strict=True)
        ],
        "switches": result.usage.switches,
        "exits": result.usage.exits,
        "time_ns": result.usage.time_ns,
    }
