/*
 * Random guests against the shadow: entries edited at all levels, A and D taken back, leaves split
 * and joined, roots switched, INVLPG, CR3 and CR4.PGE, pages that become code, a host that runs out
 * of mappings. A kernel-half and a user shadow of the same tables live side by side.
 *
 * The oracle is a TLB that remembers everything. For each page it keeps the set of translations
 * that a processor could have cached: those a walk of our own found after any step since the last
 * invalidation that concerns the page. Whatever the shadow has mapped must be in that set. Besides,
 * a fill changes A and D in the entries of its path and nothing else, nothing marked as code is
 * writable, and the counts of writable mappings are exact. So that dropping everything is no way to
 * pass, what has not changed must survive.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "shadow.h"

#define STEPS   40000
#define TABLES  0x200000ull /* gpa of the first */
#define ROOTS   2
#define PDPTS   3
#define PDS     4
#define PTS     5
#define N_TABLE (ROOTS + PDPTS + PDS + PTS)
#define REGIONS 12 /* of 2 MiB: 2 PML4 entries, 2 PDPT entries, 3 PD entries */
#define SLOTS   32 /* page-table entries in use */
#define LEGAL   400

struct translation {
	u32 pfn;
	u8 prot, shift;
	bool global;
};

/* The processor's view of one page. */
struct page {
	struct translation legal[LEGAL];
	unsigned n;
};

struct side {
	struct world *world;
	struct shadow *shadow;
	bool user;
	struct page page[REGIONS][SLOTS];
	/* The address space. */
	struct {
		u32 pfn;
		u8 prot;
	} mapped[REGIONS][512];
};

struct world {
	struct ram ram;
	struct stats stats;
	struct paging pg;
	struct side side[2];
	u64 seed;
	bool fail_next, failed;
	u64 before[N_TABLE][512];
};

static unsigned rnd(struct world *x, unsigned n)
{
	x->seed = x->seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(x->seed >> 33) % n;
}

/* --- places --- */

static const unsigned l4_index[2][2] = {{402, 511}, {1, 255}};
static const unsigned l3_index[2] = {0, 511};
static const unsigned l2_index[3] = {0, 2, 5};

static unsigned slot_index(unsigned slot)
{
	return slot < 24 ? slot : 480 + slot;
}

static gva_t region_va(const struct side *d, unsigned region)
{
	gva_t va = (u64)l4_index[d->user][region / 6] << 39 | (u64)l3_index[region / 3 % 2] << 30 |
		   (u64)l2_index[region % 3] << 21;

	return d->user ? va : va | ~0ull << 48;
}

static gva_t slot_va(const struct side *d, unsigned region, unsigned slot)
{
	return region_va(d, region) + slot_index(slot) * PAGE_SIZE;
}

static u64 *table(struct world *x, unsigned i)
{
	return (u64 *)(x->ram.window + TABLES) + i * 512;
}

static unsigned level_of(unsigned t)
{
	return t < ROOTS ? 4 : t < ROOTS + PDPTS ? 3 : t < ROOTS + PDPTS + PDS ? 2 : 1;
}

/* --- the address space: a backend for the shadow --- */

static int refuse(struct world *x)
{
	bool fail = x->fail_next;

	x->fail_next = false;
	x->failed |= fail;
	return fail ? -ENOMEM : 0;
}

static int put(struct side *d, gva_t va, u64 len, int prot, u64 offset, bool keep)
{
	unsigned r, i;

	cr_assert(len && !(va & ~PAGE_MASK) && !(len & ~PAGE_MASK));
	for (r = 0; r < REGIONS; r++)
		for (i = 0; i < 512; i++) {
			u64 off = region_va(d, r) + i * PAGE_SIZE - va;

			if (off >= len)
				continue;
			cr_assert(!keep || d->mapped[r][i].prot, "%#lx is not mapped", va + off);
			d->mapped[r][i].prot = (u8)prot;
			if (!keep)
				d->mapped[r][i].pfn = (u32)((offset + off) >> 12);
		}
	return refuse(d->world);
}

static int fake_map(void *opaque, gva_t va, u64 len, int prot, u64 offset)
{
	cr_assert(prot & PROT_READ);
	return put(opaque, va, len, prot, offset, false);
}

static int fake_protect(void *opaque, gva_t va, u64 len, int prot)
{
	cr_assert(prot & PROT_READ);
	return put(opaque, va, len, prot, 0, true);
}

static int fake_unmap(void *opaque, gva_t va, u64 len)
{
	return put(opaque, va, len, 0, 0, false);
}

/* No right of what is mapped may be missing. */
static int fake_widen(void *opaque, gva_t va, u64 len, int prot)
{
	const struct side *d = opaque;
	unsigned r, i;

	for (r = 0; r < REGIONS; r++)
		for (i = 0; i < 512; i++)
			if (region_va(d, r) + i * PAGE_SIZE - va < len)
				cr_assert_eq(d->mapped[r][i].prot & ~prot, 0, "takes a right");
	return fake_protect(opaque, va, len, prot);
}

