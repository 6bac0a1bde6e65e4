/*
 * -netdev tap: frames to and from a network interface of the host. The descriptor, or the right to
 * open the interface, comes from whoever set it up; ringshift runs no scripts and changes no
 * addresses. With vnet_hdr (the default) the host's kernel takes and gives frames with checksum and
 * segmentation still to be done.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "netdev_impl.h"

#define FRAMES_AT_ONCE 256
#define PIECES         1024

struct tap {
	struct netdev nd;
	struct aio *aio;
	struct stats *stats;
	struct aio_watch watch;
	int fd;
	bool card_full;
	struct net_meta meta; /* of the frame the card has refused, and the frame */
	size_t held;
	u8 frame[NET_FRAME_MAX];
};

static struct tap *to_tap(struct netdev *nd)
{
	return container_of(nd, struct tap, nd);
}

/* A tap device takes a frame or drops it; it never makes anybody wait. */
static bool tap_ready(struct netdev *nd)
{
	(void)nd;
	return true;
}

static void tap_send(struct netdev *nd, const struct net_meta *m, const struct iovec *iov,
		     unsigned count)
{
	struct tap *t = to_tap(nd);
	struct iovec all[PIECES];
	unsigned n = 0;

	/* The kernel takes no more pieces: a frame in so many is no driver's. */
	if (!nd->link || count >= PIECES) {
		t->stats->n[STAT_net_tx_lost]++;
		return;
	}
	if (nd->offloads)
		all[n++] = (struct iovec){(void *)m, sizeof(*m)};
	memcpy(all + n, iov, count * sizeof(*iov));
	if (writev(t->fd, all, (int)(n + count)) < 0)
		t->stats->n[STAT_net_tx_lost]++; /* the interface is down, or out of memory */
}

static void tap_flush(struct netdev *nd)
{
	(void)nd;
}

/* One frame into t->frame: 1; 0 if there is none; a negative errno. */
static int read_frame(struct tap *t)
{
	struct iovec iov[2] = {{&t->meta, sizeof(t->meta)}, {t->frame, sizeof(t->frame)}};
	size_t head = t->nd.offloads ? sizeof(t->meta) : 0;
	ssize_t n;

	memset(&t->meta, 0, sizeof(t->meta));
	t->held = 0;
	do
		n = readv(t->fd, iov + !head, head ? 2 : 1);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return !n ? -EPIPE : errno == EAGAIN ? 0 : -errno;
	if ((size_t)n >= head + NET_ETH_LEN &&
	    net_meta_valid(&t->meta, t->frame, (size_t)n - head, (size_t)n - head))
		t->held = (size_t)n - head;
	return 1;
}

static void pull_out(struct tap *t)
{
	aio_watch_remove(t->aio, &t->watch);
	netdev_set_link(&t->nd, false);
}

static void pump(struct tap *t)
{
	int rc = 1;

	for (unsigned i = 0; i < FRAMES_AT_ONCE && rc > 0; i++) {
		if (t->held && !netdev_receive(&t->nd, &t->meta, t->frame, t->held)) {
			t->card_full = true;
			break;
		}
		rc = read_frame(t);
	}
	netdev_received(&t->nd);
	if (rc < 0 && rc != -EIO) /* EIO: the interface is down for the time being */
		pull_out(t);
	else if (!t->card_full)
		aio_watch_arm(t->aio, &t->watch, EPOLLIN);
}

static void tap_frames(void *opaque, unsigned events)
{
	(void)events;
	pump(opaque);
}

static void tap_resume(struct netdev *nd)
{
	struct tap *t = to_tap(nd);

	if (!t->card_full)
		return;
	t->card_full = false;
	pump(t);
}

static void tap_destroy(struct netdev *nd)
{
	struct tap *t = to_tap(nd);

	if (nd->link)
		aio_watch_remove(t->aio, &t->watch);
	close(t->fd);
	free(t);
}

