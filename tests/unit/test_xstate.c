/*
 * Extended state: the XSAVE family and the x87 environment against the host CPU with random
 * contents; checks, header rules and the layouts of other modes by hand.
 */
#include "cpu_rig.h"
#include "cpuid_model.h"
#include "fpu_check.h"
#include "xstate.h"

#define AREA      0x40000u
#define AREA2     0x42000u
#define AREA_SIZE 0x1000u

struct machine {
	struct cpuid_model model;
	struct cpu *c;
	unsigned fpu_errors;
};

static void ask_cpuid(void *vm, u32 leaf, u32 subleaf, u32 out[4])
{
	struct machine *m = vm;
	struct cpuid_dynamic dyn = {.cr4 = m->c->cr4, .xcr0 = m->c->xcr0, .apic_enabled = true};

	cpuid_query(&m->model, &dyn, leaf, subleaf, out);
}

static void ferr(void *vm)
{
	((struct machine *)vm)->fpu_errors++;
}

static const struct cpu_ops ops = {.cpuid = ask_cpuid, .fpu_error = ferr};

/* 64-bit mode with everything switched on. */
static struct rig *rig_with_state(struct machine *m)
{
	struct cpuid_host h = cpuid_host_real();
	struct rig *r = rig_new();

	memset(m, 0, sizeof(*m));
	m->c = &r->c;
	cpuid_model_init(&m->model, CPU_MODEL_HOST, &h, 2000000, 1000000);
	if (!m->model.xcr0)
		cr_skip_test("no XSAVE on this host");
	r->c.ops = &ops;
	r->c.vm = m;
	r->c.xcr0_allowed = r->c.xcr0 = m->model.xcr0;
	rig_long(r, S_CODE64, 0);
	r->c.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	r->c.gpr[GPR_RDI] = AREA;
	return r;
}

static u64 pick(u64 *seed, u64 n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % n;
}

static void set_edx_eax(struct rig *r, u64 v)
{
	r->c.gpr[GPR_RAX] = (u32)v;
	r->c.gpr[GPR_RDX] = v >> 32;
}

/* --- against the host: the XSAVE family --- */

/* A standard-form area whose present components are all different from their initial state. */
static void random_area(u8 *a, u64 *seed, u64 bv)
{
	u32 mxcsr = pick(seed, 3) ? MXCSR_INIT : pick(seed, 0x10000);
	unsigned i;

	for (i = 0; i < AREA_SIZE; i++)
		a[i] = 1 + pick(seed, 255);
	memcpy(a + FX_MXCSR, &mxcsr, 4);
	memset(a + FX_FIP + 5, 0, 3); /* canonical */
	memset(a + FX_FDP + 5, 0, 3);
	memset(a + 512, 0, 64);
	memcpy(a + 512, &bv, 8);
}

enum kind { XSAVE, XSAVEOPT, XSAVEC, KINDS };

/* The host restores `full` whole, then `area` under rfbm, then saves to out under save_mask. */
static void host_round(const u8 *full, const u8 *area, u8 *out, u64 rfbm, u64 save_mask,
		       enum kind kind, bool w)
{
	static u8 own[16384] __attribute__((aligned(64)));
	u64 all = 0xe7;

	memset(own + 512, 0, 64);
#define ROUND(restore, save)                                                                       \
	asm volatile("mov %[all], %%rax\n\txor %%edx, %%edx\n\t"                                   \
		     "xsave64 (%[own])\n\txrstor64 (%[full])\n\t"                                  \
		     "mov %[rfbm], %%rax\n\t" restore " (%[area])\n\t"                             \
		     "mov %[mask], %%rax\n\t" save " (%[out])\n\t"                                 \
		     "mov %[all], %%rax\n\txrstor64 (%[own])"                                      \
		     :                                                                             \
		     : [own] "r"(own), [full] "r"(full), [area] "r"(area), [out] "r"(out),         \
		       [rfbm] "r"(rfbm), [mask] "r"(save_mask), [all] "r"(all)                     \
		     : "rax", "rdx", "memory")
	switch (kind * 2 + w) {
	case 0: ROUND("xrstor", "xsave"); break;
	case 1: ROUND("xrstor64", "xsave64"); break;
	case 2: ROUND("xrstor", "xsaveopt"); break;
	case 3: ROUND("xrstor64", "xsaveopt64"); break;
	case 4: ROUND("xrstor", "xsavec"); break;
	default: ROUND("xrstor64", "xsavec64"); break;
	}
}

