// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fscopy: a file is copied to another, buffer by buffer, from its start to its end and again, as
 * UnixBench's "File Copy" with buffers of 256, 1024 and 4096 bytes. An operation is one buffer.
 *
 * Theory: older releases of UnixBench, 5.1.3 too, give their files one name, whichever copy it is. So
 * all copies read one file and write one other. A write takes the lock of its inode, an rwsem, for as
 * long as the data are copied: all copies queue for it in osq_lock(), which is what PV-lock is for.
 * Newer releases have files for each copy. fscopy1024-own does it so, to tell the two apart. Where:
 * tmpfs; or ext4 with a journal on a disk in RAM, whose writes do more under the same lock.
 * UnixBench's files are 125 KiB, 2 MB and 32 MB; these are all 256 KiB.
 */
#include "loads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define DISK "/dev/ram0"
#define EXT4 "/run/ext4"

enum { FILE_SIZE = 256 << 10, MOST_BUFFER = 4096 };

static void fill(const char *path)
{
	static char data[FILE_SIZE];

	put(path, data, sizeof(data));
}

static _Noreturn void copy_files(int copy, const char *from, const char *to, ssize_t size)
{
	char buffer[MOST_BUFFER];
	int in = opened(from, O_RDONLY), out = opened(to, O_WRONLY);

	begin();
	for (;;) {
		ssize_t count = read(in, buffer, size);

		if (count == size) {
			if (write(out, buffer, size) != size)
				die(to);
			done(copy);
		} else if (count) {
			die(from);
		} else if (lseek(in, 0, SEEK_SET) || lseek(out, 0, SEEK_SET)) {
			die("lseek");
		}
	}
}

static void prepare_tmpfs(void)
{
	fill("/run/from");
	fill("/run/to");
}

static void clear_tmpfs(void)
{
	unlink("/run/from");
	unlink("/run/to");
}

static void prepare_ext4(void)
{
	if (access(DISK, F_OK)) {
		refuse("this kernel has no disk in RAM");
		return;
	}
	make_folder(EXT4);
	make_ext4(DISK);
	if (mount(DISK, EXT4, "ext4", MS_NOATIME, NULL)) {
		if (errno != ENODEV)
			die("mount ext4");
		refuse("this kernel has no ext4");
		return;
	}
	fill(EXT4 "/from");
	fill(EXT4 "/to");
}

static void clear_ext4(void)
{
	if (umount(EXT4))
		die("umount ext4");
}

static void own_name(char *path, const char *name, int copy)
{
	snprintf(path, PATH_SIZE, "/run/%s.%d", name, copy);
}

static void work_own(int copy)
{
	char from[PATH_SIZE], to[PATH_SIZE];

	own_name(from, "from", copy);
	own_name(to, "to", copy);
	fill(from);
	fill(to);
	copy_files(copy, from, to, 1024);
}

static void clear_own(void)
{
	char path[PATH_SIZE];

	for (int copy = 0; copy < copies; copy++) {
		own_name(path, "from", copy);
		unlink(path);
		own_name(path, "to", copy);
		unlink(path);
	}
}

#define FSCOPY(size)                                                                     \
	static void work##size(int copy)                                                 \
	{                                                                                \
		copy_files(copy, "/run/from", "/run/to", size);                          \
	}                                                                                \
	static void work##size##_ext4(int copy)                                          \
	{                                                                                \
		copy_files(copy, EXT4 "/from", EXT4 "/to", size);                        \
	}                                                                                \
	const struct load fscopy##size = {                                               \
		"fscopy" #size, false, prepare_tmpfs, work##size, clear_tmpfs, 1         \
	};                                                                               \
	const struct load fscopy##size##_ext4 = {                                        \
		"fscopy" #size "-ext4", false, prepare_ext4, work##size##_ext4,          \
		clear_ext4, 1                                                            \
	};

FSCOPY(256)
FSCOPY(1024)
FSCOPY(4096)

const struct load fscopy1024_own = {
	.name = "fscopy1024-own", .work = work_own, .clear = clear_own
};
