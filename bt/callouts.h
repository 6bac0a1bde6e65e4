/*
 * What translated code leaves to the single-step engine, counted by instruction. See callouts.c.
 */
#ifndef RINGSHIFT_CALLOUTS_H
#define RINGSHIFT_CALLOUTS_H

#include "op.h"

/* The counter that an instruction shares with those of its name; owned by the engine. */
struct callout *callout_of(struct engine *e, const struct insn *in);

static inline void callout_count(struct engine *e, struct op *o)
{
	if (unlikely(!o->callout))
		o->callout = callout_of(e, &o->in);
	o->callout->count++;
}

/* The most frequent ones, a line each, most frequent first; nothing if there were none. */
void callouts_print(const struct engine *e, FILE *out);
void callouts_free(struct engine *e);

#endif
