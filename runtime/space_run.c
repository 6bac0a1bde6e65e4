/*
 * Running guest code in a space: entry, waiting for the exit, kicks, parking.
 *
 * G and the monitor hand over through two counters: go (ours, read-only in the space) is the number
 * of the run wanted, exited (the space's) of the run that ended. Each side spins for a bounded time
 * and then sleeps on the other's word; before it sleeps it says so, with a full barrier between
 * that and the last look, so that no wake is lost between two sides that play by the rules. A side
 * that does not (guest code can write exited and the sleep flag) hurts itself: we never sleep
 * without a timeout.
 *
 * No kick is lost: it sets a word that G looks at after it has seen go, and then sends a signal. If
 * that comes before G has looked, G sees the word; if after, the handler finds the way into guest
 * code interrupted and reports that the run did not take place.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "space_impl.h"

#define SLEEP_MS       10
#define ANSWER_CPU_US  20000 /* of G's own time, so that a busy host is not taken for an attack */
#define GIVE_UP_MS     10000
#define SELECTOR_DATA  0x2b /* Linux's flat user data segment */
#define SPIN_FLOOR_DIV 16
#define LOOKS          16 /* between two at the clock */
#define FLAGS_SAHF     0xd5u
#define FLAG_TF        BIT(8)
#define FLAG_OF        BIT(11)
#define FLAG_NT        BIT(14)
#define SAVE_TRIES     100
#define PARK_TICKS     300000u /* some 0.1 ms, for G to get to its sleep */

static bool is_canonical(u64 a)
{
	return (u64)((s64)(a << 16) >> 16) == a;
}

/* Segment registers, unless G has them already. */
static u32 write_segments(struct space *sp, const struct space_regs *r)
{
	struct space_ctl *c = space_ctl(sp);
	u32 tls = space_order_tls(sp);

	if (!tls && sp->segments && r->fs_base == sp->has.fs_base &&
	    r->gs_base == sp->has.gs_base && r->ds == sp->has.ds && r->es == sp->has.es &&
	    r->fs == sp->has.fs && r->gs == sp->has.gs)
		return 0;
	c->fs_base = r->fs_base;
	c->gs_base = r->gs_base;
	c->ds = r->ds;
	c->es = r->es;
	c->fs = r->fs;
	c->gs = r->gs;
	return ORDER_SEGMENTS | tls;
}

/* Registers for the stub to load before guest code begins, all of them. */
static void write_image(struct space *sp, const struct space_regs *r, u64 rip)
{
	struct space_image *i = (struct space_image *)(sp->slot + SPACE_IMAGE);
	const u64 *g = r->gpr;

	*i = (struct space_image){.clean_flags = SPACE_FLAGS_FIXED,
				  .rax = g[0],
				  .rcx = g[1],
				  .rdx = g[2],
				  .rbx = g[3],
				  .rsp = g[4],
				  .rbp = g[5],
				  .rsi = g[6],
				  .rdi = g[7],
				  .r8 = g[8],
				  .r9 = g[9],
				  .r10 = g[10],
				  .r11 = g[11],
				  .r12 = g[12],
				  .r13 = g[13],
				  .r14 = g[14],
				  .r15 = g[15],
				  .rip = rip,
				  .cs = r->cs,
				  .rflags = (r->rflags & SPACE_USER_FLAGS) | SPACE_FLAGS_FIXED,
				  .ss = SELECTOR_DATA};
}

/* The same in short: what a system call changes. */
static void write_same(struct space_entry *e, const struct space_regs *r, u64 rip)
{
	e->rax = r->gpr[0];
	e->rcx = r->gpr[1];
	e->r11 = r->gpr[11];
	e->rip = rip;
	e->flags = (u32)(r->rflags & FLAGS_SAHF) << 8 | (r->rflags & FLAG_OF ? 1 : 0);
}

/*
 * What will happen when G comes back? As with branches: two bits of the past choose a counter. A
 * program that takes rights from a page and gives them back is parked every second time; so is one
 * that sends something and waits for the answer, and then its vector state is asked for.
 */
