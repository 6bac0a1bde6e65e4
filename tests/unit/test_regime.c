/*
 * Regimes: where the two halves lie in the host, which GS bases fit, and going from one to the
 * other. No code is translated here; the shadows map into a list of calls.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <x86intrin.h>

#include "translate.h"

#define HOST_END  0x800000000000ull /* the first address that is not canonical */
#define ROOT      0x1000ull
#define LOW_PAGE  0x400000ull
#define HIGH_PAGE 0xffffffff80400000ull

struct world {
	struct cpu *c;
	struct bt bt;
	struct ram ram;
	struct stats stats;
	unsigned maps, unmaps;
};

static int map(void *opaque, gva_t va, u64 len, int prot, u64 off)
{
	struct world *x = opaque;

	(void)va, (void)len, (void)prot, (void)off;
	x->maps++;
	return 0;
}

static int protect(void *opaque, gva_t va, u64 len, int prot)
{
	(void)opaque, (void)va, (void)len, (void)prot;
	return 0;
}

static int unmap(void *opaque, gva_t va, u64 len)
{
	struct world *x = opaque;

	(void)va, (void)len;
	x->unmaps++;
	return 0;
}

static const struct shadow_ops ops = {
    .map = map, .protect = protect, .widen = protect, .unmap = unmap};

/* One large page, in either half. */
static void build_tables(struct world *x)
{
	u64 *table = (u64 *)(void *)(x->ram.window + ROOT);

	table[0] = table[511] = (ROOT + 0x1000) | PTE_P | PTE_W;
	table[512] = table[512 + 510] = (ROOT + 0x2000) | PTE_P | PTE_W;
	table[2 * 512 + 2] = PTE_P | PTE_W | PTE_PS;
}

static struct world *open_world(void)
{
	struct world *x = calloc(1, sizeof(*x));

	if (!bt_host_can())
		cr_skip_test("no FSGSBASE");
	x->c = aligned_alloc(64, ALIGN_UP(sizeof(*x->c), 64));
	memset(x->c, 0, sizeof(*x->c));
	cr_assert_eq(ram_init(&x->ram, 4 * MIB, NULL), 0);
	mmu_init(&x->c->mmu, &x->ram, &x->stats, 40);
	build_tables(x);
	x->c->mmu.pg = (struct paging){.cr0 = CR0_PE | CR0_PG | CR0_WP,
				       .cr3 = ROOT,
				       .cr4 = CR4_PAE,
				       .efer = EFER_LME | EFER_LMA,
				       .maxphyaddr = 40};
	x->c->stats = &x->stats;
	x->bt.c = x->c;
	x->bt.shadows[R64H] = shadow_new(&x->ram, &x->stats, &shadow_kernel_half, &ops, x);
	x->bt.shadows[R64L] = shadow_new(&x->ram, &x->stats, &shadow_low_window, &ops, x);
	cr_assert(x->bt.shadows[R64H] && x->bt.shadows[R64L]);
	x->bt.landings[R64H] = x->bt.landings[R64L] = true; /* there are no tables to fill */
	regime_enter(&x->bt, R64H);
	return x;
}

static void close_world(struct world *x)
{
	shadow_free(x->bt.shadows[R64H]);
	shadow_free(x->bt.shadows[R64L]);
	ram_destroy(&x->ram);
	free(x->c);
	free(x);
}

