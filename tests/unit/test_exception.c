/*
 * Entering handlers: IVT, protected-mode gates of both sizes with and without a change of level,
 * from v86 mode, long-mode gates with IST; error codes, EXT, flags, and what faults on the way.
 */
#include "cpu_rig.h"

static u64 word(const struct rig *r, unsigned i, unsigned size)
{
	return rig_get(r, r->c.seg[SEG_SS].base + r->c.gpr[GPR_RSP] + i * size, size);
}

#define EXT          1u
#define IDT_ERROR(v) ((v)*8 + 2)

enum { GATE_TASK = 5, GATE_INT16, GATE_TRAP16, GATE_INT32 = 14, GATE_TRAP32 };

static unsigned fault(struct rig *r, unsigned vector, int error)
{
	return rig_enter(r, vector, error, false, true);
}
static unsigned external(struct rig *r, unsigned vector)
{
	return rig_enter(r, vector, -1, false, false);
}
static unsigned soft(struct rig *r, unsigned vector)
{
	return rig_enter(r, vector, -1, true, false);
}

/* --- real mode --- */

Test(exception, real_mode)
{
	struct rig *r = rig_new();

	rig_put(r, 0x21 * 4, 4, 0x06001234);
	cpu_set_rflags(&r->c, FL_IF | FL_TF | FL_AC | FL_CF | FL_DF | FL_RF);
	cr_assert_eq(soft(r, 0x21), RIG_OK);
	cr_expect_eq(r->c.rip, 0x1234);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0x6000);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 6);
	cr_expect_eq(word(r, 0, 2), RIG_CODE + 2);
	cr_expect_eq(word(r, 1, 2), 0);
	cr_expect_eq(word(r, 2, 2), (FL_IF | FL_TF | FL_CF | FL_DF | FL_FIXED1));
	cr_expect_eq(cpu_rflags(&r->c), (FL_CF | FL_DF | FL_FIXED1));
	/* No error code in real mode. */
	rig_put(r, EXC_GP * 4, 4, 0x06002345);
	cr_assert_eq(fault(r, EXC_GP, 0), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 12);
	cr_expect_eq(r->c.rip, 0x2345);
	rig_free(r);
}

Test(exception, real_mode_limits)
{
	struct rig *r = rig_new();

	r->c.idtr.limit = 0x21 * 4 + 2;
	rig_expect(r, soft(r, 0x21), EXC_GP, IDT_ERROR(0x21), "IVT limit");
	r->c.idtr.limit++;
	cr_expect_eq(soft(r, 0x21), RIG_OK);
	r->c.gpr[GPR_RSP] = 5;
	r->c.rip = RIG_CODE;
	rig_expect(r, external(r, 0x20), EXC_SS, EXT, "a stack that wraps within a word");
	cr_expect_eq(r->c.gpr[GPR_RSP], 5);
	cr_expect_eq(r->c.rip, RIG_CODE);
	rig_free(r);
}

/* The IVT may be moved by LIDT. */
Test(exception, real_mode_idt_base)
{
	struct rig *r = rig_new();

	r->c.idtr.base = RIG_IDT;
	rig_put(r, RIG_IDT + 4 * 8, 4, 0xf0000010);
	cr_assert_eq(external(r, 8), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0xf0000);
	rig_free(r);
}

/* --- protected mode, same level --- */

Test(exception, same_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, EXC_GP, rig_gate(S_CODE32, 0x12345678, GATE_INT32, 0, 0));
	cpu_set_rflags(&r->c, FL_IF | FL_TF | FL_NT | FL_ZF);
	cr_assert_eq(fault(r, EXC_GP, 0xabc8), RIG_OK);
	cr_expect_eq(r->c.rip, 0x12345678);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 16);
	cr_expect_eq(word(r, 0, 4), 0xabc8);
	cr_expect_eq(word(r, 1, 4), RIG_CODE);
	cr_expect_eq(word(r, 2, 4), S_CODE32);
	cr_expect_eq(word(r, 3, 4), (FL_IF | FL_TF | FL_NT | FL_ZF | FL_RF | FL_FIXED1));
	cr_expect_eq(cpu_rflags(&r->c), (FL_ZF | FL_FIXED1));
	rig_free(r);
}

