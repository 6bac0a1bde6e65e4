/*
 * The page walker against an expectation made without it: rights are described as facts about each
 * level, encoded into page tables for the walker, and judged by a literal table here. Then reserved
 * bits one at a time, A and D, races, tables where no RAM is.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "mmu.h"

enum mode { MODE_32, MODE_PAE, MODE_LONG };
static const char *const mode_name[] = {"32-bit", "PAE", "4-level"};

/* What a test says about the entry of one level. */
struct attr {
	bool p, w, u, nx, rsvd;
};

/* Page tables for one address. Level 4 is the root of 4-level paging, 1 the PTE. */
struct world {
	struct ram ram;
	struct paging pg;
	enum mode mode;
	unsigned top, leaf; /* levels */
	gva_t va;
	gpa_t entry[5]; /* by level */
	u64 init[5];    /* what build wrote there */
};

#define TABLE(level) (0x200000ull + (level)*0x1000)
#define FRAME        0x40000000ull /* aligned to any page size; need not be RAM */

static unsigned entry_size(const struct world *x)
{
	return x->mode == MODE_32 ? 4 : 8;
}

static unsigned leaf_shift(const struct world *x)
{
	static const unsigned shift_32[] = {0, 12, 22}, shift_wide[] = {0, 12, 21, 30};

	return x->mode == MODE_32 ? shift_32[x->leaf] : shift_wide[x->leaf];
}

static void world_open(struct world *x, u64 size)
{
	memset(x, 0, sizeof(*x));
	cr_assert_eq(ram_init(&x->ram, size, NULL), 0);
	x->pg.maxphyaddr = 40;
}

static void world_set(struct world *x, enum mode mode, unsigned leaf)
{
	unsigned level;

	x->mode = mode;
	x->leaf = leaf;
	x->top = mode == MODE_LONG ? 4 : 2;
	x->va = mode == MODE_LONG ? 0xffffa3456789abcdull : 0xc789abcdull;
	x->pg.cr0 = CR0_PE | CR0_PG | CR0_WP;
	x->pg.cr4 = mode == MODE_32 ? CR4_PSE : CR4_PAE;
	x->pg.efer = mode == MODE_LONG ? EFER_LMA | EFER_LME : 0;
	x->pg.cr3 = TABLE(x->top);
	memset(x->pg.pdpte, 0, sizeof(x->pg.pdpte));
	if (mode == MODE_PAE) {
		x->pg.cr3 = 0x1000; /* only mmu_load_pdptes reads there */
		x->pg.pdpte[3] = TABLE(2) | PTE_P;
	}
	for (level = 1; level <= x->top; level++) {
		u64 index = mode == MODE_32 ? x->va >> (2 + 10 * level) & 0x3ff
					    : x->va >> (3 + 9 * level) & 0x1ff;

		x->entry[level] = TABLE(level) + index * entry_size(x);
	}
}

static u64 get(const struct world *x, unsigned level)
{
	u64 e = 0;

	memcpy(&e, x->ram.window + x->entry[level], entry_size(x));
	return e;
}

static void put(struct world *x, unsigned level, u64 e)
{
	memcpy(x->ram.window + x->entry[level], &e, entry_size(x));
	x->init[level] = e;
}

/* The reserved bit a test sets: one that is reserved at this place whatever MAXPHYADDR (<= 40). */
static u64 some_reserved(const struct world *x, unsigned level)
{
	if (x->mode == MODE_32)
		return level == 2 && x->leaf == 2 ? BIT(21) : 0;
	return BIT(45);
}

static u64 encode(const struct world *x, unsigned level, struct attr a)
{
	u64 e = level == x->leaf ? FRAME : TABLE(level - 1);

	if (level == x->leaf && level > 1)
		e |= 0x80;
	if (a.nx && x->mode != MODE_32)
		e |= BIT(63);
	if (a.rsvd)
		e |= some_reserved(x, level);
	return e | (a.p ? 1 : 0) | (a.w ? 2 : 0) | (a.u ? 4 : 0);
}

