/*
 * Guest code against the space it runs in: everything it can reach of the stub, it abuses. Whatever
 * comes back to the monitor is allowed, if it comes back: not a system call takes place, nothing is
 * mapped that was not ordered, what was unmapped is gone, and a parked space does not run.
 *
 * These tests know the inside (space_layout.h), as an attacker would.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "space_impl.h"
#include "space_rig.h"

TestSuite(hostile_space, .timeout = 120);

static struct rig *target;

static void on_alarm(int sig)
{
	(void)sig;
	atomic_store(&target->stop, 1);
	if (target->sp)
		space_kick(target->sp);
}

/* Another space in place of this one; a signal handler may look at any time. */
static void replace_space(struct rig *x)
{
	struct space *old = x->sp;

	x->sp = NULL;
	atomic_signal_fence(memory_order_seq_cst);
	space_put(old);
	x->sp = space_get(x->pool, 0);
	cr_assert_not_null(x->sp);
}

/* 0: never. */
static void alarm_after(struct rig *x, unsigned us)
{
	struct itimerspec t = {.it_value.tv_nsec = us * 1000l};
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	static timer_t timer;

	if (!target) {
		signal(SIGUSR2, on_alarm);
		cr_assert_eq(timer_create(CLOCK_MONOTONIC, &e, &timer), 0);
	}
	target = x;
	cr_assert_eq(timer_settime(timer, 0, &t, NULL), 0);
	if (!us)
		atomic_store(&x->stop, 0);
}

/* Run on for a while, whatever comes; a new space if it dies. */
static void run_somehow(struct rig *x, unsigned us)
{
	alarm_after(x, 0);
	alarm_after(x, us);
	for (unsigned i = 0; i < 20 && !x->stop; i++) {
		int ret = space_run(x->sp, &x->r, &x->stop, &x->ex);

		if (ret == -EINVAL)
			break;
		if (ret || x->ex.kind == SPACE_DEAD) {
			replace_space(x);
			break;
		}
	}
	alarm_after(x, 0);
}

CODE(probe, "mov (%rsi), %rax; syscall");
#define FORBIDDEN 0x20000000ull

/* One run of the probe; true: it faulted where it had to. */
static bool probe_faults(struct rig *x, u64 va)
{
	rig_code(x, probe);
	x->r.gpr[RSI] = va;
	do {
		if (space_run(x->sp, &x->r, &x->stop, &x->ex)) {
			replace_space(x); /* it says that it is spoilt */
			return false;
		}
	} while (x->ex.kind == SPACE_KICKED);
	return x->ex.kind == SPACE_FAULT && x->ex.vector == 14 && x->ex.cr2 == va;
}

/* The space runs code, and what was not mapped is not there. A lie told before may come first. */
static void expect_unmapped(struct rig *x, u64 va)
{
	unsigned tries = 0;

	while (!probe_faults(x, va))
		cr_assert_lt(++tries, 4, "kind %d, vector %d, address %#llx", x->ex.kind,
			     x->ex.vector, (unsigned long long)x->ex.cr2);
}

CODE(jump, "jmp *%rax");

/*
 * Jump to every byte of the stub, with registers made for its parts: a record of the attacker's own
 * (RBX, with the base of it in R15), a handler's arguments, a system call ready to go.
 */
Test(hostile_space, jumps_into_the_stub)
{
	const u64 code_size = space_stub_end - space_stub;
	struct space_record *record;
	struct rig x;

	if (!rig_open(&x))
		return;
	for (u64 off = 0; off < code_size; off++) {
		for (unsigned set = 0; set < 3; set++) {
			u64 base = x.sp->base;

			rig_code(&x, jump);
			record = (struct space_record *)(x.ram + MIB);
			*record =
			    (struct space_record){.nr = 9,
						  .a = {FORBIDDEN, PAGE_SIZE, PROT_READ,
							MAP_SHARED | MAP_FIXED, SPACE_RAM_FD, 0}};
			x.r.gpr[RAX] = base + off;
			x.r.gpr[RBX] = set ? RIG_DATA : base;
			x.r.gpr[R15] = set == 1 ? RIG_DATA : base;
			x.r.gpr[R14] = base + (space_stub_script - space_stub);
			x.r.gpr[RDX] = set == 2 ? base + SPACE_STACK + 0x100 : RIG_DATA;
			x.r.gpr[RDI] = FORBIDDEN;
			x.r.gpr[RSI] = PAGE_SIZE;
			x.r.gpr[R10] = MAP_SHARED | MAP_FIXED;
			x.r.gpr[R8] = SPACE_RAM_FD;
			x.r.gpr[RSP] = set == 2 ? base + SPACE_IMAGE : RIG_STACK;
			run_somehow(&x, 500);
		}
		if (off % 16 == 0)
			expect_unmapped(&x, FORBIDDEN);
	}
	expect_unmapped(&x, FORBIDDEN);
	rig_close(&x);
}

