/*
 * x87 and SSE state: arithmetic and conversions, status and tags, environment images, FXSAVE, XSAVE
 * with its header, MXCSR. Results whose last bit or flag emulators get wrong (transcendentals, C1,
 * the denormal flag) are not asked for. SDM vol. 1, chapters 8, 10 and 13.
 */
#include "lib.h"

#define SW_MASK 0x457du /* C3 C2 C0, SF, exceptions but for DE */

static struct {
	u8 st[16], env[128];
	u8 fx[512] ALIGNED(64), xs[4096] ALIGNED(64);
} out ALIGNED(64);
asm(".pushsection .bss\n.balign 64\nout_st: .skip 16\nout_env: .skip 128\nscratch: .skip "
    "64\n.popsection\n"
    ".pushsection .data\n.balign 16\n"
    "f_third: .float 0.33333334\nf_big: .float 3e38\nd_pi: .double 3.141592653589793\n"
    "i_minus7: .long -7\ni_1000: .long 1000\nq_big: .quad 0x7fffffffffffffff\nw_300: .short 300\n"
    "t_bcd: .byte 0x56,0x34,0x12,0,0,0,0,0,0,0x80\nt_snan: .quad 0x8000000000000001; .short "
    "0x7fff\n"
    "t_tiny: .quad 0x8000000000000000; .short 0x0001\nt_inf: .quad 0x8000000000000000; .short "
    "0x7fff\n"
    "t_un: .quad 0x4000000000000000; .short 0x4000\nf_nan: .long 0x7fa00001\n"
    "cw_down: .short 0x077f\ncw_up: .short 0x0b7f\ncw_zero: .short 0x0f7f\ncw_single: .short "
    "0x007f\n"
    ".balign 16\nv_a: .float 1.5,-2.25,1e30,0.1\nv_b: .float 0.5,4.0,1e30,3.0\n"
    "v_d: .double 2.0,-7.5\n.popsection\n");
extern u8 out_st[], out_env[], scratch[];

/* Each leaves one value on the x87 stack. */
#define CASES(X)                                                                                   \
	X(f1, "fld1 + fldpi", "fld1; fldpi; faddp\n")                                              \
	X(f2, "single", "flds f_third; fmuls f_third\n")                                           \
	X(f3, "double", "fldl d_pi; fdivl d_pi\n")                                                 \
	X(f4, "1/3", "fld1; fidivl i_minus7\n")                                                    \
	X(f5, "integers", "fildl i_minus7; fimull i_1000\n")                                       \
	X(f6, "word", "filds w_300; fisubs w_300\n")                                               \
	X(f7, "quad", "fildll q_big; fld1; faddp\n")                                               \
	X(f8, "bcd", "fbld t_bcd\n")                                                               \
	X(f9, "sqrt 2", "fld1; fld1; faddp; fsqrt\n")                                              \
	X(f10, "sqrt -1", "fld1; fchs; fsqrt\n")                                                   \
	X(f11, "1/0", "fld1; fldz; fdivrp %st,%st(1)\n")                                           \
	X(f12, "0/0", "fldz; fldz; fdivrp\n")                                                      \
	X(f13, "inf-inf", "fldt t_inf; fldt t_inf; fsubrp\n")                                      \
	X(f14, "snan", "fldt t_snan; fld1; faddp\n")                                               \
	X(f15, "single snan", "flds f_nan\n")                                                      \
	X(f16, "round down", "fldcw cw_down; fldl d_pi; fchs; frndint\n")                          \
	X(f17, "round up", "fldcw cw_up; fldl d_pi; frndint\n")                                    \
	X(f18, "round to zero", "fldcw cw_zero; fldl d_pi; fchs; frndint\n")                       \
	X(f19, "round even",                                                                       \
	  "filds w_300; fld1; fld1; faddp; fdivrp; fld1; fld1; fld1; faddp; fdivrp; faddp\n"       \
	  "frndint\n")                                                                             \
	X(f20, "single precision", "fldcw cw_single; fld1; fidivl i_minus7\n")                     \
	X(f21, "fprem", "filds w_300; fildl i_1000; fprem; fstp %st(1)\n")                         \
	X(f23, "fscale", "filds w_300; fldpi; fscale; fstp %st(1)\n")                              \
	X(f24, "fxtract", "fldpi; fxtract; fstp %st(1)\n")                                         \
	X(f25, "fabs fchs", "fldpi; fchs; fabs; fchs\n")                                           \
	X(f26, "fxch", "fld1; fldpi; fxch; fsubrp\n")                                              \
	X(f27, "constants", "fldl2e; fldl2t; fmulp; fldlg2; fmulp; fldln2; fmulp\n")               \
	X(f30, "fcmov", "fld1; fldpi; stc; fcmovb %st(1),%st; clc; fcmovb %st(1),%st\n")           \
	X(f31, "big fist", "flds f_big; fistl scratch; fildl scratch; fstp %st(1)\n")              \
	X(f32, "fisttp", "fldl d_pi; fisttpl scratch; fildl scratch\n")                            \
	X(f33, "fist word", "fildl i_minus7; fistps scratch; filds scratch\n")                     \
	X(f34, "fbstp", "fildl i_minus7; fimull i_1000; fbstp scratch; fbld scratch\n")            \
	X(f35, "to single", "fldl d_pi; fstps scratch; flds scratch\n")                            \
	X(f36, "to single, overflow",                                                              \
	  "fldl d_pi; fmuls f_big; fmuls f_big; fstps scratch; flds scratch\n")                    \
	X(f37, "ffree", "fld1; fldpi; ffree %st(1); fincstp; fdecstp\n")                           \
	X(f38, "unnormal", "fldt t_un; fld1; faddp\n")                                             \
	X(f39, "int to ST and back", "fildll q_big; fistpll scratch; fildll scratch\n")
