/*
 * The decoder against a table of encodings with known answers, and against bytes that are none.
 *
 * A row of decoder_golden.def is ROW(mode, "bytes", identity, "description") and says everything at
 * once; describe() below writes the same description from a struct insn:
 *
 *   class[(why)] o<opsize> [a<addrsize>] [seg:[address] access<size>] [imm<bytes>=value]
 *   [rd:registers] [wr:registers] [imp:registers] [rf:flags] [wf:flags, ~ if partial] [state]
 *   [lk: LOCK is legal] [sp: RSP is named as an operand]
 */
#include "optable.h"

#include <capstone/x86.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct golden {
	enum insn_mode mode;
	const char *hex;
	unsigned id;
	const char *description;
};

static const struct golden golden[] = {
#define ROW(bits, bytes, ins, text) {INSN_MODE_##bits, bytes, ins, text},
#include "decoder_golden.def"
#undef ROW
};

struct text {
	char s[256];
	size_t n;
};

PRINTF(2, 3) static void put(struct text *t, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	t->n += vsnprintf(t->s + t->n, sizeof(t->s) - t->n, format, ap);
	va_end(ap);
	cr_assert_lt(t->n, sizeof(t->s));
}

static const char *const gpr_names[] = {"ax", "cx",  "dx",  "bx",  "sp",  "bp",  "si",  "di", "r8",
					"r9", "r10", "r11", "r12", "r13", "r14", "r15", "ip"};

static const char *const segment_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};

static void put_registers(struct text *t, const char *label, u16 set)
{
	if (!set)
		return;
	put(t, " %s", label);
	for (unsigned i = 0; i < 16; i++)
		if (set >> i & 1)
			put(t, ":%s", gpr_names[i]);
}

static void put_flags(struct text *t, const char *label, u16 set)
{
	static const struct {
		u16 bit;
		char name;
	} names[] = {{FL_CF, 'c'}, {FL_PF, 'p'}, {FL_AF, 'a'}, {FL_ZF, 'z'},
		     {FL_SF, 's'}, {FL_OF, 'o'}, {FL_DF, 'd'}};

	if (!set)
		return;
	put(t, " %s:", label);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (set & names[i].bit)
			put(t, "%c", names[i].name);
}

static void put_memory(struct text *t, const struct insn *in)
{
	static const char *const accesses[] = {"-", "r", "w", "rw"};
	const char *plus = "";

	put(t, " %s:[", segment_names[in->seg]);
	if (in->base != REG_NONE) {
		put(t, "%s", gpr_names[in->base]);
		plus = "+";
	}
	if (in->index != REG_NONE) {
		if (in->vsib)
			put(t, "%sv%u*%u", plus, in->index, in->scale);
		else
			put(t, "%s%s*%u", plus, gpr_names[in->index], in->scale);
		plus = "+";
	}
	if (in->disp < 0)
		put(t, "-%#llx", -(long long)in->disp);
	else if (in->disp || !*plus)
		put(t, "%s%#llx", plus, (long long)in->disp);
	put(t, "] %s%u", accesses[in->access], in->mem_size);
}

static const char *describe(const struct insn *in, struct text *t)
{
	static const char *const whys[] = {
#define WHY(id, text) #id,
#include "classify.def"
#undef WHY
	};
	static const char *const states[] = {"x87", "mmx", "sse", "avx", "avx512", "opmask"};

	t->n = 0;
	put(t, "%s", insn_class_name(in->class));
	if (in->why)
		put(t, "(%s)", whys[in->why]);
	put(t, " o%u", in->opsize);
	if (in->addrsize != 2 << in->mode)
		put(t, " a%u", in->addrsize);
	if (in->has_mem)
		put_memory(t, in);
	else if (in->class == CLASS_STRING)
		put(t, " %s:", segment_names[in->seg]);
	if (in->imm_size)
		put(t, " imm%u=%#llx", in->imm_size, (long long)in->imm);
	put_registers(t, "rd", in->gpr_read);
	put_registers(t, "wr", in->gpr_written);
	put_registers(t, "imp", in->gpr_implicit);
	put_flags(t, "rf", in->flags_read);
	put_flags(t, "wf", in->flags_written);
	put(t, "%s", in->flags_partial ? "~" : "");
	for (size_t i = 0; i < ARRAY_LEN(states); i++)
		if (in->state >> i & 1)
			put(t, " %s", states[i]);
	put(t, "%s%s", in->lockable ? " lk" : "", in->rsp_operand ? " sp" : "");
	return t->s;
}

