// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Yield by hint: a waiter tells the hypervisor for which VCPU it waits. docs/models.md says what the
 * scheme is. Only hinted guests have it.
 */
#include "guest.h"

enum { PV_YIELD_TO = 0xC6000040 };

static bool offered, instead;
static u64 patience; /* ticks */

void hint_init(void)
{
	offered = smccc_has(PV_YIELD_TO);
	instead = offered && bootarg("hint-instead", 0);
	patience = ticks_of(bootarg("hint-after", 5000));
}

static void yield_to(u32 cpu)
{
	hvc(PV_YIELD_TO, board.mpidr[cpu], 0, 0);
}

void hint(u64 *since, u32 cpu)
{
	if (!offered || ticks() - *since < patience)
		return;
	yield_to(cpu);
	*since = ticks();
}

bool hint_is_enough(u32 cpu)
{
	if (instead)
		yield_to(cpu);
	return instead;
}
