/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sums up, for each VCPU thread of this host, where its time goes, and who has the CPU that it waits
 * for. Nothing is sent to user space: it reads the sums where they are.
 *
 * `look` runs over all threads when user space reads it, and gives a slot to each that is inside KVM
 * (its preempt notifier leads to its kvm_vcpu) or that user space asked for. It runs outside the
 * scheduler, where memory for task storage may be had; the programs at the scheduler's own
 * tracepoints allocate nothing. Everything they do to a slot, they do under the lock of the run
 * queue that the thread is on, so a slot has one writer at a time.
 */
#include "kernel.h"

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_QUEUE 22
#define BPF_NOEXIST 1
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_RB_NO_WAKEUP (1ULL << 0)

#define FIELD_BYTE_OFFSET 0
#define FIELD_EXISTS 2
#define EXISTS(field) __builtin_preserve_field_info(field, FIELD_EXISTS)

/* How far back a wait is followed; what came before goes to `untold`. */
#define LOG 1024
#define DEPTH (LOG - 1)
/* Gaps of 1 us to 16 s, four classes to an octave. */
#define CLASSES 96

#define NO_VCPU (~0U)
/* A displacer is a process, or with this bit a thread that has a slot. */
#define THREAD (1U << 31)

/* STATES in src/pvlock/top/slots.py. */
enum { FREE, RUNNING, READY, BLOCKED, DEAD };

/* How a thread became READY. UNSEEN: before it had a slot. */
enum { WOKEN, PREEMPTED, UNSEEN };

struct hlist_node;
struct hlist_head {
	struct hlist_node *first;
} __attribute__((preserve_access_index));

struct rq {
	u64 clock;
} __attribute__((preserve_access_index));

struct cfs_rq {
	struct rq *rq;
	u64 throttled_clock_self;
	u64 throttled_clock_self_time;
} __attribute__((preserve_access_index));

struct sched_entity {
	struct cfs_rq *cfs_rq;
} __attribute__((preserve_access_index));

struct sched_info {
	u64 last_arrival; /* by the clock of its run queue */
} __attribute__((preserve_access_index));

struct task_group {
	struct cfs_rq **cfs_rq; /* by CPU */
} __attribute__((preserve_access_index));

struct thread_info {
	u32 cpu;
} __attribute__((preserve_access_index));

/* task_struct, and what of it only we need. */
struct task_struct___top {
	struct thread_info thread_info;
	u32 cpu; /* x86 before 5.16 */
	long state; /* before 5.14 */
	int on_cpu;
	int on_rq;
	u32 pid;
	char comm[16];
	struct sched_entity se;
	struct sched_info sched_info;
	struct task_group *sched_task_group;
	void *bpf_storage;
	struct hlist_head preempt_notifiers;
} __attribute__((preserve_access_index));

struct preempt_notifier {
	void *ops;
} __attribute__((preserve_access_index));

/* Of them, a kernel has those of its architecture. */
struct kvm_vcpu_stat {
	u64 wfe_exit_stat;
	u64 directed_yield_attempted;
} __attribute__((preserve_access_index));

struct kvm_vcpu {
	struct preempt_notifier preempt_notifier;
	void *kvm;
	int vcpu_id;
	struct kvm_vcpu_stat stat;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	void *meta;
	struct task_struct *task;
} __attribute__((preserve_access_index));

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*const bpf_map_pop_elem)(void *map, void *value) = (void *)88;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size,
					u64 flags) = (void *)130;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

struct slot {
	u32 sequence; /* odd while it is written */
	u32 state;
	u32 tid, tgid; /* of the initial PID namespace */
	u32 vcpu;
	u32 cpu;
	u64 vm, address; /* of its struct kvm and kvm_vcpu */
	u64 began, since; /* when it got its slot, its state; CLOCK_MONOTONIC, ns */
	u64 time[DEAD]; /* ns, by state; throttled time is ready time */
	u64 throttled, open_throttled, untold;
	u64 preemptions, waits, migrations;
	u64 exits;	 /* WFE, or on x86 directed yields tried: KVM's own count */
	u64 vain;	 /* of them, those in stretches at whose end a sibling was ready */
	u64 yields;	 /* directed yields to it that came about */
	u64 longest[2]; /* gap, ns, by the parity of the epoch */
	u64 charged;	 /* up to when its wait has been charged */
	u64 queue, queue_throttled, clock_behind;
	u64 exits_before;
	u32 home; /* the place of its VM in `waiting` */
	u32 ready_by; /* how it became READY: below */
	char name[16];
	u32 gaps[CLASSES];
};

