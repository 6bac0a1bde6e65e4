/*
 * Frames on a stream socket: four bytes of length, big endian, and a frame, as QEMU's stream and
 * socket back ends and passt have it. Between two ends that know it, bit 31 of the length says that
 * struct net_meta stands in front of the frame and is counted in the length; so that checksums and
 * segmentation can be left to the receiver.
 *
 * Two ends find out with a first frame of a kind nobody else sends or minds (an Ethernet type for
 * local experiments, to an address no bridge passes on): the hello. Only the first frame of a
 * connection is taken for one. What a guest could do by sending it first through a peer that is not
 * ours is to have its own link cut.
 *
 * Used by the monitor and by the helper; nothing here blocks.
 */
#ifndef RINGSHIFT_NET_WIRE_H
#define RINGSHIFT_NET_WIRE_H

#include "net_offload.h"

#define NET_WIRE_META 0x80000000u
/* The largest length accepted; what is longer than a frame can be is skipped. QEMU's limit. */
#define NET_WIRE_MAX 69632u

#define NET_WIRE_ROOM  (128 * KIB) /* queued below this: there is room for another frame */
#define NET_WIRE_QUEUE (1 * MIB)   /* what comes above this is lost */
#define NET_WIRE_INPUT (256 * KIB)

struct net_wire {
	int fd; /* -1: not connected */
	u8 *in, *out;
	size_t in_at, in_have;   /* bytes of in not yet looked at: [in_at, in_have) */
	size_t out_at, out_have; /* bytes to be sent */
	bool begun;              /* the first frame has come */
	bool peer_meta;          /* the peer has said hello */
	int error;               /* negative errno of a write, until somebody reads */
};

/* -ENOMEM. net_wire_free undoes it, and closes the socket. */
MUST_CHECK int net_wire_init(struct net_wire *w);
void net_wire_free(struct net_wire *w);

/* Begin with a connected, non-blocking socket, which is ours from now on; says hello. */
void net_wire_begin(struct net_wire *w, int fd);
/* Close it; what was queued is lost. */
void net_wire_end(struct net_wire *w);

/* Read once: bytes, 0 if there is nothing now, -EPIPE at the end, or another negative errno. */
MUST_CHECK int net_wire_read(struct net_wire *w);
/* Look at the next frame that has come as a whole, with meta data that can be true: its length; 0:
 * none; -EPROTO: this is no stream of frames. net_wire_next takes it. */
MUST_CHECK int net_wire_peek(struct net_wire *w, struct net_meta *m, u8 **frame);
void net_wire_next(struct net_wire *w);

/* Queue a frame, sending what can be sent if it is large. false: lost. */
bool net_wire_put(struct net_wire *w, const struct net_meta *m, const struct iovec *iov,
		  unsigned count);
/* Send what is queued, as far as possible: bytes left, or a negative errno. */
MUST_CHECK int net_wire_flush(struct net_wire *w);

static inline size_t net_wire_queued(const struct net_wire *w)
{
	return w->out_have - w->out_at;
}

#endif
