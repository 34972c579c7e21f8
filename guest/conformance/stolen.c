// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: PV time (section 10). */
#include "harness.h"
#include "cases.h"

enum { REVISION_AND_ATTRIBUTES, STOLEN_NS };

static u64 address_now;

/* The structure of this VCPU; NULL, and the case has failed, if there is none. */
static const u64 *structure_of_time(void)
{
	address_now = call(PV_TIME_ST, 0);
	if (address_now & 63 || !map_page(address_now, READ_ONLY)) {
		note("address: 0x%lx\n", address_now);
		fail("PV_TIME_ST returned no address of a structure");
		return NULL;
	}
	return (const u64 *)address_now;
}

void time_features(void)
{
	expect("of-time-st", call(PV_TIME_FEATURES, PV_TIME_ST), 0);
	expect("of-itself", call(PV_TIME_FEATURES, PV_TIME_FEATURES), 0);
	expect("of-another", call(PV_TIME_FEATURES, 0xC5000022), NOT_SUPPORTED);
	expect("of-none", call(PV_TIME_FEATURES, 0), NOT_SUPPORTED);
}

void time_address(void)
{
	const u64 *words = structure_of_time();
	u64 first = address_now, all = 0;

	if (!words || !structure_of_time())
		return;
	for (u32 i = 0; i < WORDS; i++)
		all |= i == STOLEN_NS ? 0 : load(&words[i]);
	note("address: 0x%lx\n", first);
	expect("address-again", address_now, first);
	expect("besides-stolen-time", all, 0);
}

void time_structure(void)
{
	const u64 *words = structure_of_time();
	u64 last = 0, rest = 0;

	for (u32 look = 0; words && look < 1000; look++) {
		u64 now = load(&words[STOLEN_NS]);

		expect_true("stolen time went back", now >= last);
		last = now;
		rest |= load(&words[REVISION_AND_ATTRIBUTES]);
		for (u32 i = STOLEN_NS + 1; i < WORDS; i++)
			rest |= load(&words[i]);
	}
	note("stolen-ns: %lu\n", last);
	expect_true("revision, attributes or the rest are not 0", !rest);
}

static void spin(struct cpu *me)
{
	while (!load_acquire(&me->stop))
		cpu_relax();
}

void time_is_stolen(void)
{
	const u64 *words = structure_of_time();
	u64 start, before, elapsed, stolen;
	u32 on = 0;

	if (!words)
		return;
	for (u32 i = 1; i < board.cpus; i++)
		on += cpu_on(i, spin) == 0 && wait_for(&cpus[i].running);
	before = load(&words[STOLEN_NS]);
	start = ticks();
	pause_for(ticks_of(bootarg_number("observe", 300) * 1000000));
	stolen = load(&words[STOLEN_NS]) - before;
	elapsed = ns_of(ticks() - start);
	for (u32 i = 1; i <= on; i++) {
		store_release(&cpus[i].stop, 1);
		if (!wait_for(&cpus[i].finished) || !cpu_wait_off(i))
			fail("a VCPU did not stop");
	}
	note("busy-vcpus: %u\nelapsed-ns: %lu\nstolen-ns: %lu\n", on + 1, elapsed, stolen);
	expect_true("more time was stolen than passed", stolen <= elapsed);
	if (!stolen)
		skip("not observed: no time was stolen");
}

void no_time(void)
{
	expect("arch-features", call(SMCCC_ARCH_FEATURES, PV_TIME_FEATURES), NOT_SUPPORTED);
	expect("features", call(PV_TIME_FEATURES, PV_TIME_ST), NOT_SUPPORTED);
	expect("st", call(PV_TIME_ST, 0), NOT_SUPPORTED);
}
