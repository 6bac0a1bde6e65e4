/* Control and debug registers. SDM vol. 3, 2.5 (CR), 4.1.2 (paging modes), 17.2 (DR). */
#include "control_regs.h"

#include "bt_run.h"
#include "mem.h"

static NORETURN void gp0(struct cpu *c)
{
	cpu_raise_error(c, EXC_GP, 0);
}

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

static void load_pdptes(struct cpu *c, u64 cr3)
{
	if (mmu_load_pdptes(c->mmu.ram, cr3, c->maxphyaddr, c->mmu.pg.pdpte))
		gp0(c);
}

static u64 efer_for_paging(struct cpu *c, u64 val)
{
	u64 efer = c->efer;

	if (!((c->cr0 ^ val) & CR0_PG) || !(efer & EFER_LME))
		return efer;
	if (val & CR0_PG) {
		if (!(c->cr4 & CR4_PAE) || (c->seg[SEG_CS].attr & SEG_L))
			gp0(c);
		return efer | EFER_LMA;
	}
	if (c->mode == INSN_MODE_64)
		gp0(c);
	return efer & ~EFER_LMA;
}

void cr0_write(struct cpu *c, u64 val)
{
	const u64 known =
	    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
	u64 changed = c->cr0 ^ val, efer;

	if (val >> 32)
		gp0(c);
	val = (val & known) | CR0_ET;
	if (((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
		gp0(c);
	efer = efer_for_paging(c, val);
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(val, c->cr4, efer))
		load_pdptes(c, c->cr3);
	c->cr0 = val;
	c->efer = efer;
	c->stats->n[STAT_cr_writes]++;
	cpu_update_paging(c);
	if (changed & CR0_PG)
		bt_revalidate(c, 0, BT_ALL);
	cpu_update_mode(c);
}

void cr3_write(struct cpu *c, u64 val)
{
	bool same;

	if (cpu_long_mode(c) && val >> c->maxphyaddr)
		gp0(c);
	if (pae_paging(c->cr0, c->cr4, c->efer))
		load_pdptes(c, val);
	same = val == c->cr3;
	c->cr3 = val;
	c->stats->n[STAT_cr_writes]++;
	cpu_update_paging(c);
	if (same)
		mmu_flush_non_global(&c->mmu); /* not done for lack of a difference */
	bt_revalidate(c, 0, BT_NON_GLOBAL);
}

void cr4_write(struct cpu *c, u64 val)
{
	const u64 reload = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP;
	u64 changed = c->cr4 ^ val;

	if (val & ~c->cr4_allowed)
		gp0(c);
	if (cpu_long_mode(c) && !(val & CR4_PAE))
		gp0(c);
	if ((changed & reload) && pae_paging(c->cr0, val, c->efer))
		load_pdptes(c, c->cr3);
	c->cr4 = val;
	c->stats->n[STAT_cr_writes]++;
	cpu_forget_cpuid(c);
	cpu_update_paging(c);
	if (changed & CR4_FSGSBASE)
		bt_forget(c);
	bt_revalidate(c, 0, BT_ALL);
	cpu_update_mode(c);
}

static void mov_cr(struct cpu *c, const struct insn *in, unsigned cr, unsigned r)
{
	unsigned size = in->mode == INSN_MODE_64 ? 8 : 4;
	bool to_cr = in->opcode & 2;
	u64 v = reg_read(c, r, size, true);

	switch (cr) {
	case 0:
		if (to_cr)
			cr0_write(c, v);
		v = c->cr0;
		break;
	case 2:
		if (to_cr)
			c->cr2 = v;
		v = c->cr2;
		break;
	case 3:
		if (to_cr)
			cr3_write(c, v);
		v = c->cr3;
		break;
	case 4:
		if (to_cr)
			cr4_write(c, v);
		v = c->cr4;
		break;
	case 8:
		if (to_cr) {
			if (v >> 4)
				gp0(c);
			c->ops->cr8_write(c->vm, v);
		} else {
			v = c->ops->cr8_read(c->vm);
		}
		break;
	default: cpu_raise(c, EXC_UD);
	}
	if (!to_cr)
		reg_write(c, r, size, true, v);
}

static void mov_dr(struct cpu *c, const struct insn *in, unsigned dr, unsigned r)
{
	unsigned size = in->mode == INSN_MODE_64 ? 8 : 4;
	u64 v = reg_read(c, r, size, true);

	if (dr == 4 || dr == 5) {
		if (c->cr4 & CR4_DE)
			cpu_raise(c, EXC_UD);
		dr += 2;
	}
	if (dr > 7)
		cpu_raise(c, EXC_UD);
	if (c->dr[7] & DR7_GD) {
		c->dr[6] |= DR6_BD;
		cpu_raise(c, EXC_DB);
	}
	if (!(in->opcode & 2)) {
		reg_write(c, r, size, true, c->dr[dr]);
		return;
	}
	if (dr >= 6 && v >> 32)
		gp0(c);
	if (dr == 6)
		v = (v & 0xe00f) | 0xffff0ff0;
	if (dr == 7)
		v = (v & 0xffff23ff) | 0x400;
	c->dr[dr] = v;
	cpu_update_mode(c);
}

void exec_mov_cr_dr(struct cpu *c, const struct insn *in)
{
	unsigned which = (in->modrm >> 3 & 7) | (in->rex & 4) << 1;
	unsigned r = (in->modrm & 7) | (in->rex & 1) << 3;

	if (c->cpl)
		gp0(c);
	if (in->opcode & 1)
		mov_dr(c, in, which, r);
	else
		mov_cr(c, in, which, r);
	c->rip = insn_next_rip(c, in);
}
