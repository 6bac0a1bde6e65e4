/*
 * Console device.
 *
 * Output: a chain is handed to the character device as fast as that takes it; while it takes
 * nothing the chain is kept, and the driver waits. However long a chain is, the vCPU does not spend
 * more than BUDGET bytes on it at a time. Input: the next empty chain is kept while the character
 * device asks how much there is room for; what comes is put in and the chain returned.
 *
 * Control messages to the driver are facts about ports, not a queue: which are still to be told is
 * a bit each, so there can never be too many of them, however often a socket's client comes and
 * goes.
 *
 * A driver without VIRTIO_CONSOLE_F_MULTIPORT has port 0 and no control queues.
 */
#include <string.h>

#include "virtio_console.h"

#define CONTROL_RX 2
#define CONTROL_TX 3
#define BUDGET     (256 * KIB)
#define PAUSE_NS   (NS_PER_SEC / 1000) /* when that is spent */
#define RX_MOST    (64 * KIB)          /* of one chain */

/* Control events (5.3.6.2). */
enum {
	DEVICE_READY,
	PORT_ADD,
	PORT_REMOVE,
	PORT_READY,
	CONSOLE_PORT,
	RESIZE,
	PORT_OPEN,
	PORT_NAME,
};

struct control {
	u32 id;
	u16 event, value;
};

struct config {
	u16 cols, rows;
	u32 max_nr_ports, emerg_wr;
};

static struct virtio_console *console_of(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_console, dev);
}

static unsigned rx_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

static struct virtq *rx_of(const struct virtio_console_port *p)
{
	return &p->con->dev.queue[rx_queue(p->nr)];
}

static struct virtq *tx_of(const struct virtio_console_port *p)
{
	return &p->con->dev.queue[rx_queue(p->nr) + 1];
}

