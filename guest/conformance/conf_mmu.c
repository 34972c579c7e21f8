// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stage 1: an identity map, 48 bits, 4 KiB granule, in which no page is both writable and
 * executable. It holds only what the guest uses: it need not know where the rest of memory is.
 */
#include "conf.h"

enum { ENTRIES = 512, TABLES = 64 };

u64 conf_page_table[ENTRIES] ALIGNED(4096);
static u64 tables[TABLES][ENTRIES] ALIGNED(4096);
static u32 used;

#define VALID 1ul
#define TABLE_OR_PAGE 2ul
#define AP_READ_ONLY (1ul << 7)
#define INNER_SHAREABLE (3ul << 8)
#define ACCESSED (1ul << 10)
#define XN (3ul << 53)		/* neither EL1 nor EL0 executes it */
#define EL0_XN (1ul << 54)
#define NORMAL (1ul << 2)	/* MAIR index 1 */
#define ADDRESS 0xfffffffff000ul

static u64 attributes(enum memory kind)
{
	u64 common = VALID | ACCESSED;

	if (kind == DEVICE)
		return common | XN;
	common |= NORMAL | INNER_SHAREABLE;
	if (kind == DATA)
		return common | XN;
	return common | AP_READ_ONLY | (kind == CODE ? EL0_XN : XN);
}

/* The entry of a page; `make` makes the tables on the way. NULL if there is no entry. */
static u64 *entry_of(u64 address, bool make)
{
	u64 *table = conf_page_table;

	for (u32 shift = 39; shift > 12; shift -= 9) {
		u64 *entry = &table[address >> shift & (ENTRIES - 1)];

		if (!(*entry & VALID)) {
			if (!make || used == TABLES)
				return NULL;
			*entry = (u64)tables[used++] | VALID | TABLE_OR_PAGE;
		}
		table = (u64 *)(*entry & ADDRESS);
	}
	return &table[address >> 12 & (ENTRIES - 1)];
}

void conf_map(u64 address, u64 size, enum memory kind)
{
	u64 end = address + size;

	for (address &= ~4095ul; address < end; address += 4096) {
		u64 *entry = entry_of(address, true);

		if (entry)
			*entry = address | attributes(kind) | TABLE_OR_PAGE;
	}
}

bool conf_map_page(u64 address, enum memory kind)
{
	u64 page = address & ~4095ul, *entry;

	if (page >> 48)
		return false;
	entry = entry_of(page, true);
	if (!entry)
		return false;
	/* Break before make. */
	*entry = 0;
	asm volatile("dsb ishst\n\ttlbi vaae1is, %0\n\tdsb ish\n\tisb"
		     : : "r"(page >> 12) : "memory");
	*entry = page | attributes(kind) | TABLE_OR_PAGE;
	asm volatile("dsb ishst\n\tisb" : : : "memory");
	return true;
}

void conf_clean(const void *start, size_t size)
{
	u64 ctr, line, p;

	asm volatile("mrs %0, ctr_el0" : "=r"(ctr));
	line = 4ul << (ctr >> 16 & 15);
	for (p = (u64)start & ~(line - 1); p < (u64)start + size; p += line)
		asm volatile("dc cvac, %0" : : "r"(p) : "memory");
	asm volatile("dsb sy" : : : "memory");
}
