// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: structures, addresses, device tree and lifecycle (sections 2, 3, 4, 7, 8 and 9). */
#include "conf.h"
#include "cases.h"

/* Fail at the first VCPU that is not `ok`; note how many were. */
static void each(const char *why, bool (*ok)(u32 cpu, const struct survey *s), u64 (*evidence)(u32))
{
	u32 cpu;

	for (cpu = 0; cpu < conf_board.cpus; cpu++) {
		const struct survey *s = &conf_surveys[cpu];

		if (ok(cpu, s))
			continue;
		conf_note("vcpu: %u\n", cpu);
		if (!s->came_up)
			conf_fail("a VCPU did not come up");
		else
			conf_fail(why);
		if (evidence && s->came_up)
			conf_note("found: 0x%lx\n", evidence(cpu));
		return;
	}
	conf_note("vcpus: %u\n", cpu);
}

static u64 address_of(u32 cpu)
{
	return conf_surveys[cpu].address;
}

static bool is_readable(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->readable;
}

void case_address(void)
{
	conf_note("vcpu0: 0x%lx\n", conf_surveys[0].address);
	each("PV_LOCK_PREEMPTED returned no address that can be read", is_readable, address_of);
}

static bool is_aligned(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address % 64 == 0;
}

void case_aligned(void)
{
	each("a structure is not aligned to 64 bytes", is_aligned, address_of);
}

static u64 again_of(u32 cpu)
{
	return conf_surveys[cpu].again;
}

static bool is_stable(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address == s->again;
}

void case_stable(void)
{
	each("a second call returned another address", is_stable, again_of);
}

static bool is_distinct(u32 cpu, const struct survey *s)
{
	for (u32 i = 0; i < cpu; i++)
		if (conf_surveys[i].address == s->address)
			return false;
	return s->came_up;
}

void case_distinct(void)
{
	each("two VCPUs have the same structure", is_distinct, address_of);
}

static bool is_laid_out(u32 cpu, const struct survey *s)
{
	return s->came_up && s->address == conf_board.pvlock.base + 64ul * cpu;
}

void case_layout(void)
{
	conf_note("region: 0x%lx\n", conf_board.pvlock.base);
	each("a structure is not at the region's base + 64 i", is_laid_out, address_of);
}

static u64 after_of(u32 cpu)
{
	return conf_surveys[cpu].after;
}

static bool is_zero_after(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->readable && !s->after;
}

void case_zero_after_call(void)
{
	each("a structure was not zero after the call", is_zero_after, after_of);
}

void case_zeroed_by_call(void)
{
	u32 stale = 0;

	for (u32 i = 0; i < conf_board.cpus; i++) {
		stale += conf_surveys[i].stale != 0;
		if (conf_surveys[i].stale && conf_surveys[i].after) {
			conf_note("vcpu: %u\nfound: 0x%lx\n", i, conf_surveys[i].after);
			conf_fail("the call left what stood in the structure before");
			return;
		}
	}
	conf_note("held-something-before: %u\n", stale);
	if (!stale)
		conf_skip("not observed: the structures held nothing before the call");
}

static u64 address_again_of(u32 cpu)
{
	return conf_surveys[cpu].address_on_again;
}

static bool keeps_address(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->address_on_again == s->address);
}

void case_off_and_on(void)
{
	each("after going off and on again a VCPU has another address", keeps_address,
	     address_again_of);
}

static u64 after_again_of(u32 cpu)
{
	return conf_surveys[cpu].after_on_again;
}

static bool is_zero_again(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->readable && !s->after_on_again);
}

void case_called_again(void)
{
	each("a structure was not zero after the call that followed", is_zero_again,
	     after_again_of);
}

static bool is_in_memory(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && conf_in_memory(s->address, 64);
}

void case_structures_in_memory(void)
{
	conf_note("memory-ranges: %u\n", conf_board.memories);
	each("a structure is in no range of /memory", is_in_memory, address_of);
}

