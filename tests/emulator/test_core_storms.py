# SPDX-License-Identifier: GPL-2.0-or-later
"""Several VCPUs at random on what the emulator keeps behind their backs: TLBs, code, monitors."""

import os
import random
import struct
from typing import Final

import pytest

from asm import assemble
from fragments import RANDOM, SETUP
from hostile import MS, run
from pvlock.engines.contract import SystemEvent
from pvlock.machine import Machine
from tables import LOWER, POOL, POOL_SIZE, RET, TABLES, Tables, identity

pytestmark = pytest.mark.usefixtures("bounded")

SEEDS: Final = int(os.environ.get("PVLOCK_STORMS", "4"))
SHARED: Final = 0x4300_0000 - 4096
COUNTS: Final = 0x41F0_0000

# One of these at a time, with X20 random: X2 points to shared memory, X3 into the upper half, X5 to
# the translated words there or to code that this loop runs.
CASES: Final = (
    *(f"tlbi {what}" for what in ("vmalle1", "vmalle1is")),
    *(f"tlbi {what}, x20" for what in ("vae1", "vae1is", "vaae1", "vaale1is", "vale1", "aside1is")),
    "lsr x4, x3, #12\ntlbi vaae1is, x4",
    "ic iallu", "ic ialluis", "ic ivau, x20", "ic ivau, x5", "ic ivau, x3",
    "dc civac, x20", "dc cvau, x3", "dc zva, x2",
    "at s1e1r, x20", "at s1e1w, x3", "at s1e0r, x3", "at s1e0w, x20",
    "ldxr x4, [x2]\nwfe", "ldxr w4, [x2]\nstxr w6, w4, [x2]", "ldaxp x4, x6, [x2]\nwfe",
    "ldxr x4, [x3]\nwfe", "ldxrb w4, [x2]\nsevl\nwfe\nwfe", "ldaxr x4, [x2]\nstlxr w6, x20, [x2]",
    "ldaxp x4, x6, [x3]\nstlxp w7, x4, x6, [x2]", "casal x4, x20, [x2]", "clrex\nwfe",
    "sev", "sevl", "sev\nwfe", "str x20, [x2]", "swp x20, x4, [x2]",
    "ldr x4, [x3]", "str x20, [x3]", "ldtr x4, [x3]", "ldset xzr, x4, [x3]", "blr x3",
    "msr ttbr1_el1, x20",
    "and x4, x20, #0x1ff8\nadd x4, x4, x22\nmsr ttbr1_el1, x4",
    "movz x4, #0x67f, lsl #32\nand x4, x20, x4\nand x6, x20, #0xffff0000\norr x4, x4, x6\n"
    "add x4, x4, #25\nmsr tcr_el1, x4",
    "msr tcr_el1, x23",
    "and x4, x20, #1 << 19\norr x4, x4, #1\nmsr sctlr_el1, x4\nisb",
    "msr sctlr_el1, xzr\nisb",
    "and x4, x20, #0x3c\norr x4, x4, #4\nmsr cntkctl_el1, x4",
    "msr pan, #1", "msr pan, #0",
    "and x4, x20, #0xff8\nadd x4, x4, x22\nstr x20, [x4]",
    "isb", "dsb ish",
)  # fmt: skip

STORM = (
    SETUP
    + """
	set x1, 0xff04
	msr mair_el1, x1
	mov x1, #0x84			// CNTKCTL_EL1: the event stream, each 512 ns
	msr cntkctl_el1, x1
	set x23, {tcr:#x}
	msr tcr_el1, x23
	set x1, {lower:#x}
	msr ttbr0_el1, x1
	set x22, {tables:#x}
	msr ttbr1_el1, x22
	tlbi vmalle1
	isb
	mov x1, #1
	msr sctlr_el1, x1
	isb
	set x24, {seed:#x}
	eor x20, x20, x24
	set x21, {counts:#x}
	add x21, x21, x0, lsl #3
	set x2, {shared:#x}
turn:"""
    + RANDOM
    + """
	ldr x1, [x21]
	add x1, x1, #1
	str x1, [x21]
	orr x3, x20, #0xffffff8000000000
	and x3, x3, #~7
	adr x5, turn
	lsr x6, x20, #20
	mov x7, #{count}
	udiv x8, x6, x7
	msub x6, x8, x7, x6
	adr x7, cases
	add x7, x7, x6, lsl #6
	adr x30, turn
	br x7
	.balign 64
cases:
{cases}
	.balign 2048
vectors:
	.rept 16
	.balign 128
	adr x28, turn
	msr elr_el1, x28
	mov x28, #0x3c5
	msr spsr_el1, x28
	eret
	.endr
"""
)


def storm(seed: int, quantum_ns: int, vcpus: int) -> list[int]:
    """Run it for a while; return how many turns each VCPU made."""
    source = random.Random(seed)
    tables = Tables(source, 39)
    # WFE is not for ever, as the counter has a stream.
    cases = "\n".join(f"\t{case}\n\tb turn\n\t.balign 64" for case in CASES)
    guest = STORM.format(
        tcr=25 | 25 << 16 | 2 << 30 | 1 << 32, lower=LOWER, tables=tables.at[30][0], seed=seed * 77,
        counts=COUNTS, shared=SHARED, count=len(CASES), cases=cases,
    )  # fmt: skip

    def prepare(machine: Machine) -> None:
        machine.memory.write(LOWER, identity(), "test")
        machine.memory.write(TABLES, tables.bytes(), "test")
        pool = struct.pack("<II", RET, 0) * (POOL_SIZE // 8)
        machine.memory.write(POOL, pool, "test")

    turns: list[int] = []

    def finish(machine: Machine) -> None:
        turns.extend(machine.memory.read_u64(COUNTS + 8 * n, "test") for n in range(vcpus))

    end = run(
        assemble(guest), vcpus=vcpus, pcpus=3, start_all=True, prepare=prepare,
        finish=finish, until_ns=4 * MS, quantum_ns=quantum_ns, slice_ns=300_000,
    )  # fmt: skip
    assert end.event in (None, SystemEvent.OFF), end.event
    return turns


@pytest.mark.parametrize("quantum_ns", [1_000, 100_000])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_storm_runs_until_the_limit_and_every_vcpu_gets_on(seed: int, quantum_ns: int) -> None:
    turns = storm(seed, quantum_ns, vcpus=4)
    assert min(turns) > 1000, turns


def test_a_storm_is_the_same_each_time() -> None:
    assert storm(99, 1_000, vcpus=4) == storm(99, 1_000, vcpus=4)
