/*
 * The shadow of the kernel half: which host mappings a fill makes, with which rights, and every way
 * they leave. What is mapped is read from /proc/self/maps, what it leads to through the mapping
 * itself. The addresses are those of Linux's vmalloc area, whose place is free in an ordinary
 * process and under the sanitizers.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>

#include "mmu.h"
#include "shadow.h"

#define VA     0xffffc90000000000ull
#define ROOT   0x100000ull
#define TABLES 0x101000ull /* handed out from here */
#define DATA   0x400000ull /* gpa: 4 MiB and up is for tests */
#define KERNEL (PTE_P | PTE_W)
#define TWO_M  (2 * MIB)

struct world {
	struct ram ram;
	struct stats stats;
	struct paging pg;
	struct shadow *shadow;
	gpa_t next_table;
	struct shadow_event last; /* seen by the watcher */
	unsigned events;
};

static u8 *host_of(gva_t va)
{
	return (u8 *)(va + SHADOW_BIAS);
}

/* Rights of what is mapped at a host address, "----" if nothing is; *count: mappings there are. */
static void look_at(const void *host, char rights[5], unsigned *count)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], r[5];
	uintptr_t first, end;

	cr_assert_not_null(f);
	strcpy(rights, "----");
	*count = 0;
	while (fgets(line, sizeof(line), f)) {
		cr_assert_eq(sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &first, &end, r), 3);
		++*count;
		if ((uintptr_t)host >= first && (uintptr_t)host < end)
			strcpy(rights, r);
	}
	fclose(f);
}

#define expect_rights(va, want)                                                                    \
	do {                                                                                       \
		char rights_[5];                                                                   \
		unsigned count_;                                                                   \
		look_at(host_of(va), rights_, &count_);                                            \
		cr_expect_str_eq(rights_, want, "%#llx is %s", (unsigned long long)(va), rights_); \
	} while (0)
#define NONE "----"
#define RO   "r--s"
#define RW   "rw-s"

static struct world *open_world(u64 size)
{
	struct world *x = calloc(1, sizeof(*x));

	expect_rights(VA, NONE); /* else nothing here means anything */
	expect_rights(VA + 64 * GIB, NONE);
	cr_assert_eq(ram_init(&x->ram, size, NULL), 0);
	x->shadow = shadow_new(&x->ram, &x->stats, &shadow_kernel_half, &shadow_host_ops, &x->ram);
	cr_assert_not_null(x->shadow);
	x->next_table = TABLES;
	x->pg = (struct paging){.cr0 = CR0_PE | CR0_PG | CR0_WP,
				.cr3 = ROOT,
				.cr4 = CR4_PAE | CR4_PGE,
				.efer = EFER_LME | EFER_LMA | EFER_NXE,
				.maxphyaddr = 40};
	return x;
}

static void close_world(struct world *x)
{
	shadow_free(x->shadow);
	ram_destroy(&x->ram);
	free(x);
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
		if (!(*e & PTE_P) || (*e & PTE_PS)) {
			cr_assert_lt(x->next_table, DATA);
			*e = x->next_table | KERNEL | PTE_U;
			x->next_table += PAGE_SIZE;
		}
		table = *e & 0xfffffff000;
	}
}

static void map4k(struct world *x, gva_t va, u64 entry)
{
	*pte(x, va, 1) = entry;
}

static void map2m(struct world *x, gva_t va, u64 entry)
{
	*pte(x, va, 2) = entry | PTE_PS;
}

static void map1g(struct world *x, gva_t va, u64 entry)
{
	*pte(x, va, 3) = entry | PTE_PS;
}

static enum shadow_fill fill(struct world *x, gva_t va, bool write)
{
	return shadow_fill(x->shadow, &x->pg, va, write ? MMU_WRITE : MMU_READ, NULL);
}

static u64 fills(const struct world *x)
{
	return x->stats.n[STAT_shadow_fills];
}

/* Is the byte at va, through the shadow, that of gpa? Both ways if it is writable. */
static void same_byte(struct world *x, gva_t va, gpa_t gpa, bool writable)
{
	volatile u8 *p = host_of(va), *q = x->ram.window + gpa;

	*q = 0x5a;
	cr_assert_eq(*p, 0x5a, "%#lx does not read gpa %#lx", va, gpa);
	*q = 0xa5;
	cr_assert_eq(*p, 0xa5);
	if (writable) {
		*p = 0x3c;
		cr_assert_eq(*q, 0x3c, "%#lx does not write gpa %#lx", va, gpa);
	}
}

/* As the decoder or translator does it. */
static void mark_code(struct world *x, gpa_t page)
{
	x->ram.code[page >> 12] = 1;
	shadow_revoke_write(x->shadow, page);
}

/* --- fills --- */

