/*
 * Instructions that 64-bit mode lacks: decimal arithmetic and ARPL against the host in its 32-bit
 * mode, every input; frames, BOUND and PUSHA by hand.
 */
#include "compat_mode.h"
#include "cpu_rig.h"

/* Flags that the manual defines after an instruction. The others differ between processors. */
static u32 bcd_defined_flags(u8 opcode)
{
	switch (opcode) {
	case 0x27: /* daa, das */
	case 0x2f: return FL_ARITH & ~FL_OF;
	case 0x37: /* aaa, aas */
	case 0x3f: return FL_CF | FL_AF;
	case 0xd4: /* aam, aad */
	case 0xd5: return FL_SF | FL_ZF | FL_PF;
	default: return FL_ARITH;
	}
}

static void bcd_like_the_host(const u8 *bytes, size_t n, u32 from, u32 to, u32 step)
{
	struct rig *r = rig_new();
	struct compat m;
	struct insn in;
	u32 ax, f, defined = bcd_defined_flags(bytes[0]);

	if (!compat_open(&m))
		cr_skip_test("no 32-bit code segment on this host");
	rig_protected(r, 0);
	compat_load(&m, bytes, n);
	cr_assert_eq(decoder_decode(r->decoder, bytes, n, INSN_MODE_32, &in), (int)n);
	for (ax = from; ax <= to; ax += step) {
		for (f = 0; f < 8; f++) {
			u32 eax = ax | 0xabcd0000, ebx = 0, flags = FL_FIXED1 | 0x200;

			flags |= (f & 1 ? FL_CF : 0) | (f & 2 ? FL_AF : 0);
			flags |= f & 4 ? FL_OF | FL_SF | FL_ZF | FL_PF : 0;
			r->c.rip = RIG_CODE;
			r->c.gpr[GPR_RAX] = eax;
			cpu_set_rflags(&r->c, flags);
			exec_bcd(&r->c, &in);
			compat_run(&m, &eax, &ebx, &flags);
			cr_assert_eq(r->c.rip, RIG_CODE + n);
			cr_assert_eq(r->c.gpr[GPR_RAX], eax, "%02x of %04x: %08llx, host %08x",
				     bytes[0], ax, (unsigned long long)r->c.gpr[GPR_RAX], eax);
			cr_assert_eq(cpu_rflags(&r->c) & defined, flags & defined,
				     "%02x of %04x: flags %03llx, host %03x", bytes[0], ax,
				     (unsigned long long)(cpu_rflags(&r->c) & defined),
				     (unsigned)(flags & defined));
		}
	}
	compat_close(&m);
	rig_free(r);
}

Test(legacy, daa_das)
{
	bcd_like_the_host((const u8[]){0x27}, 1, 0, 0x1ff, 1);
	bcd_like_the_host((const u8[]){0x2f}, 1, 0, 0x1ff, 1);
}

Test(legacy, aaa_aas)
{
	bcd_like_the_host((const u8[]){0x37}, 1, 0, 0xffff, 7);
	bcd_like_the_host((const u8[]){0x3f}, 1, 0, 0xffff, 7);
}

Test(legacy, aam)
{
	bcd_like_the_host((const u8[]){0xd4, 10}, 2, 0, 0x1ff, 1);
	bcd_like_the_host((const u8[]){0xd4, 1}, 2, 0, 0x1ff, 1);
	bcd_like_the_host((const u8[]){0xd4, 0xc9}, 2, 0, 0x1ff, 1);
}

Test(legacy, aad)
{
	bcd_like_the_host((const u8[]){0xd5, 10}, 2, 0, 0xffff, 5);
	bcd_like_the_host((const u8[]){0xd5, 0x53}, 2, 0, 0xffff, 7);
	bcd_like_the_host((const u8[]){0xd5, 0}, 2, 0, 0xffff, 11);
}

Test(legacy, aam_by_zero)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.gpr[GPR_RAX] = 0x1234;
	cr_assert_eq(RIG_EXEC(r, exec_bcd, 0xd4, 0), EXC_DE);
	cr_assert_eq(r->c.gpr[GPR_RAX], 0x1234);
	cr_assert_eq(r->c.rip, RIG_CODE);
	rig_free(r);
}

Test(legacy, salc)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.gpr[GPR_RAX] = 0x1234;
	cpu_set_rflags(&r->c, FL_CF | FL_OF);
	cr_assert_eq(RIG_EXEC(r, exec_bcd, 0xd6), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 0x12ff);
	cr_assert_eq(cpu_rflags(&r->c) & FL_ARITH, FL_CF | FL_OF);
	cpu_set_rflags(&r->c, FL_OF);
	cr_assert_eq(RIG_EXEC(r, exec_bcd, 0xd6), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 0x1200);
	rig_free(r);
}