static void guest_op(struct rig *r, u8 map2, u8 ext, bool w, u64 at, u64 mask)
{
	const u8 code[] = {0x48, 0x0f, map2, ext << 3 | 7};

	r->c.gpr[GPR_RDI] = at;
	set_edx_eax(r, mask);
	cr_assert_eq(rig_exec(r, exec_xstate, code + !w, sizeof(code) - !w), RIG_OK);
}

/* Is this byte part of FCS or FDS, without REX.W, and do they not read as zero on this host? We do
 * not keep them, and so FORCE the bit. */
static bool host_selector(unsigned byte)
{
	struct cpuid_host h = cpuid_host_real();
	u32 leaf[4];

	h.cpuid(7, 0, leaf);
	return !(leaf[1] >> CPUID_BIT_FCS_FDS_ZERO & 1) &&
	       (byte - (FX_FIP + 4) < 2 || byte - (FX_FDP + 4) < 2);
}

#define TRIES 20

static unsigned first_difference(const u8 *ours, const u8 *host, bool w)
{
	unsigned i = 0;

	while (i < AREA_SIZE && (ours[i] == host[i] || (!w && host_selector(i))))
		i++;
	return i;
}

static void xsave_like_the_host(struct rig *r, struct machine *m, u64 *seed)
{
	static u8 full[AREA_SIZE] __attribute__((aligned(64)));
	static u8 area[AREA_SIZE] __attribute__((aligned(64)));
	static u8 out[AREA_SIZE] __attribute__((aligned(64)));
	u64 xcr0 = m->model.xcr0, bv = pick(seed, 256) & xcr0, rfbm = pick(seed, 256);
	u64 mask = pick(seed, 3) ? xcr0 : pick(seed, 256), junk = pick(seed, 256) & xcr0;
	enum kind kind = pick(seed, KINDS);
	bool w = pick(seed, 2);
	unsigned tries, at = 0;

	if ((kind == XSAVEOPT && !cpuid_has(&m->model, CPUID_D_1_EAX, CPUID_BIT_XSAVEOPT)) ||
	    (kind == XSAVEC && !cpuid_has(&m->model, CPUID_D_1_EAX, CPUID_BIT_XSAVEC)))
		kind = XSAVE;
	random_area(full, seed, xcr0);
	random_area(area, seed, bv);
	/* An interrupt in between may leave a component in use that is in its initial state. */
	for (tries = 0; tries < TRIES; tries++) {
		memset(out, 0xcc, sizeof(out));
		memset(out + 512, 0, 64);
		memcpy(out + 512, &junk, 8);
		memcpy(r->ram.window + AREA, full, AREA_SIZE);
		memcpy(r->ram.window + AREA2, area, AREA_SIZE);
		guest_op(r, 0xae, 5, true, AREA, xcr0);
		guest_op(r, 0xae, 5, w, AREA2, rfbm);
		memcpy(r->ram.window + AREA, out, AREA_SIZE);
		if (kind == XSAVEC)
			guest_op(r, 0xc7, 4, w, AREA, mask);
		else
			guest_op(r, 0xae, kind == XSAVE ? 4 : 6, w, AREA, mask);
		host_round(full, area, out, rfbm & xcr0, mask & xcr0, kind, w);
		at = first_difference(r->ram.window + AREA, out, w);
		if (at == AREA_SIZE)
			return;
	}
	cr_assert_fail("kind %u w %u bv %#llx rfbm %#llx mask %#llx: byte %u is %02x, host %02x",
		       kind, w, (unsigned long long)bv, (unsigned long long)rfbm,
		       (unsigned long long)mask, at, r->ram.window[AREA + at], out[at]);
}

Test(xstate, xsave_family_like_the_host)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	u64 seed = 1;
	unsigned i;

	for (i = 0; i < 3000; i++)
		xsave_like_the_host(r, &m, &seed);
	rig_free(r);
}

