/*
 * Host machine code, bytes only: what the thunks are made of. No guest meaning here. An emitter
 * writes into a buffer and remembers when it did not fit; callers check once at the end.
 */
#ifndef RINGSHIFT_EMIT_X64_H
#define RINGSHIFT_EMIT_X64_H

#include <string.h>

#include "base.h"

struct emit {
	u8 *p, *end;
	bool full;
};

static inline void emit_u8(struct emit *e, u8 b)
{
	if (e->p < e->end)
		*e->p++ = b;
	else
		e->full = true;
}

static inline void emit_bytes(struct emit *e, const void *buf, unsigned n)
{
	const u8 *b = buf;

	while (n--)
		emit_u8(e, *b++);
}

/* A jump with 8 bits of displacement, which ends at `from`, leads here. */
static inline void emit_here8(struct emit *e, u8 *from)
{
	BUG_ON(e->p - from > 127);
	from[-1] = e->p - from;
}

static inline void emit_u32(struct emit *e, u32 v)
{
	emit_bytes(e, &v, 4);
}

/* The rel32 of a jump leads here. */
static inline void emit_here32(const struct emit *e, u8 *rel32)
{
	u32 rel = e->p - rel32 - 4;

	if (!e->full)
		memcpy(rel32, &rel, 4);
}

/* mod=10 r/m=[base+disp32]; base must not need a SIB byte (RSP, R12). */
static inline void emit_modrm_disp32(struct emit *e, unsigned reg, unsigned base, u32 disp)
{
	BUG_ON((base & 7) == 4);
	emit_u8(e, 0x80 | (reg & 7) << 3 | (base & 7));
	emit_u32(e, disp);
}

/* mov r64, [base+disp32] and back. */
static inline void emit_load64(struct emit *e, unsigned reg, unsigned base, u32 disp)
{
	emit_u8(e, 0x48 | (reg >> 3) << 2 | base >> 3);
	emit_u8(e, 0x8b);
	emit_modrm_disp32(e, reg, base, disp);
}

static inline void emit_store64(struct emit *e, unsigned reg, unsigned base, u32 disp)
{
	emit_u8(e, 0x48 | (reg >> 3) << 2 | base >> 3);
	emit_u8(e, 0x89);
	emit_modrm_disp32(e, reg, base, disp);
}

static inline void emit_mov64(struct emit *e, unsigned dst, unsigned src)
{
	emit_u8(e, 0x48 | (src >> 3) << 2 | dst >> 3);
	emit_u8(e, 0x89);
	emit_u8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}

static inline void emit_push(struct emit *e, unsigned reg)
{
	if (reg >= 8)
		emit_u8(e, 0x41);
	emit_u8(e, 0x50 | (reg & 7));
}

static inline void emit_pop(struct emit *e, unsigned reg)
{
	if (reg >= 8)
		emit_u8(e, 0x41);
	emit_u8(e, 0x58 | (reg & 7));
}

/* push qword [base+disp32]; pop qword [base+disp32] */
static inline void emit_push_mem(struct emit *e, unsigned base, u32 disp)
{
	if (base >= 8)
		emit_u8(e, 0x41);
	emit_u8(e, 0xff);
	emit_modrm_disp32(e, 6, base, disp);
}

static inline void emit_pop_mem(struct emit *e, unsigned base, u32 disp)
{
	if (base >= 8)
		emit_u8(e, 0x41);
	emit_u8(e, 0x8f);
	emit_modrm_disp32(e, 0, base, disp);
}

static inline void emit_popfq(struct emit *e)
{
	emit_u8(e, 0x9d);
}

static inline void emit_pushfq(struct emit *e)
{
	emit_u8(e, 0x9c);
}

static inline void emit_ret(struct emit *e)
{
	emit_u8(e, 0xc3);
}

/* 0F /opcode with a memory operand [base+disp32], optional REX.W: fxrstor64, ldmxcsr... */
static inline void emit_0f_mem(struct emit *e, u8 opcode, unsigned ext, unsigned base, u32 disp,
			       bool w)
{
	u8 rex = (w ? 0x48 : 0x40) | base >> 3;

	if (rex != 0x40)
		emit_u8(e, rex);
	emit_u8(e, 0x0f);
	emit_u8(e, opcode);
	emit_modrm_disp32(e, ext, base, disp);
}

