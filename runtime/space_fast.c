/*
 * System calls without a signal. In a copy of a code page a pair
 *
 *     b8 imm32       mov $nr, %eax              ff 24 25 addr32   jmp *slot
 *     0f 05          syscall            is
 *
 * and the slot, in the space's own stub, points to a trampoline there:
 *
 *     b8 imm32       mov $nr, %eax
 *     48 b9 imm64    movabs $next, %rcx         the instruction behind the pair
 *     e9 rel32       jmp space_stub_fast
 *
 * Copies are shared by all spaces and name a slot; what it stands for, the address above all, is
 * each space's own. RCX and R11 are what SYSCALL changes as well.
 *
 * The pair can be entered in the middle: a kernel restarts a system call at its SYSCALL, and a
 * program may have been interrupted there. Slots lie at 0x001eexxx, so that the two bytes in the
 * place of SYSCALL are 1e 00: 1e is no instruction in 64-bit mode. The exit is #UD, and whoever
 * steps the instruction, in the guest's own memory, finds SYSCALL. Therefore only a stub at that
 * one place has slots that work.
 *
 * Interrupted on the way into the stub, guest code is put back to where it was: in front of the
 * pair, or at its SYSCALL (space_fast_undo).
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

/* Not in our headers' version of fcntl.h everywhere. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* Offsets of instructions in a trampoline. */
enum { AT_MOV_EAX = 0, AT_MOV_RCX = 5, AT_JMP = 15, AT_END = 20 };

/* As executed there: the byte in the place of SYSCALL's first is an invalid opcode. */
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

void space_fast_patch(u8 pair[SPACE_PAIR_LEN], unsigned slot)
{
	u8 jump[SPACE_PAIR_LEN] = {0xff, 0x24, 0x25};
	u32 at = (u32)(FAST_BASE + SPACE_FAST + slot * sizeof(u64));

	BUG_ON(slot >= SPACE_FAST_SLOTS);
	memcpy(jump + 3, &at, 4);
	memcpy(pair, jump, sizeof(jump));
}

static u8 *trampoline(const struct space *sp, unsigned slot)
{
	return sp->slot + SPACE_FAST_CODE + slot * TRAMPOLINE_SIZE;
}

void space_fast_set(struct space *sp, unsigned slot, u32 nr, u64 next)
{
	u8 *t = trampoline(sp, slot);
	u64 *pointer = (u64 *)(sp->slot + SPACE_FAST) + slot;
	u64 here = SPACE_FAST_CODE + slot * TRAMPOLINE_SIZE;
	u32 rel = (u32)((space_stub_fast - space_stub) - (here + AT_END));

	BUG_ON(slot >= SPACE_FAST_SLOTS);
	t[AT_MOV_EAX] = 0xb8;
	memcpy(t + AT_MOV_EAX + 1, &nr, 4);
	t[AT_MOV_RCX] = 0x48;
	t[AT_MOV_RCX + 1] = 0xb9;
	memcpy(t + AT_MOV_RCX + 2, &next, 8);
	t[AT_JMP] = 0xe9;
	memcpy(t + AT_JMP + 1, &rel, 4);
	*pointer = sp->base + here;
	/* Another processor runs what this one has written: it has to execute something that
	 * serializes in between. SDM vol. 3, 8.1.3. */
	sp->serialize = true;
}

void space_fast_clear(struct space *sp)
{
	memset(sp->slot + SPACE_FAST, 0, SPACE_SIZE - SPACE_FAST);
}

/* The address of the instruction behind a system call, if it can be one. */
static bool next_valid(u64 next)
{
	return next >= SPACE_PAIR_LEN && next < SPACE_USER_END;
}

void space_fast_decode(struct space *sp, struct space_regs *r, struct space_exit *ex)
{
	const struct space_state *st = space_state(sp);
	struct space_fast_regs f;

	memcpy(&f, &st->fast_regs, sizeof(f));
	const u64 gpr[16] = {f.rax, f.rcx, f.rdx, f.rbx, st->fast_rsp, f.rbp, f.rsi, f.rdi,
			     f.r8,  f.r9,  f.r10, 0,     f.r12,        f.r13, f.r14, f.r15};
	memcpy(r->gpr, gpr, sizeof(gpr));
	r->rflags = (f.flags & SPACE_USER_FLAGS) | SPACE_FLAGS_FIXED;
	r->gpr[11] = r->rflags;
	r->cs = SPACE_CS64;
	r->rip = f.rcx;
	ex->kind = SPACE_SYSCALL;
	ex->fast = true;
	if (next_valid(f.rcx))
		return;
	/* Guest code came here by itself. */
	r->rip = sp->base + (u64)(space_stub_fast - space_stub);
	*ex = space_exit_stub(r->rip);
}

/* Interrupted in a trampoline. */
static bool undo_trampoline(const struct space *sp, struct space_regs *r, u64 off, bool trap)
{
	const u8 *t = trampoline(sp, (unsigned)(off / TRAMPOLINE_SIZE));
	u64 next;
	u32 nr;

	memcpy(&nr, t + AT_MOV_EAX + 1, 4);
	memcpy(&next, t + AT_MOV_RCX + 2, 8);
	if (!next_valid(next))
		return false;
	switch (off % TRAMPOLINE_SIZE) {
	case AT_MOV_EAX:
		if (!trap) {
			r->rip = next - SPACE_PAIR_LEN;
			return true;
		}
		/* The jump stands for the MOV, and that has been executed. */
		r->gpr[0] = nr;
		break;
	case AT_MOV_RCX:
	case AT_JMP: break;
	default: return false;
	}
	r->rip = next - SPACE_SYSCALL_LEN;
	return true;
}

bool space_fast_undo(const struct space *sp, struct space_regs *r, bool trap)
{
	u64 off = r->rip - sp->base;

	if (off >= SPACE_FAST_CODE)
		return undo_trampoline(sp, r, off - SPACE_FAST_CODE, trap);
	if (off < (u64)(space_stub_fast - space_stub) ||
	    off >= (u64)(space_stub_fast_saved - space_stub) || !next_valid(r->gpr[1]))
		return false;
	if (off >= (u64)(space_stub_fast_switched - space_stub))
		r->gpr[4] = space_state(sp)->fast_rsp;
	r->rip = r->gpr[1] - SPACE_SYSCALL_LEN;
	return true;
}
