/*
 * A byte stream behind a serial port, a console or a monitor. The front end (the chip) gives
 * receive; the back end gives write. All calls are made with the VM's device lock held.
 */
#ifndef RINGSHIFT_CHARDEV_H
#define RINGSHIFT_CHARDEV_H

#include "base.h"

/* What happens at the other side. */
enum chardev_event {
	CHARDEV_OPENED, /* somebody is there; also once at the start, if somebody is there then */
	CHARDEV_CLOSED, /* gone; what is written is dropped until the next OPENED */
	CHARDEV_FOCUS,  /* a shared back end's input goes to this front end from now on */
	CHARDEV_BREAK,  /* a break condition on the line */
};

struct chardev {
	/* Back end: take len bytes from the chip. Never fails towards the guest: a back end whose
	 * reader is gone drops them. NULL: nowhere. */
	void (*write)(struct chardev *c, const u8 *buf, size_t len);
	/* Back end: how many bytes write takes now without waiting for their reader. A front end
	 * that has been told 0 hears of room by writable. NULL: any number. */
	size_t (*can_write)(struct chardev *c);
	/* Front end: how many bytes it can take now, and here they are (len at most that). */
	size_t (*can_receive)(void *dev);
	void (*receive)(void *dev, const u8 *buf, size_t len);
	/* Back end: the front end has room again (after can_receive said 0). May be NULL. */
	void (*room)(struct chardev *c);
	/* Front end, both may be NULL: can_write would no longer say 0; something happened. */
	void (*writable)(void *dev);
	void (*event)(void *dev, enum chardev_event event);
	void *dev; /* front end's */
	/* Front end: it hears of input and room while the VM is stopped, too. */
	bool live;
};

static inline void chardev_write(struct chardev *c, const u8 *buf, size_t len)
{
	if (c && c->write)
		c->write(c, buf, len);
}

static inline size_t chardev_can_write(struct chardev *c)
{
	return c && c->write && c->can_write ? c->can_write(c) : SIZE_MAX;
}

#endif
