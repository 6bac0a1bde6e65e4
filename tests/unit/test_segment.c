/*
 * Segment registers and descriptor tables: loads with every check of SDM vol. 3, 5.4 to 5.6, the
 * instructions that store, push and pop selectors, LAR LSL VERR VERW, LGDT SGDT, LLDT LTR.
 */
#include "cpu_rig.h"

#define EAX_DATA 0x05, 0x00, 0x50, 0x00, 0x00 /* ModRM and disp32 of [RIG_DATA], reg 0 */

/* mov sreg, ax */
static unsigned mov_sreg(struct rig *r, unsigned seg, u16 sel)
{
	r->c.gpr[GPR_RAX] = 0xdead0000u | sel;
	return RIG_EXEC(r, exec_mov_to_sreg, 0x8e, 0xc0 | seg << 3);
}

struct load_case {
	const char *what;
	unsigned cpl, seg;
	u16 sel;
	unsigned vector;
	u32 error;
};

Test(segment, loads_in_protected_mode)
{
	static const struct load_case cases[] = {
	    {"data at CPL 0", 0, SEG_DS, S_DATA, RIG_OK, 0},
	    {"null into DS", 0, SEG_DS, 0, RIG_OK, 0},
	    {"null with RPL 3 into GS", 0, SEG_GS, 3, RIG_OK, 0},
	    {"null into SS", 0, SEG_SS, 0, EXC_GP, 0},
	    {"beyond the GDT", 0, SEG_DS, S_GDT_END, EXC_GP, S_GDT_END},
	    {"far beyond the GDT", 0, SEG_ES, 0xfff3, EXC_GP, 0xfff0},
	    {"no LDT", 0, SEG_DS, 0x0c, EXC_GP, 0x0c},
	    {"readable code", 0, SEG_DS, S_CODE32, RIG_OK, 0},
	    {"execute-only code", 0, SEG_DS, S_EXECONLY, EXC_GP, S_EXECONLY},
	    {"read-only data", 0, SEG_DS, S_READONLY, RIG_OK, 0},
	    {"a system descriptor", 0, SEG_DS, S_TSS, EXC_GP, S_TSS},
	    {"absent data", 0, SEG_FS, S_ABSENT, EXC_NP, S_ABSENT},
	    {"RPL above DPL", 0, SEG_DS, S_DATA | 3, EXC_GP, S_DATA},
	    {"CPL above DPL", 3, SEG_DS, S_DATA, EXC_GP, S_DATA},
	    {"user data at CPL 3", 3, SEG_DS, S_DATA3 | 3, RIG_OK, 0},
	    {"user data at CPL 0", 0, SEG_DS, S_DATA3 | 3, RIG_OK, 0},
	    {"conforming code from CPL 3", 3, SEG_DS, S_CONFORM | 3, RIG_OK, 0},
	    {"privilege before presence", 3, SEG_DS, S_ABSENT | 3, EXC_GP, S_ABSENT},
	    {"SS", 0, SEG_SS, S_DATA, RIG_OK, 0},
	    {"SS with a wrong RPL", 0, SEG_SS, S_DATA | 1, EXC_GP, S_DATA},
	    {"SS with a wrong DPL", 0, SEG_SS, S_DATA3, EXC_GP, S_DATA3},
	    {"SS read-only", 0, SEG_SS, S_READONLY, EXC_GP, S_READONLY},
	    {"SS code", 0, SEG_SS, S_CODE32, EXC_GP, S_CODE32},
	    {"SS absent", 0, SEG_SS, S_ABSENT, EXC_SS, S_ABSENT},
	    {"SS expand-down", 0, SEG_SS, S_DOWN, RIG_OK, 0},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		const struct load_case *t = &cases[i];
		struct rig *r = rig_new();
		struct seg_reg before;

		rig_protected(r, t->cpl);
		before = r->c.seg[t->seg];
		rig_expect(r, mov_sreg(r, t->seg, t->sel), t->vector, t->error, t->what);
		if (t->vector == RIG_OK) {
			cr_expect_eq(r->c.seg[t->seg].sel, t->sel, "%s", t->what);
			cr_expect_eq(r->c.rip, RIG_CODE + 2, "%s", t->what);
		} else {
			cr_expect_eq(r->c.seg[t->seg].sel, before.sel, "%s", t->what);
			cr_expect_eq(r->c.seg[t->seg].attr, before.attr, "%s", t->what);
			cr_expect_eq(r->c.rip, RIG_CODE, "%s", t->what);
		}
		rig_free(r);
	}
}