static bool is_in_region(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address >= conf_board.pvlock.base &&
	       s->address - conf_board.pvlock.base < conf_board.pvlock.size;
}

void case_node(void)
{
	if (!conf_board.pvlock_node) {
		conf_fail("the device tree has no PV-lock node");
		return;
	}
	conf_note("region: 0x%lx\nsize: 0x%lx\n", conf_board.pvlock.base, conf_board.pvlock.size);
	conf_expect_true("the node has no no-map", conf_board.pvlock_no_map);
	each("a structure is outside the region of the node", is_in_region, address_of);
}

void case_region_pages(void)
{
	conf_note("region: 0x%lx\nsize: 0x%lx\n", conf_board.pvlock.base, conf_board.pvlock.size);
	conf_expect_true("the region does not begin on a page", !(conf_board.pvlock.base & 4095));
	conf_expect_true("the region does not end on a page",
			 conf_board.pvlock.size && !(conf_board.pvlock.size & 4095));
}

void case_no_node(void)
{
	conf_expect_true("the device tree promises PV-lock, and there is none",
			 !conf_board.pvlock_node);
}

static u64 mpidr_of(u32 cpu)
{
	return conf_surveys[cpu].mpidr;
}

static bool is_numbered(u32 cpu, const struct survey *s)
{
	u64 wanted = (cpu & 15) | (cpu >> 4 & 0xff) << 8 | (u64)(cpu >> 12) << 16;

	return s->came_up && conf_board.mpidr[cpu] == wanted && s->mpidr == (wanted | 1ul << 31);
}

void case_affinity(void)
{
	each("a VCPU is numbered otherwise", is_numbered, mpidr_of);
}

static bool matches_policy(u64 flag)
{
	return conf_policy == POLICY_SCHEDULED_OUT ? flag != 0 : flag == 0;
}

static u64 never_started_of(u32 cpu)
{
	return conf_surveys[cpu].never_started;
}

static bool is_never_started(u32 cpu, const struct survey *s)
{
	return !cpu || !s->predicted || matches_policy(s->never_started);
}

void case_never_started(void)
{
	conf_note("policy: %s\n", conf_policy_name());
	for (u32 cpu = 1; cpu < conf_board.cpus; cpu++)
		conf_expect_true("the region is too small", conf_surveys[cpu].predicted);
	each("a VCPU that was never started reads otherwise", is_never_started, never_started_of);
}

static u64 off_of(u32 cpu)
{
	return conf_surveys[cpu].off;
}

static bool is_off(u32 cpu, const struct survey *s)
{
	return !cpu || (s->readable && matches_policy(s->off));
}

void case_off_vcpu(void)
{
	conf_note("policy: %s\n", conf_policy_name());
	each("a VCPU that is off reads otherwise", is_off, off_of);
}

static u64 first_flag_of(u32 cpu)
{
	return conf_surveys[cpu].first_flag;
}

static bool reads_zero_first(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->readable && !s->first_flag);
}

void case_first_instruction(void)
{
	each("the first load of a VCPU that came on again found 1", reads_zero_first,
	     first_flag_of);
}

/* Read the flag of a VCPU that waits in WFI. False if it did not wake up: the case has failed. */
static bool asleep(u64 *flag)
{
	if (!conf_sleep_and_wake(flag)) {
		conf_fail("VCPU 1 did not wake up");
		return false;
	}
	conf_note("flag: %lu\n", *flag);
	return true;
}

void case_blocked_letter(void)
{
	u64 flag;

	/* KVM leaves a VCPU on its CPU in WFI while nobody else wants that CPU. */
	if (asleep(&flag) && !flag)
		conf_skip("not observed: the flag stayed 0, "
			  "perhaps since WFI did not leave the CPU");
}

void case_blocked_sparing(void)
{
	u64 flag;

	if (asleep(&flag))
		conf_expect_true("a VCPU that sleeps reads 1", !flag);
}
