/*
 * On which processors the tasks of a space and the monitor run.
 *
 * Near: all on one, and nobody spins. A hand-over is a wake and a wait, some 4 us there and back,
 * whatever else the machine does; parking finds G asleep. Far: wherever the scheduler likes, and
 * both sides spin. Then a hand-over that comes while the other spins costs next to nothing; but one
 * that comes later wakes an idle processor, which on a virtual machine takes longer than all the
 * rest, and to park G is to wait until it has gone to sleep over there.
 *
 * So far is for a program that makes one short system call after the other, which is how it is
 * recognised; near is for everything else.
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
#define ROAM_TICKS  300000000u /* some 0.1 s */
#define SLICE_NS    100000u    /* the shortest there is */

static void set_affinity(const struct space_pool *pool, pid_t pid, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	if (cpu >= 0)
		CPU_SET(cpu, &one);
	/* A task that cannot be moved works where it is. */
	sched_setaffinity(pid, sizeof(one), cpu >= 0 ? &one : &pool->place.allowed);
	pool->stats->n[STAT_space_moves]++;
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
	p->near = true;
	if (sched_getaffinity(0, sizeof(p->allowed), &p->allowed))
		pool->spin_max = 0;
}

void space_place_free(struct space_pool *pool)
{
	if (pool->place.cpu >= 0)
		set_affinity(pool, 0, -1);
}

/* Every WINDOW runs. */
static void choose(struct space_placement *p)
{
	if (p->shorts >= GO_FAR)
		p->near = false;
	else if (p->shorts < GO_NEAR)
		p->near = true;
	p->runs = p->shorts = 0;
}

/* Where the monitor is to be: free, or fixed to where it is. */
static void place_monitor(struct space_pool *pool, u64 now)
{
	struct space_placement *p = &pool->place;

	if (p->cpu >= 0 && (!p->near || now - p->fixed_at > ROAM_TICKS)) {
		p->cpu = -1;
		p->fixed_at = now;
		set_affinity(pool, 0, -1);
	} else if (p->cpu < 0 && p->near && sched_getcpu() >= 0) {
		p->cpu = sched_getcpu();
		p->fixed_at = now;
		set_affinity(pool, 0, p->cpu);
	}
}

void space_place_run(struct space *sp, bool quiet)
{
	struct space_pool *pool = sp->pool;
	struct space_placement *p = &pool->place;
	int cpu;

	if (!has_choice(pool))
		return;
	p->started = space_ticks();
	p->easy = quiet && p->last == sp && p->started - p->ended < SHORT_TICKS;
	p->last = sp;
	if (++p->runs == WINDOW)
		choose(p);
	place_monitor(pool, p->started);
	/* While the monitor roams the others stay where they are. */
	cpu = p->near && p->cpu < 0 ? sp->cpu : p->cpu;
	if (cpu == sp->cpu)
		return;
	sp->cpu = cpu;
	set_affinity(pool, sp->guest, cpu);
	set_affinity(pool, sp->mapper, cpu);
}

void space_place_exit(struct space *sp)
{
	struct space_placement *p = &sp->pool->place;

	if (!has_choice(sp->pool))
		return;
	p->ended = space_ticks();
	p->shorts += p->easy && p->ended - p->started < SHORT_TICKS;
}

void space_place_forget(const struct space *sp)
{
	if (sp->pool->place.last == sp)
		sp->pool->place.last = NULL;
}

bool space_place_near(const struct space *sp)
{
	return !has_choice(sp->pool) || sp->pool->place.near;
}
