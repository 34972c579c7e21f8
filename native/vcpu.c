// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hot half of the emulator engine: steps VCPUs, counts their virtual time, traps and exits.
 *
 * Unicorn plays a CPU with EL2. We are the hypervisor at EL2: HCR_EL2 traps WFI and SMC, stage 2
 * translation (tables built in stage2.py) traps MMIO and write-protects memory slots. So every trap
 * is an architectural exception with its architectural syndrome. What targets EL1 is taken to the
 * guest's vector here; what targets EL2 leaves vm_run() as an exit for Python (vm.py).
 *
 * Time: one instruction is one nanosecond. It is counted per translated block, before the block
 * runs, so a VCPU overshoots the end of its quantum by at most the rest of a block; settle()
 * corrects the count where an exception ended the block early.
 *
 * Unicorn never runs its own exception entry, and keeps the syndrome in a structure that no
 * function of its API names. It is inside what uc_context_save() copies; libunicorn.py finds the
 * offset by experiment when the worker starts, and refuses to run where it cannot.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <unicorn/unicorn.h>

#define EXPORT __attribute__((visibility("default")))
/* What on_block() seldom calls: inlined, each block would save registers for it. */
#define SELDOM __attribute__((noinline))

/* Keep in step with vcpu.py: `class Exit` and `class VcpuState`. */
enum exit_reason {
	EXIT_NONE,
	EXIT_EDGE,	  /* ran up to `stop` */
	EXIT_HVC,
	EXIT_SMC,
	EXIT_WFI,
	EXIT_WFE,	  /* only while another VCPU waits for a CPU, as KVM sets HCR_EL2.TWE */
	EXIT_DATA_ABORT,  /* stage 2 */
	EXIT_FETCH_ABORT, /* stage 2 */
	EXIT_SYSREG,	  /* a GIC CPU interface register */
	EXIT_TIMER,	  /* a timer register was written */
	EXIT_LOST,	  /* the guest's own vector faults: no guest could handle that */
	EXIT_ENGINE,	  /* Unicorn gave up: `error` */
	EXIT_SLICE,	  /* the CPU's deadline */
	EXIT_ILLEGAL,	  /* an illegal exception return; never leaves step() */
};

enum { TIMER_VIRTUAL, TIMER_PHYSICAL, TIMERS };
enum { LINE_IRQ = 1, LINE_FIQ = 2 };
enum { FLUSH_TLB = 1, FLUSH_CODE = 2 };
enum { ENDS_IN_WFE = 1, ENDS_IN_ERET = 2 };

struct timer {
	uint64_t ctl, cval;
};

struct seen {
	uint64_t pc;
	uint32_t size;
	uint32_t ends_in;
};

#define SEEN 1024

struct vcpu {
	uc_engine *uc;
	uc_context *context;
	struct vm *vm;
	uint64_t time;		/* ns, at the start of the current block */
	uint64_t instructions;	/* executed so far */
	uint64_t pc;		/* of the current block; after an exit, of the exit */
	uint64_t mpidr;
	/* the exit */
	uint32_t exit, error;
	uint32_t esr, index;
	uint64_t far, ipa;
	uint32_t sysreg, is_write;
	uint64_t value;		/* written; for a read, `rt` names the register that wants it */
	uint32_t rt;
	uint32_t big_endian;	/* the access that aborted */
	/* input */
	uint32_t line, flush;
	struct timer timer[TIMERS];
	/* private */
	uint32_t ended_in;	/* the block before */
	uint32_t el0;		/* was there once: from then on hooks look where they are */
	uint64_t stop, block, sysreg_pc;
	struct seen seen[SEEN];
};

struct cpu {
	struct vcpu *vcpu;	/* NULL: idle */
	uint64_t now;		/* ns */
	uint64_t deadline;	/* ns: end of the slice */
};

struct vm {
	struct vcpu **vcpus;
	uint32_t count;
	uint32_t trap_wfe;	/* VCPUs are waiting for a CPU */
	uint32_t can_yield;	/* one of them may be yielded to */
	uint32_t exit_ns;
	uint32_t exception_ns, maintenance_ns;
	uint32_t exception_offset; /* of the syndrome, inside what uc_context_save() wrote */
	uint64_t running;	/* 1 + index of the VCPU being stepped, for the post-mortem */
};

