/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the conformance guest is built on. Times are ticks of the counter, unless a name says ns. */
#ifndef HARNESS_H
#define HARNESS_H

#define MAX_CPUS 512
#define STACK_SIZE 4096
#define BOOT_STACK_SIZE 16384

/* Offsets into struct cpu that head.S uses. */
#define CPU_EXPECT 8
#define CPU_STOP 12
#define CPU_ESR 16
#define CPU_FAR 24
#define CPU_BEATS 64

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint32_t u32;
typedef uint64_t u64;

#define ALIGNED(n) __attribute__((aligned(n)))
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/* ---- what the device tree says: fdt.c ---- */
enum uart { UART_NONE, UART_PL011, UART_NS16550 };
enum conduit { CONDUIT_NONE, CONDUIT_HVC, CONDUIT_SMC };
enum { MAX_RANGES = 16, MAX_BOOTARGS = 4096 };

struct range {
	u64 base, size;
};

struct board {
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
extern struct board board;
void board_read(const void *dtb, u64 own_base);
/* The boot argument `name`=..., copied to `value`; false: there is none. */
bool bootarg(const char *name, char *value, size_t size);
u64 bootarg_number(const char *name, u64 otherwise);
bool same(const char *a, const char *b);
bool in_memory(u64 address, u64 size);

/* ---- memory: mmu.c ---- */
enum memory { DEVICE, CODE, DATA, READ_ONLY };
void map(u64 address, u64 size, enum memory kind);
bool map_page(u64 address, enum memory kind); /* later, MMU on; false: it cannot be mapped */
void clean(const void *start, size_t size);

/* ---- CPUs: cpu.c, head.S ---- */
struct cpu {
	char *stack;
	u32 expect, stop;
	u64 esr, far;
	void (*body)(struct cpu *me);
	u32 number, running, finished, asleep;
	u64 beats ALIGNED(64); /* in a line of its own */
} ALIGNED(64);
extern struct cpu cpus[MAX_CPUS];
u64 cpu_on(u32 cpu, void (*body)(struct cpu *me)); /* the answer of CPU_ON */
bool cpu_wait_off(u32 cpu);		/* until AFFINITY_INFO says so; false: it never does */
bool run_on(u32 cpu, void (*body)(struct cpu *me));	/* on, and wait until it is off again */
bool wait_for(const u32 *flag);		/* until it is not 0; false: it takes too long */
_Noreturn void system_off(void);
_Noreturn void bail_out(const char *why, u64 value);
u64 beat(struct cpu *me, const u64 *flag);

/* ---- SMC calling convention: cpu.c, head.S ---- */
#define UNDEFINED 0x5544455544455544ul	/* the conduit is no instruction here ("UDEUDE..") */
struct registers {
	u64 x[18];
};
void call_registers(struct registers *r);	/* X0 is UNDEFINED if the instruction was */
u64 call(u64 function, u64 argument);

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

/* ---- interrupts: gic.c ---- */
bool gic_present(void);
void gic_init(u32 cpu);
void sleep_once(void);	/* WFI, then end what ended it */
void wake(u32 cpu);

/* ---- time ---- */
static inline u64 ticks(void)
{
	u64 t;

	asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(t) : : "memory");
	return t;
}
u64 ticks_of(u64 ns);
u64 ns_of(u64 ticks);
void pause_for(u64 ticks);
static inline void cpu_relax(void)
{
	asm volatile("yield" : : : "memory");
}

/* ---- console: console.c ---- */
void console_init(void);
void print(const char *format, ...);	/* %s, %u (u32), %lu, %lx (u64) */
void note(const char *format, ...);	/* evidence of the case: "key: value\n" */
const char *notes_take(void);		/* what was noted, and forget it */

/* ---- cases: main.c ---- */
void fail(const char *why);		/* the first reason is the one that is reported */
void skip(const char *why);
/* Fails unless `found` is `wanted`; `what` becomes a key of the evidence. */
void expect(const char *what, u64 found, u64 wanted);
void expect_true(const char *what, bool found);

#endif
#endif
