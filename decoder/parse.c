/*
 * The structural parse: where each field of an instruction lies and what it says, by the rules of
 * the Intel SDM, vol. 2, chapter 2, alone.
 *
 *   prefixes (any order) | REX | opcode, or VEX/EVEX and opcode | ModRM | SIB | disp | imm
 *
 * Rules that are easy to get wrong:
 *  - of F2 and F3, and of several segment overrides, the last one counts;
 *  - a REX byte counts only if the opcode (or 0F) follows at once;
 *  - in 64-bit mode overrides of ES, CS, SS and DS do nothing, not even undo an FS or GS;
 *  - C4, C5 and 62 are LES, LDS and BOUND outside 64-bit mode unless the next byte looks like a
 *    register ModRM;
 *  - 66, F2, F3, LOCK and REX before VEX or EVEX are #UD;
 *  - an instruction of more than 15 bytes does not exist, whatever the bytes are.
 */
#include "optable.h"

#include <errno.h>
#include <string.h>

struct cursor {
	const u8 *bytes;
	size_t avail;
	unsigned pos;
};

static int need(const struct cursor *c, unsigned n)
{
	if (c->pos + n <= c->avail)
		return 0;
	return c->avail >= INSN_MAX_LEN || c->pos + n > INSN_MAX_LEN ? -EILSEQ : -ENODATA;
}

/* Takes one legacy prefix or REX; false if b is none. */
static bool take_prefix(struct insn *in, u8 b)
{
	static const u8 segs[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS};
	bool m64 = in->mode == INSN_MODE_64;

	if (m64 && (b & 0xf0) == 0x40) {
		in->rex = b;
		return true;
	}
	switch (b) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
		if (!m64) {
			in->seg = segs[b >> 3 & 3];
			in->prefixes |= PFX_SEG;
		}
		break;
	case 0x64:
	case 0x65:
		in->seg = b == 0x64 ? SEG_FS : SEG_GS;
		in->prefixes |= PFX_SEG;
		break;
	case 0x66: in->prefixes |= PFX_66; break;
	case 0x67: in->prefixes |= PFX_67; break;
	case 0xf0: in->prefixes |= PFX_LOCK; break;
	case 0xf2: in->prefixes = (in->prefixes & ~PFX_REP) | PFX_REPNE; break;
	case 0xf3: in->prefixes = (in->prefixes & ~PFX_REPNE) | PFX_REP; break;
	default: return false;
	}
	in->rex = 0;
	return true;
}

static int parse_prefixes(struct cursor *c, struct insn *in)
{
	for (;; c->pos++) {
		int rc = need(c, 1);

		if (rc)
			return rc;
		if (!take_prefix(in, c->bytes[c->pos]))
			return 0;
	}
}

static u8 prefix_of_pp(u8 pp)
{
	static const u8 prefix[] = {0, 0x66, 0xf3, 0xf2};

	return prefix[pp & 3];
}

/* Extension bits as a REX byte would hold them: W R X B. */
static int parse_vex(struct cursor *c, struct insn *in, u8 *ext)
{
	const u8 *p = c->bytes + c->pos;
	unsigned n = p[0] == 0xc5 ? 2 : 3;
	u8 last;
	int rc = need(c, n + 1);

	if (rc)
		return rc;
	last = p[n - 1];
	in->enc = INSN_VEX;
	in->map = n == 2 ? INSN_MAP_0F : p[1] & 0x1f;
	if (!in->map || in->map > INSN_MAP_0F3A)
		return -EILSEQ;
	*ext = ~p[1] >> 5 & 7;
	if (n == 2)
		*ext &= 4;
	else
		*ext |= last >> 4 & 8;
	in->vvvv = ~last >> 3 & 15;
	in->vl = last & 4 ? 32 : 16;
	in->mandatory = prefix_of_pp(last);
	c->pos += n;
	return 0;
}

static int parse_evex(struct cursor *c, struct insn *in, u8 *ext)
{
	const u8 *p = c->bytes + c->pos;
	int rc = need(c, 5);

	if (rc)
		return rc;
	in->enc = INSN_EVEX;
	in->map = p[1] & 7;
	if (!in->map || in->map > INSN_MAP_0F3A || (p[1] & 8) || !(p[2] & 4))
		return -EILSEQ;
	*ext = (~p[1] >> 5 & 7) | (p[2] >> 4 & 8) | (~p[1] & 0x10);
	in->vvvv = (~p[2] >> 3 & 15) | (p[3] & 8 ? 0 : 16);
	in->evex_z = p[3] >> 7;
	in->evex_b = p[3] >> 4 & 1;
	in->evex_aaa = p[3] & 7;
	in->vl = 16 << (p[3] >> 5 & 3);
	in->mandatory = prefix_of_pp(p[2]);
	c->pos += 4;
	return 0;
}

