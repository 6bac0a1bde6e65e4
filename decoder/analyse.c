/*
 * From the operands of an opcode row to what the rest of ringshift asks about an instruction: bytes
 * touched and their direction, registers and flags read and written, register files used.
 *
 * All sets are on the safe side: what an instruction may read is in the read set, what it may write
 * in the written set. A register that is written in part (8 or 16 bits) or under a condition counts
 * as read too, because its old value shows through.
 */
#include "optable.h"

#include <string.h>

unsigned operand_bytes(const struct insn *in, char size)
{
	unsigned vl = in->vl ? in->vl : 16;
	bool m64 = in->mode == INSN_MODE_64;

	switch (size) {
	case 'b': return 1;
	case 'w': return 2;
	case 'd': return 4;
	case 'q': return 8;
	case 'o': return 16;
	case 'Y': return 32;
	case 'v': return in->opsize;
	case 'z': return MIN(in->opsize, 4);
	case 'y': return m64 && in->w ? 8 : 4;
	case 'a': return in->addrsize;
	case 'r': return m64 ? 8 : 4;
	case 't': return 10;
	case 'p': return in->opsize + 2;
	case 's': return m64 ? 10 : 6;
	case 'G': return m64 && in->w ? 16 : 8;
	case 'B': return 2 * in->opsize;
	case 'x': return vl;
	case 'h': return vl / 2;
	case 'f': return vl / 4;
	case 'e': return vl / 8;
	case 'u': return vl == 16 ? 8 : vl;
	case 'g': return in->w ? 8 : 4;
	case 'c':
	case 'C': return vl;
	case 'n': return in->opsize == 2 ? 14 : 28;
	case 'm': return in->opsize == 2 ? 94 : 108;
	case 'X': return 512;
	default: return 0;
	}
}

/* Bytes of a memory operand: with EVEX.b a full or half vector is one element, repeated. */
static unsigned memory_bytes(const struct insn *in, char size)
{
	if (in->enc == INSN_EVEX && in->evex_b && (size == 'x' || size == 'h'))
		return in->w ? 8 : 4;
	return operand_bytes(in, size);
}

static const struct operand *memory_operand(const struct op *op)
{
	for (unsigned i = 0; i < op->operands_len; i++)
		if (strchr("ETMWQLFO", op->operands[i].kind))
			return &op->operands[i];
	return NULL;
}

unsigned operand_disp8_scale(const struct insn *in, const struct op *op)
{
	const struct operand *o = memory_operand(op);

	if (!o)
		return 1;
	switch (o->size) {
	case 'c': return in->w ? 8 : 4;
	case 'C': return in->w ? 2 : 1;
	default: return memory_bytes(in, o->size);
	}
}

static void note_gpr(struct insn *in, unsigned number, unsigned access, unsigned bytes)
{
	bool high = bytes == 1 && in->enc == INSN_LEGACY && !in->rex && number >= 4 && number < 8;
	u16 bit = 1u << (high ? number - 4 : number & 15);

	if ((access & ACCESS_R) || ((access & ACCESS_W) && bytes < 4))
		in->gpr_read |= bit;
	if (access & ACCESS_W)
		in->gpr_written |= bit;
}

/* A register that ModRM, the opcode or vvvv names. */
static void note_named(struct insn *in, unsigned number, unsigned access, unsigned bytes)
{
	note_gpr(in, number, access, bytes);
	if (number == GPR_RSP && (bytes > 1 || in->rex || in->enc != INSN_LEGACY))
		in->rsp_operand = true;
}

static void note_implicit(struct insn *in, unsigned number, const struct operand *o)
{
	in->gpr_implicit |= 1u << number;
	/* 4 bytes: these are never high-byte registers. */
	note_gpr(in, number, o->access, 4);
	if (operand_bytes(in, o->size) < 4)
		note_gpr(in, number, ACCESS_R, 4);
}