#define KEY(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

enum sysreg {
	MPIDR_EL1 = KEY(3, 0, 0, 0, 5),
	ID_AA64PFR0_EL1 = KEY(3, 0, 0, 4, 0),
	ID_AA64DFR0_EL1 = KEY(3, 0, 0, 5, 0),
	ID_AA64ISAR0_EL1 = KEY(3, 0, 0, 6, 0),
	ID_AA64MMFR0_EL1 = KEY(3, 0, 0, 7, 0),
	SCTLR_EL1 = KEY(3, 0, 1, 0, 0),
	SPSR_EL1 = KEY(3, 0, 4, 0, 0),
	ELR_EL1 = KEY(3, 0, 4, 0, 1),
	ICC_PMR_EL1 = KEY(3, 0, 4, 6, 0),
	ESR_EL1 = KEY(3, 0, 5, 2, 0),
	FAR_EL1 = KEY(3, 0, 6, 0, 0),
	VBAR_EL1 = KEY(3, 0, 12, 0, 0),
	ISR_EL1 = KEY(3, 0, 12, 1, 0),
	CONTEXTIDR_EL1 = KEY(3, 0, 13, 0, 1),
	CNTKCTL_EL1 = KEY(3, 0, 14, 1, 0),
	RNDR = KEY(3, 3, 2, 4, 0),
	RNDRRS = KEY(3, 3, 2, 4, 1),
	CNTFRQ_EL0 = KEY(3, 3, 14, 0, 0),
	CNTPCT_EL0 = KEY(3, 3, 14, 0, 1),
	CNTVCT_EL0 = KEY(3, 3, 14, 0, 2),
	CNTP_TVAL_EL0 = KEY(3, 3, 14, 2, 0),
	CNTP_CTL_EL0 = KEY(3, 3, 14, 2, 1),
	CNTP_CVAL_EL0 = KEY(3, 3, 14, 2, 2),
	CNTV_TVAL_EL0 = KEY(3, 3, 14, 3, 0),
	CNTV_CTL_EL0 = KEY(3, 3, 14, 3, 1),
	CNTV_CVAL_EL0 = KEY(3, 3, 14, 3, 2),
	HPFAR_EL2 = KEY(3, 4, 6, 0, 4),
};

#define WFE_INSN 0xd503205fu
#define SEVL_INSN 0xd50320bfu
#define IS_ERET(insn) ((insn) >> 12 == 0xd69f0u)	/* ERET, ERETAA, ERETAB */
/* Load or store of one general-purpose register, pre- or post-indexed. */
#define WRITES_BACK(insn) (((insn) & 0x3f200400u) == 0x38000400u)
#define COUNTER_HZ 1000000000u

#define PSTATE_EL1H 0x5u
#define PSTATE_EL 0xcu
#define PSTATE_MODE 0x1fu
#define MODE_USER 0x10u		/* of AArch32, as is the next */
#define MODE_SYSTEM 0x1fu
#define PSTATE_SP 0x1u
#define PSTATE_F (1u << 6)
#define PSTATE_I (1u << 7)
#define PSTATE_DAIF (0xfu << 6)
#define PSTATE_IL (1u << 20)
#define PSTATE_PAN (1u << 22)
#define PSTATE_NZCV (0xfu << 28)
#define SCTLR_SPAN (1u << 23)
#define SCTLR_E0E (1u << 24)
#define SCTLR_EE (1u << 25)
#define CNTKCTL_EL0PCTEN (1u << 0)
#define CNTKCTL_EL0VCTEN (1u << 1)
#define CNTKCTL_EL0VTEN (1u << 8)
#define CNTKCTL_EL0PTEN (1u << 9)

enum vector { VECTOR_SYNC = 0x000, VECTOR_IRQ = 0x080, VECTOR_FIQ = 0x100 };

