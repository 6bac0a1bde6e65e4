/*
 * On which processors the tasks of a space and the monitor run, and how they wait for each other.
 *
 * Near: all on one. Whoever waits yields: the processor goes to the other at once, which costs 1 to
 * 1.5 us, while to sleep, and to be woken, takes 3 to 4, whatever is done then; parking finds G
 * asleep soon. Far: on different ones, and both sides spin. Then a hand-over that comes
 * while the other spins costs next to nothing; but one that comes later wakes an idle processor,
 * which on a virtual machine takes longer than all the rest, and to park G is to wait until it has
 * gone to sleep over there. G is kept off the monitor's processor then: on a busy machine it might
 * be left there, behind a monitor that spins.
 *
 * The mapper is with the monitor then, or, for a program that is parked again and again, with G: it
 * takes the removal while the monitor goes on, and wakes G on a processor that has not fallen idle.
 *
 * So far is for a program that makes one short system call after the other, which is how it is
 * recognised: by its own time and ours, and not by the clock, which on a busy machine runs for
 * others, too. Near is for everything else.
 *
 * To yield is right as long as nobody else wants the processor. If somebody does, it is theirs for
 * milliseconds, while a task that has slept is preferred when it is woken. G notes when it enters
 * guest code and when it leaves, so what is lost between its time and ours shows. Where that is
 * more than sleeping costs, we sleep, for a while, and a longer one each time it was right to; and
 * where far has cost more than near did, we stay near likewise.
 *
 * The scheduler moves a task that wakes to an idle processor. That is just wrong for two that take
 * turns, hence the affinity. Lest we cling to a processor that somebody else needs more, the
 * monitor is set free now and then, and the others follow to where it wakes up.
 *
 * Where others want the processor as well, each of us is after every hand-over a task that has just
 * woken. Linux 6.12 and later lets a task ask for short slices; then it gets its turn at once,
 * within what is its share anyway, and not when somebody else's slice is over.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "space_impl.h"

#define SHORT_TICKS 60000u     /* for guest code, and for us: some 20 us */
#define WINDOW      64u        /* runs after which the choice is made anew */
#define GO_FAR      56u        /* so many of them were short */
#define GO_NEAR     40u        /* no longer */
#define GO_BESIDE   14u        /* so many of them the mapper was left to begin */
#define ROAM_TICKS  300000000u /* some 0.1 s */
#define SLICE_NS    100000u    /* the shortest there is */
#define JUDGE_TICKS 30000000u  /* some 10 ms */
#define JUDGE_RUNS  128u       /* or one that was delayed for long counts for too much */
#define TIMED       32u        /* of short runs far apart one in so many: the clock costs more */
#define YIELD_TICKS 45000u     /* more lost in a hand-over, some 15 us, and we do not yield */
#define PAUSE_MIN   60000000u  /* some 20 ms */
#define PAUSE_MAX   3000000000u

static void set_affinity(const struct space_pool *pool, pid_t pid, const cpu_set_t *cpus)
{
	/* A task that cannot be moved works where it is. */
	sched_setaffinity(pid, sizeof(*cpus), cpus);
	pool->stats->n[STAT_space_moves]++;
}

/* To one processor; -1: to any. */
static void fix_to(const struct space_pool *pool, pid_t pid, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	if (cpu >= 0)
		CPU_SET(cpu, &one);
	set_affinity(pool, pid, cpu >= 0 ? &one : &pool->place.allowed);
}

/* To any but this one. */
static void keep_off(const struct space_pool *pool, pid_t pid, int cpu)
{
	cpu_set_t others = pool->place.allowed;

	CPU_CLR(cpu, &others);
	set_affinity(pool, pid, &others);
}

/* Is there more than one processor for us? */
static bool has_choice(const struct space_pool *pool)
{
	return pool->spin_max;
}

/* For the calling thread and those it will start. */
static void ask_for_short_slices(void)
{
	struct {
		u32 size, policy;
		u64 flags;
		s32 nice;
		u32 priority;
		u64 runtime, deadline, period;
	} a; /* the kernel's struct sched_attr, first version */

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) || a.policy != SCHED_OTHER)
		return;
	a.size = sizeof(a);
	a.runtime = SLICE_NS;
	/* Older kernels ignore it. */
	syscall(SYS_sched_setattr, 0, &a, 0);
}

void space_place_init(struct space_pool *pool)
{
	struct space_placement *p = &pool->place;

	ask_for_short_slices();

	p->cpu = -1;
	p->near = p->calm = true;
	if (sched_getaffinity(0, sizeof(p->allowed), &p->allowed))
		pool->spin_max = 0;
}

void space_place_free(struct space_pool *pool)
{
	if (pool->place.cpu >= 0)
		fix_to(pool, 0, -1);
}

/* Something has proved good, or not: then it is not tried again for a while, each time a longer
 * one. */
