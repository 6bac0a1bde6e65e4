/*
 * Spaces as the vCPU uses them: registers in and out, system calls, kicks, memory that comes and
 * goes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "space_impl.h"
#include "space_rig.h"

TestSuite(space, .timeout = 60);

CODE(syscalls, "1: syscall; incl %eax; jmp 1b");

Test(space, runs_to_a_system_call_and_on)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, syscalls);
	x.r.gpr[RAX] = 39;
	rig_syscall(&x, 39);
	cr_expect_eq(x.r.rip, RIG_CODE + 2);
	cr_expect_eq(x.r.gpr[RCX], RIG_CODE + 2);
	cr_expect_eq(x.r.gpr[R11] & ~0x10000ull, x.r.rflags & ~0x10000ull);
	x.r.gpr[RAX] = 1000;
	rig_syscall(&x, 1001);
	rig_close(&x);
}

CODE(one_syscall, "syscall; ud2");
#define NR_UPROBE 336 /* see space_exit.c */

/* Every number, also those of the x32 table: none of them reaches the host. */
Test(space, no_system_call_reaches_the_host)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, one_syscall);
	for (u64 hi = 0; hi <= 0x40000000; hi += 0x40000000) {
		for (u64 nr = 0; nr <= 600; nr++) {
			x.r.gpr[RAX] = nr | hi;
			x.r.rip = RIG_CODE;
			if (nr != NR_UPROBE) {
				rig_syscall(&x, nr | hi);
				continue;
			}
			cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), 0);
			if (x.ex.kind != SPACE_SYSCALL)
				cr_expect_eq(x.r.gpr[RAX], (u64)-ENXIO);
		}
	}
	cr_expect_geq(x.stats.n[STAT_space_syscalls], 1200);
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}

/* What parking proves rests on it. */
Test(space, only_the_stub_waits_for_the_next_run)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, one_syscall);
	rig_syscall(&x, 0);
	x.r = (struct space_regs){.rip = RIG_CODE, .cs = SPACE_CS64, .rflags = 0x202};
	x.r.gpr[RAX] = SYS_futex;
	x.r.gpr[RDI] = x.sp->base + CTL_GO;
	x.r.gpr[RDX] = x.sp->run + 1;
	rig_syscall(&x, SYS_futex);
	rig_close(&x);
}

CODE(all_registers,
     "notq %rax; notq %rcx; notq %rdx; notq %rbx; notq %rsp; notq %rbp; notq %rsi; notq %rdi;"
     "notq %r8; notq %r9; notq %r10; notq %r11; notq %r12; notq %r13; notq %r14; notq %r15; ud2");

Test(space, registers_flags_and_bases_round_trip)
{
	static const u64 flags[] = {0x202, 0xad7, 0x200ed7 & ~0x100ull, 0x44202, 0x202};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned n = 0; n < ARRAY_LEN(flags); n++) {
		rig_code(&x, all_registers);
		for (unsigned i = 0; i < 16; i++)
			x.r.gpr[i] = 0x0123456789abcdefull * (i + 1) ^ n;
		x.r.rflags = flags[n];
		x.r.fs_base = 0x7f0012345678ull + n;
		x.r.gs_base = 0xffff888012345678ull - n;
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, 6);
		for (unsigned i = 0; i < 16; i++)
			cr_expect_eq(x.r.gpr[i], ~(0x0123456789abcdefull * (i + 1) ^ n),
				     "register %u", i);
		cr_expect_eq(x.r.rflags & ~0x10000ull, flags[n] | 0x202, "%llx",
			     (unsigned long long)x.r.rflags);
		cr_expect_eq(x.r.fs_base, 0x7f0012345678ull + n);
		cr_expect_eq(x.r.gs_base, 0xffff888012345678ull - n);
		cr_expect_eq(x.r.rip, RIG_CODE + 48);
	}
	rig_close(&x);
}

CODE(bases, "mov $0x123450, %eax; wrfsbase %rax; mov $0x543210, %eax; wrgsbase %rax; syscall");

Test(space, bases_changed_by_guest_code_are_seen)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, bases);
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(x.r.fs_base, 0x123450);
	cr_expect_eq(x.r.gs_base, 0x543210);
	rig_close(&x);
}

CODE(spin, "1: inc %rbx; jmp 1b");

static struct space *kick_target;
static _Atomic u32 *kick_stop;

static void on_alarm(int sig)
{
	(void)sig;
	atomic_store(kick_stop, 1);
	if (kick_target)
		space_kick(kick_target);
}

