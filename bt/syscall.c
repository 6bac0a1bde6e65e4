/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT. In long mode Intel has the first pair in 64-bit code only,
 * AMD SYSCALL in 32-bit code, too, but no SYSENTER: user code finds what the host has, natively, so
 * here it is the same. No descriptor is read; the manual fixes what CS and SS become. SDM and APM
 * vol. 2 and 3 under each name.
 */
#include "transfer.h"

#define FLAT_CODE (SEG_P | SEG_S | SEG_CODE | SEG_W | SEG_A | SEG_G)
#define FLAT_DATA (SEG_P | SEG_S | SEG_W | SEG_A | SEG_G | SEG_DB)

/* Flat CS and SS at a level. */
static void load_flat(struct cpu *c, u16 cs, u16 ss, unsigned cpl, bool code64)
{
	u32 dpl = cpl << 5;

	c->seg[SEG_CS] = (struct seg_reg){
	    .limit = 0xffffffff, .sel = cs, .attr = FLAT_CODE | dpl | (code64 ? SEG_L : SEG_DB)};
	c->seg[SEG_SS] = (struct seg_reg){.limit = 0xffffffff, .sel = ss, .attr = FLAT_DATA | dpl};
	c->cpl = cpl;
	cpu_update_mode(c);
}

static void require_syscall(struct cpu *c, bool compat)
{
	if ((c->mode != INSN_MODE_64 && !(compat && cpu_long_mode(c))) || !(c->efer & EFER_SCE))
		cpu_raise(c, EXC_UD);
}

void cpu_syscall(struct cpu *c, u64 next_rip)
{
	u16 cs = c->star >> 32;
	u64 flags;

	require_syscall(c, c->host.syscall32);
	flags = cpu_rflags(c);
	c->gpr[GPR_RCX] = next_rip;
	c->gpr[GPR_R11] = flags & ~(u64)FL_RF;
	c->rip = c->mode == INSN_MODE_64 ? c->lstar : c->cstar;
	cpu_set_rflags(c, flags & ~(c->fmask | FL_RF));
	load_flat(c, cs & ~3u, cs + 8, 0, true);
}

void exec_syscall(struct cpu *c, const struct insn *in)
{
	cpu_syscall(c, insn_next_rip(c, in));
}

/* Intel checks RCX while still at CPL 0. */
void exec_sysret(struct cpu *c, const struct insn *in)
{
	bool code64 = in->opsize == 8;
	u16 base = c->star >> 48;

	require_syscall(c, false);
	if (c->cpl || (code64 && !cpu_canonical(c->gpr[GPR_RCX])))
		cpu_raise_error(c, EXC_GP, 0);
	c->rip = code64 ? c->gpr[GPR_RCX] : (u32)c->gpr[GPR_RCX];
	cpu_set_rflags(c, c->gpr[GPR_R11] & 0x3c7fd7);
	load_flat(c, (code64 ? base + 16 : base) | 3, (base + 8) | 3, 3, code64);
	if (c->sflags & FL_TF) { /* unlike after IRET, the step is over: it began with SYSCALL */
		c->dr[6] |= DR6_BS;
		cpu_raise(c, EXC_DB);
	}
}

static void require_sysenter(struct cpu *c)
{
	if (c->host.syscall32 && cpu_long_mode(c))
		cpu_raise(c, EXC_UD);
	if (!cpu_protected(c) || !(c->sysenter_cs & 0xfffc))
		cpu_raise_error(c, EXC_GP, 0);
}

void exec_sysenter(struct cpu *c, const struct insn *in)
{
	bool lma = cpu_long_mode(c);
	u16 cs = c->sysenter_cs & ~3u;

	(void)in;
	require_sysenter(c);
	c->sflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
	c->gpr[GPR_RSP] = lma ? c->sysenter_esp : (u32)c->sysenter_esp;
	c->rip = lma ? c->sysenter_eip : (u32)c->sysenter_eip;
	load_flat(c, cs, cs + 8, 0, lma);
}

void exec_sysexit(struct cpu *c, const struct insn *in)
{
	bool code64 = in->opsize == 8;
	u16 cs = c->sysenter_cs & ~3u;
	u64 rip = c->gpr[GPR_RDX], rsp = c->gpr[GPR_RCX];

	require_sysenter(c);
	if (c->cpl || (code64 && (!cpu_canonical(rip) || !cpu_canonical(rsp))))
		cpu_raise_error(c, EXC_GP, 0);
	c->rip = code64 ? rip : (u32)rip;
	c->gpr[GPR_RSP] = code64 ? rsp : (u32)rsp;
	cs += code64 ? 32 + 3 : 16 + 3;
	load_flat(c, cs, cs + 8, 3, code64);
}
