# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/evidence.csv and docs/published.csv say, by load: gains, their spread, directions."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pvlock.loads import index
from pvlock.loads.catalogue import BY_NAME

PROFILED = "profiled"
MATTERS = 0.02
"""A median gain that is nearer to 1 than this is no gain and no loss."""


@dataclass(frozen=True)
class Setting:
    """A size of the guest, what its WFE does, and the policy."""

    vcpus: int
    pcpus: int
    wfe: str = "trap"
    policy: str = "preempted"

    def __str__(self) -> str:
        traps = "WFE traps" if self.wfe == "trap" else "WFE does not trap"
        return f"{self.vcpus} on {self.pcpus}, {traps}"


@dataclass(frozen=True)
class Gain:
    """Ratios of several seeds."""

    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def certain(self) -> bool:
        """Do all seeds agree about the direction, and does it matter?"""
        low, high = min(self.ratios), max(self.ratios)
        return abs(self.median - 1) > MATTERS and (low > 1 or high < 1)

    @property
    def direction(self) -> str:
        """Return gain, loss or neither."""
        return direction(self.median) if self.certain else "neither"

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        spread = f" ({low:.2f}–{high:.2f})" if len(self.ratios) > 1 else " (1 seed)"
        return f"x{self.median:.2f}{spread}"


def direction(ratio: float, matters: float = MATTERS) -> str:
    """Return what a single ratio says."""
    if abs(ratio - 1) <= matters:
        return "neither"
    return "gain" if ratio > 1 else "loss"


@dataclass(frozen=True)
class Published:
    """A published pair; `hint` is the ratio of the scheme that yields by hint, if there is one."""

    source: str
    test: str
    ratio: float
    hint: float | None


class Evidence:
    """The kept results: throughput by setting, PV-lock, load and seed."""

    def __init__(self, file: Path, published: Path) -> None:
        """Read both files."""
        self._of: dict[tuple[Setting, bool, str], dict[int, float]] = defaultdict(dict)
        self.kernels: set[str] = set()
        self.spent: dict[tuple[str, bool, str], dict[str, tuple[float, float]]] = {}
        """By WFE, PV-lock and load: each kind's share of the CPUs' time, and what of it was waiting
        for a VCPU off its CPU."""
        self.sampled: dict[tuple[str, bool, str], float] = {}
        """The throughput of the sampled runs, by the same."""
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row["group"] == PROFILED:  # another duration: these are for the profile only
                    sampled = (row["wfe"], row["pvlock"] == "True", row["load"])
                    self.sampled[sampled] = float(row["throughput"])
                    continue
                setting = Setting(int(row["vcpus"]), int(row["pcpus"]), row["wfe"], row["policy"])
                of = self._of[setting, row["pvlock"] == "True", row["load"]]
                of[int(row["seed"])] = float(row["throughput"])
                self.kernels.add(row["kernel"])
        with published.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(line for line in lines if not line.startswith("#"))
            self.published = [_published(row) for row in rows]

    def read_spent(self, file: Path) -> None:
        """Read where the CPUs' time went, if that was sampled."""
        if not file.exists():
            return
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                key = (row["wfe"], row["pvlock"] == "True", row["load"])
                self.spent.setdefault(key, {})[row["kind"]] = (
                    float(row["share"]),
                    float(row["off"]),
                )

    def throughputs(self, setting: Setting, pvlock: bool, load: str) -> dict[int, float]:
        """Return the throughput by seed; empty where nothing was computed."""
        if not pvlock:  # without the interface there is nothing that a policy could change
            setting = Setting(setting.vcpus, setting.pcpus, setting.wfe)
        return self._of.get((setting, pvlock, load), {})

    def gain(self, setting: Setting, load: str) -> Gain | None:
        """Return what PV-lock gained, seed by seed; None where nothing was computed."""
        return self._ratios(
            self.throughputs(setting, True, load), self.throughputs(setting, False, load)
        )

    def policy(self, setting: Setting, load: str) -> Gain | None:
        """Return the throughput with PV-lock under a policy beside that under `preempted`."""
        usual = Setting(setting.vcpus, setting.pcpus, setting.wfe)
        return self._ratios(
            self.throughputs(setting, True, load), self.throughputs(usual, True, load)
        )

    def kept(self, setting: Setting, load: str, pvlock: bool) -> Gain | None:
        """Return the throughput beside that of the same CPUs without overcommitment."""
        alone = Setting(setting.pcpus, setting.pcpus)
        return self._ratios(
            self.throughputs(setting, pvlock, load), self.throughputs(alone, True, load)
        )

    def index(self, setting: Setting) -> Gain | None:
        """Return the gain of the partial index of UnixBench."""
        tests = [name for name, load in BY_NAME.items() if load.test]
        both = []
        for pvlock in (True, False):
            of = {name: self.throughputs(setting, pvlock, name) for name in tests}
            seeds = set.intersection(*map(set, of.values()))
            both.append(
                {
                    seed: index.of_loads({name: each[seed] for name, each in of.items()}) or 0.0
                    for seed in seeds
                }
            )
        return self._ratios(*both)

    def of_test(self, source: str, test: str) -> Published | None:
        """Return the published pair of a source."""
        found = (each for each in self.published if (each.source, each.test) == (source, test))
        return next(found, None)

    def seeds(self, setting: Setting) -> int:
        """Return for how many seeds a setting was computed whole, with PV-lock and without."""
        pairs = (self.gain(setting, load) for load in BY_NAME)
        return max((len(gain.ratios) for gain in pairs if gain), default=0)

    @staticmethod
    def _ratios(one: dict[int, float], other: dict[int, float]) -> Gain | None:
        both = [seed for seed in sorted(one) if other.get(seed)]
        return Gain(tuple(one[seed] / other[seed] for seed in both)) if both else None


def _published(row: dict[str, str]) -> Published:
    without = float(row["without"])
    hint = float(row["hint"]) / without if row["hint"] else None
    return Published(row["source"], row["test"], float(row["with"]) / without, hint)


def named(loads: Iterable[tuple[str, Gain]]) -> str:
    """Return loads with their gains, for a sentence."""
    return ", ".join(f"{name} {gain}" for name, gain in loads) or "none"
