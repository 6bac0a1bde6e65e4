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
	if (!regime_has(c->rip))
		return STAT_stepped_rip;
	if (c->sflags & ~(u64)FL_IF)
		return STAT_stepped_flags;
	if (!regime_fits_fs(regime_of(c->rip), c->seg[SEG_GS].base))
		return STAT_stepped_gs;
	if (!regime_may_enter(c->translator, regime_of(c->rip)))
		return STAT_stepped_regime;
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
	switch (why) {
	case STEP_ADDRESS:
	case STEP_DEVICE: bt_promote(bt, bt->c->rip, why); break;
	case STEP_MOVING: bt_promote_for_now(bt, why); break;
	case STEP_CODE:
	case STEP_PAGE: bt_promote_if_often(bt, why); break;
	default: break;
	}
}

/* What translated code left to the single-step engine. */
static void step_one(struct cpu *c, enum bt_step why)
{
	if (why == STEP_CALLOUT || why == STEP_CHECKED) {
		c->stats->n[STAT_bt_callouts]++;
		op_step_callout(c);
		return;
	}
	c->stats->n[STAT_bt_fault_steps]++;
	if (why == STEP_DIVIDE) /* a thunk would fault in the host once more */
		cpu_raise(c, EXC_DE);
	op_step(c);
}

/* What the entry code takes from the context, beside the registers. */
static void prepare_entry(struct bt *bt)
{
	struct cpu *c = bt->c;

	c->bt.fs_base = c->seg[SEG_GS].base + bt->bias;
	c->bt.no_swap = !regime_fits_fs(bt->regime, c->kernel_gs_base);
	c->bt.unfit = 0; /* bt_eligible */
	fpu_denied(c, c->bt.vec_denied);
	c->bt.flags = (u8)c->aflags << 8 | (c->aflags >> 11 & 1);
	c->gpr[GPR_RSP] += bt->bias;
}

/* A RET or indirect transfer to an address that is not canonical: it faults, so it has done
 * nothing. */
static void take_back_transfer(struct bt *bt)
{
	struct cpu *c = bt->c;
	u32 place = c->bt.from & FROM_PLACE;
	const struct block *b = bt_block_at(bt, (u64)bt->rx + place);

	BUG_ON(!b);
	c->rip = b->pc + records_find(bt_records(bt, b), place - b->host).guest;
	if (c->bt.from & FROM_RETURN)
		c->gpr[GPR_RSP] -= 8;
	if (c->bt.from & FROM_CALL)
		c->gpr[GPR_RSP] += 8;
	c->bt.step = STEP_CALLOUT;
	c->bt.op = 0;
}

void bt_enter(struct bt *bt, u64 host)
{
	struct cpu *c = bt->c;

	if (unlikely(regime_of(c->rip) != bt->regime))
		regime_enter(bt, regime_of(c->rip));
	c->bt.step = c->bt.link = c->bt.via = 0;
	prepare_entry(bt);
	c->stats->n[STAT_bt_entries]++;
	bt->enter(host);
	c->gpr[GPR_RSP] -= bt->bias;
	c->aflags &= FL_ARITH;
	if (unlikely(!cpu_canonical(c->rip)))
		take_back_transfer(bt);
}

/*
 * What bt_enter does, the other way round, and bt_run's conditions for going on. In particular the
 * instruction may have written to code, remapped it, changed what makes us eligible, asked for
 * attention, or not have ended (REP): the block is then left, with the state in the context.
 */
bool bt_light_callout(struct bt *bt)
{
	struct cpu *c = bt->c;
	u32 generation = bt->generation, drops = bt->drops;
	u64 next;

	c->gpr[GPR_RSP] -= bt->bias;
	c->aflags &= FL_ARITH;
	c->stats->n[STAT_bt_callouts]++;
	next = op_step_callout(c);
	if (c->rip != next || generation != bt->generation || drops != bt->drops ||
	    atomic_load_explicit(&c->attention, memory_order_relaxed) || !bt_eligible(c)) {
		c->gpr[GPR_RSP] += bt->bias; /* as bt_enter wants it */
		return false;
	}
	c->stats->n[STAT_bt_light_callouts]++;
	prepare_entry(bt);
	return true;
}

void bt_run(struct cpu *c)
{
	struct bt *bt = c->translator;
	u64 host, link = 0, step;
	u32 generation = bt->generation;

	c->bt.via = VIA_OTHER;
	bt_forget_if_quiet(bt);
	while (!atomic_load_explicit(&c->attention, memory_order_relaxed) && bt_eligible(c)) {
		if (likely(!bt->lockstep) || !lockstep_run(bt->lockstep)) {
			host = bt_find(bt);
			if (!host) {
				op_step(c);
				link = 0;
				continue;
			}
			if (link && generation == bt->generation && !bt->no_chain &&
			    regime_of(c->rip) == bt->regime)
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
