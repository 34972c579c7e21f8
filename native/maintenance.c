// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * TLBI and IC: what one VCPU no longer wants to be remembered, all must forget.
 *
 * Translated code is shared, and found by physical address: an IC drops what was translated from
 * the line that it names. Each VCPU has a TLB: a TLBI is done at once for the VCPU that asks, and
 * kept for the others until they run. A TLBI drops no code, since code that changed is named by IC.
 */
#include "qemu.h"

enum { LINE = 64 };

static write_fn write_tlbi[8 * 16 * 8];	/* QEMU's own, by op1, CRm and op2 */

static uint32_t place(const struct reginfo *r)
{
	return r->op1 << 7 | r->crm << 3 | r->op2;
}

static void pay(struct vcpu *v)
{
	v->time += v->vm->maintenance_ns;
}

/* Of a TLBI by address: bits 43:0 are the page. VAE1, VAAE1, VALE1 and VAALE1, and those with IS. */
static bool is_by_address(const struct reginfo *r)
{
	return r->op2 & 1 || r->op2 == 7;
}

static uint64_t address_of(uint64_t operand)
{
	return (uint64_t)((int64_t)(operand << 20) >> 8);
}

/*
 * Whether more may have to go than the 4 KiB that QEMU would forget. It knows the size of blocks
 * that walk.c found, but not that of a page of 16 KiB: through stage 2, it has four of them.
 */
static bool has_large_pages(const struct vcpu *v, uint64_t address)
{
	uint64_t tcr = env64(v, ENV_TCR_EL1);

	return is_user_address(address) ? tcr >> 14 & 3 : (tcr >> 30 & 3) != 2;
}

static void on_tlbi(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);
	struct vm *vm = v->vm;
	bool whole = false;

	pay(v);
	for (uint32_t i = 0; i < vm->count; i++) {
		struct vcpu *other = vm->vcpus[i];
		bool all = is_by_address(r) && has_large_pages(other, address_of(value));

		if (is_by_address(r) && !all)
			forget_page(other, address_of(value));
		else
			forget_space(other);
		if (other == v)
			whole = all;
		else if (all || other->queued == QUEUED_TLBI)
			other->flush |= FLUSH_TLB;
		else if (!(other->flush & FLUSH_TLB))
			other->tlbi[other->queued++] = (struct tlbi){ value, r };
	}
	if (whole)
		tlb_flush_aarch64(v->cpu);
	else
		write_tlbi[place(r)](env, r, value);
	/* At the end of this block, which is where an ISB takes effect at the latest. */
}

static void on_ic_all(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);

	(void)r;
	(void)value;
	pay(v);
	forget_code(v->vm);
	/* This very block is code, too. */
	v->flush |= FLUSH_CODE;
	leave_at_block_end(v, EXIT_EDGE);
}

static void on_ic_address(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);
	void *host = host_address(v, value & -LINE, MMU_LOAD);
	uint64_t ram;

	(void)r;
	pay(v);
	for (uint32_t i = 0; i < v->vm->count; i++)
		forget_page(v->vm->vcpus[i], value);
	if (!host)			/* nothing is there */
		return;
	ram = qemu_ram_addr_from_host_aarch64(v->vm->uc, host);
	if (ram != ~0ull)
		tb_invalidate_phys_range_aarch64(v->vm->uc, ram, ram + LINE);
}

static void define_ic(struct vcpu *first, uint8_t op1, uint8_t crm, uint8_t op2, write_fn write)
{
	struct reginfo *r = qemu_register(first, KEY(1, op1, 7, crm, op2));

	if (!r)
		return;
	r->type = REG_NO_RAW | REG_RAISES;
	r->write = write;
}

void define_maintenance(struct vm *vm)
{
	struct vcpu *first = vm->vcpus[0];

	define_ic(first, 0, 1, 0, on_ic_all);		/* IALLUIS */
	define_ic(first, 0, 5, 0, on_ic_all);		/* IALLU */
	define_ic(first, 3, 5, 1, on_ic_address);	/* IVAU */
	for (uint32_t crm = 0; crm < 16; crm++)
		for (uint32_t op2 = 0; op2 < 8; op2++) {
			struct reginfo *r = qemu_register(first, KEY(1, 0, 8, crm, op2));

			if (!r || !r->write)
				continue;
			write_tlbi[place(r)] = r->write;
			r->write = on_tlbi;
		}
}

/* Do what was kept for a VCPU that is about to run. */
void flush(struct vcpu *v)
{
	if (v->flush & FLUSH_TLB)
		tlb_flush_aarch64(v->cpu);
	else
		for (uint32_t i = 0; i < v->queued; i++) {
			const struct reginfo *r = v->tlbi[i].reg;

			write_tlbi[place(r)](v->env, r, v->tlbi[i].value);
		}
	v->queued = 0;
	if (v->flush & FLUSH_CODE)
		tb_flush_aarch64(v->cpu);
	v->flush = 0;
}

/*
 * Throw translated code away before QEMU does, where its buffer is nearly full. QEMU still does in
 * a long quantum, and tells only the CPU that runs: the others must not jump to what is gone.
 */
void watch_code_buffer(struct vcpu *v)
{
	struct vm *vm = v->vm;
	uint32_t flushes = qemu_code_flushes(vm->uc);

	if (flushes != vm->code_flushes) {
		vm->code_flushes = flushes;
		for (uint32_t i = 0; i < vm->count; i++)
			qemu_forget_jumps(vm->vcpus[i]);
	}
	if (qemu_code_size(vm->uc) > qemu_code_capacity(vm->uc) / 8 * 7)
		v->flush |= FLUSH_CODE;
}
