// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases: structures, addresses, device tree and lifecycle (sections 2, 3, 4, 7, 8 and 9). */
#include "harness.h"
#include "cases.h"

/* The first VCPU for which `ok` does not hold fails the case; how many held is evidence. */
static void each(const char *why, bool (*ok)(u32 cpu, const struct survey *s), u64 (*evidence)(u32))
{
	u32 cpu;

	for (cpu = 0; cpu < board.cpus; cpu++) {
		const struct survey *s = &surveys[cpu];

		if (ok(cpu, s))
			continue;
		note("vcpu: %u\n", cpu);
		if (!s->came_up)
			fail("a VCPU did not come up");
		else
			fail(why);
		if (evidence && s->came_up)
			note("found: 0x%lx\n", evidence(cpu));
		return;
	}
	note("vcpus: %u\n", cpu);
}

static u64 address_of(u32 cpu)
{
	return surveys[cpu].address;
}

static bool is_readable(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->readable;
}

void address(void)
{
	note("vcpu0: 0x%lx\n", surveys[0].address);
	each("PV_LOCK_PREEMPTED returned no address that can be read", is_readable, address_of);
}

static bool is_aligned(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address % 64 == 0;
}

void aligned(void)
{
	each("a structure is not aligned to 64 bytes", is_aligned, address_of);
}

static u64 again_of(u32 cpu)
{
	return surveys[cpu].again;
}

static bool is_stable(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address == s->again;
}

void stable(void)
{
	each("a second call returned another address", is_stable, again_of);
}

static bool is_distinct(u32 cpu, const struct survey *s)
{
	for (u32 i = 0; i < cpu; i++)
		if (surveys[i].address == s->address)
			return false;
	return s->came_up;
}

void distinct(void)
{
	each("two VCPUs have the same structure", is_distinct, address_of);
}

static bool is_laid_out(u32 cpu, const struct survey *s)
{
	return s->came_up && s->address == board.pvlock.base + 64ul * cpu;
}

void layout(void)
{
	note("region: 0x%lx\n", board.pvlock.base);
	each("a structure is not at the region's base + 64 i", is_laid_out, address_of);
}

static u64 after_of(u32 cpu)
{
	return surveys[cpu].after;
}

static bool is_zero_after(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->readable && !s->after;
}

void zero_after_call(void)
{
	each("a structure was not zero after the call", is_zero_after, after_of);
}

void zeroed_by_call(void)
{
	u32 stale = 0;

	for (u32 i = 0; i < board.cpus; i++) {
		stale += surveys[i].stale != 0;
		if (surveys[i].stale && surveys[i].after) {
			note("vcpu: %u\nfound: 0x%lx\n", i, surveys[i].after);
			fail("the call left what stood in the structure before");
			return;
		}
	}
	note("held-something-before: %u\n", stale);
	if (!stale)
		skip("not observed: the structures held nothing before the call");
}

static u64 address_again_of(u32 cpu)
{
	return surveys[cpu].address_on_again;
}

static bool keeps_address(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->address_on_again == s->address);
}

void off_and_on(void)
{
	each("after going off and on again a VCPU has another address", keeps_address,
	     address_again_of);
}

static u64 after_again_of(u32 cpu)
{
	return surveys[cpu].after_on_again;
}

static bool is_zero_again(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->readable && !s->after_on_again);
}

void called_again(void)
{
	each("a structure was not zero after the call that followed", is_zero_again,
	     after_again_of);
}

static bool is_in_memory(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && in_memory(s->address, 64);
}

void structures_in_memory(void)
{
	note("memory-ranges: %u\n", board.memories);
	each("a structure is in no range of /memory", is_in_memory, address_of);
}

static bool is_in_region(u32 cpu, const struct survey *s)
{
	(void)cpu;
	return s->came_up && s->address >= board.pvlock.base &&
	       s->address - board.pvlock.base < board.pvlock.size;
}

void node(void)
{
	if (!board.pvlock_node) {
		fail("the device tree has no PV-lock node");
		return;
	}
	note("region: 0x%lx\nsize: 0x%lx\n", board.pvlock.base, board.pvlock.size);
	expect_true("the node has no no-map", board.pvlock_no_map);
	each("a structure is outside the region of the node", is_in_region, address_of);
}

void region_pages(void)
{
	note("region: 0x%lx\nsize: 0x%lx\n", board.pvlock.base, board.pvlock.size);
	expect_true("the region does not begin on a page", !(board.pvlock.base & 4095));
	expect_true("the region does not end on a page",
		    board.pvlock.size && !(board.pvlock.size & 4095));
}

void no_node(void)
{
	expect_true("the device tree promises PV-lock, and there is none", !board.pvlock_node);
}

static u64 mpidr_of(u32 cpu)
{
	return surveys[cpu].mpidr;
}

static bool is_numbered(u32 cpu, const struct survey *s)
{
	u64 wanted = (cpu & 15) | (cpu >> 4 & 0xff) << 8 | (u64)(cpu >> 12) << 16;

	return s->came_up && board.mpidr[cpu] == wanted && s->mpidr == (wanted | 1ul << 31);
}

void affinity(void)
{
	each("a VCPU is numbered otherwise", is_numbered, mpidr_of);
}

static bool matches_policy(u64 flag)
{
	return policy == POLICY_SCHEDULED_OUT ? flag != 0 : flag == 0;
}

static u64 never_started_of(u32 cpu)
{
	return surveys[cpu].never_started;
}

static bool is_never_started(u32 cpu, const struct survey *s)
{
	return !cpu || !s->predicted || matches_policy(s->never_started);
}

void never_started(void)
{
	note("policy: %s\n", policy_name());
	for (u32 cpu = 1; cpu < board.cpus; cpu++)
		expect_true("the region is too small", surveys[cpu].predicted);
	each("a VCPU that was never started reads otherwise", is_never_started, never_started_of);
}

static u64 off_of(u32 cpu)
{
	return surveys[cpu].off;
}

static bool is_off(u32 cpu, const struct survey *s)
{
	return !cpu || (s->readable && matches_policy(s->off));
}

void off_vcpu(void)
{
	note("policy: %s\n", policy_name());
	each("a VCPU that is off reads otherwise", is_off, off_of);
}

static u64 first_flag_of(u32 cpu)
{
	return surveys[cpu].first_flag;
}

static bool reads_zero_first(u32 cpu, const struct survey *s)
{
	return !cpu || (s->up_again && s->readable && !s->first_flag);
}

void first_instruction(void)
{
	each("the first load of a VCPU that came on again found 1", reads_zero_first, first_flag_of);
}

/* The flag of a VCPU that waits in WFI. */
static bool asleep(u64 *flag)
{
	if (!sleep_and_wake(flag)) {
		fail("VCPU 1 did not wake up");
		return false;
	}
	note("flag: %lu\n", *flag);
	return true;
}

void blocked_letter(void)
{
	u64 flag;

	/* KVM leaves a VCPU on its CPU in WFI while nobody else wants that CPU. */
	if (asleep(&flag) && !flag)
		skip("not observed: the flag stayed 0, perhaps since WFI did not leave the CPU");
}

void blocked_sparing(void)
{
	u64 flag;

	if (asleep(&flag))
		expect_true("a VCPU that sleeps reads 1", !flag);
}