Test(segment, descriptor_is_unpacked_and_marked_accessed)
{
	struct rig *r = rig_new();
	const struct seg_reg *ds = &r->c.seg[SEG_DS];

	rig_protected(r, 0);
	rig_set_desc(r, S_GATE, rig_desc(0x89abcdef, 0x12345fff, A_DATA | SEG_G | SEG_AVL));
	cr_assert_eq(mov_sreg(r, SEG_DS, S_GATE), RIG_OK);
	cr_expect_eq(ds->base, 0x89abcdef);
	cr_expect_eq(ds->limit, 0x12345fff);
	cr_expect_eq(ds->attr, (A_DATA | SEG_G | SEG_AVL | SEG_A));
	cr_expect_eq(rig_get(r, RIG_GDT + S_GATE + 5, 1), 0x93);
	rig_set_desc(r, S_GATE, rig_desc(0x10, 0xabcde, A_DATA | SEG_A));
	cr_assert_eq(mov_sreg(r, SEG_DS, S_GATE), RIG_OK);
	cr_expect_eq(ds->limit, 0xabcde, "byte granularity");
	/* A failed load leaves the accessed bit alone. */
	cr_assert_eq(mov_sreg(r, SEG_DS, S_EXECONLY), EXC_GP);
	cr_expect_eq(rig_get(r, RIG_GDT + S_EXECONLY + 5, 1), 0x98);
	cr_assert_eq(mov_sreg(r, SEG_DS, 0), RIG_OK);
	cr_expect_eq(ds->attr, SEG_NULL);
	cr_expect_eq(ds->base, 0);
	rig_free(r);
}

Test(segment, local_descriptor_table)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_LDT + 8, 8, rig_desc(0x7000, 0xfff, A_DATA));
	r->c.ldtr = (struct seg_reg){.base = RIG_LDT, .limit = 0xf, .sel = S_LDT};
	cr_expect_eq(mov_sreg(r, SEG_ES, 0x0c), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_ES].base, 0x7000);
	rig_expect(r, mov_sreg(r, SEG_ES, 0x14), EXC_GP, 0x14, "beyond the LDT");
	rig_expect(r, mov_sreg(r, SEG_ES, 0x04), EXC_GP, 0x04, "LDT entry 0 is no null selector");
	rig_free(r);
}

Test(segment, real_mode_keeps_limits)
{
	struct rig *r = rig_new();

	r->c.seg[SEG_DS].limit = 0xffffffff; /* "unreal" */
	r->c.seg[SEG_DS].attr |= SEG_G;
	cr_expect_eq(mov_sreg(r, SEG_DS, 0xffff), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_DS].base, 0xffff0);
	cr_expect_eq(r->c.seg[SEG_DS].limit, 0xffffffff);
	r->c.seg[SEG_FS] = (struct seg_reg){.attr = SEG_NULL};
	cr_expect_eq(mov_sreg(r, SEG_FS, 0x1234), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_FS].limit, 0xffff);
	cr_expect_eq(r->c.seg[SEG_FS].attr & SEG_NULL, 0);
	rig_free(r);
}

Test(segment, v86_has_fixed_attributes)
{
	struct rig *r = rig_new();

	rig_v86(r, 0);
	r->c.seg[SEG_DS].limit = 0xffffffff;
	cr_expect_eq(mov_sreg(r, SEG_DS, 0x8000), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_DS].base, 0x80000);
	cr_expect_eq(r->c.seg[SEG_DS].limit, 0xffff);
	cr_expect_eq(r->c.seg[SEG_DS].attr, 0xf3);
	rig_free(r);
}

