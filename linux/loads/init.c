// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The first process of a Linux guest: runs loads, one after the other, and says what they did.
 *
 * The kernel's command line says which and for how long: loads=NAME,NAME duration=NS warmup=NS.
 * Words that have a "=" arrive as environment. Lines that begin with "loads: " are for the host:
 *
 *	loads: pvlock present|absent	whether the kernel uses PV-lock
 *	loads: begin NAME
 *	loads: refused NAME WHY		this kernel cannot run it; no result follows
 *	loads: result NAME NS COUNT...	what each copy did in NS
 *	loads: failed WHAT		and that was all
 *	loads: end
 *
 * Copies are started, each on a VCPU of its own, and wait for each other. From then on they run where
 * the scheduler puts them: it would spread them out too, but in a longer time than is measured here.
 * From when all run, `warmup` passes before the time counts. At its end init looks at the counters while the copies go on; only then it ends them, so
 * how long an end takes does not matter. init has a real-time priority: it must not wait for the
 * copies to look at the clock.
 */
#define _GNU_SOURCE
#include "loads.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 256, LOG_SIZE = 1 << 18, READ_ALL = 3, PRIORITY = 1, SECOND = 1000000000, SHORT_NS = 100000,
       SETTLED_NS = 20000000 };

static const struct load *const all[] = {
	&execl_load, &fscopy256, &fscopy1024, &fscopy4096, &fscopy256_ext4, &fscopy1024_ext4,
	&fscopy4096_ext4, &fscopy1024_own, &pipe_load, &context_load, &spawn_load, &syscall_load,
	&shell1, &shell8, &mmap_load, &fault_load, &create_load, &rename_load, &futex_load,
	&messaging_load, &build_load,
};

int copies;
unsigned long *counters[MOST_COPIES];

/* In memory that all processes share. */
static struct {
	uint32_t ready, go;
	struct {
		unsigned long count, padding[31];
	} of[MOST_COPIES];
} *shared;

static const struct load *current;
static const char *refusal;

static void say(const char *format, ...)
{
	char line[LINE];
	int length = snprintf(line, sizeof(line), "loads: ");
	va_list arguments;

	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - length - 1, format, arguments);
	va_end(arguments);
	if (length > LINE - 2)
		length = LINE - 2;
	line[length++] = '\n';
	if (write(1, line, length) != length)
		_exit(1);
}

static _Noreturn void power_off(void)
{
	reboot(RB_POWER_OFF);
	_exit(1);
}

_Noreturn void die(const char *what)
{
	say("failed %s: %s: %s", current ? current->name : "init", what, strerror(errno));
	power_off();
}

void refuse(const char *why)
{
	refusal = why;
}

int opened(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	if (fd < 0)
		die(path);
	return fd;
}

void make_folder(const char *path)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		die(path);
}

void put(const char *path, const void *data, size_t size)
{
	int fd = opened(path, O_CREAT | O_TRUNC | O_WRONLY);

	if (write(fd, data, size) != (ssize_t)size || close(fd))
		die(path);
}

void run_program(char *const arguments[])
{
	pid_t child = fork();
	int status;

	if (!child) {
		execv(arguments[0], arguments);
		die(arguments[0]);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		die(arguments[0]);
	if (status) {
		errno = ECHILD;
		die(arguments[0]);
	}
}

static void futex(uint32_t *word, int operation, uint32_t value)
{
	/* Nobody sleeps for longer than this without a look at what else has happened. */
	static const struct timespec patience = { .tv_nsec = SECOND / 2 };

	syscall(SYS_futex, word, operation, value, operation == FUTEX_WAIT ? &patience : NULL, NULL, 0);
}

/* Let the caller run on CPU number `cpu` only, or (-1) on all. */
static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int each = 0; each < copies; each++)
		if (cpu < 0 || cpu == each)
			CPU_SET(each, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

void begin(void)
{
	if (__atomic_add_fetch(&shared->ready, 1, __ATOMIC_ACQ_REL) == (uint32_t)copies)
		futex(&shared->ready, FUTEX_WAKE, 1);
	while (!__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE))
		futex(&shared->go, FUTEX_WAIT, 0);
	pin(-1);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * SECOND + time.tv_nsec;
}

static void pass(uint64_t ns)
{
	struct timespec time = { .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

static void *run_thread(void *copy)
{
	pin((intptr_t)copy);
	current->work((intptr_t)copy);
	return NULL;
}

/* The process of all threads. */
static void run_threads(void)
{
	pthread_t thread;

	for (intptr_t copy = 0; copy < copies; copy++)
		if ((errno = pthread_create(&thread, NULL, run_thread, (void *)copy)))
			die("pthread_create");
	for (;;)
		pause();
}

static pid_t started(int copy, pid_t group)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		setpgid(0, group);
		if (current->threads)
			run_threads();
		pin(copy);
		current->work(copy);
		die("a copy ended");
	}
	/* Both do it, so that it is done whoever comes first. */
	setpgid(child, group);
	return child;
}

