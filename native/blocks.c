// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What happens at the start of each block of translated code: time is counted, and the VCPU stops
 * or takes an interrupt where it must.
 *
 * Time: one instruction is one nanosecond. It is counted per block, before the block runs, so a
 * VCPU overshoots the end of its quantum by at most the rest of a block; settle() corrects the
 * count where an exception ended the block early.
 *
 * Some instructions mean something to us that QEMU does nothing for: WFE, SEV, SEVL, ERET, loads
 * that arm the exclusive monitor, and the one that unmasks debug exceptions. look_at() finds them
 * when a block is first seen, and look_back() does what they mean when the next block begins.
 */
#include "qemu.h"

#define WFE_INSN 0xd503205fu
#define SEV_INSN 0xd503209fu
#define SEVL_INSN 0xd50320bfu
#define IS_DAIFCLR_D(insn) (((insn) & 0xfffff8ffu) == 0xd50340ffu + (8u << 8))
#define IS_ERET(insn) ((insn) >> 12 == 0xd69f0u)	/* ERET, ERETAA, ERETAB */
#define IS_EXCLUSIVE_LOAD(insn) (((insn) & 0x3fc00000u) == 0x08400000u)
#define SCTLR_NTWE (1u << 18)

/* `flags` of a block; the size of an exclusive load, in bytes, stands from bit 8 on. */
enum { ENDS_IN_WFE = 1, ENDS_IN_ERET = 2, HAS_SEVL = 4, HAS_SEV = 8, UNMASKS_DEBUG = 16,
       WATCHED = 32 /* it begins at an address that is watched */ };

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

static void forget_half(struct vcpu *v, bool upper)
{
	v->tag[upper] = v->tag[upper] * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
	memset(v->code_pages[upper], 0, sizeof(v->code_pages[upper]));
}

/* The user half of the address space is another one, or other code is in it. */
void forget_space(struct vcpu *v)
{
	forget_half(v, false);
}

void forget_code(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->count; i++) {
		forget_half(vm->vcpus[i], false);
		forget_half(vm->vcpus[i], true);
	}
}

/* A page is mapped no more, or to another place. */
void forget_page(struct vcpu *v, uint64_t address)
{
	uint32_t word, bit = page_bit(address, &word);
	bool upper = address >> 63;

	if (v->code_pages[upper][word] >> bit & 1)
		forget_half(v, upper);
}

/* Of one instruction. */
static uint32_t flags_of(uint32_t insn)
{
	if (IS_EXCLUSIVE_LOAD(insn))
		return 1 << (insn >> 30) << 8;
	if (IS_ERET(insn))
		return ENDS_IN_ERET;
	switch (insn) {
	case WFE_INSN: return ENDS_IN_WFE;
	case SEVL_INSN: return HAS_SEVL;
	case SEV_INSN: return HAS_SEV;
	}
	if (IS_DAIFCLR_D(insn))
		return UNMASKS_DEBUG;
	return 0;
}

/* Whether flags_of() is not 0. */
static inline uint32_t has_flags(uint32_t insn)
{
	return IS_EXCLUSIVE_LOAD(insn) | IS_ERET(insn) | (insn == WFE_INSN) | (insn == SEV_INSN) |
	       (insn == SEVL_INSN) | IS_DAIFCLR_D(insn);
}

/*
 * Most pages of code are plain: they have no instruction with flags. An entry of `pages` has the
 * number of the page and its address space, and in bit 0 whether it is plain.
 */
static inline uint64_t page_of(const struct vcpu *v, uint64_t pc)
{
	return ((pc >> 12) + v->tag[pc >> 63]) << 1;
}

static bool is_plain(struct vcpu *v, uint64_t pc)
{
	uint64_t *entry = &v->pages[pc >> 12 & (PAGES - 1)], page = page_of(v, pc);
	const uint32_t *code;
	uint32_t word, bit, any = 0;

	if ((*entry & ~1ull) == page)
		return *entry & 1;
	code = host_address(v, pc & -4096ull, MMU_FETCH);
	if (!code)
		return false;
	bit = page_bit(pc, &word);
	v->code_pages[pc >> 63][word] |= 1ull << bit;
	for (int i = 0; i < 1024; i++)	/* without a branch, so several at a time */
		any |= has_flags(code[i]);
	any |= v->vm->watch && watches_page(v->vm, pc);
	*entry = page | !any;
	return !any;
}

/*
 * An entry of `seen` has what the block is in its upper 48 bits, a hash of its address and address
 * space and its size, and the flags in the lower 16.
 */