static const struct shadow_ops fake_ops = {fake_map, fake_protect, fake_widen, fake_unmap};

/* --- the oracle --- */

/* What a processor could cache for va now, without setting A or D. */
static bool could_cache(struct world *x, bool user, gva_t va, struct translation *t)
{
	u64 e, gpa = x->pg.cr3, rights = PTE_W | PTE_U | PTE_A, nx = 0;
	unsigned level;

	for (level = 4;; level--) {
		e = *(u64 *)(x->ram.window + gpa + (va >> (3 + 9 * level) & 511) * 8);
		if (!(e & PTE_P))
			return false;
		rights &= e;
		nx |= e & PTE_NX;
		if (level == 1 || (e & PTE_PS))
			break;
		gpa = e & 0xfffffff000;
	}
	t->shift = (u8)(3 + 9 * level);
	gpa = (e & 0xfffffff000 & ~(BIT(t->shift) - 1)) | (va & (BIT(t->shift) - 1) & PAGE_MASK);
	t->pfn = (u32)(gpa >> 12);
	t->global = (e & PTE_G) && (x->pg.cr4 & CR4_PGE);
	t->prot = PROT_READ;
	if ((e & PTE_D) && ((rights & PTE_W) || (!user && !(x->pg.cr0 & CR0_WP))))
		t->prot |= PROT_WRITE;
	if (user && !nx)
		t->prot |= PROT_EXEC;
	return (rights & PTE_A) && (!user || (rights & PTE_U));
}

static void learn(struct world *x, struct side *d, unsigned r, unsigned s)
{
	struct page *p = &d->page[r][s];
	struct translation t = {0};
	unsigned i;

	if (!could_cache(x, d->user, slot_va(d, r, s), &t))
		return;
	for (i = 0; i < p->n; i++)
		if (!memcmp(&p->legal[i], &t, sizeof(t)))
			return;
	cr_assert_lt(p->n, LEGAL);
	p->legal[p->n++] = t;
}

enum what { FORGET_ADDRESS, FORGET_LOCAL, FORGET_ALL };

static void forget(struct world *x, struct side *d, enum what what, gva_t va)
{
	unsigned r, s, i, kept;

	for (r = 0; r < REGIONS; r++)
		for (s = 0; s < SLOTS; s++) {
			struct page *p = &d->page[r][s];

			for (i = kept = 0; i < p->n; i++) {
				struct translation t = p->legal[i];
				bool keep = what == FORGET_LOCAL ? t.global
					    : what == FORGET_ADDRESS
						? slot_va(d, r, s) >> t.shift != va >> t.shift
						: false;

				if (keep)
					p->legal[kept++] = t;
			}
			p->n = kept;
		}
	(void)x;
}

static void check_page(struct world *x, struct side *d, unsigned r, unsigned s)
{
	struct page *p = &d->page[r][s];
	u32 pfn = d->mapped[r][slot_index(s)].pfn;
	u8 prot = d->mapped[r][slot_index(s)].prot;
	unsigned i;

	if (!prot)
		return;
	cr_assert(!(prot & PROT_WRITE) || !x->ram.code[pfn], "code at %#x is writable", pfn);
	for (i = 0; i < p->n; i++)
		if (p->legal[i].pfn == pfn && !(prot & ~p->legal[i].prot))
			return;
	cr_assert_fail("%#lx has pfn %#x, rights %d: no processor could", slot_va(d, r, s), pfn,
		       prot);
}

static void check_counts(struct world *x)
{
	u32 *count = calloc(x->ram.size >> 12, sizeof(*count));
	unsigned d, r, i;
	u64 pfn;

	for (d = 0; d < 2; d++)
		for (r = 0; r < REGIONS; r++)
			for (i = 0; i < 512; i++)
				if (x->side[d].mapped[r][i].prot & PROT_WRITE)
					count[x->side[d].mapped[r][i].pfn]++;
	for (pfn = 0; pfn < x->ram.size >> 12; pfn++)
		cr_assert_eq(count[pfn], x->ram.writable[pfn], "pfn %#lx: %u mappings, %u counted",
			     pfn, count[pfn], x->ram.writable[pfn]);
	free(count);
}

static void learn_and_check(struct world *x)
{
	unsigned d, r, s;

	for (d = 0; d < 2; d++)
		for (r = 0; r < REGIONS; r++)
			for (s = 0; s < SLOTS; s++) {
				learn(x, &x->side[d], r, s);
				check_page(x, &x->side[d], r, s);
			}
}

/* --- what the guest does --- */