static size_t parse_hex(const char *hex, u8 *out)
{
	size_t n = 0;
	unsigned byte;
	int used;

	for (; sscanf(hex, "%2x%n", &byte, &used) == 1; hex += used) {
		cr_assert_lt(n, (size_t)INSN_MAX_LEN);
		out[n++] = byte;
	}
	return n;
}

/* What holds for every decoded instruction, whatever it is. */
static const char *inconsistency(const struct insn *in, const u8 *bytes, int len)
{
	unsigned shift;

	if (len != in->len || len < 1 || len > INSN_MAX_LEN)
		return "length";
	if (memcmp(in->bytes, bytes, len))
		return "bytes";
	if (in->off_opcode >= len ||
	    (in->enc == INSN_LEGACY && bytes[in->off_opcode] != in->opcode))
		return "off_opcode";
	if (in->has_modrm != !!in->off_modrm ||
	    (in->has_modrm && bytes[in->off_modrm] != in->modrm))
		return "off_modrm";
	if (in->off_disp + in->disp_size > len || !in->off_disp != !in->disp_size)
		return "off_disp";
	shift = 64 - 8 * in->disp_size;
	if (in->disp_size && !(in->enc == INSN_EVEX && in->disp_size == 1) &&
	    (s64)(load_le(bytes + in->off_disp, in->disp_size) << shift) >> shift != in->disp &&
	    !in->moffs)
		return "disp";
	if (in->imm_size && in->off_imm + in->imm_size != len)
		return "off_imm";
	if (!in->id || in->class > CLASS_SENSITIVE || in->why >= WHY_COUNT)
		return "identity";
	if ((in->class == CLASS_SENSITIVE) != (in->why != WHY_NONE))
		return "why";
	if (in->has_mem && (in->seg >= SEG_COUNT || !in->scale))
		return "memory operand";
	if (!in->has_mem && (in->access || in->mem_size || in->lockable))
		return "no memory operand";
	if ((in->class == CLASS_MEMORY) && !in->has_mem)
		return "class memory";
	if (in->mode != INSN_MODE_64 &&
	    ((in->gpr_read | in->gpr_written | in->gpr_implicit) & 0xff00 || in->reg > 7 ||
	     in->rm > 7 || in->vvvv > 7 || in->rex || in->base == REG_RIP))
		return "registers of 64-bit mode";
	if (in->opsize != 2 && in->opsize != 4 && in->opsize != 8)
		return "opsize";
	if (in->flags_partial && !in->flags_written)
		return "flags_partial";
	return NULL;
}

static struct decoder *decoder;

static void setup(void)
{
	decoder = decoder_new();
	cr_assert_not_null(decoder);
}

static void teardown(void)
{
	decoder_free(decoder);
}

TestSuite(decoder, .init = setup, .fini = teardown);

Test(decoder, golden_table)
{
	cr_assert_geq(ARRAY_LEN(golden), 500u);
	for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
		const struct golden *g = &golden[i];
		u8 bytes[INSN_MAX_LEN];
		size_t n = parse_hex(g->hex, bytes);
		struct text t;
		struct insn in;
		int len = decoder_decode(decoder, bytes, n, g->mode, &in);
		const char *wrong;

		cr_expect_eq(len, (int)n, "%d-bit %s: length %d", 16 << g->mode, g->hex, len);
		if (len != (int)n)
			continue;
		wrong = inconsistency(&in, bytes, len);
		cr_expect_null(wrong, "%d-bit %s: %s", 16 << g->mode, g->hex, wrong);
		cr_expect_eq(in.id, g->id, "%d-bit %s: identity %u", 16 << g->mode, g->hex, in.id);
		cr_expect_str_eq(describe(&in, &t), g->description, "%d-bit %s:\n%s\n%s",
				 16 << g->mode, g->hex, t.s, g->description);
	}
}

