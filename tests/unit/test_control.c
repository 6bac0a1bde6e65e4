/*
 * Near control transfers and the stack: conditions against the host's, operand and stack sizes in
 * each mode, what faults and leaves everything as it was.
 */
#include "engine_rig.h"

#define AT(n) (RIG_CODE + (n))
#define NOP   0x90
#define M16   INSN_MODE_16
#define M32   INSN_MODE_32
#define M64   INSN_MODE_64

/* --- conditions --- */

static u16 flags_of(unsigned i)
{
	return (i & 1 ? FL_CF : 0) | (i & 2 ? FL_PF : 0) | (i & 4 ? FL_AF : 0) |
	       (i & 8 ? FL_ZF : 0) | (i & 16 ? FL_SF : 0) | (i & 32 ? FL_OF : 0);
}

#define HOST_SETCC(cc)                                                                             \
	case 0x##cc:                                                                               \
		asm("pushq %1\n\tpopfq\n\t.byte 0x0f, 0x9" #cc ", 0xc0"                            \
		    : "=a"(is)                                                                     \
		    : "r"(flags)                                                                   \
		    : "cc", "memory");                                                             \
		break

/* The red zone is below us: one frame of our own. */
static NOINLINE bool host_condition(unsigned cc, u64 flags)
{
	volatile u8 frame[256];
	u8 is = 0;

	frame[0] = 0;
	switch (cc) {
		HOST_SETCC(0);
		HOST_SETCC(1);
		HOST_SETCC(2);
		HOST_SETCC(3);
		HOST_SETCC(4);
		HOST_SETCC(5);
		HOST_SETCC(6);
		HOST_SETCC(7);
		HOST_SETCC(8);
		HOST_SETCC(9);
		HOST_SETCC(a);
		HOST_SETCC(b);
		HOST_SETCC(c);
		HOST_SETCC(d);
		HOST_SETCC(e);
		HOST_SETCC(f);
	}
	return is + frame[0];
}

Test(control, conditions_are_the_hosts)
{
	static const u8 modes[] = {M16, M32, M64};

	for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
		struct erig *e = erig_new_mode(modes[m]);
		bool word = modes[m] == M16;

		for (unsigned cc = 0; cc < 16; cc++) {
			for (unsigned i = 0; i < 64; i++) {
				bool is = host_condition(cc, flags_of(i) | FL_FIXED1);

				e->c->aflags = flags_of(i);
				e->c->gpr[GPR_RAX] = 0;
				e->c->rip = RIG_CODE;
				/* jcc +0x10; jcc near, behind both targets; setcc al */
				if (i == 0) {
					ERIG_CODE(e, 0x70 | cc, 0x10);
					for (unsigned at = 2; at <= 0x12; at += 0x10) {
						if (word)
							ERIG_CODE_AT(e, AT(at), 0x0f, 0x80 | cc,
								     0x20, 0);
						else
							ERIG_CODE_AT(e, AT(at), 0x0f, 0x80 | cc,
								     0x20, 0, 0, 0);
					}
				}
				cr_assert_eq(erig_run(e, 1), RIG_OK);
				cr_expect_eq(e->c->rip, AT(is ? 0x12 : 2), "cc %x, flags %x", cc,
					     flags_of(i));
				cr_assert_eq(erig_run(e, 1), RIG_OK);
				cr_expect_eq(e->c->rip, AT((is ? 0x12 : 2) + (word ? 4 : 6) +
							   (is ? 0x20 : 0)));
				cr_expect_eq(e->c->aflags, flags_of(i));
			}
		}
		erig_free(e);
	}
}

