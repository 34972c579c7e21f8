# SPDX-License-Identifier: GPL-2.0-or-later
"""Storms of what traps: hypercalls, SGIs, system registers and devices, with random values."""

import pytest

from asm import assemble
from fragments import ACKNOWLEDGING_VECTOR, GIC_ON, RANDOM, SETUP, SKIPPING_VECTOR
from hostile import run

pytestmark = pytest.mark.usefixtures("bounded")

HYPERCALLS = (
    SETUP
    + """
1:""" + RANDOM + """
	mov x0, x20
	and x5, x20, #7
	cmp x5, #2
	b.lo call
	// a known service, a number near its beginning, maybe an argument that some call knows
	adr x6, services
	ldr w0, [x6, x5, lsl #2]
	ubfx x7, x20, #8, #6
	orr x0, x0, x7
call:""" + RANDOM + """
	and x1, x20, #0xf
	and w6, w0, #0xbfffffff		// PSCI CPU_OFF, SYSTEM_OFF, SYSTEM_RESET: not yet
	movz w7, #0x8400, lsl #16
	eor w6, w6, w7
	cmp w6, #2
	b.eq 1b
	cmp w6, #3
	b.eq 1b
	cmp w6, #8
	b.eq 1b
	cmp w6, #9
	b.eq 1b
	eor x2, x20, x0
	ror x3, x20, #17
	hvc #0
	cbnz x1, 2f
2:	b 1b
	.balign 4
services:
	.word 0x80000000, 0x80000000, 0x84000000, 0xc4000000, 0xc5000000, 0xc6000000, 0x86000000
	.word 0xc6000020
"""
    + SKIPPING_VECTOR
)  # fmt: skip


@pytest.mark.parametrize("pvlock", [True, False])
def test_random_hypercalls_from_four_vcpus_run_until_the_limit(pvlock: bool) -> None:
    end = run(assemble(HYPERCALLS), vcpus=4, start_all=True, pvlock=pvlock)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["hvc"] > 10_000


@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_a_storm_of_sgis_runs_until_the_limit(vector: str) -> None:
    storm = "msr daifclr, #15\n1:" + RANDOM + """
	msr s3_0_c12_c11_5, x20
	ubfx x3, x20, #3, #40
	and x3, x3, #0xffffffff0f00000f
	msr s3_0_c12_c11_5, x3
	msr s3_0_c12_c11_6, x3
	msr s3_0_c12_c11_7, x3
	b 1b
"""  # fmt: skip
    storm = storm.replace("and x3, x3, #0xffffffff0f00000f", "set x4, 0x0f00000f\nand x3, x3, x4")
    guest = SETUP + "mov x27, #0\n" + GIC_ON + storm + vector
    end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True, registers=("x27",))
    assert end.event is None
    assert end.usage is not None
    if vector is ACKNOWLEDGING_VECTOR:
        assert end.usage.exits["sysreg"] > 1000
        assert end.registers["x27"] > 10


CPU_INTERFACE = [
    *("s3_0_c4_c6_0", "s3_0_c12_c12_7", "s3_0_c12_c12_6", "s3_0_c12_c12_5", "s3_0_c12_c12_4"),
    *("s3_0_c12_c12_3", "s3_0_c12_c8_3", "s3_0_c12_c8_4", "s3_0_c12_c9_0", "s3_0_c12_c12_1"),
    *("s3_0_c12_c8_1", "s3_0_c12_c11_1", "s3_0_c12_c11_5", "s3_0_c12_c11_7", "s3_0_c12_c12_0"),
    *("s3_0_c12_c8_0", "s3_0_c12_c12_2", "s3_0_c12_c8_2", "s3_0_c12_c11_3", "s3_0_c12_c10_7"),
]
TIMERS = [
    *("cntv_ctl_el0", "cntv_cval_el0", "cntv_tval_el0", "cntp_ctl_el0", "cntp_cval_el0"),
    *("cntp_tval_el0", "cntkctl_el1", "s3_3_c14_c0_2", "s3_3_c14_c0_1", "s3_3_c14_c0_0"),
]


@pytest.mark.parametrize("registers", [CPU_INTERFACE, TIMERS], ids=["cpu-interface", "timers"])
@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_random_values_in_system_registers_run_until_the_limit(
    registers: list[str], vector: str
) -> None:
    accesses = "".join(f"{RANDOM}\nmsr {name}, x20\nmrs x3, {name}\n" for name in registers)
    guest = SETUP + "mov x27, #0\n" + GIC_ON + f"msr daifclr, #15\n1: {accesses} b 1b\n" + vector
    # Where interrupts are ignored, one that stays pending stops a VCPU for good: so several seeds.
    exits = 0
    for seed in (1, 2, 3, 4):
        end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True, seed=seed)
        assert end.event is None
        assert end.usage is not None
        exits += sum(end.usage.exits.values())
    assert exits > 1000


@pytest.mark.parametrize("vector", [ACKNOWLEDGING_VECTOR, SKIPPING_VECTOR], ids=["ack", "ignore"])
def test_random_gic_and_console_mmio_runs_until_the_limit(vector: str) -> None:
    loop = "1:" + RANDOM + """
	set x3, 0x08000000
	tbnz x20, #40, 2f
	set x3, 0x080a0000
	tbnz x20, #41, 2f
	set x3, 0x09000000
2:	and x4, x20, #0xff000		// frames, and a bit beyond
	tbnz x20, #42, 3f
	mov x4, #0x10000
3:	and x5, x20, #0xfff
	add x3, x3, x4
	add x3, x3, x5
	str x20, [x3]
	ldr x6, [x3]
	and x3, x3, #~3
	str w20, [x3]
	ldr w6, [x3]
	ldrsw x6, [x3]
	strb w20, [x3]
	ldrsb w6, [x3]
	strh w20, [x3]
	ldrsh x6, [x3]
	ldp x6, x7, [x3]
	b 1b
"""  # fmt: skip
    guest = SETUP + "mov x27, #0\n" + GIC_ON + "msr daifclr, #15\n" + loop + vector
    end = run(assemble(guest), vcpus=4, pcpus=2, start_all=True)
    assert end.event is None
    assert end.usage is not None
    assert end.usage.exits["data_abort"] > 1000
