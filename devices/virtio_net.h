/*
 * The virtio network card (VIRTIO 1.2, 5.1): one pair of queues and a control queue, in front of a
 * struct netdev. See virtio_net.c.
 */
#ifndef RINGSHIFT_VIRTIO_NET_H
#define RINGSHIFT_VIRTIO_NET_H

#include "netdev.h"
#include "virtio.h"

/* Features of the device itself (5.1.3). */
#define VIRTIO_NET_F_CSUM                BIT(0)
#define VIRTIO_NET_F_GUEST_CSUM          BIT(1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS BIT(2)
#define VIRTIO_NET_F_MTU                 BIT(3)
#define VIRTIO_NET_F_MAC                 BIT(5)
#define VIRTIO_NET_F_GUEST_TSO4          BIT(7)
#define VIRTIO_NET_F_GUEST_TSO6          BIT(8)
#define VIRTIO_NET_F_HOST_TSO4           BIT(11)
#define VIRTIO_NET_F_HOST_TSO6           BIT(12)
#define VIRTIO_NET_F_MRG_RXBUF           BIT(15)
#define VIRTIO_NET_F_STATUS              BIT(16)
#define VIRTIO_NET_F_CTRL_VQ             BIT(17)
#define VIRTIO_NET_F_CTRL_RX             BIT(18)
#define VIRTIO_NET_F_CTRL_VLAN           BIT(19)
#define VIRTIO_NET_F_CTRL_RX_EXTRA       BIT(20)
#define VIRTIO_NET_F_CTRL_MAC_ADDR       BIT(23)

#define VIRTIO_NET_FEATURES                                                                        \
	(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS |          \
	 VIRTIO_NET_F_MAC | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 |                    \
	 VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_MRG_RXBUF |                \
	 VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX |                       \
	 VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_MAC_ADDR)

enum { VIRTIO_NET_RX, VIRTIO_NET_TX, VIRTIO_NET_CTRL, VIRTIO_NET_QUEUES };

#define VIRTIO_NET_HDR   12 /* struct net_meta and the number of buffers */
#define VIRTIO_NET_MACS  64 /* of each kind in the filter, more means "all of that kind" */
#define VIRTIO_NET_VLANS 4096
/* Buffers one received frame may be spread over: 64 KiB in pieces of a page and in smaller ones. */
#define VIRTIO_NET_CHAINS 64

struct virtio_net_options {
	u8 mac[6];
	u16 mtu;     /* 0: not told */
	u64 without; /* features not to offer */
};

struct virtio_net_macs {
	unsigned count;
	bool all; /* there were too many: take every address of this kind */
	u8 mac[VIRTIO_NET_MACS][6];
};

struct virtio_net {
	struct virtio_dev dev;
	struct virtio_net_options opt;
	struct netdev *peer;
	u8 mac[6]; /* as the driver may have changed it */

	/* Receive filter (5.1.6.5.1 to 5.1.6.5.3). */
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	struct virtio_net_macs uni, multi;
	u8 vlans[VIRTIO_NET_VLANS / 8];
	u64 guest_offloads; /* GUEST_ features in force */

	unsigned
	    rx_segment; /* of a frame being cut for the guest: those before it have been taken */
	bool rx_waits;  /* the peer holds a frame we had no buffers for */
	struct virtq_elem *rx[VIRTIO_NET_CHAINS]; /* allocated when first needed */
	struct virtq_elem *elem;                  /* of the other queues, one at a time */
	u8 *linear;                               /* NET_FRAME_MAX bytes: a frame in one piece */
};

/* Negative errno on failure. Becomes the peer's card; free with virtio_net_destroy, then the peer.
 */
MUST_CHECK int virtio_net_init(struct virtio_net *n, const struct virtio_net_options *opt,
			       struct netdev *peer, const struct dma *dma, struct stats *stats);
void virtio_net_destroy(struct virtio_net *n);

#endif
