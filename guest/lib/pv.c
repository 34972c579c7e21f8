// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PV-lock: has that VCPU been preempted? PV time (Arm DEN0057A): how long was this VCPU ready to
 * run without a CPU?
 */
#include "guest.h"
#include "pvlock.h"

enum {
	PV_TIME_FEATURES = 0xC5000020,
	PV_TIME_ST = 0xC5000021,
};

struct stolen_time {
	u32 revision, attributes;
	u64 stolen_ns;
};

static const struct pvlock_vcpu_state *states[MAX_VCPUS];
static const struct stolen_time *stolen[MAX_VCPUS];
static bool have_pvlock, have_stolen_time;

/*
 * The documented order leads through ARCH_FEATURES. A host's kernel that answers ARCH_FEATURES by
 * itself cannot be told of PV-lock. So there is a second way in: a PV-lock node in the device tree,
 * or our own UID. There is no third, since on another hypervisor these IDs mean something else.
 */
void pv_discover(void)
{
	have_pvlock = (smccc_has(PV_LOCK_FEATURES) || board.pvlock_size ||
		       smccc_uid_is(PVLOCK_UID)) &&
		      hvc(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED, 0, 0) == 0;
	have_stolen_time = smccc_has(PV_TIME_FEATURES) &&
			   hvc(PV_TIME_FEATURES, PV_TIME_ST, 0, 0) == 0;
}

static const void *structure(u32 function)
{
	u64 ipa = hvc(function, 0, 0, 0);

	if (ipa == ~0ul)
		return NULL;
	map_structure(ipa);
	return (const void *)ipa;
}

void pv_init(u32 cpu)
{
	if (have_pvlock)
		states[cpu] = structure(PV_LOCK_PREEMPTED);
	if (have_stolen_time)
		stolen[cpu] = structure(PV_TIME_ST);
}

bool vcpu_is_preempted(u32 cpu)
{
	const struct pvlock_vcpu_state *state = load(&states[cpu]);

	return state && load(&state->preempted);
}

bool has_pvlock(void)
{
	return have_pvlock;
}

bool has_stolen_time(void)
{
	return have_stolen_time;
}

u64 stolen_ticks(u32 cpu)
{
	return stolen[cpu] ? ticks_of(load(&stolen[cpu]->stolen_ns)) : 0;
}