Test(segment, ss_loads_cast_a_shadow)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	cr_assert_eq(mov_sreg(r, SEG_DS, S_DATA), RIG_OK);
	cr_expect_not(r->c.shadow);
	cr_assert_eq(mov_sreg(r, SEG_SS, S_DATA), RIG_OK);
	cr_expect(r->c.shadow);
	cr_expect(r->c.slow);
	r->c.shadow = false;
	r->c.gpr[GPR_RSP] = RIG_STACK - 4;
	rig_put(r, RIG_STACK - 4, 4, S_DATA);
	cr_assert_eq(RIG_EXEC(r, exec_pop_sreg, 0x17), RIG_OK);
	cr_expect(r->c.shadow);
	r->c.shadow = false;
	rig_put(r, RIG_DATA, 4, 0x11223344);
	rig_put(r, RIG_DATA + 4, 2, S_DATA);
	cr_assert_eq(RIG_EXEC(r, exec_load_far_ptr, 0x0f, 0xb2, EAX_DATA), RIG_OK);
	cr_expect_not(r->c.shadow, "LSS casts none");
	cr_expect_eq(r->c.gpr[GPR_RAX], 0x11223344);
	rig_free(r);
}

Test(segment, null_stack_segment_in_64_bit_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	cr_expect_eq(mov_sreg(r, SEG_SS, 0), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_SS].attr, SEG_NULL);
	rig_expect(r, mov_sreg(r, SEG_SS, 3), EXC_GP, 0, "RPL differs from CPL");
	rig_level(r, S_CODE64_3, 3);
	rig_expect(r, mov_sreg(r, SEG_SS, 3), EXC_GP, 0, "never at CPL 3");
	rig_level(r, S_CODE32, 0);
	rig_expect(r, mov_sreg(r, SEG_SS, 0), EXC_GP, 0, "nor in compatibility mode");
	rig_free(r);
}

Test(segment, null_fs_zeroes_the_base)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.seg[SEG_FS].base = 0xffff888000001000ull;
	cr_assert_eq(mov_sreg(r, SEG_FS, 0), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_FS].base, 0);
	rig_free(r);
}

Test(segment, mov_from_sreg_sizes)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.seg[SEG_DS].sel = 0xabcd;
	r->c.gpr[GPR_RCX] = ~0ull;
	cr_assert_eq(RIG_EXEC(r, exec_mov_from_sreg, 0x66, 0x8c, 0xd9), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RCX], 0xffffffffffffabcdull);
	cr_assert_eq(RIG_EXEC(r, exec_mov_from_sreg, 0x8c, 0xd9), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RCX], 0xabcd);
	r->c.gpr[GPR_R9] = ~0ull;
	cr_assert_eq(RIG_EXEC(r, exec_mov_from_sreg, 0x49, 0x8c, 0xd9), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_R9], 0xabcd);
	rig_put(r, RIG_DATA, 8, ~0ull);
	r->c.gpr[GPR_RBX] = RIG_DATA;
	cr_assert_eq(RIG_EXEC(r, exec_mov_from_sreg, 0x48, 0x8c, 0x1b), RIG_OK);
	cr_expect_eq(rig_get(r, RIG_DATA, 8), 0xffffffffffffabcdull, "memory: two bytes");
	rig_free(r);
}

