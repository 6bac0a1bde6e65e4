/*
 * Blocks by guest PC: open addressing with linear probing over four bytes a block, its number and
 * some bits of the PC's hash, so that a lookup is one cache miss here and one at the block, which
 * is wanted anyway. No file-level state; one thread.
 */
#ifndef RINGSHIFT_BLOCK_TABLE_H
#define RINGSHIFT_BLOCK_TABLE_H

#include "base.h"

struct block;

#define BLOCK_TABLE_MAX (1u << 19) /* blocks are fewer */

struct block_table {
	const struct block *blocks; /* the array that they are of */
	u32 *slot;                  /* tag, and the block's number + 1; 0: empty */
	u32 bits;                   /* log2 of slots */
	u32 used;
};

void block_table_init(struct block_table *t, const struct block *blocks);
void block_table_free(struct block_table *t);
/* Forget all. */
void block_table_clear(struct block_table *t);
/* The number of the block, -1: there is none. */
s64 block_table_find(const struct block_table *t, u64 pc);
/* Its PC is not in it. */
void block_table_add(struct block_table *t, u32 number);
/* pc is in it. */
void block_table_remove(struct block_table *t, u64 pc);

#endif
