/*
 * Patched code: system calls without a signal. In a copy of a code page seven bytes are
 *
 *     ff 24 e5 addr32    jmp *slot
 *
 * and the slot, in the space's own stub, points to a trampoline there, which loads RCX with the
 * address behind the system call, as SYSCALL does, and jumps to space_stub_fast. Copies are shared
 * by all spaces and name a slot; what it stands for, the address above all, is each space's own.
 * Three kinds of sites can be patched:
 *
 *     SPACE_SITE_SYSCALL  0f 05 and an instruction of 5 bytes or more that is the same anywhere, as
 *                         the comparison with -4095 that follows in most C libraries. The way back
 *                         is not to the instruction, which is gone, but to its copy in the
 *                         trampoline (space_fast_resume).
 *     SPACE_SITE_PAIR     MOV of the number to EAX, b8 imm32, or RAX, 48 c7 c0 imm32, and SYSCALL.
 *     SPACE_SITE_LIMIT    MOV of a selector to a register and LSL of it: Linux's way to tell
 * programs the number of their processor, which is the host's as it stands. The trampoline executes
 * LSL of another selector, for the flags, which it changes but for ZF not, and loads what the guest
 * has as the limit.
 *
 * A site can be entered in the middle. A kernel restarts system calls at their SYSCALL, a program
 * may have been interrupted between any two of its instructions, or jump there. In a pair SYSCALL
 * is at 7, behind the patch, or, as LSL, at 5: slots lie at 0x001eexxx, so there is 1e, no
 * instruction in 64-bit mode: #UD. In the other kind the second instruction is at 2: there is e5,
 * the input from a port: #GP (that is why the SIB byte is not the usual 25; without base and index
 * the scale means nothing). Whoever steps the instruction then, in the guest's own memory, finds
 * what was there. Only a stub at one of the places gives such slots.
 *
 * Interrupted in a trampoline or on the way into the stub, guest code is put back to where it was
 * (space_fast_undo).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lowland.h"
#include "space_impl.h"

#define FAST_BASE   0x001e0000ull
#define COPIES_SIZE (SPACE_COPIES * PAGE_SIZE)
#define COPIES_AT   (LOWLAND_SPACES + GIB)

#define INSN_LEN_MAX  15
#define SELECTOR_FLAT 0x2b
#define JMP_LEN       5 /* e9 rel32 */
#define JMP_MEM_LEN   6 /* ff 25 rel32 */
#define MOV_LEN       5 /* b8 imm32 */
#define LSL_LEN       3 /* 0f 03 modrm */
#define ARITHMETIC    0x8d5ull

/* Not in our headers' version of fcntl.h everywhere. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* A trampoline. The page is read-only in the space, so what it says is believed. */
struct trampoline {
	u8 code[TRAMPOLINE_SIZE - 24];
	u64 behind;                   /* the tail's: where it goes on */
	u64 next;                     /* behind the system call */
	u8 kind;                      /* 0: free; else enum space_site_kind + 1 */
	u8 rcx, jump, tail, tail_end; /* offsets of its instructions; tail 0: there is none */
	u8 before;                    /* length of the site up to next */
	u8 source, limit;             /* of an LSL: its registers */
};
_Static_assert(sizeof(struct trampoline) == TRAMPOLINE_SIZE, "trampoline");

/* As executed there: the byte in the place of a pair's SYSCALL is an invalid opcode. */
_Static_assert((FAST_BASE + SPACE_FAST) >> 16 == 0x1e, "not the byte that faults");
_Static_assert((FAST_BASE + SPACE_FAST_CODE - 1) >> 16 == 0x1e, "not for all slots");

