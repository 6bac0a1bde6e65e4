/*
 * Far jumps, calls and returns, call gates, SYSCALL and SYSENTER with their returns. IRET is in
 * test_iret.c.
 */
#include "cpu_rig.h"

#define LE32(v) (u8)(v), (u8)((v) >> 8), (u8)((v) >> 16), (u8)((v) >> 24)
#define LE16(v) (u8)(v), (u8)((v) >> 8)

#define JMP_FAR(r, sel, off)  RIG_EXEC(r, exec_jmp_far, 0xea, LE32(off), LE16(sel))
#define CALL_FAR(r, sel, off) RIG_EXEC(r, exec_call_far, 0x9a, LE32(off), LE16(sel))

/* Words on the stack from RSP up. */
static u64 word(const struct rig *r, unsigned i, unsigned size)
{
	return rig_get(r, r->c.gpr[GPR_RSP] + i * size, size);
}

static void push_words(struct rig *r, unsigned size, unsigned n, const u64 *v)
{
	unsigned i;

	r->c.gpr[GPR_RSP] -= n * size;
	for (i = 0; i < n; i++)
		rig_put(r, r->c.gpr[GPR_RSP] + i * size, size, v[i]);
}
#define PUSH(r, size, ...)                                                                         \
	push_words(r, size, sizeof((const u64[]){__VA_ARGS__}) / 8, (const u64[]){__VA_ARGS__})

/* --- real mode and v86 --- */

Test(far, real_mode_jump_call_return)
{
	struct rig *r = rig_new();

	cr_expect_eq(RIG_EXEC(r, exec_jmp_far, 0xea, 0x10, 0x00, 0x00, 0xf0), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0xf0000);
	cr_expect_eq(r->c.rip, 0x10);
	cr_expect_eq(RIG_EXEC(r, exec_call_far, 0x9a, 0x34, 0x12, 0x78, 0x56), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x5678);
	cr_expect_eq(r->c.rip, 0x1234);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 4);
	cr_expect_eq(word(r, 0, 2), 0x15);
	cr_expect_eq(word(r, 1, 2), 0xf000);
	PUSH(r, 2, 0x20, 0x30);
	cr_expect_eq(RIG_EXEC(r, exec_ret_far, 0xca, 0x04, 0x00), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(r->c.rip, 0x20);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0x300);
	rig_expect(r, RIG_EXEC(r, exec_jmp_far, 0x66, 0xea, 0, 0, 1, 0, 0, 0), EXC_GP, 0,
		   "32-bit offset beyond 64 KiB");
	rig_free(r);
}

Test(far, jump_into_protected_mode)
{
	struct rig *r = rig_new();

	rig_tables(r);
	r->c.cr0 |= CR0_PE;
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	cr_assert_eq(RIG_EXEC(r, exec_jmp_far, 0x66, 0xea, LE32(0x12345678u), LE16(S_CODE32)),
		     RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	cr_expect_eq(r->c.rip, 0x12345678);
	cr_expect_eq(r->c.seg[SEG_CS].limit, 0xffffffff);
	rig_free(r);
}

Test(far, v86_transfers_are_those_of_real_mode)
{
	struct rig *r = rig_new();

	rig_v86(r, 0);
	cr_assert_eq(RIG_EXEC(r, exec_call_far, 0x9a, 0x34, 0x02, LE16(S_CODE32)), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].base, S_CODE32 << 4);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	cr_expect_eq(rig_get(r, 0x7000 + 0xffc, 4), 0x06000015);
	rig_free(r);
}

/* --- protected mode, direct --- */

struct jump_case {
	const char *what;
	unsigned cpl;
	u16 sel;
	u32 off;
	unsigned vector;
	u32 error;
};

static const struct jump_case direct[] = {
    {"same level", 0, S_CODE32, 0x7000, RIG_OK, 0},
    {"same level, CPL 3", 3, S_CODE32_3 | 3, 0x7000, RIG_OK, 0},
    {"RPL below CPL does not matter", 3, S_CODE32_3, 0x7000, RIG_OK, 0},
    {"null", 0, 0, 0, EXC_GP, 0},
    {"null with RPL", 0, 3, 0, EXC_GP, 0},
    {"beyond the GDT", 0, S_GDT_END, 0, EXC_GP, S_GDT_END},
    {"data", 0, S_DATA, 0, EXC_GP, S_DATA},
    {"LDT descriptor", 0, S_LDT, 0, EXC_GP, S_LDT},
    {"outer level", 0, S_CODE32_3 | 3, 0, EXC_GP, S_CODE32_3},
    {"inner level", 3, S_CODE32 | 3, 0, EXC_GP, S_CODE32},
    {"RPL above CPL", 0, S_CODE32 | 3, 0, EXC_GP, S_CODE32},
    {"absent", 0, S_CODE_ABSENT, 0, EXC_NP, S_CODE_ABSENT},
    {"absent and inner: privilege first", 3, S_CODE_ABSENT, 0, EXC_GP, S_CODE_ABSENT},
    {"conforming inner", 3, S_CONFORM | 3, 0x7000, RIG_OK, 0},
    {"conforming at the same level", 0, S_CONFORM, 0x7000, RIG_OK, 0},
    {"conforming outer", 0, S_CONFORM3, 0, EXC_GP, S_CONFORM3},
    {"within a small limit", 0, S_SMALL, 0xff, RIG_OK, 0},
    {"beyond a small limit", 0, S_SMALL, 0x100, EXC_GP, 0},
    {"L and D outside long mode", 0, S_CODE_LD, 0x7000, RIG_OK, 0},
};

