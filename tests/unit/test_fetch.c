/*
 * From RIP to an op: limits of CS, the length of instructions, page crossings, code that changes by
 * every way there is, and the engine's areas when they are full.
 */
#include "engine_rig.h"
#include "op.h"

#define NOP   0x90
#define HLT   0xf4
#define AT(n) (RIG_CODE + (n))

/* --- limits and lengths --- */

/* CS with limit 0xff: what lies beyond is not fetched. */
Test(fetch, instructions_end_within_the_limit)
{
	static const struct {
		u64 rip;
		u8 code[3];
		unsigned ends;
	} cases[] = {
	    {0xff, {NOP, HLT}, EXC_GP},         /* runs into the limit */
	    {0xfe, {0xb0, 0x11}, EXC_GP},       /* mov al, 11 fits; then the limit */
	    {0xff, {0xb0, 0x11}, EXC_GP},       /* one byte too long */
	    {0xfe, {0x0f, 0x38, 0xff}, EXC_GP}, /* undefined if its third byte were read */
	    {0x100, {NOP}, EXC_GP},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_protected(0);

		rig_segment(e->r, SEG_CS, S_SMALL);
		cpu_update_mode(e->c);
		e->c->rip = cases[i].rip;
		erig_put_code(e, cases[i].rip, cases[i].code, 3);
		cr_expect_eq(erig_run(e, 10), cases[i].ends, "case %u", i);
		cr_expect_eq(e->c->gpr[GPR_RAX] & 0xff, i == 1 ? 0x11 : 0, "case %u", i);
		cr_expect_eq(erig_frame(e, 1), i < 2 ? 0x100 : cases[i].rip, "case %u", i);
		erig_free(e);
	}
}

/* The limit counts before the page behind it. */
Test(fetch, the_limit_comes_before_the_page)
{
	struct erig *e = erig_new();

	rig_long(e->r, S_CODE32, 0);
	erig_handlers(e);
	erig_small_pages(e);
	rig_set_desc(e->r, S_SMALL, rig_desc(ERIG_NEXT - 0x100, 0xff, A_CODE | SEG_DB));
	rig_segment(e->r, SEG_CS, S_SMALL);
	cpu_update_mode(e->c);
	ERIG_CODE_AT(e, ERIG_NEXT - 1, 0xb0);
	e->c->rip = 0xff;
	cr_expect_eq(erig_run(e, 10), EXC_GP);
	erig_free(e);
}

Test(fetch, real_mode_ends_at_64k)
{
	struct erig *e = erig_new_real();

	e->c->seg[SEG_CS].base = 0x30000;
	e->c->rip = 0xffff;
	cr_expect_eq(ERIG_RUN(e, 10, 0xb0, 0x11), EXC_GP);
	cr_expect_eq(erig_frame(e, 0), 0xffff);
	erig_free(e);
}

Test(fetch, fifteen_bytes_are_enough)
{
	static const struct {
		unsigned prefixes;
		u8 prefix[4]; /* cycled */
		u8 rest[10];
		unsigned len, ends;
	} cases[] = {
	    {14, {0x26}, {NOP}, 1, RIG_OK},
	    {15, {0x26}, {NOP}, 1, EXC_GP},
	    {14, {0x26}, {0xb0, 1}, 2, EXC_GP}, /* 16 */
	    {13, {0x26}, {0xb0, 1}, 2, RIG_OK},
	    {11, {0x26, 0x36, 0x2e, 0x3e}, {0xb8, 1, 2, 3, 4}, 5, EXC_GP}, /* a group counts once */
	    {10, {0x26, 0x36, 0x2e, 0x3e}, {0xb8, 1, 2, 3, 4}, 5, RIG_OK},
	    {9, {0x66}, {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, 8, EXC_GP},
	    {13, {0x66}, {0x0f, 0x0b}, 2, EXC_UD},
	    {14, {0x66}, {0x0f, 0x0b}, 2, EXC_GP},
	    {12, {0x66}, {0x0f, 0xff, 0xc0}, 3, EXC_UD},
	    {13, {0x26}, {0x0f, 0x04, 0x00}, 2, EXC_UD}, /* no such instruction, at any length */
	};
	static const enum insn_mode modes[] = {INSN_MODE_32, INSN_MODE_64};

	for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
		for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
			struct erig *e = erig_new_mode(modes[m]);
			u8 code[32] = {0};
			unsigned v;

			for (unsigned k = 0; k < cases[i].prefixes; k++)
				code[k] = cases[i].prefix[cases[i].prefix[1] ? k % 4 : 0];
			memcpy(code + cases[i].prefixes, cases[i].rest, cases[i].len);
			erig_put_code(e, RIG_CODE, code, sizeof(code));
			v = erig_run(e, cases[i].ends == RIG_OK ? 1 : 10);
			cr_expect_eq(v, cases[i].ends, "mode %u, case %u: %#x", modes[m], i, v);
			if (v == EXC_GP)
				cr_expect_eq(erig_frame(e, 0), 0);
			erig_free(e);
		}
	}
}

