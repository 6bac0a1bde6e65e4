/*
 * Recovery records of blocks, packed: a kernel's boot makes a million of them, and each is read
 * once in a blue moon. They lie behind each other in one buffer that is emptied with the code
 * cache; most take one byte. Reading is async-signal safe.
 */
#ifndef RINGSHIFT_RECORDS_H
#define RINGSHIFT_RECORDS_H

#include "base.h"

/* From host offset `host` of its block on, the guest's state is that before the instruction at
 * guest offset `guest`, but for spilled registers. */
struct recovery {
	u16 host, guest;
	u16 spills; /* below 2048 */
};

#define RECORDS_SIZE  (16 * MIB)
#define RECORD_PACKED 7u /* bytes one can take at most */

/* The records of one block as bytes; `at` is the one that was read last. */
struct records {
	const u8 *p, *end;
	struct recovery at;
};

/* Pack n records, their host offsets in order, to out; bytes. */
unsigned records_pack(const struct recovery *r, unsigned n, u8 *out);
/* Read the next one. False: there is none. */
bool records_next(struct records *s);
/* The record that holds at a host offset: the last one that does not lie behind it. The first one
 * of a block is at offset 0. */
struct recovery records_find(struct records s, u32 host);

#endif
