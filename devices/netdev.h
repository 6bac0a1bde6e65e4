/*
 * A network card and what it is plugged into. The front end (the card) hands on frames its guest
 * sends; the back end (NAT, tap, a link to another machine) hands in frames that arrive. A frame
 * begins with its Ethernet header, has no checksum sequence, and may carry work with it (struct
 * net_meta). All calls are made on the vCPU thread with the device lock held.
 *
 * Neither side ever waits for the other. A back end whose queue is full is not `ready`, and calls
 * room when it is again; a card without buffers refuses a frame, and calls resume when it has some.
 */
#ifndef RINGSHIFT_NETDEV_H
#define RINGSHIFT_NETDEV_H

#include <sys/uio.h>

#include "net_offload.h"

struct netdev {
	struct netdev *next;   /* the owner's */
	const char *id, *kind; /* the owner's: "n0", "user" */
	bool stopped;          /* the VM is: the card is left alone */
	bool link;             /* somebody is at the other end */
	bool pulled;           /* the cable has been taken out of the card */
	bool offloads; /* the other end takes frames with checksum and segmentation still to do;
			  may change with the link */

	/* --- back end's --- */
	/* Is there room for one frame of any size, or the segments it is cut into? */
	bool (*ready)(struct netdev *n);
	/* After ready said yes; meta is all zero unless offloads is set. Copies what it needs. */
	void (*send)(struct netdev *n, const struct net_meta *m, const struct iovec *iov,
		     unsigned count);
	/* A batch of sends has ended. */
	void (*flush)(struct netdev *n);
	/* The front end has room again. */
	void (*resume)(struct netdev *n);
	void (*destroy)(struct netdev *n);

	/* --- front end's; nic is NULL as long as there is none --- */
	void *nic;
	/* Take a frame (NET_ETH_LEN to NET_FRAME_MAX bytes), which may be changed in place, with
	 * valid meta data. false: no room, offer this frame again after resume. */
	bool (*receive)(void *nic, const struct net_meta *m, u8 *frame, size_t len);
	/* A batch of receives has ended. */
	void (*received)(void *nic);
	void (*room)(void *nic);
	void (*link_changed)(void *nic);
};

static inline bool netdev_receive(struct netdev *n, const struct net_meta *m, u8 *frame, size_t len)
{
	return !n->nic || (!n->stopped && n->receive(n->nic, m, frame, len));
}

static inline void netdev_received(struct netdev *n)
{
	if (n->nic)
		n->received(n->nic);
}

static inline void netdev_room(struct netdev *n)
{
	if (n->nic && !n->stopped)
		n->room(n->nic);
}

/* The VM stops, or goes on: what was held back meanwhile is offered again. */
static inline void netdev_set_stopped(struct netdev *n, bool stopped)
{
	if (n->stopped == stopped)
		return;
	n->stopped = stopped;
	if (!stopped && n->nic) {
		n->resume(n);
		n->room(n->nic);
	}
}

/* Does the card see a link? Frames sent without one are lost. */
static inline bool netdev_up(const struct netdev *n)
{
	return n->link && !n->pulled;
}

static inline void netdev_set_link(struct netdev *n, bool link)
{
	if (n->link == link)
		return;
	n->link = link;
	if (n->nic && !n->pulled)
		n->link_changed(n->nic);
}

/* Take the cable out, or put it in again. The other end does not see it. */
static inline void netdev_pull(struct netdev *n, bool pulled)
{
	if (n->pulled == pulled)
		return;
	n->pulled = pulled;
	if (!n->nic)
		return;
	if (n->link)
		n->link_changed(n->nic);
	n->resume(n); /* a frame that the card refused is offered again, and lost */
}

#endif
