/*
 * The decoder proper: structural parse and opcode table say where everything is and what it does,
 * Capstone names the instruction and must agree on its length.
 *
 * Capstone is shown the instruction without the prefixes that have no effect on what it is (segment
 * overrides, LOCK, F2 and F3 where they neither repeat nor select, doubled ones). Kernels contain
 * many such prefixes as padding or as hints, Capstone 4 stumbles over some of them, and their rules
 * are simple enough to be ours: see parse.c.
 *
 * Its details (operands, flags, access) are not asked for: those of Capstone 4 are often wrong, and
 * the opcode table, which is tested against the processor, has them all. That halves the time, too.
 *
 * Where Capstone 4 knows less than today's processors (most of AVX-512BW and later, GFNI, hint NOPs
 * in register form, UD0 and UD1, RDPKRU, WAITPKG, ...), the table alone decides: every VEX and EVEX
 * row, and the legacy rows marked OWN.
 */
#include "shapes.h"

#include <capstone/capstone.h>
#include <errno.h>
#include <string.h>

struct decoder {
	struct optable table;
	csh capstone[3]; /* by enum insn_mode */
	cs_insn *scratch;
	struct shapes *shapes;
	struct stats *stats; /* or NULL */
};

struct decoder *decoder_new(void)
{
	static const cs_mode modes[] = {CS_MODE_16, CS_MODE_32, CS_MODE_64};
	struct decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	if (optable_init(&d->table)) {
		free(d);
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		if (cs_open(CS_ARCH_X86, modes[i], &d->capstone[i]) != CS_ERR_OK)
			goto fail;
	d->scratch = cs_malloc(d->capstone[0]);
	d->shapes = shapes_new();
	if (!d->scratch || !d->shapes)
		goto fail;
	return d;
fail:
	decoder_free(d);
	return NULL;
}

void decoder_free(struct decoder *d)
{
	if (!d)
		return;
	if (d->scratch)
		cs_free(d->scratch, 1);
	for (size_t i = 0; i < ARRAY_LEN(d->capstone); i++)
		if (d->capstone[i])
			cs_close(&d->capstone[i]);
	shapes_free(d->shapes);
	optable_free(&d->table);
	free(d);
}

void decoder_count(struct decoder *d, struct stats *stats)
{
	d->stats = stats;
}

static bool rep_matters(const struct insn *in, const struct op *op)
{
	return in->mandatory == 0xf2 || in->mandatory == 0xf3 || (op->attr & (STR | KEEPREP));
}

static bool opsize_prefix_matters(const struct insn *in, const struct op *op)
{
	if (in->mode == INSN_MODE_64 && (in->w || (op->attr & F64)))
		return in->mandatory == 0x66;
	return in->mandatory == 0x66 || in->opsize_66;
}

/*
 * Capstone 4 mistakes prefixes that select the opcode in 16-bit mode, so it is shown instructions
 * that have any as 32-bit code, which differs in the default sizes alone.
 */
static enum insn_mode capstone_mode(const struct insn *in)
{
	return in->mode == INSN_MODE_16 && (in->mandatory || !in->opsize_66)
		   ? INSN_MODE_32
		   : (enum insn_mode)in->mode;
}

/* The instruction without its idle prefixes; returns its length. */
static size_t canonical_bytes(const struct insn *in, const struct op *op, u8 *out)
{
	static const u8 escape_bytes[OP_MAPS] = {0, 1, 2, 2};
	size_t n = 0, start = in->off_opcode;
	bool other_mode = capstone_mode(in) != in->mode;
	bool p67 = in->prefixes & PFX_67, p66 = in->prefixes & PFX_66;

	if (p67 != other_mode)
		out[n++] = 0x67;
	if (in->enc == INSN_LEGACY) {
		start -= escape_bytes[in->map];
		if (opsize_prefix_matters(in, op) && p66 != (other_mode && in->opsize_66))
			out[n++] = 0x66;
		if ((in->prefixes & (PFX_REP | PFX_REPNE)) && rep_matters(in, op))
			out[n++] = in->prefixes & PFX_REP ? 0xf3 : 0xf2;
		if (in->rex && !(op->attr & KEEPREP))
			out[n++] = in->rex;
	}
	memcpy(out + n, in->bytes + start, in->len - start);
	return n + in->len - start;
}

/* Capstone's name for the instruction, 0 if it knows none or finds another length. */
static unsigned capstone_id(struct decoder *d, const struct insn *in, const struct op *op)
{
	u8 buf[INSN_MAX_LEN + 1];
	const u8 *code = buf;
	size_t len = canonical_bytes(in, op, buf);
	u64 address = 0;

	if (!cs_disasm_iter(d->capstone[capstone_mode(in)], &code, &len, &address, d->scratch) ||
	    len)
		return 0;
	return d->scratch->id;
}

/* An identity for what Capstone 4 does not know. */
static unsigned own_id(const struct insn *in)
{
	if (in->why == WHY_UNDEFINED)
		return in->opcode == 0xff ? X86_INS_UD0 : X86_INS_UD2B;
	if (in->class == CLASS_SENSITIVE)
		return INSN_ID_SENSITIVE;
	if (in->enc == INSN_LEGACY && in->map == INSN_MAP_0F &&
	    (in->opcode == 0x0d || (in->opcode >= 0x18 && in->opcode <= 0x1f)))
		return X86_INS_NOP; /* reserved for hints: NOP until it means something */
	return in->state ? INSN_ID_VECTOR : INSN_ID_INTEGER;
}

/* Instructions named after their operand size, by word, doubleword, quadword. */
static unsigned sized_id(const struct insn *in, unsigned w, unsigned d, unsigned q)
{
	return in->opsize == 2 ? w : in->opsize == 4 ? d : q;
}

/* Capstone 4 gives the wrong size to some repeated string instructions, and in 16-bit mode to the
 * conversions; it takes RDPID for RDSEED and TPAUSE and UMONITOR for MFENCE. 0 if in is none of
 * them. */
static unsigned corrected_id(const struct insn *in)
{
	if (in->class == CLASS_SENSITIVE && in->map == INSN_MAP_0F && !in->has_mem &&
	    (in->opcode == 0xc7 || (in->opcode == 0xae && in->why == WHY_WAIT)))
		return INSN_ID_SENSITIVE;
	if (in->enc != INSN_LEGACY || in->map != INSN_MAP_1B)
		return 0;
	switch (in->opcode) {
	case 0x6c: return X86_INS_INSB;
	case 0x6d: return sized_id(in, X86_INS_INSW, X86_INS_INSD, X86_INS_INSD);
	case 0x6e: return X86_INS_OUTSB;
	case 0x6f: return sized_id(in, X86_INS_OUTSW, X86_INS_OUTSD, X86_INS_OUTSD);
	case 0x98: return sized_id(in, X86_INS_CBW, X86_INS_CWDE, X86_INS_CDQE);
	case 0x99: return sized_id(in, X86_INS_CWD, X86_INS_CDQ, X86_INS_CQO);
	case 0xa4: return X86_INS_MOVSB;
	case 0xa5: return sized_id(in, X86_INS_MOVSW, X86_INS_MOVSD, X86_INS_MOVSQ);
	case 0xa6: return X86_INS_CMPSB;
	case 0xa7: return sized_id(in, X86_INS_CMPSW, X86_INS_CMPSD, X86_INS_CMPSQ);
	case 0xaa: return X86_INS_STOSB;
	case 0xab: return sized_id(in, X86_INS_STOSW, X86_INS_STOSD, X86_INS_STOSQ);
	case 0xac: return X86_INS_LODSB;
	case 0xad: return sized_id(in, X86_INS_LODSW, X86_INS_LODSD, X86_INS_LODSQ);
	case 0xae: return X86_INS_SCASB;
	case 0xaf: return sized_id(in, X86_INS_SCASW, X86_INS_SCASD, X86_INS_SCASQ);
	default: return 0;
	}
}

int decoder_decode_afresh(struct decoder *d, const u8 *bytes, size_t avail, enum insn_mode mode,
			  struct insn *out, const struct op **row)
{
	int len = insn_parse(&d->table, bytes, avail, mode, out, row);
	const struct op *op = *row;

