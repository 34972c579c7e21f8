// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VCPU 0 changes code and page tables that VCPU 1 has used, and executes IC and TLBI, which must
 * reach VCPU 1. In the last round VCPU 1 executes the IC itself.
 */
#include "guest.h"

#define GIB 0x40000000ul
#define NORMAL_BLOCK (1ul | 1 << 10 | 1 << 2 | 3 << 8)

extern u64 page_table[];
static u64 table[512] ALIGNED(4096);
static u32 code[16] ALIGNED(64);	/* written here, executed through an alias */
static u32 turn, answers[5], values[5];

enum { MOV_W0 = 0x52800000, RET = 0xd65f03c0 };

static void write_code(u32 result, bool invalidate)
{
	code[0] = MOV_W0 | result << 5;
	code[1] = RET;
	asm volatile("dc cvau, %0\n\tdsb ish" : : "r"(code) : "memory");
	if (invalidate)
		asm volatile("ic ivau, %0\n\tdsb ish\n\tisb" : : "r"((u64)code + GIB) : "memory");
}

/* From now on the GiB at 3 GiB shows RAM from `from`: its start, or 16 MiB further on. */
static void map_alias(u64 from)
{
	table[0] = from | NORMAL_BLOCK | 3ul << 53;
	asm volatile("dsb ishst\n\ttlbi vmalle1is\n\tdsb ish\n\tisb" : : : "memory");
}

static void second(u32 cpu)
{
	u32 (*run)(void) = (u32 (*)(void))((u64)code + GIB);
	volatile u32 *alias = (u32 *)(3 * GIB);

	(void)cpu;
	for (u32 i = 0; i < 5; i++) {
		while (load_acquire(&turn) != 2 * i + 1)
			cpu_relax();
		if (i == 4) /* in the last round VCPU 0 executes no IC */
			asm volatile("ic iallu\n\tdsb nsh");
		asm volatile("isb");
		answers[i] = run();
		values[i] = *alias;
		store_release(&turn, 2 * i + 2);
	}
}

void main(void)
{
	volatile u32 *ram = (u32 *)board.ram;

	page_table[2] = GIB | NORMAL_BLOCK | 1 << 7;		/* read-only, executable */
	page_table[3] = (u64)table | 3;
	asm volatile("dsb ish\n\tisb");
	gic_init(0);
	ram[0] = 100;
	ram[0x1000000 / 4] = 200; /* nothing else is at 16 MiB */
	cpu_on(1, second);
	for (u32 i = 0; i < 5; i++) {
		write_code(i + 1, i < 4);
		if (i < 4)
			map_alias(GIB + (i & 1) * 0x1000000);
		store_release(&turn, 2 * i + 1);
		while (load_acquire(&turn) != 2 * i + 2)
			cpu_relax();
	}
	for (u32 i = 0; i < 5; i++)
		print("%u %u ", answers[i], values[i]);
	print("\n");
	system_off();
}