static u64 random_entry(struct world *x, unsigned level)
{
	static const u64 likely_bits[] = {PTE_P, PTE_W, PTE_U, PTE_A};
	u64 e = rnd(x, 2) ? 0 : PTE_D;
	unsigned i, first = level == 4 ? ROOTS : level == 3 ? ROOTS + PDPTS : N_TABLE - PTS;
	unsigned count = level == 4 ? PDPTS : level == 3 ? PDS : PTS;

	for (i = 0; i < ARRAY_LEN(likely_bits); i++)
		e |= rnd(x, 8) ? likely_bits[i] : 0;
	e |= rnd(x, 6) ? 0 : PTE_NX;
	e |= rnd(x, 3) ? 0 : PTE_G;
	if (level == 1)
		return e | (rnd(x, 20) ? (u64)(0x400 + rnd(x, 10)) << 12 : 0xfee00000);
	if (level == 2 && !rnd(x, 3))
		return e | PTE_PS | (u64)(1 + rnd(x, 8)) * 2 * MIB; /* the last is no RAM */
	if (level == 3 && !rnd(x, 6))
		return e | PTE_PS;
	e |= level < 4 ? 0 : PTE_P;
	return (e & ~PTE_G) | (TABLES + (first + rnd(x, count)) * PAGE_SIZE);
}

static unsigned random_index(struct world *x, unsigned level)
{
	switch (level) {
	case 4: return l4_index[rnd(x, 2)][rnd(x, 2)];
	case 3: return l3_index[rnd(x, 2)];
	case 2: return l2_index[rnd(x, 3)];
	default: return slot_index(rnd(x, SLOTS));
	}
}

static void edit(struct world *x)
{
	static const u64 flip[] = {PTE_W, PTE_U, PTE_NX, PTE_G, BIT(9), BIT(55)};
	unsigned t = rnd(x, 4) ? N_TABLE - PTS + rnd(x, PTS) : rnd(x, N_TABLE);
	unsigned level = level_of(t);
	u64 *e = table(x, t) + random_index(x, level);

	if (level == 4 && rnd(x, 4))
		return;
	switch (rnd(x, 8)) {
	case 0:
	case 1: *e = random_entry(x, level); break;
	case 2: *e &= ~PTE_A; break;
	case 3:
	case 4: *e &= level == 1 || (*e & PTE_PS) ? ~PTE_D : ~0ull; break;
	case 5: *e |= PTE_P | PTE_A | PTE_W | PTE_U; break;
	default: *e ^= flip[rnd(x, level > 1 && !(*e & PTE_PS) ? 3 : ARRAY_LEN(flip))]; break;
	}
}

static void access(struct world *x, struct side *d, unsigned r, unsigned s)
{
	enum mmu_access how = (enum mmu_access)rnd(x, d->user ? 3 : 2);
	static const u8 wanted[] = {
	    [MMU_READ] = PROT_READ, [MMU_WRITE] = PROT_WRITE, [MMU_EXEC] = PROT_EXEC};
	gva_t va = slot_va(d, r, s) + rnd(x, 4096);
	struct translation t = {0};
	enum shadow_fill got;
	unsigned tab, i;
	u64 changed = 0;

	if (d->mapped[r][slot_index(s)].prot & wanted[how])
		return; /* a hit */
	memcpy(x->before, table(x, 0), sizeof(x->before));
	got = shadow_fill(d->shadow, &x->pg, va, how, NULL);
	cr_assert_neq(got, SHADOW_OUTSIDE);
	for (tab = 0; tab < N_TABLE; tab++)
		for (i = 0; i < 512; i++)
			changed += x->before[tab][i] != table(x, tab)[i];
	cr_assert_leq(changed, 4);
	if (got == SHADOW_FAULT) {
		cr_assert_eq(changed, 0);
		forget(x, d, FORGET_ADDRESS, va);
		return;
	}
	/* The path, and only that, is accessed; the leaf dirty. */
	cr_assert(could_cache(x, d->user, va, &t), "A is not set");
	cr_assert(how != MMU_WRITE || (t.prot & PROT_WRITE), "D is not set");
	if (got != SHADOW_MAPPED)
		return;
	cr_assert_eq(d->mapped[r][slot_index(s)].pfn, t.pfn);
	cr_assert(d->mapped[r][slot_index(s)].prot & wanted[how]);
}

static void mark_code(struct world *x)
{
	u32 pfn = 0x400 + rnd(x, 2) * 0x200 + rnd(x, 10);

	x->ram.code[pfn] ^= 1;
	if (!x->ram.code[pfn])
		return;
	shadow_revoke_write(x->side[0].shadow, (gpa_t)pfn << 12);
	shadow_revoke_write(x->side[1].shadow, (gpa_t)pfn << 12);
	cr_assert_eq(x->ram.writable[pfn], 0);
}

