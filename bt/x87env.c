/*
 * The x87 environment and register stack in memory: FNSTENV FLDENV FNSAVE FRSTOR in their four
 * layouts (16- and 32-bit, real and protected), and the x87 part of struct vec_state.
 *
 * The last-instruction selectors are not kept: CPUID tells the guest that they read as zero
 * (leaf 7, EBX bit 13). SDM vol. 1, 8.1.
 */
#include <string.h>

#include "fpu_check.h"
#include "mem.h"
#include "xstate.h"

#define FSW_TOP_SHIFT  11
#define FSW_EXCEPTIONS 0x003fu
#define FSW_ES         0x0080u
#define FSW_B          0x8000u
#define FCW_KNOWN      0x1f3fu
#define FCW_ONE        0x0040u /* reads as one always */
#define FCW_INIT       0x037fu
#define FOP_MASK       0x07ffu
#define ENV_MAX        28u
#define STACK_BYTES    80u

struct x87_env {
	u16 fcw, fsw, ftw; /* ftw: two bits per physical register */
	u16 fop;
	u64 fip, fdp;
};

static u64 get(const u8 *p, unsigned size)
{
	u64 v = 0;

	memcpy(&v, p, size);
	return v;
}

static void put(u8 *p, unsigned size, u64 v)
{
	memcpy(p, &v, size);
}

static unsigned top(const struct cpu *c)
{
	return get(c->vec.fx + FX_FSW, 2) >> FSW_TOP_SHIFT & 7;
}

/* Where physical register n is in the image, which has them in stack order. */
static unsigned slot(const struct cpu *c, unsigned n)
{
	return FX_ST + 16 * ((n - top(c)) & 7);
}

/* A new TOP: physical registers stay what they are, so they move in the image. */
static void set_top_of_same_registers(struct cpu *c, unsigned new_top)
{
	u8 *fx = c->vec.fx, st[128];
	u16 fsw = get(fx + FX_FSW, 2) & ~(7u << FSW_TOP_SHIFT);
	unsigned n;

	for (n = 0; n < 8; n++)
		memcpy(st + 16 * n, fx + slot(c, n), 16);
	put(fx + FX_FSW, 2, fsw | new_top << FSW_TOP_SHIFT);
	for (n = 0; n < 8; n++)
		memcpy(fx + slot(c, n), st + 16 * n, 16);
}

void x87_init(struct cpu *c)
{
	set_top_of_same_registers(c, 0);
	memset(c->vec.fx + FX_FSW, 0, FX_MXCSR - FX_FSW);
	put(c->vec.fx + FX_FCW, 2, FCW_INIT);
}

void x87_normalise(struct cpu *c)
{
	u8 *fx = c->vec.fx;
	u16 fcw = (get(fx + FX_FCW, 2) & FCW_KNOWN) | FCW_ONE;
	u16 fsw = get(fx + FX_FSW, 2) & ~(FSW_ES | FSW_B);
	unsigned i;

	if (fsw & ~fcw & FSW_EXCEPTIONS)
		fsw |= FSW_ES | FSW_B;
	put(fx + FX_FCW, 2, fcw);
	put(fx + FX_FSW, 2, fsw);
	fx[FX_FTW + 1] = 0;
	put(fx + FX_FOP, 2, get(fx + FX_FOP, 2) & FOP_MASK);
	for (i = 0; i < 8; i++)
		memset(fx + FX_ST + 16 * i + 10, 0, 6);
}

bool x87_pointers_hidden(const struct cpu *c)
{
	return c->host.x87_pointers_hidden && !(c->vec.fx[FX_FSW] & FSW_ES);
}

bool x87_is_init(const struct cpu *c)
{
	const u8 *fx = c->vec.fx;
	unsigned shown = x87_pointers_hidden(c) ? FX_FOP : FX_MXCSR, i;

	if (get(fx + FX_FCW, 2) != FCW_INIT)
		return false;
	for (i = FX_FSW; i < shown; i++)
		if (fx[i])
			return false;
	for (i = FX_ST; i < FX_XMM; i++)
		if (fx[i])
			return false;
	return true;
}

void mmx_read(const struct cpu *c, unsigned n, u8 out[8])
{
	memcpy(out, c->vec.fx + slot(c, n), 8);
}

