// SPDX-License-Identifier: GPL-2.0-or-later
/* Times in ns, in ticks of the counter, and in turns of busy(). */
#include "guest.h"

enum { TRIES = 5, LOOPS = 20000 };

static u64 frequency;
static u64 loop_ticks;	/* ticks that LOOPS turns take */

void time_init(void)
{
	asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	loop_ticks = ~0ul;
	/* Take the shortest time: whatever took longer was interrupted. */
	for (u32 i = 0; i < TRIES; i++) {
		u64 start = ticks(), taken;

		busy(LOOPS);
		taken = ticks() - start;
		if (taken < loop_ticks)
			loop_ticks = taken;
	}
	if (!loop_ticks)
		loop_ticks = 1;
}

static u64 scale(u64 value, u64 by, u64 per)
{
	return value / per * by + value % per * by / per;
}

u64 ticks_of(u64 ns)
{
	return scale(ns, frequency, 1000000000);
}

u64 ns_of(u64 t)
{
	return scale(t, 1000000000, frequency);
}

u64 loops_of(u64 ns)
{
	return scale(ticks_of(ns), LOOPS, loop_ticks);
}
