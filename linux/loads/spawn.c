// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn: a process makes a child that ends at once, and waits for it, as UnixBench's "Process
 * Creation". An operation is one child.
 *
 * Theory: fork() copies the address space, whose lock nobody else wants. What all copies share are
 * spinlocks and an rwlock: the one of PIDs, the list of all tasks, the allocator of pages; and one
 * rwsem for each file that is mapped (i_mmap_rwsem of the program's text), which fork() and exit()
 * take for write, for a moment each. vcpu_is_preempted() speaks for the rwsem only: a spinlock whose
 * owner is preempted is waited for, with PV-lock or without (unless pvspinlock=on).
 */
#include "loads.h"

#include <sys/wait.h>
#include <unistd.h>

static void work(int copy)
{
	begin();
	for (;;) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child)
			_exit(0);
		if (waitpid(child, NULL, 0) != child)
			die("waitpid");
		done(copy);
	}
}

const struct load spawn_load = { .name = "spawn", .work = work };
