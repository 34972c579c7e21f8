# SPDX-License-Identifier: GPL-2.0-or-later
"""Trace files: the table comes back as it was; Perfetto's own definitions decode what is drawn."""

import io
import json
import zlib
from collections import Counter, defaultdict
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from pvlock import workload
from pvlock.errors import TraceError
from pvlock.trace import perfetto, table
from pvlock.trace.drawing import draw
from pvlock.trace.events import Events, Flag, Kind

A, B = 0xFFFF_8000_1234_5678, 0x1000


def events_of(rows: list[tuple[int, int, int, int, int, int]], vcpus: int = 4) -> Events:
    """Return a table of (time, vcpu, kind, object, other, flags)."""
    time, vcpu, kind, object_, other, flags = list(zip(*rows, strict=True)) or [()] * 6
    return Events(
        time=np.array(time, np.int64),
        vcpu=np.array(vcpu, np.int32),
        kind=np.array(kind, np.uint8),
        object=np.array(object_, np.uint64),
        other=np.array(other, np.int32),
        flags=np.array(flags, np.uint8),
        vcpus=vcpus,
        pcpus=2,
        start=0,
        end=max([row[0] for row in rows], default=0) + 10,
        names={A: "outer", B: "inner"},
        dropped=(0,) * vcpus,
        rejected=(1,) * vcpus,
        skew_ns=5,
        settings={"guest": "test", "pvlock": True, "seed": 7, "ratio": 0.5, "none": None},
    )


def equal(left: Events, right: Events) -> bool:
    for each in fields(Events):
        one, other = getattr(left, each.name), getattr(right, each.name)
        if isinstance(one, np.ndarray):
            if one.dtype != other.dtype or not np.array_equal(one, other):
                return False
        elif one != other:
            return False
    return True


def written(events: Events) -> bytes:
    file = io.BytesIO()
    perfetto.write(file, events)
    return file.getvalue()


def read(data: bytes, folder: Path) -> Events:
    path = folder / "trace"
    path.write_bytes(data)
    return perfetto.read(path)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**40), st.integers(0, 3), st.sampled_from([int(kind) for kind in Kind]),
        st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([A, B])), st.integers(-1, 3),
        st.integers(0, 7),
    ),
    max_size=60,
)  # fmt: skip


@given(ROWS)
@settings(max_examples=60)
def test_any_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, int, int, int]]
) -> None:
    events = events_of(sorted(rows, key=lambda row: row[0]))
    assert equal(read(written(events), tmp_path_factory.mktemp("any")), events)


def test_many_parts_come_back() -> None:
    count = table.PART * 2 + 3
    rows = np.arange(count)
    events = replace(
        events_of([]),
        time=rows * 3, vcpu=(rows % 4).astype(np.int32),
        kind=np.full(count, Kind.ACQUIRED, np.uint8),
        object=np.array(rows % 5, np.uint64) << np.uint64(60),
        other=np.full(count, -1, np.int32), flags=np.zeros(count, np.uint8), end=count * 3,
    )  # fmt: skip
    parts = list(table.parts(events))
    assert len(parts) == 3
    assert equal(table.table(table.head(events), parts), events)
    with pytest.raises(TraceError):
        table.table(table.head(events), parts[:2])
    with pytest.raises(TraceError):
        table.table(table.head(events), [parts[0], parts[2], parts[1]])


def traced(guest: str, name: str) -> Events:
    plan = workload.Settings(guest, duration_ns=3_000_000, slice_ns=300_000, engine="emulator")
    result = workload.run(name, plan, trace=True)
    assert result is not None
    assert result.events is not None
    return result.events


def packets_of(data: bytes) -> list[Any]:
    """Return the packets as any user of Perfetto's definitions sees them."""
    found = []
    for packet in pb.Trace.FromString(data).packet:
        if packet.HasField("compressed_packets"):
            inner = pb.Trace.FromString(zlib.decompress(packet.compressed_packets))
            found += list(inner.packet)
        else:
            found.append(packet)
    return found


