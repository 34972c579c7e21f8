# SPDX-License-Identifier: GPL-2.0-or-later
"""The rings in which a guest records what it does with its locks (SPECIFICATION.md, section 11).

The guest may write to all of this memory at any time, so nothing in it is believed. An entry that
cannot be an event is counted and left out, and no address is taken from the memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvlock import abi
from pvlock.engines.contract import Counter
from pvlock.errors import ConfigError
from pvlock.memory import MemorySlot, fence
from pvlock.trace.events import Kind

EVENT = np.dtype([("time", "<u8"), ("object", "<u8"), ("kind", "<u4"), ("other", "<i4")])
ROW = np.dtype(
    [("time", "<i8"), ("object", "<u8"), ("other", "<i4"), ("kind", "u1"), ("flags", "u1")]
)
"""An event of one VCPU that has been checked. Its time is in ns of the engine's clock."""

_EVENTS = 8192
_NAME = np.dtype([("object", "<u8"), ("size", "<u8"), ("name", "S48")])
_KINDS = (
    abi.TRACE_CONTENDED,
    abi.TRACE_ACQUIRED,
    abi.TRACE_RELEASED,
    abi.TRACE_SLEPT,
    abi.TRACE_WOKEN,
    abi.TRACE_GRANTED,
)
_MOST_NAMES = 4096
_SECOND = 1_000_000_000


def _stride(events: int) -> int:
    return abi.TRACE_RING_EVENTS_OFFSET + events * abi.TRACE_EVENT_SIZE