static void alarm_after(unsigned us)
{
	struct itimerspec t = {.it_value.tv_nsec = us * 1000l};
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	static timer_t timer;
	static bool have;

	if (!have) {
		signal(SIGUSR2, on_alarm);
		cr_assert_eq(timer_create(CLOCK_MONOTONIC, &e, &timer), 0);
		have = true;
	}
	cr_assert_eq(timer_settime(timer, 0, &t, NULL), 0);
}

Test(space, a_kick_ends_an_endless_loop)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, spin);
	kick_stop = &x.stop;
	for (unsigned n = 0; n < 400; n++) {
		kick_target = n % 2 ? x.sp : NULL; /* or the flag alone */
		x.r.gpr[RBX] = 0;
		atomic_store(&x.stop, 0);
		alarm_after(1 + n * 7 % 900);
		do {
			rig_run(&x, SPACE_KICKED);
		} while (!x.stop);
		cr_assert(x.r.rip >= RIG_CODE && x.r.rip < RIG_CODE + 5);
	}
	rig_close(&x);
}

Test(space, stop_in_advance_runs_nothing)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, spin);
	x.stop = 1;
	rig_run(&x, SPACE_KICKED);
	cr_expect_eq(x.r.gpr[RBX], 0);
	cr_expect_eq(x.r.rip, RIG_CODE);
	rig_close(&x);
}

CODE(load, "mov (%rsi), %rax; syscall");
CODE(store, "mov %rax, (%rsi); syscall");

Test(space, mappings_come_and_go)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, load);
	x.r.gpr[RSI] = 0x7f1234567000;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 14);
	cr_expect_eq(x.ex.error, 4);
	cr_expect_eq(x.ex.cr2, 0x7f1234567000);
	cr_expect_eq(x.r.rip, RIG_CODE);

	strcpy((char *)x.ram + 2 * MIB, "seventy");
	cr_assert_eq(space_map(x.sp, 0x7f1234567000, PAGE_SIZE, PROT_READ, 2 * MIB), 0);
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(memcmp(&x.r.gpr[RAX], "seventy", 8), 0);

	rig_code(&x, store);
	x.r.gpr[RSI] = 0x7f1234567008;
	x.r.gpr[RAX] = 77;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 14);
	cr_expect_eq(x.ex.error, 7);
	cr_assert_eq(space_protect(x.sp, 0x7f1234567000, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(x.ram[2 * MIB + 8], 77);

	x.r.rip = RIG_CODE;
	cr_assert_eq(space_unmap(x.sp, 0x7f1234567000, PAGE_SIZE), 0);
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.error, 6);
	rig_close(&x);
}

Test(space, neighbours_are_merged)
{
	struct rig x;
	u64 before;

	if (!rig_open(&x))
		return;
	rig_code(&x, load);
	before = x.stats.n[STAT_space_commands];
	cr_assert_eq(space_sync(x.sp), 0);
	cr_expect_eq(x.stats.n[STAT_space_commands], before + 2);
	for (u64 i = 0; i < 1000; i++)
		cr_assert_eq(space_map(x.sp, 0x10000000 + i * PAGE_SIZE, PAGE_SIZE, PROT_READ,
				       4 * MIB + i * PAGE_SIZE),
			     0);
	cr_assert_eq(space_sync(x.sp), 0);
	cr_expect_eq(x.stats.n[STAT_space_commands], before + 3);
	rig_close(&x);
}

/* More than fits the queue, in an order that does not merge; all of it is there afterwards. */
Test(space, long_queues)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, load);
	for (u64 i = 0; i < 1000; i++) {
		memcpy(x.ram + 4 * MIB + i * PAGE_SIZE, &i, 8);
		cr_assert_eq(space_map(x.sp, 0x10000000 + i * 2 * PAGE_SIZE, PAGE_SIZE, PROT_READ,
				       4 * MIB + i * PAGE_SIZE),
			     0);
	}
	for (u64 i = 0; i < 1000; i++) {
		if (i == NR_UPROBE)
			continue;
		x.r.rip = RIG_CODE;
		x.r.gpr[RSI] = 0x10000000 + i * 2 * PAGE_SIZE;
		rig_syscall(&x, i);
	}
	rig_close(&x);
}

/* Additions that are left to the mapper: the run begins when they are done; a removal that follows
 * waits for them. */
