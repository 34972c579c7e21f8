/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of native/ share: the state of VCPUs, of simulated CPUs and of the machine.
 *
 * vcpu.py restates the structures. layout.c lists every field, so that check_layout() in vcpu.py can
 * compare them when a worker starts.
 */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <unicorn/unicorn.h>

#define EXPORT __attribute__((visibility("default")))
/* What on_block() seldom calls: inlined, each block would save registers for it. */
#define SELDOM __attribute__((noinline))

/* Keep in step with vcpu.py: `class Exit`. */
enum exit_reason {
	EXIT_NONE,
	EXIT_EDGE,	  /* ran up to `limit` */
	EXIT_HVC,
	EXIT_SMC,
	EXIT_WFI,
	EXIT_WFE,	  /* only where it trapped, and there is a VCPU to yield to */
	EXIT_DATA_ABORT,  /* stage 2 */
	EXIT_FETCH_ABORT, /* stage 2 */
	EXIT_SYSREG,	  /* a GIC CPU interface register: counted, and answered in C */
	EXIT_TIMER,	  /* a timer register was written: counted, and answered in C */
	EXIT_LOST,	  /* the guest's own vector faults: no guest could handle that */
	EXIT_ENGINE,	  /* Unicorn gave up: `error` */
	EXIT_SLICE,	  /* the CPU's deadline */
	EXIT_WAKE,	  /* an interrupt for a VCPU that sleeps: see `vm.wakes` */
	EXIT_REASONS,
};

enum { TIMER_VIRTUAL, TIMER_PHYSICAL, TIMERS };
enum { LINE_IRQ = 1, LINE_FIQ = 2 };
enum { FLUSH_TLB = 1, FLUSH_CODE = 2 };

struct timer {
	uint64_t ctl, cval;
};

#define PAGES 4096
#define SEEN 16384
#define QUEUED_TLBI 16

struct tlbi {
	uint64_t value;		/* the operand */
	const void *reg;	/* the instruction */
};

struct vcpu {
	/* what each block looks at */
	uint64_t time;		/* ns, at the start of the current block */
	uint64_t stop;		/* ns: look closer from here on */
	uint64_t instructions;	/* executed so far */
	uint64_t pc;		/* of the current block; after an exit, of the exit */
	uint32_t block;		/* instructions of the current block, not yet counted */
	uint32_t flags;		/* of the block before */
	uint64_t tag[2];	/* which code user and kernel addresses stand for */
	uint32_t line;		/* LINE_*: what the GIC signals */
	uint32_t exit;
	uint8_t *env;		/* QEMU's CPUARMState */
	void *cpu;		/* QEMU's CPUState, which it is inside of */
	struct vm *vm;
	/* the exit */
	uint32_t error, esr;
	uint64_t far, ipa;
	uint64_t mpidr;
	uint32_t index;
	uint32_t big_endian;	/* the access that aborted */
	/* the exception before a lost one: the guest's first trouble */
	uint64_t fault_pc, fault_far;
	uint32_t fault_esr;
	/* input */
	uint32_t asleep;	/* blocked by WFI: a rising line must be told */
	/*
	 * Whether WFE traps, decided when the VCPU got its CPU. Stands for HCR_EL2.TWE, which is
	 * never set: see look_back().
	 */
	uint32_t trap_wfe;
	uint32_t event;		/* the event register */
	uint32_t flush;
	uint32_t waiting;	/* in WFE: on its CPU, and executes nothing */
	struct timer timer[TIMERS];
	uint64_t limit;		/* ns: run no further */
	uint64_t sample_at;	/* ns: the next sample of a profile */
	/* private */
	uint64_t event_since;	/* ns: the event register was last cleared */
	uint64_t *monitored;	/* host address that an LDXR armed the monitor for, while waiting */
	uint32_t exclusive;	/* bytes that the last LDXR loaded */
	uint32_t queued;	/* used entries of `tlbi` */
	struct tlbi tlbi[QUEUED_TLBI];
	uint64_t code_pages[2][64]; /* pages that `pages` has, hashed: user, kernel */
	uint64_t pages[PAGES];	/* pages of code that were looked at: see blocks.c */
	uint64_t seen[SEEN];	/* blocks of those that are not plain */
};

/* A simulated CPU of the host. */
struct cpu {
	struct vcpu *vcpu;	/* NULL: idle */
	uint64_t now;		/* ns */
	uint64_t deadline;	/* ns: end of the slice */
};

/* A memory slot, as it is mapped here. */
struct slot {
	uint64_t ipa, size;
	uint8_t *host;
	uint64_t readonly;
};