Test(shadow, a_clean_page_is_read_only_until_written)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | KERNEL);
	expect_rights(VA, NONE);
	cr_assert_eq(fill(x, VA + 0x123, false), SHADOW_MAPPED);
	expect_rights(VA, RO);
	expect_rights(VA + PAGE_SIZE, NONE);
	same_byte(x, VA + 0x123, DATA + 0x123, false);
	cr_assert_eq(*pte(x, VA, 1) & (PTE_A | PTE_D), PTE_A);

	cr_assert_eq(fill(x, VA + 0xfff, true), SHADOW_MAPPED);
	expect_rights(VA, RW);
	same_byte(x, VA + 0xfff, DATA + 0xfff, true);
	cr_assert_eq(*pte(x, VA, 1) & (PTE_A | PTE_D), PTE_A | PTE_D);
	cr_assert_eq(fills(x), 1);
	cr_assert_eq(x->stats.n[STAT_shadow_protects], 1);
	close_world(x);
	expect_rights(VA, NONE);
}

Test(shadow, a_dirty_page_is_writable_at_once)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	expect_rights(VA, RW);
	close_world(x);
}

Test(shadow, dirty_but_read_only)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | PTE_P | PTE_D);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	expect_rights(VA, RO);
	cr_assert_eq(fill(x, VA, true), SHADOW_FAULT);
	expect_rights(VA, RO);

	/* Without CR0.WP a supervisor may write it. */
	x->pg.cr0 &= ~CR0_WP;
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	expect_rights(VA, RW);
	same_byte(x, VA, DATA, true);
	close_world(x);
}

Test(shadow, a_2m_leaf_is_one_mapping)
{
	struct world *x = open_world(16 * MIB);

	map2m(x, VA + TWO_M, DATA | KERNEL);
	cr_assert_eq(fill(x, VA + TWO_M + 0x12345, false), SHADOW_MAPPED);
	cr_assert_eq(fills(x), 1);
	expect_rights(VA + TWO_M, RO);
	expect_rights(VA + 2 * TWO_M - 1, RO);
	expect_rights(VA + TWO_M - 1, NONE);
	expect_rights(VA + 2 * TWO_M, NONE);
	same_byte(x, VA + TWO_M, DATA, false);
	same_byte(x, VA + 2 * TWO_M - 1, DATA + TWO_M - 1, false);

	cr_assert_eq(fill(x, VA + TWO_M, true), SHADOW_MAPPED);
	cr_assert(*pte(x, VA + TWO_M, 2) & PTE_D);
	expect_rights(VA + TWO_M, RW);
	expect_rights(VA + 2 * TWO_M - 1, RW);
	same_byte(x, VA + 2 * TWO_M - 1, DATA + TWO_M - 1, true);
	close_world(x);
}

Test(shadow, a_1g_leaf_comes_in_pieces_of_2m)
{
	struct world *x = open_world(16 * MIB);

	map1g(x, VA, 0 | KERNEL);
	cr_assert_eq(fill(x, VA + DATA + 5, true), SHADOW_MAPPED);
	cr_assert(*pte(x, VA, 3) & PTE_D);
	expect_rights(VA + DATA, RW);
	expect_rights(VA + DATA + TWO_M - 1, RW);
	expect_rights(VA + DATA - 1, NONE);
	expect_rights(VA + DATA + TWO_M, NONE);
	same_byte(x, VA + DATA + 5, DATA + 5, true);
	same_byte(x, VA + DATA + TWO_M - 1, DATA + TWO_M - 1, true);

	/* Around the VGA hole only single pages can be mapped; the hole and what lies beyond RAM
	 * are no RAM. */
	cr_assert_eq(fill(x, VA + 0x9f000, false), SHADOW_MAPPED);
	expect_rights(VA + 0x9f000, RW);
	expect_rights(VA + 0x9e000, NONE);
	expect_rights(VA + 0xa0000, NONE);
	same_byte(x, VA + 0x9f007, 0x9f007, true);
	cr_assert_eq(fill(x, VA + 0xa0000, true), SHADOW_IO);
	cr_assert_eq(fill(x, VA + 16 * MIB, false), SHADOW_IO);
	expect_rights(VA + 0xa0000, NONE);
	expect_rights(VA + 16 * MIB, NONE);
	close_world(x);
}

Test(shadow, ram_above_4g)
{
	struct world *x = open_world(3 * GIB + 8 * MIB);

	map2m(x, VA, (RAM_HIGH_START + TWO_M) | KERNEL);
	map4k(x, VA + TWO_M, (RAM_HIGH_START + 0x5000) | KERNEL);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + TWO_M, true), SHADOW_MAPPED);
	same_byte(x, VA + 0x1234, RAM_HIGH_START + TWO_M + 0x1234, true);
	same_byte(x, VA + TWO_M + 0x77, RAM_HIGH_START + 0x5077, true);
	close_world(x);
}

