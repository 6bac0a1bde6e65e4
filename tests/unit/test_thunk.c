/*
 * Ordinary instructions through the engine: re-encoded for 64-bit mode and run on the host CPU,
 * from each code size; operands that cross pages, and MMIO. Faults are in test_thunk_fault.c.
 * tests/soak/step_host covers breadth, in 64-bit code; this is about the seams.
 */
#include <signal.h>
#include <sys/time.h>

#include "engine_rig.h"

#define AT(n) (RIG_CODE + (n))

/* One instruction from registers RAX, RBX, RCX, RDX to RAX. */
struct reg_case {
	const char *what;
	u8 mode; /* enum insn_mode */
	u8 code[8];
	u64 rax, rbx, rcx, rdx, want;
	u16 flags_in, flags; /* arithmetic ones; flags 0xffff: whatever */
};

#define ANY 0xffff
#define M16 INSN_MODE_16
#define M32 INSN_MODE_32
#define M64 INSN_MODE_64

static unsigned length(const struct erig *e, const u8 *code)
{
	struct insn in;
	int n = decoder_decode(e->r->decoder, code, INSN_MAX_LEN, e->c->mode, &in);

	cr_assert_gt(n, 0);
	return n;
}

static void check_case(const struct reg_case *t)
{
	struct erig *e = erig_new_mode(t->mode);
	/* ANDN, the one VEX case that is asked for its flags, leaves two undefined. */
	u16 defined = t->code[0] == 0xc4 ? FL_ARITH & ~(FL_AF | FL_PF) : FL_ARITH;
	u8 code[16] = {0};
	unsigned v;

	memcpy(code, t->code, sizeof(t->code));
	erig_vectors(e);
	e->c->gpr[GPR_RAX] = t->rax;
	e->c->gpr[GPR_RBX] = t->rbx;
	e->c->gpr[GPR_RCX] = t->rcx;
	e->c->gpr[GPR_RDX] = t->rdx;
	e->c->aflags = t->flags_in;
	erig_put_code(e, RIG_CODE, code, sizeof(code));
	v = erig_run(e, 1);
	cr_assert_eq(v, RIG_OK, "%s: %#x", t->what, v);
	cr_expect_eq(e->c->gpr[GPR_RAX], t->want, "%s: %#llx", t->what,
		     (unsigned long long)e->c->gpr[GPR_RAX]);
	if (t->flags != ANY)
		cr_expect_eq(e->c->aflags & defined, t->flags, "%s: flags %#llx", t->what,
			     (unsigned long long)(e->c->aflags & FL_ARITH));
	cr_expect_eq(e->c->rip, AT(length(e, code)), "%s", t->what);
	erig_free(e);
}

static void check_cases(const struct reg_case *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		check_case(&t[i]);
}

#define ONES 0xffffffffffffffffull
#define HIGH 0xaaaabbbb00000000ull /* what must stay, or go */

