// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A GICv3 (IHI 0069): distributor, a redistributor and a CPU interface for each VCPU.
 *
 * One Security state (GICD_CTLR.DS reads as one), affinity routing always on, SGIs 0-15, PPIs
 * 16-31, SPIs 32-63, no LPIs, five priority bits. Group 1 interrupts assert IRQ, Group 0 FIQ.
 */
#include <stdlib.h>
#include <string.h>

#include "emulator.h"
#include "gic.h"

enum { BANK = 32, SPURIOUS = 1023, IDLE_PRIORITY = 0xff, PRIORITY_MASK = 0xf8 };
enum { MOST_VCPUS = 512, CHANGED_WORDS = MOST_VCPUS / 64 };
enum { CTLR_CBPR = 1, CTLR_EOIMODE = 2 };
/* PRIbits = 5 - 1; IDbits = 0 (16 bits); A3V = 0; RSS = 1, SGI registers have a range selector. */
#define CTLR_FIXED ((5 - 1) << 8 | 1 << 18)
#define SRE 7			/* DIB, DFB, SRE: there is no memory-mapped CPU interface */
#define SGIS 0xffffu

enum icc {
	ICC_IAR0 = KEY(3, 0, 12, 8, 0), ICC_EOIR0 = KEY(3, 0, 12, 8, 1),
	ICC_HPPIR0 = KEY(3, 0, 12, 8, 2), ICC_BPR0 = KEY(3, 0, 12, 8, 3),
	ICC_AP0R0 = KEY(3, 0, 12, 8, 4), ICC_AP1R0 = KEY(3, 0, 12, 9, 0),
	ICC_DIR = KEY(3, 0, 12, 11, 1), ICC_RPR = KEY(3, 0, 12, 11, 3),
	ICC_SGI1R = KEY(3, 0, 12, 11, 5), ICC_ASGI1R = KEY(3, 0, 12, 11, 6),
	ICC_SGI0R = KEY(3, 0, 12, 11, 7), ICC_IAR1 = KEY(3, 0, 12, 12, 0),
	ICC_EOIR1 = KEY(3, 0, 12, 12, 1), ICC_HPPIR1 = KEY(3, 0, 12, 12, 2),
	ICC_BPR1 = KEY(3, 0, 12, 12, 3), ICC_CTLR = KEY(3, 0, 12, 12, 4),
	ICC_SRE = KEY(3, 0, 12, 12, 5), ICC_IGRPEN0 = KEY(3, 0, 12, 12, 6),
	ICC_IGRPEN1 = KEY(3, 0, 12, 12, 7),
};

/* 32 interrupts, a bit (or a priority byte) each. */
struct bank {
	uint32_t edge, configurable, group, enabled, active;
	uint32_t latched;	/* by an edge, an SGI or GICD_ISPENDR; until acknowledged */
	uint32_t level;		/* the wires */
	uint8_t priority[BANK];
};

struct cpu_interface {
	struct bank private;	/* INTIDs 0 to 31 */
	uint32_t routed;	/* the SPIs whose GICD_IROUTER names this VCPU */
	uint32_t pmr, control, enabled, bpr[2];
	uint32_t active[2];	/* ICC_AP<g>R0: bit n while priority n << 3 is active */
};

struct gic {
	uint32_t count, enables;
	uint64_t changed[CHANGED_WORDS];
	struct bank spis;	/* INTIDs 32 to 63 */
	uint64_t routes[BANK];
	uint32_t affinities[MOST_VCPUS];
	struct cpu_interface cpus[];
};

struct candidate {
	int intid;		/* -1: none */
	uint32_t priority, group;
};

/* The least binary points that five priority bits allow (IHI 0069, "Priority grouping"). */
static const uint32_t min_bpr[2] = { 2, 3 };

static void changed(struct gic *g, uint32_t vcpu)
{
	g->changed[vcpu / 64] |= 1ull << vcpu % 64;
}