/* Whoever has the CPU, from `begin` to the beginning of the next. */
struct stretch {
	u64 begin;
	u32 who;
	u32 unused;
	u64 name[2];
};

struct log {
	u32 head;
	u32 unused;
	struct stretch stretches[LOG];
};

struct pair {
	u32 slot, who;
};

struct charge {
	u64 ns;
	u64 name[2];
};

struct general {
	u32 epoch;	   /* user space adds one for each interval */
	u32 features;	   /* below */
	u32 unplaced;	   /* threads that found no slot */
	u32 lost;	   /* records that found no place */
};

enum { HAS_NOTIFIERS = 1, HAS_VCPUS = 2, HAS_THROTTLED = 4, HAS_EXITS = 8, HAS_TRIED = 16 };

/* max_entries is set before loading, but for `general`. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct general);
} general SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct slot);
} slots SEC(".maps");

/* By VM, how many of its VCPUs are ready: at the place of the slot that its first one got. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} waiting SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 1);
	TYPE(key, u64);
	TYPE(value, u32);
} homes SEC(".maps");

/* The slots that nobody has. User space fills it, and puts back what the dead had. */
struct {
	UINT(type, BPF_MAP_TYPE_QUEUE);
	UINT(max_entries, 1);
	TYPE(value, u32);
} vacant SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct log);
} logs SEC(".maps");

/* One is written while user space empties the other: the parity of the epoch says which. */
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 1);
	TYPE(key, struct pair);
	TYPE(value, struct charge);
} even SEC(".maps"), odd SEC(".maps");

/*
 * By thread ID: who is to get a slot at the next look. 0 is what user space asks for; else it is the
 * kvm_vcpu that a thread was inside of as it lost its CPU, as it may be elsewhere when we look.
 */
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} wanted SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_TASK_STORAGE);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, int);
	TYPE(value, u32);
} places SEC(".maps");

static inline struct general *all(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&general, &zero);
}

static inline u64 state_of(struct task_struct *task)
{
	struct task_struct___top *old = (void *)task;

	if (EXISTS(task->__state))
		return task->__state;
	return old->state;
}

/* The CPU whose queue the thread is on. */
static inline u32 cpu_of(struct task_struct *task)
{
	struct task_struct___top *top = (void *)task;

	if (EXISTS(top->thread_info.cpu))
		return top->thread_info.cpu;
	return top->cpu;
}

/* Readers start again when the sequence has changed. Atomics, as they are barriers too. */
static inline void begin(struct slot *slot)
{
	__sync_fetch_and_add(&slot->sequence, 1);
}

static inline void end(struct slot *slot)
{
	__sync_fetch_and_add(&slot->sequence, 1);
}

/*
 * How long the queue has been throttled in all, at a time when its clock is current. Not every
 * kernel counts it (6.6 and newer do).
 */
static inline u64 throttled(struct cfs_rq *queue, u64 clock)
{
	u64 since = queue->throttled_clock_self;

	return queue->throttled_clock_self_time + (since && clock > since ? clock - since : 0);
}

static inline void note_queue(struct slot *slot, struct task_struct *task, u64 now)
{
	struct task_struct___top *top = (void *)task;
	struct cfs_rq *queue = 0;
	u64 clock;

	slot->queue = 0;
	if (!EXISTS(queue->throttled_clock_self_time))
		return;
	queue = top->se.cfs_rq;
	if (!queue)
		return;
	clock = queue->rq->clock;
	slot->queue = (u64)queue;
	slot->queue_throttled = throttled(queue, clock);
	slot->clock_behind = now - clock;
}

