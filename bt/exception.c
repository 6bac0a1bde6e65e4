/*
 * Entering the handler of an exception or interrupt: the IVT of real mode, the gates of a protected
 * mode IDT (from v86 too), the 16-byte gates of long mode with IST.
 *
 * Error codes of faults raised here carry the EXT bit unless the event is INT n, INT3 or INTO.
 *
 * RF in the pushed flags is set for fault-class exceptions, so that the restarted instruction does
 * not hit its breakpoint again (SDM vol. 3, 17.3.1.1). What is a fault and not an external
 * interrupt of the same number is known from c->exc.first, which the run loop sets to the vector
 * for exceptions only. #DB is never marked here: its handler sets RF itself.
 *
 * SDM vol. 3, chapter 6 (6.12 protected mode, 6.14 long mode), 20.1.4 (real), 20.3 (v86).
 */
#include "transfer.h"

struct event {
	unsigned vector;
	bool has_error, soft;
	u32 error;
	u32 ext;   /* EXT bit of faults in its delivery */
	u64 rip;   /* to be pushed */
	u64 flags; /* to be pushed */
};

/* An interrupt or trap gate of either size, and its code segment. */
struct int_gate {
	unsigned type; /* SYS_INT16... */
	unsigned ist;
	u16 sel;
	u64 off;
	struct desc code;
};

static bool is_fault(unsigned vector)
{
	const u32 faults = BIT(EXC_DE) | BIT(EXC_BR) | BIT(EXC_UD) | BIT(EXC_NM) | BIT(EXC_TS) |
			   BIT(EXC_NP) | BIT(EXC_SS) | BIT(EXC_GP) | BIT(EXC_PF) | BIT(EXC_MF) |
			   BIT(EXC_AC) | BIT(EXC_XM);

	return vector < 32 && (faults & BIT(vector));
}

static NORETURN void raise_idt(struct cpu *c, const struct event *e, unsigned vector)
{
	cpu_raise_error(c, vector, e->vector * 8 + 2 + e->ext);
}

/* --- real mode --- */

static void enter_real(struct cpu *c, const struct event *e)
{
	u32 off = e->vector * 4, handler;
	struct new_stack s;

	if (off + 3 > c->idtr.limit)
		raise_idt(c, e, EXC_GP);
	handler = sys_read(c, (u32)(c->idtr.base + off), 4);
	stack_current(c, &s, false, e->ext);
	stack_put(c, &s, 2, e->flags);
	stack_put(c, &s, 2, c->seg[SEG_CS].sel);
	stack_put(c, &s, 2, e->rip);
	if ((handler & 0xffff) > c->seg[SEG_CS].limit)
		cpu_raise_error(c, EXC_GP, e->ext);
	stack_commit(c, &s);
	c->sflags &= ~(u64)(FL_IF | FL_TF | FL_AC | FL_RF);
	seg_load_real(c, SEG_CS, handler >> 16);
	c->rip = handler & 0xffff;
}

/* --- gates --- */

static void check_gate(struct cpu *c, const struct event *e, u16 types, u32 attr)
{
	if ((attr & SEG_S) || !(types & BIT(attr & SEG_TYPE)))
		raise_idt(c, e, EXC_GP);
	if (e->soft && SEG_DPL(attr) < c->cpl)
		raise_idt(c, e, EXC_GP);
	if (!(attr & SEG_P))
		raise_idt(c, e, EXC_NP);
}

static void read_gate(struct cpu *c, const struct event *e, struct int_gate *g)
{
	bool lma = cpu_long_mode(c);
	unsigned size = lma ? 16 : 8;
	u16 types = BIT(SYS_INT32) | BIT(SYS_TRAP32);
	gva_t la = c->idtr.base + e->vector * size;
	u64 raw;

	if (e->vector * size + size - 1 > c->idtr.limit)
		raise_idt(c, e, EXC_GP);
	if (!lma) {
		la = (u32)la;
		types |= BIT(SYS_INT16) | BIT(SYS_TRAP16) | BIT(SYS_TASK_GATE);
	}
	raw = sys_read(c, la, 8);
	check_gate(c, e, types, raw >> 40 & 0xff);
	*g = (struct int_gate){.type = raw >> 40 & SEG_TYPE, .sel = raw >> 16};
	g->off = (raw & 0xffff) | (g->type & 8 ? raw >> 32 & 0xffff0000 : 0);
	if (lma) {
		g->ist = raw >> 32 & 7;
		g->off |= sys_read(c, la + 8, 8) << 32;
	}
}