static u64 gs_base(void)
{
	u64 base;

	asm volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static bool fill(struct world *x, gva_t va)
{
	return shadow_fill(x->bt.shadow, &x->c->mmu.pg, va, MMU_READ, NULL) == SHADOW_MAPPED;
}

static bool reaches(struct world *x, gva_t va)
{
	return shadow_fill(x->bt.shadow, &x->c->mmu.pg, va, MMU_READ, NULL) != SHADOW_OUTSIDE;
}

Test(regime, the_rest_of_the_lower_half_is_nowhere)
{
	u64 topmost = HOST_END - GIB; /* where nothing is ever mapped */

	cr_expect_eq(SHADOW_LOW_SIZE + SHADOW_LOW_BIAS, topmost);
	/* Up to 1 TiB away it is there, or not canonical: up to 2^48, and no wrap. */
	cr_expect_geq(HOST_END - 1 + SHADOW_LOW_BIAS, HOST_END);
	cr_expect_lt(HOST_END - 1 + SHADOW_LOW_BIAS, ~0ull << 47);
	cr_expect_eq(regime_bias(R64H), SHADOW_BIAS);
	cr_expect_eq(regime_bias(R64L), SHADOW_LOW_BIAS);
}

Test(regime, the_half_of_a_pc_is_its_regime)
{
	cr_expect_eq(regime_of(0), R64L);
	cr_expect_eq(regime_of(HOST_END - 1), R64L);
	cr_expect_eq(regime_of(~0ull), R64H);
	cr_expect(regime_has(0) && regime_has(SHADOW_LOW_SIZE - 1) && regime_has(SHADOW_FIRST));
	cr_expect(!regime_has(SHADOW_LOW_SIZE) && !regime_has(SHADOW_FIRST - 1));
}

Test(regime, a_base_in_fs_stays_canonical)
{
	static const u64 bases[] = {0,
				    GIB - 1,
				    GIB,
				    SHADOW_LOW_SIZE - 1,
				    SHADOW_LOW_SIZE,
				    HOST_END - 1,
				    ~0ull << 47,
				    SHADOW_FIRST,
				    SHADOW_FIRST + SHADOW_LOW_SIZE,
				    ~0ull};
	static const bool fits[REGIMES][ARRAY_LEN(bases)] = {
	    [R64H] = {true, true, false, false, false, false, false, true, true, true},
	    [R64L] = {true, true, true, true, false, false, false, false, true, true}};

	for (enum regime r = 0; r < REGIMES; r++)
		for (unsigned i = 0; i < ARRAY_LEN(bases); i++) {
			cr_expect_eq(regime_fits_fs(r, bases[i]), fits[r][i], "%d %u", r, i);
			if (fits[r][i])
				cr_expect(cpu_canonical(bases[i] + regime_bias(r)), "%d %u", r, i);
		}
}

Test(regime, entering_one_leaves_nothing_of_the_other)
{
	struct world *x = open_world();

	cr_expect(fill(x, HIGH_PAGE));
	cr_expect(!reaches(x, LOW_PAGE));
	cr_expect_eq(x->unmaps, 0);
	regime_enter(&x->bt, R64L);
	cr_expect_eq(x->unmaps, 1);
	cr_expect_eq(x->c->mmu.shadow, x->bt.shadows[R64L]); /* which flushes follow */
	cr_expect_eq(x->bt.bias, SHADOW_LOW_BIAS);
	cr_expect_eq(gs_base(), SHADOW_LOW_BIAS);
	cr_expect(fill(x, LOW_PAGE));
	cr_expect(!reaches(x, HIGH_PAGE));
	cr_expect(!reaches(x, SHADOW_LOW_SIZE));
	regime_enter(&x->bt, R64H);
	cr_expect_eq(x->unmaps, 2);
	cr_expect_eq(gs_base(), SHADOW_BIAS);
	cr_expect_eq(x->maps, 2);
	cr_expect_eq(x->stats.n[STAT_bt_regime_switches], 2);
	close_world(x);
}

Test(regime, who_goes_over_too_often_must_wait)
{
	struct world *x = open_world();
	unsigned n = 0;

	for (; regime_may_enter(&x->bt, R64L) && n < 10000; n++) {
		regime_enter(&x->bt, R64L);
		cr_expect(regime_may_enter(&x->bt, R64L)); /* to stay is free */
		regime_enter(&x->bt, R64H);
	}
	cr_expect_geq(n, 64);
	cr_expect_lt(n, 10000);
	cr_expect(regime_may_enter(&x->bt, R64H)); /* kernels need not wait */
	x->bt.switch_freely = true;
	cr_expect(regime_may_enter(&x->bt, R64L));
	x->bt.switch_freely = false;
	x->bt.low_due = __rdtsc(); /* the time has come */
	cr_expect(regime_may_enter(&x->bt, R64L));
	close_world(x);
}
