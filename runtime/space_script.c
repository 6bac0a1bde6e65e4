/*
 * The scripts by which the tasks of a space come into being: lists of system calls that the stub
 * executes (space_stub.S), written by the monitor into pages the tasks can only read.
 *
 *     zygote        forks; the child
 *     zygote_child  binds its life to the monitor's, maps the new stub, jumps there; now a mapper
 *     mapper        drops the zygote's stub, forks G into its own address space, locks itself in
 *     guest         handlers, alternate stack, locks itself in; waits for the first run
 */
#include <asm/unistd_64.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "space_impl.h"

#define NR_MSEAL    462 /* Linux 6.10; newer than our headers */
#define SA_RESTORER 0x04000000

struct script {
	struct space_record *at, *end;
};

static void add(struct script *s, u32 check, u64 nr, const u64 a[6])
{
	BUG_ON(s->at == s->end);
	*s->at = (struct space_record){.nr = nr, .check = check};
	for (unsigned i = 0; i < 6; i++)
		s->at->a[i] = a[i];
	s->at++;
}
#define ADD(s, check, nr, ...) add(s, check, nr, (const u64[6]){__VA_ARGS__})

/* On to a place in the stub at base, with the script there. */
static void jump(struct script *s, u64 base, const u8 *to, u64 script)
{
	ADD(s, CHECK_NONE, (u64)RECORD_JUMP, base + (to - space_stub), base, script);
}

/* Die with the monitor. It may already be dead, then we have another parent. */
static void live_with_monitor(struct script *s, const struct space *sp)
{
	ADD(s, CHECK_OK, __NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
	ADD(s, CHECK_EQ, __NR_getppid, [5] = sp->pool->monitor);
}

static u64 setup_at(const struct space *sp, size_t off)
{
	return sp->base + SPACE_SETUP + off;
}
#define AT(sp, field) setup_at(sp, offsetof(struct space_setup, field))

static struct space_setup *setup_of(const struct space *sp)
{
	return (struct space_setup *)(sp->slot + SPACE_SETUP);
}

static struct script begin(struct space_record *r, size_t n)
{
	return (struct script){.at = r, .end = r + n};
}
#define BEGIN(array) begin(array, ARRAY_LEN(array))

static void add_filter(struct script *s, u64 program)
{
	ADD(s, CHECK_OK, __NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, program);
}

/* The zygote's own start, in the scripts' place for mappers: leave nothing but the stub. */
void space_script_zygote(struct space *z)
{
	struct space_setup *u = setup_of(z);
	struct script s = BEGIN(u->mapper);
	u64 end = z->base + SPACE_SIZE;

	u->mapper_program.len = space_seccomp_zygote(u->mapper_filter, z->base);
	u->mapper_program.filter = (void *)AT(z, mapper_filter);
	ADD(&s, CHECK_OK, __NR_munmap, 0, z->base);
	ADD(&s, CHECK_OK, __NR_munmap, end, SPACE_USER_END - end);
	ADD(&s, CHECK_OK, __NR_set_tid_address, 0);
	add_filter(&s, AT(z, mapper_program));
	jump(&s, z->base, space_stub_mapper, 0);
}

static void script_mapper(struct space *sp, struct space_setup *u)
{
	struct script s = BEGIN(u->mapper);

	ADD(&s, CHECK_OK, __NR_munmap, sp->pool->zygote.base, SPACE_SIZE);
	ADD(&s, CHECK_NONE, NR_MSEAL, sp->base, SPACE_SIZE, 0);
	/* With CLONE_VM, so not a signal is shared and each has its filter. */
	ADD(&s, CHECK_FORK, __NR_clone, CLONE_VM | CLONE_PARENT | CLONE_PARENT_SETTID, 0,
	    sp->base + ST_G_PID, 0, 0, AT(sp, guest));
	ADD(&s, CHECK_OK, __NR_close_range, SPACE_POOL_FD, ~0u, 0);
	add_filter(&s, AT(sp, mapper_program));
	jump(&s, sp->base, space_stub_mapper, 0);
}

static void script_guest(struct space *sp, struct space_setup *u)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE,           SIGILL,
				      SIGTRAP, SIGSYS, SPACE_KICK_SIGNAL};
	struct script s = BEGIN(u->guest);

	live_with_monitor(&s, sp);
	ADD(&s, CHECK_OK, __NR_close_range, 0, ~0u, 0);
	ADD(&s, CHECK_OK, __NR_sigaltstack, AT(sp, stack), 0);
	for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
		ADD(&s, CHECK_OK, __NR_rt_sigaction, signals[i], AT(sp, action), 0, 8);
	ADD(&s, CHECK_OK, __NR_set_tid_address, sp->base + ST_EXITED);
	add_filter(&s, AT(sp, guest_program));
	jump(&s, sp->base, space_stub_first, 0);
}

void space_script_space(struct space *sp)
{
	struct space_setup *u = setup_of(sp);

	script_mapper(sp, u);
	script_guest(sp, u);
	u->mapper_program.len = space_seccomp_mapper(u->mapper_filter, sp->base);
	u->mapper_program.filter = (void *)AT(sp, mapper_filter);
	u->guest_program.len = space_seccomp_guest(u->guest_filter, sp->base);
	u->guest_program.filter = (void *)AT(sp, guest_filter);
	u->action.handler = sp->base + (space_stub_handler - space_stub);
	u->action.flags = SA_ONSTACK | SA_NODEFER | SA_SIGINFO | SA_RESTORER;
	u->action.restorer = sp->base + (space_stub_restorer - space_stub);
	u->action.mask = 0;
	u->stack.sp = sp->base + SPACE_STACK;
	u->stack.size = SPACE_STACK_SIZE;
	u->stack.flags = 0;
}

struct space_record space_script_clone(struct space *sp)
{
	struct space *z = &sp->pool->zygote;
	struct script s = BEGIN(setup_of(z)->zygote_child);
	struct space_record r;
	u64 off = sp->index * (u64)SPACE_SIZE;
	const int fixed = MAP_SHARED | MAP_FIXED_NOREPLACE;

	live_with_monitor(&s, z);
	ADD(&s, CHECK_OK, __NR_mmap, sp->base, SPACE_CODE_SIZE, PROT_READ | PROT_EXEC, fixed,
	    SPACE_POOL_FD, 0);
	ADD(&s, CHECK_OK, __NR_mmap, sp->base + SPACE_CTL, SPACE_STATE - SPACE_CTL, PROT_READ,
	    fixed, SPACE_POOL_FD, off + SPACE_CTL);
	ADD(&s, CHECK_OK, __NR_mmap, sp->base + SPACE_STATE, SPACE_FAST - SPACE_STATE,
	    PROT_READ | PROT_WRITE, fixed, SPACE_POOL_FD, off + SPACE_STATE);
	ADD(&s, CHECK_OK, __NR_mmap, sp->base + SPACE_FAST, SPACE_SIZE - SPACE_FAST,
	    PROT_READ | PROT_EXEC, fixed, SPACE_POOL_FD, off + SPACE_FAST);
	jump(&s, sp->base, space_stub_script, AT(sp, mapper));
	s = begin(&r, 1);
	ADD(&s, CHECK_FORK, __NR_clone, CLONE_PARENT | CLONE_PARENT_SETTID, 0, z->base + ST_CHILD,
	    0, 0, AT(z, zygote_child));
	return r;
}