def region_size(vcpus: int, page_size: int, events: int = _EVENTS) -> int:
    """Return the size of a region with `vcpus` rings, in bytes, rounded up to whole pages."""
    size = abi.TRACE_HEAD_SIZE + vcpus * _stride(events)
    return -(-size // page_size) * page_size


@dataclass
class _Ring:
    """How far the ring of one VCPU has been read."""

    read: int = 0
    """The events that the guest had written when we last looked."""
    lost: int = 0
    """Those of them that were overwritten before they were read."""
    rejected: int = 0
    """Those that were read and could not be events."""
    last: int = 0
    """The time of the latest event, in ns."""


class Rings:
    """The rings of one machine, in a memory slot of at least region_size() bytes."""

    def __init__(
        self, slot: MemorySlot, vcpus: int, counter: Counter, events: int = _EVENTS
    ) -> None:
        """Offer the guest a ring of `events`, a power of two, for each VCPU."""
        if events < 2 or events & (events - 1) or slot.size < region_size(vcpus, 1, events):
            raise ConfigError(f"{vcpus} rings of {events} events do not fit {slot.size} bytes")
        self._slot, self._counter, self._events = slot, counter, events
        self._rings = [_Ring() for _ in range(vcpus)]
        head = slot.buffer[: abi.TRACE_HEAD_SIZE].cast("Q")
        head[abi.TRACE_RINGS_OFFSET // 8] = abi.TRACE_HEAD_SIZE
        head[abi.TRACE_STRIDE_OFFSET // 8] = _stride(events)
        head[abi.TRACE_VCPUS_OFFSET // 8] = vcpus
        self._column(abi.TRACE_RING_MASK_OFFSET)[:] = events - 1

    @property
    def lost(self) -> tuple[int, ...]:
        """Events by VCPU that were overwritten before anybody read them."""
        return tuple(ring.lost for ring in self._rings)

    @property
    def rejected(self) -> tuple[int, ...]:
        """Entries by VCPU that could not be events."""
        return tuple(ring.rejected for ring in self._rings)

    def drain(self, until_ns: int) -> list[tuple[int, NDArray[np.void]]]:
        """Return the events that are new since the last call: for each VCPU with some, rows (ROW).

        No event can be later than `until_ns`. Where events were lost, a row of kind LOST says how
        many.
        """
        written = self._column(abi.TRACE_RING_WRITTEN_OFFSET).tolist()
        fence()
        drained = []
        for vcpu, (ring, now) in enumerate(zip(self._rings, written, strict=True)):
            if now != ring.read:
                rows = self._rows(vcpu, ring, now, until_ns)
                if len(rows):
                    drained.append((vcpu, rows))
        return drained

    def names(self, objects: NDArray[np.uint64]) -> dict[int, str]:
        """Return the names that the guest gave to locks among `objects`, by address."""
        found: dict[int, str] = {}
        table = np.frombuffer(
            self._slot.buffer, _NAME, abi.TRACE_NAMES, abi.TRACE_NAMES_OFFSET
        ).tolist()
        (named,) = np.frombuffer(self._slot.buffer, "<u4", 1, abi.TRACE_NAMED_OFFSET).tolist()
        for start, size, raw in table[:named]:
            name = raw.decode("ascii", "replace")
            if not name or not name.isascii() or not name.isprintable():
                continue
            named_here = objects[(objects >= start) & (objects - np.uint64(start) < size)]
            for lock in named_here[:_MOST_NAMES].tolist():
                found.setdefault(lock, name if lock == start else f"{name}+{lock - start:#x}")
        return found

    def _column(self, offset: int) -> NDArray[np.uint64]:
        """Return a view of the u64 at `offset` of every ring; it must go before the slot does."""
        return np.ndarray(
            len(self._rings), "<u8", self._slot.buffer, abi.TRACE_HEAD_SIZE + offset,
            (_stride(self._events),),
        )  # fmt: skip

    def _rows(self, vcpu: int, ring: _Ring, written: int, until_ns: int) -> NDArray[np.void]:
        new = written - ring.read
        if new < 0:
            # The guest has set its counter of events back. Count that once, and go on from here.
            ring.read, ring.rejected = written, ring.rejected + 1
            return np.empty(0, ROW)
        entries = np.frombuffer(
            self._slot.buffer, EVENT, self._events,
            abi.TRACE_HEAD_SIZE + vcpu * _stride(self._events) + abi.TRACE_RING_EVENTS_OFFSET,
        )  # fmt: skip
        # The guest may be writing entry `written`, which overwrites the oldest one.
        taken = min(new, self._events - 1)
        raw = entries[((written - taken) % self._events + np.arange(taken)) % self._events]
        fence()
        again = int(self._column(abi.TRACE_RING_WRITTEN_OFFSET)[vcpu])
        # The guest may have gone on meanwhile, and overwritten the oldest of what was read.
        stale = min(max(again - written + taken - (self._events - 1), 0), taken)
        raw, lost = raw[stale:], new - taken + stale
        ring.read = written
        rows, good = self._checked(raw, ring.last, until_ns)
        ring.rejected += len(rows) - int(good.sum())
        rows = rows[good]
        if len(rows):
            ring.last = int(rows["time"][-1])
        if not lost:
            return rows
        ring.lost += lost
        gap = np.zeros(1, ROW)
        time = rows["time"][0] if len(rows) else ring.last
        gap[0] = (time, min(lost, 2**63), abi.TRACE_NOBODY, Kind.LOST, 0)
        return np.concatenate([gap, rows])

    def _checked(
        self, raw: NDArray[np.void], last_ns: int, until_ns: int
    ) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """Return the entries as rows, and which of them can be events.

        An event has a kind that exists, is not before the one before it, nor after `until_ns`.
        """
        hz = np.uint64(self._counter.hz)
        ticks = raw["time"]
        seconds, rest = ticks // hz, ticks % hz
        sane = seconds < np.uint64(1 << 32)
        time = (
            seconds.astype(np.int64) * _SECOND
            + (rest * np.uint64(_SECOND) // hz).astype(np.int64)
            + self._counter.offset_ns
        )
        kind, flags = raw["kind"] & 0xFF, raw["kind"] >> 8
        other = raw["other"]
        good = sane & (time <= until_ns) & np.isin(kind, _KINDS) & (flags <= abi.TRACE_SHARED >> 8)
        good &= (other >= abi.TRACE_NOBODY) & (other < len(self._rings))
        good &= (other >= 0) | (kind != abi.TRACE_GRANTED)
        before = np.maximum.accumulate(np.append(last_ns, np.where(good, time, last_ns)))
        good &= time >= before[:-1]
        rows = np.empty(len(raw), ROW)
        rows["time"], rows["object"], rows["other"] = time, raw["object"], other
        rows["kind"], rows["flags"] = kind, flags
        return rows, good
