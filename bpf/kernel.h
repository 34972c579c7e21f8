/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What our programs use of the kernel, so that they need neither its headers nor vmlinux.h. The
 * numbers are user API. Structures declare only the members that we use, in any order: libbpf finds
 * each member by its name when it loads a program (preserve_access_index).
 */
#ifndef PVLOCK_BPF_KERNEL_H
#define PVLOCK_BPF_KERNEL_H

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
/* Attributes of a map. libbpf reads them from the object's types. */
#define UINT(name, number) int (*name)[number]
#define TYPE(name, of) typeof(of) *name

#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_TASK_STORAGE 29
#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_LOCAL_STORAGE_GET_F_CREATE (1ULL << 0)

struct task_struct {
	u32 __state;
	int tgid;
	unsigned long nvcsw;
	unsigned long nivcsw;
} __attribute__((preserve_access_index));

/*
 * The arguments of the tracepoint sched_switch since Linux 5.18, where commit 9c2136be0878 put
 * prev_state at the end. BPF passes each of them as 64 bits.
 */
struct sched_switch {
	u64 preempt;
	struct task_struct *prev;
	struct task_struct *next;
	u64 prev_state;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static void *(*const bpf_task_storage_get)(void *map, struct task_struct *task, void *value,
					   u64 flags) = (void *)156;
static long (*const bpf_task_storage_delete)(void *map, struct task_struct *task) = (void *)157;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;

#endif
