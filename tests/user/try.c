/* Execute something, catch the signal that comes of it, and go on behind it. */
#define _GNU_SOURCE
#include "user.h"

#include <string.h>
#include <sys/mman.h>

#define FL_TF 0x100u
#define FL_DF 0x400u
#define FL_AC 0x40000u

static struct caught caught;
static const char *volatile resume;

static void catch (int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;

	/* The kernel leaves AC set, and the compiler aligns nothing to please it. */
#ifdef __x86_64__
	__asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" : : : "memory", "cc");
#else
	__asm__ volatile("pushf; andl $~0x40000, (%%esp); popf" : : : "memory", "cc");
#endif
	caught = (struct caught){
	    .sig = sig,
	    .code = info->si_code,
	    .trapno = (u32)regs[REG_TRAPNO],
	    .err = (u32)regs[REG_ERR],
	    .flags = (u32)regs[CTX_FLAGS],
	    .cs = (u32)ctx_cs(uc),
	    .ip = (unsigned long)regs[CTX_IP],
	    .addr = (unsigned long)info->si_addr,
#ifdef __x86_64__
	    .cr2 = (unsigned long)regs[REG_CR2],
#else
	    .cr2 = uc->uc_mcontext.cr2,
#endif
	};
	regs[CTX_IP] = (greg_t)(unsigned long)resume;
	regs[CTX_FLAGS] &= ~(greg_t)(FL_AC | FL_TF | FL_DF);
}

struct caught try(void (*f)(void *), void *arg, const char *behind)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	static u8 stack[64 << 10];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	unsigned i;

	CHECK(!sigaltstack(&ss, NULL));
	for (i = 0; i < LENGTH(signals); i++)
		on_signal(signals[i], catch, SA_ONSTACK);
	memset(&caught, 0, sizeof(caught));
	resume = behind;
	f(arg);
	for (i = 0; i < LENGTH(signals); i++)
		signal(signals[i], SIG_DFL);
	return caught;
}

SNIPPET(read_byte, "", "movb (" ARG "), %cl", "");
SNIPPET(write_byte, "", "movb $0x5a, (" ARG ")", "");
SNIPPET(call_there, "", "call *" ARG, "");

struct caught try_read(const volatile void *p)
{
	return TRY(read_byte, (void *)p);
}

struct caught try_write(volatile void *p)
{
	return TRY(write_byte, (void *)p);
}

struct caught try_exec(const volatile void *p)
{
	return TRY(call_there, (void *)p);
}
