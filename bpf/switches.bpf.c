/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records when one VM's VCPUs get and lose their CPUs, and why. `enter` and `leave` run in the
 * thread of the VCPU, as the publisher's `add` does, and its switches between the two are recorded.
 */
#include "kernel.h"

#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_RB_NO_WAKEUP (1ULL << 0)

#define EAGAIN 11
#define ERANGE 34

/* HostEvent (src/pvlock/engines/contract.py) has the same numbers; a test compares them. */
enum { IN = 0, SLICE = 1, WFI = 3, OFF = 4, READY = 6 };

#define TASK_INTERRUPTIBLE 1
#define KVM_MP_STATE_STOPPED 5

#define FIELD_BYTE_OFFSET 0
#define FIELD_EXISTS 2

struct hlist_node;
struct hlist_head {
	struct hlist_node *first;
} __attribute__((preserve_access_index));

/* The member of task_struct that only this program uses. libbpf drops the ___kvm of the name. */
struct task_struct___kvm {
	struct hlist_head preempt_notifiers;
} __attribute__((preserve_access_index));

struct kvm_mp_state {
	u32 mp_state;
} __attribute__((preserve_access_index));

struct kvm_vcpu_arch {
	struct kvm_mp_state mp_state;
} __attribute__((preserve_access_index));

struct preempt_notifier {
	void *ops;
} __attribute__((preserve_access_index));

struct kvm_vcpu {
	struct preempt_notifier preempt_notifier;
	struct kvm_vcpu_arch arch;
} __attribute__((preserve_access_index));

static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size,
					u64 flags) = (void *)130;

/* SWITCH (contract.py) has the same fields. */
struct record {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u32 vcpu;
	unsigned short cpu;
	unsigned short what;
};

struct thread {
	u32 vcpu;
	u32 recorded; /* 1 between enter and leave */
	u32 rests;    /* its last record says that it blocked or went off */
};

/* User space sets max_entries of `records` and `lost` before it loads them. */
struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 1 << 20);
} records SEC(".maps");

/* By VCPU, how many records the ring had no place for. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} lost SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_TASK_STORAGE);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, int);
	TYPE(value, struct thread);
} threads SEC(".maps");

/* The process of the VM. The threads of all others on this host cost one comparison a switch. */
int vmm;

static inline void record(struct thread *thread, u32 what, u64 time_ns)
{
	struct record record = {
		.time_ns = time_ns,
		.vcpu = thread->vcpu,
		.cpu = bpf_get_smp_processor_id(),
		.what = what,
	};
	u64 *count;

	thread->rests = what == WFI || what == OFF;
	if (bpf_ringbuf_output(&records, &record, sizeof(record), BPF_RB_NO_WAKEUP)) {
		count = bpf_map_lookup_elem(&lost, &thread->vcpu);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
}

/*
 * Why the task leaves its CPU. The guest rests only if its thread sleeps interruptibly and is
 * inside KVM's code for a VCPU: only there a task has a preemption notifier. If the thread sleeps
 * elsewhere, for a page or in the VMM, the guest could have gone on.
 */
static inline u32 why(struct sched_switch *args)
{
	struct task_struct *task = args->prev;
	struct task_struct___kvm *kvm = (void *)task;
	void *node = 0;
	struct kvm_vcpu *vcpu;
	u32 state = 0;

	if (args->preempt || !(task->__state & TASK_INTERRUPTIBLE))
		return SLICE;
	if (!__builtin_preserve_field_info(kvm->preempt_notifiers, FIELD_EXISTS))
		return SLICE;
	bpf_probe_read_kernel(&node, sizeof(node), &kvm->preempt_notifiers.first);
	if (!node)
		return SLICE;
	vcpu = 0;
	if (!__builtin_preserve_field_info(vcpu->arch.mp_state.mp_state, FIELD_EXISTS))
		return WFI;
	/* The node is the first member of the notifier. */
	vcpu = node - __builtin_preserve_field_info(vcpu->preempt_notifier, FIELD_BYTE_OFFSET);
	bpf_probe_read_kernel(&state, sizeof(state), &vcpu->arch.mp_state.mp_state);
	return state == KVM_MP_STATE_STOPPED ? OFF : WFI;
}

SEC("tp_btf/sched_switch")
int switched(struct sched_switch *args)
{
	int owner = vmm;
	struct thread *thread;
	u64 now;

	if (args->prev->tgid != owner && args->next->tgid != owner)
		return 0;
	now = bpf_ktime_get_ns();
	if (args->prev->tgid == owner) {
		thread = bpf_task_storage_get(&threads, args->prev, 0, 0);
		if (thread && thread->recorded)
			record(thread, why(args), now);
	}
	if (args->next->tgid == owner) {
		thread = bpf_task_storage_get(&threads, args->next, 0, 0);
		if (thread && thread->recorded)
			record(thread, IN, now);
	}
	return 0;
}

/* The kernel also calls this for a thread that had not left its CPU yet; `rests` is then 0. */
SEC("tp_btf/sched_wakeup")
int woken(struct task_struct **args)
{
	struct thread *thread;

	if (args[0]->tgid != vmm)
		return 0;
	thread = bpf_task_storage_get(&threads, args[0], 0, 0);
	if (thread && thread->recorded && thread->rests)
		record(thread, READY, bpf_ktime_get_ns());
	return 0;
}

/* Returns 0 or a negative errno: EAGAIN while this CPU is busy with the kernel's task storage. */
SEC("syscall")
int enter(const u32 *vcpu)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct thread new = {.vcpu = *vcpu}, *thread;

	if (!bpf_map_lookup_elem(&lost, &new.vcpu))
		return -ERANGE;
	vmm = current->tgid;
	thread = bpf_task_storage_get(&threads, current, &new, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return -EAGAIN;
	/* In this order a switch between the two lines leaves no record at all, not half of one. */
	record(thread, IN, bpf_ktime_get_ns());
	*(volatile u32 *)&thread->recorded = 1;
	return 0;
}

/* A VCPU whose thread is not in the guest counts as off. Returns what `enter` does. */
SEC("syscall")
int leave(const u32 *unused)
{
	struct thread *thread =
		bpf_task_storage_get(&threads, bpf_get_current_task_btf(), 0, 0);

	(void)unused;
	if (!thread)
		return -EAGAIN;
	*(volatile u32 *)&thread->recorded = 0;
	record(thread, OFF, bpf_ktime_get_ns());
	return 0;
}

char _license[] SEC("license") = "GPL";
