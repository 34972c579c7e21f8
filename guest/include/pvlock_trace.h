/* SPDX-License-Identifier: GPL-2.0-or-later OR MIT */
/*
 * Traces for pvlock, guest side: a guest records what its VCPUs do with its locks, in rings that
 * the host reads. Any guest may include this. SPECIFICATION.md, section 11, says the same in words.
 *
 * Without PVLOCK_TRACE pvlock_trace() compiles to nothing. With it, but without the node in the
 * device tree, a guest passes NULL for its ring, and pvlock_trace() tests for that and returns.
 *
 * A ring belongs to one VCPU, and to one context of that VCPU: if interrupt handlers record too,
 * mask interrupts around pvlock_trace(). It never waits. When the host does not keep up, the guest
 * overwrites the oldest events, and the host counts them.
 */
#ifndef PVLOCK_TRACE_H
#define PVLOCK_TRACE_H

/* In the device tree, a child of /reserved-memory: a struct pvlock_trace_region. */
#define PVLOCK_TRACE_COMPATIBLE "pvlock,trace-v1"

enum pvlock_trace_kind {
	PVLOCK_TRACE_CONTENDED = 8,	/* begins to wait; `other`: the VCPU before it in the queue */
	PVLOCK_TRACE_ACQUIRED = 9,	/* record after the instruction that took the lock */
	PVLOCK_TRACE_RELEASED = 10,	/* record after the one that released it */
	PVLOCK_TRACE_SLEPT = 11,	/* goes to sleep within its wait */
	PVLOCK_TRACE_WOKEN = 12,	/* runs again; the wait goes on */
	PVLOCK_TRACE_GRANTED = 14,	/* gave the lock to the waiting VCPU `other` */
	/* Or'ed in: as a reader. Other readers may have the lock at the same time. */
	PVLOCK_TRACE_SHARED = 1 << 8,
};

/* `other` where no VCPU is meant. */
#define PVLOCK_TRACE_NOBODY (-1)

struct pvlock_trace_event {
	unsigned long long time;	/* CNTVCT_EL0 */
	unsigned long long object;	/* the lock's address */
	unsigned int kind;
	int other;			/* number of a VCPU, or PVLOCK_TRACE_NOBODY */
};

/* One per VCPU. Event n is at events[n & mask]; `written` counts all events since the start. */
struct pvlock_trace_ring {
	unsigned long long written;	/* the guest writes it */
	unsigned long long mask;	/* the host writes it: how many events fit, less one */
	unsigned char padding[48];
	struct pvlock_trace_event events[];
};

#define PVLOCK_TRACE_NAMES 63

/* The name of the locks in `size` bytes from `object` on: ASCII, up to the first zero. */
struct pvlock_trace_name {
	unsigned long long object, size;
	char name[48];
};

/* The ring of VCPU i is at the region's address + rings + i * stride. */
struct pvlock_trace_region {
	unsigned long long rings;	/* the host writes these three */
	unsigned long long stride;
	unsigned int vcpus;
	unsigned int named;		/* the guest writes it: how many of `names` are valid */
	unsigned char padding[40];
	struct pvlock_trace_name names[PVLOCK_TRACE_NAMES];
};

#ifdef PVLOCK_TRACE
static inline void pvlock_trace(struct pvlock_trace_ring *ring, unsigned int kind,
				const volatile void *object, int other)
{
	struct pvlock_trace_event *event;
	unsigned long long n, time;

	if (!ring)
		return;
	n = ring->written;
	event = &ring->events[n & ring->mask];
	asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(time) : : "memory");
	event->time = time;
	event->object = (unsigned long long)object;
	event->kind = kind;
	event->other = other;
	__atomic_store_n(&ring->written, n + 1, __ATOMIC_RELEASE);
}
#else
#define pvlock_trace(ring, kind, object, other) ((void)0)
#endif

#endif
