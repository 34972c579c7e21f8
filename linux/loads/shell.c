// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shell1, shell8: a shell runs a script that sorts, dumps, searches and counts a text, 1 or 8 times at
 * a time, as UnixBench's "Shell Scripts" do. An operation is one script; UnixBench counts rounds of 1
 * or 8. The shell and the programs are busybox, each started by its path, so that each is an execve().
 *
 * Theory: a round of shell1 is some ten processes that map one file, the program; read and write
 * short-lived files in one folder, whose rwsem they take to create and remove them; and fill pipes. So
 * this adds up what spawn, execl, create and context have, and it has more runnable processes than
 * VCPUs: whoever sleeps for a lock gives its VCPU to somebody with work, not to the idle task. A
 * distribution's programs are linked dynamically; busybox is not, so fewer files are mapped.
 */
#include "loads.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUSYBOX "/bin/busybox"
#define SCRIPT "/run/shell/script"
#define TEXT "/run/shell/text"

enum { LINES = 16, LINE_SIZE = 48 };

static const char script[] =
	"/bin/sort <" TEXT " >sort.$$\n"
	"/bin/od sort.$$ | /bin/sort -n -k 1 >od.$$\n"
	"/bin/grep the sort.$$ | /bin/tee grep.$$ | /bin/wc >wc.$$\n"
	"/bin/rm sort.$$ grep.$$ od.$$ wc.$$\n";

static void prepare(void)
{
	static const char *const words[] = { "the", "guest", "sleeps", "until", "a", "lock", "is", "free" };
	char text[LINES * LINE_SIZE];
	unsigned int number = 1;
	size_t length = 0;

	if (access(BUSYBOX, X_OK)) {
		refuse("there is no busybox");
		return;
	}
	make_folder("/run/shell");
	for (int line = 0; line < LINES; line++) {
		for (int word = 0; word < 5; word++) {
			/* Any numbers will do, but always the same ones. */
			number = number * 1103515245 + 12345;
			length += sprintf(text + length, "%s ", words[number >> 16 & 7]);
		}
		text[length++] = '\n';
	}
	put(TEXT, text, length);
	put(SCRIPT, script, sizeof(script) - 1);
}

static void start_script(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		execl("/bin/sh", "sh", SCRIPT, NULL);
		die("/bin/sh");
	}
}

static void work(int copy, int at_a_time)
{
	if (chdir("/run/shell"))
		die("/run/shell");
	begin();
	for (;;) {
		int status;

		for (int script = 0; script < at_a_time; script++)
			start_script();
		for (int script = 0; script < at_a_time; script++) {
			if (wait(&status) < 0 || status)
				die("the script failed");
			done(copy);
		}
	}
}

static void work1(int copy)
{
	work(copy, 1);
}

static void work8(int copy)
{
	work(copy, 8);
}

static void clear(void)
{
	char *remove[] = { "/bin/rm", "-r", "/run/shell", NULL };

	run_program(remove);
}

const struct load shell1 = {
	.name = "shell1", .prepare = prepare, .work = work1, .clear = clear, .times = 3
};
const struct load shell8 = {
	.name = "shell8", .prepare = prepare, .work = work8, .clear = clear, .times = 6
};
