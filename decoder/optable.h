/*
 * Inside decoder/ only: the opcode table in the form the decoder works with, and the steps of a
 * decode. See opcodes.def for the notation.
 */
#ifndef RINGSHIFT_OPTABLE_H
#define RINGSHIFT_OPTABLE_H

#include "insn.h"

#include <string.h>

#define OP_MAX_OPERANDS 8
#define OP_MAPS         4

/* What a row says beside its operands. */
enum op_attr {
	LOCK = 1 << 0,      /* LOCK is legal with a memory destination */
	PARTIAL = 1 << 1,   /* flags may keep their old value although all are listed as written */
	CC = 1 << 2,        /* reads the flags of condition opcode & 15 */
	D64 = 1 << 3,       /* 64-bit operand size by default in 64-bit mode */
	F64 = 1 << 4,       /* 64-bit operand size always in 64-bit mode (Intel's near branches) */
	OWN = 1 << 5,       /* believed without Capstone, which does not know all its forms */
	NOMOD = 1 << 6,     /* ModRM.mod is ignored and taken as 3 */
	STR = 1 << 7,       /* F2 and F3 repeat */
	VSIB = 1 << 8,      /* the index is a vector */
	X87 = 1 << 9,       /* uses x87 state though no operand says so */
	MMX = 1 << 10,      /* the same for MMX */
	VECTOR = 1 << 11,   /* the same for SSE or AVX, by encoding */
	SHIFTIMM = 1 << 12, /* PARTIAL if the immediate may be a count of zero */
	KEEPREP = 1 << 13,  /* F3 matters though no map says so; REX does not */
	SYSCALL = 1 << 14,  /* R11 and RFLAGS change places */
};

struct operand {
	char kind; /* letter of opcodes.def */
	u8 access; /* enum insn_access; NONE: only the address is taken */
	char size;
};

struct op {
	u32 cond;
	u16 attr;
	u16 fr, fw; /* flags read, written */
	u8 operands_len;
	bool modrm;
	struct operand operands[OP_MAX_OPERANDS];
};

/* Rows that may match an opcode, by map: rows[list[first] .. list[first + count - 1]]. */
struct optable {
	struct op *rows;
	u16 *list;
	struct {
		u16 first;
		u8 count;
		u8 has_rows;  /* bit per enum insn_enc */
		u8 has_modrm; /* bit per enum insn_enc */
		u8 first_class;
	} at[OP_MAPS][256];
};

/* Translate opcodes.def; -ENOMEM. */
MUST_CHECK int optable_init(struct optable *t);
void optable_free(struct optable *t);

/* The row for an instruction whose prefixes, opcode and ModRM are filled in, or NULL. */
const struct op *optable_find(const struct optable *t, const struct insn *in);

/* False if a 66 prefix is the operand size of the row's instruction. */
bool op_66_selects(const struct op *op);
/* 66, F2 or F3 if that prefix of the instruction is what selects the (legacy) row, else 0. */
u8 op_mandatory_prefix(const struct op *op, const struct insn *in);

/* Structural parse: fills everything up to imm and reports the row. Errors as decoder_decode. */
MUST_CHECK int insn_parse(const struct optable *t, const u8 *bytes, size_t avail,
			  enum insn_mode mode, struct insn *in, const struct op **row);

/* A displacement or immediate of n bytes: 0, 1, 2, 4, 8. */
static inline u64 load_le(const u8 *p, unsigned n)
{
	u64 v = 0;

	switch (n) {
	case 1: return *p;
	case 2: memcpy(&v, p, 2); break;
	case 4: memcpy(&v, p, 4); break;
	case 8: memcpy(&v, p, 8); break;
	default: break;
	}
	return v;
}

static inline s64 load_signed(const u8 *p, unsigned n)
{
	unsigned shift = 64 - 8 * n;

	return n ? (s64)(load_le(p, n) << shift) >> shift : 0;
}

/* Bytes of a size letter for this instruction. */
unsigned operand_bytes(const struct insn *in, char size);
/* What one step of a compressed 8-bit displacement is worth (EVEX). */
unsigned operand_disp8_scale(const struct insn *in, const struct op *op);

/* Fill access, mem_size, flags, register masks, state and lockable. */
void insn_analyse(const struct op *op, struct insn *in);

/* Fill class and why of an analysed instruction. */
void insn_classify(const struct optable *t, struct insn *in);
/* The first row of its table that is about this opcode; how many there are, if none is. */
u8 insn_first_class(enum insn_map map, u8 opcode);

/* decoder_decode without what decoder/shapes.c remembers; the row, if it is an instruction. */
MUST_CHECK int decoder_decode_afresh(struct decoder *d, const u8 *bytes, size_t avail,
				     enum insn_mode mode, struct insn *out, const struct op **row);

#endif
