/*
 * The software TLB: what a miss fills and does not fill, every way an entry leaves, and that the
 * fast path never answers for a page it should not.
 *
 * Page tables: 4-level, an identity map would hide mistakes, so each test maps pages of its own.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "mmu.h"

#define VA     0x00007f1234567000ull
#define RW     (PTE_P | PTE_W | PTE_U)
#define ROOT   0x100000ull
#define TABLES 0x101000ull /* handed out from here */
#define SLOTS  ((gva_t)TLB_SIZE << 12)

struct world {
	struct ram ram;
	struct stats stats;
	struct mmu mmu;
	gpa_t next_table;
};

static struct world *open_world(u64 size)
{
	struct world *x = calloc(1, sizeof(*x));

	cr_assert_not_null(x);
	cr_assert_eq(ram_init(&x->ram, size, NULL), 0);
	mmu_init(&x->mmu, &x->ram, &x->stats, 40);
	x->next_table = TABLES;
	return x;
}

static void close_world(struct world *x)
{
	ram_destroy(&x->ram);
	free(x);
}

static struct paging long_mode(u64 cr4)
{
	return (struct paging){.cr0 = CR0_PE | CR0_PG | CR0_WP,
			       .cr3 = ROOT,
			       .cr4 = CR4_PAE | cr4,
			       .efer = EFER_LME | EFER_LMA | EFER_NXE,
			       .maxphyaddr = 40};
}

static struct world *open_long(u64 cr4)
{
	struct world *x = open_world(8 * MIB);
	struct paging pg = long_mode(cr4);

	mmu_set_paging(&x->mmu, &pg);
	return x;
}

/* The entry for va at a level, tables above made as needed. */
static u64 *pte(struct world *x, gva_t va, unsigned level)
{
	gpa_t table = ROOT;
	unsigned l;

	for (l = 4;; l--) {
		u64 *e = (u64 *)(x->ram.window + table) + (va >> (3 + 9 * l) & 0x1ff);

		if (l == level)
			return e;
		if (!(*e & PTE_P)) {
			*e = x->next_table | RW;
			x->next_table += PAGE_SIZE;
		}
		table = *e & 0xfffffff000;
	}
}

static void map(struct world *x, gva_t va, u64 entry)
{
	*pte(x, va, 1) = entry;
}

static bool hit(struct world *x, gva_t va, enum mmu_access access, bool user)
{
	return mmu_fast(&x->mmu, va, 1, access, user) != NULL;
}

/* Translate, and check the answer against where the byte must be. */
static void touch(struct world *x, gva_t va, enum mmu_access access, bool user, gpa_t want)
{
	struct mmu_target t;

	cr_assert_eq(mmu_translate(&x->mmu, va, access, user, &t), MMU_RAM, "va %lx", va);
	cr_assert_eq(t.gpa, want);
	cr_assert_eq(t.host, x->ram.window + want);
}

static void touch_fault(struct world *x, gva_t va, enum mmu_access access, bool user, u32 error)
{
	struct mmu_target t;

	cr_assert_eq(mmu_translate(&x->mmu, va, access, user, &t), MMU_FAULT);
	cr_assert_eq(t.error, error);
}

/* Which of read, write, exec hit, as "rwx" with dashes. */
static const char *tags(struct world *x, gva_t va, bool user, char buf[4])
{
	buf[0] = hit(x, va, MMU_READ, user) ? 'r' : '-';
	buf[1] = hit(x, va, MMU_WRITE, user) ? 'w' : '-';
	buf[2] = hit(x, va, MMU_EXEC, user) ? 'x' : '-';
	buf[3] = 0;
	return buf;
}

#define EXPECT_TAGS(x, va, user, want)                                                             \
	do {                                                                                       \
		char got_[4];                                                                      \
		cr_assert_str_eq(tags(x, va, user, got_), want);                                   \
	} while (0)

Test(tlb, starts_empty)
{
	struct world *x = open_world(MIB);
	unsigned i;

	for (i = 0; i < TLB_SIZE; i++) {
		EXPECT_TAGS(x, (gva_t)i << 12, false, "---");
		EXPECT_TAGS(x, (gva_t)i << 12, true, "---");
	}
	EXPECT_TAGS(x, ~0ull, false, "---");
	cr_assert_eq(x->stats.n[STAT_tlb_flushes], 0);
	close_world(x);
}