static void learn(struct space_habit *h, bool happened)
{
	u8 *n = &h->n[h->past];

	*n = (u8)(happened ? MIN(*n + 1, 3) : MAX(*n - 1, 0));
	h->past = (u8)((h->past << 1 | happened) % ARRAY_LEN(h->n));
}

static bool expects(const struct space_habit *h)
{
	return h->n[h->past] > 1;
}

static void learn_habits(struct space *sp)
{
	learn(&sp->parks, sp->parked || sp->stopped);
	learn(&sp->asks, sp->asked);
	sp->asked = false;
}

/* What the run is to begin with. */
static void write_entry(struct space *sp, const struct space_regs *r)
{
	struct space_ctl *c = space_ctl(sp);
	bool plain = r->cs == SPACE_CS64 && !(r->rflags & (FLAG_TF | FLAG_NT));
	u64 rip = plain ? space_fast_resume(sp, r->rip) : r->rip;
	u32 order = write_segments(sp, r);

	if (!plain || sp->serialize)
		order |= ORDER_IRET;
	if (!sp->live) {
		order |= ORDER_LOAD;
		c->rfbm = sp->pool->xsave_mask;
		c->xsave = sp->base + sp->xsave_off;
		space_xsave_clean(sp);
	}
	if (expects(&sp->asks))
		order |= ORDER_KEEP;
	if (space_place_timed(sp))
		order |= ORDER_TIME;
	if (!(order & ORDER_IRET) && space_fast_same(sp, r)) {
		order |= ORDER_SAME;
		SPACE_COUNT(sp, space_same);
		write_same(&sp->entry, r, rip);
	} else {
		write_image(sp, r, rip);
	}
	sp->knows = false;
	sp->entry.order = order;
}

static bool regs_valid(const struct space *sp, const struct space_regs *r)
{
	return (r->cs == SPACE_CS32 || r->cs == SPACE_CS64) && is_canonical(r->rip) &&
	       is_canonical(r->fs_base) && is_canonical(r->gs_base) &&
	       space_selector_valid(sp, r->ds) && space_selector_valid(sp, r->es) &&
	       space_selector_valid(sp, r->fs) && space_selector_valid(sp, r->gs);
}

void space_kick(struct space *sp)
{
	if (!atomic_load(&sp->running))
		return;
	atomic_store(&sp->kicked, true);
	/* One is enough for a run, and many would fill the signal stack of a G that does not get to
	 * its handler for new ones. */
	if (!atomic_exchange(&space_ctl(sp)->kick, 1))
		kill(sp->guest, SPACE_KICK_SIGNAL);
}

/* Whoever has waited in vain for something waits less the next time; whoever has slept, and need
 * not have, does not. */
static u32 adapt(const struct space *sp, u32 spin, u64 took)
{
	u32 max = sp->pool->spin_max;

	return took > 2 * max ? MAX(spin / 2, max / SPIN_FLOOR_DIV) : max;
}

/* How the tasks of the space are to wait for what comes. */
static void say_how_to_wait(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);
	bool near = space_place_near(sp), calm = space_place_calm(sp);

	space_set_word(&c->yield, space_place_sharing(sp));
	/* To sleep at once, and not when it is told to, for which it must first be seen awake: two
	 * switches less. */
	if (expects(&sp->parks))
		space_set_word(&c->spin, 0);
	else
		space_set_word(&c->spin, near ? calm ? SPACE_YIELD_TICKS : 0 : sp->guest_spin);
}

/* Let G see that go has changed. */
static void wake_guest(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);

	if (sp->stopped)
		kill(sp->guest, SIGCONT);
	/* The kernel may have had a reason of its own to bring it back to the first word. */
	else if (sp->moved && space_futex_wake((_Atomic u32 *)&c->park) == 0)
		space_futex_wake(&c->go);
	if (!sp->moved && atomic_load(&space_state(sp)->g_sleeps))
		space_futex_wake(&c->go);
	sp->moved = sp->parked = sp->stopped = false;
}

