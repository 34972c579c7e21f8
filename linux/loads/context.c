// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * context: two processes hand a number to and fro by two pipes, as UnixBench's "Pipe-based Context
 * Switching". An operation is there and back.
 *
 * Theory: at each moment one of the two sleeps, so each operation is two wake-ups and two switches of
 * the guest's scheduler. Where the waker puts the other decides what a wake-up costs: on the same
 * VCPU it is a switch; on an idle one it is an IPI to a VCPU that must first get a CPU of the host.
 * The scheduler asks vcpu_is_preempted() through available_idle_cpu() there. So PV-lock can matter
 * although there is no lock: with the policy "scheduled-out" each idle VCPU looks preempted.
 */
#include "loads.h"

#include <unistd.h>

enum { READ = 0, WRITE = 1 };

static void give(int fd, unsigned long number)
{
	if (write(fd, &number, sizeof(number)) != sizeof(number))
		die("write");
}

static unsigned long take(int fd)
{
	unsigned long number;

	if (read(fd, &number, sizeof(number)) != sizeof(number))
		die("read");
	return number;
}

static void work(int copy)
{
	int there[2], back[2];
	pid_t child;

	if (pipe(there) || pipe(back))
		die("pipe");
	begin();
	child = fork();
	if (child < 0)
		die("fork");
	if (!child)
		for (;;)
			give(back[WRITE], take(there[READ]));
	for (unsigned long number = 0;; number++) {
		give(there[WRITE], number);
		if (take(back[READ]) != number)
			die("another number came back");
		done(copy);
	}
}

const struct load context_load = { .name = "context", .work = work };
