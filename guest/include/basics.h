/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every bundled guest needs of C and of the CPU. It asks for no library and no memory map. */
#ifndef BASICS_H
#define BASICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint32_t u32;
typedef uint64_t u64;

#define ALIGNED(n) __attribute__((aligned(n)))
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* ---- words that VCPUs share ---- */
#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/* ---- registers of devices, and of the CPU. One plain instruction each: it can be emulated ---- */
static inline u32 read32(u64 address)
{
	u32 value;

	asm volatile("ldr %w0, [%1]" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void write32(u64 address, u32 value)
{
	asm volatile("str %w0, [%1]" : : "r"(value), "r"(address) : "memory");
}

#define read_sysreg(name) ({ u64 _v; asm volatile("mrs %0, " name : "=r"(_v) : : "memory"); _v; })
#define write_sysreg(name, v) asm volatile("msr " name ", %0" : : "r"((u64)(v)) : "memory")

/* ---- time, and waiting ---- */
static inline u64 ticks(void)
{
	u64 t;

	asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(t) : : "memory");
	return t;
}

static inline void cpu_relax(void)
{
	asm volatile("yield" : : : "memory");
}

#endif