Test(shadow, what_the_tables_forbid_is_a_fault_and_maps_nothing)
{
	struct world *x = open_world(16 * MIB);

	cr_assert_eq(fill(x, VA, false), SHADOW_FAULT);
	map4k(x, VA, DATA | PTE_W); /* not present */
	cr_assert_eq(fill(x, VA, false), SHADOW_FAULT);
	map4k(x, VA, DATA | KERNEL | 1ull << 45); /* beyond MAXPHYADDR: reserved */
	cr_assert_eq(fill(x, VA, false), SHADOW_FAULT);
	map4k(x, VA, DATA | PTE_P);
	cr_assert_eq(fill(x, VA, true), SHADOW_FAULT);
	map4k(x, VA, DATA | KERNEL | PTE_U);
	x->pg.cr4 |= CR4_SMAP;
	cr_expect_eq(fill(x, VA, false), SHADOW_MAPPED, "SMAP is not offered; CPL 0 may read");
	shadow_flush_all(x->shadow);
	expect_rights(VA, NONE);
	close_world(x);
}

Test(shadow, io_maps_nothing)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, 0xfee00000 | KERNEL);
	cr_assert_eq(fill(x, VA, false), SHADOW_IO);
	cr_assert_eq(fill(x, VA, true), SHADOW_IO);
	map2m(x, VA + TWO_M, 64 * MIB | KERNEL);
	cr_assert_eq(fill(x, VA + TWO_M, true), SHADOW_IO);
	cr_assert_eq(fills(x), 0);
	expect_rights(VA, NONE);
	close_world(x);
}

/* --- code --- */

Test(shadow, a_code_page_is_never_writable)
{
	struct world *x = open_world(16 * MIB);

	mark_code(x, DATA);
	map4k(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	expect_rights(VA, RO);
	cr_assert_eq(fill(x, VA, true), SHADOW_CODE);
	expect_rights(VA, RO);

	/* Given up as code: writable with the next write. */
	x->ram.code[DATA >> 12] = 0;
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	expect_rights(VA, RW);
	close_world(x);
}

Test(shadow, a_write_to_code_sets_dirty)
{
	struct world *x = open_world(16 * MIB);

	mark_code(x, DATA);
	map4k(x, VA, DATA | KERNEL);
	cr_assert_eq(fill(x, VA, true), SHADOW_CODE);
	cr_assert_eq(*pte(x, VA, 1) & (PTE_A | PTE_D), PTE_A | PTE_D, "as the write will");
	close_world(x);
}

Test(shadow, code_in_a_large_mapping)
{
	struct world *x = open_world(16 * MIB);
	gpa_t code = DATA + 7 * PAGE_SIZE;

	mark_code(x, code);
	mark_code(x, DATA + TWO_M - PAGE_SIZE);
	map2m(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	expect_rights(VA, RW);
	expect_rights(VA + 6 * PAGE_SIZE, RW);
	expect_rights(VA + 7 * PAGE_SIZE, RO);
	expect_rights(VA + 8 * PAGE_SIZE, RW);
	expect_rights(VA + TWO_M - PAGE_SIZE, RO);
	cr_assert_eq(fill(x, VA + 7 * PAGE_SIZE, true), SHADOW_CODE);
	same_byte(x, VA + 7 * PAGE_SIZE, code, false);

	x->ram.code[code >> 12] = 0;
	cr_assert_eq(fill(x, VA + 7 * PAGE_SIZE, true), SHADOW_MAPPED);
	expect_rights(VA + 7 * PAGE_SIZE, RW);
	expect_rights(VA + TWO_M - PAGE_SIZE, RO);
	same_byte(x, VA + 7 * PAGE_SIZE, code, true);
	close_world(x);
}

Test(shadow, becoming_code_takes_writing_from_every_alias)
{
	struct world *x = open_world(16 * MIB);
	gpa_t code = DATA + 3 * PAGE_SIZE;
	gva_t large = VA, small = VA + GIB, other = VA + 2 * GIB;

	map2m(x, large, DATA | KERNEL | PTE_D);
	map4k(x, small, code | KERNEL | PTE_D);
	map4k(x, small + PAGE_SIZE, (code + PAGE_SIZE) | KERNEL | PTE_D);
	map4k(x, other, code | KERNEL | PTE_D);
	cr_assert_eq(fill(x, large, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, small, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, small + PAGE_SIZE, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, other, true), SHADOW_MAPPED);
	same_byte(x, small, code, true);
	same_byte(x, large + 3 * PAGE_SIZE, code, true);

	mark_code(x, code);
	expect_rights(large + 3 * PAGE_SIZE, RO);
	expect_rights(small, RO);
	expect_rights(other, RO);
	expect_rights(large + 2 * PAGE_SIZE, RW);
	expect_rights(large + 4 * PAGE_SIZE, RW);
	expect_rights(small + PAGE_SIZE, RW);
	same_byte(x, other, code, false);
	cr_assert_eq(fill(x, small, true), SHADOW_CODE);
	cr_assert_eq(fill(x, large + 3 * PAGE_SIZE, true), SHADOW_CODE);
	close_world(x);
}

/* --- leaving --- */

Test(shadow, a_changed_entry_counts_from_invlpg_on)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | KERNEL | PTE_D);
	map4k(x, VA + PAGE_SIZE, (DATA + PAGE_SIZE) | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + PAGE_SIZE, true), SHADOW_MAPPED);
	map4k(x, VA, (DATA + 5 * PAGE_SIZE) | KERNEL | PTE_D);
	same_byte(x, VA, DATA, true); /* like a TLB */
	shadow_invlpg(x->shadow, &x->pg, VA + 0x456);
	expect_rights(VA, NONE); /* not accessed yet */
	expect_rights(VA + PAGE_SIZE, RW);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	same_byte(x, VA, DATA + 5 * PAGE_SIZE, true);
	shadow_invlpg(x->shadow, &x->pg, VA + GIB); /* nothing there */
	shadow_invlpg(x->shadow, &x->pg, VA + 2 * PAGE_SIZE);
	expect_rights(VA, RW);
	close_world(x);
}