Test(segment, push_sreg_sizes)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.seg[SEG_FS].sel = 0x1234;
	rig_put(r, RIG_STACK - 8, 8, ~0ull);
	cr_assert_eq(RIG_EXEC(r, exec_push_sreg, 0x0f, 0xa0), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 4);
	cr_expect_eq(rig_get(r, RIG_STACK - 8, 8), 0xffff1234ffffffffull, "16-bit write");
	cr_assert_eq(RIG_EXEC(r, exec_push_sreg, 0x66, 0x0e), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 6);
	cr_expect_eq(rig_get(r, RIG_STACK - 6, 2), S_CODE32);
	rig_long(r, S_CODE64, 0);
	r->c.seg[SEG_GS].sel = 0x4321;
	r->c.gpr[GPR_RSP] = RIG_STACK;
	rig_put(r, RIG_STACK - 8, 8, ~0ull);
	cr_assert_eq(RIG_EXEC(r, exec_push_sreg, 0x0f, 0xa8), RIG_OK);
	cr_expect_eq(rig_get(r, RIG_STACK - 8, 8), 0x4321, "zero-extended");
	rig_free(r);
}

Test(segment, pop_sreg_faults_leave_rsp)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.gpr[GPR_RSP] = RIG_STACK - 4;
	rig_put(r, RIG_STACK - 4, 4, 0xffff0000u | S_DATA);
	cr_assert_eq(RIG_EXEC(r, exec_pop_sreg, 0x07), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(r->c.seg[SEG_ES].sel, S_DATA);
	rig_put(r, RIG_STACK, 4, S_ABSENT);
	rig_expect(r, RIG_EXEC(r, exec_pop_sreg, 0x1f), EXC_NP, S_ABSENT, "pop ds");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	/* POP SS to a 16-bit stack moves all of ESP. */
	r->c.gpr[GPR_RSP] = 0x1fffe;
	rig_put(r, 0x1fffe, 4, S_DATA16);
	cr_assert_eq(RIG_EXEC(r, exec_pop_sreg, 0x17), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x20002);
	rig_free(r);
}

Test(segment, far_pointer_loads)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_DATA, 4, 0xcafebabe);
	rig_put(r, RIG_DATA + 4, 2, S_READONLY);
	cr_assert_eq(RIG_EXEC(r, exec_load_far_ptr, 0xc4, EAX_DATA), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RAX], 0xcafebabe);
	cr_expect_eq(r->c.seg[SEG_ES].base, 0x1000);
	rig_put(r, RIG_DATA + 4, 2, S_EXECONLY);
	rig_expect(r, RIG_EXEC(r, exec_load_far_ptr, 0x0f, 0xb5, 0x0d, 0, 0x50, 0, 0), EXC_GP,
		   S_EXECONLY, "lgs");
	cr_expect_eq(r->c.gpr[GPR_RCX], 0, "the register waits for the segment");
	rig_long(r, S_CODE64, 0);
	rig_put(r, RIG_DATA, 8, 0xffff800012345678ull);
	rig_put(r, RIG_DATA + 8, 2, S_DATA);
	r->c.gpr[GPR_RBX] = RIG_DATA;
	cr_assert_eq(RIG_EXEC(r, exec_load_far_ptr, 0x48, 0x0f, 0xb4, 0x13), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RDX], 0xffff800012345678ull, "m16:64");
	cr_expect_eq(r->c.seg[SEG_FS].sel, S_DATA);
	rig_free(r);
}

/* --- queries --- */

struct query_case {
	unsigned cpl;
	u16 sel;
	u32 lar, lsl; /* 0: ZF clear */
	bool verr, verw;
};

