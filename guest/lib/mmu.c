// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stage 1: an identity map, 39 bits, 4 KiB granule, in which no page is both writable and
 * executable. VCPU 0 prepares it with the MMU off, before any other VCPU runs.
 */
#include "guest.h"

extern char text_start[], text_end[];

enum { ENTRIES = 512, TABLES = 64 };

u64 page_table[ENTRIES] ALIGNED(4096);
static u64 tables[TABLES][ENTRIES] ALIGNED(4096);
static u32 used;

#define VALID 1ul
#define TABLE_OR_PAGE 2ul
#define READ_ONLY (1ul << 7)
#define INNER_SHAREABLE (3ul << 8)
#define ACCESSED (1ul << 10)
#define XN (3ul << 53)		/* neither EL1 nor EL0 executes it */
#define EL0_XN (1ul << 54)
#define NORMAL (1ul << 2)	/* MAIR index 1 */
#define ADDRESS 0xfffffff000ul

static const u64 attributes[] = {
	[DEVICE] = VALID | ACCESSED | XN,
	[CODE] = VALID | ACCESSED | NORMAL | INNER_SHAREABLE | READ_ONLY | EL0_XN,
	[DATA] = VALID | ACCESSED | NORMAL | INNER_SHAREABLE | XN,
	[SHARED_READ_ONLY] = VALID | ACCESSED | NORMAL | INNER_SHAREABLE | READ_ONLY | XN,
};

static u64 *next_table(u64 *entry)
{
	if (!(*entry & VALID)) {
		if (used == TABLES)
			system_off();
		*entry = (u64)tables[used++] | VALID | TABLE_OR_PAGE;
	}
	return (u64 *)(*entry & ADDRESS);
}

void map(u64 address, u64 size, enum memory kind)
{
	u64 end = (address + size + 4095) & ~4095ul;

	address &= ~4095ul;
	while (address < end) {
		u64 *table = page_table;
		u32 shift = 30;

		/* Go down to the largest block or page that fits. */
		while (shift > 12 && (address & ((1ul << shift) - 1) || end - address < 1ul << shift)) {
			table = next_table(&table[address >> shift & (ENTRIES - 1)]);
			shift -= 9;
		}
		table[address >> shift & (ENTRIES - 1)] =
			address | attributes[kind] | (shift == 12 ? TABLE_OR_PAGE : 0);
		address += 1ul << shift;
	}
}

bool is_mapped(u64 address)
{
	const u64 *table = page_table;

	for (u32 shift = 30; shift >= 12; shift -= 9) {
		u64 entry = table[address >> shift & (ENTRIES - 1)];

		if (!(entry & VALID) || shift == 12 || !(entry & TABLE_OR_PAGE))
			return entry & VALID;
		table = (const u64 *)(entry & ADDRESS);
	}
	return false;
}

void map_structure(u64 address)
{
	static u32 busy_mapping;

	while (exchange(&busy_mapping, 1))
		cpu_relax();
	if (!is_mapped(address))
		map(address, 1, SHARED_READ_ONLY);
	store_release(&busy_mapping, 0);
	asm volatile("dsb ish\n\tisb" : : : "memory");
}

void clean(const void *start, size_t size)
{
	u64 p = (u64)start & ~(CACHE_LINE - 1ul);

	for (; p < (u64)start + size; p += CACHE_LINE)
		asm volatile("dc cvac, %0" : : "r"(p) : "memory");
	asm volatile("dsb ish" : : : "memory");
}

void mmu_prepare(void)
{
	u64 code = (u64)text_start, data = (u64)text_end;

	map(board.uart, 4096, DEVICE);
	map(board.gicd, board.gicd_size, DEVICE);
	map(board.gicr, board.gicr_size, DEVICE);
	map(board.ram, code - board.ram, DATA);
	map(code, data - code, CODE);
	map(data, board.ram + board.ram_size - data, DATA);
	TRACED(map(board.trace, board.trace_size, DATA);)
	clean(page_table, sizeof(page_table));
	clean(tables, sizeof(tables[0]) * used);
}