/* The same for the queue of the thread's group on another CPU, as it moves there. */
static inline void note_queue_on(struct slot *slot, struct task_struct *task, u32 cpu, u64 now)
{
	struct task_struct___top *top = (void *)task;
	u64 clock = now - slot->clock_behind, since = 0, total = 0;
	struct cfs_rq *queue = 0;
	struct task_group *group = 0;

	slot->queue = 0;
	if (!EXISTS(queue->throttled_clock_self_time) || !EXISTS(group->cfs_rq))
		return;
	group = top->sched_task_group;
	if (!group || !slot->clock_behind)
		return;
	bpf_probe_read_kernel(&queue, sizeof(queue), (void *)((u64)group->cfs_rq + 8ULL * cpu));
	if (!queue)
		return;
	bpf_probe_read_kernel(&since, sizeof(since), &queue->throttled_clock_self);
	bpf_probe_read_kernel(&total, sizeof(total), &queue->throttled_clock_self_time);
	slot->queue = (u64)queue;
	slot->queue_throttled = total + (since && clock > since ? clock - since : 0);
}

/* The part of its wait, so far, for which its queue was throttled. */
static inline u64 throttled_since(struct slot *slot, struct task_struct *task, u64 now)
{
	struct task_struct___top *top = (void *)task;
	struct cfs_rq *queue = 0;
	u64 total;

	if (!slot->queue || !EXISTS(queue->throttled_clock_self_time))
		return 0;
	queue = top->se.cfs_rq;
	if (!queue || (u64)queue != slot->queue)
		return 0;
	total = throttled(queue, now - slot->clock_behind);
	if (total <= slot->queue_throttled)
		return 0;
	total -= slot->queue_throttled;
	return total < now - slot->charged ? total : now - slot->charged;
}

/*
 * Charges the part of a wait, between `from` and `until`, that one stretch of a CPU's log was there
 * for. Returns where that begins, or 0 if the log does not go back so far. As it is no static function, the
 * verifier looks at it once, and not for each turn of the loop below.
 */
__attribute__((noinline)) u64 charge(u32 slot, u32 cpu, u32 place, u64 from, u64 until)
{
	struct pair pair = {.slot = slot};
	struct log *log = bpf_map_lookup_elem(&logs, &cpu);
	struct stretch *stretch;
	struct general *settings = all();
	struct charge *found, new;
	u64 begun;
	u32 is_odd;

	if (!log || !settings)
		return 0;
	is_odd = settings->epoch & 1;
	stretch = &log->stretches[place & (LOG - 1)];
	begun = stretch->begin;
	if (!begun)
		return 0;
	if (begun < from)
		begun = from;
	if (begun >= until)
		return until;
	pair.who = stretch->who;
	found = is_odd ? bpf_map_lookup_elem(&odd, &pair) : bpf_map_lookup_elem(&even, &pair);
	if (found) {
		found->ns += until - begun;
		return begun;
	}
	new.ns = until - begun;
	new.name[0] = stretch->name[0];
	new.name[1] = stretch->name[1];
	/* Without a place, the time is still that of somebody; user space finds it missing. */
	if (is_odd)
		bpf_map_update_elem(&odd, &pair, &new, BPF_NOEXIST);
	else
		bpf_map_update_elem(&even, &pair, &new, BPF_NOEXIST);
	return begun;
}

/* Charge the wait of a slot from `from` to `now` to those who had this CPU. Returns the rest. */
__attribute__((noinline)) u64 charge_all(u32 slot, u32 cpu, u64 from, u64 now)
{
	struct log *log = bpf_map_lookup_elem(&logs, &cpu);
	u64 until = now, begun;
	u32 head, i;

	if (!log)
		return 0;
	head = log->head;
	for (i = 0; i < DEPTH; i++) {
		if (until <= from)
			return 0;
		begun = charge(slot, cpu, head - i, from, until);
		if (!begun)
			break;
		until = begun;
	}
	return until - from;
}

static inline void charge_wait(struct slot *slot, u32 number, u32 cpu, u64 now)
{
	slot->untold += charge_all(number, cpu, slot->charged, now);
	slot->charged = now;
}

