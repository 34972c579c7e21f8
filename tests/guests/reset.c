// SPDX-License-Identifier: GPL-2.0-or-later
/* VCPU 1 goes on, off, and on again. Each time it asks where its structure is. */
#include "guest.h"
#include "pvlock.h"

enum { PSCI_CPU_OFF = 0x84000002, PSCI_AFFINITY_INFO = 0xC4000004 };

static u64 address[2];
static u32 turn;

static void body(u32 cpu)
{
	(void)cpu;
	store_release(&address[load_acquire(&turn)], hvc(PV_LOCK_PREEMPTED, 0, 0, 0));
	hvc(PSCI_CPU_OFF, 0, 0, 0);
}

void main(void)
{
	gic_init(0);
	pv_discover();
	pv_init(0);
	for (u32 i = 0; i < 2; i++) {
		store_release(&turn, i);
		if (!cpu_on(1, body))
			panic("CPU_ON refused", i);
		while (!hvc(PSCI_AFFINITY_INFO, board.mpidr[1], 0, 0))
			cpu_relax();
		print("address %lx flag %u\n", load(&address[i]), (u32)vcpu_is_preempted(1));
	}
	system_off();
}
