# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of what the VCPUs do: what native/profile.c needs, and what it has taken."""

import ctypes as c

from pvlock.engines.contract import SAMPLE, Sampling
from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.emulator.vcpu import (
    EmulatedVcpu,
    ProfileState,
    SampleState,
    SpinState,
    VmState,
)
from pvlock.errors import EngineError

_MOST_TAKEN = 1 << 24


class Profile:
    """The samples of one machine, from `now_ns` on; they cannot be stopped."""

    def __init__(self, vm: VmState, how: Sampling, now_ns: int) -> None:
        """Begin to sample. Raises EngineError where that is done already."""
        assert c.sizeof(SampleState) == SAMPLE.size
        self._vm, self._native = vm, lib.libvcpu()
        spins = sorted(how.spins, key=lambda spin: spin.start)
        self._spins = (SpinState * len(spins))(
            *(
                SpinState(s.start, s.end, s.moved, s.kind, s.register, s.owner, s.flags, s.readers)
                for s in spins
            )
        )
        self._state = ProfileState(
            how.period_ns, how.user_registers, how.queue or 0, c.addressof(self._spins), len(spins)
        )
        self._taken = bytearray()
        self._lost = 0
        if not self._native.profile_start(c.byref(vm), c.byref(self._state), now_ns):
            raise EngineError("this machine is sampled already")

    def enter(self, vcpu: EmulatedVcpu, now_ns: int) -> None:
        """Be told that a VCPU has got a CPU."""
        self._native.profile_enter(c.byref(vcpu.state), now_ns)

    def leave(self, vcpu: EmulatedVcpu, now_ns: int) -> None:
        """Be told that a VCPU loses its CPU."""
        self._native.profile_leave(c.byref(vcpu.state), now_ns)

    def drain(self) -> None:
        """Fetch what was taken since the last call."""
        taken, lost = c.c_void_p(), c.c_uint64()
        size = self._native.profile_take(c.byref(self._vm), c.byref(taken), c.byref(lost))
        if size:
            self._taken += c.string_at(taken, size)
        self._lost += lost.value

    def take(self) -> tuple[bytes, int]:
        """Return the oldest samples, as many bytes as fit into one answer, and how many are lost.

        Only all answers together are whole samples.
        """
        self.drain()
        taken, lost = bytes(self._taken[:_MOST_TAKEN]), self._lost
        del self._taken[:_MOST_TAKEN]
        self._lost = 0
        return taken, lost
