# SPDX-License-Identifier: GPL-2.0-or-later
"""The watch on functions of the guest's kernel: what native/watch.c needs, and what it has seen."""

import ctypes as c
from collections.abc import Sequence

from pvlock.engines.contract import WATCHED
from pvlock.engines.contract import WatchPoint as Description
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator.vcpu import VmState, WatchPoint, WatchRead, WatchRecord
from pvlock.errors import EngineError

_ROOM = 1 << 16
"""Records between two exits of the guest: it has some 10 instructions for each at the least."""
_MOST_TAKEN = WATCHED.size << 17


class Watch:
    """The watch of one machine, which begins when this is made and cannot end."""

    def __init__(self, vm: VmState, points: Sequence[Description]) -> None:
        """Watch `points` in `vm`. Raises EngineError where they are too many, or a second watch."""
        assert c.sizeof(WatchRecord) == WATCHED.size
        self._vm, self._native = vm, lib.libvcpu()
        self._points = (WatchPoint * len(points))(*map(_point, points))
        self._records = (WatchRecord * _ROOM)()
        self._taken = bytearray()
        self._lost = 0
        if vm.watch or not self._native.watch_start(
            c.byref(vm), self._points, len(points), self._records, _ROOM
        ):
            raise EngineError(f"{len(points)} functions of the guest cannot be watched")

    def drain(self) -> None:
        """Make room for more records."""
        lost = c.c_uint64()
        count = self._native.watch_take(c.byref(self._vm), c.byref(lost))
        if count:
            size = count * c.sizeof(WatchRecord)
            self._taken += memoryview(self._records).cast("B")[:size]
        self._lost += lost.value

    def take(self) -> tuple[bytes, int]:
        """Return the oldest records, as many as fit into one answer, and how many were lost."""
        self.drain()
        taken, lost = bytes(self._taken[:_MOST_TAKEN]), self._lost
        del self._taken[:_MOST_TAKEN]
        self._lost = 0
        return taken, lost


def _point(described: Description) -> WatchPoint:
    point = WatchPoint(pc=described.pc, flags=described.flags, word_size=described.word_size)
    point.word_mask[:] = described.word_masks
    for place, read in enumerate(described.reads):
        point.reads[place] = WatchRead(read.offset, read.base, read.size)
    return point
