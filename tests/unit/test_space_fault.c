/*
 * Exceptions in a space: vector, error code, CR2 and the registers are those of the processor; and
 * what 32-bit code, single-stepping and the vector state look like from outside.
 */
#define _GNU_SOURCE

#include "space_rig.h"

TestSuite(space_fault, .timeout = 60);

CODE(int3, "int3; nop");
CODE(ud2, "ud2");
CODE(div0, "xor %ecx, %ecx; div %ecx");
CODE(hlt, "hlt");
CODE(int21, "int $0x21");
CODE(noncanonical, "mov (%rsi), %eax");
CODE(stack, "push %rax");
CODE(align, "pushfq; orl $0x40000, (%rsp); popfq; mov 1(%rsi), %eax");
CODE(x87, "fninit; fldcw (%rsi); fldz; fld1; fdivp; fwait; nop");
CODE(sse, "ldmxcsr (%rsi); xorps %xmm0, %xmm0; divss %xmm0, %xmm0");
CODE(execute, "jmp *%rsi");
CODE(kernel_read, "mov (%rsi), %eax");
CODE(segment, "mov %esi, %ds");
CODE(vsyscall, "call *%rsi; nop");

static const struct {
	const char *name;
	const u8 *code, *end;
	u64 rsi;
	u32 data; /* at RIG_DATA */
	u8 vector;
	u32 error;
	u64 cr2, rip; /* rip: offset */
} cases[] = {
#define CASE(name, ...)                                                                            \
	{                                                                                          \
#name, code_##name, code_##name##_end, __VA_ARGS__                                 \
	}
    CASE(int3, 0, 0, 3, 0, 0, 1),
    CASE(ud2, 0, 0, 6, 0, 0, 0),
    CASE(div0, 0, 0, 0, 0, 0, 2),
    CASE(hlt, 0, 0, 13, 0, 0, 0),
    CASE(int21, 0, 0, 13, 0x21 * 8 + 2, 0, 0),
    CASE(noncanonical, 0x800000000000, 0, 13, 0, 0, 0),
    CASE(align, RIG_DATA, 0, 17, 0, 0, 9),
    CASE(x87, RIG_DATA, 0x37b, 16, 0, 0, 10), /* zero divide unmasked */
    CASE(sse, RIG_DATA, 0x1f00, 19, 0, 0, 6), /* invalid unmasked */
    CASE(execute, RIG_DATA, 0, 14, 0x15, RIG_DATA, RIG_DATA - RIG_CODE),
    CASE(execute, 0x123456789000, 0, 14, 0x14, 0x123456789000, 0x123456789000 - RIG_CODE),
    CASE(segment, 0x1234, 0, 13, 0x1234, 0, 0),
    CASE(vsyscall, 0xffffffffff600000, 0, 14, 0x14, 0xffffffffff600000,
	 0xffffffffff600000 - RIG_CODE),
};

Test(space_fault, every_vector)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		rig_put_code(&x, cases[i].code, cases[i].end - cases[i].code);
		memcpy(x.ram + MIB, &cases[i].data, 4);
		x.r.gpr[RSI] = cases[i].rsi;
		x.r.gpr[RAX] = 1;
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, cases[i].vector, "%s %u: vector %u", cases[i].name, i,
			     x.ex.vector);
		cr_expect_eq(x.ex.error & ~(cases[i].vector == 14 ? 1u : 0u),
			     cases[i].error & ~(cases[i].vector == 14 ? 1u : 0u),
			     "%s %u: error %#x", cases[i].name, i, x.ex.error);
		cr_expect_eq(x.ex.cr2, cases[i].cr2, "%s", cases[i].name);
		cr_expect_eq(x.r.rip - RIG_CODE, cases[i].rip, "%s %u: rip %#llx", cases[i].name, i,
			     (unsigned long long)x.r.rip);
		cr_expect_eq(x.ex.dr6, 0);
	}
	rig_close(&x);
}

/* A stack access that is not canonical, and one to a kernel address. */
Test(space_fault, stack_and_kernel_addresses)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, stack);
	x.r.gpr[RSP] = 0x800000001000;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 12);
	cr_expect_eq(x.ex.error, 0);
	rig_code(&x, kernel_read);
	x.r.gpr[RSI] = 0xffff888000001000;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 14);
	cr_expect_eq(x.ex.error & ~1u, 4);
	cr_expect_eq(x.ex.cr2, 0xffff888000001000);
	rig_close(&x);
}

/* The host's emulation of vsyscalls would have returned to the caller: the stack says it did not.
 */
Test(space_fault, vsyscall_is_a_page_fault_at_its_address)
{
	struct rig x;

	if (!rig_open(&x))
		return;
	rig_code(&x, vsyscall);
	x.r.gpr[RSI] = 0xffffffffff600400;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 14);
	cr_expect_eq(x.r.rip, 0xffffffffff600400);
	cr_expect_eq(x.r.gpr[RSP], RIG_STACK - 8);
	rig_close(&x);
}

CODE(steps, "inc %rax; inc %rax; pushfq; popq %rbx; syscall");

Test(space_fault, trap_flag_steps_one_instruction)
{
	struct rig x;
	static const u64 rip[] = {3, 6, 7, 8};

	if (!rig_open(&x))
		return;
	rig_code(&x, steps);
	x.r.rflags |= 0x100;
	for (unsigned i = 0; i < ARRAY_LEN(rip); i++) {
		rig_run(&x, SPACE_FAULT);
		cr_expect_eq(x.ex.vector, 1);
		cr_expect_eq(x.ex.dr6, 0x4000);
		cr_expect_eq(x.r.rip, RIG_CODE + rip[i]);
		cr_expect_eq(x.r.rflags & 0x100, 0x100);
	}
	cr_expect_eq(x.r.gpr[RAX], 2);
	x.r.rflags &= ~0x100ull;
	rig_run(&x, SPACE_SYSCALL);
	rig_close(&x);
}

