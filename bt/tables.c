/*
 * Instructions about descriptors and their tables: LAR LSL VERR VERW, SGDT SIDT LGDT LIDT, SLDT
 * STR, LLDT LTR. UMIP is not offered, so the ones that store work at any level.
 * SDM vol. 2 under each name; vol. 3, 3.5 and 7.2 (system descriptors in long mode).
 */
#include "transfer.h"

static u16 selector_operand(struct cpu *c, const struct insn *in)
{
	if (!in->has_mem)
		return c->gpr[in->rm];
	return mem_read(c, insn_linear(c, in, 2, MMU_READ), 2);
}

static void require_protected(struct cpu *c)
{
	if (cpu_real_or_v86(c))
		cpu_raise(c, EXC_UD);
}

static void require_cpl0(struct cpu *c)
{
	if (c->cpl)
		cpu_raise_error(c, EXC_GP, 0);
}

static void set_zf(struct cpu *c, bool zf)
{
	c->aflags = (c->aflags & ~(u64)FL_ZF) | (zf ? FL_ZF : 0);
}

/* --- queries --- */

/* Types of system descriptors LAR and LSL answer for, a bit each. */
static u16 visible_types(const struct cpu *c, bool lar)
{
	u16 types = BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY);

	if (lar)
		types |= BIT(SYS_CALL32);
	if (!cpu_long_mode(c)) {
		types |= BIT(SYS_TSS16) | BIT(SYS_TSS16_BUSY);
		if (lar)
			types |= BIT(SYS_CALL16) | BIT(SYS_TASK_GATE);
	}
	return types;
}

void exec_lar_lsl(struct cpu *c, const struct insn *in)
{
	bool lar = in->opcode == 0x02, ok;
	struct desc d;
	u16 sel;

	require_protected(c);
	sel = selector_operand(c, in);
	ok = desc_read(c, sel, false, &d) && desc_is_within_reach(c, sel, &d) &&
	     ((d.attr & SEG_S) || (visible_types(c, lar) & BIT(d.attr & SEG_TYPE)));
	if (ok)
		reg_write(c, in->reg, in->opsize, true, lar ? d.raw >> 32 & 0xf0ff00 : d.limit);
	set_zf(c, ok);
	c->rip = insn_next_rip(c, in);
}

void exec_verr_verw(struct cpu *c, const struct insn *in)
{
	bool write = (in->modrm >> 3 & 7) == 5, ok;
	struct desc d;
	u16 sel;

	require_protected(c);
	sel = selector_operand(c, in);
	ok = desc_read(c, sel, false, &d) && (d.attr & SEG_S) && desc_is_within_reach(c, sel, &d);
	if (ok && write)
		ok = desc_is_writable_data(&d);
	else if (ok)
		ok = !desc_is_code(&d) || (d.attr & SEG_W);
	set_zf(c, ok);
	c->rip = insn_next_rip(c, in);
}

/* --- GDTR and IDTR --- */

/* All of the base is stored whatever the operand size: the manual's 24 bits are the 80286's. */
static void store_table(struct cpu *c, const struct insn *in, const struct table_reg *t)
{
	unsigned size = in->mode == INSN_MODE_64 ? 10 : 6;
	u8 image[10];

	__builtin_memcpy(image, &t->limit, 2);
	__builtin_memcpy(image + 2, &t->base, 8);
	mem_write_buf(c, insn_linear(c, in, size, MMU_WRITE), image, size);
}

static void load_table(struct cpu *c, const struct insn *in, struct table_reg *t)
{
	unsigned size = in->mode == INSN_MODE_64 ? 10 : 6;
	struct table_reg loaded = {0};
	u8 image[10] = {0};

	require_cpl0(c);
	mem_read_buf(c, insn_linear(c, in, size, MMU_READ), image, size);
	__builtin_memcpy(&loaded.limit, image, 2);
	__builtin_memcpy(&loaded.base, image + 2, 8);
	if (in->mode != INSN_MODE_64 && in->opsize == 2)
		loaded.base &= 0xffffff;
	if (!cpu_canonical(loaded.base))
		cpu_raise_error(c, EXC_GP, 0);
	*t = loaded;
}

void exec_descriptor_table(struct cpu *c, const struct insn *in)
{
	switch (in->modrm >> 3 & 7) {
	case 0: store_table(c, in, &c->gdtr); break;
	case 1: store_table(c, in, &c->idtr); break;
	case 2: load_table(c, in, &c->gdtr); break;
	case 3: load_table(c, in, &c->idtr); break;
	default: cpu_raise(c, EXC_UD);
	}
	c->rip = insn_next_rip(c, in);
}

/* --- LDTR and TR --- */

void exec_sldt_str(struct cpu *c, const struct insn *in)
{
	u16 sel;

	require_protected(c);
	sel = (in->modrm >> 3 & 7) == 0 ? c->ldtr.sel : c->tr.sel;
	if (in->has_mem)
		mem_write(c, insn_linear(c, in, 2, MMU_WRITE), 2, sel);
	else
		reg_write(c, in->rm, in->opsize, true, sel);
	c->rip = insn_next_rip(c, in);
}

/* The descriptor of an LDT or TSS: in the GDT, of one of the types allowed, present. */
static void read_system_desc(struct cpu *c, u16 sel, u16 types, struct desc *d)
{
	if ((sel & 4) || !desc_read(c, sel, true, d) || (d->attr & SEG_S) ||
	    !(types & BIT(d->attr & SEG_TYPE)))
		raise_sel(c, EXC_GP, sel, 0);
	/* In long mode the type field of the upper half must be 0. */
	if (!cpu_canonical(d->base) || (d->raw_high >> 40 & 0x1f))
		raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, sel, 0);
}

static void load_ldtr(struct cpu *c, u16 sel)
{
	struct desc d;

	if (sel_is_null(sel)) {
		c->ldtr = (struct seg_reg){.sel = sel, .attr = SEG_NULL};
		return;
	}
	read_system_desc(c, sel, BIT(SYS_LDT), &d);
	c->ldtr = (struct seg_reg){.base = d.base, .limit = d.limit, .sel = sel, .attr = d.attr};
}

static void load_tr(struct cpu *c, u16 sel)
{
	u16 types = BIT(SYS_TSS32) | (cpu_long_mode(c) ? 0 : BIT(SYS_TSS16));
	struct desc d;

	if (sel_is_null(sel))
		cpu_raise_error(c, EXC_GP, 0);
	read_system_desc(c, sel, types, &d);
	sys_write(c, d.la + 5, 1, (d.attr | SEG_BUSY) & 0xff);
	c->tr = (struct seg_reg){
	    .base = d.base, .limit = d.limit, .sel = sel, .attr = d.attr | SEG_BUSY};
}

void exec_lldt_ltr(struct cpu *c, const struct insn *in)
{
	u16 sel;

	require_protected(c);
	require_cpl0(c);
	sel = selector_operand(c, in);
	if ((in->modrm >> 3 & 7) == 2)
		load_ldtr(c, sel);
	else
		load_tr(c, sel);
	c->rip = insn_next_rip(c, in);
}
