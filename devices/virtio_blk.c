/*
 * A request is a chain: a header of 16 bytes and what is to be written; behind them what has been
 * read and one byte of status. How the driver splits that into descriptors is its business.
 *
 * Life of a request: popped and checked on the vCPU thread; done there if that takes no waiting
 * (reads of what the host has in its page cache, writes to there, errors, the serial number), else
 * by a worker;
 * pushed on the vCPU thread. Nothing the guest writes meanwhile is looked at twice: the header is
 * copied.
 */
#include <errno.h>
#include <string.h>

#include "iov.h"
#include "virtio_blk.h"

enum {
	BLK_F_SEG_MAX = 2,
	BLK_F_RO = 5,
	BLK_F_BLK_SIZE = 6,
	BLK_F_FLUSH = 9,
	BLK_F_TOPOLOGY = 10,
	BLK_F_CONFIG_WCE = 11,
	BLK_F_MQ = 12,
	BLK_F_DISCARD = 13,
	BLK_F_WRITE_ZEROES = 14,
};

enum {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};

enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

#define ZEROES_UNMAP BIT(0) /* of discard and write zeroes segments' flags */

/* Device configuration (5.2.4). */
struct blk_config_space {
	u64 capacity;
	u32 size_max, seg_max;
	u16 cylinders;
	u8 heads, sectors;
	u32 blk_size;
	u8 physical_block_exp, alignment_offset;
	u16 min_io_size;
	u32 opt_io_size;
	u8 writeback, unused0;
	u16 num_queues;
	u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
	u32 max_write_zeroes_sectors, max_write_zeroes_seg;
	u8 write_zeroes_may_unmap, unused1[3];
};

_Static_assert(sizeof(struct blk_config_space) == 64 && /* 60, and the compiler's padding */
		   offsetof(struct blk_config_space, writeback) == 32 &&
		   offsetof(struct blk_config_space, max_discard_sectors) == 36 &&
		   offsetof(struct blk_config_space, write_zeroes_may_unmap) == 56,
	       "virtio_blk_config as the specification has it");
#define CONFIG_LEN 60

struct blk_header {
	u32 type, reserved;
	u64 sector;
};

struct blk_range { /* of discard and write zeroes */
	u64 sector;
	u32 sectors, flags;
};

#define MAX_RANGES        64 /* in one request */
#define MAX_RANGE_SECTORS (GIB / DISK_SECTOR)
#define MAX_DATA          (128 * MIB) /* of one request: bounds how long a reset may take */
#define MAX_INLINE        (1 * MIB)   /* copied on the vCPU thread, of one kick's requests */
#define NEVER_LONGER      (1 * GIB)   /* not even an honest driver's mistake */

struct blk_request {
	struct blk_request *next; /* in `spare` */
	struct aio_job job;
	struct virtio_blk *blk;
	struct virtq *q;
	struct blk_header header;
	u8 status;
	bool flush_after; /* no write-back cache: a write is answered when it is lasting */
	struct blk_range range[MAX_RANGES];
	unsigned ranges;
	u64 offset, len; /* of the data */
	unsigned segs;
	struct iovec data[VIRTQ_MAX_SEGS];
	struct virtq_elem elem;
};

static struct virtio_blk *blk_of(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_blk, dev);
}

static void count(struct virtio_blk *blk, enum stat_id id, u64 n)
{
	blk->dev.stats->n[id] += n;
}

/* --- the work, on whatever thread --- */

static int zero_or_discard(struct blk_request *r)
{
	struct disk *disk = r->blk->cfg.disk;
	int rc = 0;

	for (unsigned i = 0; i < r->ranges && !rc; i++) {
		const struct blk_range *a = &r->range[i];
		u64 off = a->sector * DISK_SECTOR, len = a->sectors * DISK_SECTOR;

		if (r->header.type == BLK_T_DISCARD)
			rc = disk_discard(disk, off, len);
		else
			rc = disk_zero(disk, off, len, a->flags & ZEROES_UNMAP);
	}
	return rc;
}

