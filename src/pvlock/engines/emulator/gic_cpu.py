# SPDX-License-Identifier: GPL-2.0-or-later
"""The GICv3 CPU interface: which interrupt a VCPU takes, and the ICC_* registers (IHI 0069).

One Security state (GICD_CTLR.DS is one), five priority bits, no LPIs. Group 1 interrupts assert
IRQ, Group 0 interrupts FIQ. Values in, values out: nothing here raises for what a guest does.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

Key = tuple[int, int, int, int, int]
"""How the instruction names a system register: op0, op1, CRn, CRm, op2."""

BANK: Final = 32
"""Interrupts that share one word of a bit register: INTIDs 0-31 are private, 32-63 are SPIs."""

SPURIOUS: Final = 1023
"""The INTID that ICC_IAR<n>_EL1 returns when there is nothing to acknowledge."""

PRIORITY_MASK: Final = 0xF8
"""The priority bits that exist: the upper five, as in KVM's distributor."""

IDLE_PRIORITY: Final = 0xFF

# The least binary points that five priority bits allow; Group 1 counts from one bit higher
# (IHI 0069, "Priority grouping"), so both leave all five bits to preemption.
_MIN_BPR: Final = (2, 3)

_CTLR_CBPR: Final = 1 << 0
_CTLR_EOIMODE: Final = 1 << 1
# PRIbits = 5 - 1; IDbits = 0 (16 bits); A3V = 0; RSS = 1, ICC_SGI<n>R_EL1 has a range selector.
_CTLR_FIXED: Final = (5 - 1) << 8 | 1 << 18

_SRE: Final = 0b111
"""ICC_SRE_EL1.{DIB,DFB,SRE}: there is no memory-mapped CPU interface, as under KVM."""


class Line(NamedTuple):
    """The two inputs of a PE that the GIC drives; at most one of them is asserted."""

    irq: bool
    fiq: bool


class Bank:
    """The state of 32 interrupts, one bit (or one priority byte) each."""

    def __init__(self, edge: int, configurable: int) -> None:
        """Reset to Group 0, disabled, highest priority.

        `edge` has a bit for each interrupt that is edge-triggered, `configurable` one for each
        whose trigger the guest may change.
        """
        self.edge, self.configurable = edge, configurable
        self.group = self.enabled = self.active = 0
        self.latched = 0  # set by an edge, an SGI or GICD_ISPENDR; cleared by the acknowledge
        self.level = 0  # the wires
        self.priority = bytearray(BANK)

    @property
    def pending(self) -> int:
        """What GICD_ISPENDR<n> reads: the latch, and the wire where level-sensitive."""
        return self.latched | (self.level & ~self.edge)

    def deliverable(self, groups: int) -> int:
        """Interrupts that may be signalled when bit g of `groups` enables Group g."""
        wanted = (self.group if groups & 2 else 0) | (~self.group if groups & 1 else 0)
        return self.pending & self.enabled & ~self.active & wanted

    def set_level(self, bit: int, high: bool) -> None:
        """Drive the wire of the interrupt whose mask is `bit`."""
        if high:
            self.latched |= bit & self.edge & ~self.level
            self.level |= bit
        else:
            self.level &= ~bit

    def acknowledge(self, bit: int) -> None:
        """Pending becomes active, or active and pending while a level-sensitive wire is high."""
        self.latched &= ~bit
        self.active |= bit


class _Candidate(NamedTuple):
    """The highest priority pending interrupt; tuples order as interrupts do."""

    priority: int
    intid: int
    group: int


