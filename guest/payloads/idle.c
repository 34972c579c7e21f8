// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * idle: a lock that nobody else wants.
 *
 * Theory. The interface is free while nobody needs it: the hypervisor writes one word when it
 * switches VCPUs, and a guest reads the word only after it has found a lock taken. So a run with
 * PV-lock must not differ from one without. Each VCPU here has a lock of its own, and while it
 * holds the lock it reads one flag, which is more than any other lock does in this case.
 */
#include "guest.h"

const char payload_name[] = "idle";

static struct {
	u32 locked;
} ALIGNED(CACHE_LINE) locks[MAX_VCPUS];
static u64 looks[MAX_VCPUS];

#ifdef PVLOCK_TRACE
void payload_names(void)
{
	trace_name(locks, sizeof(locks), "own lock");
}
#endif

bool payload_lock(u32 cpu)
{
	while (!cas(&locks[cpu].locked, 0, 1))
		if (vcpu_is_preempted(cpu))
			panic("own lock taken by VCPU", cpu);
	trace(cpu, ACQUIRED, &locks[cpu], NOBODY);
	looks[cpu] += vcpu_is_preempted((cpu + 1) % board.vcpus);
	return false; /* the harness's counter is not under this lock */
}

void payload_unlock(u32 cpu)
{
	store_release(&locks[cpu].locked, 0);
	trace(cpu, RELEASED, &locks[cpu], NOBODY);
}
