/*
 * The network card against a driver that is right, one that is wrong, and peers that can and cannot
 * take its frames.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "virtio_net.h"
#include "virtio_rig.h"

#define FRAMES 200

static struct virtio_rig rig;
static struct virtio_net net;
static struct vring rx, tx, ctrl;

/* --- a peer that remembers --- */

static struct {
	struct netdev nd;
	unsigned frames, flushes, resumes;
	unsigned room; /* frames until it is not ready */
	struct {
		struct net_meta m;
		size_t len;
		u8 data[2048]; /* the beginning */
	} got[FRAMES];
} peer;

static bool peer_ready(struct netdev *n)
{
	(void)n;
	return peer.room > 0;
}

static void peer_send(struct netdev *n, const struct net_meta *m, const struct iovec *iov,
		      unsigned count)
{
	size_t at = 0;

	(void)n;
	cr_assert(peer.nd.offloads || (!m->flags && !m->gso));
	cr_assert_lt(peer.frames, FRAMES);
	peer.room -= peer.room > 0;
	peer.got[peer.frames].m = *m;
	for (unsigned i = 0; i < count; i++) {
		size_t n_bytes = MIN(iov[i].iov_len, sizeof(peer.got[0].data) - MIN(at, 2048));

		memcpy(peer.got[peer.frames].data + MIN(at, 2048), iov[i].iov_base, n_bytes);
		at += iov[i].iov_len;
	}
	peer.got[peer.frames++].len = at;
}

static void peer_flush(struct netdev *n)
{
	(void)n;
	peer.flushes++;
}

static void peer_resume(struct netdev *n)
{
	(void)n;
	peer.resumes++;
}

static const struct virtio_net_options options = {.mac = {0x52, 0x54, 0, 1, 2, 3}};

static void start(u64 without)
{
	virtio_rig_start(&net.dev, without);
	rx = vring_make(&rig, &net.dev, VIRTIO_NET_RX, 128);
	tx = vring_make(&rig, &net.dev, VIRTIO_NET_TX, 128);
	ctrl = vring_make(&rig, &net.dev, VIRTIO_NET_CTRL, 16);
	virtio_rig_ok(&net.dev);
}

static void set_up(void)
{
	memset(&peer, 0, sizeof(peer));
	peer.nd = (struct netdev){.id = "n",
				  .link = true,
				  .ready = peer_ready,
				  .send = peer_send,
				  .flush = peer_flush,
				  .resume = peer_resume};
	peer.room = FRAMES;
	virtio_rig_init(&rig);
	cr_assert_eq(virtio_net_init(&net, &options, &peer.nd, &rig.dma, &rig.stats), 0);
	virtio_rig_connect(&rig, &net.dev);
}

static void tear_down(void)
{
	virtio_net_destroy(&net);
	cr_assert_null(peer.nd.nic);
}

TestSuite(virtio_net, .init = set_up, .fini = tear_down);

/* --- a driver --- */

#define TX_AT (RIG_BUFFER)
#define RX_AT (RIG_BUFFER + 0x10000)

/* A TCP/IPv4 frame behind a header, in one piece at TX_AT. */
static void put_tcp(const struct net_meta *m, size_t len)
{
	u8 *p = rig.ram + TX_AT, *f = p + VIRTIO_NET_HDR;

	memset(p, 0, VIRTIO_NET_HDR + len);
	memcpy(p, m, sizeof(*m));
	memcpy(f, options.mac, 6);
	f[12] = 8;
	f[14] = 0x45, f[23] = 6;
	f[16] = (u8)((len - 14) >> 8), f[17] = (u8)(len - 14);
	f[46] = 0x50;
	for (size_t i = 54; i < len; i++)
		f[i] = (u8)(i * 3);
}

static void add_tx(size_t len)
{
	vring_desc(&tx, 0, TX_AT, (u32)len, 0, 0);
	vring_add(&tx, 0);
}

static void kick_tx(size_t len)
{
	add_tx(len);
	virtio_notify(&net.dev, VIRTIO_NET_TX);
}

static void tx_done(void)
{
	u32 id;

	cr_assert_eq(vring_take(&tx, &id), 0);
}

