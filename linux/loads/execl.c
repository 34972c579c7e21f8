// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * execl: a process replaces itself by the same program, over and over, as UnixBench's "Execl
 * Throughput". An operation is one execl().
 *
 * Theory: UnixBench's program is linked dynamically, so each execl() maps the pieces of two more files
 * that all copies have in common, the loader and the C library, and unmaps them at the next. Each
 * piece is put into and taken out of the tree of its file's mappings under that file's i_mmap_rwsem,
 * which all copies want for write: an rwsem with optimistic spinning behind an osq_lock(), whose
 * spinners ask vcpu_is_preempted(). This program is static, so it does as the loader would: it maps
 * PIECES pieces of the file LIBRARY, once as a whole and then piece by piece over that.
 */
#include "loads.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIBRARY "/run/library"

enum { PIECES = 4, PIECE_SIZE = 1 << 16, NUMBERS = 24 };

static int files[MOST_COPIES];

/* A counter must outlive its process's memory. So it is in a file, one for each copy. */
static void prepare(void)
{
	static char library[PIECES * PIECE_SIZE];
	char path[PATH_SIZE];

	put(LIBRARY, library, sizeof(library));
	for (int copy = 0; copy < copies; copy++) {
		snprintf(path, sizeof(path), "/run/execl.%d", copy);
		files[copy] = opened(path, O_CREAT | O_RDWR);
		if (ftruncate(files[copy], sizeof(long)))
			die(path);
		counters[copy] = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, files[copy], 0);
		if (counters[copy] == MAP_FAILED || unlink(path))
			die(path);
	}
}

static void load_library(void)
{
	static const int protections[PIECES] = { PROT_READ, PROT_READ | PROT_EXEC, PROT_READ,
						 PROT_READ | PROT_WRITE };
	int fd = opened(LIBRARY, O_RDONLY);
	char *at = mmap(NULL, PIECES * PIECE_SIZE, PROT_READ, MAP_PRIVATE, fd, 0);

	if (at == MAP_FAILED)
		die(LIBRARY);
	for (long piece = 1; piece < PIECES; piece++)
		if (mmap(at + piece * PIECE_SIZE, PIECE_SIZE, protections[piece],
			 MAP_PRIVATE | MAP_FIXED, fd, piece * PIECE_SIZE) == MAP_FAILED)
			die(LIBRARY);
	/* Where the loader relocates, and where a program calls. */
	at[(PIECES - 1) * PIECE_SIZE] = 1;
	*(volatile char *)(at + PIECE_SIZE);
	close(fd);
}

static _Noreturn void again(const char *file, unsigned long count)
{
	char text[NUMBERS];

	snprintf(text, sizeof(text), "%lu", count);
	execl(PROGRAM, PROGRAM, "execl", file, text, NULL);
	die("execl");
}

int execl_main(char **argv)
{
	unsigned long count = strtoul(argv[3], NULL, 10) + 1;

	load_library();
	if (pwrite(atoi(argv[2]), &count, sizeof(count), 0) != sizeof(count))
		die("counter");
	again(argv[2], count);
}

static void work(int copy)
{
	char file[NUMBERS];

	snprintf(file, sizeof(file), "%d", files[copy]);
	begin();
	again(file, 0);
}

static void clear(void)
{
	for (int copy = 0; copy < copies; copy++) {
		munmap(counters[copy], sizeof(long));
		close(files[copy]);
	}
	unlink(LIBRARY);
}

const struct load execl_load = {
	.name = "execl", .prepare = prepare, .work = work, .clear = clear, .times = 2
};
