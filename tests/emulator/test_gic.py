# SPDX-License-Identifier: GPL-2.0-or-later
"""The GICv3 model: what a guest must enable, priorities, SGIs, frames, hostile input (IHI 0069)."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import icc
from pvlock.engines.emulator.gic import SPURIOUS, Gic, Key, Line
from pvlock.memory_map import GICD_SIZE, GICR_STRIDE

QUIET, IRQ, FIQ = Line(False, False), Line(True, False), Line(False, True)

# Registers by their architectural offset; SGI_base is the second frame of a redistributor.
GICD_CTLR, GICD_TYPER, GICD_IIDR, PIDR2 = 0x0, 0x4, 0x8, 0xFFE8
IGROUPR, ISENABLER, ICENABLER, ISPENDR, ICPENDR = 0x80, 0x100, 0x180, 0x200, 0x280
ISACTIVER, IPRIORITYR, ICFGR, IROUTER = 0x300, 0x400, 0xC00, 0x6000
GICR_IIDR, GICR_TYPER, GICR_WAKER = 0x4, 0x8, 0x14
SGI_BASE = 0x10000

TIMER = 27
EVERY_KEY: list[Key] = [v for k, v in vars(icc).items() if k.startswith("ICC_")]


class Guest:
    """A GIC driven as guests drive it; each of `forget` names one step of the setup left out."""

    def __init__(self, affinities: list[int] | None = None, forget: str = "") -> None:
        self.affinities = affinities or [0, 1, 2]
        self.gic = Gic(self.affinities)
        steps: dict[str, Callable[[int], None]] = {
            "GICD_CTLR": lambda v: self.gic.distributor_write(GICD_CTLR, 4, 0b10),
            "GICR_IGROUPR0": lambda v: self.sgi_base(v, IGROUPR, 0xFFFF_FFFF),
            "GICR_ISENABLER0": lambda v: self.sgi_base(v, ISENABLER, 0xFFFF_FFFF),
            "GICR_IPRIORITYR": self.set_priorities,
            "ICC_PMR_EL1": lambda v: self.msr(v, icc.ICC_PMR_EL1, 0xF0),
            "ICC_IGRPEN1_EL1": lambda v: self.msr(v, icc.ICC_IGRPEN1_EL1, 1),
        }
        assert forget in {"", *steps}
        for vcpu in range(len(self.affinities)):
            for name, step in steps.items():
                if name != forget:
                    step(vcpu)
        self.gic.take_changed()

    def sgi_base(self, vcpu: int, offset: int, value: int, size: int = 4) -> None:
        self.gic.redistributor_write(vcpu * GICR_STRIDE + SGI_BASE + offset, size, value)

    def set_priorities(self, vcpu: int) -> None:
        for n in range(0, 32, 4):
            self.sgi_base(vcpu, IPRIORITYR + n, 0xA0A0_A0A0)

    def read_sgi_base(self, vcpu: int, offset: int, size: int = 4) -> int:
        return self.gic.redistributor_read(vcpu * GICR_STRIDE + SGI_BASE + offset, size)

    def msr(self, vcpu: int, key: Key, value: int) -> None:
        assert self.gic.sysreg_write(vcpu, key, value)

    def mrs(self, vcpu: int, key: Key) -> int:
        value = self.gic.sysreg_read(vcpu, key)
        assert value is not None
        return value

    def send(self, vcpu: int, value: int) -> None:
        self.msr(vcpu, icc.ICC_SGI1R_EL1, value)

    def ack(self, vcpu: int = 0) -> int:
        return self.mrs(vcpu, icc.ICC_IAR1_EL1)

    def end(self, intid: int, vcpu: int = 0) -> None:
        self.msr(vcpu, icc.ICC_EOIR1_EL1, intid)

    def lines(self) -> list[Line]:
        return [self.gic.pending(vcpu) for vcpu in range(len(self.affinities))]

    def interrupted(self) -> set[int]:
        return {vcpu for vcpu, line in enumerate(self.lines()) if line.irq}


def sgi(intid: int, targets: int, aff1: int = 0, aff2: int = 0, aff3: int = 0, rs: int = 0) -> int:
    return intid << 24 | targets | aff1 << 16 | aff2 << 32 | aff3 << 48 | rs << 44


# What a guest must enable


def test_sgi_wakes_is_acknowledged_and_ended() -> None:
    guest = Guest()
    guest.send(0, sgi(3, 0b010))
    assert guest.lines() == [QUIET, IRQ, QUIET]
    assert guest.ack(1) == 3
    assert guest.lines() == [QUIET] * 3
    assert guest.mrs(1, icc.ICC_RPR_EL1) == 0xA0
    guest.end(3, vcpu=1)
    assert guest.mrs(1, icc.ICC_RPR_EL1) == 0xFF
    assert guest.read_sgi_base(1, ISACTIVER) == 0
    assert guest.ack(1) == SPURIOUS


@pytest.mark.parametrize(
    "forget",
    ["GICD_CTLR", "GICR_IGROUPR0", "GICR_ISENABLER0", "ICC_PMR_EL1", "ICC_IGRPEN1_EL1"],
)
def test_what_is_forgotten_does_not_work(forget: str) -> None:
    guest = Guest(forget=forget)
    guest.send(0, sgi(3, 0b001))
    guest.gic.set_level(0, TIMER, True)
    assert guest.lines()[0] == QUIET
    assert guest.ack() == SPURIOUS
    assert guest.read_sgi_base(0, ISPENDR) == 1 << 3 | 1 << TIMER


def test_forgotten_priorities_are_the_highest() -> None:
    guest = Guest(forget="GICR_IPRIORITYR")
    guest.send(0, sgi(3, 0b001))
    assert guest.lines()[0] == IRQ


@pytest.mark.parametrize(
    ("pmr", "priority", "line"),
    [
        (0xF0, 0xE8, IRQ),
        (0xF0, 0xF0, QUIET),
        (0xA0, 0xA0, QUIET),
        (0xA8, 0xA0, IRQ),
        (0xA7, 0xA0, QUIET),
        (0xFF, 0xFF, QUIET),
        (0, 0, QUIET),
    ],
)
def test_priority_must_be_above_the_mask(pmr: int, priority: int, line: Line) -> None:
    guest = Guest()
    guest.sgi_base(0, IPRIORITYR + 3, priority, size=1)
    guest.msr(0, icc.ICC_PMR_EL1, pmr)
    guest.send(0, sgi(3, 0b001))
    assert guest.lines()[0] == line


def test_each_enable_takes_effect_while_pending() -> None:
    guest = Guest(forget="ICC_PMR_EL1")
    guest.send(0, sgi(3, 0b001))
    guest.gic.take_changed()
    guest.msr(0, icc.ICC_PMR_EL1, 0xFF)
    assert guest.gic.take_changed() == {0}
    assert guest.lines()[0] == IRQ


# Groups


def test_group_0_is_an_fiq_through_iar0() -> None:
    guest = Guest(forget="GICR_IGROUPR0")
    guest.gic.distributor_write(GICD_CTLR, 4, 0b11)
    guest.send(0, sgi(3, 0b001))
    assert guest.lines()[0] == QUIET  # ICC_IGRPEN0_EL1 is still 0
    guest.msr(0, icc.ICC_IGRPEN0_EL1, 1)
    assert guest.lines()[0] == FIQ
    assert guest.ack() == SPURIOUS
    assert guest.mrs(0, icc.ICC_HPPIR1_EL1) == SPURIOUS
    assert guest.mrs(0, icc.ICC_HPPIR0_EL1) == 3
    assert guest.mrs(0, icc.ICC_IAR0_EL1) == 3
    guest.end(3)  # of the wrong group: changes nothing
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 3
    guest.msr(0, icc.ICC_EOIR0_EL1, 3)
    assert guest.read_sgi_base(0, ISACTIVER) == 0


def test_the_end_of_a_preempted_group_waits_for_the_other() -> None:
    guest = Guest()
    guest.gic.distributor_write(GICD_CTLR, 4, 0b11)
    guest.msr(0, icc.ICC_IGRPEN0_EL1, 1)
    guest.sgi_base(0, IGROUPR, 0xFFFF_FFFE)
    guest.sgi_base(0, IPRIORITYR, 0, size=1)
    guest.send(0, sgi(5, 0b001))
    assert guest.ack() == 5
    guest.send(0, sgi(0, 0b001))
    assert guest.mrs(0, icc.ICC_IAR0_EL1) == 0
    guest.end(5)  # not the one that runs
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 5 | 1 << 0
    guest.msr(0, icc.ICC_EOIR0_EL1, 5)  # drops the priority, but 5 is not in Group 0
    assert guest.mrs(0, icc.ICC_RPR_EL1) == 0xA0
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 5 | 1 << 0
    guest.end(5)
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 0


def test_a_disabled_group_0_does_not_hide_group_1() -> None:
    guest = Guest()
    guest.sgi_base(0, IGROUPR, 0xFFFF_FFFE)
    guest.sgi_base(0, IPRIORITYR, 0, size=1)
    guest.send(0, sgi(0, 0b001))
    guest.send(0, sgi(5, 0b001))
    assert guest.ack() == 5


@pytest.mark.parametrize(
    ("key", "group0", "group1"),
    [
        (icc.ICC_SGI0R_EL1, True, False),
        (icc.ICC_SGI1R_EL1, True, True),
        (icc.ICC_ASGI1R_EL1, True, False),
    ],
)
def test_which_groups_an_sgi_register_reaches(key: Key, group0: bool, group1: bool) -> None:
    guest = Guest()
    guest.sgi_base(0, IGROUPR, 0xFFFF_FFFE)  # SGI 0 in Group 0, SGI 1 in Group 1
    guest.msr(0, key, sgi(0, 0b001))
    guest.msr(0, key, sgi(1, 0b001))
    assert guest.read_sgi_base(0, ISPENDR) == group0 | group1 << 1


# Priorities, preemption, end of interrupt


def test_highest_priority_first_then_lowest_intid() -> None:
    guest = Guest()
    for intid, priority in ((2, 0x80), (3, 0x40), (9, 0x40), (1, 0xC0)):
        guest.sgi_base(0, IPRIORITYR + intid, priority, size=1)
        guest.send(0, sgi(intid, 0b001))
    taken = []
    while (intid := guest.ack()) != SPURIOUS:
        taken.append(intid)
        guest.end(intid)
    assert taken == [3, 9, 2, 1]


def test_only_a_higher_priority_preempts() -> None:
    guest = Guest()
    for intid, priority in ((1, 0x80), (2, 0x80), (3, 0x78)):
        guest.sgi_base(0, IPRIORITYR + intid, priority, size=1)
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.send(0, sgi(2, 0b001))
    assert guest.lines()[0] == QUIET
    assert guest.mrs(0, icc.ICC_HPPIR1_EL1) == 2
    guest.send(0, sgi(3, 0b001))
    assert guest.lines()[0] == IRQ
    assert guest.ack() == 3
    assert guest.mrs(0, icc.ICC_RPR_EL1) == 0x78
    assert guest.mrs(0, icc.ICC_AP1R0_EL1) == 1 << (0x78 >> 3) | 1 << (0x80 >> 3)
    guest.end(3)
    assert guest.mrs(0, icc.ICC_RPR_EL1) == 0x80
    guest.end(1)
    assert guest.ack() == 2


@pytest.mark.parametrize(
    ("bpr1", "cbpr", "bpr0", "preempts"),
    [
        (0, 0, 0, True),  # the least binary point: all five bits are group priority
        (3, 0, 7, True),
        (4, 0, 0, False),  # 0x78 and 0x70 share their upper four bits
        (3, 1, 3, False),
        (7, 1, 2, True),
        (3, 1, 7, False),  # no group priority at all
    ],
)
def test_binary_point_decides_on_preemption(
    bpr1: int, cbpr: int, bpr0: int, preempts: bool
) -> None:
    guest = Guest()
    guest.msr(0, icc.ICC_BPR1_EL1, bpr1)
    guest.msr(0, icc.ICC_BPR0_EL1, bpr0)
    guest.msr(0, icc.ICC_CTLR_EL1, cbpr)
    guest.sgi_base(0, IPRIORITYR + 1, 0x78, size=1)
    guest.sgi_base(0, IPRIORITYR + 2, 0x70, size=1)
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.send(0, sgi(2, 0b001))
    assert guest.lines()[0].irq is preempts


def test_same_sgi_again_while_active_waits_for_the_end() -> None:
    guest = Guest()
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.send(0, sgi(1, 0b001))
    assert guest.lines()[0] == QUIET
    guest.end(1)
    assert guest.lines()[0] == IRQ


def test_eoimode_1_drops_first_and_deactivates_by_dir() -> None:
    guest = Guest()
    guest.msr(0, icc.ICC_CTLR_EL1, 0b10)
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.end(1)
    assert guest.mrs(0, icc.ICC_RPR_EL1) == 0xFF
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 1
    guest.send(0, sgi(1, 0b001))
    assert guest.lines()[0] == QUIET  # pending and active
    guest.send(0, sgi(2, 0b001))
    assert guest.ack() == 2  # the priority has dropped, so others come through
    guest.end(2)
    guest.msr(0, icc.ICC_DIR_EL1, 1)
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 2
    assert guest.ack() == 1


def test_dir_does_nothing_with_eoimode_0() -> None:
    guest = Guest()
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.msr(0, icc.ICC_DIR_EL1, 1)
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 1


@pytest.mark.parametrize("intid", [1020, SPURIOUS, 64, 8192, 0xFF_FFFF])
def test_ending_no_interrupt_changes_nothing(intid: int) -> None:
    guest = Guest()
    guest.send(0, sgi(1, 0b001))
    assert guest.ack() == 1
    guest.end(intid)
    assert guest.mrs(0, icc.ICC_RPR_EL1) == 0xA0
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 1


def test_end_without_acknowledge_deactivates_nothing() -> None:
    guest = Guest()
    guest.sgi_base(0, ISACTIVER, 1 << 1)
    guest.end(1)
    assert guest.read_sgi_base(0, ISACTIVER) == 1 << 1


# SGI targets


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        (sgi(1, 0b0000_0001), {0}),  # the sender itself
        (sgi(1, 0b0000_0111), {0, 1, 2}),
        (sgi(1, 0xFFFF), {0, 1, 2}),  # unknown ones are ignored
        (sgi(1, 0), set()),
        (1 << 40 | 1 << 24, {1, 2, 3, 4, 5}),  # IRM: all but the sender
        (1 << 40 | sgi(1, 0xFFFF, aff1=9), {1, 2, 3, 4, 5}),
        (sgi(1, 0b1, aff1=1), {3}),
        (sgi(1, 0b1, aff2=1), {4}),
        (sgi(1, 0b1, aff3=1), set()),
        (sgi(1, 0b11, rs=1), {5}),
        (sgi(1, 0b1, rs=2), set()),
    ],
)
def test_sgi_targets(value: int, targets: set[int]) -> None:
    guest = Guest([0x0, 0x1, 0x2, 0x100, 0x1_0000, 0x11])
    guest.send(0, value)
    assert guest.interrupted() == targets
    assert guest.gic.take_changed() == targets
    assert all(guest.ack(vcpu) == 1 for vcpu in targets)


@pytest.mark.parametrize("intid", range(16))
def test_every_sgi(intid: int) -> None:
    guest = Guest()
    guest.send(0, sgi(intid, 0b100))
    assert guest.ack(2) == intid


# PPIs and SPIs


def test_level_ppi_pends_while_high() -> None:
    guest = Guest()
    guest.gic.set_level(1, TIMER, True)
    assert guest.gic.take_changed() == {1}
    assert guest.lines() == [QUIET, IRQ, QUIET]
    assert guest.ack(1) == TIMER
    assert guest.lines()[1] == QUIET  # active and pending
    guest.end(TIMER, vcpu=1)
    assert guest.lines()[1] == IRQ  # the wire is still high
    guest.gic.set_level(1, TIMER, False)
    assert guest.lines()[1] == QUIET


def test_clearing_pending_does_not_lower_a_wire() -> None:
    guest = Guest()
    guest.gic.set_level(0, TIMER, True)
    guest.sgi_base(0, ICPENDR, 0xFFFF_FFFF)
    assert guest.lines()[0] == IRQ


def test_pending_set_and_cleared_by_register() -> None:
    guest = Guest()
    guest.sgi_base(0, ISPENDR, 1 << 5 | 1 << TIMER)
    assert guest.ack() == 5
    guest.end(5)
    guest.sgi_base(0, ICPENDR, 1 << TIMER)
    assert guest.ack() == SPURIOUS


def test_disabled_interrupt_is_not_signalled() -> None:
    guest = Guest()
    guest.send(0, sgi(1, 0b001))
    guest.sgi_base(0, ICENABLER, 1 << 1)
    assert guest.lines()[0] == QUIET
    assert guest.read_sgi_base(0, ICENABLER) == 0xFFFF_FFFD


def enable_spi(guest: Guest, intid: int, affinity: int, edge: bool = False) -> None:
    n, gic = intid - 32, guest.gic
    gic.distributor_write(IGROUPR + 4, 4, 1 << n)
    gic.distributor_write(IPRIORITYR + intid, 1, 0x80)
    gic.distributor_write(ICFGR + 8 + n // 16 * 4, 4, edge << n % 16 * 2 + 1)
    gic.distributor_write(IROUTER + 8 * intid, 8, affinity)
    gic.distributor_write(ISENABLER + 4, 4, 1 << n)


@pytest.mark.parametrize("intid", [32, 33, 63])
def test_spi_goes_where_irouter_says(intid: int) -> None:
    guest = Guest([0, 1, 0x100])
    enable_spi(guest, intid, 0x100)
    guest.gic.set_spi(intid, True)
    assert guest.lines() == [QUIET, QUIET, IRQ]
    guest.gic.distributor_write(IROUTER + 8 * intid, 4, 1)
    assert guest.lines() == [QUIET, IRQ, QUIET]
    assert guest.ack(1) == intid
    guest.gic.take_changed()
    guest.end(intid, vcpu=1)
    assert guest.gic.take_changed() == {0, 1, 2}
    assert guest.lines()[1] == IRQ


def test_edge_spi_pends_once_per_edge() -> None:
    guest = Guest()
    enable_spi(guest, 49, 0, edge=True)
    guest.gic.set_spi(49, True)
    assert guest.ack() == 49
    guest.end(49)
    guest.gic.set_spi(49, True)  # still high: no edge
    assert guest.lines()[0] == QUIET
    guest.gic.set_spi(49, False)
    guest.gic.set_spi(49, True)
    assert guest.lines()[0] == IRQ


def test_wires_that_do_not_exist_are_the_hosts_mistake() -> None:
    gic = Gic([0])
    for intid in (-1, 0, 15, 32):
        with pytest.raises(ValueError, match="PPI"):
            gic.set_level(0, intid, True)
    for intid in (-1, 31, 64):
        with pytest.raises(ValueError, match="SPI"):
            gic.set_spi(intid, True)


# Frames


def test_distributor_identity() -> None:
    gic = Gic([0])
    assert gic.distributor_read(GICD_CTLR, 4) == 0x50  # DS, ARE
    gic.distributor_write(GICD_CTLR, 4, 0xFFFF_FFFF)
    assert gic.distributor_read(GICD_CTLR, 4) == 0x53
    gic.distributor_write(GICD_CTLR, 4, 0)
    assert gic.distributor_read(GICD_CTLR, 4) == 0x50
    typer = gic.distributor_read(GICD_TYPER, 4)
    assert (typer & 0x1F, typer >> 5 & 7, typer >> 10 & 1, typer >> 19 & 0x1F) == (1, 0, 0, 9)
    assert gic.distributor_read(PIDR2, 4) >> 4 == 3
    assert gic.distributor_read(GICD_IIDR, 4) & 0xFFF == 0x43B


def test_redistributor_identity() -> None:
    gic = Gic([0x0, 0x1, 0x1_0203])
    typers = [gic.redistributor_read(vcpu * GICR_STRIDE + GICR_TYPER, 8) for vcpu in range(3)]
    assert typers == [0, 1 << 32 | 1 << 8, 0x1_0203 << 32 | 2 << 8 | 1 << 4]
    last = 2 * GICR_STRIDE
    assert gic.redistributor_read(last + GICR_TYPER, 4) == 2 << 8 | 1 << 4
    assert gic.redistributor_read(last + GICR_TYPER + 4, 4) == 0x1_0203
    assert gic.redistributor_read(last + PIDR2, 4) >> 4 == 3
    assert gic.redistributor_read(last + GICR_IIDR, 4) & 0xFFF == 0x43B
    gic.redistributor_write(GICR_WAKER, 4, 0b10)
    assert gic.redistributor_read(GICR_WAKER, 4) == 0  # RAZ/WI, as under KVM
    assert gic.redistributor_read(3 * GICR_STRIDE + GICR_TYPER, 8) == 0


@pytest.mark.parametrize(
    "offset", [IGROUPR, ISENABLER, ISPENDR, ISACTIVER, IPRIORITYR, ICFGR, IROUTER, 0x88, 0xD00]
)
def test_res0_in_the_distributor(offset: int) -> None:
    gic = Gic([0])
    gic.distributor_write(offset, 4, 0xFFFF_FFFF)
    assert gic.distributor_read(offset, 4) == 0
    assert gic.redistributor_read(SGI_BASE + ISPENDR, 4) == 0


def test_banks_of_two_vcpus_are_separate() -> None:
    guest = Guest()
    guest.sgi_base(1, ICENABLER, 0xFFFF_FFFF)
    enabled = [guest.read_sgi_base(vcpu, ISENABLER) for vcpu in range(3)]
    assert enabled == [0xFFFF_FFFF, 0, 0xFFFF_FFFF]


def test_priorities_by_byte_and_word() -> None:
    guest = Guest()
    guest.sgi_base(0, IPRIORITYR + 4, 0xFF80_0708)
    assert guest.read_sgi_base(0, IPRIORITYR + 4) == 0xF880_0008
    guest.sgi_base(0, IPRIORITYR + 5, 0xABCD_EF5F, size=1)
    assert guest.read_sgi_base(0, IPRIORITYR + 5, size=1) == 0x58
    assert guest.read_sgi_base(0, IPRIORITYR + 4) == 0xF880_5808
    guest.gic.distributor_write(IPRIORITYR + 63, 1, 0x48)
    assert guest.gic.distributor_read(IPRIORITYR + 60, 4) == 0x4800_0000


def test_icfgr() -> None:
    guest = Guest()
    for offset, expected in ((ICFGR, 0xAAAA_AAAA), (ICFGR + 4, 0)):
        guest.sgi_base(0, offset, ~expected)
        assert guest.read_sgi_base(0, offset) == expected
    guest.gic.distributor_write(ICFGR + 12, 4, 0xC000_0002)
    assert guest.gic.distributor_read(ICFGR + 12, 4) == 0x8000_0002
    assert guest.gic.distributor_read(ICFGR + 8, 4) == 0


def test_irouter_whole_and_by_halves() -> None:
    gic = Gic([0])
    first = IROUTER + 8 * 32
    gic.distributor_write(first, 8, 2**64 - 1)
    assert gic.distributor_read(first, 8) == 0xFF_FFFF  # neither Aff3 nor IRM
    gic.distributor_write(first + 4, 4, 0xFFFF_FFFF)
    assert gic.distributor_read(first + 4, 4) == 0
    gic.distributor_write(first, 4, 0x102)
    assert gic.distributor_read(first, 4) == 0x102
    assert gic.distributor_read(IROUTER + 8 * 64, 8) == 0


@pytest.mark.parametrize(
    ("offset", "size"), [(ISENABLER, 1), (ISENABLER, 2), (ISENABLER, 8), (ISENABLER + 2, 4)]
)
def test_unsupported_widths_read_zero_and_write_nothing(offset: int, size: int) -> None:
    guest = Guest(forget="GICR_ISENABLER0")
    guest.sgi_base(0, offset, 2**64 - 1, size)
    assert guest.read_sgi_base(0, offset, size) == 0
    assert guest.read_sgi_base(0, ISENABLER) == 0


# System registers


def test_resets() -> None:
    gic = Gic([0])
    expected = {
        icc.ICC_PMR_EL1: 0,
        icc.ICC_IGRPEN0_EL1: 0,
        icc.ICC_IGRPEN1_EL1: 0,
        icc.ICC_BPR0_EL1: 2,
        icc.ICC_BPR1_EL1: 3,
        icc.ICC_RPR_EL1: 0xFF,
        icc.ICC_SRE_EL1: 7,
        icc.ICC_CTLR_EL1: 1 << 18 | 4 << 8,
        icc.ICC_IAR1_EL1: SPURIOUS,
        icc.ICC_HPPIR1_EL1: SPURIOUS,
        icc.ICC_AP0R0_EL1: 0,
        icc.ICC_AP1R0_EL1: 0,
    }
    assert {key: gic.sysreg_read(0, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        (icc.ICC_PMR_EL1, 0xFF, 0xF8),
        (icc.ICC_SRE_EL1, 0, 7),
        (icc.ICC_CTLR_EL1, 2**64 - 1, 1 << 18 | 4 << 8 | 3),
        (icc.ICC_BPR0_EL1, 0, 2),
        (icc.ICC_BPR1_EL1, 0, 3),
        (icc.ICC_BPR1_EL1, 0xFF, 7),
        (icc.ICC_IGRPEN0_EL1, 2**64 - 1, 1),
        (icc.ICC_IGRPEN1_EL1, 2, 0),
        (icc.ICC_AP1R0_EL1, 2**64 - 1, 0xFFFF_FFFF),
    ],
)
def test_writable_bits(key: Key, written: int, read: int) -> None:
    guest = Guest()
    guest.msr(0, key, written)
    assert guest.mrs(0, key) == read


def test_cbpr_makes_bpr1_follow_bpr0() -> None:
    guest = Guest()
    guest.msr(0, icc.ICC_CTLR_EL1, 1)
    guest.msr(0, icc.ICC_BPR0_EL1, 5)
    guest.msr(0, icc.ICC_BPR1_EL1, 3)
    assert guest.mrs(0, icc.ICC_BPR1_EL1) == 6
    guest.msr(0, icc.ICC_BPR0_EL1, 7)
    assert guest.mrs(0, icc.ICC_BPR1_EL1) == 7


WRITE_ONLY = [
    icc.ICC_EOIR0_EL1,
    icc.ICC_EOIR1_EL1,
    icc.ICC_DIR_EL1,
    icc.ICC_SGI0R_EL1,
    icc.ICC_SGI1R_EL1,
    icc.ICC_ASGI1R_EL1,
]
READ_ONLY = [
    icc.ICC_IAR0_EL1,
    icc.ICC_IAR1_EL1,
    icc.ICC_HPPIR0_EL1,
    icc.ICC_HPPIR1_EL1,
    icc.ICC_RPR_EL1,
]
# ICC_AP0R1_EL1, ICC_AP1R1_EL1 (five priority bits need one register), ICC_SRE_EL2, ICC_NMIAR1_EL1.
ABSENT: list[Key] = [(3, 0, 12, 8, 5), (3, 0, 12, 9, 1), (3, 4, 12, 9, 5), (3, 0, 12, 9, 5)]


def test_undefined_accesses() -> None:
    gic = Gic([0])
    assert all(gic.sysreg_read(0, key) is None for key in WRITE_ONLY + ABSENT)
    assert not any(gic.sysreg_write(0, key, 0) for key in READ_ONLY + ABSENT)


def test_reset_vcpu_resets_the_cpu_interface_only() -> None:
    guest = Guest()
    guest.send(0, sgi(1, 0b010))
    assert guest.ack(1) == 1
    guest.send(0, sgi(2, 0b010))
    guest.gic.reset_vcpu(1)
    assert guest.mrs(1, icc.ICC_PMR_EL1) == guest.mrs(1, icc.ICC_IGRPEN1_EL1) == 0
    assert guest.mrs(1, icc.ICC_RPR_EL1) == 0xFF
    assert guest.read_sgi_base(1, ISENABLER) == 0xFFFF_FFFF
    assert guest.read_sgi_base(1, ISPENDR) == 1 << 2
    guest.msr(1, icc.ICC_PMR_EL1, 0xFF)
    guest.msr(1, icc.ICC_IGRPEN1_EL1, 1)
    assert guest.ack(1) == 2


# Hostile input

VCPUS = 3
VALUE = st.sampled_from([0, 1, 2**32 - 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)
SIZE = st.sampled_from([1, 2, 4, 8])
USEFUL = [0, 4, 8, 0x6100, *range(IGROUPR, IPRIORITYR, 4), *range(IPRIORITYR, 0x440), ICFGR + 12]
GICD_OFFSET = st.sampled_from(USEFUL) | st.integers(0, GICD_SIZE - 1)
GICR_OFFSET = st.builds(
    lambda vcpu, offset: vcpu * GICR_STRIDE + SGI_BASE + offset,
    st.integers(0, VCPUS - 1),
    st.sampled_from(USEFUL),
) | st.integers(0, VCPUS * GICR_STRIDE - 1)
KEY = st.sampled_from(EVERY_KEY + ABSENT)
VCPU = st.integers(0, VCPUS - 1)
SHORT_INTID = st.sampled_from([1, 2, TIMER, 32, 63, SPURIOUS])
Step = tuple[str, tuple[int | Key | bool, ...]]
STEP: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("distributor_read"), st.tuples(GICD_OFFSET, SIZE)),
    st.tuples(st.just("distributor_write"), st.tuples(GICD_OFFSET, SIZE, VALUE)),
    st.tuples(st.just("redistributor_read"), st.tuples(GICR_OFFSET, SIZE)),
    st.tuples(st.just("redistributor_write"), st.tuples(GICR_OFFSET, SIZE, VALUE)),
    st.tuples(st.just("sysreg_read"), st.tuples(VCPU, KEY)),
    st.tuples(st.just("sysreg_write"), st.tuples(VCPU, KEY, VALUE | SHORT_INTID)),
    st.tuples(st.just("set_level"), st.tuples(VCPU, st.integers(16, 31), st.booleans())),
    st.tuples(st.just("set_spi"), st.tuples(st.integers(32, 63), st.booleans())),
    st.tuples(st.just("reset_vcpu"), st.tuples(VCPU)),
)


def check(guest: Guest) -> None:
    """What holds in every state: fields fit, and a line is asserted for a reason the guest sees."""
    gic = guest.gic
    for vcpu, line in enumerate(guest.lines()):
        assert not (line.irq and line.fiq)
        for group, asserted in ((0, line.fiq), (1, line.irq)):
            if asserted:
                intid = guest.mrs(vcpu, (icc.ICC_HPPIR0_EL1, icc.ICC_HPPIR1_EL1)[group])
                assert intid < 64
                read = (
                    gic.distributor_read
                    if intid >= 32
                    else lambda o, s: gic.redistributor_read(vcpu * GICR_STRIDE + SGI_BASE + o, s)  # noqa: B023
                )
                word, bit = intid // 32 * 4, 1 << intid % 32
                assert read(ISPENDR + word, 4) & read(ISENABLER + word, 4) & bit
                assert not read(ISACTIVER + word, 4) & bit
                assert bool(read(IGROUPR + word, 4) & bit) == bool(group)
                assert read(IPRIORITYR + intid, 1) < guest.mrs(vcpu, icc.ICC_PMR_EL1)
                assert guest.mrs(vcpu, (icc.ICC_IGRPEN0_EL1, icc.ICC_IGRPEN1_EL1)[group]) == 1
                assert gic.distributor_read(GICD_CTLR, 4) >> group & 1


@given(st.lists(STEP, max_size=60), st.booleans())
def test_any_accesses_keep_the_state_sound(steps: list[Step], set_up: bool) -> None:
    guest = Guest([0x0, 0x1, 0x100])
    if not set_up:
        guest.gic = Gic(guest.affinities)
    for name, args in steps:
        before = guest.lines()
        guest.gic.take_changed()
        result = getattr(guest.gic, name)(*args)
        if name.endswith("or_read"):
            assert 0 <= result < 1 << 8 * int(str(args[1]))
        elif name == "sysreg_read":
            assert result is None or 0 <= result < 2**64
        changed = {vcpu for vcpu, line in enumerate(guest.lines()) if line != before[vcpu]}
        assert changed <= guest.gic.take_changed()
        check(guest)


@given(st.lists(st.tuples(VCPU, st.integers(0, 15), st.integers(0, 255)), max_size=40))
def test_every_sgi_is_taken_once_and_all_ends_idle(sent: list[tuple[int, int, int]]) -> None:
    guest = Guest()
    for target, intid, priority in sorted(sent):
        guest.sgi_base(target, IPRIORITYR + intid, priority, size=1)
        guest.send(0, sgi(intid, 1 << target))
    # Priorities written later decide for an INTID that was sent twice.
    last = {(target, intid): priority for target, intid, priority in sorted(sent)}
    expected = {key for key, priority in last.items() if priority & 0xF8 < 0xF0}
    taken = []
    for vcpu in range(VCPUS):
        while (intid := guest.ack(vcpu)) != SPURIOUS:
            taken.append((vcpu, intid))
            guest.end(intid, vcpu)
        assert guest.read_sgi_base(vcpu, ISACTIVER) == 0
        assert guest.mrs(vcpu, icc.ICC_RPR_EL1) == 0xFF
    assert len(taken) == len(set(taken))
    assert set(taken) == expected


@given(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, 4, 8, 16]),
    st.integers(-(2**70), 2**70),
)
def test_no_offset_size_or_value_raises(offset: int, size: int, value: int) -> None:
    gic = Gic([0, 1])
    gic.distributor_write(offset, size, value)
    gic.redistributor_write(offset, size, value)
    assert gic.distributor_read(offset, size) >= 0
    assert gic.redistributor_read(offset, size) >= 0
    for key in EVERY_KEY:
        gic.sysreg_write(0, key, value)
        gic.sysreg_read(0, key)
