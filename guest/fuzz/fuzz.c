// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest that means harm. Every VCPU does random things at once: hypercalls with random registers,
 * stores around the PV-lock region, power calls, interrupts, sleeps, accesses to devices and to
 * nothing, traps. All of it is legal for a guest, and none of it may hurt the host or other guests.
 *
 * Boot arguments: `seed`; `operations`, what VCPU 0 does before it prints the counts and turns the
 * machine off. The others do what they can until then. Same seed and machine: the same operations,
 * as far as the machine is deterministic. It counts what it can see to be wrong, and needs nothing
 * but PSCI by HVC, a GICv3, the virtual timer and a PL011 in the device tree.
 */
#include "guest.h"
#include "pvlock.h"

enum {
	PSCI_CPU_SUSPEND = 0x84000001,
	PSCI_CPU_OFF = 0x84000002,
	PSCI_CPU_ON = 0x84000003,
	PSCI_AFFINITY_INFO = 0x84000004,
	PSCI_SYSTEM_OFF = 0x84000008,
	PSCI_SYSTEM_RESET = 0x84000009,
	PSCI_FEATURES = 0x8400000A,
	PSCI_SYSTEM_SUSPEND = 0x8400000E,
	PSCI_SYSTEM_RESET2 = 0x84000012,
	SMC64 = 1 << 30,
	PV_TIME_ST = 0xC5000021,
};

enum {
	GICD_CTLR = 0x0000,
	GICD_CTLR_ARE_GROUPS = 1 << 4 | 3,
	GICR_TYPER = 0x0008,
	GICR_TYPER_LAST = 1 << 4,
	GICR_FRAMES = 0x20000,
	GICR_SGI = 0x10000,
	GICR_IGROUPR0 = GICR_SGI + 0x0080,
	GICR_ISENABLER0 = GICR_SGI + 0x0100,
	GICR_ICPENDR0 = GICR_SGI + 0x0280,
	GICR_ICACTIVER0 = GICR_SGI + 0x0380,
	GICR_IPRIORITYR = GICR_SGI + 0x0400,
	TIMER_PPI = 27,
};

/* Entries of fuzz_reads and fuzz_writes: S3_0_C12_Cm_op2, the timers, ICC_PMR_EL1. */
#define GIC(crm, op2) (((crm) - 8) * 8 + (op2))
enum {
	BPR0 = GIC(8, 3), AP0R0 = GIC(8, 4), AP1R0 = GIC(9, 0), SGI1R = GIC(11, 5),
	BPR1 = GIC(12, 3), CTLR = GIC(12, 4), SRE = GIC(12, 5), GRPEN0 = GIC(12, 6),
	GRPEN1 = GIC(12, 7), PMR = 5 * 8 + 4 * 8, SYSREGS,
};

typedef u64 operation(u64 x0, u64 address, u64 value);
extern char fuzz_loads[], fuzz_loads_end[], fuzz_stores[], fuzz_stores_end[];
extern char fuzz_reads[], fuzz_writes[], fuzz_vectors[], fuzz_entry[];
operation fuzz_trap, fuzz_open, fuzz_branch, fuzz_eret, fuzz_flat, fuzz_tlbi, fuzz_hint;
extern u64 page_table[];
void secondary_start(void);

enum kind {
	CALLS, POWER, STORES, LOADS, REGISTERS, SGIS, SLEEPS, HINTS, TRAPS, BRANCHES, RETURNS,
	INTERRUPTS, FLAT, TLBIS, LOOKS, KINDS,
};
static const char *const names[KINDS] = {
	"calls", "power", "stores", "loads", "registers", "sgis", "sleeps", "hints", "traps",
	"branches", "returns", "interrupts", "flat", "tlbis", "looks",
};
/* How often which: one of these. */
static const unsigned char mix[] = {
	CALLS, CALLS, CALLS, CALLS, CALLS, CALLS, POWER, POWER, POWER, STORES, STORES, STORES,
	STORES, STORES, STORES, STORES, LOADS, LOADS, LOADS, REGISTERS, REGISTERS, REGISTERS, SGIS,
	SGIS, SLEEPS, SLEEPS, HINTS, TRAPS, BRANCHES, RETURNS, INTERRUPTS, FLAT, TLBIS, LOOKS, LOOKS,
	LOOKS, LOOKS, LOOKS, LOOKS, LOOKS,
};

/* What a guest can see to be wrong. */
enum wrong { OWN_FLAG, FLAG, PADDING, ANSWER, PRESERVED, WRONGS };
static const char *const wrongs[WRONGS] = { "own-flag", "flag", "padding", "answer", "preserved" };

struct vcpu {
	u64 random;
	const u64 *structure;	/* of PV-lock; NULL: not told yet */
	u64 frame;		/* of the redistributor */
	u64 nursed;		/* `gic_writes` when that was last put right */
	bool dirty;		/* the CPU interface was written to since it was put right */
	u64 done[KINDS], faults, wrong[WRONGS];
} ALIGNED(CACHE_LINE);

