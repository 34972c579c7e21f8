// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exceptions. What targets EL1 is taken to the guest's vector here, by QEMU's own exception entry,
 * without leaving the engine. What targets EL2 leaves vm_run() as an exit for Python
 * (exits.py).
 */
#include "qemu.h"

/* Load or store of one general-purpose register, pre- or post-indexed. */
#define WRITES_BACK(insn) (((insn) & 0x3f200400u) == 0x38000400u)
#define SCTLR_E0E (1u << 24)
#define SCTLR_EE (1u << 25)

static void enter(struct vcpu *v, int kind)
{
	set_env32(v, CPU_EXCEPTION, kind);
	exception(v)->target_el = 1;
	arm_cpu_do_interrupt_aarch64(v->cpu);
	set_env32(v, CPU_EXCEPTION, EXCP_NONE);
	v->time += v->vm->exception_ns;
}

/* Take a synchronous exception to EL1; the address of return is `pc`. */
void enter_sync(struct vcpu *v, int kind, uint32_t esr, uint64_t far, uint64_t pc)
{
	uint32_t level = env32(v, ENV_PSTATE) & (PSTATE_EL | PSTATE_SP);

	/* The first instruction of the handler faults, for ever. */
	if (level == PSTATE_EL1H && pc == env64(v, ENV_VBAR_EL1) + 0x200) {
		v->exit = EXIT_LOST;
		v->esr = esr;
		v->far = far;
		return;
	}
	v->fault_pc = pc;
	v->fault_esr = esr;
	v->fault_far = far;
	set_env64(v, ENV_PC, pc);
	exception(v)->esr = esr;
	exception(v)->far = far;
	enter(v, kind);
}

/* A synchronous external abort, with the syndrome that KVM's kvm_inject_dabt() gives. */
EXPORT void vcpu_inject_abort(struct vcpu *v, int is_fetch, uint64_t far)
{
	uint32_t ec = is_fetch ? (at_el0(v) ? EC_IABT_LOW : EC_IABT_CUR) :
				 (at_el0(v) ? EC_DABT_LOW : EC_DABT_CUR);

	v->exit = EXIT_NONE;
	enter_sync(v, is_fetch ? EXCP_PREFETCH_ABORT : EXCP_DATA_ABORT,
		   ec << 26 | ESR_IL | FSC_EXTERNAL, far, env64(v, ENV_PC));
}

/* What an access to nothing is: Undefined Instruction, syndrome "unknown reason". */
EXPORT void vcpu_inject_undefined(struct vcpu *v)
{
	v->exit = EXIT_NONE;
	enter_sync(v, EXCP_UNDEFINED, ESR_IL, 0, env64(v, ENV_PC));
}

bool interrupt_due(const struct vcpu *v)
{
	uint32_t masked = env32(v, ENV_DAIF);

	return (v->line & LINE_IRQ && !(masked & PSTATE_I)) ||
	       (v->line & LINE_FIQ && !(masked & PSTATE_F));
}

void take_interrupt(struct vcpu *v)
{
	bool fiq = v->line & LINE_FIQ && !(env32(v, ENV_DAIF) & PSTATE_F);

	enter(v, fiq ? EXCP_FIQ : EXCP_IRQ);
}

/* What the syndrome of a data abort does not tell, or should not. */
static void look_at_access(struct vcpu *v, uint64_t pc)
{
	const uint32_t *insn = host_address(v, pc, MMU_FETCH);

	v->big_endian = !!(env64(v, ENV_SCTLR_EL1) & (at_el0(v) ? SCTLR_E0E : SCTLR_EE));
	if (insn && WRITES_BACK(*insn)) /* QEMU describes these too; the architecture does not */
		v->esr &= ~ESR_ISV;
}

void on_exception(uc_engine *uc, uint32_t number, struct vm *vm)
{
	struct vcpu *v = vm->current;
	struct exception *e = exception(v);
	uint64_t pc = env64(v, ENV_PC);
	uint32_t ec = EC(e->esr);

	(void)uc;
	settle(v, pc);
	take_flags(v);
	v->esr = e->esr;
	v->far = e->far;
	if (e->target_el == 2) {
		switch (ec) {
		case EC_HVC64:
			leave(v, EXIT_HVC);
			return;
		case EC_SMC64:
			leave(v, EXIT_SMC);
			return;
		case EC_WFX:	/* WFI: WFE does not come this way, see blocks.c */
			leave(v, EXIT_WFI);
			return;
		case EC_IABT_LOW:
		case EC_DABT_LOW:
			v->ipa = env64(v, ENV_HPFAR_EL2) >> 4 << 12 | (e->far & 0xfff);
			if (ec == EC_DABT_LOW)
				look_at_access(v, pc);
			leave(v, ec == EC_IABT_LOW ? EXIT_FETCH_ABORT : EXIT_DATA_ABORT);
			return;
		}
	}
	/* Nothing else is routed to EL2 or EL3: for the guest, what trapped there does not exist. */
	if (e->target_el != 1 || ec == 0) {
		number = EXCP_UNDEFINED;
		e->esr = ESR_IL;
	}
	enter_sync(v, number, e->esr, e->far, pc);
	if (v->exit == EXIT_LOST)
		leave(v, EXIT_LOST);
}
