/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The entries of all VCPUs, at EL1 with the MMU off (Linux/arm64 boot protocol), and the vector. */
#include "guest.h"

#define MAIR		0xff04			/* 0: Device-nGnRE, 1: Normal write-back */
#define TCR		(25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)	/* 39-bit VA, WB, IS, no TTBR1 */
#define SCTLR_M_C_I	(1 << 0 | 1 << 2 | 1 << 12)
#define CNTKCTL_EVENTS	(1 << 2 | 15 << 4)	/* event stream: wakes a WFE now and then */

.section .text.start, "ax"
.global _start
_start:
	mov	x19, x0
	msr	spsel, #1
	adrp	x1, boot_stack_end
	add	sp, x1, :lo12:boot_stack_end
	bl	board_read
	bl	mmu_prepare
	bl	mmu_on
	bl	console_init
	bl	main
	b	.

/* X0: a struct start {stack, body, cpu}, which cpu_on() cleaned to the point of coherency. */
.global secondary_start
secondary_start:
	msr	spsel, #1
	ldp	x1, x20, [x0]
	ldr	x19, [x0, #16]
	mov	sp, x1
	bl	mmu_on
	mov	x0, x19
	mov	x1, x20
	bl	secondary_main
	b	.

.text
mmu_on:
	ldr	x1, =MAIR
	msr	mair_el1, x1
	ldr	x1, =TCR
	mrs	x2, id_aa64mmfr0_el1
	and	x2, x2, #7			/* PARange, at most 48 bits */
	cmp	x2, #5
	mov	x3, #5
	csel	x2, x2, x3, lo
	orr	x1, x1, x2, lsl #32
	msr	tcr_el1, x1
	adrp	x1, page_table
	add	x1, x1, :lo12:page_table
	msr	ttbr0_el1, x1
	adr	x1, vectors
	msr	vbar_el1, x1
	mov	x1, #CNTKCTL_EVENTS
	msr	cntkctl_el1, x1
	dsb	ish
	tlbi	vmalle1
	ic	iallu
	dsb	nsh
	isb
	mrs	x1, sctlr_el1
	ldr	x2, =SCTLR_M_C_I
	orr	x1, x1, x2
	msr	sctlr_el1, x1
	isb
	ret

/* An exception here is a bug in the guest: print what it was, and turn the machine off. */
.balign 2048
vectors:
.rept	16
	.balign 128
	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	b	exception
.endr

.bss
.balign 16
boot_stack:
	.skip	STACK_SIZE
boot_stack_end:
