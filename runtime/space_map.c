/*
 * Changing what a space maps: a queue, merged as it grows, and handing it to the mapper.
 *
 * The mapper executes records from a ring that guest code can read and not write. It reports in a
 * word that guest code can write, so that word is worth nothing while guest code may run:
 *
 *  - Additions do not need it. A forged report makes guest code fault on what is not there yet,
 *    and we map it again.
 *  - A record must not change before it has been executed, or the mapper might take half of one
 *    and half of another. What proves progress is that the mapper slept: FUTEX_WAKE found it on a
 *    word on which nobody else can wait (space_seccomp.c), and it goes to sleep only when it has
 *    executed all there was. A batch is at most half a ring, so the proof of one batch may come
 *    with the next.
 *  - Removals park G first. Then nobody but the mapper can write the word.
 */
#include <asm/unistd_64.h>
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>

#include "space_impl.h"

#define AWAIT_MS 10000

_Static_assert(SPACE_QUEUE + 1 <= RECORD_COUNT / 2, "a batch is at most half a ring");

bool space_meets_stub(const struct space *sp, u64 va, u64 len)
{
	return va < sp->base + SPACE_SIZE && va + len > sp->base;
}

/* Wake the mapper; if it was asleep, all it was given before tail has been executed. (Not if it has
 * been believed that it did not sleep when it was given something: perhaps it did.) */
static void kick_mapper(struct space *sp, u32 before)
{
	bool slept = space_futex_wake(&space_ctl(sp)->tail) == 1;

	if (slept && !sp->unwoken)
		sp->proven = before;
	sp->unwoken = false;
}

/* The mapper sleeps only when it has executed all there is; it stays asleep here. */
int space_settle(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);
	u64 end = 0;

	space_set_word(&c->m_spin, 0);
	if (sp->unwoken)
		kick_mapper(sp, sp->tail);
	while (sp->proven != sp->tail) {
		if (space_futex_move(&c->tail, sp->tail, (u32 *)&c->tail)) {
			sp->proven = sp->tail;
			sp->wakes = false;
			break;
		}
		end = end ? end : space_now_ms() + AWAIT_MS;
		if (space_gone(sp->mapper) || space_now_ms() > end) {
			space_kill(sp);
			return -EIO;
		}
		sched_yield();
	}
	return 0;
}

/* Wait until at least n records are free for certain. */
static int make_room(struct space *sp, unsigned n)
{
	return RECORD_COUNT - (sp->tail - sp->proven) < n ? space_settle(sp) : 0;
}

static void write_records(struct space *sp, const struct space_record *r, unsigned n)
{
	struct space_record *ring = (struct space_record *)(sp->slot + SPACE_RING);

	for (unsigned i = 0; i < n; i++) {
		struct space_record *to = &ring[sp->tail++ % RECORD_COUNT];

		*to = r[i];
		if (r[i].nr == __NR_modify_ldt) /* the descriptor is in the record itself */
			to->a[1] = sp->base + (u64)((u8 *)&to->a[3] - sp->slot);
	}
}

void space_post(struct space *sp, const struct space_record *r, unsigned n)
{
	u32 before = sp->tail;

	write_records(sp, r, n);
	atomic_store(&space_ctl(sp)->tail, sp->tail);
	kick_mapper(sp, before);
}

/* No spinning, but yields while that is the way to wait: with G spinning on one processor and us on
 * another, the mapper would have none (bench/space_exit on two: 18 us a fault against 45). */
int space_await(struct space *sp)
{
	struct space_state *st = space_state(sp);
	u64 end = 0, start = space_ticks();
	u32 ack;

	while (space_place_calm(sp) && atomic_load(&st->ack) != sp->tail &&
	       space_ticks() - start < SPACE_YIELD_TICKS)
		sched_yield();
	while ((ack = atomic_load(&st->ack)) != sp->tail) {
		end = end ? end : space_now_ms() + AWAIT_MS;
		atomic_store(&st->k_waits, 1);
		ack = atomic_load(&st->ack);
		if (ack != sp->tail)
			space_futex_wait(&st->ack, ack, 20);
		if (atomic_load(&st->ack) != sp->tail && space_gone(sp->mapper))
			return -EIO;
		if (space_now_ms() > end)
			return -ETIMEDOUT;
	}
	if (atomic_load(&st->k_waits))
		atomic_store(&st->k_waits, 0);
	return 0;
}

static struct space_record record_of(const struct space_command *c)
{
	struct space_record r = {.a = {c->va, c->len, c->prot}, .check = CHECK_OK};

