// SPDX-License-Identifier: GPL-2.0-or-later
/* Turning VCPUs on and the machine off, and what a guest does when it goes wrong. */
#include "guest.h"

enum {
	PSCI_CPU_ON = 0xC4000003,
	PSCI_SYSTEM_OFF = 0x84000008,
};

/* start.S reads it with the MMU off. */
struct start {
	char *stack;
	void (*body)(u32 cpu);
	u64 cpu;
} ALIGNED(CACHE_LINE);

static struct start starts[MAX_VCPUS];
static char stacks[MAX_VCPUS][STACK_SIZE] ALIGNED(16);

void secondary_start(void);

bool cpu_on(u32 cpu, void (*body)(u32 cpu))
{
	starts[cpu] = (struct start){ stacks[cpu] + STACK_SIZE, body, cpu };
	clean(&starts[cpu], sizeof(starts[cpu]));
	return !hvc(PSCI_CPU_ON, board.mpidr[cpu], (u64)secondary_start, (u64)&starts[cpu]);
}

void secondary_main(u32 cpu, void (*body)(u32 cpu))
{
	gic_init(cpu);
	pv_init(cpu);
	body(cpu);
	for (;;)
		asm volatile("wfi");
}

_Noreturn void system_off(void)
{
	for (;;)
		hvc(PSCI_SYSTEM_OFF, 0, 0, 0);
}

_Noreturn void panic(const char *why, u64 value)
{
	print("panic %s %lx\n", why, value);
	system_off();
}

/* The vector in start.S comes here. A guest that handles exceptions brings its own vector. */
_Noreturn void exception(u64 esr, u64 elr, u64 far)
{
	print("panic exception esr %lx elr %lx far %lx\n", esr, elr, far);
	system_off();
}