Test(thunk, operand_sizes_by_mode)
{
	static const struct reg_case t[] = {
	    {"add ax,bx",
	     M16,
	     {0x01, 0xd8},
	     HIGH | 0xccccffff,
	     1,
	     0,
	     0,
	     HIGH | 0xcccc0000,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add eax,ebx",
	     M16,
	     {0x66, 0x01, 0xd8},
	     HIGH | 0xccccffff,
	     1,
	     0,
	     0,
	     0xcccd0000,
	     0,
	     FL_SF | FL_PF | FL_AF},
	    {"add ax,bx",
	     M32,
	     {0x66, 0x01, 0xd8},
	     HIGH | 0xccccffff,
	     1,
	     0,
	     0,
	     HIGH | 0xcccc0000,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add eax,ebx",
	     M32,
	     {0x01, 0xd8},
	     HIGH | 0xffffffff,
	     HIGH | 1,
	     0,
	     0,
	     0,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add eax,ebx",
	     M64,
	     {0x01, 0xd8},
	     HIGH | 0xffffffff,
	     HIGH | 1,
	     0,
	     0,
	     0,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add ax,bx",
	     M64,
	     {0x66, 0x01, 0xd8},
	     HIGH | 0xccccffff,
	     1,
	     0,
	     0,
	     HIGH | 0xcccc0000,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add rax,rbx",
	     M64,
	     {0x48, 0x01, 0xd8},
	     ONES,
	     1,
	     0,
	     0,
	     0,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"66 with REX.W",
	     M64,
	     {0x66, 0x48, 0x01, 0xd8},
	     ONES,
	     1,
	     0,
	     0,
	     0,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"add ax,imm16",
	     M16,
	     {0x05, 0x34, 0x12},
	     HIGH | 0xcccc0000,
	     0,
	     0,
	     0,
	     HIGH | 0xcccc1234,
	     0,
	     0},
	    {"add eax,imm32",
	     M16,
	     {0x66, 0x05, 0x78, 0x56, 0x34, 0x12},
	     HIGH,
	     0,
	     0,
	     0,
	     0x12345678,
	     0,
	     FL_PF},
	    {"add eax,imm8", M32, {0x83, 0xc0, 0xff}, HIGH, 0, 0, 0, 0xffffffff, 0, FL_SF | FL_PF},
	    {"alias 82", M32, {0x82, 0xc0, 0x01}, HIGH, 0, 0, 0, HIGH | 1, 0, 0},
	    {"cwde", M16, {0x66, 0x98}, HIGH | 0x8000, 0, 0, 0, 0xffff8000, 0, ANY},
	    {"cbw", M16, {0x98}, HIGH | 0x80, 0, 0, 0, HIGH | 0xff80, 0, ANY},
	    {"cbw", M32, {0x66, 0x98}, HIGH | 0x80, 0, 0, 0, HIGH | 0xff80, 0, ANY},
	    {"cdqe", M64, {0x48, 0x98}, 0x80000000, 0, 0, 0, 0xffffffff80000000, 0, ANY},
	    {"movzx ax,bl",
	     M16,
	     {0x0f, 0xb6, 0xc3},
	     HIGH | 0xcccc1111,
	     0x299,
	     0,
	     0,
	     HIGH | 0xcccc0099,
	     0,
	     ANY},
	    {"movsx eax,bx", M16, {0x66, 0x0f, 0xbf, 0xc3}, HIGH, 0x8001, 0, 0, 0xffff8001, 0, ANY},
	    {"popcnt ax,bx",
	     M16,
	     {0xf3, 0x0f, 0xb8, 0xc3},
	     HIGH | 0xcccc0000,
	     0xff0f0f,
	     0,
	     0,
	     HIGH | 0xcccc0008,
	     0,
	     0},
	    {"popcnt eax,ebx", M16, {0x66, 0xf3, 0x0f, 0xb8, 0xc3}, HIGH, 0xff0f0f, 0, 0, 16, 0, 0},
	    {"bswap", M16, {0x66, 0x0f, 0xc8}, HIGH | 0x11223344, 0, 0, 0, 0x44332211, 0, ANY},
	    {"imul ax,bx,imm16",
	     M16,
	     {0x69, 0xc3, 0x00, 0x01},
	     HIGH,
	     0x12,
	     0,
	     0,
	     HIGH | 0x1200,
	     0,
	     ANY},
	    {"shld ax,bx,4",
	     M16,
	     {0x0f, 0xa4, 0xd8, 0x04},
	     HIGH | 0x1234,
	     0xf000,
	     0,
	     0,
	     HIGH | 0x234f,
	     0,
	     ANY},
	    {"cmpxchg ax: equal",
	     M16,
	     {0x0f, 0xb1, 0xd8},
	     HIGH | 0x1234,
	     0x5678,
	     0,
	     0,
	     HIGH | 0x5678,
	     0,
	     FL_ZF | FL_PF},
	    {"idle prefixes", M32, {0x26, 0x64, 0x67, 0xf3, 0x01, 0xd8}, 5, 6, 0, 0, 11, 0, 0},
	};

	check_cases(t, ARRAY_LEN(t));
}

Test(thunk, inc_and_dec_by_opcode)
{
	for (unsigned mode = M16; mode <= M32; mode++) {
		for (unsigned op = 0x40; op < 0x50; op++) {
			for (unsigned toggled = 0; toggled < 2; toggled++) {
				struct erig *e = erig_new_mode(mode);
				bool word = (mode == M16) ^ toggled, dec = op & 8;
				u64 *r = &e->c->gpr[op & 7], was = HIGH | (dec ? 0 : 0xffffffff);
				u64 want = word ? (was & ~0xffffull) | (dec ? 0xffff : 0)
						: (dec ? 0xffffffff : 0);

				*r = was;
				e->c->aflags = FL_CF; /* stays */
				if (toggled)
					ERIG_CODE(e, 0x66, op);
				else
					ERIG_CODE(e, op);
				cr_assert_eq(erig_run(e, 1), RIG_OK);
				cr_expect_eq(*r, want, "%#x: %#llx", op, (unsigned long long)*r);
				cr_expect_eq(e->c->aflags & FL_ARITH,
					     dec ? FL_CF | FL_SF | FL_PF | FL_AF
						 : FL_CF | FL_ZF | FL_PF | FL_AF);
				cr_expect_eq(e->c->rip, AT(1 + toggled));
				erig_free(e);
			}
		}
	}
}

