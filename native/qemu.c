// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The QEMU inside of Unicorn: finding its structures, and having several CPUs in one engine.
 *
 * Unicorn has one CPU for each engine, with translated code of its own. All VCPUs of a machine run
 * the same code, so here they share one engine, as QEMU's CPUs do: the first CPU is Unicorn's own,
 * and the others are copies of it. The engine runs the one that its `cpu` points to.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "qemu.h"

enum { UC_TCG = 768, UC_SEARCHED = 4096, CPU_SEARCHED = 1024, TCG_SEARCHED = 65536 };
enum { CPU_JUMPS = -41496 };	/* CPUState.tb_jmp_cache, seen from CPUARMState */

static size_t uc_cpu;		/* offset of `cpu` in the engine, found by experiment */
static size_t tcg_flushes;	/* offset of a count in the translator, found by experiment */
ptrdiff_t cpu_env;

/* Whether memory can be read: the kernel refuses to write what cannot. */
static bool readable(const void *address, size_t size)
{
	static int pipe_ends[2] = { -1, -1 };
	char buffer[4096];
	size_t done = 0;

	if (pipe_ends[0] < 0 && (pipe(pipe_ends) || fcntl(pipe_ends[0], F_SETFD, FD_CLOEXEC) ||
				 fcntl(pipe_ends[1], F_SETFD, FD_CLOEXEC)))
		return false;
	while (done < size) {
		size_t part = size - done < sizeof(buffer) ? size - done : sizeof(buffer);
		ssize_t written = write(pipe_ends[1], (const char *)address + done, part);

		if (written <= 0)
			return false;
		if (read(pipe_ends[0], buffer, written) != written)
			return false;
		done += written;
	}
	return true;
}

static bool is_pointer(uint64_t value)
{
	return value > 65535 && !(value & 7) && !(value >> 56);
}

static uint64_t pattern(int n)
{
	return 0x9e3779b97f4a7c15u * (n + 1);
}

static void write_pattern(uc_engine *uc)
{
	for (int n = 0; n < 31; n++) {
		uint64_t value = pattern(n);

		uc_reg_write(uc, n < 29 ? UC_ARM64_REG_X0 + n : UC_ARM64_REG_X29 + n - 29, &value);
	}
}

static bool has_pattern(const uint8_t *env)
{
	for (int n = 0; n < 31; n++)
		if (*(const uint64_t *)(env + ENV_X + 8 * n) != pattern(n))
			return false;
	return true;
}

/* Find the engine's CPU by the registers that were just written. */
static bool find_cpu(uc_engine *uc, struct vcpu *v)
{
	for (size_t at = 0; at < UC_SEARCHED; at += 8) {
		uint64_t cpu, env;

		if (!readable((char *)uc + at, 8))
			return false;
		memcpy(&cpu, (char *)uc + at, 8);
		if (!is_pointer(cpu) || !readable((void *)cpu, CPU_SEARCHED))
			continue;
		for (size_t in_cpu = 0; in_cpu < CPU_SEARCHED; in_cpu += 8) {
			memcpy(&env, (char *)cpu + in_cpu, 8);
			/*
			 * The one is inside of the other. What lies before it in memory may
			 * seem to be the CPU too, so the distance must be right.
			 */
			if (!is_pointer(env) || cpu != env + CPU_STATE)
				continue;
			if (!readable((void *)env, ENV_SIZE) || !has_pattern((uint8_t *)env))
				continue;
			uc_cpu = at;
			cpu_env = env - cpu;
			v->cpu = (void *)cpu;
			v->env = (uint8_t *)env;
			return true;
		}
	}
	return false;
}

static bool same(struct vcpu *v, int offset, uint32_t key, uint64_t value)
{
	uint64_t old = get_sysreg(v, key);
	bool found;

	set_sysreg(v, key, value);
	found = env64(v, offset) == get_sysreg(v, key);
	set_sysreg(v, key, ~value & 0xff0);
	found = found && env64(v, offset) == get_sysreg(v, key);
	set_sysreg(v, key, old);
	return found;
}

/* Run one instruction at address 0; its exception is left in CPUARMState. */
static void run(uc_engine *uc, uint32_t insn)
{
	uint64_t pc = 0;

	uc_mem_write(uc, pc, &insn, sizeof(insn));
	uc_ctl_remove_cache(uc, pc, pc + 4);
	uc_emu_start(uc, pc, 0, 0, 0);
}

struct seen_exception {
	struct vcpu *v;
	uint32_t number;
};