Test(shadow, invlpg_of_one_byte_drops_a_2m_leaf)
{
	struct world *x = open_world(16 * MIB);

	map2m(x, VA, DATA | KERNEL | PTE_D | PTE_G);
	map2m(x, VA + TWO_M, (DATA + TWO_M) | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + TWO_M, true), SHADOW_MAPPED);
	shadow_invlpg(x->shadow, &x->pg, VA + 0x101234);
	expect_rights(VA, RW); /* nothing has changed */
	map2m(x, VA, (DATA + 2 * TWO_M) | KERNEL | PTE_D | PTE_G);
	shadow_invlpg(x->shadow, &x->pg, VA + 0x101234);
	expect_rights(VA, NONE);
	expect_rights(VA + TWO_M - 1, NONE);
	expect_rights(VA + TWO_M, RW);
	close_world(x);
}

/* SDM vol. 3, 4.10.4.1: INVLPG reaches all of a page, however it was cut up. */
Test(shadow, invlpg_of_one_byte_drops_all_pieces_of_its_leaf)
{
	struct world *x = open_world(16 * MIB);

	map1g(x, VA, 0 | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA + DATA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + DATA + TWO_M, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + 0x5000, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + 0x6000, true), SHADOW_MAPPED);
	shadow_invlpg(x->shadow, &x->pg, VA + 0x6000);
	expect_rights(VA + 0x6000, RW); /* nothing has changed */
	map1g(x, VA, 0 | KERNEL);
	shadow_invlpg(x->shadow, &x->pg, VA + 0x6000);
	expect_rights(VA + 0x6000, NONE);
	expect_rights(VA + 0x5000, NONE);
	expect_rights(VA + DATA, NONE);
	expect_rights(VA + DATA + TWO_M, NONE);
	close_world(x);
}

/* What the tables still say stays; what they no longer say stays if it is global. */
Test(shadow, a_new_cr3_drops_what_has_changed_and_is_not_global)
{
	struct world *x = open_world(16 * MIB);
	static const gva_t at[] = {VA, VA + PAGE_SIZE, VA + TWO_M, VA + 2 * TWO_M};
	unsigned i;

	map4k(x, VA, DATA | KERNEL | PTE_D | PTE_G);
	map4k(x, VA + PAGE_SIZE, DATA | KERNEL | PTE_D);
	map2m(x, VA + TWO_M, DATA | KERNEL | PTE_D | PTE_G);
	map2m(x, VA + 2 * TWO_M, DATA | KERNEL | PTE_D);
	for (i = 0; i < ARRAY_LEN(at); i++)
		cr_assert_eq(fill(x, at[i], true), SHADOW_MAPPED);
	shadow_revalidate(x->shadow, &x->pg);
	for (i = 0; i < ARRAY_LEN(at); i++)
		expect_rights(at[i], RW);
	*pte(x, VA, 1) = *pte(x, VA + PAGE_SIZE, 1) = 0;
	*pte(x, VA + TWO_M, 2) = *pte(x, VA + 2 * TWO_M, 2) = 0;
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, RW);
	expect_rights(VA + PAGE_SIZE, NONE);
	expect_rights(VA + TWO_M, RW);
	expect_rights(VA + 2 * TWO_M, NONE);
	expect_rights(VA + 2 * TWO_M + 5 * PAGE_SIZE, NONE);
	shadow_revalidate_all(x->shadow, &x->pg); /* CR4.PGE */
	for (i = 0; i < ARRAY_LEN(at); i++)
		expect_rights(at[i], NONE);
	close_world(x);
}

