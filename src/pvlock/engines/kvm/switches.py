# SPDX-License-Identifier: GPL-2.0-or-later
"""Records the switches of one VM's VCPUs, from inside the host's kernel (bpf/switches.bpf.c)."""

import errno
import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from pvlock.engines.contract import SWITCH, HostEvent
from pvlock.engines.kvm import bpf
from pvlock.errors import EngineError

OBJECT = Path(__file__).with_name("switches.bpf.o")
_RING_SIZE = 1 << 20
"""Bytes of records that wait to be taken: 43,690 of them."""


class Switches:
    """Records the switches of every thread from its call of enter() to its call of leave()."""

    def __init__(
        self, vcpus: int, cpus: Mapping[int, int] | None = None, ring_size: int = _RING_SIZE
    ) -> None:
        """Load and attach the programs. `cpus` maps a CPU of the host to its number in the records.

        Raises bpf.LoadError, EngineUnavailable, or EngineError.
        """
        self._cpus = cpus or {}
        self._vcpus = vcpus
        self._last = [0] * vcpus
        self._lost: mmap.mmap | bytes = bytes(8 * vcpus)
        names = ("switched", "woken", "enter", "leave")
        self._object = bpf.BpfObject(OBJECT, names, {"records": ring_size, "lost": vcpus})
        self._ring: bpf.RingBuffer | None = None
        try:
            self._ring = bpf.RingBuffer(self._object.map_fd("records"), ring_size)
            pages = -(-vcpus * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
            self._lost = mmap.mmap(self._object.map_fd("lost"), pages, prot=mmap.PROT_READ)
            self._object.attach("switched")
            self._object.attach("woken")
        except OSError as error:
            self.close()
            raise EngineError(f"cannot record switches: {error.strerror}") from error

    @property
    def lost(self) -> tuple[int, ...]:
        """How many records of each VCPU were lost because the ring was full of older ones."""
        return struct.unpack_from(f"<{self._vcpus}Q", self._lost)

    def enter(self, vcpu: int) -> None:
        """From now on record the switches of the calling thread, which is on a CPU, as `vcpu`'s."""
        self._call("enter", vcpu)

    def leave(self) -> None:
        """Record that the calling thread's VCPU is off, and nothing of this thread after that."""
        self._call("leave", 0)

    def take(self, clock: Callable[[int], int]) -> bytes:
        """Return the records since the last call, packed (contract.SWITCH), each VCPU's in order.

        `clock` turns a time of CLOCK_MONOTONIC into the time of a record; both are in ns.
        """
        if self._ring is None:
            return b""
        taken = bytearray()
        last = self._last
        for monotonic, vcpu, cpu, number in SWITCH.iter_unpack(self._ring.take()):
            # A correction may have set the clock back.
            last[vcpu] = max(last[vcpu], clock(monotonic))
            cpu = 0 if number == HostEvent.READY else self._cpus.get(cpu, cpu)
            taken += SWITCH.pack(last[vcpu], vcpu, cpu, number)
        return bytes(taken)

    def close(self) -> None:
        """Detach the programs and free the records; safe to call twice."""
        self._ring = None
        mapped = self._lost
        if isinstance(mapped, mmap.mmap):
            self._lost = mapped[:]
            mapped.close()
        self._object.close()

    def _call(self, program: str, argument: int) -> None:
        if error := self._object.run(program, argument):
            name = errno.errorcode.get(error, error)
            raise EngineError(f"cannot record the switches of a VCPU: {program}: {name}")