static void stop(uc_engine *uc, uint32_t number, struct seen_exception *seen)
{
	seen->number = env32(seen->v, CPU_EXCEPTION) == number ? number : 0;
	uc_emu_stop(uc);
}

/* What an exception leaves: its syndrome, its number, and what the monitor of an LDXR is. */
static const char *check_exceptions(uc_engine *uc, struct vcpu *v)
{
	struct seen_exception seen = { v, 0 };
	uint64_t pc = 0x100, value = 0x1122334455667788;
	const char *error = NULL;
	uc_hook hook;

	if (uc_mem_map(uc, 0, 4096, UC_PROT_ALL) ||
	    uc_hook_add(uc, &hook, UC_HOOK_INTR, (void *)stop, &seen, 1, 0))
		return "nothing can be run";
	for (uint32_t n = 1; n < 0x10000 && !error; n = n << 3 | 5) {
		run(uc, 0xd4200000u | n << 5);	/* BRK #n */
		if (exception(v)->esr != (0xf2000000u | n) || seen.number != 7)
			error = "the syndrome of an exception";
	}
	run(uc, 0xd4000001u | 1 << 5);	/* SVC #1 */
	if (exception(v)->esr != 0x56000001u || exception(v)->target_el != 1 || seen.number != 2)
		error = "the level of an exception";
	uc_mem_write(uc, pc, &value, sizeof(value));
	uc_reg_write(uc, UC_ARM64_REG_X0, &pc);
	uc_mem_write(uc, 4, &(uint32_t){ 0xd4200000u }, 4);
	run(uc, 0xc85f7c01u);		/* LDXR X1, [X0] */
	if (env64(v, ENV_EXCLUSIVE_ADDRESS) != pc || env64(v, ENV_EXCLUSIVE_VALUE) != value)
		error = "the exclusive monitor";
	uc_hook_del(uc, hook);
	uc_mem_unmap(uc, 0, 4096);
	return error;
}

/* Find the u32 that counts how often translated code was thrown away, by doing it. */
static bool find_flushes(struct vcpu *v, const uint8_t *tcg)
{
	uint8_t *before = malloc(TCG_SEARCHED);
	size_t found = 0, at;
	uint32_t old, new;

	if (!before)
		return false;
	memcpy(before, tcg, TCG_SEARCHED);
	for (uint32_t n = 0; n < 5; n++)
		tb_flush_aarch64(v->cpu);
	for (at = 0; at < TCG_SEARCHED; at += 4) {
		memcpy(&old, before + at, 4);
		memcpy(&new, tcg + at, 4);
		if (new == old + 5) {
			tcg_flushes = at;
			found++;
		}
	}
	free(before);
	return found == 1;
}

/*
 * Find the CPU of an engine in which nothing ran yet, and compare what qemu.h says with what the
 * API says. NULL, or what differs.
 */
const char *qemu_locate(uc_engine *uc, struct vcpu *first)
{
	uint64_t pc = 0x123456789abc0, zero = 0, saved[32] = { 0 };
	const char *error;
	void *tcg;

	write_pattern(uc);
	if (!find_cpu(uc, first))
		return "the CPU's registers";
	uc_reg_write(uc, UC_ARM64_REG_PC, &pc);
	if (env64(first, ENV_PC) != pc || env64(first, ENV_UC) != (uint64_t)uc)
		return "the program counter";
	if (env64(first, ENV_OURS))
		return "a pointer that nobody uses";
	if ((env32(first, ENV_PSTATE) & PSTATE_MODE) != PSTATE_EL1H)
		return "PSTATE";
	if (!same(first, ENV_VBAR_EL1, KEY(3, 0, 12, 0, 0), 0x12345000) ||
	    !same(first, ENV_CNTKCTL_EL1, CNTKCTL_EL1, 0x3) ||
	    !same(first, ENV_TTBR0_EL1, TTBR0_EL1, 0x12345000) ||
	    !same(first, ENV_TTBR1_EL1, KEY(3, 0, 2, 0, 1), 0x12345000) ||
	    env64(first, ENV_SCTLR_EL1) != get_sysreg(first, SCTLR_EL1) ||
	    !same(first, ENV_TCR_EL1, KEY(3, 0, 2, 0, 2), 0x3510) ||
	    !same(first, ENV_HPFAR_EL2, KEY(3, 4, 6, 0, 4), 0x12340))
		return "a system register";
	if (!qemu_register(first, TTBR0_EL1) || qemu_register(first, TTBR0_EL1)->op1 != 0 ||
	    qemu_register(first, TTBR0_EL1)->crn != 2)
		return "the table of system registers";
	/* Of what is offered in ID registers, two that are sure to differ. */
	if (*(uint64_t *)(first->env + CPU_ISAR + ISAR_ISAR0) != get_sysreg(first, ID_AA64ISAR0_EL1) ||
	    *(uint64_t *)(first->env + CPU_ISAR + ISAR_ISAR1) != get_sysreg(first, ID_AA64ISAR1_EL1))
		return "the features of the translator";
	if (*(void **)(first->env + CPU_TLB_FILL) != (void *)arm_cpu_tlb_fill_aarch64)
		return "what fills the TLB";
	tcg = *(void **)((char *)uc + UC_TCG);
	if (!is_pointer((uint64_t)tcg) || !readable(tcg, TCG_SEARCHED) ||
	    qemu_code_size(uc) > qemu_code_capacity(uc) || !find_flushes(first, tcg))
		return "the translator";
	error = check_exceptions(uc, first);
	if (error)
		return error;
	for (int n = 0; n < 31; n++)
		memcpy(first->env + ENV_X + 8 * n, saved, 8);
	uc_reg_write(uc, UC_ARM64_REG_PC, &zero);
	set_env64(first, ENV_EXCLUSIVE_ADDRESS, ~0ull);
	return NULL;
}

