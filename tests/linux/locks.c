// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The first and only process of a Linux guest: its threads want the same locks.
 *
 * Prints lines that begin with "init: ", then switches the machine off. Words of the kernel's
 * command line that have a "=" arrive as environment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TRIGGER "/tracing/events/lock/contention_begin/trigger"
#define HISTOGRAM "/tracing/events/lock/contention_begin/hist"
#define KEYS "hist:keys=common_pid,flags"

static void say(const char *format, ...)
{
	char line[256];
	int length = snprintf(line, sizeof(line), "init: ");
	va_list arguments;

	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - length - 1, format, arguments);
	va_end(arguments);
	line[length++] = '\n';
	if (write(1, line, length) != length)
		_exit(1);
}

static void die(const char *what)
{
	say("failed: %s: %s", what, strerror(errno));
	reboot(RB_POWER_OFF);
}

static void attach(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL))
		die(where);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Each thread is on a VCPU of its own, and has a name. */
static void settle(const char *name, int vcpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(vcpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	prctl(PR_SET_NAME, name);
	sched_yield();	/* so that it is called so */
}

static void compute(int milliseconds)
{
	struct timespec from, to;

	clock_gettime(CLOCK_MONOTONIC, &from);
	do
		clock_gettime(CLOCK_MONOTONIC, &to);
	while ((to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec <
	       milliseconds * 1000000L);
}

static int word;

static long futex(int operation, int value)
{
	return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, NULL);
}

static void *own(void *unused)
{
	(void)unused;
	settle("owner", 1);
	__atomic_store_n(&word, 1, __ATOMIC_RELEASE);
	compute(6);
	__atomic_store_n(&word, 2, __ATOMIC_RELEASE);
	futex(FUTEX_WAKE, 1);
	return NULL;
}

static void *want(void *unused)
{
	(void)unused;
	settle("waiter", 2);
	while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) == 0)
		;
	while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) == 1)
		futex(FUTEX_WAIT, 1);
	return NULL;
}

static int operations;
static pthread_barrier_t start;

/* Make and remove a file, again and again: all want one directory's rwsem. 5 VCPUs are for them. */
static void *create(void *argument)
{
	long number = (long)argument, vcpu = 1 + number % 5;
	char name[32], path[32];

	snprintf(name, sizeof(name), "maker-%ld", number);
	snprintf(path, sizeof(path), "/load/%ld", number);
	settle(name, vcpu);
	say("%s %ld", name, syscall(SYS_gettid));
	pthread_barrier_wait(&start);
	for (int i = 0; i < operations; i++) {
		int fd = open(path, O_CREAT | O_RDWR, 0600);

		if (fd < 0 || close(fd) || unlink(path))
			die(path);
	}
	return NULL;
}

static void run(int count, void *(**work)(void *), long first)
{
	pthread_t threads[count];

	for (long i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, work[i], (void *)(first + i)))
			die("pthread_create");
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void show(const char *path)
{
	char line[200];
	FILE *file = fopen(path, "r");

	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file))
		if (strstr(line, "hitcount:"))
			say("%.*s", (int)strcspn(line, "\n"), line);
	fclose(file);
}

int main(void)
{
	struct timespec pause = { .tv_nsec = 20000000 };
	void *(*pair[])(void *) = { own, want };
	int makers = getenv("makers") ? atoi(getenv("makers")) : 0;
	void *(*all[makers + 1])(void *);

	for (int i = 0; i < makers; i++)
		all[i] = create;
	operations = getenv("operations") ? atoi(getenv("operations")) : 0;
	attach("proc", "/proc");
	attach("devtmpfs", "/dev");
	attach("tmpfs", "/load");
	if (getenv("futex"))
		run(2, pair, 0);
	if (getenv("count")) {
		attach("tracefs", "/tracing");
		put(TRIGGER, KEYS);
	}
	if (makers) {
		pthread_barrier_init(&start, NULL, makers);
		run(makers, all, 0);
	}
	if (getenv("count")) {
		nanosleep(&pause, NULL);	/* threads that were joined may not be gone yet */
		put(TRIGGER, KEYS ":pause");
		show(HISTOGRAM);
	}
	say("done");
	reboot(RB_POWER_OFF);
	return 1;
}
