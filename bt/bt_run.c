/*
 * Running translated code: in, out, and what the single-step engine does in between.
 */
#include "bt_run.h"

#include "fpu_check.h"
#include "lockstep.h"
#include "mem.h"
#include "translate.h"

/* Why the code at c->rip is stepped; STAT_stepped_callout: it need not be. */
static ALWAYS_INLINE enum stat_id why_stepped(const struct cpu *c)
{
	if (c->slow)
		return STAT_stepped_careful;
	if (c->cpl == 3)
		return STAT_stepped_ring3;
	if (c->cpl || c->mode != INSN_MODE_64)
		return STAT_stepped_mode;
	if ((s64)c->rip >= 0 || (u64)(s64)(s32)c->rip != c->rip)
		return STAT_stepped_rip;
	if (c->sflags & ~(u64)FL_IF)
		return STAT_stepped_flags;
	if (c->seg[SEG_GS].base < SHADOW_FIRST)
		return STAT_stepped_gs;
	return STAT_stepped_callout;
}

bool bt_eligible(const struct cpu *c)
{
	return c->translator && why_stepped(c) == STAT_stepped_callout;
}

void bt_attribute(struct cpu *c)
{
	c->stats->n[c->stepped_why] += c->insns - c->attributed;
	c->attributed = c->insns;
	c->stepped_why = why_stepped(c);
}

/* A fault that will come again, at an instruction that will be executed again. (A string
 * instruction faults on after it has been promoted; there is nothing beyond that.) */
static void consider_promotion(struct bt *bt, enum bt_step why)
{
	if (why == STEP_ADDRESS || why == STEP_DEVICE)
		bt_promote(bt, bt->c->rip, why);
}

/* What translated code left to the single-step engine. */
static void step_one(struct cpu *c, enum bt_step why)
{
	if (why == STEP_CALLOUT) {
		c->stats->n[STAT_bt_callouts]++;
		op_step_callout(c);
		return;
	}
	c->stats->n[why == STEP_CHECKED ? STAT_bt_checked_misses : STAT_bt_fault_steps]++;
	op_step(c);
}

void bt_enter(struct bt *bt, u64 host)
{
	struct cpu *c = bt->c;

	c->bt.fs_base = c->seg[SEG_GS].base + SHADOW_BIAS;
	c->bt.step = c->bt.link = 0;
	fpu_denied(c, c->bt.vec_denied);
	c->gpr[GPR_RSP] += SHADOW_BIAS;
	c->stats->n[STAT_bt_entries]++;
	bt->enter(host);
	c->gpr[GPR_RSP] -= SHADOW_BIAS;
	c->aflags &= FL_ARITH;
}

void bt_run(struct cpu *c)
{
	struct bt *bt = c->translator;
	u64 host, link = 0, step;
	u32 generation = bt->generation;

	while (!atomic_load_explicit(&c->attention, memory_order_relaxed) && bt_eligible(c)) {
		if (likely(!bt->lockstep) || !lockstep_run(bt->lockstep)) {
			host = bt_find(bt);
			if (!host) {
				op_step(c);
				link = 0;
				continue;
			}
			if (link && generation == bt->generation && !bt->no_chain)
				bt_link(bt, link, host);
			bt_enter(bt, host);
		}
		link = c->bt.link;
		generation = bt->generation;
		step = c->bt.step;
		if (step) {
			link = 0;
			consider_promotion(bt, step);
			step_one(c, step);
		}
	}
}
