# SPDX-License-Identifier: GPL-2.0-or-later
"""What the analysis does with columns again and again, in a time linear in their length (or n log n).

An interval is a pair of positions in the table of events, [first, last). Positions of several VCPUs
or locks go into one sorted column as keys: number * span + position, span > every position.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST_ROWS = 1 << 25
"""What one step may produce; a stream that needs more was made to."""


def stable_order(numbers: NDArray[Any], bound: int) -> Ints:
    """Return the order that sorts `numbers`, 0 to `bound` - 1, equal ones as they were."""
    # Radix sort, which NumPy has for 16 bits; else a sort of distinct keys, which is vectorised.
    if bound <= 1 << 16:
        return np.argsort(numbers.astype(np.uint16), kind="stable")
    size = max(len(numbers), 1)
    if bound >= (1 << 62) // size:
        return np.argsort(numbers, kind="stable")
    keys = numbers.astype(np.int64) * size + np.arange(len(numbers))
    keys.sort()
    return np.asarray(keys % size, np.int64)


def expand(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return each member of each interval [first, last): its interval's number, and itself.

    Raises TraceError for more than MOST_ROWS.
    """
    counts = np.maximum(last - first, 0)
    total = int(counts.sum())
    if total > MOST_ROWS:
        raise TraceError(
            f"locks, waits and preemptions overlap in {total:,} places, more than {MOST_ROWS:,}: "
            "trace a shorter run"
        )
    rows = np.repeat(np.arange(len(counts)), counts)
    members = np.arange(total) - np.repeat(np.cumsum(counts) - counts - first, counts)
    return rows, members


def last_at(keys: Ints, wanted: Ints) -> Ints:
    """Return the position of the last of the sorted `keys` at or before each wanted; -1: none."""
    return np.searchsorted(keys, wanted, "right") - 1


def fill(keys: Ints, at: Ints, values: NDArray[Any], origin: Ints, initial: int) -> Ints:
    """Return, for each of the sorted `keys`, the value that the last of `at` up to it gave.

    `at` and `origin` are among the keys; from an origin on, the value is `initial`.
    """
    result = np.full(len(keys), initial, np.int64)
    source = np.zeros(len(keys), np.int64)
    source[np.searchsorted(keys, origin)] = np.searchsorted(keys, origin)
    places = np.searchsorted(keys, at)
    result[places] = values
    source[places] = places
    np.maximum.accumulate(source, out=source)
    return result[source]


def reach(keys: Ints, ends: Ints, span: int) -> Ints:
    """Return, for intervals in the order of their `keys`, the furthest end up to each.

    Intervals of one number only: `ends` of another number do not count.
    """
    base = keys // span * span
    return np.maximum.accumulate(base + ends) - base