int space_fast_init(struct space_pool *pool)
{
	void *at = lowland_at(COPIES_AT), *p;

	pool->copies_fd = memfd_create("ringshift-code", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (pool->copies_fd < 0 || ftruncate(pool->copies_fd, COPIES_SIZE))
		return -errno;
	p = mmap(at, COPIES_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), pool->copies_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	pool->copies = p;
	/* Ours is the only mapping that will ever be writable. */
	return fcntl(pool->copies_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK) ? -errno
											: 0;
}

void space_fast_free(struct space_pool *pool)
{
	if (pool->copies)
		munmap(pool->copies, COPIES_SIZE);
	if (pool->copies_fd >= 0)
		close(pool->copies_fd);
}

bool space_fast_able(const struct space *sp)
{
	return sp->base == FAST_BASE;
}

u8 *space_copy(struct space_pool *pool, unsigned copy)
{
	BUG_ON(copy >= SPACE_COPIES);
	return pool->copies + copy * PAGE_SIZE;
}

void space_fast_patch(u8 site[SPACE_PATCH_LEN], unsigned slot)
{
	u8 jump[SPACE_PATCH_LEN] = {0xff, 0x24, 0xe5};
	u32 at = (u32)(FAST_BASE + SPACE_FAST + slot * sizeof(u64));

	BUG_ON(slot >= SPACE_SLOTS_FAST);
	memcpy(jump + 3, &at, 4);
	memcpy(site, jump, sizeof(jump));
}

static struct trampoline *trampoline(const struct space *sp, unsigned slot)
{
	return (struct trampoline *)(sp->slot + SPACE_FAST_CODE) + slot;
}

static u8 *put(u8 *at, const void *bytes, size_t n)
{
	memcpy(at, bytes, n);
	return at + n;
}

static u16 *hint(struct space *sp, u64 next)
{
	return &sp->fast_hint[next * 0x9e3779b97f4a7c15ull >> (64 - SPACE_HINT_BITS)];
}

/* On to t->behind. */
static void put_jump_behind(struct trampoline *t, u8 *p)
{
	u32 rel = (u32)(offsetof(struct trampoline, behind) - (u64)(p - t->code) - JMP_MEM_LEN);

	put(put(p, "\xff\x25", 2), &rel, 4);
}

static u8 *put_mov(u8 *p, u8 reg, u32 value)
{
	*p = 0xb8 | reg;
	return put(p + 1, &value, 4);
}

/* MOV flat, LSL, MOV selector, MOV limit: the last two may be the same register. */
static void set_limit(struct trampoline *t, const struct space_site *site)
{
	u8 lsl[LSL_LEN] = {0x0f, 0x03, site->insn[SPACE_LIMIT_LEN - 1]}, *p = t->code;
	u32 sel;

	memcpy(&sel, site->insn + 1, sizeof(sel));
	t->source = site->insn[0] & 7;
	t->limit = lsl[2] >> 3 & 7;
	t->before = SPACE_LIMIT_LEN;
	t->behind = t->next;
	p = put(put_mov(p, t->source, SELECTOR_FLAT), lsl, LSL_LEN);
	put_jump_behind(t, put_mov(put_mov(p, t->source, sel), t->limit, site->nr));
}

static void set_syscall(struct space *sp, struct trampoline *t, unsigned slot,
			const struct space_site *site, u64 next)
{
	u64 here = SPACE_FAST_CODE + slot * sizeof(*t);
	u8 *p = t->code;
	u32 rel;

	t->before = SPACE_SYSCALL_LEN + (site->kind == SPACE_SITE_PAIR ? site->len : 0);
	if (site->kind == SPACE_SITE_PAIR)
		p = put(put(p, "\xb8", 1), &site->nr, 4);
	t->rcx = (u8)(p - t->code);
	p = put(put(p, "\x48\xb9", 2), &next, 8);
	t->jump = (u8)(p - t->code);
	rel = (u32)((u64)(space_stub_fast - space_stub) - (here + t->jump + JMP_LEN));
	p = put(put(p, "\xe9", 1), &rel, 4);
	if (site->kind == SPACE_SITE_SYSCALL) {
		t->tail = (u8)(p - t->code);
		p = put(p, site->insn, site->len);
		t->tail_end = (u8)(p - t->code);
		put_jump_behind(t, p);
		t->behind = next + site->len;
		*hint(sp, next) = (u16)slot;
	}
}

void space_fast_set(struct space *sp, unsigned slot, const struct space_site *site, u64 next)
{
	struct trampoline *t = trampoline(sp, slot);
	u64 here = SPACE_FAST_CODE + slot * sizeof(*t);

	BUG_ON(slot >= SPACE_SLOTS_FAST || site->len > INSN_LEN_MAX);
	*t = (struct trampoline){.kind = (u8)(site->kind + 1), .next = next};
	if (site->kind == SPACE_SITE_LIMIT)
		set_limit(t, site);
	else
		set_syscall(sp, t, slot, site, next);
	((u64 *)(sp->slot + SPACE_FAST))[slot] = sp->base + here;
	/* Another processor runs what this one has written: it has to execute something that
	 * serializes in between. SDM vol. 3, 8.1.3. */
	sp->serialize = true;
}

void space_fast_unset(struct space *sp, unsigned slot)
{
	BUG_ON(slot >= SPACE_SLOTS_FAST);
	*trampoline(sp, slot) = (struct trampoline){0};
	sp->serialize = true;
}

u64 space_fast_resume(struct space *sp, u64 rip)
{
	unsigned slot = *hint(sp, rip);
	const struct trampoline *t = trampoline(sp, slot);

	if (likely(t->next != rip || !t->tail))
		return rip;
	return sp->base + SPACE_FAST_CODE + slot * sizeof(*t) + t->tail;
}

void space_fast_clear(struct space *sp)
{
	memset(sp->slot + SPACE_FAST, 0, SPACE_SIZE - SPACE_FAST);
	memset(sp->fast_hint, 0, sizeof(sp->fast_hint));
}

static bool next_valid(u64 next)
{
	return next >= PAGE_SIZE && next < SPACE_USER_END;
}

void space_fast_decode(struct space *sp, struct space_regs *r, struct space_exit *ex)
{
	const struct space_state *st = space_state(sp);
	const u64 gpr[16] = {st->rax, st->rcx, st->rdx, st->rbx, st->rsp, st->rbp,
			     st->rsi, st->rdi, st->r8,  st->r9,  st->r10, 0,
			     st->r12, st->r13, st->r14, st->r15};

	memcpy(r->gpr, gpr, sizeof(gpr));
	r->rflags = (st->flags & SPACE_USER_FLAGS) | SPACE_FLAGS_FIXED;
	r->gpr[11] = r->rflags;
	r->cs = SPACE_CS64;
	r->rip = r->gpr[1];
	memcpy(sp->told, r->gpr, sizeof(sp->told));
	sp->knows = !(r->rflags & ~(ARITHMETIC | SPACE_FLAGS_FIXED));
	ex->kind = SPACE_SYSCALL;
	ex->fast = true;
	if (next_valid(r->rip))
		return;
	/* Guest code came here by itself. */
	r->rip = sp->base + (u64)(space_stub_fast - space_stub);
	*ex = space_exit_stub(r->rip);
}

static u32 moved(const struct trampoline *t, unsigned at)
{
	u32 value;

	memcpy(&value, t->code + at + 1, sizeof(value));
	return value;
}

/* Interrupted in the trampoline of an LSL: not executed before the LSL, complete behind it. */
static bool undo_limit(const struct trampoline *t, struct space_regs *r, unsigned at)
{
	const unsigned behind = MOV_LEN + LSL_LEN;

	r->rip = at < behind ? t->next - t->before : t->next;
	if (at >= behind) {
		r->gpr[t->source] = moved(t, behind);
		r->gpr[t->limit] = moved(t, behind + MOV_LEN);
	}
	return true;
}

/* Interrupted in a trampoline. */
static bool undo_trampoline(const struct space *sp, struct space_regs *r, u64 off)
{
	const struct trampoline *t = trampoline(sp, (unsigned)(off / sizeof(*t)));
	unsigned at = off % sizeof(*t);

	if (!t->kind)
		return false;
	if (t->kind - 1 == SPACE_SITE_LIMIT)
		return undo_limit(t, r, at);
	if (at == t->rcx || at == t->jump)
		r->rip = t->next - SPACE_SYSCALL_LEN;
	else if (at == 0)
		r->rip = t->next - t->before;
	else if (t->tail && at == t->tail)
		r->rip = t->next;
	else if (t->tail && at == t->tail_end)
		r->rip = t->behind;
	else
		return false;
	return true;
}

bool space_fast_trap(const struct space *sp, struct space_regs *r, struct space_exit *ex)
{
	u64 off = r->rip - sp->base - SPACE_FAST_CODE;
	const struct trampoline *t;

	if (off >= SPACE_SIZE - SPACE_FAST_CODE || off % sizeof(*t))
		return false;
	t = trampoline(sp, (unsigned)(off / sizeof(*t)));
	if (!t->kind)
		return false;
	if (t->kind - 1 == SPACE_SITE_LIMIT) {
		r->gpr[t->source] = moved(t, MOV_LEN + LSL_LEN);
		r->rip = t->next - LSL_LEN;
		return true;
	}
	if (t->kind - 1 == SPACE_SITE_PAIR) {
		r->gpr[0] = moved(t, 0);
		r->rip = t->next - SPACE_SYSCALL_LEN;
		return true;
	}
	r->rip = r->gpr[1] = t->next;
	r->gpr[11] = r->rflags;
	*ex = (struct space_exit){.kind = SPACE_SYSCALL};
	return true;
}

/* Nothing but what a system call changes is different from what G has in its STATE. */
bool space_fast_same(const struct space *sp, const struct space_regs *r)
{
	const u64 *g = r->gpr, *t = sp->told;
	u64 differ = 0;

	for (unsigned i = 2; i < 16; i++)
		differ |= i == 11 ? 0 : g[i] ^ t[i];
	return sp->knows && !differ &&
	       !(r->rflags & SPACE_USER_FLAGS & ~(ARITHMETIC | SPACE_FLAGS_FIXED));
}

bool space_fast_undo(const struct space *sp, struct space_regs *r)
{
	u64 off = r->rip - sp->base;

	if (off >= SPACE_FAST_CODE)
		return off < SPACE_SIZE && undo_trampoline(sp, r, off - SPACE_FAST_CODE);
	if (off < (u64)(space_stub_fast - space_stub) ||
	    off >= (u64)(space_stub_fast_saved - space_stub) || !next_valid(r->gpr[1]))
		return false;
	if (off >= (u64)(space_stub_fast_switched - space_stub))
		r->gpr[4] = space_state(sp)->rsp;
	if (off >= (u64)(space_stub_fast_flagged - space_stub))
		r->rflags = (space_state(sp)->scratch & SPACE_USER_FLAGS) | SPACE_FLAGS_FIXED;
	r->rip = r->gpr[1] - SPACE_SYSCALL_LEN;
	return true;
}
