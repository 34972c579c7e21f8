// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: every kind of store to this VCPU's own structure (section 7). */
#include "conf.h"
#include "cases.h"

#define LSE_ASM ".arch_extension lse\n\t"
#define SIMD_ASM ".arch_extension simd\n\t"

enum {
	EC_DATA_ABORT = 0x25,		/* from the same exception level */
	FSC_EXTERNAL = 0x10,		/* synchronous external abort, not on a table walk */
};

static u64 *target;
static struct cpu *me;
static u32 tried, wrong;

/* Make the structure writable at stage 1. False if there is none: the case has then failed. */
static bool begin(void)
{
	if (!conf_surveys[0].readable) {
		conf_fail("this VCPU's structure cannot be read");
		return false;
	}
	target = (u64 *)conf_surveys[0].address;
	me = &conf_cpus[0];
	tried = wrong = 0;
	conf_map_page((u64)target, DATA);
	return true;
}

static void end(void)
{
	conf_map_page((u64)target, READ_ONLY);
	conf_note("stores: %u\n", tried);
	if (wrong)
		conf_note("wrong: %u\n", wrong);
}

static u64 content(void)
{
	u64 all = 0;

	for (u32 i = 0; i < WORDS; i++)
		all |= load(&target[i]);
	return all;
}

static void before_store(void)
{
	me->esr = me->far = 0;
	store_release(&me->expect, 1);
}

static void after_store(const char *kind)
{
	u64 esr, far, now = content();

	store_release(&me->expect, 0);
	esr = load(&me->esr), far = load(&me->far);
	tried++;
	if (esr >> 26 == EC_DATA_ABORT && (esr & 0x3f) == FSC_EXTERNAL && !now &&
	    far >= (u64)target && far < (u64)target + 64)
		return;
	/* Only the first one, since a key of the evidence may stand there only once. */
	if (!wrong++)
		conf_note("store: %s\nesr: 0x%lx\nfar: 0x%lx\ncontent: 0x%lx\n", kind, esr, far,
			  now);
	if (now)
		conf_fail("a store changed the structure");
	else if (!esr)
		conf_fail("a store was ignored: no abort");
	else
		conf_fail("a store raised something else than a synchronous external abort");
	/* Leave the structure as it must be, if this guest can. */
	store_release(&me->expect, 1);
	for (u32 i = 0; i < WORDS; i++)
		store(&target[i], 0);
	store_release(&me->expect, 0);
}

/* The handler goes on with the instruction after the store. */
#define STORE(kind, code)                                                                 \
	do {                                                                              \
		before_store();                                                           \
		asm volatile(code : : "r"(target), "r"(~0ul)                              \
			     : "memory", "x8", "x9", "x10", "x11");                       \
		after_store(kind);                                                        \
	} while (0)

void case_store_plain(void)
{
	if (!begin())
		return;
	STORE("STR", "str %1, [%0]");
	STORE("STRB", "strb %w1, [%0]");
	STORE("STRH", "strh %w1, [%0, #2]");
	STORE("STUR", "stur %1, [%0, #8]");
	STORE("STR-post-indexed", "mov x9, %0\n\tstr %1, [x9], #8");
	STORE("STLR", "stlr %1, [%0]");
	end();
}

void case_store_pair(void)
{
	if (!begin())
		return;
	STORE("STP", "stp %1, %1, [%0]");
	STORE("STNP", "stnp %1, %1, [%0, #16]");
	end();
}

void case_store_exclusive(void)
{
	if (!begin())
		return;
	STORE("STXR", "ldxr x9, [%0]\n\tstxr w10, %1, [%0]");
	STORE("STLXP", "ldxp x9, x10, [%0]\n\tstlxp w11, %1, %1, [%0]");
	end();
}

void case_store_atomic(void)
{
	u64 isar0;

	asm("mrs %0, id_aa64isar0_el1" : "=r"(isar0));
	if ((isar0 >> 20 & 15) < 2) {
		conf_skip("this CPU has no LSE atomics");
		return;
	}
	if (!begin())
		return;
	STORE("LDADD", LSE_ASM "ldadd %1, x9, [%0]");
	STORE("STSET", LSE_ASM "stset %1, [%0]");
	STORE("SWPAL", LSE_ASM "swpal %1, x9, [%0]");
	STORE("CAS", LSE_ASM "mov x9, #0\n\tcas x9, %1, [%0]");
	STORE("CASPAL", LSE_ASM "mov x8, #0\n\tmov x9, #0\n\tmov x10, #1\n\tmov x11, #1\n\t"
				"caspal x8, x9, x10, x11, [%0]");
	end();
}

void case_store_simd(void)
{
	if (!begin())
		return;
	STORE("STR-SIMD", SIMD_ASM "movi v0.16b, #255\n\tstr q0, [%0]");
	STORE("STP-SIMD", SIMD_ASM "movi v0.16b, #255\n\tstp q0, q0, [%0]");
	STORE("ST1", SIMD_ASM "movi v0.16b, #255\n\tst1 {v0.16b}, [%0]");
	STORE("ST4", SIMD_ASM "movi v0.16b, #255\n\tst4 {v0.b, v1.b, v2.b, v3.b}[3], [%0]");
	end();
}

void case_store_zva(void)
{
	u64 dczid;

	asm("mrs %0, dczid_el0" : "=r"(dczid));
	if (dczid & 16) {
		conf_skip("this CPU forbids DC ZVA");
		return;
	}
	if (!begin())
		return;
	STORE("DC-ZVA", "dc zva, %0");
	end();
}