static int execute(struct blk_request *r)
{
	struct disk *disk = r->blk->cfg.disk;
	int rc;

	switch (r->header.type) {
	case BLK_T_IN: return disk_readv(disk, r->data, r->segs, r->offset);
	case BLK_T_OUT: rc = disk_writev(disk, r->data, r->segs, r->offset); break;
	case BLK_T_FLUSH: return disk_flush(disk);
	default: rc = zero_or_discard(r);
	}
	return !rc && r->flush_after ? disk_flush(disk) : rc;
}

static void work(struct aio_job *job)
{
	struct blk_request *r = container_of(job, struct blk_request, job);

	r->status = execute(r) ? BLK_S_IOERR : BLK_S_OK;
}

/* --- the end of a request --- */

static void finish(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	u64 in_len = r->elem.in_len;

	count(blk, STAT_disk_errors, r->status == BLK_S_IOERR);
	virtq_write(&r->elem, in_len - 1, &r->status, 1);
	virtq_push(r->q, &r->elem, (u32)in_len);
	r->next = blk->spare;
	blk->spare = r;
}

static void serve(struct virtio_dev *dev, unsigned index);

static void done(struct aio_job *job)
{
	struct blk_request *r = container_of(job, struct blk_request, job);
	struct virtio_blk *blk = r->blk;
	struct virtq *q = r->q;

	blk->in_flight--;
	finish(r);
	virtq_signal(q);
	if (!blk->starved)
		return;
	blk->starved = false;
	for (unsigned i = 0; i < blk->dev.queue_count; i++)
		virtio_notify(&blk->dev, i);
}

/* --- what the driver asks --- */

static bool within(const struct virtio_blk *blk, u64 sector, u64 sectors)
{
	u64 size = disk_size(blk->cfg.disk) / DISK_SECTOR;

	return sector <= size && sectors <= size - sector;
}

/* Each of these: BLK_S_OK if there is work to do. */

static u8 check_data(struct blk_request *r, bool write)
{
	struct virtio_blk *blk = r->blk;
	const struct virtq_elem *e = &r->elem;

	if (write && blk->cfg.readonly)
		return BLK_S_IOERR;
	r->len = write ? e->out_len - sizeof(r->header) : e->in_len - 1;
	if (r->len % DISK_SECTOR || r->len > MAX_DATA ||
	    !within(blk, r->header.sector, r->len / DISK_SECTOR))
		return BLK_S_IOERR;
	r->offset = r->header.sector * DISK_SECTOR;
	r->segs = write ? iov_slice(r->data, e->out, e->out_count, sizeof(r->header), r->len)
			: iov_slice(r->data, e->in, e->in_count, 0, r->len);
	r->flush_after = write && !blk->writeback;
	count(blk, write ? STAT_disk_writes : STAT_disk_reads, 1);
	count(blk, write ? STAT_disk_write_bytes : STAT_disk_read_bytes, r->len);
	return BLK_S_OK;
}

static u8 check_ranges(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	u64 len = r->elem.out_len - sizeof(r->header);
	bool zeroes = r->header.type == BLK_T_WRITE_ZEROES;
	u32 allowed = zeroes ? ZEROES_UNMAP : 0;

	if (!virtio_has(&blk->dev, BIT(zeroes ? BLK_F_WRITE_ZEROES : BLK_F_DISCARD)))
		return BLK_S_UNSUPP;
	if (blk->cfg.readonly || len % sizeof(r->range[0]) || len > sizeof(r->range))
		return BLK_S_IOERR;
	r->ranges = (unsigned)(len / sizeof(r->range[0]));
	virtq_read(&r->elem, sizeof(r->header), r->range, len);
	for (unsigned i = 0; i < r->ranges; i++) {
		const struct blk_range *a = &r->range[i];

		if (a->flags & ~allowed)
			return BLK_S_UNSUPP;
		if (a->sectors > MAX_RANGE_SECTORS || !within(blk, a->sector, a->sectors))
			return BLK_S_IOERR;
	}
	r->flush_after = !blk->writeback;
	count(blk, STAT_disk_discards, 1);
	return BLK_S_OK;
}

