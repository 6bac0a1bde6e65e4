/*
 * System calls that leave a space without a signal: patched pairs, and everything that can come
 * between.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>

#include "space_impl.h"
#include "space_rig.h"

TestSuite(space_fast, .timeout = 60);

#define UD 6
#define DB 1

/* Map a copy of the code whose bytes at `at` are patched, with slot 7. */
static void patch_site(struct rig *x, u64 at, const struct space_site *site, u64 next)
{
	u8 *copy = space_copy(x->pool, 3);

	memcpy(copy, x->ram, PAGE_SIZE);
	space_fast_patch(copy + at, 7);
	space_fast_set(x->sp, 7, site, RIG_CODE + next);
	cr_assert_eq(space_map_copy(x->sp, RIG_CODE, 3), 0);
}

static void patch(struct rig *x, u64 pair, u32 nr)
{
	cr_assert_eq(x->ram[pair], 0xb8);
	patch_site(x, pair, &(struct space_site){.kind = SPACE_SITE_PAIR, .nr = nr, .len = 5},
		   pair + SPACE_PATCH_LEN);
}

/* The SYSCALL at `at`, and the instruction of len bytes behind it. */
static void patch_syscall(struct rig *x, u64 at, u8 len)
{
	struct space_site site = {.kind = SPACE_SITE_SYSCALL, .len = len};

	cr_assert_eq(x->ram[at], 0x0f);
	cr_assert_eq(x->ram[at + 1], 0x05);
	memcpy(site.insn, x->ram + at + 2, len);
	patch_site(x, at, &site, at + 2);
}

/* A kick that found guest code at rip, as the host's kernel and the handler would leave it. */
static void interrupted_at(struct rig *x, u64 rip)
{
	const u64 off = SPACE_STACK_TOP - SPACE_FRAME_MAX;
	const u64 flagged = x->sp->base + (u64)(space_stub_fast_flagged - space_stub);
	const u64 saved = x->sp->base + (u64)(space_stub_fast_saved - space_stub);
	u64 *f = (u64 *)(x->sp->slot + off);
	struct space_state *st = space_state(x->sp);

	memset(f, 0, 1024);
	f[UC_RIP / 8] = rip;
	f[UC_RIP / 8 - 1] = 0x7777; /* RSP */
	f[UC_RIP / 8 - 2] = RIG_CODE + 7;
	f[UC_RIP / 8 - 3] = 39;
	/* On the way into the stub they are on its stack from some point on. */
	f[UC_RIP / 8 + 1] = rip >= flagged && rip < saved ? 0xad7 : 0x246;
	f[UC_FPSTATE / 8] = x->sp->base + off + 0x200;
	f[UC_SIGNO / 8] = SPACE_KICK_SIGNAL;
	st->rsp = 0x5555;
	st->scratch = 0x246;
	atomic_store(&st->frame, x->sp->base + off);
	atomic_store(&st->kind, KIND_GUEST);
	cr_assert(space_exit_decode(x->sp, &x->r, &x->ex));
}

static void expect_back(struct rig *x, u64 at, u64 rip, u64 rsp)
{
	interrupted_at(x, at);
	cr_expect_eq(x->ex.kind, SPACE_KICKED, "at %#llx", (unsigned long long)at);
	cr_expect_eq(x->r.rip, rip, "at %#llx: %#llx", (unsigned long long)at,
		     (unsigned long long)x->r.rip);
	cr_expect_eq(x->r.gpr[RSP], rsp, "at %#llx", (unsigned long long)at);
	cr_expect_eq(x->r.rflags, 0x246);
}

CODE(plain, "mov $39, %eax; syscall; ud2");

