# SPDX-License-Identifier: GPL-2.0-or-later
"""Intervals of positions, in which one VCPU has to do with one lock: waits, holds, places, gaps."""

from dataclasses import dataclass

import numpy as np

from pvlock.trace.columns import Bools, Ints


@dataclass
class Intervals:
    """Intervals [first, last) of event positions, in which VCPU `vcpu` has to do with a `lock`."""

    vcpu: Ints
    lock: Ints
    first: Ints
    last: Ints

    def take(self, which: Ints | Bools) -> "Intervals":
        """Return some of the intervals: those at these places, or those marked True."""
        columns = (self.vcpu, self.lock, self.first, self.last)
        return Intervals(*(column[which] for column in columns))

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self.first)


def joined(parts: list[Intervals]) -> Intervals:
    """Return the intervals of all `parts`, one part after the other."""
    return Intervals(
        np.concatenate([part.vcpu for part in parts]),
        np.concatenate([part.lock for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.last for part in parts]),
    )