#define X87_SNIPPET(name, text, code)                                                              \
	SNIPPET(name, "fninit\n" code "fstpt out_st; fnstsw %ax\n" STOP);
CASES(X87_SNIPPET)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};

static void put_bytes(const u8 *p, unsigned n)
{
	while (n--) {
		put_char("0123456789abcdef"[p[n] >> 4]);
		put_char("0123456789abcdef"[p[n] & 15]);
	}
}

static void test_x87(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(cases); i++) {
		r = regs_kernel(cases[i].code);
		guest_run(&r);
		put(cases[i].text);
		put(r.vector == STOP_VECTOR ? ": " : ": TRAP ");
		put_bytes(out_st, 10);
		/* The condition codes are defined after FPREM alone. */
		say(" sw", r.ax & (cases[i].code == f21 ? SW_MASK : 0x7d));
	}
}

/* --- comparisons and classes: AX is the status word, BX what was asked --- */

#define COMPARES(X)                                                                                \
	X(c1, "fcom >", "fld1; fldpi; fcompp; fnstsw %ax\n")                                       \
	X(c2, "fcom <", "fldpi; fld1; fcompp; fnstsw %ax\n")                                       \
	X(c3, "fcom =", "fld1; fld1; fcompp; fnstsw %ax\n")                                        \
	X(c4, "fcom unordered", "fldt t_snan; fld1; fcompp; fnstsw %ax\n")                         \
	X(c5, "fucomi", "fldz; fld1; fucomi %st(1); pushf; pop %ebx\n")                            \
	X(c6, "fcomi unordered", "fldz; fldz; fdivrp; fld1; fucomi %st(1); pushf; pop %ebx\n")     \
	X(c7, "ftst", "fldpi; fchs; ftst; fnstsw %ax\n")                                           \
	X(c8, "fxam +normal", "fldpi; fxam; fnstsw %ax; and $0x4500,%eax\n")                       \
	X(c9, "fxam 0", "fldz; fxam; fnstsw %ax; and $0x4500,%eax\n")                              \
	X(c10, "fxam inf", "fldt t_inf; fxam; fnstsw %ax; and $0x4500,%eax\n")                     \
	X(c11, "fxam nan", "fldt t_snan; fxam; fnstsw %ax; and $0x4500,%eax\n")                    \
	X(c12, "fxam empty", "fxam; fnstsw %ax; and $0x4500,%eax\n")                               \
	X(c13, "top after fld", "fld1; fld1; fnstsw %ax; and $0x3800,%eax\n")                      \
	X(c14, "comiss", "movups v_a,%xmm0; comiss v_b,%xmm0; pushf; pop %ebx\n")                  \
	X(c15, "ucomisd nan",                                                                      \
	  "xorps %xmm1,%xmm1; divsd %xmm1,%xmm1; ucomisd %xmm1,%xmm1; pushf; pop %ebx\n")          \
	X(c16, "cvttsd2si", "cvttsd2si v_d+8,%ebx\n")                                              \
	X(c17, "cvtsd2si", "cvtsd2si v_d+8,%ebx\n")                                                \
	X(c18, "cvtss2si overflow", "cvtss2si v_a+8,%ebx\n")                                       \
	X(c19, "movmskps", "movups v_a,%xmm0; movmskps %xmm0,%ebx\n")                              \
	X(c20, "pmovmskb", "pcmpeqd %xmm0,%xmm0; psrldq $3,%xmm0; pmovmskb %xmm0,%ebx\n")          \
	X(c21, "mmx sets tags",                                                                    \
	  "fninit; movd %ecx,%mm0; fnstenv out_env; movzwl out_env+8,%ebx\n"                       \
	  "mov %ebx,%edx; shr $1,%edx; and %edx,%ebx; and $0x5555,%ebx\n"                          \
	  "emms; fnstenv out_env; movzwl out_env+8,%eax\n")
