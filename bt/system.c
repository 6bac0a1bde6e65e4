/*
 * Sensitive instructions other than segment loads, far transfers and extended state: what reads or
 * writes the processor's own registers, ports and interrupt flag. Control and debug registers have
 * a file of their own, control_regs.c.
 */
#include "control_regs.h"

#include <string.h>

#include "bt_run.h"
#include "io.h"
#include "mem.h"
#include "op.h"

static void require_cpl0(struct cpu *c)
{
	if (c->cpl)
		cpu_raise_error(c, EXC_GP, 0);
}

static void next(struct cpu *c, const struct insn *in)
{
	c->rip = insn_next_rip(c, in);
}

/* --- ports --- */

static void exec_in_out(struct cpu *c, const struct insn *in)
{
	unsigned size = !(in->opcode & 1) ? 1 : in->opsize == 2 ? 2 : 4;
	u16 port = in->opcode & 8 ? (u16)c->gpr[GPR_RDX] : (u8)in->imm;

	io_check(c, port, size);
	if (in->opcode & 2) {
		c->stats->n[STAT_pio_writes]++;
		next(c, in); /* the write may reset us: RIP is then the device's business */
		c->ops->port_write(c->vm, port, size, reg_read(c, GPR_RAX, size, true));
		return;
	}
	c->stats->n[STAT_pio_reads]++;
	reg_write(c, GPR_RAX, size, true, c->ops->port_read(c->vm, port, size));
	next(c, in);
}

/* --- flags --- */

static void check_iopl(struct cpu *c)
{
	if (cpu_protected(c) && cpu_iopl(c) < c->cpl)
		cpu_raise_error(c, EXC_GP, 0);
}

static void exec_cli_sti(struct cpu *c, const struct insn *in)
{
	check_iopl(c);
	if (in->opcode == 0xfa) {
		c->sflags &= ~(u64)FL_IF;
	} else {
		if (!(c->sflags & FL_IF))
			c->shadow = SHADOW_STI; /* one instruction before interrupts */
		c->sflags |= FL_IF;
		cpu_update_slow(c);
	}
	next(c, in);
}

static void exec_pushf(struct cpu *c, const struct insn *in)
{
	if (cpu_v86(c))
		check_iopl(c);
	stack_push(c, in->opsize, cpu_rflags(c) & ~(u64)(FL_VM | FL_RF));
	next(c, in);
}

static void exec_popf(struct cpu *c, const struct insn *in)
{
	u64 writable = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID | FL_IOPL | FL_IF, old, v;

	if (cpu_v86(c))
		check_iopl(c);
	if (cpu_protected(c)) {
		if (c->cpl)
			writable &= ~(u64)FL_IOPL;
		if (c->cpl > cpu_iopl(c))
			writable &= ~(u64)FL_IF;
	}
	if (in->opsize == 2)
		writable &= 0xffff;
	v = stack_pop(c, in->opsize);
	old = cpu_rflags(c) & ~(u64)FL_RF;
	cpu_set_rflags(c, (old & ~writable) | (v & writable));
	next(c, in);
	if ((old ^ v) & FL_AC)
		cpu_update_mode(c);
	else
		cpu_update_slow(c);
}

/* --- interrupts --- */

static void exec_int(struct cpu *c, const struct insn *in)
{
	switch (in->opcode) {
	case 0xcc: cpu_raise_soft(c, EXC_BP, insn_next_rip(c, in));
	case 0xcd:
		if (cpu_v86(c))
			check_iopl(c);
		cpu_raise_soft(c, (u8)in->imm, insn_next_rip(c, in));
	case 0xce:
		if (c->aflags & FL_OF)
			cpu_raise_soft(c, EXC_OF, insn_next_rip(c, in));
		next(c, in);
		break;
	default: /* INT1: a trap, without the privilege check of INT n */
		next(c, in);
		/* What a MOV SS before it has held back comes with it. A #DB of its own would hit
		 * the handler's first instruction and, with an IST, the frame. */
		c->dr[6] |= c->debug_held;
		c->debug_held = 0;
		cpu_raise(c, EXC_DB);
	}
}

static void exec_hlt(struct cpu *c, const struct insn *in)
{
	require_cpl0(c);
	c->stats->n[STAT_halts]++;
	c->halted = true;
	cpu_update_slow(c);
	next(c, in);
}