/* REX is a prefix in 64-bit mode only. */
Test(fetch, fifteen_bytes_with_rex)
{
	struct erig *e = erig_new_long(0);
	u8 code[16];

	memset(code, 0x48, 14);
	code[14] = NOP;
	erig_put_code(e, RIG_CODE, code, 15);
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	code[14] = 0x48;
	code[15] = NOP;
	e->c->rip = RIG_CODE;
	erig_put_code(e, RIG_CODE, code, 16);
	cr_expect_eq(erig_run(e, 10), EXC_GP);
	erig_free(e);
}

/* --- page crossings --- */

Test(fetch, an_instruction_may_cross_a_page)
{
	struct erig *e = erig_new_long(0);

	erig_small_pages(e);
	e->c->rip = ERIG_FREE + 0xffe;
	cr_expect_eq(ERIG_RUN(e, 1, 0xb8, 1, 2, 3, 4), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x04030201);
	/* Its second page changes, in content... */
	rig_put(e->r, ERIG_FREE + 0x1000, 1, 0x99);
	e->c->rip = ERIG_FREE + 0xffe;
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x04039901);
	/* ...in place... */
	rig_put(e->r, ERIG_FREE + 0x5000, 4, 0x0a0b0c0d);
	erig_map(e, ERIG_FREE + 0x1000, (ERIG_FREE + 0x5000) | PTE_P | PTE_W);
	e->c->rip = ERIG_FREE + 0xffe;
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x0b0c0d01);
	/* ...and goes away. */
	erig_map(e, ERIG_FREE + 0x1000, 0);
	e->c->rip = ERIG_FREE + 0xffe;
	e->c->gpr[GPR_RAX] = 7;
	cr_expect_eq(erig_run(e, 10), EXC_PF);
	cr_expect_eq(e->c->cr2, ERIG_FREE + 0x1000);
	cr_expect_eq(erig_frame(e, 1), ERIG_FREE + 0xffe);
	cr_expect_eq(e->c->gpr[GPR_RAX], 7);
	/* One that ends with the page does not care. */
	e->c->rip = ERIG_FREE + 0xffe;
	cr_expect_eq(ERIG_RUN(e, 1, 0xb0, 0x42), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x42);
	erig_free(e);
}

Test(fetch, code_may_lie_in_mmio)
{
	struct erig *e = erig_new_long(0);

	e->c->rip = ERIG_MMIO + 0x90; /* bytes are their addresses: nop, xchg ecx, eax ... */
	e->c->gpr[GPR_RCX] = 5;
	cr_expect_eq(erig_run(e, 2), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 5);
	cr_expect_eq(e->c->rip, ERIG_MMIO + 0x92);
	erig_free(e);
}

/* --- code that changes --- */

Test(fetch, code_written_by_the_host)
{
	struct erig *e = erig_new_long(0);

	for (unsigned i = 0; i < 3; i++) {
		e->c->rip = RIG_CODE;
		cr_expect_eq(ERIG_RUN(e, 2, 0xb0, i, NOP), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RAX], i);
	}
	cr_expect_geq(e->r->stats.n[STAT_code_writes], 2);
	erig_free(e);
}

/* The guest's own writes, by every way there is, to bytes 1 and 2 of an instruction of 5 bytes that
 * has been executed. */
