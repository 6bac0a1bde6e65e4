/*
 * libslirp behind a struct net_wire. One thread, one loop: poll, read frames, let libslirp look at
 * its sockets, write frames. Frames are bounded in both directions: while the monitor takes none,
 * the sockets are not looked at, so that their senders wait.
 */
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <string.h>
#include <time.h>

#include "mangle.h"
#include "nat.h"

#define FDS_MAX   4096
#define NS_PER_MS 1000000
#define READ_MAX  16 /* reads of the wire in one round */

struct nat_timer {
	struct nat_timer *next;
	SlirpTimerCb fire;
	void *opaque;
	int64_t due; /* ms; -1: not armed */
};

struct nat {
	Slirp *slirp;
	struct net_wire *wire;
	struct nat_timer *timers;
	struct pollfd fd[FDS_MAX]; /* the first is the wire's */
	unsigned fds;
};

static int64_t now_ns(void *opaque)
{
	struct timespec ts;

	(void)opaque;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* --- what libslirp calls --- */

static void queue(void *opaque, const struct net_meta *m, const struct iovec *iov, unsigned count)
{
	struct nat *nat = opaque;

	net_wire_put(nat->wire, m, iov, count); /* lost if full: TCP knows */
}

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	/* libslirp's buffer is its own mbuf or stack, and it is done with it when we return. */
	mangle_to_guest((u8 *)buf, len, queue, opaque);
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
	(void)msg, (void)opaque; /* the guest's affair */
}

static void *timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	struct nat *nat = opaque;
	struct nat_timer *t = calloc(1, sizeof(*t));

	BUG_ON(!t);
	*t = (struct nat_timer){.next = nat->timers, .fire = cb, .opaque = cb_opaque, .due = -1};
	nat->timers = t;
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct nat *nat = opaque;
	struct nat_timer **at = &nat->timers;

	while (*at && *at != timer)
		at = &(*at)->next;
	if (*at)
		*at = (*at)->next;
	free(timer);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	(void)opaque;
	((struct nat_timer *)timer)->due = expire_ms;
}

static void nothing_fd(int fd, void *opaque)
{
	(void)fd, (void)opaque;
}

static void nothing(void *opaque)
{
	(void)opaque; /* one thread: nobody sleeps */
}

static const SlirpCb callbacks = {.send_packet = send_packet,
				  .guest_error = guest_error,
				  .clock_get_ns = now_ns,
				  .timer_new = timer_new,
				  .timer_free = timer_free,
				  .timer_mod = timer_mod,
				  .register_poll_fd = nothing_fd,
				  .unregister_poll_fd = nothing_fd,
				  .notify = nothing};

/* --- the loop --- */

static int add_poll(int fd, int events, void *opaque)
{
	struct nat *nat = opaque;
	short ev = 0;

	if (nat->fds == FDS_MAX)
		return -1;
	ev |= events & SLIRP_POLL_IN ? POLLIN : 0;
	ev |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
	ev |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
	nat->fd[nat->fds] = (struct pollfd){.fd = fd, .events = ev};
	return (int)nat->fds++;
}

static int get_revents(int idx, void *opaque)
{
	const struct nat *nat = opaque;
	short ev = idx < 0 ? 0 : nat->fd[idx].revents;
	int events = 0;

	events |= ev & POLLIN ? SLIRP_POLL_IN : 0;
	events |= ev & POLLOUT ? SLIRP_POLL_OUT : 0;
	events |= ev & POLLPRI ? SLIRP_POLL_PRI : 0;
	events |= ev & POLLERR ? SLIRP_POLL_ERR : 0;
	events |= ev & POLLHUP ? SLIRP_POLL_HUP : 0;
	return events;
}

static uint32_t run_timers(struct nat *nat)
{
	int64_t now = now_ns(NULL) / NS_PER_MS;
	uint32_t wait = UINT32_MAX;

	for (struct nat_timer *t = nat->timers, *next; t; t = next) {
		next = t->next;
		if (t->due < 0)
			continue;
		if (t->due <= now) {
			t->due = -1;
			t->fire(t->opaque);
		}
		if (t->due >= 0)
			wait = MIN(wait, (uint32_t)MAX(t->due - now, 0));
	}
	return wait;
}