static void build(struct world *x, const struct attr *a)
{
	unsigned level;

	for (level = x->top; level >= x->leaf; level--)
		put(x, level, encode(x, level, a[level]));
}

/*
 * Who may do what: a row per kind of page, a column per access (read, write, fetch), supervisor
 * then user. y: yes, n: no, w: unless CR0.WP, s: unless CR4.SMEP.
 */
static const char verdict[2][2][2][4] = {
    /* [page is user][page is writable][by user] */
    {{"ywy", "nnn"}, {"yyy", "nnn"}},
    {{"yws", "yny"}, {"yys", "yyy"}},
};

struct expect {
	bool ok;
	u32 error;
	bool user, writable_page, nx;
};

static struct expect judge(const struct world *x, const struct attr *a, enum mmu_access access,
			   bool user)
{
	bool nxe = x->mode != MODE_32 && (x->pg.efer & 0x800);
	bool smep = x->pg.cr4 & BIT(20);
	struct expect e = {.ok = true, .user = true, .writable_page = true};
	u32 base = (access == MMU_WRITE ? 2 : 0) | (user ? 4 : 0);
	unsigned level;

	if (access == MMU_EXEC && (nxe || smep))
		base |= 0x10;
	for (level = x->top; level >= x->leaf; level--) {
		if (!a[level].p) {
			e.ok = false;
			e.error = base;
			return e;
		}
		if ((a[level].rsvd && some_reserved(x, level)) ||
		    (a[level].nx && x->mode != MODE_32 && !nxe)) {
			e.ok = false;
			e.error = base | 9;
			return e;
		}
		e.user = e.user && a[level].u;
		e.writable_page = e.writable_page && a[level].w;
		e.nx = e.nx || (a[level].nx && nxe);
	}
	switch (verdict[e.user][e.writable_page][user][access]) {
	case 'n': e.ok = false; break;
	case 'w': e.ok = !(x->pg.cr0 & BIT(16)); break;
	case 's': e.ok = !smep; break;
	}
	if (access == MMU_EXEC && e.nx)
		e.ok = false;
	e.error = e.ok ? 0 : base | 1;
	return e;
}

/* Complain once and in full; cr_assert for each of a million checks would be slow. */
#define CHECK(x, cond)                                                                             \
	do {                                                                                       \
		if (!(cond))                                                                       \
			cr_assert_fail("%s leaf %u: %s (access %u user %d cr0 %lx cr4 %lx efer "   \
				       "%lx; got error %x gpa %lx; entries %lx %lx %lx %lx)",      \
				       mode_name[(x)->mode], (x)->leaf, #cond, access, user,       \
				       (x)->pg.cr0, (x)->pg.cr4, (x)->pg.efer, w.error, w.gpa,     \
				       (x)->init[4], (x)->init[3], (x)->init[2], (x)->init[1]);    \
	} while (0)

static void check_entries(struct world *x, enum mmu_access access, bool user, struct walk w,
			  bool marked)
{
	unsigned level;

	for (level = x->top; level >= x->leaf; level--) {
		u64 want = x->init[level];

		if (marked)
			want |= level == x->leaf && access == MMU_WRITE ? 0x60 : 0x20;
		CHECK(x, get(x, level) == want);
	}
}

static void check_one(struct world *x, const struct attr *a, enum mmu_access access, bool user)
{
	struct expect e = judge(x, a, access, user);
	u64 offset = BIT(leaf_shift(x)) - 1;
	struct walk w = {.error = ~0u};
	bool write_ok;

	CHECK(x, mmu_probe(&x->ram, &x->pg, x->va, access, user, &w) == (e.ok ? 0 : -EFAULT));
	CHECK(x, w.error == e.error);
	check_entries(x, access, user, w, false);
	memset(&w, 0xff, sizeof(w));
	CHECK(x, mmu_walk(&x->ram, &x->pg, x->va, access, user, &w) == (e.ok ? 0 : -EFAULT));
	CHECK(x, w.error == e.error);
	check_entries(x, access, user, w, e.ok);
	if (!e.ok)
		return;
	CHECK(x, w.gpa == (FRAME | (x->va & offset)));
	CHECK(x, w.shift == leaf_shift(x));
	CHECK(x, w.user == e.user && w.nx == e.nx && !w.global);
	/* D starts clear, so only a write leaves the page writable. */
	CHECK(x, w.writable == (access == MMU_WRITE));

	write_ok = judge(x, a, MMU_WRITE, user).ok;
	put(x, x->leaf, x->init[x->leaf] | 0x40);
	CHECK(x, mmu_walk(&x->ram, &x->pg, x->va, access, user, &w) == 0);
	CHECK(x, w.writable == write_ok);
}

