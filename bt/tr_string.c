/*
 * MOVS, STOS, LODS, SCAS and CMPS, with or without a repeat prefix. Their destination has no
 * segment that could carry the bias (ES cannot be overridden), so RDI and RSI carry it themselves
 * while the instruction runs: added and taken off by LEA, which leaves the flags alone.
 *
 * A fault or a signal between iterations finds RCX, RSI, RDI as far as the host has come; the
 * recovery record says which of them carry the bias, and RIP is still that of the instruction. The
 * rest is then stepped or, after a kick, translated again from there.
 *
 * A place that has met an address of the other half once may be one that always does (copy_to_user)
 * or one that hardly ever does (the kernel's memcpy, which also writes to the text-poking address
 * space). Once promoted it looks at its addresses: those of the half it runs in still go inline,
 * others are callouts.
 *
 * DF is clear in translated code (bt_eligible).
 */
#include "tr.h"

static void move_register(struct tr *t, unsigned reg)
{
	emit_lea_sum(&t->e, reg, reg, GPR_RDX, 0);
}

/* Jump if reg is of the other half: by JRCXZ on its upper 16 bits; returns the byte to be patched.
 */
static u8 *jump_if_other_half(struct tr *t, unsigned reg)
{
	emit_mov64(&t->e, GPR_RCX, reg);
	emit_bytes(&t->e, "\x48\x0f\xc9", 3); /* bswap rcx */
	emit_bytes(&t->e, "\x0f\xb7\xc9", 3); /* movzx ecx, cx */
	if (t->regime == R64H)
		emit_bytes(&t->e, "\xe3\x00", 2);
	else
		emit_bytes(&t->e, "\xe3\x02\xeb\x00", 4);
	return t->e.p;
}

/* Addresses of the other half in RDI (RSI): a callout. */
static void look_at_addresses(struct tr *t, bool rdi, bool rsi)
{
	u8 *out[2] = {NULL, NULL}, *go;
	unsigned i;

	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
	if (rdi)
		out[0] = jump_if_other_half(t, GPR_RDI);
	if (rsi)
		out[1] = jump_if_other_half(t, GPR_RSI);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_bytes(&t->e, "\xeb\x00", 2);
	go = t->e.p;
	for (i = 0; i < 2; i++)
		if (out[i])
			out[i][-1] = t->e.p - out[i];
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_callout(t);
	t->stop = ~0u; /* not the block's end */
	go[-1] = t->e.p - go;
	tr_record(t, t->at, 0);
}

static bool uses_rsi(u8 op)
{
	return op == 0xa4 || op == 0xa6 || op == 0xac;
}

bool tr_string(struct tr *t, const struct insn *in)
{
	u8 op = in->opcode & 0xfe, carries = 0;
	u64 next = t->at + in->len;
	bool gs = in->seg == SEG_GS;

	if (op < 0xa4 || in->addrsize != 8 || in->seg == SEG_FS) /* INS, OUTS; 32-bit addresses */
		return false;
	if (bt_is_promoted(t->bt, t->at))
		look_at_addresses(t, op != 0xac, uses_rsi(op) && !gs);
	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_record(t, t->at, SPILL_RDX);
	emit_movabs(&t->e, GPR_RDX, t->bias);
	if (op != 0xac) { /* all but LODS */
		move_register(t, GPR_RDI);
		carries |= RECOVER_RDI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	/* The guest's GS base comes with the bias; the host's FS has it. */
	if (!gs && uses_rsi(op)) {
		move_register(t, GPR_RSI);
		carries |= RECOVER_RSI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	tr_copy_plain(t, in, gs ? 0x64 : 0);
	tr_record(t, next, SPILL_RDX | carries);
	emit_movabs(&t->e, GPR_RDX, -t->bias);
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