/* movups/vmovups of a whole vector register of 16, 32 or 64 bytes from or to [base+disp32]. */
static inline void emit_vec_move(struct emit *e, unsigned reg, unsigned base, u32 disp,
				 unsigned width, bool store)
{
	u8 op = store ? 0x11 : 0x10;

	if (width == 64) { /* EVEX.512.0F.W0; disp32 form, so no disp8 scaling */
		emit_u8(e, 0x62);
		emit_u8(e, (reg & 8 ? 0 : 0x80) | 0x40 | (base & 8 ? 0 : 0x20) |
			       (reg & 16 ? 0 : 0x10) | 1);
		emit_u8(e, 0x7c);
		emit_u8(e, 0x48);
	} else if (width == 32) { /* VEX3.256.0F.WIG */
		emit_u8(e, 0xc4);
		emit_u8(e, (reg & 8 ? 0 : 0x80) | 0x40 | (base & 8 ? 0 : 0x20) | 1);
		emit_u8(e, 0x7c);
	} else {
		u8 rex = 0x40 | (reg >> 3 & 1) << 2 | base >> 3;

		if (rex != 0x40)
			emit_u8(e, rex);
		emit_u8(e, 0x0f);
	}
	emit_u8(e, op);
	emit_modrm_disp32(e, reg, base, disp);
}

/* kmovq k, [base+disp32] and back: VEX.L0.0F.W1 90/91 */
static inline void emit_kmovq(struct emit *e, unsigned k, unsigned base, u32 disp, bool store)
{
	emit_u8(e, 0xc4);
	emit_u8(e, 0x80 | 0x40 | (base & 8 ? 0 : 0x20) | 1);
	emit_u8(e, 0xf8);
	emit_u8(e, store ? 0x91 : 0x90);
	emit_modrm_disp32(e, k, base, disp);
}

static inline void emit_vzeroupper(struct emit *e)
{
	emit_bytes(e, "\xc5\xf8\x77", 3);
}

static inline void emit_fninit(struct emit *e)
{
	emit_bytes(e, "\xdb\xe3", 2);
}

/* --- absolute operands: what emitted code reaches lies below 2 GiB --- */

/* op reg, [abs32] */
static inline void emit_op_abs(struct emit *e, u8 op, unsigned reg, u32 addr)
{
	emit_u8(e, 0x48 | (reg >> 3) << 2);
	emit_u8(e, op);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0x25);
	emit_u32(e, addr);
}

static inline void emit_store_abs(struct emit *e, unsigned reg, u32 addr)
{
	emit_op_abs(e, 0x89, reg, addr);
}

static inline void emit_load_abs(struct emit *e, unsigned reg, u32 addr)
{
	emit_op_abs(e, 0x8b, reg, addr);
}

/* mov qword [abs32], imm32 sign-extended */
static inline void emit_store_imm_abs(struct emit *e, u32 addr, u32 imm)
{
	emit_bytes(e, "\x48\xc7\x04\x25", 4);
	emit_u32(e, addr);
	emit_u32(e, imm);
}

/* mov qword [abs32], imm64: two instructions if need be */
static inline void emit_store_imm64_abs(struct emit *e, u32 addr, u64 imm)
{
	if ((u64)(s64)(s32)imm == imm) {
		emit_store_imm_abs(e, addr, (u32)imm);
		return;
	}
	emit_bytes(e, "\xc7\x04\x25", 3);
	emit_u32(e, addr);
	emit_u32(e, (u32)imm);
	emit_bytes(e, "\xc7\x04\x25", 3);
	emit_u32(e, addr + 4);
	emit_u32(e, imm >> 32);
}

static inline void emit_movabs(struct emit *e, unsigned reg, u64 imm)
{
	emit_u8(e, 0x48 | reg >> 3);
	emit_u8(e, 0xb8 | (reg & 7));
	emit_bytes(e, &imm, 8);
}

/* lea dst, [base + index + disp32]; index is not RSP */
static inline void emit_lea_sum(struct emit *e, unsigned dst, unsigned base, unsigned index,
				u32 disp)
{
	emit_u8(e, 0x48 | (dst >> 3) << 2 | (index >> 3) << 1 | base >> 3);
	emit_u8(e, 0x8d);
	emit_u8(e, 0x84 | (dst & 7) << 3);
	emit_u8(e, (index & 7) << 3 | (base & 7));
	emit_u32(e, disp);
}

/* movzx r32, byte or word [abs32] */
static inline void emit_load_abs_zx(struct emit *e, unsigned reg, u32 addr, bool word)
{
	if (reg >= 8)
		emit_u8(e, 0x44);
	emit_u8(e, 0x0f);
	emit_u8(e, word ? 0xb7 : 0xb6);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0x25);
	emit_u32(e, addr);
}

#endif
