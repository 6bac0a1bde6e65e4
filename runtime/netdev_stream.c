/*
 * -netdev stream and socket: frames over a stream socket, to passt, to QEMU, to another ringshift,
 * to our own helper. See net_wire.h for the bytes.
 *
 * The socket never blocks. What it does not take is queued; when the queue is full the card has to
 * wait, but not for ever: a peer that has taken nothing for a second loses frames, as a cable would
 * lose them, until it takes some again. A card without buffers leaves frames in the socket, which
 * holds up the peer. A peer that is gone is a cable pulled out: link down, and for a server or with
 * reconnect= another may come.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "netdev_impl.h"

#define PATIENCE      NS_PER_SEC
#define START_MS      10000
#define READS_AT_ONCE 8
#define SOCKET_BUFFER (1 << 20) /* asked for: the host has a limit of its own */

struct stream {
	struct netdev nd;
	struct aio *aio;
	struct stats *stats;
	struct net_wire wire;
	struct aio_watch watch; /* of the connection, also while it is being made */
	struct aio_watch door;  /* of the listening socket */
	unsigned armed;         /* events watch waits for */
	struct timer patience, retry;
	struct net_address addr;
	bool server, has_path;
	bool connecting;
	bool card_full;  /* the card has refused a frame */
	bool card_waits; /* we have said that we are not ready */
	bool overdue;    /* the peer takes nothing: frames are lost */
	u64 reconnect;   /* ns */
	void (*gone)(void *opaque);
	void (*destroy)(void *opaque);
	void *opaque;
};

static struct stream *to_stream(struct netdev *nd)
{
	return container_of(nd, struct stream, nd);
}

static void lose(struct stream *s)
{
	s->stats->n[STAT_net_tx_lost]++;
}

/* --- output --- */

static bool has_room(const struct stream *s)
{
	return net_wire_queued(&s->wire) < NET_WIRE_ROOM;
}

static void arm(struct stream *s)
{
	bool out = net_wire_queued(&s->wire) && !s->wire.error;
	unsigned events = (s->card_full ? 0 : EPOLLIN) | (out ? EPOLLOUT : 0);

	/* Not for nothing: an end that has hung up would be reported again and again. */
	if (s->wire.fd < 0 || !events || events == s->armed)
		return;
	s->armed = events;
	aio_watch_arm(s->aio, &s->watch, events);
}

static bool stream_ready(struct netdev *nd)
{
	struct stream *s = to_stream(nd);

	if (!nd->link || s->overdue || s->wire.error || has_room(s))
		return true;
	s->card_waits = true;
	if (!timer_armed(&s->patience))
		timer_arm(&s->patience, timerq_now(s->patience.q) + PATIENCE);
	arm(s);
	return false;
}

static void stream_send(struct netdev *nd, const struct net_meta *m, const struct iovec *iov,
			unsigned count)
{
	struct stream *s = to_stream(nd);

	if (!nd->link || (s->overdue && !has_room(s)) || !net_wire_put(&s->wire, m, iov, count))
		lose(s);
}

static void stream_flush(struct netdev *nd)
{
	struct stream *s = to_stream(nd);

	if (s->wire.fd < 0)
		return;
	if (net_wire_flush(&s->wire) < 0)
		s->armed = 0; /* the watch will report it, if it reports input */
	arm(s);
}

static void say_room(struct stream *s)
{
	if (!s->card_waits)
		return;
	s->card_waits = false;
	netdev_room(&s->nd);
}

static void pump_out(struct stream *s)
{
	if (net_wire_flush(&s->wire) < 0 || !has_room(s))
		return; /* an error is the reader's */
	s->overdue = false;
	timer_cancel(&s->patience);
	say_room(s);
}

static void out_of_patience(void *opaque)
{
	struct stream *s = opaque;

	s->overdue = true;
	say_room(s);
}

/* --- the connection --- */

static void connected(struct stream *s, int fd)
{
	int size = SOCKET_BUFFER;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	net_wire_begin(&s->wire, fd);
	s->watch.fd = fd;
	s->armed = 0;
}

static void hang_up(struct stream *s)
{
	aio_watch_remove(s->aio, &s->watch);
	if (s->connecting)
		close(s->watch.fd);
	s->connecting = false;
	s->watch.fd = -1;
	net_wire_end(&s->wire);
	timer_cancel(&s->patience);
	s->card_full = s->overdue = s->nd.offloads = false;
	s->armed = 0;
}

static void retry_later(struct stream *s)
{
	if (s->reconnect)
		timer_arm(&s->retry, timerq_now(s->retry.q) + s->reconnect);
}

static void peer_gone(struct stream *s)
{
	hang_up(s);
	netdev_set_link(&s->nd, false);
	say_room(s); /* what is sent now is lost */
	if (s->gone)
		s->gone(s->opaque);
	if (s->server)
		aio_watch_arm(s->aio, &s->door, EPOLLIN);
	else
		retry_later(s);
}

/* --- input --- */

