# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings and recorder by themselves: a guest that writes while it is read, and one that lies."""

import struct
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pvlock import abi
from pvlock.engines.contract import SWITCH, Counter, HostEvent
from pvlock.errors import ConfigError
from pvlock.memory import MemorySlot, anonymous_slot
from pvlock.trace.events import Kind
from pvlock.trace.recorder import Recorder
from pvlock.trace.rings import Rings, region_size

NS = Counter(1_000_000_000)
SIZE = 8
STRIDE = abi.TRACE_RING_EVENTS_OFFSET + SIZE * abi.TRACE_EVENT_SIZE
ALWAYS = 1 << 40


@pytest.fixture
def slot() -> Iterator[MemorySlot]:
    made = anonymous_slot(0x2000_0000, region_size(2, 4096), "trace")
    yield made
    made.close()


class Guest:
    """Writes as pvlock_trace() does, with the layout that the head tells it."""

    def __init__(self, slot: MemorySlot, vcpu: int) -> None:
        self.buffer = slot.buffer
        rings, stride, vcpus = struct.unpack_from("<QQI", self.buffer, 0)
        assert vcpu < vcpus
        self.ring = rings + vcpu * stride
        self.written = 0

    def record(self, time: int, kind: int = Kind.ACQUIRED, lock: int = 1, other: int = -1) -> None:
        (mask,) = struct.unpack_from("<Q", self.buffer, self.ring + abi.TRACE_RING_MASK_OFFSET)
        place = self.ring + abi.TRACE_RING_EVENTS_OFFSET
        place += (self.written & mask) * abi.TRACE_EVENT_SIZE
        struct.pack_into("<QQIi", self.buffer, place, time, lock, kind, other)
        self.written += 1
        self.tell(self.written)

    def tell(self, written: int) -> None:
        struct.pack_into("<Q", self.buffer, self.ring, written)


def kept(rings: Rings, until_ns: int = ALWAYS) -> list[tuple[int, int, int]]:
    """Return (VCPU, time, kind) of what is new; for lost events, how many instead of the time."""
    return [
        (vcpu, lock if kind == Kind.LOST else time, kind)
        for vcpu, rows in rings.drain(until_ns)
        for time, lock, _, kind, _ in rows.tolist()
    ]


def test_events_come_once_and_in_order(slot: MemorySlot) -> None:
    rings = Rings(slot, 2, NS, SIZE)
    first, second = Guest(slot, 0), Guest(slot, 1)
    for time in range(5):
        first.record(time)
    second.record(9)
    A = Kind.ACQUIRED  # noqa: N806
    assert kept(rings) == [(0, t, A) for t in range(5)] + [(1, 9, A)]
    assert kept(rings) == []
    for time in range(5, 12):
        first.record(time)
    assert kept(rings) == [(0, t, A) for t in range(5, 12)]
    assert rings.lost == rings.rejected == (0, 0)


def test_the_oldest_events_are_lost(slot: MemorySlot) -> None:
    """One place is never read: the guest may be writing there."""
    rings = Rings(slot, 1, NS, SIZE)
    guest = Guest(slot, 0)
    for time in range(20):
        guest.record(time)
    found = kept(rings)
    assert found[0] == (0, 20 - (SIZE - 1), Kind.LOST)
    assert [time for _, time, _ in found[1:]] == list(range(13, 20))
    assert rings.lost == (13,)


