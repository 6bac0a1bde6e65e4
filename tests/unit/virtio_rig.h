/*
 * A driver of virtio devices for unit tests: some RAM with nothing but guest addresses in it, a
 * split ring that can be filled right or wrong, and a record of interrupts.
 */
#ifndef RINGSHIFT_VIRTIO_RIG_H
#define RINGSHIFT_VIRTIO_RIG_H

#include <string.h>

#include "virtio.h"

#define RIG_RAM    0x40000u
#define RIG_DESC   0x0000u /* of queue 0; RIG_QUEUE further for each one more */
#define RIG_AVAIL  0x4000u
#define RIG_USED   0x5000u
#define RIG_QUEUE  0x8000u
#define RIG_BUFFER 0x20000u /* free for tests, to the end */

struct vring {
	struct virtio_rig *rig;
	unsigned q;
	u16 size, avail, used; /* next free entry of avail; first not yet seen in used */
};

struct virtio_rig {
	u8 ram[RIG_RAM] __attribute__((aligned(4096)));
	struct dma dma;
	struct stats stats;
	u64 noted;               /* bytes dma_written was told of */
	u64 discarded, discards; /* bytes, and calls */
	gpa_t discarded_at;      /* of the last one */
	unsigned interrupts, config_interrupts;
	u16 vector; /* of the last one */
};

static inline void *rig_dma_ptr(void *opaque, gpa_t gpa, u64 len)
{
	struct virtio_rig *rig = opaque;

	return gpa < RIG_RAM && len <= RIG_RAM - gpa ? rig->ram + gpa : NULL;
}

static inline void rig_dma_written(void *opaque, gpa_t gpa, u64 len)
{
	struct virtio_rig *rig = opaque;

	BUG_ON(gpa >= RIG_RAM || len > RIG_RAM - gpa);
	rig->noted += len;
}

static inline void rig_dma_discard(void *opaque, gpa_t gpa, u64 len)
{
	struct virtio_rig *rig = opaque;

	rig->discarded += len;
	rig->discarded_at = gpa;
	rig->discards++;
}

static inline void rig_interrupt(struct virtio_dev *dev, u16 vector, bool config)
{
	struct virtio_rig *rig = dev->transport;

	rig->interrupts += !config;
	rig->config_interrupts += config;
	rig->vector = vector;
}

static inline void virtio_rig_init(struct virtio_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	rig->dma = (struct dma){rig_dma_ptr, rig_dma_written, rig_dma_discard, rig};
}

/* Without a transport: interrupts come here. */
static inline void virtio_rig_connect(struct virtio_rig *rig, struct virtio_dev *dev)
{
	dev->transport = rig;
	dev->interrupt = rig_interrupt;
}

/* Say hello and take the features that are offered, but for `without`. */
static inline void virtio_rig_start(struct virtio_dev *dev, u64 without)
{
	virtio_set_status(dev, 0);
	virtio_set_status(dev, 1);
	virtio_set_status(dev, 3);
	virtio_set_features(dev, dev->offered & ~without);
	virtio_set_status(dev, 11);
	BUG_ON(!(dev->status & VIRTIO_S_FEATURES_OK));
}

static inline void virtio_rig_ok(struct virtio_dev *dev)
{
	virtio_set_status(dev, 15);
}

static inline u16 rig_get16(const struct virtio_rig *rig, u32 at)
{
	u16 v;

	memcpy(&v, rig->ram + at, sizeof(v));
	return v;
}

static inline void rig_put16(struct virtio_rig *rig, u32 at, u16 v)
{
	memcpy(rig->ram + at, &v, sizeof(v));
}

/* Set a queue up in its usual place. */
static inline struct vring vring_make(struct virtio_rig *rig, struct virtio_dev *dev, unsigned q,
				      u16 size)
{
	u32 at = q * RIG_QUEUE;

	memset(rig->ram + at, 0, RIG_QUEUE);
	dev->queue[q].size = size;
	dev->queue[q].desc = at + RIG_DESC;
	dev->queue[q].avail = at + RIG_AVAIL;
	dev->queue[q].used = at + RIG_USED;
	virtio_enable_queue(dev, q);
	return (struct vring){.rig = rig, .q = q, .size = size};
}

#define RIG_NEXT     1
#define RIG_WRITE    2
#define RIG_INDIRECT 4

/* A descriptor, in a table at `table`. */
static inline void rig_desc(struct virtio_rig *rig, u32 table, unsigned n, u64 addr, u32 len,
			    u16 flags, u16 next)
{
	u8 *d = rig->ram + table + 16 * n;

	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

static inline void vring_desc(struct vring *r, unsigned n, u64 addr, u32 len, u16 flags, u16 next)
{
	rig_desc(r->rig, r->q * RIG_QUEUE + RIG_DESC, n, addr, len, flags, next);
}

/* Make a chain available. */
static inline void vring_add(struct vring *r, u16 head)
{
	u32 at = r->q * RIG_QUEUE + RIG_AVAIL;

	rig_put16(r->rig, at + 4 + 2 * (r->avail % r->size), head);
	rig_put16(r->rig, at + 2, ++r->avail);
}

/* The next used entry: its length, -1 if there is none. */
static inline s64 vring_take(struct vring *r, u32 *id)
{
	u32 at = r->q * RIG_QUEUE + RIG_USED, entry = at + 4 + 8 * (r->used % r->size), len;

	if (rig_get16(r->rig, at + 2) == r->used)
		return -1;
	r->used++;
	memcpy(id, r->rig->ram + entry, 4);
	memcpy(&len, r->rig->ram + entry + 4, 4);
	return len;
}

#endif