Test(far, direct_jumps)
{
	unsigned i;

	for (i = 0; i < ARRAY_LEN(direct); i++) {
		const struct jump_case *t = &direct[i];
		struct rig *r = rig_new();

		rig_protected(r, t->cpl);
		rig_expect(r, JMP_FAR(r, t->sel, t->off), t->vector, t->error, t->what);
		cr_expect_eq(r->c.cpl, t->cpl, "%s", t->what);
		cr_expect_eq(r->c.rip, t->vector == RIG_OK ? t->off : RIG_CODE, "%s", t->what);
		if (t->vector == RIG_OK) {
			cr_expect_eq(r->c.seg[SEG_CS].sel, (t->sel & ~3u) | t->cpl, "%s", t->what);
			cr_expect(rig_get(r, RIG_GDT + (t->sel & ~7u) + 5, 1) & SEG_A, "%s",
				  t->what);
		}
		rig_free(r);
	}
}

Test(far, direct_calls)
{
	unsigned i;

	for (i = 0; i < ARRAY_LEN(direct); i++) {
		const struct jump_case *t = &direct[i];
		struct rig *r = rig_new();

		rig_protected(r, t->cpl);
		rig_expect(r, CALL_FAR(r, t->sel, t->off), t->vector, t->error, t->what);
		if (t->vector == RIG_OK) {
			cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 8, "%s", t->what);
			cr_expect_eq(word(r, 0, 4), RIG_CODE + 7, "%s", t->what);
			cr_expect_eq(word(r, 1, 4),
				     (t->cpl == 3 ? (unsigned)S_CODE32_3 : (unsigned)S_CODE32) |
					 t->cpl,
				     "%s", t->what);
		} else {
			cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK, "%s", t->what);
			cr_expect_eq(r->c.rip, RIG_CODE, "%s", t->what);
		}
		rig_free(r);
	}
}

Test(far, indirect_forms)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_DATA, 4, 0x7654);
	rig_put(r, RIG_DATA + 4, 2, S_CODE16);
	cr_assert_eq(RIG_EXEC(r, exec_call_far, 0xff, 0x1d, LE32(RIG_DATA)), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	cr_expect_eq(r->c.rip, 0x7654);
	cr_expect_eq(word(r, 0, 4), RIG_CODE + 6);
	/* 16-bit operand size: a 16-bit frame. */
	rig_level(r, S_CODE32, 0);
	rig_put(r, RIG_DATA, 4, 0x7654 | S_CODE32 << 16);
	r->c.gpr[GPR_RSP] = RIG_STACK;
	r->c.rip = RIG_CODE;
	cr_assert_eq(RIG_EXEC(r, exec_call_far, 0x66, 0xff, 0x1d, LE32(RIG_DATA)), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 4);
	cr_expect_eq(word(r, 0, 2), RIG_CODE + 7);
	rig_free(r);
}

Test(far, call_without_room_on_the_stack)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_segment(r, SEG_SS, S_DOWN); /* 0x1000..0xffff, 16-bit */
	r->c.gpr[GPR_RSP] = 0x1004;
	rig_expect(r, CALL_FAR(r, S_CODE32, 0), EXC_SS, 0, "below an expand-down limit");
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x1004);
	cr_expect_eq(r->c.rip, RIG_CODE);
	r->c.gpr[GPR_RSP] = 0x51008;
	rig_expect(r, CALL_FAR(r, S_CODE32, 0), RIG_OK, 0, "just fits");
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x51000, "only SP moves");
	rig_segment(r, SEG_SS, S_DATA);
	r->c.rip = RIG_CODE;
	r->c.gpr[GPR_RSP] = 6;
	rig_expect(r, CALL_FAR(r, S_CODE32, 0), EXC_SS, 0, "the second word wraps at 4 GiB");
	r->c.seg[SEG_SS].limit = 0x8fff;
	r->c.gpr[GPR_RSP] = 0x9004;
	rig_expect(r, CALL_FAR(r, S_CODE32, 0), EXC_SS, 0, "beyond the limit");
	r->c.gpr[GPR_RSP] = 0x9000;
	rig_expect(r, CALL_FAR(r, S_CODE32, 0), RIG_OK, 0, "up to the limit");
	rig_free(r);
}