/* What each kind of miss fills, by rights and D bit. */
Test(tlb, fill)
{
	static const struct {
		u64 bits;
		enum mmu_access access;
		bool user;
		const char *want;
		u64 after;
	} rows[] = {
	    {RW, MMU_READ, true, "r--", RW | PTE_A},
	    {RW | PTE_D, MMU_READ, true, "rw-", RW | PTE_A | PTE_D},
	    {RW, MMU_WRITE, true, "rw-", RW | PTE_A | PTE_D},
	    {RW, MMU_EXEC, true, "r-x", RW | PTE_A},
	    {RW | PTE_D, MMU_EXEC, true, "r-x", RW | PTE_A | PTE_D},
	    {PTE_P | PTE_U | PTE_D, MMU_READ, true, "r--", PTE_P | PTE_U | PTE_A | PTE_D},
	    {PTE_P | PTE_U | PTE_D, MMU_READ, false, "r--", PTE_P | PTE_U | PTE_A | PTE_D},
	    {PTE_P | PTE_W, MMU_WRITE, false, "rw-", PTE_P | PTE_W | PTE_A | PTE_D},
	    {RW | PTE_NX, MMU_READ, true, "r--", RW | PTE_A | PTE_NX},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		struct world *x = open_long(0);

		map(x, VA, 0x300000 | rows[i].bits);
		touch(x, VA + 0x123, rows[i].access, rows[i].user, 0x300123);
		EXPECT_TAGS(x, VA + 0xfff, rows[i].user, rows[i].want);
		EXPECT_TAGS(x, VA, !rows[i].user, "---");
		EXPECT_TAGS(x, VA + PAGE_SIZE, rows[i].user, "---");
		cr_assert_eq(*pte(x, VA, 1), 0x300000 | rows[i].after, "row %u", i);
		cr_assert_eq(mmu_fast(&x->mmu, VA + 0x123, 4, MMU_READ, rows[i].user),
			     x->ram.window + 0x300123);
		cr_assert_eq(x->stats.n[STAT_tlb_misses], 1);
		close_world(x);
	}
}

/* A supervisor write with WP clear to a read-only page: the tag holds for supervisor alone. */
Test(tlb, write_protect_off)
{
	struct world *x = open_long(0);
	struct paging pg = long_mode(0);

	pg.cr0 &= ~CR0_WP;
	mmu_set_paging(&x->mmu, &pg);
	map(x, VA, 0x300000 | PTE_P | PTE_U);
	touch(x, VA, MMU_WRITE, false, 0x300000);
	EXPECT_TAGS(x, VA, false, "rw-");
	touch_fault(x, VA, MMU_WRITE, true, PF_P | PF_W | PF_U);
	touch(x, VA, MMU_WRITE, false, 0x300000);
	pg.cr0 |= CR0_WP;
	mmu_set_paging(&x->mmu, &pg);
	EXPECT_TAGS(x, VA, false, "---");
	touch_fault(x, VA, MMU_WRITE, false, PF_P | PF_W);
	close_world(x);
}

Test(tlb, crossing_accesses_miss)
{
	struct world *x = open_long(0);
	unsigned size;

	map(x, VA, 0x300000 | RW);
	map(x, VA + PAGE_SIZE, 0x301000 | RW);
	touch(x, VA, MMU_WRITE, true, 0x300000);
	touch(x, VA + PAGE_SIZE, MMU_WRITE, true, 0x301000);
	for (size = 1; size <= 64; size *= 2) {
		cr_assert_not_null(mmu_fast(&x->mmu, VA + PAGE_SIZE - size, size, MMU_READ, true));
		if (size > 1)
			cr_assert_null(
			    mmu_fast(&x->mmu, VA + PAGE_SIZE - size + 1, size, MMU_READ, true));
	}
	close_world(x);
}

/* Two pages that share a slot: the second takes all of it. */
Test(tlb, slot_is_taken_whole)
{
	struct world *x = open_long(0);

	map(x, VA, 0x300000 | RW | PTE_D);
	map(x, VA + SLOTS, 0x301000 | PTE_P | PTE_U);
	touch(x, VA, MMU_EXEC, true, 0x300000);
	touch(x, VA, MMU_WRITE, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "rwx");
	touch(x, VA + SLOTS, MMU_READ, true, 0x301000);
	EXPECT_TAGS(x, VA, true, "---");
	EXPECT_TAGS(x, VA + SLOTS, true, "r--");
	touch(x, VA, MMU_EXEC, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "r-x");
	EXPECT_TAGS(x, VA + SLOTS, true, "---");
	close_world(x);
}