Test(legacy, arpl_like_the_host)
{
	const u8 bytes[] = {0x63, 0xd8}; /* arpl ax, bx */
	struct rig *r = rig_new();
	struct compat m;
	unsigned i;

	if (!compat_open(&m))
		cr_skip_test("no 32-bit code segment on this host");
	rig_protected(r, 0);
	compat_load(&m, bytes, 2);
	for (i = 0; i < 32; i++) {
		u32 eax = 0xffff1230 | (i & 3), ebx = 0x4560 | (i >> 2 & 3),
		    flags = FL_FIXED1 | 0x200;

		flags |= i & 16 ? FL_ARITH : 0;
		r->c.gpr[GPR_RAX] = eax;
		r->c.gpr[GPR_RBX] = ebx;
		cpu_set_rflags(&r->c, flags);
		cr_assert_eq(rig_exec(r, exec_arpl, bytes, 2), RIG_OK);
		compat_run(&m, &eax, &ebx, &flags);
		cr_assert_eq(r->c.gpr[GPR_RAX], eax);
		cr_assert_eq(cpu_rflags(&r->c) & FL_ARITH, flags & FL_ARITH);
	}
	compat_close(&m);
	rig_free(r);
}

Test(legacy, arpl_in_memory_and_in_real_mode)
{
	struct rig *r = rig_new();

	cr_assert_eq(RIG_EXEC(r, exec_arpl, 0x63, 0xd8), EXC_UD);
	rig_protected(r, 0);
	rig_put(r, RIG_DATA, 4, 0xaaaa1230);
	r->c.gpr[GPR_RBX] = 2;
	r->c.gpr[GPR_RDI] = RIG_DATA;
	cr_assert_eq(RIG_EXEC(r, exec_arpl, 0x63, 0x1f), RIG_OK);
	cr_assert_eq(rig_get(r, RIG_DATA, 4), 0xaaaa1232);
	/* Nothing to change, but the operand must be writable all the same. */
	rig_segment(r, SEG_DS, S_READONLY);
	cr_assert_eq(RIG_EXEC(r, exec_arpl, 0x63, 0x1f), EXC_GP);
	rig_free(r);
}

static unsigned bound(struct rig *r, u32 index, u32 low, u32 high)
{
	rig_put(r, RIG_DATA, 4, low);
	rig_put(r, RIG_DATA + 4, 4, high);
	r->c.gpr[GPR_RAX] = index;
	r->c.gpr[GPR_RDI] = RIG_DATA;
	return RIG_EXEC(r, exec_bound, 0x62, 0x07);
}

Test(legacy, bound)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	cr_assert_eq(bound(r, 5, 5, 9), RIG_OK);
	cr_assert_eq(bound(r, 9, 5, 9), RIG_OK);
	cr_assert_eq(bound(r, 10, 5, 9), EXC_BR);
	cr_assert_eq(bound(r, 4, 5, 9), EXC_BR);
	cr_assert_eq(bound(r, -1u, -2u, 3), RIG_OK); /* signed */
	cr_assert_eq(bound(r, 0x80000000, 0, 3), EXC_BR);
	rig_put(r, RIG_DATA, 4, 0x0005fffe); /* 16-bit: -2 to 5 */
	r->c.gpr[GPR_RAX] = 0x1234ffff;
	cr_assert_eq(RIG_EXEC(r, exec_bound, 0x66, 0x62, 0x07), RIG_OK);
	r->c.gpr[GPR_RAX] = 6;
	cr_assert_eq(RIG_EXEC(r, exec_bound, 0x66, 0x62, 0x07), EXC_BR);
	rig_free(r);
}

/* --- frames --- */

