// SPDX-License-Identifier: GPL-2.0-or-later
/* Before the first case: discovery, and a look at the structure of every VCPU. */
#include "conf.h"
#include "cases.h"
#include "pvlock.h"

#define SETTLED_NS 3000000ul
#define PATIENCE_NS 200000000ul

extern char _start[], bss_end[];

struct discovery conf_found;
struct survey conf_surveys[MAX_CPUS];
enum policy conf_policy;
bool conf_policy_stated;
u64 conf_odd_values, conf_odd_padding;

/*
 * In the order of SPECIFICATION.md, 4.1, each step asks whether the guest may take the next one. A
 * PV-lock node or a UID that we know is a second way in (4.3). There is no third, since on another
 * hypervisor the two IDs mean something else (4.4).
 */
void conf_discover(void)
{
	struct registers uid = { { VENDOR_HYP_CALL_UID } };
	static const u32 ours[] = { PVLOCK_UID };

	conf_found.psci_version = conf_call(PSCI_VERSION, 0);
	if (conf_found.psci_version >> 32 || (u32)conf_found.psci_version < 0x10000)
		return;
	conf_found.steps = 1;
	conf_found.smccc_in_psci = conf_call(PSCI_FEATURES, SMCCC_VERSION);
	if (conf_found.smccc_in_psci == UNDEFINED || (int)conf_found.smccc_in_psci < 0)
		return;
	conf_found.steps = 2;
	conf_found.smccc_version = conf_call(SMCCC_VERSION, 0);
	if (conf_found.smccc_version == UNDEFINED || (int)conf_found.smccc_version < 0x10001)
		return;
	conf_found.steps = 3;
	conf_found.smccc = true;
	conf_call_registers(&uid);
	conf_found.our_uid = uid.x[0] != UNDEFINED;
	for (u32 i = 0; i < 4; i++) {
		conf_found.uid[i] = uid.x[i];
		conf_found.our_uid &= conf_found.uid[i] == ours[i];
	}
	conf_found.time = conf_call(SMCCC_ARCH_FEATURES, PV_TIME_FEATURES) == 0;
	conf_found.arch_features = conf_call(SMCCC_ARCH_FEATURES, PV_LOCK_FEATURES);
	if (conf_found.arch_features == 0)
		conf_found.steps = 4;
	else if (!conf_board.pvlock_node && !conf_found.our_uid)
		return;
	conf_found.features = conf_call(PV_LOCK_FEATURES, PV_LOCK_PREEMPTED);
	if (conf_found.features == 0) {
		conf_found.state = STATE_PRESENT;
		conf_found.second_way = conf_found.arch_features != 0;
		if (!conf_found.second_way)
			conf_found.steps = 5;
	} else if (conf_found.arch_features == 0 || conf_board.pvlock_node) {
		conf_found.state = STATE_UNSET;
	}
}

