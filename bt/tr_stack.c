/*
 * Instructions that use RSP as data: the bias is taken off on the way out and put on on the way in.
 */
#include <string.h>

#include "tr.h"

bool tr_lea(struct tr *t, const struct insn *in)
{
	if (in->addrsize != 8)
		return false;
	if (in->base == REG_RIP) {
		u64 v = t->at + in->len + in->disp;

		if (in->opsize != 8 || in->reg == GPR_RSP)
			return false;
		emit_movabs(&t->e, in->reg, v);
		return true;
	}
	if (in->base != GPR_RSP && in->reg != GPR_RSP) {
		tr_copy_plain(t, in, 0);
		return true;
	}
	if (in->opsize != 8 || !fits_s32(in->disp))
		return false;
	if (in->base == GPR_RSP && in->reg == GPR_RSP) {
		tr_copy_plain(t, in, 0); /* bias in, bias out */
		return true;
	}
	if (in->base == GPR_RSP) {
		if (in->index != REG_NONE)
			return false;
		/* Two host instructions, but the first only destroys the destination. */
		emit_movabs(&t->e, in->reg, -SHADOW_BIAS);
		tr_record(t, t->at, RECOVER_NEVER);
		emit_lea_sum(&t->e, in->reg, GPR_RSP, in->reg, in->disp);
		return true;
	}
	if (in->base == REG_NONE || in->index != REG_NONE || in->base == GPR_RAX)
		return false;
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0])); /* lea rsp, [base + disp] */
	tr_record(t, t->at, SPILL_RAX);
	emit_movabs(&t->e, GPR_RAX, SHADOW_BIAS);
	emit_lea_sum(&t->e, GPR_RSP, in->base, GPR_RAX, in->disp);
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

/* mov r, rsp; mov rsp, r; add, sub rsp, imm (flags as the guest's RSP gives them). */
static bool tr_rsp_mov(struct tr *t, const struct insn *in)
{
	unsigned src = in->opcode == 0x89 ? in->reg : in->rm;
	unsigned dst = in->opcode == 0x89 ? in->rm : in->reg;

	if (in->has_mem || in->opsize != 8 || src == dst)
		return false;
	if (src == GPR_RSP) {
		emit_movabs(&t->e, dst, -SHADOW_BIAS);
		tr_record(t, t->at, RECOVER_NEVER);
		emit_lea_sum(&t->e, dst, GPR_RSP, dst, 0);
		return true;
	}
	emit_movabs(&t->e, GPR_RSP, SHADOW_BIAS);
	tr_record(t, t->at, RECOVER_NEVER);
	/* lea rsp, [src + rsp]: RSP cannot be an index, so it is the base */
	emit_lea_sum(&t->e, GPR_RSP, GPR_RSP, src, 0);
	return true;
}

static bool tr_rsp_add(struct tr *t, const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;
	u8 op[7] = {0x48, 0x81, (u8)(0xc0 | ext << 3)};
	s32 imm = (s32)in->imm;

	if (in->has_mem || in->opsize != 8 || in->rm != GPR_RSP || (ext != 0 && ext != 5))
		return false;
	/* rax = guest RSP op imm, with its flags; then rsp = rax + bias. */
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
	emit_movabs(&t->e, GPR_RAX, -SHADOW_BIAS);
	emit_movabs(&t->e, GPR_RCX, SHADOW_BIAS);
	emit_lea_sum(&t->e, GPR_RAX, GPR_RSP, GPR_RAX, 0);
	memcpy(op + 3, &imm, 4);
	emit_bytes(&t->e, op, sizeof(op));
	tr_record(t, t->at, RECOVER_NEVER); /* flags are the new ones, RSP is not */
	emit_lea_sum(&t->e, GPR_RSP, GPR_RAX, GPR_RCX, 0);
	tr_record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

static bool tr_leave(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8)
		return false;
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, SPILL_RAX);
	emit_movabs(&t->e, GPR_RAX, SHADOW_BIAS);
	emit_lea_sum(&t->e, GPR_RAX, GPR_RBP, GPR_RAX, 0);
	emit_bytes(&t->e, "\x48\x8b\x28", 3); /* mov rbp, [rax] */
	tr_record(t, t->at, RECOVER_NEVER);
	emit_bytes(&t->e, "\x48\x8d\x60\x08", 4); /* lea rsp, [rax+8] */
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

bool tr_stack(struct tr *t, const struct insn *in, exec_fn *f)
{
	unsigned r = (in->opcode & 7) | (in->rex & 1) << 3;

	if (f == exec_push || f == exec_pop) {
		if (r == GPR_RSP || in->opsize != 8)
			return false;
		tr_copy_plain(t, in, 0);
		return true;
	}
	if (f == exec_push_imm && in->opsize == 8) {
		tr_copy_plain(t, in, 0);
		return true;
	}
	if (f == exec_push_rm && in->has_mem && in->opsize == 8 && tr_relocatable(t, in)) {
		tr_copy_memory(t, in);
		return true;
	}
	if (f == exec_leave)
		return tr_leave(t, in);
	if (f != exec_reg)
		return false;
	if (in->map == INSN_MAP_1B && (in->opcode == 0x89 || in->opcode == 0x8b))
		return tr_rsp_mov(t, in);
	if (in->map == INSN_MAP_1B && (in->opcode == 0x81 || in->opcode == 0x83))
		return tr_rsp_add(t, in);
	return false;
}