Test(fetch, code_written_by_the_guest)
{
	static const struct {
		const char *what;
		u8 code[8];
		unsigned len, insns;
	} ways[] = {
	    {"mov", {0x66, 0x89, 0x17}, 3, 1},
	    {"push", {0x66, 0x52}, 2, 1}, /* RSP is set for it */
	    {"rep stosb", {0xf3, 0xaa}, 2, 1},
	    {"stosw", {0x66, 0xab}, 2, 1},
	    {"movsw", {0x66, 0xa5}, 2, 1},
	    {"std, rep stosb", {0xfd, 0x48, 0xff, 0xc7, 0xf3, 0xaa, 0xfc}, 7, 4},
	    {"xchg", {0x66, 0x87, 0x17}, 3, 1},
	    {"lock cmpxchg8b", {0x0f, 0xc7, 0x0f}, 3, 1},
	    {"movd", {0x0f, 0x7e, 0x07}, 3, 1},
	    {"bts", {0x0f, 0xba, 0x2f, 0x05}, 4, 1},
	};
	const u64 loop = ERIG_FREE + 0x800;

	for (unsigned alias = 0; alias < 2; alias++) {
		for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
			struct erig *e = erig_new_long(0);
			u64 at = ERIG_FREE + 1;
			struct cpu *c = e->c;

			erig_small_pages(e);
			erig_vectors(e);
			if (alias) {
				erig_map(e, ERIG_NEXT, ERIG_FREE | PTE_P | PTE_W);
				at = ERIG_NEXT + 1;
			}
			/* mov ecx, imm32; then the writer, in the same page. */
			ERIG_CODE_AT(e, ERIG_FREE, 0xbb, 0, 0, 0, 0);
			erig_put_code(e, ERIG_FREE + 5, ways[i].code, ways[i].len);
			/* A write entry of the TLB is there before the page becomes code. */
			rig_put(e->r, loop, 2, 0x0788); /* mov [rdi], al */
			c->gpr[GPR_RDI] = at;
			c->rip = loop;
			cr_assert_eq(erig_run(e, 1), RIG_OK);
			for (unsigned round = 0; round < 3; round++) {
				u16 want = round ? 0x4242 : 0;

				c->rip = ERIG_FREE;
				cr_assert_eq(erig_run(e, 1), RIG_OK);
				if (round < 2 && ways[i].code[0] != 0x0f)
					cr_expect_eq(c->gpr[GPR_RBX], want, "%s: %llx",
						     ways[i].what,
						     (unsigned long long)c->gpr[GPR_RBX]);
				else if (round < 2)
					cr_expect_eq(c->gpr[GPR_RBX] != 0, round, "%s",
						     ways[i].what);
				c->gpr[GPR_RAX] = c->gpr[GPR_RDX] = 0x4242;
				c->gpr[GPR_RCX] = 2;
				c->gpr[GPR_RDI] = at;
				c->gpr[GPR_RSI] = ERIG_FREE + 0x2000;
				c->gpr[GPR_RSP] = ways[i].code[1] == 0x52 ? at + 2 : RIG_STACK;
				memset(c->vec.fx + 32, 0x42, 8);
				rig_put(e->r, ERIG_FREE + 0x2000, 2, 0x4242);
				if (!strcmp(ways[i].what, "lock cmpxchg8b")) {
					c->gpr[GPR_RAX] = rig_get(e->r, ERIG_FREE + 1, 4);
					c->gpr[GPR_RDX] = rig_get(e->r, ERIG_FREE + 5, 4);
					c->gpr[GPR_RBX] = 0x4242;
					c->gpr[GPR_RCX] = c->gpr[GPR_RDX];
				}
				cr_assert_eq(erig_run(e, ways[i].insns), RIG_OK);
			}
			erig_free(e);
		}
	}
}

/* An instruction changes the one right behind it. */
Test(fetch, the_next_instruction_changes)
{
	static const enum insn_mode modes[] = {INSN_MODE_16, INSN_MODE_32, INSN_MODE_64};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		struct erig *e = erig_new_mode(modes[i]);

		for (unsigned round = 1; round < 4; round++) {
			e->c->gpr[GPR_RDI] = AT(3);
			e->c->gpr[GPR_RBX] = AT(3);
			e->c->gpr[GPR_RAX] = round << 8;
			e->c->rip = RIG_CODE;
			/* mov [rdi or bx], ah; mov al, imm8 */
			if (round == 1)
				ERIG_CODE(e, 0x88, modes[i] == INSN_MODE_16 ? 0x27 : 0x27, 0xb0, 0,
					  NOP);
			cr_assert_eq(erig_run(e, 2), RIG_OK);
			cr_expect_eq(e->c->gpr[GPR_RAX], round << 8 | round, "mode %u", modes[i]);
		}
		erig_free(e);
	}
}

/* The same bytes as 16- and as 32-bit code, and a write that must drop both. */
Test(fetch, one_page_in_two_modes)
{
	struct erig *e = erig_new_protected(0);

	ERIG_CODE_AT(e, RIG_CODE, 0xb8, 0x11, 0x22, NOP, NOP, NOP);
	for (unsigned round = 0; round < 2; round++) {
		u32 low = round ? 0x2233 : 0x2211;

		for (unsigned k = 0; k < 2; k++) {
			rig_segment(e->r, SEG_CS, k ? S_CODE16 : S_CODE32);
			cpu_update_mode(e->c);
			e->c->rip = RIG_CODE;
			e->c->gpr[GPR_RAX] = 0;
			cr_assert_eq(erig_run(e, 1), RIG_OK);
			cr_expect_eq(e->c->gpr[GPR_RAX], k ? low : 0x90900000u | low);
		}
		ERIG_CODE_AT(e, RIG_CODE + 1, 0x33);
	}
	erig_free(e);
}

