/*
 * Saving and restoring extended state: FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR, XGETBV,
 * XSETBV, LDMXCSR, STMXCSR, VZEROUPPER, VZEROALL.
 *
 * Where a component lies in an XSAVE area, and how long it is, comes from the CPUID the guest sees
 * (leaf 0xd), so the two cannot disagree. Nothing is remembered about what memory holds: XSAVEOPT
 * leaves out only what is in its initial state. All of an area that will be touched is probed
 * before the first byte is written, and a restore reads all before it changes a register.
 *
 * SDM vol. 1, chapter 13; vol. 2, FXSAVE.
 */
#include "xstate.h"

#include <string.h>

#include "fpu_check.h"
#include "mem.h"

#define XSAVE_LEGACY  512u
#define XSAVE_HEADER  64u
#define XSAVE_FIRST   (XSAVE_LEGACY + XSAVE_HEADER)
#define XSAVE_MAX     4096u /* the CPU model offers no layout beyond a page */
#define XCOMP_COMPACT (1ull << 63)

enum { COMP_X87, COMP_SSE, COMP_AVX, COMP_OPMASK, COMP_ZMM_HI256, COMP_HI16_ZMM, COMP_COUNT };
/* Their bits in XCR0. */
static const u8 comp_bit[COMP_COUNT] = {0, 1, 2, 5, 6, 7};
/* What of a component we have. */
static const u16 comp_len[COMP_COUNT] = {0, 0, 256, 64, 512, 1024};