/* --- call gates --- */

Test(far, gate_checks)
{
	static const struct {
		const char *what;
		unsigned cpl;
		u16 rpl, target;
		unsigned type, dpl;
		unsigned jmp, call;
		u32 error;
	} cases[] = {
	    {"same level", 0, 0, S_CODE32, 12, 0, RIG_OK, RIG_OK, 0},
	    {"gate DPL below CPL", 3, 0, S_CODE32, 12, 0, EXC_GP, EXC_GP, S_GATE},
	    {"gate DPL below RPL", 0, 3, S_CODE32, 12, 0, EXC_GP, EXC_GP, S_GATE},
	    {"null target", 0, 0, 0, 12, 0, EXC_GP, EXC_GP, 0},
	    {"target beyond the GDT", 0, 0, S_GDT_END, 12, 0, EXC_GP, EXC_GP, S_GDT_END},
	    {"target is data", 0, 0, S_DATA, 12, 0, EXC_GP, EXC_GP, S_DATA},
	    {"target absent", 0, 0, S_CODE_ABSENT, 12, 0, EXC_NP, EXC_NP, S_CODE_ABSENT},
	    {"outer target", 0, 0, S_CODE32_3, 12, 0, EXC_GP, EXC_GP, S_CODE32_3},
	    {"conforming target", 3, 3, S_CONFORM, 12, 3, RIG_OK, RIG_OK, 0},
	    {"interrupt gate", 0, 0, S_CODE32, 14, 0, EXC_GP, EXC_GP, S_GATE},
	    {"busy TSS", 0, 0, S_CODE32, 11, 0, EXC_GP, EXC_GP, S_GATE},
	};
	unsigned i, call;

	for (i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();
		unsigned want, got;

		call = i & 1;
		rig_protected(r, cases[i / 2].cpl);
		rig_set_desc(
		    r, S_GATE,
		    rig_gate(cases[i / 2].target, 0x7123, cases[i / 2].type, cases[i / 2].dpl, 0));
		want = call ? cases[i / 2].call : cases[i / 2].jmp;
		got = call ? CALL_FAR(r, S_GATE | cases[i / 2].rpl, 0)
			   : JMP_FAR(r, S_GATE | cases[i / 2].rpl, 0);
		rig_expect(r, got, want, cases[i / 2].error, cases[i / 2].what);
		cr_expect_eq(r->c.rip, want == RIG_OK ? 0x7123 : RIG_CODE, "%s", cases[i / 2].what);
		cr_expect_eq(r->c.cpl, cases[i / 2].cpl);
		rig_free(r);
	}
}

Test(far, absent_gate)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_set_desc(r, S_GATE, rig_gate(S_CODE32, 0, 12, 0, 0) & ~((u64)SEG_P << 40));
	rig_expect(r, CALL_FAR(r, S_GATE, 0), EXC_NP, S_GATE, "call");
	rig_free(r);
}

Test(far, gate_to_inner_level_copies_parameters)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	rig_set_desc(r, S_GATE, rig_gate(S_CODE32 | 3, 0x12345678, 12, 3, 2));
	PUSH(r, 4, 0x11111111, 0x22222222, 0x33333333);
	cr_assert_eq(CALL_FAR(r, S_GATE | 3, 0xffff), RIG_OK);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_not(r->c.user);
	cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE32);
	cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA);
	cr_expect_eq(r->c.rip, 0x12345678);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 6 * 4);
	cr_expect_eq(word(r, 0, 4), RIG_CODE + 7);
	cr_expect_eq(word(r, 1, 4), (S_CODE32_3 | 3));
	cr_expect_eq(word(r, 2, 4), 0x11111111);
	cr_expect_eq(word(r, 3, 4), 0x22222222);
	cr_expect_eq(word(r, 4, 4), RIG_STACK - 12);
	cr_expect_eq(word(r, 5, 4), (S_DATA3 | 3));
	cr_expect_eq(r->c.seg[SEG_DS].sel, S_DATA3 | 3, "data segments stay");
	/* And back, dropping the parameters from both stacks. */
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0xca, 8, 0), RIG_OK);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 4);
	cr_expect_eq(r->c.rip, RIG_CODE + 7);
	cr_expect_eq(word(r, 0, 4), 0x33333333);
	rig_free(r);
}