/* Cut at any place, an instruction needs more bytes; with all bytes, later ones do not matter. */
Test(decoder, truncated)
{
	for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
		u8 bytes[INSN_MAX_LEN];
		size_t n = parse_hex(golden[i].hex, bytes);
		struct insn in;

		for (size_t k = 0; k < n; k++)
			cr_expect_eq(decoder_decode(decoder, bytes, k, golden[i].mode, &in),
				     -ENODATA, "%s cut at %zu", golden[i].hex, k);
		for (u8 fill = 0; n < INSN_MAX_LEN && fill < 255; fill += 15) {
			memset(bytes + n, fill, INSN_MAX_LEN - n);
			cr_expect_eq(
			    decoder_decode(decoder, bytes, INSN_MAX_LEN, golden[i].mode, &in),
			    (int)n, "%s followed by %02x", golden[i].hex, fill);
		}
	}
}

/* What is remembered of an instruction holds whatever its displacement and its immediate are: the
 * same as decoding it. tests/soak/shapes.c has far more of that. */
Test(decoder, shapes)
{
	struct stats stats = {0};
	u8 filler = 1;

	decoder_count(decoder, &stats);
	for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
		u8 bytes[INSN_MAX_LEN];
		size_t n = parse_hex(golden[i].hex, bytes), first = n;
		struct insn in, afresh;
		const struct op *row;

		cr_assert_eq(decoder_decode(decoder, bytes, n, golden[i].mode, &in), (int)n);
		if (in.disp_size)
			first = in.off_disp;
		else if (in.imm_size)
			first = in.off_imm;
		for (unsigned k = 0; k < 20; k++) {
			int a, b;

			for (size_t at = first; at < n; at++)
				bytes[at] = filler = filler * 5 + k + 1;
			memset(&in, 0, sizeof(in)); /* padding */
			a = decoder_decode(decoder, bytes, n, golden[i].mode, &in);
			b = decoder_decode_afresh(decoder, bytes, n, golden[i].mode, &afresh, &row);
			cr_assert_eq(a, b);
			cr_assert(a < 0 || !memcmp(&in, &afresh, sizeof(in)), "%d-bit %s, %u",
				  16 << golden[i].mode, golden[i].hex, k);
		}
	}
	cr_expect_gt(stats.n[STAT_decoded_by_shape], 8 * ARRAY_LEN(golden));
	cr_expect_gt(stats.n[STAT_decoded], ARRAY_LEN(golden) / 2);
}

static int decode_hex(enum insn_mode mode, const char *hex, struct insn *in)
{
	u8 bytes[INSN_MAX_LEN] = {0};

	parse_hex(hex, bytes);
	return decoder_decode(decoder, bytes, sizeof(bytes), mode, in);
}

