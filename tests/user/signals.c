/* Delivery of signals and the return from them. */
#define _GNU_SOURCE
#include "user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile unsigned count;
static volatile int last_value, last_code;

static void counter(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	last_value = info->si_value.sival_int;
	last_code = info->si_code;
	count++;
}

/* All general registers and the arithmetic flags across signals at any instruction. */
static void keep_general(unsigned id)
{
	double end = now() + 2;
	unsigned long bad;

	on_signal(SIGALRM, counter, SA_RESTART);
	set_timer(1000 + id * 300);
	do {
#ifdef __x86_64__
		/* Registers hold multiples of one value; DF and CF are set meanwhile. */
		__asm__ volatile("push %%rbp; imul $3, %%rbx, %%rcx; imul $5, %%rbx, %%rdx;"
				 "imul $7, %%rbx, %%rsi; imul $9, %%rbx, %%rdi;"
				 "imul $11, %%rbx, %%rbp; imul $13, %%rbx, %%r8;"
				 "imul $15, %%rbx, %%r9; imul $17, %%rbx, %%r10;"
				 "imul $19, %%rbx, %%r11; imul $21, %%rbx, %%r12;"
				 "imul $23, %%rbx, %%r13; imul $25, %%rbx, %%r14;"
				 "std; mov $300000, %%r15;"
				 "1: stc; .rept 20; nop; .endr; jnc 2f; dec %%r15; jnz 1b; 2: cld;"
				 "add %%rcx, %%rdx; add %%rsi, %%rdx; add %%rdi, %%rdx;"
				 "add %%rbp, %%rdx; add %%r8, %%rdx; add %%r9, %%rdx;"
				 "add %%r10, %%rdx; add %%r11, %%rdx; add %%r12, %%rdx;"
				 "add %%r13, %%rdx; add %%r14, %%rdx; imul $168, %%rbx, %%rbx;"
				 "sub %%rbx, %%rdx; or %%r15, %%rdx; pop %%rbp; mov %%rdx, %%rax"
				 : "=&a"(bad)
				 : "b"(0x123456789abul + id)
				 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
				   "r13", "r14", "r15", "cc", "memory");
#else
		__asm__ volatile("push %%ebx; imul $3, %%eax, %%ecx; imul $5, %%eax, %%edx;"
				 "imul $7, %%eax, %%ebx; mov $300000, %%esi; std;"
				 "1: stc; .rept 20; nop; .endr; jnc 2f; dec %%esi; jnz 1b; 2: cld;"
				 "add %%ecx, %%edx; add %%ebx, %%edx; imul $15, %%eax, %%eax;"
				 "sub %%edx, %%eax; or %%esi, %%eax; pop %%ebx"
				 : "=a"(bad)
				 : "a"(0x1234567ul + id)
				 : "ecx", "edx", "esi", "cc", "memory");
#endif
		EQUAL(bad, 0);
	} while (now() < end || count <= 10); /* on a busy machine ticks come late */
	set_timer(0);
}

void general_registers(void)
{
	in_processes(6, keep_general);
}

void signal_restart(void)
{
	int pipes[2];
	pid_t pid;
	char c;

	CHECK(!pipe(pipes));
	on_signal(SIGALRM, counter, SA_RESTART);
	set_timer(5000);
	do { /* until there was something to restart after */
		pid = fork();
		if (!pid) {
			usleep(200000);
			_exit(write(pipes[1], "x", 1) != 1);
		}
		EQUAL(read(pipes[0], &c, 1), 1);
		EQUAL(c, 'x');
		join(pid);
	} while (count <= 2);
	set_timer(0);
	on_signal(SIGALRM, counter, 0);
	set_timer(5000);
	EQUAL(read(pipes[0], &c, 1), -1);
	EQUAL(errno, EINTR);
}

/* --- the alternate stack, where the ordinary one is exhausted --- */

static u8 alternate[64 << 10];
static sigjmp_buf escape;
static volatile bool on_alternate;

static void overflowed(int sig, siginfo_t *info, void *context)
{
	u8 here;

	(void)sig;
	(void)info;
	(void)context;
	on_alternate = &here >= alternate && &here < alternate + sizeof(alternate);
	siglongjmp(escape, 1);
}

static int deeper(volatile int n)
{
	volatile u8 frame[4000];

	frame[0] = (u8)n;
	return n < 1 << 20 ? deeper(n + 1) + frame[0] : 0; /* 4 GB: never */
}

void signal_stack(void)
{
	stack_t ss = {.ss_sp = alternate, .ss_size = sizeof(alternate)};
	volatile unsigned i;

	CHECK(!sigaltstack(&ss, NULL));
	on_signal(SIGSEGV, overflowed, SA_ONSTACK);
	for (i = 0; i < 3; i++) {
		on_alternate = false;
		if (!sigsetjmp(escape, 1))
			deeper(0);
		CHECK(on_alternate);
	}
}

void signal_info(void)
{
	int i;

	on_signal(SIGRTMIN, counter, 0);
	for (i = 0; i < 100; i++) {
		CHECK(!sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i * 3}));
		EQUAL(last_value, i * 3);
		EQUAL(last_code, SI_QUEUE);
	}
	EQUAL(count, 100);
}

/* A handler that changes registers and the place to go on at. */
static void changer(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	(void)info;
	regs[CTX_IP] += 2; /* over the UD2 */
	regs[CTX_AX] = regs[CTX_AX] * 2 + 1;
	regs[CTX_FLAGS] |= 1;
}

void signal_context(void)
{
	unsigned i;

	on_signal(SIGILL, changer, 0);
	for (i = 0; i < 1000; i++) {
		unsigned long ax = i;
		bool carry;

		__asm__ volatile("clc; ud2" : "+a"(ax), "=@ccc"(carry));
		EQUAL(ax, i * 2 + 1);
		CHECK(carry);
	}
}

void signal_storm(void)
{
	unsigned i;

	on_signal(SIGUSR1, counter, 0);
	for (i = 0; i < 20000; i++)
		raise(SIGUSR1);
	EQUAL(count, 20000);
}

void signal_timers(void)
{
	struct itimerval t = {.it_interval.tv_usec = 10000, .it_value.tv_usec = 10000};
	double begin = now();

	on_signal(SIGVTALRM, counter, 0);
	CHECK(!setitimer(ITIMER_VIRTUAL, &t, NULL));
	while (count < 20)
		CHECK(now() < begin + 60);
	CHECK(now() - begin > 0.1);
}
