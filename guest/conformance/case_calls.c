// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: discovery and calls (SPECIFICATION.md, sections 1, 3 and 4). */
#include "conf.h"
#include "cases.h"
#include "pvlock.h"

#define HIGH 0xdeadbeef00000000ul
#define UNDEFINED_CALL 0x8000F00D	/* in the range of ARCH_FEATURES; nobody has defined it */

enum { RANDOM_IDS = 64 };

static u64 random(void)
{
	static u64 state = 0x9e3779b97f4a7c15;	/* fixed, so that every run has the same IDs */

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

void case_discovery_order(void)
{
	conf_note("steps: %u\n", conf_found.steps);
	conf_note("psci-version: 0x%lx\n", conf_found.psci_version);
	conf_expect_true("PSCI_VERSION is no version", !(conf_found.psci_version >> 31));
	if (conf_found.steps >= 1) {
		u32 answer = conf_found.smccc_in_psci;

		conf_note("psci-features-smccc-version: 0x%lx\n", conf_found.smccc_in_psci);
		conf_expect_true("PSCI_FEATURES(SMCCC_VERSION) is neither 0 nor NOT_SUPPORTED",
				 !answer || answer == ~0u);
	}
	if (conf_found.steps >= 2) {
		conf_note("smccc-version: 0x%lx\n", conf_found.smccc_version);
		conf_expect_true("SMCCC_VERSION is no version", !(conf_found.smccc_version >> 31));
	}
	if (conf_found.steps >= 3) {
		u64 answer = conf_found.arch_features;

		conf_note("arch-features-pv-lock: 0x%lx\n", answer);
		conf_expect_true("ARCH_FEATURES is neither SUCCESS nor NOT_SUPPORTED",
				 !answer || answer == NOT_SUPPORTED);
	}
	if (conf_found.steps >= 4) {
		u64 answer = conf_found.features;

		conf_note("pv-lock-features: 0x%lx\n", answer);
		conf_expect_true("PV_LOCK_FEATURES is neither SUCCESS nor NOT_SUPPORTED",
				 !answer || answer == NOT_SUPPORTED);
	}
	conf_expect_true("PV-lock is offered, but the documented order does not lead to it",
			 !conf_found.second_way);
}

void case_conduit(void)
{
	conf_note("psci-version: 0x%lx\n", conf_found.psci_version);
	if (conf_found.psci_version == UNDEFINED)
		conf_fail("the conduit's instruction is undefined");
	else
		conf_expect_true("PSCI is older than 0.2", (int)conf_found.psci_version >= 2);
}

void case_smccc_version(void)
{
	conf_expect("smccc-version-again", conf_call(SMCCC_VERSION, 0), conf_found.smccc_version);
	conf_expect_true("it is below 0x10001", conf_found.smccc_version >= 0x10001);
}

void case_arch_features(void)
{
	conf_expect("arch-features", conf_call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES), 0);
}

void case_arch_features_itself(void)
{
	conf_expect("of-smccc-version", conf_call(SMCCC_ARCH_FEATURES, SMCCC_VERSION), 0);
	conf_expect("of-itself", conf_call(SMCCC_ARCH_FEATURES, SMCCC_ARCH_FEATURES), 0);
}

void case_arch_features_others(void)
{
	conf_expect("of-an-undefined-call", conf_call(SMCCC_ARCH_FEATURES, UNDEFINED_CALL),
		    NOT_SUPPORTED);
	conf_expect("of-a-reserved-owner", conf_call(SMCCC_ARCH_FEATURES, 0x87001234),
		    NOT_SUPPORTED);
}

void case_upper_halves_smccc(void)
{
	conf_expect("smccc-version", conf_call(HIGH | SMCCC_VERSION, ~0ul),
		    conf_found.smccc_version);
	conf_expect("arch-features-undefined",
		    conf_call(HIGH | SMCCC_ARCH_FEATURES, HIGH | UNDEFINED_CALL), NOT_SUPPORTED);
	conf_expect("arch-features-pv-lock",
		    conf_call(HIGH | SMCCC_ARCH_FEATURES, HIGH | PV_LOCK_FEATURES),
		    conf_found.arch_features);
}

