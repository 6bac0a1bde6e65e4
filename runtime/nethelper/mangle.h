/*
 * Frames between a card with offloads and libslirp, which knows neither offloads nor segments
 * larger than its MTU. Large segments are worth much: each frame costs a guest interrupt's share,
 * two system calls and a walk through libslirp. So libslirp is told of a large MTU, the guest's
 * offer of a segment size is raised on its way in (the card cuts and joins segments, so its driver
 * sees nothing larger than it offered), and what libslirp sends beyond the real MTU is marked for
 * segmentation, or, if it is not TCP, cut into IP fragments here.
 */
#ifndef RINGSHIFT_NETHELPER_MANGLE_H
#define RINGSHIFT_NETHELPER_MANGLE_H

#include "net_offload.h"

#define MANGLE_MTU 65521 /* libslirp's limit */

/* Finish a frame from the guest: valid meta data, the frame may be changed. */
void mangle_from_guest(struct net_meta *m, u8 *frame, size_t len);

/* Hand a frame of libslirp's to emit, with meta data, whole or in fragments. Changes the frame. */
void mangle_to_guest(u8 *frame, size_t len,
		     void (*emit)(void *opaque, const struct net_meta *m, const struct iovec *iov,
				  unsigned count),
		     void *opaque);

#endif
