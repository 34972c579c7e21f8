// SPDX-License-Identifier: GPL-2.0-or-later
/* Interrupts and sleep. Before a VCPU sleeps, its GIC must be able to wake it. */
#include "fuzz.h"

static u64 gic_writes;		/* random stores to the distributor and the redistributors so far */

static void write_register(struct vcpu *v, u32 n, u64 value)
{
	op(v, entry(fuzz_writes, 8, n), 0, value);
}

/* Put right what the timer of a VCPU needs to wake it, after random stores to the GIC. */
void nurse(u32 cpu)
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

void gic_written(void)
{
	__atomic_fetch_add(&gic_writes, 1, __ATOMIC_ACQ_REL);
	nurse(0); /* VCPU 0 does it for all others, so nobody else would do it for VCPU 0 */
}

/* As nurse(), and the same for the CPU interface, which only its own VCPU can reach. */
void repair(u32 cpu)
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
	for (u32 i = 0; i < LENGTH(healthy); i++)
		write_register(&vcpus[cpu], healthy[i].sysreg, healthy[i].value);
}

void sleep(u32 cpu)
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

void sgis(struct vcpu *v)
{
	for (u64 n = 1 + below(v, 16); n; n--) {
		u64 to = board.mpidr[below(v, board.vcpus)];
		u64 value = (to >> 16 & 0xff) << 32 | (to >> 8 & 0xff) << 16 | 1ul << (to & 15) |
			    below(v, 16) << 24;

		v->done[SGIS]++;
		write_register(v, SGI1R, below(v, 4) ? value : next(v));
	}
}

u64 redistributor(u64 mpidr)
{
	u64 frame = board.gicr;

	for (;; frame += GICR_FRAMES) {
		if (read32(frame + GICR_TYPER + 4) == (u32)mpidr)
			return frame;
		if (read32(frame + GICR_TYPER) & GICR_TYPER_LAST)
			panic("no redistributor for", mpidr);
	}
}
