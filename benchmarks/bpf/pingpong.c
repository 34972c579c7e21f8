/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sched.h>
#include <time.h>
#include <unistd.h>

/*
 * Two threads on one CPU pass a byte to and fro: two switches a round. Returns the CPU time of this
 * one in ns, or -1: CPU time, so that what else the host does is not measured.
 */
long pingpong(int in, int out, long rounds, int first)
{
	struct timespec a, b;
	char byte = 0;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	for (long i = 0; i < rounds; i++) {
		if (first && write(out, &byte, 1) != 1)
			return -1;
		if (read(in, &byte, 1) != 1)
			return -1;
		if (!first && write(out, &byte, 1) != 1)
			return -1;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	return (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
}

/* Be busy until then (CLOCK_MONOTONIC, ns), and let others run again and again. */
void burn(long until)
{
	struct timespec now;

	do {
		sched_yield();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec * 1000000000L + now.tv_nsec < until);
}
