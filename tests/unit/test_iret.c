/*
 * IRET in every mode: frames popped, checks, and which flags may change at which level.
 */
#include "cpu_rig.h"

static void push_words(struct rig *r, unsigned size, unsigned n, const u64 *v)
{
	unsigned i;

	r->c.gpr[GPR_RSP] -= n * size;
	for (i = 0; i < n; i++)
		rig_put(r, r->c.seg[SEG_SS].base + r->c.gpr[GPR_RSP] + i * size, size, v[i]);
}
#define PUSH(r, size, ...)                                                                         \
	push_words(r, size, sizeof((const u64[]){__VA_ARGS__}) / 8, (const u64[]){__VA_ARGS__})

static unsigned iret(struct rig *r, unsigned size)
{
	bool prefix = size == 8 || (size == 2) != (r->c.mode == INSN_MODE_16);
	const u8 bytes[2] = {size == 8 ? 0x48 : 0x66, 0xcf};

	return rig_exec(r, exec_iret, bytes + !prefix, 1 + prefix);
}

#define ALL_FLAGS 0x3f7fd7ull /* every flag there is, VM included */

/* --- real mode --- */

Test(iret, real_mode)
{
	struct rig *r = rig_new();

	r->c.nmi_blocked = true;
	PUSH(r, 2, 0x1234, 0x0600, 0xffff);
	cr_assert_eq(iret(r, 2), RIG_OK);
	cr_expect_eq(r->c.rip, 0x1234);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0x6000);
	cr_expect_eq(cpu_rflags(&r->c), 0x7fd7);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_not(r->c.nmi_blocked);
	cr_expect(r->c.slow, "TF");
	rig_free(r);
}

Test(iret, real_mode_32_bit)
{
	struct rig *r = rig_new();

	r->c.sflags |= FL_VIP;
	PUSH(r, 4, 0x1234, 0x0600, ALL_FLAGS & ~(u64)FL_VIP);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(cpu_rflags(&r->c), 0x357fd7, "not VM and VIF; VIP stays");
	PUSH(r, 4, 0xffff, 0x0600, 0);
	cr_expect_eq(iret(r, 4), RIG_OK, "EIP at the limit");
	PUSH(r, 4, 0x10000, 0x0600, 0);
	rig_expect(r, iret(r, 4), EXC_GP, 0, "EIP beyond 64 KiB");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 12);
	rig_free(r);
}

/* --- v86 --- */

Test(iret, v86)
{
	struct rig *r = rig_new();

	rig_v86(r, 2);
	PUSH(r, 2, 0x20, 0x0601, 0x0fd7);
	rig_expect(r, iret(r, 2), EXC_GP, 0, "IOPL below 3");
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xffa);
	r->c.sflags |= FL_IOPL;
	cr_assert_eq(iret(r, 2), RIG_OK);
	cr_expect_eq(r->c.rip, 0x20);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0x6010);
	cr_expect_eq(cpu_rflags(&r->c), (FL_VM | FL_IOPL | 0x0fd7));
	PUSH(r, 4, 0x30, 0x0600, 0);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(cpu_rflags(&r->c), (FL_VM | FL_IOPL | FL_FIXED1), "VM and IOPL stay");
	cr_expect_eq(r->c.cpl, 3);
	rig_free(r);
}

Test(iret, to_v86)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	PUSH(r, 4, 0x1234, 0x0600, FL_VM | FL_IF | FL_IOPL | FL_FIXED1, 0xfff0, 0x0700, 0x10, 0x20,
	     0x30, 0xffff);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect(cpu_v86(&r->c));
	cr_expect_eq(r->c.cpl, 3);
	cr_expect(r->c.user);
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	cr_expect_eq(r->c.rip, 0x1234);
	cr_expect_eq(r->c.seg[SEG_CS].base, 0x6000);
	cr_expect_eq(r->c.seg[SEG_CS].limit, 0xffff);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xfff0);
	cr_expect_eq(r->c.seg[SEG_SS].base, 0x7000);
	cr_expect_eq(r->c.seg[SEG_ES].sel, 0x10);
	cr_expect_eq(r->c.seg[SEG_DS].base, 0x200);
	cr_expect_eq(r->c.seg[SEG_FS].sel, 0x30);
	cr_expect_eq(r->c.seg[SEG_GS].base, 0xffff0);
	cr_expect_eq(cpu_rflags(&r->c), (FL_VM | FL_IF | FL_IOPL | FL_FIXED1));
	rig_free(r);
}