static void leave_additions(bool calm, bool parked, enum stat_id way)
{
	struct rig x;
	u64 va = 0x10000000;

	if (!rig_open(&x))
		return;
	x.pool->place.calm = calm;
	x.pool->place.yield.at = ~0ull;
	rig_code(&x, load);
	for (u64 i = 0; i < 200; i++, va += PAGE_SIZE) {
		memcpy(x.ram + 4 * MIB + i * PAGE_SIZE, &i, 8);
		/* With a look at what is not there, so that this is no series of system calls. */
		x.r.rip = RIG_CODE;
		x.r.gpr[RSI] = va;
		rig_run(&x, SPACE_FAULT);
		cr_assert_eq(space_map(x.sp, va, PAGE_SIZE, PROT_READ, 4 * MIB + i * PAGE_SIZE), 0);
		if (i == NR_UPROBE)
			continue;
		if (parked)
			cr_assert_eq(space_park(x.sp), 0);
		rig_syscall(&x, i);
		if (i % 5 == 4)
			cr_assert_eq(space_park(x.sp), 0);
		if (i % 7 == 6)
			cr_assert_eq(space_unmap(x.sp, va, PAGE_SIZE), 0);
	}
	cr_expect_gt(x.stats.n[way], 20);
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}

/* By a G that sleeps, for the mapper to wake it; by one that looks at the mapper's report; by one
 * that could look, but is parked, which ends when the mapper says so. */
Test(space, additions_can_be_left_to_the_mapper)
{
	leave_additions(false, false, STAT_space_left_batches);
}

Test(space, additions_can_be_waited_for_in_the_space)
{
	leave_additions(true, false, STAT_space_chained_batches);
}

/* Removals that the mapper is left to do before it wakes G, with it and G on another processor. */
Test(space, removals_beside_the_space)
{
	unsigned proven = 0;
	u64 data = 0x10000000;
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, load);
	x.ram[4 * MIB] = 39;
	for (u64 i = 0; i < 200; i++) {
		x.pool->place.near = false;
		x.pool->place.beside = true;
		cr_assert_eq(space_map(x.sp, data, PAGE_SIZE, PROT_READ, 4 * MIB), 0);
		x.r.rip = RIG_CODE;
		x.r.gpr[RSI] = data;
		rig_syscall(&x, 39);
		cr_assert_eq(space_unmap(x.sp, data, PAGE_SIZE), 0);
		cr_assert_eq(space_park(x.sp), 0);
		x.r.rip = RIG_CODE;
		rig_run(&x, SPACE_FAULT);
		proven += !x.sp->wakes;
	}
	cr_expect_gt(x.stats.n[STAT_space_left_batches], 0);
	cr_expect_gt(proven, 0, "G ran, so it had been woken");
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}

/* Guest code can say that the mapper is awake when it is not. What it has not executed is not taken
 * for done then, or it would be overwritten. */
Test(space, a_mapper_that_is_said_to_be_awake)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, load);
	cr_assert_eq(space_sync(x.sp), 0);
	for (u64 i = 0; i < 20; i++) {
		cr_assert_eq(space_settle(x.sp), 0); /* asleep */
		atomic_store(&space_state(x.sp)->m_sleeps, 0);
		cr_assert_eq(space_map(x.sp, (2 * i + 2) * MIB, PAGE_SIZE, PROT_READ, 0), 0);
		x.r.rip = RIG_CODE;
		x.stop = 1; /* given to the mapper, but nobody waits */
		cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), 0);
		cr_assert_eq(x.ex.kind, SPACE_KICKED);
		x.stop = 0;
		cr_assert_eq(space_settle(x.sp), 0);
		cr_assert_eq(atomic_load(&space_state(x.sp)->ack), x.sp->tail);
	}
	cr_expect_gt(x.stats.n[STAT_space_chained_batches], 10);
	rig_close(&x);
}

Test(space, additions_to_a_parked_space)
{
	leave_additions(true, true, STAT_space_left_batches);
}

Test(space, the_stub_can_be_avoided)
{
	struct rig x;
	unsigned avoid = 0, place;

	if (!rig_open(&x))
		return;
	for (unsigned n = 0; n < SPACE_PLACES; n++) {
		bool busy = false;

		place = space_place(x.sp);
		cr_expect_eq(avoid & BIT(place), 0);
		avoid |= BIT(place);
		for (u64 va = 0x10000; va < 2 * GIB && !busy; va += 0x10000)
			busy = space_map(x.sp, va, 0x10000, PROT_READ, 0) == -EBUSY;
		cr_expect(busy);
		space_put(x.sp);
		x.sp = space_get(x.pool, avoid);
	}
	cr_expect_null(x.sp);
	rig_close(&x);
}

Test(space, a_used_space_is_empty)
{
	struct rig x;
	struct space *first;

	if (!rig_open(&x))
		return;
	first = x.sp;
	rig_code(&x, syscalls);
	rig_run(&x, SPACE_SYSCALL);
	space_put(x.sp);
	x.sp = space_get(x.pool, 0);
	cr_assert_eq(x.sp, first);
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 14);
	cr_expect_eq(x.ex.error, 0x14);
	cr_expect_eq(x.ex.cr2, x.r.rip);
	rig_code(&x, syscalls);
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}

