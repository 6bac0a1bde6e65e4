/*
 * What a network card does for its driver besides moving frames: checksums and TCP segmentation,
 * in software, for whoever on the other side cannot take a frame as it is. A frame may come from a
 * guest, a peer or the helper: nothing in it is believed.
 */
#ifndef RINGSHIFT_NET_OFFLOAD_H
#define RINGSHIFT_NET_OFFLOAD_H

#include <sys/uio.h>

#include "base.h"

#define NET_ETH_LEN 14
/* Ethernet header, VLAN tag and the largest IPv6 packet. */
#define NET_FRAME_MAX (NET_ETH_LEN + 4 + 40 + 65535)
#define NET_MTU       1500
#define NET_MTU_MIN   68
#define NET_GSO_MIN   16 /* bytes a segment: no TCP has less, and one frame stays bounded work */

/* What is still to be done to a frame: the first ten bytes of struct virtio_net_hdr (VIRTIO 1.2,
 * 5.1.6), which is also how two ends that understand it hand it on. Little endian, as the host. */
struct net_meta {
	u8 flags;
	u8 gso;
	u16 hdr_len; /* a hint nobody here relies on */
	u16 gso_size;
	u16 csum_start, csum_offset;
};

enum {
	NET_NEEDS_CSUM = 1, /* the sum from csum_start on is to be put at csum_start+csum_offset */
	NET_DATA_VALID = 2, /* the sums have been checked, or need not be */
};
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4 };

/* Where the parts of a TCP segment begin. */
struct net_tcp {
	u16 l3, l4, payload;
	bool v6;
};

/* Is this a whole TCP segment over IPv4 or IPv6 (perhaps behind a VLAN tag), and no fragment? len
 * may be that of the frame's beginning only, so long as the headers are in it. */
bool net_parse_tcp(const u8 *frame, size_t len, struct net_tcp *t);

/* Can the meta data be true of a frame of len bytes, whose first head bytes are given? */
bool net_meta_valid(const struct net_meta *m, const u8 *frame, size_t head, size_t len);

/* One's complement sum of a buffer, added to sum (host byte order of the words as they lie). */
u64 net_sum(u64 sum, const void *buf, size_t len);
/* The 16-bit checksum of such a sum, as it is stored. */
u16 net_fold(u64 sum);

/* Fill in the checksum meta data asks for; the frame is a valid one. */
void net_finish_csum(struct net_meta *m, u8 *frame, size_t len);
/* The same for the header and the whole of a TCP segment, whatever is there now. */
void net_tcp_csum(u8 *frame, size_t len, const struct net_tcp *t);

/*
 * Cut a valid frame with gso into segments, checksums included, and hand on those from number
 * `from` on: emit gets two pieces, headers and payload, and returns false if it cannot take them.
 * The number of the segment refused, or -1: there are no more.
 */
struct net_emit {
	bool (*emit)(void *opaque, const struct iovec piece[2]);
	void *opaque;
};
int net_segment(const struct net_meta *m, const u8 *frame, size_t len, unsigned from,
		const struct net_emit *out);

#endif