@pytest.mark.parametrize("meanwhile", [0, 1, 3, 7, 30])
def test_what_is_overwritten_while_it_is_read_is_lost(
    slot: MemorySlot, meanwhile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest goes on between the look at `written` and the copy: KVM's does."""
    rings = Rings(slot, 1, NS, SIZE)
    guest = Guest(slot, 0)
    for time in range(5):
        guest.record(time)
    column, looks = rings._column, []

    def look(offset: int) -> Any:
        if offset == abi.TRACE_RING_WRITTEN_OFFSET:
            looks.append(offset)
            if len(looks) == 2:
                for time in range(5, 5 + meanwhile):
                    guest.record(time)
        return column(offset)

    monkeypatch.setattr(rings, "_column", look)
    found = kept(rings)
    monkeypatch.undo()
    found += kept(rings)
    times = [time for _, time, kind in found if kind != Kind.LOST]
    assert times == sorted(set(times)), "no event twice, none out of order"
    assert len(times) + sum(rings.lost) == 5 + meanwhile
    assert rings.rejected == (0,)


def test_the_counter_is_put_on_the_engines_clock(slot: MemorySlot) -> None:
    """24 MHz, which began before the engine's clock did."""
    rings = Rings(slot, 1, Counter(24_000_000, offset_ns=-1_000_000_000), SIZE)
    guest = Guest(slot, 0)
    for ticks in (24_000_000, 24_000_001, 24_000_003, 24_000_000 * (1 << 31)):
        guest.record(ticks)
    assert [time for _, time, _ in kept(rings, 1 << 62)] == [0, 41, 125, 10**9 * ((1 << 31) - 1)]


def test_no_time_lies_ahead(slot: MemorySlot) -> None:
    rings = Rings(slot, 1, NS, SIZE)
    guest = Guest(slot, 0)
    for time in (10, 1001, 2**64 - 1, 20, 19, 20):
        guest.record(time)
    assert [time for _, time, _ in kept(rings, 1000)] == [10, 20, 20]
    assert rings.rejected == (3,)


@pytest.mark.parametrize(("vcpus", "events"), [(2, 3), (2, 1), (3, 1 << 20)])
def test_rings_that_do_not_fit_are_refused(slot: MemorySlot, vcpus: int, events: int) -> None:
    with pytest.raises(ConfigError):
        Rings(slot, vcpus, NS, events)


@given(st.binary(max_size=STRIDE), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=100)
def test_any_memory_is_read_safely(ring: bytes, written: int, again: int) -> None:
    made = anonymous_slot(0x2000_0000, region_size(1, 4096), "trace")
    rings = Rings(made, 1, NS, SIZE)
    guest = Guest(made, 0)
    made.buffer[guest.ring : guest.ring + len(ring)] = ring
    made.buffer[: abi.TRACE_NAMES_OFFSET] = bytes([0xFF]) * abi.TRACE_NAMES_OFFSET
    made.buffer[abi.TRACE_NAMES_OFFSET : abi.TRACE_NAMES_OFFSET + len(ring)] = ring
    last = 0
    for number in (written, again):
        guest.tell(number)
        for _, rows in rings.drain(ALWAYS):
            assert len(rows) <= SIZE
            for time, _, other, kind, flags in rows.tolist():
                assert last <= time <= ALWAYS
                assert -1 <= other < 1
                assert kind in set(Kind)
                assert flags in (0, 1)
                last = time
    names = rings.names(np.array([0, 1, 2**63, 2**64 - 1], np.uint64))
    assert all(name.isprintable() for name in names.values())
    made.close()


class Engine:
    """Records what it is told to."""

    counter = NS
    skew_ns = 0
    ring_events = 8192
    lost_switches: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.packed = b""

    def switch(self, time: int, vcpu: int, cpu: int, event: HostEvent) -> None:
        self.packed += SWITCH.pack(time, vcpu, cpu, event)

    def take_switches(self) -> bytes:
        packed, self.packed = self.packed, b""
        return packed


def test_what_the_guest_did_at_a_time_it_did_on_a_cpu() -> None:
    """Switches that take no time: off and on again at the instant of an event."""
    made = anonymous_slot(0x2000_0000, region_size(2, 4096), "trace")
    engine = Engine()
    recorder = Recorder(made, 2, 1, engine)
    guest = Guest(made, 0)
    for time, event in (
        (10, HostEvent.READY), (10, HostEvent.IN), (20, HostEvent.SLICE), (20, HostEvent.IN),
        (30, HostEvent.WFI), (40, HostEvent.READY), (40, HostEvent.IN),
    ):  # fmt: skip
        engine.switch(time, 0, 0, event)
    for time in (10, 15, 20, 30, 40, 41):
        guest.record(time)
    recorder.collect(41)
    events = recorder.events(50, {})
    on, kinds = False, []
    for time, kind in zip(events.time.tolist(), events.kind.tolist(), strict=True):
        if kind >= Kind.CONTENDED:
            assert on, time
        else:
            on = kind == Kind.SCHED_IN
        kinds.append(Kind(kind).name)
    assert len(kinds) == 13
    assert (events.start, events.end, len(events)) == (0, 50, 13)
    made.close()


def test_a_full_table_ends_the_trace() -> None:
    """What came before is whole; what comes after is counted, by VCPU."""
    made = anonymous_slot(0x2000_0000, region_size(2, 4096), "trace")
    engine = Engine()
    recorder = Recorder(made, 2, 1, engine, limit=10)
    guest = Guest(made, 1)
    for time in range(4):
        engine.switch(10 * time, 0, 0, (HostEvent.IN, HostEvent.SLICE)[time % 2])
        guest.record(10 * time)
        guest.record(10 * time + 1)
        recorder.collect(10 * time + 9)
    engine.switch(100, 1, 0, HostEvent.IN)
    recorder.collect(200)
    events = recorder.events(300, {"guest": "test"})
    assert len(events) == 12
    assert events.end == 39
    assert events.dropped == (0, 1)
    made.close()
    assert int(np.max(events.time)) == 31


def test_a_trace_begins_when_the_run_does() -> None:
    """On KVM the clock goes before: what the guest says was then, was at the beginning."""
    made = anonymous_slot(0x2000_0000, region_size(1, 4096), "trace")
    engine = Engine()
    recorder = Recorder(made, 1, 1, engine)
    guest = Guest(made, 0)
    guest.record(10)
    engine.switch(120, 0, 0, HostEvent.IN)
    guest.record(150)
    recorder.collect(160)
    engine.lost_switches = (3,)
    events = recorder.events(190, {}, 100)
    assert events.time.tolist() == [0, 20, 50]
    assert (events.start, events.end) == (0, 90)
    assert events.dropped == (3,)
    made.close()


def test_switches_of_no_vcpu_are_left_out() -> None:
    """The worker that sends them runs a guest, which may have taken it over."""
    made = anonymous_slot(0x2000_0000, region_size(2, 4096), "trace")
    engine = Engine()
    recorder = Recorder(made, 2, 1, engine)
    for vcpu in (-1, 2, 1 << 30, 1):
        engine.switch(5, vcpu, 7, HostEvent.IN)
    recorder.collect(10)
    assert recorder.events(10, {}).vcpu.tolist() == [1]
    made.close()
