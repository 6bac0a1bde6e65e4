/*
 * Turning a signal frame in a space's memory into registers and the reason of an exit.
 *
 * The frame is guest-writable: it is copied once, and what is not of a known form counts as
 * nonsense. Whatever passes is something guest code could have brought about honestly, since all
 * of it is its own registers.
 */
#include <linux/audit.h>
#include <signal.h>
#include <string.h>

#include "space_impl.h"

#define SYSCALL_LEN 2 /* of INT 0x80 as well */
/* Linux 6.14 and later lets this system call past seccomp, finds that there is no such probe, and
 * sends a SIGILL that no instruction caused. RAX is lost, but it was this. (The other one, uprobe,
 * fails without telling anyone: there alone guest code gets an answer from the host, ENXIO.) */
#define NR_URETPROBE 335
#define VSYSCALL     0xffffffffff600000ull
#define VSYSCALL_END (VSYSCALL + PAGE_SIZE)
#define TRAP_STEP    2 /* TRAP_TRACE */
#define DR6_BS       BIT(14)

/* The kernel's struct sigcontext, asm/sigcontext.h, whose own header clashes with libc's. */
struct frame_context {
	u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip;
	u64 rflags;
	u16 cs, gs, fs, ss;
	u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
};

/* What a handler's third argument points to, and the siginfo behind it. */
struct frame {
	u64 flags, link, stack[3];
	struct frame_context c;
	u64 mask;
	struct {
		s32 signo, err, code, pad;
		u64 addr; /* of a fault; for SIGSYS, of the instruction */
		s32 syscall;
		u32 arch;
	} info;
};
_Static_assert(offsetof(struct frame, c) == UC_MCONTEXT, "context");
_Static_assert(offsetof(struct frame, c.rip) == UC_RIP, "rip");
_Static_assert(offsetof(struct frame, c.rdx) == UC_RDX, "rdx");
_Static_assert(offsetof(struct frame, info) == UC_SIGNO, "info");

enum {
	VECTOR_DE = 0,
	VECTOR_DB = 1,
	VECTOR_BP = 3,
	VECTOR_OF = 4,
	VECTOR_BR = 5,
	VECTOR_UD = 6,
	VECTOR_NP = 11,
	VECTOR_SS = 12,
	VECTOR_GP = 13,
	VECTOR_PF = 14,
	VECTOR_MF = 16,
	VECTOR_AC = 17,
	VECTOR_XM = 19
};

/* Which vectors a signal can stand for; the first is what it is taken for if the frame says
 * something else. */
static const struct {
	int signal;
	u8 usual;
	u32 vectors;
} meaning[] = {
    {SIGSEGV, VECTOR_GP,
     BIT(VECTOR_OF) | BIT(VECTOR_BR) | BIT(VECTOR_NP) | BIT(VECTOR_SS) | BIT(VECTOR_GP) |
	 BIT(VECTOR_PF)},
    {SIGBUS, VECTOR_AC, BIT(VECTOR_NP) | BIT(VECTOR_SS) | BIT(VECTOR_PF) | BIT(VECTOR_AC)},
    {SIGFPE, VECTOR_MF, BIT(VECTOR_DE) | BIT(VECTOR_MF) | BIT(VECTOR_XM)},
    {SIGILL, VECTOR_UD, BIT(VECTOR_UD)},
    {SIGTRAP, VECTOR_DB, BIT(VECTOR_DB) | BIT(VECTOR_BP)},
};

struct space_exit space_exit_stub(u64 rip)
{
	return (struct space_exit){
	    .kind = SPACE_FAULT, .vector = VECTOR_PF, .error = 0x14, .cr2 = rip};
}

static void get_regs(const struct space *sp, const struct frame_context *c, struct space_regs *r)
{
	const u64 gpr[16] = {c->rax, c->rcx, c->rdx, c->rbx, c->rsp, c->rbp, c->rsi, c->rdi,
			     c->r8,  c->r9,  c->r10, c->r11, c->r12, c->r13, c->r14, c->r15};

	memcpy(r->gpr, gpr, sizeof(gpr));
	r->rip = c->rip;
	r->rflags = (c->rflags & SPACE_USER_FLAGS) | SPACE_FLAGS_FIXED;
	r->ss = c->ss;
	r->cs = c->cs;
	if (r->cs != SPACE_CS32 && !space_code_selector(sp, r->cs))
		r->cs = SPACE_CS64;
}

static void get_segments(struct space *sp, struct space_regs *r)
{
	const struct space_state *st = space_state(sp);

	r->ds = sp->has.ds = st->ds;
	r->es = sp->has.es = st->es;
	r->fs = sp->has.fs = st->fs;
	r->gs = sp->has.gs = st->gs;
	r->fs_base = sp->has.fs_base = st->fs_base;
	r->gs_base = sp->has.gs_base = st->gs_base;
	sp->segments = true;
}

static bool in_vsyscall(u64 a)
{
	return a >= VSYSCALL && a < VSYSCALL_END;
}

static void decode_syscall(const struct frame *f, struct space_regs *r, struct space_exit *ex)
{
	/* The host's vsyscall page was about to emulate a call, and returns from it. */
	if (in_vsyscall(f->info.addr)) {
		*ex = space_exit_stub(f->info.addr);
		r->rip = f->info.addr;
		r->gpr[4] -= 8;
		return;
	}
	ex->kind = f->info.arch == AUDIT_ARCH_X86_64 ? SPACE_SYSCALL : SPACE_INT80;
}