/* The same page, mapped elsewhere without INVLPG: a miss of one kind must not leave tags of
 * another kind with the new addend, nor let a non-global tag survive as global. */
Test(tlb, remapped_page)
{
	struct world *x = open_long(CR4_PGE);

	map(x, VA, 0x300000 | RW | PTE_D);
	touch(x, VA, MMU_WRITE, true, 0x300000);
	map(x, VA, 0x301000 | RW);
	touch(x, VA, MMU_EXEC, true, 0x301000);
	EXPECT_TAGS(x, VA, true, "r-x");
	cr_assert_eq(mmu_fast(&x->mmu, VA, 1, MMU_READ, true), x->ram.window + 0x301000);
	map(x, VA, 0x301000 | PTE_P | PTE_U | PTE_G);
	touch(x, VA, MMU_READ, true, 0x301000);
	EXPECT_TAGS(x, VA, true, "r--");
	close_world(x);
}

/* SDM vol. 3, 4.10.4.1: a page fault drops what is cached for its address. */
Test(tlb, fault_drops_the_page)
{
	struct world *x = open_long(0);

	map(x, VA, 0x300000 | RW);
	touch(x, VA, MMU_READ, true, 0x300000);
	touch(x, VA, MMU_READ, false, 0x300000);
	map(x, VA, 0);
	EXPECT_TAGS(x, VA, true, "r--");
	touch_fault(x, VA, MMU_WRITE, true, PF_U | PF_W);
	EXPECT_TAGS(x, VA, true, "---");
	EXPECT_TAGS(x, VA, false, "---");
	/* but not another page that happens to sit in the slot */
	map(x, VA + SLOTS, 0x301000 | RW);
	touch(x, VA + SLOTS, MMU_READ, true, 0x301000);
	touch_fault(x, VA, MMU_READ, true, PF_U);
	EXPECT_TAGS(x, VA + SLOTS, true, "r--");
	close_world(x);
}

Test(tlb, mmio_gets_no_tag)
{
	static const gpa_t io[] = {0xa0000,    0xbf000, 8 * MIB,
				   0xfee00000, 4 * GIB, BIT(40) - 0x1000};
	struct world *x = open_long(0);
	struct mmu_target t;
	unsigned i, access;

	for (i = 0; i < ARRAY_LEN(io); i++) {
		map(x, VA, io[i] | RW);
		mmu_invlpg(&x->mmu, VA);
		for (access = MMU_READ; access <= MMU_EXEC; access++) {
			cr_assert_eq(mmu_translate(&x->mmu, VA + 0x30, access, true, &t), MMU_IO);
			cr_assert_eq(t.gpa, io[i] + 0x30);
			cr_assert_null(t.host);
			EXPECT_TAGS(x, VA, true, "---");
		}
		cr_assert_eq(*pte(x, VA, 1), io[i] | RW | PTE_A | PTE_D);
	}
	/* just inside RAM on both sides of the hole */
	map(x, VA, 0x9f000 | RW);
	mmu_invlpg(&x->mmu, VA);
	touch(x, VA + 0xfff, MMU_WRITE, true, 0x9ffff);
	map(x, VA, 0xc0000 | RW);
	touch(x, VA, MMU_WRITE, true, 0xc0000);
	close_world(x);
}

/* The gpa of a device's page, and whether it took a walk. */
static bool io_walks(struct world *x, gva_t va, enum mmu_access access, bool user, gpa_t want)
{
	u64 before = x->stats.n[STAT_tlb_misses];
	struct mmu_target t;

	cr_assert_eq(mmu_translate(&x->mmu, va, access, user, &t), MMU_IO);
	cr_assert_eq(t.gpa, want);
	return x->stats.n[STAT_tlb_misses] != before;
}