struct layout {
	u32 off[COMP_COUNT], size; /* size: of the whole area */
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

static NORETURN void gp0(struct cpu *c)
{
	cpu_raise_error(c, EXC_GP, 0);
}

static u64 edx_eax(const struct cpu *c)
{
	return c->gpr[GPR_RDX] << 32 | (u32)c->gpr[GPR_RAX];
}

/* The vector registers an instruction in this code size reaches. */
static unsigned reach(const struct insn *in)
{
	return in->mode == INSN_MODE_64 ? 16 : 8;
}

static gva_t at(const struct insn *in, gva_t la, u32 off)
{
	return in->mode == INSN_MODE_64 ? la + off : (u32)(la + off);
}

/* --- layout --- */

static void layout_get(struct cpu *c, u64 features, bool compact, struct layout *l)
{
	u32 leaf[4];
	unsigned i;

	memset(l, 0, sizeof(*l));
	l->size = XSAVE_FIRST;
	for (i = COMP_AVX; i < COMP_COUNT; i++) {
		if (!(features >> comp_bit[i] & 1))
			continue;
		c->ops->cpuid(c->vm, 0xd, comp_bit[i], leaf);
		if (compact && (leaf[2] & 2))
			l->size = ALIGN_UP(l->size, 64);
		l->off[i] = compact ? l->size : leaf[1];
		l->size = compact ? l->size + leaf[0] : MAX(l->size, leaf[1] + leaf[0]);
	}
	BUG_ON(l->size > XSAVE_MAX);
}

/* --- components to and from bytes --- */

static bool all_zero(const void *p, size_t len)
{
	const u8 *b = p;
	size_t i;

	for (i = 0; i < len; i++)
		if (b[i])
			return false;
	return true;
}

/* XINUSE: the components that are not in their initial state. */
static u64 in_use(const struct cpu *c, const struct insn *in)
{
	const struct vec_state *v = &c->vec;
	unsigned n = reach(in), i;
	u64 bits = x87_is_init(c) ? 0 : XFEATURE_X87;

	for (i = 0; i < n; i++) {
		if (!all_zero(v->zmm[i], 16))
			bits |= XFEATURE_SSE;
		if (!all_zero(v->zmm[i] + 16, 16))
			bits |= XFEATURE_AVX;
		if (!all_zero(v->zmm[i] + 32, 32))
			bits |= 1ull << 6;
	}
	if (!all_zero(v->k, sizeof(v->k)))
		bits |= 1ull << 5;
	if (n == 16 && !all_zero(v->zmm[16], 16 * 64))
		bits |= 1ull << 7;
	return bits & c->xcr0;
}

/* A component's bytes; returns how many (outside 64-bit mode some registers do not exist). */
static unsigned comp_encode(const struct cpu *c, const struct insn *in, unsigned comp, u8 *out)
{
	const struct vec_state *v = &c->vec;
	unsigned n = reach(in), i;

	switch (comp) {
	case COMP_AVX:
		for (i = 0; i < n; i++)
			memcpy(out + 16 * i, v->zmm[i] + 16, 16);
		return 16 * n;
	case COMP_OPMASK: memcpy(out, v->k, 64); return 64;
	case COMP_ZMM_HI256:
		for (i = 0; i < n; i++)
			memcpy(out + 32 * i, v->zmm[i] + 32, 32);
		return 32 * n;
	default:
		if (n < 16)
			return 0;
		memcpy(out, v->zmm[16], 1024);
		return 1024;
	}
}

/* in_bytes NULL: the initial state. */
static void comp_decode(struct cpu *c, const struct insn *in, unsigned comp, const u8 *in_bytes)
{
	static const u8 zeros[1024];
	struct vec_state *v = &c->vec;
	unsigned n = reach(in), i;

	if (!in_bytes)
		in_bytes = zeros;
	switch (comp) {
	case COMP_AVX:
		for (i = 0; i < n; i++)
			memcpy(v->zmm[i] + 16, in_bytes + 16 * i, 16);
		break;
	case COMP_OPMASK: memcpy(v->k, in_bytes, 64); break;
	case COMP_ZMM_HI256:
		for (i = 0; i < n; i++)
			memcpy(v->zmm[i] + 32, in_bytes + 32 * i, 32);
		break;
	case COMP_HI16_ZMM:
		if (n == 16)
			memcpy(v->zmm[16], in_bytes, 1024);
		break;
	}
}

void x87_encode(const struct cpu *c, bool w, u8 *out)
{
	const u8 *fx = c->vec.fx;

	memcpy(out, fx, FX_MXCSR);
	out[5] = 0;
	if (x87_pointers_hidden(c))
		memset(out + FX_FOP, 0, FX_MXCSR - FX_FOP);
	if (!w) {
		put(out + FX_FIP + 4, 4, 0);
		put(out + FX_FDP + 4, 4, 0);
	}
	memcpy(out + FX_ST, fx + FX_ST, FX_XMM - FX_ST);
}

static void x87_decode(struct cpu *c, bool w, const u8 *in_bytes)
{
	u8 *fx = c->vec.fx;

	memcpy(fx, in_bytes, FX_MXCSR);
	if (!w) {
		put(fx + FX_FIP + 4, 4, 0);
		put(fx + FX_FDP + 4, 4, 0);
	}
	memcpy(fx + FX_ST, in_bytes + FX_ST, FX_XMM - FX_ST);
	x87_normalise(c);
}

static void xmm_encode(const struct cpu *c, unsigned n, u8 *out)
{
	unsigned i;

	for (i = 0; i < n; i++)
		memcpy(out + FX_XMM + 16 * i, c->vec.zmm[i], 16);
}

static void xmm_decode(struct cpu *c, unsigned n, const u8 *in_bytes)
{
	unsigned i;

	for (i = 0; i < n; i++)
		if (in_bytes)
			memcpy(c->vec.zmm[i], in_bytes + FX_XMM + 16 * i, 16);
		else
			memset(c->vec.zmm[i], 0, 16);
}

static void check_mxcsr(struct cpu *c, u32 mxcsr)
{
	if (mxcsr & ~c->host.mxcsr_mask)
		gp0(c);
}

/* --- FXSAVE, FXRSTOR --- */

static gva_t fx_operand(struct cpu *c, const struct insn *in, enum mmu_access access)
{
	gva_t la;

	fpu_check(c, STATE_X87);
	la = insn_linear(c, in, XSAVE_LEGACY, access);
	if (la & 15)
		gp0(c);
	return la;
}

static void exec_fxsave(struct cpu *c, const struct insn *in)
{
	gva_t la = fx_operand(c, in, MMU_WRITE);
	unsigned n = reach(in);
	u8 buf[XSAVE_LEGACY];

	mem_probe_write(c, la, XSAVE_LEGACY);
	x87_encode(c, in->w, buf);
	mem_write_buf(c, la, buf, FX_MXCSR);
	mem_write_buf(c, at(in, la, FX_ST), buf + FX_ST, FX_XMM - FX_ST);
	if (c->cr4 & CR4_OSFXSR) {
		put(buf + FX_MXCSR, 4, c->vec.mxcsr);
		put(buf + FX_MXCSR_MASK, 4, c->host.mxcsr_mask);
		mem_write_buf(c, at(in, la, FX_MXCSR), buf + FX_MXCSR, 8);
		xmm_encode(c, n, buf);
		mem_write_buf(c, at(in, la, FX_XMM), buf + FX_XMM, 16 * n);
	}
}

static void exec_fxrstor(struct cpu *c, const struct insn *in)
{
	gva_t la = fx_operand(c, in, MMU_READ);
	u8 buf[XSAVE_LEGACY];
	u32 mxcsr;

	mem_read_buf(c, la, buf, sizeof(buf));
	mxcsr = get(buf + FX_MXCSR, 4);
	if (c->cr4 & CR4_OSFXSR) {
		check_mxcsr(c, mxcsr);
		c->vec.mxcsr = mxcsr;
		xmm_decode(c, reach(in), buf);
	}
	x87_decode(c, in->w, buf);
}

/* --- the XSAVE family --- */

static void xsave_check(struct cpu *c)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD);
	if (c->cr0 & CR0_TS)
		cpu_raise(c, EXC_NM);
	cpu_fetch_vec(c);
}

