/* Model-specific registers: the table, the checks on values, and what has effects elsewhere. */
#include "cpu_rig.h"
#include "msr.h"

#define MSR_TSC       0x10u
#define MSR_SPEC_CTRL 0x48u
#define MSR_MTRRCAP   0xfeu
#define MSR_ARCH_CAPS 0x10au
#define MSR_PAT       0x277u
#define MSR_DEF_TYPE  0x2ffu
#define MSR_EFER      0xc0000080u
#define MSR_LSTAR     0xc0000082u
#define MSR_FMASK     0xc0000084u
#define MSR_GS_BASE   0xc0000101u
#define MSR_KGS_BASE  0xc0000102u
#define NON_CANONICAL 0x0000800000000000ull

struct world {
	struct rig *r;
	struct cpuid_model model;
	struct msr_state msrs;
	struct pvclock clock;
	u32 apic_index;
	u64 apic_value;
};

static u64 tsc(void *vm)
{
	(void)vm;
	return 0x123456789abcull;
}

static u64 zero(void *vm)
{
	(void)vm;
	return 0;
}

static int apic_get(void *opaque, u32 index, u64 *val)
{
	struct world *w = opaque;

	w->apic_index = index;
	*val = w->apic_value;
	return index == 0x83f ? -1 : 0;
}

static int apic_set(void *opaque, u32 index, u64 val)
{
	struct world *w = opaque;

	w->apic_index = index;
	w->apic_value = val;
	return index == 0x83f ? -1 : 0;
}

static const struct cpu_ops ops = {.tsc = tsc};

static void world_init(struct world *w)
{
	struct cpuid_host h = cpuid_host_real();
	struct msr_ops mo = {.apic_read = apic_get, .apic_write = apic_set, .opaque = w};

	memset(w, 0, sizeof(*w));
	w->r = rig_new();
	w->r->c.ops = &ops;
	w->r->c.vm = w;
	cpuid_model_init(&w->model, CPU_MODEL_HOST, &h, 2700000, 1000000);
	w->model.intel = true;
	w->model.maxphyaddr = 40;
	pvclock_init(&w->clock, &w->r->ram, 2700000, tsc, zero, zero, w);
	msr_init(&w->msrs, &w->r->c, &w->model, &w->clock, &mo);
}

static void world_free(struct world *w)
{
	rig_free(w->r);
}

static u64 get(struct world *w, u32 index)
{
	u64 v = 0xdeadbeef;

	cr_assert_eq(msr_read(&w->msrs, index, &v), 0, "RDMSR %#x", index);
	return v;
}

static int set(struct world *w, u32 index, u64 v)
{
	return msr_write(&w->msrs, index, v);
}

Test(msr, unknown_ones_fault_and_are_counted)
{
	struct world w;
	u64 v;

	world_init(&w);
	cr_assert_eq(msr_read(&w.msrs, 0x1234, &v), -1);
	cr_assert_eq(set(&w, 0xc0010015, 0), -1, "AMD's, on Intel's");
	cr_assert_eq(w.r->stats.n[STAT_unknown_msrs], 2);
	cr_assert_eq(set(&w, MSR_LSTAR, NON_CANONICAL), -1);
	cr_assert_eq(w.r->stats.n[STAT_unknown_msrs], 2, "a bad value is not an unknown MSR");
	w.model.intel = false;
	cr_assert_eq(get(&w, 0xc0010015), 1 << 24);
	cr_assert_eq(set(&w, 0xc001001f, 1ull << 46), 0, "Linux writes NB_CFG, come what may");
	world_free(&w);
}

Test(msr, every_listed_one_can_be_read)
{
	struct world w;
	u32 index;
	u64 v;

	world_init(&w);
	w.model.intel = false;
#define TRY(n)                                                                                     \
	index = n;                                                                                 \
	if (index != 0x49 && index != 0x83f)                                                       \
		cr_expect_eq(msr_read(&w.msrs, index, &v), 0, "%#x", index);
#define FIELD(number, NAME, place, check)    TRY(number)
#define FIXED(number, NAME, value, on_write) TRY(number)
#define AMD(number, NAME, value, on_write)   TRY(number)
#define CALL(first, last, NAME, function)    TRY(first) TRY(last)
#include "msr.def"
#undef FIELD
#undef FIXED
#undef AMD
#undef CALL
	cr_expect_eq(w.r->stats.n[STAT_unknown_msrs], 0);
	world_free(&w);
}

