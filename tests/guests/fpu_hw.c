/*
 * x87 and SSE details that QEMU TCG does not model: stack overflow and underflow, C1, the denormal
 * flag, quotient bits of FPREM1, exponents after MMX writes, reserved MXCSR bits of FXRSTOR, FTZ
 * and DAZ. SDM vol. 1, 8.1.3, 8.5, 9.5, 10.2.3; vol. 2, the instructions.
 */
#include "lib.h"

asm(".pushsection .bss\n.balign 16\nout_st: .skip 16\nscratch: .skip 64\nfx: .skip "
    "512\n.popsection\n"
    ".pushsection .data\nd_pi: .double 3.141592653589793\nd_denormal: .quad 1\n"
    "i_minus7: .long -7\ni_1000: .long 1000\ni_300: .long 300\nf_half: .float 0.5\n"
    "f_min: .long 0x00800000\nf_denormal: .long 0x00000001\nf_one: .float 1.0\n.popsection\n");
extern u8 out_st[], fx[];

#define CASES(X)                                                                                   \
	X(underflow, "empty operand", "fadd %st(1)\n")                                             \
	X(underflow_store, "empty store", "fstps scratch; fldz\n")                                 \
	X(overflow, "ninth value", "fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fldpi\n")      \
	X(prem, "fprem", "fildl i_300; fildl i_1000; fprem\n")                                     \
	X(prem1, "fprem1", "fildl i_minus7; fildl i_1000; fprem1\n")                               \
	X(round_up, "rounded up", "fldl d_pi; fstps scratch\n")                                    \
	X(denormal, "denormal loaded", "fldl d_denormal\n")
#define X87(name, text, code) SNIPPET(name, "fninit\n" code "fnstsw %ax; fninit\n" STOP);
CASES(X87)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};

SNIPPET(mmx_image, "fninit; mov $0x12345678,%ecx; movd %ecx,%mm3; fstp %st; fstp %st; fstp %st; "
		   "fstpt out_st\n" STOP);
SNIPPET(fx_bad, "fxsave fx; movl $0xffffffff,fx+24; fxrstor fx\n" STOP);
SNIPPET(ftz, "movl $0x9f80,scratch; ldmxcsr scratch; movss f_min,%xmm0; mulss f_half,%xmm0\n"
	     "movd %xmm0,%ebx; stmxcsr scratch; mov scratch,%eax\n" STOP);
SNIPPET(no_ftz, "movl $0x1f80,scratch; ldmxcsr scratch; movss f_min,%xmm0; mulss f_half,%xmm0\n"
		"movd %xmm0,%ebx; stmxcsr scratch; mov scratch,%eax\n" STOP);
SNIPPET(daz, "movl $0x1fc0,scratch; ldmxcsr scratch; movss f_denormal,%xmm0; addss f_one,%xmm0\n"
	     "movd %xmm0,%ebx; stmxcsr scratch; mov scratch,%eax\n" STOP);
SNIPPET(no_daz, "movl $0x1f80,scratch; ldmxcsr scratch; movss f_denormal,%xmm0; addss f_one,%xmm0\n"
		"movd %xmm0,%ebx; stmxcsr scratch; mov scratch,%eax\n" STOP);

static void sse(const char *name, const u8 *code)
{
	struct regs r = regs_kernel(code);

	guest_run(&r);
	say_trap_kind(name, &r);
	say("  xmm0", r.bx);
	say("  mxcsr", r.ax);
}

void guest_main(void)
{
	struct regs r;
	unsigned i;

	write_cr0((read_cr0() | 0x22) & ~0xcul);
	write_cr4(read_cr4() | 0x600);
	for (i = 0; i < COUNT(cases); i++) {
		r = regs_kernel(cases[i].code);
		guest_run(&r);
		put(cases[i].text);
		put(r.vector == STOP_VECTOR ? ":" : ": TRAP");
		say(" sw", r.ax & 0x477f);
	}
	r = regs_kernel(mmx_image);
	ASM("fninit");
	guest_run(&r);
	say("MMX write, mantissa", *(u32 *)out_st);
	say("MMX write, exponent", *(u16 *)(out_st + 8));
	r = regs_kernel(fx_bad);
	guest_run(&r);
	say_trap_kind("reserved MXCSR bits", &r);
	sse("FTZ", ftz);
	sse("no FTZ", no_ftz);
	sse("DAZ", daz);
	sse("no DAZ", no_daz);
}
