/*
 * Instructions that 64-bit mode lacks, and stack frames: DAA DAS AAA AAS AAM AAD SALC, BOUND, ARPL,
 * ENTER LEAVE, PUSHA POPA. Flags the manual leaves undefined are those recent Intel processors
 * produce. SDM vol. 2; vol. 1, 6.6 (procedure frames).
 */
#include "exec.h"
#include "mem.h"

static void finish(struct cpu *c, const struct insn *in)
{
	c->rip = insn_next_rip(c, in);
}

/* --- decimal and unpacked arithmetic --- */

static u64 result_flags(u8 v)
{
	return (v ? 0 : FL_ZF) | (v & 0x80 ? FL_SF : 0) | (__builtin_parity(v) ? 0 : FL_PF);
}

static void set_al(struct cpu *c, u8 v)
{
	reg_write(c, GPR_RAX, 1, true, v);
}

static void set_ax(struct cpu *c, u16 v)
{
	reg_write(c, GPR_RAX, 2, true, v);
}

static void exec_daa_das(struct cpu *c, bool subtract)
{
	u8 old = c->gpr[GPR_RAX], al = old, adjust = 0;
	u64 f = 0;

	if ((old & 15) > 9 || (c->aflags & FL_AF)) {
		adjust = 6;
		f |= FL_AF;
		/* A borrow or carry out of the first step stays. */
		if (subtract ? old < 6 : old > 0xf9)
			f |= FL_CF;
	}
	if (old > 0x99 || (c->aflags & FL_CF)) {
		adjust += 0x60;
		f |= FL_CF;
	}
	al = subtract ? old - adjust : old + adjust;
	set_al(c, al);
	c->aflags = f | result_flags(al);
}

/* OF, SF, ZF and PF are undefined; they come out as of the addition or subtraction to AL. */
static void exec_aaa_aas(struct cpu *c, bool subtract)
{
	u16 ax = c->gpr[GPR_RAX];
	u64 f = 0;

	if ((ax & 15) > 9 || (c->aflags & FL_AF)) {
		ax = subtract ? ax - 0x106 : ax + 0x106;
		f = FL_CF | FL_AF;
	}
	ax &= 0xff0f;
	set_ax(c, ax);
	c->aflags = f | result_flags((u8)ax);
}

static void exec_aam(struct cpu *c, u8 base)
{
	u8 al = c->gpr[GPR_RAX];

	if (!base)
		cpu_raise(c, EXC_DE);
	set_ax(c, (u16)(al / base) << 8 | al % base);
	c->aflags = result_flags(al % base);
}

/* The undefined flags are those of the 8-bit addition that ends it. */
static void exec_aad(struct cpu *c, u8 base)
{
	u8 a = c->gpr[GPR_RAX], b = (u8)(c->gpr[GPR_RAX] >> 8) * base, r = a + b;

	set_ax(c, r);
	c->aflags = result_flags(r) | (r < a ? FL_CF : 0) | ((a ^ b ^ r) & FL_AF) |
		    ((a ^ r) & (b ^ r) & 0x80 ? FL_OF : 0);
}

void exec_bcd(struct cpu *c, const struct insn *in)
{
	switch (in->opcode) {
	case 0x27: exec_daa_das(c, false); break;
	case 0x2f: exec_daa_das(c, true); break;
	case 0x37: exec_aaa_aas(c, false); break;
	case 0x3f: exec_aaa_aas(c, true); break;
	case 0xd4: exec_aam(c, (u8)in->imm); break;
	case 0xd5: exec_aad(c, (u8)in->imm); break;
	default: set_al(c, c->aflags & FL_CF ? 0xff : 0); break; /* SALC */
	}
	finish(c, in);
}

/* --- checks --- */

void exec_bound(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, shift = 64 - 8 * size;
	gva_t la = insn_linear(c, in, 2 * size, MMU_READ);
	u64 bounds[2] = {0};
	s64 index, low, high;

	mem_read_buf(c, la, bounds, 2 * size);
	index = (s64)(c->gpr[in->reg] << shift) >> shift;
	low = (s64)(bounds[0] << shift) >> shift;
	high = size == 4 ? (s32)(bounds[0] >> 32) : (s16)(bounds[0] >> 16);
	if (index < low || index > high)
		cpu_raise(c, EXC_BR);
	finish(c, in);
}

