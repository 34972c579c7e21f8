/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A GICv3 as a guest sees it (IHI 0069): what gic.py says in words. Any offset, size and value is
 * legal; an access that no register accepts reads as zero and writes nothing.
 */
#ifndef GIC_H
#define GIC_H

#include <stdbool.h>
#include <stdint.h>

struct gic;

/* System registers are named as by KEY() of emulator.h; false: there is no such access. */
bool gic_read_register(struct gic *g, uint32_t vcpu, uint32_t key, uint64_t *value);
bool gic_write_register(struct gic *g, uint32_t vcpu, uint32_t key, uint64_t value);
bool gic_is_sgi(uint32_t key);

/* Drive the wire of a PPI of one VCPU, or of an SPI (the VCPU does not matter). */
void gic_set_level(struct gic *g, uint32_t vcpu, uint32_t intid, bool level);

/* Bit 0: IRQ, bit 1: FIQ, as the VCPU's inputs are now. */
uint32_t gic_line(const struct gic *g, uint32_t vcpu);

/* A VCPU whose inputs may have changed since it was last taken, the lowest first; -1: none. */
int gic_take_changed(struct gic *g);

#endif
