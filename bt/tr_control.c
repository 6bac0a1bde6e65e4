/*
 * Control transfers: direct ones are exits that get chained, indirect ones go through the lookup.
 */
#include <string.h>

#include "tr.h"

static void spill_for_lookup(struct tr *t)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX | SPILL_RDX);
}

static bool tr_ret(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8)
		return false;
	spill_for_lookup(t);
	emit_pop(&t->e, GPR_RAX);
	tr_record(t, t->at, RECOVER_NEVER);
	if (in->opcode == 0xc2)
		emit_lea_sum(&t->e, GPR_RSP, GPR_RSP, GPR_RSP, (u16)in->imm); /* index 4: none */
	tr_jmp_to(t, t->bt->lookup_at);
	return true;
}

static bool tr_indirect(struct tr *t, const struct insn *in, bool call)
{
	u64 next = t->at + in->len;
	struct insn load = *in;

	if (in->opsize != 8 || (in->has_mem ? !tr_relocatable(t, in) : in->rm == GPR_RSP) ||
	    !fits_s32(next))
		return false;
	spill_for_lookup(t);
	/* mov rax, r/m: the same operand, another opcode */
	load.opcode = load.bytes[load.off_opcode] = 0x8b;
	load.modrm = load.bytes[load.off_modrm] = in->modrm & 0xc7;
	load.reg = 0;
	if (!(in->rex & 0x40)) { /* give it REX.W */
		memmove(load.bytes + load.off_opcode + 1, load.bytes + load.off_opcode,
			load.len - load.off_opcode);
		load.bytes[load.off_opcode] = 0x48;
		load.rex = 0x48;
		load.len++;
		load.off_opcode++;
		load.off_modrm++;
	} else {
		load.bytes[load.off_opcode - 1] = (in->rex & 0x43) | 0x48;
	}
	if (load.has_mem && load.base == REG_RIP)
		tr_copy_rip_relative(t, &load, load.seg == SEG_GS ? 0x64 : 0x65, next + in->disp);
	else if (load.has_mem)
		tr_copy_memory(t, &load);
	else
		tr_copy_plain(t, &load, 0);
	if (call) {
		emit_u8(&t->e, 0x68);
		emit_u32(&t->e, next);
	}
	tr_record(t, t->at, RECOVER_NEVER);
	tr_jmp_to(t, t->bt->lookup_at);
	return true;
}

/* An instruction that ends the block. False: tr_callout. */
bool tr_control(struct tr *t, const struct insn *in, exec_fn *f)
{
	u64 next = t->at + in->len, to = next + in->imm;

	if ((f == exec_jcc || f == exec_jmp || f == exec_call) &&
	    (!fits_s32(to) || !fits_s32(next)))
		return false;
	if (f == exec_jcc) {
		emit_u8(&t->e, 0x0f);
		emit_u8(&t->e, 0x80 | (in->opcode & 15));
		tr_exit_direct(t, to);
		tr_record(t, next, 0);
		tr_jump_direct(t, next);
		return true;
	}
	if (f == exec_jmp) {
		tr_jump_direct(t, to);
		return true;
	}
	if (f == exec_call && in->opsize == 8) {
		emit_u8(&t->e, 0x68);
		emit_u32(&t->e, next);
		tr_record(t, t->at, RECOVER_NEVER);
		tr_jump_direct(t, to);
		return true;
	}
	if (f == exec_ret)
		return tr_ret(t, in);
	if (f == exec_jmp_ind || f == exec_call_ind)
		return tr_indirect(t, in, f == exec_call_ind);
	return false;
}