static void all_changed(struct gic *g)
{
	for (uint32_t i = 0; i < g->count; i++)
		changed(g, i);
}

int gic_take_changed(struct gic *g)
{
	for (uint32_t i = 0; i < CHANGED_WORDS; i++)
		if (g->changed[i]) {
			int bit = __builtin_ctzll(g->changed[i]);

			g->changed[i] &= g->changed[i] - 1;
			return 64 * i + bit;
		}
	return -1;
}

static void reset_interface(struct cpu_interface *c)
{
	c->pmr = c->control = c->enabled = c->active[0] = c->active[1] = 0;
	memcpy(c->bpr, min_bpr, sizeof(min_bpr));
}

static void route(struct gic *g)
{
	for (uint32_t i = 0; i < g->count; i++) {
		g->cpus[i].routed = 0;
		for (uint32_t n = 0; n < BANK; n++)
			if (g->routes[n] == g->affinities[i])
				g->cpus[i].routed |= 1u << n;
	}
}

EXPORT struct gic *gic_new(uint32_t count, const uint32_t *affinities)
{
	struct gic *g = calloc(1, sizeof(*g) + count * sizeof(g->cpus[0]));

	if (!g || count > MOST_VCPUS)
		return NULL;
	g->count = count;
	memcpy(g->affinities, affinities, count * sizeof(*affinities));
	g->spis.configurable = ~0u;
	for (uint32_t i = 0; i < count; i++) {
		/* PPIs are level-sensitive for good: the timer depends on it, and KVM has it so. */
		g->cpus[i].private.edge = SGIS;
		reset_interface(&g->cpus[i]);
	}
	route(g);
	return g;
}

EXPORT void gic_free(struct gic *g)
{
	free(g);
}

/* The CPU interface alone, not the redistributor (PSCI CPU_OFF, CPU_ON). */
EXPORT void gic_reset_vcpu(struct gic *g, uint32_t vcpu)
{
	reset_interface(&g->cpus[vcpu]);
	changed(g, vcpu);
}

/* ---- which interrupt is signalled ---- */

static uint32_t pending(const struct bank *b)
{
	return b->latched | (b->level & ~b->edge);
}

static void consider(struct candidate *best, const struct bank *b, int base, uint32_t groups,
		     uint32_t mine)
{
	uint32_t wanted = (groups & 2 ? b->group : 0) | (groups & 1 ? ~b->group : 0);
	uint32_t bits = pending(b) & b->enabled & ~b->active & wanted & mine;

	for (; bits; bits &= bits - 1) {
		int n = __builtin_ctz(bits);

		if (best->intid < 0 || b->priority[n] < best->priority)
			*best = (struct candidate){ base + n, b->priority[n], b->group >> n & 1 };
	}
}

static struct candidate highest_pending(const struct gic *g, const struct cpu_interface *c)
{
	/* A group that is off on either side is not looked at: it must not hide the other one. */
	uint32_t groups = g->enables & c->enabled;
	struct candidate best = { -1, 0, 0 };

	if (groups) {
		consider(&best, &c->private, 0, groups, ~0u);
		consider(&best, &g->spis, BANK, groups, c->routed);
	}
	return best;
}

/* The part of the priority that decides on preemption (IHI 0069, "Priority grouping"). */
static uint32_t group_priority(const struct cpu_interface *c, struct candidate i)
{
	bool own = i.group && !(c->control & CTLR_CBPR);

	return i.priority & 0xffu << (own ? c->bpr[1] : c->bpr[0] + 1);
}

static uint32_t running_priority(const struct cpu_interface *c)
{
	uint32_t levels = c->active[0] | c->active[1];

	return levels ? (uint32_t)__builtin_ctz(levels) << 3 : IDLE_PRIORITY;
}

/* The highest priority pending interrupt, if ICC_PMR_EL1 and what runs let it through. */
static struct candidate signalled(const struct gic *g, const struct cpu_interface *c)
{
	struct candidate found = highest_pending(g, c);

