/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The header of a Linux Image, the entries of all CPUs, and the exception vector. Entered with the
 * MMU off at EL1, or at EL2, which it leaves at once (Linux, Documentation/arch/arm64/booting.rst).
 */
#include "conf.h"

#define MAIR		0xff04			/* 0: Device-nGnRE, 1: Normal write-back */
#define TCR		(16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)	/* 48-bit VA, WB, IS, no TTBR1 */
#define SCTLR_RES1	0x30d00800
#define SCTLR_M_C_I	(1 << 0 | 1 << 2 | 1 << 12)
#define CPACR_FPEN	(3 << 20)
#define EL1H_MASKED	0x3c5

/* After this, [x0, x1) reads the same with caches and without. Clobbers x2, x3. */
.macro clean_and_invalidate
	mrs	x2, ctr_el0
	ubfx	x2, x2, #16, #4			/* DminLine */
	mov	x3, #4
	lsl	x2, x3, x2
	sub	x3, x2, #1
	bic	x0, x0, x3
.Lline\@:
	dc	civac, x0
	add	x0, x0, x2
	cmp	x0, x1
	b.lo	.Lline\@
	dsb	sy
.endm

.macro address reg, symbol
	adrp	\reg, \symbol
	add	\reg, \reg, :lo12:\symbol
.endm

.section .head, "ax"
.global _start
_start:
	b	boot
	.word	0
	.quad	0				/* text_offset */
	.quad	image_size
	.quad	0xa				/* little-endian, 4 KiB pages, anywhere in memory */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.word	0

.text
boot:
	mov	x19, x0				/* the device tree */
	mrs	x20, currentel
	bl	to_el1
	/* We write with caches off: a line of our data that a cache still holds must not win. */
	adr	x21, _start			/* linked at 0: this is how far it was moved */
	address	x0, text_end
	address	x1, bss_end
	clean_and_invalidate
	address	x1, rela_start
	address	x2, rela_end
