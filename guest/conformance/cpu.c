// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls to the hypervisor, VCPUs on and off, time, and the end of the run. */
#include "harness.h"

#define PATIENCE_NS 5000000000ul

extern char text_end[], bss_end[], _start[], vectors[];
void secondary_start(void);
void smccc_call(struct registers *r, u64 smc);
void prepare(const void *dtb, u64 el);

struct cpu cpus[MAX_CPUS];
static char stacks[MAX_CPUS][STACK_SIZE] ALIGNED(16);

static struct cpu *this_cpu(void)
{
	struct cpu *me;

	asm volatile("mrs %0, tpidr_el1" : "=r"(me));
	return me;
}

/* With the MMU off: read the device tree, and map what it names. */
void prepare(const void *dtb, u64 el)
{
	asm volatile("msr vbar_el1, %0\n\tisb" : : "r"(vectors));
	board_read(dtb, (u64)_start);
	board.entry_el = el;
	map((u64)_start, text_end - _start, CODE);
	map((u64)text_end, bss_end - text_end, DATA);
	map((u64)board.dtb, board.dtb_size, READ_ONLY);
	if (board.uart_kind)
		map(board.uart, 4096, DEVICE);
	map(board.gicd.base, board.gicd.size, DEVICE);
	map(board.gicc.base, board.gicc.size, DEVICE);
	for (u32 i = 0; i < board.gicrs; i++) {
		u64 needed = (u64)board.cpus * 4 * 0x10000, size = board.gicr[i].size;

		map(board.gicr[i].base, size < needed ? size : needed, DEVICE);
	}
}

void call_registers(struct registers *r)
{
	struct cpu *me = this_cpu();

	me->esr = 0;
	store_release(&me->expect, 1);
	smccc_call(r, board.conduit == CONDUIT_SMC);
	store_release(&me->expect, 0);
	if (load(&me->esr))
		r->x[0] = UNDEFINED;
}

u64 call(u64 function, u64 argument)
{
	struct registers r = { { function, argument } };

	call_registers(&r);
	return r.x[0];
}

u64 cpu_on(u32 cpu, void (*body)(struct cpu *me))
{
	struct cpu *c = &cpus[cpu];
	struct registers r = { { PSCI_CPU_ON, board.mpidr[cpu], (u64)secondary_start, (u64)c } };

	c->stack = stacks[cpu] + STACK_SIZE;
	c->body = body;
	c->number = cpu;
	c->expect = c->stop = c->running = c->finished = c->asleep = 0;
	clean(c, sizeof(*c));
	call_registers(&r);
	return r.x[0];
}

void secondary_main(struct cpu *me)
{
	store_release(&me->running, 1);
	me->body(me);
	store_release(&me->finished, 1);
	call(PSCI_CPU_OFF, 0);
	bail_out("CPU_OFF came back on CPU", me->number);
}

bool wait_for(const u32 *flag)
{
	u64 start = ticks(), patience = ticks_of(PATIENCE_NS);

	while (!load_acquire(flag)) {
		if (ticks() - start > patience)
			return false;
		cpu_relax();
	}
	return true;
}

bool cpu_wait_off(u32 cpu)
{
	u64 start = ticks(), patience = ticks_of(PATIENCE_NS);

	while (call(PSCI_AFFINITY_INFO, board.mpidr[cpu]) != 1) {
		if (ticks() - start > patience)
			return false;
		pause_for(ticks_of(10000));
	}
	return true;
}

bool run_on(u32 cpu, void (*body)(struct cpu *me))
{
	return cpu_on(cpu, body) == 0 && wait_for(&cpus[cpu].finished) && cpu_wait_off(cpu);
}

_Noreturn void system_off(void)
{
	for (;;) {
		if (board.conduit)
			call(PSCI_SYSTEM_OFF, 0);
		asm volatile("wfi");
	}
}

/* "Bail out!" is TAP's word for a run that cannot go on. */
_Noreturn void bail_out(const char *why, u64 value)
{
	print("Bail out! %s %lx\n", why, value);
	system_off();
}

_Noreturn void exception(u64 esr, u64 elr, u64 far)
{
	this_cpu()->expect = 1;	/* what follows must not come back here */
	print("Bail out! exception: esr %lx elr %lx far %lx, loaded at %lx\n", esr, elr, far,
	      (u64)_start);
	system_off();
}

static u64 scale(u64 value, u64 by, u64 per)
{
	return value / per * by + value % per * by / per;
}

static u64 frequency(void)
{
	u64 hz;

	asm("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz ? hz : 62500000;	/* firmware forgot it: QEMU's */
}

u64 ticks_of(u64 ns)
{
	u64 t = scale(ns, frequency(), 1000000000);

	return t ? t : 1;
}

u64 ns_of(u64 t)
{
	return scale(t, 1000000000, frequency());
}

void pause_for(u64 t)
{
	u64 start = ticks();

	while (ticks() - start < t)
		cpu_relax();
}

/* The compiler calls these. */
void *memset(void *start, int value, size_t size)
{
	char *p = start;

	while (size--)
		*p++ = value;
	return start;
}

void *memcpy(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;

	while (size--)
		*t++ = *f++;
	return to;
}