/* Every access, privilege, WP, SMEP and NXE for one set of entries. */
static void check_all(struct world *x, const struct attr *a)
{
	unsigned i;

	for (i = 0; i < 3 * 2 * 8; i++) {
		enum mmu_access access = i % 3;
		bool user = i / 3 & 1;

		x->pg.cr0 = CR0_PE | CR0_PG | (i / 6 & 1 ? CR0_WP : 0);
		x->pg.cr4 = (x->pg.cr4 & ~CR4_SMEP) | (i / 12 & 1 ? CR4_SMEP : 0);
		x->pg.efer = (x->pg.efer & ~EFER_NXE) | (i / 24 & 1 ? EFER_NXE : 0);
		build(x, a);
		check_one(x, a, access, user);
	}
}

/* All combinations of W, U and NX at every level, everything present. */
static void sweep_rights(struct world *x)
{
	unsigned n = x->top - x->leaf + 1, level;
	u32 bits;

	for (bits = 0; bits < 1u << (3 * n); bits++) {
		struct attr a[5] = {0};

		for (level = x->leaf; level <= x->top; level++) {
			u32 b = bits >> (3 * (level - x->leaf));

			a[level] = (struct attr){.p = true, .w = b & 1, .u = b & 2, .nx = b & 4};
		}
		check_all(x, a);
	}
}

/* All combinations of present and reserved at every level, under eight sets of rights. */
static void sweep_faults(struct world *x)
{
	unsigned n = x->top - x->leaf + 1, level;
	u32 bits, rights;

	for (bits = 0; bits < 1u << (2 * n); bits++) {
		for (rights = 0; rights < 8; rights++) {
			struct attr a[5] = {0};

			for (level = x->leaf; level <= x->top; level++) {
				u32 b = bits >> (2 * (level - x->leaf));

				a[level] = (struct attr){.p = b & 1,
							 .rsvd = b & 2,
							 .w = rights & 1,
							 .u = rights & 2,
							 .nx = rights & 4};
			}
			check_all(x, a);
		}
	}
}

static void sweep(enum mode mode, unsigned leaf)
{
	struct world x;

	world_open(&x, 4 * MIB);
	world_set(&x, mode, leaf);
	sweep_rights(&x);
	sweep_faults(&x);
	ram_destroy(&x.ram);
}

Test(walk, matrix_32_4k)
{
	sweep(MODE_32, 1);
}
Test(walk, matrix_32_4m)
{
	sweep(MODE_32, 2);
}
Test(walk, matrix_pae_4k)
{
	sweep(MODE_PAE, 1);
}
Test(walk, matrix_pae_2m)
{
	sweep(MODE_PAE, 2);
}
Test(walk, matrix_long_4k)
{
	sweep(MODE_LONG, 1);
}
Test(walk, matrix_long_2m)
{
	sweep(MODE_LONG, 2);
}
Test(walk, matrix_long_1g)
{
	sweep(MODE_LONG, 3);
}

