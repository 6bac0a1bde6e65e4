/*
 * Copying an instruction with its memory operand relocated: a segment prefix in front, or an
 * absolute address in place of a RIP-relative one. Emitted code can name what lies in the top 2 GiB
 * or the bottom 4; of other addresses a register takes the place.
 */
#include "tr.h"

static bool is_segment_prefix(u8 b)
{
	return (b & 0xe7) == 0x26 || (b & 0xfe) == 0x64;
}

static bool is_rex(u8 b)
{
	return (b & 0xf0) == 0x40;
}

static bool is_prefix(u8 b)
{
	return is_segment_prefix(b) || is_rex(b) || (b & 0xfe) == 0x66 || b == 0xf0 ||
	       (b & 0xfe) == 0xf2;
}

/* A REX that another prefix follows means nothing, and must not come to. */
static bool void_rex(const struct insn *in, unsigned i)
{
	return is_rex(in->bytes[i]) && i + 1 < in->off_opcode && is_prefix(in->bytes[i + 1]);
}

/* The instruction without segment prefixes, with another prefix in front (0: none). */
void tr_copy_plain(struct tr *t, const struct insn *in, u8 prefix)
{
	unsigned i = 0;

	if (prefix)
		emit_u8(&t->e, prefix);
	for (; i < in->off_opcode && is_prefix(in->bytes[i]); i++)
		if (!is_segment_prefix(in->bytes[i]) && !void_rex(in, i))
			emit_u8(&t->e, in->bytes[i]);
	emit_bytes(&t->e, in->bytes + i, in->len - i);
}

/* What comes before ModRM, for another memory operand that needs neither X nor B. */
static void copy_opcode(struct emit *e, const struct insn *in)
{
	unsigned i;

	for (i = 0; i < in->off_modrm; i++) {
		u8 b = in->bytes[i];

		if (i < in->off_opcode && (is_segment_prefix(b) || void_rex(in, i)))
			continue;
		if (in->enc == INSN_LEGACY && i < in->off_opcode && is_rex(b))
			b &= ~3;
		if (i == in->off_opcode + 1u &&
		    (in->enc == INSN_EVEX ||
		     (in->enc == INSN_VEX && in->bytes[in->off_opcode] == 0xc4)))
			b |= 0x60;
		emit_u8(e, b);
	}
}

unsigned tr_with_base(const struct insn *in, unsigned base, s32 disp, u8 out[INSN_MAX_LEN])
{
	struct emit e = {.p = out, .end = out + INSN_MAX_LEN};

	copy_opcode(&e, in);
	emit_u8(&e, (in->modrm & 0x38) | base | (!disp ? 0 : disp == (s8)disp ? 0x40 : 0x80));
	if (disp)
		emit_bytes(&e, &disp, disp == (s8)disp ? 1 : 4);
	emit_bytes(&e, in->bytes + in->off_imm, in->imm_size);
	return e.p - out;
}

void tr_copy_rip_relative(struct tr *t, const struct insn *in, u8 prefix, u64 addr)
{
	if (prefix)
		emit_u8(&t->e, prefix);
	if (!fits_s32(addr))
		emit_u8(&t->e, 0x67);
	/* X means nothing without a SIB byte, and would now make R12 the index. */
	copy_opcode(&t->e, in);
	emit_u8(&t->e, (in->modrm & 0x38) | 4);
	emit_u8(&t->e, 0x25);
	emit_u32(&t->e, addr);
	emit_bytes(&t->e, in->bytes + in->off_imm, in->imm_size);
}

/* RAX, RCX or RDX, whichever the instruction leaves alone, or REG_NONE. */
static unsigned free_register(const struct insn *in)
{
	u16 busy = in->gpr_read | in->gpr_written | in->gpr_implicit;
	unsigned r;

	for (r = GPR_RAX; r <= GPR_RDX; r++)
		if (!(busy >> r & 1))
			return r;
	return REG_NONE;
}

/* Can the memory operand be relocated? */
bool tr_relocatable(const struct tr *t, const struct insn *in)
{
	if (in->addrsize != 8 || in->moffs || in->vsib || in->seg == SEG_FS)
		return false;
	if (in->base == GPR_RSP && in->seg == SEG_GS)
		return false;
	if (in->base == REG_RIP && !is_nameable(t->at + in->len + in->disp))
		return !in->rsp_operand && free_register(in) != REG_NONE;
	return true;
}

static void copy_by_register(struct tr *t, const struct insn *in, u8 prefix, u64 addr)
{
	unsigned r = free_register(in), len;
	u8 bytes[INSN_MAX_LEN];

	emit_store_abs(&t->e, r, CTX(t->bt, bt.spill[r]));
	tr_record(t, t->at, 1u << r);
	emit_movabs(&t->e, r, addr);
	emit_u8(&t->e, prefix);
	len = tr_with_base(in, r, 0, bytes);
	emit_bytes(&t->e, bytes, len);
	tr_record(t, t->at + in->len, 1u << r);
	emit_load_abs(&t->e, r, CTX(t->bt, bt.spill[r]));
}

void tr_copy_memory(struct tr *t, const struct insn *in)
{
	u8 prefix = in->base == GPR_RSP ? 0 : in->seg == SEG_GS ? 0x64 : 0x65;
	u64 addr = t->at + in->len + in->disp;

	if (in->base != REG_RIP)
		tr_copy_plain(t, in, prefix);
	else if (is_nameable(addr))
		tr_copy_rip_relative(t, in, prefix, addr);
	else
		copy_by_register(t, in, prefix, addr);
}

bool tr_rsp_is_data(const struct insn *in)
{
	return in->rsp_operand || (in->gpr_implicit >> GPR_RSP & 1);
}