static u8 check(struct blk_request *r)
{
	r->flush_after = false;
	switch (r->header.type) {
	case BLK_T_IN: return check_data(r, false);
	case BLK_T_OUT: return check_data(r, true);
	case BLK_T_FLUSH: count(r->blk, STAT_disk_flushes, 1); return BLK_S_OK;
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES: return check_ranges(r);
	default: return BLK_S_UNSUPP;
	}
}

static bool read_inline(struct blk_request *r)
{
	bool got = r->header.type == BLK_T_IN && r->len <= r->blk->inline_left &&
		   !disk_readv_now(r->blk->cfg.disk, r->data, r->segs, r->offset);

	count(r->blk, STAT_disk_reads_inline, got);
	return got;
}

/* 0: done, or an error of the host's; -EAGAIN: it is for a worker. A write that another one is on
 * its way for might overtake it, which the driver has to expect anyway. */
static int write_inline(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	bool waited;
	int rc;

	if (r->header.type != BLK_T_OUT || r->len > blk->inline_left || r->flush_after ||
	    !blk->cfg.cached)
		return -EAGAIN;
	rc = disk_writev_now(blk->cfg.disk, r->data, r->segs, r->offset, &waited);
	count(blk, STAT_disk_writes_inline, !rc);
	count(blk, STAT_disk_writes_waited, waited);
	return rc;
}

static void give_id(struct blk_request *r)
{
	u64 room = r->elem.in_len - 1;

	virtq_write(&r->elem, 0, r->blk->id, MIN(room, sizeof(r->blk->id)));
	r->status = BLK_S_OK;
}

/* True: answered; false: a worker has it. */
static bool start(struct blk_request *r)
{
	int rc;

	virtq_read(&r->elem, 0, &r->header, sizeof(r->header));
	if (r->header.type == BLK_T_GET_ID) {
		give_id(r);
		return true;
	}
	r->status = check(r);
	if (r->status != BLK_S_OK) {
		count(r->blk, STAT_disk_refused, 1);
		return true;
	}
	rc = read_inline(r) ? 0 : write_inline(r);
	if (rc != -EAGAIN) {
		r->blk->inline_left -= r->len;
		r->status = rc ? BLK_S_IOERR : BLK_S_OK;
		return true;
	}
	r->blk->in_flight++;
	/* Writes that end in the host's page cache. */
	r->job.quick = r->header.type == BLK_T_OUT && !r->flush_after && r->blk->cfg.cached;
	aio_submit(r->blk->cfg.aio, &r->job);
	return false;
}

static struct blk_request *take_request(struct virtio_blk *blk)
{
	struct blk_request *r = blk->spare;

	if (r) {
		blk->spare = r->next;
		return r;
	}
	r = malloc(sizeof(*r)); /* not cleared: most of it is never touched */
	if (!r)
		return NULL;
	r->blk = blk;
	r->job.work = work;
	r->job.done = done;
	return r;
}

static void put_request(struct virtio_blk *blk, struct blk_request *r)
{
	r->next = blk->spare;
	blk->spare = r;
}

static void serve(struct virtio_dev *dev, unsigned index)
{
	struct virtio_blk *blk = blk_of(dev);
	struct virtq *q = &dev->queue[index];

	blk->inline_left = MAX_INLINE;
	for (;;) {
		struct blk_request *r = take_request(blk);

		if (!r) {
			blk->starved = blk->in_flight > 0;
			break;
		}
		r->q = q;
		if (virtq_pop(q, &r->elem) <= 0) {
			put_request(blk, r);
			break;
		}
		if (r->elem.out_len < sizeof(r->header) || !r->elem.in_len ||
		    r->elem.in_len > NEVER_LONGER) {
			virtio_break(dev, "block request without header or status, or endless");
			put_request(blk, r);
			break;
		}
		if (start(r))
			finish(r);
	}
	virtq_signal(q);
}

/* --- the device --- */

/* Without a way to ask for flushes the driver cannot know of a cache (5.2.6.2). */
static void on_start(struct virtio_dev *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	if (!virtio_has(dev, BIT(BLK_F_FLUSH)) && !virtio_has(dev, BIT(BLK_F_CONFIG_WCE)))
		blk->writeback = false;
}

