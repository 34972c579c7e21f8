# SPDX-License-Identifier: GPL-2.0-or-later
"""pprof's format: a gzip file of the protobuf message perftools.profiles.Profile.

`go tool pprof`, speedscope and Grafana's Pyroscope read it. No kept library on PyPI
writes it. It needs little: numbers are varints, and all else is bytes with their length.
"""

import gzip
from collections.abc import Iterable

from pvlock.profile.profile import Profile
from pvlock.profile.samples import Frame

_VARINT, _BYTES = 0, 2
_MAPPINGS = {True: 1, False: 2}


class _Strings:
    """The table of strings, which other messages name by number; number 0 is empty."""

    def __init__(self) -> None:
        self.numbers = {"": 0}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def pprof(profile: Profile) -> bytes:
    """Return the profile, compressed; its values are points of the grid, and ns of CPU time."""
    string, out = _Strings(), bytearray()
    for kind, unit in (("samples", "count"), ("cpu", "nanoseconds")):
        out += _message(1, _number(1, string(kind)) + _number(2, string(unit)))
    locations: dict[Frame, int] = {}
    functions: dict[tuple[str, bool], int] = {}
    for number, points in profile.counts().items():
        places = []
        for frame in profile.stacks[number]:
            places.append(locations.setdefault(frame, len(locations) + 1))
            functions.setdefault((frame.name, frame.kernel), len(functions) + 1)
        values = _packed((points, points * profile.period_ns))
        out += _message(2, _message(1, _packed(places)) + _message(2, values))
    for kernel, called in ((True, "[kernel]"), (False, "[user]")):
        name = _number(5, string(called))
        out += _message(3, _number(1, _MAPPINGS[kernel]) + name + _number(7, 1))
    for frame, number in locations.items():
        line = _message(4, _number(1, functions[frame.name, frame.kernel]))
        head = _number(1, number) + _number(2, _MAPPINGS[frame.kernel]) + _number(3, frame.address)
        out += _message(4, head + line)
    for (called, _), number in functions.items():
        name = _number(2, string(called)) + _number(3, string(called))
        out += _message(5, _number(1, number) + name)
    cpu, ns = string("cpu"), string("nanoseconds")
    tail = _number(10, profile.end_ns - profile.start_ns)
    tail += _message(11, _number(1, cpu) + _number(2, ns))
    tail += _number(12, profile.period_ns)
    for text in string.numbers:
        out += _message(6, text.encode())
    # The same profile is the same file: no name, no time.
    return gzip.compress(bytes(out) + tail, mtime=0)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _packed(values: Iterable[int]) -> bytes:
    return b"".join(map(_varint, values))