	if (found.intid >= 0 && (found.priority >= c->pmr ||
				 group_priority(c, found) >= running_priority(c)))
		found.intid = -1;
	return found;
}

EXPORT uint32_t gic_line(const struct gic *g, uint32_t vcpu)
{
	struct candidate found = signalled(g, &g->cpus[vcpu]);

	return found.intid < 0 ? 0 : found.group ? LINE_IRQ : LINE_FIQ;
}

/* ---- wires ---- */

EXPORT void gic_set_level(struct gic *g, uint32_t vcpu, uint32_t intid, bool level)
{
	struct bank *b = intid < BANK ? &g->cpus[vcpu].private : &g->spis;
	uint32_t bit = 1u << intid % BANK;

	if (level) {
		b->latched |= bit & b->edge & ~b->level;
		b->level |= bit;
	} else {
		b->level &= ~bit;
	}
	if (intid < BANK)
		changed(g, vcpu);
	else
		all_changed(g);
}

/* ---- CPU interface registers ---- */

static struct bank *bank_of(struct gic *g, struct cpu_interface *c, uint64_t intid)
{
	intid &= 0xffffff;
	return intid < BANK ? &c->private : intid < 2 * BANK ? &g->spis : NULL;
}

static uint64_t acknowledge(struct gic *g, struct cpu_interface *c, uint32_t group)
{
	struct candidate found = signalled(g, c);
	struct bank *b;

	if (found.intid < 0 || found.group != group)
		return SPURIOUS;
	c->active[group] |= 1u << (group_priority(c, found) >> 3);
	b = bank_of(g, c, found.intid);
	/* Pending becomes active, or active and pending while a level-sensitive wire is high. */
	b->latched &= ~(1u << found.intid % BANK);
	b->active |= 1u << found.intid % BANK;
	return found.intid;
}

/*
 * ICC_EOIR<group>_EL1: drop the priority and, with EOImode 0, deactivate. A write to the register
 * of the group that is not running, or that names no interrupt, is UNPREDICTABLE: it changes
 * nothing.
 */
static void end(struct gic *g, struct cpu_interface *c, uint64_t value, uint32_t group)
{
	uint32_t mine = c->active[group] & -c->active[group];
	uint32_t other = c->active[!group] & -c->active[!group];
	uint32_t bit = 1u << value % BANK;
	struct bank *b = bank_of(g, c, value);

	if (!b || !mine || (other && other < mine))
		return;
	c->active[group] ^= mine;
	if (!(c->control & CTLR_EOIMODE) && !!(b->group & bit) == group)
		b->active &= ~bit;
}

static void deactivate(struct gic *g, struct cpu_interface *c, uint64_t value)
{
	struct bank *b = bank_of(g, c, value);

	/* With EOImode 0 the write is UNPREDICTABLE; KVM ignores it too. */
	if (b && c->control & CTLR_EOIMODE)
		b->active &= ~(1u << value % BANK);
}

