# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile as a Perfetto trace: each sample at its time, on the thread of its VCPU."""

from collections.abc import Iterator
from typing import IO

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from pvlock.profile.profile import Profile
from pvlock.profile.samples import Frame

_SEQUENCE = 1
_PROCESS = 1
_KERNEL, _USER = 1, 2
_CHUNK = 10_000


def write(file: IO[bytes], profile: Profile) -> None:
    """Write the trace to `file`. Raises OSError."""
    packets: list[pb.TracePacket] = []
    for packet in _packets(profile):
        packets.append(packet)
        if len(packets) == _CHUNK:
            file.write(pb.Trace(packet=packets).SerializeToString())
            packets.clear()
    file.write(pb.Trace(packet=packets).SerializeToString())


def _packets(profile: Profile) -> Iterator[pb.TracePacket]:
    yield _names(profile)
    yield _threads(profile)
    samples = sorted(profile.samples, key=lambda sample: (sample.time_ns, sample.vcpu))
    for sample in samples:
        kernel = profile.stacks[sample.stack][0].kernel
        for point in range(sample.points):
            packet = pb.TracePacket(
                timestamp=sample.time_ns + point * profile.period_ns,
                trusted_packet_sequence_id=_SEQUENCE,
                sequence_flags=pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE,
            )
            one = packet.perf_sample
            one.cpu, one.pid, one.tid = sample.vcpu, _PROCESS, _PROCESS + 1 + sample.vcpu
            one.callstack_iid = 1 + sample.stack
            one.cpu_mode = pb.Profiling.MODE_KERNEL if kernel else pb.Profiling.MODE_USER
            yield packet


def _names(profile: Profile) -> pb.TracePacket:
    """Return the packet to which samples refer: functions, and stacks of them."""
    packet = pb.TracePacket(
        trusted_packet_sequence_id=_SEQUENCE,
        sequence_flags=pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED,
        first_packet_on_sequence=True,
    )
    packet.trace_packet_defaults.perf_sample_defaults.timebase.period = profile.period_ns
    data = packet.interned_data
    for number, name in ((_KERNEL, "[kernel]"), (_USER, "[user]")):
        data.mapping_paths.add(iid=number, str=name.encode())
        data.mappings.add(iid=number, path_string_ids=[number], start=0, end=1 << 63)
    functions: dict[str, int] = {}
    frames: dict[Frame, int] = {}
    for place, stack in enumerate(profile.stacks):
        numbers = []
        for frame in reversed(stack):
            if frame.name not in functions:
                functions[frame.name] = len(functions) + 1
                data.function_names.add(iid=functions[frame.name], str=frame.name.encode())
            if frame not in frames:
                frames[frame] = len(frames) + 1
                data.frames.add(
                    iid=frames[frame],
                    function_name_id=functions[frame.name],
                    mapping_id=_KERNEL if frame.kernel else _USER,
                    rel_pc=frame.address,
                )
            numbers.append(frames[frame])
        data.callstacks.add(iid=1 + place, frame_ids=numbers)
    return packet


def _threads(profile: Profile) -> pb.TracePacket:
    """Return the packet that names the VCPUs as threads of one process."""
    packet = pb.TracePacket(timestamp=0, trusted_packet_sequence_id=_SEQUENCE)
    tree = packet.process_tree
    tree.processes.add(pid=_PROCESS, cmdline=["guest"])
    for vcpu in range(profile.vcpus):
        tree.threads.add(tid=_PROCESS + 1 + vcpu, tgid=_PROCESS, name=f"VCPU {vcpu}")
    return packet