/* The class of a gap: the octave above 1 us, and two bits more. */
static inline u32 class_of(u64 ns)
{
	u64 scaled = ns >> 8; /* 4 of them are 1,024 ns, the bottom of the first octave */
	u32 octave = 0, class;

	if (scaled < 4)
		return 0;
	if (scaled >> 18) {
		octave += 16;
		scaled >>= 16;
	}
	if (scaled >> 10) {
		octave += 8;
		scaled >>= 8;
	}
	if (scaled >> 6) {
		octave += 4;
		scaled >>= 4;
	}
	if (scaled >> 4) {
		octave += 2;
		scaled >>= 2;
	}
	if (scaled >> 3) {
		octave += 1;
		scaled >>= 1;
	}
	class = octave * 4 + (scaled & 3);
	return class < CLASSES ? class : CLASSES - 1;
}

static inline void account(struct slot *slot, u64 now)
{
	u32 state = slot->state;

	if (state < DEAD)
		slot->time[state] += now - slot->since;
	slot->since = now;
}

static inline void count_waiting(struct slot *slot, long by)
{
	u64 *count;

	if (!slot->vm)
		return;
	count = bpf_map_lookup_elem(&waiting, &slot->home);
	if (count)
		__sync_fetch_and_add(count, by);
}

static inline void wait_begins(struct slot *slot, struct task_struct *task, u64 now, u32 by)
{
	slot->state = READY;
	slot->ready_by = by;
	slot->cpu = cpu_of(task);
	slot->charged = now;
	note_queue(slot, task, now);
	count_waiting(slot, 1);
}

static inline struct slot *slot_of(struct task_struct *task, u32 *number)
{
	struct task_struct___top *top = (void *)task;
	struct slot *slot;
	u32 *place;

	/* Most threads of a host have no storage at all: no call for them. */
	if (EXISTS(top->bpf_storage) && !top->bpf_storage)
		return 0;
	place = bpf_task_storage_get(&places, task, 0, 0);
	if (!place)
		return 0;
	*number = *place;
	slot = bpf_map_lookup_elem(&slots, number);
	/* A dead thread's slot can have gone to another while it was on its way out. */
	if (!slot || slot->tid != top->pid || slot->state == FREE || slot->state == DEAD)
		return 0;
	return slot;
}

/* KVM's own counts of what a VCPU that waits for another one does. */
static inline u64 exits_of(struct slot *slot)
{
	struct kvm_vcpu *vcpu = 0;
	u64 count = 0, offset;

	if (!slot->address)
		return 0;
	if (EXISTS(vcpu->stat.wfe_exit_stat))
		offset = __builtin_preserve_field_info(vcpu->stat.wfe_exit_stat, FIELD_BYTE_OFFSET);
	else if (EXISTS(vcpu->stat.directed_yield_attempted))
		offset = __builtin_preserve_field_info(vcpu->stat.directed_yield_attempted,
						       FIELD_BYTE_OFFSET);
	else
		return 0;
	bpf_probe_read_kernel(&count, sizeof(count), (void *)(slot->address + offset));
	return count;
}

/*
 * When the thread that now leaves its CPU got it, by the scheduler's own note; 0: not known. The
 * scheduler has brought the clock of the run queue up to date for this switch.
 */
static inline u64 arrival_of(struct task_struct *task, u64 now)
{
	struct task_struct___top *top = (void *)task;
	struct cfs_rq *queue = 0;
	u64 clock, arrival;

	if (!EXISTS(top->sched_info.last_arrival) || !EXISTS(queue->rq))
		return 0;
	queue = top->se.cfs_rq;
	if (!queue)
		return 0;
	clock = queue->rq->clock;
	arrival = top->sched_info.last_arrival;
	return arrival && arrival <= clock && clock - arrival < now ? now - (clock - arrival) : 0;
}

static inline void leaves(struct slot *slot, struct sched_switch *args, u64 now)
{
	u64 exits, *ready;

	begin(slot);
	account(slot, now);
	if (slot->vm) {
		exits = exits_of(slot);
		ready = bpf_map_lookup_elem(&waiting, &slot->home);
		if (exits > slot->exits_before && ready && *ready)
			slot->vain += exits - slot->exits_before;
		slot->exits_before = exits;
		slot->exits = exits;
	}
	/* Whoever could have gone on, or was preempted on its way to sleep: see publisher.bpf.c. */
	if (args->preempt || state_of(args->prev) == 0) {
		slot->preemptions++;
		wait_begins(slot, args->prev, now, PREEMPTED);
	} else {
		slot->state = BLOCKED;
	}
	end(slot);
}