/* What secondary_start() wants, and whose it is; ops.S looks for its own. Read with the MMU off. */
struct seat {
	char *stack;
	void (*body)(u32 cpu);
	u64 cpu, mpidr;
} ALIGNED(CACHE_LINE);

struct target {
	u64 start, size;
};

static struct vcpu vcpus[MAX_VCPUS];
struct seat fuzz_seats[MAX_VCPUS];
static char stacks[MAX_VCPUS][STACK_SIZE] ALIGNED(16);
static struct target targets[20];
static u32 n_targets;
static u64 gic_writes;		/* wild ones, to the distributor and any redistributor */

static u64 next(struct vcpu *v)
{
	v->random ^= v->random >> 12;
	v->random ^= v->random << 25;
	v->random ^= v->random >> 27;
	return v->random * 0x2545f4914f6cdd1dul;
}

static u64 below(struct vcpu *v, u64 limit)
{
	return (next(v) >> 32) % limit;
}

/* Do what may fault; count it if it did. */
static u64 op(struct vcpu *v, operation *what, u64 address, u64 value)
{
	u64 result, esr;

	asm volatile("msr tpidrro_el0, xzr" : : : "memory");
	result = what(0, address, value);
	asm volatile("mrs %0, tpidrro_el0" : "=r"(esr) : : "memory");
	v->faults += esr != 0;
	return result;
}

static operation *entry(char *table, u64 bytes, u64 n)
{
	return (operation *)(table + bytes * n);
}

static void write_sysreg(struct vcpu *v, u32 n, u64 value)
{
	op(v, entry(fuzz_writes, 8, n), 0, value);
}

static void write32(u64 address, u32 value)
{
	asm volatile("str %w0, [%1]" : : "r"(value), "r"(address) : "memory");
}

static u32 read32(u64 address)
{
	u32 value;

	asm volatile("ldr %w0, [%1]" : "=r"(value) : "r"(address) : "memory");
	return value;
}

/* ---- values ---- */

static u64 number(struct vcpu *v)
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

static u32 function(struct vcpu *v)
{
	static const u32 known[] = {
		PV_LOCK_FEATURES, PV_LOCK_PREEMPTED, PV_LOCK_FEATURES, PV_LOCK_PREEMPTED,
		PV_LOCK_FEATURES & ~SMC64, PV_LOCK_PREEMPTED & ~SMC64, 0xC5000020, PV_TIME_ST,
		0x80000000, 0x80000001, 0x8600FF01, 0x84000000, 0x84000002, 0x84000003, 0xC4000003,
		0x84000004, 0xC4000004, 0x84000005, 0x84000006, 0x8400000A, 0xC600FF01, 0xC6000002,
	};
	u32 id = known[below(v, sizeof(known) / sizeof(known[0]))], r = next(v);

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

/* Calls that end the run for everybody, or a sleep that nothing has been prepared to end. */
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

/* ---- hypercalls ---- */

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

/* X4 to X17 must come back as they were. */
static void call(u32 cpu, u32 id, u64 a1, u64 a2, u64 a3)
{
	struct vcpu *v = &vcpus[cpu];
	u64 p = next(v);

	if (is_end(cpu, id))
		id = PSCI_FEATURES;
	if ((id & ~SMC64) == PSCI_CPU_ON)
		a2 = (u64)fuzz_entry; /* a VCPU without a vector could never come back */
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

static void power(u32 cpu)
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
		v->done[POWER]++; /* before: it does not come back */
		call(cpu, PSCI_CPU_OFF, number(v), number(v), number(v));
	}
}

/* ---- interrupts and sleep ---- */

/* What the timer of a VCPU needs to wake it, whatever was written to its redistributor. */
static void nurse(u32 cpu)
{
	u64 frame = vcpus[cpu].frame, seen = load_acquire(&gic_writes);

	if (vcpus[cpu].nursed == seen)
		return;
	vcpus[cpu].nursed = seen;
	write32(board.gicd + GICD_CTLR, GICD_CTLR_ARE_GROUPS);
	write32(frame + GICR_ICACTIVER0, ~0u);
	write32(frame + GICR_IGROUPR0, ~0u);
	write32(frame + GICR_IPRIORITYR + (TIMER_PPI & ~3), 0x80808080);
	write32(frame + GICR_ISENABLER0, 0xffff | 1u << TIMER_PPI);
}

/* The same for the CPU interface, which only its own VCPU can reach. */
static void repair(u32 cpu)
{
	static const struct {
		u32 sysreg;
		u64 value;
	} healthy[] = { { SRE, 1 }, { CTLR, 0 }, { AP0R0, 0 }, { AP1R0, 0 }, { BPR0, 0 }, { BPR1, 0 },
			{ PMR, 0xff }, { GRPEN0, 1 }, { GRPEN1, 1 } };

	nurse(cpu);
	if (!vcpus[cpu].dirty)
		return;
	vcpus[cpu].dirty = false;
	for (u32 i = 0; i < sizeof(healthy) / sizeof(healthy[0]); i++)
		write_sysreg(&vcpus[cpu], healthy[i].sysreg, healthy[i].value);
}

