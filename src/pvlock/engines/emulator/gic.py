# SPDX-License-Identifier: GPL-2.0-or-later
"""A GICv3 as a guest sees it: the distributor, a redistributor per VCPU, SGIs (IHI 0069).

One Security state (GICD_CTLR.DS reads as one), affinity routing always on (ARE is RAO/WI), SGIs
0-15, PPIs 16-31, SPIs 32-63, no LPIs. Registers reset so that what a guest forgets to enable does
not work, even where KVM is kinder (KVM starts with SGIs enabled and everything in Group 1).

Any offset, size and value is legal: an access that no register accepts reads as zero and writes
nothing, as under KVM. The GIC itself is native/gic.c, since a guest uses it at each interrupt.
"""

import ctypes as c
from collections.abc import Sequence
from typing import Final, NamedTuple

from pvlock.engines.emulator import libunicorn as lib
from pvlock.engines.registers import key

Key = tuple[int, int, int, int, int]
"""How the instruction names a system register: op0, op1, CRn, CRm, op2."""

SPURIOUS: Final = 1023
"""The INTID that ICC_IAR<n>_EL1 returns when there is nothing to acknowledge."""

_PPIS, _SPIS = range(16, 32), range(32, 64)


class Line(NamedTuple):
    """The two inputs of a PE that the GIC drives; at most one of them is asserted."""

    irq: bool
    fiq: bool


class Gic:
    """The interrupt controller of one machine."""

    def __init__(self, affinities: Sequence[int]) -> None:
        """Reset; `affinities` holds Aff2 << 16 | Aff1 << 8 | Aff0 per VCPU, each once."""
        self._lib = lib.libvcpu()
        count = len(affinities)
        self.handle = self._lib.gic_new(count, c.byref((c.c_uint32 * count)(*affinities)))
        if not self.handle:
            raise MemoryError
        self._pointer = c.c_void_p(self.handle)

    def __del__(self) -> None:
        """Free what native/gic.c keeps."""
        self._lib.gic_free(self._pointer)

    def pending(self, vcpu: int) -> Line:
        """Return the interrupt inputs of `vcpu` as they are now, before PSTATE.I and PSTATE.F."""
        line = self._lib.gic_line(self._pointer, vcpu)
        return Line(irq=bool(line & 1), fiq=bool(line & 2))

    def take_changed(self) -> set[int]:
        """Return the VCPUs whose inputs may have changed since the last call."""
        changed = set()
        while (vcpu := self._lib.gic_next_changed(self._pointer)) >= 0:
            changed.add(vcpu)
        return changed

    def set_level(self, vcpu: int, intid: int, level: bool) -> None:
        """Drive the wire of PPI `intid` of `vcpu`; ValueError unless it is 16 to 31."""
        if intid not in _PPIS:
            raise ValueError(f"INTID {intid} is no PPI")
        self._lib.gic_set_level(self._pointer, vcpu, intid, level)

    def set_spi(self, intid: int, level: bool) -> None:
        """Drive the wire of SPI `intid`; ValueError unless it is 32 to 63."""
        if intid not in _SPIS:
            raise ValueError(f"INTID {intid} is no SPI of this machine")
        self._lib.gic_set_level(self._pointer, 0, intid, level)

    def reset_vcpu(self, vcpu: int) -> None:
        """Reset the CPU interface of `vcpu` (PSCI CPU_OFF, CPU_ON), not its redistributor."""
        self._lib.gic_reset_vcpu(self._pointer, vcpu)

    def sysreg_read(self, vcpu: int, register: Key) -> int | None:
        """MRS by `vcpu`: the value, or None when the access is UNDEFINED."""
        value = c.c_uint64()
        known = self._lib.gic_read_register(self._pointer, vcpu, key(*register), c.byref(value))
        return value.value if known else None

    def sysreg_write(self, vcpu: int, register: Key, value: int) -> bool:
        """MSR of `value` (64 bits) by `vcpu`; False when the access is UNDEFINED."""
        return bool(self._lib.gic_write_register(self._pointer, vcpu, key(*register), value))

    def distributor_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` from GICD_BASE."""
        return int(self._lib.gic_read_distributor(self._pointer, offset, size))

    def distributor_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset` from GICD_BASE."""
        self._lib.gic_write_distributor(self._pointer, offset, size, value)

    def redistributor_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` from the first redistributor's RD_base."""
        return int(self._lib.gic_read_redistributor(self._pointer, offset, size))

    def redistributor_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset` from the first RD_base."""
        self._lib.gic_write_redistributor(self._pointer, offset, size, value)
