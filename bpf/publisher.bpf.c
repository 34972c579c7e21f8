/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keeps `preempted` of one VM's VCPUs current (SPECIFICATION.md, section 6). One of the two
 * sched_switch programs is attached, as the policy says. `add` and `remove` run in the thread of a
 * VCPU: only the kernel knows a thread for certain, since a process ID depends on the namespace.
 */
#include "kernel.h"

#define STRUCTURE_U64S 8 /* 64 bytes: `preempted`, then padding */

#define EAGAIN 11
#define EEXIST 17
#define EXDEV 18
#define ERANGE 34

/* The guest's read-only memory slot. max_entries is set before loading. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64[STRUCTURE_U64S]);
} flags SEC(".maps");

/* Which structure a thread's switches set. A new thread has none, and a dead one's is freed. */
struct {
	UINT(type, BPF_MAP_TYPE_TASK_STORAGE);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, int);
	TYPE(value, u32);
} structures SEC(".maps");

/* The process of the VM, so that all others on this host pay for one comparison. */
int vmm;

static inline void set(const u32 *structure, u64 preempted)
{
	u64 *flag = bpf_map_lookup_elem(&flags, structure);

	if (flag)
		*(volatile u64 *)flag = preempted;
}

static inline void publish(struct task_struct *task, u64 preempted)
{
	u32 *structure = bpf_task_storage_get(&structures, task, 0, 0);

	if (structure)
		set(structure, preempted);
}

/* The tracepoint comes before the switch itself: 0 is there before `next` runs again. */
SEC("tp_btf/sched_switch")
int scheduled_out(struct sched_switch *args)
{
	int owner = vmm;

	if (args->prev->tgid == owner)
		publish(args->prev, 1);
	if (args->next->tgid == owner)
		publish(args->next, 0);
	return 0;
}

/*
 * Whoever could have gone on has state 0 (TASK_RUNNING), or was preempted on its way to sleep. The
 * argument prev_state is not asked: some kernels pass what was there before a signal kept the thread
 * from going to sleep. The 0 of a thread that sleeps is written, though it is there already
 * unless the switch that put the thread on its CPU was not traced.
 */
SEC("tp_btf/sched_switch")
int preempted(struct sched_switch *args)
{
	int owner = vmm;

	if (args->prev->tgid == owner)
		publish(args->prev, args->preempt || args->prev->__state == 0);
	if (args->next->tgid == owner)
		publish(args->next, 0);
	return 0;
}

/* Returns 0 or a negative errno; EAGAIN while the kernel's own storage is busy on this CPU. */
SEC("syscall")
int add(const u32 *structure)
{
	struct task_struct *current = bpf_get_current_task_btf();
	u32 index = *structure;
	int owner;

	if (!bpf_map_lookup_elem(&flags, &index))
		return -ERANGE;
	owner = __sync_val_compare_and_swap(&vmm, 0, current->tgid);
	if (owner && owner != current->tgid)
		return -EXDEV;
	if (bpf_task_storage_get(&structures, current, 0, 0))
		return -EEXIST;
	if (!bpf_task_storage_get(&structures, current, &index, BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -EAGAIN;
	/* From here on switches write, and while this runs the thread is on a CPU. */
	set(&index, 0);
	return 0;
}

/* `off` is what a VCPU without a thread reads (clause 6.6). Returns as `add`. */
SEC("syscall")
int remove(const u32 *off)
{
	struct task_struct *current = bpf_get_current_task_btf();
	u32 *structure = bpf_task_storage_get(&structures, current, 0, 0);
	u32 index;

	if (!structure)
		return 0;
	index = *structure;
	if (bpf_task_storage_delete(&structures, current))
		return -EAGAIN;
	set(&index, *off);
	return 0;
}

char _license[] SEC("license") = "GPL";
