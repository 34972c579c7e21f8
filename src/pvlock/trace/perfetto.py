# SPDX-License-Identifier: GPL-2.0-or-later
"""Trace files: what Perfetto shows, and the table of events that `pvlock explain` reads.

A file is a Perfetto trace (perfetto.protos.Trace). Its first packets carry the table of events, in
an extension of TracePacket that Perfetto passes over. The other packets carry tracks and slices,
compressed (TracePacket.compressed_packets).
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from pvlock.errors import TraceError
from pvlock.trace import table
from pvlock.trace.columns import Ints
from pvlock.trace.drawing import Drawing, draw
from pvlock.trace.events import Events
from pvlock.trace.packets import SEQUENCE, Templates, serialised

_EXTENSION = 1906
_FIRST_UUID = 1 << 14
"""The number of the first track. From here on, numbers are varints of three bytes."""
_LONGEST_PACKET = 1 << 28
_BEGIN, _END, _INSTANT, _COUNTER = (
    pb.TrackEvent.TYPE_SLICE_BEGIN,
    pb.TrackEvent.TYPE_SLICE_END,
    pb.TrackEvent.TYPE_INSTANT,
    pb.TrackEvent.TYPE_COUNTER,
)
_DELAYED = "delayed"
"""The name of the instant at which an arrow ends."""


def _extension() -> Any:
    """Declare message Part { head = 1; columns = 2; } extend TracePacket { Part part = 1906; }."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="pvlock/trace.proto",
        package="pvlock",
        syntax="proto2",
        dependency=[pb.DESCRIPTOR.name],
    )
    part = file.message_type.add(name="Part")
    part.field.add(name="head", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    part.field.add(name="columns", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    file.extension.add(
        name="part",
        number=_EXTENSION,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_MESSAGE,
        type_name=".pvlock.Part",
        extendee=".perfetto.protos.TracePacket",
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    message_factory.GetMessageClass(pool.FindMessageTypeByName("pvlock.Part"))
    return pool.FindExtensionByName("pvlock.part")


_PART = _extension()


def write(file: IO[bytes], events: Events) -> None:
    """Write `events` to `file` as a trace. Raises TraceError for a broken table, and OSError."""
    drawing = draw(events)
    first = pb.TracePacket()
    first.Extensions[_PART].head = table.head(events)
    file.write(serialised([first]))
    for columns in table.parts(events):
        packet = pb.TracePacket()
        packet.Extensions[_PART].columns = columns
        file.write(serialised([packet]))
    file.write(serialised(list(_preamble(drawing))))
    for chunk in _packets(drawing, events.end):
        packed = pb.TracePacket(compressed_packets=zlib.compress(chunk, 1))
        file.write(serialised([packed]))


def read(path: Path) -> Events:
    """Return the events in the trace file at `path`.

    Raises TraceError for a file that cannot be read, or that pvlock did not write.

    >>> import tempfile
    >>> from pvlock import Machine
    >>> from pvlock.workload import image_of
    >>> with Machine(2, 1, trace=True, bootargs="duration=400000", engine="emulator") as machine:
    ...     _ = machine.load(image_of("ticket", trace=True))
    ...     _ = machine.run(100_000_000)
    ...     events = machine.events()
    >>> with tempfile.NamedTemporaryFile(suffix=".pftrace") as file:
    ...     write(file, events)
    ...     file.flush()
    ...     again = read(Path(file.name))
    >>> len(again) > 0, again.time.tolist() == events.time.tolist()
    (True, True)
    """
    try:
        with path.open("rb") as file:
            head, parts = "", []
            for raw in _raw_packets(file):
                packet = pb.TracePacket.FromString(raw)
                if packet.HasExtension(_PART):
                    part = packet.Extensions[_PART]
                    if part.HasField("head"):
                        head = part.head
                    if part.HasField("columns"):
                        parts.append(part.columns)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except (DecodeError, ValueError):
        raise TraceError(f"{path}: not a Perfetto trace, or a damaged one") from None
    if not head:
        raise TraceError(f"{path}: a trace, but not one that pvlock wrote")
    try:
        return table.table(head, parts)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _raw_packets(file: IO[bytes]) -> Iterator[bytes]:
    """Return the packets of a trace, serialised. Raises ValueError for a file of another format."""
    while tag := file.read(1):
        if tag != b"\x0a":
            raise ValueError
        size = shift = 0
        while True:
            byte = file.read(1)
            if not byte or shift > 28:
                raise ValueError
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if not byte[0] & 0x80:
                break
        if size > _LONGEST_PACKET:
            raise ValueError
        raw = file.read(size)
        if len(raw) < size:
            raise ValueError
        yield raw


def _preamble(drawing: Drawing) -> Iterator[pb.TracePacket]:
    """Return the packets to which others refer: the names of slices, and the tracks."""
    state = pb.TracePacket(
        trusted_packet_sequence_id=SEQUENCE,
        sequence_flags=pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED,
        first_packet_on_sequence=True,
    )
    for place, name in enumerate(drawing.names):
        state.interned_data.event_names.add(iid=place + 1, name=name)
    state.interned_data.event_names.add(iid=len(drawing.names) + 1, name=_DELAYED)
    yield state
    for place, track in enumerate(drawing.tracks):
        packet = pb.TracePacket(trusted_packet_sequence_id=SEQUENCE)
        descriptor = packet.track_descriptor
        descriptor.uuid, descriptor.name = _FIRST_UUID + place, track.name
        descriptor.child_ordering = pb.TrackDescriptor.EXPLICIT
        descriptor.sibling_order_rank = place
        if track.parent is not None:
            descriptor.parent_uuid = _FIRST_UUID + track.parent
        if track.counts:
            descriptor.counter.SetInParent()
        yield packet


def _packets(drawing: Drawing, end: int) -> Iterator[bytes]:
    """Return the serialised packets of all slices, numbers and arrows in the order of time."""
    slices, counts = drawing.slices, drawing.counts
    templates = Templates(max(end, int(slices.end.max(initial=0))).bit_length())
    begins = _kinds(templates, _BEGIN, slices.track, slices.name)
    ends = _kinds(templates, _END, slices.track, np.zeros(len(slices), np.int64))
    values = _kinds(templates, _COUNTER, counts.track, counts.value)
    instants = _arrows(drawing, templates, begins)
    order = np.lexsort((slices.start, slices.track))
    time = np.stack([slices.start, slices.end, slices.end], axis=1)[order].ravel()
    kind = np.stack([begins, ends, instants], axis=1)[order].ravel()
    time, kind = time[kind >= 0], kind[kind >= 0]
    time, kind = np.concatenate([time, counts.time]), np.concatenate([kind, values])
    # The sort is stable, so the end of a slice stays before the start of the next on its track.
    order = np.argsort(time, kind="stable")
    yield from templates.packets(time[order], kind[order])


def _kinds(templates: Templates, type_: int, track: Ints, what: Ints) -> Ints:
    """Return, for each packet, the number of its template.

    `what` is the place of a slice's name, or the value of a number.
    """
    span = int(what.max(initial=0)) + 1
    pairs, which = np.unique(track * span + what, return_inverse=True)
    numbers = np.empty(len(pairs), np.int64)
    for place, pair in enumerate(pairs.tolist()):
        numbers[place] = templates.add(_event(type_, pair // span, pair % span))
    return numbers[which]


def _event(type_: int, track: int, what: int) -> pb.TrackEvent:
    event = pb.TrackEvent(type=type_, track_uuid=_FIRST_UUID + track)
    if type_ in (_BEGIN, _INSTANT):
        event.name_iid = what + 1
    elif type_ == _COUNTER:
        event.counter_value = what
    return event


def _arrows(drawing: Drawing, templates: Templates, begins: Ints) -> Ints:
    """Change `begins` where arrows start, and return the template of the instant where they end.

    Perfetto lets an arrow lead from the one of two slices that starts first, whatever is said of
    them. A wait may start before the preemption that delays it. So the arrow leads to an instant,
    which is a slice of its own, where the wait ends. The result is -1 for slices without one.
    """
    slices = drawing.slices
    starts: dict[int, list[int]] = {}
    sinks: dict[int, list[int]] = {}
    for number, (source, sink) in enumerate(drawing.arrows, start=1):
        if slices.start[source] < slices.end[sink]:
            starts.setdefault(source, []).append(number)
            sinks.setdefault(sink, []).append(number)
    for place, flows in starts.items():
        event = _event(_BEGIN, int(slices.track[place]), int(slices.name[place]))
        event.flow_ids.extend(flows)
        begins[place] = templates.add(event)
    instants = np.full(len(slices), -1)
    for place, flows in sinks.items():
        event = _event(_INSTANT, int(slices.track[place]), len(drawing.names))
        event.terminating_flow_ids.extend(flows)
        instants[place] = templates.add(event)
    return instants