Test(xstate, compact_form_comes_back)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	u64 seed = 7, xcr0 = m.model.xcr0;
	struct vec_state before;

	if (!cpuid_has(&m.model, CPUID_D_1_EAX, CPUID_BIT_XSAVEC))
		cr_skip_test("no XSAVEC");
	random_area(r->ram.window + AREA, &seed, xcr0);
	guest_op(r, 0xae, 5, true, AREA, xcr0);
	before = r->c.vec;
	memset(r->ram.window + AREA2, 0, AREA_SIZE);
	guest_op(r, 0xc7, 4, true, AREA2, xcr0);
	/* All initial, then back. */
	memset(r->ram.window + AREA + 512, 0, 64);
	rig_put(r, AREA + FX_MXCSR, 4, MXCSR_INIT);
	guest_op(r, 0xae, 5, true, AREA, xcr0);
	cr_assert(x87_is_init(&r->c));
	cr_assert_neq(memcmp(&before, &r->c.vec, sizeof(before)), 0);
	guest_op(r, 0xae, 5, true, AREA2, xcr0);
	cr_assert_eq(memcmp(before.zmm, r->c.vec.zmm, sizeof(before.zmm)), 0);
	cr_assert_eq(memcmp(before.fx, r->c.vec.fx, FX_MXCSR), 0);
	cr_assert_eq(memcmp(before.fx + 32, r->c.vec.fx + 32, 128), 0);
	cr_assert_eq(memcmp(before.k, r->c.vec.k, sizeof(before.k)), 0);
	cr_assert_eq(before.mxcsr, r->c.vec.mxcsr);
	rig_free(r);
}

/* --- header and other checks --- */

static unsigned xrstor(struct rig *r)
{
	set_edx_eax(r, ~0ull);
	return RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x2f);
}

Test(xstate, xrstor_header_rules)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	rig_put(r, AREA + FX_MXCSR, 4, MXCSR_INIT);
	cr_assert_eq(xrstor(r), RIG_OK);
	rig_put(r, AREA + 512, 8, 1ull << 9);
	cr_assert_eq(xrstor(r), EXC_GP, "XSTATE_BV beyond XCR0");
	rig_put(r, AREA + 512, 8, 0);
	rig_put(r, AREA + 520, 8, 1);
	cr_assert_eq(xrstor(r), EXC_GP, "XCOMP_BV without bit 63");
	rig_put(r, AREA + 520, 8, 0);
	rig_put(r, AREA + 528, 8, 1);
	cr_assert_eq(xrstor(r), EXC_GP, "reserved bytes");
	rig_put(r, AREA + 528, 8, 0);
	rig_put(r, AREA + 536, 8, 1); /* bytes 24 to 63 are not checked in the standard form */
	cr_assert_eq(xrstor(r), RIG_OK);
	rig_put(r, AREA + 520, 8, 1ull << 63 | 7);
	cr_assert_eq(xrstor(r), EXC_GP, "but in the compact form");
	rig_put(r, AREA + 536, 8, 0);
	cr_assert_eq(xrstor(r), RIG_OK);
	rig_put(r, AREA + 512, 8, 4);
	rig_put(r, AREA + 520, 8, 1ull << 63 | 3);
	cr_assert_eq(xrstor(r), EXC_GP, "XSTATE_BV beyond XCOMP_BV");
	rig_put(r, AREA + 512, 8, 0);
	rig_put(r, AREA + 520, 8, 0);
	rig_put(r, AREA + FX_MXCSR, 4, 0x10000);
	cr_assert_eq(xrstor(r), EXC_GP, "MXCSR");
	rig_free(r);
}

Test(xstate, xsave_conditions)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	set_edx_eax(r, 7);
	r->c.gpr[GPR_RDI] = AREA + 32;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x27), EXC_GP, "alignment");
	r->c.gpr[GPR_RDI] = AREA;
	r->c.cr0 |= CR0_TS;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x27), EXC_NM);
	r->c.cr4 &= ~CR4_OSXSAVE;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x27), EXC_UD);
	r->c.cr0 &= ~CR0_TS;
	r->c.cr4 |= CR4_OSXSAVE;
	/* It would end beyond the mapped memory: nothing is written. */
	r->c.gpr[GPR_RDI] = 0x200000 - 0x240;
	r->c.vec.zmm[0][20] = 1;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x27), EXC_PF);
	cr_assert_eq(r->c.cr2, 0x200000);
	cr_assert_eq(rig_get(r, 0x200000 - 0x240, 8), 0);
	rig_free(r);
}