static void on_reset(struct virtio_dev *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	aio_drain(blk->cfg.aio);
	BUG_ON(blk->in_flight);
	blk->writeback = blk->cfg.writeback;
	blk->starved = false;
}

static void on_queue_reset(struct virtio_dev *dev, unsigned index)
{
	(void)index;
	aio_drain(blk_of(dev)->cfg.aio);
}

static u8 exponent(u32 a, u32 b)
{
	return (u8)(__builtin_ctz(a) - __builtin_ctz(b));
}

static void config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	struct virtio_blk *blk = blk_of(dev);
	const struct virtio_blk_config *cfg = &blk->cfg;
	struct blk_config_space c = {
	    .capacity = disk_size(cfg->disk) / DISK_SECTOR,
	    .seg_max = cfg->queue_size - 2u,
	    .blk_size = cfg->logical_block,
	    .physical_block_exp = exponent(cfg->physical_block, cfg->logical_block),
	    .min_io_size = (u16)MIN(cfg->physical_block / cfg->logical_block, 0xffff),
	    .writeback = blk->writeback,
	    .num_queues = (u16)cfg->queues,
	    .max_discard_sectors = MAX_RANGE_SECTORS,
	    .max_discard_seg = MAX_RANGES,
	    .discard_sector_alignment = blk->discard_alignment,
	    .max_write_zeroes_sectors = MAX_RANGE_SECTORS,
	    .max_write_zeroes_seg = MAX_RANGES,
	    .write_zeroes_may_unmap = 1,
	};

	memcpy(buf, (u8 *)&c + offset, len);
}

static void config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	struct virtio_blk *blk = blk_of(dev);
	unsigned at = offsetof(struct blk_config_space, writeback);

	if (offset <= at && at < offset + len && virtio_has(dev, BIT(BLK_F_CONFIG_WCE)))
		blk->writeback = ((const u8 *)buf)[at - offset] & 1;
}

static const struct virtio_type blk_type = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .features = BIT(BLK_F_SEG_MAX) | BIT(BLK_F_BLK_SIZE) | BIT(BLK_F_FLUSH) | BIT(BLK_F_TOPOLOGY),
    .queues = VIRTIO_BLK_MAX_QUEUES,
    .notify = serve,
    .start = on_start,
    .reset = on_reset,
    .queue_reset = on_queue_reset,
    .config_read = config_read,
    .config_write = config_write,
    .config_len = CONFIG_LEN,
};

void virtio_blk_init(struct virtio_blk *blk, const struct virtio_blk_config *cfg,
		     const struct dma *dma, struct stats *stats)
{
	struct disk_info info;

	*blk = (struct virtio_blk){.cfg = *cfg, .writeback = cfg->writeback};
	virtio_init(&blk->dev, &blk_type, dma, stats);
	blk->dev.queue_count = cfg->queues;
	blk->dev.queue_size = cfg->queue_size;
	for (unsigned i = 0; i < VIRTIO_BLK_MAX_QUEUES; i++)
		blk->dev.queue[i].size = cfg->queue_size;
	blk->dev.offered |= (cfg->readonly ? BIT(BLK_F_RO) : 0) |
			    (cfg->config_wce ? BIT(BLK_F_CONFIG_WCE) : 0) |
			    (cfg->queues > 1 ? BIT(BLK_F_MQ) : 0) |
			    (cfg->discard && !cfg->readonly ? BIT(BLK_F_DISCARD) : 0) |
			    (cfg->write_zeroes && !cfg->readonly ? BIT(BLK_F_WRITE_ZEROES) : 0);
	if (cfg->serial)
		memcpy(blk->id, cfg->serial, strnlen(cfg->serial, sizeof(blk->id)));
	disk_get_info(cfg->disk, &info);
	blk->discard_alignment =
	    (u32)(MAX(info.cluster_size, MAX(cfg->physical_block, 4096)) / DISK_SECTOR);
}

void virtio_blk_end(struct virtio_blk *blk)
{
	aio_drain(blk->cfg.aio);
	while (blk->spare) {
		struct blk_request *r = blk->spare;

		blk->spare = r->next;
		free(r);
	}
}