/* Map a structure and try a load; false if nothing is at the hypervisor's address. */
static bool readable(u64 address)
{
	struct cpu *me;
	u64 word;

	/* Not in our own image: conf_map_page() would make its page read-only. */
	if (address & 7 || (address + 4096 > (u64)_start && address < (u64)bss_end))
		return false;
	if (!conf_map_page(address, READ_ONLY))
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

const u64 *conf_structure(u32 cpu)
{
	static const u64 zeros[WORDS] ALIGNED(64);

	return conf_surveys[cpu].readable ? (const u64 *)conf_surveys[cpu].address : zeros;
}

u64 conf_look(u32 cpu)
{
	const u64 *words = conf_structure(cpu);
	u64 flag = load(&words[0]), rest = 0;

	for (u32 i = 1; i < WORDS; i++)
		rest |= load(&words[i]);
	conf_odd_values += flag > 1;
	conf_odd_padding += rest != 0;
	return flag;
}

u64 conf_settled(const u64 *flag)
{
	u64 settled = conf_ticks_of(conf_bootarg_number("settle", SETTLED_NS));
	u64 start = ticks(), since = start, last = load(flag), now;

	do {
		u64 value = load(flag);

		now = ticks();
		if (value != last)
			last = value, since = now;
		cpu_relax();
	} while (now - since < settled &&
		 now - start < conf_ticks_of(PATIENCE_NS));
	return last;
}

static void on_each(struct cpu *me)
{
	struct survey *s = &conf_surveys[me->number];

	asm("mrs %0, mpidr_el1" : "=r"(s->mpidr));
	s->came_up = true;
	if (conf_found.time) {
		u64 time = conf_call(PV_TIME_ST, 0);

		s->time = readable(time) ? (const u64 *)time + 1 : NULL;
	}
	if (conf_found.state != STATE_PRESENT)
		return;
	if (s->predicted)
		s->stale |= all_words((const u64 *)(conf_board.pvlock.base + 64ul * me->number));
	s->address = conf_call(PV_LOCK_PREEMPTED, 0);
	s->readable = readable(s->address);
	if (s->readable)
		s->after = all_words((const u64 *)s->address);
	s->again = conf_call(PV_LOCK_PREEMPTED, 0);
}

static void on_each_again(struct cpu *me)
{
	struct survey *s = &conf_surveys[me->number];

	/* This load comes before any store and any call. */
	s->first_flag = load(conf_structure(me->number));
	s->address_on_again = conf_call(PV_LOCK_PREEMPTED, 0);
	s->after_on_again = all_words(conf_structure(me->number));
	s->up_again = true;
}

/* Look where clause 2.5 puts the structure, before any VCPU has asked for its address. */
static void predict(u32 cpu)
{
	struct survey *s = &conf_surveys[cpu];
	u64 address = conf_board.pvlock.base + 64ul * cpu;
	const u64 *words = (const u64 *)address;

	if (conf_found.state != STATE_PRESENT || !conf_board.pvlock_node ||
	    64ul * cpu + 64 > conf_board.pvlock.size || !readable(address))
		return;
	s->predicted = true;
	s->never_started = load(&words[0]);
	for (u32 i = 1; i < WORDS; i++)
		s->stale |= load(&words[i]);
}

static void sleep_until_told(struct cpu *me)
{
	conf_gic_init(me->number);
	store_release(&me->asleep, 1);
	while (!load_acquire(&me->stop))
		conf_sleep_once(0);
}

bool conf_sleep_and_wake(u64 *flag)
{
	if (conf_cpu_on(1, sleep_until_told) || !conf_wait_for(&conf_cpus[1].asleep))
		return false;
	*flag = conf_settled(conf_structure(1));
	conf_look(1);
	store_release(&conf_cpus[1].stop, 1);
	conf_wake(1);
	return conf_wait_for(&conf_cpus[1].finished) && conf_cpu_wait_off(1);
}

void conf_survey(void)
{
	u64 flag;

	/* All of them, before any of these VCPUs runs. */
	for (u32 i = 0; i < conf_board.cpus; i++)
		predict(i);
	on_each(&conf_cpus[0]);
	for (u32 i = 1; i < conf_board.cpus; i++) {
		if (!conf_run_on(i, on_each) || conf_found.state != STATE_PRESENT)
			continue;
		conf_surveys[i].off = conf_settled(conf_structure(i));
		conf_run_on(i, on_each_again);
	}
	/* If this guest cannot drive the GIC, the hypervisor has done nothing wrong: cases skip. */
	conf_found.wakes = conf_board.cpus > 1 && conf_board.gic && conf_sleep_and_wake(&flag);
	if (conf_policy_stated || conf_found.state != STATE_PRESENT || !conf_surveys[1].readable)
		return;
	/* The policies differ for a VCPU that is off: not on a CPU, and not preempted (E6). */
	conf_policy = conf_surveys[1].off ? POLICY_SCHEDULED_OUT : POLICY_PREEMPTED;
}

const char *conf_policy_name(void)
{
	static const char *const names[] = { "unknown", "scheduled-out", "preempted" };

	return names[conf_policy];
}
