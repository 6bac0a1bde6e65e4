/*
 * The data paths of the virtio network card.
 *
 *	transmit  pop a chain, look at its header, and hand the frame on where it lies; a peer that
 *	          takes no offloads gets it summed and cut, from a copy in one piece
 *	receive   filter, then fill as many buffers as the frame needs (MRG_RXBUF), or one; a frame
 *	          the guest's driver takes no offloads for is summed and cut
 *
 * Neither waits: a transmit queue stops at a peer that is not ready and goes on when it calls room;
 * a frame without buffers is refused and comes again when the driver has kicked the receive queue.
 * Headers from the driver are checked before anybody relies on them; a frame with a bad one is
 * dropped and counted, as a card would drop a runt.
 */
#include <errno.h>
#include <string.h>

#include "virtio_net_impl.h"

_Static_assert(sizeof(struct net_meta) == VIRTIO_NET_HDR - 2, "struct virtio_net_hdr");

static struct virtio_net *to_net(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

static u64 *count(struct virtio_net *n, enum stat_id id)
{
	return &n->dev.stats->n[id];
}

/* --- transmit --- */

static bool send_piece(void *opaque, const struct iovec piece[2])
{
	static const struct net_meta plain;
	struct virtio_net *n = opaque;

	n->peer->send(n->peer, &plain, piece, piece[1].iov_len ? 2 : 1);
	return true;
}

/* A frame for a peer that wants it finished. */
static void send_finished(struct virtio_net *n, struct net_meta *m, size_t len)
{
	const struct net_emit out = {send_piece, n};
	struct iovec whole[2] = {{n->linear, len}, {NULL, 0}};

	virtq_read(n->elem, VIRTIO_NET_HDR, n->linear, len);
	++*count(n, STAT_net_tx_software);
	if (m->gso) {
		net_segment(m, n->linear, len, 0, &out);
		return;
	}
	net_finish_csum(m, n->linear, len);
	send_piece(n, whole);
}

/* Take the header off the segments; what is left. */
static unsigned skip_header(const struct virtq_elem *e, struct iovec **iov)
{
	size_t skip = VIRTIO_NET_HDR;
	unsigned i = 0;

	for (; i < e->out_count && skip >= e->out[i].iov_len; i++)
		skip -= e->out[i].iov_len;
	*iov = e->out + i;
	if (i < e->out_count) {
		e->out[i].iov_base = (u8 *)e->out[i].iov_base + skip;
		e->out[i].iov_len -= skip;
	}
	return e->out_count - i;
}

/* Headers of the frame, as far as the checks need them. */
#define LOOK_AT 640

static bool header_valid(struct virtio_net *n, const struct net_meta *m, size_t len)
{
	u8 head[LOOK_AT];
	size_t got = virtq_read(n->elem, VIRTIO_NET_HDR, head, sizeof(head));

	if (m->gso == NET_GSO_TCPV4 && !virtio_has(&n->dev, VIRTIO_NET_F_HOST_TSO4))
		return false;
	if (m->gso == NET_GSO_TCPV6 && !virtio_has(&n->dev, VIRTIO_NET_F_HOST_TSO6))
		return false;
	if (m->flags && !virtio_has(&n->dev, VIRTIO_NET_F_CSUM))
		return false;
	return net_meta_valid(m, head, got, len);
}

static void send_elem(struct virtio_net *n)
{
	struct virtq_elem *e = n->elem;
	struct net_meta m;
	struct iovec *iov;
	size_t len;

	if (e->out_len < VIRTIO_NET_HDR + NET_ETH_LEN ||
	    e->out_len > VIRTIO_NET_HDR + NET_FRAME_MAX) {
		++*count(n, STAT_net_tx_bad);
		return;
	}
	len = e->out_len - VIRTIO_NET_HDR;
	virtq_read(e, 0, &m, sizeof(m));
	m.flags &= NET_NEEDS_CSUM; /* the others are the device's to set */
	if ((m.flags || m.gso) && !header_valid(n, &m, len)) {
		++*count(n, STAT_net_tx_bad);
		return;
	}
	if (!netdev_up(n->peer)) {
		++*count(n, STAT_net_tx_lost);
		return;
	}
	++*count(n, STAT_net_tx_frames);
	if ((m.flags || m.gso) && !n->peer->offloads) {
		send_finished(n, &m, len);
	} else {
		unsigned pieces = skip_header(e, &iov);

		if (!m.flags && !m.gso)
			memset(&m, 0, sizeof(m));
		n->peer->send(n->peer, &m, iov, pieces);
	}
}

static void transmit(struct virtio_net *n)
{
	struct virtq *q = &n->dev.queue[VIRTIO_NET_TX];
	bool sent = false;

	for (;; sent = true) {
		if (!n->peer->ready(n->peer)) {
			++*count(n, STAT_net_tx_waits);
			break;
		}
		if (virtq_pop(q, n->elem) <= 0)
			break;
		send_elem(n);
		virtq_push(q, n->elem, 0);
	}
	if (!sent)
		return;
	n->peer->flush(n->peer);
	virtq_signal(q);
}

static bool running(const struct virtio_net *n, unsigned q)
{
	return n->dev.status & VIRTIO_S_DRIVER_OK && !n->dev.broken && !n->dev.held &&
	       n->dev.queue[q].enabled;
}

static void peer_room(void *nic)
{
	struct virtio_net *n = nic;

	if (running(n, VIRTIO_NET_TX))
		transmit(n);
}

/* --- receive --- */

static bool in_macs(const struct virtio_net_macs *t, const u8 *mac)
{
	if (t->all)
		return true;
	for (unsigned i = 0; i < t->count; i++)
		if (!memcmp(t->mac[i], mac, 6))
			return true;
	return false;
}

/* Does the driver want it? */
static bool wanted(const struct virtio_net *n, const u8 *frame)
{
	static const u8 broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	bool vlan = frame[12] == 0x81 && frame[13] == 0;

	if (n->promisc)
		return true;
	if (vlan && virtio_has(&n->dev, VIRTIO_NET_F_CTRL_VLAN)) {
		unsigned id = (frame[14] & 15) << 8 | frame[15];

		if (!(n->vlans[id / 8] & BIT(id % 8)))
			return false;
	}
	if (!memcmp(frame, broadcast, 6))
		return !n->nobcast;
	if (frame[0] & 1)
		return !n->nomulti && (n->allmulti || in_macs(&n->multi, frame));
	return !n->nouni && (n->alluni || !memcmp(frame, n->mac, 6) || in_macs(&n->uni, frame));
}

/* Pop chains until they hold need bytes: their number; 0: there are not enough now; -EIO: broken;
 * -ENOSPC: there will never be. */
static int gather(struct virtio_net *n, size_t need)
{
	struct virtq *q = &n->dev.queue[VIRTIO_NET_RX];
	bool merge = virtio_has(&n->dev, VIRTIO_NET_F_MRG_RXBUF);
	size_t have = 0;
	int got = 0, rc = 1;

	while (have < need && got < (merge ? VIRTIO_NET_CHAINS : 1) && got < q->size) {
		if (!n->rx[got])
			n->rx[got] = malloc(sizeof(*n->rx[got]));
		rc = n->rx[got] ? virtq_pop(q, n->rx[got]) : 0;
		if (rc <= 0)
			break;
		have += n->rx[got++]->in_len;
	}
	if (have >= need)
		return got;
	for (int i = 0; i < got && rc >= 0; i++)
		virtq_unpop(q);
	return rc == 1 ? -ENOSPC : rc;
}

/* Put a frame in two pieces into the guest's buffers. false: there are not enough now. */
static bool fill(struct virtio_net *n, const struct net_meta *m, const struct iovec piece[2])
{
	struct virtq *q = &n->dev.queue[VIRTIO_NET_RX];
	size_t need = VIRTIO_NET_HDR + piece[0].iov_len + piece[1].iov_len, at = 0, off = 0;
	u8 hdr[VIRTIO_NET_HDR];
	struct iovec part[3] = {{hdr, sizeof(hdr)}, piece[0], piece[1]};
	int chains = gather(n, need);
	unsigned p = 0;
	u16 buffers = (u16)chains;

	if (chains <= 0) {
		*count(n, STAT_net_rx_dropped) += chains < 0;
		return chains < 0;
	}
	memcpy(hdr, m, sizeof(*m));
	memcpy(hdr + sizeof(*m), &buffers, 2);
	for (int i = 0; i < chains; i++, at = 0) {
		while (p < ARRAY_LEN(part)) {
			size_t put = virtq_write(n->rx[i], at, (u8 *)part[p].iov_base + off,
						 part[p].iov_len - off);

			at += put, off += put;
			if (off < part[p].iov_len)
				break; /* the chain is full */
			off = 0, p++;
		}
		virtq_push(q, n->rx[i], (u32)at);
	}
	++*count(n, STAT_net_rx_frames);
	return true;
}

static bool fill_segment(void *opaque, const struct iovec piece[2])
{
	static const struct net_meta plain;

	return fill(opaque, &plain, piece);
}

/* A segment too large for a driver that takes none. */
static bool fill_cut(struct virtio_net *n, const struct net_meta *m, const u8 *frame, size_t len)
{
	const struct net_emit out = {fill_segment, n};
	int refused = net_segment(m, frame, len, n->rx_segment, &out);

	n->rx_segment = refused < 0 ? 0 : (unsigned)refused;
	*count(n, STAT_net_rx_software) += refused < 0;
	return refused < 0;
}

static bool peer_receive(void *nic, const struct net_meta *meta, u8 *frame, size_t len)
{
	struct virtio_net *n = nic;
	struct net_meta m = *meta;
	struct iovec piece[2] = {{frame, len}, {NULL, 0}};
	u64 tso = m.gso == NET_GSO_TCPV6 ? VIRTIO_NET_F_GUEST_TSO6 : VIRTIO_NET_F_GUEST_TSO4;

	if (!running(n, VIRTIO_NET_RX) || n->peer->pulled) {
		++*count(n, STAT_net_rx_dropped);
		return true;
	}
	if (!wanted(n, frame)) {
		++*count(n, STAT_net_rx_filtered);
		return true;
	}
	if (m.gso && !(n->guest_offloads & tso)) {
		n->rx_waits = !fill_cut(n, &m, frame, len);
	} else {
		if (!(n->guest_offloads & VIRTIO_NET_F_GUEST_CSUM)) {
			net_finish_csum(&m, frame, len);
			m.flags = 0;
		}
		n->rx_waits = !fill(n, &m, piece);
	}
	*count(n, STAT_net_rx_waits) += n->rx_waits;
	return !n->rx_waits;
}

static void peer_received(void *nic)
{
	struct virtio_net *n = nic;

	if (running(n, VIRTIO_NET_RX))
		virtq_signal(&n->dev.queue[VIRTIO_NET_RX]);
}

static void resume_peer(struct virtio_net *n)
{
	if (!n->rx_waits)
		return;
	n->rx_waits = false;
	n->peer->resume(n->peer);
}

/* --- the device --- */

static void peer_link_changed(void *nic)
{
	struct virtio_net *n = nic;

	++*count(n, STAT_net_link_changes);
	n->rx_segment = 0; /* what was being cut is gone */
	n->rx_waits = false;
	virtio_config_changed(&n->dev);
}

static void net_notify(struct virtio_dev *dev, unsigned q)
{
	struct virtio_net *n = to_net(dev);

	if (q == VIRTIO_NET_RX)
		resume_peer(n);
	else if (q == VIRTIO_NET_TX)
		transmit(n);
	else if (q == VIRTIO_NET_CTRL)
		virtio_net_control(n);
}

/* 5.1.3.1: what needs another feature. */
static bool net_features_ok(struct virtio_dev *dev)
{
	static const struct {
		u64 feature, needs;
	} rule[] = {
	    {VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM},
	    {VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM},
	    {VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM},
	    {VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM},
	    {VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ},
	    {VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ},
	    {VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_RX},
	    {VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ},
	    {VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rule); i++)
		if (virtio_has(dev, rule[i].feature) && !virtio_has(dev, rule[i].needs))
			return false;
	to_net(dev)->guest_offloads = dev->driver_features & VIRTIO_NET_GUEST_OFFLOADS;
	return true;
}

static void forget_driver(struct virtio_net *n)
{
	memcpy(n->mac, n->opt.mac, 6);
	n->promisc = true; /* until the driver says otherwise, as without a control queue */
	n->allmulti = n->alluni = n->nomulti = n->nouni = n->nobcast = false;
	n->uni.count = n->multi.count = 0;
	n->uni.all = n->multi.all = false;
	memset(n->vlans, 0, sizeof(n->vlans));
	n->guest_offloads = 0;
	n->rx_segment = 0;
}

static void net_start(struct virtio_dev *dev)
{
	resume_peer(to_net(dev));
}

/* Nothing of the queues is kept between calls: only the peer may hold a frame back for us. */
static void net_reset(struct virtio_dev *dev)
{
	struct virtio_net *n = to_net(dev);

	forget_driver(n);
	resume_peer(n);
}

static void net_queue_reset(struct virtio_dev *dev, unsigned q)
{
	if (q == VIRTIO_NET_RX)
		resume_peer(to_net(dev));
}

static void net_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct virtio_net *n = to_net(dev);
	struct virtio_net_config cfg = {
	    .status = netdev_up(n->peer), .max_queue_pairs = 1, .mtu = n->opt.mtu};

	memcpy(cfg.mac, n->mac, sizeof(cfg.mac));
	memcpy(buf, (u8 *)&cfg + offset, len);
}

