// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * System registers that are not as QEMU's CPU has them: what is offered, the GIC's CPU interface,
 * and some that we must hear of.
 *
 * QEMU has a table of all registers, with functions that read and write them. Ours go into that
 * table. So access from EL0 and traps are QEMU's, and what is taken out of it is undefined.
 */
#include "gic.h"
#include "qemu.h"

#define SCTLR_M 1u

/* Let `read` and `write` answer for a register that QEMU has; NULL: as before. */
void answer(struct vcpu *first, uint32_t key, read_fn read, write_fn write)
{
	struct reginfo *r = qemu_register(first, key);

	if (!r)
		return;
	r->type = (r->type & ~REG_CONST) | REG_RAISES;
	if (read)
		r->read = read;
	if (write)
		r->write = write;
}

static void is_constant(struct vcpu *first, uint32_t key, uint64_t value)
{
	struct reginfo *r = qemu_register(first, key);

	if (!r)
		return;
	r->type = REG_CONST;
	r->reset_value = value;
	r->read = NULL;
}

static void is_undefined(struct vcpu *first, uint32_t key)
{
	struct reginfo *r = qemu_register(first, key);

	if (r)
		r->access = NOBODY;
}

void leave_at_block_end(struct vcpu *v, enum exit_reason reason)
{
	v->exit = reason;
	v->stop = v->limit = 0;
}

/* Bring the interrupt inputs of all VCPUs up to date; those that sleep are Python's to wake. */
void update_lines(struct vm *vm)
{
	int i;

	while ((i = gic_take_changed(vm->gic)) >= 0) {
		struct vcpu *v = vm->vcpus[i];

		v->line = gic_line(vm->gic, i);
		if (v->line && v->asleep)
			vm->wakes = 1;
	}
}

/* The same after an instruction of `v`. */
void tell_lines(struct vcpu *v)
{
	update_lines(v->vm);
	if (v->vm->wakes)
		leave_at_block_end(v, EXIT_WAKE);
}

/* ---- the GIC's CPU interface ---- */

static uint32_t key_of(const struct reginfo *r)
{
	return KEY(r->op0, r->op1, r->crn, r->crm, r->op2);
}

static uint64_t read_gic(void *env, const struct reginfo *r)
{
	struct vcpu *v = vcpu_of(env);
	uint64_t value = 0;

	gic_read_register(v->vm->gic, v->index, key_of(r), &value);
	v->vm->exits[EXIT_SYSREG]++;
	v->time += v->vm->sysreg_ns;
	tell_lines(v);
	return value;
}

static void write_gic(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);
	bool trapped = gic_is_sgi(key_of(r));	/* by KVM, too */

	gic_write_register(v->vm->gic, v->index, key_of(r), value);
	v->vm->exits[EXIT_SYSREG]++;
	v->time += trapped ? v->vm->exit_ns : v->vm->sysreg_ns;
	v->event |= trapped;
	tell_lines(v);
}

