// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What happens at the start of each block of translated code: time is counted, and the VCPU stops
 * or takes an interrupt where it must.
 *
 * Time: one instruction is one nanosecond. It is counted per block, before the block runs, so a
 * VCPU overshoots the end of its quantum by at most the rest of a block; settle() corrects the
 * count where an exception ended the block early.
 *
 * Some instructions mean something to us that QEMU does nothing for: WFE, SEV, SEVL, ERET, and
 * loads that arm the exclusive monitor. look_at() finds them when a block is first seen, and
 * look_back() does what they mean when the next block begins.
 */
#include "qemu.h"

#define WFE_INSN 0xd503205fu
#define SEV_INSN 0xd503209fu
#define SEVL_INSN 0xd50320bfu
#define IS_ERET(insn) ((insn) >> 12 == 0xd69f0u)	/* ERET, ERETAA, ERETAB */
#define IS_EXCLUSIVE_LOAD(insn) (((insn) & 0x3fc00000u) == 0x08400000u)
#define SCTLR_NTWE (1u << 18)

/* `flags` of a block; the size of an exclusive load, in bytes, stands from bit 8 on. */
enum { ENDS_IN_WFE = 1, ENDS_IN_ERET = 2, HAS_SEVL = 4, HAS_SEV = 8 };

void leave(struct vcpu *v, enum exit_reason reason)
{
	v->exit = reason;
	uc_emu_stop(v->vm->uc);
}

static uint32_t page_bit(uint64_t address, uint32_t *word)
{
	uint64_t hash = (address >> 12) * 0x9e3779b97f4a7c15u >> 52;

	*word = hash >> 6;
	return hash & 63;
}

/* The user half of the address space is another one, or other code is in it. */
void forget_space(struct vcpu *v)
{
	v->tag[0] = v->tag[0] * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
	memset(v->code_pages, 0, sizeof(v->code_pages));
}

void forget_code(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->count; i++) {
		forget_space(vm->vcpus[i]);
		vm->vcpus[i]->tag[1] += 0x14057b7ef767814fu;
	}
}

/* A page is mapped no more, or to another place. */
void forget_page(struct vcpu *v, uint64_t address)
{
	uint32_t word, bit = page_bit(address, &word);

	if (v->code_pages[word] >> bit & 1) {
		forget_space(v);
		v->tag[1] += 0x14057b7ef767814fu;
	}
}

static SELDOM void look_at(struct vcpu *v, struct seen *s, uint64_t key, uint64_t pc, uint32_t size)
{
	/* A block does not leave its page. */
	const uint32_t *code = host_address(v, pc, MMU_FETCH);
	uint32_t n = code ? size / 4 : 0, word, bit = page_bit(pc, &word);

	v->code_pages[word] |= 1ull << bit;
	s->key = key;
	s->size = size;
	s->flags = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (IS_EXCLUSIVE_LOAD(code[i]))
			s->flags = (s->flags & 0xff) | 1 << (code[i] >> 30) << 8;
		else if (code[i] == SEVL_INSN)
			s->flags |= HAS_SEVL;
		else if (code[i] == SEV_INSN)
			s->flags |= HAS_SEV;
	}
	/* A WFE and an ERET always end their block. */
	if (n && IS_ERET(code[n - 1]))
		s->flags |= ENDS_IN_ERET;
	if (n && code[n - 1] == WFE_INSN)
		s->flags |= ENDS_IN_WFE;
}

/* A WFE at EL0 that SCTLR_EL1.nTWE does not allow. */
static void trap_wfe_to_el1(struct vcpu *v)
{
	enter_sync(v, EXCP_UNDEFINED, EC_WFX << 26 | ESR_IL | 1 << 24 | 0xe << 20 | 1, 0, v->pc - 4);
}

/*
 * Do what instructions within the block that ends here mean; return what is left to do. An
 * exception may have ended the block before them: then an event is sent that was not, as the
 * architecture allows.
 */
uint32_t take_flags(struct vcpu *v)
{
	uint32_t flags = v->flags;

	v->flags = 0;
	if (flags >> 8)
		v->exclusive = flags >> 8;
	if (flags & HAS_SEV)
		send_event(v->vm);
	if (flags & HAS_SEVL)
		v->event = 1;
	return flags & (ENDS_IN_WFE | ENDS_IN_ERET);
}

/*
 * Do what instructions of the block before mean; true: the VCPU does not go on with this block.
 * Its flags may be out of date where code was changed without an IC. Nothing then breaks but time.
 */
static SELDOM bool look_back(struct vcpu *v)
{
	uint32_t flags = take_flags(v);

	if (flags & ENDS_IN_ERET) {
		v->event = 1;
		if (env32(v, ENV_PSTATE) & PSTATE_IL) { /* QEMU sets it, and goes on */
			enter_sync(v, EXCP_UNDEFINED, EC_ILLEGAL << 26 | ESR_IL, 0, v->pc);
			return true;
		}
	}
	if (!(flags & ENDS_IN_WFE) || event_pending(v))
		return false;
	if (at_el0(v) && !(env64(v, ENV_SCTLR_EL1) & SCTLR_NTWE)) {
		trap_wfe_to_el1(v);
		return true;
	}
	if (!v->trap_wfe)
		return wait_for_event(v);
	v->event = 1;		/* the hypervisor's return to the guest sets it */
	if (v->vm->can_yield) {
		leave(v, EXIT_WFE);
		return true;
	}
	v->time += v->vm->exit_ns; /* it traps all the same, for nothing */
	return false;
}

/* Go on where env says: what was about to run does not. */
static void __attribute__((noreturn)) restart(struct vcpu *v)
{
	if (v->exit == EXIT_LOST)
		leave(v, EXIT_LOST);
	cpu_loop_exit_noexc_aarch64(v->cpu);
}

void on_block(uc_engine *uc, uint64_t pc, uint32_t size, struct vm *vm)
{
	struct vcpu *v = vm->current;
	struct seen *s = &v->seen[pc >> 2 & (SEEN - 1)];
	uint64_t key = pc + v->tag[pc >> 63];

	(void)uc;
	v->time += v->block;
	v->instructions += v->block;
	v->block = 0;
	v->pc = pc;
	if (v->flags && look_back(v)) {
		if (v->exit != EXIT_NONE && v->exit != EXIT_LOST)
			return;	/* the engine stops before this block */
		restart(v);
	}
	if (v->time >= v->stop || pc & 3) {
		leave(v, v->exit == EXIT_NONE ? EXIT_EDGE : v->exit);
		return;
	}
	if (v->line && interrupt_due(v)) {
		take_interrupt(v);
		restart(v);
	}
	if (s->key != key || s->size != size)
		look_at(v, s, key, pc, size);
	v->flags = s->flags;
	v->block = size >= 4 ? size / 4 : 1;
}

/* The block ended at `pc`, or is interrupted there. */
void settle(struct vcpu *v, uint64_t pc)
{
	uint64_t done = (pc - v->pc) / 4;

	if (done > v->block)
		done = v->block;
	v->time += done;
	v->instructions += done;
	v->block = 0;
	v->pc = pc;
}
