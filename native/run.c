// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs the VCPUs of a machine, interleaved in virtual time.
 *
 * QEMU, inside of Unicorn, plays CPUs that have EL2. We are the hypervisor at EL2: HCR_EL2 traps
 * WFI and SMC, stage 2 translation (tables built in stage2.py) traps device accesses and protects
 * memory slots from writes. So every trap but that of WFE (blocks.c) is an architectural exception
 * with its architectural syndrome. What cannot be answered here leaves vm_run() as an exit for
 * Python (exits.py).
 */
#include <stdlib.h>

#include "qemu.h"

#define NEVER (1ull << 62)

/* Run until `stop` or an exit; true on an exit that Python must handle. */
static bool step(struct vcpu *v, uint64_t stop)
{
	struct vm *vm = v->vm;

	qemu_select(vm, v);
	do {
		uint64_t pc;

		watch_code_buffer(v);
		if (v->flush || v->queued)
			flush(v);
		v->exit = EXIT_NONE;
		v->limit = stop;
		bound_stop(v);
		if (v->line && interrupt_due(v))
			take_interrupt(v);
		pc = env64(v, ENV_PC);
		if (pc & 3) {	/* QEMU would decode what is there */
			enter_sync(v, EXCP_PREFETCH_ABORT, EC_PC_ALIGNMENT << 26 | ESR_IL, pc, pc);
			if (v->exit == EXIT_LOST)
				return true;
			pc = env64(v, ENV_PC);
		}
		v->pc = pc;
		v->error = uc_emu_start(vm->uc, pc, 0, 0, 0);
		settle(v, env64(v, ENV_PC));
		if (v->exit == EXIT_NONE)
			v->exit = EXIT_ENGINE;
		if (v->exit != EXIT_EDGE)
			return true;
	} while (v->time < stop && !v->waiting);
	return false;
}

/* Let the VCPU of a CPU run up to `edge`; true on an exit that Python must handle. */
static bool run_cpu(struct vm *vm, struct cpu *c, uint64_t edge, bool *busy)
{
	struct vcpu *v = c->vcpu;

	while (c->now < edge) {
		uint64_t stop = c->deadline < edge ? c->deadline : edge;
		bool exited;

		if (c->now >= c->deadline) {
			v->exit = EXIT_SLICE;
			return true;
		}
		if (v->waiting && !wait_is_over(v, c->now)) {
			uint64_t event = next_event(v, c->now);

			c->now = event < stop ? event : stop;
			if (vm->profile)
				sample_wait(v, c->now);
			continue;
		}
		*busy = true;
		vm->running = 1 + v->index;
		v->time = c->now;
		exited = step(v, stop);
		c->now = v->time;
		if (exited) {
			if (v->exit != EXIT_WAKE)
				v->event = 1;	/* the hypervisor will return to the guest */
			return true;
		}
	}
	return false;
}

/* When something can happen on a CPU whose VCPU waits in WFE, or that is idle. */
static uint64_t next_on(const struct cpu *c)
{
	uint64_t event;

	if (!c->vcpu)
		return NEVER;
	event = next_event(c->vcpu, c->now);
	return c->deadline < event ? c->deadline : event;
}

/*
 * Interleave the CPUs in steps of `quantum` ns until `horizon`; `*edge` is the end of the current
 * step. Returns the index of a CPU whose VCPU left with an exit, or -1 at the horizon, or where a
 * timer wakes a VCPU that sleeps: all CPUs are then at the edge.
 * A CPU that is ahead of the edge (its last block overshot, or an exit cost it time) waits.
 */
EXPORT int vm_run(struct vm *vm, struct cpu *cpus, uint32_t count, uint64_t *edge,
		  uint64_t quantum, uint64_t horizon)
{
	if (vm->profile)
		profile_sees(vm, cpus, count);
	for (;;) {
		uint64_t next = horizon;
		bool busy = false;

		for (uint32_t i = 0; i < count; i++) {
			struct cpu *c = &cpus[i];

			if (!c->vcpu) {
				if (c->now < *edge)
					c->now = *edge;
			} else if (run_cpu(vm, c, *edge, &busy)) {
				return i;
			} else if (!c->vcpu->waiting || c->now > *edge) {
				busy = true;	/* it goes on, or has begun what comes next */
			}
		}
		if (vm->watch)
			look_at_words(vm, *edge);
		if (vm->timer_due <= *edge && fire_timers(vm, *edge)) {
			update_lines(vm);
			if (vm->wakes)
				return -1;
		}
		if (*edge >= horizon)
			return -1;
		*edge += quantum;
		if (busy)
			continue;
		/* Nobody executes anything: nothing can happen before the first of these. */
		for (uint32_t i = 0; i < count; i++) {
			uint64_t event = next_on(&cpus[i]);

			if (event < next)
				next = event;
		}
		if (vm->timer_due < next)
			next = vm->timer_due;
		if (next > *edge)
			*edge += (next - *edge + quantum - 1) / quantum * quantum;
	}
}