Test(shadow, no_page_is_global_without_pge)
{
	struct world *x = open_world(16 * MIB);

	x->pg.cr4 &= ~CR4_PGE;
	map4k(x, VA, DATA | KERNEL | PTE_D | PTE_G);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	*pte(x, VA, 1) = 0;
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, NONE);
	close_world(x);
}

/* Another root: the same tables below it, others, none. */
Test(shadow, a_new_root)
{
	struct world *x = open_world(16 * MIB);
	u64 *other = (u64 *)(x->ram.window + DATA - PAGE_SIZE), *old = pte(x, VA, 4);

	map4k(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	memcpy(other, x->ram.window + ROOT, PAGE_SIZE);
	x->pg.cr3 = DATA - PAGE_SIZE;
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, RW);
	*old = 0; /* nobody's any more */
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, RW);
	x->pg.cr3 = ROOT;
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, NONE);
	close_world(x);
}

/* The guest takes A or D back and invalidates: the next access must set it again. */
Test(shadow, accessed_and_dirty_that_were_cleared)
{
	struct world *x = open_world(16 * MIB);
	u64 *e = pte(x, VA, 1);

	*e = DATA | KERNEL | BIT(9) | PTE_G;
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	*e &= ~PTE_D;
	*e ^= BIT(9) | BIT(52); /* software's */
	shadow_invlpg(x->shadow, &x->pg, VA);
	expect_rights(VA, RO);
	cr_assert_eq(x->stats.n[STAT_shadow_unmaps], 0);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	expect_rights(VA, RW);
	cr_assert(*e & PTE_D);
	*e &= ~PTE_A;
	shadow_invlpg(x->shadow, &x->pg, VA);
	expect_rights(VA, NONE);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	cr_assert(*e & PTE_A);
	*pte(x, VA, 3) &= ~PTE_A;
	shadow_invlpg(x->shadow, &x->pg, VA);
	expect_rights(VA, NONE);
	close_world(x);
}

/* SDM vol. 3, 4.10.4.1: so does a page fault. */
Test(shadow, a_page_fault_invalidates_its_address)
{
	struct world *x = open_world(16 * MIB);
	u32 error = 0;

	map4k(x, VA, DATA | PTE_P | PTE_A | PTE_G);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	map4k(x, VA, (DATA + PAGE_SIZE) | PTE_P | PTE_A | PTE_G);
	same_byte(x, VA, DATA, false);
	cr_assert_eq(shadow_fill(x->shadow, &x->pg, VA, MMU_WRITE, &error), SHADOW_FAULT);
	cr_assert_eq(error, PF_P | PF_W);
	same_byte(x, VA, DATA + PAGE_SIZE, false);
	close_world(x);
}

Test(shadow, neighbours_come_along)
{
	struct world *x = open_world(16 * MIB);
	unsigned i;

	for (i = 0; i < 20; i++)
		map4k(x, VA + i * PAGE_SIZE,
		      (DATA + (i + i / 18) * PAGE_SIZE) | KERNEL | PTE_A | PTE_D);
	*pte(x, VA + 3 * PAGE_SIZE, 1) &= ~PTE_D;
	*pte(x, VA + 4 * PAGE_SIZE, 1) &= ~PTE_A;
	*pte(x, VA + 5 * PAGE_SIZE, 1) = 0xfee00000 | KERNEL | PTE_A | PTE_D;
	mark_code(x, DATA + 6 * PAGE_SIZE);
	cr_assert_eq(fill(x, VA + PAGE_SIZE, false), SHADOW_MAPPED);
	expect_rights(VA, RW);
	expect_rights(VA + 2 * PAGE_SIZE, RW);
	expect_rights(VA + 3 * PAGE_SIZE, RO);
	expect_rights(VA + 4 * PAGE_SIZE, NONE);
	expect_rights(VA + 5 * PAGE_SIZE, NONE);
	expect_rights(VA + 6 * PAGE_SIZE, RO);
	expect_rights(VA + 17 * PAGE_SIZE, RW);
	expect_rights(VA + 18 * PAGE_SIZE, NONE); /* not the next frame */
	cr_assert_eq(fills(x), 4);                /* 0-2, 3, 6, 7-17 */
	cr_assert_eq(x->stats.n[STAT_shadow_around], 15);
	cr_assert(!(*pte(x, VA + 3 * PAGE_SIZE, 1) & PTE_D), "nobody has written there");
	cr_assert(!(*pte(x, VA + 4 * PAGE_SIZE, 1) & PTE_A), "nor read here");
	same_byte(x, VA + 2 * PAGE_SIZE, DATA + 2 * PAGE_SIZE, true);
	close_world(x);
}

