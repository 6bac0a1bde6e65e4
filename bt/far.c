/*
 * Far jumps, far calls and far returns, call gates included. IRET is in iret.c.
 *
 * A far transfer names a code segment (the privilege level stays), a call gate (a call may go to an
 * inner level and switch stacks) or a task: TSS descriptor or task gate. Hardware task switches are
 * not offered; they are checked as far as the descriptor goes, then counted and reported.
 *
 * SDM vol. 2, JMP, CALL, RET; vol. 3, 5.8.
 */
#include "transfer.h"

struct gate {
	u16 sel; /* of the gate's code segment */
	u64 off;
	unsigned size;   /* of a pushed word: 2, 4, 8 */
	unsigned params; /* to copy, in such words */
	struct desc code;
};

static void far_operand(struct cpu *c, const struct insn *in, u16 *sel, u64 *off)
{
	if (in->has_mem) {
		far_ptr_read(c, in, sel, off);
		return;
	}
	*off = in->opsize == 2 ? (u16)in->imm : (u32)in->imm;
	__builtin_memcpy(sel, in->bytes + in->off_imm + in->opsize, 2);
}

static void jump_to(struct cpu *c, u16 sel, const struct desc *d, unsigned cpl, u64 rip)
{
	cs_load(c, sel, d, cpl);
	c->rip = rip;
	cpu_update_mode(c);
}

/* Real mode and v86. */
static void check_real_ip(struct cpu *c, u64 off)
{
	if (off > c->seg[SEG_CS].limit)
		cpu_raise_error(c, EXC_GP, 0);
}

static void jump_real(struct cpu *c, u16 sel, u64 off)
{
	seg_load_real(c, SEG_CS, sel);
	c->rip = off;
	cpu_update_mode(c);
}

/* A code segment named directly by JMP or CALL: the level stays CPL. */
static u64 check_direct(struct cpu *c, u16 sel, const struct desc *d, u64 off)
{
	unsigned dpl = SEG_DPL(d->attr);

	if (desc_is_conforming(d) ? dpl > c->cpl : dpl != c->cpl || (sel & 3) > c->cpl)
		raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, sel, 0);
	return code_check_rip(c, d, off, 0);
}

static void read_target(struct cpu *c, u16 sel, struct desc *d)
{
	if (sel_is_null(sel))
		cpu_raise_error(c, EXC_GP, 0);
	if (!desc_read(c, sel, true, d))
		raise_sel(c, EXC_GP, sel, 0);
	if (desc_is_code(d))
		code_desc_read(c, sel, 0, d); /* L with D */
}

static void check_task(struct cpu *c, u16 sel, const struct desc *d, const char *what)
{
	if (SEG_DPL(d->attr) < c->cpl || SEG_DPL(d->attr) < (sel & 3))
		raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, sel, 0);
	task_switch(c, what, sel);
}

/* Open a call gate, or leave by #GP, #NP or a task switch. */
static void open_gate(struct cpu *c, u16 sel, const struct desc *d, struct gate *g)
{
	unsigned type = d->attr & SEG_TYPE;
	bool lma = cpu_long_mode(c);

	if (d->attr & SEG_S)
		raise_sel(c, EXC_GP, sel, 0);
	if (!lma && (type == SYS_TSS16 || type == SYS_TSS32))
		check_task(c, sel, d, "far transfer to TSS");
	if (!lma && type == SYS_TASK_GATE)
		check_task(c, sel, d, "far transfer through task gate");
	if (type != SYS_CALL32 && (lma || type != SYS_CALL16))
		raise_sel(c, EXC_GP, sel, 0);
	if (SEG_DPL(d->attr) < c->cpl || SEG_DPL(d->attr) < (sel & 3) || (d->raw_high >> 40 & 0x1f))
		raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, sel, 0);
	g->sel = d->raw >> 16;
	g->off = (d->raw & 0xffff) | (d->raw >> 32 & 0xffff0000) | d->raw_high << 32;
	if (type == SYS_CALL16)
		g->off &= 0xffff;
	g->size = lma ? 8 : type == SYS_CALL32 ? 4 : 2;
	g->params = lma ? 0 : d->raw >> 32 & 31;
	code_desc_read(c, g->sel, 0, &g->code);
	if (lma && !(g->code.attr & SEG_L))
		raise_sel(c, EXC_GP, g->sel, 0);
}

/* --- JMP --- */

static void jump_gate(struct cpu *c, u16 sel, const struct desc *d)
{
	struct gate g;
	unsigned dpl;

	open_gate(c, sel, d, &g);
	dpl = SEG_DPL(g.code.attr);
	if (desc_is_conforming(&g.code) ? dpl > c->cpl : dpl != c->cpl)
		raise_sel(c, EXC_GP, g.sel, 0);
	if (!(g.code.attr & SEG_P))
		raise_sel(c, EXC_NP, g.sel, 0);
	jump_to(c, g.sel, &g.code, c->cpl, code_check_rip(c, &g.code, g.off, 0));
}

