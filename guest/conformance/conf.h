/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the conformance guest is built on. It has its own code for devices and CPUs, since it must
 * run under any VMM: guest/lib knows pvlock's machine only. Its globals begin with conf_, those that
 * are cases with case_. Times are ticks of the counter, unless a name says ns.
 */
#ifndef CONF_H
#define CONF_H

#define MAX_CPUS 512
#define STACK_SIZE 4096
#define BOOT_STACK_SIZE 16384

/* Offsets into struct cpu that conf_head.S uses. */
#define CPU_EXPECT 8
#define CPU_STOP 12
#define CPU_ESR 16
#define CPU_FAR 24
#define CPU_BEATS 64

#ifndef __ASSEMBLER__
#include "basics.h"

/* ---- what the device tree says: conf_fdt.c ---- */
enum uart { UART_NONE, UART_PL011, UART_NS16550 };
enum conduit { CONDUIT_NONE, CONDUIT_HVC, CONDUIT_SMC };
enum { MAX_RANGES = 16, MAX_BOOTARGS = 4096 };

struct range {
	u64 base, size;
};

struct conf_board {
	const void *dtb; /* NULL: there is none */
	u64 dtb_size;
	u32 entry_el;
	u32 cpus;
	u64 mpidr[MAX_CPUS]; /* the affinity fields, as `reg` has them */
	u32 memories;
	struct range memory[MAX_RANGES];
	enum uart uart_kind;
	u64 uart;
	u32 uart_shift, uart_width;
	enum conduit conduit;
	u32 gic; /* version: 2, 3, or 0 for none */
	struct range gicd, gicc;
	u32 gicrs;
	struct range gicr[MAX_RANGES];
	bool pvlock_node, pvlock_no_map;
	struct range pvlock;
	char bootargs[MAX_BOOTARGS];
};
extern struct conf_board conf_board;
void conf_board_read(const void *dtb, u64 own_base);
/* Copy the boot argument `name`=... to `value`; false if there is none. */
bool conf_bootarg(const char *name, char *value, size_t size);
u64 conf_bootarg_number(const char *name, u64 otherwise);
bool conf_same(const char *a, const char *b);
bool conf_in_memory(u64 address, u64 size);

/* ---- memory: conf_mmu.c ---- */
enum memory { DEVICE, CODE, DATA, READ_ONLY };
void conf_map(u64 address, u64 size, enum memory kind);
bool conf_map_page(u64 address, enum memory kind); /* with the MMU on; false: it cannot */
void conf_clean(const void *start, size_t size);

/* ---- CPUs: conf_cpu.c, conf_head.S ---- */
struct cpu {
	char *stack;
	u32 expect, stop;
	u64 esr, far;
	void (*body)(struct cpu *me);
	u32 number, running, finished, asleep;
	u64 beats ALIGNED(64); /* in a line of its own */
} ALIGNED(64);
extern struct cpu conf_cpus[MAX_CPUS];
u64 conf_cpu_on(u32 cpu, void (*body)(struct cpu *me)); /* what CPU_ON answers */
/* Wait until AFFINITY_INFO says that the CPU is off; false if it never does. */
bool conf_cpu_wait_off(u32 cpu);
/* Let the CPU run `body`, and wait until it is off again. */
bool conf_run_on(u32 cpu, void (*body)(struct cpu *me));
/* Wait until *flag is not 0; false if that takes too long. */
bool conf_wait_for(const u32 *flag);
_Noreturn void conf_system_off(void);
_Noreturn void conf_bail_out(const char *why, u64 value);
/* Count until told to stop; returns how often *flag was not 0 meanwhile. */
u64 conf_beat(struct cpu *me, const u64 *flag);

/* ---- SMC calling convention: conf_cpu.c, conf_head.S ---- */
#define UNDEFINED 0x5544455544455544ul	/* the conduit's instruction is undefined ("UDEUDE..") */
struct registers {
	u64 x[18];
};
void conf_call_registers(struct registers *r);	/* X0 is UNDEFINED if the instruction was */
u64 conf_call(u64 function, u64 argument);

enum {
	PSCI_VERSION = 0x84000000,
	PSCI_CPU_OFF = 0x84000002,
	PSCI_CPU_ON = 0xC4000003,
	PSCI_AFFINITY_INFO = 0xC4000004,
	PSCI_SYSTEM_OFF = 0x84000008,
	PSCI_FEATURES = 0x8400000A,
	SMCCC_VERSION = 0x80000000,
	SMCCC_ARCH_FEATURES = 0x80000001,
	VENDOR_HYP_CALL_UID = 0x8600FF01,
	PV_TIME_FEATURES = 0xC5000020,
	PV_TIME_ST = 0xC5000021,
};
#define NOT_SUPPORTED (~0ul)

/* ---- interrupts: conf_gic.c ---- */
void conf_gic_init(u32 cpu);
/* WFI, then acknowledge the interrupt that ended it. After `ticks`, unless 0, a timer ends it. */
void conf_sleep_once(u64 ticks);
void conf_wake(u32 cpu);

/* ---- time ---- */
u64 conf_ticks_of(u64 ns);
u64 conf_ns_of(u64 ticks);
void conf_pause_for(u64 ticks);

/* ---- console: conf_console.c ---- */
void conf_console_init(void);
void conf_print(const char *text, ...);	/* as format.h says */
void conf_note(const char *text, ...);	/* evidence of the case: "key: value\n" */
const char *conf_notes_take(void);		/* the notes so far; the next note starts anew */

/* ---- cases: conf_main.c ---- */
void conf_fail(const char *why);		/* the report names the first reason */
void conf_skip(const char *why);
/* Fails unless `found` is `wanted`; `what` becomes a key of the evidence. */
void conf_expect(const char *what, u64 found, u64 wanted);
void conf_expect_true(const char *what, bool found);

#endif
#endif
