# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of events as bytes, so many events at a time, and back: lossless and small.

A part is zlib over the columns one after the other, each a column of bytes per byte of its width:
the high bytes of neighbours are alike. Times are differences, addresses their places in a list.
Bytes come from a file, which may hold anything: nothing is read that was not checked.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvlock.errors import TraceError
from pvlock.trace.events import MOST_EVENTS, Events, Kind

PART = 1 << 18
"""Events in a part."""

_FORMAT = 1
_LEVEL = 1
_COLUMNS = (("time", "<i8"), ("vcpu", "<i4"), ("kind", "u1"), ("place", "<u4"), ("other", "<i4"))
_WIDTH = 8 + 4 + 1 + 4 + 4 + 1
_MOST_NAMES = 1 << 16


def head(events: Events) -> str:
    """Return everything about the table but its columns, as JSON."""
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
        "settings": events.settings,
    }
    return json.dumps(facts)


def parts(events: Events) -> Iterator[bytes]:
    """Return the columns, PART events at a time."""
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
    """Return the table again. Raises TraceError for what is none."""
    try:
        facts = json.loads(head)
        if facts["pvlock-trace"] != _FORMAT:
            raise TraceError(f"a trace of format {facts['pvlock-trace']}, not {_FORMAT}")
        count, vcpus = _integer(facts["events"]), _integer(facts["vcpus"])
        # The recorder stops at its limit once it has passed it: what it took last may be more.
        if not 0 <= count <= 2 * MOST_EVENTS or len(parts) != -(-count // PART):
            raise ValueError
        columns = _columns(parts, count)
        _check(columns, vcpus)
        names = dict(list(facts["names"].items())[:_MOST_NAMES])
        return Events(
            **columns,
            vcpus=vcpus,
            pcpus=_integer(facts["pcpus"]),
            start=_integer(facts["start"]),
            end=_integer(facts["end"]),
            names={int(lock, 16): _text(name) for lock, name in names.items()},
            dropped=tuple(_integer(number) for number in facts["dropped"]),
            rejected=tuple(_integer(number) for number in facts["rejected"]),
            skew_ns=_integer(facts["skew_ns"]),
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


def _check(columns: dict[str, NDArray[Any]], vcpus: int) -> None:
    """Raise ValueError for columns that no run could have left."""
    time, vcpu, kind, other = (columns[name] for name in ("time", "vcpu", "kind", "other"))
    if not 1 <= vcpus <= 1 << 20:
        raise ValueError
    if len(time) == 0:
        return
    if int(time[0]) < 0 or bool((np.diff(time) < 0).any()) or not np.isin(kind, list(Kind)).all():
        raise ValueError
    if int(vcpu.min()) < 0 or int(max(vcpu.max(), other.max())) >= vcpus or int(other.min()) < -1:
        raise ValueError


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**65:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > 256 or not value.isprintable():
        raise ValueError
    return value


def _setting(value: Any) -> str | int | float | bool | None:
    if value is not None and type(value) not in (str, int, float, bool):
        raise ValueError
    return value if type(value) is not str else _text(value)