/* No copy may end by itself: one that crashed would go unnoticed, and the others be counted. */
static void check_all_alive(void)
{
	int status;

	if (waitpid(-1, &status, WNOHANG) > 0) {
		errno = ECHILD;
		die("a copy ended");
	}
}

/*
 * Read all counters, and return the time at which that was: again, if this VCPU lost its CPU while it
 * read them, or between that and the clock.
 */
static uint64_t read_counters(unsigned long *counts)
{
	uint64_t began, ended;

	do {
		began = now();
		for (int copy = 0; copy < copies; copy++)
			counts[copy] = __atomic_load_n(counters[copy], __ATOMIC_RELAXED);
		ended = now();
	} while (ended - began > SHORT_NS);
	return began;
}

/* The counts of 512 copies do not fit into one line of say(). */
static void print_result(uint64_t ns, const unsigned long *before, const unsigned long *after)
{
	static char line[LINE + MOST_COPIES * 21];
	int length = snprintf(line, LINE, "loads: result %s %llu", current->name,
			      (unsigned long long)ns);

	for (int copy = 0; copy < copies; copy++)
		length += sprintf(line + length, " %lu", after[copy] - before[copy]);
	line[length++] = '\n';
	if (write(1, line, length) != length)
		_exit(1);
}

static void run(const struct load *load, uint64_t warmup, uint64_t duration)
{
	int times = load->times ? load->times : 1;
	static unsigned long before[MOST_COPIES], after[MOST_COPIES];
	pid_t group = 0;
	uint64_t begun, ended;

	current = load;
	say("begin %s", load->name);
	memset(shared, 0, sizeof(*shared));
	for (int copy = 0; copy < copies; copy++)
		counters[copy] = &shared->of[copy].count;
	refusal = NULL;
	if (load->prepare)
		load->prepare();
	if (refusal) {
		say("refused %s %s", load->name, refusal);
		return;
	}
	for (int copy = 0; copy < (load->threads ? 1 : copies); copy++) {
		pid_t child = started(copy, group);

		if (!group)
			group = child;
	}
	for (uint32_t ready; (ready = __atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE)) <
			     (uint32_t)copies;) {
		futex(&shared->ready, FUTEX_WAIT, ready);
		check_all_alive();
	}
	__atomic_store_n(&shared->go, 1, __ATOMIC_RELEASE);
	futex(&shared->go, FUTEX_WAKE, MOST_COPIES);
	pass(warmup * times);
	begun = read_counters(before);
	pass(duration * times);
	ended = read_counters(after);
	check_all_alive();
	kill(-group, SIGKILL);
	while (wait(NULL) > 0)
		;
	if (load->clear)
		load->clear();
	/* What ended leaves work behind, such as memory to free: it must not be the next load's. */
	pass(SETTLED_NS);
	print_result(ended - begun, before, after);
}

static void attach(const char *type, const char *where)
{
	make_folder(where);
	if (mount(type, where, type, 0, NULL))
		die(where);
}

static bool uses_pvlock(void)
{
	char *log = calloc(1, LOG_SIZE + 1);

	if (!log || klogctl(READ_ALL, log, LOG_SIZE) < 0)
		die("the kernel's log");
	return strstr(log, "pvlock: present") != NULL;
}

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	if (!text)
		die(name);
	return strtoull(text, NULL, 10);
}

static void run_all(char *names)
{
	uint64_t duration = number("duration"), warmup = number("warmup");

	for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
		size_t at = 0;

		while (at < sizeof(all) / sizeof(*all) && strcmp(all[at]->name, name))
			at++;
		if (at == sizeof(all) / sizeof(*all))
			die(name);
		run(all[at], warmup, duration);
	}
}

int main(int argc, char **argv)
{
	struct sched_param priority = { .sched_priority = PRIORITY };
	char *names = getenv("loads");

	if (argc > 1 && !strcmp(argv[1], "execl")) {
		current = &execl_load;
		return execl_main(argv);
	}
	if (argc > 1 && !strncmp(argv[1], "build", 5)) {
		current = &build_load;
		return build_main(argc, argv);
	}
	if (getpid() != 1 || !names)
		return 2;
	attach("proc", "/proc");
	attach("sysfs", "/sys");
	attach("devtmpfs", "/dev");
	attach("tmpfs", "/run");
	/* musl does not have this call. */
	if (syscall(SYS_sched_setscheduler, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority))
		die("sched_setscheduler");
	copies = sysconf(_SC_NPROCESSORS_ONLN);
	if (copies > MOST_COPIES)
		copies = MOST_COPIES;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	say("pvlock %s", uses_pvlock() ? "present" : "absent");
	run_all(names);
	say("end");
	power_off();
}