Test(xstate, outside_64_bit_mode_eight_registers)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	unsigned i;

	for (i = 0; i < 16; i++)
		memset(r->c.vec.zmm[i], 0x10 + i, 64);
	rig_level(r, S_CODE32, 0); /* compatibility mode */
	memset(r->ram.window + AREA, 0xcc, 512);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x07), RIG_OK); /* fxsave */
	cr_assert_eq(rig_get(r, AREA + FX_XMM + 16 * 7, 1), 0x17);
	cr_assert_eq(rig_get(r, AREA + FX_XMM + 16 * 8, 1), 0xcc);
	memset(r->ram.window + AREA + FX_XMM, 0, 256);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x0f), RIG_OK); /* fxrstor */
	cr_assert_eq(r->c.vec.zmm[7][0], 0);
	cr_assert_eq(r->c.vec.zmm[8][0], 0x18);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xc5, 0xfc, 0x77), RIG_OK); /* vzeroall */
	cr_assert_eq(r->c.vec.zmm[7][40], 0);
	cr_assert_eq(r->c.vec.zmm[8][40], 0x18);
	rig_free(r);
}

Test(xstate, xcr0)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	static const struct {
		u64 v;
		unsigned vector;
	} cases[] = {
	    {1, RIG_OK},       {3, RIG_OK},
	    {7, RIG_OK},       {0, EXC_GP},
	    {2, EXC_GP},       {5, EXC_GP},
	    {0x207, EXC_GP},   {0x27, EXC_GP},
	    {0xe3, EXC_GP},    {1ull << 32 | 7, EXC_GP},
	    {0x60007, EXC_GP},
	};
	unsigned i;

	r->c.gpr[GPR_RCX] = 0;
	for (i = 0; i < ARRAY_LEN(cases); i++) {
		set_edx_eax(r, cases[i].v);
		cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd1), cases[i].vector, "%#llx",
			     (unsigned long long)cases[i].v);
	}
	cr_assert_eq(r->c.xcr0, 7);
	set_edx_eax(r, 3);
	r->c.gpr[GPR_RCX] = 1;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd1), EXC_GP);
	r->c.gpr[GPR_RCX] = 0;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd0), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 7);
	cr_assert_eq(r->c.gpr[GPR_RDX], 0);
	/* ECX 1: in use. Only x87 is not in its initial state after reset. */
	r->c.gpr[GPR_RCX] = 1;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd0), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 1);
	r->c.gpr[GPR_RCX] = 2;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd0), EXC_GP);
	rig_level(r, S_CODE64_3, 3);
	r->c.gpr[GPR_RCX] = 0;
	set_edx_eax(r, 3);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd1), EXC_GP);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd0), RIG_OK);
	r->c.cr4 &= ~CR4_OSXSAVE;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0x01, 0xd0), EXC_UD);
	rig_free(r);
}

Test(xstate, mxcsr)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	rig_put(r, AREA, 4, 0x9fc0);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x17), RIG_OK);
	cr_assert_eq(r->c.vec.mxcsr, 0x9fc0);
	rig_put(r, AREA, 4, 0x10000);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x17), EXC_GP);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xc5, 0xf8, 0xae, 0x1f), RIG_OK); /* vstmxcsr */
	cr_assert_eq(rig_get(r, AREA, 4), 0x9fc0);
	r->c.xcr0 = 3;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xc5, 0xf8, 0xae, 0x1f), EXC_UD);
	r->c.cr0 |= CR0_EM;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x1f), EXC_UD);
	r->c.cr0 = (r->c.cr0 & ~CR0_EM) | CR0_TS;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x1f), EXC_NM);
	rig_free(r);
}

Test(xstate, vzero)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	unsigned i;

	if (!(m.model.xcr0 & XFEATURE_AVX))
		cr_skip_test("no AVX");
	for (i = 0; i < 32; i++)
		memset(r->c.vec.zmm[i], 0x55, 64);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xc5, 0xf8, 0x77), RIG_OK); /* vzeroupper */
	cr_assert_eq(r->c.vec.zmm[15][15], 0x55);
	cr_assert_eq(r->c.vec.zmm[15][16], 0);
	cr_assert_eq(r->c.vec.zmm[15][63], 0);
	cr_assert_eq(r->c.vec.zmm[16][63], 0x55);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xc5, 0xfc, 0x77), RIG_OK); /* vzeroall */
	cr_assert_eq(r->c.vec.zmm[3][0], 0);
	cr_assert_eq(r->c.vec.zmm[16][0], 0x55);
	rig_free(r);
}

/* --- FXSAVE --- */

