/*
 * Near control transfers and the stack: what the design calls CONTROL, and push and pop. The 64-bit
 * forms come first in each function because they are nearly all that runs. SDM vol. 2; targets
 * outside the code segment's limit, or not canonical, raise #GP(0) at the transfer.
 */
#include "mem.h"
#include "op.h"

static ALWAYS_INLINE u64 next_rip(const struct cpu *c, const struct insn *in)
{
	return in->mode == INSN_MODE_64 ? c->rip + in->len : insn_next_rip(c, in);
}

/* A jump target as this operand size sees it, checked. */
static ALWAYS_INLINE u64 target(struct cpu *c, const struct insn *in, u64 to)
{
	if (likely(in->mode == INSN_MODE_64)) {
		if (unlikely(!cpu_canonical(to)))
			cpu_raise_error(c, EXC_GP, 0);
		return to;
	}
	to = in->opsize == 2 ? (u16)to : (u32)to;
	if (unlikely(to > c->seg[SEG_CS].limit))
		cpu_raise_error(c, EXC_GP, 0);
	return to;
}

/* Conditions 0..15 of Jcc, SETcc, CMOVcc: a set of flags any of which makes it true, SF != OF among
 * them for the signed ones, and the low bit inverts. */
static ALWAYS_INLINE bool condition(u64 f, unsigned cc)
{
	static const u16 any_of[8] = {FL_OF, FL_CF, FL_ZF, FL_CF | FL_ZF, FL_SF, FL_PF, 0, FL_ZF};
	bool less = (f >> 7 ^ f >> 11) & 1;
	bool is = (f & any_of[cc >> 1]) || (less & (cc >= 12));

	return is ^ (cc & 1);
}

void exec_jcc(struct cpu *c, const struct insn *in)
{
	u64 next = next_rip(c, in);

	c->rip = condition(c->aflags, in->opcode & 15) ? target(c, in, next + in->imm) : next;
}

void exec_jmp(struct cpu *c, const struct insn *in)
{
	c->rip = target(c, in, next_rip(c, in) + in->imm);
}

/* Value of a ModRM operand of size bytes, register or memory. */
static ALWAYS_INLINE u64 rm_read(struct cpu *c, const struct insn *in, unsigned size)
{
	if (!in->has_mem)
		return reg_read(c, in->rm, size, true);
	return mem_read(c, insn_linear(c, in, size, MMU_READ), size);
}

void exec_jmp_ind(struct cpu *c, const struct insn *in)
{
	c->rip = target(c, in, rm_read(c, in, in->opsize));
}

void exec_call(struct cpu *c, const struct insn *in)
{
	u64 next = next_rip(c, in), to = target(c, in, next + in->imm);

	stack_push(c, in->opsize, next);
	c->rip = to;
}

void exec_call_ind(struct cpu *c, const struct insn *in)
{
	u64 to = target(c, in, rm_read(c, in, in->opsize));

	stack_push(c, in->opsize, next_rip(c, in));
	c->rip = to;
}

void exec_ret(struct cpu *c, const struct insn *in)
{
	u64 to = target(c, in, stack_peek(c, 0, in->opsize));

	stack_add(c, in->opsize + (in->opcode == 0xc2 ? (u16)in->imm : 0));
	c->rip = to;
}

/* LOOPNE LOOPE LOOP JCXZ: E0..E3; the counter has the address size. */
void exec_loop(struct cpu *c, const struct insn *in)
{
	u64 next = next_rip(c, in), count = reg_read(c, GPR_RCX, in->addrsize, true), to;
	bool zf = c->aflags & FL_ZF, taken;

	if (in->opcode == 0xe3) {
		taken = count == 0;
	} else {
		count--;
		if (in->addrsize < 8)
			count = in->addrsize == 4 ? (u32)count : (u16)count;
		taken = count != 0 && (in->opcode == 0xe2 || zf == (in->opcode == 0xe1));
	}
	to = taken ? target(c, in, next + in->imm) : next;
	if (in->opcode != 0xe3)
		reg_write(c, GPR_RCX, in->addrsize, true, count);
	c->rip = to;
}

static unsigned opcode_reg(const struct insn *in)
{
	return (in->opcode & 7) | (in->rex & 1) << 3;
}

void exec_push(struct cpu *c, const struct insn *in)
{
	stack_push(c, in->opsize, c->gpr[opcode_reg(in)]);
	c->rip = next_rip(c, in);
}

void exec_pop(struct cpu *c, const struct insn *in)
{
	u64 v = stack_pop(c, in->opsize);

	reg_write(c, opcode_reg(in), in->opsize, true, v);
	c->rip = next_rip(c, in);
}

void exec_push_imm(struct cpu *c, const struct insn *in)
{
	stack_push(c, in->opsize, in->imm);
	c->rip = next_rip(c, in);
}

void exec_push_rm(struct cpu *c, const struct insn *in)
{
	stack_push(c, in->opsize, rm_read(c, in, in->opsize));
	c->rip = next_rip(c, in);
}

/* POP r/m: an address with RSP as its base uses the value after the pop; a fault restores RSP. */
void exec_pop_rm(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 v = stack_peek(c, 0, size), rsp = c->gpr[GPR_RSP];
	gva_t la;

	if (!in->has_mem) {
		stack_add(c, size);
		reg_write(c, in->rm, size, true, v);
		c->rip = next_rip(c, in);
		return;
	}
	stack_add(c, size);
	la = insn_ea(c, in);
	c->gpr[GPR_RSP] = rsp;
	la = seg_linear(c, in->seg, la, size, MMU_WRITE);
	mem_write(c, la, size, v);
	stack_add(c, size);
	c->rip = next_rip(c, in);
}