/*
 * Make the VCPUs of an engine in which nothing ran yet; `vm` and what each VCPU is called are
 * filled in. NULL, or what of Unicorn is not as expected.
 */
EXPORT const char *vm_create(struct vm *vm)
{
	struct vcpu *first = vm->vcpus[0];
	const char *error = qemu_locate(vm->uc, first);
	uc_hook hook;

	if (error)
		return error;
	for (uint32_t i = 0; i < vm->count; i++)
		vm->vcpus[i]->vm = vm;
	vm->timer_due = NEVER;
	memcpy(first->env + ENV_OURS, &first, sizeof(first));
	define_registers(vm);
	define_maintenance(vm);
	shorten_walks(first);
	if (uc_hook_add(vm->uc, &hook, UC_HOOK_BLOCK, (void *)on_block, vm, 1, 0) ||
	    uc_hook_add(vm->uc, &hook, UC_HOOK_INTR, (void *)on_exception, vm, 1, 0))
		return "its hooks";
	return NULL;
}

/* The second half, once the first VCPU's registers of EL2 are set: the others are like it. */
EXPORT bool vm_populate(struct vm *vm)
{
	struct vcpu *first = vm->vcpus[0];

	vm->pristine = malloc(ENV_SIZE);
	if (!vm->pristine)
		return false;
	memcpy(vm->pristine, first->env, ENV_SIZE);
	for (uint32_t i = 0; i < vm->count; i++) {
		struct vcpu *v = vm->vcpus[i];

		if (i)
			qemu_copy_cpu(v, first);
		memcpy(v->env + ENV_OURS, &v, sizeof(v));
		set_sysreg(v, VMPIDR_EL2, v->mpidr);
	}
	return true;
}

/* QEMU keeps what it must watch in lists that are no part of CPUARMState. */
static void disarm_debug_registers(struct vcpu *v)
{
	for (uint32_t n = 0; n < 16; n++)
		for (uint32_t op2 = 5; op2 <= 7; op2 += 2) {	/* DBGBCR<n>_EL1, DBGWCR<n>_EL1 */
			struct reginfo *r = qemu_register(v, KEY(2, 0, 0, n, op2));

			if (r && r->write)
				r->write(v->env, r, 0);
		}
}

/* Put a VCPU into the state of one that never ran (PSCI CPU_ON). */
EXPORT void vcpu_reset(struct vcpu *v, uint64_t entry, uint64_t x0)
{
	qemu_select(v->vm, v);
	disarm_debug_registers(v);
	memcpy(v->env, v->vm->pristine, ENV_SIZE);
	memcpy(v->env + ENV_OURS, &v, sizeof(v));
	set_sysreg(v, VMPIDR_EL2, v->mpidr);
	set_env64(v, ENV_PC, entry);
	set_env64(v, ENV_X, x0);
	arm_rebuild_hflags_aarch64(v->env);
	v->flush |= FLUSH_TLB;
	v->flags = v->waiting = v->event = 0;
	v->monitored = NULL;
	v->fault_pc = v->fault_far = v->fault_esr = 0;
	forget_code(v->vm);
	vcpu_timers_reset(v);
}

EXPORT uint64_t vcpu_get_register(struct vcpu *v, int number)
{
	uint64_t value = 0;

	qemu_select(v->vm, v);
	uc_reg_read(v->vm->uc, number, &value);
	return value;
}

EXPORT void vcpu_set_register(struct vcpu *v, int number, uint64_t value)
{
	qemu_select(v->vm, v);
	/* The API takes a new PC as a wish to stop. */
	if (number == UC_ARM64_REG_PC) {
		set_env64(v, ENV_PC, value);
		return;
	}
	uc_reg_write(v->vm->uc, number, &value);
	arm_rebuild_hflags_aarch64(v->env);
}

EXPORT uint64_t vcpu_get_sysreg(struct vcpu *v, uint32_t key)
{
	return get_sysreg(v, key);
}

EXPORT void vcpu_set_sysreg(struct vcpu *v, uint32_t key, uint64_t value)
{
	set_sysreg(v, key, value);
}

EXPORT void vm_fire_timers(struct vm *vm, uint64_t time)
{
	if (vm->timer_due <= time)
		fire_timers(vm, time);
}

EXPORT void vm_update_lines(struct vm *vm)
{
	update_lines(vm);
}