1:	cmp	x1, x2
	b.hs	2f
	ldp	x3, x4, [x1]			/* r_offset, r_info */
	ldr	x5, [x1, #16]			/* r_addend */
	add	x1, x1, #24
	cmp	w4, #1027			/* R_AARCH64_RELATIVE; a test finds no other */
	b.ne	1b
	add	x5, x5, x21
	str	x5, [x3, x21]
	b	1b
2:	address	x1, bss_start
	address	x2, bss_end
3:	stp	xzr, xzr, [x1], #16
	cmp	x1, x2
	b.lo	3b
	address	x1, conf_boot_stack + BOOT_STACK_SIZE
	mov	sp, x1
	address	x1, conf_cpus
	msr	tpidr_el1, x1
	mov	x0, x19
	lsr	x1, x20, #2
	bl	conf_prepare
	address	x0, text_end
	address	x1, bss_end
	clean_and_invalidate
	bl	mmu_on
	bl	main
	b	.

/* X0: a struct cpu {stack, ...}, which conf_cpu_on() cleaned to the point of coherency. */
.global conf_secondary_start
conf_secondary_start:
	mov	x19, x0
	bl	to_el1
	msr	tpidr_el1, x19
	ldr	x1, [x19]
	mov	sp, x1
	bl	mmu_on
	mov	x0, x19
	bl	conf_secondary_main
	b	.

/* Return at EL1 with a known state. Clobbers x1. */
to_el1:
	msr	daifset, #15
	mrs	x1, currentel
	cmp	x1, #2 << 2
	b.ne	1f
	mov	x1, #1 << 31			/* HCR_EL2.RW */
	msr	hcr_el2, x1
	mov	x1, #3				/* the counter and timer do not trap */
	msr	cnthctl_el2, x1
	msr	cntvoff_el2, xzr
	mov	x1, #0x33ff			/* CPTR_EL2: floating point does not trap */
	msr	cptr_el2, x1
	msr	hstr_el2, xzr
	msr	vttbr_el2, xzr
	mrs	x1, midr_el1
	msr	vpidr_el2, x1
	mrs	x1, mpidr_el1
	msr	vmpidr_el2, x1
	mrs	x1, id_aa64pfr0_el1
	ubfx	x1, x1, #24, #4
	cbz	x1, 2f
	mov	x1, #0xf
	msr	s3_4_c12_c9_5, x1		/* ICC_SRE_EL2 */
	isb
	msr	s3_4_c12_c11_0, xzr		/* ICH_HCR_EL2 */
2:	ldr	w1, =SCTLR_RES1
	msr	sctlr_el1, x1
	mov	x1, #EL1H_MASKED
	msr	spsr_el2, x1
	msr	elr_el2, x30
	eret
1:	msr	spsel, #1
	ldr	w1, =SCTLR_RES1
	msr	sctlr_el1, x1
	isb
	ret

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
	address	x1, conf_page_table
	msr	ttbr0_el1, x1
	address	x1, conf_vectors
	msr	vbar_el1, x1
	mov	x1, #CPACR_FPEN
	msr	cpacr_el1, x1
	msr	cntkctl_el1, xzr
	dsb	sy
	tlbi	vmalle1
	ic	iallu
	dsb	nsh
	isb
	ldr	w1, =(SCTLR_RES1 | SCTLR_M_C_I)
	msr	sctlr_el1, x1
	isb
	ret

/* void smccc_call(u64 x[18], u64 smc): X0 to X17 from memory, the call, and back to memory. */
.global conf_smccc_call
conf_smccc_call:
	stp	x29, x30, [sp, #-32]!
	stp	x19, x20, [sp, #16]
	mov	x19, x0
	mov	x20, x1
	ldp	x2, x3, [x19, #16]
	ldp	x4, x5, [x19, #32]
	ldp	x6, x7, [x19, #48]
	ldp	x8, x9, [x19, #64]
	ldp	x10, x11, [x19, #80]
	ldp	x12, x13, [x19, #96]
	ldp	x14, x15, [x19, #112]
	ldp	x16, x17, [x19, #128]
	ldp	x0, x1, [x19]
	cbnz	x20, 1f
	hvc	#0
	b	2f
1:	.inst	0xd4000003			/* smc #0; the assembler knows it for EL3 only */
2:	stp	x0, x1, [x19]
	stp	x2, x3, [x19, #16]
	stp	x4, x5, [x19, #32]
	stp	x6, x7, [x19, #48]
	stp	x8, x9, [x19, #64]
	stp	x10, x11, [x19, #80]
	stp	x12, x13, [x19, #96]
	stp	x14, x15, [x19, #112]
	stp	x16, x17, [x19, #128]
	ldp	x19, x20, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret

/*
 * u64 conf_beat(struct cpu *me, const u64 *flag): count, and look at our own flag, until another
 * CPU sets CPU_STOP. It is in assembly so that each turn is one load of the flag and one store.
 */
.global conf_beat
conf_beat:
	mov	x2, x0
	mov	x0, xzr				/* how often the flag was not 0 */
	ldr	x3, [x2, #CPU_BEATS]
1:	ldr	x4, [x1]
	cbz	x4, 2f
	add	x0, x0, #1
2:	add	x3, x3, #1
	str	x3, [x2, #CPU_BEATS]
	ldr	w4, [x2, #CPU_STOP]
	cbz	w4, 1b
	ret

/*
 * A CPU that expects a fault (struct cpu.expect) finds the syndrome in its struct, and goes on with
 * the instruction after the faulty one. Any other exception ends the run.
 */
.balign 2048
.global conf_vectors
conf_vectors:
.rept	16
	.balign 128
	stp	x0, x1, [sp, #-16]!
	mrs	x0, tpidr_el1
	ldr	w1, [x0, #CPU_EXPECT]
	cbz	w1, 1f
	mrs	x1, esr_el1
	str	x1, [x0, #CPU_ESR]
	mrs	x1, far_el1
	str	x1, [x0, #CPU_FAR]
	mrs	x1, elr_el1
	add	x1, x1, #4
	msr	elr_el1, x1
	ldp	x0, x1, [sp], #16
	eret
1:	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	b	conf_exception
.endr

.bss
.balign 16
.global conf_boot_stack
conf_boot_stack:
	.skip	BOOT_STACK_SIZE
