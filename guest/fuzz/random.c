// SPDX-License-Identifier: GPL-2.0-or-later
/* Random numbers, and op(), which does what may fault. */
#include "fuzz.h"

u64 next(struct vcpu *v)
{
	v->random ^= v->random >> 12;
	v->random ^= v->random << 25;
	v->random ^= v->random >> 27;
	return v->random * 0x2545f4914f6cdd1dul;
}

u64 below(struct vcpu *v, u64 limit)
{
	return (next(v) >> 32) % limit;
}

u64 op(struct vcpu *v, operation *what, u64 address, u64 value)
{
	u64 result, esr;

	asm volatile("msr tpidrro_el0, xzr" : : : "memory");
	result = what(0, address, value);
	asm volatile("mrs %0, tpidrro_el0" : "=r"(esr) : : "memory");
	v->faults += esr != 0;
	return result;
}

operation *entry(char *table, u64 bytes, u64 n)
{
	return (operation *)(table + bytes * n);
}

u64 number(struct vcpu *v)
{
	u64 r = next(v);

	switch (below(v, 8)) {
	case 0:
		return r & 7;
	case 1:
		return ~(r & 7);
	case 2:
		return 1ul << (r & 63);
	case 3:
		return (1ul << (r & 63)) - 1;
	case 4:
		return board.mpidr[r % board.vcpus] ^ (below(v, 4) ? 0 : 1ul << (r >> 32 & 63));
	case 5:
		return (r & 0xffffffff) | 0xffffffff00000000;
	default:
		return r;
	}
}

u32 function(struct vcpu *v)
{
	static const u32 known[] = {
		PV_LOCK_FEATURES, PV_LOCK_PREEMPTED, PV_LOCK_FEATURES, PV_LOCK_PREEMPTED,
		PV_LOCK_FEATURES & ~SMC64, PV_LOCK_PREEMPTED & ~SMC64, 0xC5000020, PV_TIME_ST,
		0x80000000, 0x80000001, 0x8600FF01, 0x84000000, 0x84000002, 0x84000003, 0xC4000003,
		0x84000004, 0xC4000004, 0x84000005, 0x84000006, 0x8400000A, 0xC600FF01, 0xC6000002,
	};
	u32 id = known[below(v, LENGTH(known))], r = next(v);

	switch (below(v, 8)) {
	case 0:
		return id ^ 1u << (r & 31);
	case 1:
		return id + (r & 15) - 8;
	case 2:
		return r;
	case 3:
		return (id & 0xff000000) | (r & 0xffff);
	default:
		return id;
	}
}
