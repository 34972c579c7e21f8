// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pipe: a process writes 512 bytes to a pipe and reads them back, as UnixBench's "Pipe Throughput".
 * An operation is both.
 *
 * Theory: each copy has a pipe of its own, and is alone at both of its ends. Each call takes the
 * pipe's mutex, which nobody else wants, so nobody spins and nobody sleeps. What could be shared is
 * the allocator of pages for the pipe's buffers, and the pipe keeps a page for itself. PV-lock should
 * change nothing.
 */
#include "loads.h"

#include <unistd.h>

enum { SIZE = 512, READ = 0, WRITE = 1 };

static void work(int copy)
{
	char data[SIZE] = { 0 };
	int ends[2];

	if (pipe(ends))
		die("pipe");
	begin();
	for (;;) {
		if (write(ends[WRITE], data, SIZE) != SIZE || read(ends[READ], data, SIZE) != SIZE)
			die("pipe");
		done(copy);
	}
}

const struct load pipe_load = { .name = "pipe", .work = work };
