/*
 * Instructions that run in thunks, by what surrounds the thunk: memory operands, vector state and
 * its checks, masked operands, x87 pointers. And the few ordinary ones that need no thunk because
 * all they do is compute an address.
 */
#include <string.h>

#include "fpu_check.h"
#include "mem.h"
#include "op.h"
#include "xstate.h"

/* The linear address of a 64-bit mode operand, canonical or not: a hit in the TLB settles that. */
static ALWAYS_INLINE gva_t linear64(const struct cpu *c, const struct insn *in)
{
	u64 ea = in->disp;

	if (likely(in->base < 16))
		ea += c->gpr[in->base];
	else if (in->base == REG_RIP)
		ea += c->rip + in->len;
	if (in->index < 16)
		ea += c->gpr[in->index] * in->scale;
	if (unlikely(in->addrsize != 8))
		ea = (u32)ea;
	if (in->seg >= SEG_FS)
		ea += c->seg[in->seg].base;
	return ea;
}

static ALWAYS_INLINE void finish(struct cpu *c, const struct insn *in)
{
	c->rip = in->mode == INSN_MODE_64 ? c->rip + in->len : insn_next_rip(c, in);
}

void exec_reg(struct cpu *c, const struct insn *in)
{
	op_of(in)->thunk(c, NULL);
	finish(c, in);
}

/* FNINIT FNCLEX FLDCW FNSTCW FNSTSW and their like leave FIP, FDP and FOP alone. */
static bool x87_control(const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	switch (in->opcode) {
	case 0xd9: return in->has_mem && ext >= 4;
	case 0xdb: return !in->has_mem && ext == 4;
	case 0xdd: return in->has_mem && ext >= 4;
	case 0xdf: return !in->has_mem && ext == 4;
	case 0x9b: return true;
	default: return false;
	}
}

/*
 * Did the x87 store that has just run store nothing? An unmasked invalid operation, overflow or
 * underflow is found before the result would be written; an unmasked inexact result is written.
 * SDM vol. 1, 8.5.1.1, 8.5.4, 8.5.5. Flags unmasked before would have been #MF, so these are its
 * own.
 */
static bool x87_store_withheld(const struct cpu *c, const struct insn *in)
{
	const u16 before_result = 0x1f; /* PE is bit 5 */
	u16 fcw, fsw;

	if (!(in->state & STATE_X87) || x87_control(in))
		return false;
	memcpy(&fcw, c->vec.fx + FX_FCW, 2);
	memcpy(&fsw, c->vec.fx + FX_FSW, 2);
	return fsw & ~fcw & before_result;
}

/* The operand is in one page of RAM, or goes through a buffer of the same alignment. partial: a
 * mask may keep some of it from being written. A store that was withheld is not written either: the
 * buffer still has what others left there, and a device would take it for a command. */
static NOINLINE void run_with_operand(struct cpu *c, const struct insn *in, gva_t la, bool partial)
{
	enum mmu_access access = in->access & ACCESS_W ? MMU_WRITE : MMU_READ;
	unsigned size = in->mem_size;
	void *host = mem_host(c, la, size, access);
	u8 *bounce = c->engine->bounce + (la & 63);

	if (host) {
		op_of(in)->thunk(c, host);
		if (access == MMU_WRITE)
			mem_wrote(c, host, size);
		return;
	}
	if (access == MMU_WRITE)
		mem_probe_write(c, la, size);
	if ((in->access & ACCESS_R) || partial)
		mem_read_buf(c, la, bounce, size);
	op_of(in)->thunk(c, bounce);
	if (access == MMU_WRITE && !x87_store_withheld(c, in))
		mem_write_buf(c, la, bounce, size);
}

static ALWAYS_INLINE void mem_operand(struct cpu *c, const struct insn *in)
{
	enum mmu_access access = in->access & ACCESS_W ? MMU_WRITE : MMU_READ;
	gva_t la;
	void *host;

	if (likely(in->mode == INSN_MODE_64)) {
		la = linear64(c, in);
		host = mmu_fast(&c->mmu, la, in->mem_size, access, c->user);
		if (likely(host)) {
			op_of(in)->thunk(c, host);
			return;
		}
	}
	la = insn_linear(c, in, in->mem_size, access);
	run_with_operand(c, in, la, false);
}

void exec_mem(struct cpu *c, const struct insn *in)
{
	mem_operand(c, in);
	finish(c, in);
}

void exec_vec_reg(struct cpu *c, const struct insn *in)
{
	fpu_check(c, in->state);
	exec_reg(c, in);
}

void exec_vec_mem(struct cpu *c, const struct insn *in)
{
	fpu_check(c, in->state);
	mem_operand(c, in);
	finish(c, in);
}

/* Can len bytes (within one page) be accessed? No fault is raised, no A or D bit set. */
static bool accessible(struct cpu *c, gva_t la, enum mmu_access access, u32 *pf_error)
{
	struct walk w;

	if (mmu_probe(c->mmu.ram, &c->mmu.pg, la, access, c->user, &w) == 0)
		return true;
	*pf_error = w.error;
	return false;
}