static void define_gic(struct vcpu *first)
{
	static const struct { uint8_t crn, crm, op2, access; } registers[] = {
		{ 4, 6, 0, EL1_RW },				/* ICC_PMR */
		{ 12, 8, 0, EL1_R }, { 12, 8, 1, EL1_W },	/* ICC_IAR0, ICC_EOIR0 */
		{ 12, 8, 2, EL1_R }, { 12, 8, 3, EL1_RW },	/* ICC_HPPIR0, ICC_BPR0 */
		{ 12, 8, 4, EL1_RW }, { 12, 9, 0, EL1_RW },	/* ICC_AP0R0, ICC_AP1R0 */
		{ 12, 11, 1, EL1_W }, { 12, 11, 3, EL1_R },	/* ICC_DIR, ICC_RPR */
		{ 12, 11, 5, EL1_W }, { 12, 11, 6, EL1_W },	/* ICC_SGI1R, ICC_ASGI1R */
		{ 12, 11, 7, EL1_W }, { 12, 12, 0, EL1_R },	/* ICC_SGI0R, ICC_IAR1 */
		{ 12, 12, 1, EL1_W }, { 12, 12, 2, EL1_R },	/* ICC_EOIR1, ICC_HPPIR1 */
		{ 12, 12, 3, EL1_RW }, { 12, 12, 4, EL1_RW },	/* ICC_BPR1, ICC_CTLR */
		{ 12, 12, 5, EL1_RW }, { 12, 12, 6, EL1_RW },	/* ICC_SRE, ICC_IGRPEN0 */
		{ 12, 12, 7, EL1_RW },				/* ICC_IGRPEN1 */
	};

	for (uint32_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
		struct reginfo r = {
			.name = "ICC", .op0 = 3, .crn = registers[i].crn, .crm = registers[i].crm,
			.op2 = registers[i].op2, .state = STATE_AA64,
			.type = REG_OVERRIDE | REG_IO | REG_NO_RAW | REG_RAISES,
			.access = registers[i].access, .read = read_gic, .write = write_gic,
		};

		define_one_arm_cp_reg_with_opaque_aarch64(first->cpu, &r, NULL);
	}
}

/* ---- what is offered ---- */

#define ID_FIELD(shift, value) ((uint64_t)(value) << (shift))
#define ID_MASK(shift) ID_FIELD(shift, 0xf)

/*
 * Half-precision arithmetic: QEMU's translator aborts on undefined encodings of it, which any
 * program in the guest can execute, unless it is not there. Tests want it.
 */
EXPORT bool half_precision;

static void offer(struct vm *vm, struct vcpu *first)
{
	uint8_t *isar = first->env + CPU_ISAR;
	uint64_t pfr0 = get_sysreg(first, ID_AA64PFR0_EL1), isar1 = get_sysreg(first, ID_AA64ISAR1_EL1);
	uint64_t dfr0 = get_sysreg(first, ID_AA64DFR0_EL1), isar0 = get_sysreg(first, ID_AA64ISAR0_EL1);
	uint64_t mmfr0 = get_sysreg(first, ID_AA64MMFR0_EL1);

	/* EL1 and EL0 in AArch64 only, FP and AdvSIMD, the GIC; no RAS, SVE, MPAM. */
	pfr0 &= half_precision ? ID_MASK(16) | ID_MASK(20) : 0;
	pfr0 |= ID_FIELD(0, 1) | ID_FIELD(4, 1) | ID_FIELD(24, 1);
	/* CSV2 and CSV3: speculation leaks nothing here, so no guest needs to guard against it. */
	pfr0 |= ID_FIELD(56, 1) | ID_FIELD(60, 1);
	dfr0 &= ~ID_MASK(8);			/* no PMU */
	isar0 &= ~ID_MASK(60);			/* no RNDR */
	if (!half_precision)
		isar0 &= ~ID_MASK(48);		/* no FHM, which would need it */
	if (!vm->pauth)				/* no APA, API, GPA, GPI */
		isar1 &= ~(ID_MASK(4) | ID_MASK(8) | ID_MASK(24) | ID_MASK(28));
	/* 36 bits of IPA; pages of 16 KiB too: QEMU walks such tables, and does not say so. */
	mmfr0 = (mmfr0 & ~(ID_MASK(0) | ID_MASK(20))) | ID_FIELD(0, 1) | ID_FIELD(20, 1);
	is_constant(first, ID_AA64PFR0_EL1, pfr0);
	is_constant(first, ID_AA64DFR0_EL1, dfr0);
	is_constant(first, ID_AA64ISAR0_EL1, isar0);
	is_constant(first, ID_AA64ISAR1_EL1, isar1);
	is_constant(first, ID_AA64MMFR0_EL1, mmfr0);
	is_constant(first, ID_AA64ZFR0_EL1, 0);
	/* The translator: what is not offered is undefined. */
	memcpy(isar + ISAR_ISAR0, &isar0, 8);
	memcpy(isar + ISAR_ISAR1, &isar1, 8);
	*(uint64_t *)(isar + ISAR_PFR0) &= ~ID_MASK(32);
	if (!half_precision)
		*(uint64_t *)(isar + ISAR_PFR0) &= ~(ID_MASK(16) | ID_MASK(20));
	is_undefined(first, ZCR_EL1);
	is_undefined(first, RNDR);
	is_undefined(first, RNDRRS);
	/* The timer of EL3. */
	is_undefined(first, CNTPS_TVAL_EL1);
	is_undefined(first, CNTPS_CTL_EL1);
	is_undefined(first, CNTPS_CVAL_EL1);
}

