/*
 * A kernel has some hundred thousand instructions, but few thousand shapes: prefixes, opcode, ModRM
 * and SIB, without the displacement and the immediate. All that struct insn says follows from the
 * shape but these two values themselves, and it costs some hundred nanoseconds to find out, most of
 * them Capstone's. So shapes are remembered, in a table that is indexed by a hash and in which a
 * new one replaces the old one. What is not in it is decoded; Capstone names every shape.
 *
 * Where an immediate says more than its value:
 *  - of a shift, whether the count is zero: the flags are not written then;
 *  - in the maps behind 0F a byte may select the operation (CMPPS), and Capstone then names that.
 *    It has to be the same there.
 * Not remembered are VEX and EVEX, more than seven bytes up to SIB, two immediates (ENTER, EXTRQ),
 * far pointers, and what is no instruction. tests/soak/shapes.c compares with what is decoded.
 */
#include "shapes.h"

#include <string.h>

#define BITS     13
#define MAX_HEAD 7u /* bytes, so that they and the mode are one word */

struct shape {
	u64 key;
	enum { IMM_VALUE, IMM_COUNT, IMM_SELECTS } imm;
	struct insn in;
};

struct shapes {
	struct shape at[1 << BITS];
};

struct shapes *shapes_new(void)
{
	return calloc(1, sizeof(struct shapes));
}

void shapes_free(struct shapes *s)
{
	free(s);
}

/* In which modes this byte is a prefix. */
static const u8 prefix_in[256] = {
    [0x26] = 7,
    [0x2e] = 7,
    [0x36] = 7,
    [0x3e] = 7,
    [0x40 ... 0x4f] = 1 << INSN_MODE_64,
    [0x64 ... 0x67] = 7,
    [0xf0] = 7,
    [0xf2 ... 0xf3] = 7,
};

/* May take a byte more than there is up to SIB, with 16-bit addresses; that makes two shapes of
 * one. */
u64 shapes_key(const struct optable *t, const u8 *bytes, size_t avail, enum insn_mode mode)
{
	size_t most = MIN(avail, MAX_HEAD), n = 0;
	enum insn_map map = INSN_MAP_1B;
	u64 key = mode + 1;
	u8 b;

	do {
		if (n >= most)
			return 0;
		b = bytes[n++];
		key = key << 8 | b;
	} while (prefix_in[b] & 1u << mode);
	if (b == 0xc4 || b == 0xc5 || b == 0x62)
		return 0;
	if (b == 0x0f) {
		map = INSN_MAP_0F;
		if (n >= most)
			return 0;
		b = bytes[n++];
		key = key << 8 | b;
		if (b == 0x38 || b == 0x3a) {
			map = b == 0x38 ? INSN_MAP_0F38 : INSN_MAP_0F3A;
			if (n >= most)
				return 0;
			b = bytes[n++];
			key = key << 8 | b;
		}
	}
	if (!(t->at[map][b].has_modrm & 1u << INSN_LEGACY))
		return key;
	if (n >= most)
		return 0;
	b = bytes[n++];
	key = key << 8 | b;
	if (b >= 0xc0 || (b & 7) != 4)
		return key;
	return n < most ? key << 8 | bytes[n] : 0;
}

static size_t place(u64 key)
{
	return key * 0x9e3779b97f4a7c15ull >> (64 - BITS); /* Fibonacci hashing */
}

static bool fits(const struct shape *s, const u8 *bytes)
{
	u8 imm = bytes[s->in.off_imm];

	switch (s->imm) {
	case IMM_COUNT: return !(imm & 31) == !(s->in.imm & 31);
	case IMM_SELECTS: return imm == (u8)s->in.imm;
	default: return true;
	}
}

bool shapes_find(const struct shapes *shapes, u64 key, const u8 *bytes, size_t avail,
		 struct insn *out)
{
	const struct shape *s = &shapes->at[place(key)];

	if (s->key != key || s->in.len > avail || !fits(s, bytes))
		return false;
	*out = s->in;
	memcpy(out->bytes, bytes, out->len);
	if (out->disp_size)
		out->disp = out->moffs ? (s64)load_le(bytes + out->off_disp, out->disp_size)
				       : load_signed(bytes + out->off_disp, out->disp_size);
	if (out->imm_size)
		out->imm = load_signed(bytes + out->off_imm, out->imm_size);
	return true;
}

/* Is the immediate, if there is one, all of the bytes behind the displacement? */
static bool has_simple_immediate(const struct op *op)
{
	unsigned n = 0;

	for (unsigned i = 0; i < op->operands_len; i++) {
		if (op->operands[i].kind == 'A')
			return false;
		n += op->operands[i].kind == 'I' || op->operands[i].kind == 'J';
	}
	return n <= 1;
}

void shapes_remember(struct shapes *shapes, u64 key, const struct op *op, const struct insn *in)
{
	struct shape *s = &shapes->at[place(key)];

	if (!has_simple_immediate(op))
		return;
	s->key = key;
	s->imm = op->attr & SHIFTIMM                           ? IMM_COUNT
		 : in->map != INSN_MAP_1B && in->imm_size == 1 ? IMM_SELECTS
							       : IMM_VALUE;
	s->in = *in;
}