Test(far, gate_to_the_middle_and_16_bit_gate)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	rig_set_desc(r, S_GATE, rig_gate(S_CODE1, 0x99997777, 4, 3, 1));
	PUSH(r, 2, 0x1234);
	cr_assert_eq(CALL_FAR(r, S_GATE | 3, 0), RIG_OK);
	cr_expect_eq(r->c.cpl, 1);
	cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE1 | 1);
	cr_expect_eq(r->c.rip, 0x7777, "16 bits of offset");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK1 - 5 * 2);
	cr_expect_eq(word(r, 0, 2), RIG_CODE + 7);
	cr_expect_eq(word(r, 1, 2), (S_CODE32_3 | 3));
	cr_expect_eq(word(r, 2, 2), 0x1234);
	cr_expect_eq(word(r, 3, 2), RIG_STACK - 2);
	cr_expect_eq(word(r, 4, 2), (S_DATA3 | 3));
	rig_free(r);
}

Test(far, inner_stack_checks)
{
	static const struct {
		const char *what;
		u16 ss;
		u32 limit, esp;
		unsigned vector;
		u32 error;
	} cases[] = {
	    {"null", 0, 0x67, RIG_STACK0, EXC_TS, 0},
	    {"beyond the GDT", S_GDT_END, 0x67, RIG_STACK0, EXC_TS, S_GDT_END},
	    {"RPL", S_DATA | 1, 0x67, RIG_STACK0, EXC_TS, S_DATA},
	    {"DPL", S_DATA3, 0x67, RIG_STACK0, EXC_TS, S_DATA3},
	    {"read-only", S_READONLY, 0x67, RIG_STACK0, EXC_TS, S_READONLY},
	    {"absent", S_ABSENT, 0x67, RIG_STACK0, EXC_SS, S_ABSENT},
	    {"TSS too short", S_DATA, 8, RIG_STACK0, EXC_TS, S_TSS},
	    {"TSS long enough", S_DATA, 9, RIG_STACK0, RIG_OK, 0},
	    {"no room", S_DOWN, 0x67, 0x100c, EXC_SS, S_DOWN},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		rig_protected(r, 3);
		r->c.tr.limit = cases[i].limit;
		rig_put(r, RIG_TSS + 4, 4, cases[i].esp);
		rig_put(r, RIG_TSS + 8, 2, cases[i].ss);
		rig_set_desc(r, S_GATE, rig_gate(S_CODE32, 0x7000, 12, 3, 0));
		rig_expect(r, CALL_FAR(r, S_GATE | 3, 0), cases[i].vector, cases[i].error,
			   cases[i].what);
		if (cases[i].vector != RIG_OK) {
			cr_expect_eq(r->c.cpl, 3);
			cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
			cr_expect_eq(r->c.seg[SEG_SS].sel, (S_DATA3 | 3));
		}
		rig_free(r);
	}
}

Test(far, stack_of_a_16_bit_tss)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	r->c.tr.attr = SEG_P | 3;
	r->c.tr.limit = 0x2b;
	rig_put(r, RIG_TSS + 2, 2, RIG_STACK0 & 0xffff);
	rig_put(r, RIG_TSS + 4, 2, S_DATA);
	rig_set_desc(r, S_GATE, rig_gate(S_CODE32, 0x7000, 12, 3, 0));
	cr_assert_eq(CALL_FAR(r, S_GATE | 3, 0), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 16);
	rig_free(r);
}

Test(far, task_switches_are_reported)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	cr_expect_eq(JMP_FAR(r, S_TSS, 0), EXC_NONE);
	cr_expect_eq(r->c.exit, EXIT_UNSUPPORTED);
	cr_expect(strstr(r->c.unsupported, "task switch") && strstr(r->c.unsupported, "0070"));
	rig_set_desc(r, S_GATE, rig_gate(S_TSS, 0, 5, 0, 0));
	cr_expect_eq(CALL_FAR(r, S_GATE, 0), EXC_NONE);
	cr_expect_eq(r->stats.n[STAT_task_switches], 2);
	rig_set_desc(r, S_TSS, rig_desc(RIG_TSS, 0x67, 9));
	rig_expect(r, JMP_FAR(r, S_TSS, 0), EXC_NP, S_TSS, "absent");
	rig_level(r, S_CODE32_3, 3);
	rig_expect(r, JMP_FAR(r, S_TSS | 3, 0), EXC_GP, S_TSS, "not from CPL 3");
	rig_free(r);
}

/* --- long mode --- */

static unsigned far_indirect(struct rig *r, bool call, u16 sel, u64 off)
{
	r->c.gpr[GPR_RBX] = RIG_DATA;
	rig_put(r, RIG_DATA, 8, off);
	rig_put(r, RIG_DATA + 8, 2, sel);
	if (call)
		return RIG_EXEC(r, exec_call_far, 0x48, 0xff, 0x1b);
	return RIG_EXEC(r, exec_jmp_far, 0x48, 0xff, 0x2b);
}

