/*
 * Character devices on unix and TCP sockets. A server has one client at a time, others wait in the
 * backlog; a client that loses its server tries again if reconnect= says so.
 *
 *	server: listening (event watches) -> connected -> listening ...
 *	client: connecting (event watches) -> connected -> resting (tick) -> connecting ...
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev_impl.h"

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

/* What the command line named; its length. */
static socklen_t make_address(const struct char_spec *s, union address *a)
{
	const char *host = strcmp(s->host, "localhost") ? s->host : "127.0.0.1";

	memset(a, 0, sizeof(*a));
	if (*s->path) {
		a->un.sun_family = AF_UNIX;
		/* chardev_spec.c has seen to it that it fits. */
		memcpy(a->un.sun_path, s->path, strnlen(s->path, sizeof(a->un.sun_path) - 1));
		return sizeof(a->un);
	}
	if (inet_pton(AF_INET6, host, &a->in6.sin6_addr) == 1) {
		a->in6.sin6_family = AF_INET6;
		a->in6.sin6_port = htons(s->port);
		return sizeof(a->in6);
	}
	if (!*host || inet_pton(AF_INET, host, &a->in4.sin_addr) != 1)
		a->in4.sin_addr.s_addr = htonl(s->server ? INADDR_ANY : INADDR_LOOPBACK);
	a->in4.sin_family = AF_INET;
	a->in4.sin_port = htons(s->port);
	return sizeof(a->in4);
}

static void describe_address(const struct char_back *b, char *buf, size_t size)
{
	const struct char_spec *s = b->spec;

	if (s->fd >= 0)
		snprintf(buf, size, "fd:%d", s->fd);
	else if (*s->path)
		snprintf(buf, size, "unix:%s%s", s->path, s->server ? ",server=on" : "");
	else
		snprintf(buf, size, "tcp:%s%s%s:%u%s", strchr(s->host, ':') ? "[" : "", s->host,
			 strchr(s->host, ':') ? "]" : "", s->port, s->server ? ",server=on" : "");
}

static void socket_describe(const struct char_back *b, char *buf, size_t size)
{
	char address[CHAR_PATH_MAX + 32];

	describe_address(b, address, sizeof(address));
	snprintf(buf, size, "%s%s", b->open ? "" : "disconnected:", address);
}

static int cannot(const struct char_back *b, const char *what, int error, char *err,
		  size_t err_size)
{
	char address[CHAR_PATH_MAX + 32];

	describe_address(b, address, sizeof(address));
	snprintf(err, err_size, "cannot %s %s: %s", what, address, strerror(error));
	return -error;
}

/* ---- connected ---- */

static ssize_t socket_write(struct char_back *b, const u8 *buf, size_t len)
{
	ssize_t n = send(b->out.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n < 0 ? -errno : n;
}

/* One descriptor for each direction, since each is watched by itself. Takes fd over. */
static int set_connected(struct char_back *b, int fd)
{
	int one = 1, out = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (out < 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK)) {
		int rc = -errno;

		if (out >= 0)
			close(out);
		close(fd);
		return rc;
	}
	/* Fails for a unix socket, which has no delay to take away. */
	if (b->spec->nodelay)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	b->in.fd = fd;
	b->out.fd = out;
	return 0;
}

/* ---- server ---- */

static void await_client(struct char_back *b)
{
	aio_watch_arm(b->all->host.aio, &b->event, EPOLLIN);
}

static void on_client(void *opaque, unsigned events)
{
	struct char_back *b = opaque;
	int fd = accept4(b->event_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0 && !set_connected(b, fd))
		char_opened(b);
	else
		await_client(b); /* gone again, or no descriptors left */
}

/* A socket left behind by somebody who has ended may be taken over; one in use, or anything else,
 * may not. */
