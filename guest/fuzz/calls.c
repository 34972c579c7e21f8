// SPDX-License-Identifier: GPL-2.0-or-later
/* Makes hypercalls, and judges their answers. */
#include "fuzz.h"

/* Calls that would end the run for all VCPUs, or begin a sleep that nothing would end. */
static bool is_end(u32 cpu, u32 id)
{
	switch (id & ~SMC64) {
	case PSCI_CPU_OFF:
		return cpu == 0;
	case PSCI_CPU_SUSPEND:
	case PSCI_SYSTEM_OFF:
	case PSCI_SYSTEM_RESET:
	case PSCI_SYSTEM_SUSPEND:
	case PSCI_SYSTEM_RESET2:
		return true;
	}
	return false;
}

static bool pv_answer_is_right(u32 cpu, u32 id, u32 argument, u64 answer)
{
	const struct vcpu *v = &vcpus[cpu];
	bool asked = argument == PV_LOCK_FEATURES || argument == PV_LOCK_PREEMPTED;

	if (id == PV_LOCK_FEATURES)
		return answer == (v->structure && asked ? 0 : ~0ul);
	if (id == PV_LOCK_PREEMPTED)
		return answer == (v->structure ? (u64)v->structure : ~0ul);
	if (id == (PV_LOCK_FEATURES & ~SMC64) || id == (PV_LOCK_PREEMPTED & ~SMC64))
		return answer == ~0ul;
	return true;
}

/* Make a call. X4 to X17 must come back as they were. */
void call(u32 cpu, u32 id, u64 a1, u64 a2, u64 a3)
{
	struct vcpu *v = &vcpus[cpu];
	u64 p = next(v);

	if (is_end(cpu, id))
		id = PSCI_FEATURES;
	if ((id & ~SMC64) == PSCI_CPU_ON)
		a2 = (u64)fuzz_entry; /* elsewhere the VCPU would have no vector */
	{
		register u64 x0 asm("x0") = id | next(v) << 32;
		register u64 x1 asm("x1") = a1;
		register u64 x2 asm("x2") = a2;
		register u64 x3 asm("x3") = a3;
		register u64 x4 asm("x4") = p;
		register u64 x5 asm("x5") = p + 1;
		register u64 x6 asm("x6") = p + 2;
		register u64 x7 asm("x7") = p + 3;
		register u64 x8 asm("x8") = p + 4;
		register u64 x9 asm("x9") = p + 5;
		register u64 x10 asm("x10") = p + 6;
		register u64 x11 asm("x11") = p + 7;
		register u64 x12 asm("x12") = p + 8;
		register u64 x13 asm("x13") = p + 9;
		register u64 x14 asm("x14") = p + 10;
		register u64 x15 asm("x15") = p + 11;
		register u64 x16 asm("x16") = p + 12;
		register u64 x17 asm("x17") = p + 13;

		asm volatile("hvc #0"
			     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x6),
			       "+r"(x7), "+r"(x8), "+r"(x9), "+r"(x10), "+r"(x11), "+r"(x12),
			       "+r"(x13), "+r"(x14), "+r"(x15), "+r"(x16), "+r"(x17)
			     :
			     : "memory");
		v->wrong[PRESERVED] +=
			x4 != p || x5 != p + 1 || x6 != p + 2 || x7 != p + 3 || x8 != p + 4 ||
			x9 != p + 5 || x10 != p + 6 || x11 != p + 7 || x12 != p + 8 ||
			x13 != p + 9 || x14 != p + 10 || x15 != p + 11 || x16 != p + 12 ||
			x17 != p + 13;
		v->wrong[ANSWER] += !pv_answer_is_right(cpu, id, a1, x0);
	}
}

void power(u32 cpu)
{
	static const u32 ids[] = { PSCI_CPU_ON, PSCI_CPU_ON, PSCI_AFFINITY_INFO, PSCI_FEATURES };
	struct vcpu *v = &vcpus[cpu];

	for (u64 n = 1 + below(v, 8); n; n--) {
		u32 id = ids[below(v, 4)] | (below(v, 2) ? SMC64 : 0);
		u64 who = below(v, 4) ? board.mpidr[below(v, board.vcpus)] : number(v);

		v->done[POWER]++;
		call(cpu, id, who, below(v, 2) ? 0 : number(v), number(v));
	}
	if (cpu && !below(v, 32)) {
		v->done[POWER]++; /* counted before the call, which does not return */
		call(cpu, PSCI_CPU_OFF, number(v), number(v), number(v));
	}
}
