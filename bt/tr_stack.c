/*
 * Instructions that use RSP as data: the bias is taken off on the way out and put on on the way in.
 *
 * The general way: a scratch register that the instruction does not use takes guest RSP, the
 * instruction is copied with that register in RSP's place (RSP as the base of a memory operand
 * stays), and if it has changed RSP, that is the scratch register plus the bias. The most frequent
 * forms are shorter.
 */
#include <string.h>

#include "tr.h"

/* --- the general way --- */

#define NO_SCRATCH 3

/* RAX, RCX or RDX, whichever the instruction leaves alone; NO_SCRATCH: none. */
static unsigned pick_scratch(const struct insn *in)
{
	u16 busy = in->gpr_read | in->gpr_written | in->gpr_implicit;
	unsigned r = 0;

	while (r < NO_SCRATCH && (busy >> r & 1))
		r++;
	return r;
}

/* Scratch registers and their spills are numbered alike. */
_Static_assert(GPR_RAX == 0 && GPR_RCX == 1 && GPR_RDX == 2, "spill[]");
_Static_assert(SPILL_RAX == 1 && SPILL_RCX == 2 && SPILL_RDX == 4, "1 << register");

/* Spill it and load guest RSP into it. */
static void take_rsp(struct tr *t, unsigned r)
{
	emit_store_abs(&t->e, r, CTX(t->bt, bt.spill[r]));
	tr_record(t, t->at, 1u << r);
	emit_movabs(&t->e, r, -t->bias);
	emit_lea_sum(&t->e, r, GPR_RSP, r, 0);
}

/* RSP = r + bias, behind an instruction that has committed. */
static void give_rsp(struct tr *t, unsigned r)
{
	tr_record(t, t->at, RECOVER_NEVER);
	emit_movabs(&t->e, GPR_RSP, t->bias);
	emit_lea_sum(&t->e, GPR_RSP, GPR_RSP, r, 0); /* RSP cannot be an index */
}

static void unspill(struct tr *t, const struct insn *in, unsigned r)
{
	tr_record(t, t->at + in->len, 1u << r);
	emit_load_abs(&t->e, r, CTX(t->bt, bt.spill[r]));
}

/* Decode m's bytes again; does it still have the length, and RSP as an operand no more? */
static bool without_rsp(struct tr *t, struct insn *m)
{
	struct insn in;

	if (decoder_decode(t->bt->c->engine->decoder, m->bytes, m->len, INSN_MODE_64, &in) !=
		m->len ||
	    in.rsp_operand)
		return false;
	*m = in;
	return true;
}

/*
 * The instruction with r in RSP's place. Which of the fields that hold 4 mean RSP, and not an
 * opcode extension or AH, the decoder tells. No REX bit changes: RSP has none, and nor has r.
 */
static bool replace_rsp(struct tr *t, const struct insn *in, unsigned r, struct insn *m)
{
	u8 rm = (in->modrm & 0xf8) | r, reg = (in->modrm & 0xc7) | r << 3;
	const u8 modrm[3] = {rm, reg, (rm & 0xc7) | r << 3};
	unsigned i;

	*m = *in;
	if (!in->has_modrm) {
		m->bytes[in->off_opcode] = (in->opcode & 0xf8) | r;
		return without_rsp(t, m);
	}
	for (i = in->has_mem ? 1 : 0; i < (in->has_mem ? 2u : 3u); i++) {
		m->bytes[in->off_modrm] = modrm[i];
		if ((i == 1 || (in->modrm & 7) == GPR_RSP) && without_rsp(t, m))
			return true;
	}
	return false;
}

static bool tr_rsp_operand(struct tr *t, const struct insn *in)
{
	unsigned r = pick_scratch(in);
	struct insn m;

	if (r == NO_SCRATCH || in->enc != INSN_LEGACY || !in->rsp_operand ||
	    (in->has_mem && !tr_relocatable(t, in)) || !replace_rsp(t, in, r, &m))
		return false;
	take_rsp(t, r);
	if (m.has_mem)
		tr_copy_memory(t, &m);
	else
		tr_copy_plain(t, &m, 0);
	if (in->gpr_written >> GPR_RSP & 1)
		give_rsp(t, r);
	unspill(t, in, r);
	return true;
}

/* LEA with RSP as its base or destination or both. */
static bool tr_lea_rsp(struct tr *t, const struct insn *in)
{
	unsigned r = pick_scratch(in);
	struct insn m = *in;

	if (r == NO_SCRATCH)
		return false;
	if (in->base == GPR_RSP) /* in the SIB byte */
		m.bytes[in->off_modrm + 1] = (m.bytes[in->off_modrm + 1] & 0xf8) | r;
	if (in->reg == GPR_RSP)
		m.bytes[in->off_modrm] = (in->modrm & 0xc7) | r << 3;
	take_rsp(t, r);
	tr_copy_plain(t, &m, 0);
	if (in->reg == GPR_RSP)
		give_rsp(t, r);
	unspill(t, in, r);
	return true;
}

