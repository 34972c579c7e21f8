// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Cases: the flags of VCPUs that run (section 6). All VCPUs but VCPU 0 count. VCPU 0 looks at the
 * count and the flag of each, a pair every PACE_NS, and judges pairs that follow each other
 * closely. If VCPU 0 was itself off its CPU between two looks, it does not judge them.
 * docs/conformance.md derives RUN.
 */
#include "conf.h"
#include "cases.h"

#define PACE_NS 5000ul		/* the time between two looks at the same VCPU */
#define GAP_NS 100000ul		/* looks further apart than this are not compared, */
#define LOOK_NS 2000ul		/* plus this for each VCPU */
#define STILL_NS 1000000ul	/* the host has stopped a VCPU whose beats stand still so long */
#define OBSERVE_MS 300ul

enum { RUN = 5, EVENTS = 48 };

static struct seen {
	u64 at, beats, flag;		/* the last look: when, and what it saw */
	bool valid;			/* there was one */
	u64 still_since;		/* the last look that saw progress */
	bool counted, flagged;		/* the standstill since then was counted, had flag 1 */
	u64 stolen;			/* PV time at the last progress, ns */
	bool stopped;			/* a standstill with flag 0 was counted and goes on */
	u64 stop_since, stop_stolen;	/* when it began, and PV time then */
	u32 run;			/* consecutive looks that saw progress and flag 1 */
	u64 run_since;
	u64 own_not_zero;
} seen[MAX_CPUS];

static struct {
	bool done, failed;
	u32 vcpus;
	u64 looks, advanced, flagged, longest_run;
	u64 stops_flagged, stops_unflagged, stops_proven;
	u64 worst_set, worst_clear;	/* ticks */
	u64 own_looks, own_not_zero, own_reads;
} sum;

static void heart(struct cpu *me)
{
	seen[me->number].own_not_zero = conf_beat(me, conf_structure(me->number));
}

static u64 stolen_ns(u32 cpu)
{
	return conf_surveys[cpu].time ? load(conf_surveys[cpu].time) : 0;
}

/*
 * A standstill with flag 0 is over. If PV time says that the VCPU waited for a CPU all the while,
 * the VCPU was preempted. Otherwise the host had stopped it in another way.
 */
static void prove(struct seen *s, u32 cpu, u64 now)
{
	u64 waited = stolen_ns(cpu) - s->stop_stolen;

	if (s->stopped && waited + STILL_NS / 2 >= conf_ns_of(now - s->stop_since))
		sum.stops_proven++;
	s->stopped = false;
}

static void standstill(struct seen *s, u64 now, u64 flag)
{
	s->run = 0;
	s->stopped &= !flag;
	if (flag && !s->flagged) {
		s->flagged = true;
		if (now - s->still_since > sum.worst_set)
			sum.worst_set = now - s->still_since;
	}
	if (s->counted || now - s->still_since < conf_ticks_of(STILL_NS))
		return;
	s->counted = true;
	if (flag) {
		sum.stops_flagged++;
		return;
	}
	sum.stops_unflagged++;
	s->stopped = true;
	s->stop_since = s->still_since;
	s->stop_stolen = s->stolen;
}

static void progress(struct seen *s, u64 now, u64 flag)
{
	sum.advanced++;
	s->still_since = now;
	s->counted = s->flagged = false;
	if (!flag) {
		if (s->run && now - s->run_since > sum.worst_clear)
			sum.worst_clear = now - s->run_since;
		s->run = 0;
		return;
	}
	if (!s->run++)
		s->run_since = now;
	if (s->run > sum.longest_run)
		sum.longest_run = s->run;
}

static void look_at(u32 cpu, u64 gap)
{
	struct seen *s = &seen[cpu];
	u64 beats = load_acquire(&conf_cpus[cpu].beats), flag = conf_look(cpu), now = ticks();

	sum.looks++;
	sum.flagged += flag != 0;
	if (s->valid && beats != s->beats) {
		prove(s, cpu, now);
		s->stolen = stolen_ns(cpu);
	}
	if (!s->valid || now - s->at > gap) {
		s->valid = true;
		s->run = 0;
		s->stolen = stolen_ns(cpu);
		s->still_since = now;
		s->counted = false;
		s->flagged = flag;
	} else if (beats == s->beats) {
		standstill(s, now, flag);
	} else {
		progress(s, now, flag);
	}
	s->at = now;
	s->beats = beats;
}

void conf_observe(void)
{
	u64 gap = conf_ticks_of(GAP_NS + LOOK_NS * conf_board.cpus);
	u64 start, length, pace = conf_ticks_of(PACE_NS);

	if (sum.done)
		return;
	sum.done = true;
	length = conf_ticks_of(conf_bootarg_number("observe", OBSERVE_MS) * 1000000);
	for (u32 i = 1; i < conf_board.cpus; i++) {
		conf_cpus[i].beats = 0;
		if (conf_cpu_on(i, heart) || !conf_wait_for(&conf_cpus[i].running)) {
			sum.failed = true;
			break;
		}
		sum.vcpus++;
	}
	start = ticks();
	while (!sum.failed && ticks() - start < length) {
		for (u32 i = 1; i < conf_board.cpus; i++)
			look_at(i, gap);
		sum.own_looks++;
		sum.own_not_zero += conf_look(0) != 0;
		conf_pause_for(pace);
	}
	for (u32 i = 1; i <= sum.vcpus; i++)
		store_release(&conf_cpus[i].stop, 1);
	for (u32 i = 1; i <= sum.vcpus; i++) {
		if (!conf_wait_for(&conf_cpus[i].finished) || !conf_cpu_wait_off(i))
			sum.failed = true;
		sum.own_not_zero += seen[i].own_not_zero;
		sum.own_reads += conf_cpus[i].beats;
	}
}