Test(exception, trap_gates_keep_if)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, 0x80, rig_gate(S_CODE32, 0x7000, GATE_TRAP32, 3, 0));
	cpu_set_rflags(&r->c, FL_IF | FL_TF);
	cr_assert_eq(soft(r, 0x80), RIG_OK);
	cr_expect_eq(cpu_rflags(&r->c), (FL_IF | FL_FIXED1));
	cr_expect_eq(word(r, 0, 4), RIG_CODE + 2, "the next instruction");
	cr_expect_eq(word(r, 2, 4) & FL_RF, 0);
	rig_free(r);
}

Test(exception, rf_in_the_image)
{
	static const struct {
		unsigned vector;
		bool exception, rf;
	} cases[] = {
	    {EXC_DE, true, true},  {EXC_DB, true, false},  {EXC_UD, true, true},
	    {EXC_DF, true, false}, {EXC_PF, true, true},   {EXC_MF, true, true},
	    {EXC_BP, true, false}, {EXC_BR, true, true},   {EXC_NM, true, true},
	    {EXC_TS, true, true},  {EXC_NP, true, true},   {EXC_SS, true, true},
	    {EXC_GP, true, true},  {EXC_AC, true, true},   {EXC_MC, true, false},
	    {EXC_XM, true, true},  {EXC_PF, false, false}, /* an external interrupt with an odd
							      number */
	    {0x20, false, false},  {0x30, true, false},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		rig_protected(r, 0);
		rig_set_idt(r, cases[i].vector, rig_gate(S_CODE32, 0x7000, GATE_INT32, 0, 0));
		cr_assert_eq(rig_enter(r, cases[i].vector, -1, false, cases[i].exception), RIG_OK);
		cr_expect_eq(!!(word(r, 2, 4) & FL_RF), cases[i].rf, "vector %u", cases[i].vector);
		cr_expect_eq(r->c.sflags & FL_RF, 0);
		rig_free(r);
	}
}

Test(exception, sixteen_bit_gate)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, EXC_NP, rig_gate(S_CODE16, 0x99997000, GATE_INT16, 0, 0));
	cr_assert_eq(fault(r, EXC_NP, 0x18), RIG_OK);
	cr_expect_eq(r->c.rip, 0x7000);
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 8);
	cr_expect_eq(word(r, 0, 2), 0x18);
	cr_expect_eq(word(r, 1, 2), RIG_CODE);
	cr_expect_eq(word(r, 2, 2), S_CODE32);
	cr_expect_eq(word(r, 3, 2), FL_FIXED1);
	rig_free(r);
}

Test(exception, same_level_uses_the_stack_segment)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, 0x40, rig_gate(S_CODE32, 0x7000, GATE_INT32, 0, 0));
	rig_segment(r, SEG_SS, S_DATA16);
	r->c.seg[SEG_SS].base = 0x100;
	r->c.gpr[GPR_RSP] = 0x58004;
	cr_assert_eq(external(r, 0x40), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x57ff8, "only SP moves");
	cr_expect_eq(rig_get(r, 0x80f8, 4), RIG_CODE);
	r->c.gpr[GPR_RSP] = 8;
	cr_assert_eq(external(r, 0x40), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xfffc, "whole words wrap at 64 KiB");
	r->c.gpr[GPR_RSP] = 6;
	rig_expect(r, external(r, 0x40), EXC_SS, EXT, "a word across the end does not");
	rig_free(r);
}

/* --- protected mode, to an inner level --- */

Test(exception, inner_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	rig_set_idt(r, EXC_PF, rig_gate(S_CODE32, 0xc0001000, GATE_INT32, 0, 0));
	r->c.sflags |= FL_IF;
	cr_assert_eq(fault(r, EXC_PF, 6), RIG_OK);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_not(r->c.user);
	cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE32);
	cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 24);
	cr_expect_eq(word(r, 0, 4), 6);
	cr_expect_eq(word(r, 1, 4), RIG_CODE);
	cr_expect_eq(word(r, 2, 4), (S_CODE32_3 | 3));
	cr_expect_eq(word(r, 3, 4), (FL_IF | FL_RF | FL_FIXED1));
	cr_expect_eq(word(r, 4, 4), RIG_STACK);
	cr_expect_eq(word(r, 5, 4), (S_DATA3 | 3));
	cr_expect_eq(r->c.seg[SEG_DS].sel, (S_DATA3 | 3), "data segments stay");
	rig_free(r);
}

