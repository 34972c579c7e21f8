# SPDX-License-Identifier: GPL-2.0-or-later
"""Times as people write them: 100ms, 2us or 1.5s.

>>> nanoseconds("1.5us"), text_of(3_000_000)
(1500, '3ms')
"""

import re

HOUR_NS = 3_600 * 10**9
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ns|us|µs|ms|s)", re.ASCII)


def nanoseconds(text: str) -> int:
    """Return a time as a whole number of ns.

    Raises ValueError for anything else; its text says what a time looks like.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a time such as 100ms, 2us or 1.5s")
    return round(float(match[1]) * _UNITS[match[2]])


def text_of(ns: int) -> str:
    """Return a time as nanoseconds() takes it, in the largest unit that leaves a whole number."""
    for unit in ("s", "ms", "us"):
        if ns and ns % _UNITS[unit] == 0:
            return f"{ns // _UNITS[unit]}{unit}"
    return f"{ns}ns"
