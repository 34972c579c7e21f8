// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Watches functions of the guest's kernel: which are called, with what, and what they return. So
 * locks of a guest that knows nothing of us can be recorded (pvlock.trace.linux says which).
 *
 * Functions begin blocks of translated code, and so does the place where a call returns. So the
 * block hook sees both, and nothing of it costs guest time or changes a byte of the guest.
 *
 * While somebody waits for a lock, its words are looked at with each step in virtual time. So it
 * shows when a lock was taken or released by code that is inlined everywhere.
 */
#include <stdlib.h>

#include "qemu.h"

#define ADDRESSES 8192	/* a power of 2, as are the next */
#define FILTER 4096
#define MOST_CALLS 8192
#define MOST_LOCKS 8192

/* An address that is watched. */
struct address {
	uint64_t pc;
	int32_t point;		/* what begins here, or -1 */
	uint32_t returns;	/* calls return here */
};

/* A call whose return is awaited. No two have one stack pointer. */
struct call {
	uint64_t sp, lr, lock;
	uint32_t point;
};

/* A lock that somebody waits for; or did, and nothing has happened to it since. */
struct lock {
	uint64_t at;
	uint32_t waiters, point;
	const uint8_t *words[WATCH_WORDS];
	uint64_t seen[WATCH_WORDS];
};

struct watch {
	const struct watch_point *points;
	struct watch_record *records;
	uint32_t count, capacity;
	uint32_t address_count, call_count, lock_count;
	ptrdiff_t task;		/* offset of SP_EL0 in CPUARMState */
	uint64_t lost;
	struct address addresses[ADDRESSES];
	uint64_t pages[FILTER / 64];	/* that have such addresses, hashed */
	struct call calls[MOST_CALLS];
	struct lock locks[MOST_LOCKS];
	/* How many have this hash: most searches find nothing. */
	uint16_t call_filter[FILTER], lock_filter[FILTER];
};

static uint32_t hash(uint64_t key, uint32_t size)
{
	return key * 0x9e3779b97f4a7c15u >> 40 & (size - 1);
}

static struct address *find_address(struct watch *w, uint64_t pc)
{
	uint32_t at = hash(pc, ADDRESSES);

	while (w->addresses[at].pc && w->addresses[at].pc != pc)
		at = (at + 1) & (ADDRESSES - 1);
	return &w->addresses[at];
}

bool is_watched(const struct vm *vm, uint64_t pc)
{
	return find_address(vm->watch, pc)->pc == pc;
}

bool watches_page(const struct vm *vm, uint64_t pc)
{
	uint32_t bit = hash(pc >> 12, FILTER);

	return vm->watch->pages[bit / 64] >> bit % 64 & 1;
}

/* NULL: too many. */
static struct address *watch_address(struct vm *vm, uint64_t pc)
{
	struct watch *w = vm->watch;
	struct address *a = find_address(w, pc);
	uint32_t bit = hash(pc >> 12, FILTER);

	if (a->pc == pc)
		return a;
	if (w->address_count >= ADDRESSES / 2)
		return NULL;
	w->address_count++;
	a->pc = pc;
	a->point = -1;
	w->pages[bit / 64] |= 1ull << bit % 64;
	forget_address(vm, pc);
	return a;
}

static struct lock *find_lock(struct watch *w, uint64_t at)
{
	if (w->lock_filter[hash(at, FILTER)])
		for (uint32_t i = 0; i < w->lock_count; i++)
			if (w->locks[i].at == at)
				return &w->locks[i];
	return NULL;
}

static void forget_lock(struct watch *w, struct lock *l)
{
	w->lock_filter[hash(l->at, FILTER)]--;
	*l = w->locks[--w->lock_count];
}

static struct call *find_call(struct watch *w, uint64_t sp)
{
	if (w->call_filter[hash(sp, FILTER)])
		for (uint32_t i = 0; i < w->call_count; i++)
			if (w->calls[i].sp == sp)
				return &w->calls[i];
	return NULL;
}

static void forget_call(struct watch *w, struct call *c)
{
	w->call_filter[hash(c->sp, FILTER)]--;
	*c = w->calls[--w->call_count];
}

