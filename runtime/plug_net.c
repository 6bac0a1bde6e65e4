/*
 * -device virtio-net-pci.
 */
#include <errno.h>
#include <string.h>

#include "netdevs.h"
#include "plug.h"
#include "virtio_net.h"

#define CLASS_ETHERNET 0x020000
#define VECTORS        4 /* two queues, control, configuration */

struct plug_net {
	struct plugged plugged;
	struct virtio_pci pci;
	struct virtio_net net;
};

static void destroy(struct plugged *p)
{
	struct plug_net *pn = container_of(p, struct plug_net, plugged);

	virtio_net_destroy(&pn->net);
	free(pn);
}

static void describe(struct plugged *p, FILE *out)
{
	const struct plug_net *pn = container_of(p, struct plug_net, plugged);
	const u8 *m = pn->net.mac;

	plug_describe_virtio(&pn->pci, out);
	fprintf(out, ", netdev %s, %02x:%02x:%02x:%02x:%02x:%02x, link %s", pn->net.peer->id, m[0],
		m[1], m[2], m[3], m[4], m[5], netdev_up(pn->net.peer) ? "up" : "down");
}

static int parse_features(struct keyval *k, u64 *without)
{
	static const u64 tso = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
	static const u64 guest_tso = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6;
	static const struct {
		const char *key;
		u64 bits; /* what is not offered when it is off */
	} feature[] = {
	    {"csum", VIRTIO_NET_F_CSUM | tso},
	    {"guest_csum", VIRTIO_NET_F_GUEST_CSUM | guest_tso},
	    {"gso", tso},
	    {"host_tso4", VIRTIO_NET_F_HOST_TSO4},
	    {"host_tso6", VIRTIO_NET_F_HOST_TSO6},
	    {"guest_tso4", VIRTIO_NET_F_GUEST_TSO4},
	    {"guest_tso6", VIRTIO_NET_F_GUEST_TSO6},
	    {"ctrl_guest_offloads", VIRTIO_NET_F_CTRL_GUEST_OFFLOADS},
	    {"mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF},
	    {"status", VIRTIO_NET_F_STATUS},
	    {"ctrl_vq", VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_VLAN |
			    VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_MAC_ADDR |
			    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS},
	};

	for (unsigned i = 0; i < ARRAY_LEN(feature); i++) {
		bool on = true;

		if (keyval_bool(k, feature[i].key, &on))
			return -EINVAL;
		*without |= on ? 0 : feature[i].bits;
	}
	return 0;
}

/* The size of both rings is one number here; QEMU has two. */
static int parse_rings(struct keyval *k, u16 *size)
{
	u64 rx = *size, tx = *size;
	int rc = keyval_number(k, "rx_queue_size", &rx, VIRTQ_MAX_SIZE);

	tx = rx;
	rc = rc ? rc : keyval_number(k, "tx_queue_size", &tx, VIRTQ_MAX_SIZE);
	if (rc)
		return rc;
	rx = MAX(rx, tx);
	if (rx < 16 || (rx & (rx - 1)))
		return keyval_fail(k,
				   "rx_queue_size and tx_queue_size are powers of two, from 16 "
				   "to %d",
				   VIRTQ_MAX_SIZE);
	*size = (u16)rx;
	return 0;
}

static int parse(struct vm *vm, struct keyval *k, struct virtio_net_options *o, u16 *rings)
{
	/* Of QEMU's; the last byte counts the cards. */
	const u8 mac[6] = {0x52, 0x54, 0, 0x12, 0x34, (u8)(0x56 + vm->nics)};
	u64 mtu = 0;
	bool mq = false;
	int rc;

	memcpy(o->mac, mac, sizeof(mac));
	rc = net_parse_mac(k, keyval_get(k, "mac"), o->mac);
	rc = rc ? rc : keyval_number(k, "host_mtu", &mtu, 65535);
	rc = rc ? rc : parse_features(k, &o->without);
	rc = rc ? rc : parse_rings(k, rings);
	rc = rc ? rc : keyval_bool(k, "mq", &mq);
	if (rc)
		return rc;
	if (mtu && mtu < NET_MTU_MIN)
		return keyval_fail(k, "host_mtu=%u: %d is the least", (unsigned)mtu, NET_MTU_MIN);
	if (mq)
		return keyval_fail(k, "mq=on is not in this version: there is one pair of queues");
	o->mtu = (u16)mtu;
	return 0;
}

int plug_virtio_net(struct vm *vm, struct keyval *k)
{
	struct virtio_net_options o = {.without = 0};
	const char *id = keyval_get(k, "netdev");
	struct netdev *peer = id ? netdev_find(vm, id) : NULL;
	u16 rings = VIRTQ_SIZE;
	struct plug_net *pn;
	int rc = parse(vm, k, &o, &rings);

	if (rc)
		return rc;
	if (!peer)
		return id ? keyval_fail(k, "netdev=%s: there is no such -netdev", id)
			  : keyval_fail(k, "netdev= is missing");
	if (peer->nic)
		return keyval_fail(k, "netdev=%s has a card already", id);
	pn = calloc(1, sizeof(*pn));
	if (!pn)
		return -ENOMEM;
	rc = virtio_net_init(&pn->net, &o, peer, &vm->dma, &vm->stats);
	if (!rc) {
		pn->net.dev.queue_size = rings;
		rc = plug_virtio(vm, k, &pn->pci, &pn->net.dev, VECTORS, CLASS_ETHERNET);
	}
	if (rc) {
		virtio_net_destroy(&pn->net);
		free(pn);
		return rc;
	}
	vm->nics++;
	pn->plugged.destroy = destroy;
	pn->plugged.describe = describe;
	plug_register(vm, &pn->plugged);
	return 0;
}
