/*
 * What far transfers share: checks of code segments and targets, stacks of inner levels and the
 * pushes on them, returns to outer levels. See transfer.h.
 *
 * A push on a stack that is about to be switched to is made before the switch, with the rights and
 * limits of the new stack. If it faults, words below the new RSP have been written, as on a real
 * processor, and no register has changed.
 *
 * SDM vol. 3, 5.8 (transfers), 6.12 and 6.14 (stacks of handlers), 7.7 (64-bit TSS).
 */
#include "transfer.h"

void task_switch(struct cpu *c, const char *what, u16 sel)
{
	c->stats->n[STAT_task_switches]++;
	cpu_unsupported(c, "hardware task switch (%s, selector %04x)", what, sel);
}

/* --- targets --- */

void code_desc_read(struct cpu *c, u16 sel, u32 ext, struct desc *d)
{
	if (sel_is_null(sel))
		cpu_raise_error(c, EXC_GP, ext);
	if (!desc_read(c, sel, false, d) || !desc_is_code(d))
		raise_sel(c, EXC_GP, sel, ext);
	if (desc_is_code64(c, d) && (d->attr & SEG_DB))
		raise_sel(c, EXC_GP, sel, ext);
}

u64 code_check_rip(struct cpu *c, const struct desc *d, u64 rip, u32 ext)
{
	if (desc_is_code64(c, d)) {
		if (!cpu_canonical(rip))
			cpu_raise_error(c, EXC_GP, ext);
		return rip;
	}
	rip = (u32)rip;
	if (rip > d->limit)
		cpu_raise_error(c, EXC_GP, ext);
	return rip;
}

/* --- stacks --- */

void stack_current(struct cpu *c, struct new_stack *s, bool flat64, u32 ext)
{
	*s = (struct new_stack){.ss = c->seg[SEG_SS],
				.rsp = c->gpr[GPR_RSP],
				.mask = flat64 ? ~0ull : stack_mask(c),
				.error = ext,
				.flat64 = flat64,
				.user = c->user};
}

static gva_t tss_at(const struct cpu *c, unsigned off)
{
	return cpu_long_mode(c) ? c->tr.base + off : (u32)(c->tr.base + off);
}

/* SSn:ESPn of a 32-bit TSS or SSn:SPn of a 16-bit one. */
static void tss_stack(struct cpu *c, unsigned cpl, u32 ext, u16 *ss, u32 *esp)
{
	unsigned size = c->tr.attr & 8 ? 4 : 2, off = size + 2 * size * cpl;

	if (off + size + 1 > c->tr.limit)
		raise_sel(c, EXC_TS, c->tr.sel, ext);
	*esp = sys_read(c, tss_at(c, off), size);
	*ss = sys_read(c, tss_at(c, off + size), 2);
}

void stack_inner(struct cpu *c, struct new_stack *s, unsigned cpl, u32 ext)
{
	struct desc d;
	u32 esp;
	u16 ss;

	tss_stack(c, cpl, ext, &ss, &esp);
	if (sel_is_null(ss))
		cpu_raise_error(c, EXC_TS, ext);
	if (!desc_read(c, ss, false, &d) || (ss & 3) != cpl || SEG_DPL(d.attr) != cpl ||
	    !desc_is_writable_data(&d))
		raise_sel(c, EXC_TS, ss, ext);
	if (!(d.attr & SEG_P))
		raise_sel(c, EXC_SS, ss, ext);
	desc_set_accessed(c, &d);
	*s = (struct new_stack){
	    .ss = {.base = d.base, .limit = d.limit, .sel = ss, .attr = d.attr},
	    .rsp = esp,
	    .mask = d.attr & SEG_DB ? 0xffffffffull : 0xffffull,
	    .error = (ss & ~3u) | ext,
	};
}

void stack_inner64(struct cpu *c, struct new_stack *s, unsigned cpl, unsigned ist, u32 ext)
{
	unsigned off = ist ? 36 + 8 * (ist - 1) : 4 + 8 * cpl;

	if (off + 7 > c->tr.limit)
		raise_sel(c, EXC_TS, c->tr.sel, ext);
	stack_current(c, s, true, ext);
	s->rsp = sys_read(c, tss_at(c, off), 8);
	if (cpl != c->cpl) {
		s->ss = (struct seg_reg){.sel = cpl, .attr = SEG_NULL | cpl << 5};
		s->user = false;
	}
}