Test(tlb, places_of_devices_are_remembered)
{
	struct world *x = open_long(CR4_PGE);
	const gva_t other = VA + TLB_IO_SIZE * PAGE_SIZE; /* the same slot */
	struct paging pg;

	map(x, VA, 0xfee00000 | RW);
	map(x, other, 0xfec00000 | RW | PTE_G);
	cr_assert(io_walks(x, VA + 8, MMU_READ, false, 0xfee00008));
	cr_assert_not(io_walks(x, VA + 0x30, MMU_READ, false, 0xfee00030));
	cr_assert(io_walks(x, VA, MMU_READ, true, 0xfee00000), "rights are another matter");
	/* A write sets D first. */
	cr_assert(io_walks(x, VA, MMU_WRITE, false, 0xfee00000));
	cr_assert_eq(*pte(x, VA, 1) & PTE_D, PTE_D);
	cr_assert_not(io_walks(x, VA, MMU_WRITE, false, 0xfee00000));
	cr_assert_not(io_walks(x, VA, MMU_READ, false, 0xfee00000));
	/* Not for fetches. */
	cr_assert(io_walks(x, VA, MMU_EXEC, false, 0xfee00000));
	cr_assert(io_walks(x, other, MMU_READ, false, 0xfec00000));
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee00000));
	/* A read with D set lets writes pass. */
	cr_assert_not(io_walks(x, VA, MMU_WRITE, false, 0xfee00000));

	/* Kept until invalidated, by whatever. */
	map(x, VA, 0xfee01000 | RW);
	cr_assert_not(io_walks(x, VA, MMU_READ, false, 0xfee00000));
	mmu_invlpg(&x->mmu, VA + 5);
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee01000));
	mmu_flush_non_global(&x->mmu);
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee01000));
	mmu_flush_all(&x->mmu);
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee01000));
	pg = long_mode(0);
	mmu_set_paging(&x->mmu, &pg);
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee01000));
	map(x, VA, 0xfee01000 | (RW & ~PTE_W));
	touch_fault(x, VA, MMU_WRITE, false, PF_P | PF_W);
	cr_assert(io_walks(x, VA, MMU_READ, false, 0xfee01000), "a fault invalidates");
	/* It may become RAM. */
	map(x, VA, 0x300000 | RW);
	mmu_invlpg(&x->mmu, VA);
	touch(x, VA + 1, MMU_READ, false, 0x300001);
	close_world(x);
}

Test(tlb, high_ram)
{
	struct world *x = open_world(5 * GIB);
	struct paging pg = long_mode(0);
	struct mmu_target t;

	mmu_set_paging(&x->mmu, &pg);
	map(x, VA, (6 * GIB - PAGE_SIZE) | RW);
	touch(x, VA + 8, MMU_WRITE, true, 6 * GIB - PAGE_SIZE + 8);
	*(u64 *)mmu_fast(&x->mmu, VA + 8, 8, MMU_WRITE, true) = 0x1234;
	cr_assert_eq(*(u64 *)(x->ram.window + 6 * GIB - PAGE_SIZE + 8), 0x1234);
	map(x, VA + PAGE_SIZE, 3 * GIB | RW);
	cr_assert_eq(mmu_translate(&x->mmu, VA + PAGE_SIZE, MMU_READ, true, &t), MMU_IO);
	close_world(x);
}

Test(tlb, code_pages_get_no_write_tag)
{
	struct world *x = open_long(0);

	map(x, VA, 0x300000 | RW | PTE_D);
	x->ram.code[0x300] = 1;
	touch(x, VA, MMU_READ, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "r--");
	touch(x, VA, MMU_WRITE, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "r--");
	x->ram.code[0x300] = 0;
	touch(x, VA, MMU_WRITE, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "rw-");
	close_world(x);
}

/* Marking a page withdraws the write tags of all its aliases, in both halves, and no others. */
Test(tlb, revoke_write)
{
	gva_t alias = 0xffff888000300000ull, other = VA + 3 * PAGE_SIZE;
	struct world *x = open_long(CR4_PGE);

	map(x, VA, 0x300000 | RW);
	map(x, other, 0x301000 | RW);
	*pte(x, alias, 2) = 0x200000 | PTE_P | PTE_W | PTE_PS | PTE_G;
	touch(x, VA, MMU_WRITE, true, 0x300000);
	touch(x, VA, MMU_WRITE, false, 0x300000);
	touch(x, other, MMU_WRITE, true, 0x301000);
	touch(x, alias, MMU_WRITE, false, 0x300000);
	touch(x, alias + PAGE_SIZE, MMU_WRITE, false, 0x301000);
	x->ram.code[0x300] = 1;
	mmu_revoke_write(&x->mmu, 0x300000);
	EXPECT_TAGS(x, VA, true, "r--");
	EXPECT_TAGS(x, VA, false, "r--");
	EXPECT_TAGS(x, alias, false, "r--");
	EXPECT_TAGS(x, other, true, "rw-");
	EXPECT_TAGS(x, alias + PAGE_SIZE, false, "rw-");
	close_world(x);
}

