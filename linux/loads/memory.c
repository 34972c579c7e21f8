// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mmap: the threads of one process map 64 KiB, touch its first page, and unmap it.
 * fault: they map 64 KiB, touch each of its 16 pages, and unmap it. An operation is all of that.
 *
 * Theory: mapping and unmapping take the mmap_lock of the address space for write, an rwsem with
 * optimistic spinning: whoever waits spins while the owner has a CPU. This is what PV-lock is for: a
 * spinner whose owner is preempted should sleep, and let its CPU run somebody. Page faults took the
 * same lock for read until Linux 6.4; since then they take the one of their own piece (per-VMA locks),
 * so only the two calls in fault contend, a small part of each operation. Readers have no owner that
 * anybody could ask for. The kernel's part of a fault is mostly clearing a page.
 */
#include "loads.h"

#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 16 };

static void work(int copy, int touched)
{
	begin();
	for (;;) {
		char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			die("mmap");
		for (int page = 0; page < touched; page++)
			*(volatile char *)(at + page * PAGE) = 1;
		if (munmap(at, PAGES * PAGE))
			die("munmap");
		done(copy);
	}
}

static void work_mmap(int copy)
{
	work(copy, 1);
}

static void work_fault(int copy)
{
	work(copy, PAGES);
}

const struct load mmap_load = { .name = "mmap", .threads = true, .work = work_mmap };
const struct load fault_load = { .name = "fault", .threads = true, .work = work_fault };