Test(decoder, invalid)
{
	static const struct {
		enum insn_mode mode;
		const char *hex;
	} rows[] = {
	    /* one-byte opcodes that 64-bit mode lost */
	    {INSN_MODE_64, "06"},
	    {INSN_MODE_64, "07"},
	    {INSN_MODE_64, "0e"},
	    {INSN_MODE_64, "16"},
	    {INSN_MODE_64, "17"},
	    {INSN_MODE_64, "1e"},
	    {INSN_MODE_64, "1f"},
	    {INSN_MODE_64, "27"},
	    {INSN_MODE_64, "2f"},
	    {INSN_MODE_64, "37"},
	    {INSN_MODE_64, "3f"},
	    {INSN_MODE_64, "60"},
	    {INSN_MODE_64, "61"},
	    {INSN_MODE_64, "82 c0 01"},
	    {INSN_MODE_64, "9a"},
	    {INSN_MODE_64, "ce"},
	    {INSN_MODE_64, "d4 0a"},
	    {INSN_MODE_64, "d5 0a"},
	    {INSN_MODE_64, "d6"},
	    {INSN_MODE_64, "ea"},
	    {INSN_MODE_64, "62 08"},
	    /* what 32-bit mode does not have */
	    {INSN_MODE_32, "0f 01 f8"},
	    {INSN_MODE_32, "f3 0f ae c0"},
	    /* holes in the maps and in groups */
	    {INSN_MODE_64, "0f 04"},
	    {INSN_MODE_64, "0f 0a"},
	    {INSN_MODE_64, "0f 0c"},
	    {INSN_MODE_64, "0f 0f c0 9e"},
	    {INSN_MODE_64, "0f 24 c0"},
	    {INSN_MODE_64, "0f 36"},
	    {INSN_MODE_64, "0f 39"},
	    {INSN_MODE_64, "0f a6 c0"},
	    {INSN_MODE_64, "0f b8 c0"},
	    {INSN_MODE_64, "0f 38 40 00"},
	    {INSN_MODE_64, "0f 3a 00 00 00"},
	    {INSN_MODE_64, "8c f0"},
	    {INSN_MODE_64, "8e c8"},
	    {INSN_MODE_64, "8e f0"},
	    {INSN_MODE_64, "8f 08"},
	    {INSN_MODE_64, "c6 08 00"},
	    {INSN_MODE_64, "c7 f8 00 00 00 00"},
	    {INSN_MODE_64, "fe 10"},
	    {INSN_MODE_64, "ff 38"},
	    {INSN_MODE_64, "ff d8"},
	    {INSN_MODE_64, "ff e8"},
	    {INSN_MODE_64, "0f 00 30"},
	    {INSN_MODE_64, "0f ba 00 01"},
	    {INSN_MODE_64, "0f c7 00"},
	    {INSN_MODE_64, "d9 08"},
	    {INSN_MODE_64, "d9 d1"},
	    {INSN_MODE_64, "db 20"},
	    /* register forms of what needs memory, and the other way round */
	    {INSN_MODE_64, "8d c0"},
	    {INSN_MODE_32, "c4 c0 00 00"},
	    {INSN_MODE_64, "0f b2 c0"},
	    {INSN_MODE_64, "0f c3 c0"},
	    {INSN_MODE_64, "0f c7 c8"},
	    {INSN_MODE_64, "0f 50 00"},
	    {INSN_MODE_64, "0f f7 00"},
	    {INSN_MODE_64, "0f 2b c0"},
	    /* prefixes that select nothing */
	    {INSN_MODE_64, "f3 0f 54 c0"},
	    {INSN_MODE_64, "f2 0f 6f c0"},
	    {INSN_MODE_64, "66 0f 52 c0"},
	    {INSN_MODE_64, "f3 0f c3 00"},
	    /* LOCK where it may not be */
	    {INSN_MODE_64, "f0 90"},
	    {INSN_MODE_64, "f0 89 00"},
	    {INSN_MODE_64, "f0 01 c0"},
	    {INSN_MODE_64, "f0 03 00"},
	    {INSN_MODE_64, "f0 39 00"},
	    {INSN_MODE_64, "f0 0f a3 00"},
	    {INSN_MODE_64, "f0 87 c0"},
	    {INSN_MODE_64, "f0 d1 20"},
	    {INSN_MODE_32, "f0 a4"},
	    {INSN_MODE_16, "f0 ff 30"},
	    {INSN_MODE_64, "f0 0f c7 f0"},
	    /* VEX and EVEX with prefixes they forbid, and with maps there are not */
	    {INSN_MODE_64, "66 c5 f4 58 00"},
	    {INSN_MODE_64, "f3 c5 f4 58 00"},
	    {INSN_MODE_64, "f2 c5 f4 58 00"},
	    {INSN_MODE_64, "48 c5 f4 58 00"},
	    {INSN_MODE_64, "f0 c5 f4 58 00"},
	    {INSN_MODE_64, "c4 e0 74 58 00"},
	    {INSN_MODE_64, "c4 e4 74 58 00"},
	    {INSN_MODE_64, "66 62 f1 74 48 58 00"},
	    {INSN_MODE_64, "62 f0 74 48 58 00"},
	    {INSN_MODE_64, "62 f9 74 48 58 00"},
	    {INSN_MODE_64, "62 f1 70 48 58 00"},
	    {INSN_MODE_64, "62 f1 74 68 58 00"},
	    /* gathers need a SIB byte */
	    {INSN_MODE_64, "c4 e2 69 90 00"},
	    {INSN_MODE_16, "c4 e2 69 90 04"},
	};
	struct insn in;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		cr_expect_eq(decode_hex(rows[i].mode, rows[i].hex, &in), -EILSEQ, "%d-bit %s",
			     16 << rows[i].mode, rows[i].hex);
}