/* Opcode with its escape bytes, or the VEX/EVEX prefix and the opcode behind it. */
static int parse_opcode(struct cursor *c, struct insn *in, u8 *ext)
{
	const u8 b = c->bytes[c->pos];
	int rc;

	in->off_opcode = c->pos;
	if (b == 0xc4 || b == 0xc5 || b == 0x62) {
		rc = need(c, 2);
		if (rc)
			return rc;
		if (in->mode == INSN_MODE_64 || c->bytes[c->pos + 1] >= 0xc0) {
			if (in->rex || (in->prefixes & (PFX_66 | PFX_REP | PFX_REPNE | PFX_LOCK)))
				return -EILSEQ;
			rc = b == 0x62 ? parse_evex(c, in, ext) : parse_vex(c, in, ext);
			if (rc)
				return rc;
			in->opcode = c->bytes[c->pos++];
			return 0;
		}
	}
	*ext = in->rex & 15;
	if (b == 0x0f) {
		rc = need(c, 2);
		if (rc)
			return rc;
		c->pos++;
		in->map = INSN_MAP_0F;
		if (c->bytes[c->pos] == 0x38 || c->bytes[c->pos] == 0x3a) {
			rc = need(c, 2);
			if (rc)
				return rc;
			in->map = c->bytes[c->pos] == 0x38 ? INSN_MAP_0F38 : INSN_MAP_0F3A;
			c->pos++;
		}
	}
	in->off_opcode = c->pos;
	in->opcode = c->bytes[c->pos++];
	return 0;
}

static void parse_address_16(struct insn *in, u8 mod, u8 rm)
{
	static const u8 base[] = {GPR_RBX, GPR_RBX, GPR_RBP, GPR_RBP,
				  GPR_RSI, GPR_RDI, GPR_RBP, GPR_RBX};
	static const u8 index[] = {GPR_RSI,  GPR_RDI,  GPR_RSI,  GPR_RDI,
				   REG_NONE, REG_NONE, REG_NONE, REG_NONE};

	in->base = base[rm];
	in->index = index[rm];
	in->disp_size = mod;
	if (!mod && rm == 6) {
		in->base = REG_NONE;
		in->disp_size = 2;
	}
}

/* 32- and 64-bit addressing; ext holds X and B. V' of EVEX extends a vector index. */
static int parse_address_32(struct cursor *c, struct insn *in, const struct op *op, u8 ext)
{
	u8 mod = in->modrm >> 6, rm = in->modrm & 7;

	in->disp_size = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	if (rm == 4) {
		int rc = need(c, 1);
		u8 sib;

		if (rc)
			return rc;
		sib = c->bytes[c->pos++];
		in->scale = 1 << (sib >> 6);
		in->index = (sib >> 3 & 7) | (ext & 2) << 2;
		if (op->attr & VSIB) {
			in->vsib = true;
			in->index |= in->vvvv & 16;
		} else if (in->index == GPR_RSP) {
			in->index = REG_NONE;
		}
		rm = sib & 7;
	} else if (op->attr & VSIB) {
		return -EILSEQ;
	} else if (!mod && rm == 5) {
		in->base = in->mode == INSN_MODE_64 ? REG_RIP : REG_NONE;
		in->disp_size = 4;
		return 0;
	}
	in->base = rm | (ext & 1) << 3;
	if (!mod && rm == 5) {
		in->base = REG_NONE;
		in->disp_size = 4;
	}
	return 0;
}

static int parse_memory(struct cursor *c, struct insn *in, const struct op *op, u8 ext)
{
	int rc;

	in->has_mem = true;
	in->scale = 1;
	if (in->addrsize == 2) {
		if (op->attr & VSIB)
			return -EILSEQ;
		parse_address_16(in, in->modrm >> 6, in->modrm & 7);
	} else {
		rc = parse_address_32(c, in, op, ext);
		if (rc)
			return rc;
	}
	if (!(in->prefixes & PFX_SEG))
		in->seg = in->base == GPR_RSP || in->base == GPR_RBP ? SEG_SS : SEG_DS;
	rc = need(c, in->disp_size);
	if (rc)
		return rc;
	if (in->disp_size) {
		in->off_disp = c->pos;
		in->disp = load_signed(c->bytes + c->pos, in->disp_size);
		c->pos += in->disp_size;
		if (in->enc == INSN_EVEX && in->disp_size == 1)
			in->disp *= operand_disp8_scale(in, op);
	}
	return 0;
}

static u8 effective_opsize(const struct insn *in, const struct op *op)
{
	bool toggled = (in->prefixes & PFX_66) && in->opsize_66;

	if (in->enc != INSN_LEGACY || !in->opsize_66)
		return in->mode == INSN_MODE_64 && in->w ? 8 : 4;
	switch (in->mode) {
	case INSN_MODE_16: return toggled ? 4 : 2;
	case INSN_MODE_32: return toggled ? 2 : 4;
	default: break;
	}
	if (in->w || (op->attr & F64))
		return 8;
	return toggled ? 2 : op->attr & D64 ? 8 : 4;
}

