// SPDX-License-Identifier: GPL-2.0-or-later
/* What is known before the first case: discovery, and one look at the structure of every VCPU. */
#include "harness.h"
#include "cases.h"
#include "pvlock.h"

#define SETTLED_NS 3000000ul
#define PATIENCE_NS 200000000ul

extern char _start[], bss_end[];

struct discovery found;
struct survey surveys[MAX_CPUS];
enum policy policy;
bool policy_stated;
u64 odd_values, odd_padding;

/*
 * SPECIFICATION.md, 4.1: each step asks whether the next may be asked at all. 4.3: a PV-lock node
 * or a UID that we know is a second way in. Nothing else is: on another hypervisor the two IDs
 * mean something else (4.4).
 */
void discover(void)
{
	struct registers uid = { { VENDOR_HYP_CALL_UID } };
	static const u32 ours[] = { PVLOCK_UID };

	found.psci_version = call(PSCI_VERSION, 0);
	if (found.psci_version >> 32 || (u32)found.psci_version < 0x10000)
		return;
	found.steps = 1;
	found.smccc_in_psci = call(PSCI_FEATURES, SMCCC_VERSION);
	if (found.smccc_in_psci == UNDEFINED || (int)found.smccc_in_psci < 0)
		return;
	found.steps = 2;
	found.smccc_version = call(SMCCC_VERSION, 0);
	if (found.smccc_version == UNDEFINED || (int)found.smccc_version < 0x10001)
		return;
	found.steps = 3;
	found.smccc = true;
	call_registers(&uid);
	found.our_uid = uid.x[0] != UNDEFINED;
	for (u32 i = 0; i < 4; i++) {
		found.uid[i] = uid.x[i];
		found.our_uid &= found.uid[i] == ours[i];
	}
	found.time = call(SMCCC_ARCH_FEATURES, PV_TIME_FEATURES) == 0;
	found.arch_features = call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES);
	if (found.arch_features == 0)
		found.steps = 4;
	else if (!board.pvlock_node && !found.our_uid)
		return;
	found.features = call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED);
	if (found.features == 0) {
		found.state = STATE_PRESENT;
		found.second_way = found.arch_features != 0;
		if (!found.second_way)
			found.steps = 5;
	} else if (found.arch_features == 0 || board.pvlock_node) {
		found.state = STATE_UNSET;
	}
}

/* Map a structure and try a load: false if the hypervisor's address leads nowhere. */
static bool readable(u64 address)
{
	struct cpu *me;
	u64 word;

	/* Not over our own image, which map_page() would take away from us. */
	if (address & 7 || (address + 4096 > (u64)_start && address < (u64)bss_end))
		return false;
	if (!map_page(address, READ_ONLY))
		return false;
	asm volatile("mrs %0, tpidr_el1" : "=r"(me));
	me->esr = 0;
	store_release(&me->expect, 1);
	asm volatile("ldr %0, [%1]" : "=r"(word) : "r"(address) : "memory");
	store_release(&me->expect, 0);
	return !load(&me->esr);
}

static u64 all_words(const u64 *words)
{
	u64 all = 0;

	for (u32 i = 0; i < WORDS; i++)
		all |= load(&words[i]);
	return all;
}

const u64 *structure(u32 cpu)
{
	static const u64 zeros[WORDS] ALIGNED(64);

	return surveys[cpu].readable ? (const u64 *)surveys[cpu].address : zeros;
}

u64 look(u32 cpu)
{
	const u64 *words = structure(cpu);
	u64 flag = load(&words[0]), rest = 0;

	for (u32 i = 1; i < WORDS; i++)
		rest |= load(&words[i]);
	odd_values += flag > 1;
	odd_padding += rest != 0;
	return flag;
}

u64 settled(const u64 *flag)
{
	u64 start = ticks(), since = start, last = load(flag), now;

	do {
		u64 value = load(flag);

		now = ticks();
		if (value != last)
			last = value, since = now;
		cpu_relax();
	} while (now - since < ticks_of(SETTLED_NS) && now - start < ticks_of(PATIENCE_NS));
	return last;
}

static void on_each(struct cpu *me)
{
	struct survey *s = &surveys[me->number];

	asm("mrs %0, mpidr_el1" : "=r"(s->mpidr));
	s->came_up = true;
	if (found.time) {
		u64 time = call(PV_TIME_ST, 0);

		s->time = readable(time) ? (const u64 *)time + 1 : NULL;
	}
	if (found.state != STATE_PRESENT)
		return;
	if (s->predicted)
		s->stale |= all_words((const u64 *)(board.pvlock.base + 64ul * me->number));
	s->address = call(PV_LOCK_PREEMPTED, 0);
	s->readable = readable(s->address);
	if (s->readable)
		s->after = all_words((const u64 *)s->address);
	s->again = call(PV_LOCK_PREEMPTED, 0);
}

static void on_each_again(struct cpu *me)
{
	struct survey *s = &surveys[me->number];

	/* No store, no call before this. */
	s->first_flag = load(structure(me->number));
	s->address_on_again = call(PV_LOCK_PREEMPTED, 0);
	s->after_on_again = all_words(structure(me->number));
	s->up_again = true;
}

/* Where clause 2.5 puts the structure, before anybody has asked for it. */
static void predict(u32 cpu)
{
	struct survey *s = &surveys[cpu];
	u64 address = board.pvlock.base + 64ul * cpu;
	const u64 *words = (const u64 *)address;

	if (found.state != STATE_PRESENT || !board.pvlock_node ||
	    64ul * cpu + 64 > board.pvlock.size || !readable(address))
		return;
	s->predicted = true;
	s->never_started = load(&words[0]);
	for (u32 i = 1; i < WORDS; i++)
		s->stale |= load(&words[i]);
}

static void sleep_until_told(struct cpu *me)
{
	gic_init(me->number);
	store_release(&me->asleep, 1);
	while (!load_acquire(&me->stop))
		sleep_once();
}

bool sleep_and_wake(u64 *flag)
{
	if (cpu_on(1, sleep_until_told) || !wait_for(&cpus[1].asleep))
		return false;
	*flag = settled(structure(1));
	look(1);
	store_release(&cpus[1].stop, 1);
	wake(1);
	return wait_for(&cpus[1].finished) && cpu_wait_off(1);
}

void survey(void)
{
	u64 flag;

	/* All of them before any runs. */
	for (u32 i = 0; i < board.cpus; i++)
		predict(i);
	on_each(&cpus[0]);
	for (u32 i = 1; i < board.cpus; i++) {
		if (!run_on(i, on_each) || found.state != STATE_PRESENT)
			continue;
		surveys[i].off = settled(structure(i));
		run_on(i, on_each_again);
	}
	/* Whether this guest can drive the GIC is not the hypervisor's fault, and known before. */
	found.wakes = board.cpus > 1 && board.gic && sleep_and_wake(&flag);
	if (policy_stated || found.state != STATE_PRESENT || !surveys[1].readable)
		return;
	/* An off VCPU is not on a CPU, and nobody preempted it: the policies differ (E6). */
	policy = surveys[1].off ? POLICY_SCHEDULED_OUT : POLICY_PREEMPTED;
}

const char *policy_name(void)
{
	static const char *const names[] = { "unknown", "scheduled-out", "preempted" };

	return names[policy];
}