static const struct net_meta plain, tso = {.flags = NET_NEEDS_CSUM,
					   .gso = NET_GSO_TCPV4,
					   .gso_size = 1000,
					   .csum_start = 34,
					   .csum_offset = 16};

Test(virtio_net, sends_frames)
{
	start(0);
	put_tcp(&plain, 100);
	kick_tx(112);
	tx_done();
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(peer.flushes, 1);
	cr_assert_eq(peer.got[0].len, 100);
	cr_assert_arr_eq(peer.got[0].data, rig.ram + TX_AT + 12, 100);
}

Test(virtio_net, header_in_pieces)
{
	start(0);
	put_tcp(&plain, 100);
	vring_desc(&tx, 0, TX_AT, 5, RIG_NEXT, 1);
	vring_desc(&tx, 1, TX_AT + 5, 7, RIG_NEXT, 2);
	vring_desc(&tx, 2, TX_AT + 12, 1, RIG_NEXT, 3);
	vring_desc(&tx, 3, TX_AT + 13, 99, 0, 0);
	vring_add(&tx, 0);
	vring_desc(&tx, 4, TX_AT, 17, RIG_NEXT, 5);
	vring_desc(&tx, 5, TX_AT + 17, 95, 0, 0);
	vring_add(&tx, 4);
	virtio_notify(&net.dev, VIRTIO_NET_TX);
	cr_assert_eq(peer.frames, 2);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(peer.got[i].len, 100);
		cr_assert_arr_eq(peer.got[i].data, rig.ram + TX_AT + 12, 100);
	}
}

Test(virtio_net, offloads_go_to_who_takes_them)
{
	peer.nd.offloads = true;
	start(0);
	put_tcp(&tso, 5054);
	kick_tx(5066);
	cr_assert_eq(peer.frames, 1);
	cr_assert_eq(peer.got[0].len, 5054);
	cr_assert_arr_eq(&peer.got[0].m, &tso, sizeof(tso));
	cr_assert_eq(rig.stats.n[STAT_net_tx_software], 0);
}

Test(virtio_net, offloads_are_done_for_others)
{
	struct net_meta csum = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};

	start(0);
	put_tcp(&tso, 5054);
	kick_tx(5066);
	cr_assert_eq(peer.frames, 5);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(peer.got[i].len, 1054);
	put_tcp(&csum, 200);
	kick_tx(212);
	cr_assert_eq(peer.frames, 6);
	cr_assert_eq(peer.got[5].len, 200);
	cr_assert(peer.got[5].data[50] || peer.got[5].data[51]);
	cr_assert_eq(rig.stats.n[STAT_net_tx_software], 2);
}