Test(segment, lar_lsl_verr_verw)
{
	static const struct query_case cases[] = {
	    {0, S_DATA, 0xc09200, 0xffffffff, true, true},
	    {0, S_CODE32, 0xc09a00, 0xffffffff, true, false},
	    {0, S_EXECONLY, 0xc09800, 0xffffffff, false, false},
	    {0, S_READONLY, 0xc09000, 0xffffffff, true, false},
	    {0, S_ABSENT, 0xc01200, 0xffffffff, true, true},
	    {0, S_TSS, 0x008900, 0x67, false, false},
	    {0, S_LDT, 0x008200, 0x1f, false, false},
	    {0, 0, 0, 0, false, false},
	    {0, S_GDT_END, 0, 0, false, false},
	    {3, S_DATA, 0, 0, false, false},
	    {3, S_DATA3 | 3, 0xc0f200, 0xffffffff, true, true},
	    {0, S_DATA | 3, 0, 0, false, false},
	    {3, S_CONFORM | 3, 0xc09e00, 0xffffffff, true, false},
	    {3, S_TSS, 0, 0, false, false},
	    {0, S_DOWN, 0x009600, 0xfff, true, true},
	    {3, S_DOWN, 0, 0, false, false}, /* expand-down is not conforming */
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		const struct query_case *t = &cases[i];
		struct rig *r = rig_new();

		rig_protected(r, t->cpl);
		r->c.gpr[GPR_RCX] = t->sel;
		r->c.gpr[GPR_RAX] = 0x55;
		r->c.aflags = FL_CF;
		cr_assert_eq(RIG_EXEC(r, exec_lar_lsl, 0x0f, 0x02, 0xc1), RIG_OK);
		cr_expect_eq(r->c.gpr[GPR_RAX], t->lar ? t->lar : 0x55, "lar %x", t->sel);
		cr_expect_eq(r->c.aflags & FL_ARITH, (t->lar ? FL_ZF : 0) | FL_CF, "lar %x",
			     t->sel);
		r->c.gpr[GPR_RAX] = 0x55;
		cr_assert_eq(RIG_EXEC(r, exec_lar_lsl, 0x0f, 0x03, 0xc1), RIG_OK);
		cr_expect_eq(r->c.gpr[GPR_RAX], t->lsl ? t->lsl : 0x55, "lsl %x", t->sel);
		cr_assert_eq(RIG_EXEC(r, exec_verr_verw, 0x0f, 0x00, 0xe1), RIG_OK);
		cr_expect_eq(!!(r->c.aflags & FL_ZF), t->verr, "verr %x", t->sel);
		cr_assert_eq(RIG_EXEC(r, exec_verr_verw, 0x0f, 0x00, 0xe9), RIG_OK);
		cr_expect_eq(!!(r->c.aflags & FL_ZF), t->verw, "verw %x", t->sel);
		rig_free(r);
	}
}

Test(segment, gates_are_visible_to_lar_by_mode)
{
	static const u16 legacy_lar = 0x1a3e, legacy_lsl = 0x0a0e, long_lar = 0x1a04,
			 long_lsl = 0x0a04;
	struct rig *r = rig_new();
	unsigned type, lma;

	for (lma = 0; lma < 2; lma++) {
		if (lma)
			rig_long(r, S_CODE64, 0);
		else
			rig_protected(r, 0);
		r->c.gpr[GPR_RCX] = S_GATE;
		for (type = 0; type < 16; type++) {
			rig_set_desc(r, S_GATE, rig_desc(0, 0x1ff, SEG_P | type));
			cr_assert_eq(RIG_EXEC(r, exec_lar_lsl, 0x0f, 0x02, 0xc1), RIG_OK);
			cr_expect_eq(!!(r->c.aflags & FL_ZF),
				     (lma ? long_lar : legacy_lar) >> type & 1, "lar type %u, %u",
				     type, lma);
			cr_assert_eq(RIG_EXEC(r, exec_lar_lsl, 0x0f, 0x03, 0xc1), RIG_OK);
			cr_expect_eq(!!(r->c.aflags & FL_ZF),
				     (lma ? long_lsl : legacy_lsl) >> type & 1, "lsl type %u, %u",
				     type, lma);
		}
	}
	rig_free(r);
}

Test(segment, no_selectors_in_real_and_v86_mode)
{
	struct rig *r = rig_new();
	unsigned v86;

	for (v86 = 0; v86 < 2; v86++) {
		if (v86)
			rig_v86(r, 3);
		cr_expect_eq(RIG_EXEC(r, exec_lar_lsl, 0x0f, 0x02, 0xc1), EXC_UD);
		cr_expect_eq(RIG_EXEC(r, exec_verr_verw, 0x0f, 0x00, 0xe1), EXC_UD);
		cr_expect_eq(RIG_EXEC(r, exec_sldt_str, 0x0f, 0x00, 0xc1), EXC_UD);
		cr_expect_eq(RIG_EXEC(r, exec_lldt_ltr, 0x0f, 0x00, 0xd1), EXC_UD);
	}
	rig_free(r);
}

