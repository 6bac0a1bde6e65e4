/*
 * Back ends over a stream socket: queues that fill up, ends that go, ends that come. The clock is
 * turned by hand; the threads of aio are real.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netdev_impl.h"

static struct vm *vm;
static struct netdev *nd;
static u64 now;
static int other;
static struct {
	unsigned frames, links, rooms;
	bool full;
	size_t last_len;
	struct net_meta last;
} card;

static u64 read_clock(void *opaque)
{
	(void)opaque;
	return now;
}

struct worker {
	pthread_t id;
};

static void *spawn(void *(*fn)(void *), void *arg)
{
	struct worker *w = malloc(sizeof(*w));

	cr_assert_eq(pthread_create(&w->id, NULL, fn, arg), 0);
	return w;
}

static void join(void *thread)
{
	pthread_join(((struct worker *)thread)->id, NULL);
	free(thread);
}

static void kick(void *opaque)
{
	(void)opaque; /* run_until looks all the time */
}

static bool receive(void *nic, const struct net_meta *m, u8 *frame, size_t len)
{
	(void)nic, (void)frame;
	if (card.full)
		return false;
	card.frames++;
	card.last = *m;
	card.last_len = len;
	return true;
}

static void received(void *nic)
{
	(void)nic;
}

static void room(void *nic)
{
	(void)nic;
	card.rooms++;
}

static void link_changed(void *nic)
{
	(void)nic;
	card.links++;
}

static void plug(void)
{
	nd->receive = receive;
	nd->received = received;
	nd->room = room;
	nd->link_changed = link_changed;
	nd->nic = &card;
}

static void make(const struct netdev_opts *o, int fd)
{
	const struct stream_setup setup = {.opts = o, .fd = fd};
	char err[200];

	nd = netdev_stream_create(vm, &setup, err, sizeof(err));
	cr_assert(nd, "%s", err);
	plug();
}

static const struct netdev_opts plain = {.id = "n", .fd = -1};

static void set_up(void)
{
	static const struct aio_host host = {.spawn = spawn, .join = join, .kick = kick};

	memset(&card, 0, sizeof(card));
	vm = calloc(1, sizeof(*vm));
	timerq_init(&vm->timers, read_clock, NULL, &vm->stats);
	cr_assert_eq(aio_create(&vm->aio, &host, &vm->stats), 0);
	now = 1;
}

static void set_up_pair(void)
{
	int fd[2];

	set_up();
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	other = fd[1];
	make(&plain, fd[0]);
}

static void tear_down(void)
{
	nd->nic = NULL;
	nd->destroy(nd);
	aio_destroy(vm->aio);
	free(vm);
}

static void tear_down_pair(void)
{
	tear_down();
	close(other);
}

#define RUN_UNTIL(condition)                                                                       \
	do {                                                                                       \
		for (unsigned ms = 0; !(condition) && ms < 10000; ms++) {                          \
			aio_run(vm->aio);                                                          \
			poll(NULL, 0, 1);                                                          \
		}                                                                                  \
		cr_assert(condition);                                                              \
	} while (0)

static u8 frame[4 + 60000];

static void send_frame(size_t len)
{
	const struct net_meta m = {0};
	struct iovec iov = {frame + 4, len};

	nd->send(nd, &m, &iov, 1);
	nd->flush(nd);
}

static void put_frame(int fd, size_t len)
{
	frame[0] = frame[1] = 0;
	frame[2] = (u8)(len >> 8), frame[3] = (u8)len;
	cr_assert_eq(write(fd, frame, 4 + len), 4 + (ssize_t)len);
}

/* All there is to read. */
static size_t drain(int fd)
{
	static u8 buf[1 << 16];
	size_t all = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		all += (size_t)n;
	return all;
}

TestSuite(netdev_stream, .timeout = 60);

Test(netdev_stream, frames_come, .init = set_up_pair, .fini = tear_down_pair)
{
	cr_assert(nd->link);
	put_frame(other, 100);
	put_frame(other, 60000);
	RUN_UNTIL(card.frames == 2);
	cr_assert_eq(card.last_len, 60000);
}

Test(netdev_stream, card_without_room_gets_the_frame_later, .init = set_up_pair,
     .fini = tear_down_pair)
{
	card.full = true;
	put_frame(other, 100);
	put_frame(other, 200);
	for (unsigned i = 0; i < 50; i++, poll(NULL, 0, 1))
		aio_run(vm->aio);
	cr_assert_eq(card.frames, 0);
	card.full = false;
	nd->resume(nd);
	RUN_UNTIL(card.frames == 2);
	cr_assert_eq(card.last_len, 200);
}

/* A peer that reads nothing: the card waits, for a second; a peer that reads again gets frames
 * again. */