/* --- the frequent forms --- */

bool tr_lea(struct tr *t, const struct insn *in)
{
	if (in->base == REG_RIP) {
		u64 v = t->at + in->len + in->disp;

		if (in->opsize != 8 || in->addrsize != 8 || in->reg == GPR_RSP)
			return false;
		emit_movabs(&t->e, in->reg, v);
		return true;
	}
	if ((in->base != GPR_RSP && in->reg != GPR_RSP) ||
	    (in->base == GPR_RSP && in->reg == GPR_RSP && in->opsize == 8 && in->addrsize == 8)) {
		tr_copy_plain(t, in, 0); /* bias in, bias out */
		return true;
	}
	if (in->base == GPR_RSP && in->index == REG_NONE && in->opsize == 8 && in->addrsize == 8) {
		/* Two host instructions, but the first only destroys the destination. */
		emit_movabs(&t->e, in->reg, -t->bias);
		tr_record(t, t->at, RECOVER_NEVER);
		emit_lea_sum(&t->e, in->reg, GPR_RSP, in->reg, in->disp);
		return true;
	}
	return tr_lea_rsp(t, in);
}

/* mov r, rsp; mov rsp, r */
static bool tr_rsp_mov(struct tr *t, const struct insn *in)
{
	unsigned src = in->opcode == 0x89 ? in->reg : in->rm;
	unsigned dst = in->opcode == 0x89 ? in->rm : in->reg;

	if (in->has_mem || in->opsize != 8 || src == dst)
		return false;
	if (src == GPR_RSP) {
		emit_movabs(&t->e, dst, -t->bias);
		tr_record(t, t->at, RECOVER_NEVER);
		emit_lea_sum(&t->e, dst, GPR_RSP, dst, 0);
		return true;
	}
	emit_movabs(&t->e, GPR_RSP, t->bias);
	tr_record(t, t->at, RECOVER_NEVER);
	/* lea rsp, [src + rsp]: RSP cannot be an index, so it is the base */
	emit_lea_sum(&t->e, GPR_RSP, GPR_RSP, src, 0);
	return true;
}

/* What is pushed is RSP before the push. */
static void tr_push_rsp(struct tr *t, const struct insn *in)
{
	take_rsp(t, GPR_RAX);
	emit_push(&t->e, GPR_RAX);
	unspill(t, in, GPR_RAX);
}

static void tr_pop_rsp(struct tr *t, const struct insn *in)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, SPILL_RAX);
	emit_bytes(&t->e, "\x48\x8b\x04\x24", 4); /* mov rax, [rsp] */
	give_rsp(t, GPR_RAX);
	unspill(t, in, GPR_RAX);
}

static bool tr_leave(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8)
		return false;
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, SPILL_RAX);
	emit_movabs(&t->e, GPR_RAX, t->bias);
	emit_lea_sum(&t->e, GPR_RAX, GPR_RBP, GPR_RAX, 0);
	emit_bytes(&t->e, "\x48\x8b\x28", 3); /* mov rbp, [rax] */
	tr_record(t, t->at, RECOVER_NEVER);
	emit_bytes(&t->e, "\x48\x8d\x60\x08", 4); /* lea rsp, [rax+8] */
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

static bool tr_push_pop(struct tr *t, const struct insn *in, bool push, unsigned r)
{
	if (r != GPR_RSP) {
		tr_copy_plain(t, in, 0);
		return true;
	}
	if (in->opsize != 8)
		return false;
	if (push)
		tr_push_rsp(t, in);
	else
		tr_pop_rsp(t, in);
	return true;
}

bool tr_stack(struct tr *t, const struct insn *in, exec_fn *f)
{
	if (f == exec_push || f == exec_pop)
		return tr_push_pop(t, in, f == exec_push, (in->opcode & 7) | (in->rex & 1) << 3);
	if (f == exec_push_imm) {
		tr_copy_plain(t, in, 0);
		return true;
	}
	if (f == exec_push_rm || f == exec_pop_rm) {
		if (!in->has_mem)
			return tr_push_pop(t, in, f == exec_push_rm, in->rm);
		if (!tr_relocatable(t, in))
			return false;
		tr_copy_memory(t, in);
		return true;
	}
	if (f == exec_leave)
		return tr_leave(t, in);
	if (f != exec_reg && f != exec_mem && f != exec_bit_string)
		return false;
	if (in->map == INSN_MAP_1B && (in->opcode == 0x89 || in->opcode == 0x8b) &&
	    tr_rsp_mov(t, in))
		return true;
	return tr_rsp_operand(t, in);
}
