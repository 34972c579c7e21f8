# SPDX-License-Identifier: GPL-2.0-or-later
"""Perfetto packets by the million: what many packets have in common is serialised once.

A packet of a track event differs from others of the same track, type and name in its timestamp
alone. So protobuf makes one packet of each kind, a template, and NumPy puts the timestamps into
copies of it. They are varints of a fixed width, longer than need be, which every decoder reads.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

SEQUENCE = 1
"""The number of the one writer that all packets name."""

_CHUNK = 1 << 16
_TIMESTAMP_TAG = 0x40


class Templates:
    """The templates of packets whose timestamps are below 2 ** `bits` ns."""

    def __init__(self, bits: int) -> None:
        self.width = max(-(-bits // 7), 1)
        self._parts: list[bytes] = []

    def add(self, event: pb.TrackEvent) -> int:
        """Add a template for packets that hold `event`; return its number."""
        packet = pb.TracePacket(
            # The greatest timestamp of that width, so that every other one fits its place.
            timestamp=(1 << 7 * self.width) - 1,
            track_event=event,
            trusted_packet_sequence_id=SEQUENCE,
            sequence_flags=pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE,
        )
        raw = pb.Trace(packet=[packet]).SerializeToString()
        self._parts.append(raw)
        return len(self._parts) - 1

    def packets(self, time: NDArray[np.int64], kind: NDArray[np.int64]) -> Iterator[bytes]:
        """Return serialised packets, a chunk at a time.

        A packet has a timestamp from `time` and the template with the number in `kind`.
        """
        lengths = np.array([len(part) for part in self._parts], np.int64)
        firsts = np.cumsum(lengths) - lengths
        starts = np.array([self._start(part) for part in self._parts], np.int64)
        joined = np.frombuffer(b"".join(self._parts), np.uint8)
        for first in range(0, len(time), _CHUNK):
            some = kind[first : first + _CHUNK]
            ends = np.cumsum(lengths[some])
            begins = ends - lengths[some]
            # For each byte of the chunk, its place in the joined templates.
            source = np.arange(ends[-1]) + np.repeat(firsts[some] - begins, lengths[some])
            chunk = joined[source]
            places = (begins + starts[some])[:, None] + np.arange(self.width)
            chunk[places] = self._varints(time[first : first + _CHUNK])
            yield chunk.tobytes()

    def _varints(self, time: NDArray[np.int64]) -> NDArray[np.uint8]:
        sevens = time[:, None] >> 7 * np.arange(self.width) & 0x7F
        sevens[:, :-1] |= 0x80
        return sevens.astype(np.uint8)

    def _start(self, part: bytes) -> int:
        """Return where in a template the timestamp is: in the first field, after its tag."""
        at = 1
        while part[at] & 0x80:
            at += 1
        end = at + 2 + self.width
        if part[at + 1] != _TIMESTAMP_TAG or part[end - 1] & 0x80:
            raise AssertionError("protobuf serialises a packet's fields in another order")
        return at + 2


def serialised(packets: Sequence[pb.TracePacket]) -> bytes:
    """Return the bytes of `packets` in a trace file."""
    return bytes(pb.Trace(packet=packets).SerializeToString())