void exec_arpl(struct cpu *c, const struct insn *in)
{
	u16 src = c->gpr[in->reg], dst;
	bool raise;
	gva_t la = 0;

	if (cpu_real_or_v86(c))
		cpu_raise(c, EXC_UD);
	if (in->has_mem) {
		la = insn_linear(c, in, 2, MMU_WRITE);
		mem_probe_write(c, la, 2);
		dst = mem_read(c, la, 2);
	} else {
		dst = c->gpr[in->rm];
	}
	raise = (dst & 3) < (src & 3);
	if (raise) {
		dst = (dst & ~3) | (src & 3);
		if (in->has_mem)
			mem_write(c, la, 2, dst);
		else
			reg_write(c, in->rm, 2, true, dst);
	}
	c->aflags = (c->aflags & ~(u64)FL_ZF) | (raise ? FL_ZF : 0);
	finish(c, in);
}

/* --- frames --- */

/* RSP or RBP with a new value in the part that the stack size makes effective. */
static u64 merge(u64 old, u64 new, u64 mask)
{
	return mask == 0xffff ? (old & ~0xffffull) | (new & 0xffff) : new &mask;
}

/*
 * ENTER size, level. SP is moved only at the end: a fault on the way leaves it alone. The last
 * thing the processor checks is that the new top of the stack could be written.
 */
void exec_enter(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, level = in->bytes[in->off_imm + 2] & 31, i;
	u16 locals = in->bytes[in->off_imm] | in->bytes[in->off_imm + 1] << 8;
	u64 mask = stack_mask(c), sp = c->gpr[GPR_RSP], frame, bp = c->gpr[GPR_RBP], v;

	sp = (sp - size) & mask;
	mem_write(c, seg_linear(c, SEG_SS, sp, size, MMU_WRITE), size, bp);
	frame = sp;
	for (i = 1; i <= level; i++) {
		if (i < level) {
			bp = (bp - size) & mask;
			v = mem_read(c, seg_linear(c, SEG_SS, bp, size, MMU_READ), size);
		} else {
			v = merge(c->gpr[GPR_RSP], frame, mask);
		}
		sp = (sp - size) & mask;
		mem_write(c, seg_linear(c, SEG_SS, sp, size, MMU_WRITE), size, v);
	}
	sp = (sp - locals) & mask;
	mem_probe_write(c, seg_linear(c, SEG_SS, sp, size, MMU_WRITE), size);
	reg_write(c, GPR_RBP, size, true, merge(c->gpr[GPR_RSP], frame, mask));
	c->gpr[GPR_RSP] = merge(c->gpr[GPR_RSP], sp, mask);
	finish(c, in);
}

void exec_leave(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 mask = stack_mask(c), sp = c->gpr[GPR_RBP] & mask;
	u64 v = mem_read(c, seg_linear(c, SEG_SS, sp, size, MMU_READ), size);

	c->gpr[GPR_RSP] = merge(c->gpr[GPR_RSP], sp + size, mask);
	reg_write(c, GPR_RBP, size, true, v);
	finish(c, in);
}

void exec_pusha(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, i;
	u64 mask = stack_mask(c), sp;
	gva_t la[8];

	/* Eight pushes, checked before the first is made. */
	for (i = 0; i < 8; i++) {
		sp = (c->gpr[GPR_RSP] - (i + 1) * size) & mask;
		la[i] = seg_linear(c, SEG_SS, sp, size, MMU_WRITE);
		mem_probe_write(c, la[i], size);
	}
	for (i = 0; i < 8; i++)
		mem_write(c, la[i], size, c->gpr[i]); /* SP as it was before the first push */
	stack_add(c, -(s64)(8 * size));
	finish(c, in);
}

void exec_popa(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, i;
	u64 v[8];

	for (i = 0; i < 8; i++)
		v[i] = stack_peek(c, i * size, size);
	for (i = 0; i < 8; i++)
		if (7 - i != GPR_RSP)
			reg_write(c, 7 - i, size, true, v[i]);
	stack_add(c, 8 * size);
	finish(c, in);
}
