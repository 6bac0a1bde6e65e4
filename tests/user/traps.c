/* Instructions that trap: the signal, its code, the trap's number and error code, where RIP is. */
#define _GNU_SOURCE
#include "user.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FL_TF 0x100u

#ifdef __x86_64__
#define PUSHF    "pushfq; "
#define POPF     "popfq; "
#define TOP      "(%rsp)"
#define ALIGN_SP "and $-16, %rsp; sub $32, %rsp"
#else
#define PUSHF    "pushfl; "
#define POPF     "popfl; "
#define TOP      "(%esp)"
#define ALIGN_SP "and $-16, %esp; sub $32, %esp"
#endif
#define KERNEL 0x80 /* SI_KERNEL */

/* X(name, setup, instruction, after, signal, si_code, trap, error code, RIP is behind it) */
#define TRAPS(X)                                                                                   \
	X(t_int3, "", "int3", "", SIGTRAP, KERNEL, 3, 0, true)                                     \
	X(t_int_3, "", ".byte 0xcd, 3", "", SIGTRAP, KERNEL, 3, 0, true)                           \
	X(t_ud2, "", "ud2", "", SIGILL, ILL_ILLOPN, 6, 0, false)                                   \
	X(t_lock, "", ".byte 0xf0, 0x01, 0xc0", "", SIGILL, ILL_ILLOPN, 6, 0, false)               \
	X(t_div, "xor %ecx, %ecx; xor %edx, %edx", "div %ecx", "", SIGFPE, FPE_INTDIV, 0, 0,       \
	  false)                                                                                   \
	X(t_idiv, "mov $0x80000000, %eax; mov $-1, %ecx; cltd", "idiv %ecx", "", SIGFPE,           \
	  FPE_INTDIV, 0, 0, false)                                                                 \
	X(t_div8, "mov $0xffff, %eax; mov $1, %cl", "div %cl", "", SIGFPE, FPE_INTDIV, 0, 0,       \
	  false)                                                                                   \
	X(t_hlt, "", "hlt", "", SIGSEGV, KERNEL, 13, 0, false)                                     \
	X(t_cli, "", "cli", "", SIGSEGV, KERNEL, 13, 0, false)                                     \
	X(t_sti, "", "sti", "", SIGSEGV, KERNEL, 13, 0, false)                                     \
	X(t_in, "mov $0x60, %edx", "in %dx, %al", "", SIGSEGV, KERNEL, 13, 0, false)               \
	X(t_out, "", "out %al, $0x80", "", SIGSEGV, KERNEL, 13, 0, false)                          \
	X(t_outsb, "mov $0x60, %edx", "outsb", "", SIGSEGV, KERNEL, 13, 0, false)                  \
	X(t_cr0, "", ".byte 0x0f, 0x20, 0xc0", "", SIGSEGV, KERNEL, 13, 0, false)                  \
	X(t_dr7, "", ".byte 0x0f, 0x21, 0xf8", "", SIGSEGV, KERNEL, 13, 0, false)                  \
	X(t_lgdt, "", ".byte 0x0f, 0x01, 0x10", "", SIGSEGV, KERNEL, 13, 0, false)                 \
	X(t_rdmsr, "mov $0x10, %ecx", "rdmsr", "", SIGSEGV, KERNEL, 13, 0, false)                  \
	X(t_wbinvd, "", "wbinvd", "", SIGSEGV, KERNEL, 13, 0, false)                               \
	X(t_rdpmc, "xor %ecx, %ecx", "rdpmc", "", SIGSEGV, KERNEL, 13, 0, false)                   \
	X(t_xsetbv, "xor %ecx, %ecx; xor %edx, %edx; mov $3, %eax", "xsetbv", "", SIGSEGV, KERNEL, \
	  13, 0, false)                                                                            \
	X(t_movaps, ALIGN_SP, "movaps 1" TOP ", %xmm0", "", SIGSEGV, KERNEL, 13, 0, false)         \
	X(t_x87, "fninit; " PUSHF "movw $0x37b, " TOP "; fldcw " TOP "; fld1; fldz; fdivrp",       \
	  "fwait", "fninit", SIGFPE, FPE_FLTDIV, 16, 0, false)

