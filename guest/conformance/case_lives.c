// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Cases: every way to lose a CPU and to get one (section 6). All VCPUs but VCPU 0 lead a life: they
 * work, wait in WFE and in WFI, and turn themselves off, for as long as chance says. After each wait
 * a VCPU first loads its own flag. VCPU 0 wakes them, turns them on again, and looks at those that
 * stand still. docs/conformance.md says how it judges.
 */
#include "conf.h"
#include "cases.h"

#define LIVE_MS 300ul
#define STILL_NS 1000000ul	/* a VCPU that makes no progress for so long stands still */
#define EVENT_NS 6000ul		/* one that waits on its CPU goes on so soon after an event */
#define PACE_NS 5000ul
#define PHASES 16
#define PATIENCE_NS 5000000000ul

enum { WORK, YIELD, SLEEP, OFF, WAYS };

static struct life {
	u64 turns;			/* a turn is a piece of work, or a wait */
	u32 way;			/* what the VCPU does in this turn */
	u32 random;
	u64 waits[WAYS], not_zero[WAYS];
	/* What VCPU 0 saw: */
	u64 seen_turns, since;
	bool judged;
} ALIGNED(64) lives[MAX_CPUS];

static struct {
	bool done, failed;
	u32 vcpus;
	u64 waits[WAYS], not_zero[WAYS];
	u64 stops[WAYS][2];		/* VCPUs that stood still, by what they did and by their flag */
} sum;

static u32 quiet;

static u32 chance(u32 *random)
{
	*random = *random * 1664525 + 1013904223;
	return *random >> 8;
}

/* The first load after a wait is that of our own flag. */
static void back(struct life *l, u32 cpu, u32 way)
{
	l->not_zero[way] += load(conf_structure(cpu)) != 0;
	l->waits[way]++;
}

static void begin(struct life *l, u32 way)
{
	store(&l->way, way);
	store_release(&l->turns, l->turns + 1);
}

static void live(struct cpu *me)
{
	struct life *l = &lives[me->number];
	u32 longest = conf_ticks_of(conf_bootarg_number("still", STILL_NS));

	back(l, me->number, OFF);
	if (conf_found.wakes)
		conf_gic_init(me->number);
	while (!load_acquire(&me->stop)) {
		/* In turn, lives are busy, so that CPUs are wanted, and quiet, so that some are idle. */
		u32 dice = chance(&l->random) % (load(&quiet) ? 64 : 512);

		if (dice == 0 && conf_found.wakes) {
			begin(l, OFF);
			return;
		}
		if (dice < 12 && conf_found.wakes) {
			begin(l, SLEEP);
			conf_sleep_once(dice & 1 ? chance(&l->random) % longest : 0);
			back(l, me->number, SLEEP);
		} else if (dice & 1) {
			begin(l, YIELD);
			asm volatile("wfe" : : : "memory");
			back(l, me->number, YIELD);
		} else {
			for (u32 i = chance(&l->random) % 64; i; i--) {
				begin(l, WORK);
				conf_look(me->number);
			}
			asm volatile("sev");
		}
	}
}

static bool goes_on(struct life *l, u64 turns)
{
	u64 start = ticks();

	asm volatile("sev");
	while (load_acquire(&l->turns) == turns)
		if (ticks() - start > conf_ticks_of(EVENT_NS))
			return false;
	return true;
}

/* A VCPU that stands still is judged once, by its flag; one that sleeps or is off goes on then. */
static void visit(u32 cpu, u64 still)
{
	struct life *l = &lives[cpu];
	u64 turns = load_acquire(&l->turns), now = ticks();
	u32 way = load(&l->way);
	bool flag;

	if (turns != l->seen_turns || !l->since) {
		l->seen_turns = turns;
		l->since = now;
		l->judged = false;
	}
	if (l->judged || now - l->since < still)
		return;
	if (way == OFF && conf_call(PSCI_AFFINITY_INFO, conf_board.mpidr[cpu]) != 1)
		return;
	flag = conf_look(cpu) != 0;
	if (load_acquire(&l->turns) != turns)
		return;
	/* One that reads 0 may have its CPU already, or wait on it for an event. */
	if (!flag && way != OFF && !(way == SLEEP && conf_policy == POLICY_PREEMPTED) &&
	    (goes_on(l, turns) || conf_look(cpu)))
		return;
	sum.stops[way][flag]++;
	l->judged = true;
	if (way == SLEEP)
		conf_wake(cpu);
	if (way == OFF && conf_cpu_on(cpu, live))
		sum.failed = true;
}