CODE(int80_64, "int $0x80; nop");
CODE(compat, ".code32; mov %gs:0x10, %ebx; mov (%esp), %ecx; inc %eax; int $0x80; inc %eax;"
	     "int $0x80; into; nop; .code64");

Test(space_fault, thirty_two_bit_code)
{
	struct rig x;
	u32 tls = 0x11223344, on_stack = 0x55667788;

	if (!rig_open(&x))
		return;
	rig_code(&x, int80_64);
	x.r.gpr[RAX] = 20;
	x.r.gpr[R8] = ~0ull;
	rig_run(&x, SPACE_INT80);
	cr_expect_eq(x.r.gpr[RAX], 20);
	cr_expect_eq(x.r.gpr[R8], ~0ull);
	cr_expect_eq(x.r.rip, RIG_CODE + 2);

	rig_code(&x, compat);
	memcpy(x.ram + MIB + 0x110, &tls, 4);
	memcpy(x.ram + MIB + 0xf000, &on_stack, 4);
	x.r.cs = SPACE_CS32;
	x.r.ds = x.r.es = 0x2b;
	x.r.gs = 0x2b; /* with a base */
	x.r.gs_base = RIG_DATA + 0x100;
	x.r.gpr[RAX] = 3;
	rig_run(&x, SPACE_INT80);
	cr_expect_eq(x.r.gpr[RAX], 4);
	cr_expect_eq(x.r.gpr[RBX], tls);
	cr_expect_eq(x.r.gpr[RCX], on_stack);
	cr_expect_eq(x.r.cs, SPACE_CS32);
	cr_expect_eq(x.r.gs, 0x2b);
	cr_expect_eq(x.r.gs_base, RIG_DATA + 0x100);
	cr_expect_eq(x.r.ds, 0x2b);
	rig_run(&x, SPACE_INT80);
	cr_expect_eq(x.r.gpr[RAX], 5);
	x.r.rflags |= 0x800;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 4);
	rig_close(&x);
}

CODE(vectors, "movdqu (%rsi), %xmm5; paddd %xmm5, %xmm6; fld1; ldmxcsr 16(%rsi); syscall;"
	      "movdqu %xmm6, 32(%rsi); stmxcsr 48(%rsi); fstpl 56(%rsi); syscall");
CODE(ymm, "vmovdqu (%rsi), %ymm7; syscall; vmovdqu %ymm7, 64(%rsi); syscall");

#define XMM(image, n) ((u32 *)((u8 *)(image) + 160 + 16 * (n)))

Test(space_fault, vector_state_round_trip)
{
	struct rig x;
	u8 image[8192] __attribute__((aligned(64)));
	u32 *data, mxcsr = 0x1fa0;
	double one;

	if (!rig_open(&x))
		return;
	rig_code(&x, vectors);
	data = (u32 *)(x.ram + MIB);
	x.r.gpr[RSI] = RIG_DATA;
	for (unsigned i = 0; i < 4; i++)
		data[i] = 0x1000 + i;
	data[4] = mxcsr;
	cr_assert_leq(space_xsave_size(x.pool), sizeof(image));
	space_xsave_read(x.sp, image); /* a new space: everything as after reset */
	cr_expect_eq(*(u16 *)image, 0x37f);
	cr_expect_eq(*(u32 *)(image + 24), 0x1f80);
	for (unsigned i = 0; i < 4; i++)
		XMM(image, 6)[i] = 0x20000;
	*(u64 *)(image + 512) |= 2;
	space_xsave_write(x.sp, image);
	rig_run(&x, SPACE_SYSCALL);
	space_xsave_read(x.sp, image);
	cr_expect_eq(XMM(image, 6)[3], 0x21003);
	cr_expect_eq(*(u32 *)(image + 24), mxcsr);
	asm volatile("xrstor64 %0"
		     :
		     : "m"(image), "a"((u32)space_xsave_mask(x.pool)), "d"(0)
		     : "memory"); /* what read gives can be loaded */
	asm volatile("fninit; ldmxcsr %0" : : "m"((u32){0x1f80}));
	XMM(image, 6)[0] = 7;
	space_xsave_write(x.sp, image);
	rig_run(&x, SPACE_SYSCALL);
	cr_expect_eq(data[8], 7);
	cr_expect_eq(data[11], 0x21003);
	cr_expect_eq(data[12], mxcsr);
	memcpy(&one, data + 14, 8);
	cr_expect_eq(one, 1.0);
	if (space_xsave_mask(x.pool) & 4) {
		rig_code(&x, ymm);
		x.r.gpr[RSI] = RIG_DATA;
		data[7] = 0xabcdef;
		rig_run(&x, SPACE_SYSCALL);
		rig_run(&x, SPACE_SYSCALL);
		cr_expect_eq(data[16 + 7], 0xabcdef);
	}
	rig_close(&x);
}

/* Any image at all is taken, and guest code runs on. */
Test(space_fault, images_that_xrstor_would_refuse)
{
	struct rig x;
	u8 image[8192];

	if (!rig_open(&x))
		return;
	rig_code(&x, ud2);
	for (unsigned i = 0; i < 200; i++) {
		for (unsigned j = 0; j < sizeof(image); j++)
			image[j] = i == 0 ? 0xff : rand() >> 7;
		space_xsave_write(x.sp, image);
		rig_run(&x, SPACE_FAULT);
		cr_assert_eq(x.ex.vector, 6);
		cr_assert_eq(x.r.rip, RIG_CODE);
	}
	rig_close(&x);
}
