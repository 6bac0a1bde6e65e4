/* The table of blocks by PC, against an array that remembers what is in it. */
#include <criterion/criterion.h>

#include "translate.h"

#define PCS 4096u

static struct block blocks[PCS];

/* Few enough low bits that runs of slots form. */
static u64 pc_of(u32 i)
{
	return 0xffffffff81000000ull + (i & 15) + (u64)(i >> 4) * 0x10000;
}

static void give_pcs(void)
{
	for (u32 i = 0; i < PCS; i++)
		blocks[i].pc = pc_of(i);
}

static void expect_all(const struct block_table *t, const bool *there)
{
	for (u32 i = 0; i < PCS; i++)
		cr_assert_eq(block_table_find(t, pc_of(i)), there[i] ? (s64)i : -1, "%u", i);
}

Test(block_table, finds_what_is_in_it)
{
	static bool there[PCS];
	struct block_table t;
	u32 i, k, rng = 1;

	give_pcs();
	block_table_init(&t, blocks);
	for (k = 0; k < 40000; k++) {
		rng = rng * 1664525 + 1013904223;
		i = rng >> 8 & (k < 20000 ? PCS - 1 : 255);
		if (there[i])
			block_table_remove(&t, pc_of(i));
		else
			block_table_add(&t, i);
		there[i] = !there[i];
		if (k % 1000 == 0)
			expect_all(&t, there);
	}
	expect_all(&t, there);
	block_table_free(&t);
}

Test(block_table, forgets_all)
{
	static const bool nothing[PCS];
	struct block_table t;
	u32 n;

	give_pcs();
	block_table_init(&t, blocks);
	for (n = 10; n <= PCS; n += PCS - 10) { /* before it has grown, and after */
		for (u32 i = 0; i < n; i++)
			block_table_add(&t, i);
		block_table_clear(&t);
		cr_expect_eq(t.used, 0);
		expect_all(&t, nothing);
	}
	block_table_free(&t);
}
