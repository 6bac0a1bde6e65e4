/* Gathers and scatters: every form against the host, masks and faults by hand. */
#include "cpu_rig.h"

#include <sys/mman.h>

#define AREA      0x40000u
#define AREA_SIZE 0x2000u
#define END       0x200000u /* nothing is mapped from here on */

static const struct cpu_ops ops;

/* Registers 1 (data), 2 (index), 3 (mask of VEX forms) and k1. */
struct vectors {
	u8 v[3][64];
	u64 k1;
} __attribute__((aligned(64)));

static u64 pick(u64 *seed, u64 n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % n;
}

static struct rig *rig_with_vectors(void)
{
	struct rig *r = rig_new();

	r->c.ops = &ops;
	rig_long(r, S_CODE64, 0);
	r->c.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	r->c.xcr0 = 0xe7;
	return r;
}

struct form {
	bool evex, w, scatter;
	unsigned index_64, fp, vl; /* vl: 0 to 2 */
	unsigned scale;            /* log2 */
};

/* op reg1, [rdi + reg2 * scale], mask reg3 or k1 */
static unsigned encode(const struct form *f, u8 code[8])
{
	u8 op = (f->scatter ? 0xa0 : 0x90) | f->fp << 1 | f->index_64;
	unsigned n = 0;

	if (f->evex) {
		code[n++] = 0x62;
		code[n++] = 0xf2;
		code[n++] = f->w << 7 | 0x7d;
		code[n++] = f->vl << 5 | 0x09;
	} else {
		code[n++] = 0xc4;
		code[n++] = 0xe2;
		code[n++] = f->w << 7 | 0x60 | f->vl << 2 | 1;
	}
	code[n++] = op;
	code[n++] = 0x0c;
	code[n++] = f->scale << 6 | 2 << 3 | 7;
	return n;
}

static void run_avx512(const void *code, struct vectors *v, const u8 *base)
{
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "vmovdqu64 (%[v]), %%zmm1\n\tvmovdqu64 64(%[v]), %%zmm2\n\t"
		     "kmovw 192(%[v]), %%k1\n\t"
		     "call *%[code]\n\t"
		     "vmovdqu64 %%zmm1, (%[v])\n\tkmovq %%k1, 192(%[v])\n\t"
		     "vzeroupper\n\t"
		     "lea 128(%%rsp), %%rsp"
		     :
		     : [v] "r"(v), [code] "r"(code), "D"(base)
		     : "memory", "cc");
}

static void run_avx2(const void *code, struct vectors *v, const u8 *base)
{
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "vmovdqu (%[v]), %%ymm1\n\tvmovdqu 64(%[v]), %%ymm2\n\t"
		     "vmovdqu 128(%[v]), %%ymm3\n\t"
		     "call *%[code]\n\t"
		     "vmovdqu %%ymm1, (%[v])\n\tvmovdqu %%ymm3, 128(%[v])\n\t"
		     "vzeroupper\n\t"
		     "lea 128(%%rsp), %%rsp"
		     :
		     : [v] "r"(v), [code] "r"(code), "D"(base)
		     : "memory", "cc");
}

static void random_vectors(const struct form *f, struct vectors *v, u64 *seed)
{
	unsigned i, size = f->index_64 ? 8 : 4;

	for (i = 0; i < sizeof(*v); i++)
		((u8 *)v)[i] = pick(seed, 256);
	/* Signed indices that stay within the area around its middle. */
	for (i = 0; i < 64 / size; i++) {
		s64 index = (s64)pick(seed, 0x100) - 0x80;

		memcpy(v->v[1] + i * size, &index, size);
	}
	v->k1 &= 0xffff;
}

static void form_like_the_host(struct rig *r, const struct form *f, u8 *host, u8 *code, u64 *seed)
{
	struct vectors v;
	unsigned i, len = encode(f, code), vector = f->evex ? 64 : 32;

	random_vectors(f, &v, seed);
	for (i = 0; i < AREA_SIZE; i++)
		host[i] = r->ram.window[AREA + i] = pick(seed, 256);
	for (i = 0; i < 3; i++)
		memcpy(r->c.vec.zmm[1 + i], v.v[i], 64);
	if (!f->evex) { /* what the host clears beyond 256 bits is not seen: clear it here */
		memset(r->c.vec.zmm[1] + 32, 0x11, 32);
		memset(r->c.vec.zmm[3] + 32, 0x11, 32);
	}
	r->c.vec.k[1] = v.k1;
	r->c.gpr[GPR_RDI] = AREA + AREA_SIZE / 2;
	cr_assert_eq(rig_exec(r, exec_gather, code, len), RIG_OK);
	code[len] = 0xc3;
	(f->evex ? run_avx512 : run_avx2)(code, &v, host + AREA_SIZE / 2);
	cr_assert_eq(memcmp(r->c.vec.zmm[1], v.v[0], vector), 0, "data, opcode %02x w %u vl %u",
		     code[len - 3], f->w, f->vl);
	if (f->evex)
		cr_assert_eq(r->c.vec.k[1], v.k1);
	else
		cr_assert_eq(memcmp(r->c.vec.zmm[3], v.v[2], vector), 0);
	if (!f->evex)
		cr_assert_eq(r->c.vec.zmm[1][32], 0);
	cr_assert_eq(memcmp(r->ram.window + AREA, host, AREA_SIZE), 0);
}

