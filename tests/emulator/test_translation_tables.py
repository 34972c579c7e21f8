# SPDX-License-Identifier: GPL-2.0-or-later
"""Translation tables that point everywhere, nowhere, to themselves, or that the guest destroys."""

import random
import struct

import pytest

from asm import assemble
from fragments import RANDOM, SETUP, SKIPPING_VECTOR, mmu_on
from hostile import MS, fault, run
from pvlock import memory_map
from pvlock.errors import GuestFault
from pvlock.machine import Machine

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.mark.parametrize("seed", range(8))
def test_page_tables_that_point_everywhere_run_until_the_limit(seed: int) -> None:
    source = random.Random(seed)
    interesting = (memory_map.PVLOCK_BASE, memory_map.UART_BASE, 0x40100000, 0x40101000, 0)

    def entry() -> int:
        word = source.getrandbits(64)
        match source.randrange(4):
            case 0:
                return word
            case 1:
                return word & 0xFFFF | source.choice(interesting) | 3
            case 2:
                return word & 0x7FF0_0000_0000_0FFC | 0x40100000 + 4096 * source.randrange(8) | 3
            case _:
                return word | 3 | 1 << 10

    tables = [entry() for _ in range(512 * 8)]
    tables[1] = 0x4000_0705  # 0x4000_0000, where the guest is: as it was

    def prepare(machine: Machine) -> None:
        machine.memory.write(0x4010_0000, struct.pack("<4096Q", *tables), "test")

    loop = "1:" + RANDOM + """
	and x3, x20, #0x7fffffffff
	ldr x4, [x3]
	prfm pldl1keep, [x3]
	at s1e1r, x3
	at s1e1w, x3
	lsr x5, x3, #38
	cbnz x5, 1b
	lsr x5, x3, #30
	cmp x5, #1
	b.eq 1b
	ldxr x4, [x3]
	ic ivau, x3
	dc civac, x3
	ldp q0, q1, [x3]
	b 1b
"""  # fmt: skip
    end = run(assemble(SETUP + mmu_on() + loop + SKIPPING_VECTOR), prepare=prepare, until_ns=3 * MS)
    assert end.event is None
    assert end.usage is not None
    assert (end.usage.vcpus[0].instructions or 0) > 1000


@pytest.mark.parametrize(
    "ttbr",
    [0, 0xDEAD_0000, memory_map.PVLOCK_BASE, memory_map.UART_BASE, 0xFFFF_FFFF_F000, 1 << 39],
    ids=hex,
)
def test_translation_tables_that_are_nowhere_are_a_fault(ttbr: int) -> None:
    fault(run(assemble(mmu_on(ttbr) + "b .")))


def test_a_table_that_points_to_itself_is_walked_to_its_end() -> None:
    def prepare(machine: Machine) -> None:
        machine.memory.write(0x4010_0000, struct.pack("<512Q", *[0x4010_0403] * 512), "test")

    fault(run(assemble(mmu_on() + "b ."), prepare=prepare))


def test_a_guest_that_writes_over_its_page_tables_faults_or_runs_until_the_limit() -> None:
    guest = """
	set x0, 0x40100000		// one table: RAM as a 1 GiB block, to itself
	set x1, 0x40000705
	str x1, [x0, #8]
""" + mmu_on() + """
	set x20, 0x9e3779b97f4a7c15
1:""" + RANDOM + """
	and x3, x20, #0xff8
	str x20, [x0, x3]
	ldr x4, [x20]
	tlbi vmalle1
	dsb sy
	isb
	b 1b
"""  # fmt: skip
    end = run(assemble(guest))
    assert end.event is None or isinstance(end.event, GuestFault), end
