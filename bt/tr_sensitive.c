/*
 * Sensitive instructions that are executed inline, on struct cpu.
 *
 * While translated code runs, IF is the only bit of sflags that may be set (bt_eligible), so the
 * byte that holds it is 0 or 2 and can be stored whole: nothing here touches the host's flags.
 */
#include "tr.h"

static void store_if(struct tr *t, u8 byte)
{
	emit_bytes(&t->e, "\xc6\x04\x25", 3); /* mov byte [abs32], imm8 */
	emit_u32(&t->e, CTX(t->bt, sflags) + 1);
	emit_u8(&t->e, byte);
}

/* STI with an interrupt waiting is the single-step engine's: it casts the shadow and delivers. */
static void tr_sti(struct tr *t)
{
	u8 *skip;

	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
	emit_load_abs_zx(&t->e, GPR_RCX, CTX(t->bt, intr), false);
	emit_bytes(&t->e, "\xe3\x00", 2); /* jrcxz */
	skip = t->e.p;
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_callout(t);
	t->stop = ~0u; /* not the block's end */
	skip[-1] = t->e.p - skip;
	tr_record(t, t->at, SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, 0);
	store_if(t, FL_IF >> 8);
	t->behind_sti = t->at + 1;
}

/* The host's IF is always set and goes onto the stack with the rest: take it off if the guest's is
 * clear. */
static void tr_pushf(struct tr *t, const struct insn *in)
{
	emit_pushfq(&t->e);
	tr_record(t, t->at, RECOVER_NEVER);
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_bytes(&t->e, "\x0f\xb6\x44\x24\x01", 5); /* movzx eax, byte [rsp+1] */
	emit_load_abs_zx(&t->e, GPR_RCX, CTX(t->bt, sflags) + 1, false);
	emit_bytes(&t->e, "\x8d\x44\x08\xfe", 4); /* lea eax, [rax+rcx-2] */
	emit_bytes(&t->e, "\x88\x44\x24\x01", 4); /* mov [rsp+1], al */
	tr_record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
}

/* False: a tr_callout. */
bool tr_sensitive(struct tr *t, const struct insn *in)
{
	if (in->map != INSN_MAP_1B)
		return false;
	switch (in->opcode) {
	case 0x8c: /* mov from a segment register */
		if (in->has_mem || in->opsize < 4 || in->rm == GPR_RSP ||
		    (in->reg & 7) >= SEG_COUNT)
			return false;
		emit_load_abs_zx(&t->e, in->rm, CTX(t->bt, seg[in->reg & 7].sel), true);
		return true;
	case 0x9c:
		if (in->opsize != 8)
			return false;
		tr_pushf(t, in);
		return true;
	case 0xfa: store_if(t, 0); return true;
	case 0xfb: tr_sti(t); return true;
	case 0xfc: return true; /* CLD: DF is clear */
	default: return false;
	}
}
