# SPDX-License-Identifier: GPL-2.0-or-later
"""The samples of one machine, and what can be made of them."""

from collections import Counter
from dataclasses import dataclass, field, replace

from pvlock.profile.profiler import Profiler
from pvlock.profile.samples import Sample, Stack, Stacks, unpack
from pvlock.profile.shares import Shares, shares


@dataclass
class Profile:
    """Samples of a machine with `pcpus` CPUs, from `start_ns` to `end_ns` of guest time."""

    profiler: Profiler
    vcpus: int
    pcpus: int
    start_ns: int = 0
    end_ns: int = 0
    lost: int = 0
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

    def part(self, start_ns: int, end_ns: int | None = None) -> "Profile":
        """Return the profile of a part of the run only; its samples begin there."""
        end_ns = self.end_ns if end_ns is None else min(end_ns, self.end_ns)
        samples = [sample for sample in self.samples if start_ns <= sample.time_ns < end_ns]
        part = replace(self, start_ns=start_ns, end_ns=max(start_ns, end_ns), samples=samples)
        part._stacks = self._stacks
        return part

    def shares(self) -> Shares:
        """Return what the CPUs' time went to."""
        # The grid's first point is 0, and a part has the points from its beginning on.
        points = -(-self.end_ns // self.period_ns) - -(-self.start_ns // self.period_ns)
        return shares(self.samples, self.stacks, points * self.pcpus, self.period_ns)

    def counts(self) -> dict[int, int]:
        """Return how many points of the grid each stack has."""
        counted: Counter[int] = Counter()
        for sample in self.samples:
            counted[sample.stack] += sample.points
        return dict(sorted(counted.items()))
