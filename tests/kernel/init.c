// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The first and only process of a Linux guest: what do its programs see of PV-lock?
 *
 * Prints lines that begin with "init: ", then switches the machine off. Words of the kernel's
 * command line that have a "=" arrive as environment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FLAGS "/sys/kernel/debug/pvlock/preempted"
#define SPINLOCKS "/sys/kernel/debug/pvlock/spinlocks"

static volatile bool stop;

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

/* Print each line of a file, after `name`. */
static void show(const char *name, const char *path)
{
	char line[200];
	FILE *file = fopen(path, "r");

	if (!file) {
		say("%s none", name);
		return;
	}
	while (fgets(line, sizeof(line), file))
		if (line[0] != '#')
			say("%s %.*s", name, (int)strcspn(line, "\n"), line);
	fclose(file);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

static void *spin(void *argument)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET((unsigned long)argument, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	while (!stop)
		;
	return NULL;
}

/* Keep all CPUs busy, and look now and then. */
static void sample(int samples)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[cpus];
	struct timespec pause = { .tv_nsec = 1300000 };

	for (long cpu = 0; cpu < cpus; cpu++)
		if (pthread_create(&threads[cpu], NULL, spin, (void *)cpu))
			die("pthread_create");
	for (int i = 0; i < samples; i++) {
		show("sample", FLAGS);
		nanosleep(&pause, NULL);
	}
	stop = true;
	for (long cpu = 0; cpu < cpus; cpu++)
		pthread_join(threads[cpu], NULL);
	stop = false;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

/* Make and remove a file, again and again: all CPUs want one directory's rwsem. */
static void *create(void *argument)
{
	unsigned long *operations = argument;
	char name[32];

	snprintf(name, sizeof(name), "/load/%p", argument);
	while (!stop) {
		int fd = open(name, O_CREAT | O_RDWR, 0600);

		if (fd < 0 || close(fd) || unlink(name))
			die(name);
		__atomic_fetch_add(operations, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Take and drop a descriptor: all threads want the spinlock of one table of files. */
static void *duplicate(void *argument)
{
	unsigned long *operations = argument;

	while (!stop) {
		int fd = dup(1);

		if (fd < 0 || close(fd))
			die("dup");
		__atomic_fetch_add(operations, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void load(int milliseconds, void *(*work)(void *))
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct { unsigned long operations, padding[31]; } counts[cpus];
	pthread_t threads[cpus];
	struct timespec pause = { .tv_nsec = 10000000 };
	unsigned long sum = 0;
	double began;

	memset(counts, 0, sizeof(counts));
	for (long cpu = 0; cpu < cpus; cpu++)
		if (pthread_create(&threads[cpu], NULL, work, &counts[cpu].operations))
			die("pthread_create");
	for (began = now(); now() - began < milliseconds * 1e-3;)
		nanosleep(&pause, NULL);
	stop = true;
	for (long cpu = 0; cpu < cpus; cpu++) {
		pthread_join(threads[cpu], NULL);
		sum += counts[cpu].operations;
	}
	say("load %.0f operations per second", sum / (now() - began));
	stop = false;
}

static void hotplug(void)
{
	put("/sys/devices/system/cpu/cpu1/online", "0");
	show("off", FLAGS);
	put("/sys/devices/system/cpu/cpu1/online", "1");
	show("again", FLAGS);
}

static void program(char *path)
{
	pid_t child = fork();
	int status = 0;

	if (!child) {
		execl(path, path, NULL);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		die(path);
	say("status %d of %s", WIFEXITED(status) ? WEXITSTATUS(status) : -1, path);
}

int main(void)
{
	const char *samples = getenv("samples");

	attach("proc", "/proc");
	attach("sysfs", "/sys");
	attach("debugfs", "/sys/kernel/debug");
	attach("devtmpfs", "/dev");
	say("cpus %ld", sysconf(_SC_NPROCESSORS_ONLN));
	show("flag", FLAGS);
	if (samples)
		sample(atoi(samples));
	if (getenv("create")) {
		attach("tmpfs", "/load");
		load(atoi(getenv("create")), create);
	}
	if (getenv("duplicate"))
		load(atoi(getenv("duplicate")), duplicate);
	if (getenv("run"))
		program(getenv("run"));
	if (getenv("hotplug"))
		hotplug();
	show("spinlock", SPINLOCKS);
	say("done");
	reboot(RB_POWER_OFF);
	return 1;
}
