/*
 * Block device (Virtual I/O Device Version 1.2, section 5.2) on a disk image. Requests run on
 * worker threads, several at once, straight between the image and guest memory.
 */
#ifndef RINGSHIFT_VIRTIO_BLK_H
#define RINGSHIFT_VIRTIO_BLK_H

#include "aio.h"
#include "disk.h"
#include "virtio.h"

#define VIRTIO_BLK_MAX_QUEUES 16
#define VIRTIO_BLK_ID_LEN     20

struct virtio_blk_config {
	struct disk *disk; /* the caller's; stays until after virtio_blk_end */
	struct aio *aio;
	const char *serial; /* at most VIRTIO_BLK_ID_LEN bytes count; NULL: none */
	bool readonly;
	bool cached;    /* the image is behind the host's page cache */
	bool writeback; /* the host's cache is used: writes are lasting only after a flush */
	bool discard, write_zeroes; /* offer them */
	bool config_wce;            /* the driver may choose */
	unsigned queues;
	u16 queue_size;
	u32 logical_block, physical_block; /* bytes, powers of two, 512 at least */
};

struct blk_request;

struct virtio_blk {
	struct virtio_dev dev;
	struct virtio_blk_config cfg;
	u8 id[VIRTIO_BLK_ID_LEN];
	bool writeback; /* now */
	u32 discard_alignment;
	struct blk_request *spare; /* allocated, not in use */
	unsigned in_flight;
	u64 inline_left; /* bytes of this kick's requests that may be copied at once */
	bool starved;    /* there was no memory for another one: look again when one is done */
};

void virtio_blk_init(struct virtio_blk *blk, const struct virtio_blk_config *cfg,
		     const struct dma *dma, struct stats *stats);
/* Ends what is in flight, frees. */
void virtio_blk_end(struct virtio_blk *blk);

#endif