Test(xstate, fxsave_conditions)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	r->c.gpr[GPR_RDI] = AREA + 8;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x07), EXC_GP);
	r->c.gpr[GPR_RDI] = AREA;
	r->c.cr0 |= CR0_EM;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x07), EXC_NM);
	r->c.cr0 &= ~CR0_EM;
	rig_put(r, AREA + FX_MXCSR, 4, 0x80000000);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x0f), EXC_GP);
	/* Without OSFXSR neither XMM nor MXCSR is touched. */
	r->c.cr4 &= ~CR4_OSFXSR;
	memset(r->ram.window + AREA, 0xcc, 512);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x07), RIG_OK);
	cr_assert_eq(rig_get(r, AREA + FX_MXCSR, 8), 0xcccccccccccccccc);
	cr_assert_eq(rig_get(r, AREA + FX_XMM, 8), 0xcccccccccccccccc);
	rig_free(r);
}

/* --- against the host: the x87 environment --- */

enum env_op { FNSTENV, FNSTENV16, FNSAVE, FNSAVE16, FLDENV, FLDENV16, FRSTOR, FRSTOR16, ENV_OPS };

static void host_env(enum env_op op, const u8 *in, u8 *mem, u8 *out)
{
	static u8 own[512] __attribute__((aligned(16)));

#define ENV(insn)                                                                                  \
	asm volatile("fxsave64 (%[own])\n\tfxrstor64 (%[in])\n\t" insn " (%[mem])\n\t"             \
		     "fxsave64 (%[out])\n\tfxrstor64 (%[own])"                                     \
		     :                                                                             \
		     : [own] "r"(own), [in] "r"(in), [mem] "r"(mem), [out] "r"(out)                \
		     : "memory")
	switch (op) {
	case FNSTENV: ENV("fnstenv"); break;
	case FNSTENV16: ENV("data16 fnstenv"); break;
	case FNSAVE: ENV("fnsave"); break;
	case FNSAVE16: ENV("data16 fnsave"); break;
	case FLDENV: ENV("fldenv"); break;
	case FLDENV16: ENV("data16 fldenv"); break;
	case FRSTOR: ENV("frstor"); break;
	default: ENV("data16 frstor"); break;
	}
}

static void random_x87(u8 *img, u64 *seed, bool pending)
{
	u32 mxcsr = MXCSR_INIT;
	unsigned i;

	for (i = 0; i < 512; i++)
		img[i] = pick(seed, 256);
	memcpy(img + FX_MXCSR, &mxcsr, 4);
	memset(img + FX_FIP + 4, 0, 4);
	memset(img + FX_FDP + 4, 0, 4);
	if (!pending)
		img[FX_FCW] |= 0x3f;
	for (i = 0; i < 8; i++) { /* zeros, infinities, denormals, unnormals */
		u8 *st = img + FX_ST + 16 * i;

		switch (pick(seed, 6)) {
		case 0: memset(st, 0, 10); break;
		case 1: memset(st, 0, 8), st[8] = 0xff, st[9] = 0x7f; break;
		case 2: st[8] = st[9] = 0; break;
		case 3: st[7] &= 0x7f; break;
		case 4: st[7] |= 0x80; break;
		}
	}
}

static void env_like_the_host(struct rig *r, u64 *seed)
{
	static const u8 code[ENV_OPS][3] = {
	    {0xd9, 0x37}, {0x66, 0xd9, 0x37}, {0xdd, 0x37}, {0x66, 0xdd, 0x37},
	    {0xd9, 0x27}, {0x66, 0xd9, 0x27}, {0xdd, 0x27}, {0x66, 0xdd, 0x27}};
	static u8 img[512] __attribute__((aligned(16))), out[512] __attribute__((aligned(16)));
	u8 mem[128];
	enum env_op op = pick(seed, ENV_OPS);
	unsigned i, len = op & 1 ? 3 : 2;

	random_x87(img, seed, op < FLDENV);
	for (i = 0; i < sizeof(mem); i++)
		mem[i] = pick(seed, 256);
	memcpy(r->ram.window + AREA, mem, sizeof(mem));
	memcpy(r->ram.window + AREA2, img, 512);
	r->c.gpr[GPR_RDI] = AREA2;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x48, 0x0f, 0xae, 0x0f), RIG_OK); /* fxrstor64 */
	r->c.gpr[GPR_RDI] = AREA;
	cr_assert_eq(rig_exec(r, exec_xstate, code[op], len), RIG_OK);
	host_env(op, img, mem, out);
	x87_encode(&r->c, true, img);
	for (i = 0; i < sizeof(mem); i++)
		cr_assert_eq(r->ram.window[AREA + i], mem[i],
			     "op %u, byte %u in memory: %02x, host %02x", op, i,
			     r->ram.window[AREA + i], mem[i]);
	for (i = 0; i < FX_XMM; i++)
		if (i < FX_MXCSR || i >= FX_ST)
			cr_assert_eq(img[i], out[i], "op %u, byte %u of the image: %02x, host %02x",
				     op, i, img[i], out[i]);
}

