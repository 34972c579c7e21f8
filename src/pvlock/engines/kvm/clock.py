# SPDX-License-Identifier: GPL-2.0-or-later
"""One clock for a guest's events and its host's switches: the guest's counter, CNTVCT_EL0.

The kernel stamps switches with CLOCK_MONOTONIC, which it derives from the same counter but steers.
So we read both together whenever no VCPU runs, and measure how far they drift apart.
"""

import ctypes as c
import mmap
import time
from collections.abc import Callable

from pvlock.engines.contract import Counter
from pvlock.errors import EngineError

_READINGS = 50
_SECOND = 1_000_000_000
_CNTFRQ = b"\x00\xe0\x3b\xd5\xc0\x03\x5f\xd6"
"""MRS X0, CNTFRQ_EL0; RET."""


def frequency() -> int:
    """Return the frequency of the counter in Hz, the guest's too. Raises EngineError.

    The register CNTFRQ_EL0 has it, which arm64 Linux lets processes read.
    """
    libc = c.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [c.c_void_p, c.c_size_t, c.c_int]
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page.write(_CNTFRQ)
        view = c.c_char.from_buffer(page)
        address = c.addressof(view)
        # The page becomes executable only after it is written: then the kernel cleans the caches.
        denied = libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        hz = 0 if denied else c.CFUNCTYPE(c.c_uint64)(address)()
        del view
    if not hz:
        why = "may not execute code of its own" if denied else "reads 0 there"
        raise EngineError(f"no trace: the counter's frequency (CNTFRQ_EL0): this process {why}")
    return hz


class Clock:
    """The engine's time of a traced VM, in ns since this clock was made."""

    def __init__(self, read: Callable[[], int], hz: int) -> None:
        """`read` returns the guest's counter, and is called while no VCPU runs."""
        self._read = read
        self.counter = Counter(hz)
        self.skew_ns = 0
        """How far a time that of() returned may be from what the counter says."""
        self._ahead = 0
        self.begin()
        self.counter = Counter(hz, -self.of(time.monotonic_ns()))
        self.begin()

    def of(self, monotonic_ns: int) -> int:
        """Return the engine's time at a time of CLOCK_MONOTONIC that is not before begin()."""
        return monotonic_ns + self._ahead

    def now(self) -> int:
        """Return the engine's time now."""
        return self.of(time.monotonic_ns())

    def begin(self) -> None:
        """Compare the clocks before VCPUs run."""
        self._ahead, error = self._compare()
        self.skew_ns = max(self.skew_ns, error)

    def end(self) -> None:
        """Compare the clocks after VCPUs ran; `skew_ns` is then at least how far they drifted."""
        ahead, error = self._compare()
        self.skew_ns = max(self.skew_ns, abs(ahead - self._ahead) + error)

    def _compare(self) -> tuple[int, int]:
        """Return how far the engine's time is ahead of CLOCK_MONOTONIC, and the error of that."""
        narrowest = None
        for _ in range(_READINGS):
            before = time.monotonic_ns()
            ticks = self._read()
            width = time.monotonic_ns() - before
            if narrowest is None or width < narrowest[0]:
                narrowest = width, before, ticks
        assert narrowest is not None
        width, before, ticks = narrowest
        hz, offset = self.counter.hz, self.counter.offset_ns
        tick = -(-_SECOND // hz)
        return ticks * _SECOND // hz + offset - before - width // 2, -(-width // 2) + tick