Test(control, setcc_and_cmov_agree)
{
	struct erig *e = erig_new_long(0);

	for (unsigned cc = 0; cc < 16; cc++) {
		ERIG_CODE_AT(e, RIG_CODE, 0x0f, 0x90 | cc, 0xc0, 0x0f, 0x40 | cc, 0xcb);
		for (unsigned i = 0; i < 64; i++) {
			bool is = host_condition(cc, flags_of(i) | FL_FIXED1);

			e->c->aflags = flags_of(i);
			e->c->rip = RIG_CODE;
			e->c->gpr[GPR_RAX] = 0x55;
			e->c->gpr[GPR_RCX] = 0xffffffff00000001;
			e->c->gpr[GPR_RBX] = 2;
			cr_assert_eq(erig_run(e, 2), RIG_OK);
			cr_expect_eq(e->c->gpr[GPR_RAX], is);
			cr_expect_eq(e->c->gpr[GPR_RCX], is ? 2 : 1, "cc %x, flags %x", cc,
				     flags_of(i));
		}
	}
	erig_free(e);
}

/* --- jumps --- */

struct jump {
	const char *what;
	u8 mode;
	u8 code[12];
	u64 rip; /* where the code is, an offset in CS */
	u64 rax; /* target of indirect ones; also at ERIG_FREE, where RBX points */
	u64 want;
	unsigned ends;
};

static void check_jumps(const struct jump *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct erig *e = erig_new_mode(t[i].mode);
		unsigned v;

		if (t[i].mode == M16)
			e->c->seg[SEG_DS].base = ERIG_FREE;
		e->c->gpr[GPR_RAX] = t[i].rax;
		e->c->gpr[GPR_RBX] = t[i].mode == M16 ? 0 : ERIG_FREE;
		rig_put(e->r, ERIG_FREE, 8, t[i].rax);
		e->c->rip = t[i].rip;
		erig_put_code(e, t[i].rip, t[i].code, sizeof(t[i].code));
		v = erig_run(e, t[i].ends == RIG_OK ? 1 : 10);
		cr_assert_eq(v, t[i].ends, "%s: %#x", t[i].what, v);
		if (v == RIG_OK)
			cr_expect_eq(e->c->rip, t[i].want, "%s: %#llx", t[i].what,
				     (unsigned long long)e->c->rip);
		else /* with an error code, if not in real mode */
			cr_expect_eq(erig_frame(e, t[i].mode != M16), t[i].rip, "%s", t[i].what);
		erig_free(e);
	}
}

Test(control, jumps)
{
	static const struct jump t[] = {
	    {"jmp short back", M16, {0xeb, 0xfe}, 0x6000, 0, 0x6000, RIG_OK},
	    {"jmp rel16", M16, {0xe9, 0x00, 0x10}, 0x6000, 0, 0x7003, RIG_OK},
	    {"jmp rel16 wraps", M16, {0xe9, 0xfd, 0x8f}, 0x8000, 0, 0x1000, RIG_OK},
	    {"jmp rel16 back over 0", M16, {0xe9, 0x00, 0x90}, 0x6000, 0, 0xf003, RIG_OK},
	    {"jmp rel32 beyond 64K", M16, {0x66, 0xe9, 0, 0, 1, 0}, 0x6000, 0, 0, EXC_GP},
	    {"jmp rel32", M16, {0x66, 0xe9, 0, 0x10, 0, 0}, 0x6000, 0, 0x7006, RIG_OK},
	    {"jmp ax", M16, {0xff, 0xe0}, 0x6000, 0xffff1234, 0x1234, RIG_OK},
	    {"jmp eax", M16, {0x66, 0xff, 0xe0}, 0x6000, 0xffff1234, 0, EXC_GP},
	    {"jmp [bx]", M16, {0xff, 0x27}, 0x6000, 0xffff1234, 0x1234, RIG_OK},
	    {"jmp rel32", M32, {0xe9, 0, 0, 1, 0}, 0x6000, 0, 0x16005, RIG_OK},
	    {"jmp rel32 wraps", M32, {0xe9, 0xfb, 0x9f, 0xff, 0xff}, 0x6000, 0, 0, RIG_OK},
	    {"jmp rel16 cuts EIP", M32, {0x66, 0xe9, 0, 0}, 0x16000, 0, 0x6004, RIG_OK},
	    {"jmp eax", M32, {0xff, 0xe0}, 0x6000, 0xffffffff00012345, 0x12345, RIG_OK},
	    {"jmp ax", M32, {0x66, 0xff, 0xe0}, 0x6000, 0x12345, 0x2345, RIG_OK},
	    {"jmp [ebx]", M32, {0xff, 0x23}, 0x6000, 0xffffffff00012345, 0x12345, RIG_OK},
	    {"jmp rel32 back", M64, {0xe9, 0xfb, 0xff, 0xff, 0xff}, 0x6000, 0, 0x6000, RIG_OK},
	    {"66 counts for nothing", M64, {0x66, 0xe9, 0, 0, 1, 0}, 0x6000, 0, 0x16006, RIG_OK},
	    {"jmp rax", M64, {0xff, 0xe0}, 0x6000, 0xffff800000000000, 0xffff800000000000, RIG_OK},
	    {"jmp rax, not canonical", M64, {0xff, 0xe0}, 0x6000, 0x800000000000, 0, EXC_GP},
	    {"jmp [rbx], not canonical", M64, {0xff, 0x23}, 0x6000, 0x800000000000, 0, EXC_GP},
	    {"call rax, not canonical", M64, {0xff, 0xd0}, 0x6000, 0x800000000000, 0, EXC_GP},
	};

	check_jumps(t, ARRAY_LEN(t));
}