Test(space_fast, a_patched_pair_does_what_it_did)
{
	static const u64 flags[] = {0x202, 0xad7, 0x200ed7, 0x44202, 0x4202, 0x202};
	struct rig x;

	if (!rig_open(&x))
		return;
	cr_assert(space_fast_able(x.sp));
	rig_code(&x, plain);
	patch(&x, 0, 39);
	for (unsigned n = 0; n < 2 * ARRAY_LEN(flags); n++) {
		u64 want = flags[n / 2], stack = RIG_STACK - 8 * n;

		for (unsigned i = 0; i < 16; i++)
			x.r.gpr[i] = 0x0123456789abcdefull * (i + 1) ^ n;
		x.r.gpr[RSP] = stack;
		memset(x.ram + MIB, 0x5a, 0x10000);
		x.r.rip = RIG_CODE;
		x.r.rflags = want;
		x.r.fs_base = 0x7f0012345000 + n / 3;
		x.r.gs_base = 0x7f0076543000 - n / 3;
		rig_syscall(&x, 39);
		cr_expect(x.ex.fast);
		cr_expect_eq(x.r.rip, RIG_CODE + 7);
		cr_expect_eq(x.r.gpr[RCX], RIG_CODE + 7);
		cr_expect_eq(x.r.gpr[R11], want | 0x202);
		cr_expect_eq(x.r.rflags, want | 0x202);
		cr_expect_eq(x.r.gpr[RSP], stack);
		cr_expect_eq(x.r.fs_base, 0x7f0012345000 + n / 3);
		cr_expect_eq(x.r.gs_base, 0x7f0076543000 - n / 3);
		for (unsigned i = 2; i < 16; i++)
			if (i != RSP && i != R11)
				cr_expect_eq(x.r.gpr[i], (0x0123456789abcdefull * (i + 1) ^ n),
					     "register %u", i);
		for (unsigned i = 0; i < 0x10000; i++)
			cr_assert_eq(x.ram[MIB + i], 0x5a, "the stack at %#x", i);
	}
	cr_expect_eq(x.stats.n[STAT_space_fast_syscalls], 2 * ARRAY_LEN(flags));
	/* And on, with all registers as they are given. */
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, UD);
	cr_expect_eq(x.r.rip, RIG_CODE + 7);
	for (unsigned i = 2; i < 16; i++)
		if (i != RSP && i != R11)
			cr_expect_eq(x.r.gpr[i], 0x0123456789abcdefull * (i + 1) ^ 11, "%u", i);
	rig_close(&x);
}

/* Registers that come back as they went are not sent; guest code cannot tell. */
Test(space_fast, what_a_system_call_changes_arrives)
{
	static const struct {
		u64 flags;
		bool same;
	} given[] = {{0x202, true},  {0xad7, true}, {0xa02, true},  {0x246, true},
		     {0x602, false}, {0x212, true}, {0x283, false}, {0x44a02, false}};
	unsigned same = 0;
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	for (unsigned n = 0; n < ARRAY_LEN(given); n++) {
		u64 want[16];

		for (unsigned i = 0; i < 16; i++)
			x.r.gpr[i] = 0x0123456789abcdefull * (i + 1) ^ n;
		x.r.gpr[RSP] = RIG_STACK - 8 * n;
		x.r.rip = RIG_CODE;
		x.r.rflags = 0x202;
		rig_syscall(&x, 39);
		cr_expect(x.ex.fast);
		x.r.gpr[RAX] = ~0ull - n;
		x.r.gpr[RCX] = 0x1111 + n;
		x.r.gpr[R11] = 0x2222 + n;
		if (n == 6) /* one of the others */
			x.r.gpr[RBP] ^= 1ull << 63;
		x.r.rflags = given[n].flags;
		memcpy(want, x.r.gpr, sizeof(want));
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, UD);
		cr_expect_eq(x.r.rip, RIG_CODE + 7);
		cr_expect_eq(x.r.rflags & ~0x10000ull, given[n].flags, "%#llx for %#llx",
			     (unsigned long long)x.r.rflags, (unsigned long long)given[n].flags);
		for (unsigned i = 0; i < 16; i++)
			cr_expect_eq(x.r.gpr[i], want[i], "register %u in round %u", i, n);
		same += given[n].same;
		cr_expect_eq(x.stats.n[STAT_space_same], same, "round %u", n);
	}
	rig_close(&x);
}

Test(space_fast, a_pair_entered_at_its_syscall_is_reported)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	x.r.rip = RIG_CODE + 5;
	x.r.gpr[RAX] = 1234;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, UD);
	cr_expect_eq(x.r.rip, RIG_CODE + 5);
	cr_expect_eq(x.r.gpr[RAX], 1234);
	rig_close(&x);
}

