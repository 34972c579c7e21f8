// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * build: compiles files, as `make -j` with a job for each VCPU: each job is a driver that starts a
 * compiler and then an assembler. The compiler reads the source and HEADERS headers, computes for a
 * while, and writes assembly; the assembler reads that and writes an object file. An operation is one
 * file. There is no compiler here, only what the kernel sees of one.
 *
 * Theory: most of the time nobody shares anything: computing, page faults of one's own. What is shared
 * is what spawn, execl and create have: the program's mappings, the folder of the objects, the caches
 * of names. Kernel builds were said to take half the time with paravirtual spinlocks on 60 VCPUs, and
 * that was about spinlocks; in a current kernel the rest should be a few per cent.
 */
#include "loads.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLDER "/run/build"

enum { HEADERS = 12, FILE_SIZE = 8192, COMPILE_LOOPS = 60000, ASSEMBLE_LOOPS = 10000, HEAP = 1 << 18 };

static void prepare(void)
{
	static char text[FILE_SIZE];
	char path[PATH_SIZE];

	make_folder(FOLDER);
	put(FOLDER "/source.c", text, sizeof(text));
	for (int header = 0; header < HEADERS; header++) {
		snprintf(path, sizeof(path), FOLDER "/%d.h", header);
		put(path, text, sizeof(text));
	}
}

static void read_file(const char *path)
{
	char text[FILE_SIZE];
	int fd = opened(path, O_RDONLY);

	if (read(fd, text, sizeof(text)) != sizeof(text) || close(fd))
		die(path);
}

/* A compiler allocates, and goes over what it has allocated. */
static void compute(int loops)
{
	char *heap = malloc(HEAP);

	if (!heap)
		die("malloc");
	for (int i = 0; i < loops; i++)
		((volatile char *)heap)[(i * 64) % HEAP] += i;
	free(heap);
}

static void write_file(const char *name, const char *end)
{
	static char text[FILE_SIZE];
	char path[PATH_SIZE];

	snprintf(path, sizeof(path), FOLDER "/%s.%s", name, end);
	put(path, text, sizeof(text));
}

static void compile(const char *name)
{
	char path[PATH_SIZE];

	read_file(FOLDER "/source.c");
	for (int header = 0; header < HEADERS; header++) {
		snprintf(path, sizeof(path), FOLDER "/%d.h", header);
		read_file(path);
	}
	compute(COMPILE_LOOPS);
	write_file(name, "s");
}

static void assemble(const char *name)
{
	char path[PATH_SIZE];

	snprintf(path, sizeof(path), FOLDER "/%s.s", name);
	read_file(path);
	compute(ASSEMBLE_LOOPS);
	write_file(name, "o");
	if (unlink(path))
		die(path);
}

static void drive(char *name)
{
	char *compiler[] = { PROGRAM, "build-compiler", name, NULL };
	char *assembler[] = { PROGRAM, "build-assembler", name, NULL };

	run_program(compiler);
	run_program(assembler);
}

int build_main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "build-driver"))
		drive(argv[2]);
	else if (!strcmp(argv[1], "build-compiler"))
		compile(argv[2]);
	else
		assemble(argv[2]);
	return 0;
}

static void work(int copy)
{
	char name[PATH_SIZE / 2];
	char *driver[] = { PROGRAM, "build-driver", name, NULL };

	begin();
	for (unsigned int file = 0;; file++) {
		snprintf(name, sizeof(name), "%d-%u", copy, file % 16);
		run_program(driver);
		done(copy);
	}
}

static void clear(void)
{
	char path[PATH_SIZE];

	for (int copy = 0; copy < copies; copy++)
		for (int file = 0; file < 16; file++)
			for (const char *end = "so"; *end; end++) {
				snprintf(path, sizeof(path), FOLDER "/%d-%d.%c", copy, file, *end);
				unlink(path);
			}
	for (int header = 0; header < HEADERS; header++) {
		snprintf(path, sizeof(path), FOLDER "/%d.h", header);
		unlink(path);
	}
	unlink(FOLDER "/source.c");
	if (rmdir(FOLDER))
		die(FOLDER);
}

const struct load build_load = {
	.name = "build", .prepare = prepare, .work = work, .clear = clear
};
