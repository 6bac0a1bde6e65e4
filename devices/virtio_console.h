/*
 * Console device (Virtual I/O Device Version 1.2, section 5.3): up to 31 ports, each a byte stream
 * between a character device and /dev/hvcN or a virtio port of the guest.
 */
#ifndef RINGSHIFT_VIRTIO_CONSOLE_H
#define RINGSHIFT_VIRTIO_CONSOLE_H

#include "chardev.h"
#include "timer.h"
#include "virtio.h"

#define VIRTIO_CONSOLE_F_MULTIPORT   BIT(1)
#define VIRTIO_CONSOLE_F_EMERG_WRITE BIT(2)

#define VIRTIO_CONSOLE_PORTS 31 /* as many as there are queues for */

struct virtio_console;

struct virtio_console_port {
	struct virtio_console *con;
	unsigned nr;
	bool console;        /* hvc, not a generic port */
	const char *name;    /* NULL: none; the owner's */
	struct chardev *chr; /* NULL: nobody; its front end's part is the port's */
	/* State of one run of the driver. */
	bool guest_open, host_open;
	u8 pending; /* control messages to send: a bit for each event */
	/* A chain of the driver's that is being written out, and how far; one to be filled. */
	bool tx_held, rx_held;
	u64 tx_at;
	struct virtq_elem tx, rx;
};

struct virtio_console {
	struct virtio_dev dev;
	unsigned max_ports;
	struct virtio_console_port *port[VIRTIO_CONSOLE_PORTS];
	struct timer go_on; /* for output that was interrupted, lest it take the vCPU's time */
	struct virtq_elem control;
};

void virtio_console_init(struct virtio_console *con, const struct dma *dma, struct timerq *q,
			 struct stats *stats, unsigned max_ports);

/* Add a port, before the machine runs: con, nr, console, name and chr are set, the rest is zero. */
void virtio_console_add(struct virtio_console_port *port);

#endif
