/*
 * virtio 1.x, what devices see of it: queues, features, configuration space (Virtual I/O Device
 * Version 1.2, sections 2 and 5). virtio.c holds the split rings, virtio_pci.c the transport. All
 * calls are made on the vCPU thread with the device lock held.
 *
 * Everything in a ring is the driver's word. A ring that cannot be right breaks its device: it
 * reports DEVICE_NEEDS_RESET (2.1.2), does nothing more until reset, and is counted
 * (virtio_broken).
 */
#ifndef RINGSHIFT_VIRTIO_H
#define RINGSHIFT_VIRTIO_H

#include <sys/uio.h>

#include "base.h"
#include "dma.h"

enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
};

/* Bits 24 to 41 of the features belong to the transport; virtio.c offers what it implements. */
#define VIRTIO_F_INDIRECT_DESC   BIT(28)
#define VIRTIO_F_EVENT_IDX       BIT(29)
#define VIRTIO_F_VERSION_1       BIT(32)
#define VIRTIO_F_ACCESS_PLATFORM BIT(33)
#define VIRTIO_F_RING_RESET      BIT(40)

#define VIRTQ_MAX_SIZE    1024 /* entries, at most */
#define VIRTQ_SIZE        256  /* offered unless the type says otherwise */
#define VIRTQ_MAX_SEGS    1024 /* of one chain: at most the queue's size */
#define VIRTIO_MAX_QUEUES 64

/* Device status (2.1). */
enum {
	VIRTIO_S_ACKNOWLEDGE = 1,
	VIRTIO_S_DRIVER = 2,
	VIRTIO_S_DRIVER_OK = 4,
	VIRTIO_S_FEATURES_OK = 8,
	VIRTIO_S_NEEDS_RESET = 64,
	VIRTIO_S_FAILED = 128,
};

#define VIRTIO_NO_VECTOR 0xffff

struct virtio_dev;

/* A type of device: one const struct. */
struct virtio_type {
	const char *name;
	enum virtio_id id;
	u64 features;    /* offered, without the transport's */
	unsigned queues; /* at most; a device may have fewer: virtio_dev.queue_count */
	u16 queue_size;  /* entries offered for each, a power of two; 0: VIRTQ_SIZE */
	/* Queue q was kicked: pop until empty. */
	void (*notify)(struct virtio_dev *dev, unsigned q);
	/* The driver has accepted features (dev->driver_features), before the queues run. NULL:
	 * nothing to do. false: a combination that cannot be, FEATURES_OK is refused. */
	bool (*features_ok)(struct virtio_dev *dev);
	/* DRIVER_OK was set, or cleared by reset. On reset everything in flight ends before it
	 * returns: no element popped before may be pushed after. NULL: nothing to do. */
	void (*start)(struct virtio_dev *dev);
	void (*reset)(struct virtio_dev *dev);
	/* A single queue is reset: as reset, for this queue. Types that have it are offered
	 * VIRTIO_F_RING_RESET. */
	void (*queue_reset)(struct virtio_dev *dev, unsigned q);
	/* Device configuration: offset+len lies within config_len. NULL write: read-only. */
	void (*config_read)(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len);
	void (*config_write)(struct virtio_dev *dev, unsigned offset, const void *buf,
			     unsigned len);
	unsigned config_len;
};

struct virtq {
	struct virtio_dev *dev;
	unsigned index;
	u16 size; /* as the driver chose */
	bool enabled;
	bool missed; /* a kick that came when the device could not take it */
	gpa_t desc, avail, used;
	const u8 *desc_host, *avail_host; /* the same, checked; valid while enabled */
	u8 *used_host;
	u16 last_avail; /* next entry of the available ring to look at */
	u16 used_idx;   /* our copy of used->idx */
	u16 signalled;  /* used_idx at the last interrupt (event index) */
	u16 in_flight;  /* popped, not yet pushed */
	u16 vector;     /* MSI-X */
};