static inline void comes(struct slot *slot, u32 number, struct task_struct *task, u64 now)
{
	struct general *settings = all();
	u32 cpu = bpf_get_smp_processor_id(), class;
	u64 gap;

	begin(slot);
	if (slot->state == READY) {
		gap = now - slot->since;
		slot->throttled += throttled_since(slot, task, now);
		charge_wait(slot, number, slot->cpu, now);
		count_waiting(slot, -1);
		slot->waits++;
		class = class_of(gap);
		if (class < CLASSES)
			slot->gaps[class]++;
		if (settings && slot->longest[settings->epoch & 1] < gap)
			slot->longest[settings->epoch & 1] = gap;
	}
	account(slot, now);
	if (slot->cpu != cpu)
		slot->migrations++;
	slot->cpu = cpu;
	slot->state = RUNNING;
	end(slot);
}

/* The VCPU that a thread is inside of, or 0. */
static inline u64 vcpu_of(struct task_struct *task)
{
	struct task_struct___top *top = (void *)task;
	struct kvm_vcpu *vcpu = 0;
	u64 node = 0;

	if (!EXISTS(top->preempt_notifiers) || !EXISTS(vcpu->vcpu_id))
		return 0;
	node = (u64)top->preempt_notifiers.first;
	if (!node)
		return 0;
	/* The node is the first member of a notifier but for its operations. */
	return node - __builtin_preserve_field_info(vcpu->preempt_notifier, FIELD_BYTE_OFFSET);
}

static inline void remember(struct task_struct *task)
{
	struct task_struct___top *top = (void *)task;
	u64 address = vcpu_of(task);
	u32 tid = top->pid;

	if (address)
		bpf_map_update_elem(&wanted, &tid, &address, BPF_NOEXIST);
}

/* From `now` on, the thread has the CPU of this log. */
static inline void enter(struct log *log, struct task_struct *task, u32 who, u64 now)
{
	struct task_struct___top *top = (void *)task;
	u32 place = log->head & (LOG - 1);
	struct stretch *stretch;

	if (log->stretches[place].who == who && log->stretches[place].begin)
		return;
	place = (place + 1) & (LOG - 1);
	stretch = &log->stretches[place];
	stretch->begin = now;
	stretch->who = who;
	stretch->name[0] = *(u64 *)&top->comm[0];
	stretch->name[1] = *(u64 *)&top->comm[8];
	*(volatile u32 *)&log->head = place;
}

/*
 * If a thread that leaves is not the one that came last, a switch in between was told to nobody
 * (docs/top.md says where that happens). Then the thread came when the scheduler says so.
 */
static inline void mend(struct log *log, struct task_struct *prev, u32 who, u64 now, u64 *came)
{
	struct stretch *last = &log->stretches[log->head & (LOG - 1)];
	u64 at;

	*came = now;
	if (!last->begin || last->who == who || last->who == (u32)prev->tgid)
		return;
	at = arrival_of(prev, now);
	if (at < last->begin || at > now)
		return;
	*came = at;
	enter(log, prev, who, at);
}