static gva_t xsave_operand(struct cpu *c, const struct insn *in, u32 size, enum mmu_access access)
{
	gva_t la = insn_linear(c, in, size, access);

	if (la & 63)
		gp0(c);
	return la;
}

/* Is an optional member of the family offered? bit: of CPUID leaf 0xd.1, EAX. */
static void require_xsave_feature(struct cpu *c, unsigned bit)
{
	u32 leaf[4];

	c->ops->cpuid(c->vm, 0xd, 1, leaf);
	if (!(leaf[0] >> bit & 1))
		cpu_raise(c, EXC_UD);
}

static void write_legacy(struct cpu *c, const struct insn *in, gva_t la, u64 write, bool mxcsr)
{
	u8 buf[XSAVE_LEGACY];

	if (write & XFEATURE_X87) {
		x87_encode(c, in->w, buf);
		mem_write_buf(c, la, buf, FX_MXCSR);
		mem_write_buf(c, at(in, la, FX_ST), buf + FX_ST, FX_XMM - FX_ST);
	}
	if (mxcsr) {
		put(buf, 4, c->vec.mxcsr);
		put(buf + 4, 4, c->host.mxcsr_mask);
		mem_write_buf(c, at(in, la, FX_MXCSR), buf, 8);
	}
	if (write & XFEATURE_SSE) {
		xmm_encode(c, reach(in), buf);
		mem_write_buf(c, at(in, la, FX_XMM), buf + FX_XMM, 16 * reach(in));
	}
}

enum xsave_kind { XSAVE, XSAVEOPT, XSAVEC };

static void exec_xsave(struct cpu *c, const struct insn *in, enum xsave_kind kind)
{
	u64 rfbm = edx_eax(c) & c->xcr0, used, bv, write;
	bool compact = kind == XSAVEC, mxcsr;
	struct layout l;
	u8 buf[1024];
	unsigned i, len;
	gva_t la;

	xsave_check(c);
	if (kind != XSAVE)
		require_xsave_feature(c, kind == XSAVEOPT ? 0 : 1);
	layout_get(c, rfbm, compact, &l);
	la = xsave_operand(c, in, l.size, MMU_WRITE);
	mem_probe_write(c, la, l.size);
	used = in_use(c, in) & rfbm;
	/* MXCSR belongs to no component, but the compact form has it with SSE (SDM 13.10). */
	if (compact && (rfbm & XFEATURE_SSE) && c->vec.mxcsr != MXCSR_INIT)
		used |= XFEATURE_SSE;
	write = kind == XSAVE ? rfbm : used;
	mxcsr = compact ? write & XFEATURE_SSE : rfbm & (XFEATURE_SSE | XFEATURE_AVX);
	bv = used;
	if (!compact)
		bv |= mem_read(c, at(in, la, XSAVE_LEGACY), 8) & ~rfbm;
	write_legacy(c, in, la, write, mxcsr);
	for (i = COMP_AVX; i < COMP_COUNT; i++) {
		if (!(write >> comp_bit[i] & 1))
			continue;
		len = comp_encode(c, in, i, buf);
		if (len)
			mem_write_buf(c, at(in, la, l.off[i]), buf, len);
	}
	mem_write(c, at(in, la, XSAVE_LEGACY), 8, bv);
	if (compact)
		mem_write(c, at(in, la, XSAVE_LEGACY + 8), 8, rfbm | XCOMP_COMPACT);
}

