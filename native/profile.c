// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Samples of what each VCPU does, at every multiple of a period in guest time at which it has a CPU.
 *
 * The block hook knows the time at which each block begins and how long it is, so it knows in which
 * block such a time falls, and the instruction. The registers are those with which the block begins.
 * Time that passes between two blocks (an exit, an exception, a wait in WFE) belongs to what comes
 * next. Nothing of it costs guest time or changes a byte of the guest: the call stack is read.
 *
 * The stack is that of frame records (AAPCS64): X29 points to the caller's X29, and to an address of
 * return beside it. At EL1, Linux ends it with an empty record within what it saved on entry from
 * EL0; there the registers of the user program are, and its own stack goes on.
 *
 * A waiter that spins is asked whom it waits for, as far as the kernel itself knows: see look_ahead().
 */
#include <stdlib.h>

#include "qemu.h"

#define MOST_FRAMES 64
#define LONGEST_BLOCK 1024	/* instructions: a block does not leave its page */
#define NEVER (1ull << 62)

struct profile {
	struct profile_setup setup;
	const struct cpu *cpus;
	uint32_t cpu_count;
	ptrdiff_t sp_el0, tpidr_el1;	/* offsets in CPUARMState */
	uint8_t *taken;
	size_t size, room;
	uint64_t lost;
};

static bool make_room(struct profile *p, size_t size)
{
	if (p->size + size > p->room) {
		size_t room = 2 * (p->room + size);
		uint8_t *taken = realloc(p->taken, room);

		if (!taken)
			return false;
		p->taken = taken;
		p->room = room;
	}
	return true;
}

/* Eight bytes of the kernel's memory, or with `mmu` MMU_USER of the program's. */
static bool peek(struct vcpu *v, uint64_t address, int mmu, uint64_t *value)
{
	const uint8_t *place;

	if (address & 7)
		return false;
	place = tlb_vaddr_to_host_aarch64(v->env, address, MMU_LOAD, mmu);
	if (place)
		memcpy(value, place, 8);
	return place;
}

static int mmu_of(const struct vcpu *v)
{
	return arm_mmu_idx_aarch64(v->env) & 0xf;
}

/* An address of code, without the signature that pointer authentication puts into it. */
static uint64_t plain(const struct vcpu *v, uint64_t address)
{
	uint64_t tcr = env64(v, ENV_TCR_EL1);
	uint32_t free = address >> 55 & 1 ? tcr >> 16 & 63 : tcr & 63;
	uint64_t upper = free ? ~0ull << (64 - free) : 0;

	return address >> 55 & 1 ? address | upper : address & ~upper;
}

/* Follow frame records from `fp` on. Returns where the last one is, 0 if it did not end well. */
static uint64_t unwind(struct vcpu *v, uint64_t fp, int mmu, bool user, uint64_t *frames,
		       uint32_t *count)
{
	uint64_t at = fp;

	for (;;) {
		uint64_t next, lr;

		if (!at || is_user_address(at) != user || at & 7 || !peek(v, at, mmu, &next) ||
		    !peek(v, at + 8, mmu, &lr))
			return 0;
		if (!next && !lr)
			return at;
		lr = plain(v, lr);
		if (!lr || is_user_address(lr) != user || *count == MOST_FRAMES)
			return 0;
		frames[(*count)++] = lr;
		if (next == at)
			return 0;
		at = next;
	}
}

static bool has_cpu(const struct profile *p, const struct vcpu *v)
{
	for (uint32_t i = 0; i < p->cpu_count; i++)
		if (p->cpus[i].vcpu == v)
			return true;
	return false;
}

/* The VCPU whose current task this is, in the kernel; a task that owns a lock of it is. */
static struct vcpu *running(const struct profile *p, const struct vm *vm, uint64_t task)
{
	for (uint32_t i = 0; i < vm->count; i++)
		if (!at_el0(vm->vcpus[i]) && env64(vm->vcpus[i], p->sp_el0) == task)
			return vm->vcpus[i];
	return NULL;
}