Test(thunk, high_byte_registers)
{
	static const struct reg_case t[] = {
	    {"mov ah,bl", M16, {0x88, 0xdc}, HIGH | 0x1122, 0x99, 0, 0, HIGH | 0x9922, 0, ANY},
	    {"mov al,bh", M32, {0x88, 0xf8}, HIGH | 0x1122, 0x99aa, 0, 0, HIGH | 0x1199, 0, ANY},
	    {"mov ah,bl", M64, {0x88, 0xdc}, HIGH | 0x1122, 0x99, 0, 0, HIGH | 0x9922, 0, ANY},
	    {"add ah,ch",
	     M64,
	     {0x00, 0xec},
	     0xff22,
	     0,
	     0x0100,
	     0,
	     0x0022,
	     0,
	     FL_CF | FL_ZF | FL_PF | FL_AF},
	    {"xchg ah,al", M64, {0x86, 0xc4}, HIGH | 0x1122, 0, 0, 0, HIGH | 0x2211, 0, ANY},
	    {"mov ah,imm8", M64, {0xb4, 0x77}, HIGH | 0x1122, 0, 0, 0, HIGH | 0x7722, 0, ANY},
	    {"movzx eax,ah", M64, {0x0f, 0xb6, 0xc4}, HIGH | 0x1122, 0, 0, 0, 0x11, 0, ANY},
	    {"movsx eax,dh", M32, {0x0f, 0xbe, 0xc6}, 0, 0, 0, 0x8000, 0xffffff80, 0, ANY},
	    {"neg ah",
	     M64,
	     {0xf6, 0xdc},
	     0x0155,
	     0,
	     0,
	     0,
	     0xff55,
	     0,
	     FL_CF | FL_SF | FL_PF | FL_AF},
	    {"setz ah", M64, {0x0f, 0x94, 0xc4}, 0x5555, 0, 0, 0, 0x0155, FL_ZF, FL_ZF},
	    {"rol ah,cl", M64, {0xd2, 0xc4}, 0x8100, 0, 4, 0, 0x1800, 0, ANY},
	    {"xadd ah,bl", M64, {0x0f, 0xc0, 0xdc}, 0x0500, 3, 0, 0, 0x0800, 0, ANY},
	    {"mul dh", M64, {0xf6, 0xe6}, 7, 0, 0, 0x0300, 21, 0, ANY},
	    {"cmpxchg ah,bl",
	     M64,
	     {0x0f, 0xb0, 0xdc},
	     0x2222,
	     0x99,
	     0,
	     0,
	     0x9922,
	     0,
	     FL_ZF | FL_PF},
	};

	check_cases(t, ARRAY_LEN(t));
}

/* Memory forms, where the operand's address needs a register. */
Test(thunk, high_byte_registers_and_memory)
{
	struct erig *e = erig_new_long(0);
	struct cpu *c = e->c;

	rig_put(e->r, ERIG_FREE, 4, 0x44332211);
	c->gpr[GPR_RAX] = 0xaa00;
	c->gpr[GPR_RBX] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 2, 0x8a, 0x23, 0x88, 0x63, 0x01), RIG_OK);
	cr_expect_eq(c->gpr[GPR_RAX], 0x1100, "mov ah,[rbx]");
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 4), 0x44331111, "mov [rbx+1],ah");
	/* The register is the address, too: mov bh,[rbx]; add [rsi],dh... */
	cr_assert_eq(ERIG_RUN(e, 1, 0x8a, 0x3b), RIG_OK);
	cr_expect_eq(c->gpr[GPR_RBX], (ERIG_FREE & ~0xff00u) | 0x1100, "mov bh,[rbx]");
	c->gpr[GPR_RSI] = ERIG_FREE;
	c->gpr[GPR_RDX] = ERIG_FREE | 0x0300;
	cr_assert_eq(ERIG_RUN(e, 1, 0x00, 0x36), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 1), 0x14, "add [rsi],dh");
	/* SPL, and REX.B on the address. */
	c->gpr[GPR_RSP] = 0x1277;
	c->gpr[GPR_R9] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 1, 0x41, 0x88, 0x21), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 1), 0x77, "mov [r9],spl");
	erig_free(e);
}

/* Every pair of a register operand and a base register, 64-bit and byte. */
Test(thunk, every_register_and_base)
{
	struct erig *e = erig_new_long(0);

	for (unsigned reg = 0; reg < 16; reg++) {
		for (unsigned base = 0; base < 16; base++) {
			u8 rex = 0x48 | (reg >> 3) << 2 | base >> 3;
			u8 code[8] = {rex, 0x03, 0x80 | (reg & 7) << 3 | (base & 7)};
			unsigned n = 3;

			if ((base & 7) == 4)
				code[n++] = 0x24;
			code[n++] = 0x10; /* disp32 */
			for (unsigned i = 0; i < 16; i++)
				e->c->gpr[i] = 0x1000 + i;
			e->c->gpr[base] = ERIG_FREE;
			rig_put(e->r, ERIG_FREE + 0x10, 8, 0x123456789abcdef);
			e->c->rip = RIG_CODE;
			erig_put_code(e, RIG_CODE, code, sizeof(code));
			cr_assert_eq(erig_run(e, 1), RIG_OK);
			for (unsigned i = 0; i < 16; i++) {
				u64 want = i == base ? ERIG_FREE : 0x1000 + i;

				want += i == reg ? 0x123456789abcdef : 0;
				cr_expect_eq(e->c->gpr[i], want, "add r%u,[r%u+10]: r%u is %llx",
					     reg, base, i, (unsigned long long)e->c->gpr[i]);
			}
		}
	}
	erig_free(e);
}

