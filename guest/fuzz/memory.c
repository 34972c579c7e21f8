// SPDX-License-Identifier: GPL-2.0-or-later
/* Loads, stores and branches: to which addresses, and of which kind. */
#include "fuzz.h"

extern u64 page_table[];

struct target {
	u64 start, size;
};

static struct target targets[20];
static u32 n_targets;

static void add_target(u64 start, u64 size, enum memory kind)
{
	for (u64 page = start & ~4095ul; page < start + size; page += 4096)
		if (!is_mapped(page))
			map(page, 4096, kind);
	targets[n_targets++] = (struct target){ start, size };
}

/* Let one GiB be translated by what is at `table`, which is no page table. */
static void add_walk(u64 table)
{
	u64 gib = 511 - n_targets;

	page_table[gib] = table | 3;
	targets[n_targets++] = (struct target){ gib << 30, 1ul << 30 };
}

static u64 address(struct vcpu *v)
{
	u64 t = below(v, n_targets + 6), offset;

	if (t >= n_targets)
		t = 0; /* more often than any other: the PV-lock region */
	offset = below(v, targets[t].size);
	return targets[t].start + (below(v, 4) ? offset & ~15ul : offset);
}

static bool is_in(u64 address, u64 start, u64 size)
{
	return address + 64 > start && address < start + size + 64;
}

void store_somewhere(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u64 n = below(v, (fuzz_stores_end - fuzz_stores) / 32), a = address(v);

	if (is_in(a, board.uart, 64))
		a += 128; /* its data register would print */
	op(v, entry(fuzz_stores, 32, n), a, next(v) | 2);
	if (is_in(a, board.gicd, board.gicd_size) || is_in(a, board.gicr, board.gicr_size))
		gic_written();
}

void load_somewhere(struct vcpu *v)
{
	u64 n = below(v, (fuzz_loads_end - fuzz_loads) / 32);

	op(v, entry(fuzz_loads, 32, n), address(v), 0);
}

void flat(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u64 a;

	/* Without stage 1 RAM has no attributes, and a store to the GIC would need nurse(). */
	do
		a = address(v) & ~7ul;
	while (a - board.ram < board.ram_size || is_in(a, board.uart, 4096) ||
	       is_in(a, board.gicd, board.gicd_size) || is_in(a, board.gicr, board.gicr_size));
	op(v, fuzz_flat, a, next(v) | 2);
}

void branch(struct vcpu *v)
{
	u64 a = address(v);

	/* Executable are the guest's own code, and a page that is mapped as code but does not exist. */
	op(v, fuzz_branch, below(v, 2) ? a : number(v) | 1ul << 38, 0);
}

void look(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u32 who = below(v, 2) ? cpu : below(v, board.vcpus);
	const u64 *s = load(&vcpus[who].structure);
	u64 flag;

	if (!s) {
		load_somewhere(v);
		return;
	}
	flag = load(&s[0]);
	v->wrong[OWN_FLAG] += who == cpu && flag;
	v->wrong[FLAG] += flag > 1;
	for (u32 i = 1; i < 8; i++)
		v->wrong[PADDING] += load(&s[i]) != 0;
}

void aim(void)
{
	u64 ipa = has_pvlock() ? hvc(PV_LOCK_PREEMPTED, 0, 0, 0) : ~0ul;
	u64 region = board.pvlock_size ? board.pvlock : ipa & ~4095ul;
	u64 size = board.pvlock_size ? board.pvlock_size : 4096;
	u64 stolen = has_stolen_time() ? hvc(PV_TIME_ST, 0, 0, 0) : ~0ul;

	/* Stage 1 maps the region writable, so that the hypervisor must refuse the stores. */
	if (ipa != ~0ul) {
		add_target(region, size, DATA);
		add_target(region - 16, 32, DATA);
		add_target(region + size - 16, 32, DATA);
		add_target(region + 0x10000, 4096, DATA);
	}
	if (stolen != ~0ul)
		add_target(stolen & ~4095ul, 4096, DATA);
	add_target(board.ram + board.ram_size - 16, 32, DATA);
	add_target(board.gicd, board.gicd_size, DEVICE);
	add_target(board.gicr, board.gicr_size, DEVICE);
	add_target(board.uart, 4096, DEVICE);
	add_target(board.uart + 0x100000, 4096, CODE);
	add_target(0, 4096, DEVICE);
	add_target(1ul << 38, 4096, DATA);
	if (ipa != ~0ul)
		add_walk(region);
	add_walk(board.uart & ~4095ul);
	add_walk(0);
	add_walk(board.ram + board.ram_size);
	asm volatile("dsb ish\n\tisb" : : : "memory");
}
