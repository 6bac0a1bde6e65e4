/*
 * Frames between a card with offloads and libslirp: see mangle.h.
 */
#include <string.h>

#include "mangle.h"

#define TCP_SYN  2
#define TCP_BASE 20
#define MSS_V4   (MANGLE_MTU - 40)
#define MSS_V6   (MANGLE_MTU - 60)

enum { OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2, OPT_MSS_LEN = 4 };

static u16 get16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* Raise the segment size a SYN offers. */
static bool raise_mss(u8 *frame, const struct net_tcp *t)
{
	u8 *opt = frame + t->l4 + TCP_BASE, *end = frame + t->payload;

	while (opt < end && *opt != OPT_END) {
		if (*opt == OPT_NOP) {
			opt++;
			continue;
		}
		if (end - opt < 2 || opt[1] < 2 || opt[1] > end - opt)
			return false;
		if (opt[0] == OPT_MSS && opt[1] == OPT_MSS_LEN) {
			put16(opt + 2, t->v6 ? MSS_V6 : MSS_V4);
			return true;
		}
		opt += opt[1];
	}
	return false;
}

void mangle_from_guest(struct net_meta *m, u8 *frame, size_t len)
{
	struct net_tcp t;

	if (net_parse_tcp(frame, len, &t) && frame[t.l4 + 13] & TCP_SYN) {
		/* An incremental change: whether the sum was right is left to the receiver. */
		net_finish_csum(m, frame, len);
		u16 old = 0;
		u64 before = net_sum(0, frame + t.l4, t.payload - t.l4);

		memcpy(&old, frame + t.l4 + 16, 2);
		if (raise_mss(frame, &t)) {
			u64 after = net_sum(0, frame + t.l4, t.payload - t.l4);
			u16 sum;

			/* RFC 1624: HC' = ~(~HC + ~m + m'). Both sums contain HC itself. */
			sum = net_fold((u64)(u16)~old + net_fold(before) + (u16)~net_fold(after));
			memcpy(frame + t.l4 + 16, &sum, 2);
		}
		return;
	}
	net_finish_csum(m, frame, len);
}

/* The sum of the pseudo header goes where the whole sum was: the receiver completes it. */
static void leave_sum(u8 *frame, size_t len, const struct net_tcp *t)
{
	const u8 *addr = frame + t->l3 + (t->v6 ? 8 : 12);
	size_t tcp_len = len - t->l4;
	u8 tail[4] = {0, 6, (u8)(tcp_len >> 8), (u8)tcp_len};
	u16 sum = (u16)~net_fold(net_sum(net_sum(0, addr, t->v6 ? 32 : 8), tail, sizeof(tail)));

	memcpy(frame + t->l4 + 16, &sum, 2);
}

struct emit {
	void (*emit)(void *opaque, const struct net_meta *m, const struct iovec *iov,
		     unsigned count);
	void *opaque;
};

/* RFC 791, 3.2, for a packet that is no fragment or one in the middle of others. */
static void fragment(u8 *frame, size_t len, const struct emit *out)
{
	static const struct net_meta plain = {.flags = NET_DATA_VALID};
	const u16 more = 0x2000;
	u8 head[NET_ETH_LEN + 60], *ip = head + NET_ETH_LEN;
	size_t header = (frame[NET_ETH_LEN] & 15) * 4, room, total, at;
	u16 flags = get16(frame + NET_ETH_LEN + 6);

	if (header < 20 || len < NET_ETH_LEN + header)
		return;
	room = (NET_MTU - header) & ~7ul;
	total = len - NET_ETH_LEN - header;
	memcpy(head, frame, NET_ETH_LEN + header);
	for (at = 0; at < total; at += room) {
		size_t part = MIN(room, total - at);
		struct iovec iov[2] = {{head, NET_ETH_LEN + header},
				       {frame + NET_ETH_LEN + header + at, part}};
		u16 sum;

		put16(ip + 2, (unsigned)(header + part));
		put16(ip + 6, (unsigned)(flags + at / 8) | (at + part < total ? more : 0));
		put16(ip + 10, 0);
		sum = net_fold(net_sum(0, ip, header));
		memcpy(ip + 10, &sum, 2);
		out->emit(out->opaque, &plain, iov, 2);
	}
}

void mangle_to_guest(u8 *frame, size_t len,
		     void (*emit)(void *opaque, const struct net_meta *m, const struct iovec *iov,
				  unsigned count),
		     void *opaque)
{
	const struct emit out = {emit, opaque};
	struct net_meta m = {.flags = NET_DATA_VALID};
	struct iovec iov = {frame, len};
	struct net_tcp t;

	if (len <= NET_ETH_LEN + NET_MTU) {
		emit(opaque, &m, &iov, 1);
	} else if (net_parse_tcp(frame, len, &t)) {
		leave_sum(frame, len, &t);
		m = (struct net_meta){.flags = NET_NEEDS_CSUM,
				      .gso = t.v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
				      .hdr_len = t.payload,
				      .gso_size = (u16)(NET_MTU - (t.payload - t.l3)),
				      .csum_start = t.l4,
				      .csum_offset = 16};
		emit(opaque, &m, &iov, 1);
	} else if (frame[12] == 8 && frame[13] == 0) {
		fragment(frame, len, &out);
	} else {
		emit(opaque, &m, &iov, 1);
	}
}