SEC("tp_btf/sched_switch")
int switched(struct sched_switch *args)
{
	struct task_struct___top *prev = (void *)args->prev, *next = (void *)args->next;
	u32 cpu = bpf_get_smp_processor_id(), number, who = args->prev->tgid;
	struct log *log = bpf_map_lookup_elem(&logs, &cpu);
	u64 now = bpf_ktime_get_ns(), came = now;
	struct slot *slot;

	slot = slot_of(args->prev, &number);
	if (slot)
		who = prev->pid | THREAD;
	if (log)
		mend(log, args->prev, who, now, &came);
	if (slot) {
		if (slot->state != RUNNING)
			comes(slot, number, args->prev, came);
		leaves(slot, args, now);
	} else {
		remember(args->prev);
	}
	who = args->next->tgid;
	slot = slot_of(args->next, &number);
	if (slot)
		who = next->pid | THREAD;
	if (log)
		enter(log, args->next, who, now);
	if (slot)
		comes(slot, number, args->next, now);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int woken(struct task_struct **args)
{
	struct task_struct *task = args[0];
	u32 number;
	struct slot *slot = slot_of(task, &number);
	u64 now;

	/* Also called for a thread that had not yet left its CPU, which is no news. */
	if (!slot || slot->state != BLOCKED)
		return 0;
	now = bpf_ktime_get_ns();
	begin(slot);
	account(slot, now);
	wait_begins(slot, task, now, WOKEN);
	end(slot);
	return 0;
}

/* Comes before the thread is on the queue of its new CPU, which the other argument names. */
SEC("tp_btf/sched_migrate_task")
int migrated(u64 *args)
{
	struct task_struct *task = (void *)args[0];
	u32 number;
	struct slot *slot = slot_of(task, &number);
	u64 now;

	if (!slot || slot->state != READY)
		return 0;
	now = bpf_ktime_get_ns();
	begin(slot);
	slot->throttled += throttled_since(slot, task, now);
	charge_wait(slot, number, slot->cpu, now);
	note_queue_on(slot, task, args[1], now);
	slot->cpu = args[1];
	end(slot);
	return 0;
}

/* For `pvlock record` only: every switch of this host, and the wake-ups of threads with slots. */
#define MOST_HAD (1ULL << 32)

struct record {
	u64 time;
	u32 cpu;
	u32 woken;    /* `next` was, and is in the queue of `cpu` */
	u32 prev;     /* as in a log */
	u32 next;
	u32 runnable; /* prev could have gone on */
	u32 had;      /* for how long prev had the CPU, ns, by the scheduler; 0: not known */
	u64 name[2];  /* of next */
};

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 4096);
} records SEC(".maps");

static inline u32 who_is(struct task_struct *task)
{
	struct task_struct___top *top = (void *)task;
	u32 number;

	return slot_of(task, &number) ? top->pid | THREAD : (u32)task->tgid;
}

static inline void put(struct record *record, struct task_struct *next)
{
	struct task_struct___top *top = (void *)next;
	struct general *settings = all();

	record->name[0] = *(u64 *)&top->comm[0];
	record->name[1] = *(u64 *)&top->comm[8];
	if (bpf_ringbuf_output(&records, record, sizeof(*record), BPF_RB_NO_WAKEUP) && settings)
		__sync_fetch_and_add(&settings->lost, 1);
}

SEC("tp_btf/sched_switch")
int record_switch(struct sched_switch *args)
{
	u64 now = bpf_ktime_get_ns(), came = arrival_of(args->prev, now);
	struct record record = {
		.time = now,
		.cpu = bpf_get_smp_processor_id(),
		.had = came && now - came < MOST_HAD ? now - came : 0,
		.prev = who_is(args->prev),
		.next = who_is(args->next),
		.runnable = args->preempt || state_of(args->prev) == 0,
	};

	put(&record, args->next);
	return 0;
}