/* Make `to` a copy of the CPU of `from`, which never ran, with a TLB of its own. */
void qemu_copy_cpu(struct vcpu *to, const struct vcpu *from)
{
	uint64_t old = (uint64_t)from->cpu, size = (uint64_t)from->env + CPU_TAIL - old;
	uint8_t *copy = NULL;

	if (posix_memalign((void **)&copy, 64, size + 64))
		abort();
	copy += old & 63;	/* vector registers are aligned as they were */
	memcpy(copy, from->cpu, size);
	/* What pointed into the one must point into the other. */
	for (uint64_t at = 0; at + 8 <= size; at += 8) {
		uint64_t value;

		memcpy(&value, copy + at, 8);
		if (value >= old && value < old + size) {
			value += (uint64_t)copy - old;
			memcpy(copy + at, &value, 8);
		}
	}
	to->cpu = copy;
	to->env = copy + (from->env - (uint8_t *)from->cpu);
	tlb_init_aarch64(to->cpu);
	qemu_forget_jumps(to);
}

/* Let the engine, and its API, mean this VCPU. */
void qemu_select(struct vm *vm, struct vcpu *v)
{
	vm->current = v;
	memcpy((char *)vm->uc + uc_cpu, &v->cpu, sizeof(v->cpu));
}

/* Forget where code is: it was thrown away, and QEMU told only the CPU that it knows of. */
void qemu_forget_jumps(struct vcpu *v)
{
	memset(v->env + CPU_JUMPS, 0, JUMP_CACHE * sizeof(void *));
}

struct reginfo *qemu_register(const struct vcpu *v, uint32_t key)
{
	void *registers = *(void **)(v->env + CPU_REGISTERS);

	return get_arm_cp_reginfo_aarch64(registers, 1u << 28 | 0x13 << 16 | key);
}

size_t qemu_code_size(uc_engine *uc)
{
	return tcg_code_size_aarch64(*(void **)((char *)uc + UC_TCG));
}

/* How often all translated code was thrown away. */
uint32_t qemu_code_flushes(uc_engine *uc)
{
	return *(uint32_t *)(*(char **)((char *)uc + UC_TCG) + tcg_flushes);
}

size_t qemu_code_capacity(uc_engine *uc)
{
	return tcg_code_capacity_aarch64(*(void **)((char *)uc + UC_TCG));
}

static uc_arm64_cp_reg named(uint32_t key)
{
	uc_arm64_cp_reg r = { .op0 = key >> 14 & 3, .op1 = key >> 11 & 7, .crn = key >> 7 & 15,
			      .crm = key >> 3 & 15, .op2 = key & 7 };
	return r;
}

static uc_engine *engine_of(struct vcpu *v)
{
	if (v->vm)
		qemu_select(v->vm, v);
	return *(uc_engine **)(v->env + ENV_UC);
}

/* The value of a system register, without the effects that MRS may have. */
uint64_t get_sysreg(struct vcpu *v, uint32_t key)
{
	uc_arm64_cp_reg r = named(key);

	uc_reg_read(engine_of(v), UC_ARM64_REG_CP_REG, &r);
	return r.val;
}

void set_sysreg(struct vcpu *v, uint32_t key, uint64_t value)
{
	uc_arm64_cp_reg r = named(key);

	r.val = value;
	uc_reg_write(engine_of(v), UC_ARM64_REG_CP_REG, &r);
	arm_rebuild_hflags_aarch64(v->env);
}