static uint64_t value_at(const uint8_t *place, uint32_t size)
{
	uint64_t value = 0;

	memcpy(&value, place, size);
	return value;
}

/* A value in the kernel's memory; 0 where there is none. */
static uint64_t peek(struct vcpu *v, uint64_t address, uint32_t size)
{
	const uint8_t *place;

	if (is_user_address(address) || (address & 4095) + size > 4096)
		return 0;
	place = host_address(v, address, MMU_LOAD);
	return place ? value_at(place, size) : 0;
}

/* The IPA of an address of user space; itself, where nothing is. */
static uint64_t user_ipa(struct vcpu *v, uint64_t address)
{
	const uint8_t *place = tlb_vaddr_to_host_aarch64(v->env, address, MMU_LOAD, MMU_USER);

	for (uint32_t i = 0; place && i < v->vm->slot_count; i++) {
		const struct slot *s = &v->vm->slots[i];

		if (place >= s->host && place < s->host + s->size)
			return s->ipa + (place - s->host);
	}
	return address;
}

static struct watch_record *record(struct watch *w, uint64_t time, uint32_t point, uint64_t lock)
{
	static struct watch_record nowhere;
	struct watch_record *r = &nowhere;

	if (w->count < w->capacity)
		r = &w->records[w->count++];
	else
		w->lost++;
	memset(r, 0, sizeof(*r));
	r->time = time;
	r->point = point;
	r->lock = lock;
	return r;
}

static struct watch_record *record_of(struct vcpu *v, uint32_t point, uint64_t lock)
{
	struct watch *w = v->vm->watch;
	struct watch_record *r = record(w, v->time, point, lock);

	r->vcpu = v->index;
	for (int n = 0; n < 3; n++)
		r->x[n] = env64(v, ENV_X + 8 * n);
	r->lr = env64(v, ENV_X + 8 * 30);
	r->task = env64(v, w->task);
	return r;
}

static void read_words(const struct lock *l, uint32_t size, uint64_t *words)
{
	for (int i = 0; i < WATCH_WORDS; i++)
		words[i] = l->words[i] ? value_at(l->words[i], size) : 0;
}

/* Keep an eye on a lock until nobody waits for it any more. False: there are too many. */
static bool await(struct vcpu *v, uint32_t point, uint64_t at)
{
	struct watch *w = v->vm->watch;
	const struct watch_point *p = &w->points[point];
	struct lock *l = find_lock(w, at);

	if (!l) {
		if (w->lock_count == MOST_LOCKS)
			return false;
		l = &w->locks[w->lock_count++];
		w->lock_filter[hash(at, FILTER)]++;
		*l = (struct lock) { .at = at };
	}
	l->point = point;
	for (int i = 0; i < WATCH_WORDS; i++) {
		uint64_t word = at + i * p->word_size;

		if (!p->word_size || !p->word_mask[i] || (word & 4095) + p->word_size > 4096)
			continue;
		l->words[i] = host_address(v, word, MMU_LOAD);
	}
	read_words(l, p->word_size, l->seen);
	l->waiters++;
	return true;
}

static void await_no_more(struct watch *w, uint64_t at)
{
	struct lock *l = find_lock(w, at);

	if (!l || !l->waiters || --l->waiters)
		return;
	if (!l->words[0])
		forget_lock(w, l);
	else	/* who waited has it: the next change is its release */
		read_words(l, w->points[l->point].word_size, l->seen);
}

static bool expect_return(struct vcpu *v, uint32_t point, uint64_t lock)
{
	struct watch *w = v->vm->watch;
	uint64_t sp = env64(v, ENV_X + 8 * 31), lr = env64(v, ENV_X + 8 * 30);
	struct address *a = watch_address(v->vm, lr);
	struct call *c = find_call(w, sp);

	if (!a || (!c && w->call_count == MOST_CALLS))
		return false;
	if (!c) {
		c = &w->calls[w->call_count++];
		w->call_filter[hash(sp, FILTER)]++;
	} else if (w->points[c->point].flags & WATCH_WAIT) { /* of a stack that was left for good */
		await_no_more(w, c->lock);
	}
	a->returns = 1;
	*c = (struct call) { sp, lr, lock, point };
	return true;
}