/* Nothing of a program's was in the space: it can go on in another. */
Test(space, a_death_at_rest_is_told_from_one_in_a_run)
{
	struct space_regs before;
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned used = 0; used < 2; used++) {
		rig_code(&x, syscalls);
		x.r.gpr[RAX] = 39;
		if (used)
			rig_syscall(&x, 39);
		before = x.r;
		kill(x.sp->guest, SIGKILL);
		while (!space_gone(x.sp->guest))
			sched_yield();
		cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), -EIO);
		cr_expect_arr_eq(&x.r, &before, sizeof(before));
		cr_expect_eq(x.stats.n[STAT_space_killed], used + 1);
		space_put(x.sp);
		x.sp = space_get(x.pool, 0);
		cr_assert_not_null(x.sp);
		rig_map_standard(&x);
		x.r.gpr[RAX] = 39;
		x.r.rip = RIG_CODE;
		rig_syscall(&x, 39);
	}
	rig_close(&x);
}

/* Nor has guest code begun if it was to wait for mappings that nobody makes any more. */
Test(space, a_mapper_that_died_at_rest)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 4; i++) {
		rig_code(&x, syscalls);
		x.r.gpr[RAX] = 39;
		rig_syscall(&x, 39);
		kill(x.sp->mapper, SIGKILL);
		while (!space_gone(x.sp->mapper))
			sched_yield();
		if (i & 1)
			cr_assert_eq(space_unmap(x.sp, RIG_DATA, PAGE_SIZE), 0);
		else
			cr_assert_eq(space_map(x.sp, RIG_DATA - PAGE_SIZE, PAGE_SIZE, PROT_READ, 0),
				     0);
		x.r.rip = RIG_CODE;
		cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), -EIO, "%u", i);
		cr_expect_eq(x.r.rip, RIG_CODE);
		space_put(x.sp);
		x.sp = space_get(x.pool, 0);
		cr_assert_not_null(x.sp);
	}
	rig_close(&x);
}

Test(space, what_died_in_the_pool_is_not_handed_out)
{
	struct space *spare[3];
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++) {
		spare[i] = space_get(x.pool, 0);
		cr_assert_not_null(spare[i]);
	}
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		space_put(spare[i]);
	kill(spare[0]->guest, SIGKILL);
	kill(spare[1]->mapper, SIGKILL);
	while (!space_gone(spare[0]->guest) || !space_gone(spare[1]->mapper))
		sched_yield();
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++) {
		spare[i] = x.sp;
		x.sp = space_get(x.pool, 0);
		cr_assert_not_null(x.sp);
		rig_code(&x, syscalls);
		x.r.gpr[RAX] = 39;
		rig_syscall(&x, 39);
	}
	cr_expect_eq(x.stats.n[STAT_space_killed], 2);
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		space_put(spare[i]);
	rig_close(&x);
}

Test(space, bad_arguments)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, syscalls);
	cr_expect_eq(space_map(x.sp, 1, PAGE_SIZE, PROT_READ, 0), -EINVAL);
	cr_expect_eq(space_map(x.sp, 0, 0, PROT_READ, 0), -EINVAL);
	cr_expect_eq(space_map(x.sp, 0xffff800000000000, PAGE_SIZE, PROT_READ, 0), -EINVAL);
	cr_expect_eq(space_unmap(x.sp, 0x7fffffffe000, 2 * PAGE_SIZE), -EINVAL);
	x.r.rip = 0x800000000000;
	cr_expect_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), -EINVAL);
	x.r.rip = RIG_CODE;
	x.r.cs = 0x10;
	cr_expect_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), -EINVAL);
	x.r.cs = SPACE_CS64;
	x.r.rflags = ~0ull & ~0x100ull; /* only what user code may set */
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(x.r.rflags & 0x3000, 0);
	rig_close(&x);
}

Test(space, many_at_once)
{
	struct rig x;
	struct space *sp[200];

	if (!rig_open(&x))
		return;
	rig_code(&x, syscalls);
	rig_run(&x, SPACE_SYSCALL);
	for (unsigned i = 0; i < ARRAY_LEN(sp); i++) {
		sp[i] = space_get(x.pool, 0);
		cr_assert_not_null(sp[i], "%u", i);
	}
	for (unsigned i = 0; i < ARRAY_LEN(sp); i++) {
		struct space *own = x.sp;

		x.sp = sp[i];
		rig_code(&x, syscalls);
		x.r.gpr[RAX] = i;
		rig_syscall(&x, i);
		x.sp = own;
	}
	for (unsigned i = 0; i < ARRAY_LEN(sp); i++)
		space_put(sp[i]);
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	rig_close(&x);
}