class Timeline:
    """Slices, counts and flows of a trace, put together as trace_processor does."""

    def __init__(self, data: bytes) -> None:
        packets = packets_of(data)
        self.names: dict[int, str] = {}
        described = [p.track_descriptor for p in packets if p.HasField("track_descriptor")]
        parents = {d.uuid: d.parent_uuid for d in described}
        own = {d.uuid: d.name for d in described}
        assert len(own) == len(described)
        self.slices: dict[tuple[str, ...], list[tuple[int, int, str]]] = defaultdict(list)
        self.counts: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        self.from_: dict[int, tuple[tuple[str, ...], int]] = {}
        self.to: dict[int, tuple[tuple[str, ...], int]] = {}
        open_: dict[int, tuple[int, str]] = {}
        before = 0
        for packet in packets:
            for name in packet.interned_data.event_names:
                self.names[name.iid] = name.name
            if not packet.HasField("track_event"):
                continue
            assert packet.timestamp >= before
            assert packet.trusted_packet_sequence_id == 1
            before = packet.timestamp
            event = packet.track_event
            path: list[str] = []
            at = event.track_uuid
            while at:
                path.insert(0, own[at])
                at = parents[at]
            key = tuple(path)
            for flow in event.flow_ids:
                self.from_[flow] = (key, packet.timestamp)
            for flow in event.terminating_flow_ids:
                self.to[flow] = (key, packet.timestamp)
            if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
                assert event.track_uuid not in open_
                open_[event.track_uuid] = (packet.timestamp, self.names[event.name_iid])
            elif event.type == pb.TrackEvent.TYPE_SLICE_END:
                start, name = open_.pop(event.track_uuid)
                self.slices[key].append((start, packet.timestamp, name))
            elif event.type == pb.TrackEvent.TYPE_INSTANT:
                assert event.track_uuid not in open_
                assert self.names[event.name_iid] == "delayed"
                assert event.terminating_flow_ids
                assert self.slices[key][-1][1] == packet.timestamp
            else:
                assert event.type == pb.TrackEvent.TYPE_COUNTER
                self.counts[key].append((packet.timestamp, event.counter_value))
        assert not open_


def test_a_scripted_history_is_drawn_exactly() -> None:
    """VCPU 0 takes the lock and is preempted; VCPU 1 waits for it, then for VCPU 0's return."""
    events = events_of([
        (10, 0, Kind.SCHED_IN, 0, -1, 0), (10, 1, Kind.SCHED_IN, 1, -1, 0),
        (20, 0, Kind.ACQUIRED, A, -1, 0), (30, 1, Kind.CONTENDED, A, -1, 0),
        (40, 0, Kind.PREEMPTED, 0, -1, Flag.YIELD), (45, 2, Kind.READY, 0, -1, 0),
        (50, 2, Kind.SCHED_IN, 0, -1, 0), (90, 2, Kind.BLOCKED, 0, -1, 0),
        (100, 0, Kind.SCHED_IN, 0, -1, 0), (110, 0, Kind.RELEASED, A, -1, 0),
        (112, 1, Kind.ACQUIRED, A, -1, 0), (120, 1, Kind.RELEASED, A, -1, 0),
        (130, 0, Kind.ACQUIRED, B, -1, Flag.SHARED), (135, 1, Kind.ACQUIRED, B, -1, Flag.SHARED),
        (150, 0, Kind.RELEASED, B, -1, Flag.SHARED), (155, 1, Kind.RELEASED, B, -1, Flag.SHARED),
        (160, 1, Kind.OFF, 1, -1, 0),
    ])  # fmt: skip
    seen = Timeline(written(events))
    assert dict(seen.slices) == {
        ("CPUs", "CPU 0"): [(10, 40, "VCPU 0"), (50, 90, "VCPU 2"), (100, 170, "VCPU 0")],
        ("CPUs", "CPU 1"): [(10, 160, "VCPU 1")],
        ("VCPUs", "VCPU 0"): [
            (10, 40, "running"), (40, 100, "preempted (yield)"), (100, 170, "running"),
        ],
        ("VCPUs", "VCPU 1"): [(10, 160, "running"), (160, 170, "off")],
        ("VCPUs", "VCPU 2"): [(45, 50, "ready"), (50, 90, "running"), (90, 170, "blocked")],
        ("Locks", "outer", "owner"): [(20, 110, "VCPU 0"), (112, 120, "VCPU 1")],
        ("Locks", "outer", "VCPU 1 waits"): [(30, 112, "waits")],
    }  # fmt: skip
    assert dict(seen.counts) == {
        ("Locks", "inner", "readers"): [(130, 1), (135, 2), (150, 1), (155, 0)]
    }
    assert seen.from_ == {1: (("VCPUs", "VCPU 0"), 40)}
    assert seen.to == {1: (("Locks", "outer", "VCPU 1 waits"), 112)}


