// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Records one event of each kind, and prints when it did. Boot arguments choose something else:
 * loops=N (VCPU 1 records N pairs of events), pause=N (with N turns of busy() after each pair),
 * forge=1, 2 or 3 (VCPU 0 spoils the rings as a hostile guest might, in that way).
 */
#include "guest.h"

#define LOCK ((const void *)0x1000)

static u32 done;

static void record_all(u32 cpu)
{
	u64 before, after;

#define ONE(kind, other)                                                                   \
	before = ticks();                                                                  \
	trace(cpu, kind, LOCK, other);                                                     \
	after = ticks();                                                                   \
	print("recorded %u %lu %lu\n", PVLOCK_TRACE_##kind, before, after)
	ONE(CONTENDED, 1);
	ONE(SLEPT, NOBODY);
	ONE(WOKEN, NOBODY);
	ONE(ACQUIRED | PVLOCK_TRACE_SHARED, NOBODY);
	ONE(RELEASED | PVLOCK_TRACE_SHARED, NOBODY);
	ONE(GRANTED, 1);
}

static void record_fast(u32 cpu)
{
	u64 loops = bootarg("loops", 0), pause = bootarg("pause", 0);

	while (loops--) {
		trace(cpu, ACQUIRED, LOCK, NOBODY);
		trace(cpu, RELEASED, LOCK, NOBODY);
		if (pause)
			busy(pause);
	}
	store_release(&done, 1);
	for (;;)
		cpu_relax();
}

static void forge(u32 cpu, u64 how)
{
	struct pvlock_trace_ring *ring = trace_rings[cpu];
	struct pvlock_trace_region *region = (void *)board.trace;

	if (how == 1) { /* an unknown kind, flag and VCPU, a time still to come, a time too early */
		trace(cpu, CONTENDED - 8, LOCK, NOBODY);
		trace(cpu, ACQUIRED | 1 << 9, LOCK, NOBODY);
		trace(cpu, CONTENDED, LOCK, 1000);
		trace(cpu, ACQUIRED, LOCK, NOBODY);
		ring->events[ring->written - 1].time = ~0ul;
		trace(cpu, ACQUIRED, LOCK, NOBODY);
		trace(cpu, RELEASED, LOCK, NOBODY);
		ring->events[ring->written - 1].time = 1;
		trace(cpu, RELEASED, LOCK, NOBODY);
	} else if (how == 2) { /* more events than there can be; then fewer */
		store(&ring->written, ~0ul);
		busy(600000);
		store(&ring->written, 5);
		busy(600000);
		trace(cpu, ACQUIRED, LOCK, NOBODY);
	} else if (how == 3) { /* the numbers that the host wrote, and names that are none */
		store(&region->rings, ~0ul);
		store(&region->stride, 1);
		store(&region->vcpus, ~0u);
		store(&ring->mask, 3);
		trace_name(LOCK, ~0ul, "\n\033[2J");
		trace_name(LOCK, 1, "name");
		store(&region->named, ~0u);
		trace(cpu, ACQUIRED, LOCK, NOBODY);
	}
}

void main(void)
{
	gic_init(0);
	trace_init();
	time_init();
	pv_discover();
	pv_init(0);
	trace_name(LOCK, 8, "a lock");
	if (bootarg("forge", 0))
		forge(0, bootarg("forge", 0));
	else if (!bootarg("loops", 0))
		record_all(0);
	if (bootarg("loops", 0)) {
		cpu_on(1, record_fast);
		while (!load_acquire(&done))
			cpu_relax();
	}
	system_off();
}