/*
 * Operands whose elements a mask may switch off (AVX-512 masking, VMASKMOV): elements that are off
 * do not fault. If the whole operand is accessible this does not matter; else the host CPU decides
 * against guard pages.
 */
void exec_masked(struct cpu *c, const struct insn *in)
{
	enum mmu_access access = in->access & ACCESS_W ? MMU_WRITE : MMU_READ;
	struct masked_operand m = {.len = in->mem_size};
	unsigned first;
	bool low, high;
	u8 *at;

	fpu_check(c, in->state);
	m.la = insn_linear(c, in, in->mem_size, access);
	first = MIN(m.len, PAGE_SIZE - (m.la & ~PAGE_MASK));
	low = accessible(c, m.la, access, &m.pf_error);
	high = first == m.len ? low : accessible(c, m.la + first, access, &m.pf_error);
	if (low && high) {
		run_with_operand(c, in, m.la, true);
		finish(c, in);
		return;
	}
	if (first < m.len && low != high) {
		m.first = low ? 0 : first;
		m.count = low ? first : m.len - first;
	}
	at = thunk_guard_operand(c->engine->thunks, &m);
	if (m.count)
		mem_read_buf(c, m.la + m.first, at + m.first, m.count);
	op_of(in)->thunk(c, at);
	if (m.count && access == MMU_WRITE)
		mem_write_buf(c, m.la + m.first, at + m.first, m.count);
	finish(c, in);
}

/* The FXSAVE image holds our thunk's address as the last instruction, or nothing: put the guest's
 * there. */
static void x87_pointers(struct cpu *c, const struct insn *in, const u8 old[24])
{
	u8 *fx = c->vec.fx;
	u64 fip = c->rip, fdp;
	u16 fop = (in->opcode & 7) << 8 | in->modrm;
	bool hidden = c->host.x87_pointers_hidden;

	if (in->map != INSN_MAP_1B || x87_control(in)) {
		memcpy(fx + 6, old + 6, 18);
		if (in->map == INSN_MAP_1B && in->opcode == 0xdb && in->modrm == 0xe3) /* FNINIT */
			memset(fx + 6, 0, 18);
		return;
	}
	memcpy(fx + 8, &fip, 8);
	/* Newer Intel processors record FOP and FDP with unmasked exceptions only: do as this host
	 * did, unless it does not tell and so always records them. */
	if (hidden || memcmp(fx + 6, old + 6, 2))
		memcpy(fx + 6, &fop, 2);
	if (in->has_mem && (hidden || memcmp(fx + 16, old + 16, 8))) {
		fdp = insn_ea(c, in);
		memcpy(fx + 16, &fdp, 8);
	} else if (hidden) {
		memcpy(fx + 16, old + 16, 8);
	}
}

void exec_x87(struct cpu *c, const struct insn *in)
{
	u8 old[24];

	if (in->map == INSN_MAP_1B && in->opcode == 0x9b)
		fpu_check_wait(c);
	else
		fpu_check(c, in->state);
	memcpy(old, c->vec.fx, sizeof(old));
	c->x87_live = true;
	if (in->has_mem && in->mem_size)
		mem_operand(c, in);
	else
		op_of(in)->thunk(c, NULL);
	c->x87_live = false;
	x87_pointers(c, in, old);
	finish(c, in);
}

/*
 * BT, BTS, BTR, BTC with a bit offset in a register and a memory operand: the offset reaches beyond
 * the operand, so the thunk's trick does not work. Only CF changes.
 */
void exec_bit_string(struct cpu *c, const struct insn *in)
{
	unsigned size = in->opsize, kind = in->opcode >> 3 & 3;
	enum mmu_access access = kind ? MMU_WRITE : MMU_READ;
	s64 bit = reg_read(c, in->reg, size, true);
	u64 ea, mask, old, new;
	gva_t la;

	if (size < 8)
		bit = size == 4 ? (s32)bit : (s16)bit;
	ea = insn_ea(c, in) + (bit >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (s64)size;
	if (in->addrsize < 8)
		ea = in->addrsize == 4 ? (u32)ea : (u16)ea;
	la = seg_linear(c, in->seg, ea, size, access);
	if (kind)
		mem_probe_write(c, la, size);
	old = mem_read(c, la, size);
	mask = 1ull << (bit & (size * 8 - 1));
	new = kind == 1 ? old | mask : kind == 2 ? old & ~mask : old ^ mask;
	if (kind)
		mem_write(c, la, size, new);
	c->aflags = (c->aflags & ~(u64)FL_CF) | (old & mask ? FL_CF : 0);
	finish(c, in);
}

void exec_lea(struct cpu *c, const struct insn *in)
{
	reg_write(c, in->reg, in->opsize, true, insn_ea(c, in));
	finish(c, in);
}

void exec_nop(struct cpu *c, const struct insn *in)
{
	finish(c, in);
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a byte is read as far as translation and limits go. */
void exec_probe(struct cpu *c, const struct insn *in)
{
	mem_probe_read(c, insn_linear(c, in, 1, MMU_READ), 1);
	finish(c, in);
}

void exec_ud(struct cpu *c, const struct insn *in)
{
	(void)in;
	cpu_raise(c, EXC_UD);
}