Test(space_fast, a_step_ends_between_the_two)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	x.r.rflags |= 0x100;
	x.r.gpr[RCX] = 55;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, DB);
	cr_expect_eq(x.r.rip, RIG_CODE + 5);
	cr_expect_eq(x.r.gpr[RAX], 39);
	cr_expect_eq(x.r.gpr[RCX], 55);
	rig_close(&x);
}

/* As C libraries have it. */
CODE(limit, "mov $0x7b, %edx; lsl %dx, %edx; setz %bl; pushf; pop %rsi; ud2");

/* The vector state of a space that dies when it is in its registers. */
CODE(vector, "movq %rbx, %xmm5; mov $39, %eax; syscall; movq %xmm5, %rdx; syscall");

Test(space_fast, a_vector_state_that_is_lost_is_said_to_be)
{
	struct rig x;
	u8 *image;

	if (!rig_open(&x))
		return;
	image = aligned_alloc(64, ALIGN_UP(space_xsave_size(x.pool), 64));
	for (unsigned live = 0; live < 2; live++) {
		rig_code(&x, vector);
		if (live)
			patch(&x, 5, 39);
		x.r.gpr[RBX] = 0x1234;
		rig_syscall(&x, 39);
		cr_assert_eq(x.ex.fast, live);
		kill(x.sp->guest, SIGKILL);
		while (!space_gone(x.sp->guest))
			;
		cr_expect_eq(space_xsave_read(x.sp, image), !live);
		cr_expect_eq(*(u64 *)(image + 160 + 5 * 16), live ? 0 : 0x1234);
		space_put(x.sp);
		x.sp = space_get(x.pool, 0);
		cr_assert_not_null(x.sp);
	}
	free(image);
	rig_close(&x);
}

/* The limit of Linux's segment with the number of the processor: in place of the host's there is
 * 0x12345, and nothing else changes; the host's shows where it is not patched. */
Test(space_fast, a_limit_is_the_guests)
{
	struct space_site site = {.kind = SPACE_SITE_LIMIT, .nr = 0x12345};
	u64 tramp;
	struct rig x;

	if (!rig_open(&x))
		return;
	tramp = x.sp->base + SPACE_FAST_CODE + 7 * TRAMPOLINE_SIZE;
	rig_code(&x, limit);
	memcpy(site.insn, x.ram, SPACE_LIMIT_LEN);
	patch_site(&x, 0, &site, SPACE_LIMIT_LEN);
	for (unsigned flags = 0x202; flags < 0xad8; flags += 0x8d5 & ~0x240) {
		x.r.rip = RIG_CODE;
		x.r.rflags = flags;
		x.r.gpr[RSP] = RIG_STACK;
		for (unsigned i = 0; i < 4; i++)
			x.r.gpr[i] = ~0ull;
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, UD);
		cr_expect_eq(x.r.gpr[RDX], 0x12345);
		cr_expect_eq(x.r.gpr[RBX] & 0xff, 1);
		cr_expect_eq(x.r.gpr[RSI], flags | 0x40);
		cr_expect_eq(x.r.gpr[RAX] & x.r.gpr[RCX], ~0ull);
	}
	/* Between the two, by a step, from anywhere in the trampoline, and by a jump. */
	x.r.rip = RIG_CODE;
	x.r.rflags = 0x302;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, DB);
	cr_expect_eq(x.r.rip, RIG_CODE + 5);
	cr_expect_eq(x.r.gpr[RDX], 0x7b);
	x.r.rflags = 0x202;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, UD);
	cr_expect_eq(x.r.rip, RIG_CODE + 5);
	expect_back(&x, tramp, RIG_CODE, 0x7777);
	expect_back(&x, tramp + 5, RIG_CODE, 0x7777);
	for (unsigned at = 8; at <= 18; at += 5) {
		x.r.gpr[RDX] = 0;
		expect_back(&x, tramp + at, RIG_CODE + 8, 0x7777);
		cr_expect_eq(x.r.gpr[RDX], 0x12345);
	}
	rig_close(&x);
}