static void note_state(struct insn *in, char kind)
{
	switch (kind) {
	case 'W':
	case 'U':
	case 'V':
		in->state |= in->enc == INSN_LEGACY ? STATE_SSE
			     : in->enc == INSN_VEX  ? STATE_AVX
						    : STATE_AVX512;
		break;
	case 'Q':
	case 'N':
	case 'P': in->state |= STATE_MMX; break;
	case 'K':
	case 'L':
	case 'k': in->state |= STATE_OPMASK | STATE_AVX512; break;
	case 'F': in->state |= STATE_X87; break;
	default: break;
	}
}

static void note_operand(struct insn *in, const struct operand *o)
{
	static const char implicit[] = "acdbspij"; /* in the order of enum GPR_* */
	const char *p;

	note_state(in, o->kind);
	if (in->has_mem && strchr("ETMWQLFO", o->kind)) {
		in->access = o->access;
		in->mem_size = o->access == ACCESS_NONE ? 0 : memory_bytes(in, o->size);
		return;
	}
	switch (o->kind) {
	case 'E':
	case 'R': note_named(in, in->rm, o->access, operand_bytes(in, o->size)); return;
	case 'T': note_named(in, in->rm, o->access, 4); return;
	case 'G': note_named(in, in->reg, o->access, operand_bytes(in, o->size)); return;
	case 'B': note_named(in, in->vvvv, o->access, operand_bytes(in, o->size)); return;
	case 'Z':
		note_named(in, (in->opcode & 7) | (in->rex & 1) << 3, o->access,
			   operand_bytes(in, o->size));
		return;
	default: break;
	}
	p = strchr(implicit, o->kind);
	if (p)
		note_implicit(in, p - implicit, o);
}

/* Flags of the sixteen conditions, by bits 3-1 of the opcode: o c z be s p l le. */
static u16 condition_flags(u8 opcode)
{
	static const u16 flags[] = {FL_OF, FL_CF, FL_ZF,         FL_CF | FL_ZF,
				    FL_SF, FL_PF, FL_SF | FL_OF, FL_ZF | FL_SF | FL_OF};

	return flags[opcode >> 1 & 7];
}

static void analyse_flags(const struct op *op, struct insn *in)
{
	in->flags_read = op->fr;
	in->flags_written = op->fw;
	if (op->attr & CC)
		in->flags_read |= condition_flags(in->opcode);
	in->flags_partial = op->fw && ((op->fw & FL_ARITH) != FL_ARITH || (op->attr & PARTIAL) ||
				       ((op->attr & SHIFTIMM) && !(in->imm & 31)));
}

static void analyse_strings(const struct op *op, struct insn *in)
{
	if (!(op->attr & STR) || !(in->prefixes & (PFX_REP | PFX_REPNE)))
		return;
	in->gpr_implicit |= 1u << GPR_RCX;
	in->gpr_read |= 1u << GPR_RCX;
	in->gpr_written |= 1u << GPR_RCX;
	in->flags_partial = in->flags_written; /* none is touched if the count is zero */
	if (in->gpr_written & 1u << GPR_RAX)
		in->gpr_read |= 1u << GPR_RAX;
}

void insn_analyse(const struct op *op, struct insn *in)
{
	if (in->has_mem && !in->moffs) {
		if (in->base != REG_NONE && in->base != REG_RIP)
			in->gpr_read |= 1u << in->base;
		if (in->index != REG_NONE && !in->vsib)
			in->gpr_read |= 1u << in->index;
	}
	for (unsigned i = 0; i < op->operands_len; i++)
		note_operand(in, &op->operands[i]);
	analyse_flags(op, in);
	analyse_strings(op, in);
	if (op->attr & X87)
		in->state |= STATE_X87;
	if (op->attr & MMX)
		in->state |= STATE_MMX;
	if (op->attr & VECTOR)
		note_state(in, 'V');
	if (in->evex_aaa)
		in->state |= STATE_OPMASK;
	if ((op->attr & SYSCALL) && in->mode == INSN_MODE_64) {
		in->gpr_implicit |= 1u << GPR_R11;
		in->gpr_read |= 1u << GPR_R11;
		in->gpr_written |= 1u << GPR_R11;
	}
	in->lockable = (op->attr & LOCK) && in->has_mem;
}