/* SDM vol. 3, tables 4-4 to 4-20, as masks worked out by hand. */
static const struct {
	enum mode mode;
	unsigned leaf, level, maxphyaddr;
	bool nxe;
	u64 reserved;
} reserved_bits[] = {
    {MODE_32, 1, 2, 40, false, 0},
    {MODE_32, 1, 1, 40, false, 0},
    {MODE_32, 2, 2, 32, false, 0x003fe000},
    {MODE_32, 2, 2, 36, false, 0x003e0000},
    {MODE_32, 2, 2, 39, false, 0x00300000},
    {MODE_32, 2, 2, 40, false, 0x00200000},
    {MODE_32, 2, 2, 52, true, 0x00200000},
    {MODE_PAE, 1, 2, 40, true, 0x7fffff0000000000},
    {MODE_PAE, 1, 1, 40, true, 0x7fffff0000000000},
    {MODE_PAE, 1, 1, 40, false, 0xffffff0000000000},
    {MODE_PAE, 1, 1, 36, false, 0xfffffff000000000},
    {MODE_PAE, 1, 1, 52, true, 0x7ff0000000000000},
    {MODE_PAE, 2, 2, 40, true, 0x7fffff00001fe000},
    {MODE_PAE, 2, 2, 36, false, 0xfffffff0001fe000},
    {MODE_LONG, 1, 4, 40, true, 0x000fff0000000080},
    {MODE_LONG, 1, 4, 52, true, 0x0000000000000080},
    {MODE_LONG, 1, 4, 40, false, 0x800fff0000000080},
    {MODE_LONG, 1, 3, 40, true, 0x000fff0000000000},
    {MODE_LONG, 1, 3, 36, false, 0x800ffff000000000},
    {MODE_LONG, 1, 2, 40, true, 0x000fff0000000000},
    {MODE_LONG, 1, 1, 40, true, 0x000fff0000000000},
    {MODE_LONG, 1, 1, 52, true, 0},
    {MODE_LONG, 1, 1, 36, false, 0x800ffff000000000},
    {MODE_LONG, 2, 2, 40, true, 0x000fff00001fe000},
    {MODE_LONG, 2, 2, 52, false, 0x80000000001fe000},
    {MODE_LONG, 3, 3, 40, true, 0x000fff003fffe000},
    {MODE_LONG, 3, 3, 52, false, 0x800000003fffe000},
};

Test(walk, each_reserved_bit)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	unsigned i, bit;

	world_open(&x, 4 * MIB);
	for (i = 0; i < ARRAY_LEN(reserved_bits); i++) {
		unsigned level = reserved_bits[i].level;

		world_set(&x, reserved_bits[i].mode, reserved_bits[i].leaf);
		x.pg.maxphyaddr = reserved_bits[i].maxphyaddr;
		x.pg.efer |= reserved_bits[i].nxe ? EFER_NXE : 0;
		for (bit = 1; bit < entry_size(&x) * 8; bit++) {
			bool rsvd = reserved_bits[i].reserved & BIT(bit);
			struct walk w;
			int r;

			/* Not a leaf: address bits and PS lead elsewhere instead. */
			if (!rsvd && level > x.leaf &&
			    (bit == 7 || (bit >= 12 && bit < x.pg.maxphyaddr)))
				continue;
			build(&x, a);
			put(&x, level, x.init[level] | BIT(bit));
			r = mmu_probe(&x.ram, &x.pg, x.va, MMU_READ, false, &w);
			cr_assert_eq(r, rsvd ? -EFAULT : 0, "row %u bit %u", i, bit);
			cr_assert_eq(w.error, rsvd ? PF_P | PF_RSVD : 0, "row %u bit %u", i, bit);
		}
	}
	ram_destroy(&x.ram);
}

Test(walk, pse_off_ignores_ps)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_32, 1);
	x.pg.cr4 = 0;
	build(&x, a);
	put(&x, 2, x.init[2] | PTE_PS);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(w.shift, 12);
	cr_assert_eq(w.gpa, FRAME | 0xbcd);
	ram_destroy(&x.ram);
}

/* Bits 20..13 of a 4 MiB entry are bits 39..32 of the address. */
Test(walk, pse36_address)
{
	struct world x;
	struct walk w;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_32, 2);
	put(&x, 2, 0x12c00000 | 0xa5u << 13 | BIT(12) /* PAT */ | 0x87);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, true, &w), 0);
	cr_assert_eq(w.gpa, 0xa512c00000ull | (x.va & 0x3fffff));
	ram_destroy(&x.ram);
}

