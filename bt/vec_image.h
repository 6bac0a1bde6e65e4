/*
 * The vector state as a standard XSAVE image of the host, which is what a signal frame holds.
 * SDM vol. 1, 13.4.
 */
#ifndef RINGSHIFT_VEC_IMAGE_H
#define RINGSHIFT_VEC_IMAGE_H

#include "cpu.h"

/* Where the host keeps each component, by its bit in XCR0. */
struct vec_layout {
	u64 features; /* of those we know, what the host has enabled */
	u32 off[8];
	u32 size;
};
/* -ENOTSUP: the host has no XSAVE. */
MUST_CHECK int vec_layout_init(struct vec_layout *l);

/* image: l->size bytes, zeroed or an older image. Everything is written, the header included. */
void vec_to_image(const struct vec_state *v, const struct vec_layout *l, u8 *image);
/* image: one that XRSTOR takes. Components whose bit in XSTATE_BV is clear become their initial
 * state. */
void vec_from_image(struct vec_state *v, const struct vec_layout *l, const u8 *image);

#endif