/* --- tables --- */

Test(segment, lgdt_and_sgdt)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_DATA, 8, 0xffff89abcdef1234ull);
	cr_assert_eq(RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x15, 0, 0x50, 0, 0), RIG_OK);
	cr_expect_eq(r->c.gdtr.limit, 0x1234);
	cr_expect_eq(r->c.gdtr.base, 0x89abcdef);
	cr_assert_eq(RIG_EXEC(r, exec_descriptor_table, 0x66, 0x0f, 0x01, 0x1d, 0, 0x50, 0, 0),
		     RIG_OK);
	cr_expect_eq(r->c.idtr.base, 0xabcdef, "16-bit operand size: 24 bits");
	rig_put(r, RIG_DATA, 8, ~0ull);
	cr_assert_eq(RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x05, 0, 0x50, 0, 0), RIG_OK);
	cr_expect_eq(rig_get(r, RIG_DATA, 8), 0xffff89abcdef1234ull, "six bytes");
	rig_level(r, S_CODE32_3, 3);
	cr_expect_eq(RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x0d, 0, 0x50, 0, 0), RIG_OK,
		     "SIDT works at CPL 3");
	rig_expect(r, RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x15, 0, 0x50, 0, 0), EXC_GP,
		   0, "LGDT at CPL 3");
	rig_free(r);
}

Test(segment, lidt_in_64_bit_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RBX] = RIG_DATA;
	rig_put(r, RIG_DATA, 2, 0xfff);
	rig_put(r, RIG_DATA + 2, 8, 0xfffffe0000000000ull);
	cr_assert_eq(RIG_EXEC(r, exec_descriptor_table, 0x66, 0x0f, 0x01, 0x1b), RIG_OK);
	cr_expect_eq(r->c.idtr.base, 0xfffffe0000000000ull);
	rig_put(r, RIG_DATA + 2, 8, 0x8000000000000000ull);
	rig_expect(r, RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x1b), EXC_GP, 0,
		   "not canonical");
	cr_expect_eq(r->c.idtr.base, 0xfffffe0000000000ull);
	cr_assert_eq(RIG_EXEC(r, exec_descriptor_table, 0x0f, 0x01, 0x0b), RIG_OK);
	cr_expect_eq(rig_get(r, RIG_DATA + 2, 8), 0xfffffe0000000000ull);
	rig_free(r);
}

/* lldt cx, ltr cx */
static unsigned lldt(struct rig *r, u16 sel)
{
	r->c.gpr[GPR_RCX] = sel;
	return RIG_EXEC(r, exec_lldt_ltr, 0x0f, 0x00, 0xd1);
}
static unsigned ltr(struct rig *r, u16 sel)
{
	r->c.gpr[GPR_RCX] = sel;
	return RIG_EXEC(r, exec_lldt_ltr, 0x0f, 0x00, 0xd9);
}

