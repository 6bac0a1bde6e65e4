/*
 * Host exceptions in thunks. The handler runs on the alternate stack (the thunk may have the
 * guest's RSP), finds its CPU through the head that lies below that stack, and lets the thread go
 * on in thunk_abandoned on a small stack of its own, from where the guest's exception is raised.
 */
#include "thunk_fault.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <ucontext.h>
#include <unistd.h>

#include "recover.h"
#include "xstate.h"

#define HWCAP2_FSGSBASE 2 /* asm/hwcap2.h */

void signal_dispatch(int sig, siginfo_t *si, void *context);
void signal_entry(int sig, siginfo_t *si, void *context); /* signal_entry.S */

/* Places in mcontext_t.gregs (x86-64 ABI of glibc; its names need _GNU_SOURCE and clash with ours).
 */
enum {
	HOST_RDI = 8,
	HOST_RSI = 9,
	HOST_RBP = 10,
	HOST_RBX = 11,
	HOST_RDX = 12,
	HOST_RAX = 13,
	HOST_RCX = 14,
	HOST_RSP = 15,
	HOST_RIP = 16,
	HOST_EFL = 17,
	HOST_ERR = 19,
	HOST_TRAPNO = 20,
	HOST_CR2 = 22
};

void *thunk_guard_operand(struct thunks *t, const struct masked_operand *m)
{
	u8 *page = t->guard + PAGE_SIZE;

	t->masked = *m;
	if (m->count == 0)
		t->masked_at = t->guard + (m->la & 63); /* all of it inaccessible */
	else if (m->first == 0)
		t->masked_at = page + PAGE_SIZE - m->count;
	else
		t->masked_at = page - m->first;
	return t->masked_at;
}

#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(const volatile void *at, size_t len);

/* The frames between the run loop (unwind[2] is its stack pointer) and the thunk will not return,
 * which AddressSanitizer cannot see from another stack. */
static void forget_frames(const struct cpu *c)
{
	const u8 *sp = c->unwind[2];

	__asan_unpoison_memory_region(sp - 64 * KIB, 64 * KIB);
}
#else
static void forget_frames(const struct cpu *c)
{
	(void)c;
}
#endif