Test(xstate, x87_environment_like_the_host)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	u64 seed = 3;
	unsigned i;

	for (i = 0; i < 4000; i++)
		env_like_the_host(r, &seed);
	rig_free(r);
}

Test(xstate, real_mode_environment)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	u8 *fx = r->c.vec.fx;
	const u64 fip = 0x87654, fdp = 0x91234;
	u8 image[FX_MXCSR];

	rig_free(r);
	r = rig_new(); /* real mode */
	r->c.ops = &ops;
	r->c.vm = &m;
	fx = r->c.vec.fx;
	x87_init(&r->c);
	memcpy(fx + FX_FIP, &fip, 8);
	memcpy(fx + FX_FDP, &fdp, 8);
	fx[FX_FOP] = 0x5a;
	fx[FX_FOP + 1] = 0x05;
	memcpy(image, fx, sizeof(image));
	r->c.gpr[GPR_RDI] = RIG_DATA;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x35), RIG_OK); /* fnstenv [di], 14 bytes */
	cr_assert_eq(rig_get(r, RIG_DATA + 6, 2), 0x7654);
	cr_assert_eq(rig_get(r, RIG_DATA + 8, 2), 0x855a);
	cr_assert_eq(rig_get(r, RIG_DATA + 10, 2), 0x1234);
	cr_assert_eq(rig_get(r, RIG_DATA + 12, 2), 0x9000);
	x87_init(&r->c);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x25), RIG_OK); /* fldenv */
	cr_assert_eq(memcmp(fx, image, sizeof(image)), 0);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x66, 0xd9, 0x35), RIG_OK); /* 28 bytes */
	cr_assert_eq(rig_get(r, RIG_DATA + 12, 2), 0x7654);
	cr_assert_eq(rig_get(r, RIG_DATA + 16, 4), 0x855a);
	cr_assert_eq(rig_get(r, RIG_DATA + 24, 4), 0x9000);
	x87_init(&r->c);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x66, 0xd9, 0x25), RIG_OK);
	cr_assert_eq(memcmp(fx, image, sizeof(image)), 0);
	rig_free(r);
}

/* FXSAVE shows FOP, FIP and FDP always, or only with an exception pending; FNSTENV always does. */
Test(xstate, hidden_x87_pointers)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);
	unsigned hidden, pending;

	for (hidden = 0; hidden < 2; hidden++) {
		for (pending = 0; pending < 2; pending++) {
			u64 shown = hidden && !pending ? 0 : 0x123456;

			r->c.host.x87_pointers_hidden = hidden;
			x87_init(&r->c);
			memset(r->c.vec.fx + FX_ST, 0, FX_XMM - FX_ST);
			memcpy(r->c.vec.fx + FX_FIP, &(u64){0x123456}, 8);
			if (pending)
				r->c.vec.fx[FX_FCW] &= ~4u, r->c.vec.fx[FX_FSW] = 4;
			x87_normalise(&r->c);
			cr_expect_eq(x87_is_init(&r->c), hidden && !pending);
			r->c.gpr[GPR_RDI] = AREA;
			cr_assert_eq(RIG_EXEC(r, exec_xstate, 0x48, 0x0f, 0xae, 0x07), RIG_OK);
			cr_expect_eq(rig_get(r, AREA + FX_FIP, 8), shown);
			cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x37), RIG_OK);
			cr_expect_eq(rig_get(r, AREA + 12, 4), 0x123456);
		}
	}
	rig_free(r);
}