/* What TCG does not have. */
#define TRAPS_HW(X)                                                                                \
	X(t_int21, "", "int $0x21", "", SIGSEGV, KERNEL, 13, 0x10a, false)                         \
	X(t_int_14, "", "int $14", "", SIGSEGV, KERNEL, 13, 0x72, false)                           \
	X(t_int_ff, "", "int $0xff", "", SIGSEGV, KERNEL, 13, 0x7fa, false)                        \
	X(t_sse,                                                                                   \
	  PUSHF "movl $0x1d80, " TOP "; ldmxcsr " TOP "; xorps %xmm0, %xmm0;"                      \
		"mov $0x3f800000, %ecx; movd %ecx, %xmm1",                                         \
	  "divss %xmm0, %xmm1", PUSHF "movl $0x1f80, " TOP "; ldmxcsr " TOP, SIGFPE, FPE_FLTDIV,   \
	  19, 0, false)                                                                            \
	X(t_ac, PUSHF "orl $0x40000, " TOP "; " POPF, "movl 1" TOP ", %ecx", "", SIGBUS,           \
	  BUS_ADRALN, 17, 0, false)                                                                \
	X(t_long, "", ".fill 15, 1, 0x66; nop", "", SIGSEGV, KERNEL, 13, 0, false)

#define SNIPPET_OF(name, setup, insn, after, ...) SNIPPET(name, setup, insn, after);
TRAPS(SNIPPET_OF)
TRAPS_HW(SNIPPET_OF)

struct trap {
	const char *name;
	void (*f)(void *);
	const char *at, *behind;
	int sig, code;
	u32 trapno, err;
	bool past;
};

#define ROW(n, s, i, a, sig_, code_, trap_, err_, past_)                                           \
	{.name = #n,                                                                               \
	 .f = n,                                                                                   \
	 .at = n##_at,                                                                             \
	 .behind = n##_behind,                                                                     \
	 .sig = sig_,                                                                              \
	 .code = code_,                                                                            \
	 .trapno = trap_,                                                                          \
	 .err = err_,                                                                              \
	 .past = past_},

static void check_trap(const struct trap *t)
{
	struct caught c = try(t->f, NULL, t->behind);
	const char *ip = t->past ? t->behind : t->at;
	bool has_address = t->sig == SIGILL || t->sig == SIGFPE;

	if (c.sig != t->sig || c.code != t->code || c.trapno != t->trapno || c.err != t->err)
		fail(__FILE__, __LINE__,
		     "%s: signal %d code %#x trap %u error %#x, not %d %#x %u %#x", t->name, c.sig,
		     c.code, c.trapno, c.err, t->sig, t->code, t->trapno, t->err);
	if (c.ip != (unsigned long)ip || (has_address && c.addr != c.ip))
		fail(__FILE__, __LINE__, "%s: RIP %#lx, si_addr %#lx, not %p", t->name, c.ip,
		     c.addr, ip);
}

static void check_traps(const struct trap *list, unsigned n)
{
	unsigned i, round;

	for (round = 0; round < 50; round++) {
		for (i = 0; i < n; i++)
			check_trap(&list[i]);
	}
}

void traps(void)
{
	static const struct trap list[] = {TRAPS(ROW)};

	check_traps(list, LENGTH(list));
}

void traps_hw(void)
{
	static const struct trap list[] = {TRAPS_HW(ROW)};

	check_traps(list, LENGTH(list));
}

#ifdef __x86_64__
SNIPPET(nc_stack, "mov %rdi, %rsp", "mov 8(%rsp), %rax", "");
SNIPPET(nc_push, "mov %rdi, %rsp", "push %rax", "");
SNIPPET(nc_ret, "push %rdi", "ret", "");
SNIPPET(old_push_es, "", ".byte 0x06", "");

void traps_noncanonical(void)
{
	void *bad = (void *)(1ul << 47 | 0x12340000), *high = (void *)0x8000000000001000ul;
	struct caught c;
	unsigned i;

	for (i = 0; i < 2; i++, bad = high) {
		c = try_read(bad);
		EQUAL(c.sig, SIGSEGV);
		EQUAL(c.code, KERNEL);
		EQUAL(c.trapno, 13);
		EQUAL(c.addr, 0);
		c = try_write(bad);
		EQUAL(c.sig, SIGSEGV);
		EQUAL(c.trapno, 13);
		c = TRY(nc_stack, bad);
		EQUAL(c.sig, SIGBUS);
		EQUAL(c.trapno, 12);
		EQUAL(c.ip, (unsigned long)nc_stack_at);
		c = TRY(nc_push, bad);
		EQUAL(c.sig, SIGBUS);
		EQUAL(c.trapno, 12);
		c = TRY(nc_ret, bad);
		EQUAL(c.sig, SIGSEGV);
		EQUAL(c.trapno, 13);
		c = try_exec(bad);
		EQUAL(c.sig, SIGSEGV);
		EQUAL(c.trapno, 13);
	}
	c = TRY(old_push_es, NULL);
	EQUAL(c.sig, SIGILL);
	EQUAL(c.trapno, 6);
}
#endif