Test(tlb, no_fill)
{
	struct world *x = open_long(0);

	map(x, VA, 0x300000 | RW);
	x->mmu.no_fill = true;
	touch(x, VA, MMU_READ, true, 0x300000);
	touch(x, VA, MMU_WRITE, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "---");
	touch(x, VA, MMU_EXEC, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "--x");
	map(x, VA + SLOTS, 0x301000 | RW);
	touch(x, VA + SLOTS, MMU_READ, true, 0x301000);
	EXPECT_TAGS(x, VA, true, "--x"); /* what is not filled evicts nothing */
	x->mmu.no_fill = false;
	touch(x, VA, MMU_READ, true, 0x300000);
	EXPECT_TAGS(x, VA, true, "rwx");
	close_world(x);
}

/* Global pages outlive CR3 writes, others do not; PGE off ends both. */
Test(tlb, global_pages)
{
	struct world *x = open_long(CR4_PGE);
	struct paging pg = long_mode(CR4_PGE);
	gva_t g = VA + PAGE_SIZE, large = 0xffff888000000000ull;

	map(x, VA, 0x300000 | RW);
	map(x, g, 0x301000 | RW | PTE_G);
	*pte(x, large, 2) = 0x400000 | PTE_P | PTE_W | PTE_PS | PTE_G;
	touch(x, VA, MMU_READ, true, 0x300000);
	touch(x, g, MMU_WRITE, true, 0x301000);
	touch(x, large + 0x5000, MMU_EXEC, false, 0x405000);
	x->stats.n[STAT_tlb_flushes] = 0;
	pg.cr3 += 0x8000;
	mmu_set_paging(&x->mmu, &pg);
	cr_assert_eq(x->stats.n[STAT_tlb_flushes], 1);
	EXPECT_TAGS(x, VA, true, "---");
	EXPECT_TAGS(x, g, true, "rw-");
	EXPECT_TAGS(x, large + 0x5000, false, "r-x");

	/* the large page survived, so INVLPG of another part of it must still find the piece */
	mmu_invlpg(&x->mmu, large + 0x1ff000);
	EXPECT_TAGS(x, large + 0x5000, false, "---");

	pg.cr3 = ROOT;
	mmu_set_paging(&x->mmu, &pg);
	touch(x, VA, MMU_READ, true, 0x300000);
	mmu_flush_non_global(&x->mmu); /* MOV CR3 with the same value */
	EXPECT_TAGS(x, VA, true, "---");
	EXPECT_TAGS(x, g, true, "rw-");
	pg.cr4 &= ~CR4_PGE;
	mmu_set_paging(&x->mmu, &pg);
	EXPECT_TAGS(x, g, true, "---");
	touch(x, g, MMU_READ, true, 0x301000);
	mmu_flush_non_global(&x->mmu);
	EXPECT_TAGS(x, g, true, "---");
	close_world(x);
}

/* Each register bit that matters flushes everything, each that does not flushes nothing. */
Test(tlb, set_paging_flushes)
{
	static const struct {
		u64 cr0, cr4, efer;
		bool flush;
	} rows[] = {
	    {CR0_PG, 0, 0, true},
	    {CR0_WP, 0, 0, true},
	    {0, CR4_PSE, 0, true},
	    {0, CR4_PAE, 0, true},
	    {0, CR4_PGE, 0, true},
	    {0, CR4_SMEP, 0, true},
	    {0, 0, EFER_NXE, true},
	    {0, 0, EFER_LMA, true},
	    {0, 0, 0, false},
	    {CR0_TS, 0, 0, false},
	    {CR0_AM | CR0_NE, 0, 0, false},
	    {0, CR4_OSFXSR | CR4_TSD, 0, false},
	    {0, 0, EFER_SCE, false},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		struct world *x = open_long(CR4_PGE);
		struct paging pg = long_mode(CR4_PGE);

		map(x, VA, 0x300000 | RW | PTE_G);
		touch(x, VA, MMU_READ, true, 0x300000);
		x->stats.n[STAT_tlb_flushes] = 0;
		pg.cr0 ^= rows[i].cr0;
		pg.cr4 ^= rows[i].cr4;
		pg.efer ^= rows[i].efer;
		mmu_set_paging(&x->mmu, &pg);
		cr_assert_eq(hit(x, VA, MMU_READ, true), !rows[i].flush, "row %u", i);
		cr_assert_eq(x->stats.n[STAT_tlb_flushes], rows[i].flush);
		cr_assert_eq(memcmp(&x->mmu.pg, &pg, sizeof(pg)), 0);
		close_world(x);
	}
}