Test(far, between_64_bit_and_compatibility_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_assert_eq(far_indirect(r, false, S_CODE32, 0x5000), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	cr_expect_eq(r->c.rip, 0x5000);
	cr_assert_eq(JMP_FAR(r, S_CODE64, 0x6000), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_assert_eq(far_indirect(r, true, S_CODE64, 0xffff800000001000ull), RIG_OK);
	cr_expect_eq(r->c.rip, 0xffff800000001000ull, "m16:64");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 16);
	cr_expect_eq(word(r, 0, 8), 0x6003);
	cr_expect_eq(word(r, 1, 8), S_CODE64);
	r->c.rip = RIG_CODE;
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0x48, 0xcb), RIG_OK);
	cr_expect_eq(r->c.rip, 0x6003);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	rig_expect(r, far_indirect(r, false, S_CODE64, 0x800000000000ull), EXC_GP, 0,
		   "not canonical");
	rig_expect(r, far_indirect(r, false, S_CODE_LD, 0), EXC_GP, S_CODE_LD, "L and D");
	rig_expect(r, far_indirect(r, false, S_TSS, 0), EXC_GP, S_TSS, "no task switches");
	rig_expect(r, far_indirect(r, false, S_SMALL, 0x100), EXC_GP, 0, "limit of the target");
	rig_free(r);
}

static void set_gate64(struct rig *r, u16 sel, u64 off, unsigned type, unsigned dpl)
{
	rig_set_desc(r, S_GATE, rig_gate(sel, (u32)off, type, dpl, 0));
	rig_put(r, RIG_GDT + S_GATE + 8, 8, off >> 32);
}

Test(far, call_gate_in_long_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	set_gate64(r, S_CODE64, 0xffff812345678000ull, 12, 3);
	cr_assert_eq(far_indirect(r, true, S_GATE | 3, 0), RIG_OK);
	cr_expect_eq(r->c.rip, 0xffff812345678000ull);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0);
	cr_expect(r->c.seg[SEG_SS].attr & SEG_NULL);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK0 - 32);
	cr_expect_eq(word(r, 0, 8), RIG_CODE + 3);
	cr_expect_eq(word(r, 1, 8), (S_CODE64_3 | 3));
	cr_expect_eq(word(r, 2, 8), RIG_STACK);
	cr_expect_eq(word(r, 3, 8), (S_DATA3 | 3));
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0x48, 0xcb), RIG_OK);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	rig_free(r);
}

/* Pushes have the size and the stack of 64-bit mode, whatever the caller's. */
Test(far, call_gate_from_compatibility_mode_at_the_same_level)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE32, 0);
	rig_segment(r, SEG_SS, S_DATA16);
	r->c.seg[SEG_SS].base = 0x100;
	set_gate64(r, S_CODE64, 0x7000, 12, 0);
	cr_assert_eq(CALL_FAR(r, S_GATE, 0), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 16);
	cr_expect_eq(word(r, 0, 8), RIG_CODE + 7);
	cr_expect_eq(word(r, 1, 8), S_CODE32);
	rig_free(r);
}

/* A descriptor whose accessed bit cannot be set stops a transfer before anything has moved. */
Test(far, accessed_bits_in_a_read_only_table)
{
	static const char *const what[] = {"jmp", "call", "call gate", "retf", "retf outer"};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(what); i++) {
		struct rig *r = rig_new();
		unsigned got;
		u64 rsp;

		rig_long(r, i == 2 ? S_CODE64_3 : S_CODE64, i == 2 ? 3 : 0);
		rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_U);
		r->c.gdtr.base = 2 * MIB + RIG_GDT;
		set_gate64(r, S_CODE64, 0x7000, 12, 3);
		rig_put(r, RIG_GDT + S_CODE64_3 + 5, 1, 0xfb); /* but SS has its bit clear */
		if (i == 4)
			PUSH(r, 8, 0x7000, S_CODE64_3 | 3, 0xc000, S_DATA3 | 3);
		else
			PUSH(r, 8, 0x7000, S_CODE64);
		rsp = r->c.gpr[GPR_RSP];
		got = i >= 3   ? RIG_EXEC(r, exec_ret_far, 0x48, 0xcb)
		      : i == 2 ? far_indirect(r, true, S_GATE | 3, 0)
			       : far_indirect(r, i == 1, S_CODE64, 0);
		rig_expect(r, got, EXC_PF, PF_P | PF_W, what[i]);
		cr_expect_eq(r->c.gpr[GPR_RSP], rsp, "%s", what[i]);
		cr_expect_eq(r->c.rip, RIG_CODE, "%s", what[i]);
		cr_expect_eq(r->c.cpl, i == 2 ? 3 : 0, "%s", what[i]);
		cr_expect_eq(r->c.seg[SEG_SS].sel, i == 2 ? S_DATA3 | 3 : S_DATA, "%s", what[i]);
		rig_free(r);
	}
}