struct vm {
	uc_engine *uc;
	struct vcpu **vcpus;
	struct gic *gic;
	const struct slot *slots;
	uint32_t slot_count;
	uint32_t count;
	uint32_t can_yield;	/* a VCPU waits that may be yielded to */
	uint32_t exit_ns, exception_ns, maintenance_ns, sysreg_ns;
	uint32_t wakes;		/* a VCPU that sleeps has an interrupt */
	uint32_t pauth;		/* pointer authentication is offered */
	uint64_t running;	/* 1 + index of the VCPU being stepped, for the post-mortem */
	uint64_t timer_due;	/* ns: no timer fires before */
	uint64_t exits[EXIT_REASONS]; /* those answered in C */
	struct watch *watch;	/* what of the guest's code is watched; NULL: nothing */
	struct profile *profile; /* NULL: nothing is sampled */
	/* private */
	uint32_t code_flushes;	/* how often code was thrown away, when a VCPU was last stepped */
	struct vcpu *current;
	uint8_t *pristine;	/* CPUARMState of a VCPU that has not run */
};

/*
 * Watched code: see watch.c. A point is the first instruction of a function of the guest's kernel.
 * Keep in step with vcpu.py.
 */
enum {
	WATCH_ALWAYS = 1,	/* record each call */
	WATCH_RETURN = 2,	/* and its return */
	WATCH_WAIT = 4,		/* the call is a wait for the lock at X0 */
	WATCH_AWAITED = 8,	/* record a call only while somebody waits for the lock at X0 */
	WATCH_USER = 16,	/* X0 is an address of user space */
};

enum { RECORD_CALL, RECORD_RETURN, RECORD_WORDS };

#define WATCH_READS 6
#define WATCH_WORDS 2

/*
 * Where a value is in memory: so much from a register (SP is 31), or from an earlier value, of which
 * READ_VALUE is the first.
 */
struct watch_read {
	int32_t offset;
	uint8_t base, size;	/* size in bytes: 4 or 8; 0: there is no such value */
	uint16_t reserved;
};

#define READ_VALUE 32

struct watch_point {
	uint64_t pc;
	uint32_t flags;
	uint32_t word_size;	/* of the words of a lock, in bytes: 4 or 8; 0: it has none */
	uint64_t word_mask[WATCH_WORDS]; /* what of the words at X0 makes a record when it changes */
	struct watch_read reads[WATCH_READS];
};

struct watch_record {
	uint64_t time;		/* ns */
	uint64_t lock;		/* X0 of the call; of user space: the IPA */
	uint64_t x[3];		/* X0 to X2; of RECORD_WORDS: the words */
	uint64_t lr;
	uint64_t task;		/* SP_EL0 */
	uint64_t value[WATCH_READS];
	uint32_t point;
	uint16_t vcpu;
	uint8_t kind;		/* RECORD_* */
	uint8_t last;		/* of RECORD_WORDS: this lock is watched no more */
};

/*
 * Samples: see profile.c. Keep in step with vcpu.py.
 */
enum { SPIN_OWNER, SPIN_QUEUE, SPIN_HELPER };
enum { AWAITS_NOBODY, AWAITS_RUNNING, AWAITS_OFF, AWAITS_SLEEPING, AWAITS_READERS };
enum { IN_WFE = 1 };

/* Of a function in which the kernel spins: where it keeps what it waits for. */
struct spin {
	uint64_t start, end;
	uint64_t moved;		/* from here on the lock is in `reg`, before it in X0 */
	uint32_t kind, reg;
	uint64_t owner;		/* SPIN_OWNER: offset of the owner in the lock */
	uint64_t flags;		/* what of the owner is no address; of these... */
	uint64_t readers;	/* ...what says that readers own it */
};

struct profile_setup {
	uint64_t period;	/* ns */
	uint64_t user_registers; /* from the empty frame record down to the registers of EL0 */
	uint64_t queue;		/* where the nodes of osq_lock are, from TPIDR_EL1; 0: not known */
	const struct spin *spins;
	uint64_t spin_count;
};

struct sample {
	uint64_t time;		/* ns */
	uint64_t task;		/* SP_EL0, where Linux keeps it; 0 at EL0 */
	uint64_t lr;
	uint64_t owner;		/* task */
	uint32_t points;	/* times of the grid that it stands for */
	uint16_t vcpu;
	int16_t awaited;	/* VCPU, or -1 */
	uint8_t awaits, flags, kernel, user;	/* the last two: how many frames */
	uint32_t into;		/* instructions from the begin of the block to the first frame */
	/* the frames follow: the instruction, then addresses of return; the kernel's come first */
};