/* A conditional jump checks its target only if it is taken. */
Test(control, limits_of_conditional_jumps)
{
	for (unsigned taken = 0; taken < 2; taken++) {
		struct erig *e = erig_new_protected(0);

		rig_segment(e->r, SEG_CS, S_SMALL);
		cpu_update_mode(e->c);
		e->c->rip = 0xf0;
		e->c->aflags = taken ? FL_ZF : 0;
		cr_assert_eq(ERIG_RUN(e, taken ? 10 : 1, 0x74, 0x7f), taken ? EXC_GP : RIG_OK);
		if (taken)
			cr_expect_eq(erig_frame(e, 1), 0xf0);
		else
			cr_expect_eq(e->c->rip, 0xf2);
		erig_free(e);
	}
}

/* --- calls and returns --- */

struct call {
	const char *what;
	u8 mode;
	u8 code[8];
	unsigned pushed; /* bytes */
	u64 rip;         /* afterwards */
	u64 back;        /* return address */
};

Test(control, calls_and_returns)
{
	static const struct call t[] = {
	    {"call rel16", M16, {0xe8, 0x00, 0x01}, 2, AT(0x103), AT(3)},
	    {"call rel32", M16, {0x66, 0xe8, 0x00, 0x01, 0, 0}, 4, AT(0x106), AT(6)},
	    {"call ax", M16, {0xff, 0xd0}, 2, AT(0x200), AT(2)},
	    {"call eax", M16, {0x66, 0xff, 0xd0}, 4, AT(0x200), AT(3)},
	    {"call rel32", M32, {0xe8, 0x00, 0x01, 0, 0}, 4, AT(0x105), AT(5)},
	    {"call rel16", M32, {0x66, 0xe8, 0x00, 0x01}, 2, AT(0x104), AT(4)},
	    {"call eax", M32, {0xff, 0xd0}, 4, AT(0x200), AT(2)},
	    {"call rel32", M64, {0xe8, 0x00, 0x01, 0, 0}, 8, AT(0x105), AT(5)},
	    {"call rel32 with 66", M64, {0x66, 0xe8, 0x00, 0x01, 0, 0}, 8, AT(0x106), AT(6)},
	    {"call rax", M64, {0xff, 0xd0}, 8, AT(0x200), AT(2)},
	};

	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		struct erig *e = erig_new_mode(t[i].mode);
		bool toggled = t[i].mode == M16 ? t[i].pushed == 4 : t[i].pushed == 2;

		e->c->gpr[GPR_RAX] = AT(0x200);
		rig_put(e->r, RIG_STACK - 16, 8, ~0ull);
		rig_put(e->r, RIG_STACK - 8, 8, ~0ull);
		erig_put_code(e, RIG_CODE, t[i].code, sizeof(t[i].code));
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->rip, t[i].rip, "%s", t[i].what);
		cr_expect_eq(e->c->gpr[GPR_RSP], RIG_STACK - t[i].pushed, "%s", t[i].what);
		cr_expect_eq(rig_get(e->r, RIG_STACK - t[i].pushed, t[i].pushed), t[i].back, "%s",
			     t[i].what);
		cr_expect_eq(rig_get(e->r, RIG_STACK - t[i].pushed - 1, 1), 0xff, "%s", t[i].what);
		/* And back, by RET 4 with the same operand size. */
		if (toggled)
			ERIG_CODE(e, 0x66, 0xc2, 0x04, 0x00);
		else
			ERIG_CODE(e, 0xc2, 0x04, 0x00);
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->rip, t[i].back, "%s", t[i].what);
		cr_expect_eq(e->c->gpr[GPR_RSP], RIG_STACK + 4, "%s", t[i].what);
		erig_free(e);
	}
}

