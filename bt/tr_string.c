/*
 * MOVS, STOS, LODS, SCAS and CMPS, with or without a repeat prefix. Their destination has no
 * segment that could carry the bias (ES cannot be overridden), so RDI and RSI carry it themselves
 * while the instruction runs: added and taken off by LEA, which leaves the flags alone.
 *
 * A fault or a signal between iterations finds RCX, RSI, RDI as far as the host has come; the
 * recovery record says which of them carry the bias, and RIP is still that of the instruction. The
 * rest is then stepped or, after a kick, translated again from there.
 *
 * DF is clear in translated code (bt_eligible).
 */
#include "tr.h"

static void move_register(struct tr *t, unsigned reg)
{
	emit_lea_sum(&t->e, reg, reg, GPR_RDX, 0);
}

bool tr_string(struct tr *t, const struct insn *in)
{
	u8 op = in->opcode & 0xfe, carries = 0;
	u64 next = t->at + in->len;
	bool gs = in->seg == SEG_GS;

	if (op < 0xa4 || in->addrsize != 8 || in->seg == SEG_FS) /* INS, OUTS; 32-bit addresses */
		return false;
	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_record(t, t->at, SPILL_RDX);
	emit_movabs(&t->e, GPR_RDX, SHADOW_BIAS);
	if (op != 0xac) { /* all but LODS */
		move_register(t, GPR_RDI);
		carries |= RECOVER_RDI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	/* The guest's GS base comes with the bias; the host's FS has it. */
	if (!gs && (op == 0xa4 || op == 0xa6 || op == 0xac)) {
		move_register(t, GPR_RSI);
		carries |= RECOVER_RSI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	tr_copy_plain(t, in, gs ? 0x64 : 0);
	tr_record(t, next, SPILL_RDX | carries);
	emit_movabs(&t->e, GPR_RDX, -SHADOW_BIAS);
	if (carries & RECOVER_RDI_BIAS) {
		move_register(t, GPR_RDI);
		carries &= ~RECOVER_RDI_BIAS;
		tr_record(t, next, SPILL_RDX | carries);
	}
	if (carries & RECOVER_RSI_BIAS) {
		move_register(t, GPR_RSI);
		tr_record(t, next, SPILL_RDX);
	}
	emit_load_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	return true;
}