def test_a_preemption_has_an_arrow_to_every_wait_it_delayed() -> None:
    """Packets of very different lengths, in one trace."""
    waiters = range(1, 300)
    rows = [(1, vcpu, int(Kind.SCHED_IN), vcpu % 2, -1, 0) for vcpu in (0, *waiters)]
    rows += [(5, 0, Kind.ACQUIRED, A, -1, 0)]
    rows += [(10, vcpu, Kind.CONTENDED, A, -1, 0) for vcpu in waiters]
    rows += [(20, 0, Kind.PREEMPTED, 0, -1, 0), (90, 0, Kind.SCHED_IN, 0, -1, 0)]
    rows += [(100, 0, Kind.RELEASED, A, -1, 0)]
    rows += [(100 + vcpu, vcpu, Kind.ACQUIRED, A, -1, Flag.SHARED) for vcpu in waiters]
    seen = Timeline(written(events_of(rows, vcpus=300)))
    assert set(seen.from_.values()) == {(("VCPUs", "VCPU 0"), 20)}
    assert sorted(seen.to.values(), key=lambda end: end[1]) == [
        (("Locks", "outer", f"VCPU {vcpu} waits"), 100 + vcpu) for vcpu in waiters
    ]


@pytest.mark.parametrize("guest", workload.names())
def test_a_run_is_drawn_as_it_was(guest: str, tmp_path: Path) -> None:
    events = traced(guest, "with")
    data = written(events)
    assert equal(read(data, tmp_path), events)
    seen = Timeline(data)
    scheduling = events.kind <= Kind.READY
    for vcpu in range(events.vcpus):
        mine = np.flatnonzero(scheduling & (events.vcpu == vcpu))
        starts = [start for start, _, _ in seen.slices["VCPUs", f"VCPU {vcpu}"]]
        assert starts == events.time[mine].tolist()
    on: Counter[str] = Counter()
    for (group, *_), slices in seen.slices.items():
        if group == "CPUs":
            for start, end, name in slices:
                on[name] += end - start
    for vcpu in range(events.vcpus):
        running = [s for s in seen.slices["VCPUs", f"VCPU {vcpu}"] if s[2] == "running"]
        assert on[f"VCPU {vcpu}"] == sum(end - start for start, end, _ in running)
    waits = sum(len(s) for path, s in seen.slices.items() if path[-1].endswith("waits"))
    acquired = Counter(events.object[events.kind == Kind.ACQUIRED].tolist())
    assert waits <= sum(acquired.values()) + events.vcpus
    owners = {path[1]: s for path, s in seen.slices.items() if path[-1] == "owner"}
    writers = (events.kind == Kind.ACQUIRED) & (events.flags & Flag.SHARED == 0)
    assert sum(map(len, owners.values())) == int(writers.sum())
    assert set(seen.from_) == set(seen.to)
    for flow, (path, time) in seen.from_.items():
        assert path[0] == "VCPUs"
        assert time < seen.to[flow][1]
    assert bool(seen.from_) is bool(draw(events).arrows)


