/*
 * Translates the readable rows of opcodes.def into what the decoder can search: per opcode and map
 * the list of rows, in the order of the file, of which the first that matches counts.
 */
#include "optable.h"

#include <errno.h>
#include <string.h>

enum cond {
	L = 1 << 0, /* encodings: legacy, VEX, EVEX (bits in the order of enum insn_enc) */
	V = 1 << 1,
	E = 1 << 2,
	NP = 1 << 3, /* mandatory prefixes */
	P66 = 1 << 4,
	PF3 = 1 << 5,
	PF2 = 1 << 6,
	MEM = 1 << 7,
	REG = 1 << 8,
	W0 = 1 << 9,
	W1 = 1 << 10,
	M64 = 1 << 11,
	N64 = 1 << 12,
	XB = 1 << 13,   /* REX.B */
	OS66 = 1 << 14, /* prefixes select and yet 66 is the operand size */
};
#define COND_ENC    (L | V | E)
#define COND_PREFIX (NP | P66 | PF3 | PF2)
#define DIGITS(m)   ((u32)(m) << 16)
#define D(n)        DIGITS(1 << (n))
#define RM(n)       (1u << (24 + (n)))

struct source_row {
	u8 map, first, last;
	u32 cond;
	const char *operands;
	u16 attr, fr, fw;
};

static const struct source_row source[] = {
#define OP(m, lo, hi, when, ops, ...)                                                              \
	{.map = INSN_MAP_##m, .first = lo, .last = hi, .cond = when, .operands = ops, __VA_ARGS__},
#include "opcodes.def"
#undef OP
};

static const char kinds[] = "ETRMGBZWUVHQNPLKkFSIJAOacdbspij";
static const char modrm_kinds[] = "ETRMGWUVQNPLKFS";
static const char sizes[] = "bwdqoYvzyarptsGBxhfeugcCnmX0";

static void translate_operands(const char *text, struct op *op)
{
	while (*text) {
		struct operand *o = &op->operands[op->operands_len++];

		BUG_ON(op->operands_len > OP_MAX_OPERANDS);
		o->access = ACCESS_R;
		if (*text == '=' || *text == '+' || *text == '*') {
			o->access = *text == '='   ? ACCESS_W
				    : *text == '+' ? ACCESS_RW
						   : ACCESS_NONE;
			text++;
		}
		BUG_ON(!text[0] || !strchr(kinds, text[0]) || !text[1] || !strchr(sizes, text[1]));
		o->kind = text[0];
		o->size = text[1];
		op->modrm |= strchr(modrm_kinds, o->kind) != NULL;
		text += 2;
		BUG_ON(*text && *text != ' ');
		text += *text == ' ';
	}
}

static void translate_row(const struct source_row *src, struct op *op)
{
	op->cond = src->cond;
	if (!(op->cond & COND_ENC))
		op->cond |= L;
	op->attr = src->attr;
	op->fr = src->fr;
	op->fw = src->fw;
	op->modrm = (op->cond & (MEM | REG)) || op->cond >> 16;
	translate_operands(src->operands, op);
}

int optable_init(struct optable *t)
{
	size_t total = 0, n = 0;

	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < ARRAY_LEN(source); i++)
		total += source[i].last - source[i].first + 1u;
	t->rows = calloc(ARRAY_LEN(source), sizeof(*t->rows));
	t->list = calloc(total, sizeof(*t->list));
	if (!t->rows || !t->list) {
		optable_free(t);
		return -ENOMEM;
	}
	for (size_t i = 0; i < ARRAY_LEN(source); i++)
		translate_row(&source[i], &t->rows[i]);
	for (unsigned map = 0; map < OP_MAPS; map++) {
		for (unsigned opcode = 0; opcode < 256; opcode++) {
			t->at[map][opcode].first = n;
			t->at[map][opcode].first_class = insn_first_class(map, opcode);
			for (size_t i = 0; i < ARRAY_LEN(source); i++) {
				const struct op *op = &t->rows[i];

				if (source[i].map != map || opcode < source[i].first ||
				    opcode > source[i].last)
					continue;
				t->list[n++] = i;
				t->at[map][opcode].count++;
				t->at[map][opcode].has_rows |= op->cond & COND_ENC;
				if (op->modrm)
					t->at[map][opcode].has_modrm |= op->cond & COND_ENC;
			}
		}
	}
	BUG_ON(n != total);
	return 0;
}

void optable_free(struct optable *t)
{
	free(t->rows);
	free(t->list);
	memset(t, 0, sizeof(*t));
}

/* The prefix that would be mandatory if the opcode has one: F2 and F3 go before 66. */
static u32 prefix_condition(const struct insn *in)
{
	if (in->enc != INSN_LEGACY)
		return in->mandatory == 0x66   ? P66
		       : in->mandatory == 0xf3 ? PF3
		       : in->mandatory == 0xf2 ? PF2
					       : NP;
	return in->prefixes & PFX_REP     ? PF3
	       : in->prefixes & PFX_REPNE ? PF2
	       : in->prefixes & PFX_66    ? P66
					  : NP;
}

bool op_66_selects(const struct op *op)
{
	return (op->cond & COND_PREFIX) && !(op->cond & OS66);
}

u8 op_mandatory_prefix(const struct op *op, const struct insn *in)
{
	if (!(op->cond & COND_PREFIX))
		return 0;
	switch (prefix_condition(in)) {
	case P66: return op->cond & OS66 ? 0 : 0x66;
	case PF3: return 0xf3;
	case PF2: return 0xf2;
	default: return 0;
	}
}

const struct op *optable_find(const struct optable *t, const struct insn *in)
{
	bool mem = in->has_modrm && in->modrm < 0xc0;
	u32 prefix = prefix_condition(in);
	u32 digit = D(in->modrm >> 3 & 7), rm = RM(in->modrm & 7);
	unsigned first = t->at[in->map][in->opcode].first;
	unsigned count = t->at[in->map][in->opcode].count;

	for (unsigned i = first; i < first + count; i++) {
		const struct op *op = &t->rows[t->list[i]];
		u32 c = op->cond;

		if (!(c & 1u << in->enc) || ((c & COND_PREFIX) && !(c & prefix)))
			continue;
		if ((c & (mem ? REG : MEM)) || (c & (in->w ? W0 : W1)))
			continue;
		if (c & (in->mode == INSN_MODE_64 ? N64 : M64))
			continue;
		if ((c & XB) && !(in->rex & 1))
			continue;
		if (((c & DIGITS(0xff)) && !(c & digit)) || (c >> 24 && !(c & rm)))
			continue;
		return op;
	}
	return NULL;
}