/* Frames of the guest; 0 or a negative errno. */
static int take_frames(struct nat *nat)
{
	int rc = 1, len = 0;

	for (unsigned i = 0; i < READ_MAX && rc > 0; i++) {
		struct net_meta m;
		u8 *frame;

		rc = net_wire_read(nat->wire);
		while (rc > 0 && (len = net_wire_peek(nat->wire, &m, &frame)) > 0) {
			mangle_from_guest(&m, frame, (size_t)len);
			slirp_input(nat->slirp, frame, len);
			net_wire_next(nat->wire);
		}
		if (len < 0)
			return len;
		if (rc > 0 && rc < (int)(NET_WIRE_INPUT / 4))
			break; /* most likely there is no more: poll tells */
	}
	return MIN(rc, 0);
}

int nat_run(struct nat *nat)
{
	for (;;) {
		uint32_t wait = run_timers(nat);
		int left = net_wire_flush(nat->wire), ready;
		bool full = net_wire_queued(nat->wire) > NET_WIRE_ROOM;

		if (left < 0)
			return left == -EPIPE || left == -ECONNRESET ? 0 : left;
		nat->fds = 0;
		add_poll(nat->wire->fd, SLIRP_POLL_IN | (left ? SLIRP_POLL_OUT : 0), nat);
		if (!full)
			slirp_pollfds_fill(nat->slirp, &wait, add_poll, nat);
		ready = poll(nat->fd, nat->fds, wait > INT32_MAX ? -1 : (int)wait);
		if (ready < 0 && errno != EINTR)
			return -errno;
		if (!full)
			slirp_pollfds_poll(nat->slirp, ready < 0, get_revents, nat);
		if (ready > 0 && nat->fd[0].revents & ~POLLOUT) {
			int rc = take_frames(nat);

			if (rc)
				return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
		}
	}
}

/* --- start --- */

static bool forward(struct nat *nat, const struct net_fwd *f, char *err, size_t err_size)
{
	char host[INET_ADDRSTRLEN];

	if (!slirp_add_hostfwd(nat->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port))
		return true;
	snprintf(err, err_size, "hostfwd: cannot listen on %s port %u of %s: %s",
		 f->udp ? "udp" : "tcp", f->host_port,
		 inet_ntop(AF_INET, &f->host, host, sizeof(host)), strerror(errno));
	return false;
}

struct nat *nat_create(const struct net_user_opts *o, struct net_wire *wire, char *err,
		       size_t err_size)
{
	struct nat *nat = calloc(1, sizeof(*nat));
	SlirpConfig cfg = {.version = 1,
			   .restricted = o->restricted,
			   .in_enabled = o->ipv4,
			   .vnetwork = o->net,
			   .vnetmask = o->mask,
			   .vhost = o->host,
			   .in6_enabled = o->ipv6,
			   .vprefix_addr6 = o->prefix6,
			   .vprefix_len = o->prefix6_len,
			   .vhost6 = o->host6,
			   .vhostname = o->hostname,
			   .vdhcp_start = o->dhcp,
			   .vnameserver = o->dns,
			   .vnameserver6 = o->dns6,
			   .vdnssearch = o->search[0] ? (const char **)o->search : NULL,
			   .vdomainname = o->domain,
			   .if_mtu = MANGLE_MTU,
			   .if_mru = MANGLE_MTU};
	bool good;

	snprintf(err, err_size, "libslirp does not start");
	if (!nat)
		return NULL;
	nat->wire = wire;
	nat->slirp = slirp_new(&cfg, &callbacks, nat);
	good = nat->slirp;
	for (unsigned i = 0; good && i < o->fwds; i++)
		good = forward(nat, &o->fwd[i], err, err_size);
	if (good)
		return nat;
	free(nat); /* the process ends */
	return NULL;
}