Test(walk, pat_bit_is_no_address_bit)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;
	unsigned leaf;

	world_open(&x, 4 * MIB);
	for (leaf = 1; leaf <= 3; leaf++) {
		world_set(&x, MODE_LONG, leaf);
		build(&x, a);
		put(&x, leaf, x.init[leaf] | (leaf == 1 ? BIT(7) : BIT(12)));
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, true, &w), 0);
		cr_assert_eq(w.shift, leaf_shift(&x));
		cr_assert_eq(w.gpa, FRAME | (x.va & (BIT(leaf_shift(&x)) - 1)));
	}
	ram_destroy(&x.ram);
}

/* G counts in the leaf alone and only with CR4.PGE. */
Test(walk, global)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	static const struct {
		enum mode mode;
		unsigned leaf;
	} kinds[] = {{MODE_32, 1},   {MODE_32, 2},   {MODE_PAE, 1}, {MODE_PAE, 2},
		     {MODE_LONG, 1}, {MODE_LONG, 2}, {MODE_LONG, 3}};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;
	unsigned i;

	world_open(&x, 4 * MIB);
	for (i = 0; i < ARRAY_LEN(kinds); i++) {
		world_set(&x, kinds[i].mode, kinds[i].leaf);
		build(&x, a);
		put(&x, x.leaf, x.init[x.leaf] | PTE_G);
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, true, &w), 0);
		cr_assert(!w.global);
		x.pg.cr4 |= CR4_PGE;
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, true, &w), 0);
		cr_assert(w.global);
		build(&x, a);
		if (x.top > x.leaf)
			put(&x, x.top, x.init[x.top] | PTE_G);
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, true, &w), 0);
		cr_assert(!w.global);
	}
	ram_destroy(&x.ram);
}

Test(walk, paging_off)
{
	struct world x;
	struct walk w;

	world_open(&x, 4 * MIB);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, 0x1fffff123ull, MMU_WRITE, true, &w), 0);
	cr_assert_eq(w.gpa, 0xfffff123);
	cr_assert_eq(w.shift, 12);
	cr_assert(w.writable && !w.nx && !w.global);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, 0x100000, MMU_EXEC, false, &w), 0);
	cr_assert_eq(w.gpa, 0x100000, "A20 is on");
	ram_destroy(&x.ram);
}

/* 32-bit and PAE paging look at 32 address bits. */
Test(walk, upper_address_bits_ignored)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;
	unsigned mode;

	world_open(&x, 4 * MIB);
	for (mode = MODE_32; mode <= MODE_PAE; mode++) {
		world_set(&x, mode, 1);
		build(&x, a);
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va | BIT(32), MMU_READ, true, &w), 0);
		cr_assert_eq(w.gpa, FRAME | 0xbcd);
	}
	ram_destroy(&x.ram);
}

/* PAE presence comes from the registers, not from memory, and each quarter has its own. */
Test(walk, pae_pdptes)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_PAE, 1);
	build(&x, a);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(x.pg.pdpte[3], TABLE(2) | PTE_P, "a PDPTE has no A bit");
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va - GIB, MMU_WRITE, true, &w), -EFAULT);
	cr_assert_eq(w.error, PF_W | PF_U);
	x.pg.pdpte[3] &= ~PTE_P;
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, false, &w), -EFAULT);
	cr_assert_eq(w.error, 0);
	ram_destroy(&x.ram);
}

