// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * futex: the threads of one process take one lock of user space, keep it for about a microsecond, and
 * work for some more without it. An operation is one acquisition.
 *
 * Theory: who finds the lock taken sleeps in FUTEX_WAIT at once, and whoever releases it wakes one by
 * FUTEX_WAKE. The lock is no lock of the kernel's: nobody spins for it, so there is nothing that
 * PV-lock could end, and a preempted owner stops all others, with it or without. What the kernel adds
 * is the spinlock of one bucket of its futexes, held for a moment by waiters and wakers; native
 * spinlocks do not ask vcpu_is_preempted(). Choosing a VCPU for who is woken does.
 */
#include "loads.h"

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FREE, TAKEN, AWAITED, HELD_LOOPS = 400, OTHER_LOOPS = 1600 };

static uint32_t lock;

static void call(int operation, uint32_t value)
{
	syscall(SYS_futex, &lock, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void take(void)
{
	uint32_t free = FREE;

	if (__atomic_compare_exchange_n(&lock, &free, TAKEN, false, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		return;
	while (__atomic_exchange_n(&lock, AWAITED, __ATOMIC_ACQUIRE) != FREE)
		call(FUTEX_WAIT, AWAITED);
}

static void release(void)
{
	if (__atomic_exchange_n(&lock, FREE, __ATOMIC_RELEASE) == AWAITED)
		call(FUTEX_WAKE, 1);
}

static void compute(int loops)
{
	for (volatile int i = 0; i < loops; i++)
		;
}

static void work(int copy)
{
	begin();
	for (;;) {
		take();
		compute(HELD_LOOPS);
		release();
		done(copy);
		compute(OTHER_LOOPS);
	}
}

const struct load futex_load = { .name = "futex", .threads = true, .work = work };
