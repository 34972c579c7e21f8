# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the guest's report in a console log, whatever stands before it and before each line.

A logger may put a prefix in front of each line: a time, a host, the name of the VM. What is in
front of the report's first line shows what it looks like. Numbers and words in it may differ from
line to line, all else may not.
"""

import re

from pvlock.errors import LogError

VERSION = "TAP version 14"
_GUESTS = re.compile(r"# pvlock conformance guest|# summary: \d|(not )?ok \d+ - \d+\.\d+/")
_PIECE = re.compile(r"\s*\d+|[A-Za-z]+|\s+|.", re.ASCII)
_LONGEST_PREFIX = 200
_SHOWN = 60


def short(line: str) -> str:
    """Return a line of a log, cut where it is long, without what a terminal would obey."""
    shown = line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def lines_of(text: str) -> tuple[list[str], int]:
    """Return the lines of a log without their prefix, and the position of the report's first.

    Raises LogError if there is no report in it, or a second one.

    >>> lines_of("[ 9.51] TAP version 14\\n[10.20]   ---\\n")
    (['TAP version 14', '  ---'], 0)
    """
    # Serial lines end in CR LF, and where firmware prints, in CR CR LF.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    starts = [number for number, line in enumerate(lines) if line == VERSION]
    if not starts:
        starts = [number for number, line in enumerate(lines) if _has_prefix(line)]
        if not starts:
            raise LogError(_why_none(lines))
        prefix = _pattern(lines[starts[0]][: -len(VERSION)])
        lines = [prefix.sub("", line, count=1) for line in lines]
        starts = [number for number in starts if lines[number] == VERSION]
    if len(starts) > 1:
        raise LogError(f"line {starts[1] + 1}: the guest started a second time")
    return lines, starts[0]


def _has_prefix(line: str) -> bool:
    return line.endswith(VERSION) and len(line) <= _LONGEST_PREFIX + len(VERSION)


def _pattern(prefix: str) -> re.Pattern[str]:
    """Return what matches a prefix such as this one. The blanks at its end are always the same."""
    body = prefix.rstrip(" ")
    parts: list[str] = []
    after_number = False
    for piece in _PIECE.findall(body):
        number = piece.strip().isdecimal()
        if number:
            # It may be padded to a width. Two numbers never touch, or a long one could be divided
            # between them in very many ways.
            parts.append(r"[ \t]+[0-9]+" if after_number else r"[ \t]*[0-9]+")
        elif piece.isalpha():
            parts.append("[A-Za-z]+")
        else:
            parts.append(re.escape(piece))
        after_number = number
    blanks = " " * (len(prefix) - len(body))
    return re.compile(rf"\A{''.join(parts)}(?:{blanks}|\Z)", re.ASCII)


def _why_none(lines: list[str]) -> str:
    """Say what a log without a report holds; what caused that, its lines do not tell."""
    missing = f"no line says {VERSION!r}"
    for number, line in enumerate(lines, 1):
        if _GUESTS.search(line):
            return f"{missing}, but line {number} is the guest's: the log lacks its beginning"
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return f"{missing}: the log is empty"
    number, last = filled[-1]
    return f"{missing}; the log ends in line {number}: {short(last)}"