/* To be attached before `woken`, which changes the state. */
SEC("tp_btf/sched_wakeup")
int record_wakeup(struct task_struct **args)
{
	struct task_struct *task = args[0];
	struct record record = {.woken = 1};
	struct slot *slot;
	u32 number;

	slot = slot_of(task, &number);
	if (!slot || slot->state != BLOCKED)
		return 0;
	record.time = bpf_ktime_get_ns();
	record.cpu = cpu_of(task);
	record.next = slot->tid | THREAD;
	put(&record, task);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int exited(struct task_struct **args)
{
	u32 number;
	struct slot *slot = slot_of(args[0], &number);

	if (!slot)
		return 0;
	begin(slot);
	if (slot->state == READY)
		count_waiting(slot, -1);
	account(slot, bpf_ktime_get_ns());
	slot->state = DEAD;
	end(slot);
	return 0;
}

/* yield_to(task, preempt) returned `args[2]`: more than 0 if the other one was given the CPU. */
SEC("fexit/yield_to")
int yielded(u64 *args)
{
	struct task_struct *task = (void *)args[0];
	u32 number;
	struct slot *slot;

	if ((int)args[2] <= 0)
		return 0;
	slot = slot_of(task, &number);
	if (slot)
		__sync_fetch_and_add(&slot->yields, 1);
	return 0;
}

static inline void features(void)
{
	struct general *settings = all();
	struct task_struct___top *top = 0;
	struct kvm_vcpu *vcpu = 0;
	struct cfs_rq *queue = 0;
	u32 has = 0;

	if (!settings)
		return;
	if (EXISTS(top->preempt_notifiers))
		has |= HAS_NOTIFIERS;
	if (EXISTS(vcpu->vcpu_id))
		has |= HAS_VCPUS;
	if (EXISTS(queue->throttled_clock_self_time))
		has |= HAS_THROTTLED;
	if (EXISTS(vcpu->stat.wfe_exit_stat))
		has |= HAS_EXITS;
	if (EXISTS(vcpu->stat.directed_yield_attempted))
		has |= HAS_TRIED;
	settings->features = has;
}

static inline u32 home_of(u64 vm, u32 number)
{
	u32 *home = bpf_map_lookup_elem(&homes, &vm);
	u64 zero = 0;

	if (home)
		return *home;
	bpf_map_update_elem(&waiting, &number, &zero, 0);
	bpf_map_update_elem(&homes, &vm, &number, BPF_NOEXIST);
	return number;
}

static inline void settle_in(struct slot *slot, struct task_struct *task, u64 address, u32 number)
{
	struct task_struct___top *top = (void *)task;
	struct kvm_vcpu *vcpu = (void *)address;
	void *vm = 0;
	int id = NO_VCPU;

	__builtin_memset(slot, 0, sizeof(*slot));
	slot->vcpu = NO_VCPU;
	if (address && EXISTS(vcpu->vcpu_id)) {
		bpf_probe_read_kernel(&vm, sizeof(vm), &vcpu->kvm);
		bpf_probe_read_kernel(&id, sizeof(id), &vcpu->vcpu_id);
		slot->vcpu = id;
		slot->vm = (u64)vm;
		slot->address = address;
		slot->home = home_of(slot->vm, number);
		slot->exits_before = slot->exits = exits_of(slot);
	}
	slot->tgid = task->tgid;
	*(u64 *)&slot->name[0] = *(u64 *)&top->comm[0];
	*(u64 *)&slot->name[8] = *(u64 *)&top->comm[8];
	slot->tid = top->pid;
}

/* What a thread does at the moment. Should it be about to change, its next switch puts it right. */
static inline void first_state(struct slot *slot, struct task_struct *task)
{
	struct task_struct___top *top = (void *)task;
	u64 now = bpf_ktime_get_ns();

	slot->began = slot->since = now;
	slot->cpu = cpu_of(task);
	if (top->on_cpu)
		slot->state = RUNNING;
	else if (top->on_rq && state_of(task) == 0)
		wait_begins(slot, task, now, UNSEEN);
	else
		slot->state = BLOCKED;
}

SEC("iter/task")
int look(struct bpf_iter__task *args)
{
	struct task_struct *task = args->task;
	struct task_struct___top *top = (void *)task;
	struct general *settings = all();
	u64 address, *asked;
	u32 number, tid;
	struct slot *slot;

	if (!task || !settings) {
		features();
		return 0;
	}
	slot = slot_of(task, &number);
	if (slot) {
		if (slot->state == READY)
			slot->open_throttled = throttled_since(slot, task, bpf_ktime_get_ns());
		else
			slot->open_throttled = 0;
		if (slot->vm)
			slot->exits = exits_of(slot);
		return 0;
	}
	address = vcpu_of(task);
	tid = top->pid;
	asked = bpf_map_lookup_elem(&wanted, &tid);
	if (asked) {
		if (!address)
			address = *asked;
		if (*asked)
			bpf_map_delete_elem(&wanted, &tid);
	} else if (!address) {
		return 0;
	}
	if (bpf_task_storage_get(&places, task, 0, 0))
		return 0; /* it is on its way out */
	if (bpf_map_pop_elem(&vacant, &number)) {
		settings->unplaced++;
		return 0;
	}
	slot = bpf_map_lookup_elem(&slots, &number);
	if (!slot)
		return 0;
	settle_in(slot, task, address, number);
	first_state(slot, task);
	if (!bpf_task_storage_get(&places, task, &number, BPF_LOCAL_STORAGE_GET_F_CREATE)) {
		slot->state = FREE;
		slot->tid = 0;
		bpf_map_push_elem(&vacant, &number, 0);
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
