// SPDX-License-Identifier: GPL-2.0-or-later
/* GICv2 (Arm IHI 0048) and GICv3 (IHI 0069), as far as one SGI needs them. */
#include "conf.h"

enum {
	GICD_CTLR = 0x0000,
	GICD_ISENABLER0 = 0x0100,
	GICD_IPRIORITYR = 0x0400,
	GICD_ITARGETSR = 0x0800,
	GICD_SGIR = 0x0f00,
	GICC_CTLR = 0x00,
	GICC_PMR = 0x04,
	GICC_IAR = 0x0c,
	GICC_EOIR = 0x10,
	GICV2_ENABLE_BOTH_GROUPS = 3,
	GICD_CTLR_ENABLE_GRP1 = 1 << 1,
	GICD_CTLR_ARE = 1 << 4,
	GICR_TYPER = 0x0008,
	GICR_TYPER_VLPIS = 1 << 1,
	GICR_TYPER_LAST = 1 << 4,
	GICR_WAKER = 0x0014,
	GICR_WAKER_CHILDREN_ASLEEP = 1 << 2,
	GICR_SGI = 0x10000,
	GICR_IGROUPR0 = GICR_SGI + 0x0080,
	GICR_ISENABLER0 = GICR_SGI + 0x0100,
	GICR_IPRIORITYR = GICR_SGI + 0x0400,
	WAKE_SGI = 1,
	VIRTUAL_TIMER = 27,	/* the PPI that BSA (Arm DEN0094) gives it everywhere */
	PRIORITY = 0x80,
	SPURIOUS = 1020,	/* this and every higher number mean that no interrupt is pending */
	PATIENCE = 1000000,
};

#define ICC_PMR_EL1 "s3_0_c4_c6_0"
#define ICC_SGI1R_EL1 "s3_0_c12_c11_5"
#define ICC_IAR1_EL1 "s3_0_c12_c12_0"
#define ICC_EOIR1_EL1 "s3_0_c12_c12_1"
#define ICC_SRE_EL1 "s3_0_c12_c12_5"
#define ICC_IGRPEN1_EL1 "s3_0_c12_c12_7"

static u32 targets[MAX_CPUS];	/* GICv2: the bit of each CPU's interface */

/* The frame whose GICR_TYPER has the CPU's Aff3.Aff2.Aff1.Aff0; 0 if there is none. */
static u64 redistributor(u32 cpu)
{
	u64 mpidr = conf_board.mpidr[cpu];
	u32 wanted = (mpidr >> 32 & 0xff) << 24 | (mpidr & 0xffffff);

	for (u32 i = 0; i < conf_board.gicrs; i++) {
		u64 frame = conf_board.gicr[i].base, end = frame + conf_board.gicr[i].size;

		while (frame + 2 * 0x10000 <= end) {
			u32 typer = read32(frame + GICR_TYPER);

			if (read32(frame + GICR_TYPER + 4) == wanted)
				return frame;
			if (typer & GICR_TYPER_LAST)
				break;
			frame += typer & GICR_TYPER_VLPIS ? 4 * 0x10000 : 2 * 0x10000;
		}
	}
	return 0;
}

static void init_v3(u32 cpu)
{
	u64 frame = redistributor(cpu);

	if (!frame)
		conf_bail_out("the GIC has no redistributor for CPU", cpu);
	if (cpu == 0)
		write32(conf_board.gicd.base + GICD_CTLR, GICD_CTLR_ARE | GICD_CTLR_ENABLE_GRP1);
	write32(frame + GICR_WAKER, 0);
	for (u32 i = 0; i < PATIENCE; i++)
		if (!(read32(frame + GICR_WAKER) & GICR_WAKER_CHILDREN_ASLEEP))
			break;
	write32(frame + GICR_IGROUPR0, ~0u);
	write32(frame + GICR_IPRIORITYR, PRIORITY * 0x01010101u);
	write32(frame + GICR_ISENABLER0, 1 << WAKE_SGI | 1 << VIRTUAL_TIMER);
	write_sysreg(ICC_SRE_EL1, 1);
	asm volatile("isb");
	write_sysreg(ICC_PMR_EL1, 0xff);
	write_sysreg(ICC_IGRPEN1_EL1, 1);
	asm volatile("isb");
}

static void init_v2(u32 cpu)
{
	u64 d = conf_board.gicd.base, c = conf_board.gicc.base;

	if (cpu == 0)
		write32(d + GICD_CTLR, GICV2_ENABLE_BOTH_GROUPS);
	targets[cpu] = read32(d + GICD_ITARGETSR) & 0xff;
	write32(d + GICD_IPRIORITYR, PRIORITY * 0x01010101u);
	write32(d + GICD_ISENABLER0, 1 << WAKE_SGI | 1 << VIRTUAL_TIMER);
	write32(c + GICC_PMR, 0xff);
	write32(c + GICC_CTLR, GICV2_ENABLE_BOTH_GROUPS);
}

void conf_gic_init(u32 cpu)
{
	if (conf_board.gic == 3)
		init_v3(cpu);
	else if (conf_board.gic == 2)
		init_v2(cpu);
}

/* Interrupts stay masked. A pending one ends the WFI all the same, and we acknowledge it here. */
void conf_sleep_once(u64 ticks)
{
	u64 interrupt;

	write_sysreg("cntv_tval_el0", ticks);
	write_sysreg("cntv_ctl_el0", ticks != 0);
	asm volatile("dsb sy\n\tisb\n\twfi" : : : "memory");
	write_sysreg("cntv_ctl_el0", 0);
	asm volatile("isb");
	if (conf_board.gic == 3) {
		while ((interrupt = read_sysreg(ICC_IAR1_EL1) & 0xffffff) < SPURIOUS)
			write_sysreg(ICC_EOIR1_EL1, interrupt);
	} else if (conf_board.gic == 2) {
		while (((interrupt = read32(conf_board.gicc.base + GICC_IAR)) & 0x3ff) < SPURIOUS)
			write32(conf_board.gicc.base + GICC_EOIR, interrupt);
	}
}

void conf_wake(u32 cpu)
{
	u64 mpidr = conf_board.mpidr[cpu], aff0 = mpidr & 0xff;

	asm volatile("dsb ish" : : : "memory");
	if (conf_board.gic == 2) {
		write32(conf_board.gicd.base + GICD_SGIR, targets[cpu] << 16 | WAKE_SGI);
		return;
	}
	/* A target list names 16 of the 256 values of Aff0; RS says which. */
	write_sysreg(ICC_SGI1R_EL1, (mpidr >> 32 & 0xff) << 48 | (aff0 >> 4) << 44 |
				    (mpidr >> 16 & 0xff) << 32 | (u64)WAKE_SGI << 24 |
				    (mpidr >> 8 & 0xff) << 16 | 1ul << (aff0 & 15));
	asm volatile("isb");
}
