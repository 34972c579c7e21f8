// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The first process of a Linux guest that is to do a fixed amount of work, and then turns it off.
 *
 * The kernel's command line says what, after "--": NAME COUNT WORKERS. Nothing is done for the first
 * seconds: by then a distribution's kernel has tested its cryptography in the background.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SETTLED_S = 5, MOST_WORKERS = 64, MAPPED = 65536 };

static const char *load;
static long count;

static void pin(long cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void run_child(void)
{
	pid_t child = fork();

	if (!child) {
		if (!strcmp(load, "exec"))
			execl("/init", "/init", "nothing", NULL);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static void *work(void *cpu)
{
	pin((long)cpu);
	for (long i = 0; i < count; i++) {
		if (!strcmp(load, "syscall")) {
			syscall(SYS_getppid);
		} else if (!strcmp(load, "mmap")) {
			char *at = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			at[0] = 1;
			munmap(at, MAPPED);
		} else if (!strcmp(load, "fork") || !strcmp(load, "exec")) {
			run_child();
		}
	}
	return NULL;
}

/* The threads of one process for mmap, which share an address space; else processes. */
static void share_out(long workers)
{
	pthread_t threads[MOST_WORKERS];

	for (long i = 0; i < workers; i++) {
		if (!strcmp(load, "mmap")) {
			pthread_create(&threads[i], NULL, work, (void *)i);
		} else if (!fork()) {
			work((void *)i);
			_exit(0);
		}
	}
	for (long i = 0; i < workers; i++)
		if (!strcmp(load, "mmap"))
			pthread_join(threads[i], NULL);
		else
			wait(NULL);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	if (argc == 4) {
		long workers = atol(argv[3]);

		load = argv[1];
		count = atol(argv[2]);
		sleep(SETTLED_S);
		share_out(workers < MOST_WORKERS ? workers : MOST_WORKERS);
	}
	printf("done\n");
	fflush(stdout);
	sync();
	return reboot(RB_POWER_OFF);
}