#define COMPARE_SNIPPET(name, text, code)                                                          \
	SNIPPET(name, "fninit; xor %ebx,%ebx; xor %eax,%eax\n" code STOP);
COMPARES(COMPARE_SNIPPET)
static const struct test_case compares[] = {COMPARES(CASE_ENTRY)};

static void test_compares(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(compares); i++) {
		bool flags = i == 4 || i == 5 || i == 13 || i == 14;

		r = regs_kernel(compares[i].code);
		guest_run(&r);
		put(compares[i].text);
		put(r.vector == STOP_VECTOR ? ": ax " : ": TRAP ax ");
		put_hex(r.ax & (i == 12 || i > 19 ? 0xffff : SW_MASK));
		say(" bx", flags ? r.bx & F_ARITH : r.bx);
	}
}

/* --- images --- */

SNIPPET(env_image, "fninit; fld1; fldz; fldt t_inf; fnstenv out_env\n" STOP);
SNIPPET(save_image,
	"fninit; fldpi; fldz; fldcw cw_up; fnsave out_env; fnstcw scratch; mov scratch,%eax\n"
	"fnstsw scratch+4; movzwl scratch+4,%ebx\n" STOP);
SNIPPET(restore, "fninit; frstor out_env; fnstcw scratch; mov scratch,%eax; fnstsw scratch+4; "
		 "movzwl scratch+4,%ebx; fstp %st; "
		 "fstpt out_st\n" STOP);
SNIPPET(env16, "fninit; fld1; data16 fnstenv out_env\n" STOP);

static void test_images(void)
{
	struct regs r = regs_kernel(env_image);

	guest_run(&r);
	say("fnstenv cw", *(u16 *)out_env);
	say("fnstenv sw", *(u16 *)(out_env + 4));
	say("fnstenv tw", *(u16 *)(out_env + 8));
	r = regs_kernel(save_image);
	guest_run(&r);
	say("fnsave cw", *(u16 *)out_env);
	say("fnsave sw", *(u16 *)(out_env + 4));
	say("fnsave tw", *(u16 *)(out_env + 8));
	put("fnsave st0 st1: ");
	put_bytes(out_env + 28, 10);
	put(" ");
	put_bytes(out_env + 38, 10);
	put("\n");
	say("and initialised", (r.ax & 0xffff) << 16 | (r.bx & 0xffff));
	r = regs_kernel(restore);
	guest_run(&r);
	say("frstor", (r.ax & 0xffff) << 16 | (r.bx & 0xffff));
	put("its st1: ");
	put_bytes(out_st, 10);
	put("\n");
	r = regs_kernel(env16);
	memset(out_env, 0x5a, 20);
	guest_run(&r);
	say("16-bit environment",
	    (u64) * (u16 *)out_env << 32 | *(u16 *)(out_env + 2) << 16 | *(u16 *)(out_env + 4));
	say("and no more", out_env[14]);
}

/* --- FXSAVE --- */

static void fxsave(void *p)
{
	ASM("fxsave (%0)" : : "r"(p) : "memory");
}

