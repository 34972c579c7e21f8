/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keeps `preempted` of one VM's VCPUs current (SPECIFICATION.md, section 6). User space attaches
 * one of the two sched_switch programs, as the policy says. `add` and `remove` run in the thread of
 * the VCPU that they are for, since user space has no certain name for a thread: an ID depends on
 * the PID namespace.
 */
#include "kernel.h"

#define STRUCTURE_U64S 8 /* 64 bytes: `preempted`, then padding */

#define EAGAIN 11
#define EEXIST 17
#define EXDEV 18
#define ERANGE 34

/* The guest's read-only memory slot. User space sets max_entries before it loads the map. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64[STRUCTURE_U64S]);
} flags SEC(".maps");

/* By thread, its VCPU's structure. `add` makes an entry; the kernel frees it with the thread. */
struct {
	UINT(type, BPF_MAP_TYPE_TASK_STORAGE);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, int);
	TYPE(value, u32);
} structures SEC(".maps");

/* The process of the VM. The threads of all others on this host cost one comparison a switch. */
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

/* The kernel calls this before the switch itself, so the 0 is there before `next` runs again. */
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
 * A thread that could have gone on has state 0 (TASK_RUNNING), or was preempted on its way to
 * sleep. We read the state itself, not the argument prev_state: if a signal kept the thread from
 * sleeping, kernels from 5.18 (commit fa2c3254d7cf) to 6.15 pass the state from before the signal
 * (mended in 6.16 by commit 8feb053d5319). For a thread that sleeps we write 0, although its flag
 * is 0 already, unless nothing saw the switch that put the thread on its CPU.
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

/* Returns 0 or a negative errno: EAGAIN while this CPU is busy with the kernel's task storage. */
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
	/* From here on switches write the flag. Now it must be 0, since this thread runs. */
	set(&index, 0);
	return 0;
}

/* `off` is the flag of a VCPU that has no thread (clause 6.6). Returns what `add` does. */
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
