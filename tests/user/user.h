/*
 * A program that asks, in the guest, whether user code runs as it does on a processor: what each
 * file here holds is a list of checks (checks.def). Each check runs in a process of its own, which
 * ends by fail() or by returning; main.c reports.
 *
 * Compiled twice, for 64-bit and (where the compiler can) for 32-bit code.
 */
#ifndef USER_H
#define USER_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <ucontext.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PAGE 4096ul

/* Report and end this process. */
void fail(const char *file, int line, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
/* End the check as not applicable here. */
void skip(const char *why) __attribute__((noreturn));

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail(__FILE__, __LINE__, "%s", #cond);                                     \
	} while (0)

#define EQUAL(got, wanted)                                                                         \
	do {                                                                                       \
		u64 got_ = (u64)(got), wanted_ = (u64)(wanted);                                    \
		if (got_ != wanted_)                                                               \
			fail(__FILE__, __LINE__, "%s is %#llx, not %#llx", #got,                   \
			     (unsigned long long)got_, (unsigned long long)wanted_);               \
	} while (0)

#define LENGTH(a) (sizeof(a) / sizeof(*(a)))

/* Wait for a child that must end with status 0. */
void join(pid_t pid);
/* Run f(i) for 0 <= i < n, each in a process of its own, all at once, and wait. */
void in_processes(unsigned n, void (*f)(unsigned));
extern double state_seconds; /* how long to hold on to registers */
void state_storm(double seconds);
void use_gs(unsigned id);
void *map_pages(unsigned long pages, int prot);
double now(void); /* seconds, CLOCK_MONOTONIC */
u64 next_random(u64 *state);
void on_signal(int sig, void (*handler)(int, siginfo_t *, void *), int flags);
/* An interval timer of the real time. */
void set_timer(unsigned microseconds);

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

/* --- one instruction and what comes of it --- */

struct caught {
	int sig; /* 0: nothing happened */
	int code;
	u32 trapno, err, flags, cs;
	unsigned long ip, addr, cr2;
};

/*
 * A SNIPPET is a function f(arg): `setup`, `insn` at f_at, `after` from f_behind on. Where try()
 * catches a signal, it goes on at f_behind. In the code ARG is the argument, BX and SP taken.
 */
#ifdef __x86_64__
#define ARG        "%rdi"
#define ENTER      "push %rbx; mov %rsp, %rbx;"
#define LEAVE      "mov %rbx, %rsp; pop %rbx; ret;"
#define CTX_IP     REG_RIP
#define CTX_FLAGS  REG_EFL
#define CTX_AX     REG_RAX
#define ctx_cs(uc) ((uc)->uc_mcontext.gregs[REG_CSGSFS] & 0xffff)
#else
#define ARG        "%eax"
#define ENTER      "push %ebx; mov %esp, %ebx; mov 8(%esp), %eax;"
#define LEAVE      "mov %ebx, %esp; pop %ebx; ret;"
#define CTX_IP     REG_EIP
#define CTX_FLAGS  REG_EFL
#define CTX_AX     REG_EAX
#define ctx_cs(uc) ((uc)->uc_mcontext.gregs[REG_CS] & 0xffff)
#endif

#define SNIPPET(f, setup, insn, after)                                                             \
	void f(void *);                                                                            \
	extern const char f##_at[], f##_behind[];                                                  \
	__asm__(".pushsection .text; .balign 16; .globl " #f ", " #f "_at, " #f "_behind;" #f ":"  \
		"" ENTER setup "; " #f "_at: " insn "; " #f "_behind: " after "; " LEAVE           \
		".popsection")

#define TRY(f, arg) try(f, arg, f##_behind)
struct caught try(void (*f)(void *), void *arg, const char *behind);

/* How one byte is accessed. */
struct caught try_read(const volatile void *p);
struct caught try_write(volatile void *p);
struct caught try_exec(const volatile void *p);

#define CHECK_FUNCTION(f) void f(void);
#define CHECK64(f)        void f(void);
#define CHECK_HW(f)       void f(void);
#define CHECK64_HW(f)     void f(void);
#define CHECK_KNOWN(f)    void f(void);
#include "checks.def"
#undef CHECK_FUNCTION
#undef CHECK64
#undef CHECK_HW
#undef CHECK64_HW
#undef CHECK_KNOWN

int storm(int argc, char **argv);

#endif