/* G may have gone to sleep when we had not yet been seen to call it, nor it to sleep. */
static void wake_late(struct space *sp)
{
	if (!space_place_near(sp) && atomic_load(&space_state(sp)->g_sleeps))
		space_futex_wake(&space_ctl(sp)->go);
}

/* A line that is being looked at when it is written is there without being asked for. */
static bool look_for_exit(const struct space *sp, unsigned times)
{
	const struct space_state *st = space_state(sp);

	for (unsigned i = 0; i < times; i++) {
		if (atomic_load_explicit(&st->exited, memory_order_acquire) == sp->run)
			return true;
		__builtin_prefetch(&st->rbx);
		__builtin_ia32_pause();
	}
	return false;
}

/* Spin for the exit of the run, or let G have the processor; true if it came. */
static bool spin_for_exit(struct space *sp, const _Atomic u32 *stop)
{
	struct space_state *st = space_state(sp);
	u32 sharing = space_place_sharing(sp);
	bool near = sharing == WAIT_NEAR, yield;
	u64 start = 0, now;

	for (;;) {
		yield =
		    near || (sharing == WAIT_FAR && sp->left && atomic_load(&st->ack) != sp->tail);
		if (look_for_exit(sp, yield ? 1 : LOOKS)) {
			SPACE_COUNT(sp, space_spins_won);
			return true;
		}
		if (atomic_load_explicit(stop, memory_order_relaxed))
			break;
		now = space_ticks();
		if (!start)
			wake_late(sp);
		start = start ? start : now;
		if (now - start >= (near ? SPACE_YIELD_TICKS : sp->spin))
			break;
		if (yield)
			sched_yield(); /* for G, or for the mapper */
	}
	SPACE_COUNT(sp, space_spins_lost);
	return false;
}

/* For a run that is over by itself, or guest code has seen to it that it is not. */
static const _Atomic u32 never;

/* How long a kick, or an order, has gone unanswered. */
struct patience {
	u64 since_ms, cpu_us;
};

static bool patience_lost(struct patience *p, const struct space *sp)
{
	u64 now = space_now_ms(), cpu = space_cpu_us(sp->guest);

	if (!p->since_ms)
		*p = (struct patience){now, cpu};
	return now - p->since_ms > GIVE_UP_MS || cpu - p->cpu_us > ANSWER_CPU_US;
}

/* We slept, and nothing has come. False: nothing will. */
static bool still_coming(struct space *sp, u32 seen)
{
	/* A G whose M has gone leaves no 0, but it may have left something before. */
	if (space_gone(sp->guest))
		return atomic_load(&space_state(sp)->exited) != seen;
	if (!sp->left)
		return true;
	/* The kernel may have had a reason of its own to bring G back from where it was parked. */
	sp->alone = false;
	space_futex_wake(&space_ctl(sp)->go);
	/* It may have been asleep although it did not say so, when it was given something to do. */
	space_futex_wake(&space_ctl(sp)->tail);
	return !space_gone(sp->mapper);
}

/* Sleep until the exit. False: the space is dead. */
static bool sleep_for_exit(struct space *sp, const _Atomic u32 *stop)
{
	struct space_state *st = space_state(sp);
	struct patience p = {0};
	bool alive = true;
	u32 seen;

	atomic_store(&st->k_sleeps, 1);
	wake_late(sp);
	for (;;) {
		atomic_store(&st->k_sleeps, 1);
		seen = atomic_load(&st->exited);
		if (seen == sp->run)
			break;
		if (seen == 0 && space_gone(sp->guest)) {
			alive = false;
			break;
		}
		if (atomic_load(stop)) {
			SPACE_COUNT(sp, space_kicks);
			space_kick(sp);
		}
		if ((atomic_load(stop) || stop == &never) && patience_lost(&p, sp)) {
			alive = false;
			break;
		}
		space_futex_wait(&st->exited, seen, SLEEP_MS);
		if (atomic_load(&st->exited) == seen && !still_coming(sp, seen)) {
			alive = false;
			break;
		}
	}
	atomic_store(&st->k_sleeps, 0);
	return alive;
}

