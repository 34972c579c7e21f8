/* SPDX-License-Identifier: GPL-2.0-or-later OR MIT */
/*
 * Traces for pvlock, guest side: what a VCPU did with its locks, in a ring that the host reads. Any
 * guest may include this. SPECIFICATION.md, section 11, says the same in words.
 *
 * Without PVLOCK_TRACE pvlock_trace() is nothing at all. With it, and without the node in the
 * device tree, it is one test for the null pointer that is then the guest's ring.
 *
 * A ring belongs to one VCPU, and one context of it: mask interrupts around pvlock_trace() if their
 * handlers record too. It never waits. When the host does not keep up, the oldest events are
 * overwritten, and the host counts them.
 */
#ifndef PVLOCK_TRACE_H
#define PVLOCK_TRACE_H

/* In the device tree, a child of /reserved-memory: a struct pvlock_trace_region. */
#define PVLOCK_TRACE_COMPATIBLE "pvlock,trace-v1"

enum pvlock_trace_kind {
	PVLOCK_TRACE_CONTENDED = 8,	/* begins to wait; `other`: who is before it in the queue */
	PVLOCK_TRACE_ACQUIRED = 9,	/* record after the instruction that took the lock */
	PVLOCK_TRACE_RELEASED = 10,	/* record after the one that released it */
	PVLOCK_TRACE_SLEPT = 11,	/* while it waits, goes to sleep until woken */
	PVLOCK_TRACE_WOKEN = 12,
	PVLOCK_TRACE_GRANTED = 14,	/* gave the lock to the waiting VCPU `other` */
	/* Or'ed in: as a reader, which others may be beside. */
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

/* One per VCPU. Event n is at events[n & mask]; `written` is how many there were since the start. */
struct pvlock_trace_ring {
	unsigned long long written;	/* the guest's */
	unsigned long long mask;	/* the host's: number of events in the ring, less one */
	unsigned char padding[48];
	struct pvlock_trace_event events[];
};

#define PVLOCK_TRACE_NAMES 63

/* What to call the locks in `size` bytes from `object` on. ASCII, ends at the first zero. */
struct pvlock_trace_name {
	unsigned long long object, size;
	char name[48];
};

/* The ring of VCPU i is at the region's address + rings + i * stride. */
struct pvlock_trace_region {
	unsigned long long rings;	/* the host's */
	unsigned long long stride;	/* the host's */
	unsigned int vcpus;		/* the host's */
	unsigned int named;		/* the guest's: how many of `names` are valid */
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