Test(iret, to_v86_refused)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	PUSH(r, 4, 0x10000, 0x0600, FL_VM, 0, 0, 0, 0, 0, 0);
	rig_expect(r, iret(r, 4), EXC_GP, 0, "EIP beyond 64 KiB");
	cr_expect_not(cpu_v86(&r->c));
	/* At CPL 3 VM in the image means nothing. */
	rig_level(r, S_CODE32_3, 3);
	r->c.gpr[GPR_RSP] = RIG_STACK;
	PUSH(r, 4, 0x7000, S_CODE32_3 | 3, FL_VM | FL_FIXED1);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_not(cpu_v86(&r->c));
	cr_expect_eq(r->c.rip, 0x7000);
	rig_free(r);
}

/* --- protected mode --- */

Test(iret, same_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.nmi_blocked = true;
	PUSH(r, 4, 0x12345678, S_CODE32, FL_IF | FL_RF | FL_FIXED1);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(r->c.rip, 0x12345678);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(cpu_rflags(&r->c), (FL_IF | FL_RF | FL_FIXED1));
	cr_expect_not(r->c.nmi_blocked);
	PUSH(r, 2, 0x5678, S_CODE16, 0);
	cr_assert_eq(iret(r, 2), RIG_OK);
	cr_expect_eq(r->c.rip, 0x5678);
	cr_expect_eq(cpu_rflags(&r->c), (FL_RF | FL_FIXED1), "16 bits of flags");
	cr_expect_eq(r->c.mode, INSN_MODE_16);
	rig_free(r);
}

struct flags_case {
	unsigned cpl, iopl, size;
	u64 want; /* flags after popping ALL_FLAGS over none (but IOPL) */
};

Test(iret, flags_by_level)
{
	static const u64 plain = 0x4dd7, wide = FL_RF | FL_AC | FL_ID;
	const struct flags_case cases[] = {
	    {0, 0, 4, plain | FL_IF | FL_IOPL | wide | FL_VIF | FL_VIP},
	    {0, 0, 2, plain | FL_IF | FL_IOPL},
	    {3, 0, 4, plain | wide},
	    {3, 2, 4, plain | 2 << 12 | wide},
	    {3, 3, 4, plain | FL_IF | FL_IOPL | wide},
	    {3, 3, 2, plain | FL_IF | FL_IOPL},
	    {1, 0, 4, plain | wide},
	    {1, 1, 4, plain | FL_IF | 1 << 12 | wide},
	};
	unsigned i, lma;

	for (i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		const struct flags_case *t = &cases[i / 2];
		struct rig *r = rig_new();
		u64 code;

		lma = i & 1;
		if (lma)
			rig_long(r, S_CODE32, 0);
		else
			rig_protected(r, 0);
		code = t->cpl == 3 ? S_CODE32_3 | 3 : t->cpl == 1 ? S_CODE1 | 1 : S_CODE32;
		rig_level(r, code & ~3u, t->cpl);
		r->c.sflags = t->iopl << 12;
		PUSH(r, t->size, 0x7000, code,
		     (ALL_FLAGS & ~(u64)FL_VM) & (t->size == 2 ? 0xffff : ~0ull));
		cr_assert_eq(iret(r, t->size), RIG_OK, "case %u", i);
		cr_expect_eq(cpu_rflags(&r->c), t->want, "case %u: flags %llx, not %llx", i,
			     (unsigned long long)cpu_rflags(&r->c), (unsigned long long)t->want);
		rig_free(r);
	}
}

Test(iret, outer_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	PUSH(r, 4, 0x8048000, S_CODE32_3 | 3, FL_IF | FL_FIXED1, 0xbffff000, S_DATA3 | 3);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect(r->c.user);
	cr_expect_eq(r->c.rip, 0x8048000);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xbffff000);
	cr_expect_eq(r->c.seg[SEG_SS].sel, (S_DATA3 | 3));
	cr_expect_eq(r->c.seg[SEG_DS].attr, SEG_NULL, "the kernel's DS is taken away");
	cr_expect(r->c.sflags & FL_IF, "by the level before the return");
	rig_free(r);
}