Test(walk, load_pdptes)
{
	static const struct {
		unsigned maxphyaddr;
		u64 reserved;
	} rows[] = {{40, 0xffffff00000001e6}, {36, 0xfffffff0000001e6}, {52, 0xfff00000000001e6}};
	u64 good[4] = {0x3019, 0, 0xfffffffffffffffeull, 0x8e01}, bad[4], out[4];
	struct world x;
	unsigned i, bit;

	world_open(&x, 4 * MIB);
	cr_assert_eq(ram_write(&x.ram, 0x12360, good, 32), 0);
	/* CR3 bits 4..0 and those above 31 are no address */
	cr_assert_eq(mmu_load_pdptes(&x.ram, 0x100012378, 40, out), 0);
	cr_assert_arr_eq(out, good, 32);
	for (i = 0; i < ARRAY_LEN(rows); i++) {
		for (bit = 1; bit < 64; bit++) {
			bool rsvd = rows[i].reserved & BIT(bit);

			memset(bad, 0, sizeof(bad));
			bad[3] = PTE_P | BIT(bit);
			cr_assert_eq(ram_write(&x.ram, 0x12360, bad, 32), 0);
			memset(out, 0x55, sizeof(out));
			cr_assert_eq(mmu_load_pdptes(&x.ram, 0x12360, rows[i].maxphyaddr, out),
				     rsvd ? -EINVAL : 0, "bit %u", bit);
			cr_assert_eq(out[3], rsvd ? 0x5555555555555555ull : bad[3]);
			cr_assert_eq(out[0], rsvd ? 0x5555555555555555ull : 0);
		}
	}
	cr_assert_eq(mmu_load_pdptes(&x.ram, 0xe0000000, 40, out), -EINVAL, "reads as all ones");
	ram_destroy(&x.ram);
}

/* An entry that is no RAM is all ones. */
Test(walk, tables_outside_ram)
{
	struct world x;
	struct walk w;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_LONG, 1);
	x.pg.cr3 = 0xe0000000;
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, false, &w), -EFAULT);
	cr_assert_eq(w.error, PF_P | PF_RSVD);
	x.pg.cr3 = TABLE(4);
	put(&x, 4, 0xa0000 | 7); /* the VGA hole, which has pages behind it */
	memset(x.ram.window + 0xa0000, 0, 4096);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_READ, false, &w), -EFAULT);
	cr_assert_eq(w.error, PF_P | PF_RSVD);

	/* Two levels of all ones, with nothing reserved: the last page below 4 GiB. */
	world_set(&x, MODE_32, 1);
	x.pg.cr3 = 0xe0000000;
	x.pg.cr4 = 0;
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(w.gpa, 0xfffffbcd);
	cr_assert(w.writable && w.user);
	x.pg.cr4 = CR4_PSE;
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), -EFAULT);
	cr_assert_eq(w.error, PF_P | PF_RSVD | PF_W | PF_U);
	ram_destroy(&x.ram);
}

Test(walk, tables_in_high_ram)
{
	gpa_t table = 4 * GIB + 0x5000;
	struct world x;
	struct walk w;
	unsigned i;

	world_open(&x, 5 * GIB);
	world_set(&x, MODE_LONG, 1);
	x.pg.cr3 = table;
	for (i = 0; i < 4; i++) {
		u64 e = (i < 3 ? table + (i + 1) * 0x1000 : 5 * GIB) | 7;
		gpa_t at = table + i * 0x1000 + (x.va >> (39 - 9 * i) & 0x1ff) * 8;

		cr_assert_eq(ram_write(&x.ram, at, &e, 8), 0);
	}
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(w.gpa, 5 * GIB + 0xbcd);
	ram_destroy(&x.ram);
}

/* An entry that points to its own table serves two or more levels of one walk. */
Test(walk, recursive_table)
{
	struct world x;
	struct walk w;
	u64 e = TABLE(4) | 3;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_LONG, 1);
	cr_assert_eq(ram_write(&x.ram, TABLE(4) + 0x1ed * 8, &e, 8), 0);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, 0xfffff6fb7dbedf68, MMU_WRITE, false, &w), 0);
	cr_assert_eq(w.gpa, TABLE(4) + 0xf68);
	cr_assert_eq(ram_read(&x.ram, TABLE(4) + 0x1ed * 8, &e, 8), 0);
	cr_assert_eq(e, TABLE(4) | 3 | PTE_A | PTE_D);
	ram_destroy(&x.ram);
}