Test(xstate, mxcsr_has_the_bits_of_the_host)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	r->c.host.mxcsr_mask = 0xffff | MXCSR_MM;
	rig_put(r, AREA, 4, MXCSR_INIT | 0x20000);
	cr_expect_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x17), RIG_OK); /* ldmxcsr */
	cr_expect_eq(r->c.vec.mxcsr, MXCSR_INIT | 0x20000);
	r->c.host.mxcsr_mask = 0xffff;
	cr_expect_eq(RIG_EXEC(r, exec_xstate, 0x0f, 0xae, 0x17), EXC_GP);
	rig_free(r);
}

Test(xstate, pending_x87_errors)
{
	struct machine m;
	struct rig *r = rig_with_state(&m);

	x87_init(&r->c);
	r->c.vec.fx[FX_FCW] &= ~4u; /* zero divide unmasked, and there was one */
	r->c.vec.fx[FX_FSW] = 4;
	x87_normalise(&r->c);
	cr_assert_eq(r->c.vec.fx[FX_FSW], 0x84);
	cr_assert_eq(r->c.vec.fx[FX_FSW + 1], 0x80);
	r->c.cr0 |= CR0_NE;
	rig_put(r, AREA, 8, 0x37f);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x27), EXC_MF);
	r->c.cr0 &= ~CR0_NE;
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x27), EXC_NONE);
	cr_assert_eq(m.fpu_errors, 1);
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x37), RIG_OK); /* fnstenv does not wait */
	cr_assert_eq(RIG_EXEC(r, exec_xstate, 0xd9, 0x27), RIG_OK); /* and masks everything */
	rig_free(r);
}

/* --- fpu_check --- */

static NOINLINE unsigned check(struct rig *r, unsigned state)
{
	if (__builtin_setjmp(r->c.unwind))
		return rig_caught(r);
	if (state)
		fpu_check(&r->c, state);
	else
		fpu_check_wait(&r->c);
	return RIG_OK;
}

Test(xstate, what_is_switched_on)
{
	const u64 fxsr = CR4_OSFXSR, xsave = CR4_OSFXSR | CR4_OSXSAVE;
	static const u64 em = CR0_EM, ts = CR0_TS, mp = CR0_MP;
	const struct {
		unsigned state;
		u64 cr0, cr4, xcr0;
		unsigned vector;
	} cases[] = {
	    {STATE_X87, 0, 0, 1, RIG_OK},
	    {STATE_X87, em, 0, 1, EXC_NM},
	    {STATE_X87, ts, 0, 1, EXC_NM},
	    {0, ts, 0, 1, RIG_OK}, /* WAIT */
	    {0, em, 0, 1, RIG_OK},
	    {0, ts | mp, 0, 1, EXC_NM},
	    {STATE_MMX, em | ts, 0, 1, EXC_UD},
	    {STATE_MMX, ts, 0, 1, EXC_NM},
	    {STATE_SSE, 0, 0, 1, EXC_UD},
	    {STATE_SSE, em, fxsr, 1, EXC_UD},
	    {STATE_SSE, ts, fxsr, 1, EXC_NM},
	    {STATE_SSE, 0, fxsr, 1, RIG_OK},
	    {STATE_AVX, 0, fxsr, 7, EXC_UD},
	    {STATE_AVX, 0, xsave, 3, EXC_UD},
	    {STATE_AVX, 0, xsave, 7, RIG_OK},
	    {STATE_AVX, em, xsave, 7, RIG_OK},
	    {STATE_AVX, ts, xsave, 7, EXC_NM},
	    {STATE_AVX512, 0, xsave, 7, EXC_UD},
	    {STATE_AVX512, 0, xsave, 0xe7, RIG_OK},
	    {STATE_OPMASK, 0, xsave, 7, EXC_UD},
	    {STATE_AVX512 | STATE_OPMASK, ts, xsave, 0xe7, EXC_NM},
	};
	struct rig *r = rig_new();
	unsigned i;

	rig_protected(r, 0);
	for (i = 0; i < ARRAY_LEN(cases); i++) {
		r->c.cr0 = CR0_PE | cases[i].cr0;
		r->c.cr4 = cases[i].cr4;
		r->c.xcr0 = cases[i].xcr0;
		cr_assert_eq(check(r, cases[i].state), cases[i].vector, "case %u", i);
	}
	r->c.cr0 = 0; /* real mode: no VEX */
	r->c.cr4 = xsave;
	r->c.xcr0 = 7;
	cr_assert_eq(check(r, STATE_AVX), EXC_UD);
	cr_assert_eq(check(r, STATE_SSE), RIG_OK);
	rig_free(r);
}
