/*
 * Inside decoder/ only: instructions seen before, by all that says what they are. See shapes.c.
 */
#ifndef RINGSHIFT_SHAPES_H
#define RINGSHIFT_SHAPES_H

#include "optable.h"

struct shapes;

/* NULL: no memory. */
struct shapes *shapes_new(void);
void shapes_free(struct shapes *s);

/* The bytes up to the displacement with the mode, or 0: this one is not remembered. */
u64 shapes_key(const struct optable *t, const u8 *bytes, size_t avail, enum insn_mode mode);
/* Like decoder_decode, for an instruction of this key (not 0); false: it is not known, and what
 * *out holds is undefined. */
MUST_CHECK bool shapes_find(const struct shapes *s, u64 key, const u8 *bytes, size_t avail,
			    enum insn_mode mode, struct insn *out);
/* Remember what was decoded of this key (not 0) by this row. */
void shapes_remember(struct shapes *s, u64 key, const struct op *op, const struct insn *in);

#endif
