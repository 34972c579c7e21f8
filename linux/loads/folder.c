// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * create: processes make a file in one folder of tmpfs, close it, and remove it.
 * rename: each renames a file of its own to and fro, in one folder. An operation is all of that.
 *
 * Theory: the rwsem of the folder's inode is taken for write to create, to remove and to rename. All
 * copies want it, so its owner is nearly always somebody, and the others spin: one at a time on the
 * owner, the rest behind it in the queue of osq_lock(). Where the owner is preempted, all of them
 * spin through its absence, unless they are told. In osq_lock() each waits for its predecessor, and
 * asks whether that one is preempted. Mail servers, builds and shell scripts do this.
 */
#include "loads.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define FOLDER "/run/folder"

static void prepare(void)
{
	make_folder(FOLDER);
}

static void clear(void)
{
	char path[PATH_SIZE];

	for (int copy = 0; copy < copies; copy++)
		for (const char *end = "ab"; *end; end++) {
			snprintf(path, sizeof(path), FOLDER "/%d%c", copy, *end);
			unlink(path);
		}
	if (rmdir(FOLDER))
		die(FOLDER);
}

static void work_create(int copy)
{
	char path[PATH_SIZE];

	snprintf(path, sizeof(path), FOLDER "/%da", copy);
	begin();
	for (;;) {
		if (close(opened(path, O_CREAT | O_RDWR)) || unlink(path))
			die(path);
		done(copy);
	}
}

static void work_rename(int copy)
{
	char a[PATH_SIZE], b[PATH_SIZE];

	snprintf(a, sizeof(a), FOLDER "/%da", copy);
	snprintf(b, sizeof(b), FOLDER "/%db", copy);
	put(a, "", 0);
	begin();
	for (;;) {
		if (rename(a, b) || rename(b, a))
			die(a);
		done(copy);
	}
}

const struct load create_load = {
	.name = "create", .prepare = prepare, .work = work_create, .clear = clear
};
const struct load rename_load = {
	.name = "rename", .prepare = prepare, .work = work_rename, .clear = clear
};