static const struct virtio_type virtio_net_type = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .features = VIRTIO_NET_FEATURES,
    .queues = VIRTIO_NET_QUEUES,
    .notify = net_notify,
    .features_ok = net_features_ok,
    .start = net_start,
    .reset = net_reset,
    .queue_reset = net_queue_reset,
    .config_read = net_config_read,
    .config_len = sizeof(struct virtio_net_config),
};

int virtio_net_init(struct virtio_net *n, const struct virtio_net_options *opt, struct netdev *peer,
		    const struct dma *dma, struct stats *stats)
{
	memset(n, 0, sizeof(*n));
	n->elem = malloc(sizeof(*n->elem));
	n->linear = malloc(NET_FRAME_MAX);
	if (!n->elem || !n->linear)
		return -ENOMEM;
	virtio_init(&n->dev, &virtio_net_type, dma, stats);
	n->opt = *opt;
	if (opt->mtu)
		n->dev.offered |= VIRTIO_NET_F_MTU;
	n->dev.offered &= ~opt->without;
	forget_driver(n);
	n->peer = peer;
	peer->receive = peer_receive;
	peer->received = peer_received;
	peer->room = peer_room;
	peer->link_changed = peer_link_changed;
	peer->nic = n;
	return 0;
}

void virtio_net_destroy(struct virtio_net *n)
{
	if (n->peer)
		n->peer->nic = NULL;
	for (unsigned i = 0; i < VIRTIO_NET_CHAINS; i++)
		free(n->rx[i]);
	free(n->elem);
	free(n->linear);
}
