/*
 * A kernel has some hundred thousand instructions, but few thousand shapes: prefixes, opcode, ModRM
 * and SIB, without the displacement and the immediate. All that struct insn says follows from the
 * shape but these two values themselves, and it costs some hundred nanoseconds to find out, most of
 * them Capstone's. So shapes are remembered, a cache line each, in a table in which a hash gives
 * each two places. A new one takes the first, whose shape goes to the second. What is not there is
 * decoded; Capstone names every shape.
 *
 * Of a shift it matters whether the immediate is zero, since the flags are not written then; that
 * is a shape of its own. Not remembered are immediates of vector instructions, because one may
 * select the operation and Capstone then names that (CMPPS); VEX and EVEX; more than seven bytes up
 * to SIB; two immediates (ENTER); far pointers; and what is no instruction. tests/soak/shapes.c
 * compares all this with what is decoded.
 */
#include "shapes.h"

#define BITS     12
#define MAX_HEAD 7u /* bytes, so that they and the mode are one word */

#define SHAPE_FIRST offsetof(struct insn, len)
#define SHAPE_LEN   (offsetof(struct insn, gpr_written) + sizeof(u16) - SHAPE_FIRST)

/* Of the immediate byte of a shift. */
enum count { COUNT_NONE, COUNT_ZERO, COUNT_OTHER };

struct shape {
	u64 key;
	u8 count;
	u8 insn[SHAPE_LEN]; /* that part of it */
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct shape) == 64, "a cache line");

struct shapes {
	struct shape at[1 << BITS];
};

struct shapes *shapes_new(void)
{
	struct shapes *s = aligned_alloc(64, sizeof(*s));

	if (s)
		memset(s, 0, sizeof(*s));
	return s;
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

/* The first of the two places it may have. */
static size_t place(u64 key)
{
	return (key * 0x9e3779b97f4a7c15ull >> (65 - BITS)) * 2; /* Fibonacci hashing */
}

static enum count count_of(u8 imm)
{
	return imm & 31 ? COUNT_OTHER : COUNT_ZERO;
}

bool shapes_find(const struct shapes *shapes, u64 key, const u8 *bytes, size_t avail,
		 enum insn_mode mode, struct insn *out)
{
	const struct shape *s = &shapes->at[place(key)];

	if (s->key != key)
		s++;
	if (s->key != key)
		return false;
	memcpy((u8 *)out + SHAPE_FIRST, s->insn, SHAPE_LEN);
	if (out->len > avail || (s->count && s->count != count_of(bytes[out->off_imm])))
		return false;
	memset(out->bytes, 0, sizeof(out->bytes));
	memcpy(out->bytes, bytes, out->len);
	out->mode = mode;
	out->disp = out->moffs ? (s64)load_le(bytes + out->off_disp, out->disp_size)
			       : load_signed(bytes + out->off_disp, out->disp_size);
	out->imm = load_signed(bytes + out->off_imm, out->imm_size);
	return true;
}

static bool is_simple(const struct op *op, const struct insn *in)
{
	unsigned n = 0;

	for (unsigned i = 0; i < op->operands_len; i++) {
		if (op->operands[i].kind == 'A')
			return false;
		n += op->operands[i].kind == 'I' || op->operands[i].kind == 'J';
	}
	return n == 0 || (n == 1 && !in->state);
}

void shapes_remember(struct shapes *shapes, u64 key, const struct op *op, const struct insn *in)
{
	struct shape *s = &shapes->at[place(key)];

	if (!is_simple(op, in))
		return;
	if (s->key != key)
		s[1] = s[0];
	s->key = key;
	s->count = op->attr & SHIFTIMM ? count_of(in->imm) : COUNT_NONE;
	memcpy(s->insn, (const u8 *)in + SHAPE_FIRST, SHAPE_LEN);
}