Test(tlb, pae_pdpte_change_flushes)
{
	struct world *x = open_world(8 * MIB);
	struct paging pg = long_mode(0);
	u64 pd = 0x200000 | RW | PTE_PS;

	pg.efer = EFER_NXE;
	pg.pdpte[0] = 0x110000 | PTE_P;
	cr_assert_eq(ram_write(&x->ram, 0x110000, &pd, 8), 0);
	pd += 0x200000;
	cr_assert_eq(ram_write(&x->ram, 0x111000, &pd, 8), 0);
	mmu_set_paging(&x->mmu, &pg);
	touch(x, 0x1000, MMU_READ, false, 0x201000);
	pg.pdpte[0] = 0x111000 | PTE_P;
	mmu_set_paging(&x->mmu, &pg);
	EXPECT_TAGS(x, 0x1000, false, "---");
	touch(x, 0x1000, MMU_READ, false, 0x401000);
	close_world(x);
}

Test(tlb, invlpg_4k)
{
	struct world *x = open_long(CR4_PGE);

	map(x, VA, 0x300000 | RW | PTE_G);
	map(x, VA + PAGE_SIZE, 0x301000 | RW);
	touch(x, VA, MMU_WRITE, true, 0x300000);
	touch(x, VA, MMU_EXEC, false, 0x300000);
	touch(x, VA + PAGE_SIZE, MMU_WRITE, true, 0x301000);
	mmu_invlpg(&x->mmu, VA + SLOTS);
	EXPECT_TAGS(x, VA, true, "rw-");
	mmu_invlpg(&x->mmu, VA + 0xabc);
	EXPECT_TAGS(x, VA, true, "---");
	EXPECT_TAGS(x, VA, false, "---");
	EXPECT_TAGS(x, VA + PAGE_SIZE, true, "rw-");
	cr_assert_eq(x->stats.n[STAT_invlpgs], 2);
	map(x, VA, 0x302000 | RW);
	touch(x, VA, MMU_READ, true, 0x302000);
	close_world(x);
}

/* Pieces of one large page all go, whichever address is named; neighbours and 4 KiB pages stay. */
static void invlpg_large(gva_t base, unsigned level, u64 size)
{
	struct world *x = open_long(CR4_PGE);
	gva_t next = base + size;

	*pte(x, base, level) = RW | PTE_PS | PTE_G;
	*pte(x, next, level) = RW | PTE_PS;
	map(x, VA, 0x300000 | RW);
	touch(x, base + 0x200000 - 0x1000, MMU_WRITE, true, 0x1ff000);
	touch(x, base + 0x3000, MMU_READ, false, 0x3000);
	touch(x, next + 0x4000, MMU_READ, true, 0x4000);
	touch(x, VA, MMU_READ, true, 0x300000);
	mmu_invlpg(&x->mmu, base + size - 1);
	EXPECT_TAGS(x, base + 0x200000 - 0x1000, true, "---");
	EXPECT_TAGS(x, base + 0x3000, false, "---");
	EXPECT_TAGS(x, next + 0x4000, true, "r--");
	EXPECT_TAGS(x, VA, true, "r--");
	mmu_invlpg(&x->mmu, next);
	EXPECT_TAGS(x, next + 0x4000, true, "---");
	EXPECT_TAGS(x, VA, true, "r--");
	close_world(x);
}

Test(tlb, invlpg_2m)
{
	invlpg_large(0xffff888000000000ull, 2, 2 * MIB);
	invlpg_large(0x0000000000000000ull, 2, 2 * MIB);
}

Test(tlb, invlpg_1g)
{
	invlpg_large(0xffff888040000000ull, 3, GIB);
}

