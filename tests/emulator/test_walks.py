# SPDX-License-Identifier: GPL-2.0-or-later
"""Our walk of the translation tables does what QEMU's own does; a TLBI reaches a whole block."""

import os
import random
import struct
from typing import Final
from unittest import mock

import pytest

from asm import assemble
from fragments import SETUP
from hostile import MS, run
from pvlock.engines.contract import SystemEvent
from pvlock.engines.emulator.engine import EmulatorEngine
from pvlock.machine import Machine
from tables import LOWER, POOL, POOL_SIZE, RET, TABLES, Tables, identity

pytestmark = pytest.mark.usefixtures("bounded")

SEEDS: Final = int(os.environ.get("PVLOCK_WALKS", "6"))
ADDRESSES: Final = 400
INPUT, RESULTS = 0x4140_0000, 0x4150_0000
ACCESSES: Final = 8

# For each address X10 of INPUT: what each kind of access leads to, as syndrome and value. TTBR1_EL1
# is what is tried; TTBR0_EL1 maps the guest itself. LDSET of XZR writes back what it read.
HARNESS = (
    SETUP
    + """
	set x9, 0x41400000
	ldp x1, x2, [x9]		// TTBR1_EL1, TCR_EL1
	ldp x3, x23, [x9, #16]		// bits for SCTLR_EL1, SPSR_EL1 for EL0
	msr ttbr1_el1, x1
	msr tcr_el1, x2
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x41000000
	msr ttbr0_el1, x1
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	orr x1, x1, x3
	msr sctlr_el1, x1
	isb
	set x21, 0x41500000
	add x9, x9, #32
next:
	ldr x10, [x9], #8
	cbz x10, 9f
	.macro try pan, first:vararg
	msr pan, #\\pan
	mov x11, #0
	mov x26, #0
	adr x25, 8f
	\\first
8:	stp x26, x11, [x21], #16
	.endm
	try 0, ldr x11, [x10]
	try 1, ldr x11, [x10]
	try 0, ldset xzr, x11, [x10]
	try 0, ldtr x11, [x10]
	try 0, blr x10
	try 1, blr x10
	msr pan, #0
	at s1e1r, x10
	isb
	mrs x26, par_el1
	at s1e0w, x10
	isb
	mrs x11, par_el1
	stp x26, x11, [x21], #16
	mov x26, #0
	mov x11, #0
	adr x25, 7f
	msr elr_el1, x10
	msr spsr_el1, x23
	adr x30, 7f			// EL0 may not fetch here: a RET by EL0 is seen by its FAR
	eret
7:	stp x26, x11, [x21], #16
	b next
9:	off
	.balign 2048
vectors:
	.rept 16
	.balign 128
	mrs x26, esr_el1
	mrs x11, far_el1
	msr elr_el1, x25
	mov x24, #5
	msr spsr_el1, x24
	eret
	.endr
"""
)


