// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rwsem: many readers or one writer have it; whoever must wait long sleeps. Here one turn in four
 * is a read.
 *
 * Theory. A writer that finds another writer with the lock spins while that one runs, as in a
 * mutex, and PV-lock helps for the same reason. Readers are no single owner whose VCPU a waiter
 * could ask about. So whoever waits for readers sleeps, with PV-lock or without, and so does every
 * reader that has to wait. The more reads there are, the less PV-lock can do.
 *
 * This is Linux's rwsem_optimistic_spin() while a writer has the lock, with the queue of
 * lib/queue.c. A release wakes the first sleeper. If that is a reader, the release gives the lock
 * to all readers at the front of the list.
 */
#include "sleepers.h"

const char payload_name[] = "rwsem";

enum { READS_IN_4 = 1 };

/* While SLEEPERS is set, nobody new gets in as a reader. */
#define WRITER 2ul
#define READER 4ul		/* times the number of readers */

static struct queue spinners;
static u64 count ALIGNED(CACHE_LINE);
static u32 writer;		/* the owner's number, where WRITER is set */
static struct {
	u64 random;
	bool reads;
} ALIGNED(CACHE_LINE) turns[MAX_VCPUS];

#ifdef PVLOCK_TRACE
void payload_names(void)
{
	spinners.lock = &count;
	trace_name(&count, sizeof(count), "rwsem");
	trace_name(&sleepers_lock, sizeof(sleepers_lock), "list of sleepers");
}
#endif

static bool try_write(u32 cpu)
{
	u64 old = load(&count);

	if (old & ~SLEEPERS || !cas(&count, old, old | WRITER))
		return false;
	store(&writer, cpu);
	trace(cpu, ACQUIRED, &count, NOBODY);
	return true;
}

static bool try_read(u32 cpu)
{
	u64 old = load(&count);

	(void)cpu;
	while (!(old & (SLEEPERS | WRITER))) {
		if (cas(&count, old, old + READER)) {
			trace(cpu, ACQUIRED | PVLOCK_TRACE_SHARED, &count, NOBODY);
			return true;
		}
		old = load(&count);
	}
	return false;
}

/* Spin while a writer has the lock and runs. True with the lock. */
static bool spin_on_writer(u32 cpu)
{
	HINTED(u64 since = ticks();)

	for (;;) {
		u64 old = load(&count);

		if (!(old & ~SLEEPERS)) {
			if (try_write(cpu))
				return true;
		} else if (!(old & WRITER) || is_hopeless(load(&writer))) {
			return false;
		}
		HINTED(hint(&since, load(&writer));)
		cpu_relax();
	}
}

static bool spin(u32 cpu)
{
	bool locked = false;

	if (queue_enter(&spinners, cpu)) {
		locked = spin_on_writer(cpu);
		queue_leave(&spinners, cpu);
	}
	return locked;
}

/* With the list locked, and no writer: wake a writer at the front, or give the lock to readers. */
static void wake_first(u32 cpu)
{
	(void)cpu;
	if (first_sleeper && !first_sleeper->reads) {
		if (!load(&first_sleeper->awake))
			sleeper_wake(first_sleeper);
		return;
	}
	while (first_sleeper && first_sleeper->reads) {
		struct sleeper *s = first_sleeper;

		__atomic_fetch_add(&count, READER, __ATOMIC_RELAXED);
		trace(cpu, GRANTED | PVLOCK_TRACE_SHARED, &count, s->cpu);
		sleepers_remove(s, &count);
		sleeper_wake(s);
	}
}

static struct sleeper *enlist(u32 cpu, bool reads)
{
	struct sleeper *me = sleeper_of(cpu);

	me->reads = reads;
	store(&me->awake, 0);
	sleepers_add(me, &count);
	return me;
}

static void sleep_to_read(u32 cpu)
{
	struct sleeper *me;

	sleepers_begin(cpu);
	me = enlist(cpu, true);
	if (!(load(&count) & ~SLEEPERS)) /* the lock was released before we were on the list */
		wake_first(cpu);
	sleepers_end(cpu);
	count_sleep(cpu);
	trace(cpu, SLEPT, &count, NOBODY);
	sleep_until(&me->awake);
	trace(cpu, WOKEN, &count, NOBODY);
	trace(cpu, ACQUIRED | PVLOCK_TRACE_SHARED, &count, NOBODY);
}

static void sleep_to_write(u32 cpu)
{
	struct sleeper *me;
	bool locked;

	sleepers_begin(cpu);
	me = enlist(cpu, false);
	while (!try_write(cpu)) {
		store(&me->awake, 0);
		sleepers_end(cpu);
		count_sleep(cpu);
		trace(cpu, SLEPT, &count, NOBODY);
		sleep_until(&me->awake);
		trace(cpu, WOKEN, &count, NOBODY);
		spin_begin(cpu);
		locked = spin_on_writer(cpu);
		spin_end(cpu);
		sleepers_begin(cpu);
		if (locked)
			break;
	}
	sleepers_remove(me, &count);
	sleepers_end(cpu);
}

bool payload_lock(u32 cpu)
{
	bool locked;
	u64 *r = &turns[cpu].random;

	*r = (*r ? *r : cpu + 1) * 6364136223846793005ul + 1442695040888963407ul;
	turns[cpu].reads = *r >> 62 < READS_IN_4;
	if (turns[cpu].reads) {
		if (!try_read(cpu)) {
			trace(cpu, CONTENDED | PVLOCK_TRACE_SHARED, &count, NOBODY);
			sleep_to_read(cpu);
		}
		return false;
	}
	if (try_write(cpu))
		return true;
	trace(cpu, CONTENDED, &count, NOBODY);
	spin_begin(cpu);
	locked = spin(cpu);
	spin_end(cpu);
	if (!locked)
		sleep_to_write(cpu);
	return true;
}

void payload_unlock(u32 cpu)
{
	u64 left = turns[cpu].reads ? __atomic_sub_fetch(&count, READER, __ATOMIC_ACQ_REL)
				    : __atomic_and_fetch(&count, ~WRITER, __ATOMIC_ACQ_REL);

	trace(cpu, RELEASED | (turns[cpu].reads ? PVLOCK_TRACE_SHARED : 0), &count, NOBODY);
	if (left != SLEEPERS)
		return;
	sleepers_begin(cpu);
	if (!(load(&count) & ~SLEEPERS))
		wake_first(cpu);
	sleepers_end(cpu);
}