static const struct spin *spin_at(const struct profile *p, uint64_t pc)
{
	uint64_t low = 0, high = p->setup.spin_count;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (pc >= p->setup.spins[middle].end)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < p->setup.spin_count && pc >= p->setup.spins[low].start)
		return &p->setup.spins[low];
	return NULL;
}

static void await(const struct profile *p, struct sample *s, const struct vcpu *awaited)
{
	s->awaited = awaited->index;
	s->awaits = has_cpu(p, awaited) ? AWAITS_RUNNING : AWAITS_OFF;
}

/* In osq_lock() a waiter has a node, that of its CPU, and waits for the node before. */
static void look_ahead_in_queue(struct vcpu *v, const struct profile *p, struct sample *s)
{
	uint64_t node = p->setup.queue + env64(v, p->tpidr_el1), previous, cpu;
	int mmu = mmu_of(v);

	/* struct optimistic_spin_node: next, prev, locked, cpu (counted from 1) */
	if (!p->setup.queue || !peek(v, node + 8, mmu, &previous) || is_user_address(previous) ||
	    !peek(v, previous + 16, mmu, &cpu))
		return;
	cpu >>= 32;
	if (cpu && cpu <= v->vm->count && cpu - 1 != v->index)
		await(p, s, v->vm->vcpus[cpu - 1]);
}

/* Mutexes and rwsems say who owns them. */
static void look_ahead(struct vcpu *v, const struct profile *p, struct sample *s, uint64_t pc)
{
	const struct spin *spin = spin_at(p, pc);
	const struct vcpu *owner;
	uint64_t lock, word;

	if (spin && spin->kind == SPIN_HELPER) {
		pc = plain(v, s->lr) - 4;
		spin = spin_at(p, pc);
	}
	if (!spin || spin->kind == SPIN_HELPER)
		return;
	if (spin->kind == SPIN_QUEUE) {
		look_ahead_in_queue(v, p, s);
		return;
	}
	lock = env64(v, ENV_X + 8 * (pc >= spin->moved ? spin->reg : 0));
	if (is_user_address(lock) || !peek(v, lock + spin->owner, mmu_of(v), &word))
		return;
	if (word & spin->readers) {
		s->awaits = AWAITS_READERS;
		return;
	}
	s->owner = word & ~spin->flags;
	if (!s->owner || is_user_address(s->owner))
		return;
	owner = running(p, v->vm, s->owner);
	if (!owner)
		s->awaits = AWAITS_SLEEPING;
	else if (owner != v)
		await(p, s, owner);
}

static void record(struct vcpu *v, uint64_t time, uint32_t points, uint32_t into, uint8_t flags)
{
	struct profile *p = v->vm->profile;
	struct sample s = { .time = time, .points = points, .vcpu = v->index, .awaited = -1,
			    .flags = flags, .into = into };
	uint64_t pc = (flags & IN_WFE ? env64(v, ENV_PC) : v->pc) + 4ull * into;
	uint64_t frames[MOST_FRAMES], fp = env64(v, ENV_X + 8 * 29);
	uint32_t count = 1, kernel = 0;

	frames[0] = pc;
	s.lr = plain(v, env64(v, ENV_X + 8 * 30));
	s.task = at_el0(v) ? 0 : env64(v, p->sp_el0);
	if (!at_el0(v)) {
		uint64_t end = unwind(v, fp, mmu_of(v), false, frames, &count);
		uint64_t registers = end - p->setup.user_registers;

		kernel = count;
		look_ahead(v, p, &s, pc);
		/* struct user_pt_regs: X0 to X30, SP, PC; PC of EL0 is an address of its half. */
		if (end && count < MOST_FRAMES && peek(v, registers + 8 * 32, mmu_of(v), &pc) && pc &&
		    is_user_address(pc) && peek(v, registers + 8 * 29, mmu_of(v), &fp)) {
			frames[count++] = pc;
			unwind(v, fp, MMU_USER, true, frames, &count);
		}
	} else {
		unwind(v, fp, MMU_USER, true, frames, &count);
	}
	s.kernel = kernel;
	s.user = count - kernel;
	if (!make_room(p, sizeof(s) + 8 * count)) {
		p->lost += points;
		return;
	}
	memcpy(p->taken + p->size, &s, sizeof(s));
	memcpy(p->taken + p->size + sizeof(s), frames, 8 * count);
	p->size += sizeof(s) + 8 * count;
}