/* The hand-over. All of its line in one go: G is looking at it. */
static void give(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);
	const struct space_entry *e = &sp->entry;

	if (!++sp->run) /* 0 says that G died */
		sp->run++;
	c->order = e->order;
	if (e->order & ORDER_SAME) {
		c->rax = e->rax;
		c->rcx = e->rcx;
		c->r11 = e->r11;
		c->rip = e->rip;
		c->flags = e->flags;
	}
	/* A locked instruction would let G take the line in between, and get it back; wake_late
	 * makes up for it. */
	if (space_place_near(sp))
		atomic_store(&c->go, sp->run);
	else
		atomic_store_explicit(&c->go, sp->run, memory_order_release);
}

/* Wait for the end of a run. False: the space is dead. */
static bool wait_for_exit(struct space *sp, const _Atomic u32 *stop)
{
	bool near = space_place_near(sp), come;
	u64 start;

	if ((!near || space_place_calm(sp)) && spin_for_exit(sp, stop)) {
		sp->spin = sp->pool->spin_max;
		return true;
	}
	start = space_ticks();
	come = sleep_for_exit(sp, stop);
	if (!near)
		sp->spin = adapt(sp, sp->spin, sp->spin + space_ticks() - start);
	return come;
}

/* Start the run and wait for its end. leave: the mapper is to do what is queued first. False: the
 * space is dead. *entered: it was not stopped before it began. */
static bool do_run(struct space *sp, bool leave, const _Atomic u32 *stop, bool *entered)
{
	space_set_word(&space_ctl(sp)->kick, 0);
	/* From here on space_kick acts; before, *stop is seen. An order is no run of guest code: it
	 * would never get done if each try were kicked before G is awake. */
	atomic_store(&sp->running, stop != &never);
	*entered = !atomic_load(stop);
	if (!*entered) {
		atomic_store(&sp->running, false);
		return true;
	}
	say_how_to_wait(sp);
	give(sp);
	if (!leave)
		wake_guest(sp);
	else if (!space_leave_queue(sp))
		return false;
	*entered = wait_for_exit(sp, stop);
	atomic_store_explicit(&sp->running, false, memory_order_release);
	return *entered;
}

bool space_save_vec(struct space *sp)
{
	struct space_state *st = space_state(sp);
	bool entered;

	for (unsigned i = 0; i < SAVE_TRIES && !sp->dead; i++) {
		sp->entry.order = ORDER_SAVE;
		if (!do_run(sp, false, &never, &entered)) {
			space_kill(sp);
			break;
		}
		/* Else a kick was still on its way. */
		if (atomic_load(&st->kind) == KIND_SAVED)
			break;
	}
	SPACE_COUNT(sp, space_vec_saves);
	sp->live = false;
	sp->xsave_off = ST_XSAVE;
	return !sp->dead;
}

static void count_exit(struct space *sp, enum space_exit_kind kind)
{
	if (kind == SPACE_KICKED)
		SPACE_COUNT(sp, space_kicked);
	else if (kind == SPACE_FAULT)
		SPACE_COUNT(sp, space_faults);
	else
		SPACE_COUNT(sp, space_syscalls);
}

/* G's death leaves 0 where it says how far it is, and so does guest code that feels like it. */
static bool died_at_rest(const struct space *sp)
{
	return !atomic_load_explicit(&space_state(sp)->exited, memory_order_relaxed) &&
	       space_gone(sp->guest);
}

/* G waited for what M had been left to do, and M died of something. */
static bool never_began(const struct space *sp)
{
	return sp->left && atomic_load(&space_state(sp)->ack) != sp->tail && space_gone(sp->mapper);
}

/* It is over. -EIO: what the program was is still known. */
static int died(struct space *sp, struct space_exit *ex)
{
	int ret = never_began(sp) ? -EIO : 0;

	space_kill(sp);
	ex->kind = SPACE_DEAD;
	return ret;
}

int space_run(struct space *sp, struct space_regs *regs, const _Atomic u32 *stop,
	      struct space_exit *ex)
{
	bool entered, chain, leave, quiet;
	int ret;