Test(msr, values_are_checked)
{
	static const struct {
		u32 index;
		u64 good, bad;
	} cases[] = {
	    {MSR_LSTAR, 0xffffffff81000000, NON_CANONICAL},
	    {0xc0000083, 0x7fffffffffff, ~NON_CANONICAL},
	    {MSR_FMASK, 0x47700, 1ull << 32},
	    {0xc0000100, 0x7f0000001000, NON_CANONICAL},
	    {MSR_GS_BASE, 0xffff888000000000, 1ull << 62},
	    {MSR_KGS_BASE, 0, NON_CANONICAL},
	    {0xc0000103, 0xffffffff, 1ull << 32}, /* TSC_AUX */
	    {0x174, 0x10, 1ull << 32},
	    {0x175, 0xffffc90000000000, NON_CANONICAL},
	    {0x176, 0, NON_CANONICAL},
	    {MSR_PAT, 0x0407050600070106, 0x02},
	    {MSR_PAT, 0x0007040600070406, 0x0800000000000000},
	    {MSR_DEF_TYPE, 0xc06, 0xc02},
	    {MSR_DEF_TYPE, 0x800, 0x1000},
	    {0x200, 0xc0000000, 0xc0000002},   /* base: type */
	    {0x202, 0x100000006, 0x106},       /* base: reserved */
	    {0x204, 0xfff0000006, 1ull << 40}, /* base: beyond the address space */
	    {0x201, 0xffc0000800, 0x400},
	    {0x201, 0, 1ull << 40},
	    {0x26f, 0x0605040100060504, 0x0300000000000000},
	    {0x250, 0, 7},
	    {MSR_SPEC_CTRL, 1, 8},
	    {0x17a, 4, 8},
	};
	struct world w;
	unsigned i;

	world_init(&w);
	for (i = 0; i < ARRAY_LEN(cases); i++) {
		cr_expect_eq(set(&w, cases[i].index, cases[i].good), 0, "case %u", i);
		cr_expect_eq(set(&w, cases[i].index, cases[i].bad), -1, "case %u", i);
		cr_expect_eq(get(&w, cases[i].index), cases[i].good, "case %u", i);
	}
	world_free(&w);
}

Test(msr, read_only_and_write_only)
{
	struct world w;
	u64 v;

	world_init(&w);
	cr_expect_eq(set(&w, MSR_MTRRCAP, 0), -1);
	cr_expect_eq(get(&w, MSR_MTRRCAP), 0x508);
	cr_expect_eq(set(&w, MSR_ARCH_CAPS, 0), -1);
	cr_expect_eq(set(&w, 0x3a, 1), -1); /* locked */
	cr_expect_eq(get(&w, 0x3a), 1);
	cr_expect_eq(set(&w, 0x8b, 0), 0); /* part of reading the revision */
	cr_expect_eq(get(&w, 0x8b), 1ull << 32);
	cr_expect_eq(set(&w, 0x49, 1), 0);
	cr_expect_eq(set(&w, 0x49, 2), -1);
	cr_expect_eq(msr_read(&w.msrs, 0x49, &v), -1);
	cr_expect_eq(set(&w, 0x140, 0), 0);
	cr_expect_eq(set(&w, 0x140, 1), -1);
	cr_expect_eq(set(&w, 0x1d9, 3), 0); /* branch records: asked for in vain */
	cr_expect_eq(get(&w, 0x1d9), 0);
	cr_expect_eq(set(&w, 0x1d9, 4), -1);
	cr_expect_eq(get(&w, 0xce) >> 8 & 0xff, 27);
	world_free(&w);
}

/* Translated code loads and stores these itself: only where nothing else is to be done. */
Test(msr, plain_words)
{
	struct world w;
	struct msr_word p;

	world_init(&w);
	cr_assert(msr_word(&w.msrs, MSR_LSTAR, &p));
	cr_expect_eq(p.place, &w.r->c.lstar);
	cr_expect_eq(p.writes, MSR_WRITE_CANONICAL);
	cr_assert(msr_word(&w.msrs, MSR_FMASK, &p));
	cr_expect_eq(p.place, &w.r->c.fmask);
	cr_expect_eq(p.writes, MSR_WRITE_32);
	cr_assert(msr_word(&w.msrs, MSR_PAT, &p));
	cr_expect_eq(p.writes, MSR_WRITE_OTHER, "its value is checked");
	cr_expect(!msr_word(&w.msrs, MSR_TSC, &p));
	cr_expect(!msr_word(&w.msrs, MSR_EFER, &p), "writes have effects");
	cr_expect(!msr_word(&w.msrs, 0x12345, &p));
	world_free(&w);
}

Test(msr, no_mitigations_wanted)
{
	struct world w;
	u64 caps;

	world_init(&w);
	caps = get(&w, MSR_ARCH_CAPS);
	cr_expect(caps & 1 << 0, "RDCL_NO: no page-table isolation");
	cr_expect(caps & 1 << 1, "IBRS_ALL: no retpolines");
	cr_expect(caps & 1 << 5, "MDS_NO: no VERW");
	cr_expect(caps & 1 << 20, "BHI_NO: no branch-history clearing");
	cr_expect(caps >> 62 & 1, "ITS_NO: no return thunks");
	cr_expect(cpuid_has(&w.model, CPUID_7_EDX, CPUID_BIT_ARCH_CAPABILITIES));
	cr_expect(cpuid_has(&w.model, CPUID_7_EDX, CPUID_BIT_SPEC_CTRL));
	world_free(&w);
}

