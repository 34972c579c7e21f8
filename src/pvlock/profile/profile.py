# SPDX-License-Identifier: GPL-2.0-or-later
"""The samples of one machine, and what can be made of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvlock.profile.profiler import Profiler
from pvlock.profile.samples import Sample, Stack, Stacks, unpack
from pvlock.profile.shares import Shares, shares


@dataclass
class Profile:
    """Samples of a machine with `pcpus` CPUs from 0 to `end_ns` of guest time."""

    profiler: Profiler
    vcpus: int
    pcpus: int
    end_ns: int = 0
    lost: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run, for whoever reads a file made of it."""
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin without samples."""
        self._stacks = Stacks(self.profiler.names)

    @property
    def period_ns(self) -> int:
        """Guest time from one point of the grid to the next, in ns."""
        return self.profiler.sampling.period_ns

    @property
    def stacks(self) -> list[Stack]:
        """The call stacks, which samples name by their place in this list."""
        return self._stacks.all

    def add(self, packed: bytes, lost: int) -> None:
        """Add what an engine has taken. Raises TraceError for nonsense."""
        self.samples += unpack(packed, self._stacks)
        self.lost += lost

    def between(self, start_ns: int, end_ns: int) -> "list[Sample]":
        """Return the samples that begin in a part of the run."""
        return [sample for sample in self.samples if start_ns <= sample.time_ns < end_ns]

    def shares(self, start_ns: int = 0, end_ns: int | None = None) -> Shares:
        """Return what the CPUs' time went to, in all of the run or a part of it."""
        end_ns = self.end_ns if end_ns is None else min(end_ns, self.end_ns)
        points = end_ns // self.period_ns - start_ns // self.period_ns
        return shares(
            self.between(start_ns, end_ns + 1), self.stacks, points * self.pcpus, self.period_ns
        )

    def counts(self) -> dict[int, int]:
        """Return how many points of the grid each stack has."""
        counted: Counter[int] = Counter()
        for sample in self.samples:
            counted[sample.stack] += sample.points
        return dict(sorted(counted.items()))
