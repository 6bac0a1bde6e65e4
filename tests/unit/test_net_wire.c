/*
 * Frames on a stream: in pieces, with meta data only to who knows it, bounded queues, and streams
 * that are none.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net_wire.h"

static struct net_wire w;
static int other;

static void set_up(void)
{
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	cr_assert_eq(net_wire_init(&w), 0);
	net_wire_begin(&w, fd[0]);
	other = fd[1];
}

static void tear_down(void)
{
	net_wire_free(&w);
	close(other);
}

TestSuite(net_wire, .init = set_up, .fini = tear_down);

static u8 hello[64];

static void read_hello(void)
{
	cr_assert_eq(read(other, hello, sizeof(hello)), 64);
	cr_assert_eq(hello[3], 60);
}

static void put_word(u32 word)
{
	word = htonl(word);
	cr_assert_eq(write(other, &word, 4), 4);
}

static int take(struct net_meta *m, u8 **frame)
{
	int rc = net_wire_read(&w);

	cr_assert_geq(rc, 0);
	return net_wire_peek(&w, m, frame);
}

Test(net_wire, frame_in_pieces)
{
	u8 out[100] = {1, 2, 3}, *frame;
	struct net_meta m;

	put_word(100);
	cr_assert_eq(take(&m, &frame), 0);
	cr_assert_eq(write(other, out, 60), 60);
	cr_assert_eq(take(&m, &frame), 0);
	cr_assert_eq(write(other, out + 60, 40), 40);
	cr_assert_eq(take(&m, &frame), 100);
	cr_assert_arr_eq(frame, out, 100);
	cr_assert_eq(net_wire_peek(&w, &m, &frame), 100); /* until it is taken */
	net_wire_next(&w);
	cr_assert_eq(net_wire_peek(&w, &m, &frame), 0);
}

Test(net_wire, hello_is_no_frame_but_only_first)
{
	struct net_meta m;
	u8 *frame;

	read_hello();
	cr_assert_eq(write(other, hello, 64), 64);
	cr_assert_eq(take(&m, &frame), 0);
	cr_assert(w.peer_meta);
	hello[10]++;
	tear_down();
	set_up();
	cr_assert_eq(write(other, hello, 64), 64); /* another one comes first */
	cr_assert_eq(take(&m, &frame), 60);
	net_wire_next(&w);
	hello[10]--;
	cr_assert_eq(write(other, hello, 64), 64);
	cr_assert_eq(take(&m, &frame), 60);
	cr_assert_not(w.peer_meta);
}

Test(net_wire, meta_data_for_who_knows_it)
{
	const struct net_meta m = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
	u8 frame[80] = {0}, buf[256];
	struct iovec iov[2] = {{frame, 20}, {frame + 20, 60}};

	read_hello();
	cr_assert(net_wire_put(&w, &m, iov, 2));
	cr_assert_eq(net_wire_flush(&w), 0);
	cr_assert_eq(read(other, buf, sizeof(buf)), 84);
	cr_assert_eq(buf[0], 0);
	w.peer_meta = true;
	cr_assert(net_wire_put(&w, &m, iov, 2));
	cr_assert_eq(net_wire_flush(&w), 0);
	cr_assert_eq(read(other, buf, sizeof(buf)), 94);
	cr_assert_eq(buf[0], 0x80);
	cr_assert_eq(buf[3], 90);
	cr_assert_arr_eq(buf + 4, &m, sizeof(m));
}

Test(net_wire, nonsense)
{
	struct net_meta m = {.gso = NET_GSO_TCPV4, .gso_size = 1000};
	u8 buf[100] = {0}, *frame;

	put_word(5); /* too short for a frame: skipped */
	cr_assert_eq(write(other, buf, 5), 5);
	put_word(NET_WIRE_META | 9); /* too short for meta data */
	cr_assert_eq(write(other, buf, 9), 9);
	put_word(NET_WIRE_META | 70); /* meta data that lies */
	memcpy(buf, &m, sizeof(m));
	cr_assert_eq(write(other, buf, 70), 70);
	put_word(14);
	cr_assert_eq(write(other, buf, 14), 14);
	cr_assert_eq(take(&m, &frame), 14);
	net_wire_next(&w);
	put_word(NET_WIRE_MAX + 1);
	cr_assert_eq(take(&m, &frame), -EPROTO);
}

/* What the socket does not take is queued, what the queue does not is lost, and the rest arrives
 * whole and in order. */
Test(net_wire, queue_is_bounded)
{
	static u8 frame[60000];
	const struct net_meta m = {0};
	struct iovec iov[2] = {{frame, 100}, {frame + 100, sizeof(frame) - 100}};
	unsigned sent = 0, come = 0;
	static u8 in[1 << 20];
	size_t have = 0;

	read_hello();
	for (unsigned i = 0; i < 100; i++) {
		frame[0] = (u8)sent;
		sent += net_wire_put(&w, &m, iov, 1 + i % 2);
		cr_assert_leq(net_wire_queued(&w), NET_WIRE_QUEUE);
	}
	cr_assert_lt(sent, 100);
	cr_assert_gt(net_wire_flush(&w), 0);
	while (come < sent) {
		ssize_t n = read(other, in + have, sizeof(in) - have);
		size_t at = 0;

		have += n > 0 ? n : 0;
		while (have - at >= 4 && have - at >= 4 + (size_t)(in[at + 2] << 8 | in[at + 3])) {
			cr_assert_eq(in[at + 4], (u8)come);
			at += 4 + (size_t)(in[at + 2] << 8 | in[at + 3]);
			come++;
		}
		memmove(in, in + at, have - at);
		have -= at;
		cr_assert_geq(net_wire_flush(&w), 0);
	}
	cr_assert_eq(net_wire_queued(&w), 0);
	cr_assert_eq(have, 0);
}

Test(net_wire, peer_gone)
{
	u8 frame[60] = {0};
	const struct net_meta m = {0};
	struct iovec iov = {frame, sizeof(frame)};

	read_hello();
	shutdown(other, SHUT_RDWR);
	cr_assert(net_wire_put(&w, &m, &iov, 1));
	cr_assert_lt(net_wire_flush(&w), 0);
	cr_assert_lt(net_wire_read(&w), 0);
	cr_assert_not(net_wire_put(&w, &m, &iov, 1));
}
