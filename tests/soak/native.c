#define _GNU_SOURCE
#include "native.h"

#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct native_state native_state;
void native_enter(void);
void native_fault_exit(void);

_Static_assert(offsetof(struct native_state, rflags) == 128, "native_entry.S");
_Static_assert(offsetof(struct native_state, xsave) == 192, "native_entry.S");

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
			      REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
			      REG_R12, REG_R13, REG_R14, REG_R15};

static void on_fault(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	struct native_state *s = &native_state;
	unsigned i;

	(void)si;
	if ((u64)g[REG_RIP] - AREA_BASE >= AREA_SIZE) {
		signal(sig, SIG_DFL);
		return;
	}
	for (i = 0; i < 16; i++)
		s->gpr[i] = g[order[i]];
	s->rflags = g[REG_EFL];
	s->rip = g[REG_RIP];
	s->trapno = g[REG_TRAPNO];
	s->error = g[REG_ERR];
	s->cr2 = g[REG_CR2];
	/* The frame's FP state is an XSAVE image in standard format. */
	memcpy(s->xsave, uc->uc_mcontext.fpregs, sizeof(s->xsave) - 1024);
	g[REG_RIP] = (greg_t)native_fault_exit;
	g[REG_EFL] &= ~0x40500;
}

unsigned native_xsave_offset(unsigned component)
{
	unsigned a, b, c, d;

	__cpuid_count(0xd, component, a, b, c, d);
	return a ? b : 0;
}

bool native_fcs_fds_zero(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 13 & 1);
}

/* The engine under test installs handlers of its own, so this is done before each run. */
static void take_signals(void)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	static u8 stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	unsigned i;

	BUG_ON(sigaltstack(&ss, NULL));
	for (i = 0; i < ARRAY_LEN(sigs); i++)
		BUG_ON(sigaction(sigs[i], &sa, NULL));
}

void native_init(void)
{
	void *p = mmap((void *)AREA_BASE, AREA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	BUG_ON(p == MAP_FAILED);
	/* The guest has no pages behind data and stack either. */
	BUG_ON(mprotect((void *)(DATA_AT + DATA_SIZE), STACK_AT - DATA_AT - DATA_SIZE, PROT_NONE));
	BUG_ON(mprotect((void *)(STACK_AT + STACK_SIZE),
			AREA_BASE + AREA_SIZE - STACK_AT - STACK_SIZE, PROT_NONE));
}

void native_run(void)
{
	take_signals();
	native_state.trapno = ~0ull;
	native_enter();
}
