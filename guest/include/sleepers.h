/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The list of VCPUs that sleep until they can have a lock. The mutex and the rwsem keep one each.
 *
 * A spinlock protects the list. The bit SLEEPERS in the lock's own word says that the list is not
 * empty, so that a release finds it out by the atomic operation that it needs anyway.
 *
 * These are inline functions in a header, and no file of lib/: the compiler then knows where the
 * list is, and a call to the list costs a payload no instruction.
 */
#ifndef SLEEPERS_H
#define SLEEPERS_H

#include "guest.h"

#define SLEEPERS 1ul

struct sleeper {
	struct sleeper *next;
	u32 awake;	/* it sleeps until this is 1 */
	u32 cpu;
	bool reads;	/* the rwsem's: it waits as a reader */
} ALIGNED(CACHE_LINE);

static u32 sleepers_lock ALIGNED(CACHE_LINE);
static struct sleeper *first_sleeper, **last_sleeper = &first_sleeper;
static struct sleeper sleepers[MAX_VCPUS];

static inline void sleepers_begin(u32 cpu)
{
	(void)cpu;
	while (exchange(&sleepers_lock, 1)) {
		trace(cpu, CONTENDED, &sleepers_lock, NOBODY);
		while (load(&sleepers_lock))
			cpu_relax();
	}
	trace(cpu, ACQUIRED, &sleepers_lock, NOBODY);
}

static inline void sleepers_end(u32 cpu)
{
	(void)cpu;
	store_release(&sleepers_lock, 0);
	trace(cpu, RELEASED, &sleepers_lock, NOBODY);
}

/* The entry of VCPU `cpu`, which is on the list once sleepers_add() has put it there. */
static inline struct sleeper *sleeper_of(u32 cpu)
{
	struct sleeper *me = &sleepers[cpu];

	me->cpu = cpu;
	me->next = NULL;
	return me;
}

/* Put `me` at the end. This and all below are for between sleepers_begin() and sleepers_end(). */
static inline void sleepers_add(struct sleeper *me, u64 *word)
{
	*last_sleeper = me;
	last_sleeper = &me->next;
	__atomic_fetch_or(word, SLEEPERS, __ATOMIC_RELAXED);
}

static inline void sleepers_remove(const struct sleeper *gone, u64 *word)
{
	struct sleeper **p = &first_sleeper;

	while (*p != gone)
		p = &(*p)->next;
	*p = gone->next;
	if (!gone->next)
		last_sleeper = p;
	if (!first_sleeper)
		__atomic_fetch_and(word, ~SLEEPERS, __ATOMIC_RELAXED);
}

static inline void sleeper_wake(struct sleeper *s)
{
	store_release(&s->awake, 1);
	wake(s->cpu);
}

#endif
