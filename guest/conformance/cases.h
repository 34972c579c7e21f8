/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every case: clause and tag of SPECIFICATION.md, name, needs, function, what it asserts. A clause
 * that two sources ask for has a case for each. The binary holds the list as text too, where
 * `pvlock check --list` finds it.
 */
#ifndef CASES_H
#define CASES_H

/* What a machine must have. A case that lacks one of its needs is skipped, and says which. */
enum need {
	ANY = 0,
	SMCCC = 1 << 0,		/* SMCCC 1.1, found in the documented order */
	PVLOCK = 1 << 1,	/* this VCPU has a structure */
	UNSET = 1 << 2,		/* PV-lock is offered, but PV_LOCK_FEATURES says no */
	ABSENT = 1 << 3,	/* no PV-lock is offered */
	NODE = 1 << 4,		/* the device tree has a PV-lock node */
	SMP = 1 << 5,		/* two VCPUs or more */
	GIC = 1 << 6,		/* a GIC that wakes a VCPU from WFI */
	TIME = 1 << 7,		/* PV time is offered */
	NO_TIME = 1 << 8,	/* PV time is not offered */
	WATCH = 1 << 9,		/* the boot argument watch=: a schedule that somebody knows */
	LETTER = 1 << 10,	/* policy scheduled-out: the letter of the document */
	SPARING = 1 << 11,	/* policy preempted */
	/* The guest cannot know these beforehand. Without them the case says "not observed". */
	OVERCOMMIT = 1 << 12,	/* more VCPUs than CPUs */
	STALE = 1 << 13,	/* structures that are not zero when the guest first asks */
	LSE = 1 << 14,		/* the CPU has LSE atomics */
	BLOCKS = 1 << 15,	/* a VCPU that waits in WFI leaves its CPU */
	PARALLEL = 1 << 16,	/* a VCPU can look on while another runs */
	YIELDS = 1 << 17,	/* WFE gives the CPU to another VCPU */
	BRISK = 1 << 18,	/* VCPUs lose their CPUs many times a ms; without it, the cases see less */
};

#define CASES(CASE)                                                                              \
CASE("4.1", "document", "discovery-order", ANY, case_discovery_order,                             \
     "each step of the documented order has a legal answer, and if PV-lock is offered it leads to it") \
CASE("3.1", "DEN0028", "conduit", ANY, case_conduit,                                              \
     "PSCI answers through the conduit that the device tree names")                               \
CASE("3.4", "DEN0028", "smccc-version", SMCCC, case_smccc_version,                                \
     "SMCCC_VERSION is 1.1 or later")                                                             \
CASE("3.5", "series", "arch-features", PVLOCK, case_arch_features,                                \
     "ARCH_FEATURES(PV_LOCK_FEATURES) is SUCCESS")                                                \
CASE("3.5", "series", "arch-features-unset", UNSET, case_arch_features,                           \
     "it is SUCCESS also while the VCPU has no address")                                          \
CASE("3.6", "pvlock", "arch-features-itself", SMCCC, case_arch_features_itself,                   \
     "ARCH_FEATURES of SMCCC_VERSION and of itself is SUCCESS")                                   \
CASE("3.6", "DEN0028", "arch-features-others", SMCCC, case_arch_features_others,                  \
     "ARCH_FEATURES of calls that nobody has defined is NOT_SUPPORTED")                           \
CASE("3.2", "DEN0028", "upper-halves-smccc", SMCCC, case_upper_halves_smccc,                      \
     "junk in bits 63 to 32 of X0 and X1 changes no answer of SMCCC's own calls")                 \
CASE("3.2", "document", "upper-halves", PVLOCK, case_upper_halves,                                \
     "junk in bits 63 to 32 of X0 and X1 changes no answer of the PV-lock calls")                 \
CASE("3.3", "DEN0028", "registers-smccc", SMCCC, case_registers_smccc,                            \
     "X4 to X17 survive SMCCC's own calls and unknown ones")                                      \
