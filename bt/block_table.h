/*
 * Blocks by guest PC: open addressing with linear probing, so that a lookup is one cache miss where
 * a list of malloc'ed blocks would be several. No file-level state; one thread.
 */
#ifndef RINGSHIFT_BLOCK_TABLE_H
#define RINGSHIFT_BLOCK_TABLE_H

#include "base.h"

struct block;

struct block_table {
	struct {
		u64 pc;
		struct block *block; /* NULL: empty */
	} * slot;
	u32 bits; /* log2 of slots */
	u32 used;
};

void block_table_init(struct block_table *t);
void block_table_free(struct block_table *t);
/* Forget all. */
void block_table_clear(struct block_table *t);
struct block *block_table_find(const struct block_table *t, u64 pc);
/* pc is not in it. */
void block_table_add(struct block_table *t, u64 pc, struct block *b);
/* pc is in it. */
void block_table_remove(struct block_table *t, u64 pc);

#endif
