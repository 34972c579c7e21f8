# SPDX-License-Identifier: GPL-2.0-or-later
"""A GICv3 as a guest sees it: the distributor, a redistributor per VCPU, SGIs (IHI 0069).

One Security state (GICD_CTLR.DS reads as one), affinity routing always on (ARE is RAO/WI), SGIs
0-15, PPIs 16-31, SPIs 32-63, no LPIs. Registers reset so that what a guest forgets to enable does
not work, even where KVM is kinder (KVM starts with SGIs enabled and everything in Group 1).

Any offset, size and value is legal: an access that no register accepts reads as zero and writes
nothing, as under KVM.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from pvlock.engines.emulator.gic_cpu import (
    BANK,
    ICC_ASGI1R_EL1,
    ICC_SGI0R_EL1,
    ICC_SGI1R_EL1,
    PRIORITY_MASK,
    Bank,
    CpuInterface,
    Key,
    Line,
)
from pvlock.memory_map import GICR_STRIDE

_SGI_BASE: Final = 0x10000  # of a redistributor, after its RD_base frame

_SGIS: Final = 0x0000_FFFF
_ALL: Final = 0xFFFF_FFFF

_CTLR_ENABLES: Final = 0b11  # GICD_CTLR.EnableGrp1, .EnableGrp0
_CTLR_FIXED: Final = 1 << 6 | 1 << 4  # DS, ARE
# ITLinesNumber = 1 (64 INTIDs), IDbits = 10 - 1, No1N, RSS; CPUNumber is 0 as ARE is one.
_GICD_TYPER: Final = 1 | (10 - 1) << 19 | 1 << 25 | 1 << 26
_IIDR: Final = ord("P") << 24 | 0x43B  # product P of implementer Arm, the one KVM and QEMU name
_PIDR2: Final = 3 << 4  # ArchRev: GICv3


class Block(IntEnum):
    """Registers with a field per INTID: where each starts, in the distributor and in SGI_base."""

    IGROUPR = 0x080
    ISENABLER = 0x100
    ICENABLER = 0x180
    ISPENDR = 0x200
    ICPENDR = 0x280
    ISACTIVER = 0x300
    ICACTIVER = 0x380
    IPRIORITYR = 0x400
    ICFGR = 0xC00


_BITS: Final = dict.fromkeys(Block, 1) | {Block.IPRIORITYR: 8, Block.ICFGR: 2}
_GICD_IROUTER: Final = 0x6000
# GICD_IROUTER<n> has 64 bits, accessible whole or by halves: (size, offset in the register).
_HALVES: Final = ((8, 0), (4, 0), (4, 4))


def _locate(offset: int, size: int) -> tuple[Block, int] | None:
    """Block and first INTID of an access: an aligned word, or one byte of GICD_IPRIORITYR<n>."""
    for block, bits in _BITS.items():
        intid = (offset - block) * 8 // bits
        if 0 <= intid < 1024 and (
            (size == 4 and offset % 4 == 0) or (size == 1 and block is Block.IPRIORITYR)
        ):
            return block, intid
    return None


def _read_block(bank: Bank, block: Block, n: int, size: int) -> int:
    match block:
        case Block.IGROUPR:
            return bank.group
        case Block.ISENABLER | Block.ICENABLER:
            return bank.enabled
        case Block.ISPENDR | Block.ICPENDR:
            return bank.pending
        case Block.ISACTIVER | Block.ICACTIVER:
            return bank.active
        case Block.IPRIORITYR:
            return int.from_bytes(bank.priority[n : n + size], "little")
        case Block.ICFGR:
            return sum((bank.edge >> n + i & 1) << 2 * i + 1 for i in range(16))


def _write_block(bank: Bank, block: Block, n: int, size: int, value: int) -> None:
    match block:
        case Block.IGROUPR:
            bank.group = value
        case Block.ISENABLER:
            bank.enabled |= value
        case Block.ICENABLER:
            bank.enabled &= ~value
        case Block.ISPENDR:
            bank.latched |= value
        case Block.ICPENDR:
            bank.latched &= ~value
        case Block.ISACTIVER:
            bank.active |= value
        case Block.ICACTIVER:
            bank.active &= ~value
        case Block.IPRIORITYR:
            for i in range(size):
                bank.priority[n + i] = value >> 8 * i & PRIORITY_MASK
        case Block.ICFGR:
            edges = sum((value >> 2 * i + 1 & 1) << n + i for i in range(16))
            writable = 0xFFFF << n & bank.configurable
            bank.edge = bank.edge & ~writable | edges & writable


class Gic:
    """The interrupt controller of one machine.

    Whatever may change a VCPU's interrupt lines adds it to `changed`, which the engine drains
    before it asks `pending`.
    """

    def __init__(self, affinities: Sequence[int]) -> None:
        """Reset; `affinities` holds Aff2 << 16 | Aff1 << 8 | Aff0 per VCPU, each once."""
        self.changed: set[int] = set()
        self._vcpu_of = {affinity: vcpu for vcpu, affinity in enumerate(affinities)}
        self._affinities = tuple(affinities)
        self._enables = 0
        self._spis = Bank(edge=0, configurable=_ALL)
        self._routes = [0] * BANK
        self._cpus = [
            # PPIs are level-sensitive for good: the timer depends on it, and KVM has it so.
            CpuInterface(Bank(edge=_SGIS, configurable=0), self._spis)
            for _ in affinities
        ]
        self._route()

    # What the engine asks and drives

    def pending(self, vcpu: int) -> Line:
        """The interrupt inputs of `vcpu` as they are now, before PSTATE.I and PSTATE.F."""
        return self._cpus[vcpu].line()

    def set_level(self, vcpu: int, intid: int, level: bool) -> None:
        """Drive the wire of PPI `intid` of `vcpu`; ValueError unless it is 16 to 31."""
        if not 16 <= intid < BANK:
            raise ValueError(f"INTID {intid} is no PPI")
        self._cpus[vcpu].private.set_level(1 << intid, level)
        self.changed.add(vcpu)

    def set_spi(self, intid: int, level: bool) -> None:
        """Drive the wire of SPI `intid`; ValueError unless it is 32 to 63."""
        if intid // BANK != 1:
            raise ValueError(f"INTID {intid} is no SPI of this machine")
        self._spis.set_level(1 << intid % BANK, level)
        self.changed.update(self._vcpus)

    def reset_vcpu(self, vcpu: int) -> None:
        """Reset the CPU interface of `vcpu` (PSCI CPU_OFF, CPU_ON), not its redistributor."""
        self._cpus[vcpu].reset()
        self.changed.add(vcpu)

    # System registers

    def sysreg_read(self, vcpu: int, key: Key) -> int | None:
        """MRS by `vcpu`: the value, or None when the access is UNDEFINED."""
        self.changed.add(vcpu)  # ICC_IAR<n>_EL1 acknowledges
        return self._cpus[vcpu].read(key)

    def sysreg_write(self, vcpu: int, key: Key, value: int) -> bool:
        """MSR of `value` (64 bits) by `vcpu`; False when the access is UNDEFINED."""
        if key in (ICC_SGI0R_EL1, ICC_SGI1R_EL1, ICC_ASGI1R_EL1):
            self._send_sgi(vcpu, value, either_group=key == ICC_SGI1R_EL1)
            return True
        active = self._spis.active
        known = self._cpus[vcpu].write(key, value)
        # An SPI may be deactivated here and be pending for the VCPU that it was routed to since.
        self.changed.update(self._vcpus if self._spis.active != active else (vcpu,))
        return known

    def _send_sgi(self, sender: int, value: int, either_group: bool) -> None:
        """ICC_SGI<n>R_EL1.{RS, IRM, Aff3-1, INTID, TargetList}.

        With GICD_CTLR.DS one, ICC_SGI1R_EL1 makes whichever group the target has configured, the
        other two Group 0 only: so KVM (access_gic_sgi) reads IHI 0069, "Use of control registers
        for SGI forwarding", and one guest must find the same on both engines.
        """
        bit = 1 << (value >> 24 & 0xF)
        if value >> 40 & 1:
            targets = [vcpu for vcpu in self._vcpus if vcpu != sender]
        else:
            # Aff3 stays in: no VCPU has one, so a non-zero Aff3 finds none.
            cluster = (value >> 48 & 0xFF) << 24 | (value >> 32 & 0xFF) << 16
            cluster |= (value >> 16 & 0xFF) << 8 | (value >> 44 & 0xF) << 4
            listed = (cluster | n for n in range(16) if value >> n & 1)
            targets = [self._vcpu_of[affinity] for affinity in listed if affinity in self._vcpu_of]
        for vcpu in targets:
            private = self._cpus[vcpu].private
            if either_group or not private.group & bit:
                private.latched |= bit
                self.changed.add(vcpu)

    # Frames

    def distributor_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` from GICD_BASE."""
        located = _locate(offset, size)
        if located is not None:
            block, intid = located
            # INTIDs 0-31 are RES0 here: with ARE one they live in the redistributors.
            return _read_block(self._spis, block, intid % BANK, size) if intid // BANK == 1 else 0
        n, shift = divmod(offset - _GICD_IROUTER, 8)
        if BANK <= n < 2 * BANK:
            return self._routes[n - BANK] >> 8 * shift if (size, shift) in _HALVES else 0
        registers = {0x0: self._enables | _CTLR_FIXED, 0x4: _GICD_TYPER, 0x8: _IIDR, 0xFFE8: _PIDR2}
        return registers.get(offset, 0) if size == 4 else 0

    def distributor_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset` from GICD_BASE."""
        located = _locate(offset, size)
        n, shift = divmod(offset - _GICD_IROUTER, 8)
        if located is not None:
            block, intid = located
            if intid // BANK == 1:
                _write_block(self._spis, block, intid % BANK, size, value & _ALL)
        elif BANK <= n < 2 * BANK and (size, shift) in _HALVES:
            # No Aff3, no Interrupt_Routing_Mode (GICD_TYPER.No1N): the upper half is RES0.
            self._routes[n - BANK] = value & 0xFF_FFFF if shift == 0 else self._routes[n - BANK]
            self._route()
        elif offset == 0 and size == 4:
            self._enables = value & _CTLR_ENABLES
            self._route()
        self.changed.update(self._vcpus)

    def redistributor_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` from the first redistributor's RD_base."""
        vcpu, offset = divmod(offset, GICR_STRIDE)
        if vcpu not in self._vcpus:
            return 0
        if offset >= _SGI_BASE:
            located = _locate(offset - _SGI_BASE, size)
            if located is None or located[1] >= BANK:
                return 0
            return _read_block(self._cpus[vcpu].private, *located, size)
        # GICR_CTLR and GICR_WAKER read as zero, as under KVM: no LPIs, and always awake.
        last = vcpu == len(self._cpus) - 1
        typer = self._affinities[vcpu] << 32 | vcpu << 8 | last << 4
        if size == 8:
            return typer if offset == 0x8 else 0
        registers = {0x4: _IIDR, 0x8: typer & _ALL, 0xC: typer >> 32, 0xFFE8: _PIDR2}
        return registers.get(offset, 0) if size == 4 else 0

    def redistributor_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset` from the first RD_base."""
        vcpu, offset = divmod(offset, GICR_STRIDE)
        located = _locate(offset - _SGI_BASE, size)
        if vcpu in self._vcpus and located is not None and located[1] < BANK:
            _write_block(self._cpus[vcpu].private, *located, size, value & _ALL)
            self.changed.add(vcpu)

    @property
    def _vcpus(self) -> range:
        return range(len(self._cpus))

    def _route(self) -> None:
        """Tell every CPU interface which groups and which SPIs the distributor forwards to it."""
        for cpu, affinity in zip(self._cpus, self._affinities, strict=True):
            cpu.forwarded = self._enables
            cpu.routed = sum(1 << n for n, route in enumerate(self._routes) if route == affinity)
