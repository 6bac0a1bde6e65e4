/*
 * The control queue of the network card (VIRTIO 1.2, 5.1.6.5): what to receive, the card's address,
 * offloads. A command that makes no sense is answered with an error and changes nothing.
 */
#include <errno.h>
#include <string.h>

#include "virtio_net_impl.h"

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_VLAN = 2, CLASS_GUEST_OFFLOADS = 5 };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { VLAN_ADD = 0, VLAN_DEL = 1 };
enum { ACK_OK = 0, ACK_ERR = 1 };

#define CTRL_HDR 2 /* class, command */

/* Command data of exactly len bytes. */
static bool data(const struct virtio_net *n, void *buf, size_t len)
{
	return n->elem->out_len == CTRL_HDR + len && virtq_read(n->elem, CTRL_HDR, buf, len) == len;
}

static bool set_rx(struct virtio_net *n, u8 cmd)
{
	bool *const mode[] = {&n->promisc, &n->allmulti, &n->alluni,
			      &n->nomulti, &n->nouni,    &n->nobcast};
	const u8 first_extra = 2;
	u64 needs = cmd < first_extra ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA;
	u8 on;

	if (cmd >= ARRAY_LEN(mode) || !virtio_has(&n->dev, needs) || !data(n, &on, 1))
		return false;
	*mode[cmd] = on;
	return true;
}

/* One table: a 32-bit count and the addresses. Where the next begins, 0 if it is not all there. */
static u64 read_macs(const struct virtio_net *n, u64 at, struct virtio_net_macs *t)
{
	u64 end;
	u32 count;

	if (virtq_read(n->elem, at, &count, 4) != 4)
		return 0;
	at += 4;
	end = at + 6ull * count;
	if (end > n->elem->out_len)
		return 0;
	t->all = count > VIRTIO_NET_MACS;
	t->count = t->all ? 0 : count;
	virtq_read(n->elem, at, t->mac, t->count * 6ul);
	return end;
}

static bool set_mac(struct virtio_net *n, u8 cmd)
{
	struct virtio_net_macs uni, multi;
	u64 at;

	if (cmd == MAC_ADDR_SET)
		return virtio_has(&n->dev, VIRTIO_NET_F_CTRL_MAC_ADDR) && data(n, n->mac, 6);
	if (cmd != MAC_TABLE_SET || !virtio_has(&n->dev, VIRTIO_NET_F_CTRL_RX))
		return false;
	at = read_macs(n, CTRL_HDR, &uni);
	if (!at || read_macs(n, at, &multi) != n->elem->out_len)
		return false;
	n->uni = uni;
	n->multi = multi;
	return true;
}

static bool set_vlan(struct virtio_net *n, u8 cmd)
{
	u16 id;

	if (cmd > VLAN_DEL || !virtio_has(&n->dev, VIRTIO_NET_F_CTRL_VLAN) ||
	    !data(n, &id, sizeof(id)) || id >= VIRTIO_NET_VLANS)
		return false;
	if (cmd == VLAN_ADD)
		n->vlans[id / 8] |= BIT(id % 8);
	else
		n->vlans[id / 8] &= ~BIT(id % 8);
	return true;
}

static bool set_offloads(struct virtio_net *n, u8 cmd)
{
	u64 on;

	if (cmd || !virtio_has(&n->dev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
	    !data(n, &on, sizeof(on)) || on & ~(n->dev.driver_features & VIRTIO_NET_GUEST_OFFLOADS))
		return false;
	n->guest_offloads = on;
	return true;
}

static bool obey(struct virtio_net *n)
{
	u8 hdr[CTRL_HDR];

	if (virtq_read(n->elem, 0, hdr, sizeof(hdr)) != sizeof(hdr))
		return false;
	switch (hdr[0]) {
	case CLASS_RX: return set_rx(n, hdr[1]);
	case CLASS_MAC: return set_mac(n, hdr[1]);
	case CLASS_VLAN: return set_vlan(n, hdr[1]);
	case CLASS_GUEST_OFFLOADS: return set_offloads(n, hdr[1]);
	default: return false;
	}
}

void virtio_net_control(struct virtio_net *n)
{
	struct virtq *q = &n->dev.queue[VIRTIO_NET_CTRL];

	while (virtq_pop(q, n->elem) > 0) {
		u8 ack = obey(n) ? ACK_OK : ACK_ERR;

		virtq_push(q, n->elem, (u32)virtq_write(n->elem, 0, &ack, 1));
	}
	virtq_signal(q);
}