#define EC(esr) ((esr) >> 26)
#define EC_WFX 0x01
#define EC_ILLEGAL 0x0eu
#define EC_HVC64 0x16
#define EC_SMC64 0x17
#define EC_IABT_LOW 0x20
#define EC_IABT_CUR 0x21
#define EC_PC_ALIGNMENT 0x22u
#define EC_DABT_LOW 0x24
#define EC_DABT_CUR 0x25
#define ESR_IL (1u << 25)
#define ESR_ISV (1u << 24)
#define FSC_EXTERNAL 0x10

/* What Unicorn's CPU keeps of the exception it raised. */
struct syndrome {
	uint32_t esr, fsr;
	uint64_t far;
	uint32_t target_el;
};

static uint64_t get(struct vcpu *v, int reg)
{
	uint64_t value = 0;

	uc_reg_read(v->uc, reg, &value);
	return value;
}

static void set(struct vcpu *v, int reg, uint64_t value)
{
	uc_reg_write(v->uc, reg, &value);
}

static uc_arm64_cp_reg named(uint32_t key)
{
	uc_arm64_cp_reg r = { .op0 = key >> 14 & 3, .op1 = key >> 11 & 7, .crn = key >> 7 & 15,
			      .crm = key >> 3 & 15, .op2 = key & 7 };
	return r;
}

static uint64_t get_sysreg(struct vcpu *v, uint32_t key)
{
	uc_arm64_cp_reg r = named(key);

	uc_reg_read(v->uc, UC_ARM64_REG_CP_REG, &r);
	return r.val;
}

/*
 * Unlike a write of PSTATE, this makes Unicorn notice a new exception level: see enter().
 *
 * Unicorn's CPU would return to AArch32 at EL0, which ours does not have. To each other mode of
 * AArch32 a return is illegal for both, so SPSR_EL1 gets one of them instead.
 */
static void set_sysreg(struct vcpu *v, uint32_t key, uint64_t value)
{
	uc_arm64_cp_reg r = named(key);

	if (key == SPSR_EL1 && (value & PSTATE_MODE) == MODE_USER)
		value |= MODE_SYSTEM;
	r.val = value;
	uc_reg_write(v->uc, UC_ARM64_REG_CP_REG, &r);
}

static void leave(struct vcpu *v, enum exit_reason reason)
{
	v->exit = reason;
	uc_emu_stop(v->uc);
}

/* Exception entry to EL1 (Arm ARM: AArch64.TakeException). The return address is `pc`. */
static void enter(struct vcpu *v, enum vector kind, uint64_t pc)
{
	uint32_t old = get(v, UC_ARM64_REG_PSTATE);
	uint32_t new = PSTATE_EL1H | PSTATE_DAIF | (old & (PSTATE_NZCV | PSTATE_PAN));
	uint64_t vector = get_sysreg(v, VBAR_EL1) + kind;

	if (!(old & PSTATE_EL))
		vector += 0x400;
	else if (old & PSTATE_SP)
		vector += 0x200;
	if (!(get_sysreg(v, SCTLR_EL1) & SCTLR_SPAN))
		new |= PSTATE_PAN;
	if (!(old & PSTATE_SP)) {
		set(v, UC_ARM64_REG_SP_EL0, get(v, UC_ARM64_REG_SP));
		set(v, UC_ARM64_REG_SP, get(v, UC_ARM64_REG_SP_EL1));
	}
	set(v, UC_ARM64_REG_PSTATE, new);
	set(v, UC_ARM64_REG_PC, vector);
	set_sysreg(v, ELR_EL1, pc);
	set_sysreg(v, SPSR_EL1, old);
	v->time += v->vm->exception_ns;
}

static void enter_sync(struct vcpu *v, uint32_t esr, uint64_t far, bool has_far, uint64_t pc)
{
	uint32_t old = get(v, UC_ARM64_REG_PSTATE);

	/* The first instruction of the handler faults, for ever. */
	if ((old & (PSTATE_EL | PSTATE_SP)) == PSTATE_EL1H &&
	    pc == get_sysreg(v, VBAR_EL1) + 0x200) {
		v->exit = EXIT_LOST;
		v->esr = esr;
		v->far = far;
		return;
	}
	set_sysreg(v, ESR_EL1, esr);
	if (has_far)
		set_sysreg(v, FAR_EL1, far);
	enter(v, VECTOR_SYNC, pc);
}