/* Header checks; returns whether the area is in compact form. */
static bool check_header(struct cpu *c, const u8 header[XSAVE_HEADER])
{
	u64 bv = get(header, 8), xcomp = get(header + 8, 8);
	bool compact = xcomp & XCOMP_COMPACT;

	if (compact) {
		require_xsave_feature(c, 1);
		xcomp &= ~XCOMP_COMPACT;
		if ((xcomp & ~c->xcr0) || (bv & ~xcomp) || !all_zero(header + 16, 48))
			gp0(c);
	} else if ((bv & ~c->xcr0) || !all_zero(header + 8, 16)) {
		gp0(c);
	}
	return compact;
}

/* Read the parts of an area that a restore of `load` needs, each where it belongs in buf. */
static void read_area(struct cpu *c, const struct insn *in, gva_t la, const struct layout *l,
		      u64 load, u8 *buf)
{
	unsigned i;

	mem_read_buf(c, la, buf, XSAVE_LEGACY);
	for (i = COMP_AVX; i < COMP_COUNT; i++)
		if (load >> comp_bit[i] & 1)
			mem_read_buf(c, at(in, la, l->off[i]), buf + l->off[i], comp_len[i]);
}

static void exec_xrstor(struct cpu *c, const struct insn *in)
{
	u64 rfbm = edx_eax(c) & c->xcr0, bv, load;
	u8 buf[XSAVE_MAX], header[XSAVE_HEADER];
	bool compact, mxcsr_any;
	struct layout l;
	u32 mxcsr;
	unsigned i;
	gva_t la;

	xsave_check(c);
	la = xsave_operand(c, in, XSAVE_FIRST, MMU_READ);
	mem_read_buf(c, at(in, la, XSAVE_LEGACY), header, sizeof(header));
	compact = check_header(c, header);
	bv = get(header, 8);
	load = rfbm & bv;
	/* A compact area has room for what its header lists, restored or not. */
	layout_get(c, compact ? get(header + 8, 8) : load, compact, &l);
	xsave_operand(c, in, l.size, MMU_READ);
	read_area(c, in, la, &l, load, buf);
	/* The standard form loads MXCSR whenever SSE or AVX is asked for, whatever XSTATE_BV says.
	 */
	mxcsr = get(buf + FX_MXCSR, 4);
	mxcsr_any = compact ? load & XFEATURE_SSE : rfbm & (XFEATURE_SSE | XFEATURE_AVX);
	if (mxcsr_any)
		check_mxcsr(c, mxcsr);

	if (mxcsr_any)
		c->vec.mxcsr = mxcsr;
	else if (rfbm & XFEATURE_SSE)
		c->vec.mxcsr = MXCSR_INIT;
	if (load & XFEATURE_X87) {
		x87_decode(c, in->w, buf);
	} else if (rfbm & XFEATURE_X87) {
		x87_init(c);
		memset(c->vec.fx + FX_ST, 0, FX_XMM - FX_ST);
	}
	if (rfbm & XFEATURE_SSE)
		xmm_decode(c, reach(in), load & XFEATURE_SSE ? buf : NULL);
	for (i = COMP_AVX; i < COMP_COUNT; i++)
		if (rfbm >> comp_bit[i] & 1)
			comp_decode(c, in, i, load >> comp_bit[i] & 1 ? buf + l.off[i] : NULL);
}

/* --- XCR0 --- */

