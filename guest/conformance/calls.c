// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: discovery and calls (SPECIFICATION.md, sections 1, 3 and 4). */
#include "harness.h"
#include "cases.h"
#include "pvlock.h"

#define HIGH 0xdeadbeef00000000ul
#define UNDEFINED_CALL 0x8000F00D	/* in the range of ARCH_FEATURES, and nobody's */

enum { RANDOM_IDS = 64 };

static u64 random(void)
{
	static u64 state = 0x9e3779b97f4a7c15;	/* the same IDs in every run */

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

void discovery_order(void)
{
	note("steps: %u\n", found.steps);
	note("psci-version: 0x%lx\n", found.psci_version);
	expect_true("PSCI_VERSION is no version", !(found.psci_version >> 31));
	if (found.steps >= 1) {
		note("psci-features-smccc-version: 0x%lx\n", found.smccc_in_psci);
		expect_true("PSCI_FEATURES(SMCCC_VERSION) is neither 0 nor NOT_SUPPORTED",
			    !(u32)found.smccc_in_psci || (u32)found.smccc_in_psci == ~0u);
	}
	if (found.steps >= 2) {
		note("smccc-version: 0x%lx\n", found.smccc_version);
		expect_true("SMCCC_VERSION is no version", !(found.smccc_version >> 31));
	}
	if (found.steps >= 3) {
		note("arch-features-pv-lock: 0x%lx\n", found.arch_features);
		expect_true("ARCH_FEATURES is neither SUCCESS nor NOT_SUPPORTED",
			    !found.arch_features || found.arch_features == NOT_SUPPORTED);
	}
	if (found.steps >= 4) {
		note("pv-lock-features: 0x%lx\n", found.features);
		expect_true("PV_LOCK_FEATURES is neither SUCCESS nor NOT_SUPPORTED",
			    !found.features || found.features == NOT_SUPPORTED);
	}
	expect_true("PV-lock is offered, but the documented order does not lead to it",
		    !found.second_way);
}

void conduit(void)
{
	note("psci-version: 0x%lx\n", found.psci_version);
	if (found.psci_version == UNDEFINED)
		fail("the conduit's instruction is undefined");
	else
		expect_true("PSCI is older than 0.2", (int)found.psci_version >= 2);
}

void smccc_version(void)
{
	expect("smccc-version-again", call(SMCCC_VERSION, 0), found.smccc_version);
	expect_true("it is below 0x10001", found.smccc_version >= 0x10001);
}

void arch_features(void)
{
	expect("arch-features", call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES), 0);
}

void arch_features_itself(void)
{
	expect("of-smccc-version", call(SMCCC_ARCH_FEATURES, SMCCC_VERSION), 0);
	expect("of-itself", call(SMCCC_ARCH_FEATURES, SMCCC_ARCH_FEATURES), 0);
}

void arch_features_others(void)
{
	expect("of-an-undefined-call", call(SMCCC_ARCH_FEATURES, UNDEFINED_CALL), NOT_SUPPORTED);
	expect("of-a-reserved-owner", call(SMCCC_ARCH_FEATURES, 0x87001234), NOT_SUPPORTED);
}

void upper_halves_smccc(void)
{
	expect("smccc-version", call(HIGH | SMCCC_VERSION, ~0ul), found.smccc_version);
	expect("arch-features-undefined", call(HIGH | SMCCC_ARCH_FEATURES, HIGH | UNDEFINED_CALL),
	       NOT_SUPPORTED);
	expect("arch-features-pv-lock", call(HIGH | SMCCC_ARCH_FEATURES, HIGH | PV_LOCK_FEATURES),
	       found.arch_features);
}

