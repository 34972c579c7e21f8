# SPDX-License-Identifier: GPL-2.0-or-later
"""Times as people write them: 100ms, 2us or 1.5s."""

import re

HOUR_NS = 3_600 * 10**9
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ns|us|µs|ms|s)", re.ASCII)


def nanoseconds(text: str, low: int = 0, high: int = HOUR_NS) -> int:
    """Return a time as a whole number of ns.

    Raises ValueError, whose text says what it is not, such as a time, or `low` to `high` ns.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a time such as 100ms, 2us or 1.5s")
    ns = round(float(match[1]) * _UNITS[match[2]])
    if not low <= ns <= high:
        raise ValueError(f"not between {low} ns and {high} ns")
    return ns