/* A synchronous external abort, with the syndrome that KVM's kvm_inject_dabt() gives. */
EXPORT void vcpu_inject_abort(struct vcpu *v, int is_fetch, uint64_t far)
{
	bool from_el0 = !(get(v, UC_ARM64_REG_PSTATE) & PSTATE_EL);
	uint32_t ec = is_fetch ? (from_el0 ? EC_IABT_LOW : EC_IABT_CUR) :
				 (from_el0 ? EC_DABT_LOW : EC_DABT_CUR);

	v->exit = EXIT_NONE;
	enter_sync(v, ec << 26 | ESR_IL | FSC_EXTERNAL, far, true, get(v, UC_ARM64_REG_PC));
}

/* What an access to nothing is: Undefined Instruction, syndrome "unknown reason". */
EXPORT void vcpu_inject_undefined(struct vcpu *v)
{
	v->exit = EXIT_NONE;
	enter_sync(v, ESR_IL, 0, false, get(v, UC_ARM64_REG_PC));
}

static bool interrupt_due(struct vcpu *v)
{
	uint32_t pstate;

	if (!v->line)
		return false;
	pstate = get(v, UC_ARM64_REG_PSTATE);
	return (v->line & LINE_IRQ && !(pstate & PSTATE_I)) ||
	       (v->line & LINE_FIQ && !(pstate & PSTATE_F));
}

static void take_interrupt(struct vcpu *v)
{
	uint32_t pstate = get(v, UC_ARM64_REG_PSTATE);
	bool fiq = v->line & LINE_FIQ && !(pstate & PSTATE_F);

	enter(v, fiq ? VECTOR_FIQ : VECTOR_IRQ, get(v, UC_ARM64_REG_PC));
}

/* ---- hooks: called by Unicorn while the VCPU runs ---- */

static SELDOM void look_at(struct vcpu *v, struct seen *s, uint64_t pc, uint32_t size)
{
	uint32_t code[16] = { 0 }, n = size / 4 < 16 ? size / 4 : 16;

	/* A WFE and an ERET always end their block. */
	uc_vmem_read(v->uc, pc + size - 4 * n, UC_PROT_EXEC, code, 4 * n);
	s->pc = pc;
	s->size = size;
	s->ends_in = 0;
	if (n && IS_ERET(code[n - 1]))
		s->ends_in = ENDS_IN_ERET;
	if (n && code[n - 1] == WFE_INSN)
		s->ends_in = ENDS_IN_WFE;
	while (s->ends_in == ENDS_IN_WFE && n--)
		if (code[n] == SEVL_INSN) /* after it, WFE does not wait */
			s->ends_in = 0;
}

/* Whether the WFE or ERET at the end of the block before traps. */
static SELDOM bool traps(struct vcpu *v)
{
	uint32_t ended_in = v->ended_in;

	v->ended_in = 0;
	if (ended_in == ENDS_IN_ERET) {
		uint32_t pstate = get(v, UC_ARM64_REG_PSTATE);

		if (!(pstate & PSTATE_EL))
			v->el0 = 1;
		if (!(pstate & PSTATE_IL)) /* Unicorn's CPU sets it, and goes on */
			return false;
		leave(v, EXIT_ILLEGAL);
		return true;
	}
	if (!v->vm->trap_wfe)
		return false;
	if (v->vm->can_yield) {
		leave(v, EXIT_WFE);
		return true;
	}
	v->time += v->vm->exit_ns; /* it traps all the same, for nothing */
	return false;
}

static void on_block(uc_engine *uc, uint64_t pc, uint32_t size, struct vcpu *v)
{
	struct seen *s = &v->seen[pc >> 2 & (SEEN - 1)];

	v->time += v->block;
	v->instructions += v->block;
	v->block = 0;
	v->pc = pc;
	if (v->exit != EXIT_NONE) {
		/* A hook wrote PC: Unicorn took that as a wish to go on there. */
		uc_emu_stop(uc);
		return;
	}
	if (v->ended_in && traps(v))
		return;
	if (v->time >= v->stop || pc & 3 || (v->line && interrupt_due(v))) {
		leave(v, EXIT_EDGE);
		return;
	}
	if (s->pc != pc || s->size != size)
		look_at(v, s, pc, size);
	v->ended_in = s->ends_in;
	v->block = size >= 4 ? size / 4 : 1;
}

