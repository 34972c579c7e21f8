/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A load is work that copies of it repeat: one for each VCPU, as UnixBench starts them.
 *
 * init.c starts the copies, lets them run for a while, and counts what they did meanwhile.
 */
#ifndef LOADS_H
#define LOADS_H

#include <stdbool.h>
#include <stddef.h>

enum { MOST_COPIES = 512, PATH_SIZE = 64 };

struct load {
	const char *name;
	/* The copies are threads of one process; else each is a process. */
	bool threads;
	/* What init does before it starts any copy. It may refuse(). */
	void (*prepare)(void);
	/*
	 * What copy number `copy` does, for ever. It prepares what is its own, calls begin() once, and
	 * from then on counts each operation by done().
	 */
	void (*work)(int copy);
	/* What init does after all copies have ended. */
	void (*clear)(void);
	/* How many times as long as others it takes, since an operation is long; 0 is 1. */
	int times;
};

/* How many copies there are. */
extern int copies;
/* Where init adds up what was done: one counter for each copy, in a line of its own. */
extern unsigned long *counters[MOST_COPIES];

/* Wait until all copies are ready. */
void begin(void);

/* Count an operation. Only this copy writes its counter, so the store needs no lock. */
static inline void done(int copy)
{
	__atomic_store_n(counters[copy], *counters[copy] + 1, __ATOMIC_RELAXED);
}

/* End this process: something failed that should not; errno says why. */
_Noreturn void die(const char *what);
/* From prepare(): this kernel, or this file system, cannot run the load. */
void refuse(const char *why);
/* Return descriptor, or die. */
int opened(const char *path, int flags);
void make_folder(const char *path);
void put(const char *path, const void *data, size_t size);
/* Start a program and wait until it has ended; die if it fails. */
void run_program(char *const arguments[]);

/* ext4.c: make a file system with a journal on the block device `path`. */
void make_ext4(const char *path);

/* build.c and execl.c: what this program does when it is started as one of these. */
int build_main(int argc, char **argv);
int execl_main(char **argv);

#define PROGRAM "/bin/loads"

extern const struct load syscall_load, pipe_load, context_load, spawn_load, execl_load;
extern const struct load fscopy256, fscopy1024, fscopy4096, fscopy1024_own;
extern const struct load fscopy256_ext4, fscopy1024_ext4, fscopy4096_ext4;
extern const struct load shell1, shell8, mmap_load, fault_load, create_load, rename_load;
extern const struct load futex_load, messaging_load, build_load;

#endif