static void forms_like_the_host(bool evex, bool scatter)
{
	struct rig *r = rig_with_vectors();
	u8 *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	static u8 host[AREA_SIZE];
	u64 seed = 5;
	unsigned i;

	for (i = 0; i < 2000; i++) {
		struct form f = {.evex = evex,
				 .scatter = scatter,
				 .w = i & 1,
				 .index_64 = i >> 1 & 1,
				 .fp = i >> 2 & 1,
				 .vl = pick(&seed, evex ? 3 : 2),
				 .scale = pick(&seed, 4)};

		form_like_the_host(r, &f, host, code, &seed);
	}
	munmap(code, 4096);
	rig_free(r);
}

Test(gather, vex_like_the_host)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx2"))
		cr_skip_test("no AVX2 on this host");
	forms_like_the_host(false, false);
}

Test(gather, evex_like_the_host)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
		cr_skip_test("no AVX-512 on this host");
	forms_like_the_host(true, false);
}

Test(gather, scatter_like_the_host)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
		cr_skip_test("no AVX-512 on this host");
	forms_like_the_host(true, true);
}

Test(gather, a_fault_keeps_what_was_gathered)
{
	struct rig *r = rig_with_vectors();
	const s32 index[4] = {0, 1, END / 4, 2};
	const u32 all[4] = {~0u, ~0u, ~0u, ~0u};
	struct form f = {.scale = 2};
	u8 code[8];

	memcpy(r->c.vec.zmm[2], index, 16);
	memcpy(r->c.vec.zmm[3], all, 16);
	rig_put(r, 0, 8, 0x1111111122222222);
	r->c.gpr[GPR_RDI] = 0;
	cr_assert_eq(rig_exec(r, exec_gather, code, encode(&f, code)), EXC_PF);
	cr_assert_eq(r->c.cr2, END);
	cr_assert_eq(r->c.rip, RIG_CODE);
	cr_assert_eq(memcmp(r->c.vec.zmm[1], "\x22\x22\x22\x22\x11\x11\x11\x11\0\0\0\0", 12), 0);
	cr_assert_eq(r->c.vec.zmm[3][7], 0);
	cr_assert_eq(r->c.vec.zmm[3][8], 0xff);
	/* An element that is off does not fault. */
	memset(r->c.vec.zmm[3] + 8, 0, 4);
	cr_assert_eq(rig_exec(r, exec_gather, code, encode(&f, code)), RIG_OK);
	cr_assert_eq(r->c.vec.zmm[3][15], 0);
	rig_free(r);
}

Test(gather, scatter_faults_precisely)
{
	struct rig *r = rig_with_vectors();
	const s32 index[4] = {0, END / 4, 1, 2};
	struct form f = {.evex = true, .scatter = true, .scale = 2};
	u8 code[8];

	memcpy(r->c.vec.zmm[2], index, 16);
	memset(r->c.vec.zmm[1], 0x77, 16);
	r->c.vec.k[1] = 0xf;
	r->c.gpr[GPR_RDI] = 0;
	cr_assert_eq(rig_exec(r, exec_gather, code, encode(&f, code)), EXC_PF);
	cr_assert_eq(r->error, PF_W);
	cr_assert_eq(r->c.vec.k[1], 0xe);
	cr_assert_eq(rig_get(r, 0, 8), 0x77777777);
	rig_free(r);
}

Test(gather, undefined_combinations)
{
	struct rig *r = rig_with_vectors();

	/* VEX: index and mask, data and mask, data and index are the same register. */
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x17), EXC_UD);
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0xc4, 0xe2, 0x71, 0x90, 0x0c, 0x17), EXC_UD);
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0xc4, 0xe2, 0x61, 0x90, 0x14, 0x17), EXC_UD);
	/* EVEX: no mask register; data and index the same. */
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0x62, 0xf2, 0x7d, 0x48, 0x90, 0x0c, 0x17), EXC_UD);
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0x62, 0xf2, 0x7d, 0x49, 0x90, 0x14, 0x17), EXC_UD);
	r->c.xcr0 = 7;
	cr_assert_eq(RIG_EXEC(r, exec_gather, 0x62, 0xf2, 0x7d, 0x49, 0x90, 0x0c, 0x17), EXC_UD);
	rig_free(r);
}