Test(control, ret_takes_up_to_64k)
{
	struct erig *e = erig_new_long(0);

	rig_put(e->r, RIG_STACK, 8, AT(0x100));
	cr_assert_eq(ERIG_RUN(e, 1, 0xc2, 0xff, 0xff), RIG_OK);
	cr_expect_eq(e->c->rip, AT(0x100));
	cr_expect_eq(e->c->gpr[GPR_RSP], RIG_STACK + 8 + 0xffff, "not sign-extended");
	erig_free(e);
}

/* A call or return that faults has moved nothing. */
Test(control, faulting_calls_and_returns)
{
	static const struct {
		const char *what;
		u8 code[6];
		u64 rsp, top; /* of the stack */
		unsigned vector;
	} cases[] = {
	    {"call, no stack", {0xe8, 0, 0, 0, 0}, ERIG_NEXT, 0, RIG_OK},
	    {"call, no stack page", {0xe8, 0, 0, 0, 0}, ERIG_NEXT + 8, 0, EXC_PF},
	    {"call rax, no stack page", {0xff, 0xd0}, ERIG_NEXT + 8, 0, EXC_PF},
	    {"ret, no stack page", {0xc3}, ERIG_NEXT, 0, EXC_PF},
	    {"ret, not canonical", {0xc3}, RIG_STACK, 0x800000000000, EXC_GP},
	    {"ret n, not canonical", {0xc2, 8, 0}, RIG_STACK, 0x800000000000, EXC_GP},
	    {"push, no stack page", {0x50}, ERIG_NEXT + 8, 0, EXC_PF},
	    {"pop, no stack page", {0x58}, ERIG_NEXT, 0, EXC_PF},
	    {"push [rbx], no operand", {0xff, 0x33}, RIG_STACK, 0, EXC_PF},
	    {"push [rbx], no stack page", {0xff, 0x36}, ERIG_NEXT + 8, 0, EXC_PF},
	    {"pop [rbx], no operand", {0x8f, 0x03}, RIG_STACK, 0, EXC_PF},
	    {"stack not canonical", {0x50}, 0x800000000000 + 8, 0, EXC_SS},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(3);
		unsigned v;

		erig_small_pages(e);
		e->c->gpr[GPR_RSP] = cases[i].rsp;
		e->c->gpr[GPR_RAX] = 0x1234;
		e->c->gpr[GPR_RBX] = ERIG_NEXT + 0x100;
		e->c->gpr[GPR_RSI] = ERIG_FREE;
		rig_put(e->r, RIG_STACK, 8, cases[i].top);
		erig_put_code(e, RIG_CODE, cases[i].code, sizeof(cases[i].code));
		v = erig_run(e, cases[i].vector == RIG_OK ? 1 : 10);
		cr_assert_eq(v, cases[i].vector, "%s: %#x", cases[i].what, v);
		if (v != RIG_OK) {
			cr_expect_eq(erig_frame(e, 1), AT(0), "%s", cases[i].what);
			cr_expect_eq(erig_frame(e, 4), cases[i].rsp, "%s", cases[i].what);
			cr_expect_eq(e->c->gpr[GPR_RAX], 0x1234, "%s", cases[i].what);
		}
		erig_free(e);
	}
}

/* --- loops --- */

struct loop {
	const char *what;
	u8 mode;
	u8 code[4];
	u64 rcx;
	u16 flags;
	u64 want_rcx;
	bool taken;
};

