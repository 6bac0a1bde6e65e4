/*
 * System calls of 32-bit code: what the host's kernel makes of SYSCALL and SYSENTER is taken back.
 * Both conventions are tried here whatever the host is.
 */
#include "cpu_rig.h"
#include "user_syscall32.h"

#define LANDING  0x57a /* where the host thinks that 32-bit code goes on */
#define SAVED_SP 0xffe01230u
#define SIXTH    0x66u /* what the vDSO has pushed: the sixth argument */

static struct rig *rig_compat(bool amd)
{
	struct rig *r = rig_new();

	rig_long(r, S_CODE32_3, 3);
	r->c.host.syscall32 = amd;
	r->c.rip = LANDING;
	r->c.sflags |= FL_IF;
	r->c.star = (u64)0x23 << 48 | (u64)S_CODE32 << 32;
	r->c.cstar = 0xffffffff81000100ull;
	r->c.fmask = FL_IF;
	r->c.sysenter_cs = S_CODE32;
	r->c.sysenter_eip = 0xffffffff81000200ull;
	r->c.sysenter_esp = 0xfffffe0000003000ull;
	r->c.gpr[GPR_RAX] = 4;
	r->c.gpr[GPR_RBP] = SIXTH;
	return r;
}

/* SYSENTER: the program's EBP is where its ESP was; the kernel finds the sixth argument there. */
Test(user_syscall32, sysenter)
{
	struct rig *r = rig_compat(false);

	r->c.gpr[GPR_RCX] = 0x1111;
	r->c.gpr[GPR_RSP] = SAVED_SP;
	cr_assert(user_syscall32(&r->c));
	cr_expect_eq(r->c.rip, 0xffffffff81000200ull);
	cr_expect_eq(r->c.gpr[GPR_RSP], 0xfffffe0000003000ull);
	cr_expect_eq(r->c.gpr[GPR_RBP], SAVED_SP);
	cr_expect_eq(r->c.gpr[GPR_RCX], 0x1111);
	cr_expect_eq(r->c.gpr[GPR_RAX], 4);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	cr_expect_eq(r->c.sflags & FL_IF, 0);
	rig_free(r);
}

/* SYSCALL: the same with ECX, and ESP stays. */
Test(user_syscall32, syscall)
{
	struct rig *r = rig_compat(true);

	r->c.gpr[GPR_RCX] = 0x1111;
	r->c.gpr[GPR_RSP] = SAVED_SP;
	cr_assert(user_syscall32(&r->c));
	cr_expect_eq(r->c.rip, 0xffffffff81000100ull);
	cr_expect_eq(r->c.gpr[GPR_RSP], SAVED_SP);
	cr_expect_eq(r->c.gpr[GPR_RBP], 0x1111);
	cr_expect_eq(r->c.gpr[GPR_RCX], 0);
	cr_expect_eq(r->c.cpl, 0);
	cr_expect_eq(r->c.mode, INSN_MODE_64);
	rig_free(r);
}

/* INT 0x80 is known by its bytes, behind which the host leaves RIP, at a segment's base, too; in
 * 64-bit mode there is nothing else. */
Test(user_syscall32, int80)
{
	for (unsigned amd = 0; amd < 2; amd++) {
		struct rig *r = rig_compat(amd);

		rig_put(r, RIG_CODE, 2, 0x80cd);
		r->c.rip = RIG_CODE + 2;
		cr_expect_not(user_syscall32(&r->c));
		cr_expect_eq(r->c.rip, RIG_CODE);
		cr_expect_eq(r->c.cpl, 3);
		r->c.seg[SEG_CS].base = RIG_CODE - 0x10;
		r->c.rip = 0x12;
		cr_expect_not(user_syscall32(&r->c));
		cr_expect_eq(r->c.rip, 0x10);
		rig_level(r, S_CODE64_3, 3);
		r->c.rip = RIG_DATA + 2;
		cr_expect_not(user_syscall32(&r->c));
		cr_expect_eq(r->c.rip, RIG_DATA);
		rig_free(r);
	}
}