void upper_halves(void)
{
	u64 address = surveys[0].address;

	expect("features-x0", call(HIGH | PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
	expect("features-x1", call(PV_LOCK_FEATURES, HIGH | PV_LOCK_PREEMPTED), 0);
	expect("features-both", call(~0u * 0x100000000ul | PV_LOCK_FEATURES,
				     1ul << 32 | PV_LOCK_PREEMPTED), 0);
	expect("features-wrong", call(HIGH | PV_LOCK_FEATURES, HIGH | 0x86000021), NOT_SUPPORTED);
	expect("preempted", call(HIGH | PV_LOCK_PREEMPTED, ~0ul), address);
	expect("preempted-bit-32", call(1ul << 32 | PV_LOCK_PREEMPTED, 0), address);
}

static bool survives(u64 function, u64 argument)
{
	struct registers r = { { function, argument } };

	for (u32 i = 2; i < 18; i++)
		r.x[i] = random();
	struct registers before = r;
	call_registers(&r);
	for (u32 i = 4; i < 18; i++) {
		if (r.x[i] == before.x[i])
			continue;
		note("call: 0x%lx\nregister: X%u\nbefore: 0x%lx\nafter: 0x%lx\n", function, i,
		     before.x[i], r.x[i]);
		fail("a register between X4 and X17 changed");
		return false;
	}
	return true;
}

/* Up to the first that does not: evidence names a thing once. */
static void all_survive(const u64 (*calls)[2], u32 count)
{
	u32 i = 0;

	while (i < count && survives(calls[i][0], calls[i][1]))
		i++;
	note("calls: %u\n", i);
}

void registers_smccc(void)
{
	static const u64 calls[][2] = {
		{ SMCCC_VERSION, 0 }, { SMCCC_ARCH_FEATURES, UNDEFINED_CALL }, { PSCI_VERSION, 0 },
		{ PSCI_FEATURES, SMCCC_VERSION }, { VENDOR_HYP_CALL_UID, 0 }, { 0x87001234, 0 },
		{ 0xC7001234, 0x123456789abcdef },
	};

	all_survive(calls, LENGTH(calls));
}

void registers_pvlock(void)
{
	static const u64 calls[][2] = {
		{ PV_LOCK_FEATURES, PV_LOCK_PREEMPTED }, { PV_LOCK_FEATURES, 0x86000021 },
		{ PV_LOCK_PREEMPTED, 0 }, { PV_LOCK_PREEMPTED, ~0ul },
	};

	all_survive(calls, LENGTH(calls));
}

void features_preempted(void)
{
	expect("features", call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
}

void features_itself(void)
{
	expect("features", call(PV_LOCK_FEATURES, PV_LOCK_FEATURES), 0);
}

void features_others(void)
{
	static const u32 wrong[] = {
		0, 1, 0xC6000022, 0xC600001F, 0x86000020, 0x86000021, 0xC5000020, 0xC5000021,
		SMCCC_VERSION, SMCCC_ARCH_FEATURES, PSCI_VERSION, 0x46000021, 0xC6010021, 0xFFFFFFFF,
	};

	for (u32 i = 0; i < LENGTH(wrong) + RANDOM_IDS; i++) {
		u32 id = i < LENGTH(wrong) ? wrong[i] : (u32)random();
		u64 answer;

		/* The document does not know PV_LOCK_FEATURES as an argument; the series does. */
		if (id == PV_LOCK_PREEMPTED || id == PV_LOCK_FEATURES)
			continue;
		answer = call(PV_LOCK_FEATURES, id);
		if (answer == NOT_SUPPORTED)
			continue;
		note("id: 0x%lx\nanswer: 0x%lx\n", (u64)id, answer);
		fail("an ID other than PV_LOCK_PREEMPTED is not NOT_SUPPORTED");
		return;
	}
	note("ids: %u\n", (u32)LENGTH(wrong) + RANDOM_IDS);
}

void features_unset(void)
{
	expect("features-preempted", call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), NOT_SUPPORTED);
	expect("features-itself", call(PV_LOCK_FEATURES, PV_LOCK_FEATURES), NOT_SUPPORTED);
}

void preempted_unset(void)
{
	expect("preempted", call(PV_LOCK_PREEMPTED, 0), NOT_SUPPORTED);
}

/* Owners 7 to 47 are reserved: on no hypervisor can such a call do anything. */
void unknown_ids(void)
{
	for (u32 i = 0; i < RANDOM_IDS; i++) {
		u32 owner = 7 + random() % 41, id = 0x80000000 | owner << 24 | (random() & 0xffff);
		u64 answer;

		if (i & 1)
			id |= 1 << 30;
		answer = call(id, random());
		/* SMC32 calls return 32 bits. */
		if (answer == NOT_SUPPORTED || (!(i & 1) && (u32)answer == ~0u))
			continue;
		note("id: 0x%lx\nanswer: 0x%lx\n", (u64)id, answer);
		fail("a call of a reserved owner is not NOT_SUPPORTED");
		return;
	}
	note("ids: %u\n", (u32)RANDOM_IDS);
}

void smc32_twins(void)
{
	expect("features", call(0x86000020, PV_LOCK_PREEMPTED), NOT_SUPPORTED);
	expect("preempted", call(0x86000021, 0), NOT_SUPPORTED);
}

void uid_call(void)
{
	struct registers r = { { VENDOR_HYP_CALL_UID } };

	call_registers(&r);
	note("uid: [0x%lx, 0x%lx, 0x%lx, 0x%lx]\n", (u64)found.uid[0], (u64)found.uid[1],
	     (u64)found.uid[2], (u64)found.uid[3]);
	expect_true("the call is an undefined instruction", r.x[0] != UNDEFINED);
	expect_true("W0 is another at the second call", (u32)r.x[0] == found.uid[0]);
	if ((u32)r.x[0] == ~0u)
		return;
	for (u32 i = 1; i < 4; i++)
		expect_true("W1 to W3 are others at the second call", (u32)r.x[i] == found.uid[i]);
}

void uid(void)
{
	static const u32 ours[] = { PVLOCK_UID };

	for (u32 i = 0; i < 4; i++) {
		note("w%u: 0x%lx\n", i, (u64)found.uid[i]);
		expect_true("it is another hypervisor's UID", found.uid[i] == ours[i]);
	}
}

void off_calls(void)
{
	if (!found.our_uid && !bootarg_number("probe", 0)) {
		skip("these IDs can mean something else here (4.4), and no boot argument probe=1");
		return;
	}
	expect("arch-features", call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES), NOT_SUPPORTED);
	expect("features", call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), NOT_SUPPORTED);
	expect("features-itself", call(PV_LOCK_FEATURES, PV_LOCK_FEATURES), NOT_SUPPORTED);
	expect("preempted", call(PV_LOCK_PREEMPTED, 0), NOT_SUPPORTED);
}

void second_way_in(void)
{
	if (found.state == STATE_UNSET)
		skip("this VCPU has no structure");
	else
		expect("features", call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED), 0);
}
