# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of events as bytes, and back, without loss.

The bytes are in parts of so many events each. A part has the columns one after the other,
compressed by zlib. Of each column it has first the lowest byte of all values, then the next byte,
and so on: the high bytes of neighbours are alike, and so compress well. In place of times there are
differences of times, and in place of addresses their places in a list.

The bytes may come from any file, so everything is checked before it is used.
"""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError
from pvlock.trace.columns import MOST_VCPUS
from pvlock.trace.events import MOST_EVENTS, Events, Kind, Setting

PART = 1 << 18
"""The number of events in a part."""

_FORMAT = 1
_LEVEL = 1
_COLUMNS = (("time", "<i8"), ("vcpu", "<i4"), ("kind", "u1"), ("place", "<u4"), ("other", "<i4"))
_WIDTH = 8 + 4 + 1 + 4 + 4 + 1
_MOST_NAMES = 1 << 16
_LONGEST_TEXT = 256
_MOST_NS = (1 << 62) - 1
"""The limit of times, of the skew, and of the sum of all VCPUs' time: so 64 bits hold every sum."""
_MOST_LOST = 1 << 100
"""The limit of lost events: each look at a ring can add 2 ** 64, if the guest lies about it."""


def head(events: Events) -> str:
    """Return everything in `events` but its columns, as JSON."""
    facts = {
        "pvlock-trace": _FORMAT,
        "events": len(events),
        "vcpus": events.vcpus,
        "pcpus": events.pcpus,
        "start": events.start,
        "end": events.end,
        "names": {f"{lock:#x}": name for lock, name in events.names.items()},
        "dropped": events.dropped,
        "rejected": events.rejected,
        "skew_ns": events.skew_ns,
        "tasks": events.tasks,
        "settings": {name: _written(value) for name, value in events.settings.items()},
    }
    return json.dumps(facts)


def parts(events: Events) -> Iterator[bytes]:
    """Return the columns as bytes, PART events at a time."""
    for first in range(0, len(events), PART):
        some = slice(first, first + PART)
        objects, place = np.unique(events.object[some], return_inverse=True)
        time = np.diff(events.time[some], prepend=0)
        others = (events.vcpu[some], events.kind[some], place, events.other[some])
        columns: tuple[NDArray[Any], ...] = (time, *others)
        raw = [
            _shuffled(column.astype(width))
            for column, (_, width) in zip(columns, _COLUMNS, strict=True)
        ]
        raw += [_shuffled(events.flags[some]), objects.astype("<u8").tobytes()]
        yield zlib.compress(b"".join(raw), _LEVEL)


