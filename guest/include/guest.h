/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The freestanding library of all bundled guests but the conformance guest, which has its own.
 * Times are ns, unless a name says ticks.
 */
#ifndef GUEST_H
#define GUEST_H

#define MAX_VCPUS 512
#define STACK_SIZE 4096
#define CACHE_LINE 64

#ifndef __ASSEMBLER__
#include "basics.h"
#include "pvlock_trace.h"

/* ---- what the device tree says: fdt.c ---- */
struct board {
	u32 vcpus;
	u64 mpidr[MAX_VCPUS];
	u64 ram, ram_size;
	u64 uart;
	u64 gicd, gicd_size, gicr, gicr_size;
	u64 pvlock, pvlock_size; /* the PV-lock region; the size is 0 if the tree has none */
	const char *bootargs;
#ifdef PVLOCK_TRACE
	u64 trace, trace_size; /* the rings; the size is 0 if the tree has none */
#endif
};
extern struct board board;
void board_read(const void *dtb);
/* The number after "name=" in the boot arguments, or `otherwise`. */
u64 bootarg(const char *name, u64 otherwise);

/* ---- memory: mmu.c ---- */
enum memory { DEVICE, CODE, DATA, SHARED_READ_ONLY };
void map(u64 address, u64 size, enum memory kind);
void mmu_prepare(void);
bool is_mapped(u64 address);
/* Map the page of a structure whose address the hypervisor told us, if it is not mapped yet. */
void map_structure(u64 address);
/* Clean to the point of coherency: for memory that a CPU reads or has written with its MMU off. */
void clean(const void *start, size_t size);

/* ---- CPUs: cpu.c, start.S ---- */
/* Turn VCPU `cpu` on; it runs `body(cpu)` with its MMU and interrupts set up. */
bool cpu_on(u32 cpu, void (*body)(u32 cpu));
void main(void); /* VCPU 0 calls it, with its MMU on */
_Noreturn void system_off(void);
_Noreturn void panic(const char *why, u64 value);

/* ---- SMC calling convention: smccc.c ---- */
u64 hvc(u64 function, u64 x1, u64 x2, u64 x3);
bool smccc_has(u32 function); /* asks ARCH_FEATURES, after the steps that must precede it */
bool smccc_uid_is(u32 w0, u32 w1, u32 w2, u32 w3);

/* ---- PV-lock and PV time: pv.c ---- */
void pv_discover(void);		/* VCPU 0 calls it, once */
void pv_init(u32 cpu);		/* then each VCPU calls it for itself */
bool vcpu_is_preempted(u32 cpu);
bool has_pvlock(void);
bool has_stolen_time(void);
u64 stolen_ticks(u32 cpu);	/* how long this VCPU was ready to run and had no CPU */

/* ---- interrupts: gic.c ---- */
void gic_init(u32 cpu);
/* Sleep in WFI until *flag is not 0. Whoever sets the flag also calls wake(). */
void sleep_until(const u32 *flag);
void wake(u32 cpu);

/* ---- time ---- */
void time_init(void);
u64 ticks_of(u64 ns);
u64 ns_of(u64 ticks);
/* Keep the CPU busy for `loops` turns; loops_of() says how many take how long. */
static inline void busy(u64 loops)
{
	asm volatile("1: subs %0, %0, #1\n\tb.hi 1b" : "+r"(loops) : : "cc");
}
u64 loops_of(u64 ns);

/* ---- waiting ---- */
/* Wait by WFE, as arm64 Linux does, while *word is 0. A hypervisor may trap the WFE and yield. */
static inline void wait_while_zero(const u32 *word)
{
	u32 seen;

	asm volatile("sevl\n\twfe\n\tldxr %w0, %1\n\tcbnz %w0, 1f\n\twfe\n1:"
		     : "=&r"(seen) : "Q"(*word) : "memory");
}

static inline void wait_while_equal(const u32 *word, u32 value)
{
	u32 seen;

	asm volatile("sevl\n\twfe\n\tldxr %w0, %1\n\teor %w0, %w0, %w2\n\tcbnz %w0, 1f\n\twfe\n1:"
		     : "=&r"(seen) : "Q"(*word), "r"(value) : "memory");
}

/* ---- words that VCPUs share; more of it is in basics.h ---- */
#define exchange(p, v) __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL)
#define cas(p, old, new)                                                                  \
	({                                                                                \
		__typeof__(*(p)) _old = (old);                                            \
		__atomic_compare_exchange_n(p, &_old, new, false, __ATOMIC_ACQ_REL,       \
					    __ATOMIC_RELAXED);                            \
	})

/* ---- traces: ../trace/trace.c. Without PVLOCK_TRACE nothing of them is compiled ---- */
#define NOBODY PVLOCK_TRACE_NOBODY
#ifdef PVLOCK_TRACE
extern struct pvlock_trace_ring *trace_rings[MAX_VCPUS];
void trace_init(void);		/* VCPU 0 calls it, once */
void trace_name(const volatile void *object, u64 size, const char *name);
#define TRACED(...) __VA_ARGS__
#else
#define trace_init() ((void)0)
#define trace_name(object, size, name) ((void)0)
#define TRACED(...)
#endif
#define trace(cpu, kind, object, other) \
	pvlock_trace(trace_rings[cpu], PVLOCK_TRACE_##kind, object, other)

/* ---- spinning in a queue while no VCPU ahead is preempted: queue.c ---- */
struct queue {
	struct node *tail;
	TRACED(const void *lock;)	/* the lock that this queue is for */
} ALIGNED(CACHE_LINE);
bool queue_enter(struct queue *q, u32 cpu); /* true at the head; false: the caller should sleep */
void queue_leave(struct queue *q, u32 cpu);

/* ---- yield by hint: ../hint/hint.c. Without PVLOCK_HINT nothing of it is compiled ---- */
#ifdef PVLOCK_HINT
void hint_init(void);		/* VCPU 0 calls it, once */
/* We wait for VCPU `cpu`, and have since *since: tell the hypervisor, if it has been long. */
void hint(u64 *since, u32 cpu);
/* Whether a waiter goes on spinning although VCPU `cpu` is preempted: the hypervisor knows. */
bool hint_is_enough(u32 cpu);
#define HINTED(...) __VA_ARGS__
#define is_hopeless(cpu) (vcpu_is_preempted(cpu) && !hint_is_enough(cpu))
#else
#define HINTED(...)
#define is_hopeless(cpu) vcpu_is_preempted(cpu)
#endif

/* ---- console: console.c ---- */
void console_init(void);	/* start.S calls it */
void print(const char *text, ...); /* as format.h says */

/* ---- between a payload and harness/workload.c ---- */
bool payload_lock(u32 cpu);	/* true if no other VCPU can have the lock, not even to read */
void payload_unlock(u32 cpu);
extern const char payload_name[];
TRACED(void payload_names(void);)	/* gives the payload's locks their names */
void spin_begin(u32 cpu);	/* the time from here to spin_end() counts as spinning */
void spin_end(u32 cpu);
void count_sleep(u32 cpu);

#endif
#endif