/* RSP as data: any value, mapped or not. */
Test(thunk, rsp_operands)
{
	static const struct {
		const char *what;
		u8 code[6];
		u64 rsp, rax, want_rsp, want_rax;
	} cases[] = {
	    {"add rsp,8", {0x48, 0x83, 0xc4, 0x08}, 0x1234, 0, 0x123c, 0},
	    {"add rsp,rsp", {0x48, 0x01, 0xe4}, 0x8000000000000001, 0, 2, 0},
	    {"mov rax,rsp",
	     {0x48, 0x89, 0xe0},
	     0x5555555555555555,
	     0,
	     0x5555555555555555,
	     0x5555555555555555},
	    {"mov rsp,rax", {0x48, 0x89, 0xc4}, 0, 0x7777, 0x7777, 0x7777},
	    {"xchg rsp,rax", {0x48, 0x94}, 1, 2, 2, 1},
	    {"mov esp,imm32", {0xbc, 1, 2, 3, 4}, ONES, 0, 0x04030201, 0},
	    {"mov sp,ax", {0x66, 0x89, 0xc4}, ONES, 0x1234, 0xffffffffffff1234, 0x1234},
	    {"mov spl,al", {0x40, 0x88, 0xc4}, 0x1111, 0x22, 0x1122, 0x22},
	    {"bswap rsp", {0x48, 0x0f, 0xcc}, 0x1122334455667788, 0, 0x8877665544332211, 0},
	    {"cmovz rsp,rax", {0x48, 0x0f, 0x44, 0xe0}, 5, 6, 6, 6}, /* ZF is set */
	    {"neg rsp", {0x48, 0xf7, 0xdc}, 1, 0, ONES, 0},
	    {"imul rax,rsp", {0x48, 0x0f, 0xaf, 0xc4}, 3, 5, 3, 15},
	    {"dec esp", {0xff, 0xcc}, 0, 0, 0xffffffff, 0},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);

		e->c->gpr[GPR_RSP] = cases[i].rsp;
		e->c->gpr[GPR_RAX] = cases[i].rax;
		e->c->aflags = FL_ZF;
		erig_put_code(e, RIG_CODE, cases[i].code, sizeof(cases[i].code));
		cr_assert_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->gpr[GPR_RSP], cases[i].want_rsp, "%s: %llx", cases[i].what,
			     (unsigned long long)e->c->gpr[GPR_RSP]);
		cr_expect_eq(e->c->gpr[GPR_RAX], cases[i].want_rax, "%s", cases[i].what);
		erig_free(e);
	}
}

Test(thunk, rsp_and_memory)
{
	struct erig *e = erig_new_long(0);

	e->c->gpr[GPR_RSP] = ERIG_FREE;
	rig_put(e->r, ERIG_FREE + 8, 8, 0x100);
	cr_assert_eq(ERIG_RUN(e, 1, 0x48, 0x01, 0x64, 0x24, 0x08), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_FREE + 8, 8), ERIG_FREE + 0x100, "add [rsp+8],rsp");
	cr_assert_eq(ERIG_RUN(e, 1, 0x48, 0x8b, 0x64, 0x24, 0x08), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RSP], ERIG_FREE + 0x100, "mov rsp,[rsp+8]");
	erig_free(e);
}