Test(iret, faults_leave_everything)
{
	static const struct {
		const char *what;
		u64 eip, cs, ss;
		unsigned vector;
		u32 error;
	} cases[] = {
	    {"null CS", 0, 0, 0, EXC_GP, 0},
	    {"data CS", 0, S_DATA, 0, EXC_GP, S_DATA},
	    {"absent CS", 0, S_CODE_ABSENT, 0, EXC_NP, S_CODE_ABSENT},
	    {"DPL is not RPL", 0, S_CODE32 | 3, 0, EXC_GP, S_CODE32},
	    {"limit", 0x100, S_SMALL, 0, EXC_GP, 0},
	    {"null SS", 0, S_CODE32_3 | 3, 0, EXC_GP, 0},
	    {"inner SS", 0, S_CODE32_3 | 3, S_DATA, EXC_GP, S_DATA},
	    {"SS beyond the GDT", 0, S_CODE32_3 | 3, S_GDT_END | 3, EXC_GP, S_GDT_END},
	    {"absent SS at the right level", 0, S_CODE32_3 | 3, S_GATE | 3, EXC_SS, S_GATE},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		rig_protected(r, 0);
		rig_set_desc(r, S_GATE, rig_desc(0, 0xffff, (A_DATA | A_DPL(3)) & ~SEG_P));
		r->c.nmi_blocked = true;
		PUSH(r, 4, cases[i].eip, cases[i].cs, FL_IF, 0x1000, cases[i].ss);
		rig_expect(r, iret(r, 4), cases[i].vector, cases[i].error, cases[i].what);
		cr_expect_eq(r->c.cpl, 0);
		cr_expect_eq(r->c.rip, RIG_CODE);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 20);
		cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE32);
		cr_expect_eq(r->c.seg[SEG_SS].sel, S_DATA);
		cr_expect_eq(r->c.seg[SEG_DS].sel, S_DATA);
		cr_expect_eq(cpu_rflags(&r->c), FL_FIXED1);
		rig_free(r);
	}
}

Test(iret, accessed_bit_in_a_read_only_table)
{
	struct rig *r = rig_new();
	unsigned i;

	rig_long(r, S_CODE64, 0);
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_U); /* the same memory, read-only */
	r->c.gdtr.base = 2 * MIB + RIG_GDT;
	PUSH(r, 8, 0x7000, S_CODE64_3 | 3, FL_IF, 0xc000, S_DATA3 | 3);
	for (i = 0; i < 2; i++) { /* CS, then SS */
		rig_expect(r, iret(r, 8), EXC_PF, PF_P | PF_W, "setting A");
		cr_expect_eq(r->c.cpl, 0);
		cr_expect_eq(r->c.rip, RIG_CODE);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 40);
		cr_expect_eq(r->c.seg[SEG_CS].sel, S_CODE64);
		cr_expect_eq(cpu_rflags(&r->c), FL_FIXED1);
		rig_put(r, RIG_GDT + S_CODE64_3 + 5, 1, 0xfb);
	}
	rig_put(r, RIG_GDT + S_DATA3 + 5, 1, 0xf3);
	cr_expect_eq(iret(r, 8), RIG_OK);
	rig_free(r);
}

Test(iret, accessed_bit_from_compatibility_mode)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE32, 0);
	rig_put(r, RIG_PD + 8, 8, PTE_PS | PTE_P | PTE_U);
	r->c.gdtr.base = 2 * MIB + RIG_GDT;
	PUSH(r, 4, 0x7000, S_CODE32, FL_IF);
	rig_expect(r, iret(r, 4), EXC_PF, PF_P | PF_W, "setting A");
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 12);
	rig_free(r);
}

Test(iret, to_an_inner_level)
{
	struct rig *r = rig_new();

	rig_protected(r, 3);
	PUSH(r, 4, 0, S_CODE32, 0);
	rig_expect(r, iret(r, 4), EXC_GP, S_CODE32, "RPL below CPL");
	rig_free(r);
}

Test(iret, nested_task)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_TSS, 2, 0x1238);
	r->c.sflags |= FL_NT;
	cr_expect_eq(iret(r, 4), EXC_NONE);
	cr_expect_eq(r->c.exit, EXIT_UNSUPPORTED);
	cr_expect(strstr(r->c.unsupported, "1238"), "%s", r->c.unsupported);
	cr_expect_eq(r->stats.n[STAT_task_switches], 1);
	rig_long(r, S_CODE64, 0);
	r->c.sflags |= FL_NT;
	rig_expect(r, iret(r, 8), EXC_GP, 0, "long mode has no tasks");
	rig_free(r);
}