struct meddler {
	struct world *x;
	unsigned calls;
	gpa_t gpa;
	u64 len, new_leaf;
};

static void meddle(void *opaque, gpa_t gpa, u64 len)
{
	struct meddler *s = opaque;

	s->calls++;
	s->gpa = gpa;
	s->len = len;
	if (s->new_leaf != ~0ull)
		put(s->x, 1, s->new_leaf);
}

/* Setting A or D is a write to guest memory: a marked page is reported, an unchanged one not. */
Test(walk, table_in_code_page)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct meddler s = {.x = &x, .new_leaf = ~0ull};
	struct walk w;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_LONG, 1);
	build(&x, a);
	x.ram.code_written = meddle;
	x.ram.code_opaque = &s;
	x.ram.code[TABLE(2) >> 12] = 1;
	cr_assert_eq(mmu_probe(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(s.calls, 0);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(s.calls, 1);
	cr_assert_eq(s.gpa, x.entry[2]);
	cr_assert_eq(s.len, 8);
	cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), 0);
	cr_assert_eq(s.calls, 1, "A was set already");
	ram_destroy(&x.ram);
}

/* The leaf changes between being read and being marked: the walk must go by the new one. */
Test(walk, entry_changes_under_the_walk)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	static const struct {
		u64 leaf;
		int ret;
		u32 error;
	} rows[] = {{0x55000 | 7, 0, 0}, {0x55000 | 5, -EFAULT, 7}, {0x55006, -EFAULT, 6}};
	const struct attr a[5] = {all, all, all, all, all};
	struct world x;
	struct walk w;
	unsigned i;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_LONG, 1);
	x.ram.code_written = meddle;
	x.ram.code[TABLE(2) >> 12] = 1;
	for (i = 0; i < ARRAY_LEN(rows); i++) {
		struct meddler s = {.x = &x, .new_leaf = rows[i].leaf};

		x.ram.code_opaque = &s;
		build(&x, a);
		cr_assert_eq(mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w), rows[i].ret);
		cr_assert_eq(w.error, rows[i].error);
		cr_assert_eq(get(&x, 1), rows[i].leaf | (rows[i].ret ? 0 : PTE_A | PTE_D));
		if (!rows[i].ret)
			cr_assert_eq(w.gpa, 0x55bcd);
	}
	ram_destroy(&x.ram);
}

#define RACES 200000

struct racer {
	u64 *pte;
	bool lost; /* an old value came back */
};

static void *race(void *arg)
{
	struct racer *r = arg;
	u64 mine = 0x1000000 | 7;
	unsigned i;

	for (i = 0; i < RACES; i++) {
		u64 next = (0x1000000 + (u64)(i & 0xff) * 0x1000) | 7;
		u64 was = __atomic_exchange_n(r->pte, next, __ATOMIC_SEQ_CST);

		if ((was & ~(PTE_A | PTE_D)) != mine)
			r->lost = true;
		mine = next;
	}
	return NULL;
}

/* Another processor rewrites the PTE all the time; A and D must never bring an old value back. */
Test(walk, no_update_is_lost)
{
	static const struct attr all = {.p = true, .w = true, .u = true};
	const struct attr a[5] = {all, all, all, all, all};
	struct racer r = {0};
	struct world x;
	struct walk w;
	pthread_t id;
	unsigned i;

	world_open(&x, 4 * MIB);
	world_set(&x, MODE_LONG, 1);
	build(&x, a);
	put(&x, 1, 0x1000000 | 7);
	r.pte = (u64 *)(x.ram.window + x.entry[1]);
	cr_assert_eq(pthread_create(&id, NULL, race, &r), 0);
	for (i = 0; i < RACES; i++) {
		if (mmu_walk(&x.ram, &x.pg, x.va, MMU_WRITE, true, &w) ||
		    (w.gpa & ~0xff000ull) != 0x1000bcd)
			cr_assert_fail("gpa %lx error %x", w.gpa, w.error);
	}
	pthread_join(id, NULL);
	cr_assert(!r.lost);
	ram_destroy(&x.ram);
}
