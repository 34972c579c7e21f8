/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The operations that may fault, each a function of (X0, X1: an address, X2: a value), and the
 * vector that survives them. The vector leaves the syndrome of an exception in TPIDRRO_EL0, where
 * op() of random.c looks for it, and goes on with the instruction after the faulting one. It
 * touches no memory, since the MMU may be off and SP may be any.
 */
.arch armv8.5-a

.global fuzz_ops, fuzz_ops_end
.text
.balign 64
fuzz_ops:

/* ---- accesses: two tables of entries of 32 bytes ---- */
.macro access code:vararg
	.balign 32
	\code
	ret
.endm

.balign 32
.global fuzz_loads
fuzz_loads:
	access ldrb w0, [x1]
	access ldrh w0, [x1]
	access ldr w0, [x1]
	access ldr x0, [x1]
	access ldrsb x0, [x1]
	access ldrsw x0, [x1]
	access ldur x0, [x1, #-3]
	access ldtr x0, [x1]
	access ldp x0, x9, [x1]
	access ldnp x0, x9, [x1]
	access ldxr x0, [x1]
	access ldaxr w0, [x1]
	access ldxp x0, x9, [x1]
	access ldar x0, [x1]
	access ldr x0, [x1], #8
	access ldr x0, [x1, #8]!
	access ldr q0, [x1]
	access ldp q0, q1, [x1]
	access ld1 {v0.16b}, [x1]
	access ld4 {v0.b, v1.b, v2.b, v3.b}[3], [x1]
	access prfm pldl1keep, [x1]
	.balign 32
	.global fuzz_loads_end
fuzz_loads_end:

.global fuzz_stores
fuzz_stores:
	access strb w2, [x1]
	access strh w2, [x1]
	access str w2, [x1]
	access str x2, [x1]
	access stur x2, [x1, #-3]
	access sttr x2, [x1]
	access stp x2, x2, [x1]
	access stnp x2, x2, [x1]
	access stlr x2, [x1]
	access stlrb w2, [x1]
	access str x2, [x1], #8
	access str x2, [x1, #8]!
	access stp x2, x2, [x1, #-16]!
	access ldxr x9, [x1]; stxr w9, x2, [x1]
	access ldaxr w9, [x1]; stlxr w9, w2, [x1]
	access ldxp x9, x10, [x1]; stlxp w9, x2, x2, [x1]
	access ldadd x2, x0, [x1]
	access stset x2, [x1]
	access swpal x2, x0, [x1]
	access ldclrb w2, w0, [x1]
	access mov x9, #0; cas x9, x2, [x1]
	access mov x8, #0; mov x9, #0; mov x10, x2; mov x11, x2; caspal x8, x9, x10, x11, [x1]
	access dup v0.2d, x2; str q0, [x1]
	access dup v0.2d, x2; stp q0, q0, [x1]
	access dup v0.2d, x2; st1 {v0.16b}, [x1]
	access dup v0.2d, x2; st4 {v0.b, v1.b, v2.b, v3.b}[3], [x1]
	access dup v0.2d, x2; str h0, [x1]
	access dc zva, x1
	access dc civac, x1
	access dc cvac, x1
	access dc ivac, x1
	access dc cvau, x1
	access ic ivau, x1
	access at s1e1w, x1
	access at s1e0r, x1
	.balign 32
	.global fuzz_stores_end
fuzz_stores_end:

/* ---- system registers: entries of 8 bytes; GIC() and PMR of fuzz.h number them ---- */
.macro read register
	mrs	x0, \register
	ret
.endm
.macro write register
	msr	\register, x2
	ret
.endm
.macro row verb, of
	.irp op2, 0, 1, 2, 3, 4, 5, 6, 7
	\verb \of\op2
	.endr
.endm
.macro registers verb
	row \verb, s3_0_c12_c8_	/* those of the GIC, and the numbers between them */
	row \verb, s3_0_c12_c9_
	row \verb, s3_0_c12_c10_
	row \verb, s3_0_c12_c11_
	row \verb, s3_0_c12_c12_
	row \verb, s3_3_c14_c0_	/* the counters and timers */
	row \verb, s3_3_c14_c1_
	row \verb, s3_3_c14_c2_
	row \verb, s3_3_c14_c3_
	\verb s3_0_c4_c6_0		/* ICC_PMR_EL1 */
.endm
.global fuzz_reads, fuzz_writes
fuzz_reads:
	registers read
fuzz_writes:
	registers write

/* ---- exceptions and interrupts ---- */
.global fuzz_trap
fuzz_trap:
	and	x2, x2, #7
	adr	x9, 1f
	add	x9, x9, x2, lsl #3
	br	x9
1:	svc	#1
	ret
	brk	#2
	ret
	udf	#3
	ret
	smc	#4
	ret
	svc	#0xffff
	ret
	msr	sctlr_el2, x2		/* a register of EL2 */
	ret
	mrs	x0, vttbr_el2
	ret
	hlt	#7
	ret

/* Interrupts unmasked, for a moment. */
.global fuzz_open
fuzz_open:
	msr	daifclr, #3
	isb
	nop
	nop
	msr	daifset, #15
	ret

/* Branch to X1. The vector brings a fault there back to the address in X30. */
.global fuzz_branch
fuzz_branch:
	stp	x29, x30, [sp, #-16]!
	blr	x1
	ldp	x29, x30, [sp], #16
	ret

/* An exception return with any SPSR, legal or not. */
.global fuzz_eret
fuzz_eret:
	adr	x9, 1f
	msr	elr_el1, x9
	msr	spsr_el1, x2
	eret
1:	msr	spsel, #1
	msr	daifset, #15
	isb
	ret

/* A load and a store with the MMU off, without stage 1. */
.global fuzz_flat
fuzz_flat:
	mrs	x9, sctlr_el1
	bic	x10, x9, #1
	msr	sctlr_el1, x10
	isb
	ldr	x0, [x1]
	str	x2, [x1]
	msr	sctlr_el1, x9
	isb
	ret

.global fuzz_tlbi
fuzz_tlbi:
	tlbi	vaae1is, x1
	tlbi	vmalle1is
	dsb	ish
	isb
	ret

.global fuzz_hint
fuzz_hint:
	sev
	wfe
	yield
	sevl
	wfe
	wfe
	isb
	ret
fuzz_ops_end:

/* ---- the vector: TPIDR_EL1 and TPIDR_EL0 keep X0 and X1 ---- */
.macro handler label
	.balign 128
	msr	tpidr_el1, x0
	msr	tpidr_el0, x1
	b	\label
.endm
.balign 2048
.global fuzz_vectors
fuzz_vectors:
	.rept 4
	handler synchronous
	handler irq
	handler fiq
	handler unexpected
	.endr

synchronous:
	mrs	x0, esr_el1
	msr	tpidrro_el0, x0
	/* Only these operations may fault, or the address to which they branched. */
	mrs	x0, elr_el1
	adr	x1, fuzz_ops
	cmp	x0, x1
	b.lo	elsewhere
	adr	x1, fuzz_ops_end
	cmp	x0, x1
	b.hs	elsewhere
	mrs	x0, esr_el1
	lsr	x0, x0, #26
	cmp	x0, #0x15		/* SVC returns to the next instruction by itself */
	b.eq	legal
	cmp	x0, #0x0e		/* illegal execution state: again, now in a legal state */
	b.eq	legal
	cmp	x0, #0x20		/* EL0 could not fetch it, EL1 can: again */
	b.eq	legal
	mrs	x0, elr_el1
	add	x0, x0, #4
	b	resume
elsewhere:
	adr	x1, fuzz_ops
	cmp	x30, x1
	b.lo	unexpected
	adr	x1, fuzz_ops_end
	cmp	x30, x1
	b.hs	unexpected
	mov	x0, x30
resume:
	msr	elr_el1, x0
legal:
	mrs	x0, spsr_el1
	and	x0, x0, #0xf0000000	/* NZCV */
	mov	x1, #0x3c5		/* EL1h, all masked */
	orr	x0, x0, x1
	msr	spsr_el1, x0
out:
	mrs	x1, tpidr_el0
	mrs	x0, tpidr_el1
	eret

/* The interrupted code goes on with interrupts masked, else one could come again and again. */
irq:
	mrs	x0, s3_0_c12_c12_0	/* ICC_IAR1_EL1 */
	msr	s3_0_c12_c12_1, x0	/* ICC_EOIR1_EL1 */
	b	interrupted
fiq:
	mrs	x0, s3_0_c12_c8_0	/* ICC_IAR0_EL1 */
	msr	s3_0_c12_c8_1, x0	/* ICC_EOIR0_EL1 */
interrupted:
	msr	cntv_ctl_el0, xzr
	msr	cntp_ctl_el0, xzr
	mov	x0, #1
	msr	tpidrro_el0, x0
	mrs	x0, spsr_el1
	orr	x0, x0, #0x3c0
	msr	spsr_el1, x0
	b	out

unexpected:
	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	b	exception

/* CPU_ON enters here, MMU off, with any X0: MPIDR_EL1 says which seat of fuzz.c is this VCPU's. */
.global fuzz_entry
fuzz_entry:
	mrs	x1, mpidr_el1
	ldr	x2, =0xff00ffffff
	and	x1, x1, x2
	adrp	x0, fuzz_seats
	add	x0, x0, :lo12:fuzz_seats
1:	ldr	x2, [x0, #24]
	cmp	x1, x2
	b.eq	2f
	add	x0, x0, #64
	b	1b
2:	b	secondary_start