/* A page that is mapped elsewhere: the place says nothing about the code. */
Test(fetch, another_page_at_the_same_address)
{
	struct erig *e = erig_new_long(0);

	erig_small_pages(e);
	for (unsigned i = 1; i < 4; i++)
		ERIG_CODE_AT(e, ERIG_FREE + i * 0x1000, 0xb0, i, 0x0f, 0x01, 0x3f, 0xeb, 0xf9);
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	for (unsigned i = 1; i < 4; i++) {
		rig_put(e->r, ERIG_PT + 8 * (ERIG_FREE >> 12), 8,
			(ERIG_FREE + i * 0x1000) | PTE_P | PTE_W);
		if (i == 1)
			e->c->rip = ERIG_FREE;
		/* [mov,] invlpg, jmp, mov: the guest's own INVLPG makes the change seen. */
		cr_assert_eq(erig_run(e, i == 1 ? 1 : 3), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RAX], i);
	}
	erig_free(e);
}

/* --- full caches --- */

/* Run stretches of distinct instructions, each longer than the reserve the areas keep, until
 * something has been flushed. */
#define STRETCH 0x1c000u
static void fill(struct erig *e, const u8 *insn, unsigned len, unsigned imm, u64 max)
{
	u64 done, before = e->r->stats.n[STAT_thunk_flushes];
	static u8 page[STRETCH];

	for (done = 0; done < max && e->r->stats.n[STAT_thunk_flushes] == before;) {
		unsigned n = 0, count = 0;

		for (; n + len <= sizeof(page); n += len, count++) {
			u32 value = (u32)(done + count);

			memcpy(page + n, insn, len);
			memcpy(page + n + imm, &value, 4);
		}
		erig_put_code(e, ERIG_FREE, page, sizeof(page));
		e->c->rip = ERIG_FREE;
		cr_assert_eq(erig_run(e, count), RIG_OK);
		cr_assert_eq(e->c->rip, ERIG_FREE + n);
		done += count;
	}
	cr_expect_lt(done, max, "nothing was ever flushed");
	cr_expect_leq(e->c->engine->count, OP_MAX);
}

/* lea eax, [disp32]: no thunk, an op each. */
Test(fetch, the_op_area_fills_up)
{
	static const u8 lea[] = {0x8d, 0x05, 0, 0, 0, 0};
	struct erig *e = erig_new_protected(0);

	fill(e, lea, sizeof(lea), 2, 2 * OP_MAX);
	cr_expect_eq(ERIG_RUN(e, 1, 0xb0, 0x11), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX] & 0xff, 0x11);
	erig_free(e);
}

/* The same, each instruction followed by one that recomputes `slow`. */
Test(fetch, the_op_area_fills_up_under_sti)
{
	static const u8 lea_sti[] = {0x8d, 0x05, 0, 0, 0, 0, 0xfb};
	struct erig *e = erig_new_protected(0);

	for (unsigned i = 0; i < 1; i++) {
		u64 before = e->r->stats.n[STAT_thunk_flushes], done = 0;
		static u8 page[STRETCH];

		while (e->r->stats.n[STAT_thunk_flushes] == before && done < 2 * OP_MAX) {
			unsigned n = 0, count = 0;

			for (; n + 7 <= sizeof(page); n += 7, count++) {
				u32 value = (u32)(done + count);

				memcpy(page + n, lea_sti, 7);
				memcpy(page + n + 2, &value, 4);
			}
			erig_put_code(e, ERIG_FREE, page, sizeof(page));
			e->c->rip = ERIG_FREE;
			cr_assert_eq(erig_run(e, 2 * count), RIG_OK);
			done += count;
		}
		cr_expect_lt(done, 2 * OP_MAX);
	}
	erig_free(e);
}

/* add eax, imm32: a thunk each. */
Test(fetch, the_thunk_area_fills_up)
{
	static const u8 mov[] = {0xb8, 0, 0, 0, 0};
	struct erig *e = erig_new_long(0);

	fill(e, mov, sizeof(mov), 1, 2 * OP_MAX);
	cr_expect_eq(ERIG_RUN(e, 1, 0xb0, 0x11), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX] & 0xff, 0x11);
	erig_free(e);
}

Test(fetch, reset_forgets_everything)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 1, 0xb0, 0x11), RIG_OK);
	engine_reset(e->c);
	rig_put(e->r, RIG_CODE + 1, 1, 0x22); /* behind everybody's back */
	e->c->rip = RIG_CODE;
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x22);
	erig_free(e);
}