/* 15 bytes are an instruction, 16 are none, however many bytes there are to read. */
Test(decoder, length_limit)
{
	static const u8 prefixes[] = {0x2e, 0x66, 0xf2, 0xf3, 0x67, 0x64};
	u8 bytes[32];
	struct insn in;

	for (unsigned mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++) {
		for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
			memset(bytes, prefixes[i], sizeof(bytes));
			cr_expect_eq(decoder_decode(decoder, bytes, 32, mode, &in), -EILSEQ);
			cr_expect_eq(decoder_decode(decoder, bytes, 15, mode, &in), -EILSEQ);
			cr_expect_eq(decoder_decode(decoder, bytes, 14, mode, &in), -ENODATA);
			bytes[14] = 0x90;
			cr_expect_eq(decoder_decode(decoder, bytes, 32, mode, &in), 15);
			bytes[14] = prefixes[i];
			bytes[15] = 0x90;
			cr_expect_eq(decoder_decode(decoder, bytes, 32, mode, &in), -EILSEQ);
			cr_expect_eq(in.len, INSN_MAX_LEN);
			/* a field that would end beyond the limit */
			bytes[12] = 0xb8;
			cr_expect_eq(decoder_decode(decoder, bytes, 32, mode, &in),
				     in.opsize == 2 ? 15 : -EILSEQ);
			cr_expect_leq(in.len, INSN_MAX_LEN);
		}
	}
}

/* Bytes at random: whatever is accepted is consistent, and reading fewer bytes never changes it. */
Test(decoder, random_bytes, .timeout = 120)
{
	u64 seed = 0x9e3779b97f4a7c15ull;
	unsigned accepted = 0;

	for (unsigned i = 0; i < 1000000; i++) {
		enum insn_mode mode = i % 3;
		u8 bytes[INSN_MAX_LEN];
		const char *wrong;
		struct insn in;
		int len;

		for (size_t k = 0; k < sizeof(bytes); k++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			bytes[k] = seed >> 32;
		}
		/* every other one in the wider maps */
		if (i & 2)
			bytes[0] = i & 4 ? 0x0f : i & 8 ? 0xc4 : 0x62;
		len = decoder_decode(decoder, bytes, sizeof(bytes), mode, &in);
		cr_assert(len == -EILSEQ || len > 0);
		if (len < 0) {
			cr_assert_leq(in.len, INSN_MAX_LEN);
			continue;
		}
		accepted++;
		wrong = inconsistency(&in, bytes, len);
		cr_assert_null(wrong, "%d-bit %02x %02x %02x %02x %02x %02x: %s", 16 << mode,
			       bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], wrong);
		if (i % 16 == 0) {
			cr_assert_eq(decoder_decode(decoder, bytes, len, mode, &in), len);
			cr_assert_eq(decoder_decode(decoder, bytes, len - 1, mode, &in), -ENODATA);
		}
	}
	cr_assert_gt(accepted, 300000u);
}

Test(decoder, format)
{
	struct insn in;
	char buf[96], tiny[8];

	cr_assert_eq(decode_hex(INSN_MODE_64, "48 8b 44 24 08", &in), 5);
	cr_expect_str_eq(decoder_format(decoder, &in, 0, buf, sizeof(buf)),
			 "mov rax, qword ptr [rsp + 8]");
	cr_assert_eq(decode_hex(INSN_MODE_64, "e8 fb 00 00 00", &in), 5);
	cr_expect_str_eq(decoder_format(decoder, &in, 0xffffffff81000000, buf, sizeof(buf)),
			 "call 0xffffffff81000100");
	/* idle prefixes that Capstone stumbles over, and an instruction it does not know */
	cr_assert_eq(decode_hex(INSN_MODE_64, "62 f2 7d 48 50 c1", &in), 6);
	cr_expect_str_eq(decoder_format(decoder, &in, 0, buf, sizeof(buf)),
			 "(bytes) 62 f2 7d 48 50 c1");
	decoder_format(decoder, &in, 0, tiny, sizeof(tiny));
	cr_expect_eq(strlen(tiny), 7u);
}

Test(decoder, names)
{
	for (unsigned i = 0; i <= CLASS_SENSITIVE; i++)
		cr_expect_str_neq(insn_class_name(i), "?");
	cr_expect_str_eq(insn_class_name(CLASS_SENSITIVE + 1), "?");
	cr_expect_str_eq(insn_why_text(WHY_NONE), "");
	for (unsigned i = 1; i < WHY_COUNT; i++)
		cr_expect_gt(strlen(insn_why_text(i)), 10u);
	cr_expect_str_eq(insn_why_text(WHY_COUNT), "?");
}