CASE("3.3", "DEN0028", "registers", PVLOCK, case_registers_pvlock,                                \
     "X4 to X17 survive the PV-lock calls")                                                       \
CASE("3.7", "document", "features-preempted", PVLOCK, case_features_preempted,                    \
     "PV_LOCK_FEATURES(PV_LOCK_PREEMPTED) is SUCCESS")                                            \
CASE("3.7", "series", "features-itself", PVLOCK, case_features_itself,                            \
     "PV_LOCK_FEATURES(PV_LOCK_FEATURES) is SUCCESS")                                             \
CASE("3.7", "document", "features-others", PVLOCK, case_features_others,                          \
     "PV_LOCK_FEATURES of wrong, SMC32 and random IDs is NOT_SUPPORTED")                          \
CASE("3.7", "series", "features-unset", UNSET, case_features_unset,                               \
     "PV_LOCK_FEATURES is NOT_SUPPORTED while the VCPU has no address")                           \
CASE("3.8", "document", "preempted-unset", UNSET, case_preempted_unset,                           \
     "PV_LOCK_PREEMPTED is NOT_SUPPORTED while the VCPU has no address")                          \
CASE("3.9", "DEN0028", "unknown-ids", SMCCC, case_unknown_ids,                                    \
     "function IDs of reserved owners are NOT_SUPPORTED, as a 64-bit value")                      \
CASE("3.9", "pvlock", "smc32-twins", PVLOCK, case_smc32_twins,                                    \
     "0x86000020 and 0x86000021 are NOT_SUPPORTED")                                               \
CASE("3.10", "DEN0028", "uid-call", SMCCC, case_uid_call,                                         \
     "the call-UID function returns a UID or NOT_SUPPORTED, and the same one each time")          \
CASE("1.3", "pvlock", "uid", PVLOCK, case_uid,                                                    \
     "the hypervisor's UID is pvlock's")                                                          \
CASE("3.11", "pvlock", "off-calls", ABSENT, case_off_calls,                                       \
     "where PV-lock is off its calls are NOT_SUPPORTED")                                          \
CASE("4.3", "pvlock", "second-way-in", NODE, case_second_way_in,                                  \
     "with a PV-lock node in the device tree, PV_LOCK_FEATURES may be called at once")            \
CASE("3.8", "document", "address", PVLOCK, case_address,                                          \
     "PV_LOCK_PREEMPTED returns, on every VCPU, an address that can be read")                     \
CASE("2.3", "document", "aligned", PVLOCK, case_aligned,                                          \
     "every structure is aligned to 64 bytes")                                                    \
CASE("4.5", "document", "stable", PVLOCK, case_stable,                                            \
     "a second call on the same VCPU returns the same address")                                   \
CASE("2.1", "document", "distinct", PVLOCK | SMP, case_distinct,                                  \
     "no two VCPUs have the same structure")                                                      \
CASE("2.5", "pvlock", "layout", PVLOCK | NODE, case_layout,                                       \
     "the structure of VCPU i is at the region's base + 64 i")                                    \
CASE("3.8", "series", "zero-after-call", PVLOCK, case_zero_after_call,                            \
     "all 64 bytes are zero after the call, on every VCPU")                                       \
CASE("3.8", "series", "zeroed-by-call", PVLOCK | STALE, case_zeroed_by_call,                      \
     "what stood in a structure before the call is gone after it")                                \
CASE("9.1", "pvlock", "off-and-on", PVLOCK | SMP, case_off_and_on,                                \
     "a VCPU that goes off and on again has the same address")                                    \
CASE("9.3", "series", "called-again", PVLOCK | SMP, case_called_again,                            \
     "when it is on again, the call zeroes the structure again")                                  \
CASE("8.1", "document", "in-memory", PVLOCK, case_structures_in_memory,                           \
     "every structure is in a range of the device tree's /memory")                                \
CASE("8.2", "pvlock", "node", PVLOCK, case_node,                                                  \
     "the device tree has the node, with no-map, and its region holds every structure")           \