	switch (c->kind) {
	/* To enter the pages at once (MAP_POPULATE) takes longer than the fault of each that is
	 * used. */
	case COMMAND_MAP:
		r.nr = __NR_mmap;
		r.a[3] = MAP_SHARED | MAP_FIXED;
		r.a[4] = SPACE_RAM_FD;
		r.a[5] = c->offset;
		break;
	case COMMAND_COPY:
		r.nr = __NR_mmap;
		r.a[3] = MAP_SHARED | MAP_FIXED;
		r.a[4] = SPACE_COPIES_FD;
		r.a[5] = c->offset;
		break;
	case COMMAND_WIDEN:
	case COMMAND_PROTECT: r.nr = __NR_mprotect; break;
	case COMMAND_UNMAP: r.nr = __NR_munmap; break;
	}
	return r;
}

/* Turn the queue into records; their number. */
static unsigned take_queue(struct space *sp, struct space_record *r)
{
	unsigned n = sp->commands;

	for (unsigned i = 0; i < n; i++)
		r[i] = record_of(&sp->queue[i]);
	sp->commands = 0;
	sp->pool->stats->n[STAT_space_commands] += n;
	SPACE_COUNT(sp, space_batches);
	return n;
}

int space_execute(struct space *sp, const struct space_record *r, unsigned n)
{
	struct space_state *st = space_state(sp);
	s64 error;
	int ret;

	/* Whatever was written here before, in advance perhaps, does not count. */
	atomic_store(&st->ack, sp->tail);
	atomic_store(&st->m_error, 0);
	ret = make_room(sp, n);
	if (!ret) {
		space_post(sp, r, n);
		ret = space_await(sp);
	}
	if (ret) {
		space_kill(sp);
		return -EIO;
	}
	error = atomic_load(&st->m_error);
	return error ? -ENOMEM : 0;
}

/* Hand over the queue and wait. */
static int run_queue(struct space *sp)
{
	struct space_record r[SPACE_QUEUE];

	return space_execute(sp, r, take_queue(sp, r));
}

static bool removes(const struct space *sp)
{
	for (unsigned i = 0; i < sp->commands; i++)
		if (sp->queue[i].kind >= COMMAND_PROTECT)
			return true;
	return false;
}

/* Give records to the mapper, who may be about. */
static void post_awake(struct space *sp, const struct space_record *r, unsigned n)
{
	u32 before = sp->tail;

	write_records(sp, r, n);
	atomic_store(&space_ctl(sp)->tail, sp->tail);
	/* If it lies, the run takes a little longer (still_coming). */
	if (atomic_load(&space_state(sp)->m_sleeps))
		kick_mapper(sp, before);
	else
		sp->unwoken = true;
}

bool space_chain_able(const struct space *sp)
{
	/* Parked for the sake of what is queued, a page that gives way to another perhaps: then not
	 * before that is done. */
	return sp->commands && !sp->dead && !sp->moved && !sp->stopped && space_place_calm(sp) &&
	       !removes(sp);
}

int space_chain_queue(struct space *sp)
{
	struct space_record r[SPACE_QUEUE];
	struct space_ctl *c = space_ctl(sp);
	unsigned n = take_queue(sp, r);

	if (make_room(sp, n))
		return -EIO;
	sp->left = true;
	SPACE_COUNT(sp, space_chained_batches);
	/* The next one, too, may come soon. */
	space_set_word(&c->m_spin, sp->chained || space_place_sharing(sp) == WAIT_BESIDE
				       ? SPACE_YIELD_TICKS
				       : 0);
	sp->chained = true;
	atomic_store(&c->want, sp->tail + n);
	post_awake(sp, r, n);
	return 0;
}

bool space_leave_able(struct space *sp)
{
	return sp->commands && !sp->dead && (!removes(sp) || (sp->parked && !sp->stopped)) &&
	       space_move_asleep(sp);
}

bool space_leave_queue(struct space *sp)
{
	struct space_record r[SPACE_QUEUE + 1];
	struct space_ctl *c = space_ctl(sp);
	struct space_state *st = space_state(sp);
	unsigned n = take_queue(sp, r);

	/* If something that is to go stays, G is not to go on. */
	for (unsigned i = 0; i < n; i++)
		r[i].check = CHECK_STOP;
	r[n++] = (struct space_record){.nr = __NR_futex, .a = {sp->base + CTL_PARK, FUTEX_WAKE, 1}};
	sp->moved = sp->parked = false;
	sp->left = true;
	SPACE_COUNT(sp, space_left_batches);
	if (make_room(sp, n)) {
		space_kill(sp);
		return false;
	}
	/* A kick may have woken it by then; and what stands there as M's report may not be. */
	atomic_store(&st->ack, sp->tail);
	atomic_store(&c->want, sp->tail + n);
	space_set_word(&c->m_spin, space_place_sharing(sp) == WAIT_BESIDE ? SPACE_YIELD_TICKS : 0);
	/* A kick can have ended the run already; else a report that is there is a lie. */
	sp->alone = atomic_load(&st->exited) != sp->run;
	sp->wakes = true;
	post_awake(sp, r, n);
	return true;
}