/* How far a VCPU may run before it must be looked at more closely. */
void bound_stop(struct vcpu *v)
{
	uint64_t next = v->vm->profile ? v->sample_at : NEVER;

	next = next > LONGEST_BLOCK ? next - LONGEST_BLOCK : 0;
	v->stop = next < v->limit ? next : v->limit;
}

/* A block begins: take the sample that falls into it, or fell due before it. */
void sample_block(struct vcpu *v)
{
	uint64_t period = v->vm->profile->setup.period, end = v->time + v->block, first = v->sample_at;

	if (end > first) {
		uint64_t points = (end - 1 - first) / period + 1, last = first + (points - 1) * period;

		record(v, first, points, last > v->time ? last - v->time : 0, 0);
		v->sample_at = first + points * period;
	}
	bound_stop(v);
}

/* The VCPU executed nothing, up to `time`. */
static void sample_gap(struct vcpu *v, uint64_t time, uint8_t flags)
{
	uint64_t period = v->vm->profile->setup.period, points;

	if (time <= v->sample_at)
		return;
	points = (time - 1 - v->sample_at) / period + 1;
	record(v, v->sample_at, points, 0, flags);
	v->sample_at += points * period;
}

/* The VCPU waited in WFE. */
void sample_wait(struct vcpu *v, uint64_t time)
{
	sample_gap(v, time, IN_WFE);
}

/* The VCPU loses its CPU, at `time`: what it left the guest for took some. */
EXPORT void profile_leave(struct vcpu *v, uint64_t time)
{
	qemu_select(v->vm, v);
	sample_gap(v, time, 0);
}

void profile_sees(struct vm *vm, const struct cpu *cpus, uint32_t count)
{
	vm->profile->cpus = cpus;
	vm->profile->cpu_count = count;
}

/* The VCPU has got a CPU, at `time`. */
EXPORT void profile_enter(struct vcpu *v, uint64_t time)
{
	uint64_t period = v->vm->profile->setup.period;

	if (v->sample_at < time)
		v->sample_at = (time + period - 1) / period * period;
}

/* Sample from now on. What `setup` names must stay. False: that is impossible. */
EXPORT bool profile_start(struct vm *vm, const struct profile_setup *setup, uint64_t time)
{
	const struct reginfo *sp_el0 = qemu_register(vm->vcpus[0], SP_EL0);
	const struct reginfo *tpidr_el1 = qemu_register(vm->vcpus[0], TPIDR_EL1);
	struct profile *p = vm->profile ? NULL : calloc(1, sizeof(*p));

	if (!p || !sp_el0 || sp_el0->offset <= 0 || !tpidr_el1 || tpidr_el1->offset <= 0)
		return false;
	p->setup = *setup;
	p->sp_el0 = sp_el0->offset;
	p->tpidr_el1 = tpidr_el1->offset;
	vm->profile = p;
	for (uint32_t i = 0; i < vm->count; i++)
		profile_enter(vm->vcpus[i], time);
	return true;
}

/* How many bytes of samples there are, from `*taken` on until the guest runs again; `*lost` points. */
EXPORT uint64_t profile_take(struct vm *vm, const uint8_t **taken, uint64_t *lost)
{
	struct profile *p = vm->profile;
	uint64_t size = p->size;

	*taken = p->taken;
	*lost = p->lost;
	p->size = 0;
	p->lost = 0;
	return size;
}