/* --- MSRs, time, identification --- */

static void set_edx_eax(struct cpu *c, u64 v)
{
	c->gpr[GPR_RAX] = (u32)v;
	c->gpr[GPR_RDX] = v >> 32;
}

static void exec_rdmsr(struct cpu *c, const struct insn *in)
{
	u64 v = 0;

	require_cpl0(c);
	c->stats->n[STAT_msr_reads]++;
	if (c->ops->msr_read(c->vm, (u32)c->gpr[GPR_RCX], &v))
		cpu_raise_error(c, EXC_GP, 0);
	set_edx_eax(c, v);
	next(c, in);
}

static void exec_wrmsr(struct cpu *c, const struct insn *in)
{
	u64 v = c->gpr[GPR_RDX] << 32 | (u32)c->gpr[GPR_RAX];

	require_cpl0(c);
	c->stats->n[STAT_msr_writes]++;
	if (c->ops->msr_write(c->vm, (u32)c->gpr[GPR_RCX], v))
		cpu_raise_error(c, EXC_GP, 0);
	cpu_forget_cpuid(c); /* IA32_APIC_BASE */
	next(c, in);
}

static void exec_rdtsc(struct cpu *c, const struct insn *in, bool aux)
{
	if ((c->cr4 & CR4_TSD) && c->cpl)
		cpu_raise_error(c, EXC_GP, 0);
	set_edx_eax(c, c->ops->tsc(c->vm));
	if (aux)
		c->gpr[GPR_RCX] = (u32)c->tsc_aux;
	next(c, in);
}

static void exec_cpuid(struct cpu *c, const struct insn *in)
{
	u32 out[4], leaf = (u32)c->gpr[GPR_RAX], subleaf = (u32)c->gpr[GPR_RCX];
	struct cpuid_answer *a;

	c->stats->n[STAT_cpuids]++;
	c->ops->cpuid(c->vm, leaf, subleaf, out);
	a = &c->bt.cpuid[(leaf + subleaf) % CPUID_ANSWERS];
	a->asked = leaf | (u64)subleaf << 32;
	memcpy(a->out, out, sizeof(a->out));
	c->gpr[GPR_RAX] = out[0];
	c->gpr[GPR_RBX] = out[1];
	c->gpr[GPR_RCX] = out[2];
	c->gpr[GPR_RDX] = out[3];
	next(c, in);
}

static void exec_hypercall(struct cpu *c, const struct insn *in)
{
	const u64 args[4] = {c->gpr[GPR_RBX], c->gpr[GPR_RCX], c->gpr[GPR_RDX], c->gpr[GPR_RSI]};
	unsigned size = in->mode == INSN_MODE_64 ? 8 : 4;
	u64 ret;

	/* KVM's convention: not for user mode (-EPERM). */
	ret = c->cpl ? (u64)-1 : c->ops->hypercall(c->vm, c->gpr[GPR_RAX], args);
	reg_write(c, GPR_RAX, size, true, ret);
	next(c, in);
}

/* --- segment bases --- */

static void exec_swapgs(struct cpu *c, const struct insn *in)
{
	u64 base = c->seg[SEG_GS].base;

	if (in->mode != INSN_MODE_64)
		cpu_raise(c, EXC_UD);
	require_cpl0(c);
	c->seg[SEG_GS].base = c->kernel_gs_base;
	c->kernel_gs_base = base;
	next(c, in);
}

/* RDFSBASE RDGSBASE WRFSBASE WRGSBASE: F3 0F AE /0../3. */
static void exec_fsgsbase(struct cpu *c, const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7, size = in->opsize == 8 ? 8 : 4;
	unsigned r = (in->modrm & 7) | (in->rex & 1) << 3;
	struct seg_reg *s = &c->seg[ext & 1 ? SEG_GS : SEG_FS];
	u64 v;

	if (in->mode != INSN_MODE_64 || !(c->cr4 & CR4_FSGSBASE))
		cpu_raise(c, EXC_UD);
	if (ext < 2) {
		reg_write(c, r, size, true, s->base);
	} else {
		v = reg_read(c, r, size, true);
		if (!cpu_canonical(v))
			cpu_raise_error(c, EXC_GP, 0);
		s->base = v;
	}
	next(c, in);
}

