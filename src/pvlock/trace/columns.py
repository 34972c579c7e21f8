# SPDX-License-Identifier: GPL-2.0-or-later
"""What the analysis does with columns again and again, linear in their length but for sorting.

An interval is a pair of positions in the table of events, [first, last). Positions of several VCPUs
or locks go into one sorted column as keys: number * span + position, span > every position.
Positions and numbers have 32 bits, to save memory; keys, and sums of times, have 64.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError

Integer = TypeVar("Integer", bound=np.integer[Any])
Ints = NDArray[np.signedinteger[Any]]
Bools = NDArray[np.bool_]

MOST_ROWS = 1 << 25
"""What one step may produce; a stream that needs more was made to."""

_FURTHEST = np.iinfo(np.int64).max


def keys(number: Ints, span: int, position: Ints | int = 0) -> Ints:
    """Return the keys of positions."""
    return number.astype(np.int64) * span + position


def stable_order(numbers: NDArray[Any], bound: int) -> Ints:
    """Return the order that sorts `numbers`, 0 to `bound` - 1, equal ones as they were."""
    # NumPy has a radix sort for 16 bits.
    narrow = numbers.astype(np.uint16) if bound <= 1 << 16 else numbers
    return np.argsort(narrow, kind="stable").astype(np.int32)


def distinct(values: NDArray[Integer]) -> NDArray[Integer]:
    """Return the values in order, each once: np.unique(), but by sorting, which is faster."""
    values = np.sort(values, kind="stable")
    result: NDArray[Integer] = values[starts(len(values), values[1:] == values[:-1])]
    return result


def expand(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return each member of each interval [first, last): its interval's number, and itself.

    Raises TraceError for more than MOST_ROWS.
    """
    counts = np.maximum(last - first, 0).astype(np.int64)
    total = int(counts.sum())
    if total > MOST_ROWS:
        raise TraceError(
            f"locks, waits and preemptions overlap in {total:,} places, more than {MOST_ROWS:,}: "
            "trace a shorter run"
        )
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    shift = (np.cumsum(counts) - counts - first).astype(np.int32)
    return rows, np.arange(total, dtype=np.int32) - np.repeat(shift, counts)


def last_at(sorted_keys: Ints, wanted: Ints) -> Ints:
    """Return the place of the last of `sorted_keys` at or before each wanted; -1: none."""
    return np.searchsorted(sorted_keys, wanted, "right") - 1


def next_at(sorted_keys: Ints, wanted: Ints) -> Ints:
    """Return the first of `sorted_keys` at or after each wanted, or a key beyond all."""
    place = np.searchsorted(sorted_keys, wanted)
    place[place == len(sorted_keys)] = -1
    return pick(sorted_keys, place, _FURTHEST)


def pick(values: Ints, places: Ints, otherwise: int) -> Ints:
    """Return the values at these places; `otherwise` where a place is negative."""
    result = np.full(len(places), otherwise, values.dtype)
    known = places >= 0
    result[known] = values[places[known]]
    return result


def fill(size: int, places: Ints, values: NDArray[Any], origins: Ints, initial: int) -> Ints:
    """Return `size` values: at each place what the last of `places` up to it was given.

    From an origin on, until the next of `places`, it is `initial`.
    """
    result = np.full(size, initial, np.int32)
    source = np.zeros(size, np.int32)
    source[origins] = origins
    result[places] = values
    source[places] = places
    np.maximum.accumulate(source, out=source)
    return result[source]


def sums(values: NDArray[Any]) -> Ints:
    """Return the sum of all values before each, and of all."""
    result = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=result[1:])
    return result


def reach(sorted_keys: Ints, ends: Ints, span: int) -> Ints:
    """Return, for intervals in the order of their keys, the furthest end up to each.

    Only intervals of the same number count.
    """
    base = sorted_keys // span * span
    return np.maximum.accumulate(base + ends) - base


def starts(size: int, same: Bools) -> Bools:
    """Return which of `size` members begin a run; `same` says of each but the first if it goes on.

    Likewise `stops` says which end one.
    """
    return np.append(True, ~same)[:size]


def stops(size: int, same: Bools) -> Bools:
    """Return which of `size` members end a run."""
    return np.append(~same, True)[:size]
