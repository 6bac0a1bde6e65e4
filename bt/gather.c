/*
 * Gathers and scatters: one memory access per element whose index comes from a vector register.
 *
 *	0F38 90..93  gathers   bit 0: 64-bit indices, bit 1: floating point, W: 64-bit elements
 *	0F38 a0..a3  scatters  the same
 *
 * Elements are done in order. As each completes, its mask bit (EVEX: opmask; VEX: the sign of an
 * element of the register in vvvv) is cleared, so after a fault the instruction goes on where it
 * stopped. SDM vol. 2, VGATHERDPS and VPSCATTERDD.
 */
#include <string.h>

#include "exec.h"
#include "fpu_check.h"
#include "mem.h"

#define INDEX_64 0x01u
#define SCATTER  0x20u

struct gather {
	struct cpu *c;
	const struct insn *in;
	unsigned elem, index_size; /* bytes */
	unsigned n;                /* elements */
	unsigned data;             /* register */
};

static u64 element_at(const u8 *reg, unsigned i, unsigned size)
{
	u64 v = 0;

	memcpy(&v, reg + i * size, size);
	return v;
}

/* Effective address of element i. */
static u64 address(const struct gather *g, unsigned i)
{
	const struct insn *in = g->in;
	u64 index = element_at(g->c->vec.zmm[in->index], i, g->index_size), a;

	if (g->index_size == 4)
		index = (s64)(s32)index;
	a = insn_ea(g->c, in) + index * in->scale;
	return in->addrsize == 8 ? a : (u32)a;
}

static u64 load(const struct gather *g, unsigned i)
{
	return mem_read(g->c, seg_linear(g->c, g->in->seg, address(g, i), g->elem, MMU_READ),
			g->elem);
}

static void store(const struct gather *g, unsigned i)
{
	gva_t la = seg_linear(g->c, g->in->seg, address(g, i), g->elem, MMU_WRITE);

	mem_write(g->c, la, g->elem, element_at(g->c->vec.zmm[g->data], i, g->elem));
}

static void put(const struct gather *g, unsigned i, u64 v)
{
	memcpy(g->c->vec.zmm[g->data] + i * g->elem, &v, g->elem);
}

static void gather_vex(const struct gather *g)
{
	u8 *mask = g->c->vec.zmm[g->in->vvvv];
	unsigned i;

	for (i = 0; i < g->n; i++) {
		if (!(mask[(i + 1) * g->elem - 1] & 0x80))
			continue;
		put(g, i, load(g, i));
		memset(mask + i * g->elem, 0, g->elem);
	}
	memset(mask, 0, 64);
	memset(g->c->vec.zmm[g->data] + g->n * g->elem, 0, 64 - g->n * g->elem);
}

static void gather_evex(const struct gather *g)
{
	u64 *k = &g->c->vec.k[g->in->evex_aaa];
	unsigned i;

	for (i = 0; i < g->n; i++) {
		if (!(*k >> i & 1))
			continue;
		put(g, i, load(g, i));
		*k &= ~(1ull << i);
	}
	*k = 0;
	memset(g->c->vec.zmm[g->data] + g->n * g->elem, 0, 64 - g->n * g->elem);
}

static void scatter(const struct gather *g)
{
	u64 *k = &g->c->vec.k[g->in->evex_aaa];
	unsigned i;

	for (i = 0; i < g->n; i++) {
		if (!(*k >> i & 1))
			continue;
		store(g, i);
		*k &= ~(1ull << i);
	}
	*k = 0;
}

/* The combinations the manual makes #UD. */
static bool undefined(const struct gather *g)
{
	const struct insn *in = g->in;
	bool store = in->opcode & SCATTER;

	if (in->enc == INSN_VEX)
		return store || in->vl > 32 || in->reg == in->vvvv || in->reg == in->index ||
		       in->index == in->vvvv;
	return !in->evex_aaa || in->evex_z || in->evex_b || in->vl > 64 || (in->vvvv & 15) ||
	       (!store && in->reg == in->index);
}

void exec_gather(struct cpu *c, const struct insn *in)
{
	struct gather g = {
	    .c = c,
	    .in = in,
	    .elem = in->w ? 8 : 4,
	    .index_size = in->opcode & INDEX_64 ? 8 : 4,
	    .data = in->reg,
	};

	g.n = in->vl / MAX(g.elem, g.index_size);
	if ((in->opcode & ~3u) != 0x90 && (in->opcode & ~3u) != 0xa0)
		cpu_raise(c, EXC_UD);
	if (undefined(&g))
		cpu_raise(c, EXC_UD);
	fpu_check(c, in->enc == INSN_VEX ? STATE_AVX : STATE_AVX512 | STATE_OPMASK);
	if (in->opcode & SCATTER)
		scatter(&g);
	else if (in->enc == INSN_VEX)
		gather_vex(&g);
	else
		gather_evex(&g);
	c->rip = insn_next_rip(c, in);
}
