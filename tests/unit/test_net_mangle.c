/*
 * The network helper's frames: offers of segment sizes raised with right checksums, large frames
 * marked or cut into fragments.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "mangle.h"

static u8 frame[NET_FRAME_MAX];

static void put16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8), p[1] = (u8)v;
}

static unsigned get16(const u8 *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}

/* A complete TCP/IPv4 frame; options after the header as given. */
static size_t make_tcp(u8 flags, const char *options, size_t n, size_t payload)
{
	size_t len = 14 + 20 + 20 + n + payload;
	struct net_tcp t;

	memset(frame, 0, len);
	frame[12] = 8, frame[14] = 0x45, frame[22] = 64, frame[23] = 6;
	put16(frame + 16, (unsigned)(len - 14));
	memcpy(frame + 26, "\12\0\2\17\12\0\2\2", 8);
	put16(frame + 34, 1234), put16(frame + 36, 80);
	frame[46] = (u8)((20 + n) / 4 << 4);
	frame[47] = flags;
	memcpy(frame + 54, options, n);
	for (size_t i = 0; i < payload; i++)
		frame[54 + n + i] = (u8)(i * 5);
	cr_assert(net_parse_tcp(frame, len, &t));
	net_tcp_csum(frame, len, &t);
	return len;
}

static bool sum_right(size_t len)
{
	u8 copy[4096];
	struct net_tcp t;

	memcpy(copy, frame, len);
	cr_assert(net_parse_tcp(copy, len, &t));
	net_tcp_csum(copy, len, &t);
	return !memcmp(copy, frame, len);
}

Test(net_mangle, offers_are_raised)
{
	size_t len = make_tcp(2, "\1\2\4\5\xb4\1\1\0", 8, 0);
	struct net_meta m = {0};

	mangle_from_guest(&m, frame, len);
	cr_assert_eq(get16(frame + 57), MANGLE_MTU - 40);
	cr_assert(sum_right(len));
}

Test(net_mangle, a_wrong_sum_stays_wrong)
{
	size_t len = make_tcp(2, "\2\4\5\xb4", 4, 0);
	struct net_meta m = {0};

	frame[50] ^= 0x10;
	mangle_from_guest(&m, frame, len);
	cr_assert_eq(get16(frame + 56), MANGLE_MTU - 40);
	cr_assert_not(sum_right(len));
}

Test(net_mangle, other_segments_stay)
{
	static u8 before[200];
	struct net_meta m = {0};
	size_t len = make_tcp(0x10, "\2\4\5\xb4", 4, 50);

	memcpy(before, frame, len);
	mangle_from_guest(&m, frame, len);
	cr_assert_arr_eq(before, frame, len);
}

Test(net_mangle, options_that_lie)
{
	static const char *const options[] = {"\2\3\5\xb4", "\2\0\5\xb4", "\2\1\5\xb4",
					      "\3\xff\0\0", "\1\1\1\2",   "\0\2\4\5"};
	static u8 before[200];
	struct net_meta m = {0};

	for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
		size_t len = make_tcp(2, options[i], 4, 0);

		memcpy(before, frame, len);
		mangle_from_guest(&m, frame, len);
		cr_assert_arr_eq(before, frame, len);
	}
}

static struct {
	unsigned count;
	struct net_meta m;
	size_t bytes, len;
	u8 f[NET_FRAME_MAX];
} got;

static void take(void *opaque, const struct net_meta *m, const struct iovec *iov, unsigned count)
{
	size_t at = 0;

	(void)opaque;
	got.m = *m;
	for (unsigned i = 0; i < count; i++) {
		memcpy(got.f + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	got.len = at;
	if (count == 2) {
		unsigned flags = get16(got.f + 20), size = get16(got.f + 16);

		cr_assert_leq(at, 1514);
		cr_assert_eq(size, at - 14);
		cr_assert_eq(net_fold(net_sum(0, got.f + 14, 20)), 0);
		cr_assert_eq((flags & 0x1fff) * 8, got.bytes);
		cr_assert_arr_eq(got.f + 34, frame + 34 + got.bytes, size - 20);
		got.bytes += size - 20;
	}
	got.count++;
}

Test(net_mangle, large_segments_are_marked)
{
	size_t len = make_tcp(0x10, "", 0, 40000);
	u8 sum[2];

	memcpy(sum, frame + 50, 2);
	memset(&got, 0, sizeof(got));
	mangle_to_guest(frame, len, take, NULL);
	cr_assert_eq(got.count, 1);
	cr_assert_eq(got.len, len);
	cr_assert_eq(got.m.gso, NET_GSO_TCPV4);
	cr_assert_eq(got.m.gso_size, 1460);
	cr_assert(net_meta_valid(&got.m, got.f, len, len));
	/* What the receiver completes is what it was. */
	got.m.gso = 0;
	net_finish_csum(&got.m, got.f, len);
	cr_assert_arr_eq(got.f + 50, sum, 2);
}

Test(net_mangle, small_frames_pass)
{
	size_t len = make_tcp(0x10, "", 0, 1460);

	memset(&got, 0, sizeof(got));
	mangle_to_guest(frame, len, take, NULL);
	cr_assert_eq(got.count, 1);
	cr_assert_eq(got.m.gso, 0);
	cr_assert_eq(got.m.flags, NET_DATA_VALID);
	cr_assert_arr_eq(got.f, frame, len);
}

Test(net_mangle, large_datagrams_are_fragmented)
{
	static const size_t sizes[] = {1481, 3000, 2 * 1480, 60000};

	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		size_t len = make_tcp(0x10, "", 0, sizes[i] - 20);

		frame[23] = 17;
		memset(&got, 0, sizeof(got));
		mangle_to_guest(frame, len, take, NULL);
		cr_assert_eq(got.bytes, sizes[i]);
		cr_assert_eq(got.count, (sizes[i] + 1479) / 1480);
		cr_assert_not(frame[20] & 0x20);
		cr_assert_not(got.f[20] & 0x20, "the last one says that no more come");
	}
}