static void fxrstor(const void *p)
{
	ASM("fxrstor (%0)" : : "r"(p) : "memory");
}

SNIPPET(fx_set, "fninit; fldpi; fld1; fldcw cw_down; movl $0x1fa0,scratch; ldmxcsr scratch\n"
		"movups v_a,%xmm0; movups v_b,%xmm7\n" STOP);
SNIPPET(fx_odd, "fxsave 8(%ebx)\n" STOP);

static void test_fxsave(void)
{
	struct regs r = regs_kernel(fx_set);
	u8 *fx = out.fx;

	guest_run(&r);
	memset(fx, 0xee, 512);
	fxsave(fx);
	say("fcw", *(u16 *)fx);
	say("fsw", *(u16 *)(fx + 2));
	say("abridged tags", fx[4]);
	say("mxcsr", *(u32 *)(fx + 24));
	check("mxcsr mask", (*(u32 *)(fx + 28) & 0xffbf) == 0xffbf);
	put("st0 st1: ");
	put_bytes(fx + 32, 10);
	put(" ");
	put_bytes(fx + 48, 10);
	put("\nxmm0: ");
	put_bytes(fx + 160, 16);
	put("\nxmm7: ");
	put_bytes(fx + 160 + 7 * 16, 16);
	put("\n");
	check("tail untouched", fx[511] == 0xee && fx[464] == 0xee);
	memset(fx + 160, 0x42, 16);
	fx[4] = 0x81;
	*(u16 *)(fx + 2) = 0x0800; /* top 1 */
	*(u32 *)(fx + 24) = 0x1f80;
	fxrstor(fx);
	memset(fx, 0, 512);
	fxsave(fx);
	say("restored fsw", *(u16 *)(fx + 2));
	say("restored tags", fx[4]);
	say("restored mxcsr", *(u32 *)(fx + 24));
	put("restored xmm0: ");
	put_bytes(fx + 160, 16);
	put("\n");
	r = regs_kernel(fx_odd);
	r.bx = (ulong)fx;
	guest_run(&r);
	say_trap_kind("unaligned fxsave", &r);
	ASM("fninit");
}

/* --- XSAVE --- */

static u64 xgetbv(u32 i)
{
	u32 lo, hi;

	ASM("xgetbv" : "=a"(lo), "=d"(hi) : "c"(i));
	return (u64)hi << 32 | lo;
}

SNIPPET(xsetbv_, "xor %ecx,%ecx; xsetbv\n" STOP);
SNIPPET(xgetbv_, "xor %ecx,%ecx; xgetbv\n" STOP);
SNIPPET(xrstor_, "xrstor (%ebx)\n" STOP);
SNIPPET(xsave_, "xsave (%ebx)\n" STOP);

static struct regs with_mask(const char *name, const u8 *code, ulong mask, void *area)
{
	struct regs r = regs_kernel(code);

	r.ax = mask;
	r.bx = (ulong)area;
	guest_run(&r);
	if (name)
		say_trap_kind(name, &r);
	return r;
}