Test(far, call_gate_checks_in_long_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64_3, 3);
	set_gate64(r, S_CODE32, 0x7000, 12, 3);
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_GP, S_CODE32, "not 64-bit code");
	set_gate64(r, S_CODE64, 0x7000, 4, 3);
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_GP, S_GATE, "16-bit gate");
	set_gate64(r, S_CODE64, 0x800000000000ull, 12, 3);
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_GP, 0, "target not canonical");
	set_gate64(r, S_CODE64, 0x7000, 12, 3);
	rig_put(r, RIG_GDT + S_GATE + 12, 4, 0x100);
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_GP, S_GATE, "upper type");
	set_gate64(r, S_CODE64, 0x7000, 12, 3);
	r->c.tr.limit = 10;
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_TS, S_TSS, "short TSS");
	r->c.tr.limit = 0x67;
	rig_put(r, RIG_TSS + 4, 8, 0x8000000000000000ull);
	rig_expect(r, far_indirect(r, true, S_GATE | 3, 0), EXC_SS, 0, "RSP0 not canonical");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(r->c.cpl, 3);
	rig_free(r);
}

/* --- far returns --- */

struct ret_case {
	const char *what;
	u16 cs, ss;
	unsigned vector;
	u32 error;
};

Test(far, return_checks)
{
	static const struct ret_case cases[] = {
	    {"same level", S_CODE32, 0, RIG_OK, 0},
	    {"outer level", S_CODE32_3 | 3, S_DATA3 | 3, RIG_OK, 0},
	    {"to the middle", S_CODE1 | 1, S_DATA1 | 1, RIG_OK, 0},
	    {"null CS", 0, 0, EXC_GP, 0},
	    {"data", S_DATA, 0, EXC_GP, S_DATA},
	    {"beyond the GDT", S_GDT_END, 0, EXC_GP, S_GDT_END},
	    {"DPL differs from RPL", S_CODE32 | 3, S_DATA3 | 3, EXC_GP, S_CODE32},
	    {"conforming, DPL below RPL", S_CONFORM | 3, S_DATA3 | 3, RIG_OK, 0},
	    {"conforming, DPL equal to RPL", S_CONFORM3 | 3, S_DATA3 | 3, RIG_OK, 0},
	    {"conforming, DPL above RPL", S_CONFORM3 | 1, S_DATA1 | 1, EXC_GP, S_CONFORM3},
	    {"absent", S_CODE_ABSENT, 0, EXC_NP, S_CODE_ABSENT},
	    {"null SS", S_CODE32_3 | 3, 3, EXC_GP, 0},
	    {"SS beyond the GDT", S_CODE32_3 | 3, S_GDT_END | 3, EXC_GP, S_GDT_END},
	    {"SS with a wrong RPL", S_CODE32_3 | 3, S_DATA3, EXC_GP, S_DATA3},
	    {"SS with a wrong DPL", S_CODE32_3 | 3, S_DATA | 3, EXC_GP, S_DATA},
	    {"SS code", S_CODE32_3 | 3, S_CODE32_3 | 3, EXC_GP, S_CODE32_3},
	    {"beyond the limit", S_SMALL, 0, EXC_GP, 0},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		const struct ret_case *t = &cases[i];
		struct rig *r = rig_new();
		u64 rsp;

		rig_protected(r, 0);
		PUSH(r, 4, 0x7000, t->cs, 0xc000, t->ss);
		rsp = r->c.gpr[GPR_RSP];
		rig_expect(r, RIG_EXEC(r, exec_ret_far, 0xcb), t->vector, t->error, t->what);
		if (t->vector != RIG_OK) {
			cr_expect_eq(r->c.gpr[GPR_RSP], rsp, "%s", t->what);
			cr_expect_eq(r->c.cpl, 0, "%s", t->what);
			cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE32, "%s", t->what);
		} else {
			cr_expect_eq(r->c.cpl, t->cs & 3, "%s", t->what);
			cr_expect_eq(r->c.rip, 0x7000, "%s", t->what);
			cr_expect(rig_get(r, RIG_GDT + (t->cs & ~7u) + 5, 1) & SEG_A, "%s",
				  t->what);
			if (t->ss)
				cr_expect(rig_get(r, RIG_GDT + (t->ss & ~7u) + 5, 1) & SEG_A, "%s",
					  t->what);
			cr_expect_eq(r->c.gpr[GPR_RSP], t->cs & 3 ? 0xc000 : rsp + 8, "%s",
				     t->what);
		}
		rig_free(r);
	}
}