void mmx_enter(struct cpu *c)
{
	set_top_of_same_registers(c, 0);
	c->vec.fx[FX_FTW] = 0xff;
}

void fpu_check_pending(struct cpu *c)
{
	if (likely(!(c->vec.fx[FX_FSW] & FSW_ES)))
		return;
	if (c->cr0 & CR0_NE)
		cpu_raise(c, EXC_MF);
	c->ops->fpu_error(c->vm);
	cpu_raise(c, EXC_NONE);
}

/* --- tag word --- */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned tag_of(const u8 st[10])
{
	u64 significand = get(st, 8);
	unsigned exponent = get(st + 8, 2) & 0x7fff;

	if (exponent == 0)
		return significand ? TAG_SPECIAL : TAG_ZERO;
	return exponent == 0x7fff || !(significand >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static u16 full_tags(const struct cpu *c)
{
	u16 tags = 0;
	unsigned n;

	for (n = 0; n < 8; n++) {
		bool used = c->vec.fx[FX_FTW] >> n & 1;

		tags |= (used ? tag_of(c->vec.fx + slot(c, n)) : TAG_EMPTY) << (2 * n);
	}
	return tags;
}

static u8 abridged_tags(u16 tags)
{
	u8 out = 0;
	unsigned n;

	for (n = 0; n < 8; n++)
		if ((tags >> (2 * n) & 3) != TAG_EMPTY)
			out |= 1u << n;
	return out;
}

/* --- environment --- */

static void env_get(const struct cpu *c, struct x87_env *e)
{
	const u8 *fx = c->vec.fx;

	e->fcw = get(fx + FX_FCW, 2);
	e->fsw = get(fx + FX_FSW, 2);
	e->ftw = full_tags(c);
	e->fop = get(fx + FX_FOP, 2) & FOP_MASK;
	e->fip = get(fx + FX_FIP, 8);
	e->fdp = get(fx + FX_FDP, 8);
}

/* The register stack must have the new TOP already. */
static void env_set(struct cpu *c, const struct x87_env *e)
{
	u8 *fx = c->vec.fx;

	put(fx + FX_FCW, 2, e->fcw);
	put(fx + FX_FSW, 2, e->fsw);
	put(fx + FX_FTW, 2, abridged_tags(e->ftw));
	put(fx + FX_FOP, 2, e->fop);
	put(fx + FX_FIP, 8, e->fip);
	put(fx + FX_FDP, 8, e->fdp);
	x87_normalise(c);
}

static unsigned env_size(const struct insn *in)
{
	return in->opsize == 2 ? 14 : ENV_MAX;
}

static void env_encode_16(const struct x87_env *e, bool real, u8 *out)
{
	put(out, 2, e->fcw);
	put(out + 2, 2, e->fsw);
	put(out + 4, 2, e->ftw);
	put(out + 6, 2, e->fip);
	put(out + 8, 2, real ? (e->fip >> 4 & 0xf000) | e->fop : 0);
	put(out + 10, 2, e->fdp);
	put(out + 12, 2, real ? e->fdp >> 4 & 0xf000 : 0);
}

static void env_encode_32(const struct x87_env *e, bool real, u8 *out)
{
	put(out, 4, e->fcw | 0xffff0000u);
	put(out + 4, 4, e->fsw | 0xffff0000u);
	put(out + 8, 4, e->ftw | 0xffff0000u);
	if (real) {
		put(out + 12, 4, (e->fip & 0xffff) | 0xffff0000u);
		put(out + 16, 4, (e->fip >> 4 & 0x0ffff000u) | e->fop);
		put(out + 20, 4, (e->fdp & 0xffff) | 0xffff0000u);
		put(out + 24, 4, e->fdp >> 4 & 0x0ffff000u);
	} else {
		put(out + 12, 4, e->fip);
		put(out + 16, 4, (u32)e->fop << 16);
		put(out + 20, 4, e->fdp);
		put(out + 24, 4, 0xffff0000u);
	}
}

static void env_decode_16(struct x87_env *e, bool real, const u8 *in)
{
	u16 ip_high = get(in + 8, 2), dp_high = get(in + 12, 2);

	e->fcw = get(in, 2);
	e->fsw = get(in + 2, 2);
	e->ftw = get(in + 4, 2);
	e->fip = get(in + 6, 2);
	e->fdp = get(in + 10, 2);
	e->fop = 0;
	if (real) {
		e->fip |= (u32)(ip_high & 0xf000) << 4;
		e->fdp |= (u32)(dp_high & 0xf000) << 4;
		e->fop = ip_high & FOP_MASK;
	}
}

static void env_decode_32(struct x87_env *e, bool real, const u8 *in)
{
	u32 ip_high = get(in + 16, 4), dp_high = get(in + 24, 4);

	e->fcw = get(in, 2);
	e->fsw = get(in + 4, 2);
	e->ftw = get(in + 8, 2);
	if (real) {
		e->fip = get(in + 12, 2) | (ip_high & 0x0ffff000u) << 4;
		e->fdp = get(in + 20, 2) | (dp_high & 0x0ffff000u) << 4;
		e->fop = ip_high & FOP_MASK;
	} else {
		e->fip = get(in + 12, 4);
		e->fdp = get(in + 20, 4);
		e->fop = ip_high >> 16 & FOP_MASK;
	}
}

static void env_encode(const struct cpu *c, const struct insn *in, u8 *out)
{
	struct x87_env e;

	env_get(c, &e);
	if (in->opsize == 2)
		env_encode_16(&e, cpu_real_or_v86(c), out);
	else
		env_encode_32(&e, cpu_real_or_v86(c), out);
}

static void env_decode(const struct cpu *c, const struct insn *in, const u8 *bytes,
		       struct x87_env *e)
{
	if (in->opsize == 2)
		env_decode_16(e, cpu_real_or_v86(c), bytes);
	else
		env_decode_32(e, cpu_real_or_v86(c), bytes);
}

static void exec_fnstenv(struct cpu *c, const struct insn *in)
{
	unsigned len = env_size(in);
	u8 buf[ENV_MAX];

	env_encode(c, in, buf);
	mem_write_buf(c, insn_linear(c, in, len, MMU_WRITE), buf, len);
	c->vec.fx[FX_FCW] |= FSW_EXCEPTIONS;
	x87_normalise(c);
}

static void exec_fldenv(struct cpu *c, const struct insn *in)
{
	unsigned len = env_size(in);
	u8 buf[ENV_MAX];
	struct x87_env e;

	mem_read_buf(c, insn_linear(c, in, len, MMU_READ), buf, len);
	env_decode(c, in, buf, &e);
	set_top_of_same_registers(c, e.fsw >> FSW_TOP_SHIFT & 7);
	env_set(c, &e);
}

static void exec_fnsave(struct cpu *c, const struct insn *in)
{
	unsigned len = env_size(in), i;
	u8 buf[ENV_MAX + STACK_BYTES];

	env_encode(c, in, buf);
	for (i = 0; i < 8; i++)
		memcpy(buf + len + 10 * i, c->vec.fx + FX_ST + 16 * i, 10);
	len += STACK_BYTES;
	mem_write_buf(c, insn_linear(c, in, len, MMU_WRITE), buf, len);
	x87_init(c);
}

static void exec_frstor(struct cpu *c, const struct insn *in)
{
	unsigned env = env_size(in), len = env + STACK_BYTES, i;
	u8 buf[ENV_MAX + STACK_BYTES];
	struct x87_env e;

	mem_read_buf(c, insn_linear(c, in, len, MMU_READ), buf, len);
	env_decode(c, in, buf, &e);
	for (i = 0; i < 8; i++)
		memcpy(c->vec.fx + FX_ST + 16 * i, buf + env + 10 * i, 10);
	env_set(c, &e);
}

void exec_x87_env(struct cpu *c, const struct insn *in)
{
	bool store = in->modrm >> 3 & 2; /* /6, not /4 */

	fpu_check(c, STATE_X87);
	if (!store)
		fpu_check_pending(c); /* FNSTENV and FNSAVE do not wait */
	if (in->opcode == 0xd9)
		(store ? exec_fnstenv : exec_fldenv)(c, in);
	else
		(store ? exec_fnsave : exec_frstor)(c, in);
	c->rip = insn_next_rip(c, in);
}