/* The last large page of the address space: its end does not fit 64 bits. */
Test(tlb, invlpg_top_page)
{
	struct world *x = open_long(0);

	*pte(x, ~0ull, 3) = RW | PTE_PS;
	touch(x, 0xffffffffc0002000ull, MMU_READ, false, 0x2000);
	mmu_invlpg(&x->mmu, ~0ull);
	EXPECT_TAGS(x, 0xffffffffc0002000ull, false, "---");
	close_world(x);
}

Test(tlb, invlpg_4m)
{
	struct world *x = open_world(8 * MIB);
	struct paging pg = {.cr0 = CR0_PE | CR0_PG, .cr3 = ROOT, .cr4 = CR4_PSE, .maxphyaddr = 40};
	u32 pde = 0x400000 | RW | PTE_PS;

	cr_assert_eq(ram_write(&x->ram, ROOT + 0x300 * 4, &pde, 4), 0);
	mmu_set_paging(&x->mmu, &pg);
	touch(x, 0xc0001000, MMU_WRITE, false, 0x401000);
	touch(x, 0xc03ff000, MMU_READ, true, 0x7ff000);
	mmu_invlpg(&x->mmu, 0xc0200000);
	EXPECT_TAGS(x, 0xc0001000, false, "---");
	EXPECT_TAGS(x, 0xc03ff000, true, "---");
	close_world(x);
}

/* Outside 4-level paging an address wider than 32 bits is served but not cached. */
Test(tlb, wide_address_without_long_mode)
{
	struct world *x = open_world(8 * MIB);

	touch(x, 0x123456, MMU_WRITE, false, 0x123456);
	EXPECT_TAGS(x, 0x123000, false, "rw-");
	touch(x, BIT(32) | 0x2000, MMU_READ, false, 0x2000);
	EXPECT_TAGS(x, BIT(32) | 0x2000, false, "---");
	close_world(x);
}

/*
 * Random use of a few hundred pages over few slots, against a map of what may be cached: a hit must
 * always lead to the frame that was current when the page was last invalidated or later.
 */
#define PAGES 512

static u32 rnd(u64 *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

Test(tlb, random_use)
{
	struct world *x = open_long(CR4_PGE);
	u64 state = 42;
	unsigned i, n, hits = 0;

	for (n = 0; n < 200000; n++) {
		unsigned p = rnd(&state) % PAGES;
		/* eight pages to a slot */
		gva_t va = VA + (p / 8) * PAGE_SIZE + (p % 8) * SLOTS;
		bool user = rnd(&state) & 1;
		enum mmu_access access = rnd(&state) % 3;
		u64 *e = pte(x, va, 1);
		u8 *h;

		switch (rnd(&state) % 16) {
		case 0:
			*e = (0x400000 + rnd(&state) % 1024 * PAGE_SIZE) | RW |
			     (rnd(&state) & 1 ? PTE_G : 0);
			mmu_invlpg(&x->mmu, va);
			break;
		case 1:
			if (rnd(&state) % 64 == 0)
				mmu_flush_non_global(&x->mmu);
			break;
		case 2:
			if (rnd(&state) % 64 == 0)
				mmu_flush_all(&x->mmu);
			break;
		case 3:
			x->ram.code[0x400 + p] = 1;
			mmu_revoke_write(&x->mmu, 0x400000 + p * PAGE_SIZE);
			break;
		default:
			if (!(*e & PTE_P))
				break;
			h = mmu_fast(&x->mmu, va, 1, access, user);
			hits += h != NULL;
			if (h && h != x->ram.window + (*e & 0xfffffff000))
				cr_assert_fail("step %u: stale hit", n);
			if (h && access == MMU_WRITE &&
			    (!(*e & PTE_D) || x->ram.code[(h - x->ram.window) >> 12]))
				cr_assert_fail("step %u: write tag without D or on code", n);
			if (!h)
				touch(x, va, access, user, *e & 0xfffffff000);
		}
	}
	cr_assert_gt(hits, 1000, "%u hits: the test tests nothing", hits);
	mmu_flush_all(&x->mmu);
	for (i = 0; i < TLB_SIZE; i++) {
		cr_assert_eq(x->mmu.tlb[0][i].tag[MMU_READ], TLB_INVALID);
		cr_assert_eq(x->mmu.tlb[1][i].tag[MMU_EXEC], TLB_INVALID);
	}
	close_world(x);
}