void case_upper_halves(void)
{
	u64 address = conf_surveys[0].address;

	conf_expect("features-x0", conf_call(HIGH | PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
	conf_expect("features-x1", conf_call(PV_LOCK_FEATURES, HIGH | PV_LOCK_PREEMPTED), 0);
	conf_expect("features-both", conf_call(~0u * 0x100000000ul | PV_LOCK_FEATURES,
					       1ul << 32 | PV_LOCK_PREEMPTED), 0);
	conf_expect("features-wrong", conf_call(HIGH | PV_LOCK_FEATURES, HIGH | 0x86000021),
		    NOT_SUPPORTED);
	conf_expect("preempted", conf_call(HIGH | PV_LOCK_PREEMPTED, ~0ul), address);
	conf_expect("preempted-bit-32", conf_call(1ul << 32 | PV_LOCK_PREEMPTED, 0), address);
}

static bool survives(u64 function, u64 argument)
{
	struct registers r = { { function, argument } };

	for (u32 i = 2; i < 18; i++)
		r.x[i] = random();
	struct registers before = r;
	conf_call_registers(&r);
	for (u32 i = 4; i < 18; i++) {
		if (r.x[i] == before.x[i])
			continue;
		conf_note("call: 0x%lx\nregister: X%u\nbefore: 0x%lx\nafter: 0x%lx\n", function, i,
			  before.x[i], r.x[i]);
		conf_fail("a register between X4 and X17 changed");
		return false;
	}
	return true;
}

/* Stops at the first call that fails, since a key of the evidence may stand there only once. */
static void all_survive(const u64 (*calls)[2], u32 count)
{
	u32 i = 0;

	while (i < count && survives(calls[i][0], calls[i][1]))
		i++;
	conf_note("calls: %u\n", i);
}

void case_registers_smccc(void)
{
	static const u64 calls[][2] = {
		{ SMCCC_VERSION, 0 }, { SMCCC_ARCH_FEATURES, UNDEFINED_CALL }, { PSCI_VERSION, 0 },
		{ PSCI_FEATURES, SMCCC_VERSION }, { VENDOR_HYP_CALL_UID, 0 }, { 0x87001234, 0 },
		{ 0xC7001234, 0x123456789abcdef },
	};

	all_survive(calls, LENGTH(calls));
}

void case_registers_pvlock(void)
{
	static const u64 calls[][2] = {
		{ PV_LOCK_FEATURES, PV_LOCK_PREEMPTED }, { PV_LOCK_FEATURES, 0x86000021 },
		{ PV_LOCK_PREEMPTED, 0 }, { PV_LOCK_PREEMPTED, ~0ul },
	};

	all_survive(calls, LENGTH(calls));
}

void case_features_preempted(void)
{
	conf_expect("features", conf_call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
}

void case_features_itself(void)
{
	conf_expect("features", conf_call(PV_LOCK_FEATURES, PV_LOCK_FEATURES), 0);
}

void case_features_others(void)
{
	static const u32 wrong[] = {
		0, 1, 0xC6000022, 0xC600001F, 0x86000020, 0x86000021, 0xC5000020, 0xC5000021,
		SMCCC_VERSION, SMCCC_ARCH_FEATURES, PSCI_VERSION, 0x46000021, 0xC6010021, 0xFFFFFFFF,
	};

	for (u32 i = 0; i < LENGTH(wrong) + RANDOM_IDS; i++) {
		u32 id = i < LENGTH(wrong) ? wrong[i] : (u32)random();
		u64 answer;

		/* The document does not have PV_LOCK_FEATURES as an argument, the series does. */
		if (id == PV_LOCK_PREEMPTED || id == PV_LOCK_FEATURES)
			continue;
		answer = conf_call(PV_LOCK_FEATURES, id);
		if (answer == NOT_SUPPORTED)
			continue;
		conf_note("id: 0x%lx\nanswer: 0x%lx\n", (u64)id, answer);
		conf_fail("an ID other than PV_LOCK_PREEMPTED is not NOT_SUPPORTED");
		return;
	}
	conf_note("ids: %u\n", (u32)LENGTH(wrong) + RANDOM_IDS);
}

void case_features_unset(void)
{
	conf_expect("features-preempted", conf_call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED),
		    NOT_SUPPORTED);
	conf_expect("features-itself", conf_call(PV_LOCK_FEATURES, PV_LOCK_FEATURES),
		    NOT_SUPPORTED);
}

void case_preempted_unset(void)
{
	conf_expect("preempted", conf_call(PV_LOCK_PREEMPTED, 0), NOT_SUPPORTED);
}

/* Owners 7 to 47 are reserved, so such a call does nothing on any hypervisor. */
void case_unknown_ids(void)
{
	for (u32 i = 0; i < RANDOM_IDS; i++) {
		u32 owner = 7 + random() % 41, id = 0x80000000 | owner << 24 | (random() & 0xffff);
		u64 answer;

		if (i & 1)
			id |= 1 << 30;
		answer = conf_call(id, random());
		/* SMC32 calls return 32 bits. */
		if (answer == NOT_SUPPORTED || (!(i & 1) && (u32)answer == ~0u))
			continue;
		conf_note("id: 0x%lx\nanswer: 0x%lx\n", (u64)id, answer);
		conf_fail("a call of a reserved owner is not NOT_SUPPORTED");
		return;
	}
	conf_note("ids: %u\n", (u32)RANDOM_IDS);
}

void case_smc32_twins(void)
{
	conf_expect("features", conf_call(0x86000020, PV_LOCK_PREEMPTED), NOT_SUPPORTED);
	conf_expect("preempted", conf_call(0x86000021, 0), NOT_SUPPORTED);
}

void case_uid_call(void)
{
	struct registers r = { { VENDOR_HYP_CALL_UID } };

	conf_call_registers(&r);
	conf_note("uid: [0x%lx, 0x%lx, 0x%lx, 0x%lx]\n", (u64)conf_found.uid[0],
		  (u64)conf_found.uid[1], (u64)conf_found.uid[2], (u64)conf_found.uid[3]);
	conf_expect_true("the call is an undefined instruction", r.x[0] != UNDEFINED);
	conf_expect_true("W0 is another at the second call", (u32)r.x[0] == conf_found.uid[0]);
	if ((u32)r.x[0] == ~0u)
		return;
	for (u32 i = 1; i < 4; i++)
		conf_expect_true("W1 to W3 are others at the second call",
				 (u32)r.x[i] == conf_found.uid[i]);
}

void case_uid(void)
{
	static const u32 ours[] = { PVLOCK_UID };

	for (u32 i = 0; i < 4; i++) {
		conf_note("w%u: 0x%lx\n", i, (u64)conf_found.uid[i]);
		conf_expect_true("it is another hypervisor's UID", conf_found.uid[i] == ours[i]);
	}
}

void case_off_calls(void)
{
	if (!conf_found.our_uid && !conf_bootarg_number("probe", 0)) {
		conf_skip("these IDs can mean something else here (4.4), and "
			  "no boot argument probe=1");
		return;
	}
	conf_expect("arch-features", conf_call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES),
		    NOT_SUPPORTED);
	conf_expect("features", conf_call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), NOT_SUPPORTED);
	conf_expect("features-itself", conf_call(PV_LOCK_FEATURES, PV_LOCK_FEATURES),
		    NOT_SUPPORTED);
	conf_expect("preempted", conf_call(PV_LOCK_PREEMPTED, 0), NOT_SUPPORTED);
}

void case_second_way_in(void)
{
	if (conf_found.state == STATE_UNSET)
		conf_skip("this VCPU has no structure");
	else
		conf_expect("features", conf_call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
}
