/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records each switch of the threads that ran follow(), and what is in their flags after it. It
 * shares no code with the publisher, and of its maps only the flags, which it reads.
 *
 * A tracepoint calls its programs in the order in which they were attached: `before`, then the
 * publisher, then `after`. They run with interrupts off on one CPU, so that nothing comes between.
 */

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define NOBODY (~0U)

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const now_ns)(void) = (void *)5;
static void *(*const storage_get)(void *map, void *task, void *value, u64 flags) = (void *)156;
static void *(*const current_task)(void) = (void *)158;

struct task_struct {
	u32 __state;
	int pid;
	unsigned long nvcsw, nivcsw;
} __attribute__((preserve_access_index));

struct record {
	u64 before_ns, after_ns;   /* when the two programs ran */
	u64 voluntary, preempted;  /* switches of `prev`, as the kernel itself counts them */
	u64 prev_flag, next_flag;
	u32 prev, next;            /* numbers given to follow(), or NOBODY */
	u32 prev_state;            /* the tracepoint's argument */
	u32 state;                 /* prev->__state, as it is now */
	u32 preempt;
	u32 untraced;              /* `prev` got this CPU by a switch that nobody was told of */
};

/* As the publisher's; replaced by its map before loading. */
struct {
	int (*type)[2];
	int (*map_flags)[1 << 10];
	int (*max_entries)[1];
	u32 *key;
	u64 (*value)[8];
} flags SEC(".maps");

/* max_entries is set before loading. */
struct {
	int (*type)[2];
	int (*map_flags)[1 << 10];
	int (*max_entries)[1];
	u32 *key;
	struct record *value;
} records SEC(".maps");

/* 0: how many records there are, or should be. */
struct {
	int (*type)[2];
	int (*map_flags)[1 << 10];
	int (*max_entries)[1];
	u32 *key;
	u64 *value;
} count SEC(".maps");

struct {
	int (*type)[29];
	int (*map_flags)[1];
	int *key;
	u32 *value;
} followed SEC(".maps");

struct cpu {
	u64 before_ns; /* when `before` ran */
	u32 running;   /* 1 + process ID of the last `next` */
};

struct {
	int (*type)[6];
	int (*max_entries)[1];
	u32 *key;
	struct cpu *value;
} cpus SEC(".maps");

static u32 number(struct task_struct *task)
{
	u32 *value = storage_get(&followed, task, 0, 0);

	return value ? *value : NOBODY;
}

static u64 flag(u32 index)
{
	volatile u64 *value = map_lookup(&flags, &index);

	return value ? *value : 0;
}

SEC("tp_btf/sched_switch")
int before(void)
{
	u32 zero = 0;
	struct cpu *cpu = map_lookup(&cpus, &zero);

	if (cpu)
		cpu->before_ns = now_ns();
	return 0;
}

SEC("tp_btf/sched_switch")
int after(u64 *args)
{
	struct task_struct *prev = (void *)args[1], *next = (void *)args[2];
	u32 from = number(prev), to = number(next), zero = 0, slot, was_running;
	struct cpu *cpu = map_lookup(&cpus, &zero);
	u64 *used = map_lookup(&count, &zero);
	struct record *r;

	if (!cpu || !used)
		return 0;
	was_running = cpu->running;
	cpu->running = next->pid + 1;
	if (from == NOBODY && to == NOBODY)
		return 0;
	slot = __sync_fetch_and_add(used, 1);
	r = map_lookup(&records, &slot);
	if (!r)
		return 0; /* the reader sees that `count` is larger than the array */
	r->before_ns = cpu->before_ns;
	r->voluntary = prev->nvcsw;
	r->preempted = prev->nivcsw;
	r->prev_flag = flag(from);
	r->next_flag = flag(to);
	r->prev = from;
	r->next = to;
	r->prev_state = args[3];
	r->state = prev->__state;
	r->preempt = args[0];
	r->untraced = was_running && was_running != (u32)prev->pid + 1;
	r->after_ns = now_ns();
	return 0;
}

/* Record the switches of the thread that runs this, as `number`; 1 if it must be tried again. */
SEC("syscall")
int follow(u32 *number)
{
	u32 value = *number;

	return !storage_get(&followed, current_task(), &value, 1);
}

char _license[] SEC("license") = "GPL";