static bool retry(struct space_retry *r, bool good, u64 now)
{
	if (good) {
		r->pause = MAX(r->pause / 2, PAUSE_MIN);
	} else {
		r->pause = MIN(MAX(r->pause, PAUSE_MIN) * 2, PAUSE_MAX);
		r->at = now + r->pause;
	}
	return good;
}

/* Far with or without the mapper beside G are two things: one may be good when the other is not. */
static struct space_retry *far_retry(struct space_placement *p)
{
	return p->beside ? &p->aside : &p->far;
}

/* What do hand-overs cost? Over some time, since a processor is lost for long, but not often. */
static void judge(struct space_placement *p)
{
	u64 cost = p->delays / p->counted;

	if (!p->near) {
		p->near = !retry(far_retry(p), cost <= p->near_cost, p->ended);
	} else if (!p->calm) {
		p->calm = p->ended > p->yield.at;
	} else {
		p->calm = retry(&p->yield, cost <= YIELD_TICKS, p->ended);
	}
	p->since = p->ended;
	p->delays = p->counted = 0;
}

/* What it has cost near is what this program's runs did; those of another may have been cheaper. */
static void go_far(struct space_placement *p)
{
	if (p->near)
		p->near_cost = p->window / WINDOW;
	p->near = false;
}

/* Every WINDOW runs. */
static void choose(struct space_placement *p)
{
	if (p->ended - p->since > JUDGE_TICKS && p->counted >= JUDGE_RUNS)
		judge(p);
	p->beside = p->left >= GO_BESIDE;
	if (p->beside)
		p->shorts += p->left_shorts;
	if (p->shorts < GO_NEAR || p->ended <= far_retry(p)->at)
		p->near = true;
	else if (p->shorts >= GO_FAR)
		go_far(p);
	p->runs = p->shorts = p->left = p->left_shorts = 0;
	p->window = 0;
}

/* Where the monitor is to be: free, or fixed to where it is. */
static void place_monitor(struct space_pool *pool, u64 now)
{
	struct space_placement *p = &pool->place;

	if (p->cpu >= 0 && now - p->fixed_at > ROAM_TICKS) {
		p->cpu = -1;
		p->fixed_at = now;
		fix_to(pool, 0, -1);
	} else if (p->cpu < 0 && sched_getcpu() >= 0) {
		p->cpu = sched_getcpu();
		p->fixed_at = now;
		fix_to(pool, 0, p->cpu);
	}
}

static void place(const struct space_pool *pool, pid_t pid, bool apart)
{
	if (apart)
		keep_off(pool, pid, pool->place.cpu);
	else
		fix_to(pool, pid, pool->place.cpu);
}

void space_place_run(struct space *sp, bool quiet, bool leaves)
{
	struct space_pool *pool = sp->pool;
	struct space_placement *p = &pool->place;
	u32 sharing;

	p->started = space_ticks();
	p->timed = true;
	if (!has_choice(pool))
		return;
	p->easy = (quiet || leaves) && p->last == sp && p->started - p->ended < SHORT_TICKS;
	p->leaves = leaves;
	p->left += leaves;
	p->timed = p->near || !p->easy || sp->left || p->runs % TIMED == 0;
	p->last = sp;
	place_monitor(pool, p->started);
	/* While the monitor roams the others stay where they are. */
	sharing = space_place_sharing(sp);
	if (p->cpu < 0 || (p->cpu == sp->cpu && sp->apart == sharing))
		return;
	place(pool, sp->mapper, sharing == WAIT_BESIDE);
	place(pool, sp->guest, sharing != WAIT_NEAR);
	sp->cpu = p->cpu;
	sp->apart = sharing;
}

void space_place_exit(struct space *sp)
{
	const struct space_state *st = space_state(sp);
	struct space_placement *p = &sp->pool->place;
	u32 guest, all;

	p->ended = space_ticks();
	guest = all = (u32)MIN(p->ended - p->started, ~0u);
	if (p->timed) {
		guest = atomic_load(&st->left) - atomic_load(&st->entered);
		all = all > guest ? all - guest : 0;
		p->delays += all;
		p->window += MIN(all, YIELD_TICKS);
		p->counted++;
	}
	if (p->easy && guest < SHORT_TICKS)
		++*(p->leaves ? &p->left_shorts : &p->shorts);
	if (++p->runs == WINDOW)
		choose(p);
}

bool space_place_timed(const struct space *sp)
{
	return sp->pool->place.timed;
}

void space_place_forget(const struct space *sp)
{
	if (sp->pool->place.last == sp)
		sp->pool->place.last = NULL;
}

bool space_place_calm(const struct space *sp)
{
	return sp->pool->place.calm;
}

bool space_place_near(const struct space *sp)
{
	return !has_choice(sp->pool) || sp->pool->place.near;
}

u32 space_place_sharing(const struct space *sp)
{
	if (space_place_near(sp))
		return WAIT_NEAR;
	return sp->pool->place.beside ? WAIT_BESIDE : WAIT_FAR;
}
