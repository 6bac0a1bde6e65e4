/*
 * The sequences of bt_step: random ring-0 code made of items. What stands in sequence n, and all
 * that is drawn for its runs, follows from the seed and n alone, so that any can be had again.
 */
#ifndef RINGSHIFT_TESTS_BT_SEQUENCE_H
#define RINGSHIFT_TESTS_BT_SEQUENCE_H

#include "bt_machine.h"
#include "insn.h"

#define MAX_ITEMS 24

struct sequence {
	u64 rng;
	struct decoder *dec;
	const struct half *at; /* where it runs */
	u8 code[1024];
	unsigned len, items;
	u8 *patch[MAX_ITEMS]; /* immediates that may be written */
	unsigned n_patch;
	u64 end; /* RIP behind the final HLT */
};

/* Get ready for sequence n. It runs in one of the halves, in the one of this number if not 0. */
void sequence_seed(struct sequence *s, u64 seed, u64 n, unsigned only);
/* Make the code, for this address. */
void sequence_make(struct sequence *s, u64 start);
void sequence_print(const struct sequence *s, u64 start);

#endif