/* To every byte of what patched system calls run through, set and unset, and of the table; RCX,
 * which is believed to be the way back, and the constants in a trampoline are the attacker's
 * choice. */
Test(hostile_space, jumps_into_trampolines)
{
	static const u64 next[] = {RIG_CODE + 7,      0,        ~0ull, 0x8000000000000000ull,
				   0x050f050f050full, FORBIDDEN};
	struct space_site site[] = {
	    {.kind = SPACE_SITE_PAIR, .nr = 0x050f, .len = 5},
	    {.kind = SPACE_SITE_SYSCALL, .len = 6, .insn = {0x48, 0x3d, 0x0f, 0x05, 0x0f, 0x05}}};
	const u64 from[] = {SPACE_FAST, SPACE_FAST_CODE, (u64)(space_stub_fast - space_stub)},
		  len[] = {64, 3 * TRAMPOLINE_SIZE, 80};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned n = 0; n < ARRAY_LEN(next); n++) {
		for (unsigned i = 0; i < 3; i++) {
			for (u64 off = from[i]; off < from[i] + len[i]; off++) {
				for (unsigned k = 0; k < 2; k++)
					space_fast_set(x.sp, k, &site[k], next[n]);
				rig_code(&x, jump);
				x.r.gpr[RAX] = x.sp->base + off;
				x.r.gpr[RCX] = next[n];
				x.r.gpr[RSP] = off % 2 ? RIG_STACK : x.sp->base + ST_SCRATCH + 8;
				run_somehow(&x, 300);
			}
		}
		expect_unmapped(&x, FORBIDDEN);
	}
	rig_close(&x);
}

/* RSP anywhere in the signal stack: the frame lands where the attacker wants it. */
Test(hostile_space, signal_frames_anywhere)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (u64 off = 0; off <= SPACE_SIZE - SPACE_STATE; off += 40) {
		rig_code(&x, probe);
		x.r.gpr[RSI] = off % 80 ? RIG_DATA : FORBIDDEN;
		x.r.gpr[RSP] = x.sp->base + SPACE_STATE + off;
		run_somehow(&x, 1000);
	}
	expect_unmapped(&x, FORBIDDEN);
	rig_close(&x);
}

/* Overwrites all it can write of the stub with the byte in AL, but leaves honestly. */
CODE(scribble, "cld; mov %rbx, %rdi; mov $0x9000, %ecx; rep stosb; syscall");
_Static_assert(SPACE_STACK_TOP - SPACE_STATE == 0x9000, "scribble");

Test(hostile_space, scribbled_state)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned byte = 0; byte < 256; byte++) {
		rig_code(&x, scribble);
		x.r.gpr[RAX] = byte;
		x.r.gpr[RBX] = x.sp->base + SPACE_STATE;
		run_somehow(&x, 2000);
	}
	expect_unmapped(&x, FORBIDDEN);
	rig_close(&x);
}

/*
 * Claims that it has left, with a frame at RDX and everything else that belongs to it, and counts
 * on at RSI.
 */
CODE(liar, "1: mov %rdx, 0x5100(%rbx); movl $1, 0x5004(%rbx); movl $1, 0x5040(%rbx);"
	   "mov 0x1000(%rbx), %eax; mov %eax, 0x5000(%rbx); incq (%rsi); jmp 1b");

static u64 counter(const struct rig *x)
{
	return atomic_load((_Atomic u64 *)(x->ram + MIB));
}

