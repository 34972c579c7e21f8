// SPDX-License-Identifier: GPL-2.0-or-later
/* Every kind of exception and interrupt must reach the guest's own vector, with its syndrome. */
#include "guest.h"

u64 taken[4]; /* what the vector stores: ESR, ELR, FAR, the offset of the vector's entry */
u64 resume;	/* where to go on after an exception; 0: at ELR */
void contract_vectors(void);
void el0_svc(void);

__asm__(
	".balign 2048\n"
	".global contract_vectors\n"
	"contract_vectors:\n"
	".set offset, 0\n"
	".rept 16\n"
	"	.balign 128\n"
	"	stp x0, x1, [sp, #-16]!\n"
	"	mov x0, #offset\n"
	"	b collect\n"
	"	.set offset, offset + 128\n"
	".endr\n"
	"collect:\n"
	"	adrp x1, taken\n	add x1, x1, :lo12:taken\n"
	"	str x0, [x1, #24]\n"
	"	mrs x0, esr_el1\n	str x0, [x1]\n"
	"	mrs x0, far_el1\n	str x0, [x1, #16]\n"
	"	mrs x0, elr_el1\n	str x0, [x1, #8]\n"
	"	adrp x1, resume\n	ldr x1, [x1, :lo12:resume]\n"
	"	cbz x1, 1f\n"
	"	msr elr_el1, x1\n"
	"	mov x0, #0x3c5\n	msr spsr_el1, x0\n"
	"1:	msr cntv_ctl_el0, xzr\n" /* the timer's level stays high until it is off */
	"	mrs x0, s3_0_c12_c12_0\n" /* ICC_IAR1_EL1, then ICC_EOIR1_EL1 */
	"	msr s3_0_c12_c12_1, x0\n"
	"	ldp x0, x1, [sp], #16\n"
	"	eret\n"
	".global el0_svc\n"
	"el0_svc: svc #9\n b .\n");

static void show(const char *name, u64 at)
{
	print("%s at %lx vector %lx esr %lx elr %lx far %lx\n", name, at, taken[3], taken[0],
	      taken[1], taken[2]);
	taken[0] = taken[1] = taken[2] = taken[3] = ~0ul;
}

/* Run `setup`, then `code`. The vector comes back to the label after `code`. */
#define FAULT_AFTER(name, setup, code)                                                    \
	do {                                                                              \
		asm volatile("adr %0, 1f\n\tstr %0, [%1]\n\tadr %0, 2f\n\t" setup        \
			     "\n\t2: " code "\n\t1:"                                     \
			     : "=&r"(at) : "r"(&resume), "r"(address)                     \
			     : "memory", "x0", "x1", "x2", "x3", "x30");                  \
		show(name, at);                                                           \
		resume = 0;                                                               \
	} while (0)
#define FAULT(name, code) FAULT_AFTER(name, "", code)

void main(void)
{
	u64 at, address = 0, start;

	gic_init(0);
	time_init();
	asm volatile("msr vbar_el1, %0\n\tisb" : : "r"(contract_vectors));
	asm volatile("adr %0, 1f\n\tsvc #7\n\t1:" : "=&r"(at) : : "memory");
	show("SVC", at);
	FAULT("UDF", "udf #3");
	FAULT("BRK", "brk #5");
	/* smc #0. A hypervisor may also take it for a call, and answer in X0. */
	FAULT_AFTER("SMC", "mov x0, #-2", ".inst 0xd4000003");
	FAULT("SYSREG", "mrs x30, s3_0_c15_c2_7");
	address = 0x7000000000; /* not mapped at stage 1 */
	FAULT("LOAD", "ldr x30, [%2]");
	FAULT("STORE", "str x30, [%2]");
	FAULT("JUMP", "br %2");
	address = (u64)&taken;
	FAULT("EXECUTE-DATA", "br %2");
	address = (u64)main;
	FAULT("WRITE-CODE", "str x30, [%2]");
	address |= 2;
	FAULT("UNALIGNED-PC", "br %2");
	address = 0x0a000000; /* mapped, but no device is there */
	map(address, 4096, DEVICE);
	asm volatile("dsb ish\n\tisb");
	FAULT("NO-DEVICE", "ldr x30, [%2]");
	address = board.uart; /* a device, but the syndrome does not describe an LDP */
	/* Change a register first: a copy that a hypervisor may have of it is then wrong. */
	asm volatile("str %w0, [%1, #0x24]" : : "r"(77), "r"(address) : "memory");
	FAULT("NO-SYNDROME", "ldp x29, x30, [%2]");

	/* An exception from EL0 has an entry of its own in the vector, and EL0 a stack pointer. */
	extern u64 page_table[];
	page_table[4] = 0x40000000 | 1 | 1 << 10 | 1 << 2 | 3 << 8 | 3 << 6 | 1ul << 53;
	asm volatile("dsb ish\n\tisb");
	address = (u64)el0_svc - 0x40000000 + 4 * 0x40000000ul;
	FAULT("EL0", "msr elr_el1, %2\n\tmsr spsr_el1, xzr\n\teret");

	/* An SGI to ourselves, and the timer. */
	wake(0);
	asm volatile("msr daifclr, #2\n\tisb\n\tmsr daifset, #2");
	show("SGI", 0);
	asm volatile("str %w0, [%1]" : : "r"(1 << 27), "r"(board.gicr + 0x10100) : "memory");
	start = ticks();
	asm volatile("msr cntv_tval_el0, %0\n\tmsr cntv_ctl_el0, %1" : : "r"(50000ul), "r"(1ul));
	asm volatile("isb\n\twfi");
	at = ticks() - start;
	asm volatile("msr daifclr, #2\n\tisb\n\tmsr daifset, #2");
	show("TIMER", at);
	asm volatile("mrs %0, mpidr_el1" : "=r"(at));
	print("REGISTERS mpidr %lx ", at);
	asm volatile("mrs %0, currentel" : "=r"(at));
	print("el %lx ", at >> 2);
	asm volatile("mrs %0, id_aa64pfr0_el1" : "=r"(at));
	print("pfr0 %lx\n", at);
	system_off();
}