CASE("7.2", "pvlock", "region-pages", NODE, case_region_pages,                                    \
     "the region begins and ends on a page")                                                      \
CASE("8.3", "pvlock", "no-node", ABSENT, case_no_node,                                            \
     "without PV-lock the device tree has no PV-lock node")                                       \
CASE("8.5", "pvlock", "affinity", ANY, case_affinity,                                             \
     "VCPUs are numbered as KVM numbers them, and MPIDR_EL1 reads so")                            \
CASE("6.6", "pvlock", "never-started", PVLOCK | SMP | NODE, case_never_started,                   \
     "a VCPU that was never started reads 1 under scheduled-out, 0 under preempted")              \
CASE("6.6", "pvlock", "off-vcpu", PVLOCK | SMP, case_off_vcpu,                                    \
     "a VCPU that is off reads 1 under scheduled-out, 0 under preempted")                         \
CASE("6.3", "document", "blocked-letter", PVLOCK | SMP | GIC | LETTER | BLOCKS, case_blocked_letter, \
     "under scheduled-out a VCPU that waits in WFI reads 1")                                      \
CASE("6.4", "pvlock", "blocked-sparing", PVLOCK | SMP | GIC | SPARING, case_blocked_sparing,      \
     "under preempted a VCPU that waits in WFI reads 0")                                          \
CASE("6.1", "document", "first-instruction", PVLOCK | SMP, case_first_instruction,                \
     "a VCPU that comes on again reads 0 by its first load")                                      \
CASE("6.1", "document", "running-reads-0", PVLOCK | SMP | PARALLEL, case_running_reads_0,         \
     "no VCPU whose heartbeat advances reads 1 in 5 consecutive samples")                         \
CASE("6.1", "document", "preempted-reads-1", PVLOCK | SMP | OVERCOMMIT, case_preempted_reads_1,   \
     "a VCPU that wants to run and stands still reads 1")                                         \
CASE("6.2", "document", "own-flag", PVLOCK, case_own_flag,                                        \
     "a VCPU that reads its own flag reads 0, every time")                                        \
CASE("6.1", "document", "watch", PVLOCK | SMP | WATCH, case_watch,                                \
     "every change of a VCPU's flag, with its time, for who knows the schedule")                  \
CASE("6.1", "document", "return-reads-0", PVLOCK | SMP | BRISK, case_return_reads_0,                      \
     "a VCPU that comes back from WFE, WFI or CPU_ON reads 0 by its first load, every time")      \
CASE("6.1", "document", "yielding-reads-1", PVLOCK | SMP | OVERCOMMIT | YIELDS | BRISK, case_yielding_reads_1, \
     "VCPUs that give their CPU away in WFE read 1")                                              \
CASE("6.3", "document", "sleepers-letter", PVLOCK | SMP | GIC | LETTER | BLOCKS | BRISK, case_sleepers_letter, \
     "under scheduled-out VCPUs that wait in WFI again and again read 1")                         \
CASE("6.4", "pvlock", "sleepers-sparing", PVLOCK | SMP | GIC | SPARING | BRISK, case_sleepers_sparing,    \
     "under preempted VCPUs that wait in WFI again and again read 0")                             \
CASE("6.6", "pvlock", "off-again", PVLOCK | SMP | GIC | BRISK, case_off_again,                            \
     "VCPUs that turn themselves off again and again read 1 under scheduled-out, 0 under preempted") \
CASE("2.4", "pvlock", "zero-or-one", PVLOCK, case_zero_or_one,                                    \
     "no structure ever holds another value than 0 or 1")                                         \
CASE("2.2", "series", "padding", PVLOCK, case_padding,                                            \
     "the 56 bytes of padding stay zero")                                                         \
CASE("10.1", "DEN0057", "time-features", TIME, case_time_features,                                \
     "PV_TIME_FEATURES knows both calls and no other")                                            \
CASE("10.2", "DEN0057", "time-address", TIME, case_time_address,                                  \
     "PV_TIME_ST returns the address of a structure of the calling VCPU, zeroed")                 \
