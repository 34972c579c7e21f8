// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ticket: a fair spinlock. It is not Linux's. Linux/arm64 had ticket locks until commit
 * c11090474d70 (4.19), but they had no word that says who the owner is, and no paravirtual form.
 *
 * Theory. Waiters are served in the order of their tickets, so one preempted waiter stops all
 * behind it as surely as a preempted owner does: fairness makes overcommitment worse. Without
 * PV-lock a waiter waits by WFE until its ticket is called. With PV-lock a waiter gives its CPU
 * away when the owner, or the next in turn, is preempted: it sleeps, and whoever calls its ticket
 * wakes it by an SGI. The price is that nobody has the lock from the call until the waiter runs.
 */
#include "guest.h"

const char payload_name[] = "ticket";

static u32 next ALIGNED(CACHE_LINE), serving ALIGNED(CACHE_LINE);
static u32 owner_cpu;

/* By ticket modulo MAX_VCPUS: which VCPU waits with it, and whether that VCPU sleeps. */
static struct slot {
	u32 called;	/* a sleeper sleeps until it is 1 */
	u32 cpu;
	u32 asleep;
	TRACED(u32 ticket;)	/* the ticket that `cpu` has; it is written after `cpu` */
} ALIGNED(CACHE_LINE) slots[MAX_VCPUS];

#ifdef PVLOCK_TRACE
void payload_names(void)
{
	trace_name(&serving, sizeof(serving), "ticket lock");
	slots[MAX_VCPUS - 1].ticket = 1; /* not 0, since ticket 0 belongs to another slot */
}

/* Which VCPU has this ticket. NOBODY if that VCPU has not written so yet. */
static int holder(u32 ticket)
{
	const struct slot *slot = &slots[ticket % MAX_VCPUS];
	u32 cpu;

	if (load_acquire(&slot->ticket) != ticket)
		return NOBODY;
	cpu = load_acquire(&slot->cpu);
	return load(&slot->ticket) == ticket ? (int)cpu : NOBODY;
}
#endif

static void wait_plain(u32 ticket)
{
	for (;;) {
		u32 now = load_acquire(&serving);

		if (now == ticket)
			return;
		wait_while_equal(&serving, now);
	}
}

/* The owner is preempted, or its ticket was called and it still sleeps. */
static bool hopeless(void)
{
	return vcpu_is_preempted(load(&owner_cpu)) ||
	       load(&slots[load(&serving) % MAX_VCPUS].asleep);
}

static void wait_pv(u32 cpu, u32 ticket)
{
	struct slot *me = &slots[ticket % MAX_VCPUS];

	while (load_acquire(&serving) != ticket) {
		if (!hopeless()) {
			cpu_relax();
			continue;
		}
		store(&me->called, 0);
		exchange(&me->asleep, 1);
		/* If our ticket was called meanwhile, nobody will wake us. */
		if (load_acquire(&serving) != ticket) {
			spin_end(cpu);
			count_sleep(cpu);
			trace(cpu, SLEPT, &serving, NOBODY);
			sleep_until(&me->called);
			trace(cpu, WOKEN, &serving, NOBODY);
			spin_begin(cpu);
		}
		exchange(&me->asleep, 0);
	}
}

bool payload_lock(u32 cpu)
{
	u32 ticket = __atomic_fetch_add(&next, 1, __ATOMIC_ACQ_REL);

	store(&slots[ticket % MAX_VCPUS].cpu, cpu);
	TRACED(store_release(&slots[ticket % MAX_VCPUS].ticket, ticket);)
	if (load_acquire(&serving) != ticket) {
		trace(cpu, CONTENDED, &serving, holder(ticket - 1));
		spin_begin(cpu);
		if (has_pvlock())
			wait_pv(cpu, ticket);
		else
			wait_plain(ticket);
		trace(cpu, ACQUIRED, &serving, NOBODY);
		spin_end(cpu);
	} else {
		trace(cpu, ACQUIRED, &serving, NOBODY);
	}
	store(&owner_cpu, cpu);
	return true;
}

void payload_unlock(u32 cpu)
{
	u32 ticket = load(&serving) + 1;
	struct slot *called = &slots[ticket % MAX_VCPUS];

	(void)cpu;
	/* Waiters should watch the next in turn, until that VCPU has the lock itself. */
	if (load(&next) != ticket)
		store(&owner_cpu, load(&called->cpu));
	exchange(&serving, ticket);
	trace(cpu, RELEASED, &serving, NOBODY);
	if (has_pvlock() && load(&called->asleep)) {
		store_release(&called->called, 1);
		wake(load(&called->cpu));
	}
}
