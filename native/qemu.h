/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QEMU inside of Unicorn 2.1.4: what of it is used here.
 *
 * Unicorn's API stops a CPU at each exception and copies all of its state to tell what happened.
 * libunicorn exports the functions of the QEMU that it is made of, so most of what a hypervisor
 * does is called directly: exception entry, the TLB, translated code, the table of system
 * registers. Structures are not in its headers; where their fields are is written down below, for
 * hosts with 64-bit pointers. qemu_locate() compares all of it with what the API says, and fails
 * where anything differs. pyproject.toml pins the version.
 */
#ifndef QEMU_H
#define QEMU_H

#include <setjmp.h>

#include "emulator.h"

/* Offsets in CPUARMState. */
enum {
	ENV_X = 64,		/* u64 [32] */
	ENV_PC = 320,		/* u64 */
	ENV_PSTATE = 328,	/* u32: mode, SS, IL, PAN, ...; flags and DAIF are kept apart */
	ENV_DAIF = 560,		/* u64, the bits where PSTATE has them */
	ENV_SCTLR_EL1 = 680,	/* u64 */
	ENV_TTBR0_EL1 = 776,	/* u64 */
	ENV_TTBR1_EL1 = 808,	/* u64 */
	ENV_TCR_EL1 = 856,	/* u64 */
	ENV_HPFAR_EL2 = 1080,	/* u64 */
	ENV_VBAR_EL1 = 1224,	/* u64 */
	ENV_CNTKCTL_EL1 = 1368,	/* u64 */
	ENV_CNTHCTL_EL2 = 1376,	/* u32 */
	ENV_EXCEPTION = 3024,	/* struct exception */
	ENV_EXCLUSIVE_ADDRESS = 12032, /* u64; ~0: none */
	ENV_EXCLUSIVE_VALUE = 12040, /* u64 */
	ENV_OURS = 12464,	/* void *, of a GIC that Unicorn has not: our struct vcpu */
	ENV_UC = 12728,		/* uc_engine * */
	ENV_SIZE = 12736,
};

/* Offsets from CPUARMState to what is around it in ARMCPU. */
enum {
	/* CPUState, and ARMCPU with it, begins here; a sigjmp_buf comes before the environment */
	CPU_STATE = -41608 - (int)sizeof(sigjmp_buf),
	CPU_EXCEPTION = -8624,	/* i32 exception_index of CPUState */
	CPU_REGISTERS = 12736,	/* GHashTable * cp_regs */
	CPU_ISAR = 12856,	/* struct ARMISARegisters: what the translator takes for offered */
	CPU_TLB_FILL = 13392,	/* function of CPUClass */
	CPU_TAIL = 13504,	/* end of ARMCPU */
};

/* Offsets in ARMISARegisters. */
enum { ISAR_ISAR0 = 72, ISAR_ISAR1 = 80, ISAR_PFR0 = 88, ISAR_MMFR0 = 104 };

enum { JUMP_CACHE = 4096 };	/* entries of CPUState.tb_jmp_cache */

/* CPUARMState.exception: the exception that is about to be taken. */
struct exception {
	uint32_t esr, fsr;
	uint64_t far;
	uint32_t target_el;
};

/* CPUState.exception_index. */
enum { EXCP_NONE = -1, EXCP_UNDEFINED = 1, EXCP_PREFETCH_ABORT = 3, EXCP_DATA_ABORT = 4,
       EXCP_IRQ = 5, EXCP_FIQ = 6 };

enum { MMU_LOAD = 0, MMU_FETCH = 2 };	/* what for */
enum { MMU_USER = 0 };	/* the MMU index of EL0 */

struct reginfo;
typedef uint64_t (*read_fn)(void *env, const struct reginfo *r);
typedef void (*write_fn)(void *env, const struct reginfo *r, uint64_t value);
typedef int (*access_fn)(void *env, const struct reginfo *r, bool is_read);

/* ARMCPRegInfo: one system register. */
struct reginfo {
	const char *name;
	uint8_t cp, crn, crm, op0, op1, op2;
	int state, type, access, secure;
	void *opaque;
	uint64_t reset_value;
	ptrdiff_t offset, banked[2];
	access_fn accessible;
	read_fn read;
	write_fn write;
	read_fn raw_read;
	write_fn raw_write;
	void *reset;
	read_fn read_as_el1;
	write_fn write_as_el1;
};

