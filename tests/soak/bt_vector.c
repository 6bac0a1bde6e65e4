/* See bt_vector.h. */
#include "bt_vector.h"

#include <string.h>

#include "op.h"
#include "thunk_fault.h"
#include "xstate.h"

/* XSAVE and its kin need a CPUID, gathers have addresses of their own. */
static bool wanted(const struct insn *in, u16 kept)
{
	bool xstate = in->map == INSN_MAP_0F && in->opcode == 0xae && in->has_mem;

	if (!in->state || (in->class != CLASS_IDENTICAL && in->class != CLASS_MEMORY))
		return false;
	if (xstate && (in->modrm >> 3 & 7) != 2 && (in->modrm >> 3 & 7) != 3)
		return false;
	return !(in->gpr_written & kept) && !in->vsib && in->addrsize == 8;
}

static unsigned put_legacy(u64 r, const struct form *f, bool mem, u8 *p)
{
	static const u8 mandatory[8] = {0, 0x66, 0x66, 0x66, 0xf2, 0xf3, 0, 0};
	unsigned n = 0, map = r >> 8 & 7;
	u8 prefix = mandatory[r >> 16 & 7], rex = (r >> 24 & 0xc) | (mem ? f->x << 1 | f->b : 0);

	if (prefix)
		p[n++] = prefix;
	if (rex)
		p[n++] = 0x40 | rex;
	p[n++] = 0x0f;
	if (map < 2)
		p[n++] = map ? 0x3a : 0x38;
	return n;
}