Test(far, return_to_an_inner_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	PUSH(r, 4, 0x7000, S_CODE32);
	rig_expect(r, RIG_EXEC(r, exec_ret_far, 0xcb), EXC_GP, S_CODE32, "RPL below CPL");
	rig_free(r);
}

Test(far, outer_return_takes_segments_away)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_segment(r, SEG_ES, S_DATA3 | 3);
	rig_segment(r, SEG_FS, S_CONFORM);
	rig_segment(r, SEG_GS, S_CODE32);
	PUSH(r, 4, 0x7000, S_CODE32_3 | 3, 0xc000, S_DATA3 | 3);
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0xcb), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_DS].sel, 0);
	cr_expect_eq(r->c.seg[SEG_DS].attr, SEG_NULL);
	cr_expect_eq(r->c.seg[SEG_ES].sel, (S_DATA3 | 3));
	cr_expect_eq(r->c.seg[SEG_FS].sel, S_CONFORM, "conforming code stays");
	cr_expect_eq(r->c.seg[SEG_GS].attr, SEG_NULL, "other inner code goes");
	rig_free(r);
}

Test(far, outer_return_keeps_the_base_of_null_segments)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.seg[SEG_FS] = (struct seg_reg){.base = 0x7f0012345000ull, .attr = SEG_NULL};
	PUSH(r, 8, 0x7000, S_CODE64_3 | 3, 0xc000, S_DATA3 | 3);
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0x48, 0xcb), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_FS].base, 0x7f0012345000ull, "written by WRFSBASE or WRMSR");
	rig_free(r);
}

Test(far, outer_return_to_a_16_bit_stack)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.gpr[GPR_RSP] = 0x18000;
	PUSH(r, 4, 0x7000, S_CODE32_3 | 3, 0x1111, 0x2222, 0xabcdc000, S_DATA3_16 | 3);
	cr_assert_eq(RIG_EXEC(r, exec_ret_far, 0xca, 8, 0), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x1c008, "the upper half of ESP stays");
	rig_free(r);
}

/* --- SYSCALL and its kin --- */

static void set_syscall(struct rig *r)
{
	r->c.star = 0x0023001000000000ull;
	r->c.lstar = 0xffffffff81000000ull;
	r->c.fmask = FL_IF | FL_TF | FL_DF | FL_NT | FL_AC;
}

Test(far, syscall_and_sysret)
{
	struct rig *r = rig_new();
	u64 flags = FL_FIXED1 | FL_IF | FL_DF | FL_CF | FL_ZF | FL_ID;

	rig_long(r, S_CODE64_3, 3);
	set_syscall(r);
	cpu_set_rflags(&r->c, flags | FL_RF);
	cr_assert_eq(RIG_EXEC(r, exec_syscall, 0x0f, 0x05), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RCX], RIG_CODE + 2);
	cr_expect_eq(r->c.gpr[GPR_R11], flags);
	cr_expect_eq(r->c.rip, 0xffffffff81000000ull);
	cr_expect_eq(cpu_rflags(&r->c), (FL_FIXED1 | FL_CF | FL_ZF | FL_ID));
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x10);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xa09b);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0x18);
	cr_expect_eq(r->c.seg[SEG_SS].attr, 0xc093);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_not(r->c.user);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK, "RSP is software's");
	r->c.gpr[GPR_R11] = ~(u64)FL_TF;
	cr_assert_eq(RIG_EXEC(r, exec_sysret, 0x48, 0x0f, 0x07), RIG_OK);
	cr_expect_eq(r->c.rip, RIG_CODE + 2);
	cr_expect_eq(cpu_rflags(&r->c), 0x3c7ed7, "no RF, no VM");
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x33);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xa0fb);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0x2b);
	cr_expect_eq(r->c.seg[SEG_SS].attr, 0xc0f3);
	cr_expect(r->c.user);
	rig_free(r);
}

Test(far, sysret_to_compatibility_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	set_syscall(r);
	r->c.gpr[GPR_RCX] = 0xffff800000001234ull;
	cr_assert_eq(RIG_EXEC(r, exec_sysret, 0x0f, 0x07), RIG_OK);
	cr_expect_eq(r->c.rip, 0x1234);
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x23);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xc0fb);
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	rig_free(r);
}

