// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reads the flattened device tree (Devicetree Specification, chapter 5), with the MMU off. It
 * trusts the tree of pvlock's machine: the offsets are right, and addresses and sizes are two cells
 * each.
 */
#include "guest.h"
#include "pvlock.h"

struct board board;

enum { BEGIN_NODE = 1, END_NODE, PROP, NOP, END };
enum { MAGIC = 0xd00dfeed, MAX_DEPTH = 8 };

static u32 be32(const void *p)
{
	const unsigned char *b = p;

	return (u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

static u64 be64(const void *p)
{
	return (u64)be32(p) << 32 | be32((const char *)p + 4);
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Does the string list `list` of `size` bytes hold `wanted`? */
static bool lists(const char *list, u32 size, const char *wanted)
{
	for (u32 i = 0; i < size; i++)
		if ((i == 0 || !list[i - 1]) && same(list + i, wanted))
			return true;
	return false;
}

struct node {
	const char *compatible, *type, *reg;
	u32 compatible_size, reg_size;
};

/* Called at a node's end: take from it what we need. */
static void take(const struct node *n)
{
	const char *c = n->compatible;
	u32 size = n->compatible_size;

	if (!n->reg)
		return;
	if (n->type && same(n->type, "cpu") && board.vcpus < MAX_VCPUS)
		board.mpidr[board.vcpus++] = n->reg_size == 8 ? be64(n->reg) : be32(n->reg);
	else if (n->type && same(n->type, "memory") && n->reg_size >= 16)
		board.ram = be64(n->reg), board.ram_size = be64(n->reg + 8);
	else if (!c)
		return;
	else if (lists(c, size, "arm,pl011"))
		board.uart = be64(n->reg);
	else if (lists(c, size, "arm,gic-v3") && n->reg_size >= 32) {
		board.gicd = be64(n->reg), board.gicd_size = be64(n->reg + 8);
		board.gicr = be64(n->reg + 16), board.gicr_size = be64(n->reg + 24);
	} else if (lists(c, size, PVLOCK_COMPATIBLE) && n->reg_size >= 16)
		board.pvlock = be64(n->reg), board.pvlock_size = be64(n->reg + 8);
#ifdef PVLOCK_TRACE
	else if (lists(c, size, PVLOCK_TRACE_COMPATIBLE) && n->reg_size >= 16)
		board.trace = be64(n->reg), board.trace_size = be64(n->reg + 8);
#endif
}

static void property(struct node *n, const char *name, const char *value, u32 size)
{
	if (same(name, "compatible"))
		n->compatible = value, n->compatible_size = size;
	else if (same(name, "device_type"))
		n->type = value;
	else if (same(name, "reg"))
		n->reg = value, n->reg_size = size;
	else if (same(name, "bootargs"))
		board.bootargs = value;
}

void board_read(const void *dtb)
{
	const char *base = dtb, *p, *strings;
	struct node nodes[MAX_DEPTH];
	int depth = -1;

	board.bootargs = "";
	if (be32(base) != MAGIC)
		return;
	p = base + be32(base + 8);
	strings = base + be32(base + 12);
	for (;;) {
		u32 token = be32(p);

		p += 4;
		if (token == BEGIN_NODE) {
			while (*p++)
				;
			p = base + ((p - base + 3) & ~3l);
			if (++depth == MAX_DEPTH)
				return;
			nodes[depth] = (struct node){};
		} else if (token == PROP) {
			u32 size = be32(p);

			property(&nodes[depth], strings + be32(p + 4), p + 8, size);
			p += 8 + ((size + 3) & ~3u);
		} else if (token == END_NODE) {
			take(&nodes[depth--]);
		} else if (token != NOP) {
			return;
		}
	}
}

u64 bootarg(const char *name, u64 otherwise)
{
	const char *p = board.bootargs;

	while (*p) {
		const char *n = name;

		while (*n && *n == *p)
			n++, p++;
		if (!*n && *p == '=') {
			u64 value = 0;

			while (*++p >= '0' && *p <= '9')
				value = value * 10 + (*p - '0');
			return value;
		}
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	return otherwise;
}