static void enter_like_the_host(u16 locals, u8 level)
{
	/* mov ebp, esp-ish frames: push 8 known words, lea ebp, [esp+16], enter, keep esp and ebp
	 * relative to the start in eax and ebx, then unwind. */
	const u8 code[] = {
	    0x89, 0xe1,                                                /* mov ecx, esp */
	    0x68, 1,          0,           0,     0, 0x68, 2, 0, 0, 0, /* push 1; push 2 */
	    0x68, 3,          0,           0,     0, 0x68, 4, 0, 0, 0, /* push 3; push 4 */
	    0x89, 0xe5,                                                /* mov ebp, esp */
	    0x83, 0xc5,       0x10,                                    /* add ebp, 16 */
	    0xc8, (u8)locals, locals >> 8, level,                      /* enter */
	    0x89, 0xe0,       0x29,        0xc8, /* mov eax, esp; sub eax, ecx */
	    0x89, 0xeb,       0x29,        0xcb, /* mov ebx, ebp; sub ebx, ecx */
	    0x89, 0xcc};                         /* mov esp, ecx */
	struct rig *r = rig_new();
	u32 eax = 0, ebx = 0, flags = FL_FIXED1 | 0x200, i;
	struct compat m;

	if (!compat_open(&m))
		cr_skip_test("no 32-bit code segment on this host");
	compat_load(&m, code, sizeof(code));
	compat_run(&m, &eax, &ebx, &flags);
	rig_protected(r, 0);
	for (i = 1; i <= 4; i++)
		rig_put(r, RIG_STACK - 4 * i, 4, i);
	r->c.gpr[GPR_RSP] = RIG_STACK - 16;
	r->c.gpr[GPR_RBP] = RIG_STACK;
	cr_assert_eq(RIG_EXEC(r, exec_enter, 0xc8, (u8)locals, locals >> 8, level), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RSP] - RIG_STACK, (u64)(s32)eax, "level %u", level);
	cr_assert_eq(r->c.gpr[GPR_RBP] - RIG_STACK, (u64)(s32)ebx, "level %u", level);
	/* The copied frame pointers: values but for those that are addresses on each one's stack.
	 */
	for (i = 5; i < 5u + (level & 31); i++) {
		u32 host, guest = rig_get(r, RIG_STACK - 4 * i, 4);

		memcpy(&host, m.page + 4096 - 4 * i, 4);
		if (guest >= 0x1000)
			guest -= RIG_STACK, host -= (u32)(u64)m.page + 4096;
		cr_assert_eq(guest, host, "level %u, word %u", level, i);
	}
	compat_close(&m);
	rig_free(r);
}

Test(legacy, enter)
{
	enter_like_the_host(0x20, 0);
	enter_like_the_host(0x20, 1);
	enter_like_the_host(0, 2);
	enter_like_the_host(0x10, 4);
	enter_like_the_host(0x10, 35); /* modulo 32 */
}

Test(legacy, enter_faults_before_it_moves_registers)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.seg[SEG_SS].limit = RIG_STACK - 1;
	r->c.gpr[GPR_RSP] = 0x40;
	r->c.gpr[GPR_RBP] = 0x1234;
	cr_assert_eq(RIG_EXEC(r, exec_enter, 0xc8, 0x80, 0, 0), EXC_SS); /* below 0 */
	cr_assert_eq(r->c.gpr[GPR_RSP], 0x40);
	cr_assert_eq(r->c.gpr[GPR_RBP], 0x1234);
	rig_free(r);
}

Test(legacy, leave)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	rig_put(r, RIG_STACK - 0x20, 4, 0xcafe);
	r->c.gpr[GPR_RBP] = RIG_STACK - 0x20;
	cr_assert_eq(RIG_EXEC(r, exec_leave, 0xc9), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RSP], RIG_STACK - 0x1c);
	cr_assert_eq(r->c.gpr[GPR_RBP], 0xcafe);
	/* A 16-bit stack under 32-bit code keeps the upper half of ESP. */
	rig_segment(r, SEG_SS, S_DATA16);
	r->c.gpr[GPR_RSP] = 0xdead1000;
	r->c.gpr[GPR_RBP] = 0xbeef0000 | (RIG_STACK - 0x20);
	cr_assert_eq(RIG_EXEC(r, exec_leave, 0xc9), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RSP], 0xdead0000 | (RIG_STACK - 0x1c));
	rig_free(r);
}

Test(legacy, pusha_popa)
{
	struct rig *r = rig_new();
	unsigned i;

	rig_protected(r, 0);
	for (i = 0; i < 8; i++)
		if (i != GPR_RSP)
			r->c.gpr[i] = 0x1000 + i;
	cr_assert_eq(RIG_EXEC(r, exec_pusha, 0x60), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RSP], RIG_STACK - 32);
	for (i = 0; i < 8; i++)
		cr_assert_eq(rig_get(r, RIG_STACK - 4 - 4 * i, 4),
			     i == GPR_RSP ? RIG_STACK : 0x1000 + i);
	for (i = 0; i < 8; i++)
		if (i != GPR_RSP)
			r->c.gpr[i] = 0;
	cr_assert_eq(RIG_EXEC(r, exec_popa, 0x61), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RSP], RIG_STACK);
	for (i = 0; i < 8; i++)
		if (i != GPR_RSP)
			cr_assert_eq(r->c.gpr[i], 0x1000 + i);
	rig_free(r);
}

Test(legacy, pusha_that_does_not_fit_pushes_nothing)
{
	struct rig *r = rig_new();

	rig_protected(r, 0);
	r->c.gpr[GPR_RSP] = 0x18;
	r->c.seg[SEG_SS].limit = 0xffff;
	rig_put(r, 0, 8, 0x5555);
	cr_assert_eq(RIG_EXEC(r, exec_pusha, 0x60), EXC_SS);
	cr_assert_eq(r->c.gpr[GPR_RSP], 0x18);
	cr_assert_eq(rig_get(r, 0, 8), 0x5555);
	rig_free(r);
}
