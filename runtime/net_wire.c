/*
 * Frames on a stream socket: see net_wire.h.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net_wire.h"

#define PREFIX   4
#define META     sizeof(struct net_meta)
#define DIRECTLY (8 * KIB) /* frames from this size on are not copied if they can be sent */
#define PIECES   1024      /* of one frame: as many as a queue's chain has */

/* To an address that bridges keep to themselves, type for local experiments (IEEE 802). */
static const u8 hello[60] = "\x01\x80\xc2\x00\x00\x0e"
			    "\x02\x00\x00\x00\x00\x01"
			    "\x88\xb5"
			    "ringshift: frames with meta data, 1";

int net_wire_init(struct net_wire *w)
{
	*w = (struct net_wire){.fd = -1};
	w->in = malloc(NET_WIRE_INPUT);
	w->out = malloc(NET_WIRE_QUEUE);
	if (w->in && w->out)
		return 0;
	net_wire_free(w);
	return -ENOMEM;
}

void net_wire_free(struct net_wire *w)
{
	net_wire_end(w);
	free(w->in);
	free(w->out);
	w->in = w->out = NULL;
}

void net_wire_begin(struct net_wire *w, int fd)
{
	const struct iovec iov = {(u8 *)hello, sizeof(hello)};
	const struct net_meta plain = {0};

	net_wire_end(w);
	w->fd = fd;
	net_wire_put(w, &plain, &iov, 1);
	if (net_wire_flush(w) < 0)
		return; /* the reader will learn of it */
}

void net_wire_end(struct net_wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	w->in_at = w->in_have = w->out_at = w->out_have = 0;
	w->begun = w->peer_meta = false;
	w->error = 0;
}

/* --- input --- */

int net_wire_read(struct net_wire *w)
{
	ssize_t n;

	if (w->error)
		return w->error;
	memmove(w->in, w->in + w->in_at, w->in_have - w->in_at);
	w->in_have -= w->in_at;
	w->in_at = 0;
	n = recv(w->fd, w->in + w->in_have, NET_WIRE_INPUT - w->in_have, MSG_DONTWAIT);
	if (n > 0) {
		w->in_have += n;
		return (int)n;
	}
	if (!n)
		return -EPIPE;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static u32 prefix(const struct net_wire *w)
{
	u32 be;

	memcpy(&be, w->in + w->in_at, PREFIX);
	return ntohl(be);
}

void net_wire_next(struct net_wire *w)
{
	w->in_at += PREFIX + (prefix(w) & ~NET_WIRE_META);
	w->begun = true;
}

/* Its length, 0 if it is none to be looked at. */
static int take_apart(struct net_wire *w, u32 word, struct net_meta *m, u8 **frame)
{
	size_t len = word & ~NET_WIRE_META;
	u8 *at = w->in + w->in_at + PREFIX;

	memset(m, 0, sizeof(*m));
	if (word & NET_WIRE_META) {
		if (len < META)
			return 0;
		memcpy(m, at, META);
		at += META;
		len -= META;
	}
	if (len < NET_ETH_LEN || len > NET_FRAME_MAX || !net_meta_valid(m, at, len, len))
		return 0;
	if (!w->begun && len == sizeof(hello) && !memcmp(at, hello, sizeof(hello))) {
		w->peer_meta = true;
		return 0;
	}
	*frame = at;
	return (int)len;
}

int net_wire_peek(struct net_wire *w, struct net_meta *m, u8 **frame)
{
	while (w->in_have - w->in_at >= PREFIX) {
		u32 word = prefix(w), len = word & ~NET_WIRE_META;
		int ret;

		if (len > NET_WIRE_MAX)
			return -EPROTO;
		if (w->in_have - w->in_at < PREFIX + len)
			return 0;
		ret = take_apart(w, word, m, frame);
		if (ret)
			return ret;
		net_wire_next(w);
	}
	return 0;
}

/* --- output --- */

int net_wire_flush(struct net_wire *w)
{
	while (net_wire_queued(w) && !w->error) {
		ssize_t n = send(w->fd, w->out + w->out_at, net_wire_queued(w),
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0)
			w->out_at += n;
		else if (errno == EAGAIN)
			break;
		else if (errno != EINTR)
			w->error = -errno;
	}
	if (w->error)
		return w->error;
	if (!net_wire_queued(w))
		w->out_at = w->out_have = 0;
	return (int)net_wire_queued(w);
}

/* Room for len bytes at the end of the queue. */
static bool make_room(struct net_wire *w, size_t len)
{
	if (w->out_have + len <= NET_WIRE_QUEUE)
		return true;
	memmove(w->out, w->out + w->out_at, net_wire_queued(w));
	w->out_have -= w->out_at;
	w->out_at = 0;
	return w->out_have + len <= NET_WIRE_QUEUE;
}

static void queue(struct net_wire *w, const void *buf, size_t len)
{
	memcpy(w->out + w->out_have, buf, len);
	w->out_have += len;
}

/* Send pieces, of which the first are the queue; how many bytes have gone. */
static size_t send_now(struct net_wire *w, struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n = sendmsg(w->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		w->error = -errno;
	return n < 0 ? 0 : n;
}

/* What is left of the pieces after `gone` bytes goes to the queue, which iov[0] is. */
static void queue_rest(struct net_wire *w, const struct iovec *iov, unsigned count, size_t gone)
{
	size_t of_queue = MIN(gone, iov[0].iov_len);

	w->out_at += of_queue;
	gone -= of_queue;
	if (w->out_at == w->out_have)
		w->out_at = w->out_have = 0;
	for (unsigned i = 1; i < count; i++) {
		size_t skip = MIN(gone, iov[i].iov_len);

		queue(w, (const u8 *)iov[i].iov_base + skip, iov[i].iov_len - skip);
		gone -= skip;
	}
}

bool net_wire_put(struct net_wire *w, const struct net_meta *m, const struct iovec *iov,
		  unsigned count)
{
	struct iovec all[PIECES + 2];
	u8 head[PREFIX + META];
	bool meta = w->peer_meta && (m->flags || m->gso);
	size_t len = 0, head_len = meta ? sizeof(head) : PREFIX, gone = 0;
	u32 be;

	BUG_ON(count > PIECES);
	for (unsigned i = 0; i < count; i++)
		len += iov[i].iov_len;
	if (w->fd < 0 || w->error || !make_room(w, head_len + len))
		return false;
	be = htonl((u32)(meta ? (len + META) | NET_WIRE_META : len));
	memcpy(head, &be, PREFIX);
	memcpy(head + PREFIX, m, META);
	all[0] = (struct iovec){w->out + w->out_at, net_wire_queued(w)};
	all[1] = (struct iovec){head, head_len};
	memcpy(all + 2, iov, count * sizeof(*iov));
	count += 2;
	if (len >= DIRECTLY && net_wire_queued(w) < NET_WIRE_ROOM / 2)
		gone = send_now(w, all, MIN(count, PIECES));
	queue_rest(w, all, count, gone);
	return true;
}
