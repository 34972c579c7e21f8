// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * messaging: groups of senders and receivers; each sender writes 100 bytes to each receiver of its
 * group in turn, by a pipe that belongs to the receiver. hackbench does this, with larger groups. One
 * copy is one sender and one receiver; a group has GROUP of them. An operation is one message read.
 *
 * Theory: all senders of a group want the mutex of the same pipe at about the same time, and so does
 * its reader: a mutex with optimistic spinning and an osq_lock(), which asks vcpu_is_preempted(). The
 * pipe's queue of sleepers is guarded by a spinlock, and each wake-up takes the spinlock of a run
 * queue; those ask nobody. There are twice as many processes as VCPUs, so sleeping costs little.
 */
#include "loads.h"

#include <fcntl.h>
#include <unistd.h>

enum { GROUP = 4, SIZE = 100, READ = 0, WRITE = 1 };

static int pipes[MOST_COPIES][2];

static void prepare(void)
{
	for (int copy = 0; copy < copies; copy++)
		if (pipe(pipes[copy]))
			die("pipe");
}

static void send(int copy)
{
	int first = copy / GROUP * GROUP;
	int count = copies - first < GROUP ? copies - first : GROUP;
	char data[SIZE] = { 0 };

	for (int turn = copy;; turn++)
		if (write(pipes[first + turn % count][WRITE], data, SIZE) != SIZE)
			die("write");
}

static void work(int copy)
{
	char data[SIZE];
	pid_t child;

	begin();
	child = fork();
	if (child < 0)
		die("fork");
	if (!child)
		send(copy);
	for (;;) {
		if (read(pipes[copy][READ], data, SIZE) != SIZE)
			die("read");
		done(copy);
	}
}

static void clear(void)
{
	for (int copy = 0; copy < copies; copy++) {
		close(pipes[copy][READ]);
		close(pipes[copy][WRITE]);
	}
}

const struct load messaging_load = {
	.name = "messaging", .prepare = prepare, .work = work, .clear = clear
};
