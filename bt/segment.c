/*
 * Descriptors and segment registers: reading descriptors, the checks of a segment load, and the
 * instructions that move, push, pop and load segment registers. Instructions about the tables
 * themselves are in tables.c.
 *
 * Accesses to descriptor tables are supervisor accesses whatever CPL is. A load sets the accessed
 * bit in memory before it changes the register, since that write can fault too.
 *
 * SDM vol. 3, 3.4 (descriptors), 5.4 to 5.7 (checks); vol. 2, MOV, POP, LDS.
 */
#include "transfer.h"

/* --- descriptors --- */

static void desc_unpack(struct desc *d)
{
	u64 raw = d->raw;

	d->attr = raw >> 40 & 0xf0ff;
	d->base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000);
	d->limit = (raw & 0xffff) | (raw >> 32 & 0xf0000);
	if (d->attr & SEG_G)
		d->limit = d->limit << 12 | 0xfff;
}

bool desc_read(struct cpu *c, u16 sel, bool wide, struct desc *d)
{
	bool local = sel & 4;
	u64 base = local ? c->ldtr.base : c->gdtr.base;
	u32 limit = local ? c->ldtr.limit : c->gdtr.limit;

	if (sel_is_null(sel) || (local && (c->ldtr.attr & SEG_NULL)) || (sel | 7u) > limit)
		return false;
	d->la = base + (sel & ~7u);
	if (!cpu_long_mode(c))
		d->la = (u32)d->la;
	d->raw = sys_read(c, d->la, 8);
	d->raw_high = 0;
	desc_unpack(d);
	if (wide && cpu_long_mode(c) && !(d->attr & SEG_S)) {
		if ((sel & ~7u) + 15 > limit)
			return false;
		d->raw_high = sys_read(c, d->la + 8, 8);
		d->base |= d->raw_high << 32;
	}
	return true;
}

void desc_set_accessed(struct cpu *c, struct desc *d)
{
	if (d->attr & SEG_A)
		return;
	d->attr |= SEG_A;
	d->raw |= (u64)SEG_A << 40;
	sys_write(c, d->la + 5, 1, d->attr & 0xff);
}

/* --- loading segment registers --- */

static void seg_set(struct cpu *c, unsigned seg, u16 sel, const struct desc *d)
{
	c->seg[seg] =
	    (struct seg_reg){.base = d->base, .limit = d->limit, .sel = sel, .attr = d->attr};
}

void cs_load(struct cpu *c, u16 sel, const struct desc *d, unsigned cpl)
{
	struct desc accessed = *d;

	desc_set_accessed(c, &accessed);
	seg_set(c, SEG_CS, (sel & ~3u) | cpl, &accessed);
	c->cpl = cpl;
}

void ss_load(struct cpu *c, u16 sel, const struct desc *d)
{
	struct desc accessed = *d;

	desc_set_accessed(c, &accessed);
	seg_set(c, SEG_SS, sel, &accessed);
}

/*
 * In real mode only selector and base change, and what would be meaningless there becomes plain
 * read-write: limit, G and B stay as protected mode left them. v86 has fixed attributes.
 */
void seg_load_real(struct cpu *c, unsigned seg, u16 sel)
{
	struct seg_reg *s = &c->seg[seg];
	u32 plain = SEG_P | SEG_S | SEG_W | SEG_A;

	if (cpu_v86(c)) {
		s->limit = 0xffff;
		s->attr = plain | 3u << 5;
	} else {
		if (s->attr & SEG_NULL)
			s->limit = 0xffff;
		s->attr = (s->attr & (SEG_G | SEG_DB | SEG_AVL)) | plain;
		if (seg == SEG_CS)
			s->attr |= SEG_CODE;
	}
	s->sel = sel;
	s->base = (u32)sel << 4;
}

static void seg_load_null(struct cpu *c, unsigned seg, u16 sel)
{
	u32 dpl = 0;

	if (seg == SEG_SS) {
		if (c->mode != INSN_MODE_64 || c->cpl == 3 || (sel & 3) != c->cpl)
			cpu_raise_error(c, EXC_GP, 0);
		dpl = (u32)c->cpl << 5;
	}
	c->seg[seg] = (struct seg_reg){.sel = sel, .attr = SEG_NULL | dpl};
}

static void check_stack_segment(struct cpu *c, u16 sel, const struct desc *d)
{
	if ((sel & 3) != c->cpl || !desc_is_writable_data(d) || SEG_DPL(d->attr) != c->cpl)
		raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_SS, sel, 0);
}

static bool desc_is_readable(const struct desc *d)
{
	return (d->attr & SEG_S) && (d->attr & (SEG_CODE | SEG_W)) != SEG_CODE;
}

bool desc_is_within_reach(const struct cpu *c, u16 sel, const struct desc *d)
{
	unsigned dpl = SEG_DPL(d->attr);

	if (desc_is_code(d) && desc_is_conforming(d))
		return true;
	return c->cpl <= dpl && (sel & 3) <= dpl;
}

