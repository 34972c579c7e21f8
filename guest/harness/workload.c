// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For `duration` ns, all VCPUs think, take the lock, stay in the critical section for `cs` ns, and
 * release the lock. Then VCPU 0 prints the counts, one fact a line, for src/pvlock/workload.py.
 */
#include "guest.h"

/* The histogram of waits has 32 buckets for each power of two: they are 3 % apart. */
enum { SUB_BITS = 5, SUB = 1 << SUB_BITS, BUCKETS = (64 - SUB_BITS) * SUB };

struct counts {
	u64 acquisitions, wait, spin, sleeps, longest, exclusive;
	u64 spin_start, spin_stolen;
	u64 random;
} ALIGNED(CACHE_LINE);

static struct counts counts[MAX_VCPUS];
static u32 histogram[BUCKETS];
static u64 duration, cs_loops, think_loops, end_ticks;
static u32 ready, go, left, done;
static u64 inside; /* exclusive owners add 1, not atomically: two at once would lose one */

static u32 bucket(u64 value)
{
	u32 shift;

	if (value < SUB)
		return value;
	shift = 63 - SUB_BITS - __builtin_clzl(value);
	return ((shift + 1) << SUB_BITS) + (u32)(value >> shift) - SUB;
}

static u64 bucket_start(u32 b)
{
	u32 shift = b >> SUB_BITS;

	return shift ? (u64)(b % SUB + SUB) << (shift - 1) : b;
}

void spin_begin(u32 cpu)
{
	counts[cpu].spin_stolen = stolen_ticks(cpu);
	counts[cpu].spin_start = ticks();
}

void spin_end(u32 cpu)
{
	struct counts *c = &counts[cpu];
	u64 elapsed = ticks() - c->spin_start, off = stolen_ticks(cpu) - c->spin_stolen;

	/* The two clocks are not read at the same instant. */
	if (elapsed > off)
		c->spin += elapsed - off;
}

void count_sleep(u32 cpu)
{
	counts[cpu].sleeps++;
}

static void turn(u32 cpu)
{
	struct counts *c = &counts[cpu];
	u64 start = ticks(), waited;
	bool exclusive;

	exclusive = payload_lock(cpu);
	waited = ticks() - start;
	if (exclusive) {
		inside++;
		c->exclusive++;
	}
	busy(cs_loops);
	payload_unlock(cpu);
	c->acquisitions++;
	c->wait += waited;
	if (waited > c->longest)
		c->longest = waited;
	__atomic_fetch_add(&histogram[bucket(ns_of(waited))], 1, __ATOMIC_RELAXED);
}

/* Between 0.5 and 1.5 times the think time, since VCPUs in step would never meet at the lock. */
static void think(struct counts *c)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	busy(think_loops / 2 + (think_loops * (c->random & 1023) >> 10));
}

static void work(u32 cpu)
{
	counts[cpu].random = (cpu + 1) * 0x9e3779b97f4a7c15ul;
	while (ticks() < end_ticks) {
		think(&counts[cpu]);
		turn(cpu);
	}
}

static void secondary(u32 cpu)
{
	__atomic_fetch_add(&ready, 1, __ATOMIC_ACQ_REL);
	sleep_until(&go);
	work(cpu);
	if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL) == 0) {
		store_release(&done, 1);
		wake(0);
	}
}

static void report(void)
{
	u64 sum = 0;

	print("workload %s\n", payload_name);
	print("pvlock %s\n", has_pvlock() ? "present" : "absent");
	print("stolen-time %s\n", has_stolen_time() ? "present" : "absent");
	print("duration %lu\n", duration);
	for (u32 i = 0; i < board.vcpus; i++) {
		struct counts *c = &counts[i];

		print("vcpu %u acquisitions %lu wait %lu spin %lu sleeps %lu longest %lu\n", i,
		      c->acquisitions, ns_of(c->wait), ns_of(c->spin), c->sleeps,
		      ns_of(c->longest));
		sum += c->exclusive;
	}
	if (sum != inside)
		panic("two VCPUs were in the critical section; lost", sum - inside);
	for (u32 b = 0; b < BUCKETS; b++)
		if (histogram[b])
			print("waits %lu %u\n", bucket_start(b), histogram[b]);
	print("end\n");
}

void main(void)
{
	gic_init(0);
	trace_init();
	TRACED(payload_names();)
	time_init();
	pv_discover();
	pv_init(0);
	HINTED(hint_init();)
	duration = bootarg("duration", 1000000);
	cs_loops = loops_of(bootarg("cs", 2000));
	think_loops = loops_of(bootarg("think", 8000));
	left = board.vcpus;
	for (u32 i = 1; i < board.vcpus; i++)
		if (!cpu_on(i, secondary))
			panic("CPU_ON refused for VCPU", i);
	while (load_acquire(&ready) < board.vcpus - 1)
		cpu_relax();
	end_ticks = ticks() + ticks_of(duration);
	store_release(&go, 1);
	for (u32 i = 1; i < board.vcpus; i++)
		wake(i);
	work(0);
	if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL) != 0)
		sleep_until(&done);
	report();
	system_off();
}
