/*
 * Checksums and segmentation: against sums done the slow way, by putting segments together again,
 * and with headers that lie.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "net_offload.h"

static u16 slow_sum(u32 sum, const u8 *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

static u16 be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static u32 be32(const u8 *p)
{
	return (u32)be16(p) << 16 | be16(p + 2);
}

static void put16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8), p[1] = (u8)v;
}

/* The sum over pseudo header and segment is all ones if it is right. */
static bool tcp_sum_right(const u8 *f, size_t len, size_t l3, size_t l4, bool v6)
{
	size_t addr = l3 + (v6 ? 8 : 12), n = len - l4;
	u32 sum = slow_sum(6 + (u32)n, f + addr, v6 ? 32 : 8);

	return slow_sum(sum, f + l4, n) == 0xffff;
}

struct frame {
	u8 f[NET_FRAME_MAX];
	size_t len, l3, l4, payload;
	bool v6;
	struct net_meta m;
};

/* A TCP frame as Linux hands it to a card: the pseudo header's sum in place of the checksum. */
static void make(struct frame *x, bool v6, bool vlan, size_t options, size_t payload, u16 gso)
{
	u8 *f = x->f, *ip, *tcp;
	size_t addr, n;

	memset(x, 0, sizeof(*x));
	x->v6 = v6;
	x->l3 = vlan ? 18 : 14;
	x->l4 = x->l3 + (v6 ? 40 : 20);
	x->payload = x->l4 + 20 + options;
	x->len = x->payload + payload;
	if (vlan)
		put16(f + 12, 0x8100), put16(f + 14, 7);
	put16(f + x->l3 - 2, v6 ? 0x86dd : 0x0800);
	ip = f + x->l3;
	tcp = f + x->l4;
	n = x->len - x->l4;
	addr = x->l3 + (v6 ? 8 : 12);
	for (size_t i = 0; i < (v6 ? 32u : 8u); i++)
		f[addr + i] = (u8)(i * 37 + 1);
	if (v6) {
		ip[0] = 0x60, ip[6] = 6, ip[7] = 64;
		put16(ip + 4, (unsigned)n);
	} else {
		ip[0] = 0x45, ip[8] = 64, ip[9] = 6;
		put16(ip + 2, (unsigned)(x->len - x->l3));
		put16(ip + 4, 0xfffe);
	}
	put16(tcp + 4, 0xffff), put16(tcp + 6, 0xf000);
	tcp[12] = (u8)((20 + options) / 4 << 4);
	tcp[13] = 0x80 | 0x10 | 8 | 1; /* CWR ACK PSH FIN */
	memset(tcp + 20, 1, options);
	for (size_t i = 0; i < payload; i++)
		f[x->payload + i] = (u8)(i * 7 + (i >> 8));
	put16(tcp + 16, slow_sum(6 + (u32)n, f + addr, v6 ? 32 : 8));
	x->m = (struct net_meta){.flags = NET_NEEDS_CSUM,
				 .gso = gso ? v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4 : 0,
				 .gso_size = gso,
				 .csum_start = (u16)x->l4,
				 .csum_offset = 16};
}

static struct frame x;

Test(net_offload, sums_of_every_length_and_alignment)
{
	u8 buf[300];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)(i * 151 + 0xf3);
	for (size_t at = 0; at < 4; at++)
		for (size_t len = 0; len < 260; len++) {
			u16 got = net_fold(net_sum(0, buf + at, len)), want;

			want = (u16)~slow_sum(0, buf + at, len);
			cr_assert_eq((u16)(got >> 8 | got << 8), want, "%zu at %zu", len, at);
		}
}

Test(net_offload, checksum_is_filled_in)
{
	for (unsigned v6 = 0; v6 < 2; v6++)
		for (size_t n = 0; n < 100; n += 33) {
			make(&x, v6, n == 33, 12, n, 0);
			cr_assert(net_meta_valid(&x.m, x.f, x.len, x.len));
			net_finish_csum(&x.m, x.f, x.len);
			cr_assert_eq(x.m.flags, 0);
			cr_assert(tcp_sum_right(x.f, x.len, x.l3, x.l4, v6));
		}
}

static struct {
	unsigned count;
	unsigned refuse_at;
	size_t bytes;
	u8 flags_seen[4096];
	u16 id_seen[4096];
} got;

static bool take(void *opaque, const struct iovec piece[2])
{
	static u8 f[NET_FRAME_MAX];
	size_t len = piece[0].iov_len + piece[1].iov_len, n = piece[1].iov_len;

	(void)opaque;
	if (got.count == got.refuse_at)
		return false;
	memcpy(f, piece[0].iov_base, piece[0].iov_len);
	memcpy(f + piece[0].iov_len, piece[1].iov_base, n);
	cr_assert_eq(piece[0].iov_len, x.payload);
	cr_assert_leq(n, x.m.gso_size);
	cr_assert(tcp_sum_right(f, len, x.l3, x.l4, x.v6));
	cr_assert_eq(be32(f + x.l4 + 4), (u32)(0xfffff000 + got.bytes));
	if (x.v6) {
		cr_assert_eq(be16(f + x.l3 + 4), len - x.l4);
	} else {
		cr_assert_eq(be16(f + x.l3 + 2), len - x.l3);
		cr_assert_eq(slow_sum(0, f + x.l3, 20), 0xffff);
		got.id_seen[got.count] = be16(f + x.l3 + 4);
	}
	cr_assert_arr_eq(f + x.payload, x.f + x.payload + got.bytes, n);
	got.flags_seen[got.count++] = f[x.l4 + 13];
	got.bytes += n;
	return true;
}