/* A fault while the thunk has the guest's RSP. */
Test(thunk, a_fault_with_rsp_in_use)
{
	struct erig *e = erig_new_long(3);

	e->c->gpr[GPR_RSP] = 0;
	cr_expect_eq(ERIG_RUN(e, 10, 0x48, 0xf7, 0xf4), EXC_DE); /* div rsp */
	cr_expect_eq(erig_frame(e, 3), 0);
	cr_expect_eq(erig_frame(e, 0), AT(0));
	erig_free(e);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* Signals that arrive then find another stack. */
Test(thunk, signals_while_rsp_is_the_guests)
{
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
	const struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
	struct erig *e = erig_new_long(0);

	sigaction(SIGALRM, &sa, NULL);
	e->c->gpr[GPR_RSP] = 0x10;
	e->c->gpr[GPR_RCX] = 100000;
	/* 1: xchg rsp,rax; lea rsp... ; shld rsp,rax,cl; loop 1b */
	ERIG_CODE(e, 0x48, 0x94, 0x48, 0x0f, 0xa5, 0xc4, 0x48, 0x01, 0xe0, 0xe2, 0xf5);
	setitimer(ITIMER_REAL, &often, NULL);
	cr_expect_eq(erig_run(e, 400000), RIG_OK);
	setitimer(ITIMER_REAL, &never, NULL);
	cr_expect_eq(e->c->gpr[GPR_RCX], 0);
	erig_free(e);
}

/* A0..A3 with each address size, operand size and an override. */
Test(thunk, moffs)
{
	struct erig *e;

	e = erig_new_real();
	e->c->seg[SEG_DS].base = 0x30000;
	e->c->seg[SEG_ES].base = 0x31000;
	rig_put(e->r, 0x30123, 4, 0x44332211);
	rig_put(e->r, 0x31123, 4, 0x88776655);
	e->c->gpr[GPR_RAX] = ONES;
	cr_assert_eq(ERIG_RUN(e, 1, 0xa1, 0x23, 0x01), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0xffffffffffff2211);
	cr_assert_eq(ERIG_RUN(e, 1, 0x66, 0xa1, 0x23, 0x01), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x44332211);
	cr_assert_eq(ERIG_RUN(e, 1, 0x26, 0x67, 0xa0, 0x23, 0x01, 0, 0), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x44332255);
	cr_assert_eq(ERIG_RUN(e, 1, 0xa2, 0x00, 0x02), RIG_OK);
	cr_expect_eq(rig_get(e->r, 0x30200, 4), 0x55);
	cr_assert_eq(ERIG_RUN(e, 1, 0x66, 0xa3, 0x00, 0x02), RIG_OK);
	cr_expect_eq(rig_get(e->r, 0x30200, 8), 0x44332255);
	erig_free(e);

	e = erig_new_long(0);
	rig_put(e->r, ERIG_FREE, 8, 0x8877665544332211);
	cr_assert_eq(ERIG_RUN(e, 1, 0x48, 0xa1, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x8877665544332211);
	cr_assert_eq(ERIG_RUN(e, 1, 0x67, 0xa1, 0x00, 0x00, 0x03, 0), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x44332211);
	e->c->seg[SEG_GS].base = 0x1000;
	cr_assert_eq(ERIG_RUN(e, 1, 0x65, 0x48, 0xa3, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_FREE + 0x1000, 8), 0x44332211);
	cr_expect_eq(ERIG_RUN(e, 10, 0xa0, 0, 0, 0, 0, 0, 0x80, 0, 0), EXC_GP, "not canonical");
	erig_free(e);
}

Test(thunk, effective_addresses)
{
	struct erig *e = erig_new_real();

	/* bx+si+disp8 wraps at 64K; bp means SS. */
	e->c->seg[SEG_DS].base = 0x30000;
	e->c->seg[SEG_SS].base = 0x32000;
	e->c->gpr[GPR_RBX] = 0xffff0000000f0ff0;
	e->c->gpr[GPR_RSI] = 0xf020;
	e->c->gpr[GPR_RBP] = 0x40;
	rig_put(e->r, 0x30020, 1, 0x77);
	rig_put(e->r, 0x32040, 1, 0x99);
	cr_assert_eq(ERIG_RUN(e, 2, 0x8a, 0x40, 0x10, 0x8a, 0x66, 0x00), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x9977);
	erig_free(e);

	e = erig_new_long(0);
	/* RIP-relative, with an immediate behind the displacement; 67 cuts the sum. */
	cr_assert_eq(ERIG_RUN(e, 1, 0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x44, 0x33, 0x22, 0x11),
		     RIG_OK);
	cr_expect_eq(rig_get(e->r, AT(10) + 0x1000, 4), 0x11223344);
	e->c->gpr[GPR_RBX] = 0xffffffff00000000 + ERIG_FREE;
	e->c->gpr[GPR_RCX] = 4;
	rig_put(e->r, ERIG_FREE + 0x10, 4, 0x5a5a);
	cr_assert_eq(ERIG_RUN(e, 1, 0x67, 0x8b, 0x04, 0x8b), RIG_OK); /* mov eax,[ebx+ecx*4] */
	cr_expect_eq(e->c->gpr[GPR_RAX], 0x5a5a);
	erig_free(e);
}

/* --- flags --- */

Test(thunk, flags_that_stay)
{
	static const struct reg_case t[] = {
	    {"shl eax,cl by 0", M64, {0xd3, 0xe0}, 5, 0, 0, 0, 5, FL_ARITH, FL_ARITH},
	    {"shl eax,cl by 32", M64, {0xd3, 0xe0}, 5, 0, 32, 0, 5, FL_CF | FL_OF, FL_CF | FL_OF},
	    {"shl eax,0", M64, {0xc1, 0xe0, 0x20}, 5, 0, 0, 0, 5, FL_ARITH, FL_ARITH},
	    {"rol eax,1",
	     M64,
	     {0xd1, 0xc0},
	     0x40000000,
	     0,
	     0,
	     0,
	     0x80000000,
	     FL_ZF | FL_PF | FL_AF | FL_CF,
	     FL_ZF | FL_PF | FL_AF | FL_OF},
	    {"rcl eax,1",
	     M64,
	     {0xd1, 0xd0},
	     0x80000000,
	     0,
	     0,
	     0,
	     1,
	     FL_CF | FL_SF,
	     FL_CF | FL_SF | FL_OF},
	    {"adc eax,ebx", M64, {0x11, 0xd8}, 1, 2, 0, 0, 4, FL_CF, 0},
	    {"adc eax,ebx", M64, {0x11, 0xd8}, 1, 2, 0, 0, 3, 0, FL_PF},
	    {"not eax", M64, {0xf7, 0xd0}, 0, 0, 0, 0, 0xffffffff, FL_ARITH, FL_ARITH},
	    {"mov eax,ebx", M64, {0x89, 0xd8}, 0, 7, 0, 0, 7, FL_ARITH, FL_ARITH},
	    {"cmc", M64, {0xf5}, 0, 0, 0, 0, 0, FL_CF | FL_ZF, FL_ZF},
	    {"stc", M16, {0xf9}, 0, 0, 0, 0, 0, FL_ZF, FL_ZF | FL_CF},
	    {"clc", M32, {0xf8}, 0, 0, 0, 0, 0, FL_ARITH, FL_ARITH & ~FL_CF},
	    {"lahf", M32, {0x9f}, 0, 0, 0, 0, 0xd700, FL_ARITH, FL_ARITH},
	    {"sahf", M32, {0x9e}, 0xff00, 0, 0, 0, 0xff00, FL_OF, FL_ARITH},
	    {"setc al", M16, {0x0f, 0x92, 0xc0}, 0xff, 0, 0, 0, 1, FL_CF, FL_CF},
	    {"bt eax,ebx", M64, {0x0f, 0xa3, 0xd8}, 4, 2, 0, 0, 4, FL_ZF | FL_SF, ANY},
	    {"adcx",
	     M64,
	     {0x66, 0x0f, 0x38, 0xf6, 0xc3},
	     ONES,
	     1,
	     0,
	     0,
	     1,
	     FL_CF | FL_OF | FL_ZF,
	     FL_CF | FL_OF | FL_ZF},
	    {"adox", M64, {0xf3, 0x0f, 0x38, 0xf6, 0xc3}, 1, 1, 0, 0, 3, FL_CF | FL_OF, FL_CF},
	};

	check_cases(t, ARRAY_LEN(t));
}

/* IF, TF and the rest never reach the host, nor come from it. */
Test(thunk, system_flags_are_apart)
{
	struct erig *e = erig_new_long(0);

	cpu_set_rflags(e->c, FL_DF | FL_IOPL | FL_NT | FL_ID | FL_AC | FL_CF);
	cpu_update_mode(e->c);
	cr_assert_eq(ERIG_RUN(e, 2, 0x11, 0xd8, 0x85, 0xc0), RIG_OK); /* adc; test */
	cr_expect_eq(cpu_rflags(e->c), FL_DF | FL_IOPL | FL_NT | FL_ID | FL_AC | FL_FIXED1);
	erig_free(e);
}

/* --- VEX and EVEX outside 64-bit mode --- */

#define NEED(feature)                                                                              \
	do {                                                                                       \
		__builtin_cpu_init();                                                              \
		if (!__builtin_cpu_supports(feature))                                              \
			cr_skip("the host lacks " feature);                                        \
	} while (0)

Test(thunk, vex_w_in_32_bit_code)
{
	static const struct reg_case t[] = {
	    {"andn, W0", M32, {0xc4, 0xe2, 0x60, 0xf2, 0xc1}, 0, 0xf0, HIGH | 0xff, 0, 0x0f, 0, 0},
	    {"andn, W1", M32, {0xc4, 0xe2, 0xe0, 0xf2, 0xc1}, 0, 0xf0, HIGH | 0xff, 0, 0x0f, 0, 0},
	    {"andn, W1",
	     M64,
	     {0xc4, 0xe2, 0xe0, 0xf2, 0xc1},
	     0,
	     0xf0,
	     HIGH | 0xff,
	     0,
	     HIGH | 0x0f,
	     0,
	     FL_SF},
	    {"rorx 8, W1",
	     M32,
	     {0xc4, 0xe3, 0xfb, 0xf0, 0xc3, 0x08},
	     0,
	     HIGH | 0x11223344,
	     0,
	     0,
	     0x44112233,
	     0,
	     ANY},
	    {"shlx, W1", M32, {0xc4, 0xe2, 0xf1, 0xf7, 0xc3}, 0, 1, 33, 0, 2, 0, ANY},
	    {"pdep, W1",
	     M32,
	     {0xc4, 0xe2, 0xe3, 0xf5, 0xc1},
	     0,
	     ONES,
	     HIGH | 0xf0,
	     0,
	     0xf0,
	     0,
	     ANY},
	};

	NEED("bmi2");
	check_cases(t, ARRAY_LEN(t));
}

/* MOVSXD with a 16-bit operand at the very end of RAM: AMD's processors would read two bytes more.
 */
Test(thunk, movsxd_of_16_bits)
{
	struct erig *e = erig_new_long(0);

	erig_small_pages(e);
	rig_put(e->r, ERIG_NEXT - 2, 2, 0x8765);
	e->c->gpr[GPR_RBX] = ERIG_NEXT - 2;
	e->c->gpr[GPR_RAX] = ONES;
	cr_assert_eq(ERIG_RUN(e, 1, 0x66, 0x63, 0x03), RIG_OK);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0xffffffffffff8765);
	erig_free(e);
}

static void check_zmm0(struct erig *e, const char *what, u64 low, u64 high)
{
	u64 got[2];

	memcpy(got, e->c->vec.zmm[0], sizeof(got));
	cr_expect_eq(got[0], low, "%s: %llx", what, (unsigned long long)got[0]);
	cr_expect_eq(got[1], high, "%s: %llx", what, (unsigned long long)got[1]);
}

/* The same with a vector on one side: W would make the other one 64 bits wide. */
Test(thunk, vector_moves_in_32_bit_code)
{
	struct erig *e = erig_new_protected(0);
	struct cpu *c = e->c;

	NEED("avx2");
	erig_vectors(e);
	c->gpr[GPR_RAX] = 0x1122334400000005;
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe1, 0xf9, 0x6e, 0xc0), RIG_OK);
	check_zmm0(e, "vmovd xmm0,eax with W1", 5, 0);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe1, 0xfb, 0x2a, 0xc0), RIG_OK);
	check_zmm0(e, "vcvtsi2sd with W1", 0x4014000000000000, 0);
	memset(c->vec.zmm[0], 0x77, 16);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe3, 0xf9, 0x16, 0xc0, 0x01), RIG_OK);
	cr_expect_eq(c->gpr[GPR_RAX], 0x77777777, "vpextrd with W1");
	rig_put(e->r, ERIG_FREE, 8, ONES);
	c->gpr[GPR_RBX] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe1, 0xf9, 0x7e, 0x03), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 8), 0xffffffff77777777, "vmovd [ebx] with W1");
	/* F3 7E is a move between vectors, 64 bits in any mode. */
	rig_put(e->r, ERIG_FREE, 8, 0x123456789abcdef0);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe1, 0xfa, 0x7e, 0x03), RIG_OK);
	check_zmm0(e, "vmovq xmm0,[ebx]", 0x123456789abcdef0, 0);
	/* vblendvps xmm0,xmm1,xmm2,xmm3: the top bit of the immediate does not count. */
	memset(c->vec.zmm[1], 0x11, 16);
	memset(c->vec.zmm[2], 0x22, 16);
	memset(c->vec.zmm[3], 0, 16);
	memset(c->vec.zmm[3], 0xff, 4);
	memset(c->vec.zmm[11], 0xff, 16);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe3, 0x71, 0x4a, 0xc2, 0xb0), RIG_OK);
	check_zmm0(e, "vblendvps", 0x1111111122222222, 0x1111111111111111);
	erig_free(e);
}