static void sleep(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u64 wait = ticks_of(100 + below(v, 20000));

	repair(cpu);
	if (below(v, 2))
		write32(v->frame + GICR_ICPENDR0, ~0u);
	asm volatile("msr cntv_cval_el0, %0\n\tmsr cntv_ctl_el0, %1\n\tisb\n\tdsb sy\n\twfi\n\t"
		     "msr cntv_ctl_el0, xzr\n\tisb"
		     : : "r"(ticks() + wait), "r"(1ul) : "memory");
}

static void sgis(struct vcpu *v)
{
	for (u64 n = 1 + below(v, 16); n; n--) {
		u64 to = board.mpidr[below(v, board.vcpus)];
		u64 value = (to >> 16 & 0xff) << 32 | (to >> 8 & 0xff) << 16 | 1ul << (to & 15) |
			    below(v, 16) << 24;

		v->done[SGIS]++;
		write_sysreg(v, SGI1R, below(v, 4) ? value : next(v));
	}
}

/* ---- memory ---- */

static void add_target(u64 start, u64 size, enum memory kind)
{
	for (u64 page = start & ~4095ul; page < start + size; page += 4096)
		if (!is_mapped(page))
			map(page, 4096, kind);
	targets[n_targets++] = (struct target){ start, size };
}

/* A GiB that is translated by what is at `table`, which is no table. */
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
		t = 0; /* the PV-lock region, most of all */
	offset = below(v, targets[t].size);
	return targets[t].start + (below(v, 4) ? offset & ~15ul : offset);
}

static bool is_in(u64 address, u64 start, u64 size)
{
	return address + 64 > start && address < start + size + 64;
}

static void store_somewhere(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u64 n = below(v, (fuzz_stores_end - fuzz_stores) / 32), a = address(v);

	if (is_in(a, board.uart, 64))
		a += 128; /* its data register would print */
	op(v, entry(fuzz_stores, 32, n), a, next(v) | 2);
	if (is_in(a, board.gicd, board.gicd_size) || is_in(a, board.gicr, board.gicr_size)) {
		__atomic_fetch_add(&gic_writes, 1, __ATOMIC_ACQ_REL);
		nurse(0); /* nobody else would: VCPU 0 does it for all others */
	}
}

static void load_somewhere(struct vcpu *v)
{
	u64 n = below(v, (fuzz_loads_end - fuzz_loads) / 32);

	op(v, entry(fuzz_loads, 32, n), address(v), 0);
}

static void flat(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	u64 a;

	/* Without stage 1, RAM has no attributes; the GIC would need a nurse. */
	do
		a = address(v) & ~7ul;
	while (a - board.ram < board.ram_size || is_in(a, board.uart, 4096) ||
	       is_in(a, board.gicd, board.gicd_size) || is_in(a, board.gicr, board.gicr_size));
	op(v, fuzz_flat, a, next(v) | 2);
}

static void branch(struct vcpu *v)
{
	u64 a = address(v);

	/* Nothing but the code itself can be executed, and a hole that is mapped as if it could. */
	op(v, fuzz_branch, below(v, 2) ? a : number(v) | 1ul << 38, 0);
}

static void look(u32 cpu)
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

/* ---- running ---- */

static void turn(u32 cpu)
{
	struct vcpu *v = &vcpus[cpu];
	enum kind kind = mix[below(v, sizeof(mix))];

	/* Counted first: a call may turn this VCPU off. Storms count what they are made of. */
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
		v->dirty = true; /* to read may be to acknowledge */
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
		/* M[4], AArch32, is left out: the registers would be others. */
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

static u64 redistributor(u64 mpidr)
{
	u64 frame = board.gicr;

	for (;; frame += GICR_FRAMES) {
		if (read32(frame + GICR_TYPER + 4) == (u32)mpidr)
			return frame;
		if (read32(frame + GICR_TYPER) & GICR_TYPER_LAST)
			panic("no redistributor for", mpidr);
	}
}

static void aim(void)
{
	u64 ipa = has_pvlock() ? hvc(PV_LOCK_PREEMPTED, 0, 0, 0) : ~0ul;
	u64 region = board.pvlock_size ? board.pvlock : ipa & ~4095ul;
	u64 size = board.pvlock_size ? board.pvlock_size : 4096;
	u64 stolen = has_stolen_time() ? hvc(PV_TIME_ST, 0, 0, 0) : ~0ul;

	/* The region is writable as far as stage 1 knows: the hypervisor has to refuse. */
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
		/* Whatever became of them: VCPUs are on again, and their timers wake them. */
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