/* A frame that the monitor will believe, in the attacker's copy of the signal stack. */
static u64 forge_frame(struct rig *x)
{
	u64 *f = (u64 *)(x->sp->slot + SPACE_STACK + 0x2000);
	u64 at = x->sp->base + SPACE_STACK + 0x2000;

	memset(f, 0, 1024);
	f[UC_RIP / 8] = 0x1234;
	f[(UC_MCONTEXT + 184) / 8] = x->sp->base + ST_XSAVE + SPACE_STACK - SPACE_STATE;
	f[UC_SIGNO / 8] = SIGSYS;
	return at;
}

/* From the host's point of view; false if it does not tell (it tells root). */
static bool has_mapping(pid_t pid, u64 va)
{
	unsigned long long from, to;
	char path[64], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		found |= sscanf(line, "%llx-%llx", &from, &to) == 2 && va >= from && va < to;
	fclose(f);
	return found;
}

Test(hostile_space, false_claims_do_not_survive_parking)
{
	struct timespec t = {.tv_nsec = 20000000};
	unsigned believed = 0;
	struct rig x;
	u64 n;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 20; i++) {
		rig_code(&x, liar);
		cr_assert_eq(space_sync(x.sp), 0);
		x.r.gpr[RBX] = x.sp->base;
		x.r.gpr[RSI] = RIG_DATA;
		x.r.gpr[RDX] = forge_frame(&x);
		alarm_after(&x, 50000);
		cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), 0);
		alarm_after(&x, 0);
		believed += x.ex.kind != SPACE_DEAD && x.r.rip == 0x1234;
		if (x.ex.kind != SPACE_DEAD)
			cr_assert_eq(space_park(x.sp), 0);
		n = counter(&x);
		nanosleep(&t, NULL);
		cr_assert_eq(counter(&x), n, "it ran on while parked");
		if (x.ex.kind != SPACE_DEAD) {
			cr_assert_eq(space_unmap(x.sp, RIG_DATA, PAGE_SIZE), 0);
			cr_assert_eq(space_sync(x.sp), 0);
			cr_assert_not(has_mapping(x.sp->guest, RIG_DATA));
		}
		replace_space(&x);
	}
	cr_expect_gt(believed, 0, "the lie was not good enough to test anything");
	rig_close(&x);
}

/* Reports of the mapper that it did not make: all orders done, no error, not asleep; over and over.
 */
CODE(forger,
     "1: mov 0x1080(%rbx), %eax; add %ecx, %eax; mov %eax, 0x50c0(%rbx);"
     "movq $0, 0x50c8(%rbx); movl $0, 0x50d0(%rbx); movl $0, 0x5080(%rbx); inc %rdx; jmp 1b");

Test(hostile_space, forged_reports_of_the_mapper)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 200; i++) {
		rig_code(&x, forger);
		cr_assert_eq(space_map(x.sp, FORBIDDEN, PAGE_SIZE, PROT_READ | PROT_WRITE, 0), 0);
		x.r.gpr[RBX] = x.sp->base;
		x.r.gpr[RCX] = i % 4;
		run_somehow(&x, 200);
		for (unsigned j = 0; j < 70; j++) /* more than the ring, forged all the time */
			cr_assert_eq(space_map(x.sp, FORBIDDEN + (2 + 2 * j) * PAGE_SIZE, PAGE_SIZE,
					       PROT_READ, 2 * j * PAGE_SIZE),
				     0);
		run_somehow(&x, 200);
		cr_assert_eq(space_unmap(x.sp, FORBIDDEN, 256 * PAGE_SIZE), 0);
		for (unsigned j = 0; j < 3; j++)
			expect_unmapped(&x, FORBIDDEN + j * 2 * PAGE_SIZE);
	}
	rig_close(&x);
}

CODE(int80, "int $0x80; syscall");
CODE(call64, "syscall; syscall");
CODE(attributes, "lar %ax, %ebx; setz %al; movzbl %al, %eax; syscall");

static bool has_descriptor(struct rig *x, u16 sel)
{
	rig_code(x, attributes);
	x->r.gpr[RAX] = sel;
	do {
		cr_assert_eq(space_run(x->sp, &x->r, &x->stop, &x->ex), 0);
	} while (x->ex.kind == SPACE_KICKED);
	cr_assert_eq(x->ex.kind, SPACE_SYSCALL);
	return x->r.gpr[RAX] & 1;
}