Test(virtio_net, waits_for_a_peer)
{
	start(0);
	put_tcp(&plain, 100);
	peer.room = 1;
	vring_desc(&tx, 0, TX_AT, 112, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		vring_add(&tx, 0);
	virtio_notify(&net.dev, VIRTIO_NET_TX);
	cr_assert_eq(peer.frames, 1);
	tx_done();
	peer.room = 5;
	peer.nd.room(peer.nd.nic);
	cr_assert_eq(peer.frames, 3);
	cr_assert_eq(rig.stats.n[STAT_net_tx_waits], 1);
	virtio_set_status(&net.dev, 0);
	peer.nd.room(peer.nd.nic); /* nobody to go on for */
}

Test(virtio_net, frames_without_a_link_are_lost)
{
	start(0);
	peer.nd.link = false;
	put_tcp(&plain, 100);
	kick_tx(112);
	tx_done();
	cr_assert_eq(peer.frames, 0);
	cr_assert_eq(rig.stats.n[STAT_net_tx_lost], 1);
}

Test(virtio_net, headers_that_lie)
{
	struct net_meta m = tso;

	start(0);
	put_tcp(&plain, 100);
	kick_tx(11);
	kick_tx(12);
	kick_tx(25);
	vring_desc(&tx, 0, TX_AT, 0x18000, RIG_NEXT, 1); /* longer than any frame */
	vring_desc(&tx, 1, RIG_BUFFER, 0x10000, 0, 0);
	vring_add(&tx, 0);
	virtio_notify(&net.dev, VIRTIO_NET_TX);
	m.gso = NET_GSO_TCPV6;
	put_tcp(&m, 5054);
	kick_tx(5066);
	m = tso, m.csum_start = 0xfff0;
	put_tcp(&m, 5054);
	kick_tx(5066);
	m = tso, m.gso_size = 0;
	put_tcp(&m, 5054);
	kick_tx(5066);
	cr_assert_eq(peer.frames, 0);
	cr_assert_eq(rig.stats.n[STAT_net_tx_bad], 7);
	for (unsigned i = 0; i < 7; i++)
		tx_done();
	/* Not negotiated, not done. */
	start(VIRTIO_NET_F_HOST_TSO4);
	put_tcp(&tso, 5054);
	kick_tx(5066);
	cr_assert_eq(peer.frames, 0);
}

/* --- receive --- */

static u8 frame[NET_FRAME_MAX];

static void make_frame(size_t len)
{
	for (size_t i = 0; i < len; i++)
		frame[i] = (u8)(i * 11 + (i >> 8));
	memcpy(frame, options.mac, 6);
	frame[12] = 8, frame[13] = 0, frame[14] = 0x45;
}

static void add_rx(unsigned n, unsigned first, u32 size)
{
	for (unsigned i = first; i < first + n; i++) {
		vring_desc(&rx, i % 128, RX_AT + i * size, size, RIG_WRITE, 0);
		vring_add(&rx, (u16)(i % 128));
	}
}

static bool receive(const struct net_meta *m, size_t len)
{
	bool taken = netdev_receive(&peer.nd, m, frame, len);

	netdev_received(&peer.nd);
	return taken;
}

Test(virtio_net, receives_into_merged_buffers)
{
	const struct net_meta valid = {.flags = NET_DATA_VALID};
	u32 id;

	start(0);
	add_rx(20, 0, 1000);
	make_frame(5000);
	cr_assert(receive(&valid, 5000));
	cr_assert_eq(rig.interrupts, 1);
	cr_assert_eq(rig_get16(&rig, RX_AT + 10), 6);
	cr_assert_eq(rig.ram[RX_AT], NET_DATA_VALID);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(vring_take(&rx, &id), 1000);
	cr_assert_eq(vring_take(&rx, &id), 12);
	cr_assert_eq(vring_take(&rx, &id), -1);
	cr_assert_arr_eq(rig.ram + RX_AT + 12, frame, 5000);
	cr_assert(receive(&plain, 60));
	cr_assert_eq(vring_take(&rx, &id), 72);
	cr_assert_eq(rig_get16(&rig, RX_AT + 6000 + 10), 1);
}

Test(virtio_net, waits_for_buffers)
{
	u32 id;

	start(0);
	add_rx(3, 0, 1000);
	make_frame(5000);
	cr_assert_not(receive(&plain, 5000));
	cr_assert_eq(vring_take(&rx, &id), -1);
	cr_assert_eq(peer.resumes, 0);
	add_rx(3, 3, 1000);
	virtio_notify(&net.dev, VIRTIO_NET_RX);
	cr_assert_eq(peer.resumes, 1);
	cr_assert(receive(&plain, 5000));
	for (unsigned i = 0; i < 6; i++)
		cr_assert_geq(vring_take(&rx, &id), 0);
	virtio_notify(&net.dev, VIRTIO_NET_RX);
	cr_assert_eq(peer.resumes, 1);
}

Test(virtio_net, a_stopped_vm_is_left_alone)
{
	u32 id;

	start(0);
	add_rx(3, 0, 1000);
	make_frame(100);
	netdev_set_stopped(&peer.nd, true);
	cr_assert_not(receive(&plain, 100), "though there are buffers");
	cr_assert_eq(vring_take(&rx, &id), -1);
	peer.room = 0;
	put_tcp(&plain, 100);
	vring_desc(&tx, 0, TX_AT, 112, 0, 0);
	vring_add(&tx, 0);
	virtio_notify(&net.dev, VIRTIO_NET_TX);
	peer.room = 5;
	netdev_room(&peer.nd);
	cr_assert_eq(peer.frames, 0);
	netdev_set_stopped(&peer.nd, false);
	cr_assert_eq(peer.resumes, 1);
	cr_assert_eq(peer.frames, 1);
	cr_assert(receive(&plain, 100));
	cr_assert_geq(vring_take(&rx, &id), 0);
}

Test(virtio_net, reset_lets_a_waiting_peer_go)
{
	start(0);
	make_frame(100);
	cr_assert_not(receive(&plain, 100));
	virtio_set_status(&net.dev, 0);
	cr_assert_eq(peer.resumes, 1);
	cr_assert(receive(&plain, 100)); /* dropped: nobody is there */
	cr_assert_eq(rig.stats.n[STAT_net_rx_dropped], 1);
}

Test(virtio_net, one_buffer_each)
{
	u32 id;

	start(VIRTIO_NET_F_MRG_RXBUF);
	add_rx(2, 0, 1000);
	make_frame(989);
	cr_assert(receive(&plain, 989)); /* a byte too long: dropped, the buffer stays */
	cr_assert_eq(rig.stats.n[STAT_net_rx_dropped], 1);
	cr_assert_eq(vring_take(&rx, &id), -1);
	cr_assert(receive(&plain, 988));
	cr_assert_eq(vring_take(&rx, &id), 1000);
	cr_assert_eq(rig_get16(&rig, RX_AT + 10), 1);
}

/* A driver whose buffers will never do. */
Test(virtio_net, impossible_buffers)
{
	u32 id;

	start(0);
	add_rx(128, 0, 1);
	make_frame(1000);
	cr_assert(receive(&plain, 1000));
	cr_assert_eq(rig.stats.n[STAT_net_rx_dropped], 1);
	cr_assert_eq(vring_take(&rx, &id), -1);
	cr_assert_not(net.dev.broken);
}

Test(virtio_net, large_segments_are_cut_for_who_wants_that)
{
	struct net_meta m = tso;
	u32 id;

	start(VIRTIO_NET_F_GUEST_TSO4);
	put_tcp(&plain, 5054);
	memcpy(frame, rig.ram + TX_AT + 12, 5054);
	add_rx(3, 0, 1200);
	cr_assert_not(receive(&m, 5054));
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(vring_take(&rx, &id), 1066);
	add_rx(3, 3, 1200);
	cr_assert(receive(&m, 5054)); /* it goes on where it was */
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(vring_take(&rx, &id), 1066);
	cr_assert_eq(vring_take(&rx, &id), -1);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_arr_eq(rig.ram + RX_AT + i * 1200 + 12 + 54, frame + 54 + i * 1000, 1000);
	start(0);
	add_rx(10, 0, 1200);
	cr_assert(receive(&m, 5054));
	cr_assert_eq(vring_take(&rx, &id), 1200);
	cr_assert_arr_eq(rig.ram + RX_AT, &m, sizeof(m));
}

Test(virtio_net, checksums_are_done_for_who_wants_that)
{
	struct net_meta m = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};

	start(VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6);
	add_rx(4, 0, 1200);
	make_frame(100);
	frame[50] = frame[51] = 0;
	cr_assert(receive(&m, 100));
	cr_assert_eq(rig.ram[RX_AT], 0);
	cr_assert(rig.ram[RX_AT + 12 + 50] || rig.ram[RX_AT + 12 + 51]);
}