static bool multiport(struct virtio_console *con)
{
	return virtio_has(&con->dev, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* The port a queue belongs to, NULL if it has none or is a control queue. */
static struct virtio_console_port *port_of(struct virtio_console *con, unsigned queue)
{
	unsigned nr = queue < CONTROL_RX ? 0 : queue / 2 - 1;

	if (queue == CONTROL_RX || queue == CONTROL_TX || nr >= con->max_ports)
		return NULL;
	return con->port[nr];
}

/* --- what the driver is told --- */

static const unsigned order[] = {PORT_ADD, CONSOLE_PORT, PORT_NAME, PORT_OPEN};

/* Write the message into a chain; bytes. */
static u32 put_message(struct virtio_console_port *p, unsigned event, const struct virtq_elem *e)
{
	const struct control c = {
	    .id = p->nr,
	    .event = (u16)event,
	    .value = event == PORT_OPEN ? p->host_open : 1,
	};
	size_t n = virtq_write(e, 0, &c, sizeof(c));

	if (event == PORT_NAME)
		n += virtq_write(e, n, p->name, strlen(p->name));
	return (u32)n;
}

/* One message of one port; false: there is no buffer for it. */
static bool tell_one(struct virtio_console_port *p, unsigned event)
{
	struct virtio_console *con = p->con;
	struct virtq *q = &con->dev.queue[CONTROL_RX];

	if (!(p->pending & 1u << event))
		return true;
	if (virtq_pop(q, &con->control) <= 0)
		return false;
	p->pending &= (u8) ~(1u << event);
	virtq_push(q, &con->control, put_message(p, event, &con->control));
	return true;
}

static void tell(struct virtio_console *con)
{
	bool room = true;

	for (unsigned nr = 0; nr < con->max_ports && room; nr++)
		for (unsigned i = 0; con->port[nr] && i < ARRAY_LEN(order) && room; i++)
			room = tell_one(con->port[nr], order[i]);
	virtq_signal(&con->dev.queue[CONTROL_RX]);
}

/* --- output --- */

/* As much of the chain in hand as the character device takes. True: all of it. */
static bool write_chain(struct virtio_console_port *p, u64 *budget)
{
	u8 buf[4096];

	for (;;) {
		size_t n = MIN(chardev_can_write(p->chr), MIN(sizeof(buf), *budget));

		if (p->tx_at >= p->tx.out_len)
			return true;
		if (!n)
			return false;
		n = virtq_read(&p->tx, p->tx_at, buf, n);
		chardev_write(p->chr, buf, n);
		p->tx_at += n;
		*budget -= n;
	}
}

static void transmit(struct virtio_console_port *p)
{
	struct virtq *q = tx_of(p);
	u64 budget = BUDGET;

	while (p->tx_held || virtq_pop(q, &p->tx) > 0) {
		if (!p->tx_held)
			p->tx_at = 0;
		p->tx_held = !write_chain(p, &budget);
		if (p->tx_held)
			break;
		virtq_push(q, &p->tx, 0);
	}
	virtq_signal(q);
	if (!budget)
		timer_arm(&p->con->go_on, timerq_now(p->con->go_on.q) + PAUSE_NS);
}

static void on_go_on(void *opaque)
{
	struct virtio_console *con = opaque;

	for (unsigned nr = 0; nr < con->max_ports; nr++)
		if (con->port[nr] && con->port[nr]->tx_held)
			transmit(con->port[nr]);
}

static void writable(void *opaque)
{
	struct virtio_console_port *p = opaque;

	if (p->tx_held)
		transmit(p);
}

/* --- input --- */

static size_t can_receive(void *opaque)
{
	struct virtio_console_port *p = opaque;
	struct virtq *q = rx_of(p);

	if (multiport(p->con) && !p->guest_open)
		return 0;
	while (!p->rx_held) {
		if (virtq_pop(q, &p->rx) <= 0)
			return 0;
		p->rx_held = p->rx.in_len;
		if (!p->rx_held) /* a chain that can take nothing */
			virtq_push(q, &p->rx, 0);
	}
	return MIN(p->rx.in_len, RX_MOST);
}

static void receive(void *opaque, const u8 *buf, size_t len)
{
	struct virtio_console_port *p = opaque;
	struct virtq *q = rx_of(p);

	BUG_ON(!p->rx_held || len > p->rx.in_len);
	p->rx_held = false;
	virtq_push(q, &p->rx, (u32)virtq_write(&p->rx, 0, buf, len));
	virtq_signal(q);
}

static void room(struct virtio_console_port *p)
{
	if (p->chr && p->chr->room)
		p->chr->room(p->chr);
}

/* A console is always open at our side: nobody may have connected yet who will read what it said.
 */
static void event(void *opaque, enum chardev_event what)
{
	struct virtio_console_port *p = opaque;

	if (p->console || (what != CHARDEV_OPENED && what != CHARDEV_CLOSED))
		return;
	p->host_open = what == CHARDEV_OPENED;
	if (multiport(p->con) && (p->con->dev.status & VIRTIO_S_DRIVER_OK)) {
		p->pending |= 1u << PORT_OPEN;
		tell(p->con);
	}
}

/* --- what the driver says --- */

static void on_port_ready(struct virtio_console_port *p)
{
	if (p->console)
		p->pending |= 1u << CONSOLE_PORT;
	if (p->name)
		p->pending |= 1u << PORT_NAME;
	if (p->host_open)
		p->pending |= 1u << PORT_OPEN;
}

static void on_control(struct virtio_console *con, const struct control *c)
{
	struct virtio_console_port *p = c->id < con->max_ports ? con->port[c->id] : NULL;

	if (c->event == DEVICE_READY && c->value)
		for (unsigned nr = 0; nr < con->max_ports; nr++)
			if (con->port[nr])
				con->port[nr]->pending |= 1u << PORT_ADD;
	if (!p)
		return;
	if (c->event == PORT_READY && c->value)
		on_port_ready(p);
	if (c->event == PORT_OPEN) {
		p->guest_open = c->value;
		if (c->value)
			room(p);
	}
}

static void take_control(struct virtio_console *con)
{
	struct virtq *q = &con->dev.queue[CONTROL_TX];
	struct control c;

	while (virtq_pop(q, &con->control) > 0) {
		bool whole = virtq_read(&con->control, 0, &c, sizeof(c)) == sizeof(c);

		virtq_push(q, &con->control, 0);
		if (whole)
			on_control(con, &c);
	}
	virtq_signal(q);
	tell(con);
}

static void serve(struct virtio_dev *dev, unsigned index)
{
	struct virtio_console *con = console_of(dev);
	struct virtio_console_port *p = port_of(con, index);

	if (index == CONTROL_RX)
		tell(con);
	else if (index == CONTROL_TX)
		take_control(con);
	else if (p && index % 2)
		transmit(p);
	else if (p)
		room(p);
}

/* --- the device --- */

static void queue_reset(struct virtio_dev *dev, unsigned index)
{
	struct virtio_console_port *p = port_of(console_of(dev), index);

	if (p && index % 2)
		p->tx_held = false;
	else if (p)
		p->rx_held = false;
}

static void reset(struct virtio_dev *dev)
{
	struct virtio_console *con = console_of(dev);

	for (unsigned nr = 0; nr < con->max_ports; nr++)
		if (con->port[nr]) {
			con->port[nr]->tx_held = con->port[nr]->rx_held = false;
			con->port[nr]->guest_open = false;
			con->port[nr]->pending = 0;
		}
	timer_cancel(&con->go_on);
}

static void config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct config c = {.max_nr_ports = console_of(dev)->max_ports};

	memcpy(buf, (const u8 *)&c + offset, len);
}

/* A character without any queue, for a guest in distress. */
static void config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	struct virtio_console *con = console_of(dev);

	(void)len;
	if (offset == offsetof(struct config, emerg_wr) && con->port[0])
		chardev_write(con->port[0]->chr, buf, 1);
}

static const struct virtio_type console_type = {.name = "virtio-serial",
						.id = VIRTIO_ID_CONSOLE,
						.features = VIRTIO_CONSOLE_F_MULTIPORT |
							    VIRTIO_CONSOLE_F_EMERG_WRITE,
						.queues = 2 * (VIRTIO_CONSOLE_PORTS + 1),
						.queue_size = 128,
						.notify = serve,
						.reset = reset,
						.queue_reset = queue_reset,
						.config_read = config_read,
						.config_write = config_write,
						.config_len = sizeof(struct config)};

void virtio_console_add(struct virtio_console_port *p)
{
	struct virtio_console *con = p->con;

	BUG_ON(p->nr >= con->max_ports || con->port[p->nr]);
	con->port[p->nr] = p;
	p->host_open = p->console;
	if (!p->chr)
		return;
	p->chr->can_receive = can_receive;
	p->chr->receive = receive;
	p->chr->writable = writable;
	p->chr->event = event;
	p->chr->dev = p;
}

void virtio_console_init(struct virtio_console *con, const struct dma *dma, struct timerq *q,
			 struct stats *stats, unsigned max_ports)
{
	BUG_ON(!max_ports || max_ports > VIRTIO_CONSOLE_PORTS);
	memset(con, 0, sizeof(*con));
	virtio_init(&con->dev, &console_type, dma, stats);
	con->max_ports = max_ports;
	con->dev.queue_count = 2 * (max_ports + 1);
	timer_init(&con->go_on, q, on_go_on, con);
}