Test(msr, backed_by_the_cpu)
{
	struct world w;
	struct cpu *c;

	world_init(&w);
	c = &w.r->c;
	cr_assert_eq(set(&w, MSR_GS_BASE, 0xffff888012340000), 0);
	cr_expect_eq(c->seg[SEG_GS].base, 0xffff888012340000);
	cr_assert_eq(set(&w, MSR_KGS_BASE, 0x7f), 0);
	cr_expect_eq(c->kernel_gs_base, 0x7f);
	c->star = 0x23001000000000;
	cr_expect_eq(get(&w, 0xc0000081), 0x23001000000000);
	cr_expect_eq(get(&w, MSR_TSC), 0x123456789abcull);
	cr_expect_eq(set(&w, MSR_TSC, 0), 0);
	cr_expect_eq(get(&w, MSR_TSC), 0x123456789abcull);
	cr_expect_eq(get(&w, 0x1a0), 0x1801);
	cr_expect_eq(set(&w, 0x1a0, 1ull << 34 | 1 << 18), 0);
	cr_expect_eq(get(&w, 0x1a0), 0x1800);
	world_free(&w);
}

Test(msr, efer)
{
	struct world w;
	struct cpu *c;

	world_init(&w);
	c = &w.r->c;
	cr_expect_eq(set(&w, MSR_EFER, 1ull << 12), -1, "SVME");
	cr_expect_eq(set(&w, MSR_EFER, EFER_LMA), 0, "LMA is not for software, and no fault");
	cr_expect_eq(c->efer, 0);
	cr_expect_eq(set(&w, MSR_EFER, EFER_LME | EFER_SCE | EFER_NXE), 0);
	cr_expect_eq(c->efer, EFER_LME | EFER_SCE | EFER_NXE);
	cr_expect_eq(c->mmu.pg.efer, c->efer, "the walker knows NXE");
	c->cr0 |= CR0_PG | CR0_PE;
	c->efer |= EFER_LMA;
	cr_expect_eq(set(&w, MSR_EFER, EFER_SCE | EFER_NXE), -1, "LME while paging");
	cr_expect_eq(set(&w, MSR_EFER, EFER_LME | EFER_SCE), 0);
	cr_expect_eq(c->efer, EFER_LME | EFER_LMA | EFER_SCE);
	world_free(&w);
}

Test(msr, forwarded_to_the_apic)
{
	static const u32 index[] = {0x1b, 0x6e0, 0x800, 0x80b, 0x83e};
	struct world w;
	unsigned i;
	u64 v;

	world_init(&w);
	for (i = 0; i < ARRAY_LEN(index); i++) {
		cr_expect_eq(set(&w, index[i], 0x1000 + i), 0);
		cr_expect_eq(w.apic_index, index[i]);
		cr_expect_eq(get(&w, index[i]), 0x1000 + i);
	}
	cr_expect_eq(msr_read(&w.msrs, 0x83f, &v), -1);
	cr_expect_eq(msr_read(&w.msrs, 0x840, &v), -1);
	cr_expect_eq(w.apic_index, 0x83f, "0x840 is not the APIC's");
	world_free(&w);
}

Test(msr, boot_mtrrs)
{
	struct world w;

	world_init(&w);
	msr_set_boot_mtrrs(&w.msrs, 3 * GIB);
	cr_expect_eq(get(&w, MSR_DEF_TYPE), 0xc06);
	cr_expect_eq(get(&w, 0x200), 0xc0000000);
	cr_expect_eq(get(&w, 0x201), 0xffc0000800);
	cr_expect_eq(get(&w, 0x250), 0x0606060606060606);
	cr_expect_eq(get(&w, 0x259), 0);
	cr_expect_eq(get(&w, 0x268), 0x0606060606060606);
	msr_reset(&w.msrs);
	cr_expect_eq(get(&w, MSR_DEF_TYPE), 0);
	world_free(&w);
}

Test(msr, no_clock_no_clock_msrs)
{
	struct world w;
	u64 v;

	world_init(&w);
	cr_expect_eq(set(&w, MSR_KVM_SYSTEM_TIME, 0x5001), 0);
	cr_expect_eq(get(&w, MSR_KVM_SYSTEM_TIME), 0x5001);
	cr_expect_eq(get(&w, MSR_KVM_SYSTEM_TIME_OLD), 0x5001);
	w.msrs.clock = NULL;
	cr_expect_eq(msr_read(&w.msrs, MSR_KVM_SYSTEM_TIME, &v), -1);
	cr_expect_eq(set(&w, MSR_KVM_WALL_CLOCK, 0x5000), -1);
	world_free(&w);
}