Test(exception, conforming_handler_stays_at_the_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	rig_set_idt(r, EXC_DE, rig_gate(S_CONFORM, 0x7000, GATE_INT32, 0, 0));
	cr_assert_eq(fault(r, EXC_DE, -1), RIG_OK);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.seg[SEG_CS].sel, S_CONFORM | 3);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 12);
	rig_free(r);
}

enum { KIND_SOFT, KIND_FAULT, KIND_EXTERNAL };

Test(exception, gate_and_handler_checks)
{
	static const struct {
		const char *what;
		unsigned cpl;
		u16 target;
		unsigned type, dpl;
		unsigned kind;
		unsigned vector;
		u32 error;
	} cases[] = {
	    {"soft below DPL", 3, S_CODE32, GATE_INT32, 0, KIND_SOFT, EXC_GP, IDT_ERROR(0x40)},
	    {"soft at DPL", 3, S_CODE32, GATE_INT32, 3, KIND_SOFT, RIG_OK, 0},
	    {"external: no DPL check", 3, S_CODE32, GATE_INT32, 0, KIND_EXTERNAL, RIG_OK, 0},
	    {"call gate", 0, S_CODE32, 12, 0, KIND_SOFT, EXC_GP, IDT_ERROR(0x40)},
	    {"call gate, external", 0, S_CODE32, 12, 0, KIND_EXTERNAL, EXC_GP,
	     IDT_ERROR(0x40) | EXT},
	    {"null handler", 0, 0, GATE_INT32, 0, KIND_SOFT, EXC_GP, 0},
	    {"null handler, external", 0, 3, GATE_INT32, 0, KIND_EXTERNAL, EXC_GP, EXT},
	    {"handler is data", 0, S_DATA, GATE_INT32, 0, KIND_FAULT, EXC_GP, S_DATA | EXT},
	    {"handler beyond the GDT", 0, S_GDT_END, GATE_INT32, 0, KIND_SOFT, EXC_GP, S_GDT_END},
	    {"handler absent", 0, S_CODE_ABSENT, GATE_INT32, 0, KIND_FAULT, EXC_NP,
	     S_CODE_ABSENT | EXT},
	    {"outer handler", 0, S_CODE32_3, GATE_INT32, 0, KIND_FAULT, EXC_GP, S_CODE32_3 | EXT},
	    {"offset beyond the limit", 0, S_SMALL, GATE_INT32, 0, KIND_SOFT, EXC_GP, 0},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();
		unsigned got;

		rig_protected(r, cases[i].cpl);
		rig_set_idt(r, 0x40,
			    rig_gate(cases[i].target, 0x7000, cases[i].type, cases[i].dpl, 0));
		got =
		    rig_enter(r, 0x40, -1, cases[i].kind == KIND_SOFT, cases[i].kind == KIND_FAULT);
		rig_expect(r, got, cases[i].vector, cases[i].error, cases[i].what);
		if (cases[i].vector != RIG_OK) {
			cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK, "%s", cases[i].what);
			cr_expect_eq(r->c.rip, RIG_CODE, "%s", cases[i].what);
			cr_expect_eq(r->c.cpl, cases[i].cpl, "%s", cases[i].what);
		}
		rig_free(r);
	}
}

Test(exception, absent_gate_and_idt_limit)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, 0x40, rig_gate(S_CODE32, 0, GATE_INT32, 0, 0) & ~((u64)SEG_P << 40));
	rig_expect(r, soft(r, 0x40), EXC_NP, IDT_ERROR(0x40), "absent");
	rig_expect(r, external(r, 0x40), EXC_NP, IDT_ERROR(0x40) | EXT, "absent, external");
	r->c.idtr.limit = 0x40 * 8 + 6;
	rig_expect(r, soft(r, 0x40), EXC_GP, IDT_ERROR(0x40), "limit");
	rig_expect(r, fault(r, EXC_PF, 0), EXC_GP, IDT_ERROR(EXC_PF) | EXT, "empty gate");
	rig_free(r);
}

