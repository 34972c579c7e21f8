// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The generic timer (Arm ARM, chapter D12): the counter is the virtual time, at 1 GHz. A timer that
 * is due asserts its interrupt at the end of the quantum in which it falls due.
 */
#include "gic.h"
#include "qemu.h"

#define COUNTER_HZ 1000000000u
#define NEVER (1ull << 62)
enum { CTL_ENABLE = 1, CTL_IMASK = 2, CTL_ISTATUS = 4 };

static const uint32_t ppi[TIMERS] = { 27, 30 };

/* The time of the instruction that is being executed. */
uint64_t now(const struct vcpu *v)
{
	uint64_t done = (env64(v, ENV_PC) - v->pc) / 4;

	return v->time + (done < v->block ? done : v->block);
}

static bool is_on(const struct timer *t)
{
	return (t->ctl & (CTL_ENABLE | CTL_IMASK)) == CTL_ENABLE;
}

static void count_on(struct vm *vm, const struct timer *t, uint64_t time)
{
	if (is_on(t) && t->cval > time && t->cval < vm->timer_due)
		vm->timer_due = t->cval;
}

/* Assert what is due at `time`, which all CPUs have reached; true if anything is. */
bool fire_timers(struct vm *vm, uint64_t time)
{
	bool fired = false;

	vm->timer_due = NEVER;
	for (uint32_t i = 0; i < vm->count; i++)
		for (int n = 0; n < TIMERS; n++) {
			const struct timer *t = &vm->vcpus[i]->timer[n];

			if (is_on(t) && t->cval <= time) {
				gic_set_level(vm->gic, i, ppi[n], true);
				fired = true;
			}
			count_on(vm, t, time);
		}
	return fired;
}

static void written(struct vcpu *v, int n, uint64_t time)
{
	struct timer *t = &v->timer[n];

	gic_set_level(v->vm->gic, v->index, ppi[n], is_on(t) && t->cval <= time);
	count_on(v->vm, t, time);
	v->vm->exits[EXIT_TIMER]++;
	v->time += v->vm->sysreg_ns;
	tell_lines(v);
}

/* Whoever resets a VCPU has reset its timers. */
EXPORT void vcpu_timers_reset(struct vcpu *v)
{
	for (int n = 0; n < TIMERS; n++) {
		v->timer[n] = (struct timer){ 0, 0 };
		gic_set_level(v->vm->gic, v->index, ppi[n], false);
	}
}

static int number(const struct reginfo *r)
{
	return r->crm == 2 ? TIMER_PHYSICAL : TIMER_VIRTUAL;
}

static uint64_t read_counter(void *env, const struct reginfo *r)
{
	(void)r;
	return now(vcpu_of(env));
}

static uint64_t read_frequency(void *env, const struct reginfo *r)
{
	(void)env;
	(void)r;
	return COUNTER_HZ;
}

static uint64_t read_timer(void *env, const struct reginfo *r)
{
	struct vcpu *v = vcpu_of(env);
	struct timer *t = &v->timer[number(r)];

	switch (r->op2) {
	case 0:			/* TVAL */
		return (uint32_t)(t->cval - now(v));
	case 1:			/* CTL */
		return t->ctl | (t->ctl & CTL_ENABLE && now(v) >= t->cval ? CTL_ISTATUS : 0);
	default:
		return t->cval;
	}
}

static void write_timer(void *env, const struct reginfo *r, uint64_t value)
{
	struct vcpu *v = vcpu_of(env);
	struct timer *t = &v->timer[number(r)];
	uint64_t time = now(v);

	switch (r->op2) {
	case 0:			/* TVAL */
		t->cval = time + (uint64_t)(int64_t)(int32_t)value;
		break;
	case 1:			/* CTL */
		t->ctl = value & (CTL_ENABLE | CTL_IMASK);
		break;
	default:
		t->cval = value;
	}
	written(v, number(r), time);
}

void define_timers(struct vcpu *first)
{
	static const uint32_t timers[] = { CNTP_TVAL_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0,
					   CNTV_TVAL_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0 };

	for (uint32_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++)
		answer(first, timers[i], read_timer, write_timer);
	answer(first, CNTVCT_EL0, read_counter, NULL);
	answer(first, CNTPCT_EL0, read_counter, NULL);
	answer(first, CNTFRQ_EL0, read_frequency, NULL);
}
