/* See block_table.h. */
#include "block_table.h"

#include <string.h>

#define MIN_BITS 10u

static u32 mask_of(const struct block_table *t)
{
	return (1u << t->bits) - 1;
}

static u32 home(const struct block_table *t, u64 pc)
{
	return pc * 0x9e3779b97f4a7c15ull >> (64 - t->bits); /* Fibonacci hashing */
}

static void allocate(struct block_table *t, u32 bits)
{
	t->bits = bits;
	t->used = 0;
	t->slot = calloc(1u << bits, sizeof(t->slot[0]));
	BUG_ON(!t->slot);
}

void block_table_init(struct block_table *t)
{
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

struct block *block_table_find(const struct block_table *t, u64 pc)
{
	u32 i = home(t, pc);

	while (t->slot[i].block && t->slot[i].pc != pc)
		i = (i + 1) & mask_of(t);
	return t->slot[i].block;
}

static void put(struct block_table *t, u64 pc, struct block *b)
{
	u32 i = home(t, pc);

	while (t->slot[i].block)
		i = (i + 1) & mask_of(t);
	t->slot[i].pc = pc;
	t->slot[i].block = b;
	t->used++;
}

static void grow(struct block_table *t)
{
	struct block_table old = *t;
	u32 i;

	allocate(t, old.bits + 1);
	for (i = 0; i <= mask_of(&old); i++)
		if (old.slot[i].block)
			put(t, old.slot[i].pc, old.slot[i].block);
	free(old.slot);
}

void block_table_add(struct block_table *t, u64 pc, struct block *b)
{
	if (t->used >= 1u << (t->bits - 1)) /* half full */
		grow(t);
	put(t, pc, b);
}

/* What follows moves up, unless it would come before its home. */
void block_table_remove(struct block_table *t, u64 pc)
{
	u32 mask = mask_of(t), hole = home(t, pc), i;

	while (t->slot[hole].pc != pc || !t->slot[hole].block) {
		BUG_ON(!t->slot[hole].block);
		hole = (hole + 1) & mask;
	}
	for (i = (hole + 1) & mask; t->slot[i].block; i = (i + 1) & mask) {
		u32 from_home = (i - home(t, t->slot[i].pc)) & mask;

		if (from_home < ((i - hole) & mask))
			continue;
		t->slot[hole] = t->slot[i];
		hole = i;
	}
	t->slot[hole].block = NULL;
	t->used--;
}
