// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * idle: a lock that nobody else wants.
 *
 * Theory. The interface is free while nobody uses it: the hypervisor writes a word as it switches
 * VCPUs, which it does anyway, and the guest reads it only once it has found a lock taken. So with
 * and without PV-lock must not differ. Each VCPU has a lock of its own and looks, with the lock
 * taken, at one flag, which is more than any lock does in this case.
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