Test(far, syscall_is_refused)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	cr_expect_eq(RIG_EXEC(r, exec_syscall, 0x0f, 0x05), EXC_UD, "protected mode");
	rig_long(r, S_CODE32_3, 3);
	r->c.host.syscall32 = false;
	cr_expect_eq(RIG_EXEC(r, exec_syscall, 0x0f, 0x05), EXC_UD, "compatibility mode");
	rig_level(r, S_CODE64, 0);
	r->c.efer &= ~EFER_SCE;
	cr_expect_eq(RIG_EXEC(r, exec_syscall, 0x0f, 0x05), EXC_UD, "EFER.SCE");
	cr_expect_eq(RIG_EXEC(r, exec_sysret, 0x48, 0x0f, 0x07), EXC_UD, "EFER.SCE");
	r->c.efer |= EFER_SCE;
	r->c.gpr[GPR_RCX] = 0x800000000000ull;
	rig_expect(r, RIG_EXEC(r, exec_sysret, 0x48, 0x0f, 0x07), EXC_GP, 0, "RCX");
	cr_expect_eq(r->c.cpl, 0, "at CPL 0, as Intel does");
	rig_level(r, S_CODE64_3, 3);
	r->c.gpr[GPR_RCX] = 0;
	rig_expect(r, RIG_EXEC(r, exec_sysret, 0x48, 0x0f, 0x07), EXC_GP, 0, "CPL 3");
	rig_free(r);
}

Test(far, syscall_in_compatibility_mode_as_amd_has_it)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE32_3, 3);
	set_syscall(r);
	r->c.host.syscall32 = true;
	r->c.cstar = 0xffffffff82000000ull;
	r->c.sysenter_cs = 0x60;
	rig_expect(r, RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), EXC_UD, 0, "SYSENTER");
	cr_assert_eq(RIG_EXEC(r, exec_syscall, 0x0f, 0x05), RIG_OK);
	cr_expect_eq(r->c.rip, 0xffffffff82000000ull);
	cr_expect_eq(r->c.gpr[GPR_RCX], RIG_CODE + 2);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x10);
	rig_level(r, S_CODE64, 0);
	rig_expect(r, RIG_EXEC(r, exec_sysexit, 0x48, 0x0f, 0x35), EXC_UD, 0, "SYSEXIT");
	rig_free(r);
}

Test(far, sysenter_and_sysexit)
{
	struct rig *r = rig_new();

	r->c.host.syscall32 = false;
	rig_protected(r, 3);
	rig_expect(r, RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), EXC_GP, 0, "SYSENTER_CS is null");
	r->c.sysenter_cs = 0x60;
	r->c.sysenter_eip = 0xffffffffc0001000ull;
	r->c.sysenter_esp = 0xffffffffc0002000ull;
	r->c.sflags |= FL_IF | FL_TF;
	cr_assert_eq(RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x60);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xc09b);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0x68);
	cr_expect_eq(r->c.rip, 0xc0001000);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xc0002000);
	cr_expect_eq(r->c.sflags & (FL_IF | FL_TF), FL_TF, "TF is not cleared");
	r->c.gpr[GPR_RCX] = 0xbfff0000;
	r->c.gpr[GPR_RDX] = 0x8048000;
	cr_assert_eq(RIG_EXEC(r, exec_sysexit, 0x0f, 0x35), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].sel, 0x73);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xc0fb);
	cr_expect_eq(r->c.seg[SEG_SS].sel, 0x7b);
	cr_expect_eq(r->c.rip, 0x8048000);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xbfff0000);
	rig_expect(r, RIG_EXEC(r, exec_sysexit, 0x0f, 0x35), EXC_GP, 0, "SYSEXIT at CPL 3");
	rig_free(r);
}

Test(far, sysenter_from_v86_and_in_long_mode)
{
	struct rig *r = rig_new();

	r->c.host.syscall32 = false;
	rig_expect(r, RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), EXC_GP, 0, "real mode");
	r->c.sysenter_cs = S_CODE32;
	rig_v86(r, 0);
	cr_assert_eq(RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), RIG_OK);
	cr_expect_not(cpu_v86(&r->c));
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	rig_long(r, S_CODE32_3, 3);
	r->c.sysenter_eip = 0xffffffff81001000ull;
	cr_assert_eq(RIG_EXEC(r, exec_sysenter, 0x0f, 0x34), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_expect_eq(r->c.rip, 0xffffffff81001000ull);
	r->c.rip = RIG_CODE;
	r->c.gpr[GPR_RCX] = 0x7ffffffff000ull;
	r->c.gpr[GPR_RDX] = 0x800000000000ull;
	rig_expect(r, RIG_EXEC(r, exec_sysexit, 0x48, 0x0f, 0x35), EXC_GP, 0, "not canonical");
	r->c.gpr[GPR_RDX] = 0x401000;
	cr_assert_eq(RIG_EXEC(r, exec_sysexit, 0x48, 0x0f, 0x35), RIG_OK);
	cr_expect_eq(r->c.seg[SEG_CS].sel, (S_CODE32 + 32) | 3);
	cr_expect_eq(r->c.seg[SEG_CS].attr, 0xa0fb);
	cr_expect_eq(r->c.seg[SEG_SS].sel, (S_CODE32 + 40) | 3);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x7ffffffff000ull);
	rig_free(r);
}