void exec_jmp_far(struct cpu *c, const struct insn *in)
{
	struct desc d;
	u64 off;
	u16 sel;

	far_operand(c, in, &sel, &off);
	if (cpu_real_or_v86(c)) {
		check_real_ip(c, off);
		jump_real(c, sel, off);
		return;
	}
	read_target(c, sel, &d);
	if (desc_is_code(&d))
		jump_to(c, sel, &d, c->cpl, check_direct(c, sel, &d, off));
	else
		jump_gate(c, sel, &d);
}

/* --- CALL --- */

static void push_return(struct cpu *c, struct new_stack *s, unsigned size, u64 next)
{
	stack_put(c, s, size, c->seg[SEG_CS].sel);
	stack_put(c, s, size, next);
}

/* To an inner level: old stack, parameters and return address go to the new stack. */
static void call_gate_inner(struct cpu *c, const struct gate *g, u64 next)
{
	unsigned cpl = SEG_DPL(g->code.attr), i;
	struct desc code = g->code;
	struct new_stack s;
	u64 rip;

	if (g->size == 8)
		stack_inner64(c, &s, cpl, 0, 0);
	else
		stack_inner(c, &s, cpl, 0);
	stack_put(c, &s, g->size, c->seg[SEG_SS].sel);
	stack_put(c, &s, g->size, c->gpr[GPR_RSP]);
	for (i = g->params; i--;)
		stack_put(c, &s, g->size, stack_peek(c, (u64)i * g->size, g->size));
	push_return(c, &s, g->size, next);
	rip = code_check_rip(c, &code, g->off, 0);
	desc_set_accessed(c, &code);
	stack_commit(c, &s);
	jump_to(c, g->sel, &code, cpl, rip);
}

static void call_gate(struct cpu *c, u16 sel, const struct desc *d, u64 next)
{
	struct new_stack s;
	struct gate g;
	unsigned dpl;
	u64 rip;

	open_gate(c, sel, d, &g);
	dpl = SEG_DPL(g.code.attr);
	if (dpl > c->cpl)
		raise_sel(c, EXC_GP, g.sel, 0);
	if (!(g.code.attr & SEG_P))
		raise_sel(c, EXC_NP, g.sel, 0);
	if (!desc_is_conforming(&g.code) && dpl < c->cpl) {
		call_gate_inner(c, &g, next);
		return;
	}
	stack_current(c, &s, g.size == 8, 0);
	push_return(c, &s, g.size, next);
	rip = code_check_rip(c, &g.code, g.off, 0);
	desc_set_accessed(c, &g.code);
	stack_commit(c, &s);
	jump_to(c, g.sel, &g.code, c->cpl, rip);
}

static void call_direct(struct cpu *c, const struct insn *in, u16 sel, struct desc *d, u64 off)
{
	u64 rip = check_direct(c, sel, d, off);
	struct new_stack s;

	stack_current(c, &s, c->mode == INSN_MODE_64, 0);
	push_return(c, &s, in->opsize, insn_next_rip(c, in));
	desc_set_accessed(c, d);
	stack_commit(c, &s);
	jump_to(c, sel, d, c->cpl, rip);
}

void exec_call_far(struct cpu *c, const struct insn *in)
{
	struct new_stack s;
	struct desc d;
	u64 off;
	u16 sel;

	far_operand(c, in, &sel, &off);
	if (cpu_real_or_v86(c)) {
		check_real_ip(c, off);
		stack_current(c, &s, false, 0);
		push_return(c, &s, in->opsize, insn_next_rip(c, in));
		stack_commit(c, &s);
		jump_real(c, sel, off);
		return;
	}
	read_target(c, sel, &d);
	if (desc_is_code(&d))
		call_direct(c, in, sel, &d, off);
	else
		call_gate(c, sel, &d, insn_next_rip(c, in));
}

/* --- RET --- */

void exec_ret_far(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, drop = in->opcode == 0xca ? (u16)in->imm : 0;
	struct far_return r = {0};

	r.rip = stack_peek(c, 0, size);
	r.cs = stack_peek(c, size, size);
	if (cpu_real_or_v86(c)) {
		check_real_ip(c, r.rip);
		stack_add(c, 2 * size + drop);
		jump_real(c, r.cs, r.rip);
		return;
	}
	return_check_code(c, &r);
	if ((r.cs & 3) > c->cpl) {
		r.rsp = stack_peek(c, 2 * size + drop, size) + drop;
		r.ss = stack_peek(c, 3 * size + drop, size);
		r.has_stack = true;
		return_check_stack(c, &r);
	} else {
		desc_set_accessed(c, &r.cs_desc);
		stack_add(c, 2 * size + drop);
	}
	return_commit(c, &r);
	cpu_update_mode(c);
}
