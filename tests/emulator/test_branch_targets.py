# SPDX-License-Identifier: GPL-2.0-or-later
"""Branch target identification, which the ID registers offer: on guarded pages, and only there."""

import struct

import pytest

from asm import assemble
from hostile import run
from pvlock.machine import Machine

TABLES = 0x4010_0000
BLOCK, GUARDED = 0x4000_0705, 1 << 50
IL = 1 << 25
BTI_C = "hint #34"


@pytest.mark.parametrize(
    ("guarded", "target", "expected"),
    [
        (GUARDED, "nop", 0x0D << 26 | 2),  # the BTYPE of BLR
        (GUARDED, BTI_C, 0),
        (0, "nop", 0),
    ],
    ids=["no landing", "landing", "not guarded"],
)
def test_branches_land_where_they_may(guarded: int, target: str, expected: int) -> None:
    """ESR_EL1 after a BLR, 0 without an exception; but for IL, which QEMU leaves out."""

    def prepare(machine: Machine) -> None:
        machine.memory.write(TABLES + 8, struct.pack("<Q", BLOCK | guarded), "test")

    end = run(
        assemble(f"""
	adr x1, vectors
	msr vbar_el1, x1
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x100803519
	msr tcr_el1, x1
	set x1, {TABLES:#x}
	msr ttbr0_el1, x1
	isb
	mrs x1, sctlr_el1
	set x2, 0x1000001005		// BT1, for EL1; caches and MMU
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
	msr esr_el1, xzr
	adr x1, target
	blr x1
	off
target:
	{target}
	ret
	.balign 2048
vectors:
	.rept 16
	{BTI_C}
	off
	.balign 128
	.endr
"""),
        prepare=prepare, registers=("esr_el1",),
    )  # fmt: skip
    assert end.event is not None, end
    assert end.registers["esr_el1"] & ~IL == expected