static unsigned put_vex(u64 r, const struct form *f, bool mem, u8 *p)
{
	bool x = mem ? f->x : r >> 8 & 1, b = mem ? f->b : r >> 9 & 1;

	p[0] = 0xc4;
	p[1] = (r >> 16 & 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (1 + (r >> 24 & 0xff) % 3);
	p[2] = r >> 32;
	return 3;
}

static unsigned put_evex(u64 r, const struct form *f, bool mem, u8 *p)
{
	bool x = mem ? f->x : r >> 8 & 1, b = mem ? f->b : r >> 9 & 1;

	p[0] = 0x62;
	p[1] = (r >> 16 & 0x90) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (1 + (r >> 24 & 0xff) % 3);
	p[2] = (r >> 32 & 0xfb) | 4;
	p[3] = r >> 40;
	if (r & 0x400) /* no mask, no broadcast */
		p[3] &= 0x68;
	return 4;
}

unsigned vector_insn(u64 *rng, struct decoder *d, const struct form *f, u16 kept, u8 out[16])
{
	u64 r = soak_rnd(rng);
	bool mem = r & 0x8000;
	unsigned kind = r & 7, n = 0, avx = __builtin_cpu_supports("avx");
	struct insn in;
	struct form rip = {.mod_rm = 5, .disp_size = 4, .x = r >> 16 & 1, .b = r >> 17 & 1};
	s32 disp;
	int len;

	if ((r & 0x3800) == 0)
		f = &rip;
	disp = f->disp;
	if (mem && f->gs)
		out[n++] = 0x65;
	if (kind < 3 || !avx) {
		n += put_legacy(r, f, mem, out + n);
		out[n++] = r >> 48;
	} else if (kind == 3) { /* x87 */
		if (mem && (f->x || f->b))
			out[n++] = 0x40 | f->x << 1 | f->b;
		out[n++] = 0xd8 | (r >> 48 & 7);
	} else {
		n += kind < 6 || !__builtin_cpu_supports("avx512bw") ? put_vex(r, f, mem, out + n)
								     : put_evex(r, f, mem, out + n);
		out[n++] = r >> 48;
	}
	out[n++] = mem ? f->mod_rm | (r >> 53 & 0x38) : 0xc0 | r >> 56;
	if (mem && f->has_sib)
		out[n++] = f->sib;
	if (mem)
		memcpy(out + n, &disp, f->disp_size);
	n += mem ? f->disp_size : 0;
	while (n < 16)
		out[n++] = soak_rnd(rng);
	len = decoder_decode(d, out, 15, INSN_MODE_64, &in);
	return len > 0 && wanted(&in, kept) && in.has_mem == mem ? len : 0;
}

void vector_aim(struct decoder *d, u8 code[16], u64 at, u64 target)
{
	struct insn in;
	u64 rel;

	if (decoder_decode(d, code, 15, INSN_MODE_64, &in) <= 0 || in.base != REG_RIP)
		return;
	rel = target - (at + in.len);
	memcpy(code + in.off_disp, &rel, 4);
}

void vector_state(u64 *rng, struct cpu *c)
{
	struct vec_state *v = &c->vec;
	u64 r = soak_rnd(rng);
	unsigned i, k;

	c->cr0 &= ~(CR0_TS | CR0_EM);
	c->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	c->xcr0 = XFEATURE_X87 | XFEATURE_SSE;
	if (c->engine->thunks->vec_width >= 32)
		c->xcr0 |= XFEATURE_AVX;
	if (c->engine->thunks->vec_width == 64)
		c->xcr0 |= XFEATURE_AVX512;
	switch (r & 63) {
	case 0: c->cr0 |= CR0_TS; break;
	case 1: c->cr0 |= CR0_EM; break;
	case 2: c->cr4 &= ~CR4_OSFXSR; break;
	case 3: c->cr4 &= ~CR4_OSXSAVE; break;
	case 4: c->xcr0 &= ~XFEATURE_AVX512; break;
	case 5: c->xcr0 &= ~(XFEATURE_AVX512 | XFEATURE_AVX); break;
	default: break;
	}
	for (i = 0; i < 32; i++)
		for (k = 0; k < c->engine->thunks->vec_width; k += 4) {
			u64 w = soak_rnd(rng);
			u32 e = w & 0x300000000 ? (u32)w : (u32)w & 0x83ffffff; /* small floats */

			memcpy(v->zmm[i] + k, &e, 4);
		}
	for (i = 0; i < 8 && c->engine->thunks->vec_width == 64; i++)
		v->k[i] = soak_rnd(rng);
	v->mxcsr = r & 0x700 ? MXCSR_INIT | (r >> 16 & 0xe07f) : r >> 16 & c->host.mxcsr_mask;
	for (i = FX_ST; i < FX_XMM; i++)
		v->fx[i] = soak_rnd(rng);
	x87_init(c);
	v->fx[FX_FTW] = r >> 32;
	v->fx[FX_FSW + 1] = r >> 40 & 0x38; /* TOP */
	if ((r >> 48 & 15) == 0)
		v->fx[FX_FCW] = r >> 52 & 0x7f;
	x87_normalise(c);
}

static unsigned differ(const char *what, unsigned n, const u8 *bt, const u8 *step, unsigned size)
{
	unsigned i;

	if (!memcmp(bt, step, size))
		return 0;
	printf("  %s%u: translated", what, n);
	for (i = 0; i < size; i++)
		printf("%s%02x", i & 7 ? "" : " ", bt[i]);
	printf(" stepped");
	for (i = 0; i < size; i++)
		printf("%s%02x", i & 7 ? "" : " ", step[i]);
	printf("\n");
	return 1;
}

unsigned vector_compare(const struct cpu *bt, const struct cpu *step)
{
	const struct vec_state *a = &bt->vec, *b = &step->vec;
	unsigned bad = 0, i;

	for (i = 0; i < 32; i++)
		bad += differ("zmm", i, a->zmm[i], b->zmm[i], 64);
	for (i = 0; i < 8; i++)
		bad += differ("k", i, (const u8 *)&a->k[i], (const u8 *)&b->k[i], 8);
	bad += differ("mxcsr", 0, (const u8 *)&a->mxcsr, (const u8 *)&b->mxcsr, 4);
	bad += differ("x87 ", 0, a->fx, b->fx, FX_MXCSR);
	bad += differ("x87 registers ", 0, a->fx + FX_ST, b->fx + FX_ST, FX_XMM - FX_ST);
	return bad;
}