static uint64_t read_highest(struct gic *g, struct cpu_interface *c, uint32_t group)
{
	struct candidate found = highest_pending(g, c);

	return found.intid >= 0 && found.group == group ? found.intid : SPURIOUS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static void write_bpr(struct cpu_interface *c, uint32_t value, uint32_t group)
{
	if (!(group && c->control & CTLR_CBPR))
		c->bpr[group] = value < min_bpr[group] ? min_bpr[group] : value;
}

static void write_enable(struct cpu_interface *c, uint64_t value, uint32_t group)
{
	c->enabled = (c->enabled & ~(1u << group)) | (value & 1) << group;
}

static void latch_sgi(struct gic *g, uint32_t vcpu, uint32_t bit, bool either_group)
{
	struct bank *b = &g->cpus[vcpu].private;

	if (either_group || !(b->group & bit)) {
		b->latched |= bit;
		changed(g, vcpu);
	}
}

/*
 * ICC_SGI<n>R_EL1.{RS, IRM, Aff3-1, INTID, TargetList}. With GICD_CTLR.DS one, ICC_SGI1R_EL1 makes
 * whichever group the target has configured, the other two Group 0 only: so KVM (access_gic_sgi)
 * reads IHI 0069, "Use of control registers for SGI forwarding", and one guest must find the same
 * on both engines.
 */
static void send_sgi(struct gic *g, uint32_t sender, uint64_t value, bool either_group)
{
	uint32_t bit = 1u << (value >> 24 & 0xf), cluster, first;

	if (value >> 40 & 1) {
		for (uint32_t i = 0; i < g->count; i++)
			if (i != sender)
				latch_sgi(g, i, bit, either_group);
		return;
	}
	if (value >> 48 & 0xff)
		return;			/* no VCPU has an Aff3 */
	cluster = (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
	first = cluster | (value >> 44 & 0xf) << 4;
	for (uint32_t i = 0; i < g->count; i++) {
		uint32_t n = g->affinities[i] - first;

		if (n < 16 && value >> n & 1)
			latch_sgi(g, i, bit, either_group);
	}
}

bool gic_is_sgi(uint32_t key)
{
	return key == ICC_SGI0R || key == ICC_SGI1R || key == ICC_ASGI1R;
}

EXPORT bool gic_read_register(struct gic *g, uint32_t vcpu, uint32_t key, uint64_t *value)
{
	struct cpu_interface *c = &g->cpus[vcpu];

	changed(g, vcpu);		/* ICC_IAR<n>_EL1 acknowledges */
	switch (key) {
	case ICC_PMR_EL1: *value = c->pmr; return true;
	case ICC_IAR0: *value = acknowledge(g, c, 0); return true;
	case ICC_IAR1: *value = acknowledge(g, c, 1); return true;
	case ICC_HPPIR0: *value = read_highest(g, c, 0); return true;
	case ICC_HPPIR1: *value = read_highest(g, c, 1); return true;
	case ICC_BPR0: *value = c->bpr[0]; return true;
	case ICC_BPR1: *value = c->control & CTLR_CBPR ? least(c->bpr[0] + 1, 7) : c->bpr[1];
		return true;
	case ICC_AP0R0: *value = c->active[0]; return true;
	case ICC_AP1R0: *value = c->active[1]; return true;
	case ICC_RPR: *value = running_priority(c); return true;
	case ICC_CTLR: *value = c->control | CTLR_FIXED; return true;
	case ICC_SRE: *value = SRE; return true;
	case ICC_IGRPEN0: *value = c->enabled & 1; return true;
	case ICC_IGRPEN1: *value = c->enabled >> 1; return true;
	}
	return false;
}

EXPORT bool gic_write_register(struct gic *g, uint32_t vcpu, uint32_t key, uint64_t value)
{
	struct cpu_interface *c = &g->cpus[vcpu];
	uint32_t active = g->spis.active;

	if (gic_is_sgi(key)) {
		send_sgi(g, vcpu, value, key == ICC_SGI1R);
		return true;
	}
	changed(g, vcpu);
	switch (key) {
	case ICC_PMR_EL1: c->pmr = value & PRIORITY_MASK; break;
	case ICC_EOIR0: end(g, c, value, 0); break;
	case ICC_EOIR1: end(g, c, value, 1); break;
	case ICC_DIR: deactivate(g, c, value); break;
	case ICC_BPR0: write_bpr(c, value & 7, 0); break;
	case ICC_BPR1: write_bpr(c, value & 7, 1); break;
	case ICC_AP0R0: c->active[0] = value; break;
	case ICC_AP1R0: c->active[1] = value; break;
	case ICC_CTLR: c->control = value & (CTLR_CBPR | CTLR_EOIMODE); break;
	case ICC_SRE: break;
	case ICC_IGRPEN0: write_enable(c, value, 0); break;
	case ICC_IGRPEN1: write_enable(c, value, 1); break;
	default: return false;
	}
	/* An SPI may be deactivated here and be pending for the VCPU that it was routed to since. */
	if (g->spis.active != active)
		all_changed(g);
	return true;
}

/* ---- frames ---- */

enum { GICD_CTLR = 0, GICD_TYPER = 4, GICD_IIDR = 8, GICD_IROUTER = 0x6000, PIDR2 = 0xffe8 };
enum { GICR_TYPER = 8, GICR_IIDR = 4, GICR_STRIDE = 0x20000, SGI_BASE = 0x10000 };
enum { IGROUPR = 0x080, ISENABLER = 0x100, ICENABLER = 0x180, ISPENDR = 0x200, ICPENDR = 0x280,
       ISACTIVER = 0x300, ICACTIVER = 0x380, IPRIORITYR = 0x400, ICFGR = 0xc00 };
#define CTLR_ENABLES 3u		/* EnableGrp1, EnableGrp0 */
#define GICD_CTLR_FIXED (1u << 6 | 1u << 4)	/* DS, ARE */
/* ITLinesNumber = 1 (64 INTIDs), IDbits = 10 - 1, No1N, RSS; CPUNumber is 0 as ARE is one. */
#define GICD_TYPER_VALUE (1u | (10 - 1) << 19 | 1u << 25 | 1u << 26)
#define IIDR_VALUE ((uint32_t)'P' << 24 | 0x43b)	/* product P of implementer Arm */
#define PIDR2_VALUE (3u << 4)	/* ArchRev: GICv3 */

/* Registers with a field for each INTID: where each block of them starts, and a field's bits. */
static const struct { uint32_t start, bits; } blocks[] = {
	{ IGROUPR, 1 }, { ISENABLER, 1 }, { ICENABLER, 1 }, { ISPENDR, 1 }, { ICPENDR, 1 },
	{ ISACTIVER, 1 }, { ICACTIVER, 1 }, { IPRIORITYR, 8 }, { ICFGR, 2 },
};

/* Block and first INTID of an access: an aligned word, or one byte of GICD_IPRIORITYR<n>. */
static uint32_t locate(uint32_t offset, uint32_t size, uint32_t *intid)
{
	for (uint32_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
		uint32_t start = blocks[i].start;

		*intid = (offset - start) * 8 / blocks[i].bits;
		if (offset >= start && offset - start < 1024 * blocks[i].bits / 8 &&
		    ((size == 4 && offset % 4 == 0) || (size == 1 && start == IPRIORITYR)))
			return start;
	}
	return 0;
}

static uint32_t read_block(const struct bank *b, uint32_t block, uint32_t n, uint32_t size)
{
	uint32_t value = 0;

	switch (block) {
	case IGROUPR: return b->group;
	case ISENABLER: case ICENABLER: return b->enabled;
	case ISPENDR: case ICPENDR: return pending(b);
	case ISACTIVER: case ICACTIVER: return b->active;
	case IPRIORITYR:
		memcpy(&value, &b->priority[n], size);
		return value;
	}
	for (uint32_t i = 0; i < 16; i++)
		value |= (b->edge >> (n + i) & 1) << (2 * i + 1);
	return value;
}

static void write_block(struct bank *b, uint32_t block, uint32_t n, uint32_t size, uint32_t value)
{
	uint32_t edges = 0, writable;

	switch (block) {
	case IGROUPR: b->group = value; return;
	case ISENABLER: b->enabled |= value; return;
	case ICENABLER: b->enabled &= ~value; return;
	case ISPENDR: b->latched |= value; return;
	case ICPENDR: b->latched &= ~value; return;
	case ISACTIVER: b->active |= value; return;
	case ICACTIVER: b->active &= ~value; return;
	case IPRIORITYR:
		for (uint32_t i = 0; i < size; i++)
			b->priority[n + i] = value >> 8 * i & PRIORITY_MASK;
		return;
	}
	for (uint32_t i = 0; i < 16; i++)
		edges |= (value >> (2 * i + 1) & 1) << (n + i);
	writable = 0xffffu << n & b->configurable;
	b->edge = (b->edge & ~writable) | (edges & writable);
}

/* GICD_IROUTER<n> of an SPI has 64 bits, accessible whole or by halves. */
static bool is_route(uint32_t offset, uint32_t size, uint32_t *n)
{
	uint32_t part = offset % 8;

	*n = (offset - GICD_IROUTER) / 8 - BANK;
	return offset >= GICD_IROUTER && *n < BANK &&
	       ((size == 8 && part == 0) || (size == 4 && part % 4 == 0));
}

EXPORT uint64_t gic_read_distributor(struct gic *g, uint32_t offset, uint32_t size)
{
	uint32_t n, block = locate(offset, size, &n);

	/* INTIDs 0 to 31 are RES0 here: with ARE one they live in the redistributors. */
	if (block)
		return n / BANK == 1 ? read_block(&g->spis, block, n % BANK, size) : 0;
	if (is_route(offset, size, &n))
		return g->routes[n] >> 8 * (offset % 8);
	if (size != 4)
		return 0;
	switch (offset) {
	case GICD_CTLR: return g->enables | GICD_CTLR_FIXED;
	case GICD_TYPER: return GICD_TYPER_VALUE;
	case GICD_IIDR: return IIDR_VALUE;
	case PIDR2: return PIDR2_VALUE;
	}
	return 0;
}

EXPORT void gic_write_distributor(struct gic *g, uint32_t offset, uint32_t size, uint64_t value)
{
	uint32_t n, block = locate(offset, size, &n);

	if (block) {
		if (n / BANK == 1)
			write_block(&g->spis, block, n % BANK, size, value);
	} else if (is_route(offset, size, &n)) {
		/* No Aff3, no Interrupt_Routing_Mode (GICD_TYPER.No1N): the upper half is RES0. */
		if (offset % 8 == 0)
			g->routes[n] = value & 0xffffff;
		route(g);
	} else if (offset == GICD_CTLR && size == 4) {
		g->enables = value & CTLR_ENABLES;
	}
	all_changed(g);
}

EXPORT uint64_t gic_read_redistributor(struct gic *g, uint32_t offset, uint32_t size)
{
	uint32_t vcpu = offset / GICR_STRIDE, n, block;
	uint64_t typer;

	offset %= GICR_STRIDE;
	if (vcpu >= g->count)
		return 0;
	if (offset >= SGI_BASE) {
		block = locate(offset - SGI_BASE, size, &n);
		return block && n < BANK ? read_block(&g->cpus[vcpu].private, block, n, size) : 0;
	}
	/* GICR_CTLR and GICR_WAKER read as zero, as under KVM: no LPIs, and always awake. */
	typer = (uint64_t)g->affinities[vcpu] << 32 | vcpu << 8 | (vcpu == g->count - 1) << 4;
	if (size == 8)
		return offset == GICR_TYPER ? typer : 0;
	if (size != 4)
		return 0;
	switch (offset) {
	case GICR_IIDR: return IIDR_VALUE;
	case GICR_TYPER: return (uint32_t)typer;
	case GICR_TYPER + 4: return typer >> 32;
	case PIDR2: return PIDR2_VALUE;
	}
	return 0;
}

EXPORT void gic_write_redistributor(struct gic *g, uint32_t offset, uint32_t size, uint64_t value)
{
	uint32_t vcpu = offset / GICR_STRIDE, n, block;

	offset %= GICR_STRIDE;
	if (vcpu >= g->count || offset < SGI_BASE)
		return;
	block = locate(offset - SGI_BASE, size, &n);
	if (block && n < BANK) {
		write_block(&g->cpus[vcpu].private, block, n, size, value);
		changed(g, vcpu);
	}
}

EXPORT int gic_next_changed(struct gic *g)
{
	return gic_take_changed(g);
}