/* --- control --- */

static u8 control(const void *data, u32 len)
{
	u32 id;

	memcpy(rig.ram + TX_AT, data, len);
	rig.ram[RX_AT] = 0x55;
	vring_desc(&ctrl, 0, TX_AT, len, RIG_NEXT, 1);
	vring_desc(&ctrl, 1, RX_AT, 1, RIG_WRITE, 0);
	vring_add(&ctrl, 0);
	virtio_notify(&net.dev, VIRTIO_NET_CTRL);
	cr_assert_eq(vring_take(&ctrl, &id), 1);
	return rig.ram[RX_AT];
}

static bool passes_filter(const char *mac)
{
	u64 before = rig.stats.n[STAT_net_rx_filtered];

	make_frame(100);
	memcpy(frame, mac, 6);
	receive(&plain, 100);
	return rig.stats.n[STAT_net_rx_filtered] == before;
}

Test(virtio_net, filters)
{
	static const u8 not_promisc[] = {0, 0, 0}, all_multi[] = {0, 1, 1}, no_bcast[] = {0, 5, 1};
	static const u8 table[] = {1, 0, 1, 0, 0, 0, 2, 1,    1, 1, 1,
				   1, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
	static const u8 address[] = {1, 1, 2, 7, 7, 7, 7, 7};

	start(0);
	add_rx(60, 0, 1000);
	cr_assert(passes_filter("\2\1\1\1\1\1"));
	cr_assert_eq(control(not_promisc, 3), 0);
	cr_assert_not(passes_filter("\2\1\1\1\1\1"));
	cr_assert(passes_filter("\x52\x54\0\1\2\3"));
	cr_assert(passes_filter("\377\377\377\377\377\377"));
	cr_assert_not(passes_filter("\1\0\x5e\0\0\1"));
	cr_assert_eq(control(table, sizeof(table)), 0);
	cr_assert(passes_filter("\2\1\1\1\1\1"));
	cr_assert(passes_filter("\1\0\x5e\0\0\1"));
	cr_assert_not(passes_filter("\1\0\x5e\0\0\2"));
	cr_assert_eq(control(all_multi, 3), 0);
	cr_assert(passes_filter("\1\0\x5e\0\0\2"));
	cr_assert_eq(control(no_bcast, 3), 0);
	cr_assert_not(passes_filter("\377\377\377\377\377\377"));
	cr_assert_eq(control(address, 8), 0);
	cr_assert(passes_filter("\2\7\7\7\7\7"));
	cr_assert_not(passes_filter("\x52\x54\0\1\2\3"));
	cr_assert_eq(virtio_config_read(&net.dev, 0, 4), 0x07070702);
	virtio_set_status(&net.dev, 0);
	cr_assert_eq(virtio_config_read(&net.dev, 0, 4), 0x01005452);
}

Test(virtio_net, commands_that_make_no_sense)
{
	static const struct {
		u8 len, data[24];
	} bad[] = {
	    {1, {0}},
	    {2, {0, 0}},
	    {3, {0, 6, 1}},
	    {3, {9, 0, 0}},
	    {4, {0, 0, 1, 1}},
	    {7, {1, 1, 1, 2, 3, 4, 5}},
	    {9, {1, 1, 1, 2, 3, 4, 5, 6, 7}},
	    {5, {1, 0, 0, 0, 0}},
	    {6, {1, 0, 0, 0, 0, 0}},
	    {10, {1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}},
	    {11, {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
	    {4, {2, 0, 0, 0x10}},
	    {4, {2, 2, 0, 0}},
	    {3, {2, 0, 0}},
	    {10, {5, 0, 1, 0, 0, 0, 0, 0, 0, 0}},
	    {10, {5, 1, 0, 0, 0, 0, 0, 0, 0, 0}},
	};
	static const u8 vlan[] = {2, 0, 7, 0}, offloads[] = {5, 0, 2, 0, 0, 0, 0, 0, 0, 0};

	start(0);
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_eq(control(bad[i].data, bad[i].len), 1, "command %u", i);
	cr_assert(net.promisc);
	cr_assert_eq(control(vlan, 4), 0);
	cr_assert_eq(control(offloads, 10), 0);
	cr_assert_eq(net.guest_offloads, VIRTIO_NET_F_GUEST_CSUM);
	/* Without anything to read or to write. */
	vring_desc(&ctrl, 0, RX_AT, 1, RIG_WRITE, 0);
	vring_add(&ctrl, 0);
	vring_desc(&ctrl, 1, TX_AT, 2, 0, 0);
	vring_add(&ctrl, 1);
	virtio_notify(&net.dev, VIRTIO_NET_CTRL);
	cr_assert_not(net.dev.broken);
}

Test(virtio_net, link)
{
	start(0);
	cr_assert_eq(virtio_config_read(&net.dev, 6, 2), 1);
	netdev_set_link(&peer.nd, false);
	cr_assert_eq(rig.config_interrupts, 1);
	cr_assert_eq(virtio_config_read(&net.dev, 6, 2), 0);
	netdev_set_link(&peer.nd, false);
	netdev_set_link(&peer.nd, true);
	cr_assert_eq(rig.config_interrupts, 2);
}

/* With the cable out no frame goes either way, and a frame the card had refused is not kept. */
Test(virtio_net, cable_pulled)
{
	start(0);
	netdev_pull(&peer.nd, true);
	cr_assert_eq(rig.config_interrupts, 1);
	cr_assert_eq(peer.resumes, 1);
	cr_assert_eq(virtio_config_read(&net.dev, 6, 2), 0);
	netdev_set_link(&peer.nd, false);
	netdev_set_link(&peer.nd, true);
	cr_assert_eq(rig.config_interrupts, 1, "the driver sees nothing of the other end");
	netdev_pull(&peer.nd, true);
	cr_assert_eq(rig.config_interrupts, 1);
	cr_assert(netdev_receive(&peer.nd, &(struct net_meta){0}, (u8[64]){0xff}, 64));
	cr_assert_eq(rig.stats.n[STAT_net_rx_dropped], 1);
	netdev_pull(&peer.nd, false);
	cr_assert_eq(rig.config_interrupts, 2);
	cr_assert_eq(virtio_config_read(&net.dev, 6, 2), 1);
	netdev_set_link(&peer.nd, false);
	netdev_pull(&peer.nd, true);
	cr_assert_eq(rig.config_interrupts, 3, "there was no link to lose");
}

Test(virtio_net, features_that_need_others)
{
	virtio_set_status(&net.dev, 3);
	virtio_set_features(&net.dev, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_HOST_TSO4);
	virtio_set_status(&net.dev, 11);
	cr_assert_not(net.dev.status & VIRTIO_S_FEATURES_OK);
}

/* --- anything --- */

static u32 seed = 1;

static u32 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

static void random_ring(struct vring *r)
{
	static const u16 flags[] = {0, RIG_NEXT, RIG_WRITE, RIG_WRITE | RIG_NEXT, RIG_INDIRECT};

	for (unsigned i = 0; i < 8; i++) {
		u32 len = rnd() % 8 ? rnd() % 3000 : rnd();
		u64 addr = rnd() % 32 ? RIG_BUFFER + rnd() % 0x20000 : rnd() % RIG_RAM;

		vring_desc(r, i, rnd() % 64 ? addr : addr << 40, len, flags[rnd() % 5],
			   (u16)(rnd() % (rnd() % 16 ? 8 : 200)));
	}
	vring_add(r, (u16)(rnd() % (rnd() % 32 ? 8 : 65536)));
}

/* Rings and frames of random bytes, resets in between: no crash (the asan build sees more), and the
 * card works afterwards. */
Test(virtio_net, anything_goes)
{
	for (unsigned i = 0; i < 60000; i++) {
		struct net_meta m = {.flags = (u8)(rnd() % 4),
				     .gso = (u8)(rnd() % 5),
				     .gso_size = (u16)rnd(),
				     .csum_start = (u16)(rnd() % 80),
				     .csum_offset = (u16)(rnd() % 20)};
		size_t len = NET_ETH_LEN + rnd() % 3000;

		if (i % 50 == 0 || net.dev.broken) {
			start(rnd() & VIRTIO_NET_F_MRG_RXBUF);
			peer.nd.offloads = rnd() & 1;
		}
		peer.frames = 0;
		peer.room = rnd() % 20;
		put_tcp(&m, 100 + rnd() % 4000);
		rig.ram[TX_AT + rnd() % 200] = (u8)rnd();
		if (rnd() % 4)
			add_rx(1 + rnd() % 4, i % 16, 100 + rnd() % 4000);
		else
			random_ring(&rx);
		if (rnd() % 4)
			add_tx(VIRTIO_NET_HDR + 100 + rnd() % 4000);
		else
			random_ring(&tx);
		if (rnd() % 2)
			random_ring(&ctrl);
		for (unsigned q = 0; q < 4; q++)
			virtio_notify(&net.dev, rnd() % 4);
		memcpy(frame, rig.ram + TX_AT + 12, len);
		if (net_meta_valid(&m, frame, len, len))
			receive(&m, len);
	}
	/* All of it has been exercised. */
	cr_assert_gt(rig.stats.n[STAT_net_tx_frames], 1000);
	cr_assert_gt(rig.stats.n[STAT_net_tx_software], 100);
	cr_assert_gt(rig.stats.n[STAT_net_rx_frames], 1000);
	cr_assert_gt(rig.stats.n[STAT_virtio_broken], 1000);
	start(0);
	peer.frames = 0;
	peer.room = 5;
	put_tcp(&plain, 100);
	kick_tx(112);
	cr_assert_eq(peer.frames, 1);
}