Test(exception, inner_stack_checks)
{
	static const struct {
		const char *what;
		u16 ss;
		u32 limit, esp;
		unsigned vector;
		u32 error; /* without EXT */
	} cases[] = {
	    {"null", 0, 0x67, RIG_STACK0, EXC_TS, 0},
	    {"RPL", S_DATA | 1, 0x67, RIG_STACK0, EXC_TS, S_DATA},
	    {"DPL", S_DATA3, 0x67, RIG_STACK0, EXC_TS, S_DATA3},
	    {"absent", S_ABSENT, 0x67, RIG_STACK0, EXC_SS, S_ABSENT},
	    {"TSS limit", S_DATA, 8, RIG_STACK0, EXC_TS, S_TSS},
	    {"no room", S_DOWN, 0x67, 0x1010, EXC_SS, S_DOWN},
	};
	unsigned i, ext;

	for (i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		ext = i & 1;
		rig_protected(r, 3);
		r->c.tr.limit = cases[i / 2].limit;
		rig_put(r, RIG_TSS + 4, 4, cases[i / 2].esp);
		rig_put(r, RIG_TSS + 8, 2, cases[i / 2].ss);
		rig_set_idt(r, 0x40, rig_gate(S_CODE32, 0x7000, GATE_INT32, 3, 0));
		rig_expect(r, ext ? external(r, 0x40) : soft(r, 0x40), cases[i / 2].vector,
			   cases[i / 2].error | ext, cases[i / 2].what);
		cr_expect_eq(r->c.cpl, 3);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
		rig_free(r);
	}
}

Test(exception, task_gate)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_idt(r, EXC_DF, rig_gate(S_TSS, 0, GATE_TASK, 0, 0));
	cr_expect_eq(fault(r, EXC_DF, 0), EXC_NONE);
	cr_expect_eq(r->c.exit, EXIT_UNSUPPORTED);
	cr_expect(strstr(r->c.unsupported, "task gate"), "%s", r->c.unsupported);
	rig_free(r);
}

/* --- v86 --- */

Test(exception, from_v86)
{
	struct rig *r = rig_new();

	rig_v86(r, 3);
	r->c.sflags |= FL_IF;
	rig_set_idt(r, EXC_GP, rig_gate(S_CODE32, 0x7000, GATE_INT32, 0, 0));
	cr_assert_eq(fault(r, EXC_GP, 0), RIG_OK);
	cr_expect_not(cpu_v86(&r->c));
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 40);
	cr_expect_eq(word(r, 0, 4), 0);
	cr_expect_eq(word(r, 1, 4), 0x10);
	cr_expect_eq(word(r, 2, 4), RIG_CODE >> 4);
	cr_expect_eq(word(r, 3, 4), (FL_VM | FL_IOPL | FL_IF | FL_RF | FL_FIXED1));
	cr_expect_eq(word(r, 4, 4), 0x1000);
	cr_expect_eq(word(r, 5, 4), 0x700);
	cr_expect_eq(word(r, 6, 4), 0x500, "ES");
	cr_expect_eq(word(r, 7, 4), 0x530, "DS");
	cr_expect_eq(word(r, 8, 4), 0x540, "FS");
	cr_expect_eq(word(r, 9, 4), 0x550, "GS");
	cr_expect_eq(r->c.seg[SEG_DS].attr, SEG_NULL);
	cr_expect_eq(r->c.seg[SEG_GS].attr, SEG_NULL);
	/* And back. */
	r->c.gpr[GPR_RSP] += 4;
	cr_assert_eq(RIG_EXEC(r, exec_iret, 0xcf), RIG_OK);
	cr_expect(cpu_v86(&r->c));
	cr_expect_eq(r->c.seg[SEG_GS].base, 0x5500);
	cr_expect_eq(r->c.rip, 0x10);
	rig_free(r);
}

Test(exception, from_v86_to_a_wrong_level)
{
	struct rig *r = rig_new();

	rig_v86(r, 3);
	rig_set_idt(r, 0x40, rig_gate(S_CODE1, 0x7000, GATE_INT32, 3, 0));
	rig_expect(r, soft(r, 0x40), EXC_GP, S_CODE1, "CPL 1");
	rig_set_idt(r, 0x40, rig_gate(S_CONFORM, 0x7000, GATE_INT32, 3, 0));
	rig_expect(r, external(r, 0x40), EXC_GP, S_CONFORM | EXT, "conforming");
	rig_set_idt(r, 0x40, rig_gate(S_CODE32_3, 0x7000, GATE_INT32, 3, 0));
	rig_expect(r, soft(r, 0x40), EXC_GP, S_CODE32_3, "CPL 3");
	rig_set_idt(r, 0x40, rig_gate(S_CODE32, 0x7000, GATE_INT32, 0, 0));
	rig_expect(r, soft(r, 0x40), EXC_GP, IDT_ERROR(0x40), "gate DPL");
	cr_expect(cpu_v86(&r->c));
	rig_free(r);
}