enum { STATE_AA64 = 1 };
enum { REG_CONST = 0x2, REG_OVERRIDE = 0x10, REG_IO = 0x40, REG_NO_RAW = 0x80,
       REG_RAISES = 0x8000 /* PC is right when it is read or written */ };
enum { ACCESS_OK, ACCESS_TRAPS };
enum { EL0_R = 0xaa, EL1_R = 0xa8, EL1_W = 0x54, EL1_RW = 0xfc, NOBODY = 0 };

void arm_cpu_do_interrupt_aarch64(void *cpu);
bool arm_cpu_tlb_fill_aarch64(void *cpu, uint64_t address, int size, int access, int mmu,
			      bool probe, uintptr_t retaddr);
void arm_rebuild_hflags_aarch64(void *env);
int arm_mmu_idx_aarch64(void *env);
void cpu_loop_exit_noexc_aarch64(void *cpu) __attribute__((noreturn));
struct reginfo *get_arm_cp_reginfo_aarch64(void *registers, uint32_t encoded);
void define_one_arm_cp_reg_with_opaque_aarch64(void *cpu, const struct reginfo *r, void *opaque);
uint64_t qemu_ram_addr_from_host_aarch64(uc_engine *uc, void *host);
void tb_flush_aarch64(void *cpu);
void tb_invalidate_phys_range_aarch64(uc_engine *uc, uint64_t start, uint64_t end);
size_t tcg_code_size_aarch64(void *tcg);
size_t tcg_code_capacity_aarch64(void *tcg);
void tlb_init_aarch64(void *cpu);
void tlb_flush_aarch64(void *cpu);
void *tlb_vaddr_to_host_aarch64(void *env, uint64_t address, int access, int mmu);

/* qemu.c */
extern ptrdiff_t cpu_env;	/* offset of CPUARMState in ARMCPU, found by experiment */
const char *qemu_locate(uc_engine *uc, struct vcpu *first);
void qemu_copy_cpu(struct vcpu *to, const struct vcpu *from);
void qemu_select(struct vm *vm, struct vcpu *v);
void qemu_forget_jumps(struct vcpu *v);
struct reginfo *qemu_register(const struct vcpu *v, uint32_t key);
size_t qemu_code_size(uc_engine *uc);
size_t qemu_code_capacity(uc_engine *uc);
uint32_t qemu_code_flushes(uc_engine *uc);
uint64_t get_sysreg(struct vcpu *v, uint32_t key);
void set_sysreg(struct vcpu *v, uint32_t key, uint64_t value);


/* registers.c */
void answer(struct vcpu *first, uint32_t key, read_fn read, write_fn write);

static inline uint64_t env64(const struct vcpu *v, int offset)
{
	uint64_t value;

	memcpy(&value, v->env + offset, sizeof(value));
	return value;
}

static inline void set_env64(struct vcpu *v, int offset, uint64_t value)
{
	memcpy(v->env + offset, &value, sizeof(value));
}

static inline uint32_t env32(const struct vcpu *v, int offset)
{
	uint32_t value;

	memcpy(&value, v->env + offset, sizeof(value));
	return value;
}

static inline void set_env32(struct vcpu *v, int offset, uint32_t value)
{
	memcpy(v->env + offset, &value, sizeof(value));
}

static inline struct exception *exception(struct vcpu *v)
{
	return (struct exception *)(v->env + ENV_EXCEPTION);
}

/* The VCPU that a function of the table of registers is called for. */
static inline struct vcpu *vcpu_of(void *env)
{
	return *(struct vcpu **)((uint8_t *)env + ENV_OURS);
}

static inline bool at_el0(const struct vcpu *v)
{
	return !(env32(v, ENV_PSTATE) & PSTATE_EL);
}

static inline bool is_user_address(uint64_t address)
{
	return !(address >> 55 & 1);
}

static inline void *host_address(struct vcpu *v, uint64_t address, int access)
{
	return tlb_vaddr_to_host_aarch64(v->env, address, access,
					 arm_mmu_idx_aarch64(v->env) & 0xf);
}

#endif
