// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reads the flattened device tree (Devicetree Specification 0.4) with the MMU off. The tree comes
 * from any VMM: numbers of cells and bus ranges are what it says, and every offset is checked.
 */
#include "conf.h"
#include "pvlock.h"

struct conf_board conf_board;

enum { BEGIN_NODE = 1, END_NODE, PROP, NOP, END };
enum { MAGIC = 0xd00dfeed, MAX_DEPTH = 12, MAX_SIZE = 2 << 20, HEADER = 40, PATH = 128 };

struct bytes {
	const unsigned char *p;
	u32 size;
	bool present;
};

struct node {
	struct bytes compatible, type, reg, ranges, status, method, reg_shift, reg_io_width;
	u32 address_cells, size_cells;	/* of its children */
	bool no_map;
	const char *stdout_rest;	/* the rest of stdout-path from here; NULL: not on it */
};

struct tree {
	const unsigned char *base, *p, *end;	/* the structure block */
	const char *strings;
	u32 strings_size;
};

struct token {
	u32 kind;
	const char *name;
	struct bytes value;
};

static char stdout_path[PATH];

bool conf_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static u32 be32(const unsigned char *b)
{
	return (u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

static u64 cells(const unsigned char *p, u32 count)
{
	u64 value = 0;

	while (count--)
		value = value << 32 | be32(p), p += 4;
	return value;
}

/* Is it this string, and does the string end within the property? */
static bool is(const struct bytes *b, const char *wanted)
{
	u32 i = 0;

	for (; i < b->size && b->p[i] && b->p[i] == (unsigned char)wanted[i]; i++)
		;
	return b->present && i < b->size && !b->p[i] && !wanted[i];
}

static bool lists(const struct bytes *b, const char *wanted)
{
	for (u32 i = 0; i < b->size; i++) {
		struct bytes rest = { b->p + i, b->size - i, true };

		if ((i == 0 || !b->p[i - 1]) && is(&rest, wanted))
			return true;
	}
	return false;
}

static bool open(struct tree *t, const void *dtb)
{
	const unsigned char *base = dtb;
	u32 total, at, size, strings;

	if (!base || (u64)base & 7 || be32(base) != MAGIC)
		return false;
	total = be32(base + 4), at = be32(base + 8), strings = be32(base + 12);
	t->strings_size = be32(base + 32), size = be32(base + 36);
	if (total > MAX_SIZE || total < HEADER || at > total || size > total - at ||
	    strings > total || t->strings_size > total - strings)
		return false;
	t->base = base;
	t->p = base + at;
	t->end = t->p + size;
	t->strings = (const char *)base + strings;
	return true;
}

/* The next token that is no NOP. A tree that is damaged ends there. */
static struct token next(struct tree *t)
{
	struct token token = { .kind = END };

	for (;;) {
		u32 kind, size, name;

		if (t->end - t->p < 4)
			return token;
		kind = be32(t->p), t->p += 4;
		if (kind == NOP)
			continue;
		if (kind == BEGIN_NODE) {
			token.name = (const char *)t->p;
			while (t->p < t->end && *t->p)
				t->p++;
			if (t->p == t->end)
				return token;
			t->p += 4 - ((t->p - t->base) & 3);
		} else if (kind == PROP) {
			if (t->end - t->p < 8)
				return token;
			size = be32(t->p), name = be32(t->p + 4), t->p += 8;
			if (size > t->end - t->p || name >= t->strings_size)
				return token;
			token.name = t->strings + name;
			token.value = (struct bytes){ t->p, size, true };
			t->p += (size + 3) & ~3u;
		} else if (kind != END_NODE) {
			return token;
		}
		token.kind = kind;
		return token;
	}
}

static void copy(char *to, size_t room, const struct bytes *from)
{
	size_t n = 0;

	for (; n < from->size && n < room - 1 && from->p[n]; n++)
		to[n] = from->p[n];
	to[n] = 0;
}

/* First walk: take the properties of /chosen, and resolve the alias in stdout-path. */
static void read_chosen(const void *dtb)
{
	static char alias[PATH];
	struct token token;
	const char *node = "";
	struct tree t;
	u32 depth = 0;

	/* Two passes, since /aliases can stand before or after /chosen. */
	for (u32 pass = 0; pass < 2; pass++) {
		depth = 0;
		if (!open(&t, dtb))
			return;
		while ((token = next(&t)).kind != END) {
			if (token.kind == BEGIN_NODE)
				depth++, node = token.name;
			else if (token.kind == END_NODE)
				depth--, node = "";
			else if (depth != 2)
				continue;
			else if (pass == 0 && conf_same(node, "chosen") && conf_same(token.name,
										     "bootargs"))
				copy(conf_board.bootargs, MAX_BOOTARGS, &token.value);
			else if (pass == 0 && conf_same(node, "chosen") && conf_same(token.name,
										     "stdout-path"))
				copy(stdout_path, PATH, &token.value);
			else if (pass == 1 && conf_same(node, "aliases") && conf_same(token.name,
										      alias))
				copy(stdout_path, PATH, &token.value);
		}
		for (u32 i = 0; pass == 0 && i < PATH; i++) {
			alias[i] = stdout_path[i] == ':' ? 0 : stdout_path[i];
			if (!alias[i])
				break;
		}
		if (stdout_path[0] == '/' || !stdout_path[0])
			return;
	}
	stdout_path[0] = 0;
}

/* The rest of the path after its first component. NULL if that component is not `name`. */
static const char *descend(const char *rest, const char *name)
{
	if (!rest || *rest != '/')
		return NULL;
	for (rest++; *rest && *rest != '/' && *rest != ':'; rest++, name++)
		if (*rest != *name)
			return NULL;
	return *name && *name != '@' ? NULL : rest;
}

/* Pair `index` of `reg` in the address space of the root. False if it is not there. */
static bool region(const struct node *nodes, int depth, u32 index, struct range *found)
{
	const struct node *n = &nodes[depth], *parent = n - 1;
	u32 ac = parent->address_cells, sc = parent->size_cells, entry = 4 * (ac + sc);

	if (depth < 1 || !ac || ac > 2 || sc > 2 || (u64)(index + 1) * entry > n->reg.size)
		return false;
	found->base = cells(n->reg.p + index * entry, ac);
	found->size = cells(n->reg.p + index * entry + 4 * ac, sc);
	for (; parent > nodes; parent--) {
		u32 up = parent[-1].address_cells, step;
		bool translated = !parent->ranges.size;

		ac = parent->address_cells, sc = parent->size_cells, step = 4 * (ac + up + sc);
		if (!parent->ranges.present || !ac || ac > 2 || !up || up > 2 || sc > 2)
			return false;
		for (u32 at = 0; !translated && at + step <= parent->ranges.size; at += step) {
			const unsigned char *p = parent->ranges.p + at;
			u64 child = cells(p, ac), size = cells(p + 4 * (ac + up), sc);

			if (found->base >= child && found->base - child < size) {
				found->base += cells(p + 4 * ac, up) - child;
				translated = true;
			}
		}
		if (!translated)
			return false;
	}
	return true;
}

static u32 number(const struct bytes *b, u32 otherwise)
{
	return b->size == 4 ? be32(b->p) : otherwise;
}

static void take_uart(const struct node *nodes, int depth, enum uart kind)
{
	const struct node *n = &nodes[depth];
	bool is_stdout = n->stdout_rest && (!*n->stdout_rest || *n->stdout_rest == ':');
	struct range r;

	/* Without a stdout-path take the first UART. */
	if ((conf_board.uart_kind && !is_stdout) || !region(nodes, depth, 0, &r))
		return;
	conf_board.uart_kind = kind;
	conf_board.uart = r.base;
	conf_board.uart_shift = number(&n->reg_shift, 0) & 7;
	conf_board.uart_width = number(&n->reg_io_width, kind == UART_PL011 ? 4 : 1);
}

static void take_gic(const struct node *nodes, int depth, u32 version)
{
	struct range r;

	if (conf_board.gic || !region(nodes, depth, 0, &conf_board.gicd) || !region(nodes, depth,
										    1, &r))
		return;
	conf_board.gic = version;
	if (version == 2)
		conf_board.gicc = r;
	for (u32 i = 1; version == 3 && conf_board.gicrs < MAX_RANGES && region(nodes, depth, i,
										&r); i++)
		conf_board.gicr[conf_board.gicrs++] = r;
}

/* Called at a node's end: take from it what we need. */
static void take(const struct node *nodes, int depth)
{
	const struct node *n = &nodes[depth];
	const struct bytes *c = &n->compatible;

	if (n->status.present && !is(&n->status, "okay") && !is(&n->status, "ok"))
		return;
	if (is(&n->type, "cpu")) {
		u32 ac = depth ? n[-1].address_cells : 0;

		if (conf_board.cpus < MAX_CPUS && (ac == 1 || ac == 2) && n->reg.size >= 4 * ac)
			conf_board.mpidr[conf_board.cpus++] = cells(n->reg.p, ac);
	} else if (is(&n->type, "memory")) {
		for (u32 i = 0; conf_board.memories < MAX_RANGES; i++, conf_board.memories++)
			if (!region(nodes, depth, i, &conf_board.memory[conf_board.memories]))
				break;
	} else if (lists(c, "arm,psci-1.0") || lists(c, "arm,psci-0.2")) {
		conf_board.conduit = is(&n->method, "hvc") ? CONDUIT_HVC :
				is(&n->method, "smc") ? CONDUIT_SMC : CONDUIT_NONE;
	} else if (lists(c, "arm,pl011") || lists(c, "arm,sbsa-uart")) {
		take_uart(nodes, depth, UART_PL011);
	} else if (lists(c, "ns16550a") || lists(c, "ns16550")) {
		take_uart(nodes, depth, UART_NS16550);
	} else if (lists(c, "arm,gic-v3")) {
		take_gic(nodes, depth, 3);
	} else if (lists(c, "arm,cortex-a15-gic") || lists(c, "arm,gic-400")) {
		take_gic(nodes, depth, 2);
	} else if (lists(c, PVLOCK_COMPATIBLE) && region(nodes, depth, 0, &conf_board.pvlock)) {
		conf_board.pvlock_node = true;
		conf_board.pvlock_no_map = n->no_map;
	}
}

static void property(struct node *n, const struct token *token)
{
	static const struct {
		const char name[16];
		u32 offset;
	} kept[] = {
		{ "compatible", offsetof(struct node, compatible) },
		{ "device_type", offsetof(struct node, type) },
		{ "reg", offsetof(struct node, reg) },
		{ "ranges", offsetof(struct node, ranges) },
		{ "status", offsetof(struct node, status) },
		{ "method", offsetof(struct node, method) },
		{ "reg-shift", offsetof(struct node, reg_shift) },
		{ "reg-io-width", offsetof(struct node, reg_io_width) },
	};

	for (u32 i = 0; i < LENGTH(kept); i++)
		if (conf_same(token->name, kept[i].name))
			*(struct bytes *)((char *)n + kept[i].offset) = token->value;
	if (conf_same(token->name, "#address-cells"))
		n->address_cells = number(&token->value, n->address_cells);
	else if (conf_same(token->name, "#size-cells"))
		n->size_cells = number(&token->value, n->size_cells);
	else if (conf_same(token->name, "no-map"))
		n->no_map = true;
}

void conf_board_read(const void *dtb, u64 own_base)
{
	static struct node nodes[MAX_DEPTH];
	struct token token;
	struct tree t;
	int depth = -1;

	/* QEMU gives an ELF file no X0, and puts the tree where memory begins: at a GiB. */
	if (!open(&t, dtb))
		dtb = (const void *)(own_base & ~0x3ffffffful);
	if (!open(&t, dtb))
		return;
	conf_board.dtb = dtb;
	conf_board.dtb_size = be32((const unsigned char *)dtb + 4);
	read_chosen(dtb);
	while ((token = next(&t)).kind != END) {
		if (token.kind == BEGIN_NODE) {
			const char *rest = depth < 0 ? stdout_path :
					   descend(nodes[depth].stdout_rest, token.name);

			if (++depth == MAX_DEPTH)
				return;
			nodes[depth] = (struct node){ .address_cells = 2, .size_cells = 1,
						      .stdout_rest = rest };
		} else if (depth < 0) {
			return;
		} else if (token.kind == PROP) {
			property(&nodes[depth], &token);
		} else {
			take(nodes, depth--);
		}
	}
}

bool conf_bootarg(const char *name, char *value, size_t size)
{
	const char *p = conf_board.bootargs;

	while (*p) {
		const char *n = name;

		while (*n && *n == *p)
			n++, p++;
		if (!*n && *p == '=') {
			for (p++; *p && *p != ' ' && size > 1; size--)
				*value++ = *p++;
			*value = 0;
			return true;
		}
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	return false;
}

u64 conf_bootarg_number(const char *name, u64 otherwise)
{
	char text[24];
	u64 value = 0;

	if (!conf_bootarg(name, text, sizeof(text)) || !text[0])
		return otherwise;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return otherwise;
		value = value * 10 + (*p - '0');
	}
	return value;
}

bool conf_in_memory(u64 address, u64 size)
{
	for (u32 i = 0; i < conf_board.memories; i++) {
		const struct range *m = &conf_board.memory[i];

		if (address >= m->base && size <= m->size && address - m->base <= m->size - size)
			return true;
	}
	return false;
}