/* --- long mode --- */

Test(exception, long_mode_same_level)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	rig_set_idt(r, EXC_PF, rig_gate(S_CODE64, 0x87654321, GATE_INT32, 0, 0));
	rig_put(r, RIG_IDT + EXC_PF * 16 + 8, 4, 0xffffffff);
	r->c.gpr[GPR_RSP] = RIG_STACK - 4;
	r->c.sflags |= FL_IF;
	cr_assert_eq(fault(r, EXC_PF, 2), RIG_OK);
	cr_expect_eq(r->c.rip, 0xffffffff87654321ull);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 16 - 48, "aligned first");
	cr_expect_eq(word(r, 0, 8), 2);
	cr_expect_eq(word(r, 1, 8), RIG_CODE);
	cr_expect_eq(word(r, 2, 8), S_CODE64);
	cr_expect_eq(word(r, 3, 8), (FL_IF | FL_RF | FL_FIXED1));
	cr_expect_eq(word(r, 4, 8), RIG_STACK - 4);
	cr_expect_eq(word(r, 5, 8), S_DATA);
	cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA, "SS stays");
	cr_expect_eq(r->c.sflags & FL_IF, 0);
	rig_free(r);
}

Test(exception, long_mode_from_user)
{
	unsigned compat;

	for (compat = 0; compat < 2; compat++) {
		u16 code = compat ? S_CODE32_3 : S_CODE64_3;
		struct rig *r = rig_new();

		rig_long(r, code, 3);
		rig_set_idt(r, 0x80, rig_gate(S_CODE64, 0x7000, GATE_TRAP32, 3, 0));
		cr_assert_eq(soft(r, 0x80), RIG_OK);
		cr_expect_eq(r->c.cpl, 0);
		cr_expect_eq(r->c.mode, INSN_MODE_64);
		cr_expect_eq(r->c.seg[SEG_SS].sel, 0);
		cr_expect(r->c.seg[SEG_SS].attr & SEG_NULL);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 40);
		cr_expect_eq(word(r, 0, 8), RIG_CODE + 2);
		cr_expect_eq(word(r, 1, 8), code | 3);
		cr_expect_eq(word(r, 3, 8), RIG_STACK);
		cr_expect_eq(word(r, 4, 8), S_DATA3 | 3);
		cr_assert_eq(RIG_EXEC(r, exec_iret, 0x48, 0xcf), RIG_OK);
		cr_expect_eq(r->c.cpl, 3);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
		cr_expect_eq(r->c.mode, compat ? INSN_MODE_32 : INSN_MODE_64);
		rig_free(r);
	}
}

Test(exception, long_mode_ist)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	rig_set_idt(r, EXC_NMI, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 1));
	cr_assert_eq(external(r, EXC_NMI), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], ALIGN_DOWN(RIG_IST1, 16) - 40, "even at the same level");
	cr_expect_eq(word(r, 3, 8), RIG_STACK);
	cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA);
	rig_level(r, S_CODE64_3, 3);
	r->c.gpr[GPR_RSP] = RIG_STACK;
	cr_assert_eq(external(r, EXC_NMI), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], ALIGN_DOWN(RIG_IST1, 16) - 40);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0);
	/* IST7 lies at 0x54..0x5b. */
	rig_set_idt(r, EXC_NMI, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 7));
	rig_put(r, RIG_TSS + 0x54, 8, 0x1d000);
	r->c.tr.limit = 0x5a;
	rig_expect(r, external(r, EXC_NMI), EXC_TS, S_TSS | EXT, "TSS too short");
	r->c.tr.limit = 0x5b;
	cr_expect_eq(external(r, EXC_NMI), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x1d000 - 40);
	rig_free(r);
}