CODE(limit2, "mov $0x7b, %esi; lsl %si, %ecx; ud2");

Test(space_fast, a_limit_in_another_register)
{
	struct space_site site = {.kind = SPACE_SITE_LIMIT, .nr = 7};
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, limit2);
	memcpy(site.insn, x.ram, SPACE_LIMIT_LEN);
	patch_site(&x, 0, &site, SPACE_LIMIT_LEN);
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.r.rip, RIG_CODE + 8);
	cr_expect_eq(x.r.gpr[RSI], 0x7b);
	cr_expect_eq(x.r.gpr[RCX], 7);
	rig_close(&x);
}

CODE(compare, "syscall; cmp $-4095, %rax; setae %bl; ud2");
#define COMPARE_LEN 6
#define GP          13

Test(space_fast, a_system_call_goes_on_behind_itself)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, compare);
	patch_syscall(&x, 0, COMPARE_LEN);
	for (unsigned n = 0; n < 2; n++) {
		x.r.rip = RIG_CODE;
		x.r.rflags = 0x202;
		x.r.gpr[RAX] = 1000 + n;
		rig_syscall(&x, 1000 + n);
		cr_expect(x.ex.fast);
		cr_expect_eq(x.r.rip, RIG_CODE + 2);
		cr_expect_eq(x.r.gpr[RCX], RIG_CODE + 2);
		cr_expect_eq(x.r.gpr[R11], 0x202);
		x.r.gpr[RAX] = n ? (u64)-5 : 5;
		x.r.gpr[RBX] = 77;
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, UD);
		cr_expect_eq(x.r.rip, RIG_CODE + 11);
		cr_expect_eq(x.r.gpr[RBX], n);
	}
	rig_close(&x);
}

CODE(over, "jmp 1f; .skip 14, 0x90; syscall; 1: cmp $-4095, %rax; ud2");

Test(space_fast, what_stands_behind_a_patched_one_is_reported)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, over);
	patch_syscall(&x, 16, COMPARE_LEN);
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, GP);
	cr_expect_eq(x.r.rip, RIG_CODE + 18);
	/* Nor does a step get lost there. */
	x.r.rflags |= 0x100;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.r.rip, RIG_CODE + 18);
	x.r.rip = RIG_CODE + 16;
	x.r.gpr[RAX] = 7;
	rig_syscall(&x, 7);
	cr_expect_eq(x.r.rip, RIG_CODE + 18);
	cr_expect_eq(x.r.rflags & 0x100, 0x100);
	/* A slot that is unset leads nowhere, and the way back neither. */
	x.r.rflags = 0x202;
	space_fast_unset(x.sp, 7);
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, GP);
	cr_expect_eq(x.r.rip, RIG_CODE + 18);
	rig_close(&x);
}

Test(space_fast, the_copy_can_be_taken_away)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	rig_syscall(&x, 39);
	cr_expect(x.ex.fast);
	cr_assert_eq(space_map(x.sp, RIG_CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, 0), 0);
	x.r.rip = RIG_CODE;
	rig_syscall(&x, 39);
	cr_expect_not(x.ex.fast);
	/* Nor is it there for the next owner, whose slots point nowhere. */
	patch(&x, 0, 39);
	space_put(x.sp);
	x.sp = space_get(x.pool, 0);
	cr_assert_not_null(x.sp);
	cr_assert_eq(space_map_copy(x.sp, RIG_CODE, 3), 0);
	x.r.rip = RIG_CODE;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.r.rip, 0);
	rig_close(&x);
}

