// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls to the hypervisor, VCPUs on and off, time, and the end of the run. */
#include "conf.h"

#define PATIENCE_NS 5000000000ul

extern char text_end[], bss_end[], _start[], conf_vectors[];
void conf_secondary_start(void);
void conf_smccc_call(struct registers *r, u64 smc);
void conf_prepare(const void *dtb, u64 el);

struct cpu conf_cpus[MAX_CPUS];
static char stacks[MAX_CPUS][STACK_SIZE] ALIGNED(16);

static struct cpu *this_cpu(void)
{
	struct cpu *me;

	asm volatile("mrs %0, tpidr_el1" : "=r"(me));
	return me;
}

/* Runs with the MMU off: reads the device tree, and maps what it names. */
void conf_prepare(const void *dtb, u64 el)
{
	asm volatile("msr vbar_el1, %0\n\tisb" : : "r"(conf_vectors));
	conf_board_read(dtb, (u64)_start);
	conf_board.entry_el = el;
	conf_map((u64)_start, text_end - _start, CODE);
	conf_map((u64)text_end, bss_end - text_end, DATA);
	conf_map((u64)conf_board.dtb, conf_board.dtb_size, READ_ONLY);
	if (conf_board.uart_kind)
		conf_map(conf_board.uart, 4096, DEVICE);
	conf_map(conf_board.gicd.base, conf_board.gicd.size, DEVICE);
	conf_map(conf_board.gicc.base, conf_board.gicc.size, DEVICE);
	for (u32 i = 0; i < conf_board.gicrs; i++) {
		u64 needed = (u64)conf_board.cpus * 4 * 0x10000, size = conf_board.gicr[i].size;

		conf_map(conf_board.gicr[i].base, size < needed ? size : needed, DEVICE);
	}
}

void conf_call_registers(struct registers *r)
{
	struct cpu *me = this_cpu();

	me->esr = 0;
	store_release(&me->expect, 1);
	conf_smccc_call(r, conf_board.conduit == CONDUIT_SMC);
	store_release(&me->expect, 0);
	if (load(&me->esr))
		r->x[0] = UNDEFINED;
}

u64 conf_call(u64 function, u64 argument)
{
	struct registers r = { { function, argument } };

	conf_call_registers(&r);
	return r.x[0];
}

u64 conf_cpu_on(u32 cpu, void (*body)(struct cpu *me))
{
	struct cpu *c = &conf_cpus[cpu];
	struct registers r = {
		{ PSCI_CPU_ON, conf_board.mpidr[cpu], (u64)conf_secondary_start, (u64)c }
	};

	c->stack = stacks[cpu] + STACK_SIZE;
	c->body = body;
	c->number = cpu;
	c->expect = c->stop = c->running = c->finished = c->asleep = 0;
	conf_clean(c, sizeof(*c));
	conf_call_registers(&r);
	return r.x[0];
}

void conf_secondary_main(struct cpu *me)
{
	store_release(&me->running, 1);
	me->body(me);
	store_release(&me->finished, 1);
	conf_call(PSCI_CPU_OFF, 0);
	conf_bail_out("CPU_OFF came back on CPU", me->number);
}

bool conf_wait_for(const u32 *flag)
{
	u64 start = ticks(), patience = conf_ticks_of(PATIENCE_NS);

	while (!load_acquire(flag)) {
		if (ticks() - start > patience)
			return false;
		cpu_relax();
	}
	return true;
}

bool conf_cpu_wait_off(u32 cpu)
{
	u64 start = ticks(), patience = conf_ticks_of(PATIENCE_NS);

	while (conf_call(PSCI_AFFINITY_INFO, conf_board.mpidr[cpu]) != 1) {
		if (ticks() - start > patience)
			return false;
		conf_pause_for(conf_ticks_of(10000));
	}
	return true;
}

bool conf_run_on(u32 cpu, void (*body)(struct cpu *me))
{
	return conf_cpu_on(cpu, body) == 0 && conf_wait_for(&conf_cpus[cpu].finished) &&
	       conf_cpu_wait_off(cpu);
}

_Noreturn void conf_system_off(void)
{
	for (;;) {
		if (conf_board.conduit)
			conf_call(PSCI_SYSTEM_OFF, 0);
		asm volatile("wfi");
	}
}

/* "Bail out!" is TAP's word for a run that cannot go on. */
_Noreturn void conf_bail_out(const char *why, u64 value)
{
	conf_print("Bail out! %s %lx\n", why, value);
	conf_system_off();
}

_Noreturn void conf_exception(u64 esr, u64 elr, u64 far)
{
	this_cpu()->expect = 1;	/* so that a fault while we print does not come back here */
	conf_print("Bail out! exception: esr %lx elr %lx far %lx, loaded at %lx\n", esr, elr, far,
		   (u64)_start);
	conf_system_off();
}

static u64 scale(u64 value, u64 by, u64 per)
{
	return value / per * by + value % per * by / per;
}

static u64 frequency(void)
{
	u64 hz;

	asm("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz ? hz : 62500000;	/* the firmware left it 0: take QEMU's */
}

u64 conf_ticks_of(u64 ns)
{
	u64 t = scale(ns, frequency(), 1000000000);

	return t ? t : 1;
}

u64 conf_ns_of(u64 t)
{
	return scale(t, 1000000000, frequency());
}

void conf_pause_for(u64 t)
{
	u64 start = ticks();

	while (ticks() - start < t)
		cpu_relax();
}