def table(head: str, parts: Sequence[bytes]) -> Events:
    """Return the table that head() and parts() wrote. Raises TraceError for damaged bytes.

    >>> import numpy as np
    >>> rows = [(5, 0, Kind.ACQUIRED, 0x1000, -1), (7, 0, Kind.RELEASED, 0x1000, -1)]
    >>> columns = np.array(rows).T
    >>> flags = np.zeros(len(rows), np.uint8)
    >>> events = Events(*columns, flags, vcpus=1, pcpus=1, start=0, end=9, names={0x1000: "mutex"})
    >>> again = table(head(events), list(parts(events)))
    >>> again.time.tolist(), again.names
    ([5, 7], {4096: 'mutex'})
    """
    try:
        facts = json.loads(head)
        if (form := _integer(facts["pvlock-trace"], 0)) != _FORMAT:
            raise TraceError(f"a trace of format {form}, not {_FORMAT}")
        # The recorder looks at its limit after it has taken events, so it may have passed it.
        count = _integer(facts["events"], 0, 2 * MOST_EVENTS)
        vcpus = _integer(facts["vcpus"], 1, MOST_VCPUS)
        start = _integer(facts["start"], 0, _MOST_NS)
        end = _integer(facts["end"], start, min(_MOST_NS, start + _MOST_NS // vcpus))
        if len(parts) != -(-count // PART):
            raise ValueError
        columns = _columns(parts, count)
        _check(columns, vcpus, start, end)
        names = dict(list(facts["names"].items())[:_MOST_NAMES])
        return Events(
            **columns,
            vcpus=vcpus,
            pcpus=_integer(facts["pcpus"], 1, MOST_VCPUS),
            start=start,
            end=end,
            names={_integer(int(lock, 16), 0): _text(name) for lock, name in names.items()},
            dropped=_counts(facts["dropped"], vcpus),
            rejected=_counts(facts["rejected"], vcpus),
            skew_ns=_integer(facts["skew_ns"], 0, _MOST_NS),
            tasks=_integer(facts.get("tasks", 0), 0, vcpus),
            settings={_text(name): _setting(value) for name, value in facts["settings"].items()},
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, zlib.error):
        raise TraceError("its table of events is damaged") from None


def _shuffled(column: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(column).view("u1").reshape(len(column), -1).T.tobytes()


def _columns(parts: Sequence[bytes], count: int) -> dict[str, NDArray[Any]]:
    found: dict[str, list[NDArray[Any]]] = {}
    for number, part in enumerate(parts):
        size = min(PART, count - number * PART)
        unpacker = zlib.decompressobj()
        raw = np.frombuffer(unpacker.decompress(part, size * (_WIDTH + 8) + 1), "u1")
        objects = raw[size * _WIDTH :].tobytes()
        if len(raw) > size * (_WIDTH + 8) or len(objects) % 8:
            raise ValueError
        at = 0
        for name, width in (*_COLUMNS, ("flags", "u1")):
            bytes_each = np.dtype(width).itemsize
            column = raw[at : at + size * bytes_each].reshape(bytes_each, size).T
            found.setdefault(name, []).append(np.ascontiguousarray(column).view(width)[:, 0])
            at += size * bytes_each
        found["time"][-1] = np.cumsum(found["time"][-1])
        place, values = found["place"][-1], np.frombuffer(objects, "<u8")
        if size and (len(values) == 0 or int(place.max()) >= len(values)):
            raise ValueError
        found.setdefault("object", []).append(values[place])
    kinds = {"time": np.int64, "vcpu": np.int32, "kind": np.uint8, "object": np.uint64}
    kinds |= {"other": np.int32, "flags": np.uint8}
    return {
        name: np.concatenate([np.empty(0, kind), *found.get(name, [])], dtype=kind)
        for name, kind in kinds.items()
    }


def _check(columns: dict[str, NDArray[Any]], vcpus: int, start: int, end: int) -> None:
    """Raise ValueError for columns that no run can have."""
    time, vcpu, kind, other = (columns[name] for name in ("time", "vcpu", "kind", "other"))
    if len(time) == 0:
        return
    if int(time[0]) < start or int(time[-1]) > end or bool((time[1:] < time[:-1]).any()):
        raise ValueError
    if int(vcpu.min()) < 0 or int(max(vcpu.max(), other.max())) >= vcpus or int(other.min()) < -1:
        raise ValueError
    if not np.isin(kind, list(Kind)).all():
        raise ValueError


def _integer(value: Any, low: int, high: int = 2**64 - 1) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value


def _counts(value: Any, vcpus: int) -> tuple[int, ...]:
    """Return a tuple of a number for each VCPU, or an empty one."""
    if type(value) is not list or len(value) not in (0, vcpus):
        raise ValueError
    return tuple(_integer(number, 0, _MOST_LOST) for number in value)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError
    return value


def _setting(value: Any) -> Setting:
    if type(value) is str:
        return _text(value)
    if type(value) is int:
        return _integer(value, -(2**63))
    if value is not None and type(value) is not bool and not math.isfinite(value):
        raise ValueError
    return cast(Setting, value)


def _written(value: Setting) -> Setting:
    """Return a setting as _setting() accepts it: the name of a guest's file may hold anything."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    return text[-_LONGEST_TEXT:]
