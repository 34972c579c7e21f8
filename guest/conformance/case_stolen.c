// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: PV time (section 10). */
#include "conf.h"
#include "cases.h"

enum { REVISION_AND_ATTRIBUTES, STOLEN_NS };

static u64 address_now;

/* This VCPU's structure. NULL if there is none: the case has then failed. */
static const u64 *structure_of_time(void)
{
	address_now = conf_call(PV_TIME_ST, 0);
	if (address_now & 63 || !conf_map_page(address_now, READ_ONLY)) {
		conf_note("address: 0x%lx\n", address_now);
		conf_fail("PV_TIME_ST returned no address of a structure");
		return NULL;
	}
	return (const u64 *)address_now;
}

void case_time_features(void)
{
	conf_expect("of-time-st", conf_call(PV_TIME_FEATURES, PV_TIME_ST), 0);
	conf_expect("of-itself", conf_call(PV_TIME_FEATURES, PV_TIME_FEATURES), 0);
	conf_expect("of-another", conf_call(PV_TIME_FEATURES, 0xC5000022), NOT_SUPPORTED);
	conf_expect("of-none", conf_call(PV_TIME_FEATURES, 0), NOT_SUPPORTED);
}

void case_time_address(void)
{
	const u64 *words = structure_of_time();
	u64 first = address_now, all = 0;

	if (!words || !structure_of_time())
		return;
	for (u32 i = 0; i < WORDS; i++)
		all |= i == STOLEN_NS ? 0 : load(&words[i]);
	conf_note("address: 0x%lx\n", first);
	conf_expect("address-again", address_now, first);
	conf_expect("besides-stolen-time", all, 0);
}

void case_time_structure(void)
{
	const u64 *words = structure_of_time();
	u64 last = 0, rest = 0;

	for (u32 look = 0; words && look < 1000; look++) {
		u64 now = load(&words[STOLEN_NS]);

		conf_expect_true("stolen time went back", now >= last);
		last = now;
		rest |= load(&words[REVISION_AND_ATTRIBUTES]);
		for (u32 i = STOLEN_NS + 1; i < WORDS; i++)
			rest |= load(&words[i]);
	}
	conf_note("stolen-ns: %lu\n", last);
	conf_expect_true("revision, attributes or the rest are not 0", !rest);
}

static void spin(struct cpu *me)
{
	while (!load_acquire(&me->stop))
		cpu_relax();
}

void case_time_is_stolen(void)
{
	const u64 *words = structure_of_time();
	u64 start, before, elapsed, stolen;
	u32 on = 0;

	if (!words)
		return;
	for (u32 i = 1; i < conf_board.cpus; i++)
		on += conf_cpu_on(i, spin) == 0 && conf_wait_for(&conf_cpus[i].running);
	before = load(&words[STOLEN_NS]);
	start = ticks();
	conf_pause_for(conf_ticks_of(conf_bootarg_number("observe", 300) * 1000000));
	stolen = load(&words[STOLEN_NS]) - before;
	elapsed = conf_ns_of(ticks() - start);
	for (u32 i = 1; i <= on; i++) {
		store_release(&conf_cpus[i].stop, 1);
		if (!conf_wait_for(&conf_cpus[i].finished) || !conf_cpu_wait_off(i))
			conf_fail("a VCPU did not stop");
	}
	conf_note("busy-vcpus: %u\nelapsed-ns: %lu\nstolen-ns: %lu\n", on + 1, elapsed, stolen);
	conf_expect_true("more time was stolen than passed", stolen <= elapsed);
	if (!stolen)
		conf_skip("not observed: no time was stolen");
}

void case_no_time(void)
{
	conf_expect("arch-features", conf_call(SMCCC_ARCH_FEATURES, PV_TIME_FEATURES),
		    NOT_SUPPORTED);
	conf_expect("features", conf_call(PV_TIME_FEATURES, PV_TIME_ST), NOT_SUPPORTED);
	conf_expect("st", conf_call(PV_TIME_ST, 0), NOT_SUPPORTED);
}
