/*
 * Between virtio_net.c and virtio_net_ctrl.c.
 */
#ifndef RINGSHIFT_VIRTIO_NET_IMPL_H
#define RINGSHIFT_VIRTIO_NET_IMPL_H

#include "virtio_net.h"

#define VIRTIO_NET_GUEST_OFFLOADS                                                                  \
	(VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6)

/* 5.1.4; the fields of features we do not offer are left out at the end. */
struct virtio_net_config {
	u8 mac[6];
	u16 status; /* 1: link up */
	u16 max_queue_pairs;
	u16 mtu;
};

/* The control queue was kicked. */
void virtio_net_control(struct virtio_net *n);

#endif