Test(space_fast, copies_cannot_be_made_writable)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	rig_syscall(&x, 39);
	cr_assert_eq(space_protect(x.sp, RIG_CODE, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	cr_expect_eq(space_sync(x.sp), -ENOMEM);
	rig_close(&x);
}

#define XMM5_AT (160 + 5 * 16)

Test(space_fast, vector_state_stays_in_the_space)
{
	struct rig x;
	u8 *image;
	u64 xmm5;

	if (!rig_open(&x))
		return;
	image = aligned_alloc(64, ALIGN_UP(space_xsave_size(x.pool), 64));
	rig_code(&x, vector);
	patch(&x, 5, 39);
	for (unsigned how = 0; how < 4; how++) {
		x.r.rip = RIG_CODE;
		x.r.gpr[RBX] = 0x1122334455667700 + how;
		rig_syscall(&x, 39);
		cr_expect(x.ex.fast);
		xmm5 = x.r.gpr[RBX];
		if (how & 1) {
			space_xsave_read(x.sp, image);
			cr_expect_eq(memcmp(image + XMM5_AT, &xmm5, 8), 0);
		}
		if (how & 2) {
			if (!(how & 1)) { /* an image to begin with */
				memset(image, 0, space_xsave_size(x.pool));
				image[512] = 3;
				memcpy(image + 24, (u32[]){0x1f80}, 4);
			}
			xmm5 = 0x4242424242424200 + how;
			memcpy(image + XMM5_AT, &xmm5, 8);
			image[512] |= 2;
			space_xsave_write(x.sp, image);
		}
		rig_run(&x, SPACE_SYSCALL);
		cr_expect_eq(x.r.gpr[RDX], xmm5, "%u: %llx", how, (unsigned long long)x.r.gpr[RDX]);
	}
	free(image);
	rig_close(&x);
}

/* Counts in RBX, in the red zone, in XMM5 and in the carry flag, and looks after each system call
 * whether all agree. */
CODE(counts, "1: inc %rbx; mov %rbx, -8(%rsp); movq %rbx, %xmm5; stc;"
	     "pair: mov $39, %eax; syscall;"
	     "jnc 2f; cmp -8(%rsp), %rbx; jne 2f; movq %xmm5, %rcx; cmp %rcx, %rbx; jne 2f;"
	     "jmp 1b; 2: hlt");
#define PAIR 14

static atomic_bool done;

/* Kicks as fast as they go, at no particular time. Most are mere signals, as of kicks that come too
 * late, since the others seldom let guest code begin. */
static void *hammer(void *opaque)
{
	struct rig *x = opaque;

	for (unsigned n = 1; !done; n++) {
		if (n % 8)
			kill(x->sp->guest, SPACE_KICK_SIGNAL);
		else
			space_kick(x->sp);
		/* Not so fast that the signal stack overflows with handlers that have not begun. */
		for (u64 t = space_ticks(); space_ticks() - t < 100000 + n * 3701 % 50021;)
			;
	}
	return NULL;
}

/* How often the pair was found entered in its middle. */
static unsigned run_counting(struct rig *x, u64 *count, u8 *image, unsigned ms)
{
	unsigned middle = 0;

	for (u64 end = space_now_ms() + ms; space_now_ms() < end;) {
		u64 rip;

		cr_assert_eq(space_run(x->sp, &x->r, &x->stop, &x->ex), 0);
		rip = x->r.rip;
		cr_assert(rip >= RIG_CODE && rip < RIG_CODE + 64, "at %llx",
			  (unsigned long long)rip);
		if (x->ex.kind == SPACE_KICKED)
			continue;
		cr_assert_neq(x->ex.kind, SPACE_DEAD);
		if (x->ex.kind == SPACE_FAULT) { /* as an engine would */
			cr_assert_eq(x->ex.vector, UD, "%u at %llx", x->ex.vector,
				     (unsigned long long)rip);
			cr_assert_eq(rip, RIG_CODE + PAIR + 5);
			x->r.rip += 2;
			middle++;
		}
		cr_assert_eq(x->r.gpr[RAX], 39);
		cr_assert_eq(x->r.rip, RIG_CODE + PAIR + 7);
		cr_assert_eq(x->r.gpr[RBX], ++*count);
		/* By turns so that it is foreseen, and so that it is not. */
		if (*count % (*count / 64 % 2 ? 2 : 5) == 0) {
			space_xsave_read(x->sp, image);
			cr_assert_eq(memcmp(image + XMM5_AT, count, 8), 0);
		}
	}
	return middle;
}

Test(space_fast, kicks_anywhere_lose_nothing)
{
	pthread_t thread;
	struct rig x;
	unsigned middle;
	u64 count = 0;
	u8 *image;

	if (!rig_open(&x))
		return;
	image = aligned_alloc(64, ALIGN_UP(space_xsave_size(x.pool), 64));
	rig_code(&x, counts);
	cr_assert_eq(x.ram[PAIR], 0xb8);
	patch(&x, PAIR, 39);
	cr_assert_eq(space_sync(x.sp), 0); /* or a kick lets it run before all is mapped */
	cr_assert_eq(pthread_create(&thread, NULL, hammer, &x), 0);
	middle = run_counting(&x, &count, image, 1500);
	done = true;
	pthread_join(thread, NULL);
	cr_log_info("%llu system calls, %u of them interrupted, %llu kicks",
		    (unsigned long long)count, middle,
		    (unsigned long long)x.stats.n[STAT_space_kicked]);
	cr_expect_gt(x.stats.n[STAT_space_fast_syscalls], count / 2);
	cr_expect_eq(x.stats.n[STAT_space_killed], 0);
	free(image);
	rig_close(&x);
}

/* It is asked for with every second system call, and now and then brought back. */
Test(space_fast, a_vector_state_that_will_be_asked_for_is_saved_in_advance)
{
	struct rig x;
	u8 *image;

	if (!rig_open(&x))
		return;
	image = aligned_alloc(64, ALIGN_UP(space_xsave_size(x.pool), 64));
	rig_code(&x, counts);
	patch(&x, PAIR, 39);
	for (u64 n = 1; n <= 200; n++) {
		do
			cr_assert_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), 0);
		while (x.ex.kind == SPACE_KICKED);
		cr_assert_eq(x.ex.kind, SPACE_SYSCALL, "%llu", (unsigned long long)n);
		cr_assert_eq(x.r.gpr[RBX], n);
		if (n % 2)
			continue;
		cr_expect(space_xsave_read(x.sp, image));
		cr_assert_eq(memcmp(image + XMM5_AT, &n, 8), 0, "%llu", (unsigned long long)n);
		if (n % 4 == 0)
			space_xsave_write(x.sp, image);
	}
	cr_expect_gt(x.stats.n[STAT_space_vec_kept], 80);
	cr_expect_lt(x.stats.n[STAT_space_vec_saves], 20);
	cr_expect_lt(x.stats.n[STAT_space_vec_kept], 120, "no more than are asked for");
	free(image);
	rig_close(&x);
}

