// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The MCS queue in which waiters spin before a sleeping lock, after Linux's osq_lock(). Each waiter
 * watches a word of its own, by WFE, and the one at the head watches the lock's owner. A waiter
 * whose predecessor is preempted leaves: its turn cannot come before the predecessor runs again.
 */
#include "guest.h"

struct node {
	struct node *next, *prev;
	u32 locked;
	u32 cpu;
} ALIGNED(CACHE_LINE);

/* One each, since a VCPU is in one queue at a time. */
static struct node nodes[MAX_VCPUS];

/* `me` leaves. Return the node after it; if there is none, `prev` becomes the tail, and NULL. */
static struct node *successor(struct queue *q, struct node *me, struct node *prev)
{
	for (;;) {
		if (load(&q->tail) == me && cas(&q->tail, me, prev))
			return NULL;
		if (load(&me->next)) {
			struct node *next = exchange(&me->next, NULL);

			if (next)
				return next;
		}
		cpu_relax();
	}
}

/* Leave the queue from its middle. False if our turn came meanwhile. */
static bool leave(struct queue *q, struct node *me, struct node *prev)
{
	struct node *next;

	for (;;) {
		if (load(&prev->next) == me && cas(&prev->next, me, NULL))
			break;
		if (load_acquire(&me->locked))
			return false;
		cpu_relax();
		prev = load(&me->prev); /* the old one may have left too */
	}
	next = successor(q, me, prev);
	if (next) {
		store(&next->prev, prev);
		store_release(&prev->next, next);
	}
	return true;
}

#ifdef PVLOCK_TRACE
/* Record that another node stands before us now. */
static void trace_prev(const struct queue *q, struct node *me, struct node **seen)
{
	struct node *prev = load(&me->prev);

	if (prev == *seen)
		return;
	*seen = prev;
	trace(me->cpu, CONTENDED, q->lock, prev->cpu);
}
#endif

bool queue_enter(struct queue *q, u32 cpu)
{
	struct node *me = &nodes[cpu], *prev;
	HINTED(u64 since = ticks();)

	me->next = NULL;
	me->cpu = cpu;
	store(&me->locked, 0);
	prev = exchange(&q->tail, me);
	if (!prev)
		return true;
	store(&me->prev, prev);
	store_release(&prev->next, me);
	trace(cpu, CONTENDED, q->lock, prev->cpu);
	while (!load_acquire(&me->locked)) {
		/* `prev` may leave meanwhile, but a node's `cpu` never changes. */
		TRACED(trace_prev(q, me, &prev);)
		if (is_hopeless(load(&me->prev)->cpu) && leave(q, me, load(&me->prev))) {
			trace(cpu, CONTENDED, q->lock, NOBODY);
			return false;
		}
		/* A WFE might end too late for the hint. */
		HINTED(hint(&since, load(&me->prev)->cpu); cpu_relax(); continue;)
		wait_while_zero(&me->locked);
	}
	trace(cpu, CONTENDED, q->lock, NOBODY);
	return true;
}

void queue_leave(struct queue *q, u32 cpu)
{
	struct node *me = &nodes[cpu], *next;

	if (cas(&q->tail, me, NULL))
		return;
	next = successor(q, me, NULL);
	if (next)
		store_release(&next->locked, 1);
}