	*ex = (struct space_exit){.kind = SPACE_KICKED};
	if (!regs_valid(sp, regs))
		return -EINVAL;
	chain = space_chain_able(sp);
	leave = !chain && space_leave_able(sp);
	quiet = (chain || !sp->commands) && !sp->parked && !sp->stopped;
	ret = chain || leave ? space_check_left(sp) : space_sync(sp);
	if (!ret && chain)
		ret = space_chain_queue(sp);
	if (ret)
		return ret;
	/* The guest has nothing mapped where the stub is. */
	if (space_meets_stub(sp, regs->rip, 1)) {
		*ex = space_exit_stub(regs->rip);
		return 0;
	}
	if (died_at_rest(sp)) {
		space_kill(sp);
		return -EIO;
	}
	space_place_run(sp, quiet, leave);
	if (!space_place_near(sp))
		sp->guest_spin =
		    adapt(sp, sp->guest_spin, sp->pool->place.started - sp->pool->place.ended);
	learn_habits(sp);
	write_entry(sp, regs);
	SPACE_COUNT(sp, space_runs);
	if (!do_run(sp, leave, stop, &entered) || (entered && !space_exit_decode(sp, regs, ex)))
		return died(sp, ex);
	if (entered && atomic_load(&space_state(sp)->kind) != KIND_NOT_ENTERED) {
		space_leave_done(sp);
		space_place_exit(sp);
	}
	count_exit(sp, ex->kind);
	if (ex->fast)
		SPACE_COUNT(sp, space_fast_syscalls);
	return 0;
}

/*
 * Parking, the quick way: G said that it sleeps, and the kernel found it on the word it may wait
 * for and moved it to one that nobody will wake. It leaves that sleep for a signal only. So this
 * is no proof while a kick may be on its way to G, and it may fail, since guest code need not
 * sleep.
 */
bool space_move_asleep(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);

	if (!sp->moved && !sp->stopped && atomic_load(&space_state(sp)->g_sleeps))
		sp->moved = space_futex_move(&c->go, sp->run, &c->park);
	return sp->moved;
}

/* Give G time to go to sleep. */
static bool park_soon(struct space *sp)
{
	bool near = space_place_near(sp);
	u64 end = space_ticks() + (near ? PARK_TICKS : sp->pool->spin_max);

	atomic_store(&space_ctl(sp)->spin, 0);
	do {
		if (atomic_load(&sp->kicked))
			return false;
		if (space_move_asleep(sp))
			return true;
		if (near)
			sched_yield();
		else
			__builtin_ia32_pause();
	} while (space_ticks() < end);
	return false;
}

/* The slow way, which cannot be refused. All signals sent before have been taken by then. */
static int park_stopped(struct space *sp)
{
	siginfo_t info = {.si_pid = 0};

	SPACE_COUNT(sp, space_stops);
	atomic_store(&sp->kicked, false);
	kill(sp->guest, SIGSTOP);
	while (waitid(P_PID, sp->guest, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL) < 0)
		if (errno != EINTR)
			break;
	if (info.si_code != CLD_STOPPED) {
		space_kill(sp);
		return -EIO;
	}
	/* Take the report, or the next wait finds it again. */
	waitid(P_PID, sp->guest, &info, WSTOPPED | WNOHANG | __WALL);
	sp->stopped = true;
	sp->moved = false; /* its system call starts over, on the first word */
	return 0;
}

int space_park(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);

	if (sp->dead)
		return -EIO;
	if (sp->parked || sp->stopped)
		return 0;
	SPACE_COUNT(sp, space_parks);
	sp->chained = false;
	/* Or a wake that was left to the mapper comes later. It may have come for a G that has been
	 * moved already. */
	if (sp->wakes && space_settle(sp))
		return -EIO;
	if (sp->moved)
		sp->moved = space_futex_move((_Atomic u32 *)&c->park, c->park, &c->park);
	sp->parked = park_soon(sp);
	return sp->parked ? 0 : park_stopped(sp);
}
