// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * syscall: five cheap system calls, as UnixBench's "System Call Overhead" makes them: a descriptor is
 * duplicated and closed, then getppid(), getuid() and umask(). An operation is all five.
 *
 * Theory: each copy has a process of its own, so a table of descriptors, credentials and a umask of
 * its own. Nothing is shared but the kernel's text. No lock can be contended, so a preempted VCPU
 * costs what it would have done itself and nothing more. PV-lock should change nothing, and neither
 * should anything else that concerns locks: this load shows the noise of the method.
 */
#include "loads.h"

#include <sys/stat.h>
#include <unistd.h>

static void work(int copy)
{
	begin();
	for (;;) {
		int fd = dup(1);

		if (fd < 0 || close(fd))
			die("dup");
		getppid();
		getuid();
		umask(022);
		done(copy);
	}
}

const struct load syscall_load = { .name = "syscall", .work = work };
