// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes an ext4 file system with a journal, as little as the kernel takes and e2fsck accepts.
 *
 * It has one group, blocks of 4 KiB, extents, and no checksums. The kernel's
 * Documentation/filesystems/ext4/ has the layout. The same disk gives the same bytes: no times, and
 * identifiers of zeros.
 */
#include "loads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096, INODE = 256, INODES = 128, GROUP_BLOCKS = 8 * BLOCK, SECTOR = 512 };
enum { ROOT = 2, JOURNAL = 8, LOST = 11, FIRST_FREE_INODE = 12 };
enum { ROOT_LINKS = 3, LOST_LINKS = 2, FOLDERS = 2 };
enum {
	SUPERBLOCK_AT = 1024,
	DESCRIPTORS_AT = 1,
	BLOCKS_USED_AT,
	INODES_USED_AT,
	INODES_AT,
	ROOT_AT = INODES_AT + INODES * INODE / BLOCK,
	LOST_AT,
	JOURNAL_AT,
	JOURNAL_BLOCKS = 1024, /* the fewest that the kernel takes */
	FREE_AT = JOURNAL_AT + JOURNAL_BLOCKS,
};
enum { IS_FOLDER = 0040755, IS_FILE = 0100600, TYPE_FOLDER = 2, HAS_EXTENTS = 0x80000 };

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = value;
	at[1] = value >> 8;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value);
	put16(at + 2, value >> 16);
}

/* The journal is big-endian. */
static void put32_be(uint8_t *at, uint32_t value)
{
	for (int byte = 0; byte < 4; byte++)
		at[byte] = value >> (24 - 8 * byte);
}

static void set_bits(uint8_t *bits, uint32_t from, uint32_t to)
{
	for (uint32_t bit = from; bit < to; bit++)
		bits[bit / 8] |= 1 << bit % 8;
}

static void write_block(int fd, uint32_t block, const uint8_t *data)
{
	if (pwrite(fd, data, BLOCK, (off_t)block * BLOCK) != BLOCK)
		die("ext4");
}

static void put_superblock(uint8_t *at, uint32_t blocks)
{
	const struct {
		uint16_t at;
		uint32_t value;
	} words[] = {
		{ 0x00, INODES },
		{ 0x04, blocks },
		{ 0x0c, blocks - FREE_AT },
		{ 0x10, INODES - FIRST_FREE_INODE + 1 },
		{ 0x18, 2 }, /* 1024 << 2 is the size of a block */
		{ 0x1c, 2 },
		{ 0x20, GROUP_BLOCKS },
		{ 0x24, GROUP_BLOCKS },
		{ 0x28, INODES },
		{ 0x4c, 1 }, /* inodes have a size of their own */
		{ 0x54, LOST },
		{ 0x5c, 0x4 }, /* a journal */
		{ 0x60, 0x2 | 0x40 }, /* types in folders, extents */
		{ 0x64, 0x1 | 0x2 | 0x40 }, /* few copies of this, large files, large inodes */
		{ 0xe0, JOURNAL },
	};

	for (size_t word = 0; word < sizeof(words) / sizeof(*words); word++)
		put32(at + words[word].at, words[word].value);
	put16(at + 0x36, 0xffff);
	put16(at + 0x38, 0xef53);
	put16(at + 0x3a, 1); /* clean */
	put16(at + 0x3c, 1); /* go on after an error */
	put16(at + 0x58, INODE);
	put16(at + 0x15c, INODE - 128 - 96);
	put16(at + 0x15e, INODE - 128 - 96);
}

static void put_inode(uint8_t *table, int number, uint32_t mode, int links, uint32_t block,
		      uint32_t blocks)
{
	uint8_t *at = table + (number - 1) * INODE, *extents = at + 0x28;

	put16(at, mode);
	put32(at + 0x04, blocks * BLOCK);
	put16(at + 0x1a, links);
	put32(at + 0x1c, blocks * (BLOCK / SECTOR));
	put32(at + 0x20, HAS_EXTENTS);
	put16(at + 0x80, INODE - 128 - 96);
	put16(extents, 0xf30a);
	put16(extents + 2, 1);
	put16(extents + 4, 4);
	put16(extents + 16, blocks);
	put32(extents + 20, block);
}

/* Returns where the next entry goes; the last entry fills the block. */
static uint8_t *put_entry(uint8_t *at, uint32_t inode, const char *name, uint32_t size)
{
	put32(at, inode);
	put16(at + 4, size);
	at[6] = strlen(name);
	at[7] = TYPE_FOLDER;
	memcpy(at + 8, name, strlen(name));
	return at + size;
}

static void write_folders(int fd)
{
	uint8_t block[BLOCK] = { 0 };
	uint8_t *at = put_entry(put_entry(block, ROOT, ".", 12), ROOT, "..", 12);

	put_entry(at, LOST, "lost+found", BLOCK - 24);
	write_block(fd, ROOT_AT, block);
	memset(block, 0, BLOCK);
	put_entry(put_entry(block, LOST, ".", 12), ROOT, "..", BLOCK - 12);
	write_block(fd, LOST_AT, block);
}

static void write_journal(int fd)
{
	uint8_t block[BLOCK] = { 0 };

	put32_be(block, 0xc03b3998);
	put32_be(block + 0x04, 4);
	put32_be(block + 0x0c, BLOCK);
	put32_be(block + 0x10, JOURNAL_BLOCKS);
	put32_be(block + 0x14, 1);
	put32_be(block + 0x18, 1);
	put32_be(block + 0x40, 1);
	write_block(fd, JOURNAL_AT, block);
}

void make_ext4(const char *path)
{
	static uint8_t table[INODES * INODE];
	uint8_t block[BLOCK] = { 0 };
	int fd = opened(path, O_RDWR);
	off_t size = lseek(fd, 0, SEEK_END);
	uint32_t blocks = size / BLOCK;

	if (size < (FREE_AT + 1L) * BLOCK || blocks > GROUP_BLOCKS) {
		errno = ENOSPC;
		die(path);
	}
	put_superblock(block + SUPERBLOCK_AT, blocks);
	write_block(fd, 0, block);
	memset(block, 0, BLOCK);
	put32(block, BLOCKS_USED_AT);
	put32(block + 4, INODES_USED_AT);
	put32(block + 8, INODES_AT);
	put16(block + 12, blocks - FREE_AT);
	put16(block + 14, INODES - FIRST_FREE_INODE + 1);
	put16(block + 16, FOLDERS);
	write_block(fd, DESCRIPTORS_AT, block);
	/* Bits of what does not exist are set. */
	memset(block, 0, BLOCK);
	set_bits(block, 0, FREE_AT);
	set_bits(block, blocks, GROUP_BLOCKS);
	write_block(fd, BLOCKS_USED_AT, block);
	memset(block, 0, BLOCK);
	set_bits(block, 0, FIRST_FREE_INODE - 1);
	set_bits(block, INODES, GROUP_BLOCKS);
	write_block(fd, INODES_USED_AT, block);
	put_inode(table, ROOT, IS_FOLDER, ROOT_LINKS, ROOT_AT, 1);
	put_inode(table, LOST, IS_FOLDER, LOST_LINKS, LOST_AT, 1);
	put_inode(table, JOURNAL, IS_FILE, 1, JOURNAL_AT, JOURNAL_BLOCKS);
	for (size_t part = 0; part < sizeof(table) / BLOCK; part++)
		write_block(fd, INODES_AT + part, table + part * BLOCK);
	write_folders(fd);
	write_journal(fd);
	if (fsync(fd) || close(fd))
		die(path);
}