static void test_xsave(void)
{
	u8 *xs = out.xs;
	u64 *bv = (u64 *)(xs + 512);
	struct regs r;

	if (!(cpuid(1, 0).c & 1u << 26)) {
		put("[xsave] skipped\n");
		return;
	}
	with_mask("[xsave] xgetbv without OSXSAVE", xgetbv_, 0, NULL);
	with_mask("[xsave] xsave without OSXSAVE", xsave_, 3, xs);
	write_cr4(read_cr4() | 0x40000);
	check("[xsave] OSXSAVE in CPUID", cpuid(1, 0).c & 1u << 27);
	say("[xsave] XCR0", xgetbv(0));
	with_mask("[xsave] XCR0 without x87", xsetbv_, 2, NULL);
	with_mask("[xsave] XCR0 with bit 30", xsetbv_, 0x40000003, NULL);
	r = regs_user(xsetbv_);
	r.ax = 3;
	guest_run(&r);
	say_trap_kind("[xsave] xsetbv at CPL 3", &r);
	with_mask("[xsave] XCR0 3", xsetbv_, 3, NULL);
	check("[xsave] size", cpuid(0xd, 0).b == 576);
	r = regs_kernel(fx_set);
	guest_run(&r);
	memset(xs, 0xee, 1024);
	memset(bv, 0, 64);
	with_mask("[xsave] xsave 3", xsave_, 3, xs);
	say("[xsave] XSTATE_BV", bv[0]);
	check("[xsave] rest of the header", !bv[1] && !bv[2]);
	say("[xsave] fcw", *(u16 *)xs);
	say("[xsave] mxcsr", *(u32 *)(xs + 24));
	put("[xsave] xmm7 ");
	put_bytes(xs + 160 + 7 * 16, 16);
	put("\n");
	/* Only what is asked for is written. */
	memset(xs, 0xee, 512);
	bv[0] = 0;
	with_mask(NULL, xsave_, 2, xs);
	check("[xsave] x87 left out", xs[0] == 0xee && xs[32] == 0xee);
	check("[xsave] SSE written", *(u32 *)(xs + 24) == 0x1fa0 && xs[160] != 0xee);
	say("[xsave] its XSTATE_BV", bv[0]);
	/* XRSTOR of components that XSTATE_BV lacks initialises them. */
	bv[0] = 2;
	with_mask("[xsave] xrstor, x87 initial", xrstor_, 3, xs);
	fxsave(out.fx);
	say("[xsave] fcw initial", *(u16 *)out.fx);
	say("[xsave] tags initial", out.fx[4]);
	put("[xsave] xmm7 restored ");
	put_bytes(out.fx + 160 + 7 * 16, 16);
	put("\n");
	bv[0] = 0;
	*(u32 *)(xs + 24) = 0x1f80;
	with_mask("[xsave] xrstor, all initial", xrstor_, 3, xs);
	fxsave(out.fx);
	put("[xsave] xmm7 initial ");
	put_bytes(out.fx + 160 + 7 * 16, 16);
	put("\n");
	bv[0] = 0x4000000000000000;
	with_mask("[xsave] xrstor of what XCR0 lacks", xrstor_, 3, xs);
	bv[0] = 3;
	bv[2] = 1;
	with_mask("[xsave] reserved header bytes", xrstor_, 3, xs);
	bv[2] = 0;
	with_mask("[xsave] unaligned", xsave_, 3, xs + 16);
	write_cr4(read_cr4() & ~0x40000ul);
}

/* --- MXCSR --- */

SNIPPET(mx_flags, "movl $0x1f80,scratch; ldmxcsr scratch; movups v_a,%xmm0; xorps %xmm1,%xmm1; "
		  "divps %xmm1,%xmm0\n"
		  "stmxcsr scratch; mov scratch,%eax\n" STOP);
SNIPPET(mx_inexact, "movl $0x1f80,scratch; ldmxcsr scratch; movups v_a,%xmm0; divps v_b,%xmm0\n"
		    "stmxcsr scratch; mov scratch,%eax; movups %xmm0,out_env\n" STOP);
SNIPPET(mx_down, "movl $0x3f80,scratch; ldmxcsr scratch; cvtsd2si v_d+8,%ebx; stmxcsr scratch; mov "
		 "scratch,%eax\n" STOP);
SNIPPET(mx_nan, "movl $0x1f80,scratch; ldmxcsr scratch; xorps %xmm0,%xmm0; divss %xmm0,%xmm0\n"
		"stmxcsr scratch; mov scratch,%eax; movd %xmm0,%ebx\n" STOP);

static void test_mxcsr(void)
{
	struct regs r = try_kernel("divide by zero, masked", mx_flags);

	say("  mxcsr", r.ax);
	r = try_kernel("inexact", mx_inexact);
	say("  mxcsr", r.ax);
	put("  ");
	put_bytes(out_env, 16);
	put("\n");
	r = try_kernel("round down", mx_down);
	say("  mxcsr", r.ax);
	say("  ebx", r.bx);
	r = try_kernel("invalid", mx_nan);
	say("  mxcsr", r.ax);
	say("  xmm0", r.bx);
}

void guest_main(void)
{
	write_cr0((read_cr0() | 0x22) & ~0xcul);
	write_cr4(read_cr4() | 0x600);
	test_x87();
	test_compares();
	test_images();
	test_fxsave();
	test_xsave();
	test_mxcsr();
}