Test(netdev_stream, slow_peer, .init = set_up_pair, .fini = tear_down_pair)
{
	unsigned sent = 0;
	u64 lost;

	while (nd->ready(nd) && sent < 1000)
		send_frame(20000), sent++;
	cr_assert_lt(sent, 1000);
	aio_run(vm->aio);
	timerq_run(&vm->timers);
	cr_assert_eq(card.rooms, 0);
	cr_assert_eq(vm->stats.n[STAT_net_tx_lost], 0);
	now += NS_PER_SEC;
	timerq_run(&vm->timers);
	cr_assert_eq(card.rooms, 1);
	cr_assert(nd->ready(nd));
	send_frame(20000);
	lost = vm->stats.n[STAT_net_tx_lost];
	cr_assert_eq(lost, 1);
	for (unsigned i = 0; i < 2000 && drain(other) + 1; i++) {
		aio_run(vm->aio);
		poll(NULL, 0, 1);
		if (i > 100 && !poll(&(struct pollfd){.fd = other, .events = POLLIN}, 1, 20))
			break;
	}
	send_frame(20000);
	cr_assert_eq(vm->stats.n[STAT_net_tx_lost], lost);
	cr_assert_gt(drain(other), 0);
}

Test(netdev_stream, waiting_card_is_told_of_room, .init = set_up_pair, .fini = tear_down_pair)
{
	while (nd->ready(nd))
		send_frame(20000);
	for (unsigned i = 0; i < 10000 && !card.rooms; i++) {
		drain(other);
		aio_run(vm->aio);
		poll(NULL, 0, 1);
	}
	cr_assert_eq(card.rooms, 1);
	cr_assert(nd->ready(nd));
}

Test(netdev_stream, end_that_goes, .init = set_up_pair, .fini = tear_down_pair)
{
	put_frame(other, 100);
	shutdown(other, SHUT_RDWR);
	RUN_UNTIL(!nd->link);
	cr_assert_eq(card.frames, 1); /* what it had said before is heard */
	cr_assert_eq(card.links, 1);
	cr_assert(nd->ready(nd));
	send_frame(100);
	cr_assert_eq(vm->stats.n[STAT_net_tx_lost], 1);
}

/* It goes while the card has no room: noticed when there is, and no busy loop until then. */
Test(netdev_stream, end_that_goes_unheard, .init = set_up_pair, .fini = tear_down_pair)
{
	u64 events;

	card.full = true;
	put_frame(other, 100);
	for (unsigned i = 0; i < 50; i++, poll(NULL, 0, 1))
		aio_run(vm->aio);
	while (nd->ready(nd))
		send_frame(20000);
	close(other);
	other = -1;
	for (unsigned i = 0; i < 100; i++, poll(NULL, 0, 1))
		aio_run(vm->aio);
	events = vm->stats.n[STAT_aio_events];
	cr_assert_lt(events, 20);
	cr_assert(nd->ready(nd));
	card.full = false;
	nd->resume(nd);
	RUN_UNTIL(!nd->link);
	cr_assert_eq(card.frames, 1);
}

Test(netdev_stream, stream_of_no_frames, .init = set_up_pair, .fini = tear_down_pair)
{
	cr_assert_eq(write(other, "HTTP/1.1 200 OK\r\n", 17), 17);
	RUN_UNTIL(!nd->link);
	cr_assert_eq(card.frames, 0);
}

static struct netdev_opts unix_opts(bool server)
{
	struct netdev_opts o = {.id = "n", .fd = -1, .server = server};
	char path[100];

	snprintf(path, sizeof(path), "/tmp/netdev_stream.%d", getpid());
	cr_assert(net_address_unix(&o.addr, path));
	return o;
}

static int visit(const struct netdev_opts *o)
{
	bool pending;
	int fd = net_address_connect(&o->addr, &pending);

	cr_assert_geq(fd, 0);
	cr_assert_not(pending);
	return fd;
}

Test(netdev_stream, server_takes_one_after_the_other, .init = set_up)
{
	struct netdev_opts o = unix_opts(true);
	int one, two;

	make(&o, -1);
	cr_assert_not(nd->link);
	one = visit(&o);
	RUN_UNTIL(nd->link);
	two = visit(&o);
	put_frame(two, 200);
	put_frame(one, 100);
	RUN_UNTIL(card.frames == 1);
	cr_assert_eq(card.last_len, 100);
	close(one);
	RUN_UNTIL(card.frames == 2);
	cr_assert_eq(card.last_len, 200);
	cr_assert_eq(card.links, 3);
	close(two);
	tear_down();
	cr_assert_lt(access(o.addr.un.sun_path, F_OK), 0);
}

Test(netdev_stream, client_comes_again, .init = set_up)
{
	struct netdev_opts o = unix_opts(false);
	int door, peer;

	o.reconnect = 2;
	make(&o, -1); /* nobody is there, which is no error */
	cr_assert_not(nd->link);
	door = net_address_listen(&o.addr);
	cr_assert_geq(door, 0);
	for (unsigned i = 0; i < 2; i++) {
		now += 2 * NS_PER_SEC;
		timerq_run(&vm->timers);
		RUN_UNTIL(nd->link);
		peer = accept(door, NULL, NULL);
		cr_assert_geq(peer, 0);
		close(peer);
		RUN_UNTIL(!nd->link);
	}
	tear_down();
	close(door);
	unlink(o.addr.un.sun_path);
}

Test(netdev_stream, nobody_there, .init = set_up)
{
	struct netdev_opts o = unix_opts(false);
	const struct stream_setup setup = {.opts = &o, .fd = -1};
	char err[200];

	cr_assert_null(netdev_stream_create(vm, &setup, err, sizeof(err)));
	cr_assert(strstr(err, "cannot connect to /tmp/netdev_stream."), "%s", err);
	aio_destroy(vm->aio);
	free(vm);
}