def results(prepare: dict[int, bytes]) -> bytes:
    with Machine(quantum_ns=100_000, slice_ns=1 << 50, ram_size=64 << 20) as machine:
        machine.load(assemble(HARNESS))
        machine.vcpus[0].set("x0", 0)
        for ipa, content in prepare.items():
            machine.memory.write(ipa, content, "test")
        assert machine.run(100 * MS) is SystemEvent.OFF
        return machine.memory.read(RESULTS, 16 * ACCESSES * ADDRESSES, "test")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_our_walk_finds_what_qemus_finds(seed: int) -> None:
    source = random.Random(seed)
    bits = source.choice((48, 48, 47, 42, 40, 39, 36, 33, 31, 30, 27, 25))
    tables = Tables(source, bits)
    content = tables.bytes()
    ttbr = tables.at[tables.top][0]
    if bits - tables.top < 9:  # a table that is smaller than a page may lie anywhere in one
        ttbr += source.randrange(512) * 8 & -(8 << bits - tables.top) & 0xFFF
    granule = 2 if source.randrange(8) else 1
    hpd, epd = source.randrange(2), source.choice((0, 0, 0, 0, 0, 0, 0, 1))
    tcr = 25 | 64 - bits << 16 | epd << 23 | granule << 30 | 1 << 32 | hpd << 42
    sctlr = 1 | source.choice((0, 0, 1)) << 19
    addresses = [
        2**64 - (1 << bits) | source.getrandbits(bits) & -8 for _ in range(ADDRESSES - 4)
    ] + [2**64 - 8, 1 << 55 | 0x1000, 2**64 - 2**bits - 8, 0xFF00_0000_0000_0000]
    pool = b"".join(struct.pack("<II", RET, n) for n in range(POOL_SIZE // 8))
    prepare = {
        LOWER: identity(),
        TABLES: content,
        INPUT: struct.pack("<4Q", ttbr, tcr, sctlr, 0) + struct.pack(f"<{ADDRESSES}Q", *addresses),
        POOL: pool,
    }
    ours = results(prepare)
    with mock.patch.object(EmulatorEngine, "worker", "long_walks"):
        theirs = results(prepare)
    assert any(ours)
    for n in range(ACCESSES * ADDRESSES):
        mine, other = (struct.unpack_from("<QQ", where, 16 * n) for where in (ours, theirs))
        assert mine == other, (
            f"{addresses[n // ACCESSES]:#x}, access {n % ACCESSES}, {bits} bits: "
            f"{mine[0]:#x} {mine[1]:#x}, but QEMU {other[0]:#x} {other[1]:#x}"
        )


# L3, or for a block L2, of a table at TABLES maps `BASE`; two of its addresses are read, the entry
# then leads elsewhere, and one TLBI names the first address only.
ONE_TLBI = """
	adr x1, vectors
	msr vbar_el1, x1
	set x1, 0xff04
	msr mair_el1, x1
	set x1, {tcr:#x}
	msr tcr_el1, x1
	set x1, {lower:#x}
	msr ttbr0_el1, x1
	set x1, {ttbr1:#x}
	msr ttbr1_el1, x1
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	orr x1, x1, #1
	msr sctlr_el1, x1
	isb
	cbnz x0, other
	set x10, {base:#x}
	add x11, x10, #{offset:#x}
	ldr x3, [x10]
	ldr x3, [x11]
	set x12, 0x41f00000
1:	ldr x3, [x12]			// the other has read both, too
	cbz x3, 1b
	set x1, {entry:#x}
	ldr x2, [x1]
	eor x2, x2, #{moved:#x}
	str x2, [x1]
	dsb ish
	lsr x2, x10, #12
	and x2, x2, #0xfffffffffff
	tlbi vaae1is, x2
	dsb ish
	isb
	ldr x3, [x10]
	ldr x4, [x11]
	str x4, [x12, #8]
2:	ldr x5, [x12, #16]
	cbz x5, 2b
	off
other:
	set x10, {base:#x}
	add x11, x10, #{offset:#x}
	set x12, 0x41f00000
	ldr x3, [x10]
	ldr x3, [x11]
	mov x3, #1
	str x3, [x12]
3:	ldr x3, [x12, #8]
	cbz x3, 3b
	isb
	ldr x4, [x11]
	str x4, [x12, #16]
	b .
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b .
	.endr
"""
HALF: Final = 0xFFFF_FF80_0000_0000
"""Where the upper 39 bits begin."""


@pytest.mark.parametrize("size", [4 << 10, 16 << 10, 2 << 20], ids=["4K", "16K", "2M"])
def test_one_tlbi_is_enough_for_all_that_one_descriptor_maps(size: int) -> None:
    normal, granule = 1 << 10 | 3 << 8 | 1 << 2, 2
    offset = size - 4096 if size > 4096 else 2048
    moved = max(size, 64 << 10)
    tables = {TABLES: 0, TABLES + 0x4000: 0}
    if size == 2 << 20:
        entry, base = TABLES + 4096, HALF
        tables = {TABLES: TABLES + 4096 | 3, entry: POOL | normal | 1}
    elif size == 4 << 10:
        entry, base = TABLES + 8192, HALF
        tables = {TABLES: TABLES + 4096 | 3, TABLES + 4096: entry | 3, entry: POOL | normal | 3}
    else:  # 36 bits: tables of 2048 entries, from level 2 on
        granule, base, entry = 1, 2**64 - 2**36, TABLES + 0x4000
        tables = {TABLES: entry | 3, entry: POOL | normal | 3}
    bits = 36 if granule == 1 else 39
    guest = ONE_TLBI.format(
        tcr=25 | 64 - bits << 16 | granule << 30 | 1 << 32, lower=LOWER, ttbr1=TABLES, base=base,
        offset=offset, entry=entry, moved=moved,
    )  # fmt: skip

    def prepare(machine: Machine) -> None:
        machine.memory.write(LOWER, identity(), "test")
        for ipa, descriptor in tables.items():
            machine.memory.write_u64(ipa, descriptor, "test")
        for ipa in (POOL, POOL + offset):
            machine.memory.write_u64(ipa, 1, "test")
            machine.memory.write_u64(ipa + moved, 2, "test")

    end = run(
        assemble(guest), vcpus=2, pcpus=2, start_all=True, prepare=prepare,
        registers=("x3", "x4", "x5"),
    )  # fmt: skip
    assert end.event is SystemEvent.OFF
    assert end.registers == {"x3": 2, "x4": 2, "x5": 2}