static void settle(struct vcpu *v, uint64_t pc)
{
	uint64_t done = (pc - v->pc) / 4;

	if (done > v->block)
		done = v->block;
	v->time += done;
	v->instructions += done;
	v->block = 0;
	v->pc = pc;
}

/* What the syndrome of a data abort does not tell, or should not. */
static void look_at_access(struct vcpu *v, uint64_t pc)
{
	bool el0 = !(get(v, UC_ARM64_REG_PSTATE) & PSTATE_EL);
	uint32_t insn = 0;

	v->big_endian = !!(get_sysreg(v, SCTLR_EL1) & (el0 ? SCTLR_E0E : SCTLR_EE));
	uc_vmem_read(v->uc, pc, UC_PROT_EXEC, &insn, sizeof(insn));
	if (WRITES_BACK(insn)) /* Unicorn's CPU describes these too; the architecture does not */
		v->esr &= ~ESR_ISV;
}

static void on_exception(uc_engine *uc, uint32_t number, struct vcpu *v)
{
	struct syndrome syn;
	uint64_t pc = get(v, UC_ARM64_REG_PC);
	uint32_t ec;

	(void)number;
	settle(v, pc);
	v->ended_in = 0;
	uc_context_save(uc, v->context);
	memcpy(&syn, (char *)v->context + v->vm->exception_offset, sizeof(syn));
	ec = EC(syn.esr);
	v->esr = syn.esr;
	v->far = syn.far;
	if (syn.target_el == 2) {
		switch (ec) {
		case EC_HVC64:
			leave(v, EXIT_HVC);
			return;
		case EC_SMC64:
			leave(v, EXIT_SMC);
			return;
		case EC_WFX:
			leave(v, EXIT_WFI);
			return;
		case EC_IABT_LOW:
		case EC_DABT_LOW:
			v->ipa = get_sysreg(v, HPFAR_EL2) >> 4 << 12 | (syn.far & 0xfff);
			if (ec == EC_DABT_LOW)
				look_at_access(v, pc);
			leave(v, ec == EC_IABT_LOW ? EXIT_FETCH_ABORT : EXIT_DATA_ABORT);
			return;
		default: /* nothing else is routed to EL2: for the guest it does not exist */
			syn.esr = ESR_IL;
			ec = 0;
		}
	}
	if (ec == 0 && v->sysreg && v->sysreg_pc == pc) {
		leave(v, EXIT_SYSREG);
		return;
	}
	if (ec == 0)
		syn.esr = ESR_IL;
	enter_sync(v, syn.esr, syn.far,
		   (ec >= EC_IABT_LOW && ec <= EC_DABT_CUR) /* PC alignment included */, pc);
	/* Unicorn must look at its PC and PSTATE again: leave, and let step() go on. */
	leave(v, v->exit == EXIT_LOST ? EXIT_LOST : EXIT_EDGE);
}

static uint64_t istatus(struct vcpu *v, struct timer *t)
{
	return (t->ctl & 3) | (uint64_t)((t->ctl & 1) && v->time >= t->cval) << 2;
}

static bool is_gic(uint32_t key)
{
	return key == ICC_PMR_EL1 || (key >= KEY(3, 0, 12, 8, 0) && key <= KEY(3, 0, 12, 12, 7));
}

static void forget(struct vcpu *v)
{
	memset(v->seen, 0, sizeof(v->seen));
}

/*
 * Of what the hooks answer, EL0 may access counters and timers, if EL1 lets it. Where this says no,
 * Unicorn's CPU raises the exception.
 */