void seg_load(struct cpu *c, unsigned seg, u16 sel)
{
	struct desc d;

	if (cpu_real_or_v86(c)) {
		seg_load_real(c, seg, sel);
		return;
	}
	if (sel_is_null(sel)) {
		seg_load_null(c, seg, sel);
		return;
	}
	if (!desc_read(c, sel, false, &d))
		raise_sel(c, EXC_GP, sel, 0);
	if (seg == SEG_SS) {
		check_stack_segment(c, sel, &d);
	} else {
		if (!desc_is_readable(&d) || !desc_is_within_reach(c, sel, &d))
			raise_sel(c, EXC_GP, sel, 0);
		if (!(d.attr & SEG_P))
			raise_sel(c, EXC_NP, sel, 0);
	}
	desc_set_accessed(c, &d);
	seg_set(c, seg, sel, &d);
}

/* --- instructions --- */

/* Interrupts and traps wait for the instruction after MOV SS and POP SS (but not LSS). */
static void cast_shadow(struct cpu *c)
{
	c->shadow = SHADOW_SS;
	cpu_update_slow(c);
}

void exec_mov_from_sreg(struct cpu *c, const struct insn *in)
{
	u16 sel = c->seg[in->modrm >> 3 & 7].sel;

	if (in->has_mem)
		mem_write(c, insn_linear(c, in, 2, MMU_WRITE), 2, sel);
	else
		reg_write(c, in->rm, in->opsize, true, sel);
	c->rip = insn_next_rip(c, in);
}

void exec_mov_to_sreg(struct cpu *c, const struct insn *in)
{
	unsigned seg = in->modrm >> 3 & 7;
	u16 sel;

	if (seg == SEG_CS || seg >= SEG_COUNT)
		cpu_raise(c, EXC_UD);
	sel = in->has_mem ? mem_read(c, insn_linear(c, in, 2, MMU_READ), 2) : c->gpr[in->rm];
	seg_load(c, seg, sel);
	c->rip = insn_next_rip(c, in);
	if (seg == SEG_SS)
		cast_shadow(c);
}

/* Opcodes 06 0E 16 1E and 07 17 1F; 0F A0, A1 (FS) and A8, A9 (GS) have the same bits there. */
static unsigned opcode_sreg(const struct insn *in)
{
	return in->opcode >> 3 & 7;
}

static u64 rsp_after(struct cpu *c, s64 delta)
{
	u64 rsp = c->gpr[GPR_RSP], moved;

	stack_add(c, delta);
	moved = c->gpr[GPR_RSP];
	c->gpr[GPR_RSP] = rsp;
	return moved;
}

/* A 32-bit push moves ESP by 4 but writes two bytes only, as all recent processors do. */
void exec_push_sreg(struct cpu *c, const struct insn *in)
{
	u16 sel = c->seg[opcode_sreg(in)].sel;
	u64 rsp;

	if (in->opsize != 4) {
		stack_push(c, in->opsize, sel);
	} else {
		rsp = rsp_after(c, -4);
		mem_write(c, seg_linear(c, SEG_SS, rsp & stack_mask(c), 2, MMU_WRITE), 2, sel);
		c->gpr[GPR_RSP] = rsp;
	}
	c->rip = insn_next_rip(c, in);
}

/* RSP moves by the stack size in force before POP SS. */
void exec_pop_sreg(struct cpu *c, const struct insn *in)
{
	unsigned seg = opcode_sreg(in);
	u16 sel = stack_peek(c, 0, in->opsize);
	u64 rsp = rsp_after(c, in->opsize);

	seg_load(c, seg, sel);
	c->gpr[GPR_RSP] = rsp;
	c->rip = insn_next_rip(c, in);
	if (seg == SEG_SS)
		cast_shadow(c);
}

static unsigned far_ptr_sreg(const struct insn *in)
{
	if (in->map == INSN_MAP_1B)
		return in->opcode == 0xc4 ? SEG_ES : SEG_DS;
	return in->opcode == 0xb2 ? SEG_SS : in->opcode == 0xb4 ? SEG_FS : SEG_GS;
}

void far_ptr_read(struct cpu *c, const struct insn *in, u16 *sel, u64 *off)
{
	unsigned size = in->opsize;
	gva_t la = insn_linear(c, in, size + 2, MMU_READ), la_sel = la + size;

	if (c->mode != INSN_MODE_64)
		la_sel = (u32)la_sel;
	*off = mem_read(c, la, size);
	*sel = mem_read(c, la_sel, 2);
}

void exec_load_far_ptr(struct cpu *c, const struct insn *in)
{
	u64 off;
	u16 sel;

	far_ptr_read(c, in, &sel, &off);
	seg_load(c, far_ptr_sreg(in), sel);
	reg_write(c, in->reg, in->opsize, true, off);
	c->rip = insn_next_rip(c, in);
}