static long int80(long nr, long arg)
{
	long rc;

#ifdef __x86_64__
	__asm__ volatile("int $0x80"
			 : "=a"(rc)
			 : "a"(nr), "b"(arg)
			 : "memory", "r8", "r9", "r10", "r11");
#else
	__asm__ volatile("int $0x80" : "=a"(rc) : "a"(nr), "b"(arg) : "memory");
#endif
	return rc;
}

void trap_int80(void)
{
	unsigned i;

	umask(022);
	for (i = 0; i < 1000; i++) {
		EQUAL(int80(20, 0), getpid());
		EQUAL(int80(60, (long)i % 2), i ? (i - 1) % 2 : 022); /* umask */
	}
	EQUAL(int80(9999, 0), -38);
}

/* --- single-stepping by the flag --- */

#define MAX_STEPS 64

static unsigned n_steps;
static unsigned long steps[MAX_STEPS];
static int step_codes;

static void on_step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	if (n_steps < MAX_STEPS)
		steps[n_steps] = (unsigned long)uc->uc_mcontext.gregs[CTX_IP];
	step_codes |= info->si_code ^ TRAP_TRACE;
	n_steps++;
}

#define SET_TF   PUSHF "orl $0x100, " TOP "; " POPF
#define CLEAR_TF PUSHF "andl $~0x100, " TOP "; " POPF

/* After POPF the next instruction is executed before the first trap. */
SNIPPET(stepped, "mov $3, %ecx; " SET_TF, "1: sub $1, %ecx; jnz 1b; nop; " CLEAR_TF, "nop; nop");
SNIPPET(seen_tf, SET_TF, PUSHF "mov " TOP ", %ecx; " POPF CLEAR_TF, "nop");

void step_by_flag(void)
{
	unsigned i, round;

	on_signal(SIGTRAP, on_step, 0);
	for (round = 0; round < 50; round++) {
		n_steps = 0;
		stepped(NULL);
		EQUAL(n_steps, 3 * 2 + 1 + 3); /* loop, nop, pushf, and, popf */
		EQUAL(step_codes, 0);
		EQUAL(steps[0], (unsigned long)stepped_at + 3);
		EQUAL(steps[1], (unsigned long)stepped_at);
		EQUAL(steps[n_steps - 1], (unsigned long)stepped_behind);
		for (i = 0; i < n_steps; i++)
			CHECK(steps[i] >= (unsigned long)stepped_at &&
			      steps[i] <= (unsigned long)stepped_behind);
		n_steps = 0;
		seen_tf(NULL);
		EQUAL(n_steps, 6);
	}
}

#ifdef __x86_64__
/* Linux returns by IRET, so the instruction behind SYSCALL is executed before the next trap. */
SNIPPET(step_call, "mov $39, %eax; " SET_TF, "syscall; nop; " CLEAR_TF, "nop");

void step_over_syscall(void)
{
	unsigned i;

	on_signal(SIGTRAP, on_step, 0);
	for (i = 0; i < 20; i++) {
		n_steps = 0;
		step_call(NULL);
		EQUAL(n_steps, 4);
		EQUAL(steps[0], (unsigned long)step_call_at + 3);
		EQUAL(steps[3], (unsigned long)step_call_behind);
	}
}

/* --- the vsyscall page: the kernel emulates a call into it --- */

#define VSYSCALL 0xffffffffff600000ul

void vsyscall_page(void)
{
	long (*vtime)(long *) = (long (*)(long *))(VSYSCALL + 0x400);
	long (*vgetcpu)(unsigned *, unsigned *, void *) =
	    (long (*)(unsigned *, unsigned *, void *))(VSYSCALL + 0x800);
	long before = syscall(SYS_time, NULL), got, stored = 0, i;
	unsigned cpu = 99;
	struct caught c;

	if (system("grep -q vsyscall /proc/self/maps"))
		skip("no vsyscall page");
	for (i = 0; i < 200; i++) {
		got = vtime(&stored);
		EQUAL(got, stored);
		CHECK(got >= before && got <= before + 60);
	}
	EQUAL(vgetcpu(&cpu, NULL, NULL), 0);
	CHECK(cpu < 1024);
	c = try_exec((void *)(VSYSCALL + 0x100)); /* nothing begins here */
	EQUAL(c.sig, SIGSEGV);
	c = try_write((void *)VSYSCALL);
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.addr, VSYSCALL);
}
#endif