/* End all lives, wherever they are. */
static bool end(u32 cpu)
{
	struct cpu *c = &conf_cpus[cpu];
	u64 start = ticks(), patience = conf_ticks_of(PATIENCE_NS);

	store_release(&c->stop, 1);
	while (!load_acquire(&c->finished)) {
		if (load(&lives[cpu].way) == SLEEP)
			conf_wake(cpu);
		asm volatile("sev");
		if (ticks() - start > patience)
			return false;
		conf_pause_for(conf_ticks_of(PACE_NS));
	}
	return conf_cpu_wait_off(cpu);
}

static void lead_lives(void)
{
	u64 length = conf_ticks_of(conf_bootarg_number("live", LIVE_MS) * 1000000);
	u64 still = conf_ticks_of(conf_bootarg_number("still", STILL_NS)), start;

	if (sum.done)
		return;
	sum.done = true;
	for (u32 i = 1; i < conf_board.cpus && !sum.failed; i++) {
		lives[i].random = i;
		lives[i].way = WORK;
		sum.failed = conf_cpu_on(i, live) || !conf_wait_for(&conf_cpus[i].running);
		sum.vcpus += !sum.failed;
	}
	for (start = ticks(); !sum.failed && ticks() - start < length;) {
		store(&quiet, (ticks() - start) / (length / PHASES) & 1);
		for (u32 i = 1; i < conf_board.cpus; i++)
			visit(i, still);
		/* So that no VCPU waits for an event on its CPU for long. */
		asm volatile("sev");
	}
	store(&quiet, 0);
	for (u32 i = 1; i <= sum.vcpus; i++) {
		if (!end(i))
			sum.failed = true;
		for (u32 way = 0; way < WAYS; way++) {
			sum.waits[way] += lives[i].waits[way];
			sum.not_zero[way] += lives[i].not_zero[way];
		}
	}
}

static bool lived(void)
{
	lead_lives();
	if (sum.failed)
		conf_fail("a VCPU did not come up, did not wake up or did not stop");
	return !sum.failed;
}

/* Of those that stood still in this way, did most have this flag? In strict mode, nearly all. */
static void expect_flag(u32 way, bool wanted, const char *why)
{
	u64 right, wrong;

	if (!lived())
		return;
	right = sum.stops[way][wanted];
	wrong = sum.stops[way][!wanted];
	conf_note("stood-still: %lu\nflagged: %lu\n", right + wrong, sum.stops[way][1]);
	if (!right && !wrong)
		conf_skip("not observed: no VCPU stood still so");
	else if (way == SLEEP && wanted && !right)
		conf_skip("not observed: the flag stayed 0, "
			  "perhaps since WFI did not leave the CPU");
	else
		conf_expect_true(why, wrong * (conf_bootarg_number("strict", 0) ? 20 : 1) <= right);
}

void case_return_reads_0(void)
{
	if (!lived())
		return;
	conf_note("vcpus: %u\nafter-wfe: %lu\nafter-wfi: %lu\nafter-cpu-on: %lu\n", sum.vcpus,
		  sum.waits[YIELD], sum.waits[SLEEP], sum.waits[OFF]);
	conf_note("not-zero: %lu\n", sum.not_zero[YIELD] + sum.not_zero[SLEEP] + sum.not_zero[OFF]);
	conf_expect_true("after WFE a VCPU read 1 in its own structure", !sum.not_zero[YIELD]);
	conf_expect_true("after WFI a VCPU read 1 in its own structure", !sum.not_zero[SLEEP]);
	conf_expect_true("after CPU_ON a VCPU read 1 in its own structure", !sum.not_zero[OFF]);
}

void case_yielding_reads_1(void)
{
	expect_flag(YIELD, true, "VCPUs that gave their CPU away in WFE had a flag of 0");
}

void case_sleepers_letter(void)
{
	expect_flag(SLEEP, true, "VCPUs that waited in WFI had a flag of 0");
}

void case_sleepers_sparing(void)
{
	expect_flag(SLEEP, false, "VCPUs that waited in WFI had a flag of 1");
}

void case_off_again(void)
{
	expect_flag(OFF, conf_policy == POLICY_SCHEDULED_OUT,
		    "VCPUs that were off had the flag of the other policy");
}
