/*
 * Races that time alone does not bring about: a kick at each instruction of the stub, and a mapper
 * that wakes G late.
 */
#define _GNU_SOURCE
#include <asm/unistd_64.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "space_impl.h"
#include "space_rig.h"

TestSuite(space_race, .timeout = 120);

#define FLAG_TF     0x100ull
#define USER_RIP    128 /* in the kernel's struct user */
#define USER_EFLAGS 144
#define DB          1
#define UD          6

static void pause_ms(unsigned ms)
{
	struct timespec t = {.tv_nsec = ms * 1000000l};

	nanosleep(&t, NULL);
}

/* --- a kick at each instruction --- */

/* A thread that holds G, lets it make so many steps into the next run, and kicks it there. */
struct stepper {
	struct rig *x;
	unsigned steps;
	u32 before; /* the number of the last run */
	pthread_barrier_t held;
	bool refused;
};

/* The signal G stopped with. */
static int await_stop(pid_t pid)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, __WALL), pid);
	cr_assert(WIFSTOPPED(status), "status %x", status);
	return WSTOPSIG(status);
}

CODE(once, "incq (%rsi); movq %rbx, %xmm5; mov $39, %eax; syscall;"
	   "movq %xmm5, %rdx; incq (%rsi); mov $40, %eax; syscall");
#define ONCE_PAIR 8
#define ONCE_END  28
#define STEPS     110 /* more than there are */

/* A step from its report on might not end, since G goes to sleep; one from its system call ends in
 * the handler. */
static bool is_at_end(const struct rig *x, pid_t pid)
{
	return atomic_load(&space_state(x->sp)->exited) == atomic_load(&space_ctl(x->sp)->go) ||
	       (u64)ptrace(PTRACE_PEEKUSER, pid, (void *)USER_RIP, NULL) == RIG_CODE + ONCE_END;
}

