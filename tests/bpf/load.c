/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the threads of tests/kvm_parts/test_publisher.py do while Python's lock is not theirs. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void spin(uint64_t until_ns)
{
	while (now_ns() < until_ns)
		;
}

void yield(uint64_t until_ns)
{
	while (now_ns() < until_ns)
		sched_yield();
}

void doze(uint64_t until_ns)
{
	struct timespec t = {.tv_nsec = 20000};

	while (now_ns() < until_ns)
		nanosleep(&t, NULL);
}

/* Two threads take turns: `turn` is odd when it is `me`'s (0 or 1). */
void turns(uint64_t until_ns, _Atomic uint32_t *turn, uint32_t me)
{
	while (now_ns() < until_ns) {
		uint32_t seen = atomic_load(turn);

		if ((seen & 1) == me) {
			atomic_store(turn, seen + 1);
			syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
		} else {
			struct timespec limit = {.tv_nsec = 1000000};

			syscall(SYS_futex, turn, FUTEX_WAIT, seen, &limit, NULL, 0);
		}
	}
}

struct sample {
	uint64_t from_ns, to_ns, structure, flag;
};

/* Read flag after flag, at most `room` times; return how often. */
uint64_t watch(uint64_t until_ns, const volatile uint64_t *flags, uint64_t structures,
	       struct sample *samples, uint64_t room)
{
	struct timespec t = {.tv_nsec = 10000};
	uint64_t i;

	for (i = 0; i < room && now_ns() < until_ns; i++) {
		struct sample *s = &samples[i];

		s->structure = i % structures;
		if (s->structure == 0)
			nanosleep(&t, NULL);
		s->from_ns = now_ns();
		s->flag = flags[8 * s->structure];
		s->to_ns = now_ns();
	}
	return i;
}

static void nothing(int signal)
{
	(void)signal;
}

/* Interrupt a thread's sleep again and again, also just as it falls asleep. */
void poke(uint64_t until_ns, int thread)
{
	struct timespec t = {.tv_nsec = 10000};

	signal(SIGRTMAX, nothing);
	while (now_ns() < until_ns) {
		syscall(SYS_tgkill, getpid(), thread, SIGRTMAX);
		nanosleep(&t, NULL);
	}
}
