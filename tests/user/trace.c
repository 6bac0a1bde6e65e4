/* A traced process, seen and steered by PTRACE. */
#define _GNU_SOURCE
#include "user.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __x86_64__
#define USER_IP(r)   ((r).rip)
#define USER_AX(r)   ((r).rax)
#define USER_NR(r)   ((r).orig_rax)
#define USER_CX(r)   ((r).rcx)
#define GETPPID_INSN "mov $110, %eax; syscall"
#define GETPPID      110
#define VICTIM_ARG   "(%rdi)"
#else
#define USER_IP(r)   ((r).eip)
#define USER_AX(r)   ((r).eax)
#define USER_NR(r)   ((r).orig_eax)
#define USER_CX(r)   ((r).ecx)
#define GETPPID_INSN "mov $64, %eax; int $0x80"
#define GETPPID      64
#define VICTIM_ARG   "(%eax)"
#endif

static volatile u32 watched[4];

/* Start f(watched) as a tracee, stopped before it. */
static pid_t traced(void (*f)(void *))
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		f((void *)watched);
		_exit(watched[3] == 99 ? 9 : 0);
	}
	EQUAL(waitpid(pid, &status, 0), pid);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	return pid;
}

/* Go on; the signal it stops with. */
static int go(pid_t pid, enum __ptrace_request how)
{
	int status;

	CHECK(!ptrace(how, pid, 0, 0));
	EQUAL(waitpid(pid, &status, 0), pid);
	return WIFSTOPPED(status) ? WSTOPSIG(status) : -1;
}

static struct user_regs_struct regs_of(pid_t pid)
{
	struct user_regs_struct r;

	CHECK(!ptrace(PTRACE_GETREGS, pid, 0, &r));
	return r;
}

static unsigned long ip_of(pid_t pid)
{
	struct user_regs_struct r = regs_of(pid);

	return (unsigned long)USER_IP(r);
}

static void finish(pid_t pid, int wanted)
{
	int status;

	CHECK(!ptrace(PTRACE_CONT, pid, 0, 0));
	EQUAL(waitpid(pid, &status, 0), pid);
	EQUAL(status, wanted << 8);
}

/* --- int3 in the text, then single steps --- */

SNIPPET(victim, "nop", "nop; mov $5, %ecx; 1: dec %ecx; jnz 1b; " GETPPID_INSN "; nop", "nop; nop");

static long text_word(pid_t pid, const char *at)
{
	errno = 0;
	long word = ptrace(PTRACE_PEEKTEXT, pid, at, 0);

	EQUAL(errno, 0);
	return word;
}

/* Run to an address by a breakpoint, and take the breakpoint out again. */
static void run_to(pid_t pid, const char *at)
{
	long word = text_word(pid, at);
	struct user_regs_struct r;

	CHECK(!ptrace(PTRACE_POKETEXT, pid, at, (word & ~0xfful) | 0xcc));
	EQUAL(go(pid, PTRACE_CONT), SIGTRAP);
	r = regs_of(pid);
	EQUAL(USER_IP(r), (unsigned long)at + 1);
	USER_IP(r) = (unsigned long)at;
	CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &r));
	CHECK(!ptrace(PTRACE_POKETEXT, pid, at, word));
}

void trace_steps(void)
{
	unsigned i;

	for (i = 0; i < 20; i++) {
		pid_t pid = traced(victim);
		unsigned n;

		run_to(pid, victim_at);
		for (n = 0; ip_of(pid) != (unsigned long)victim_behind; n++) {
			CHECK(n < 100);
			EQUAL(go(pid, PTRACE_SINGLESTEP), SIGTRAP);
			CHECK(ip_of(pid) > (unsigned long)victim_at &&
			      ip_of(pid) <= (unsigned long)victim_behind);
		}
		EQUAL(n, 1 + 1 + 5 * 2 + 2 + 1);
		finish(pid, 0);
	}
}