Test(thunk, evex_in_32_bit_code)
{
	struct erig *e = erig_new_protected(0);
	struct cpu *c = e->c;

	NEED("avx512bw");
	erig_vectors(e);
	c->gpr[GPR_RAX] = 0x1122334400000005;
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0xf1, 0xfd, 0x08, 0x6e, 0xc0), RIG_OK);
	check_zmm0(e, "vmovd with W1", 5, 0);
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0xf2, 0xfd, 0x08, 0x7c, 0xc0), RIG_OK);
	check_zmm0(e, "vpbroadcastd with W1", 0x0000000500000005, 0x0000000500000005);
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0xf1, 0xff, 0x08, 0x7b, 0xc0), RIG_OK);
	cr_expect_eq(rig_get(e->r, 0, 0), 0);
	check_zmm0(e, "vcvtusi2sd with W1", 0x4014000000000000, 0x0000000500000005);
	/* vpaddd xmm0,xmm1,xmm2 */
	memset(c->vec.zmm[1], 0x11, 64);
	memset(c->vec.zmm[2], 0x22, 64);
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0xf1, 0x75, 0x48, 0xfe, 0xc2), RIG_OK);
	check_zmm0(e, "vpaddd", 0x3333333333333333, 0x3333333333333333);
	cr_expect_eq(c->vec.zmm[0][63], 0x33);
	/* With a memory operand and a scaled displacement. */
	memset(e->r->ram.window + ERIG_FREE + 128, 0x44, 64);
	c->gpr[GPR_RBX] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0xf1, 0x75, 0x48, 0xfe, 0x43, 0x02), RIG_OK);
	check_zmm0(e, "vpaddd [ebx+2*64]", 0x5555555555555555, 0x5555555555555555);
	erig_free(e);
}