/* A flush when nothing has changed since one drops nothing. */
static void flush_again(struct world *x)
{
	u64 unmaps = x->stats.n[STAT_shadow_unmaps], maps = x->stats.n[STAT_shadow_fills];
	unsigned d;

	for (d = 0; d < 2; d++) {
		shadow_revalidate(x->side[d].shadow, &x->pg);
		shadow_invlpg(x->side[d].shadow, &x->pg,
			      slot_va(&x->side[d], rnd(x, REGIONS), rnd(x, SLOTS)));
	}
	cr_assert_eq(x->stats.n[STAT_shadow_unmaps], unmaps);
	cr_assert_eq(x->stats.n[STAT_shadow_fills], maps);
}

static void flush(struct world *x, unsigned kind)
{
	unsigned d;

	if (kind == 0)
		x->pg.cr3 = TABLES + rnd(x, ROOTS) * PAGE_SIZE;
	if (kind == 1)
		x->pg.cr4 ^= CR4_PGE;
	if (kind == 2) {
		x->pg.cr0 ^= CR0_WP;
		x->fail_next = false; /* dropping everything cannot fail */
	}
	for (d = 0; d < 2; d++) {
		struct side *e = &x->side[d];

		switch (kind) {
		case 1: shadow_revalidate_all(e->shadow, &x->pg); break;
		case 2: shadow_flush_all(e->shadow); break;
		default: shadow_revalidate(e->shadow, &x->pg); break;
		}
		/* A user space is compared in full, for it may have missed what went before. */
		forget(x, e, kind == 1 || kind == 2 || e->user ? FORGET_ALL : FORGET_LOCAL, 0);
	}
	if (kind == 1 && !x->fail_next)
		flush_again(x);
}

static void step(struct world *x)
{
	struct side *d = &x->side[rnd(x, 2)];
	unsigned r = rnd(x, REGIONS), s = rnd(x, SLOTS), what = rnd(x, 100);

	x->fail_next |= !rnd(x, 500);
	if (what < 40) {
		edit(x);
	} else if (what < 80) {
		access(x, d, r, s);
	} else if (what < 90) {
		shadow_invlpg(d->shadow, &x->pg, slot_va(d, r, s) + rnd(x, 4096));
		forget(x, d, FORGET_ADDRESS, slot_va(d, r, s));
	} else if (what < 96) {
		flush(x, rnd(x, 20) ? 3 : 0);
	} else if (what < 97) {
		flush(x, rnd(x, 4) ? 1 : 2);
	} else {
		mark_code(x);
	}
}

static void open_world(struct world *x, u64 seed)
{
	static const struct shadow_range user = {.last = 0x00007fffffffffff, .user = true};
	unsigned t, i;

	cr_assert_eq(ram_init(&x->ram, 16 * MIB, NULL), 0);
	x->pg = (struct paging){.cr0 = CR0_PE | CR0_PG | CR0_WP,
				.cr3 = TABLES,
				.cr4 = CR4_PAE | CR4_PGE,
				.efer = EFER_LME | EFER_LMA | EFER_NXE,
				.maxphyaddr = 40};
	x->seed = seed;
	for (t = 0; t < 2; t++) {
		x->side[t].world = x;
		x->side[t].user = t;
		x->side[t].shadow = shadow_new(&x->ram, &x->stats, t ? &user : &shadow_kernel_half,
					       &fake_ops, &x->side[t]);
		cr_assert_not_null(x->side[t].shadow);
	}
	for (t = 0; t < N_TABLE; t++)
		for (i = 0; i < 300; i++)
			table(x, t)[random_index(x, level_of(t))] = random_entry(x, level_of(t));
}

Test(shadow_random, holds_only_what_a_tlb_may, .timeout = 300)
{
	struct world *x = calloc(1, sizeof(*x));
	const u64 *n = x->stats.n;
	unsigned i;

	open_world(x, 20240607);
	for (i = 0; i < STEPS; i++) {
		step(x);
		learn_and_check(x);
		if (i % 64 == 0 && !x->failed)
			check_counts(x);
		x->failed = false;
	}
	check_counts(x);
	/* It was about something. */
	cr_expect_gt(n[STAT_shadow_fills], STEPS / 20);
	cr_expect_gt(n[STAT_shadow_around], STEPS / 20);
	cr_expect_gt(n[STAT_shadow_protects], STEPS / 50);
	cr_expect_gt(n[STAT_shadow_changed], STEPS / 50);
	cr_expect_gt(n[STAT_shadow_full], STEPS / 5000);
	for (i = 0; i < 2; i++)
		shadow_free(x->side[i].shadow);
	for (i = 0; i < x->ram.size >> 12; i++)
		cr_assert_eq(x->ram.writable[i], 0);
	ram_destroy(&x->ram);
	free(x);
}