#define HIGH 0xaaaabbbb00000000ull

Test(control, loops)
{
	static const struct loop t[] = {
	    {"loop cx", M16, {0xe2, 0x10}, HIGH | 0xcccc0002, 0, HIGH | 0xcccc0001, true},
	    {"loop cx, last", M16, {0xe2, 0x10}, HIGH | 0xcccc0001, 0, HIGH | 0xcccc0000, false},
	    {"loop cx, 0", M16, {0xe2, 0x10}, HIGH | 0xcccc0000, 0, HIGH | 0xccccffff, true},
	    {"loop ecx", M16, {0x67, 0xe2, 0x10}, HIGH | 0x10000, 0, 0xffff, true},
	    {"loop ecx", M32, {0xe2, 0x10}, HIGH | 1, 0, 0, false},
	    {"loop cx", M32, {0x67, 0xe2, 0x10}, HIGH | 0x10001, 0, HIGH | 0x10000, false},
	    {"loop rcx", M64, {0xe2, 0x10}, HIGH | 1, 0, HIGH, true},
	    {"loop ecx", M64, {0x67, 0xe2, 0x10}, HIGH | 1, 0, 0, false},
	    {"loope, ZF", M64, {0xe1, 0x10}, 2, FL_ZF, 1, true},
	    {"loope, no ZF", M64, {0xe1, 0x10}, 2, 0, 1, false},
	    {"loope, last", M64, {0xe1, 0x10}, 1, FL_ZF, 0, false},
	    {"loopne, ZF", M64, {0xe0, 0x10}, 2, FL_ZF, 1, false},
	    {"loopne, no ZF", M32, {0xe0, 0x10}, 2, FL_CF, 1, true},
	    {"jcxz", M16, {0xe3, 0x10}, HIGH | 0xcccc0000, 0, HIGH | 0xcccc0000, true},
	    {"jecxz", M16, {0x67, 0xe3, 0x10}, HIGH | 0xcccc0000, 0, HIGH | 0xcccc0000, false},
	    {"jecxz", M32, {0xe3, 0x10}, HIGH, 0, HIGH, true},
	    {"jcxz", M32, {0x67, 0xe3, 0x10}, HIGH | 0x10000, 0, HIGH | 0x10000, true},
	    {"jrcxz", M64, {0xe3, 0x10}, HIGH, 0, HIGH, false},
	    {"jecxz", M64, {0x67, 0xe3, 0x10}, HIGH, 0, HIGH, true},
	    {"jrcxz", M64, {0xe3, 0xf0}, 0, 0, 0, true},
	};

	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		struct erig *e = erig_new_mode(t[i].mode);
		unsigned len = t[i].code[0] == 0x67 ? 3 : 2;
		s8 rel = t[i].code[len - 1];

		e->c->gpr[GPR_RCX] = t[i].rcx;
		e->c->aflags = t[i].flags;
		erig_put_code(e, RIG_CODE, t[i].code, sizeof(t[i].code));
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RCX], t[i].want_rcx, "%s: %llx", t[i].what,
			     (unsigned long long)e->c->gpr[GPR_RCX]);
		cr_expect_eq(e->c->rip, AT(len + (t[i].taken ? rel : 0)), "%s", t[i].what);
		cr_expect_eq(e->c->aflags, t[i].flags, "%s", t[i].what);
		erig_free(e);
	}
}

/* LOOP to a place beyond the limit: the count stays. */
Test(control, a_loop_that_faults_does_not_count)
{
	struct erig *e = erig_new_protected(0);

	rig_segment(e->r, SEG_CS, S_SMALL);
	cpu_update_mode(e->c);
	e->c->rip = 0xf0;
	e->c->gpr[GPR_RCX] = 5;
	cr_expect_eq(ERIG_RUN(e, 10, 0xe2, 0x7f), EXC_GP);
	cr_expect_eq(e->c->gpr[GPR_RCX], 5);
	erig_free(e);
}

/* --- the stack --- */

struct push {
	const char *what;
	u8 mode;
	u8 code[8];
	unsigned size;
	u64 value;
};