static bool decode_fault(const struct frame *f, struct space_regs *r, struct space_exit *ex)
{
	for (unsigned i = 0; i < ARRAY_LEN(meaning); i++) {
		u64 v = f->c.trapno;

		if (meaning[i].signal != f->info.signo)
			continue;
		ex->kind = SPACE_FAULT;
		ex->vector = v < 32 && meaning[i].vectors & BIT(v) ? v : meaning[i].usual;
		if (BIT(ex->vector) & (BIT(VECTOR_NP) | BIT(VECTOR_SS) | BIT(VECTOR_GP)))
			ex->error = f->c.err & 0xffff;
		if (ex->vector == VECTOR_PF) {
			ex->error = f->c.err & 0x1f;
			ex->cr2 = f->c.cr2;
		}
		if (ex->vector == VECTOR_DB && f->info.code == TRAP_STEP)
			ex->dr6 = DR6_BS;
		/* A host without 32-bit system calls has no gate 0x80. */
		if (ex->vector == VECTOR_GP && ex->error == 0x80 * 8 + 2) {
			*ex = (struct space_exit){.kind = SPACE_INT80};
			r->rip += SYSCALL_LEN;
		}
		return true;
	}
	return false;
}

/* The vector state is in the frame; where exactly it must be for the next entry. */
static bool take_xsave(struct space *sp, const struct frame *f)
{
	u64 off = f->c.fpstate - sp->base, size = sp->pool->xsave_size;

	if (off & 63 || off < SPACE_STACK || off > SPACE_STACK_TOP - size)
		return false;
	sp->xsave_off = off;
	if (off < SPACE_STACK_TOP - SPACE_FRAME_MAX) {
		/* Guest code had RSP in our stack; the image of the entry would land on it. */
		sp->xsave_off = ST_XSAVE;
		memcpy(sp->slot + ST_XSAVE, sp->slot + off, size);
	}
	return true;
}

/*
 * The host has not taken a descriptor, or has no system calls for 32-bit code and the stub was
 * caught making one. Then the run has not taken place.
 */
static bool refused(const struct space *sp, u32 kind, u64 frame)
{
	u64 rip;

	if (!(space_ctl(sp)->order >> ORDER_TLS))
		return false;
	if (kind != KIND_STUB || frame < SPACE_STACK || frame & 7 ||
	    frame > SPACE_STACK_TOP - sizeof(struct frame))
		return kind == KIND_REFUSED;
	memcpy(&rip, sp->slot + frame + UC_RIP, sizeof(rip));
	return rip == sp->base + (u64)(space_stub_tls - space_stub);
}

/*
 * Guest code was interrupted at an address of the stub. True: it was on a way it is meant to take,
 * and the exit is complete.
 */
static bool decode_in_stub(struct space *sp, int signo, struct space_regs *r, struct space_exit *ex,
			   u32 *kind)
{
	if (r->cs == SPACE_CS64 && signo == SIGTRAP && space_fast_trap(sp, r, ex) &&
	    ex->kind == SPACE_SYSCALL)
		return true;
	if (space_meets_stub(sp, r->rip, 1) &&
	    (r->cs != SPACE_CS64 || signo == SIGSYS || !space_fast_undo(sp, r)))
		*kind = KIND_STUB;
	return false;
}

bool space_exit_decode(struct space *sp, struct space_regs *regs, struct space_exit *ex)
{
	const struct space_state *st = space_state(sp);
	u32 kind = atomic_load(&st->kind);
	u64 off = atomic_load(&st->frame) - sp->base;
	struct frame f;
	bool flat;

	ex->kind = SPACE_KICKED;
	sp->segments = false;
	if (refused(sp, kind, off)) {
		space_tls_refused(sp);
		return true;
	}
	space_tls_done(sp, kind != KIND_NOT_ENTERED);
	if (kind == KIND_NOT_ENTERED)
		return true;
	sp->serialize = false;
	if (kind == KIND_FAST || kind == KIND_KEPT) {
		sp->live = kind == KIND_FAST;
		if (!sp->live) {
			sp->xsave_off = ST_XSAVE;
			SPACE_COUNT(sp, space_vec_kept);
		}
		get_segments(sp, regs);
		space_fast_decode(sp, regs, ex);
		return true;
	}
	sp->live = false;
	if (kind != KIND_GUEST && kind != KIND_STUB)
		return false;
	if (off & 7 || off < SPACE_STACK || off > SPACE_STACK_TOP - sizeof(f))
		return false;
	memcpy(&f, sp->slot + off, sizeof(f));
	if (!take_xsave(sp, &f))
		return false;
	get_regs(sp, &f.c, regs);
	get_segments(sp, regs);
	flat = regs->cs == SPACE_CS64 || regs->cs == SPACE_CS32;
	if (kind == KIND_GUEST && flat && space_meets_stub(sp, regs->rip, 1) &&
	    decode_in_stub(sp, f.info.signo, regs, ex, &kind))
		return true;
	/* The host's vsyscall page may have faulted on behalf of the call. */
	if (kind == KIND_STUB || (in_vsyscall(regs->rip) && f.info.signo == SIGSEGV)) {
		*ex = space_exit_stub(regs->rip);
		return true;
	}
	if (f.info.signo == SPACE_KICK_SIGNAL)
		return true;
	if (f.info.signo == SIGSYS) {
		decode_syscall(&f, regs, ex);
		return true;
	}
	if (f.info.signo == SIGILL && f.info.code == SI_KERNEL) {
		ex->kind = SPACE_SYSCALL;
		regs->gpr[0] = NR_URETPROBE;
		return true;
	}
	return decode_fault(&f, regs, ex);
}