/* --- long mode --- */

Test(iret, long_mode_always_pops_the_stack)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	PUSH(r, 8, 0xffffffff81000000ull, S_CODE64, FL_IF | FL_FIXED1, 0xffff888000001008ull,
	     S_DATA);
	cr_assert_eq(iret(r, 8), RIG_OK);
	cr_expect_eq(r->c.rip, 0xffffffff81000000ull);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xffff888000001008ull);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect(r->c.sflags & FL_IF);
	r->c.gpr[GPR_RSP] = RIG_STACK;
	PUSH(r, 8, 0x7000, S_CODE64, 0, 0xc000, 0);
	cr_assert_eq(iret(r, 8), RIG_OK, "null SS");
	cr_expect(r->c.seg[SEG_SS].attr & SEG_NULL);
	rig_free(r);
}

Test(iret, long_mode_to_user)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.seg[SEG_GS] = (struct seg_reg){.base = 0x1234, .attr = SEG_NULL};
	PUSH(r, 8, 0x401000, S_CODE64_3 | 3, FL_IF | FL_TF | FL_FIXED1, 0x7ffffffff008ull,
	     S_DATA3 | 3);
	cr_assert_eq(iret(r, 8), RIG_OK);
	cr_expect_eq(r->c.cpl, 3);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0x7ffffffff008ull);
	cr_expect_eq(r->c.seg[SEG_GS].base, 0x1234, "a null segment keeps its base");
	cr_expect(r->c.slow, "TF");
	rig_free(r);
}

Test(iret, long_mode_to_compatibility)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	PUSH(r, 8, 0x8048000, S_CODE32_3 | 3, FL_IF | FL_FIXED1, 0xfffff000, S_DATA3 | 3);
	cr_assert_eq(iret(r, 8), RIG_OK);
	cr_expect_eq(r->c.mode, INSN_MODE_32);
	cr_expect_eq(r->c.rip, 0x8048000);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xfffff000);
	/* From compatibility mode at the same level SS:ESP stay. */
	r->c.gpr[GPR_RSP] = RIG_STACK;
	PUSH(r, 4, 0x7000, S_CODE32_3 | 3, FL_FIXED1);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	cr_expect_eq(r->c.rip, 0x7000);
	rig_free(r);
}

Test(iret, long_mode_operand_sizes)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RSP] = RIG_STACK;
	PUSH(r, 4, 0x7000, S_CODE64, FL_FIXED1, 0xc000, S_DATA);
	cr_assert_eq(iret(r, 4), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xc000);
	PUSH(r, 2, 0x7100, S_CODE64, FL_FIXED1, 0xd000, S_DATA);
	cr_assert_eq(iret(r, 2), RIG_OK);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xd000);
	cr_expect_eq(r->c.rip, 0x7100);
	rig_free(r);
}

Test(iret, long_mode_faults)
{
	static const struct {
		const char *what;
		u64 rip, cs, ss;
		unsigned vector;
		u32 error;
	} cases[] = {
	    {"RIP not canonical", 0x800000000000ull, S_CODE64, S_DATA, EXC_GP, 0},
	    {"L and D", 0, S_CODE_LD, S_DATA, EXC_GP, S_CODE_LD},
	    {"null SS at CPL 3", 0, S_CODE64_3 | 3, 3, EXC_GP, 0},
	    {"null SS with a wrong RPL", 0, S_CODE64, 3, EXC_GP, 0},
	    {"null SS for compatibility mode", 0, S_CODE32, 0, EXC_GP, 0},
	    {"SS of another level", 0, S_CODE64, S_DATA3 | 3, EXC_GP, S_DATA3},
	    {"absent SS", 0, S_CODE64, S_ABSENT, EXC_SS, S_ABSENT},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig *r = rig_new();

		rig_long(r, S_CODE64, 0);
		PUSH(r, 8, cases[i].rip, cases[i].cs, FL_IF, 0x1000, cases[i].ss);
		rig_expect(r, iret(r, 8), cases[i].vector, cases[i].error, cases[i].what);
		cr_expect_eq(r->c.gpr[GPR_RSP], RIG_STACK - 40, "%s", cases[i].what);
		cr_expect_eq(r->c.rip, RIG_CODE, "%s", cases[i].what);
		cr_expect_eq(cpu_rflags(&r->c), FL_FIXED1, "%s", cases[i].what);
		rig_free(r);
	}
}