static bool denied(struct vcpu *v, uint32_t key)
{
	uint32_t enable;

	if (get(v, UC_ARM64_REG_PSTATE) & PSTATE_EL)
		return false;
	switch (key) {
	case CNTFRQ_EL0:
		enable = CNTKCTL_EL0PCTEN | CNTKCTL_EL0VCTEN;
		break;
	case CNTPCT_EL0:
		enable = CNTKCTL_EL0PCTEN;
		break;
	case CNTVCT_EL0:
		enable = CNTKCTL_EL0VCTEN;
		break;
	case CNTP_TVAL_EL0:
	case CNTP_CTL_EL0:
	case CNTP_CVAL_EL0:
		enable = CNTKCTL_EL0PTEN;
		break;
	case CNTV_TVAL_EL0:
	case CNTV_CTL_EL0:
	case CNTV_CVAL_EL0:
		enable = CNTKCTL_EL0VTEN;
		break;
	case RNDR:		/* Unicorn's CPU would ask the host for a random number */
	case RNDRRS:
		return false;
	default:
		return true;
	}
	return !(get_sysreg(v, CNTKCTL_EL1) & enable);
}

static uint32_t on_mrs(uc_engine *uc, int rt, const uc_arm64_cp_reg *r, struct vcpu *v)
{
	uint32_t key = KEY(r->op0, r->op1, r->crn, r->crm, r->op2);
	struct timer *timer = v->timer;
	uint64_t value;

	if (v->el0 && denied(v, key)) {
		v->sysreg = 0;
		return 0;
	}
	switch (key) {
	case CNTVCT_EL0:
	case CNTPCT_EL0:
		value = v->time;
		break;
	case RNDR:		/* should be undefined, which a hook cannot bring about */
	case RNDRRS:
		value = v->time * 0x9e3779b97f4a7c15u;
		break;
	case CNTFRQ_EL0:
		value = COUNTER_HZ;
		break;
	case CNTP_TVAL_EL0:
		timer++;	/* fall through */
	case CNTV_TVAL_EL0:
		value = (uint32_t)(timer->cval - v->time);
		break;
	case CNTP_CTL_EL0:
		timer++;	/* fall through */
	case CNTV_CTL_EL0:
		value = istatus(v, timer);
		break;
	case CNTP_CVAL_EL0:
		timer++;	/* fall through */
	case CNTV_CVAL_EL0:
		value = timer->cval;
		break;
	case MPIDR_EL1:
		value = v->mpidr;
		break;
	case ISR_EL1:
		value = (v->line & LINE_IRQ ? PSTATE_I : 0) | (v->line & LINE_FIQ ? PSTATE_F : 0);
		break;
	case ID_AA64PFR0_EL1:	/* no EL3, EL2, AArch32, SVE or MPAM; a GICv3 CPU interface */
		value = (get_sysreg(v, key) & 0xf0000000u) | 0x01110011u;
		break;
	case ID_AA64DFR0_EL1:	/* no PMU */
		value = get_sysreg(v, key) & ~0xf00u;
		break;
	case ID_AA64ISAR0_EL1:	/* no RNDR */
		value = get_sysreg(v, key) & ~(0xfull << 60);
		break;
	case ID_AA64MMFR0_EL1:	/* 36 bits of IPA */
		value = (get_sysreg(v, key) & ~0xfull) | 1;
		break;
	default:
		v->sysreg = is_gic(key) ? key : 0;
		v->sysreg_pc = get(v, UC_ARM64_REG_PC);
		v->is_write = 0;
		v->rt = rt;
		return 0;
	}
	uc_reg_write(uc, rt, &value);
	return 1;
}

static uint32_t on_msr(uc_engine *uc, int rt, const uc_arm64_cp_reg *r, struct vcpu *v)
{
	uint32_t key = KEY(r->op0, r->op1, r->crn, r->crm, r->op2);
	struct timer *timer = v->timer;

	(void)uc;
	if (v->el0 && denied(v, key)) {
		v->sysreg = 0;
		return 0;
	}
	switch (key) {
	case CNTP_TVAL_EL0:
		timer++;	/* fall through */
	case CNTV_TVAL_EL0:
		timer->cval = v->time + (uint64_t)(int64_t)(int32_t)r->val;
		break;
	case CNTP_CTL_EL0:
		timer++;	/* fall through */
	case CNTV_CTL_EL0:
		timer->ctl = r->val & 3;
		break;
	case CNTP_CVAL_EL0:
		timer++;	/* fall through */
	case CNTV_CVAL_EL0:
		timer->cval = r->val;
		break;
	case SPSR_EL1:
		set_sysreg(v, key, r->val);
		return 1;
	default:
		/* Other code may be at the addresses that were looked at. */
		if ((r->op1 == 0 && (r->crn == 1 || r->crn == 2)) || key == CONTEXTIDR_EL1)
			forget(v);
		v->sysreg = is_gic(key) ? key : 0;
		v->sysreg_pc = get(v, UC_ARM64_REG_PC);
		v->is_write = 1;
		v->value = r->val;
		v->rt = rt;
		return 0;
	}
	leave(v, EXIT_TIMER);
	return 1;
}