/* ---- what we must hear of ---- */

static write_fn write_ttbr0, write_sctlr;
static ptrdiff_t mdscr_offset;

static void on_ttbr0(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);

	if (env64(v, ENV_TTBR0_EL1) != value)
		forget_space(v);
	write_ttbr0(env, r, value);
}

static void on_sctlr(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);

	if ((env64(v, ENV_SCTLR_EL1) ^ value) & SCTLR_M)
		forget_code(v->vm);
	write_sctlr(env, r, value);
}

/*
 * QEMU's CPU would return to AArch32 at EL0, which ours does not have. To each other mode of
 * AArch32 a return is illegal for both, so SPSR_EL1 gets one of them instead.
 */
static void on_spsr(void *env, const struct reginfo *r, uint64_t value)
{
	if ((value & PSTATE_MODE) == MODE_USER)
		value |= MODE_SYSTEM;
	memcpy((uint8_t *)env + r->offset, &value, sizeof(value));
}

static uint64_t read_isr(void *env, const struct reginfo *r)
{
	uint32_t line = vcpu_of(env)->line;

	(void)r;
	return (line & LINE_IRQ ? PSTATE_I : 0) | (line & LINE_FIQ ? PSTATE_F : 0);
}

uint64_t mdscr_of(const struct vcpu *v)
{
	return env64(v, mdscr_offset);
}

/* MDSCR_EL1.TDCC: EL0 may not read it. There is no debugger that could have sent anything. */
static int may_read_mdccsr(void *env, const struct reginfo *r, bool is_read)
{
	const struct vcpu *v = vcpu_of(env);

	(void)r;
	(void)is_read;
	return at_el0(v) && mdscr_of(v) & MDSCR_TDCC ? ACCESS_TRAPS : ACCESS_OK;
}

/* QEMU has it where the architecture has nothing. */
static void move_mdccsr(struct vcpu *first)
{
	struct reginfo *mdscr = qemu_register(first, MDSCR_EL1);
	struct reginfo r = {
		.name = "MDCCSR_EL0", .op0 = 2, .op1 = 3, .crn = 0, .crm = 1, .op2 = 0,
		.state = STATE_AA64, .type = REG_CONST, .access = EL0_R,
		.accessible = may_read_mdccsr,
	};

	is_undefined(first, KEY(2, 0, 0, 1, 0));
	if (!mdscr)
		return;
	mdscr_offset = mdscr->offset;
	define_one_arm_cp_reg_with_opaque_aarch64(first->cpu, &r, NULL);
}

void define_registers(struct vm *vm)
{
	struct vcpu *first = vm->vcpus[0];
	uint32_t cnthctl = 3;		/* the physical counter and timer are EL1's */

	set_env32(first, ENV_CNTHCTL_EL2, cnthctl);
	offer(vm, first);
	define_gic(first);
	define_timers(first);
	write_ttbr0 = qemu_register(first, TTBR0_EL1)->write;
	write_sctlr = qemu_register(first, SCTLR_EL1)->write;
	answer(first, TTBR0_EL1, NULL, on_ttbr0);
	answer(first, SCTLR_EL1, NULL, on_sctlr);
	answer(first, SPSR_EL1, NULL, on_spsr);
	answer(first, ISR_EL1, read_isr, NULL);
	move_mdccsr(first);
}