/* The handler's code segment: never less privileged than CPL. */
static void read_handler(struct cpu *c, const struct event *e, struct int_gate *g)
{
	struct desc *d = &g->code;

	code_desc_read(c, g->sel, e->ext, d);
	if (SEG_DPL(d->attr) > c->cpl || (cpu_long_mode(c) && !(d->attr & SEG_L)))
		raise_sel(c, EXC_GP, g->sel, e->ext);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, g->sel, e->ext);
}

/* Everything has been checked and written: load the registers. */
static void enter_handler(struct cpu *c, const struct int_gate *g, const struct new_stack *s,
			  unsigned cpl, u64 rip)
{
	u64 clear = FL_TF | FL_NT | FL_VM | FL_RF;

	if (g->type == SYS_INT16 || g->type == SYS_INT32)
		clear |= FL_IF;
	stack_commit(c, s);
	c->sflags &= ~clear;
	cs_load(c, g->sel, &g->code, cpl);
	c->rip = rip;
}

static void push_frame(struct cpu *c, const struct event *e, struct new_stack *s, unsigned size)
{
	stack_put(c, s, size, e->flags);
	stack_put(c, s, size, c->seg[SEG_CS].sel);
	stack_put(c, s, size, e->rip);
	if (e->has_error)
		stack_put(c, s, size, e->error);
}

/* --- protected mode --- */

/* v86 data segments make way: they are pushed, then null. */
static const u8 v86_data[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

static void push_v86_data(struct cpu *c, struct new_stack *s, unsigned size)
{
	unsigned i;

	for (i = 0; i < ARRAY_LEN(v86_data); i++)
		stack_put(c, s, size, c->seg[v86_data[i]].sel);
}

static void null_v86_data(struct cpu *c)
{
	unsigned i;

	for (i = 0; i < ARRAY_LEN(v86_data); i++)
		c->seg[v86_data[i]] = (struct seg_reg){.attr = SEG_NULL};
}

static void enter_protected(struct cpu *c, const struct event *e)
{
	bool v86 = cpu_v86(c), inner;
	unsigned size, cpl = c->cpl;
	struct new_stack s;
	struct int_gate g;
	u64 rip;

	read_gate(c, e, &g);
	if (g.type == SYS_TASK_GATE)
		task_switch(c, "interrupt through task gate", g.sel);
	read_handler(c, e, &g);
	size = g.type & 8 ? 4 : 2;
	inner = !desc_is_conforming(&g.code) && SEG_DPL(g.code.attr) < c->cpl;
	if (v86 && (!inner || SEG_DPL(g.code.attr)))
		raise_sel(c, EXC_GP, g.sel, e->ext);
	if (inner) {
		cpl = SEG_DPL(g.code.attr);
		stack_inner(c, &s, cpl, e->ext);
		if (v86)
			push_v86_data(c, &s, size);
		stack_put(c, &s, size, c->seg[SEG_SS].sel);
		stack_put(c, &s, size, c->gpr[GPR_RSP]);
	} else {
		stack_current(c, &s, false, e->ext);
	}
	push_frame(c, e, &s, size);
	rip = code_check_rip(c, &g.code, g.off, e->ext);
	desc_set_accessed(c, &g.code);
	enter_handler(c, &g, &s, cpl, rip);
	if (v86)
		null_v86_data(c);
}

/* --- long mode --- */

static void enter_long(struct cpu *c, const struct event *e)
{
	struct new_stack s;
	struct int_gate g;
	unsigned cpl;
	u64 rip;

	read_gate(c, e, &g);
	read_handler(c, e, &g);
	cpl = desc_is_conforming(&g.code) ? c->cpl : SEG_DPL(g.code.attr);
	if (g.ist || cpl != c->cpl)
		stack_inner64(c, &s, cpl, g.ist, e->ext);
	else
		stack_current(c, &s, true, e->ext);
	rip = code_check_rip(c, &g.code, g.off, e->ext);
	s.rsp &= ~0xfull;
	stack_put(c, &s, 8, c->seg[SEG_SS].sel);
	stack_put(c, &s, 8, c->gpr[GPR_RSP]);
	push_frame(c, e, &s, 8);
	desc_set_accessed(c, &g.code);
	enter_handler(c, &g, &s, cpl, rip);
}

void exc_enter(struct cpu *c, unsigned vector, bool has_error, u32 error, bool soft, u64 rip)
{
	struct event e = {.vector = vector,
			  .has_error = has_error,
			  .soft = soft,
			  .error = error,
			  .ext = !soft,
			  .rip = rip,
			  .flags = cpu_rflags(c)};

	if (!soft && c->exc.first == vector && is_fault(vector))
		e.flags |= FL_RF;
	if (!cpu_protected(c))
		enter_real(c, &e);
	else if (cpu_long_mode(c))
		enter_long(c, &e);
	else
		enter_protected(c, &e);
	cpu_update_mode(c);
}