/*
 * IC and TLBI reach every VCPU; each Unicorn instance has a TLB and translated code of its own. Of its
 * own TLB Unicorn takes care; its translations may be of code that another VCPU wrote.
 */
static uint32_t on_sys(uc_engine *uc, int rt, const uc_arm64_cp_reg *r, struct vcpu *v)
{
	uint32_t what = 0;

	(void)uc;
	(void)rt;
	if (r->crn == 7 && (r->crm == 1 || r->crm == 5) && (r->op1 == 0 || r->op1 == 3))
		what = FLUSH_CODE;
	else if (r->crn == 8)
		what = FLUSH_TLB | FLUSH_CODE;
	if (what) {
		for (uint32_t i = 0; i < v->vm->count; i++)
			if (v->vm->vcpus[i] != v)
				v->vm->vcpus[i]->flush |= what;
		v->flush |= FLUSH_CODE;
		v->time += v->vm->maintenance_ns;
		/* At the end of this block, which is where an ISB takes effect at the latest. */
		leave(v, EXIT_EDGE);
	}
	return 0;
}

/* ---- running ---- */

static void flush(struct vcpu *v)
{
	if (v->flush & FLUSH_TLB)
		uc_ctl_flush_tlb(v->uc);
	if (v->flush & FLUSH_CODE)
		uc_ctl_flush_tb(v->uc);
	forget(v);
	v->flush = 0;
}

/* Run until `stop` or an exit; true on an exit that Python must handle. */
static bool step(struct vcpu *v, uint64_t stop)
{
	v->stop = stop;
	do {
		uint64_t pc;

		if (v->flush)
			flush(v);
		if (interrupt_due(v))
			take_interrupt(v);
		v->exit = EXIT_NONE;
		v->sysreg = 0;
		pc = get(v, UC_ARM64_REG_PC);
		if (pc & 3) {	/* Unicorn would decode what is there */
			enter_sync(v, EC_PC_ALIGNMENT << 26 | ESR_IL, pc, true, pc);
			if (v->exit == EXIT_LOST)
				return true;
			pc = get(v, UC_ARM64_REG_PC);
		}
		v->pc = pc;
		v->error = uc_emu_start(v->uc, pc, 0, 0, 0);
		settle(v, get(v, UC_ARM64_REG_PC));
		if (v->exit == EXIT_ILLEGAL) {
			v->exit = EXIT_EDGE;
			enter_sync(v, EC_ILLEGAL << 26 | ESR_IL, 0, false, v->pc);
		}
		if (v->exit == EXIT_NONE)
			v->exit = EXIT_ENGINE;
		if (v->exit != EXIT_EDGE)
			return true;
	} while (v->time < stop);
	return false;
}

/*
 * Interleave the CPUs in steps of `quantum` ns until `horizon`; `*edge` is the end of the current
 * step. Returns the index of a CPU whose VCPU left with an exit, or -1 at the horizon.
 * A CPU that is ahead of the edge (its last block overshot, or an exit cost it time) waits.
 */