CASE("10.3", "DEN0057", "time-structure", TIME, case_time_structure,                              \
     "revision, attributes and the rest are 0, and stolen time never goes back")                  \
CASE("10.3", "DEN0057", "time-is-stolen", TIME | SMP | OVERCOMMIT, case_time_is_stolen,           \
     "stolen time grows while VCPUs wait for CPUs")                                               \
CASE("10.4", "DEN0057", "no-time", NO_TIME | SMCCC, case_no_time,                                 \
     "without PV time its calls are NOT_SUPPORTED")                                               \
CASE("7.1", "pvlock", "store-plain", PVLOCK, case_store_plain,                                    \
     "STR, STRB, STUR, STLR and post-indexed STR abort and change nothing")                       \
CASE("7.1", "pvlock", "store-pair", PVLOCK, case_store_pair,                                      \
     "STP and STNP abort and change nothing")                                                     \
CASE("7.1", "pvlock", "store-exclusive", PVLOCK, case_store_exclusive,                            \
     "STXR and STLXP abort and change nothing")                                                   \
CASE("7.1", "pvlock", "store-atomic", PVLOCK | LSE, case_store_atomic,                            \
     "LDADD, STSET, SWPAL, CAS and CASPAL abort and change nothing")                              \
CASE("7.1", "pvlock", "store-simd", PVLOCK, case_store_simd,                                      \
     "STR, STP, ST1 and ST4 of SIMD registers abort and change nothing")                          \
CASE("7.1", "pvlock", "store-zva", PVLOCK, case_store_zva,                                        \
     "DC ZVA aborts and changes nothing")

#define DECLARE(clause, tag, name, needs, function, what) void function(void);
CASES(DECLARE)
#undef DECLARE

/* ---- what the cases know of the machine: conf_survey.c ---- */
enum state { STATE_ABSENT, STATE_UNSET, STATE_PRESENT };
enum policy { POLICY_UNKNOWN, POLICY_SCHEDULED_OUT, POLICY_PREEMPTED };
enum { WORDS = 8 };	/* 64-bit words in a structure */

struct discovery {
	u64 psci_version, smccc_in_psci, smccc_version, arch_features, features;
	u32 steps;		/* steps of clause 4.1 that said yes, 0 to 5 */
	bool smccc, second_way, our_uid;
	enum state state;
	bool time;
	bool wakes;	/* VCPU 1 slept in WFI, and an SGI woke it */
	u32 uid[4];
};
extern struct discovery conf_found;

/* One VCPU's structure, from before the VCPU was first on. An address that is unknown is 0. */
struct survey {
	bool came_up, predicted, readable, up_again;
	u64 mpidr;
	u64 stale;		/* all words before the first call, or-ed */
	u64 never_started;	/* the flag before the VCPU was ever on */
	u64 address, again;	/* what the first and the second call returned */
	u64 after;		/* all words after the call, or-ed */
	u64 off;		/* the flag once the VCPU was off */
	u64 first_flag;		/* by its first load when it came on again */
	u64 address_on_again, after_on_again;
	const u64 *time;	/* its stolen time in ns; NULL: there is none */
};
extern struct survey conf_surveys[MAX_CPUS];
extern enum policy conf_policy;
extern bool conf_policy_stated;

void conf_discover(void);
void conf_survey(void);
const char *conf_policy_name(void);
/* The structure of a VCPU. One that cannot be read looks all zero. */
const u64 *conf_structure(u32 cpu);
/* Look at a flag until it has not changed for a while, and return it. */
u64 conf_settled(const u64 *flag);
/* Let VCPU 1 wait in WFI, read its flag, and wake it. False if it did not sleep or wake up. */
bool conf_sleep_and_wake(u64 *flag);
/* Read a flag. Counts other values than 0 and 1, and padding that is not zero. */
u64 conf_look(u32 cpu);
extern u64 conf_odd_values, conf_odd_padding;

/* ---- looking on while VCPUs run: case_observe.c ---- */
void conf_observe(void);	/* does its work once, when the first case needs it */

#endif