static NORETURN void thunk_abandoned(struct cpu *c, struct thunks *t)
{
	asm volatile("fninit\n\tldmxcsr %0" ::"m"(c->host_mxcsr));
	if (t->vec_width > 16)
		asm volatile("vzeroupper");
	bool x87 = c->x87_live;

	forget_frames(c);
	c->x87_live = false;
	t->stats->n[STAT_thunk_faults]++;
	switch (t->trapno) {
	case EXC_DE:
	case EXC_UD: cpu_raise(c, t->trapno);
	case EXC_MF:
		if (c->cr0 & CR0_NE)
			cpu_raise(c, EXC_MF);
		c->ops->fpu_error(c->vm);
		cpu_raise(c, EXC_NONE);
	case EXC_XM: /* MXCSR's flags are set, and MMX instructions have changed the x87 tags */
		c->vec.mxcsr = t->fault_mxcsr;
		if (x87) {
			memcpy(c->vec.fx, t->fault_fx, FX_FOP);
			memcpy(c->vec.fx + FX_ST, t->fault_fx + FX_ST, FX_XMM - FX_ST);
		}
		cpu_raise(c, c->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
	case EXC_PF:
		if (t->fault_addr - (u64)t->guard < 3 * PAGE_SIZE) {
			u64 at = t->fault_addr - (u64)t->masked_at;

			/* The fault address may lie at the start of the guard page. */
			cpu_raise_pf(c, t->masked.la + at, t->masked.pf_error);
		}
		break;
	case EXC_SS:
	case EXC_GP: cpu_raise_error(c, t->trapno, 0); /* misaligned vector operand */
	default: break;
	}
	bug_at(__FILE__, __LINE__, "a thunk took a host exception no guest operand explains");
}

/* Not a thunk's: our own bug, or a signal from outside. abort's handler (runtime/vcpu.c) gives the
 * terminal back and reports the guest's state. */
static NORETURN void crashed(int sig, const greg_t *g)
{
	char text[128];
	int n = snprintf(text, sizeof(text),
			 "\r\nringshift: BUG: signal %d at host address %#llx, accessing %#llx\n",
			 sig, (unsigned long long)g[HOST_RIP], (unsigned long long)g[HOST_CR2]);

	if (write(2, text, n) < 0)
		n = 0;
	abort();
}

static bool in_thunk(struct thunks *t, const greg_t *g)
{
	return (u64)g[HOST_RIP] - (u64)t->rx < THUNK_AREA_SIZE;
}

static void abandon_thunk(struct alt_head *head, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	struct thunks *t = head->thunks;

	t->trapno = g[HOST_TRAPNO];
	t->fault_addr = g[HOST_CR2];
	t->fault_mxcsr = uc->uc_mcontext.fpregs->mxcsr;
	memcpy(t->fault_fx, uc->uc_mcontext.fpregs, sizeof(t->fault_fx));
	g[HOST_RIP] = (greg_t)thunk_abandoned;
	g[HOST_RDI] = (greg_t)head->cpu;
	g[HOST_RSI] = (greg_t)t;
	g[HOST_RSP] = (greg_t)(t->landing + LANDING_SIZE - 8);
	g[HOST_EFL] &= ~(FL_DF | FL_TF | FL_AC);
}

static bool translated_code_explains(struct alt_head *head, greg_t *g, bool kick)
{
	static const u8 order[16] = {HOST_RAX, HOST_RCX, HOST_RDX, HOST_RBX, HOST_RSP, HOST_RBP,
				     HOST_RSI, HOST_RDI, 0,        1,        2,        3,
				     4,        5,        6,        7};
	struct host_frame f = {.rip = g[HOST_RIP],
			       .rflags = g[HOST_EFL],
			       .trapno = g[HOST_TRAPNO],
			       .error = g[HOST_ERR],
			       .cr2 = g[HOST_CR2]};
	enum recover_action action;
	unsigned i;

	for (i = 0; i < 16; i++)
		f.gpr[i] = g[order[i]];
	action = kick ? bt_on_kick(head->cpu, &f) : bt_on_fault(head->cpu, &f);
	g[HOST_RIP] = f.rip;
	g[HOST_EFL] = f.rflags;
	return action == RECOVER_RESUME;
}

/* Every signal that is ours arrives here, on the alternate stack, FS as C wants it. */
void signal_dispatch(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	struct alt_head *head = (struct alt_head *)uc->uc_stack.ss_sp - 1;

	if (sig == KICK_SIGNAL && (uc->uc_stack.ss_flags & SS_DISABLE))
		return; /* from outside, to a thread that runs no CPU */
	if (!(uc->uc_stack.ss_flags & SS_DISABLE) && uc->uc_stack.ss_sp) {
		if (sig == KICK_SIGNAL)
			head->kick(head->cpu);
		if (sig == KICK_SIGNAL || sig == SIGTRAP) {
			translated_code_explains(head, g, true);
			return;
		}
		if (si->si_code <= 0) /* sent by a process: the trap number is an old one */
			crashed(sig, g);
		if (in_thunk(head->thunks, g)) {
			abandon_thunk(head, uc);
			return;
		}
		if (translated_code_explains(head, g, false))
			return;
	}
	crashed(sig, g);
}

static int catch (int sig)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

	/* Without FSGSBASE there is no translated code, and FS is always ours. */
	sa.sa_sigaction = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE ? signal_entry : signal_dispatch;
	sigfillset(&sa.sa_mask);
	return sigaction(sig, &sa, NULL) ? -errno : 0;
}

static const int caught[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGTRAP};

int thunk_thread_enter(struct thunks *t, struct cpu *c)
{
	struct alt_head *head = (struct alt_head *)t->alt;
	stack_t ss = {.ss_sp = head + 1, .ss_size = ALT_STACK_SIZE - sizeof(*head)};
	unsigned i;
	int err = 0;

	head->magic = ALT_MAGIC;
	head->cpu = c;
	head->thunks = t;
	asm("mov %%fs:0, %0"
	    : "=r"(head->host_fs)); /* the thread control block starts with its address */
	c->bt.host_fs = head->host_fs;
	asm volatile("stmxcsr %0" : "=m"(c->host_mxcsr));
	if (sigaltstack(&ss, NULL))
		return -errno;
	for (i = 0; i < ARRAY_LEN(caught) && !err; i++)
		err = catch (caught[i]);
	return err;
}

int thunk_catch_kick(struct thunks *t, void (*kick)(struct cpu *c))
{
	((struct alt_head *)t->alt)->kick = kick;
	return catch (KICK_SIGNAL);
}

void thunk_thread_leave(struct thunks *t)
{
	stack_t ss = {.ss_flags = SS_DISABLE};
	unsigned i;

	(void)t;
	for (i = 0; i < ARRAY_LEN(caught); i++)
		signal(caught[i], SIG_DFL);
	sigaltstack(&ss, NULL);
}
