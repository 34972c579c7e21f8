# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages and blocks of every size: translated whole, and forgotten whole by one TLBI.

What is at 2 GiB is also where the guest is, at 1 GiB: a page or a block of the size to be tested.
"""

import struct
from dataclasses import dataclass

import pytest

from asm import assemble
from fragments import SETUP, SKIPPING_VECTOR
from hostile import run
from pvlock.machine import Machine

TABLES = 0x4010_0000
RAM, WINDOW, AWAY = 0x4000_0000, 0x8000_0000, 0x0BAD
BLOCK, PAGE, TABLE = 0x705, 0x707, 3
"""The low bits of descriptors: accessible, Normal memory."""


@dataclass(frozen=True)
class Size:
    """The size of what is mapped; `entry` is where its descriptor is."""

    name: str
    page: int
    granule: int
    tables: tuple[tuple[int, int], ...]
    entry: int
    descriptor: int
    inside: int

    @property
    def tcr(self) -> int:
        """39 bits of addresses for TTBR0_EL1, none for TTBR1_EL1; TG0 says how large pages are."""
        return 0x1_0080_3519 | self.granule << 14


def at(index: int, table: int = 0) -> int:
    return TABLES + (table << 16) + 8 * index


NEXT = TABLES + (1 << 16)
LAST = TABLES + (2 << 16)
# The root is for VA bits 38:30, 38:36 and 38:29; where it is for more than a block, 25-bit blocks
# of pages of 16 KiB follow.
_4K = ((at(1), RAM | BLOCK),)
_16K = ((at(0), NEXT | TABLE), (at(32, 1), RAM | BLOCK), (at(33, 1), RAM + (1 << 25) | BLOCK))
_64K = ((at(2), RAM | BLOCK),)
SIZES = (
    Size("4 KiB", 12, 0, (*_4K, (at(2), NEXT | TABLE), (at(0, 1), LAST | TABLE)),
         at(0, 2), RAM | PAGE, 0xFF8),
    Size("2 MiB", 21, 0, (*_4K, (at(2), NEXT | TABLE)), at(0, 1), RAM | BLOCK, 0x1F_F000),
    Size("1 GiB", 30, 0, _4K, at(2), RAM | BLOCK, 0x123_4000),
    Size("16 KiB", 14, 2, (*_16K, (at(64, 1), LAST | TABLE)), at(0, 2), RAM | PAGE, 0x3000),
    Size("32 MiB", 25, 2, _16K, at(64, 1), RAM | BLOCK, 0x1FF_C000),
    Size("64 KiB", 16, 1, (*_64K, (at(4), NEXT | TABLE)), at(0, 1), RAM | PAGE, 0xF000),
    Size("512 MiB", 29, 1, _64K, at(4), RAM | BLOCK, 0x123_4000),
)  # fmt: skip


COUNT = """
	mov x1, #1
	ldaddal x1, x1, [x12]
"""


def wait_for(count: int) -> str:
    return f"""
1:	ldar x1, [x12]
	cmp x1, #{count}
	b.lo 1b
"""


@pytest.mark.parametrize("of", ["this VCPU", "another VCPU"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_one_tlbi_is_for_a_whole_page_or_block(size: Size, of: str) -> None:
    """Both VCPUs read, at the start and inside; VCPU 0 unmaps; the VCPU `of` reads again."""

    def prepare(machine: Machine) -> None:
        for address, value in (*size.tables, (size.entry, size.descriptor)):
            machine.memory.write(address, struct.pack("<Q", value), "test")
        machine.memory.write(RAM, struct.pack("<Q", 0x1111), "test")
        machine.memory.write(RAM + size.inside, struct.pack("<Q", 0x2222), "test")

    code = f"""
	set x1, 0xff04
	msr mair_el1, x1
	set x1, {size.tcr:#x}
	msr tcr_el1, x1
	set x1, {TABLES:#x}
	msr ttbr0_el1, x1
	isb
	tlbi vmalle1
	dsb sy
	mrs x1, sctlr_el1
	set x2, 0x1005
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
	set x10, {WINDOW:#x}
	set x11, {WINDOW + size.inside:#x}
	set x12, 0x42000000		// counts: VCPUs that translate, that have read, and the TLBI
{COUNT}
{wait_for(2)}
	ldr x2, [x10]
	ldr x3, [x11]
	ldr x4, [x11, #-8]
{COUNT}
{wait_for(4)}
	cbnz x0, 2f
	set x1, {size.entry:#x}
	str xzr, [x1]
	dsb sy
	lsr x1, x10, #12
	tlbi vae1is, x1
	dsb sy
	isb
{COUNT}
2:
{wait_for(5)}
	mov x5, #{AWAY:#x}
	mov x6, #{AWAY:#x}
	ldr x5, [x10]
	ldr x6, [x11]
	cmp x0, #{of != "this VCPU":d}
	b.ne .
	set x12, 0x42001000
	stp x2, x3, [x12]
	stp x5, x6, [x12, #16]
	off
"""
    seen = b""

    def finish(machine: Machine) -> None:
        nonlocal seen
        seen = machine.memory.read(0x4200_1000, 32, "test")

    end = run(
        assemble(SETUP + code + SKIPPING_VECTOR), vcpus=2, start_all=True, prepare=prepare,
        finish=finish,
    )  # fmt: skip
    assert end.event is not None, end
    assert struct.unpack("<4Q", seen) == (0x1111, 0x2222, AWAY, AWAY)