@pytest.mark.parametrize("at", [0.0, 0.01, 0.3, 0.9999])
def test_a_truncated_file_is_refused(at: float, tmp_path: Path) -> None:
    data = written(traced("ticket", "with"))
    with pytest.raises(TraceError, match="trace: "):
        read(data[: int(len(data) * at)], tmp_path)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_other_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(TraceError):
        read(data, tmp_path_factory.mktemp("other"))


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_table_is_refused_or_a_table(data: st.DataObject) -> None:
    events = events_of([(10, 0, Kind.SCHED_IN, 0, -1, 0), (20, 0, Kind.ACQUIRED, A, -1, 0)])
    (part,) = table.parts(events)
    raw = bytearray(zlib.decompress(part))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = table.table(table.head(events), [zlib.compress(bytes(raw))])
    except TraceError:
        return
    assert np.all(np.diff(found.time) >= 0)
    assert set(found.kind.tolist()) <= set(Kind)
    assert set(found.vcpu.tolist()) | set(found.other.tolist()) <= set(range(-1, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"events": 10**12}, {"events": -1}, {"vcpus": 0}, {"vcpus": "4"}, {"names": 3},
        {"names": {"no": "number"}}, {"pvlock-trace": 2}, {"settings": {"a": [1]}},
        {"settings": {"a": "\x1b[2J"}}, {"dropped": None}, {"end": 1e300}, {"names": {"1": "\n"}},
        {"settings": {"a": float("nan")}}, {"settings": {"a": 10**4_000}}, {"vcpus": 1025},
        {"names": {"-0x5": "a"}}, {"names": {"0x1" + "0" * 16: "a"}}, {"pvlock-trace": "\x1b[2J"},
        {"start": -1}, {"start": 11}, {"start": 2**64}, {"end": -1}, {"end": 9}, {"end": 2**60},
        {"end": 2**63}, {"skew_ns": -1}, {"skew_ns": 2**63}, {"pcpus": 0}, {"pcpus": 1025},
        {"dropped": [1] * 3}, {"dropped": [1] * 5}, {"dropped": [0, 0, 0, -1]},
        {"rejected": [0, 0, 0, 1.0]}, {"rejected": [0, 0, 0, 10**4_000]}, {"rejected": {}},
    ],
)  # fmt: skip
def test_a_head_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    events = events_of([(10, 0, Kind.SCHED_IN, 0, -1, 0)])
    head = json.dumps(json.loads(table.head(events)) | change)
    with pytest.raises(TraceError) as caught:
        table.table(head, list(table.parts(events)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("head", ["", "x", "null", "[]", "{}", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_no_head_is_refused(head: str) -> None:
    with pytest.raises(TraceError, match="its table of events is damaged"):
        table.table(head, [])


@pytest.mark.parametrize(
    "change",
    [
        {"start": 10}, {"end": 10}, {"end": 2**60 - 1}, {"skew_ns": 0}, {"skew_ns": 2**62 - 1},
        {"dropped": []}, {"rejected": []}, {"dropped": [0, 2**65, 2**70, 1]}, {"pcpus": 512},
    ],
)  # fmt: skip
def test_a_head_at_the_limits_is_taken(change: dict[str, Any]) -> None:
    """A guest that lies about its ring loses 2 ** 64 events at every look."""
    events = events_of([(10, 0, Kind.SCHED_IN, 0, -1, 0)])
    head = json.loads(table.head(events)) | change
    found = table.table(json.dumps(head), list(table.parts(events)))
    assert json.loads(table.head(found)) == head


def test_times_that_wrap_are_refused() -> None:
    """Each is more than the one before, in 64 bits."""
    times = [0, 2**63 - 1, -(2**63), -1, 5]
    events = replace(
        events_of([(0, 0, Kind.SCHED_IN, 0, -1, 0)] * 5), time=np.array(times, np.int64)
    )
    assert (np.diff(events.time) >= 0).all()
    with pytest.raises(TraceError):
        table.table(table.head(events), list(table.parts(events)))


@pytest.mark.parametrize("name", ["no\nname\x1b[2J", "\udcff", "long/" * 99 + "guest"])
def test_what_was_written_can_be_read_whatever_the_guest_is_called(
    name: str, tmp_path: Path
) -> None:
    """The name of a guest's file is a setting."""
    events = replace(events_of([(10, 0, Kind.SCHED_IN, 0, -1, 0)]), settings={"guest": name})
    found = read(written(events), tmp_path).settings["guest"]
    assert isinstance(found, str)
    assert found.isprintable()
    assert found[-5:] == name[-5:].replace("\x1b", "\ufffd").replace("\udcff", "\ufffd")


def test_a_bomb_is_not_unpacked() -> None:
    """What a part unpacks to is bounded by what its events can take."""
    events = events_of([(10, 0, Kind.SCHED_IN, 0, -1, 0)])
    bomb = zlib.compress(bytes(1 << 28), 9)
    with pytest.raises(TraceError):
        table.table(table.head(events), [bomb])


def test_a_trace_of_somebody_else_is_refused(tmp_path: Path) -> None:
    data = pb.Trace(packet=[pb.TracePacket(timestamp=5)]).SerializeToString()
    with pytest.raises(TraceError, match="not one that pvlock wrote"):
        read(data, tmp_path)