static void exec_xgetbv(struct cpu *c, const struct insn *in)
{
	u64 v = c->xcr0;
	u32 leaf[4];

	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD);
	if ((u32)c->gpr[GPR_RCX] == 1) {
		c->ops->cpuid(c->vm, 0xd, 1, leaf);
		if (!(leaf[0] & 4))
			gp0(c);
		cpu_fetch_vec(c);
		v &= in_use(c, in);
	} else if ((u32)c->gpr[GPR_RCX] != 0) {
		gp0(c);
	}
	c->gpr[GPR_RAX] = (u32)v;
	c->gpr[GPR_RDX] = v >> 32;
}

static bool xcr0_valid(const struct cpu *c, u64 v)
{
	if ((v & ~c->xcr0_allowed) || !(v & XFEATURE_X87))
		return false;
	if ((v & XFEATURE_AVX) && !(v & XFEATURE_SSE))
		return false;
	if (v & XFEATURE_AVX512)
		return (v & XFEATURE_AVX512) == XFEATURE_AVX512 && (v & XFEATURE_AVX);
	return true;
}

static void exec_xsetbv(struct cpu *c)
{
	u64 v = edx_eax(c);

	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD);
	if (c->cpl || (u32)c->gpr[GPR_RCX] != 0 || !xcr0_valid(c, v))
		gp0(c);
	c->xcr0 = v;
	cpu_forget_cpuid(c);
}

/* --- MXCSR, VZERO --- */

static void exec_mxcsr(struct cpu *c, const struct insn *in, bool store)
{
	u32 v;

	if (in->enc != INSN_LEGACY && (in->vl != 16 || in->vvvv))
		cpu_raise(c, EXC_UD);
	fpu_check(c, in->enc == INSN_LEGACY ? STATE_SSE : STATE_AVX);
	if (store) {
		mem_write(c, insn_linear(c, in, 4, MMU_WRITE), 4, c->vec.mxcsr);
		return;
	}
	v = mem_read(c, insn_linear(c, in, 4, MMU_READ), 4);
	check_mxcsr(c, v);
	c->vec.mxcsr = v;
}

/* VZEROALL (256 bits) clears registers 0 to 15 whole, VZEROUPPER from bit 128 up. */
static void exec_vzero(struct cpu *c, const struct insn *in)
{
	unsigned from = in->vl == 32 ? 0 : 16, i;

	if (in->vvvv || in->vl > 32)
		cpu_raise(c, EXC_UD);
	fpu_check(c, STATE_AVX);
	for (i = 0; i < reach(in); i++)
		memset(c->vec.zmm[i] + from, 0, 64 - from);
}

/* --- dispatch --- */

static void exec_0fae(struct cpu *c, const struct insn *in)
{
	switch (in->modrm >> 3 & 7) {
	case 0: exec_fxsave(c, in); break;
	case 1: exec_fxrstor(c, in); break;
	case 2: exec_mxcsr(c, in, false); break;
	case 3: exec_mxcsr(c, in, true); break;
	case 4: exec_xsave(c, in, XSAVE); break;
	case 5: exec_xrstor(c, in); break;
	case 6: exec_xsave(c, in, XSAVEOPT); break;
	default: cpu_raise(c, EXC_UD);
	}
}

void exec_xstate(struct cpu *c, const struct insn *in)
{
	if (in->map == INSN_MAP_1B) {
		exec_x87_env(c, in);
		return;
	}
	if (in->prefixes & PFX_LOCK)
		cpu_raise(c, EXC_UD);
	switch (in->opcode) {
	case 0x01:
		if (in->modrm == 0xd0)
			exec_xgetbv(c, in);
		else
			exec_xsetbv(c);
		break;
	case 0x77: exec_vzero(c, in); break;
	case 0xae:
		c->stats->n[STAT_xsaves]++;
		exec_0fae(c, in);
		break;
	case 0xc7: /* /4; XSAVES and XRSTORS are not offered */
		if ((in->modrm >> 3 & 7) != 4)
			cpu_raise(c, EXC_UD);
		c->stats->n[STAT_xsaves]++;
		exec_xsave(c, in, XSAVEC);
		break;
	default: cpu_raise(c, EXC_UD);
	}
	c->rip = insn_next_rip(c, in);
}
