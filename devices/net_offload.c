/*
 * Checksums and TCP segmentation in software: see net_offload.h. RFC 1071, RFC 791, RFC 8200,
 * RFC 9293; which flags go into which segment is RFC 3168's and what hardware does.
 */
#include <string.h>

#include "net_offload.h"

#define ETH_TYPE    12
#define TYPE_IPV4   0x0800
#define TYPE_IPV6   0x86dd
#define TYPE_VLAN   0x8100
#define IPV4_LEN    20
#define IPV6_LEN    40
#define TCP_LEN     20
#define PROTO_TCP   6
#define HEADERS_MAX 512 /* IPv6 extension headers may be long; more than this is not cut */

enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 0x80 };

static u16 get16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put16(u8 *p, u16 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static u32 get32(const u8 *p)
{
	return (u32)get16(p) << 16 | get16(p + 2);
}

static void put32(u8 *p, u32 v)
{
	put16(p, (u16)(v >> 16));
	put16(p + 2, (u16)v);
}

u64 net_sum(u64 sum, const void *buf, size_t len)
{
	const u8 *p = buf;
	u64 other = 0;
	u32 w[4];

	/* 32-bit words into 64-bit sums: no carry is lost in any frame. */
	for (; len >= sizeof(w); p += sizeof(w), len -= sizeof(w)) {
		memcpy(w, p, sizeof(w));
		sum += (u64)w[0] + w[1];
		other += (u64)w[2] + w[3];
	}
	sum += other;
	for (; len >= 2; p += 2, len -= 2) {
		u16 half;

		memcpy(&half, p, 2);
		sum += half;
	}
	return len ? sum + *p : sum;
}

u16 net_fold(u64 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/* The length of IPv6's headers up to TCP's, 0 if it does not come. */
static size_t ipv6_headers(const u8 *ip, size_t len)
{
	enum { HOP_BY_HOP = 0, ROUTING = 43, OPTIONS = 60 };
	u8 next = ip[6];
	size_t at = IPV6_LEN;

	while (next == HOP_BY_HOP || next == ROUTING || next == OPTIONS) {
		if (at + 8 > len)
			return 0;
		next = ip[at];
		at += 8 + ip[at + 1] * 8;
	}
	return next == PROTO_TCP ? at : 0;
}

static size_t ipv4_headers(const u8 *ip)
{
	const u16 more_or_offset = 0x3fff;
	size_t at = (ip[0] & 15) * 4;

	if (ip[0] >> 4 != 4 || at < IPV4_LEN || ip[9] != PROTO_TCP ||
	    get16(ip + 6) & more_or_offset)
		return 0;
	return at;
}

bool net_parse_tcp(const u8 *frame, size_t len, struct net_tcp *t)
{
	size_t l3 = NET_ETH_LEN, l4, tcp;
	u16 type;

	if (len < l3 + 4 + IPV4_LEN)
		return false;
	type = get16(frame + ETH_TYPE);
	if (type == TYPE_VLAN) {
		type = get16(frame + ETH_TYPE + 4);
		l3 += 4;
	}
	t->v6 = type == TYPE_IPV6;
	if (t->v6 ? len < l3 + IPV6_LEN || frame[l3] >> 4 != 6 : type != TYPE_IPV4)
		return false;
	l4 = t->v6 ? ipv6_headers(frame + l3, len - l3) : ipv4_headers(frame + l3);
	if (!l4 || l3 + l4 + TCP_LEN > len)
		return false;
	l4 += l3;
	tcp = (frame[l4 + 12] >> 4) * 4;
	if (tcp < TCP_LEN || l4 + tcp > len)
		return false;
	*t = (struct net_tcp){(u16)l3, (u16)l4, (u16)(l4 + tcp), t->v6};
	return true;
}

bool net_meta_valid(const struct net_meta *m, const u8 *frame, size_t head, size_t len)
{
	struct net_tcp t;

	if (m->flags & ~(NET_NEEDS_CSUM | NET_DATA_VALID))
		return false;
	if (m->flags & NET_NEEDS_CSUM && (size_t)m->csum_start + m->csum_offset + 2 > len)
		return false;
	if (m->gso == NET_GSO_NONE)
		return true;
	if ((m->gso != NET_GSO_TCPV4 && m->gso != NET_GSO_TCPV6) || m->gso_size < NET_GSO_MIN)
		return false;
	return net_parse_tcp(frame, head, &t) && t.v6 == (m->gso == NET_GSO_TCPV6) &&
	       t.payload <= HEADERS_MAX && len - t.l3 <= (t.v6 ? IPV6_LEN + 65535 : 65535) &&
	       (!(m->flags & NET_NEEDS_CSUM) || (m->csum_start == t.l4 && m->csum_offset == 16));
}

void net_finish_csum(struct net_meta *m, u8 *frame, size_t len)
{
	u8 *at = frame + m->csum_start + m->csum_offset;
	u16 sum;

	if (!(m->flags & NET_NEEDS_CSUM))
		return;
	/* The driver has put the pseudo header's sum there. 0 would mean "none" in UDP. */
	sum = net_fold(net_sum(0, frame + m->csum_start, len - m->csum_start));
	if (!sum)
		sum = 0xffff;
	memcpy(at, &sum, 2);
	m->flags &= ~NET_NEEDS_CSUM;
	m->csum_start = m->csum_offset = 0;
}

/* Pseudo header and TCP header of a segment with so many bytes of TCP. */
static u64 tcp_headers_sum(const u8 *frame, const struct net_tcp *t, size_t tcp_len)
{
	const u8 *addr = frame + t->l3 + (t->v6 ? 8 : 12);
	u8 tail[8] = {0};
	u64 sum = net_sum(0, addr, t->v6 ? 32 : 8);

	put32(tail, (u32)tcp_len);
	tail[7] = PROTO_TCP;
	sum = net_sum(sum, tail, sizeof(tail));
	return net_sum(sum, frame + t->l4, t->payload - t->l4);
}

/* Checksums of headers that are complete but for these, and a payload somewhere. */
static void put_sums(u8 *headers, const struct net_tcp *t, const u8 *payload, size_t len)
{
	u8 *tcp = headers + t->l4;
	u16 sum;

	put16(tcp + 16, 0);
	sum =
	    net_fold(net_sum(tcp_headers_sum(headers, t, t->payload - t->l4 + len), payload, len));
	/* A header of an odd length does not exist, so the payload begins on an even byte. */
	memcpy(tcp + 16, &sum, 2);
	if (t->v6)
		return;
	put16(headers + t->l3 + 10, 0);
	sum = net_fold(net_sum(0, headers + t->l3, t->l4 - t->l3));
	memcpy(headers + t->l3 + 10, &sum, 2);
}

void net_tcp_csum(u8 *frame, size_t len, const struct net_tcp *t)
{
	put_sums(frame, t, frame + t->payload, len - t->payload);
}

/* Make the headers of the segment at `at` of the payload, from those of the whole. */
static void segment_headers(u8 *h, const struct net_tcp *t, unsigned n, size_t at, size_t len)
{
	u8 *ip = h + t->l3, *tcp = h + t->l4;

	if (t->v6) {
		put16(ip + 4, (u16)(t->payload - t->l3 - IPV6_LEN + len));
	} else {
		put16(ip + 2, (u16)(t->payload - t->l3 + len));
		put16(ip + 4, (u16)(get16(ip + 4) + n));
	}
	put32(tcp + 4, (u32)(get32(tcp + 4) + at));
	if (at)
		tcp[13] &= ~TCP_CWR;
}

int net_segment(const struct net_meta *m, const u8 *frame, size_t len, unsigned from,
		const struct net_emit *out)
{
	u8 headers[HEADERS_MAX];
	struct net_tcp t;
	size_t total, at;
	unsigned n = from;

	if (!net_parse_tcp(frame, len, &t) || t.payload > HEADERS_MAX)
		return -1;
	total = len - t.payload;
	/* A segment without payload is still one. */
	for (at = (size_t)from * m->gso_size; at < total || (!at && !total); at += m->gso_size) {
		size_t part = MIN(total - at, m->gso_size);
		struct iovec piece[2] = {{headers, t.payload},
					 {(u8 *)frame + t.payload + at, part}};

		memcpy(headers, frame, t.payload);
		segment_headers(headers, &t, n, at, part);
		if (at + part < total)
			headers[t.l4 + 13] &= ~(TCP_FIN | TCP_PSH);
		put_sums(headers, &t, frame + t.payload + at, part);
		if (!out->emit(out->opaque, piece))
			return (int)n;
		if (!part)
			break;
		n++;
	}
	return -1;
}