/* Half as many as in the kernel half, and more only where they make the same mapping longer. */
Test(shadow, neighbours_of_a_user_come_along)
{
	static const struct shadow_range user = {.first = VA, .last = ~0ull, .user = true};
	struct world *x = open_world(16 * MIB);
	unsigned i;

	shadow_free(x->shadow);
	x->shadow = shadow_new(&x->ram, &x->stats, &user, &shadow_host_ops, &x->ram);
	cr_assert_not_null(x->shadow);
	for (i = 0; i < 40; i++)
		map4k(x, VA + i * PAGE_SIZE,
		      (DATA + (i < 18 ? 2 * i : 50 + i) * PAGE_SIZE) | KERNEL | PTE_U | PTE_A |
			  PTE_NX);
	cr_assert_eq(fill(x, VA + 11 * PAGE_SIZE, false), SHADOW_MAPPED);
	expect_rights(VA + 7 * PAGE_SIZE, NONE);
	expect_rights(VA + 8 * PAGE_SIZE, RO);
	expect_rights(VA + 15 * PAGE_SIZE, RO);
	expect_rights(VA + 16 * PAGE_SIZE, NONE);
	cr_assert_eq(fills(x), 8);
	cr_assert_eq(fill(x, VA + 25 * PAGE_SIZE, false), SHADOW_MAPPED);
	expect_rights(VA + 17 * PAGE_SIZE, NONE);
	expect_rights(VA + 18 * PAGE_SIZE, RO);
	expect_rights(VA + 31 * PAGE_SIZE, RO);
	expect_rights(VA + 32 * PAGE_SIZE, NONE);
	cr_assert_eq(fills(x), 9);
	close_world(x);
}

Test(shadow, what_is_expected_is_mapped_once)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | KERNEL);
	*pte(x, VA, 1) &= ~PTE_P;
	shadow_expect(x->shadow, &x->pg, VA);
	expect_rights(VA, NONE);
	*pte(x, VA, 1) |= PTE_P;
	shadow_expect(x->shadow, &x->pg, VA);
	expect_rights(VA, RO);
	cr_assert(!(*pte(x, VA, 1) & PTE_D), "it will perhaps not be written");
	shadow_expect(x->shadow, &x->pg, VA);
	cr_assert_eq(x->stats.n[STAT_shadow_expected], 1);
	*pte(x, VA, 1) |= PTE_D; /* more rights, without a flush */
	shadow_expect(x->shadow, &x->pg, VA);
	expect_rights(VA, RW);
	*pte(x, VA, 1) += PAGE_SIZE;
	shadow_expect(x->shadow, &x->pg, VA);
	same_byte(x, VA, DATA + PAGE_SIZE, true);
	shadow_expect(x->shadow, &x->pg, ~0ull >> 1);
	cr_assert_eq(x->stats.n[STAT_shadow_expected], 3);
	close_world(x);
}

Test(shadow, a_full_flush_leaves_nothing)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, DATA | KERNEL | PTE_D | PTE_G);
	map2m(x, VA + TWO_M, DATA | KERNEL | PTE_D | PTE_G);
	map1g(x, VA + GIB, 0 | KERNEL | PTE_D | PTE_G);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + TWO_M, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + GIB + DATA, true), SHADOW_MAPPED);
	shadow_flush_all(x->shadow);
	expect_rights(VA, NONE);
	expect_rights(VA + TWO_M, NONE);
	expect_rights(VA + GIB + DATA, NONE);
	cr_assert_eq(x->stats.n[STAT_shadow_flushes], 1);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	same_byte(x, VA, DATA, true);
	close_world(x);
}

/* --- leaves that change their size without a flush, which a guest may --- */

Test(shadow, a_leaf_that_was_split)
{
	struct world *x = open_world(16 * MIB);

	map2m(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	*pte(x, VA, 2) = 0;
	map4k(x, VA + PAGE_SIZE, (DATA + 9 * PAGE_SIZE) | KERNEL);
	cr_assert_eq(fill(x, VA + PAGE_SIZE, true), SHADOW_MAPPED);
	same_byte(x, VA + PAGE_SIZE, DATA + 9 * PAGE_SIZE, true);
	expect_rights(VA, NONE);
	map4k(x, VA + PAGE_SIZE, 0);
	shadow_invlpg(x->shadow, &x->pg, VA + PAGE_SIZE);
	expect_rights(VA + PAGE_SIZE, NONE);
	close_world(x);
}

Test(shadow, small_pages_that_became_a_leaf)
{
	struct world *x = open_world(16 * MIB);

	map4k(x, VA, (DATA + TWO_M) | KERNEL | PTE_D);
	map4k(x, VA + PAGE_SIZE, (DATA + TWO_M) | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA + PAGE_SIZE, true), SHADOW_MAPPED);
	map2m(x, VA, DATA | KERNEL | PTE_D);
	cr_assert_eq(fill(x, VA + 5 * PAGE_SIZE, true), SHADOW_MAPPED);
	same_byte(x, VA, DATA, true);
	same_byte(x, VA + PAGE_SIZE, DATA + PAGE_SIZE, true);
	*pte(x, VA, 2) = 0;
	shadow_revalidate(x->shadow, &x->pg);
	expect_rights(VA, NONE);
	close_world(x);
}

