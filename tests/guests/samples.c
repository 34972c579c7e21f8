// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VCPU 0 samples the flags of the others. The others work, sleep and wake each other. At the end
 * VCPU 0 prints where its SAMPLES samples are: {ticks before, ticks after, VCPU, flag} each.
 */
#include "guest.h"
#include "pvlock.h"

enum { SAMPLES = 20000 };

static u64 samples[SAMPLES][4];
static u32 bell[MAX_VCPUS];
static u64 own_not_zero;
static u32 over, left, ready;

static void other(u32 cpu)
{
	u32 turns = 0;

	__atomic_fetch_add(&ready, 1, __ATOMIC_RELEASE);
	while (!load_acquire(&over)) {
		if (vcpu_is_preempted(cpu))
			__atomic_fetch_add(&own_not_zero, 1, __ATOMIC_RELAXED);
		busy(loops_of(20000));
		/* Every second VCPU sleeps now and then, and the VCPU before it wakes it. */
		if (cpu % 2 && ++turns % 4 == 0) {
			sleep_until(&bell[cpu]);
			store(&bell[cpu], 0);
		} else if (!(cpu % 2) && cpu + 1 < board.vcpus) {
			store_release(&bell[cpu + 1], 1);
			wake(cpu + 1);
		}
	}
	__atomic_fetch_sub(&left, 1, __ATOMIC_RELEASE);
	hvc(0x84000002, 0, 0, 0); /* CPU_OFF */
}

void main(void)
{
	u32 cpu = 1;

	gic_init(0);
	time_init();
	pv_discover();
	pv_init(0);
	if (!has_pvlock())
		panic("no PV-lock", 0);
	left = board.vcpus - 1;
	for (u32 i = 1; i < board.vcpus; i++)
		if (!cpu_on(i, other))
			panic("CPU_ON refused", i);
	/* Each VCPU finds out itself where its flag is, so wait for all of them. */
	while (load_acquire(&ready) < board.vcpus - 1)
		cpu_relax();
	for (u32 i = 0; i < SAMPLES; i++) {
		samples[i][0] = ticks();
		samples[i][3] = vcpu_is_preempted(cpu);
		samples[i][1] = ticks();
		samples[i][2] = cpu;
		if (vcpu_is_preempted(0))
			own_not_zero++;
		cpu = cpu % (board.vcpus - 1) + 1;
		busy(loops_of(2000));
	}
	store_release(&over, 1);
	while (load_acquire(&left))
		for (u32 i = 1; i < board.vcpus; i += 2) {
			store_release(&bell[i], 1);
			wake(i);
		}
	print("samples %lx %u own-not-zero %lu\n", (u64)samples, SAMPLES, own_not_zero);
	system_off();
}
