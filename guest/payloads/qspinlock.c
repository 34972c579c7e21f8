// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qspinlock: an MCS queue in front of a lock word.
 *
 * Theory. Each waiter watches a word in its own node, and only the head of the queue watches the
 * lock, so a release touches one cache line. Waiters are served in the order in which they came, so
 * a preempted waiter stops all behind it. Without PV-lock every wait is by WFE, as on Linux/arm64,
 * which has no paravirtual form of this lock. With PV-lock a waiter sleeps until an SGI wakes it,
 * as in Linux's pv_wait_node() and pv_kick() for x86. It does so if its predecessor is preempted or
 * asleep or, at the head, if the owner is preempted. Nobody overtakes it meanwhile, so nobody has
 * the lock from the SGI until it runs.
 */
#include "guest.h"

const char payload_name[] = "qspinlock";

enum { SPINNING, ASLEEP };

struct node {
	struct node *next;
	u32 first;	/* the predecessor says: you are the head now */
	u32 kicked;	/* a sleeper sleeps until it is 1 */
	u32 state;
	u32 cpu;
} ALIGNED(CACHE_LINE);

static struct node nodes[MAX_VCPUS];
static struct node *tail ALIGNED(CACHE_LINE);
static u32 owner ALIGNED(CACHE_LINE);	/* 0, or the owner's number + 1 */
static struct node *head;		/* the head of the queue while it sleeps */

#ifdef PVLOCK_TRACE
void payload_names(void)
{
	trace_name(&owner, sizeof(owner), "qspinlock");
}
#endif

/* Sleep until kicked, unless *word is already zero (`zero`) or already not zero (otherwise). */
static void sleep_unless(struct node *me, const u32 *word, bool zero)
{
	store(&me->kicked, 0);
	exchange(&me->state, ASLEEP);
	if (!load_acquire(word) != zero) {
		spin_end(me->cpu);
		count_sleep(me->cpu);
		trace(me->cpu, SLEPT, &owner, NOBODY);
		sleep_until(&me->kicked);
		trace(me->cpu, WOKEN, &owner, NOBODY);
		spin_begin(me->cpu);
	}
	store(&me->state, SPINNING);
}

static void kick(struct node *waiter)
{
	if (exchange(&waiter->state, SPINNING) != ASLEEP)
		return;
	store_release(&waiter->kicked, 1);
	wake(waiter->cpu);
}

/* Our turn cannot come soon: the predecessor was preempted, or sleeps in the queue itself. */
static bool hopeless(const struct node *prev)
{
	return load(&prev->state) == ASLEEP || is_hopeless(prev->cpu);
}

static void wait_for_turn(struct node *me, const struct node *prev)
{
	HINTED(u64 since = ticks();)

	while (!load_acquire(&me->first)) {
		HINTED(hint(&since, prev->cpu);)
		HINTED(if (!has_pvlock()) { cpu_relax(); continue; })
		if (!has_pvlock())
			wait_while_zero(&me->first);
		else if (hopeless(prev))
			sleep_unless(me, &me->first, false);
		else
			cpu_relax();
	}
}

static void wait_for_lock(struct node *me, u32 cpu)
{
	HINTED(u64 since = ticks();)

	while (!cas(&owner, 0, cpu + 1)) {
		u32 now = load(&owner);

		if (!now)
			continue;
		HINTED(hint(&since, now - 1);)
		HINTED(if (!has_pvlock()) { cpu_relax(); continue; })
		if (!has_pvlock()) {
			wait_while_equal(&owner, now);
		} else if (is_hopeless(now - 1)) {
			exchange(&head, me);
			sleep_unless(me, &owner, true);
			exchange(&head, NULL);
		} else {
			cpu_relax();
		}
	}
}

bool payload_lock(u32 cpu)
{
	struct node *me = &nodes[cpu], *prev;

	if (!load(&tail) && cas(&owner, 0, cpu + 1)) {
		trace(cpu, ACQUIRED, &owner, NOBODY);
		return true;
	}
	spin_begin(cpu);
	me->next = NULL;
	me->cpu = cpu;
	store(&me->first, 0);
	store(&me->state, SPINNING);
	prev = exchange(&tail, me);
	trace(cpu, CONTENDED, &owner, prev ? (int)prev->cpu : NOBODY);
	if (prev) {
		store_release(&prev->next, me);
		wait_for_turn(me, prev);
		trace(cpu, CONTENDED, &owner, NOBODY);
	}
	wait_for_lock(me, cpu);
	trace(cpu, ACQUIRED, &owner, NOBODY);
	if (!cas(&tail, me, NULL)) {
		struct node *next;

		while (!(next = load_acquire(&me->next)))
			cpu_relax();
		exchange(&next->first, 1);
		kick(next);
	}
	spin_end(cpu);
	return true;
}

void payload_unlock(u32 cpu)
{
	struct node *waiter;

	(void)cpu;
	exchange(&owner, 0);
	trace(cpu, RELEASED, &owner, NOBODY);
	if (!has_pvlock())
		return;
	waiter = load_acquire(&head);
	if (waiter)
		kick(waiter);
}