/* Give the card what has come; 0 or a negative errno. */
static int deliver(struct stream *s)
{
	struct net_meta m;
	u8 *frame;
	int len;

	while ((len = net_wire_peek(&s->wire, &m, &frame)) > 0) {
		if (!netdev_receive(&s->nd, &m, frame, (size_t)len)) {
			s->card_full = true;
			return 0;
		}
		net_wire_next(&s->wire);
	}
	s->nd.offloads = s->wire.peer_meta;
	return len;
}

static void pump_in(struct stream *s)
{
	int rc = deliver(s);

	for (unsigned i = 0; rc >= 0 && !s->card_full && i < READS_AT_ONCE; i++) {
		rc = net_wire_read(&s->wire);
		if (rc == 0)
			break;
		if (rc > 0)
			rc = deliver(s);
	}
	netdev_received(&s->nd);
	if (rc < 0)
		peer_gone(s);
}

static void stream_resume(struct netdev *nd)
{
	struct stream *s = to_stream(nd);

	if (!s->card_full)
		return;
	s->card_full = false;
	pump_in(s);
	arm(s);
}

/* A connection that was pending: made, or not. */
static void end_connecting(struct stream *s)
{
	int fd = s->watch.fd, err = 0;
	socklen_t len = sizeof(err);

	s->connecting = false;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		aio_watch_remove(s->aio, &s->watch);
		s->watch.fd = -1;
		close(fd);
		retry_later(s);
		return;
	}
	connected(s, fd);
	netdev_set_link(&s->nd, true);
}

static void socket_ready(void *opaque, unsigned events)
{
	struct stream *s = opaque;

	s->armed = 0;
	if (s->connecting)
		end_connecting(s);
	else if (events & EPOLLOUT)
		pump_out(s);
	if (s->wire.fd >= 0 && !s->card_full)
		pump_in(s);
	arm(s);
}

static int start_watch(struct stream *s, int fd, unsigned events)
{
	s->watch = (struct aio_watch){.fd = fd, .ready = socket_ready, .opaque = s};
	return aio_watch_add(s->aio, &s->watch, events);
}

/* A connection has come, or been given. */
static int begin(struct stream *s, int fd)
{
	int rc = start_watch(s, fd, EPOLLIN);

	if (rc) {
		close(fd);
		s->watch.fd = -1;
		return rc;
	}
	connected(s, fd);
	netdev_set_link(&s->nd, true);
	return 0;
}

static void somebody_at_the_door(void *opaque, unsigned events)
{
	struct stream *s = opaque;
	int fd = accept(s->door.fd, NULL, NULL);

	(void)events;
	if (fd >= 0) {
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		fcntl(fd, F_SETFL, O_NONBLOCK);
	}
	/* One at a time: the next one stays in the queue until this one has gone. */
	if (fd < 0 || begin(s, fd))
		aio_watch_arm(s->aio, &s->door, EPOLLIN);
}

/* 0, or a negative errno if there is nobody. */
static int try_connect(struct stream *s)
{
	bool pending;
	int fd = net_address_connect(&s->addr, &pending), rc;

	if (fd < 0)
		return fd;
	if (!pending)
		return begin(s, fd);
	rc = start_watch(s, fd, EPOLLOUT);
	s->connecting = !rc;
	if (rc) {
		close(fd);
		s->watch.fd = -1;
	}
	return rc;
}

static void retry(void *opaque)
{
	struct stream *s = opaque;

	if (try_connect(s))
		retry_later(s);
}

/* At the start somebody must be there, unless we were told to try again. */
static int first_connect(struct stream *s)
{
	bool pending;
	int fd, err = 0;
	socklen_t len = sizeof(err);

	if (s->reconnect) {
		retry(s);
		return 0;
	}
	fd = net_address_connect(&s->addr, &pending);
	if (fd < 0)
		return fd;
	if (pending) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		if (poll(&p, 1, START_MS) <= 0)
			err = ETIMEDOUT;
		else
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	}
	if (!err)
		return begin(s, fd);
	close(fd);
	return -err;
}

static int listen_at(struct stream *s)
{
	int fd = net_address_listen(&s->addr), rc;

	if (fd < 0)
		return fd;
	s->has_path = s->addr.sa.sa_family == AF_UNIX;
	s->door = (struct aio_watch){.fd = fd, .ready = somebody_at_the_door, .opaque = s};
	rc = aio_watch_add(s->aio, &s->door, EPOLLIN);
	if (rc) {
		close(fd);
		s->door.fd = -1;
	}
	return rc;
}

static void stream_destroy(struct netdev *nd)
{
	struct stream *s = to_stream(nd);

	hang_up(s);
	timer_cancel(&s->retry);
	if (s->door.fd >= 0) {
		aio_watch_remove(s->aio, &s->door);
		close(s->door.fd);
	}
	if (s->has_path)
		unlink(s->addr.un.sun_path);
	net_wire_free(&s->wire);
	if (s->destroy)
		s->destroy(s->opaque);
	free(s);
}