static void called(struct vcpu *v, uint32_t point)
{
	struct watch *w = v->vm->watch;
	const struct watch_point *p = &w->points[point];
	uint64_t lock = env64(v, ENV_X);
	struct watch_record *r;

	if (p->flags & WATCH_USER)
		lock = user_ipa(v, lock);
	if (p->flags & WATCH_AWAITED && !find_lock(w, lock))
		return;
	if (p->flags & WATCH_RETURN && !expect_return(v, point, lock)) {
		w->lost++;
		return;
	}
	if (p->flags & WATCH_WAIT && !await(v, point, lock))
		w->lost++;
	r = record_of(v, point, lock);
	r->kind = RECORD_CALL;
	for (int i = 0; i < WATCH_READS && p->reads[i].size; i++) {
		const struct watch_read *read = &p->reads[i];
		uint64_t base = read->base < READ_VALUE ? env64(v, ENV_X + 8 * read->base) :
							  r->value[read->base - READ_VALUE];

		r->value[i] = peek(v, base + read->offset, read->size);
	}
}

static void returned(struct vcpu *v, uint64_t pc)
{
	struct watch *w = v->vm->watch;
	struct call *c = find_call(w, env64(v, ENV_X + 8 * 31));

	if (!c || c->lr != pc)
		return;
	record_of(v, c->point, c->lock)->kind = RECORD_RETURN;
	if (w->points[c->point].flags & WATCH_WAIT)
		await_no_more(w, c->lock);
	forget_call(w, c);
}

/* A block begins here, and is watched. */
void meet(struct vcpu *v, uint64_t pc)
{
	const struct address *a = find_address(v->vm->watch, pc);

	if (a->returns)
		returned(v, pc);
	if (a->point >= 0)
		called(v, a->point);
}

/* Record the words of locks that have changed since the last look. */
void look_at_words(struct vm *vm, uint64_t time)
{
	struct watch *w = vm->watch;

	for (uint32_t i = 0; i < w->lock_count; i++) {
		struct lock *l = &w->locks[i];
		const struct watch_point *p = &w->points[l->point];
		uint64_t words[WATCH_WORDS];
		struct watch_record *r;
		bool changed = false;

		read_words(l, p->word_size, words);
		for (int n = 0; n < WATCH_WORDS; n++)
			changed |= ((words[n] ^ l->seen[n]) & p->word_mask[n]) != 0;
		if (!changed)
			continue;
		memcpy(l->seen, words, sizeof(words));
		r = record(w, time, l->point, l->at);
		memcpy(r->x, words, sizeof(words));
		r->kind = RECORD_WORDS;
		r->last = !l->waiters;
		if (r->last)
			forget_lock(w, &w->locks[i--]);
	}
}

/* Watch from now on. The points, and the room for records, must stay. False: that is impossible. */
EXPORT bool watch_start(struct vm *vm, const struct watch_point *points, uint32_t count,
			struct watch_record *records, uint32_t capacity)
{
	const struct reginfo *sp_el0 = qemu_register(vm->vcpus[0], SP_EL0);
	struct watch *w = vm->watch ? NULL : calloc(1, sizeof(*w));

	if (!w || !sp_el0 || sp_el0->offset <= 0 || sp_el0->offset > ENV_SIZE - 8)
		return false;
	w->points = points;
	w->records = records;
	w->capacity = capacity;
	w->task = sp_el0->offset;
	vm->watch = w;
	for (uint32_t i = 0; i < count; i++) {
		struct address *a = watch_address(vm, points[i].pc);

		if (!a)
			return false;
		a->point = i;
	}
	return true;
}

/* How many records there are; they are forgotten. `lost` is how many there were no room for. */
EXPORT uint32_t watch_take(struct vm *vm, uint64_t *lost)
{
	struct watch *w = vm->watch;
	uint32_t count = w->count;

	*lost = w->lost;
	w->count = 0;
	w->lost = 0;
	return count;
}