#define KEY(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

enum sysreg {
	MDSCR_EL1 = KEY(2, 0, 0, 2, 2),
	MPIDR_EL1 = KEY(3, 0, 0, 0, 5),
	ID_AA64PFR0_EL1 = KEY(3, 0, 0, 4, 0),
	ID_AA64ZFR0_EL1 = KEY(3, 0, 0, 4, 4),
	ID_AA64DFR0_EL1 = KEY(3, 0, 0, 5, 0),
	ID_AA64ISAR0_EL1 = KEY(3, 0, 0, 6, 0),
	ID_AA64ISAR1_EL1 = KEY(3, 0, 0, 6, 1),
	ID_AA64MMFR0_EL1 = KEY(3, 0, 0, 7, 0),
	SCTLR_EL1 = KEY(3, 0, 1, 0, 0),
	ZCR_EL1 = KEY(3, 0, 1, 2, 0),
	TTBR0_EL1 = KEY(3, 0, 2, 0, 0),
	SPSR_EL1 = KEY(3, 0, 4, 0, 0),
	SP_EL0 = KEY(3, 0, 4, 1, 0),
	ICC_PMR_EL1 = KEY(3, 0, 4, 6, 0),
	ISR_EL1 = KEY(3, 0, 12, 1, 0),
	TPIDR_EL1 = KEY(3, 0, 13, 0, 4),
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
	VMPIDR_EL2 = KEY(3, 4, 0, 0, 5),
	CNTPS_TVAL_EL1 = KEY(3, 7, 14, 2, 0),
	CNTPS_CTL_EL1 = KEY(3, 7, 14, 2, 1),
	CNTPS_CVAL_EL1 = KEY(3, 7, 14, 2, 2),
};

#define MDSCR_SS 1u
#define MDSCR_TDCC (1u << 12)

#define PSTATE_EL1H 0x5u
#define PSTATE_EL 0xcu
#define PSTATE_MODE 0x1fu
#define MODE_USER 0x10u		/* of AArch32, as is the next */
#define MODE_SYSTEM 0x1fu
#define PSTATE_SP 0x1u
#define PSTATE_F (1u << 6)
#define PSTATE_I (1u << 7)
#define PSTATE_IL (1u << 20)

#define EC(esr) ((esr) >> 26)
#define EC_WFX 0x01u
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

/* exceptions.c */
void on_exception(uc_engine *uc, uint32_t number, struct vm *vm);
void enter_sync(struct vcpu *v, int kind, uint32_t esr, uint64_t far, uint64_t pc);
bool interrupt_due(const struct vcpu *v);
void take_interrupt(struct vcpu *v);

/* blocks.c */
void on_block(uc_engine *uc, uint64_t pc, uint32_t size, struct vm *vm);
void settle(struct vcpu *v, uint64_t pc);
uint32_t take_flags(struct vcpu *v);
void leave(struct vcpu *v, enum exit_reason reason);
void forget_space(struct vcpu *v);
void forget_code(struct vm *vm);
void forget_address(struct vm *vm, uint64_t pc);
void forget_page(struct vcpu *v, uint64_t address);

/* events.c */
bool event_pending(struct vcpu *v);
bool wait_for_event(struct vcpu *v);
bool wait_is_over(struct vcpu *v, uint64_t now);
uint64_t next_event(const struct vcpu *v, uint64_t time);
void send_event(struct vm *vm);

/* registers.c */
void define_registers(struct vm *vm);
void leave_at_block_end(struct vcpu *v, enum exit_reason reason);
void update_lines(struct vm *vm);
void tell_lines(struct vcpu *v);
uint64_t mdscr_of(const struct vcpu *v);

/* maintenance.c */
void define_maintenance(struct vm *vm);
void flush(struct vcpu *v);
void watch_code_buffer(struct vcpu *v);

/* watch.c */
bool is_watched(const struct vm *vm, uint64_t pc);
bool watches_page(const struct vm *vm, uint64_t pc);
void meet(struct vcpu *v, uint64_t pc);
void look_at_words(struct vm *vm, uint64_t time);

/* profile.c */
void bound_stop(struct vcpu *v);
void sample_block(struct vcpu *v);
void sample_wait(struct vcpu *v, uint64_t time);
void profile_sees(struct vm *vm, const struct cpu *cpus, uint32_t count);

/* walk.c */
void shorten_walks(struct vcpu *first);

/* timers.c */
void define_timers(struct vcpu *first);
uint64_t now(const struct vcpu *v);
bool fire_timers(struct vm *vm, uint64_t time);
void vcpu_timers_reset(struct vcpu *v);

#endif