/* False if there is nothing to judge; the case has then failed or is skipped. */
static bool observed(void)
{
	conf_observe();
	conf_note("looks: %lu\nadvanced: %lu\nflagged: %lu\n", sum.looks, sum.advanced,
		  sum.flagged);
	if (sum.failed)
		conf_fail("a VCPU did not come up or did not stop");
	else if (!sum.advanced)
		conf_skip("not observed: no VCPU advanced while this one looked");
	return !sum.failed && sum.advanced;
}

void case_running_reads_0(void)
{
	if (!observed())
		return;
	conf_note("longest-run: %lu\nworst-clear-ticks: %lu\nworst-clear-ns: %lu\n",
		  sum.longest_run, sum.worst_clear, conf_ns_of(sum.worst_clear));
	conf_expect_true("a VCPU advanced while its flag was 1", sum.longest_run < RUN);
}

void case_preempted_reads_1(void)
{
	u64 strict = conf_bootarg_number("strict", 0), unflagged;

	if (!observed())
		return;
	/* A host also stops a VCPU for other reasons. PV time tells those stops apart. */
	unflagged = conf_surveys[1].time && !strict ? sum.stops_proven : sum.stops_unflagged;
	conf_note("stops-flagged: %lu\nstops-not-flagged: %lu\n", sum.stops_flagged,
		  sum.stops_unflagged);
	if (conf_surveys[1].time)
		conf_note("stops-not-flagged-but-waiting-for-a-cpu: %lu\n", sum.stops_proven);
	conf_note("worst-set-ticks: %lu\nworst-set-ns: %lu\n", sum.worst_set,
		  conf_ns_of(sum.worst_set));
	if (!sum.stops_flagged && !unflagged)
		conf_skip("not observed: no VCPU lost its CPU for 1 ms");
	else if (strict && unflagged)
		conf_fail("a VCPU stood still, and its flag was 0");
	else
		conf_expect_true("most VCPUs that stood still had a flag of 0",
				 sum.stops_flagged >= unflagged);
}

void case_own_flag(void)
{
	for (u32 i = 0; i < 1000; i++) {
		sum.own_looks++;
		sum.own_not_zero += conf_look(0) != 0;
	}
	if (conf_board.cpus > 1)
		conf_observe();
	conf_note("reads: %lu\nnot-zero: %lu\n", sum.own_looks + sum.own_reads, sum.own_not_zero);
	conf_expect_true("a VCPU read 1 in its own structure", !sum.own_not_zero);
}

void case_zero_or_one(void)
{
	if (conf_board.cpus > 1)
		conf_observe();
	conf_note("looks: %lu\n", sum.looks + sum.own_looks);
	conf_expect_true("a flag was neither 0 nor 1", !conf_odd_values);
}

void case_padding(void)
{
	if (conf_board.cpus > 1)
		conf_observe();
	for (u32 i = 0; i < conf_board.cpus; i++)
		conf_look(i);
	conf_note("looks: %lu\n", sum.looks + sum.own_looks + conf_board.cpus);
	conf_expect_true("padding was not zero", !conf_odd_padding);
}

/* Until the counter shows `watch` ns, note each change of VCPU 1's flag: ticks, flag, beats. */
void case_watch(void)
{
	static u64 events[EVENTS][3];
	u64 end = conf_ticks_of(conf_bootarg_number("watch", 0)), last = ~0ul, still = 0, ran = 0;
	const u64 *flag = conf_structure(1), *beats = &conf_cpus[1].beats;
	u32 n = 0;

	conf_cpus[1].beats = 0;
	if (conf_cpu_on(1, heart) || !conf_wait_for(&conf_cpus[1].running)) {
		conf_fail("VCPU 1 did not come up");
		return;
	}
	while (ticks() < end) {
		u64 before = load_acquire(flag), now = load_acquire(beats);
		u64 after = load_acquire(flag);

		/* While its flag stays 1, VCPU 1 must not advance. */
		if (before && last == 1) {
			ran += after && still && now != still;
			still = after ? now : 0;
		}
		if (after == last)
			continue;
		if (n < EVENTS)
			events[n][0] = ticks(), events[n][1] = after, events[n][2] = now, n++;
		last = after;
		still = 0;
	}
	store_release(&conf_cpus[1].stop, 1);
	if (!conf_wait_for(&conf_cpus[1].finished) || !conf_cpu_wait_off(1))
		conf_fail("VCPU 1 did not stop");
	conf_note("events:\n");
	for (u32 i = 0; i < n; i++)
		conf_note("  - [%lu, %lu, %lu]\n", events[i][0], events[i][1], events[i][2]);
	conf_note("ran-while-flagged: %lu\nown-not-zero: %lu\n", ran, seen[1].own_not_zero);
	conf_expect_true("VCPU 1 advanced while its flag was 1", !ran);
	conf_expect_true("VCPU 1 read 1 in its own structure", !seen[1].own_not_zero);
}