Test(segment, lldt_and_ltr_in_protected_mode)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.tr = (struct seg_reg){0};
	cr_expect_eq(lldt(r, S_LDT), RIG_OK);
	cr_expect_eq(r->c.ldtr.base, RIG_LDT);
	cr_expect_eq(r->c.ldtr.limit, 0x1f);
	cr_expect_eq(ltr(r, S_TSS), RIG_OK);
	cr_expect_eq(r->c.tr.base, RIG_TSS);
	cr_expect_eq(r->c.tr.attr, (SEG_P | 11));
	cr_expect_eq(rig_get(r, RIG_GDT + S_TSS + 5, 1), 0x8b, "busy in memory");
	rig_expect(r, ltr(r, S_TSS), EXC_GP, S_TSS, "a busy TSS");
	rig_expect(r, ltr(r, 0), EXC_GP, 0, "LTR null");
	rig_expect(r, ltr(r, S_LDT), EXC_GP, S_LDT, "LTR of an LDT");
	rig_expect(r, ltr(r, 0x0c), EXC_GP, 0x0c, "TSS in the LDT");
	rig_expect(r, lldt(r, S_DATA), EXC_GP, S_DATA, "LLDT of a data segment");
	rig_expect(r, lldt(r, 0x0c), EXC_GP, 0x0c, "LDT in the LDT");
	rig_set_desc(r, S_GATE, rig_desc(0, 0xff, 2));
	rig_expect(r, lldt(r, S_GATE), EXC_NP, S_GATE, "absent LDT");
	rig_set_desc(r, S_GATE, rig_desc(0, 0xff, SEG_P | 1));
	cr_expect_eq(ltr(r, S_GATE), RIG_OK, "16-bit TSS");
	cr_expect_eq(lldt(r, 3), RIG_OK, "null");
	cr_expect_eq(r->c.ldtr.attr, SEG_NULL);
	cr_assert_eq(RIG_EXEC(r, exec_sldt_str, 0x0f, 0x00, 0xc8), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RAX], S_GATE, "STR");
	rig_level(r, S_CODE32_3, 3);
	rig_expect(r, lldt(r, 0), EXC_GP, 0, "LLDT at CPL 3");
	rig_expect(r, ltr(r, S_TSS), EXC_GP, 0, "LTR at CPL 3");
	rig_free(r);
}

Test(segment, system_descriptors_are_16_bytes_in_long_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	rig_put(r, RIG_GDT + S_TSS + 8, 8, 0xfffffe00);
	cr_expect_eq(ltr(r, S_TSS), RIG_OK);
	cr_expect_eq(r->c.tr.base, 0xfffffe0000003000ull);
	rig_put(r, RIG_GDT + S_LDT + 8, 8, 0x8000);
	rig_expect(r, lldt(r, S_LDT), EXC_GP, S_LDT, "base not canonical");
	rig_put(r, RIG_GDT + S_LDT + 8, 8, 0x0000010000000000ull);
	rig_expect(r, lldt(r, S_LDT), EXC_GP, S_LDT, "type in the upper half");
	rig_set_desc(r, S_GATE, rig_desc(0, 0xff, SEG_P | 1));
	rig_expect(r, ltr(r, S_GATE), EXC_GP, S_GATE, "16-bit TSS");
	/* The upper half lies beyond the limit. */
	rig_set_desc(r, S_DATA3_16, rig_desc(0, 0xff, SEG_P | 2));
	rig_expect(r, lldt(r, S_DATA3_16), EXC_GP, S_DATA3_16, "half a descriptor");
	rig_free(r);
}

Test(segment, accessed_bit_in_a_read_only_table_faults)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	/* The same memory again, read-only, at 2 MiB. */
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_U);
	r->c.gdtr.base = 2 * MIB + RIG_GDT;
	rig_expect(r, mov_sreg(r, SEG_ES, S_DATA3), EXC_PF, PF_P | PF_W, "setting A");
	cr_expect_eq(r->c.cr2, 2 * MIB + RIG_GDT + S_DATA3 + 5);
	cr_expect_eq(r->c.seg[SEG_ES].sel, S_DATA, "nothing loaded");
	rig_put(r, RIG_GDT + S_DATA3 + 5, 1, 0xf3);
	cr_expect_eq(mov_sreg(r, SEG_ES, S_DATA3), RIG_OK, "nothing to write");
	rig_free(r);
}

/* Descriptor tables need no user mapping. */
Test(segment, tables_are_read_with_supervisor_rights)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_W);
	r->c.gdtr.base = 2 * MIB + RIG_GDT;
	cr_expect_eq(mov_sreg(r, SEG_ES, S_DATA3 | 3), RIG_OK);
	rig_free(r);
}