/* --- limits --- */

/* Aliases of one page merge with nothing. A process may have 65530 mappings by default. */
Test(shadow, too_many_mappings_are_a_flush, .timeout = 60)
{
	struct world *x = open_world(16 * MIB);
	unsigned i, count;
	char rights[5];

	for (i = 0; i < 70000 && !x->stats.n[STAT_shadow_flushes]; i++) {
		gva_t va = VA + i * PAGE_SIZE;

		map4k(x, va, DATA | KERNEL | PTE_D);
		cr_assert_eq(fill(x, va, true), SHADOW_MAPPED);
	}
	cr_assert_eq(x->stats.n[STAT_shadow_flushes], 1, "after %u", i);
	cr_assert_gt(i, 1000);
	look_at(host_of(VA), rights, &count);
	cr_expect_str_eq(rights, NONE);
	cr_expect_lt(count, 1000);
	expect_rights(VA + (i - 1) * PAGE_SIZE, RW);
	same_byte(x, VA + (i - 1) * PAGE_SIZE, DATA, true);
	close_world(x);
}

/* Every other page of large mappings becomes code: more pieces than the host allows. The shadow
 * gives up its mappings, never the promise that code cannot be written unseen. */
Test(shadow, code_that_shatters_large_mappings, .timeout = 60)
{
	const unsigned n = 200; /* x 512 pieces is more than the host will have */
	struct world *x = open_world(8 * MIB);
	unsigned i, count;
	char rights[5];

	for (i = 0; i < n; i++) {
		map2m(x, VA + i * TWO_M, DATA | KERNEL | PTE_D);
		cr_assert_eq(fill(x, VA + i * TWO_M, true), SHADOW_MAPPED);
	}
	for (gpa_t at = DATA; at < DATA + TWO_M; at += 2 * PAGE_SIZE)
		mark_code(x, at);
	for (i = 0; i < n; i++) {
		look_at(host_of(VA + i * TWO_M), rights, &count);
		cr_expect_str_neq(rights, RW, "code is writable in mapping %u", i);
		look_at(host_of(VA + (i + 1) * TWO_M - 2 * PAGE_SIZE), rights, &count);
		cr_expect_str_neq(rights, RW, "code is writable in mapping %u", i);
	}
	cr_assert_eq(fill(x, VA + PAGE_SIZE, true), SHADOW_MAPPED);
	cr_assert_eq(fill(x, VA, true), SHADOW_CODE);
	close_world(x);
}

/* --- pages that move --- */

/* One more page behind VA, used and invalidated; what an access to it met. */
static enum shadow_fill move(struct world *x, gva_t va, unsigned i)
{
	enum shadow_fill how;

	map4k(x, va, (DATA + i % 8 * PAGE_SIZE) | KERNEL | PTE_A | PTE_D);
	shadow_invlpg(x->shadow, &x->pg, va + 5);
	how = fill(x, va, true);
	if (how == SHADOW_MAPPED)
		same_byte(x, va, DATA + i % 8 * PAGE_SIZE, true);
	return how;
}

/* Moves until an access is refused. */
static unsigned move_on(struct world *x, gva_t va)
{
	unsigned i;

	for (i = 0; i < 1000; i++)
		if (move(x, va, i) != SHADOW_MAPPED)
			break;
	cr_assert_lt(i, 1000);
	return i;
}

Test(shadow, a_page_that_moves_is_not_mapped)
{
	struct world *x = open_world(16 * MIB);
	u64 made, gone;
	unsigned i;

	map4k(x, VA + PAGE_SIZE, DATA | KERNEL | PTE_A | PTE_D);
	cr_assert_geq(move_on(x, VA), 8, "not at once");
	cr_expect_eq(x->stats.n[STAT_shadow_moving], 1);
	expect_rights(VA, NONE);
	made = fills(x);
	gone = x->stats.n[STAT_shadow_unmaps];
	for (i = 0; i < 100; i++)
		cr_assert_eq(move(x, VA, i), SHADOW_MOVING);
	cr_expect_eq(fills(x), made, "no host call");
	cr_expect_eq(x->stats.n[STAT_shadow_unmaps], gone);
	/* Its neighbour does not bring it along. */
	shadow_flush_all(x->shadow);
	cr_assert_eq(fill(x, VA + PAGE_SIZE, true), SHADOW_MAPPED);
	expect_rights(VA + PAGE_SIZE, RW);
	expect_rights(VA, NONE);
	/* What else an access can meet comes first. */
	map4k(x, VA, 0);
	cr_expect_eq(fill(x, VA, false), SHADOW_FAULT);
	map4k(x, VA, (64 * MIB) | KERNEL);
	cr_expect_eq(fill(x, VA, false), SHADOW_IO);
	map4k(x, VA, DATA | KERNEL);
	mark_code(x, DATA);
	cr_expect_eq(fill(x, VA, true), SHADOW_CODE);
	/* A and D as ever. */
	map4k(x, VA, (DATA + PAGE_SIZE) | KERNEL);
	cr_assert_eq(fill(x, VA, false), SHADOW_MOVING);
	cr_expect_eq(*pte(x, VA, 1) & (PTE_A | PTE_D), PTE_A);
	cr_assert_eq(fill(x, VA, true), SHADOW_MOVING);
	cr_expect_eq(*pte(x, VA, 1) & (PTE_A | PTE_D), PTE_A | PTE_D);
	close_world(x);
}

