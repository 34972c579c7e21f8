# SPDX-License-Identifier: GPL-2.0-or-later
"""One clock for a guest's events and its host's switches: the guest's counter, CNTVCT_EL0.

The kernel stamps switches with CLOCK_MONOTONIC, which it derives from the same counter but steers.
So both are read together whenever no VCPU runs, and what they went apart meanwhile is measured.
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
    """Return what CNTFRQ_EL0 says, Hz: of this CPU, and so of every guest's. Raises EngineError.

    arm64 Linux lets processes read it, and says it nowhere else.
    """
    libc = c.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [c.c_void_p, c.c_size_t, c.c_int]
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page.write(_CNTFRQ)
        view = c.c_char.from_buffer(page)
        address = c.addressof(view)
        # Executable only after it is written: then the kernel cleans the caches.
        denied = libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        hz = 0 if denied else c.CFUNCTYPE(c.c_uint64)(address)()
        del view
    if not hz:
        why = "may not execute code of its own" if denied else "reads 0 there"
        raise EngineError(f"no trace: the counter's frequency (CNTFRQ_EL0): this process {why}")
    return hz


class Clock:
    """Engine time of a traced VM, in ns: 0 is when this was made."""

    def __init__(self, read: Callable[[], int], hz: int) -> None:
        """`read` returns the guest's counter, and is called while no VCPU runs."""
        self._read = read
        self.counter = Counter(hz)
        self.skew_ns = 0
        """How far a time of CLOCK_MONOTONIC that of() converted may be from the counter's."""
        self._ahead = 0
        self.begin()
        self.counter = Counter(hz, -self.of(time.monotonic_ns()))
        self.begin()

    def of(self, monotonic_ns: int) -> int:
        """Return engine time at a time of CLOCK_MONOTONIC since begin()."""
        return monotonic_ns + self._ahead

    def now(self) -> int:
        """Return engine time now."""
        return self.of(time.monotonic_ns())

    def begin(self) -> None:
        """Compare the clocks before VCPUs run."""
        self._ahead, error = self._compare()
        self.skew_ns = max(self.skew_ns, error)

    def end(self) -> None:
        """Compare them again after the run: `skew_ns` is at least by what they went apart."""
        ahead, error = self._compare()
        self.skew_ns = max(self.skew_ns, abs(ahead - self._ahead) + error)

    def _compare(self) -> tuple[int, int]:
        """Return by what engine time is ahead of CLOCK_MONOTONIC, and the error of that."""
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