Test(exception, long_mode_checks)
{
	static const struct {
		const char *what;
		u16 target;
		unsigned type;
		u32 high;
		u64 rsp0;
		unsigned vector;
		u32 error;
	} cases[] = {
	    {"16-bit gate", S_CODE64, GATE_INT16, 0, RIG_STACK0, EXC_GP, IDT_ERROR(0x40)},
	    {"task gate", S_CODE64, GATE_TASK, 0, RIG_STACK0, EXC_GP, IDT_ERROR(0x40)},
	    {"32-bit handler", S_CODE32, GATE_INT32, 0, RIG_STACK0, EXC_GP, S_CODE32},
	    {"handler with L and D", S_CODE_LD, GATE_INT32, 0, RIG_STACK0, EXC_GP, S_CODE_LD},
	    {"offset not canonical", S_CODE64, GATE_INT32, 0x8000, RIG_STACK0, EXC_GP, 0},
	    {"RSP0 not canonical", S_CODE64, GATE_INT32, 0, 0x8000000000001000ull, EXC_SS, 0},
	    {"RSP0 at the hole's end", S_CODE64, GATE_INT32, 0, 0xffff800000000000ull, EXC_SS, 0},
	    {"stack not mapped", S_CODE64, GATE_INT32, 0, 0xffff900000000000ull, EXC_PF, PF_W},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		rig_long(r, S_CODE64_3, 3);
		rig_set_idt(r, 0x40, rig_gate(cases[i].target, 0x7000, cases[i].type, 3, 0));
		rig_put(r, RIG_IDT + 0x40 * 16 + 8, 4, cases[i].high);
		rig_put(r, RIG_TSS + 4, 8, cases[i].rsp0);
		rig_expect(r, soft(r, 0x40), cases[i].vector, cases[i].error, cases[i].what);
		cr_expect_eq(r->c.cpl, 3, "%s", cases[i].what);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK, "%s", cases[i].what);
		cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA3 | 3, "%s", cases[i].what);
		rig_free(r);
	}
}

/* The frame is of 64-bit mode, whatever SS says. */
Test(exception, long_mode_from_compatibility_mode_at_the_same_level)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE32, 0);
	rig_segment(r, SEG_SS, S_DATA16);
	r->c.seg[SEG_SS].base = 0x100;
	rig_set_idt(r, 0x40, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 0));
	cr_assert_eq(external(r, 0x40), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 40);
	cr_expect_eq(rig_get(r, RIG_STACK - 40, 8), RIG_CODE);
	cr_expect_eq(rig_get(r, RIG_STACK - 8, 8), S_DATA16);
	rig_free(r);
}

Test(exception, long_mode_to_the_middle)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	rig_set_desc(r, S_GATE, rig_desc(0, 0xffffffff, A_CODE | A_DPL(1) | SEG_G | SEG_L));
	rig_set_idt(r, 0x40, rig_gate(S_GATE, 0x7000, GATE_INT32, 0, 0));
	cr_assert_eq(external(r, 0x40), RIG_OK);
	cr_expect_eq(r->c.cpl, 1);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK1 - 40, "RSP1");
	cr_expect_eq(r->c.seg[SEG_SS].sel, 1, "null, but with the level");
	cr_expect_eq(r->c.seg[SEG_CS].sel, S_GATE | 1);
	rig_free(r);
}

Test(exception, accessed_bit_in_a_read_only_table)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_U); /* the same memory, read-only */
	r->c.gdtr.base = 2 * MIB + RIG_GDT;
	rig_set_idt(r, 0x40, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 0));
	rig_expect(r, external(r, 0x40), EXC_PF, PF_P | PF_W, "setting A");
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.rip, RIG_CODE);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(r->c.seg[SEG_SS].sel, (S_DATA3 | 3));
	rig_free(r);
}

Test(exception, long_mode_idt_limit)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	rig_set_idt(r, 0x40, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 0));
	r->c.idtr.limit = 0x40 * 16 + 14;
	rig_expect(r, external(r, 0x40), EXC_GP, IDT_ERROR(0x40) | EXT, "limit");
	r->c.idtr.limit++;
	cr_expect_eq(external(r, 0x40), RIG_OK);
	rig_free(r);
}

/* The handler's stack is the supervisor's: pages closed to user mode serve. */
Test(exception, inner_stack_is_written_with_supervisor_rights)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_W); /* the same 2 MiB again */
	rig_put(r, RIG_TSS + 4, 8, 2 * MIB + RIG_STACK0);
	rig_set_idt(r, 0x40, rig_gate(S_CODE64, 0x7000, GATE_INT32, 0, 0));
	cr_assert_eq(external(r, 0x40), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 2 * MIB + RIG_STACK0 - 40);
	cr_expect_eq(rig_get(r, RIG_STACK0 - 40, 8), RIG_CODE);
	rig_free(r);
}