/* What legacy SSE leaves alone and VEX clears; registers 16 and up. */
Test(thunk, upper_halves)
{
	struct erig *e = erig_new_long(0);
	struct vec_state *v = &e->c->vec;

	NEED("avx512bw");
	erig_vectors(e);
	memset(v->zmm, 0x11, sizeof(v->zmm));
	memset(v->zmm[1], 0x22, 64);
	cr_assert_eq(ERIG_RUN(e, 1, 0x0f, 0x28, 0xc1), RIG_OK); /* movaps xmm0,xmm1 */
	cr_expect_eq(v->zmm[0][15], 0x22);
	cr_expect_eq(v->zmm[0][16], 0x11);
	cr_expect_eq(v->zmm[0][63], 0x11);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc5, 0xf8, 0x28, 0xc1), RIG_OK); /* vmovaps xmm0,xmm1 */
	cr_expect_eq(v->zmm[0][15], 0x22);
	cr_expect_eq(v->zmm[0][16], 0);
	cr_expect_eq(v->zmm[0][63], 0);
	cr_assert_eq(ERIG_RUN(e, 1, 0x62, 0x61, 0x7c, 0x48, 0x28, 0xf9), RIG_OK); /* zmm31,zmm1 */
	cr_expect_eq(v->zmm[31][0], 0x22);
	cr_expect_eq(v->zmm[31][63], 0x22);
	cr_expect_eq(v->zmm[30][0], 0x11);
	erig_free(e);
}

/* --- memory operands --- */

