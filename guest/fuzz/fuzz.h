/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the hostile guest share. */
#ifndef FUZZ_H
#define FUZZ_H

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
void secondary_start(void);

enum kind {
	CALLS, POWER, STORES, LOADS, REGISTERS, SGIS, SLEEPS, HINTS, TRAPS, BRANCHES, RETURNS,
	INTERRUPTS, FLAT, TLBIS, LOOKS, KINDS,
};

/* What a guest can see to be wrong. */
enum wrong { OWN_FLAG, FLAG, PADDING, ANSWER, PRESERVED, WRONGS };

struct vcpu {
	u64 random;
	const u64 *structure;	/* its PV-lock structure; NULL until it has asked */
	u64 frame;		/* its redistributor's address */
	u64 nursed;		/* `gic_writes` when the redistributor was last put right */
	bool dirty;		/* the CPU interface may have changed since it was put right */
	u64 done[KINDS], faults, wrong[WRONGS];
} ALIGNED(CACHE_LINE);

extern struct vcpu vcpus[MAX_VCPUS];

/* ---- random.c ---- */
u64 next(struct vcpu *v);
u64 below(struct vcpu *v, u64 limit);
u64 number(struct vcpu *v);	/* small, large, one bit, an MPIDR, or any other */
u32 function(struct vcpu *v);	/* a function ID: known, near one, or any */
/* Do `what`, which may fault, and count the fault. */
u64 op(struct vcpu *v, operation *what, u64 address, u64 value);
operation *entry(char *table, u64 bytes, u64 n);	/* entry n of a table in ops.S */

/* ---- calls.c ---- */
void call(u32 cpu, u32 id, u64 a1, u64 a2, u64 a3);
void power(u32 cpu);

/* ---- interrupts.c ---- */
void nurse(u32 cpu);
void repair(u32 cpu);
void sleep(u32 cpu);
void sgis(struct vcpu *v);
u64 redistributor(u64 mpidr);
void gic_written(void);

/* ---- memory.c ---- */
void aim(void);
void store_somewhere(u32 cpu);
void load_somewhere(struct vcpu *v);
void flat(u32 cpu);
void branch(struct vcpu *v);
void look(u32 cpu);

#endif
