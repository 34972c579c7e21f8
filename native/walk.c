// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Page-table walks of the guest's stage 1: a shorter way to fill the TLB than QEMU's own walk, which
 * remains for all that is not plain.
 *
 * QEMU translates the address of each stage 1 table through stage 2, some twenty loads for a page.
 * Stage 2 says nothing here but which IPAs are memory slots, so the tables are read in the slots
 * themselves. Whatever is not plainly a translation that succeeds is left to QEMU: faults of every
 * kind, devices, other granules than 4 KiB, big-endian tables.
 */
#include "qemu.h"

enum { E10_0 = 0, E10_1 = 2, E10_1_PAN = 3 };	/* the MMU indexes of EL0 and EL1 */
enum { PAGE_READ = 1, PAGE_WRITE = 2, PAGE_EXEC = 4 };
enum { ATTRS_USER = 1 << 2, ATTRS_GUARDED = 1 << 20 };	/* struct MemTxAttrs */

#define SCTLR_M 1u
#define SCTLR_WXN (1u << 19)
#define SCTLR_EE (1u << 25)
#define TCR_EPD0 (1ull << 7)
#define TCR_EPD1 (1ull << 23)
#define TCR_HPD0 (1ull << 41)
#define TTBR_ADDRESS 0xffffffffffffull
#define DESC_ADDRESS 0xfffffffff000ull
#define DESC_AF (1ull << 10)
#define DESC_GP (1ull << 50)
#define DESC_PXN (1ull << 53)
#define DESC_XN (1ull << 54)
#define TABLE_PXN (1ull << 59)
#define TABLE_XN (1ull << 60)
#define TABLE_AP (3ull << 61)	/* bit 0: not at EL0; bit 1: not for writing */

void tlb_set_page_with_attrs_aarch64(void *cpu, uint64_t address, uint64_t physical,
				     unsigned attrs, int prot, int mmu, uint64_t size);

typedef bool (*fill_fn)(void *cpu, uint64_t address, int size, int access, int mmu, bool probe,
			uintptr_t retaddr);

static fill_fn qemu_fill;

EXPORT bool short_walks = true;	/* tests compare with QEMU's own */

struct translation {
	uint64_t ipa;
	uint64_t size;		/* of the page or block */
	uint64_t descriptor;
	uint64_t tables;	/* TABLE_* of all levels together */
};

static const struct slot *slot_of(const struct vm *vm, uint64_t ipa)
{
	for (uint32_t i = 0; i < vm->slot_count; i++)
		if (ipa - vm->slots[i].ipa < vm->slots[i].size)
			return &vm->slots[i];
	return NULL;
}

/* Walk the tables of stage 1 (Arm ARM, "Translation table walks", 4 KiB granule). */
static bool walk(const struct vcpu *v, uint64_t address, struct translation *t)
{
	bool upper = address >> 55 & 1;
	uint64_t tcr = env64(v, ENV_TCR_EL1);
	uint32_t bits = 64 - (upper ? tcr >> 16 & 63 : tcr & 63), shift;
	uint32_t granule = upper ? tcr >> 30 & 3 : tcr >> 14 & 3;
	uint64_t table = env64(v, upper ? ENV_TTBR1_EL1 : ENV_TTBR0_EL1) & TTBR_ADDRESS;

	if (granule != (upper ? 2 : 0) || bits < 25 || bits > 48 ||
	    tcr & (upper ? TCR_EPD1 : TCR_EPD0) ||
	    (upper ? ~address : address) >> bits)
		return false;
	shift = 12 + (bits - 13) / 9 * 9;
	/* The first table may be smaller than a page, and is aligned to its size. */
	table &= -(8ull << (bits - shift));
	t->tables = 0;
	for (;; shift -= 9) {
		uint64_t index = address >> shift & (shift + 9 > bits ? (1ull << (bits - shift)) - 1 : 511);
		const struct slot *s = slot_of(v->vm, table);
		uint64_t d;

		if (!s)
			return false;
		d = *(const uint64_t *)(s->host + (table + 8 * index - s->ipa));
		if (shift == 12 || (d & 3) == 1) {
			if (shift > 30 || (d & 3) != (shift == 12 ? 3 : 1) || !(d & DESC_AF))
				return false;
			t->descriptor = d;
			t->size = 1ull << shift;
			t->ipa = (d & DESC_ADDRESS & -(1ull << shift)) |
				 (address & ((1ull << shift) - 1) & -4096ull);
			return true;
		}
		if (!(d & 1))
			return false;
		t->tables |= d;
		table = d & DESC_ADDRESS;
	}
}

/* What may be done at this MMU index (Arm ARM, "Access permissions"). */
static int permissions(const struct vcpu *v, const struct translation *t, bool upper, int mmu)
{
	bool hierarchical = !(env64(v, ENV_TCR_EL1) & TCR_HPD0 << upper);
	uint64_t tables = hierarchical ? t->tables : 0, d = t->descriptor;
	bool user = d >> 6 & 1 && !(tables >> 61 & 1), readonly = d >> 7 & 1 || tables >> 62 & 1;
	bool pxn = d & DESC_PXN || tables & TABLE_PXN, xn = d & DESC_XN || tables & TABLE_XN;
	int user_rw = user ? PAGE_READ | (readonly ? 0 : PAGE_WRITE) : 0;
	int rw = PAGE_READ | (readonly ? 0 : PAGE_WRITE);

	if (mmu == E10_0) {
		rw = user_rw;
	} else {
		if (user_rw && mmu == E10_1_PAN)
			rw = 0;
		xn = pxn || user_rw & PAGE_WRITE;
	}
	if (xn || (rw & PAGE_WRITE && env64(v, ENV_SCTLR_EL1) & SCTLR_WXN))
		return rw;
	return rw | PAGE_EXEC;
}

static bool fill(void *cpu, uint64_t address, int size, int access, int mmu, bool probe,
		 uintptr_t retaddr)
{
	static const int wanted[] = { PAGE_READ, PAGE_WRITE, PAGE_EXEC };
	struct vcpu *v = vcpu_of((uint8_t *)cpu + cpu_env);
	uint64_t sctlr = env64(v, ENV_SCTLR_EL1);
	struct translation t;
	const struct slot *s;

	if (short_walks && (mmu == E10_0 || mmu == E10_1 || mmu == E10_1_PAN) &&
	    sctlr & SCTLR_M && !(sctlr & SCTLR_EE) && walk(v, address, &t) &&
	    (s = slot_of(v->vm, t.ipa))) {
		int prot = permissions(v, &t, address >> 55 & 1, mmu);

		if (s->readonly)
			prot &= ~PAGE_WRITE;
		if (prot & wanted[access]) {
			unsigned attrs = (mmu == E10_0 ? ATTRS_USER : 0) |
					 (t.descriptor & DESC_GP ? ATTRS_GUARDED : 0);

			/* One TLBI for any page of a block is one for all: the TLB knows its size. */
			tlb_set_page_with_attrs_aarch64(cpu, address & -4096ull, t.ipa, attrs, prot,
							mmu, t.size);
			return true;
		}
	}
	return qemu_fill(cpu, address, size, access, mmu, probe, retaddr);
}

/* Before the other CPUs are made as copies of the first. */
void shorten_walks(struct vcpu *first)
{
	fill_fn ours = fill;

	memcpy(&qemu_fill, first->env + CPU_TLB_FILL, sizeof(qemu_fill));
	memcpy(first->env + CPU_TLB_FILL, &ours, sizeof(ours));
}