Test(shadow, a_page_that_has_come_to_rest_is_mapped)
{
	struct world *x = open_world(16 * MIB);
	unsigned i, n = move_on(x, VA);

	for (i = 1; i < 20 && fill(x, VA, true) == SHADOW_MOVING; i++)
		;
	cr_assert_lt(i, 20);
	same_byte(x, VA, DATA + n % 8 * PAGE_SIZE, true);
	cr_expect_geq(move_on(x, VA), 8, "from the beginning");
	/* Away and back again is a move, too. */
	shadow_flush_all(x->shadow);
	for (i = 0; i < 1000; i++) {
		map4k(x, VA + 3 * PAGE_SIZE, DATA | KERNEL);
		if (fill(x, VA + 3 * PAGE_SIZE, true) == SHADOW_MOVING)
			break;
		map4k(x, VA + 3 * PAGE_SIZE, 0);
		shadow_invlpg(x->shadow, &x->pg, VA + 3 * PAGE_SIZE);
	}
	cr_expect_lt(i, 1000);
	/* INVLPG of what has not changed is none, nor is CR3, nor another page at the same place.
	 */
	for (i = 0; i < 1000; i++) {
		shadow_invlpg(x->shadow, &x->pg, VA + 5 * PAGE_SIZE);
		map4k(x, VA + 5 * PAGE_SIZE, DATA | KERNEL);
		cr_assert_eq(fill(x, VA + 5 * PAGE_SIZE, true), SHADOW_MAPPED);
		map4k(x, VA + 7 * PAGE_SIZE, (DATA + i % 8 * PAGE_SIZE) | KERNEL);
		shadow_revalidate(x->shadow, &x->pg);
		cr_assert_eq(fill(x, VA + 7 * PAGE_SIZE, true), SHADOW_MAPPED);
	}
	close_world(x);
}

/* --- what is reported --- */

static void watcher(void *opaque, const struct shadow_event *ev)
{
	struct world *x = opaque;

	x->last = *ev;
	x->events++;
}

Test(shadow, events)
{
	struct world *x = open_world(16 * MIB);

	shadow_watch(x->shadow, watcher, x);
	map2m(x, VA, DATA | KERNEL | PTE_G);
	map4k(x, VA + TWO_M, DATA | KERNEL);
	cr_assert_eq(fill(x, VA + 0x12345, true), SHADOW_MAPPED);
	cr_assert_eq(x->events, 1);
	cr_assert_eq(x->last.kind, SHADOW_EV_FILL);
	cr_assert_eq(x->last.va, VA);
	cr_assert_eq(x->last.gpa, DATA);
	cr_assert_eq(x->last.size, TWO_M);
	cr_assert(x->last.write && x->last.global);
	cr_assert_eq(fill(x, VA + TWO_M + 5, false), SHADOW_MAPPED);
	cr_assert_eq(x->last.size, PAGE_SIZE);
	cr_assert(!x->last.write && !x->last.global);
	mark_code(x, DATA);
	cr_assert_eq(x->last.kind, SHADOW_EV_READ_ONLY);
	cr_assert_eq(x->last.va, VA);
	map4k(x, VA + TWO_M, 0);
	shadow_revalidate(x->shadow, &x->pg);
	cr_assert_eq(x->last.kind, SHADOW_EV_REVALIDATE);
	cr_assert_eq(x->last.count, 1);
	map2m(x, VA, 0);
	shadow_invlpg(x->shadow, &x->pg, VA + 7);
	cr_assert_eq(x->last.kind, SHADOW_EV_INVLPG);
	cr_assert_eq(x->last.count, 1);
	shadow_invlpg(x->shadow, &x->pg, VA + 7);
	cr_assert_eq(x->last.count, 0);
	shadow_flush_all(x->shadow);
	cr_assert_eq(x->last.kind, SHADOW_EV_FLUSH_ALL);
	cr_assert_eq(x->last.count, 0);
	shadow_watch(x->shadow, NULL, NULL);
	x->events = 0;
	map2m(x, VA, DATA | KERNEL | PTE_G);
	cr_assert_eq(fill(x, VA, false), SHADOW_MAPPED);
	cr_assert_eq(x->events, 0);
	close_world(x);
}
