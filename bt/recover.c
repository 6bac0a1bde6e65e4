/*
 * Leaving translated code by a fault or a signal. The handler (thunk_fault.c has set FS up for C)
 * finds the block and the recovery record of the host address, writes the guest's state to the CPU
 * structure, and lets the thread go on in the common code that returns to bt_run.
 *
 *	fault on an address the shadow can map		map, and try again, unless its page moves
 *							all the time
 *	any other fault		step that instruction: MMIO, addresses of the other half, code
 *				writes and true guest faults come out right
 *	kick (attention is set)	leave, state as of an instruction boundary; where there is none,
 *				one host instruction at a time until there is
 */
#include "recover.h"

#include <string.h>

#include "translate.h"

/* Write the guest's state at a host address to c. False if it is not recoverable just there. */
static bool recover(struct bt *bt, struct block *b, const struct host_frame *f, bool *behind_sti)
{
	const struct recovery found =
	    records_find(bt_records(bt, b), f->rip - (u64)bt->rx - b->host);
	const struct recovery *r = &found;
	struct cpu *c = bt->c;

	if (r->spills & RECOVER_NEVER)
		return false;
	memcpy(c->gpr, f->gpr, sizeof(c->gpr));
	if (r->spills & SPILL_RAX)
		c->gpr[GPR_RAX] = c->bt.spill[0];
	if (r->spills & SPILL_RCX)
		c->gpr[GPR_RCX] = c->bt.spill[1];
	if (r->spills & SPILL_RDX)
		c->gpr[GPR_RDX] = c->bt.spill[2];
	if (r->spills & RECOVER_RSI_BIAS)
		c->gpr[GPR_RSI] -= bt->bias;
	if (r->spills & RECOVER_RDI_BIAS)
		c->gpr[GPR_RDI] -= bt->bias;
	if (r->spills & RECOVER_RDI_HOST)
		c->gpr[GPR_RDI] -= c->bt.distance[0];
	if (r->spills & RECOVER_RSI_HOST)
		c->gpr[GPR_RSI] -= c->bt.distance[1];
	if (r->spills & RECOVER_SWAPPED) {
		u64 base = c->seg[SEG_GS].base;

		c->seg[SEG_GS].base = c->kernel_gs_base;
		c->kernel_gs_base = base;
	}
	c->aflags = f->rflags;
	if (r->spills & RECOVER_FLAGS)
		c->aflags = (c->bt.site_flags >> 8 & 0xff) | (c->bt.site_flags & 1) << 11;
	c->rip = b->pc + r->guest;
	*behind_sti = r->spills & RECOVER_STI;
	return true;
}

/* how: what the shadow said of a page fault; of others it was not asked. An address of the other
 * half, biased, is not canonical or belongs to nothing. */
static enum bt_step reason(const struct host_frame *f, enum shadow_fill how)
{
	if (f->trapno == EXC_GP || f->trapno == EXC_SS)
		return STEP_ADDRESS;
	if (f->trapno != EXC_PF)
		return f->trapno == EXC_DE ? STEP_DIVIDE : STEP_FAULT;
	switch (how) {
	case SHADOW_CODE: return STEP_CODE;
	case SHADOW_IO: return STEP_DEVICE;
	case SHADOW_OUTSIDE: return STEP_ADDRESS;
	case SHADOW_MOVING: return STEP_MOVING;
	case SHADOW_FAULT: return STEP_PAGE;
	default: return STEP_FAULT;
	}
}

static enum recover_action leave(struct bt *bt, struct host_frame *f)
{
	f->rip = (u64)bt->rx + bt->leave_at;
	return RECOVER_RESUME;
}

enum recover_action bt_on_fault(struct cpu *c, struct host_frame *f)
{
	struct bt *bt = c->translator;
	struct block *b;
	bool behind_sti;
	gva_t va;
	enum shadow_fill how = SHADOW_OUTSIDE;

	if (!bt || f->rip - (u64)bt->rx >= BT_AREA_SIZE)
		return RECOVER_NOT_OURS;
	va = f->cr2 - bt->bias;
	if (f->trapno == EXC_PF) {
		how = shadow_fill(bt->shadow, &c->mmu.pg, va,
				  f->error & PF_W ? MMU_WRITE : MMU_READ, NULL);
		c->stats->n[STAT_bt_hidden_faults] += how != SHADOW_OUTSIDE;
		if (how == SHADOW_MAPPED)
			return RECOVER_RESUME;
	}
	b = bt_block_at(bt, f->rip);
	if (!b || !recover(bt, b, f, &behind_sti))
		return RECOVER_NOT_OURS;
	c->bt.step = reason(f, how);
	return leave(bt, f);
}

enum recover_action bt_on_kick(struct cpu *c, struct host_frame *f)
{
	struct bt *bt = c->translator;
	struct block *b;
	bool behind_sti;

	f->rflags &= ~(u64)FL_TF;
	if (!bt || f->rip - (u64)bt->rx >= BT_AREA_SIZE)
		return RECOVER_NOT_OURS;
	if (!atomic_load_explicit(&c->attention, memory_order_relaxed) || bt->lockstep)
		return RECOVER_RESUME; /* with lockstep no block leads to another */
	b = bt_block_at(bt, f->rip);
	if (b && recover(bt, b, f, &behind_sti)) {
		c->bt.step = 0;
		if (behind_sti) {
			c->shadow = SHADOW_STI;
			cpu_update_slow(c);
		}
		c->stats->n[STAT_bt_kicks]++;
		return leave(bt, f);
	}
	if (f->rip >= (u64)bt->rx + bt->entered_fs_at && f->rip < (u64)bt->rx + bt->enter_end)
		return leave(bt, f); /* nothing has run yet */
	if (f->rip >= (u64)bt->rx + bt->exit_at && f->rip < (u64)bt->rx + bt->exit_end)
		return RECOVER_RESUME; /* on the way out anyway */
	if (f->rip >= (u64)bt->rx + bt->light_at[0] && f->rip < (u64)bt->rx + bt->light_end)
		return RECOVER_RESUME; /* attention is looked at before and behind the C function */
	f->rflags |= FL_TF;
	return RECOVER_RESUME;
}
