/* See block_table.h. */
#include "block_table.h"

#include <string.h>

#include "translate.h"

#define MIN_BITS 10u
#define NUMBER   (BLOCK_TABLE_MAX - 1) /* of a slot; the rest is the tag */

static u32 mask_of(const struct block_table *t)
{
	return (1u << t->bits) - 1;
}

static u64 hash(u64 pc)
{
	return pc * 0x9e3779b97f4a7c15ull; /* Fibonacci hashing: the upper bits count */
}

static u32 home(const struct block_table *t, u64 pc)
{
	return hash(pc) >> (64 - t->bits);
}

static u32 tag(u64 pc)
{
	return hash(pc) >> 12 &
	       ~NUMBER; /* bits 31..43: no table is so large that they are of `home` */
}

static u64 pc_of(const struct block_table *t, u32 slot)
{
	return t->blocks[(slot & NUMBER) - 1].pc;
}

static void allocate(struct block_table *t, u32 bits)
{
	t->bits = bits;
	t->used = 0;
	t->slot = calloc(1u << bits, sizeof(t->slot[0]));
	BUG_ON(!t->slot);
}

void block_table_init(struct block_table *t, const struct block *blocks)
{
	t->blocks = blocks;
	allocate(t, MIN_BITS);
}

void block_table_free(struct block_table *t)
{
	free(t->slot);
	t->slot = NULL;
}

void block_table_clear(struct block_table *t)
{
	if (!t->used)
		return;
	if (t->bits > MIN_BITS) {
		free(t->slot);
		allocate(t, MIN_BITS);
	} else {
		memset(t->slot, 0, sizeof(t->slot[0]) << t->bits);
		t->used = 0;
	}
}

/* Its slot, or the empty one where the search ends. */
static u32 search(const struct block_table *t, u64 pc)
{
	u32 i = home(t, pc), wanted = tag(pc);

	while (t->slot[i] && ((t->slot[i] & ~NUMBER) != wanted || pc_of(t, t->slot[i]) != pc))
		i = (i + 1) & mask_of(t);
	return i;
}

s64 block_table_find(const struct block_table *t, u64 pc)
{
	return (s64)(t->slot[search(t, pc)] & NUMBER) - 1;
}

static void put(struct block_table *t, u64 pc, u32 slot)
{
	u32 i = home(t, pc);

	while (t->slot[i])
		i = (i + 1) & mask_of(t);
	t->slot[i] = slot;
	t->used++;
}

static void grow(struct block_table *t)
{
	struct block_table old = *t;
	u32 i;

	allocate(t, old.bits + 1);
	for (i = 0; i <= mask_of(&old); i++)
		if (old.slot[i])
			put(t, pc_of(t, old.slot[i]), old.slot[i]);
	free(old.slot);
}

void block_table_add(struct block_table *t, u32 number)
{
	u64 pc = t->blocks[number].pc;

	BUG_ON(number + 1 >= BLOCK_TABLE_MAX);
	if (t->used >= 1u << (t->bits - 1)) /* half full */
		grow(t);
	put(t, pc, tag(pc) | (number + 1));
}

/* What follows moves up, unless it would come before its home. */
void block_table_remove(struct block_table *t, u64 pc)
{
	u32 mask = mask_of(t), hole = search(t, pc), i;

	BUG_ON(!t->slot[hole]);
	for (i = (hole + 1) & mask; t->slot[i]; i = (i + 1) & mask) {
		u32 from_home = (i - home(t, pc_of(t, t->slot[i]))) & mask;

		if (from_home < ((i - hole) & mask))
			continue;
		t->slot[hole] = t->slot[i];
		hole = i;
	}
	t->slot[hole] = 0;
	t->used--;
}