static bool fits(const struct seg_reg *ss, u64 off, unsigned size)
{
	u64 last = off + size - 1;

	if (ss->attr & SEG_NULL)
		return false;
	if ((ss->attr & (SEG_CODE | SEG_E)) == SEG_E) /* expand-down */
		return off > ss->limit && last <= (ss->attr & SEG_DB ? 0xffffffffull : 0xffffull);
	return last <= ss->limit;
}

void stack_put(struct cpu *c, struct new_stack *s, unsigned size, u64 val)
{
	u64 sp = (s->rsp - size) & s->mask;
	gva_t la;

	if (s->flat64) {
		la = sp;
		if (!cpu_canonical(la) || !cpu_canonical(la + size - 1))
			cpu_raise_error(c, EXC_SS, s->error);
	} else {
		la = (u32)(s->ss.base + sp);
		if (!fits(&s->ss, sp, size))
			cpu_raise_error(c, EXC_SS, s->error);
	}
	if (s->user)
		mem_write(c, la, size, val);
	else
		sys_write(c, la, size, val);
	s->rsp = s->mask == 0xffff ? (s->rsp & ~0xffffull) | sp : sp;
}

void stack_commit(struct cpu *c, const struct new_stack *s)
{
	c->seg[SEG_SS] = s->ss;
	c->gpr[GPR_RSP] = s->rsp;
}

/* --- returns --- */

void return_check_code(struct cpu *c, struct far_return *r)
{
	const unsigned rpl = r->cs & 3;
	struct desc *d = &r->cs_desc;

	code_desc_read(c, r->cs, 0, d);
	if (rpl < c->cpl ||
	    (desc_is_conforming(d) ? SEG_DPL(d->attr) > rpl : SEG_DPL(d->attr) != rpl))
		raise_sel(c, EXC_GP, r->cs, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_NP, r->cs, 0);
	r->rip = code_check_rip(c, d, r->rip, 0);
}

void return_check_stack(struct cpu *c, struct far_return *r)
{
	const unsigned rpl = r->cs & 3;
	struct desc *d = &r->ss_desc;

	if (sel_is_null(r->ss)) {
		/* 64-bit code below CPL 3 runs without a stack segment. */
		if (!desc_is_code64(c, &r->cs_desc) || rpl == 3 || (r->ss & 3) != rpl)
			cpu_raise_error(c, EXC_GP, 0);
		*d = (struct desc){.attr = SEG_NULL | rpl << 5};
		return;
	}
	if (!desc_read(c, r->ss, false, d) || (r->ss & 3) != rpl || !desc_is_writable_data(d) ||
	    SEG_DPL(d->attr) != rpl)
		raise_sel(c, EXC_GP, r->ss, 0);
	if (!(d->attr & SEG_P))
		raise_sel(c, EXC_SS, r->ss, 0);
}

/* After a return to an outer level: data segments it may not use become null (SDM vol. 3, 5.8.6).
 */
static void revoke_inner_segments(struct cpu *c)
{
	static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(data); i++) {
		struct seg_reg *s = &c->seg[data[i]];
		bool conforming = (s->attr & (SEG_CODE | SEG_E)) == (SEG_CODE | SEG_E);

		if (!(s->attr & SEG_NULL) && !conforming && SEG_DPL(s->attr) < c->cpl)
			*s = (struct seg_reg){.attr = SEG_NULL};
	}
}

/* With a 16-bit stack segment the upper half of ESP stays what it was: real processors leak it. */
static void load_returned_stack(struct cpu *c, const struct far_return *r)
{
	u64 *rsp = &c->gpr[GPR_RSP];

	c->seg[SEG_SS] = (struct seg_reg){.base = r->ss_desc.base,
					  .limit = r->ss_desc.limit,
					  .sel = r->ss,
					  .attr = r->ss_desc.attr};
	if (desc_is_code64(c, &r->cs_desc))
		*rsp = r->rsp;
	else if (r->ss_desc.attr & SEG_DB)
		*rsp = (u32)r->rsp;
	else
		*rsp = (*rsp & 0xffff0000) | (u16)r->rsp;
}

void return_commit(struct cpu *c, struct far_return *r)
{
	bool outer = (r->cs & 3) > c->cpl;

	desc_set_accessed(c, &r->cs_desc);
	if (r->has_stack && !(r->ss_desc.attr & SEG_NULL))
		desc_set_accessed(c, &r->ss_desc);
	cs_load(c, r->cs, &r->cs_desc, r->cs & 3);
	c->rip = r->rip;
	if (r->has_stack)
		load_returned_stack(c, r);
	if (outer)
		revoke_inner_segments(c);
}