/* Descriptors of its own making: in guest memory, in writable pages of the stub, or not quite where
 * the monitor writes its own. No such call takes place, and what the monitor has written is an
 * empty descriptor here. */
Test(hostile_space, descriptors)
{
	const struct space_user_desc d = {.entry = TLS_FIRST, .limit = 0xfffff, .flags = 0x51};
	const u64 ldt[] = {0x00cff3000000ffffull};
	struct rig x;
	u64 at[12];
	unsigned n = 0;

	if (!rig_open(&x))
		return;
	memcpy(x.sp->slot + SPACE_STATE + 0xf00, &d, sizeof(d));
	at[n++] = RIG_DATA;
	at[n++] = x.sp->base + SPACE_STATE + 0xf00;
	for (s64 off = -16; off <= 48; off += 16)
		if (off < 0 || off == 48)
			at[n++] = x.sp->base + CTL_TLS + (u64)off;
	at[n++] = x.sp->base + CTL_TLS + 4;
	at[n++] = x.sp->base + SPACE_RING;
	for (unsigned i = 0; i < n; i++) {
		rig_code(&x, int80);
		memcpy(x.ram + MIB, &d, sizeof(d));
		x.r.gpr[RAX] = 243; /* set_thread_area */
		x.r.gpr[RBX] = at[i];
		rig_run(&x, SPACE_INT80);
		cr_assert_eq(x.r.gpr[RAX], 243);
		x.r.rip = RIG_CODE;
		x.r.gpr[RAX] = 123; /* modify_ldt */
		x.r.gpr[RBX] = LDT_WRITE;
		x.r.gpr[RCX] = at[i];
		x.r.gpr[RDX] = sizeof(d);
		rig_run(&x, SPACE_INT80);
		rig_code(&x, call64);
		x.r.gpr[RAX] = 154;
		x.r.gpr[RDI] = LDT_WRITE;
		x.r.gpr[RSI] = at[i];
		x.r.gpr[RDX] = sizeof(d);
		rig_syscall(&x, 154);
	}
	for (unsigned i = 0; i < TLS_DESCRIPTORS; i++) {
		rig_code(&x, int80);
		x.r.gpr[RAX] = 243;
		x.r.gpr[RBX] = x.sp->base + CTL_TLS + i * USER_DESC_SIZE;
		run_somehow(&x, 2000);
		cr_expect_not(has_descriptor(&x, (u16)((TLS_FIRST + i) * 8 + 3)));
	}
	cr_expect_not(has_descriptor(&x, 7));
	/* The mapper's way. */
	cr_assert_eq(space_set_ldt(x.sp, 0, ldt, 1), 0);
	cr_expect(has_descriptor(&x, 7));
	expect_unmapped(&x, FORBIDDEN);
	rig_close(&x);
}

/* Orders that the monitor would not give, as if guest code had found a way to: the mapper's filter
 * ends it before any of them takes place. */
