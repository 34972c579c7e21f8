# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of assembly that the guests of several tests share; each is text for asm.assemble()."""

# X0 has the VCPU's index, and keeps it; SP gets 64 KiB for each.
SETUP = """
	adr x1, vectors
	msr vbar_el1, x1
	set x1, 0x43000000
	add x1, x1, x0, lsl #16
	mov sp, x1
	mov x1, #3 << 20
	msr cpacr_el1, x1
	isb
	set x20, 0x9e3779b97f4a7c15
	add x21, x0, #1
	mul x20, x20, x21
"""

# The next random number (xorshift64) in X20.
RANDOM = """
	eor x20, x20, x20, lsl #13
	eor x20, x20, x20, lsr #7
	eor x20, x20, x20, lsl #17
"""

GIC_ON = """
	set x1, 0x08000000		// GICD_CTLR: both groups
	mov w2, #3
	str w2, [x1]
	set x1, 0x080b0000		// SGI_base of this VCPU: all in Group 1, enabled
	add x1, x1, x0, lsl #17
	mov w2, #-1
	str w2, [x1, #0x80]
	str w2, [x1, #0x100]
	mov x1, #0xf8
	msr s3_0_c4_c6_0, x1
	mov x1, #1
	msr s3_0_c12_c12_7, x1
	msr s3_0_c12_c12_6, x1
	isb
"""

# Steps over what faulted, whatever it was; clobbers nothing. Interrupts return at once.
SKIPPING_VECTOR = """
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b skip
	.balign 128
	eret
	.balign 128
	eret
	.balign 128
	eret
	.endr
skip:
	stp x28, x29, [sp, #-16]!
	mrs x28, elr_el1
	add x28, x28, #4
	msr elr_el1, x28
	ldp x28, x29, [sp], #16
	eret
"""

# As SKIPPING_VECTOR, but an IRQ is acknowledged and ended.
ACKNOWLEDGING_VECTOR = """
	.balign 2048
vectors:
	.rept 4
	.balign 128
	b skip
	.balign 128
	b irq
	.balign 128
	eret
	.balign 128
	eret
	.endr
irq:
	stp x28, x29, [sp, #-16]!
	mrs x28, s3_0_c12_c12_0
	msr s3_0_c12_c12_1, x28
	add x27, x27, #1
	ldp x28, x29, [sp], #16
	eret
skip:
	mrs x28, elr_el1
	add x28, x28, #4
	msr elr_el1, x28
	eret
"""

# Prints a letter from the vector, so that the test knows that it got there, and ends the machine.
TELLING_VECTOR = """
	.balign 2048
vectors:
	.rept 16
	.balign 128
	b tell
	.endr
tell:
	set x1, 0x09000000
	mov w2, #'v'
	strb w2, [x1]
	off
"""


def mmu_on(tables: int = 0x4010_0000) -> str:
    """Switch the MMU on, with 39 bits of addresses, and TTBR0_EL1 at `tables`. X1, X2 are lost."""
    return f"""
	set x1, 0xff04
	msr mair_el1, x1
	set x1, 0x100803519
	msr tcr_el1, x1
	set x1, {tables:#x}
	msr ttbr0_el1, x1
	tlbi vmalle1
	dsb sy
	isb
	mrs x1, sctlr_el1
	set x2, 0x1005
	orr x1, x1, x2
	msr sctlr_el1, x1
	isb
"""
