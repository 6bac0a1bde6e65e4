/*
 * IRET in every mode. SDM vol. 2, IRET; vol. 3, 6.12, 6.14.3 and 20.2 (v86).
 *
 * Which flags are popped depends on the level before the return: IF if CPL <= IOPL, IOPL and VM at
 * CPL 0, never VIF and VIP above it. In 64-bit mode SS:RSP are always popped, elsewhere only on a
 * return to an outer level.
 */
#include "transfer.h"

#define FL_PLAIN (FL_ARITH | FL_TF | FL_DF | FL_NT) /* IRET writes them whatever the level */

/* Replace the flags in `mask`. */
static void load_flags(struct cpu *c, u64 flags, u64 mask, unsigned size)
{
	if (size == 2)
		mask &= 0xffff;
	cpu_set_rflags(c, (cpu_rflags(c) & ~mask) | (flags & mask));
}

static void iret_real(struct cpu *c, unsigned size)
{
	u64 mask = FL_PLAIN | FL_IF | FL_RF | FL_AC | FL_ID, ip, flags;
	u16 cs;

	if (cpu_v86(c)) {
		if (cpu_iopl(c) < 3)
			cpu_raise_error(c, EXC_GP, 0);
	} else {
		mask |= FL_IOPL;
	}
	ip = stack_peek(c, 0, size);
	cs = stack_peek(c, size, size);
	flags = stack_peek(c, 2 * size, size);
	if (ip > c->seg[SEG_CS].limit)
		cpu_raise_error(c, EXC_GP, 0);
	stack_add(c, 3 * size);
	seg_load_real(c, SEG_CS, cs);
	c->rip = ip;
	load_flags(c, flags, mask, size);
}

/* From CPL 0 to a v86 task: the rest of the frame is ESP SS ES DS FS GS. */
static void iret_to_v86(struct cpu *c, u64 eip, u16 cs, u64 flags)
{
	static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u16 sel[ARRAY_LEN(order)];
	unsigned i;
	u64 esp;

	if (eip > 0xffff)
		cpu_raise_error(c, EXC_GP, 0);
	esp = stack_peek(c, 12, 4);
	for (i = 0; i < ARRAY_LEN(order); i++)
		sel[i] = stack_peek(c, 16 + 4 * i, 4);
	cpu_set_rflags(c, flags);
	c->cpl = 3;
	c->rip = eip;
	c->gpr[GPR_RSP] = esp;
	seg_load_real(c, SEG_CS, cs);
	for (i = 0; i < ARRAY_LEN(order); i++)
		seg_load_real(c, order[i], sel[i]);
}

static u64 writable_flags(const struct cpu *c)
{
	u64 mask = FL_PLAIN | FL_RF | FL_AC | FL_ID;

	if (c->cpl <= cpu_iopl(c))
		mask |= FL_IF;
	if (c->cpl == 0)
		mask |= FL_IOPL | FL_VIF | FL_VIP;
	return mask;
}

static void iret_protected(struct cpu *c, unsigned size)
{
	struct far_return r = {0};
	u64 flags, mask = writable_flags(c);

	if (c->sflags & FL_NT) {
		if (cpu_long_mode(c))
			cpu_raise_error(c, EXC_GP, 0);
		task_switch(c, "IRET with NT set", sys_read(c, (u32)c->tr.base, 2));
	}
	r.rip = stack_peek(c, 0, size);
	r.cs = stack_peek(c, size, size);
	flags = stack_peek(c, 2 * size, size);
	if ((flags & FL_VM) && c->cpl == 0 && size == 4 && !cpu_long_mode(c)) {
		iret_to_v86(c, r.rip, r.cs, flags);
		return;
	}
	return_check_code(c, &r);
	r.has_stack = c->mode == INSN_MODE_64 || (r.cs & 3) > c->cpl;
	if (r.has_stack) {
		r.rsp = stack_peek(c, 3 * size, size);
		r.ss = stack_peek(c, 4 * size, size);
		return_check_stack(c, &r);
	} else {
		desc_set_accessed(c, &r.cs_desc);
		stack_add(c, 3 * size);
	}
	return_commit(c, &r);
	load_flags(c, flags, mask, size);
}

void exec_iret(struct cpu *c, const struct insn *in)
{
	c->nmi_blocked = false; /* even if it faults: SDM vol. 3, 6.7.1 */
	if (cpu_real_or_v86(c))
		iret_real(c, in->opsize);
	else
		iret_protected(c, in->opsize);
	cpu_update_mode(c);
}