/*
 * G has reported the run that the mapper was to wake it for, and not before. It was parked in the
 * stub, which goes on to guest code only when the mapper, who alone could write that then, has
 * reported all records, the wake too: unless a kick made it give up.
 */
void space_leave_done(struct space *sp)
{
	if (sp->wakes && sp->alone && !atomic_load(&sp->kicked)) {
		sp->proven = sp->tail;
		sp->wakes = false;
	}
}

int space_check_left(struct space *sp)
{
	bool failed = sp->left && atomic_load(&space_state(sp)->m_error);

	sp->left = false;
	return failed ? -ENOMEM : 0;
}

bool space_takes(const struct space *sp)
{
	for (unsigned i = 0; i < sp->commands; i++)
		if (sp->queue[i].kind != COMMAND_WIDEN)
			return true;
	return false;
}

int space_sync(struct space *sp)
{
	int ret;

	if (sp->dead)
		return -EIO;
	ret = space_check_left(sp);
	if (ret || !sp->commands)
		return ret;
	if (removes(sp))
		ret = space_park(sp);
	return ret ? ret : run_queue(sp);
}

/* Do two commands, one after the other, make one? */
static bool merge(struct space_command *last, const struct space_command *c)
{
	if (last->kind != c->kind || last->prot != c->prot || last->va + last->len != c->va)
		return false;
	if (c->kind <= COMMAND_COPY && last->offset + last->len != c->offset)
		return false;
	last->len += c->len;
	return true;
}

static int enqueue(struct space *sp, const struct space_command *c)
{
	int ret;

	if (sp->dead)
		return -EIO;
	if (sp->commands && merge(&sp->queue[sp->commands - 1], c))
		return 0;
	if (sp->commands == SPACE_QUEUE) {
		ret = space_sync(sp);
		if (ret)
			return ret;
	}
	sp->queue[sp->commands++] = *c;
	return 0;
}

static int check_range(u64 va, u64 len)
{
	if ((va | len) & ~PAGE_MASK || !len || len > SPACE_USER_END || va > SPACE_USER_END - len)
		return -EINVAL;
	return 0;
}

int space_map(struct space *sp, u64 va, u64 len, int prot, u64 ram_off)
{
	struct space_command c = {COMMAND_MAP, prot, va, len, ram_off};

	if (check_range(va, len) || ram_off & ~PAGE_MASK)
		return -EINVAL;
	if (space_meets_stub(sp, va, len))
		return -EBUSY;
	return enqueue(sp, &c);
}

int space_map_copy(struct space *sp, u64 va, unsigned copy)
{
	struct space_command c = {COMMAND_COPY, PROT_READ | PROT_EXEC, va, PAGE_SIZE,
				  copy * PAGE_SIZE};

	BUG_ON(copy >= SPACE_COPIES);
	if (check_range(va, PAGE_SIZE))
		return -EINVAL;
	if (space_meets_stub(sp, va, PAGE_SIZE))
		return -EBUSY;
	return enqueue(sp, &c);
}

static int protect(struct space *sp, enum space_command_kind kind, u64 va, u64 len, int prot)
{
	struct space_command c = {kind, prot, va, len, 0};

	if (check_range(va, len))
		return -EINVAL;
	if (space_meets_stub(sp, va, len))
		return -EBUSY;
	return enqueue(sp, &c);
}

int space_protect(struct space *sp, u64 va, u64 len, int prot)
{
	return protect(sp, COMMAND_PROTECT, va, len, prot);
}

int space_widen(struct space *sp, u64 va, u64 len, int prot)
{
	return protect(sp, COMMAND_WIDEN, va, len, prot);
}

/* What of [va, end) lies in [from, to). */
static int unmap_part(struct space *sp, u64 va, u64 end, u64 from, u64 to)
{
	struct space_command c = {.kind = COMMAND_UNMAP};

	va = MAX(va, from);
	end = MIN(end, to);
	if (va >= end)
		return 0;
	c.va = va;
	c.len = end - va;
	return enqueue(sp, &c);
}

int space_unmap(struct space *sp, u64 va, u64 len)
{
	int ret = check_range(va, len);

	if (!ret)
		ret = unmap_part(sp, va, va + len, 0, sp->base);
	if (!ret)
		ret = unmap_part(sp, va, va + len, sp->base + SPACE_SIZE, SPACE_USER_END);
	return ret;
}

int space_empty(struct space *sp)
{
	int ret;

	sp->commands = 0;
	ret = space_unmap(sp, 0, SPACE_USER_END);
	return ret ? ret : space_sync(sp);
}