EXPORT int vm_run(struct vm *vm, struct cpu *cpus, uint32_t count, uint64_t *edge,
		  uint64_t quantum, uint64_t horizon)
{
	for (;;) {
		for (uint32_t i = 0; i < count; i++) {
			struct cpu *c = &cpus[i];
			struct vcpu *v = c->vcpu;
			bool exited;

			if (!v) {
				if (c->now < *edge)
					c->now = *edge;
				continue;
			}
			while (c->now < *edge) {
				if (c->now >= c->deadline) {
					v->exit = EXIT_SLICE;
					return i;
				}
				vm->running = 1 + v->index;
				v->time = c->now;
				exited = step(v, c->deadline < *edge ? c->deadline : *edge);
				c->now = v->time;
				if (exited)
					return i;
			}
		}
		if (*edge >= horizon)
			return -1;
		*edge += quantum;
	}
}

EXPORT uint32_t vcpu_attach(struct vcpu *v)
{
	uc_hook hook;
	uc_err e = uc_context_alloc(v->uc, &v->context);

	if (e == UC_ERR_OK)
		e = uc_hook_add(v->uc, &hook, UC_HOOK_BLOCK, (void *)on_block, v, 1, 0);
	if (e == UC_ERR_OK)
		e = uc_hook_add(v->uc, &hook, UC_HOOK_INTR, (void *)on_exception, v, 1, 0);
	if (e == UC_ERR_OK)
		e = uc_hook_add(v->uc, &hook, UC_HOOK_INSN, (void *)on_mrs, v, 1, 0,
				UC_ARM64_INS_MRS);
	if (e == UC_ERR_OK)
		e = uc_hook_add(v->uc, &hook, UC_HOOK_INSN, (void *)on_msr, v, 1, 0,
				UC_ARM64_INS_MSR);
	if (e == UC_ERR_OK)
		e = uc_hook_add(v->uc, &hook, UC_HOOK_INSN, (void *)on_sys, v, 1, 0,
				UC_ARM64_INS_SYS);
	return e;
}

EXPORT uint64_t vcpu_get_sysreg(struct vcpu *v, uint32_t key)
{
	return get_sysreg(v, key);
}

EXPORT void vcpu_set_sysreg(struct vcpu *v, uint32_t key, uint64_t value)
{
	set_sysreg(v, key, value);
}

/* ---- the structures that vcpu.py restates, so that it can compare them when it starts ---- */

struct field {
	const char *name;	/* STRUCT.FIELD, or STRUCT; NULL ends the table */
	uint32_t offset, size;
};

#define WHOLE(s) { #s, 0, sizeof(struct s) }
#define FIELD(s, f) { #s "." #f, offsetof(struct s, f), sizeof(((struct s *)0)->f) }

EXPORT const struct field *struct_layout(void)
{
	static const struct field fields[] = {
		WHOLE(timer), FIELD(timer, ctl), FIELD(timer, cval),
		WHOLE(seen), FIELD(seen, pc), FIELD(seen, size), FIELD(seen, ends_in),
		WHOLE(vcpu), FIELD(vcpu, uc), FIELD(vcpu, context), FIELD(vcpu, vm),
		FIELD(vcpu, time), FIELD(vcpu, instructions), FIELD(vcpu, pc), FIELD(vcpu, mpidr),
		FIELD(vcpu, exit), FIELD(vcpu, error), FIELD(vcpu, esr), FIELD(vcpu, index),
		FIELD(vcpu, far), FIELD(vcpu, ipa), FIELD(vcpu, sysreg), FIELD(vcpu, is_write),
		FIELD(vcpu, value), FIELD(vcpu, rt), FIELD(vcpu, big_endian), FIELD(vcpu, line),
		FIELD(vcpu, flush), FIELD(vcpu, timer), FIELD(vcpu, ended_in), FIELD(vcpu, el0),
		FIELD(vcpu, stop), FIELD(vcpu, block), FIELD(vcpu, sysreg_pc), FIELD(vcpu, seen),
		WHOLE(cpu), FIELD(cpu, vcpu), FIELD(cpu, now), FIELD(cpu, deadline),
		WHOLE(vm), FIELD(vm, vcpus), FIELD(vm, count), FIELD(vm, trap_wfe),
		FIELD(vm, can_yield), FIELD(vm, exit_ns), FIELD(vm, exception_ns),
		FIELD(vm, maintenance_ns), FIELD(vm, exception_offset), FIELD(vm, running),
		{ NULL, 0, 0 },
	};

	return fields;
}