Test(hostile_space, orders_the_mapper_must_not_take)
{
	const u64 shared = MAP_SHARED | MAP_FIXED, rw = PROT_READ | PROT_WRITE,
		  rx = PROT_READ | PROT_EXEC;
	struct rig x;
	u64 base;

	if (!rig_open(&x))
		return;
	base = x.sp->base;
	const struct space_record order[] = {
	    {9, {base + SPACE_CTL, PAGE_SIZE, rw, shared, SPACE_RAM_FD, 0}, CHECK_OK, 0},
	    {9, {base - PAGE_SIZE, 2 * PAGE_SIZE, rw, shared, SPACE_RAM_FD, 0}, CHECK_OK, 0},
	    {9, {PAGE_SIZE, GIB, PROT_NONE, shared, SPACE_RAM_FD, 0}, CHECK_OK, 0},
	    {9, {FORBIDDEN, PAGE_SIZE, rw, MAP_PRIVATE | MAP_FIXED, SPACE_RAM_FD, 0}, CHECK_OK, 0},
	    {9, {FORBIDDEN, PAGE_SIZE, rw, shared | MAP_ANONYMOUS, ~0ull, 0}, CHECK_OK, 0},
	    {9, {FORBIDDEN, PAGE_SIZE, PROT_READ, shared, SPACE_COPIES_FD, 0}, CHECK_OK, 0},
	    {9, {FORBIDDEN, PAGE_SIZE, rx, shared, SPACE_POOL_FD, 0}, CHECK_OK, 0},
	    {10, {base + SPACE_RING, SPACE_RING_SIZE, rw}, CHECK_OK, 0},
	    {10, {base + SPACE_CODE, SPACE_CODE_SIZE, PROT_READ}, CHECK_OK, 0},
	    {11, {base, SPACE_SIZE}, CHECK_OK, 0},
	    {25, {RIG_DATA, PAGE_SIZE, PAGE_SIZE, 3, FORBIDDEN}, CHECK_OK, 0}, /* mremap */
	    {39, {0}, CHECK_OK, 0},                                            /* getpid */
	    {57, {0}, CHECK_OK, 0},                                            /* fork */
	    {257, {0, base, 0}, CHECK_OK, 0},                                  /* openat */
	};

	for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
		rig_code(&x, probe);
		cr_assert_eq(space_sync(x.sp), 0);
		cr_assert_eq(x.sp->base, base);
		cr_assert_eq(space_execute(x.sp, &order[i], 1), -EIO, "order %u", i);
		cr_assert(x.sp->dead);
		replace_space(&x);
		expect_unmapped(&x, FORBIDDEN);
	}
	rig_close(&x);
}

static bool is_gone(pid_t pid)
{
	char path[64], line[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return true;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	return !line[0] || strstr(line, ") Z") || strstr(line, ") X");
}

CODE(spin, "1: jmp 1b");

/* A monitor with a space that waits and one that computes; its pids go down the pipe. */
static NORETURN void doomed_monitor(int out)
{
	struct rig x;
	pid_t pids[5];
	struct space *other;

	if (!rig_open(&x))
		_exit(77);
	other = space_get(x.pool, 0);
	pids[0] = x.pool->zygote.mapper;
	pids[1] = x.sp->guest;
	pids[2] = x.sp->mapper;
	pids[3] = other->guest;
	pids[4] = other->mapper;
	rig_code(&x, spin);
	if (write(out, pids, sizeof(pids)) != sizeof(pids))
		_exit(1);
	(void)!space_run(x.sp, &x.r, &x.stop, &x.ex);
	_exit(1);
}

Test(hostile_space, spaces_die_with_a_killed_monitor)
{
	struct timespec t = {.tv_nsec = 10000000};
	pid_t pids[5], child;
	int p[2], status;
	ssize_t n;

	cr_assert_eq(pipe(p), 0);
	child = fork();
	if (child == 0)
		doomed_monitor(p[1]);
	close(p[1]);
	n = read(p[0], pids, sizeof(pids));
	if (n == 0) {
		waitpid(child, &status, 0);
		cr_assert_eq(WEXITSTATUS(status), 77);
		return;
	}
	cr_assert_eq(n, sizeof(pids));
	for (unsigned i = 0; i < 5; i++)
		cr_assert_not(is_gone(pids[i]));
	nanosleep(&t, NULL);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	for (unsigned i = 0; i < 5; i++) {
		for (unsigned tries = 0; tries < 500 && !is_gone(pids[i]); tries++)
			nanosleep(&t, NULL);
		cr_expect(is_gone(pids[i]), "process %u is still there", i);
	}
}

/* A space that is killed under us is reported, and replaced without fuss. */
Test(hostile_space, a_killed_space_is_dead_and_no_more)
{
	struct rig x;
	pid_t pid;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 4; i++) {
		rig_code(&x, spin);
		pid = i & 1 ? x.sp->guest : x.sp->mapper;
		kill(pid, SIGKILL);
		while (!is_gone(pid))
			sched_yield();
		if (i & 2)
			cr_assert(space_run(x.sp, &x.r, &x.stop, &x.ex) == -EIO ||
				  x.ex.kind == SPACE_DEAD);
		else
			cr_assert_neq(space_unmap(x.sp, 0, PAGE_SIZE) ?: space_sync(x.sp), 0);
		replace_space(&x);
	}
	rig_close(&x);
}
