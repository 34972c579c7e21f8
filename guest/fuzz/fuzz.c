// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest that means harm. All its VCPUs do random things at once: hypercalls with random
 * registers, stores around the PV-lock region, power calls, interrupts, sleeps, traps, accesses to
 * devices and to addresses where nothing is. A guest is allowed to do all of that, and none of it
 * may hurt the host or other guests.
 *
 * Boot arguments: `seed`, and `operations`, how many VCPU 0 does before it prints the counts and
 * turns the machine off. The other VCPUs do as many as they can until then. The same seed on the
 * same machine gives the same operations, as far as the machine is deterministic. The guest counts
 * what it can see to be wrong. It needs PSCI by HVC, a GICv3, the virtual timer and a PL011, all
 * named in the device tree.
 */
#include "fuzz.h"

static const char *const names[KINDS] = {
	"calls", "power", "stores", "loads", "registers", "sgis", "sleeps", "hints", "traps",
	"branches", "returns", "interrupts", "flat", "tlbis", "looks",
};
/* turn() draws one of these: an operation that stands here more often is done more often. */
static const unsigned char mix[] = {
	CALLS, CALLS, CALLS, CALLS, CALLS, CALLS, POWER, POWER, POWER, STORES, STORES, STORES,
	STORES, STORES, STORES, STORES, LOADS, LOADS, LOADS, REGISTERS, REGISTERS, REGISTERS, SGIS,
	SGIS, SLEEPS, SLEEPS, HINTS, TRAPS, BRANCHES, RETURNS, INTERRUPTS, FLAT, TLBIS, LOOKS, LOOKS,
	LOOKS, LOOKS, LOOKS, LOOKS, LOOKS,
};

static const char *const wrongs[WRONGS] = { "own-flag", "flag", "padding", "answer", "preserved" };

/*
 * What secondary_start() of the library needs, and for which VCPU. A VCPU finds its own by `mpidr`
 * in ops.S, with the MMU off.
 */
struct seat {
	char *stack;
	void (*body)(u32 cpu);
	u64 cpu, mpidr;
} ALIGNED(CACHE_LINE);

struct vcpu vcpus[MAX_VCPUS];
struct seat fuzz_seats[MAX_VCPUS];
static char stacks[MAX_VCPUS][STACK_SIZE] ALIGNED(16);

static void turn(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	enum kind kind = mix[below(v, sizeof(mix))];

	/* Count before, since a call may turn this VCPU off. A storm counts its parts itself. */
	v->done[kind] += kind != POWER && kind != SGIS;
	switch (kind) {
	case CALLS:
		call(cpu, function(v), below(v, 2) ? number(v) : function(v), number(v), number(v));
		break;
	case POWER:
		power(cpu);
		break;
	case STORES:
		store_somewhere(cpu);
		break;
	case LOADS:
		load_somewhere(v);
		break;
	case REGISTERS:
		v->dirty = true; /* a read may acknowledge an interrupt */
		op(v, entry(below(v, 2) ? fuzz_reads : fuzz_writes, 8, below(v, SYSREGS)), 0,
		   number(v));
		break;
	case SGIS:
		sgis(v);
		break;
	case SLEEPS:
		sleep(cpu);
		break;
	case HINTS:
		op(v, fuzz_hint, 0, 0);
		break;
	case TRAPS:
		op(v, fuzz_trap, 0, next(v));
		break;
	case BRANCHES:
		branch(v);
		break;
	case RETURNS:
		/* Bit 4 of SPSR would mean AArch32, which has other registers. */
		v->dirty = true;
		op(v, fuzz_eret, 0, next(v) & ~16ul);
		break;
	case INTERRUPTS:
		v->dirty = true;
		op(v, fuzz_open, 0, 0);
		break;
	case FLAT:
		flat(cpu);
		break;
	case TLBIS:
		op(v, fuzz_tlbi, next(v), 0);
		break;
	default:
		look(cpu);
	}
}

static void prepare(u32 cpu)
{
	u64 ipa = has_pvlock() ? hvc(PV_LOCK_PREEMPTED, 0, 0, 0) : ~0ul;

	asm volatile("msr vbar_el1, %0\n\tmsr cpacr_el1, %1\n\tisb"
		     : : "r"(fuzz_vectors), "r"(3ul << 20));
	if (ipa != ~0ul)
		store(&vcpus[cpu].structure, (const u64 *)ipa);
	vcpus[cpu].dirty = true;
	repair(cpu);
}

static void secondary(u32 cpu)
{
	prepare(cpu);
	for (;;)
		turn(cpu);
}

static void report(void)
{
	u64 all = 0, faults = 0;

	for (u32 kind = 0; kind < KINDS; kind++) {
		u64 sum = 0;

		for (u32 i = 0; i < board.vcpus; i++)
			sum += load(&vcpus[i].done[kind]);
		print("did %s %lu\n", names[kind], sum);
		all += sum;
	}
	for (u32 i = 0; i < board.vcpus; i++)
		faults += load(&vcpus[i].faults);
	print("faults %lu\n", faults);
	for (u32 wrong = 0; wrong < WRONGS; wrong++) {
		u64 sum = 0;

		for (u32 i = 0; i < board.vcpus; i++)
			sum += load(&vcpus[i].wrong[wrong]);
		print("wrong %s %lu\n", wrongs[wrong], sum);
	}
	print("operations %lu\n", all);
	print("end\n");
}

void main(void)
{
	u64 seed = bootarg("seed", 1), operations = bootarg("operations", 1000);

	gic_init(0);
	time_init();
	pv_discover();
	aim();
	pv_init(0);
	for (u32 i = 0; i < board.vcpus; i++) {
		vcpus[i].random = (seed + 1) * 0x9e3779b97f4a7c15ul ^ (i + 1) * 0xbf58476d1ce4e5b9ul;
		vcpus[i].nursed = ~0ul;
		vcpus[i].frame = redistributor(board.mpidr[i]);
		fuzz_seats[i] = (struct seat){ stacks[i] + STACK_SIZE, secondary, i, board.mpidr[i] };
	}
	clean(fuzz_seats, sizeof(fuzz_seats));
	prepare(0);
	print("fuzz seed %lu operations %lu vcpus %u pvlock %u\n", seed, operations, board.vcpus,
	      has_pvlock());
	for (u64 n = 0; n < operations; n++) {
		/* Turn VCPUs on that went off, and let their timers wake them again. */
		if (!(n % 64))
			for (u32 i = 1; i < board.vcpus; i++) {
				nurse(i);
				hvc(PSCI_CPU_ON | SMC64, board.mpidr[i], (u64)fuzz_entry, next(&vcpus[0]));
			}
		turn(0);
	}
	report();
	system_off();
}
