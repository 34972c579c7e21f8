// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VCPU 0 prints when the flag of VCPU 1 changes. VCPU 1 counts, and looks at its own flag. Boot
 * arguments: until=NS (how long VCPU 0 looks on), wfi=1 (VCPU 1 sleeps instead), beats=N (VCPU 1
 * turns itself off after N counts), alone=1 (VCPU 1 is not started).
 */
#include "guest.h"
#include "pvlock.h"

enum { EVENTS = 256, PSCI_CPU_OFF = 0x84000002 };

static u64 when[EVENTS], what[EVENTS], beats_at[EVENTS];
static u64 beats, own_not_zero, ran_while_flagged;
static u32 never;

static void second(u32 cpu)
{
	u64 end = bootarg("beats", ~0ul);

	if (bootarg("wfi", 0))
		sleep_until(&never);
	while (load(&beats) < end) {
		if (vcpu_is_preempted(cpu))
			store(&own_not_zero, own_not_zero + 1);
		store(&beats, beats + 1);
	}
	hvc(PSCI_CPU_OFF, 0, 0, 0);
}

void main(void)
{
	u64 until = bootarg("until", 100000), last = ~0ul, n = 0;
	const struct pvlock_vcpu_state *state;

	gic_init(0);
	time_init();
	pv_discover();
	pv_init(0);
	/* VCPU 1's structure is the next after ours, and is there before VCPU 1 first runs. */
	state = (const struct pvlock_vcpu_state *)(hvc(PV_LOCK_PREEMPTED, 0, 0, 0) + 64);
	if (!bootarg("alone", 0))
		cpu_on(1, second);
	while (ticks() < until) {
		u64 first = load(&beats), flag = load(&state->preempted), now;

		if (flag && load(&state->preempted) && load(&beats) != first)
			ran_while_flagged++;
		if (flag == last)
			continue;
		now = ticks();
		if (n < EVENTS)
			when[n] = now, what[n] = flag, beats_at[n++] = first;
		last = flag;
	}
	for (u64 i = 0; i < n; i++)
		print("flag %lu %lu %lu\n", when[i], what[i], beats_at[i]);
	print("beats %lu own-not-zero %lu ran-while-flagged %lu self %u\n", beats, own_not_zero,
	      ran_while_flagged, (u32)vcpu_is_preempted(0));
	system_off();
}