static const struct net_emit out = {take, NULL};

Test(net_offload, segments_add_up)
{
	static const size_t sizes[] = {0, 1, 1447, 1448, 1449, 2896, 40000};

	for (unsigned kind = 0; kind < 4; kind++)
		for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
			make(&x, kind & 1, kind & 2, 12, sizes[i], 1448);
			memset(&got, 0, sizeof(got));
			got.refuse_at = ~0u;
			cr_assert(net_meta_valid(&x.m, x.f, x.len, x.len));
			cr_assert_eq(net_segment(&x.m, x.f, x.len, 0, &out), -1);
			cr_assert_eq(got.bytes, sizes[i]);
			cr_assert_eq(got.count, MAX((sizes[i] + 1447) / 1448, 1));
			/* FIN and PSH only at the end, CWR only at the beginning. */
			for (unsigned n = 0; n < got.count; n++) {
				u8 want = 0x10 | (n ? 0 : 0x80) | (n + 1 == got.count ? 9 : 0);

				cr_assert_eq(got.flags_seen[n], want);
				if (!x.v6)
					cr_assert_eq(got.id_seen[n], (u16)(0xfffe + n));
			}
		}
}

Test(net_offload, refused_segment_comes_again)
{
	make(&x, false, false, 0, 10000, 1000);
	memset(&got, 0, sizeof(got));
	got.refuse_at = 0;
	cr_assert_eq(net_segment(&x.m, x.f, x.len, 0, &out), 0);
	got.refuse_at = 3;
	cr_assert_eq(net_segment(&x.m, x.f, x.len, 0, &out), 3);
	got.refuse_at = ~0u;
	cr_assert_eq(net_segment(&x.m, x.f, x.len, 3, &out), -1);
	cr_assert_eq(got.bytes, 10000);
	cr_assert_eq(got.count, 10);
}

/* The largest frame and the smallest segments. */
Test(net_offload, extremes)
{
	make(&x, true, true, 40, 65535 - 60, NET_GSO_MIN);
	cr_assert(net_meta_valid(&x.m, x.f, x.len, x.len));
	memset(&got, 0, sizeof(got));
	got.refuse_at = ~0u;
	cr_assert_eq(net_segment(&x.m, x.f, x.len, 0, &out), -1);
	cr_assert_eq(got.bytes, 65535 - 60);
}

static bool valid(void)
{
	return net_meta_valid(&x.m, x.f, x.len, x.len);
}

Test(net_offload, lies_are_found)
{
	make(&x, false, false, 0, 3000, 1000);
	x.m.gso_size = NET_GSO_MIN - 1;
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 1000);
	x.m.gso = NET_GSO_TCPV6;
	cr_assert_not(valid());
	x.m.gso = 3; /* UDP */
	cr_assert_not(valid());
	x.m.gso = NET_GSO_TCPV4 | 0x80;
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 1000);
	x.m.csum_start++;
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 0);
	x.m.csum_start = (u16)(x.len - 17);
	cr_assert_not(valid());
	x.m.csum_start = 0xffff, x.m.csum_offset = 0xffff;
	cr_assert_not(valid());
	x.m.csum_start = (u16)(x.len - 18), x.m.csum_offset = 16;
	cr_assert(valid());
	x.m.flags = 4;
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 1000);
	x.f[x.l3] = 0x4f; /* a header of 60 bytes, and then no TCP */
	x.f[x.l3 + 60 + 12] = 0x10;
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 1000);
	x.f[x.l3 + 6] = 0x20; /* a fragment */
	cr_assert_not(valid());
	make(&x, false, false, 0, 3000, 1000);
	cr_assert_not(net_meta_valid(&x.m, x.f, x.payload - 1, x.len));
}

/* Random bytes in the headers, any meta data that passes, all lengths: nothing may be read or
 * written out of bounds (the asan build sees it). */
Test(net_offload, random_frames)
{
	u32 seed = 12345;
	unsigned passed = 0;

	for (unsigned i = 0; i < 200000; i++) {
		u8 *f;
		size_t len;

		make(&x, i & 1, i & 2, (i >> 2 & 3) * 4, 64 + i % 900, i & 4 ? 500 : 0);
		for (unsigned n = 0; n < 3; n++) {
			seed = seed * 1664525 + 1013904223;
			x.f[12 + (seed >> 8) % 60] = (u8)(seed >> 20);
		}
		seed = seed * 1664525 + 1013904223;
		len = seed % 3 ? x.len : (seed >> 8) % x.len;
		if (seed % 5 == 0)
			x.m.csum_start = (u16)(seed >> 10),
			x.m.csum_offset = (u16)(seed >> 3) % 100;
		f = malloc(len ? len : 1);
		memcpy(f, x.f, len);
		if (net_meta_valid(&x.m, f, len, len)) {
			struct net_tcp t;

			passed++;
			if (!x.m.gso)
				net_finish_csum(&x.m, f, len);
			else if (net_parse_tcp(f, len, &t))
				net_tcp_csum(f, len, &t);
		}
		free(f);
	}
	cr_assert_gt(passed, 10000);
}