class CpuInterface:
    """The ICC_* registers of one VCPU over its private interrupts and the shared SPIs.

    The distributor pushes two masks: `forwarded`, bit g for GICD_CTLR.EnableGrp<g>, and `routed`,
    the SPIs whose GICD_IROUTER<n> names this VCPU.
    """

    def __init__(self, private: Bank, spis: Bank) -> None:
        """Serve INTIDs 0-31 from `private`, which is this VCPU's, and 32-63 from `spis`."""
        self.private, self.spis = private, spis
        self.forwarded = self.routed = 0
        self.reset()

    def reset(self) -> None:
        """Reset the registers: every priority masked, both groups disabled, nothing running."""
        self.pmr = self.control = self.enabled = 0
        self.bpr = list(_MIN_BPR)
        self.active = [0, 0]  # ICC_AP<g>R0_EL1: bit n is set while priority n << 3 is active

    def line(self) -> Line:
        """Whether the PE sees an IRQ or an FIQ now, before PSTATE masks it."""
        found = self._signalled()
        group = None if found is None else found.group
        return Line(irq=group == 1, fiq=group == 0)

    def read(self, key: Key) -> int | None:
        """The value that MRS gives; None when the register is absent or write-only."""
        read = _READ.get(key)
        return None if read is None else read(self)

    def write(self, key: Key, value: int) -> bool:
        """Perform MSR; False when the register is absent or read-only."""
        write = _WRITE.get(key)
        if write is not None:
            write(self, value)
        return write is not None

    # Priorities

    def _highest_pending(self) -> _Candidate | None:
        # A group that is off on either side is not looked at: it must not hide the other one.
        groups = self.forwarded & self.enabled
        found: list[_Candidate] = []
        for base, bank, mine in ((0, self.private, ~0), (BANK, self.spis, self.routed)):
            bits = bank.deliverable(groups) & mine
            while bits:
                n = (bits & -bits).bit_length() - 1
                found.append(_Candidate(bank.priority[n], base + n, bank.group >> n & 1))
                bits &= bits - 1
        return min(found, default=None)

    def _signalled(self) -> _Candidate | None:
        """The highest priority pending interrupt, if ICC_PMR_EL1 and what runs let it through."""
        found = self._highest_pending()
        if found is None or found.priority >= self.pmr:
            return None
        return found if self._group_priority(found) < self._running_priority() else None

    def _group_priority(self, interrupt: _Candidate) -> int:
        """The part of the priority that decides on preemption (IHI 0069, "Priority grouping")."""
        own = interrupt.group and not self.control & _CTLR_CBPR
        return interrupt.priority & 0xFF << (self.bpr[1] if own else self.bpr[0] + 1)

    def _running_priority(self) -> int:
        levels = self.active[0] | self.active[1]
        return ((levels & -levels).bit_length() - 1) << 3 if levels else IDLE_PRIORITY

    # Registers

    def _acknowledge(self, group: int) -> int:
        found = self._signalled()
        if found is None or found.group != group:
            return SPURIOUS
        self.active[group] |= 1 << (self._group_priority(found) >> 3)
        bank = self.private if found.intid < BANK else self.spis
        bank.acknowledge(1 << found.intid % BANK)
        return found.intid

    def _end(self, value: int, group: int) -> None:
        """ICC_EOIR<group>_EL1: drop the priority and, with EOImode 0, deactivate.

        A write to the register of the group that is not running, or that names no interrupt, is
        UNPREDICTABLE: it changes nothing.
        """
        mine, other = (self.active[g] & -self.active[g] for g in (group, 1 - group))
        bank, bit = self._find(value)
        if bank is None or not mine or 0 < other < mine:
            return
        self.active[group] ^= mine
        if not self.control & _CTLR_EOIMODE and bool(bank.group & bit) == bool(group):
            bank.active &= ~bit

    def _deactivate(self, value: int) -> None:
        # With EOImode 0 the write is UNPREDICTABLE; KVM ignores it too.
        bank, bit = self._find(value)
        if bank is not None and self.control & _CTLR_EOIMODE:
            bank.active &= ~bit

    def _find(self, value: int) -> tuple[Bank | None, int]:
        intid = value & 0xFFFFFF
        bank = {0: self.private, 1: self.spis}.get(intid // BANK)
        return bank, 1 << intid % BANK

    def _read_highest(self, group: int) -> int:
        found = self._highest_pending()
        return found.intid if found is not None and found.group == group else SPURIOUS

    def _read_bpr(self, group: int) -> int:
        if group and self.control & _CTLR_CBPR:
            return min(self.bpr[0] + 1, 7)
        return self.bpr[group]

    def _write_bpr(self, value: int, group: int) -> None:
        if not (group and self.control & _CTLR_CBPR):
            self.bpr[group] = max(value & 7, _MIN_BPR[group])

    def _read_enable(self, group: int) -> int:
        return self.enabled >> group & 1

    def _write_enable(self, value: int, group: int) -> None:
        self.enabled = self.enabled & ~(1 << group) | (value & 1) << group

    def _read_active(self, group: int) -> int:
        return self.active[group]

    def _write_active(self, value: int, group: int) -> None:
        self.active[group] = value & 0xFFFF_FFFF

    def _read_pmr(self) -> int:
        return self.pmr

    def _write_pmr(self, value: int) -> None:
        self.pmr = value & PRIORITY_MASK

    def _read_control(self) -> int:
        return self.control | _CTLR_FIXED

    def _write_control(self, value: int) -> None:
        self.control = value & (_CTLR_CBPR | _CTLR_EOIMODE)

    def _read_sre(self) -> int:
        return _SRE

    def _ignore(self, value: int) -> None:
        """A register whose writable bits are all RAO/WI."""


ICC_PMR_EL1: Final = (3, 0, 4, 6, 0)
ICC_IAR0_EL1: Final = (3, 0, 12, 8, 0)
ICC_EOIR0_EL1: Final = (3, 0, 12, 8, 1)
ICC_HPPIR0_EL1: Final = (3, 0, 12, 8, 2)
ICC_BPR0_EL1: Final = (3, 0, 12, 8, 3)
ICC_AP0R0_EL1: Final = (3, 0, 12, 8, 4)
ICC_AP1R0_EL1: Final = (3, 0, 12, 9, 0)
ICC_DIR_EL1: Final = (3, 0, 12, 11, 1)
ICC_RPR_EL1: Final = (3, 0, 12, 11, 3)
ICC_SGI1R_EL1: Final = (3, 0, 12, 11, 5)
ICC_ASGI1R_EL1: Final = (3, 0, 12, 11, 6)
ICC_SGI0R_EL1: Final = (3, 0, 12, 11, 7)
ICC_IAR1_EL1: Final = (3, 0, 12, 12, 0)
ICC_EOIR1_EL1: Final = (3, 0, 12, 12, 1)
ICC_HPPIR1_EL1: Final = (3, 0, 12, 12, 2)
ICC_BPR1_EL1: Final = (3, 0, 12, 12, 3)
ICC_CTLR_EL1: Final = (3, 0, 12, 12, 4)
ICC_SRE_EL1: Final = (3, 0, 12, 12, 5)
ICC_IGRPEN0_EL1: Final = (3, 0, 12, 12, 6)
ICC_IGRPEN1_EL1: Final = (3, 0, 12, 12, 7)

# The ICC_SGI<n>R_EL1 registers reach other VCPUs, so they are the Gic's.
_READ: Final[dict[Key, Callable[[CpuInterface], int]]] = {
    ICC_PMR_EL1: CpuInterface._read_pmr,
    ICC_IAR0_EL1: partial(CpuInterface._acknowledge, group=0),
    ICC_IAR1_EL1: partial(CpuInterface._acknowledge, group=1),
    ICC_HPPIR0_EL1: partial(CpuInterface._read_highest, group=0),
    ICC_HPPIR1_EL1: partial(CpuInterface._read_highest, group=1),
    ICC_BPR0_EL1: partial(CpuInterface._read_bpr, group=0),
    ICC_BPR1_EL1: partial(CpuInterface._read_bpr, group=1),
    ICC_AP0R0_EL1: partial(CpuInterface._read_active, group=0),
    ICC_AP1R0_EL1: partial(CpuInterface._read_active, group=1),
    ICC_RPR_EL1: CpuInterface._running_priority,
    ICC_CTLR_EL1: CpuInterface._read_control,
    ICC_SRE_EL1: CpuInterface._read_sre,
    ICC_IGRPEN0_EL1: partial(CpuInterface._read_enable, group=0),
    ICC_IGRPEN1_EL1: partial(CpuInterface._read_enable, group=1),
}
_WRITE: Final[dict[Key, Callable[[CpuInterface, int], None]]] = {
    ICC_PMR_EL1: CpuInterface._write_pmr,
    ICC_EOIR0_EL1: partial(CpuInterface._end, group=0),
    ICC_EOIR1_EL1: partial(CpuInterface._end, group=1),
    ICC_DIR_EL1: CpuInterface._deactivate,
    ICC_BPR0_EL1: partial(CpuInterface._write_bpr, group=0),
    ICC_BPR1_EL1: partial(CpuInterface._write_bpr, group=1),
    ICC_AP0R0_EL1: partial(CpuInterface._write_active, group=0),
    ICC_AP1R0_EL1: partial(CpuInterface._write_active, group=1),
    ICC_CTLR_EL1: CpuInterface._write_control,
    ICC_SRE_EL1: CpuInterface._ignore,
    ICC_IGRPEN0_EL1: partial(CpuInterface._write_enable, group=0),
    ICC_IGRPEN1_EL1: partial(CpuInterface._write_enable, group=1),
}