static void expect_stub(struct rig *x, u64 at)
{
	interrupted_at(x, at);
	cr_expect_eq(x->ex.kind, SPACE_FAULT, "at %#llx", (unsigned long long)at);
	cr_expect_eq(x->ex.cr2, at);
}

Test(space_fast, what_was_interrupted_on_its_way_is_put_back)
{
	u64 tramp, fast, saved, switched;
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, plain);
	patch(&x, 0, 39);
	tramp = x.sp->base + SPACE_FAST_CODE + 7 * TRAMPOLINE_SIZE;
	fast = x.sp->base + (u64)(space_stub_fast - space_stub);
	switched = x.sp->base + (u64)(space_stub_fast_switched - space_stub);
	saved = x.sp->base + (u64)(space_stub_fast_saved - space_stub);
	expect_back(&x, tramp, RIG_CODE, 0x7777);
	expect_back(&x, tramp + 5, RIG_CODE + 5, 0x7777);
	expect_back(&x, tramp + 15, RIG_CODE + 5, 0x7777);
	expect_back(&x, fast, RIG_CODE + 5, 0x7777);
	for (u64 at = switched; at < saved; at++)
		expect_back(&x, at, RIG_CODE + 5, 0x5555);
	expect_stub(&x, tramp + 1);
	expect_stub(&x, tramp + TRAMPOLINE_SIZE);
	expect_stub(&x, x.sp->base + SPACE_FAST);

	rig_code(&x, compare);
	patch_syscall(&x, 0, COMPARE_LEN);
	expect_back(&x, tramp, RIG_CODE, 0x7777);
	expect_back(&x, tramp + 10, RIG_CODE, 0x7777);
	expect_back(&x, tramp + 15, RIG_CODE + 2, 0x7777);
	expect_back(&x, tramp + 15 + COMPARE_LEN, RIG_CODE + 2 + COMPARE_LEN, 0x7777);
	rig_close(&x);
}