Test(control, pushes)
{
	static const struct push t[] = {
	    {"push ax", M16, {0x50}, 2, 0x7788},
	    {"push eax", M16, {0x66, 0x50}, 4, 0x55667788},
	    {"push imm8", M16, {0x6a, 0x80}, 2, 0xff80},
	    {"push imm8, 66", M16, {0x66, 0x6a, 0x80}, 4, 0xffffff80},
	    {"push imm16", M16, {0x68, 0x34, 0x12}, 2, 0x1234},
	    {"push imm32", M16, {0x66, 0x68, 0x78, 0x56, 0x34, 0x12}, 4, 0x12345678},
	    {"push [bx]", M16, {0xff, 0x37}, 2, 0x2211},
	    {"push ax by FF", M16, {0xff, 0xf0}, 2, 0x7788},
	    {"push eax", M32, {0x50}, 4, 0x55667788},
	    {"push ax", M32, {0x66, 0x50}, 2, 0x7788},
	    {"push imm8", M32, {0x6a, 0x7f}, 4, 0x7f},
	    {"push imm16", M32, {0x66, 0x68, 0x34, 0x92}, 2, 0x9234},
	    {"push [ebx]", M32, {0xff, 0x33}, 4, 0x44332211},
	    {"push rax", M64, {0x50}, 8, 0x1122334455667788},
	    {"push ax", M64, {0x66, 0x50}, 2, 0x7788},
	    {"push r8", M64, {0x41, 0x50}, 8, 0x8888},
	    {"push imm8", M64, {0x6a, 0x80}, 8, 0xffffffffffffff80},
	    {"push imm32", M64, {0x68, 0, 0, 0, 0x80}, 8, 0xffffffff80000000},
	    {"push imm16", M64, {0x66, 0x68, 0x34, 0x92}, 2, 0x9234},
	    {"push [rbx]", M64, {0xff, 0x33}, 8, 0x8877665544332211},
	    {"push rsp", M64, {0x54}, 8, RIG_STACK},
	    {"push [rsp]", M64, {0xff, 0x34, 0x24}, 8, 0x99},
	    {"push rsp by FF", M64, {0xff, 0xf4}, 8, RIG_STACK},
	    {"push sp", M16, {0x54}, 2, RIG_STACK},
	};

	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		struct erig *e = erig_new_mode(t[i].mode);

		e->c->seg[SEG_DS].base = t[i].mode == M16 ? ERIG_FREE : 0;
		e->c->gpr[GPR_RAX] = 0x1122334455667788;
		e->c->gpr[GPR_RBX] = t[i].mode == M16 ? 0 : ERIG_FREE;
		e->c->gpr[GPR_R8] = 0x8888;
		rig_put(e->r, ERIG_FREE, 8, 0x8877665544332211);
		rig_put(e->r, RIG_STACK, 8, 0x99);
		erig_put_code(e, RIG_CODE, t[i].code, sizeof(t[i].code));
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RSP], RIG_STACK - t[i].size, "%s", t[i].what);
		cr_expect_eq(rig_get(e->r, RIG_STACK - t[i].size, t[i].size), t[i].value, "%s",
			     t[i].what);
		cr_expect_eq(rig_get(e->r, RIG_STACK - t[i].size - 8, 8), 0, "%s", t[i].what);
		erig_free(e);
	}
}

struct pop {
	const char *what;
	u8 mode;
	u8 code[5];
	u64 rax, rsp; /* afterwards */
	u64 mem;      /* at ERIG_FREE */
};

#define TOP  0x1122334455667788ull /* what is on the stack */
#define RAX0 0xaaaaaaaaaaaaaaaaull
#define MEM0 0xbbbbbbbbbbbbbbbbull