static int remove_stale(const char *path, const union address *a, socklen_t len)
{
	struct stat st;
	int fd, rc;

	if (lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return -EADDRINUSE;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = connect(fd, &a->any, len) ? -errno : 0;
	close(fd);
	if (rc != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(path) ? -errno : 0;
}

static int bind_to(const struct char_back *b, int fd)
{
	union address a;
	socklen_t len = make_address(b->spec, &a);
	int one = 1, rc;

	if (a.any.sa_family != AF_UNIX &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		return -errno;
	rc = bind(fd, &a.any, len) ? -errno : 0;
	if (rc == -EADDRINUSE && a.any.sa_family == AF_UNIX) {
		rc = remove_stale(b->spec->path, &a, len);
		if (!rc)
			rc = bind(fd, &a.any, len) ? -errno : 0;
	}
	return rc;
}

static int listen_at(struct char_back *b)
{
	union address a;
	int fd = b->spec->fd, rc;

	if (fd < 0) {
		make_address(b->spec, &a);
		fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			return -errno;
		b->event_fd = fd;
		rc = bind_to(b, fd);
		if (rc)
			return rc;
		b->bound = true;
	} else if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK)) {
		return -errno;
	}
	b->event_fd = fd;
	return listen(fd, 8) ? -errno : 0;
}

/* wait=on: nothing runs before somebody is there. */
static int wait_for_client(struct char_back *b, char *err, size_t err_size)
{
	struct pollfd p[2] = {{.fd = b->event_fd, .events = POLLIN},
			      {.fd = console_stop_fd(b->all->host.con), .events = POLLIN}};
	char address[CHAR_PATH_MAX + 64];

	socket_describe(b, address, sizeof(address));
	fprintf(stderr, "ringshift: waiting for a connection on %s\n", address);
	while (!b->open) {
		int fd;

		if (poll(p, ARRAY_LEN(p), -1) < 0 && errno != EINTR)
			return cannot(b, "wait for a client of", errno, err, err_size);
		if (p[1].revents)
			return 0; /* told to end: the VM will */
		fd = accept4(b->event_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0 && !set_connected(b, fd))
			char_opened(b);
	}
	return 0;
}

static int start_server(struct char_back *b, char *err, size_t err_size)
{
	int rc = b->spec->wait ? wait_for_client(b, err, err_size) : 0;

	/* Armed once at first; on_client accepts only when nobody is connected. */
	if (!rc)
		rc = char_watch_event(b, b->event_fd, b->open ? 0 : EPOLLIN, on_client);
	return rc && !b->open ? cannot(b, "watch", -rc, err, err_size) : rc;
}

/* ---- client ---- */

static void connect_again(void *opaque, unsigned events);

static void rest(struct char_back *b)
{
	if (b->spec->reconnect && char_tick(b, b->spec->reconnect, connect_again))
		b->all->host.stats->n[STAT_chardev_unwatched]++;
}

static void on_connected(void *opaque, unsigned events)
{
	struct char_back *b = opaque;
	int error = 0, fd;
	socklen_t len = sizeof(error);

	(void)events;
	if (getsockopt(b->event_fd, SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	fd = error ? -1 : fcntl(b->event_fd, F_DUPFD_CLOEXEC, 3);
	char_unwatch_event(b);
	if (fd >= 0 && !set_connected(b, fd))
		char_opened(b);
	else
		rest(b);
}

static void connect_again(void *opaque, unsigned events)
{
	struct char_back *b = opaque;
	union address a;
	socklen_t len = make_address(b->spec, &a);
	int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)events;
	if (fd < 0) {
		rest(b);
	} else if (!connect(fd, &a.any, len)) {
		if (!set_connected(b, fd))
			char_opened(b);
		else
			rest(b);
	} else if (errno != EINPROGRESS || char_watch_event(b, fd, EPOLLOUT, on_connected)) {
		b->event_fd = -1;
		close(fd);
		rest(b);
	}
}

/* Without reconnect= the server has to be there now. */
static int connect_once(struct char_back *b)
{
	union address a;
	socklen_t len = make_address(b->spec, &a);
	int fd = b->spec->fd, rc;

	if (fd < 0) {
		fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		if (connect(fd, &a.any, len)) {
			rc = -errno;
			close(fd);
			return rc;
		}
	}
	return set_connected(b, fd);
}

/* ---- both ---- */

static int socket_open(struct char_back *b, char *err, size_t err_size)
{
	int rc;

	if (b->spec->server) {
		rc = listen_at(b);
		return rc ? cannot(b, "listen on", -rc, err, err_size) : 0;
	}
	if (b->spec->reconnect)
		return 0; /* from socket_start on */
	rc = connect_once(b);
	return rc ? cannot(b, "connect to", -rc, err, err_size) : 0;
}

static int socket_start(struct char_back *b, char *err, size_t err_size)
{
	if (b->spec->server)
		return start_server(b, err, err_size);
	if (b->spec->reconnect)
		connect_again(b, 0);
	else
		char_opened(b);
	return 0;
}

static void socket_ended(struct char_back *b)
{
	char_closed(b);
	if (b->spec->server)
		await_client(b);
	else
		rest(b);
}

static void socket_close(struct char_back *b)
{
	if (b->bound && *b->spec->path)
		unlink(b->spec->path);
}

const struct char_ops char_socket = {.open = socket_open,
				     .start = socket_start,
				     .write = socket_write,
				     .ended = socket_ended,
				     .describe = socket_describe,
				     .close = socket_close};