/* The interface of that name, or a new one; a negative errno. */
static int open_tap(const struct netdev_opts *o)
{
	struct ifreq req = {.ifr_flags = IFF_TAP | IFF_NO_PI | (o->vnet_hdr ? IFF_VNET_HDR : 0)};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), rc = 0;

	if (fd < 0)
		return -errno;
	memcpy(req.ifr_name, o->ifname, sizeof(req.ifr_name));
	if (ioctl(fd, TUNSETIFF, &req))
		rc = -errno;
	if (rc)
		close(fd);
	return rc ? rc : fd;
}

/* What the descriptor is, whoever opened it: with offloads or without. A negative errno. */
static int set_up(struct tap *t)
{
	struct ifreq req = {0};
	int header = sizeof(struct net_meta);

	if (ioctl(t->fd, TUNGETIFF, &req))
		return -errno;
	if (!(req.ifr_flags & IFF_TAP))
		return -EINVAL;
	if (fcntl(t->fd, F_SETFL, O_NONBLOCK) || fcntl(t->fd, F_SETFD, FD_CLOEXEC))
		return -errno;
	if (!(req.ifr_flags & IFF_VNET_HDR))
		return 0;
	if (ioctl(t->fd, TUNSETVNETHDRSZ, &header) ||
	    ioctl(t->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		return -errno;
	t->nd.offloads = true;
	return 0;
}

static struct netdev *create(struct vm *vm, const struct netdev_opts *o, char *err, size_t err_size)
{
	struct tap *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (!t)
		goto fail;
	t->nd = (struct netdev){.id = o->id,
				.ready = tap_ready,
				.send = tap_send,
				.flush = tap_flush,
				.resume = tap_resume,
				.destroy = tap_destroy};
	t->aio = vm->aio;
	t->stats = &vm->stats;
	rc = t->fd = o->fd >= 0 ? o->fd : open_tap(o);
	if (rc < 0)
		goto fail;
	rc = set_up(t);
	t->watch = (struct aio_watch){.fd = t->fd, .ready = tap_frames, .opaque = t};
	rc = rc ? rc : aio_watch_add(t->aio, &t->watch, EPOLLIN);
	if (!rc) {
		netdev_set_link(&t->nd, true);
		return &t->nd;
	}
	close(t->fd);
fail:
	snprintf(err, err_size, "cannot use %s: %s",
		 o->fd >= 0 ? "the tap descriptor" : "a tap interface", strerror(-rc));
	free(t);
	return NULL;
}

/* QEMU runs a script unless told not to; we have none to run. */
static int refuse_script(struct keyval *k, const char *key)
{
	const char *val = keyval_get(k, key);

	if (val && *val && strcmp(val, "no"))
		return keyval_fail(k, "%s=%s: no scripts are run; set the interface up before", key,
				   val);
	return 0;
}

static int parse(struct keyval *k, struct netdev_opts *o)
{
	const char *ifname = keyval_get(k, "ifname");
	bool vhost = false;
	int rc = netdev_get_fd(k, "fd", &o->fd);

	o->vnet_hdr = true;
	rc = rc ? rc : keyval_bool(k, "vnet_hdr", &o->vnet_hdr);
	rc = rc ? rc : keyval_bool(k, "vhost", &vhost);
	rc = rc ? rc : refuse_script(k, "script");
	rc = rc ? rc : refuse_script(k, "downscript");
	if (rc)
		return rc;
	if (vhost)
		return keyval_fail(k, "vhost=on is not in this version");
	if (ifname && o->fd >= 0)
		return keyval_fail(k, "ifname= and fd= exclude each other");
	if (ifname && strlen(ifname) >= sizeof(o->ifname))
		return keyval_fail(k, "ifname=%s is too long", ifname);
	if (ifname)
		strcpy(o->ifname, ifname);
	return 0;
}

const struct netdev_type netdev_tap = {.name = "tap", .parse = parse, .create = create};