static uint64_t identity(uint64_t key, uint32_t size)
{
	return ((key ^ key >> 32) << 32) | (uint64_t)(uint16_t)size << 16;
}

/* Whether this address is watched has changed: its block, and its page, must be looked at again. */
void forget_address(struct vm *vm, uint64_t pc)
{
	for (uint32_t i = 0; i < vm->count; i++) {
		struct vcpu *v = vm->vcpus[i];

		v->pages[pc >> 12 & (PAGES - 1)] = page_of(v, pc) ^ 2;
		v->seen[pc >> 2 & (SEEN - 1)] = ~0ull;	/* no block is so long */
	}
}

static uint32_t look_at(struct vcpu *v, uint64_t pc, uint32_t size)
{
	uint64_t *seen = &v->seen[pc >> 2 & (SEEN - 1)];
	uint64_t block = identity(pc + v->tag[pc >> 63], size);
	const uint32_t *code;
	uint32_t flags = 0;

	if (!((*seen ^ block) >> 16))
		return (uint16_t)*seen;
	/* A block does not leave its page. */
	code = host_address(v, pc, MMU_FETCH);
	for (uint32_t i = 0; code && i < size / 4; i++) {
		uint32_t one = flags_of(code[i]);

		flags = (one >> 8 ? flags & 0xff : flags) | one;
	}
	if (v->vm->watch && is_watched(v->vm, pc))
		flags |= WATCHED;
	*seen = block | flags;
	return flags;
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
	return flags & (ENDS_IN_WFE | ENDS_IN_ERET | UNMASKS_DEBUG);
}

/*
 * Do what instructions of the block before mean; true: the VCPU leaves, or goes on elsewhere. The
 * flags may be out of date where code was changed without an IC. Nothing then breaks but time.
 */
static bool look_back(struct vcpu *v)
{
	uint32_t flags = take_flags(v);

	if (flags & UNMASKS_DEBUG && mdscr_of(v) & MDSCR_SS) {
		/* QEMU has translated what comes next as if there were no software step. */
		arm_rebuild_hflags_aarch64(v->env);
		set_env64(v, ENV_PC, v->pc);
		return true;
	}
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
		v->exit = EXIT_WFE;
		return true;
	}
	v->time += v->vm->exit_ns; /* it traps all the same, for nothing */
	return false;
}

/*
 * Go on where env says, or stop if the VCPU is to leave: what was about to run does not. The engine
 * would find out by itself, and search for the block to know the PC, which is right already.
 */
static void __attribute__((noreturn)) restart(struct vcpu *v)
{
	if (v->exit != EXIT_NONE)
		uc_emu_stop(v->vm->uc);
	cpu_loop_exit_noexc_aarch64(v->cpu);
}

static SELDOM void look_closer(struct vcpu *v, uint64_t pc, uint32_t size)
{
	uint32_t flags;

	v->block = 0;
	if (v->flags && look_back(v))
		restart(v);
	if (v->time >= v->limit || pc & 3) {
		if (v->exit == EXIT_NONE)
			v->exit = EXIT_EDGE;
		restart(v);
	}
	if (v->line && interrupt_due(v)) {
		take_interrupt(v);
		restart(v);
	}
	flags = is_plain(v, pc) ? 0 : look_at(v, pc, size);
	v->flags = flags & ~WATCHED;
	v->block = size >= 4 ? size / 4 : 1;
	if (flags & WATCHED)
		meet(v, pc);
	if (v->vm->profile)
		sample_block(v);
}

/*
 * All that nearly every block needs; the rest is elsewhere, so that this needs no stack. The block
 * before may have armed the monitor: that alone is no reason to look closer.
 */
void on_block(uc_engine *uc, uint64_t pc, uint32_t size, struct vm *vm)
{
	struct vcpu *v = vm->current;
	uint64_t page = v->pages[pc >> 12 & (PAGES - 1)] ^ page_of(v, pc), seen;

	(void)uc;
	v->time += v->block;
	v->instructions += v->block;
	v->pc = pc;
	v->block = size / 4;
	if ((uint8_t)v->flags | v->line | (pc & 3) || v->time >= v->stop || page > 1) {
		look_closer(v, pc, size);
		return;
	}
	if (v->flags)
		v->exclusive = v->flags >> 8;
	v->flags = 0;
	if (page == 1)		/* plain */
		return;
	seen = v->seen[pc >> 2 & (SEEN - 1)];
	if ((seen ^ identity(pc + v->tag[pc >> 63], size)) >> 16)
		look_closer(v, pc, size);
	else if (v->flags = (uint16_t)seen & ~WATCHED, seen & WATCHED)
		meet(v, pc);
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