static unsigned immediate_bytes(const struct insn *in, const struct operand *o)
{
	switch (o->kind) {
	case 'I':
	case 'J': return operand_bytes(in, o->size);
	case 'A': return operand_bytes(in, 'p');
	default: return 0;
	}
}

static int parse_immediates(struct cursor *c, struct insn *in, const struct op *op)
{
	for (unsigned i = 0; i < op->operands_len; i++) {
		const struct operand *o = &op->operands[i];
		unsigned n = immediate_bytes(in, o);
		int rc;

		if (o->kind == 'O') {
			rc = need(c, in->addrsize);
			if (rc)
				return rc;
			in->has_mem = in->moffs = true;
			in->off_disp = c->pos;
			in->disp_size = in->addrsize;
			in->disp = (s64)load_le(c->bytes + c->pos, in->addrsize);
			in->scale = 1;
			if (!(in->prefixes & PFX_SEG))
				in->seg = SEG_DS;
			c->pos += in->addrsize;
		}
		if (!n)
			continue;
		rc = need(c, n);
		if (rc)
			return rc;
		if (!in->imm_size) {
			in->off_imm = c->pos;
			in->imm = load_signed(c->bytes + c->pos,
					      o->kind == 'A' ? (unsigned)in->opsize : n);
		}
		in->imm_size += n;
		c->pos += n;
	}
	return 0;
}

/* ModRM itself. Registers come without the extensions that the mode does not have. */
static int parse_modrm(struct cursor *c, const struct optable *t, struct insn *in)
{
	int rc;

	if (!(t->at[in->map][in->opcode].has_rows & 1u << in->enc))
		return -EILSEQ;
	if (!(t->at[in->map][in->opcode].has_modrm & 1u << in->enc))
		return 0;
	rc = need(c, 1);
	if (rc)
		return rc;
	in->has_modrm = true;
	in->off_modrm = c->pos;
	in->modrm = c->bytes[c->pos++];
	return 0;
}

static bool operand_is_vector(const struct op *op, const char *kinds)
{
	for (unsigned i = 0; i < op->operands_len; i++)
		if (strchr(kinds, op->operands[i].kind))
			return true;
	return false;
}

static void extend_registers(struct insn *in, const struct op *op, u8 ext)
{
	in->reg = (in->modrm >> 3 & 7) | (ext & 4) << 1;
	in->rm = (in->modrm & 7) | (ext & 1) << 3;
	if (in->enc == INSN_EVEX) {
		if (operand_is_vector(op, "V"))
			in->reg |= ext & 0x10;
		if (operand_is_vector(op, "WU"))
			in->rm |= (ext & 2) << 3;
	}
	if (in->modrm < 0xc0)
		in->rm = 0;
}

static u8 effective_addrsize(const struct insn *in)
{
	bool toggled = in->prefixes & PFX_67;

	switch (in->mode) {
	case INSN_MODE_16: return toggled ? 4 : 2;
	case INSN_MODE_32: return toggled ? 2 : 4;
	default: return toggled ? 4 : 8;
	}
}

/* What the row decides about prefixes: which of them selects the opcode, which is a size. */
static void apply_row(struct insn *in, const struct op *op)
{
	if (in->enc == INSN_LEGACY) {
		in->opsize_66 = !op_66_selects(op);
		in->mandatory = op_mandatory_prefix(op, in);
	} else if (in->evex_b && in->modrm >= 0xc0) {
		in->vl = 64; /* L'L is the rounding mode */
	}
	in->opsize = effective_opsize(in, op);
}

int insn_parse(const struct optable *t, const u8 *bytes, size_t avail, enum insn_mode mode,
	       struct insn *in, const struct op **row)
{
	struct cursor c = {.bytes = bytes, .avail = MIN(avail, (size_t)INSN_MAX_LEN)};
	const struct op *op;
	u8 ext = 0;
	int rc;

	memset(in, 0, sizeof(*in));
	in->mode = mode;
	in->base = in->index = REG_NONE;
	in->seg = SEG_DS;
	*row = NULL;
	rc = parse_prefixes(&c, in);
	if (!rc)
		rc = parse_opcode(&c, in, &ext);
	if (!rc)
		rc = parse_modrm(&c, t, in);
	if (rc)
		goto out;
	rc = -EILSEQ;
	in->w = ext >> 3 & 1;
	if (mode != INSN_MODE_64) {
		ext &= 8;
		in->vvvv &= 7;
	}
	op = optable_find(t, in);
	if (!op || (in->vl > 64 && !(in->evex_b && in->modrm >= 0xc0)))
		goto out;
	in->addrsize = effective_addrsize(in);
	apply_row(in, op);
	extend_registers(in, op, ext);
	rc = 0;
	if (in->has_modrm && in->modrm < 0xc0 && !(op->attr & NOMOD))
		rc = parse_memory(&c, in, op, ext);
	if (!rc)
		rc = parse_immediates(&c, in, op);
	*row = op;
out:
	in->len = c.pos;
	memcpy(in->bytes, bytes, c.pos);
	return rc ? rc : (int)c.pos;
}