static void *step_and_kick(void *arg)
{
	struct stepper *s = arg;
	pid_t pid = s->x->sp->guest;
	long flags;

	s->refused = ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0;
	if (!s->refused) {
		cr_assert_eq(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
		await_stop(pid);
	}
	pthread_barrier_wait(&s->held);
	if (s->refused)
		return NULL;
	while (atomic_load(&space_ctl(s->x->sp)->go) == s->before)
		sched_yield();
	for (unsigned i = 0; i < s->steps && !is_at_end(s->x, pid); i++) {
		cr_assert_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		cr_assert_eq(await_stop(pid), SIGTRAP);
	}
	/* Steps over POPF and PUSHF leave the flag to G itself. */
	flags = ptrace(PTRACE_PEEKUSER, pid, (void *)USER_EFLAGS, NULL);
	cr_assert_eq(
	    ptrace(PTRACE_POKEUSER, pid, (void *)USER_EFLAGS, (void *)(flags & ~(long)FLAG_TF)), 0);
	space_kick(s->x->sp);
	cr_assert_eq(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
	return NULL;
}

/* One run, with a kick after so many steps; false: this process may not trace. */
static bool run_stepped(struct rig *x, unsigned steps)
{
	struct stepper s = {.x = x, .steps = steps, .before = x->sp->run};
	pthread_t thread;

	pthread_barrier_init(&s.held, NULL, 2);
	pthread_create(&thread, NULL, step_and_kick, &s);
	pthread_barrier_wait(&s.held);
	if (!s.refused)
		cr_assert_eq(space_run(x->sp, &x->r, &x->stop, &x->ex), 0);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&s.held);
	return !s.refused;
}

/* On, after a kick, to the next system call. */
static void run_on(struct rig *x, u64 nr)
{
	/* A step over POPF leaves the step's own flag behind. */
	while (x->ex.kind == SPACE_KICKED || (x->ex.kind == SPACE_FAULT && x->ex.vector == DB)) {
		x->r.rflags &= ~FLAG_TF;
		cr_assert_eq(space_run(x->sp, &x->r, &x->stop, &x->ex), 0);
	}
	/* Put back to the second half of the pair: its owner steps that. */
	if (x->ex.kind == SPACE_FAULT && x->ex.vector == UD &&
	    x->r.rip == RIG_CODE + ONCE_PAIR + SPACE_PATCH_LEN - SPACE_SYSCALL_LEN) {
		x->r.rip += SPACE_SYSCALL_LEN;
		x->ex.kind = SPACE_SYSCALL;
	}
	cr_assert_eq(x->ex.kind, SPACE_SYSCALL, "kind %d vector %d", x->ex.kind, x->ex.vector);
	cr_assert_eq(x->r.gpr[RAX], nr);
}

static u64 counted(const struct rig *x)
{
	return *(u64 *)(x->ram + MIB);
}

/* The way in, guest code, the fast way out, and the way in again with the vector state in G's
 * registers: wherever a kick comes, nothing is done twice, and nothing is lost. */
Test(space_race, kicks_at_each_instruction)
{
	struct space_site site = {.kind = SPACE_SITE_PAIR, .nr = 39, .len = 5};
	unsigned kicked = 0;
	struct rig x;
	u8 *copy;

	if (!rig_open(&x))
		return;
	copy = space_copy(x.pool, 3);
	for (unsigned n = 0; n < 2 * STEPS; n++) {
		u64 value = 0x1122334400000000 + n;

		rig_code(&x, once);
		memcpy(copy, x.ram, PAGE_SIZE);
		space_fast_patch(copy + ONCE_PAIR, 7);
		space_fast_set(x.sp, 7, &site, RIG_CODE + ONCE_PAIR + SPACE_PATCH_LEN);
		cr_assert_eq(space_map_copy(x.sp, RIG_CODE, 3), 0);
		cr_assert_eq(space_sync(x.sp), 0);
		*(u64 *)(x.ram + MIB) = 0;
		x.r.gpr[RSI] = RIG_DATA;
		x.r.gpr[RBX] = value;
		x.ex.kind = SPACE_KICKED;
		if (n < STEPS && !run_stepped(&x, n)) {
			cr_log_warn("skipped: this process may not trace");
			break;
		}
		kicked += n < STEPS && x.ex.kind == SPACE_KICKED;
		run_on(&x, 39);
		cr_assert_eq(x.r.rip, RIG_CODE + ONCE_PAIR + SPACE_PATCH_LEN);
		cr_assert_eq(counted(&x), 1, "after %u steps: %llu", n,
			     (unsigned long long)counted(&x));
		x.r.rflags &= ~FLAG_TF; /* the step's own */
		x.ex.kind = SPACE_KICKED;
		if (n >= STEPS)
			run_stepped(&x, n - STEPS);
		kicked += n >= STEPS && x.ex.kind == SPACE_KICKED;
		run_on(&x, 40);
		cr_assert_eq(x.r.gpr[RDX], value, "after %u steps: %llx", n,
			     (unsigned long long)x.r.gpr[RDX]);
		cr_assert_eq(x.r.gpr[RBX], value);
		cr_assert_eq(counted(&x), 2);
	}
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	cr_log_info("%u runs ended by the kick", kicked);
	rig_close(&x);
}

/* --- a mapper that is late --- */

/* Is G asleep where it was parked? */
static bool is_parked(struct space *sp)
{
	struct space_ctl *c = space_ctl(sp);

	return sp->stopped || space_futex_move((_Atomic u32 *)&c->park, c->park, &c->park);
}

struct late {
	struct rig *x;
	unsigned ms;
};

/* A thread that holds the mapper where it is about to wake G. */
struct holder {
	struct rig *x;
	pthread_barrier_t ready; /* the mapper is watched */
	atomic_bool released;
	bool refused;
};

#define USER_ORIG_RAX 120 /* in the kernel's struct user */
#define USER_RDI      112

static bool is_about_to_wake(const struct rig *x, pid_t pid)
{
	return ptrace(PTRACE_PEEKUSER, pid, (void *)USER_ORIG_RAX, NULL) == __NR_futex &&
	       (u64)ptrace(PTRACE_PEEKUSER, pid, (void *)USER_RDI, NULL) == x->sp->base + CTL_PARK;
}

static void *hold_mapper(void *arg)
{
	struct holder *h = arg;
	pid_t pid = h->x->sp->mapper;

	h->refused = ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0;
	if (!h->refused) {
		cr_assert_eq(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
		await_stop(pid);
	}
	pthread_barrier_wait(&h->ready);
	if (h->refused)
		return NULL;
	do {
		cr_assert_eq(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
		await_stop(pid);
	} while (!is_about_to_wake(h->x, pid));
	pause_ms(20);
	h->released = true;
	cr_assert_eq(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
	return NULL;
}

/* The host's kernel brings G back to the word it went to sleep on. */
static void *disturb(void *arg)
{
	struct late *l = arg;

	pause_ms(l->ms);
	kill(l->x->sp->guest, SIGSTOP);
	pause_ms(1);
	kill(l->x->sp->guest, SIGCONT);
	return NULL;
}

/* G was moved to where only the mapper wakes it. The mapper has done what it was given, but not yet
 * woken G, when something else brings G back. Guest code does not run before the wake is over; so
 * parked after that, G stays so. */
static void wake_late(struct rig *x, struct holder *h)
{
	struct late soon = {x, 5};
	pthread_t one;
	u64 left = x->stats.n[STAT_space_left_batches];

	cr_assert_eq(space_unmap(x->sp, RIG_DATA + 0x100000, PAGE_SIZE), 0);
	pthread_create(&one, NULL, disturb, &soon);
	rig_syscall(x, 40);
	cr_expect(h->released);
	pthread_join(one, NULL);
	cr_assert_eq(x->stats.n[STAT_space_left_batches], left + 1);
	cr_assert_eq(space_park(x->sp), 0);
	cr_expect(is_parked(x->sp));
}

Test(space_race, a_late_wake_of_the_mapper_is_waited_for)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 20; i++) {
		struct holder h = {.x = &x};
		pthread_t holder;

		rig_code(&x, once);
		x.r.gpr[RSI] = RIG_DATA;
		rig_syscall(&x, 39);
		while (!atomic_load(&space_state(x.sp)->g_sleeps))
			sched_yield();
		/* A removal is left to the mapper only if G is parked. */
		cr_assert_eq(space_park(x.sp), 0);
		pause_ms(1);
		pthread_barrier_init(&h.ready, NULL, 2);
		pthread_create(&holder, NULL, hold_mapper, &h);
		pthread_barrier_wait(&h.ready);
		if (!h.refused)
			wake_late(&x, &h);
		pthread_join(holder, NULL);
		if (h.refused) {
			cr_log_warn("skipped: this process may not trace");
			break;
		}
		pause_ms(5);
		cr_expect(is_parked(x.sp), "round %u", i);
	}
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}

/* --- a space that is given back with a kick on its way --- */

/* G is stopped where a kick has just been delivered: at the first instruction of the handler. */
static void stop_at_handler(struct space *sp)
{
	siginfo_t info;

	kill(sp->guest, SIGSTOP);
	cr_assert_eq(waitid(P_PID, sp->guest, &info, WSTOPPED | __WALL), 0);
	kill(sp->guest, SPACE_KICK_SIGNAL);
	kill(sp->guest, SIGCONT);
	kill(sp->guest, SIGSTOP);
	cr_assert_eq(waitid(P_PID, sp->guest, &info, WSTOPPED | __WALL), 0);
	sp->stopped = true;
}

Test(space_race, a_kick_does_not_outlive_its_owner)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 50; i++) {
		struct space *before = x.sp;

		rig_code(&x, once);
		x.r.gpr[RSI] = RIG_DATA;
		rig_syscall(&x, 39);
		stop_at_handler(x.sp);
		space_put(x.sp);
		x.sp = space_get(x.pool, 0);
		cr_assert_eq(x.sp, before, "another space: nothing was tested");
	}
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}