/* --- 0F 01: what is not a descriptor table --- */

static void exec_lmsw_smsw(struct cpu *c, const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;
	unsigned r = (in->modrm & 7) | (in->rex & 1) << 3;

	if (ext == 4) {
		if (in->has_mem)
			mem_write(c, insn_linear(c, in, 2, MMU_WRITE), 2, c->cr0);
		else
			reg_write(c, r, in->opsize, true, c->cr0);
	} else {
		u64 v;

		require_cpl0(c);
		v = in->has_mem ? mem_read(c, insn_linear(c, in, 2, MMU_READ), 2) : c->gpr[r];
		/* Loads PE MP EM TS, but cannot clear PE. */
		cr0_write(c, (c->cr0 & ~0xeull) | (v & 0xf));
	}
	next(c, in);
}

static void exec_invlpg(struct cpu *c, const struct insn *in)
{
	gva_t la = insn_ea(c, in);

	require_cpl0(c);
	if (in->mode == INSN_MODE_64)
		la += in->seg >= SEG_FS ? c->seg[in->seg].base : 0;
	else
		la = (u32)(la + c->seg[in->seg].base);
	mmu_invlpg(&c->mmu, la);
	bt_revalidate(c, la, BT_PAGE);
	c->code_page = CODE_PAGE_NONE;
	next(c, in);
}

static void exec_group_0f01(struct cpu *c, const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	if (ext == 4 || ext == 6) {
		exec_lmsw_smsw(c, in);
		return;
	}
	if (in->has_mem && ext == 7) {
		exec_invlpg(c, in);
		return;
	}
	switch (in->modrm) {
	case 0xc1:
	case 0xd9: exec_hypercall(c, in); break;
	case 0xf8: exec_swapgs(c, in); break;
	case 0xf9: exec_rdtsc(c, in, true); break;
	/* MONITOR MWAIT CLAC STAC XEND XTEST SERIALIZE RDPKRU and the VMX and SVM ones: not
	 * offered. */
	default: cpu_raise(c, EXC_UD);
	}
}

static void exec_cache(struct cpu *c, const struct insn *in)
{
	require_cpl0(c); /* INVD WBINVD: caches are coherent */
	next(c, in);
}

static void exec_0f(struct cpu *c, const struct insn *in)
{
	switch (in->opcode) {
	case 0x01: exec_group_0f01(c, in); break;
	case 0x06:
		require_cpl0(c);
		c->cr0 &= ~CR0_TS;
		next(c, in);
		break;
	case 0x08:
	case 0x09: exec_cache(c, in); break;
	case 0x20 ... 0x23: exec_mov_cr_dr(c, in); break;
	case 0x30: exec_wrmsr(c, in); break;
	case 0x31: exec_rdtsc(c, in, false); break;
	case 0x32: exec_rdmsr(c, in); break;
	case 0x33: /* no counters are offered */ cpu_raise_error(c, EXC_GP, 0);
	case 0xa2: exec_cpuid(c, in); break;
	case 0xae: exec_fsgsbase(c, in); break;
	default: cpu_raise(c, EXC_UD);
	}
}

void exec_system(struct cpu *c, const struct insn *in)
{
	if (in->map == INSN_MAP_0F) {
		exec_0f(c, in);
		return;
	}
	if (in->map != INSN_MAP_1B) /* INVEPT INVVPID INVPCID */
		cpu_raise(c, EXC_UD);
	switch (in->opcode) {
	case 0x9c: exec_pushf(c, in); break;
	case 0x9d: exec_popf(c, in); break;
	case 0xcc ... 0xce:
	case 0xf1: exec_int(c, in); break;
	case 0xe4 ... 0xe7:
	case 0xec ... 0xef: exec_in_out(c, in); break;
	case 0xf4: exec_hlt(c, in); break;
	case 0xfa:
	case 0xfb: exec_cli_sti(c, in); break;
	case 0xfc:
		c->sflags &= ~(u64)FL_DF;
		next(c, in);
		break;
	case 0xfd:
		c->sflags |= FL_DF;
		next(c, in);
		break;
	default: cpu_raise(c, EXC_UD);
	}
}