/* A chain of descriptors, as host memory. The device-readable segments come first. */
struct virtq_elem {
	u16 head;
	unsigned out_count, in_count; /* segments the device reads; writes */
	u64 out_len, in_len;          /* bytes of each kind */
	struct iovec *out, *in;       /* point into seg */
	gpa_t *in_gpa;                /* of each segment the device writes */
	struct iovec seg[VIRTQ_MAX_SEGS];
	gpa_t gpa[VIRTQ_MAX_SEGS];
};

struct virtio_dev {
	const struct virtio_type *type;
	const struct dma *dma;
	struct stats *stats;
	u64 offered, driver_features;
	u8 status;
	const char *broken; /* why; NULL: it is not */
	bool held;          /* the transport may not reach memory now: no queue runs */
	u8 config_generation;
	unsigned queue_count;
	u16 queue_size;
	struct virtq queue[VIRTIO_MAX_QUEUES];
	/* Transport: raise the interrupt of a queue's vector, or of a configuration change. */
	void (*interrupt)(struct virtio_dev *dev, u16 vector, bool config);
	u16 config_vector;
	void *transport;
};

static inline bool virtio_has(const struct virtio_dev *dev, u64 feature)
{
	return dev->driver_features & feature;
}

/* Afterwards the owner may change offered, queue_count and queue_size, which are the type's,
 * and sets interrupt and transport (virtio_pci does). */
void virtio_init(struct virtio_dev *dev, const struct virtio_type *type, const struct dma *dma,
		 struct stats *stats);

/* The next chain the driver made available: 1; 0 if there is none (then the driver is asked to kick
 * again); -EIO if the ring is broken. An element is some 40 KiB: the caller owns it, on the heap,
 * one for each request in flight or one per queue. */
MUST_CHECK int virtq_pop(struct virtq *q, struct virtq_elem *e);
/* Put the last chain popped back, as if it had not been popped (nothing of it was used). */
void virtq_unpop(struct virtq *q);
/* Done with a chain: the device wrote `written` bytes into its in segments, from their start.
 * Drops translations made from these bytes. virtq_signal follows, for one or several. */
void virtq_push(struct virtq *q, const struct virtq_elem *e, u32 written);
/* Interrupt the driver if it wants to know what was pushed since the last time. */
void virtq_signal(struct virtq *q);
/* Are there chains to pop, without asking for kicks? */
bool virtq_more(struct virtq *q);
/* Tell the driver whether kicks are wanted (2.7.7, 2.7.10); pop turns them on when it finds
 * nothing. */
void virtq_want_kicks(struct virtq *q, bool want);

/* The device configuration changed by itself (2.5.2). */
void virtio_config_changed(struct virtio_dev *dev);
/* Set DEVICE_NEEDS_RESET: a request no driver may make. */
void virtio_break(struct virtio_dev *dev, const char *why);

/* --- for transports --- */

/* What the driver writes. Status 0 is a reset; bits only ever go on otherwise. */
void virtio_set_status(struct virtio_dev *dev, u8 status);
void virtio_set_features(struct virtio_dev *dev, u64 features);
/* After size, desc, avail and used have been set. A queue that cannot be breaks the device. */
void virtio_enable_queue(struct virtio_dev *dev, unsigned q);
void virtio_reset_queue(struct virtio_dev *dev, unsigned q);
/* A kick. Whatever the driver is doing: it may be any number, at any time. One that comes before
 * DRIVER_OK, as some drivers have it, or while the device is held is made up for. */
void virtio_notify(struct virtio_dev *dev, unsigned q);
void virtio_hold(struct virtio_dev *dev, bool held);
/* Device configuration; bytes beyond its end read as zero. */
u64 virtio_config_read(struct virtio_dev *dev, u64 offset, unsigned size);
void virtio_config_write(struct virtio_dev *dev, u64 offset, unsigned size, u64 val);

/* Copy between a chain's segments and a buffer, from byte `at` on; bytes copied (fewer at the end).
 */
size_t virtq_read(const struct virtq_elem *e, u64 at, void *buf, size_t len);
size_t virtq_write(const struct virtq_elem *e, u64 at, const void *buf, size_t len);

#endif