Test(control, pops)
{
	static const struct pop t[] = {
	    {"pop ax", M16, {0x58}, 0xaaaaaaaaaaaa7788, RIG_STACK + 2, MEM0},
	    {"pop eax", M16, {0x66, 0x58}, 0x55667788, RIG_STACK + 4, MEM0},
	    {"pop [bx]", M16, {0x8f, 0x07}, RAX0, RIG_STACK + 2, 0xbbbbbbbbbbbb7788},
	    {"pop eax", M32, {0x58}, 0x55667788, RIG_STACK + 4, MEM0},
	    {"pop ax", M32, {0x66, 0x58}, 0xaaaaaaaaaaaa7788, RIG_STACK + 2, MEM0},
	    {"pop [ebx]", M32, {0x8f, 0x03}, RAX0, RIG_STACK + 4, 0xbbbbbbbb55667788},
	    {"pop eax by 8F", M32, {0x8f, 0xc0}, 0x55667788, RIG_STACK + 4, MEM0},
	    {"pop rax", M64, {0x58}, TOP, RIG_STACK + 8, MEM0},
	    {"pop ax", M64, {0x66, 0x58}, 0xaaaaaaaaaaaa7788, RIG_STACK + 2, MEM0},
	    {"pop [rbx]", M64, {0x8f, 0x03}, RAX0, RIG_STACK + 8, TOP},
	    {"pop word [rbx]", M64, {0x66, 0x8f, 0x03}, RAX0, RIG_STACK + 2, 0xbbbbbbbbbbbb7788},
	    {"pop rsp", M64, {0x5c}, RAX0, TOP, MEM0},
	    {"pop sp", M64, {0x66, 0x5c}, RAX0, 0x7788, MEM0},
	    {"pop esp", M32, {0x5c}, RAX0, 0x55667788, MEM0},
	    {"pop sp", M16, {0x5c}, RAX0, 0x7788, MEM0},
	};

	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		struct erig *e = erig_new_mode(t[i].mode);

		e->c->seg[SEG_DS].base = t[i].mode == M16 ? ERIG_FREE : 0;
		e->c->gpr[GPR_RAX] = RAX0;
		e->c->gpr[GPR_RBX] = t[i].mode == M16 ? 0 : ERIG_FREE;
		rig_put(e->r, ERIG_FREE, 8, MEM0);
		rig_put(e->r, RIG_STACK, 8, TOP);
		erig_put_code(e, RIG_CODE, t[i].code, sizeof(t[i].code));
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RAX], t[i].rax, "%s: %llx", t[i].what,
			     (unsigned long long)e->c->gpr[GPR_RAX]);
		cr_expect_eq(e->c->gpr[GPR_RSP], t[i].rsp, "%s: %llx", t[i].what,
			     (unsigned long long)e->c->gpr[GPR_RSP]);
		cr_expect_eq(rig_get(e->r, ERIG_FREE, 8), t[i].mem, "%s", t[i].what);
		erig_free(e);
	}
}

/* POP [RSP+8]: the address is made with RSP as it is after the pop. */
Test(control, pop_to_memory_by_rsp)
{
	struct erig *e = erig_new_long(0);

	rig_put(e->r, RIG_STACK, 8, 0x1234);
	cr_assert_eq(ERIG_RUN(e, 1, 0x8f, 0x44, 0x24, 0x08), RIG_OK);
	cr_expect_eq(rig_get(e->r, RIG_STACK + 16, 8), 0x1234);
	cr_expect_eq(rig_get(e->r, RIG_STACK + 8, 8), 0);
	cr_expect_eq(e->c->gpr[GPR_RSP], RIG_STACK + 8);
	erig_free(e);
}

/* The stack's size is SS.B's, whatever the code's. */
Test(control, a_16_bit_stack_under_32_bit_code)
{
	struct erig *e = erig_new_protected(0);

	rig_segment(e->r, SEG_SS, S_DATA16);
	e->c->gpr[GPR_RSP] = 0xabcd0000;
	e->c->gpr[GPR_RAX] = 0x11223344;
	e->c->seg[SEG_SS].base = 0x30000;
	cr_assert_eq(ERIG_RUN(e, 1, 0xe8, 0, 0, 0, 0), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RSP], 0xabcdfffc);
	cr_expect_eq(rig_get(e->r, 0x3fffc, 4), AT(5));
	cr_assert_eq(ERIG_RUN(e, 1, 0xc3), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RSP], 0xabcd0000);
	cr_expect_eq(e->c->rip, AT(5));
	erig_free(e);
}
