# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of loads for people (a table and sentences) and for programs (JSON)."""

from typing import TYPE_CHECKING, Any

from pvlock.host import without_simulated
from pvlock.loads import index
from pvlock.loads.run import Comparison, Result
from pvlock.report import document
from pvlock.workload import RUNS

if TYPE_CHECKING:
    from rich.table import Table

MATTERS = 0.02
"""The smallest difference that a sentence names: smaller ones come and go with the seed."""


def table(comparison: Comparison) -> "Table":
    """Return the finished runs side by side, a row for each load."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("operations per second")
    runs = [comparison.runs[name] for name in RUNS if name in comparison.runs]
    for name in (name for name in RUNS if name in comparison.runs):
        result = comparison.runs[name]
        title = "not overcommitted" if name == "baseline" else f"{name} PV-lock"
        shown.add_column(f"{title}\n{result.vcpus} VCPUs, {result.pcpus} CPUs", justify="right")
    shown.add_column("with PV-lock\n/ without", justify="right")
    for load in comparison.settings.loads:
        cells = [
            f"{result.loads[load].throughput:,.0f}" if load in result.loads else "-"
            for result in runs
        ]
        gain = _gain(comparison, load)
        shown.add_row(load, *cells, "" if gain is None else f"x{gain:.2f}")
    indexes = [_index(result) for result in runs]
    if all(indexes):
        shown.add_row("UnixBench's index", *(f"{value:,.0f}" for value in indexes if value))
    return shown


def sentence(comparison: Comparison) -> str:
    """Say which loads PV-lock changed, and why a load has no figure."""
    missing = [name for name in RUNS if name not in comparison.runs]
    if missing:
        return f"Interrupted: no result for {', '.join(missing)}."
    if comparison.timeless:
        return (
            "All loads ran. There is no verdict: the processor of this host is emulated, so times "
            "mean nothing here."
        )
    gains = {load: _gain(comparison, load) for load in comparison.settings.loads}
    known = {load: gain for load, gain in gains.items() if gain is not None}
    faster = [f"{load} x{gain:.2f}" for load, gain in known.items() if gain > 1 + MATTERS]
    slower = [f"{load} x{gain:.2f}" for load, gain in known.items() if gain < 1 - MATTERS]
    same = len(known) - len(faster) - len(slower)
    parts = [
        f"faster by more than {MATTERS:.0%}: {', '.join(faster) or 'none'}",
        f"slower: {', '.join(slower) or 'none'}",
        f"neither: {same} of {len(known)}",
    ]
    text = f"With PV-lock, {'; '.join(parts)}."
    why = comparison.runs["with"].refused
    silent = [
        f"{load}: {why.get(load, 'too few operations')}" for load in gains if load not in known
    ]
    return f"{text} Not compared: {'; '.join(silent)}." if silent else text


def as_dict(comparison: Comparison, engine: str, hashes: dict[str, str]) -> dict[str, Any]:
    """Return everything that was measured; equal settings and files give equal content."""
    settings = comparison.settings.facts() | {"engine": engine}
    facts = {
        **without_simulated(settings, engine),
        "sha256": hashes,
        "interrupted": comparison.interrupted,
        "runs": {name: run_dict(comparison.runs[name]) for name in RUNS if name in comparison.runs},
        "summary": sentence(comparison),
    }
    return document("run-load", facts)


def run_dict(result: Result) -> dict[str, Any]:
    """Return what one run measured."""
    return {
        "vcpus": result.vcpus,
        "pcpus": result.pcpus,
        "pvlock": result.pvlock,
        "loads": {
            name: {
                "throughput": counted.throughput,
                "fairness": counted.fairness,
                "duration_ns": counted.duration_ns,
                "operations": list(counted.operations),
            }
            for name, counted in result.loads.items()
        },
        "refused": dict(result.refused),
        "index": _index(result),
        "switches": result.usage.switches,
        "exits": result.usage.exits,
        "time_ns": result.usage.time_ns,
    }


def _gain(comparison: Comparison, load: str) -> float | None:
    if comparison.timeless:
        return None
    both = [comparison.runs.get(name) for name in RUNS[:2]]
    counted = [result.loads.get(load) for result in both if result]
    if len(counted) < 2 or counted[0] is None or counted[1] is None:
        return None
    without, with_ = counted[0].throughput, counted[1].throughput
    return with_ / without if without else None


def _index(result: Result) -> float | None:
    return index.of_loads({name: counted.throughput for name, counted in result.loads.items()})