struct netdev *netdev_stream_create(struct vm *vm, const struct stream_setup *setup, char *err,
				    size_t err_size)
{
	const struct netdev_opts *o = setup->opts;
	struct stream *s = calloc(1, sizeof(*s));
	char where[128];
	int rc;

	if (!s || net_wire_init(&s->wire)) {
		free(s);
		if (setup->fd >= 0)
			close(setup->fd);
		snprintf(err, err_size, "out of memory");
		return NULL;
	}
	s->nd = (struct netdev){.id = o->id,
				.ready = stream_ready,
				.send = stream_send,
				.flush = stream_flush,
				.resume = stream_resume,
				.destroy = stream_destroy};
	s->aio = vm->aio;
	s->stats = &vm->stats;
	s->addr = o->addr;
	s->server = o->server;
	s->reconnect = o->reconnect * NS_PER_SEC;
	s->watch.fd = s->door.fd = -1;
	timer_init(&s->patience, &vm->timers, out_of_patience, s);
	timer_init(&s->retry, &vm->timers, retry, s);
	rc = setup->fd >= 0 ? begin(s, setup->fd) : s->server ? listen_at(s) : first_connect(s);
	if (!rc) {
		s->gone = setup->gone;
		s->destroy = setup->destroy;
		s->opaque = setup->opaque;
		return &s->nd;
	}
	net_address_print(&s->addr, where, sizeof(where));
	snprintf(err, err_size, "cannot %s %s: %s",
		 setup->fd >= 0 ? "use the socket"
		 : s->server    ? "listen at"
				: "connect to",
		 setup->fd >= 0 ? "given" : where, strerror(-rc));
	stream_destroy(&s->nd);
	return NULL;
}

/* --- -netdev stream and socket --- */

static struct netdev *create(struct vm *vm, const struct netdev_opts *o, char *err, size_t err_size)
{
	const struct stream_setup setup = {.opts = o, .fd = o->fd};
	int type = 0;
	socklen_t len = sizeof(type);

	if (o->fd >= 0 &&
	    (getsockopt(o->fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM)) {
		snprintf(err, err_size, "descriptor %d is not a stream socket", o->fd);
		return NULL;
	}
	return netdev_stream_create(vm, &setup, err, err_size);
}

static int parse_stream(struct keyval *k, struct netdev_opts *o)
{
	static const char *const types[] = {"unix", "inet", "fd"};
	const char *path = keyval_get(k, "addr.path"), *host = keyval_get(k, "addr.host");
	const char *port = keyval_get(k, "addr.port");
	unsigned type = ARRAY_LEN(types);
	int rc = keyval_choice(k, "addr.type", types, ARRAY_LEN(types), &type);

	rc = rc ? rc : keyval_bool(k, "server", &o->server);
	rc = rc ? rc : keyval_number(k, "reconnect", &o->reconnect, 86400);
	rc = rc ? rc : netdev_get_fd(k, "addr.str", &o->fd);
	if (rc)
		return rc;
	if (type == ARRAY_LEN(types))
		return keyval_fail(k, "addr.type= is missing: unix, inet or fd");
	if (type != 2 && o->fd >= 0)
		return keyval_fail(k, "addr.str= goes with addr.type=fd");
	if (type == 0 && (!path || !net_address_unix(&o->addr, path)))
		return keyval_fail(k, "addr.path= is missing, or too long for a socket");
	if (type == 1 && (!host || !port || !net_address_inet(&o->addr, host, port)))
		return keyval_fail(k, "addr.host= and addr.port= are to be a numeric address and "
				      "a port");
	if (type == 2 && o->fd < 0)
		return keyval_fail(k, "addr.str= is missing: the number of a descriptor");
	if (o->reconnect && (o->server || type == 2))
		return keyval_fail(k, "reconnect= is for clients");
	return 0;
}

static int parse_socket(struct keyval *k, struct netdev_opts *o)
{
	const char *listen = keyval_get(k, "listen"), *connect = keyval_get(k, "connect");
	const char *where = listen ? listen : connect, *colon = where ? strrchr(where, ':') : NULL;
	char host[64];
	int rc = netdev_get_fd(k, "fd", &o->fd);

	if (rc)
		return rc;
	if (!!listen + !!connect + (o->fd >= 0) != 1)
		return keyval_fail(k, "socket needs one of listen=, connect= and fd=");
	o->server = listen;
	if (!where)
		return 0;
	snprintf(host, sizeof(host), "%.*s", colon ? (int)(colon - where) : 0, where);
	if (!colon || !net_address_inet(&o->addr, host, colon + 1))
		return keyval_fail(k, "%s: a numeric address, a colon and a port are needed",
				   where);
	return 0;
}

const struct netdev_type netdev_stream = {
    .name = "stream", .parse = parse_stream, .create = create};
const struct netdev_type netdev_socket = {
    .name = "socket", .parse = parse_socket, .create = create};