void trace_breakpoint(void)
{
	pid_t pid = traced(victim);
	siginfo_t info;

	run_to(pid, victim_at);
	run_to(pid, victim_behind);
	CHECK(!ptrace(PTRACE_GETSIGINFO, pid, 0, &info));
	EQUAL(info.si_signo, SIGTRAP);
	EQUAL(info.si_code, 0x80);
	finish(pid, 0);
	/* The tracer's own code has stayed what it was. */
	victim((void *)watched);
}

void trace_syscalls(void)
{
	pid_t pid = traced(victim);
	struct user_regs_struct r;

	CHECK(!ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
	do { /* whatever libc asks for first */
		EQUAL(go(pid, PTRACE_SYSCALL), SIGTRAP | 0x80);
		r = regs_of(pid);
	} while (USER_NR(r) != GETPPID);
	EQUAL((long)USER_AX(r), -ENOSYS);
	EQUAL(go(pid, PTRACE_SYSCALL), SIGTRAP | 0x80);
	r = regs_of(pid);
	EQUAL(USER_AX(r), getpid());
	USER_AX(r) = 4321;
	CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &r));
	EQUAL(go(pid, PTRACE_SINGLESTEP), SIGTRAP);
	r = regs_of(pid);
	EQUAL(USER_AX(r), 4321);
	finish(pid, 0);
}

/* --- debug registers --- */

static void set_debug(pid_t pid, unsigned n, unsigned long value)
{
	CHECK(!ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + n * sizeof(long),
		      value));
}

static unsigned long debug_status(pid_t pid)
{
	return (unsigned long)ptrace(PTRACE_PEEKUSER, pid,
				     offsetof(struct user, u_debugreg) + 6 * sizeof(long), 0);
}

SNIPPET(writer, "nop", "movl $1, 4" VICTIM_ARG "; movl $2, " VICTIM_ARG,
	"nop; mov " VICTIM_ARG ", %ecx; nop");

void trace_watchpoint(void)
{
	unsigned i;

	for (i = 0; i < 10; i++) {
		pid_t pid = traced(writer);

		set_debug(pid, 0, (unsigned long)watched);
		set_debug(pid, 1, (unsigned long)writer_at);
		set_debug(pid, 7, 0x000d0000 | 1 | 4); /* 0: writes of 4 bytes; 1: execution */
		EQUAL(go(pid, PTRACE_CONT), SIGTRAP);
		EQUAL(ip_of(pid), (unsigned long)writer_at);
		EQUAL(debug_status(pid) & 15, 2);
		EQUAL(watched[0], 0); /* the tracer's own copy, and not watched */
		watched[0] = 5;
		watched[0] = 0;
		EQUAL(go(pid, PTRACE_CONT), SIGTRAP);
		EQUAL(ip_of(pid), (unsigned long)writer_behind);
		EQUAL(debug_status(pid) & 1, 1);
		set_debug(pid, 7, 0x000f0000 | 1); /* 0: reads, too */
		EQUAL(go(pid, PTRACE_CONT), SIGTRAP);
		EQUAL(debug_status(pid) & 1, 1);
		CHECK(ip_of(pid) > (unsigned long)writer_behind + 1);
		set_debug(pid, 7, 0);
		finish(pid, 0);
	}
}

/* --- all its registers --- */

SNIPPET(loader, "movl $99, 12" VICTIM_ARG "; pcmpeqd %xmm5, %xmm5; mov $0x1234567, %ecx; fldpi",
	"nop", "movd %xmm5, 12" VICTIM_ARG "; mov %ecx, 8" VICTIM_ARG "; fstp %st");

void trace_registers(void)
{
	pid_t pid = traced(loader);
	struct user_regs_struct r;
	static u8 state[16384];
	struct iovec io = {.iov_base = state, .iov_len = sizeof(state)};

	run_to(pid, loader_at);
	r = regs_of(pid);
	EQUAL(USER_CX(r), 0x1234567);
	if (ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &io))
		skip("no XSAVE");
	EQUAL(*(u32 *)(state + 160 + 5 * 16 + 12), 0xffffffff);
	EQUAL(*(u64 *)(state + 32), 0xc90fdaa22168c235ull); /* pi */
	*(u32 *)(state + 160 + 5 * 16) = 99;                /* so it ends with 9 */
	CHECK(!ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &io));
	finish(pid, 9);
}
