// SPDX-License-Identifier: GPL-2.0-or-later
/* Does every kind of store to this VCPU's PV-lock structure, and prints what came of it. */
#include "guest.h"
#include "pvlock.h"

#define LSE ".arch_extension lse\n\t"
#define SIMD ".arch_extension simd\n\t"

u64 esr, far; /* the vector stores to them by name */
void store_vectors(void);

/* The vector goes on with the instruction after the store, 4 bytes further on. */
__asm__(
	".balign 2048\n"
	".global store_vectors\n"
	"store_vectors:\n"
	".rept 16\n"
	"	.balign 128\n"
	"	stp x0, x1, [sp, #-16]!\n"
	"	mrs x0, esr_el1\n"
	"	adrp x1, esr\n	str x0, [x1, :lo12:esr]\n"
	"	mrs x0, far_el1\n"
	"	adrp x1, far\n	str x0, [x1, :lo12:far]\n"
	"	mrs x0, elr_el1\n"
	"	add x0, x0, #4\n"
	"	msr elr_el1, x0\n"
	"	ldp x0, x1, [sp], #16\n"
	"	eret\n"
	".endr\n");

#define STORE(name, code)                                                                 \
	do {                                                                              \
		u64 before = *word, scratch = 0;                                          \
		esr = far = 0;                                                            \
		asm volatile(code : "+r"(scratch) : "r"(word), "r"(~0ul) : "memory", \
			     "x8", "x9", "x10", "x11"); \
		print("%s esr %lx far %lx before %lx after %lx\n", name, load(&esr),      \
		      load(&far), before, *word);                                         \
	} while (0)

void main(void)
{
	volatile u64 *word;

	asm volatile("msr cpacr_el1, %0\n\tisb" : : "r"(3ul << 20));
	word = (u64 *)hvc(PV_LOCK_PREEMPTED, 0, 0, 0);
	map((u64)word, 4096, DATA);
	asm volatile("dsb ish\n\tisb");
	asm volatile("msr vbar_el1, %0\n\tisb" : : "r"(store_vectors));
	print("structure %lx\n", (u64)word);
	STORE("STR", "str %2, [%1]");
	STORE("STRB", "strb %w2, [%1]");
	STORE("STUR", "stur %2, [%1, #8]");
	STORE("STR-post", "mov x9, %1\n\tstr %2, [x9], #8");
	STORE("STLR", "stlr %2, [%1]");
	STORE("STP", "stp %2, %2, [%1]");
	STORE("STNP", "stnp %2, %2, [%1]");
	STORE("STXR", "ldxr x9, [%1]\n\tstxr w10, %2, [%1]");
	STORE("STLXP", "ldxp x9, x10, [%1]\n\tstlxp w9, %2, %2, [%1]");
	STORE("LDADD", LSE "ldadd %2, x9, [%1]");
	STORE("STSET", LSE "stset %2, [%1]");
	STORE("SWPAL", LSE "swpal %2, x9, [%1]");
	STORE("CAS", LSE "mov x9, #0\n\tcas x9, %2, [%1]");
	STORE("CASP", LSE "mov x8, #0\n\tmov x9, #0\n\tmov x10, #1\n\tmov x11, #1\n\t"
		      "caspal x8, x9, x10, x11, [%1]");
	STORE("SIMD-STR", SIMD "movi v0.16b, #255\n\tstr q0, [%1]");
	STORE("SIMD-STP", SIMD "movi v0.16b, #255\n\tstp q0, q0, [%1]");
	STORE("SIMD-ST1", SIMD "movi v0.16b, #255\n\tst1 {v0.16b}, [%1]");
	STORE("SIMD-ST4", SIMD "movi v0.16b, #255\n\tst4 {v0.b, v1.b, v2.b, v3.b}[3], [%1]");
	STORE("DC-ZVA", "dc zva, %1");
	print("end\n");
	system_off();
}
