# SPDX-License-Identifier: GPL-2.0-or-later
"""What the analysis does with columns again and again, in linear time but for sorting.

A position is the number of an event in the table of events; an interval [first, last) is a pair of
positions. Positions of several VCPUs, or of several locks, go into one sorted column as keys. A key
is number * span + position, where `span` is greater than every position. Positions and numbers have
32 bits, to save memory; keys, and sums of times, have 64.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError

Integer = TypeVar("Integer", bound=np.integer[Any])
Ints = NDArray[np.signedinteger[Any]]
Bools = NDArray[np.bool_]

MOST_ROWS = 1 << 25
"""The rows that one step may produce. Only a table made for the purpose needs more."""
MOST_VCPUS = 1024
"""Twice what KVM/arm64 allows. The totals by pairs of VCPUs take space for the square of it."""

_FURTHEST = np.iinfo(np.int64).max


def among(kinds: NDArray[np.uint8], *wanted: int) -> Bools:
    """Return which of `kinds` are one of `wanted`: np.isin(), but faster for one byte."""
    table = np.zeros(256, bool)
    table[list(wanted)] = True
    return table[kinds]


def keys(number: Ints, span: int, position: Ints | int = 0) -> Ints:
    """Return the keys of `position` for each `number` of a VCPU or lock."""
    return number.astype(np.int64) * span + position


def stable_order(numbers: NDArray[Any], bound: int) -> Ints:
    """Return the stable order that sorts `numbers`, each from 0 to `bound` - 1."""
    # NumPy has a radix sort for 16 bits.
    narrow = numbers.astype(np.uint16) if bound <= 1 << 16 else numbers
    return np.argsort(narrow, kind="stable").astype(np.int32)


def distinct(values: NDArray[Integer]) -> NDArray[Integer]:
    """Return the values in order, each once: np.unique(), but by sorting, which is faster."""
    values = np.sort(values, kind="stable")
    result: NDArray[Integer] = values[starts(len(values), values[1:] == values[:-1])]
    return result


def expand(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return every member of every interval [first, last), in two columns.

    The first column is the number of the interval, the second the member. Raises TraceError for
    more than MOST_ROWS.
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
    """Return, for each wanted key, the place of the last of `sorted_keys` that is not greater.

    The place is -1 where all are greater.
    """
    return np.searchsorted(sorted_keys, wanted, "right") - 1


def next_at(sorted_keys: Ints, wanted: Ints) -> Ints:
    """Return, for each wanted key, the first of `sorted_keys` that is not less.

    Where all are less, it is a number greater than every key.
    """
    place = np.searchsorted(sorted_keys, wanted)
    place[place == len(sorted_keys)] = -1
    return pick(sorted_keys, place, _FURTHEST)


def pick(values: Ints, places: Ints, otherwise: int) -> Ints:
    """Return the values at these places, and `otherwise` where a place is negative."""
    result = np.full(len(places), otherwise, values.dtype)
    known = places >= 0
    result[known] = values[places[known]]
    return result


def fill(size: int, places: Ints, values: NDArray[Any], origins: Ints, initial: int) -> Ints:
    """Return a column of `size` in which `values` stand at `places` and last until the next place.

    From each origin on, up to the next of `places`, the column has `initial`.
    """
    result = np.full(size, initial, np.int32)
    source = np.zeros(size, np.int32)
    source[origins] = origins
    result[places] = values
    source[places] = places
    np.maximum.accumulate(source, out=source)
    return result[source]


def sums(values: NDArray[Any]) -> Ints:
    """Return, for each value, the sum of all values before it; and last the sum of all."""
    result = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=result[1:])
    return result


def reach(sorted_keys: Ints, ends: Ints, span: int) -> Ints:
    """Return, for each interval, the furthest end of this interval and those before it.

    The intervals begin at `sorted_keys`. Only intervals with the same number are compared.
    """
    base = sorted_keys // span * span
    return np.maximum.accumulate(base + ends) - base


def starts(size: int, same: Bools) -> Bools:
    """Return which of `size` rows begin a run of equal rows.

    `same` says, for each row but the first, whether it is equal to the row before.
    """
    return np.append(True, ~same)[:size]


def stops(size: int, same: Bools) -> Bools:
    """Return which of `size` rows end a run of equal rows; `same` is as for starts()."""
    return np.append(~same, True)[:size]
