/*
 * A byte stream behind a serial port. The front end (the chip) gives receive; the back end gives
 * write. Both directions run with the VM's device lock held.
 */
#ifndef RINGSHIFT_CHARDEV_H
#define RINGSHIFT_CHARDEV_H

#include "base.h"

struct chardev {
	/* Back end: take len bytes from the chip. Never fails towards the guest: a back end whose
	 * reader is gone drops them. NULL: nowhere. */
	void (*write)(struct chardev *c, const u8 *buf, size_t len);
	/* Front end: how many bytes it can take now, and here they are (len at most that). */
	size_t (*can_receive)(void *dev);
	void (*receive)(void *dev, const u8 *buf, size_t len);
	/* Back end: the front end has room again (after can_receive said 0). May be NULL. */
	void (*room)(struct chardev *c);
	void *dev; /* front end's */
};

static inline void chardev_write(struct chardev *c, const u8 *buf, size_t len)
{
	if (c && c->write)
		c->write(c, buf, len);
}

#endif
