# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison that is repeated, as on a real host: medians, ranges, and a verdict on all of it.

The emulator's runs repeat to the byte. Those of a real host scatter, and one comparison proves
little there.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvlock import report
from pvlock.report import ROWS, as_runs, title
from pvlock.workload import RUNS, Comparison, Result

if TYPE_CHECKING:
    from rich.table import Table

GAINED, COST, MIXED, NO_DIFFERENCE = "gained", "cost", "mixed", "no difference"
NONE = "none"
"""The verdicts; NONE: there is nothing to judge, or time means nothing there."""


@dataclass
class Repeats:
    """The comparisons that finished, of the `wanted` ones.

    Where the CPUs are `emulated`, their times say nothing of PV-lock, and there is no verdict.
    """

    wanted: int
    emulated: bool
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def whole(self) -> list[Comparison]:
        """Those that have all runs."""
        return [each for each in self.comparisons if len(each.runs) == len(RUNS)]

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(each.interrupted for each in self.comparisons)

    @property
    def gains(self) -> list[float]:
        """By what PV-lock multiplied the throughput, of each whole comparison that had one."""
        pairs = [(each.runs["without"], each.runs["with"]) for each in self.whole]
        return [
            with_.throughput / without.throughput for without, with_ in pairs if without.throughput
        ]

    @property
    def verdict(self) -> str:
        """One of the words above."""
        if self.emulated or not self.gains or len(self.gains) < len(self.whole):
            return NONE
        signs = {_sign(gain) for gain in self.gains}
        if signs == {0}:
            return NO_DIFFERENCE
        if signs == {1}:
            return GAINED
        return COST if signs == {-1} else MIXED

    @property
    def first(self) -> Comparison:
        """The first comparison, of which there can be traces."""
        return self.comparisons[0]

    def table(self) -> "Table":
        """Return the medians of all whole comparisons, and the range of the throughput."""
        from rich.table import Table

        if not self.whole:
            return report.table(self.comparisons[-1])
        shown = Table(box=None, pad_edge=False)
        shown.add_column("")
        results = {name: [each.runs[name] for each in self.whole] for name in RUNS}
        for name, of_run in results.items():
            shown.add_column(title(name, of_run[0]), justify="right", no_wrap=True)
        for label, value, text in ROWS:
            shown.add_row(label, *(text(_median(of_run, value)) for of_run in results.values()))
            if label == ROWS[0][0]:
                for which, choose in (("lowest", min), ("highest", max)):
                    cells = (text(choose(map(value, of_run))) for of_run in results.values())
                    shown.add_row(f"               {which}", *cells)
        return shown

    def sentence(self) -> str:
        """Say what all of it says of PV-lock."""
        gains, whole = self.gains, len(self.whole)
        if not whole:
            return report.sentence(self.comparisons[-1])
        times = "once" if whole == 1 else f"{whole} times"
        begin = f"Interrupted: compared {times}, not {self.wanted}. " if self.interrupted else ""
        if self.emulated:
            return (
                f"{begin}No verdict: the CPUs of this host are emulated (the lab), so these times"
                " say nothing of what PV-lock buys. --engine emulator measures it, in virtual time."
            )
        if len(gains) < whole:
            return f"{begin}The lock was hardly ever taken: the runs are too short to say anything."
        median = f"x{statistics.median(gains):.2f}"
        spread = f"median {median}, x{min(gains):.2f} to x{max(gains):.2f}, compared {times}"
        if whole == 1:
            spread = f"{median}, compared once, which on a real host proves little"
        more, less = (sum(_sign(gain) == sign for gain in gains) for sign in (1, -1))
        words = {
            GAINED: f"PV-lock gained: {spread}.",
            COST: f"PV-lock cost: {spread}.",
            NO_DIFFERENCE: f"PV-lock made no difference here: {spread}.",
            MIXED: f"Mixed: PV-lock gained in {more} and cost in {less} of {whole}: {spread}.",
        }
        return begin + words[self.verdict]

    def as_dict(self, engine: str) -> dict[str, Any]:
        """Return all that was measured; `runs` is the comparison whose gain is the median one."""
        whole = sorted(self.whole, key=_gain)
        middle = whole[(len(whole) - 1) // 2] if whole else self.comparisons[-1]
        gains = self.gains
        facts = report.as_dict(middle, engine)
        return {
            **facts,
            "interrupted": self.interrupted,
            "emulated_cpus": self.emulated,
            "verdict": self.verdict,
            "gain": {
                "median": statistics.median(gains) if gains else None,
                "lowest": min(gains, default=None),
                "highest": max(gains, default=None),
            },
            "repetitions": [as_runs(each) for each in self.comparisons],
            "summary": self.sentence(),
        }


def _sign(gain: float) -> int:
    return 0 if abs(gain - 1) <= report.NOISE else 1 if gain > 1 else -1


def repeat(count: int, emulated: bool, compare: Callable[[int], Comparison]) -> Repeats:
    """Call `compare` with 0, 1 and so on, `count` times, or until one is interrupted."""
    repeats = Repeats(count, emulated)
    for number in range(count):
        repeats.comparisons.append(compare(number))
        if repeats.interrupted:
            break
    return repeats


def _median(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    return statistics.median(map(value, results))


def _gain(comparison: Comparison) -> float:
    without, with_ = (comparison.runs[name].throughput for name in RUNS[:2])
    return with_ / without if without else 0.0