	if (len < 0)
		return len;
	insn_analyse(op, out);
	if ((out->prefixes & PFX_LOCK) && !out->lockable)
		return -EILSEQ;
	insn_classify(&d->table, out);
	out->id = corrected_id(out);
	if (!out->id)
		out->id = capstone_id(d, out, op);
	if (!out->id) {
		if (!(op->attr & OWN) && out->enc == INSN_LEGACY)
			return -EILSEQ;
		out->id = own_id(out);
	}
	return len;
}

static void count(struct decoder *d, enum stat_id what)
{
	if (d->stats)
		d->stats->n[what]++;
}

int decoder_decode(struct decoder *d, const u8 *bytes, size_t avail, enum insn_mode mode,
		   struct insn *out)
{
	u64 key = shapes_key(&d->table, bytes, avail, mode);
	const struct op *row;
	int len;

	if (key && shapes_find(d->shapes, key, bytes, avail, mode, out)) {
		count(d, STAT_decoded_by_shape);
		return out->len;
	}
	count(d, STAT_decoded);
	len = decoder_decode_afresh(d, bytes, avail, mode, out, &row);
	if (len > 0 && key)
		shapes_remember(d->shapes, key, row, out);
	return len;
}

const char *decoder_format(struct decoder *d, const struct insn *in, u64 pc, char *buf, size_t len)
{
	const u8 *code = in->bytes;
	size_t left = in->len;

	if (cs_disasm_iter(d->capstone[in->mode], &code, &left, &pc, d->scratch) && !left) {
		snprintf(buf, len, "%s %s", d->scratch->mnemonic, d->scratch->op_str);
	} else {
		size_t n = snprintf(buf, len, "(bytes)");

		for (unsigned i = 0; i < in->len && n < len; i++)
			n += snprintf(buf + n, len - n, " %02x", in->bytes[i]);
	}
	return buf;
}
