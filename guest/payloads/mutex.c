// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mutex: a sleeping lock whose waiters spin while the owner runs.
 *
 * Theory. Spinning beats sleeping while the owner runs, since it will soon release the lock. A
 * preempted owner releases nothing before it runs again, milliseconds later, and meanwhile the
 * spinners occupy the CPUs that it needs. vcpu_is_preempted() tells the two cases apart: the
 * waiters of a preempted owner sleep, the hypervisor gives their CPUs to other VCPUs, the owner
 * among them, and each release wakes one waiter. Without PV-lock the guest must assume that every
 * owner runs.
 *
 * In front is an MCS queue (lib/queue.c), so that one waiter at a time watches the owner. A waiter
 * whose predecessor in the queue is preempted leaves the queue, and sleeps too.
 *
 * This is Linux's mutex_optimistic_spin() with osq_lock(), without the hand-off of the lock to a
 * waiter that starves.
 */
#include "sleepers.h"

const char payload_name[] = "mutex";

#define OWNER(cpu) ((u64)((cpu) + 1) << 1)
#define CPU_OF(owner) ((u32)((owner) >> 1) - 1)

static struct queue spinners;
static u64 owner ALIGNED(CACHE_LINE); /* OWNER(cpu) or 0, and SLEEPERS */

#ifdef PVLOCK_TRACE
void payload_names(void)
{
	spinners.lock = &owner;
	trace_name(&owner, sizeof(owner), "mutex");
	trace_name(&sleepers_lock, sizeof(sleepers_lock), "list of sleepers");
}
#endif

static bool try_lock(u32 cpu)
{
	u64 old = load(&owner);

	if (old & ~SLEEPERS || !cas(&owner, old, old | OWNER(cpu)))
		return false;
	trace(cpu, ACQUIRED, &owner, NOBODY);
	return true;
}

/* Spin while the owner runs. True with the lock; false if the owner was preempted. */
static bool spin_on_owner(u32 cpu)
{
	HINTED(u64 since = ticks();)

	for (;;) {
		u64 old = load(&owner);

		if (old & ~SLEEPERS) {
			if (is_hopeless(CPU_OF(old)))
				return false;
			HINTED(hint(&since, CPU_OF(old));)
		} else if (try_lock(cpu)) {
			return true;
		}
		cpu_relax();
	}
}

static bool spin(u32 cpu)
{
	bool locked;
	u64 old = load(&owner);

	if (old & ~SLEEPERS && is_hopeless(CPU_OF(old)))
		return false;
	if (!queue_enter(&spinners, cpu))
		return false;
	locked = spin_on_owner(cpu);
	queue_leave(&spinners, cpu);
	return locked;
}

static void sleep(u32 cpu)
{
	struct sleeper *me = sleeper_of(cpu);
	bool locked;

	sleepers_begin(cpu);
	sleepers_add(me, &owner);
	while (!try_lock(cpu)) {
		store(&me->awake, 0);
		sleepers_end(cpu);
		count_sleep(cpu);
		trace(cpu, SLEPT, &owner, NOBODY);
		sleep_until(&me->awake);
		trace(cpu, WOKEN, &owner, NOBODY);
		/* Only the first sleeper is woken, so it need not queue to spin. */
		spin_begin(cpu);
		locked = spin_on_owner(cpu);
		spin_end(cpu);
		sleepers_begin(cpu);
		if (locked)
			break;
	}
	sleepers_remove(me, &owner);
	sleepers_end(cpu);
}

bool payload_lock(u32 cpu)
{
	bool locked;

	if (cas(&owner, 0, OWNER(cpu))) {
		trace(cpu, ACQUIRED, &owner, NOBODY);
		return true;
	}
	trace(cpu, CONTENDED, &owner, NOBODY);
	spin_begin(cpu);
	locked = spin(cpu);
	spin_end(cpu);
	if (!locked)
		sleep(cpu);
	return true;
}

void payload_unlock(u32 cpu)
{
	u64 left = __atomic_and_fetch(&owner, SLEEPERS, __ATOMIC_RELEASE);

	trace(cpu, RELEASED, &owner, NOBODY);
	if (!left)
		return;
	sleepers_begin(cpu);
	if (first_sleeper && !load(&first_sleeper->awake))
		sleeper_wake(first_sleeper);
	sleepers_end(cpu);
}
