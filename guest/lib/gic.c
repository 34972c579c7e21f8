// SPDX-License-Identifier: GPL-2.0-or-later
/* GICv3 (Arm IHI 0069), as far as one SGI needs it: a VCPU sleeps in WFI, another wakes it. */
#include "guest.h"

enum {
	GICD_CTLR = 0x0000,
	GICD_CTLR_ENABLE_GRP1 = 1 << 1,
	GICD_CTLR_ARE = 1 << 4,
	GICR_TYPER = 0x0008,
	GICR_TYPER_LAST = 1 << 4,
	GICR_WAKER = 0x0014,
	GICR_FRAMES = 0x20000,
	GICR_SGI = 0x10000,
	GICR_IGROUPR0 = GICR_SGI + 0x0080,
	GICR_ISENABLER0 = GICR_SGI + 0x0100,
	GICR_IPRIORITYR = GICR_SGI + 0x0400,
	WAKE_SGI = 1,
	PRIORITY = 0x80,
	SPURIOUS = 1020,	/* this and every higher number mean that no interrupt is pending */
};

#define ICC_PMR_EL1 "s3_0_c4_c6_0"
#define ICC_SGI1R_EL1 "s3_0_c12_c11_5"
#define ICC_IAR1_EL1 "s3_0_c12_c12_0"
#define ICC_EOIR1_EL1 "s3_0_c12_c12_1"
#define ICC_SRE_EL1 "s3_0_c12_c12_5"
#define ICC_IGRPEN1_EL1 "s3_0_c12_c12_7"

static u64 redistributor(u32 cpu)
{
	u64 frame = board.gicr;

	for (;; frame += GICR_FRAMES) {
		if (read32(frame + GICR_TYPER + 4) == (u32)board.mpidr[cpu])
			return frame;
		if (read32(frame + GICR_TYPER) & GICR_TYPER_LAST)
			panic("no redistributor for VCPU", cpu);
	}
}

void gic_init(u32 cpu)
{
	u64 frame = redistributor(cpu);

	if (cpu == 0)
		write32(board.gicd + GICD_CTLR, GICD_CTLR_ARE | GICD_CTLR_ENABLE_GRP1);
	write32(frame + GICR_WAKER, 0);
	write32(frame + GICR_IGROUPR0, ~0u);
	write32(frame + GICR_IPRIORITYR, PRIORITY * 0x01010101u);
	write32(frame + GICR_ISENABLER0, 1 << WAKE_SGI);
	write_sysreg(ICC_SRE_EL1, 1);
	asm volatile("isb");
	write_sysreg(ICC_PMR_EL1, 0xff);
	write_sysreg(ICC_IGRPEN1_EL1, 1);
	asm volatile("isb");
}

/* Interrupts stay masked. A pending one ends the WFI all the same, and we acknowledge it here. */
void sleep_until(const u32 *flag)
{
	while (!load_acquire(flag)) {
		u64 interrupt;

		asm volatile("dsb sy\n\twfi" : : : "memory");
		while ((interrupt = read_sysreg(ICC_IAR1_EL1)) < SPURIOUS)
			write_sysreg(ICC_EOIR1_EL1, interrupt);
	}
}

void wake(u32 cpu)
{
	u64 mpidr = board.mpidr[cpu];
	u64 aff0 = mpidr & 0xff, aff1 = mpidr >> 8 & 0xff, aff2 = mpidr >> 16 & 0xff;

	asm volatile("dsb ish" : : : "memory");
	write_sysreg(ICC_SGI1R_EL1, aff2 << 32 | (u64)WAKE_SGI << 24 | aff1 << 16 | 1ul << aff0);
	asm volatile("isb");
}