/* Split operands and MMIO go through a buffer: the result is the same. */
Test(thunk, bounced_operands)
{
	struct erig *e = erig_new_long(0);

	erig_small_pages(e);
	erig_map(e, ERIG_NEXT, 0x50000 | PTE_P | PTE_W);
	erig_map(e, ERIG_NEXT + 0x1000, 0x40000 | PTE_P | PTE_W);
	rig_put(e->r, 0x50ffd, 3, 0xffffff);
	rig_put(e->r, 0x40000, 5, 0);
	e->c->gpr[GPR_RDI] = ERIG_NEXT + 0xffd;
	e->c->gpr[GPR_RAX] = 1;
	cr_assert_eq(ERIG_RUN(e, 1, 0xf0, 0x48, 0x0f, 0xc1, 0x07), RIG_OK); /* lock xadd */
	cr_expect_eq(e->c->gpr[GPR_RAX], 0xffffff);
	cr_expect_eq(rig_get(e->r, 0x50ffd, 3), 0);
	cr_expect_eq(rig_get(e->r, 0x40000, 5), 1);
	/* MMIO: or dword [rdi], eax is a read and a write. */
	e->c->gpr[GPR_RDI] = ERIG_MMIO + 0x10;
	cr_assert_eq(ERIG_RUN(e, 1, 0x09, 0x07), RIG_OK);
	cr_assert_eq(e->n_io, 2);
	cr_expect_not(e->io[0].write);
	cr_expect_eq(e->io[0].size, 4);
	cr_expect(e->io[1].write);
	cr_expect_eq(e->io[1].val, 0x13ffffff | 0x13121110);
	/* A store alone does not read. */
	e->n_io = 0;
	cr_assert_eq(ERIG_RUN(e, 1, 0x48, 0x89, 0x07), RIG_OK);
	cr_assert_eq(e->n_io, 1);
	cr_expect(e->io[0].write);
	cr_expect_eq(e->io[0].size, 8);
	/* x87's 10 bytes, across the page. */
	e->c->gpr[GPR_RDI] = ERIG_NEXT + 0xffb;
	cr_assert_eq(ERIG_RUN(e, 2, 0xd9, 0xe8, 0xdb, 0x3f), RIG_OK); /* fld1; fstp tbyte [rdi] */
	cr_expect_eq(rig_get(e->r, 0x50ffb, 5), 0);
	cr_expect_eq(rig_get(e->r, 0x40000, 5), 0x3fff800000);
	erig_free(e);
}

/* A read-modify-write of a page that is not writable faults as a write and changes nothing. */
Test(thunk, read_modify_write_faults_as_a_write)
{
	struct erig *e = erig_new_long(3);

	erig_small_pages(e);
	erig_map(e, ERIG_NEXT, 0x50000 | PTE_P | PTE_U);
	e->c->gpr[GPR_RDI] = ERIG_NEXT;
	cr_expect_eq(ERIG_RUN(e, 10, 0xff, 0x07), EXC_PF); /* inc dword [rdi] */
	cr_expect_eq(erig_frame(e, 0), PF_P | PF_W | PF_U);
	cr_expect_eq(e->c->cr2, ERIG_NEXT);
	cr_expect_eq(rig_get(e->r, 0x50000, 4), 0);
	erig_free(e);
}

/* BT and its kin with a bit offset in a register reach beyond the operand. */
Test(thunk, bit_strings)
{
	static const struct {
		u8 code[5];
		s64 bit;
		unsigned at; /* byte of bit, from ERIG_FREE + 0x100 */
	} cases[] = {
	    {{0x48, 0x0f, 0xab, 0x07}, 0, 0},
	    {{0x48, 0x0f, 0xab, 0x07}, 1003, 125},
	    {{0x48, 0x0f, 0xab, 0x07}, -1, -1u},
	    {{0x0f, 0xab, 0x07}, -1000, -125u},
	    {{0x66, 0x0f, 0xab, 0x07}, 0x7fff, 0xfff},
	    {{0x66, 0x0f, 0xab, 0x07}, 0x18000, -0x1000u},
	    {{0xf0, 0x0f, 0xab, 0x07}, 77, 9},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);
		gpa_t at = 0x40000 + (s32)cases[i].at;

		for (unsigned round = 0; round < 2; round++) {
			e->c->gpr[GPR_RDI] = 0x40000;
			e->c->gpr[GPR_RAX] = cases[i].bit;
			e->c->rip = RIG_CODE;
			erig_put_code(e, RIG_CODE, cases[i].code, sizeof(cases[i].code));
			cr_assert_eq(erig_run(e, 1), RIG_OK);
			cr_expect_eq(rig_get(e->r, at, 1), 1u << (cases[i].bit & 7), "case %u", i);
			cr_expect_eq(e->c->aflags & FL_CF, round, "case %u", i);
		}
		erig_free(e);
	}
}

Test(thunk, thunks_are_shared)
{
	struct erig *e = erig_new_long(0);
	u64 made;

	e->c->gpr[GPR_RDI] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 1, 0x8b, 0x47, 0x08), RIG_OK); /* mov eax,[rdi+8] */
	made = e->r->stats.n[STAT_thunks];
	/* Another displacement, another base, an index, RIP: the operand's address is all that
	 * differs. */
	cr_assert_eq(
	    ERIG_RUN(e, 4, 0x8b, 0x47, 0x10, 0x8b, 0x06, 0x8b, 0x04, 0x9f, 0x8b, 0x05, 0, 0, 0, 0),
	    RIG_OK);
	cr_expect_eq(e->r->stats.n[STAT_thunks], made);
	erig_free(e);
}
