/* Descriptors of guest code's own in a space: three in the GDT, and an LDT. */
#define _GNU_SOURCE
#include "space_rig.h"

TestSuite(space_desc, .timeout = 60);

/* Flat, of privilege level 3, accessed, but for the base. */
static u64 data_at(u32 base)
{
	return 0x00cff3000000ffffull | (u64)(base & 0xffffff) << 16 | (u64)(base >> 24) << 56;
}
#define TLS(i)  (u16)((SPACE_TLS_FIRST + (i)) * 8 + 3)
#define LDT(i)  (u16)((i)*8 + 7)
#define FLAT(b) data_at(b)

CODE(reload, ".code32; mov %gs, %edx; mov %gs:0, %ebx; mov %edx, %gs; mov %gs:0, %ecx;"
	     "int $0x80; .code64");

static void start32(struct rig *x)
{
	x->r.cs = SPACE_CS32;
	x->r.ds = x->r.es = 0x2b;
}

/* The selector is seen, the base is that of the run, and of the descriptor once it is loaded. */
Test(space_desc, tls_is_at_its_place)
{
	static const u32 words[] = {0x11111111, 0x22222222};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 4 * SPACE_TLS; i++) {
		u64 raw[SPACE_TLS] = {0};

		raw[i % SPACE_TLS] = FLAT(RIG_DATA + i * 64 + 32);
		rig_code(&x, reload);
		memcpy(x.ram + MIB + 8, &words[0], 4);
		memcpy(x.ram + MIB + i * 64 + 32, &words[1], 4);
		start32(&x);
		space_set_tls(x.sp, raw);
		x.r.gs = TLS(i % SPACE_TLS);
		x.r.gs_base = RIG_DATA + 8;
		rig_run(&x, SPACE_INT80);
		cr_expect_eq(x.r.gpr[RDX], TLS(i % SPACE_TLS));
		cr_expect_eq(x.r.gpr[RBX], words[0]);
		cr_expect_eq(x.r.gpr[RCX], words[1]);
		cr_expect_eq(x.r.gs, TLS(i % SPACE_TLS));
		cr_expect_eq(x.r.gs_base, RIG_DATA + i * 64 + 32);
	}
	rig_close(&x);
}

CODE(attributes, "lar %ax, %ebx; setz %dl; lsl %ax, %esi; setz %dh; syscall");

/* ZF of LAR and LSL, and what they gave. */
static void expect_descriptor(struct rig *x, u16 sel, u64 raw)
{
	u32 limit = (u32)((raw & 0xffff) | (raw >> 32 & 0xf0000));

	if (raw & BIT(55))
		limit = limit << 12 | 0xfff;
	rig_code(x, attributes);
	x->r.gpr[RAX] = sel;
	rig_run(x, SPACE_SYSCALL);
	cr_expect_eq(x->r.gpr[RDX], raw ? 0x101 : 0, "%x", sel);
	if (!raw)
		return;
	cr_expect_eq(x->r.gpr[RBX] & 0xf0ff00, raw >> 32 & 0xf0ff00);
	cr_expect_eq(x->r.gpr[RSI], limit);
}

Test(space_desc, lar_and_lsl_see_the_guests)
{
	static const u64 ldt[] = {0x0040f20000000123ull | 1ull << 40, 0, 0x00cffb000000ffffull,
				  0x000073001000ffffull, 0x0010f1004000ffffull};
	u64 raw[SPACE_TLS] = {FLAT(0), 0, 0x0040f5001000000full};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned round = 0; round < 2; round++) {
		space_set_tls(x.sp, raw);
		for (unsigned i = 0; i < SPACE_TLS; i++)
			expect_descriptor(&x, TLS(i), raw[i]);
		raw[0] = 0;
		raw[1] = FLAT(0x12345000);
	}
	cr_assert_eq(space_set_ldt(x.sp, 3, ldt, ARRAY_LEN(ldt)), 0);
	for (unsigned i = 0; i < ARRAY_LEN(ldt); i++) {
		cr_expect_eq(space_descriptor(x.sp, LDT(3 + i)), ldt[i]);
		expect_descriptor(&x, LDT(3 + i), ldt[i]);
	}
	cr_assert_eq(space_set_ldt(x.sp, 4, ldt, 3), 0);
	expect_descriptor(&x, LDT(3), ldt[0]);
	expect_descriptor(&x, LDT(5), 0);
	expect_descriptor(&x, LDT(6), ldt[2]);
	rig_close(&x);
}

/* What the host would not take is not there, and no run is made with it. */
Test(space_desc, what_cannot_be_is_refused)
{
	static const u64 bad[] = {
	    0x00cf93000000ffffull, /* privilege level 0 */
	    0x00cff2000000ffffull, /* not accessed */
	    0x00cf73000000ffffull, /* not present */
	    0x00cffb000000ffffull, /* code */
	    0x008ff3000000ffffull, /* of 16 bits */
	    0x0000e2000000ffffull, /* a system segment */
	};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		u64 raw[SPACE_TLS] = {bad[i]};

		space_set_tls(x.sp, raw);
		cr_expect_eq(space_descriptor(x.sp, TLS(0)), 0);
		expect_descriptor(&x, TLS(0), 0);
		x.r.gs = TLS(0);
		cr_expect_eq(space_run(x.sp, &x.r, &x.stop, &x.ex), -EINVAL);
	}
	rig_close(&x);
}

CODE(far, "mov %eax, %ss; ljmp *(%rsi); .code32; into; .code64");

/* Guest code goes to a segment of its own: CS and SS come back as they are. */
Test(space_desc, code_and_stack_in_the_ldt)
{
	const u64 ldt[] = {FLAT(0x1000), 0x00cffa000000ffffull | 1ull << 40 | (u64)0x100000 << 16};
	struct rig x;

	if (!rig_open(&x))
		return;
	cr_assert_eq(space_set_ldt(x.sp, 0, ldt, ARRAY_LEN(ldt)), 0);
	rig_code(&x, far);
	*(u32 *)(x.ram + MIB) = RIG_CODE - 0x100000 + 4;
	*(u16 *)(x.ram + MIB + 4) = LDT(1);
	x.r.gpr[RSI] = RIG_DATA;
	x.r.gpr[RAX] = LDT(0);
	x.r.rflags |= 0x800;
	rig_run(&x, SPACE_FAULT);
	cr_expect_eq(x.ex.vector, 4);
	cr_expect_eq(x.r.cs, LDT(1));
	cr_expect_eq(x.r.ss, LDT(0));
	cr_expect_eq(x.r.rip, RIG_CODE - 0x100000 + 5);
	rig_close(&x);
}

/* A space that had descriptors does not show them to its next owner. */
Test(space_desc, nothing_is_left)
{
	const u64 raw[SPACE_TLS] = {FLAT(0), FLAT(0x1000), FLAT(0x2000)};
	struct rig x;

	if (!rig_open(&x))
		return;
	for (unsigned i = 0; i < 4; i++) {
		space_set_tls(x.sp, raw);
		if (i & 1)
			cr_assert_eq(space_set_ldt(x.sp, 0, raw, 1), 0);
		expect_descriptor(&x, TLS(1), raw[1]);
		space_put(x.sp);
		x.sp = space_get(x.pool, 0);
		cr_assert_not_null(x.sp);
		expect_descriptor(&x, TLS(1), 0);
		expect_descriptor(&x, LDT(0), 0);
	}
	rig_close(&x);
}
