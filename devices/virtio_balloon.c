/*
 * Memory balloon.
 *
 * A page named in the inflate queue is punched out of guest RAM at once; taking it out of the
 * balloon again needs no work, since the next touch finds a fresh page. Page numbers come in
 * arrays, mostly of neighbours in either direction, so they are gathered into runs first.
 *
 * The reporting queue is number 4 in the specification, which counts a queue for free page hints
 * that is not offered here. Linux and QEMU number only the queues that exist, so it is also 3.
 */
#include <string.h>

#include "virtio_balloon.h"

enum { INFLATE, DEFLATE, STATS, REPORTING, REPORTING_TOO, QUEUES };

#define PFNS_AT_ONCE 1024u
#define PFNS_MAX     4096u /* taken from one chain; drivers send 256 */

struct config {
	u32 num_pages, actual, free_page_hint_cmd_id, poison_val;
};

const char *const virtio_balloon_stat_name[BALLOON_STATS] = {
    "stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
    "stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
    "stat-htlb-pgalloc", "stat-htlb-pgfail",
};

static struct virtio_balloon *balloon_of(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_balloon, dev);
}

/* --- pages --- */

struct run {
	u64 first, count; /* pages */
};

static void discard_run(struct virtio_dev *dev, struct run *r)
{
	if (r->count)
		dma_discard(dev->dma, r->first * BALLOON_PAGE, r->count * BALLOON_PAGE);
	r->count = 0;
}

/* Add a page to the run, or begin another. */
static void gather(struct virtio_dev *dev, struct run *r, u64 pfn)
{
	if (r->count && pfn == r->first + r->count) {
		r->count++;
	} else if (r->count && pfn + 1 == r->first) {
		r->first--;
		r->count++;
	} else {
		discard_run(dev, r);
		*r = (struct run){pfn, 1};
	}
}

static void inflate(struct virtio_dev *dev, const struct virtq_elem *e)
{
	u32 pfn[PFNS_AT_ONCE];
	struct run run = {0};
	size_t n;

	for (u64 at = 0; at < PFNS_MAX * sizeof(u32); at += n) {
		n = virtq_read(e, at, pfn, sizeof(pfn));
		for (size_t i = 0; i < n / sizeof(u32); i++)
			gather(dev, &run, pfn[i]);
		if (n < sizeof(pfn))
			break;
	}
	discard_run(dev, &run);
}

/* Free pages, as buffers. With a poison the driver relies on finding it in them. */
static void report(struct virtio_dev *dev, const struct virtq_elem *e)
{
	if (virtio_has(dev, VIRTIO_BALLOON_F_PAGE_POISON) && balloon_of(dev)->poison)
		return;
	for (unsigned i = 0; i < e->in_count; i++)
		dma_discard(dev->dma, e->in_gpa[i], e->in[i].iov_len);
}

/* --- statistics: the driver's buffer is kept, and given back to ask for the next ones --- */

static void ask_stats(void *opaque)
{
	struct virtio_balloon *b = opaque;
	struct virtq *q = &b->dev.queue[STATS];

	if (!b->stats_held)
		return;
	b->stats_held = false;
	virtq_push(q, &b->stats_elem, 0);
	virtq_signal(q);
}

static void clear_stats(struct virtio_balloon *b)
{
	memset(b->stats, 0xff, sizeof(b->stats));
	b->stats_time = 0;
	b->stats_held = false;
	timer_cancel(&b->poll);
}

static void read_stats(struct virtio_balloon *b)
{
	struct __attribute__((packed)) {
		u16 tag;
		u64 val;
	} stat;

	for (u64 at = 0; at < 64 * sizeof(stat); at += sizeof(stat)) {
		if (virtq_read(&b->stats_elem, at, &stat, sizeof(stat)) < sizeof(stat))
			break;
		if (stat.tag < BALLOON_STATS)
			b->stats[stat.tag] = stat.val;
	}
	b->stats_time = timerq_now(b->poll.q);
}

static void take_stats(struct virtio_balloon *b)
{
	struct virtq *q = &b->dev.queue[STATS];

	/* One at a time, says 5.5.6.3; of several the last is kept. */
	while (virtq_more(q)) {
		ask_stats(b);
		if (virtq_pop(q, &b->stats_elem) <= 0)
			return;
		b->stats_held = true;
		read_stats(b);
		virtq_want_kicks(q, true);
	}
	if (b->stats_held && b->interval)
		timer_arm(&b->poll, timerq_now(b->poll.q) + b->interval);
}

/* --- the device --- */

static void serve(struct virtio_dev *dev, unsigned index)
{
	struct virtio_balloon *b = balloon_of(dev);
	struct virtq *q = &dev->queue[index];

	if (index == STATS) {
		take_stats(b);
		return;
	}
	while (virtq_pop(q, &b->elem) > 0) {
		if (index == INFLATE)
			inflate(dev, &b->elem);
		else if (index != DEFLATE)
			report(dev, &b->elem);
		virtq_push(q, &b->elem, 0);
	}
	virtq_signal(q);
}

static void reset(struct virtio_dev *dev)
{
	struct virtio_balloon *b = balloon_of(dev);

	clear_stats(b);
	b->actual = 0;
	b->poison = 0;
}

static void queue_reset(struct virtio_dev *dev, unsigned index)
{
	if (index == STATS)
		clear_stats(balloon_of(dev));
}

static void config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct virtio_balloon *b = balloon_of(dev);
	const struct config c = {
	    .num_pages = b->target, .actual = b->actual, .poison_val = b->poison};

	memcpy(buf, (const u8 *)&c + offset, len);
}

static void config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	struct virtio_balloon *b = balloon_of(dev);
	struct config c = {.actual = b->actual, .poison_val = b->poison};

	memcpy((u8 *)&c + offset, buf, len);
	b->actual = c.actual;
	b->poison = c.poison_val;
}

static const struct virtio_type balloon_type = {.name = "virtio-balloon",
						.id = VIRTIO_ID_BALLOON,
						.features = VIRTIO_BALLOON_F_STATS_VQ |
							    VIRTIO_BALLOON_F_PAGE_POISON,
						.queues = QUEUES,
						.queue_size = 128,
						.notify = serve,
						.reset = reset,
						.queue_reset = queue_reset,
						.config_read = config_read,
						.config_write = config_write,
						.config_len = sizeof(struct config)};

void virtio_balloon_set_target(struct virtio_balloon *b, u32 pages)
{
	if (b->target == pages)
		return;
	b->target = pages;
	virtio_config_changed(&b->dev);
}

void virtio_balloon_init(struct virtio_balloon *b, const struct dma *dma, struct timerq *q,
			 struct stats *stats, u64 features, u64 interval)
{
	memset(b, 0, sizeof(*b));
	virtio_init(&b->dev, &balloon_type, dma, stats);
	b->dev.offered |= features;
	if (!(features & VIRTIO_BALLOON_F_REPORTING))
		b->dev.queue_count = REPORTING;
	b->interval = interval;
	timer_init(&b->poll, q, ask_stats, b);
	clear_stats(b);
}
