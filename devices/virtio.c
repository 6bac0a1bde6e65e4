/*
 * virtio: the status machine, and split rings from the device's side (Virtual I/O Device Version
 * 1.2, sections 2.1, 2.7 and 3.1).
 *
 * Nothing in a ring is believed. The three areas are checked once, when the driver enables the
 * queue, and then reached through host pointers; RAM never moves. Indices are taken modulo the
 * queue's size, everything else is looked at when it is read, once, into a variable of ours:
 * another device may write to the same memory from a thread of its own. What a correct driver
 * cannot have written breaks the device; it then answers to nothing but reset.
 *
 * One side's index and the other's wish to be told are written and read in opposite orders, hence
 * the full fences: the driver may be running on another CPU one day.
 */
#include <errno.h>
#include <string.h>

#include "virtio.h"

#define DESC_SIZE     16
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

/* Available ring: flags, idx, ring[size], used_event. Used ring: flags, idx, {id, len}[size],
 * avail_event. */
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1
#define RING_FLAGS         0
#define RING_IDX           2
#define RING_ENTRIES       4
#define AVAIL_ENTRY        2
#define USED_ENTRY         8

#define ALWAYS_OFFERED (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

static void count(struct virtio_dev *dev, enum stat_id id)
{
	if (dev->stats)
		dev->stats->n[id]++;
}

/* --- memory shared with the driver; rings are aligned, so these are single accesses --- */

static u16 load16(const u8 *p)
{
	return *(const volatile u16 *)p;
}

static void store16(u8 *p, u16 val)
{
	*(volatile u16 *)p = val;
}

static void fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static u64 avail_size(const struct virtq *q)
{
	return RING_ENTRIES + (u64)q->size * AVAIL_ENTRY + 2;
}

static u64 used_size(const struct virtq *q)
{
	return RING_ENTRIES + (u64)q->size * USED_ENTRY + 2;
}

static u16 avail_idx(const struct virtq *q)
{
	u16 idx = load16(q->avail_host + RING_IDX);

	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return idx;
}

/* --- status --- */

static bool running(const struct virtio_dev *dev)
{
	return (dev->status & VIRTIO_S_DRIVER_OK) && !dev->broken;
}

void virtio_break(struct virtio_dev *dev, const char *why)
{
	if (dev->broken)
		return;
	dev->broken = why;
	dev->status |= VIRTIO_S_NEEDS_RESET;
	count(dev, STAT_virtio_broken);
	if (dev->status & VIRTIO_S_DRIVER_OK)
		dev->interrupt(dev, dev->config_vector, true);
}

static void clear_queue(struct virtq *q, struct virtio_dev *dev, unsigned index)
{
	*q = (struct virtq){
	    .dev = dev, .index = index, .size = dev->queue_size, .vector = VIRTIO_NO_VECTOR};
}

static void reset(struct virtio_dev *dev)
{
	count(dev, STAT_virtio_resets);
	if (dev->type->reset)
		dev->type->reset(dev);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		clear_queue(&dev->queue[i], dev, i);
	dev->driver_features = 0;
	dev->status = 0;
	dev->broken = NULL;
	dev->config_generation = 0;
	dev->config_vector = VIRTIO_NO_VECTOR;
}

static bool features_are_ok(struct virtio_dev *dev)
{
	return !(dev->driver_features & ~dev->offered) && virtio_has(dev, VIRTIO_F_VERSION_1) &&
	       (!dev->type->features_ok || dev->type->features_ok(dev));
}

static void make_up_for_kicks(struct virtio_dev *dev)
{
	for (unsigned i = 0; i < dev->queue_count; i++)
		if (dev->queue[i].missed)
			virtio_notify(dev, i);
}

void virtio_set_status(struct virtio_dev *dev, u8 status)
{
	u8 rise = status & (u8)~dev->status;

	if (!status) {
		reset(dev);
		return;
	}
	dev->status |= rise & (VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FAILED);
	if ((rise & VIRTIO_S_FEATURES_OK) && !dev->broken && features_are_ok(dev))
		dev->status |= VIRTIO_S_FEATURES_OK;
	/* Only a driver that has agreed on features may start (3.1.1). */
	if ((rise & VIRTIO_S_DRIVER_OK) && (dev->status & VIRTIO_S_FEATURES_OK)) {
		dev->status |= VIRTIO_S_DRIVER_OK;
		if (dev->type->start && !dev->broken)
			dev->type->start(dev);
		make_up_for_kicks(dev);
	}
}

void virtio_set_features(struct virtio_dev *dev, u64 features)
{
	if (!(dev->status & VIRTIO_S_FEATURES_OK))
		dev->driver_features = features;
}

void virtio_config_changed(struct virtio_dev *dev)
{
	dev->config_generation++;
	if (running(dev))
		dev->interrupt(dev, dev->config_vector, true);
}

u64 virtio_config_read(struct virtio_dev *dev, u64 offset, unsigned size)
{
	u64 val = 0;

	if (offset >= dev->type->config_len || !dev->type->config_read)
		return 0;
	dev->type->config_read(dev, (unsigned)offset, &val,
			       (unsigned)MIN(size, dev->type->config_len - offset));
	return val;
}

void virtio_config_write(struct virtio_dev *dev, u64 offset, unsigned size, u64 val)
{
	if (offset >= dev->type->config_len || !dev->type->config_write)
		return;
	dev->type->config_write(dev, (unsigned)offset, &val,
				(unsigned)MIN(size, dev->type->config_len - offset));
}

void virtio_init(struct virtio_dev *dev, const struct virtio_type *type, const struct dma *dma,
		 struct stats *stats)
{
	BUG_ON(type->queues > VIRTIO_MAX_QUEUES);
	memset(dev, 0, sizeof(*dev));
	dev->type = type;
	dev->dma = dma;
	dev->stats = stats;
	dev->offered = type->features | ALWAYS_OFFERED;
	if (type->queue_reset)
		dev->offered |= VIRTIO_F_RING_RESET;
	dev->queue_count = type->queues;
	dev->queue_size = type->queue_size ? type->queue_size : VIRTQ_SIZE;
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		clear_queue(&dev->queue[i], dev, i);
	dev->config_vector = VIRTIO_NO_VECTOR;
}

/* --- queues as a whole --- */

void virtio_enable_queue(struct virtio_dev *dev, unsigned index)
{
	struct virtq *q = &dev->queue[index];

	if (index >= dev->queue_count || q->enabled || dev->broken)
		return;
	if (!q->size || q->size > dev->queue_size || (q->size & (q->size - 1)) || q->desc % 16 ||
	    q->avail % 2 || q->used % 4) {
		virtio_break(dev, "queue of no possible size or place");
		return;
	}
	q->desc_host = dma_ptr(dev->dma, q->desc, (u64)q->size * DESC_SIZE);
	q->avail_host = dma_ptr(dev->dma, q->avail, avail_size(q));
	q->used_host = dma_ptr(dev->dma, q->used, used_size(q));
	if (!q->desc_host || !q->avail_host || !q->used_host) {
		virtio_break(dev, "queue outside RAM");
		return;
	}
	q->last_avail = q->used_idx = q->signalled = q->in_flight = 0;
	q->enabled = true;
}

void virtio_reset_queue(struct virtio_dev *dev, unsigned index)
{
	if (index >= dev->queue_count || !virtio_has(dev, VIRTIO_F_RING_RESET))
		return;
	if (dev->queue[index].enabled)
		dev->type->queue_reset(dev, index);
	clear_queue(&dev->queue[index], dev, index);
}

void virtio_notify(struct virtio_dev *dev, unsigned index)
{
	if (index >= dev->queue_count || !dev->queue[index].enabled || dev->broken)
		return;
	dev->queue[index].missed = !running(dev) || dev->held;
	if (dev->queue[index].missed)
		return;
	count(dev, STAT_virtio_kicks);
	dev->type->notify(dev, index);
}

void virtio_hold(struct virtio_dev *dev, bool held)
{
	dev->held = held;
	if (!held)
		make_up_for_kicks(dev);
}

/* --- kicks and interrupts --- */

static bool has_event_idx(const struct virtq *q)
{
	return virtio_has(q->dev, VIRTIO_F_EVENT_IDX);
}

static void store_avail_event(struct virtq *q, u16 val)
{
	store16(q->used_host + RING_ENTRIES + (size_t)q->size * USED_ENTRY, val);
}

static bool usable(const struct virtq *q)
{
	return q->enabled && running(q->dev) && !q->dev->held;
}

void virtq_want_kicks(struct virtq *q, bool want)
{
	if (!usable(q))
		return;
	if (!has_event_idx(q))
		store16(q->used_host + RING_FLAGS, want ? 0 : USED_NO_NOTIFY);
	else if (want)
		store_avail_event(q, q->last_avail);
	/* With event indices, the one that is passed already asks for nothing. */
	dma_written(q->dev->dma, q->used, used_size(q));
	fence();
}

bool virtq_more(struct virtq *q)
{
	return usable(q) && avail_idx(q) != q->last_avail;
}

/* Would an index that moves from old to new pass event? (2.7.10) */
static bool passes(u16 event, u16 new, u16 old)
{
	return (u16)(new - event - 1) < (u16)(new - old);
}

void virtq_signal(struct virtq *q)
{
	u16 old = q->signalled, event;
	bool wanted;

	if (!q->enabled || !running(q->dev) || q->used_idx == old)
		return;
	fence();
	q->signalled = q->used_idx;
	if (has_event_idx(q)) {
		event = load16(q->avail_host + RING_ENTRIES + (size_t)q->size * AVAIL_ENTRY);
		wanted = passes(event, q->used_idx, old);
	} else {
		wanted = !(load16(q->avail_host + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	}
	count(q->dev, wanted ? STAT_virtio_interrupts : STAT_virtio_interrupts_spared);
	if (wanted)
		q->dev->interrupt(q->dev, q->vector, false);
}

/* --- chains --- */

/* A table of descriptors: the queue's, or an indirect one. */
struct table {
	const u8 *host;
	u32 entries;
};

static struct desc get_desc(const struct table *t, u32 n)
{
	struct desc d;

	memcpy(&d, t->host + (size_t)n * DESC_SIZE, sizeof(d));
	__asm__ volatile("" : : "r"(&d) : "memory"); /* d is what was read, once */
	return d;
}

static const char *add_segment(struct virtq *q, struct virtq_elem *e, const struct desc *d)
{
	unsigned n = e->out_count + e->in_count;
	bool in = d->flags & DESC_WRITE;
	void *host;

	if (!in && e->in_count)
		return "what the device reads behind what it writes";
	if (!d->len)
		return NULL; /* nothing to read or write: no part of the chain's bytes */
	if (n == VIRTQ_MAX_SEGS)
		return "chain too long";
	host = dma_ptr(q->dev->dma, d->addr, d->len);
	if (!host)
		return "buffer outside RAM";
	e->seg[n] = (struct iovec){.iov_base = host, .iov_len = d->len};
	e->gpa[n] = d->addr;
	if (in) {
		e->in_count++;
		e->in_len += d->len;
	} else {
		e->out_count++;
		e->out_len += d->len;
	}
	return NULL;
}

/* Go to the indirect table that d names (2.7.5.3). */
static const char *enter_indirect(struct virtq *q, const struct desc *d, struct table *t)
{
	if (!virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC))
		return "indirect descriptor without the feature";
	if (t->host != q->desc_host || (d->flags & DESC_NEXT))
		return "indirect descriptor in an indirect table, or with a next one";
	if (!d->len || d->len % DESC_SIZE)
		return "indirect table of no whole number of descriptors";
	t->entries = d->len / DESC_SIZE;
	t->host = dma_ptr(q->dev->dma, d->addr, d->len);
	return t->host ? NULL : "indirect table outside RAM";
}

/* Follow the chain; NULL, or what is wrong with it. A chain that has more links than its table has
 * descriptors goes in a circle. */
static const char *walk_chain(struct virtq *q, struct virtq_elem *e)
{
	struct table t = {q->desc_host, q->size};
	u32 at = e->head, links = 0;
	const char *why = NULL;

	for (;;) {
		struct desc d;

		if (at >= t.entries)
			return "descriptor beyond the table";
		if (links++ >= MIN(t.entries, VIRTQ_MAX_SEGS))
			return "chain without an end";
		d = get_desc(&t, at);
		if (d.flags & DESC_INDIRECT) {
			why = enter_indirect(q, &d, &t);
			at = links = 0;
		} else {
			why = add_segment(q, e, &d);
			at = d.next;
		}
		if (why || !(d.flags & (DESC_NEXT | DESC_INDIRECT)))
			return why;
	}
}

static int broken(struct virtq *q, const char *why)
{
	virtio_break(q->dev, why);
	return -EIO;
}

int virtq_pop(struct virtq *q, struct virtq_elem *e)
{
	u16 ready;
	const char *why;

	if (!usable(q))
		return 0;
	if (avail_idx(q) == q->last_avail) {
		virtq_want_kicks(q, true);
		if (avail_idx(q) == q->last_avail)
			return 0;
	}
	ready = (u16)(avail_idx(q) - q->last_avail);
	if (ready > q->size)
		return broken(q, "more entries available than there are");
	if (q->in_flight >= q->size)
		return broken(q, "more chains in flight than there are descriptors");
	e->head =
	    load16(q->avail_host + RING_ENTRIES + (size_t)(q->last_avail % q->size) * AVAIL_ENTRY);
	e->out_count = e->in_count = 0;
	e->out_len = e->in_len = 0;
	why = walk_chain(q, e);
	if (why)
		return broken(q, why);
	e->out = e->seg;
	e->in = e->seg + e->out_count;
	e->in_gpa = e->gpa + e->out_count;
	q->last_avail++;
	q->in_flight++;
	return 1;
}

void virtq_unpop(struct virtq *q)
{
	BUG_ON(!q->in_flight);
	q->last_avail--;
	q->in_flight--;
}

void virtq_push(struct virtq *q, const struct virtq_elem *e, u32 written)
{
	u64 left = MIN(written, e->in_len);
	u8 *entry;

	BUG_ON(!q->in_flight || !q->enabled);
	for (unsigned i = 0; left; i++) {
		u64 len = MIN(left, e->in[i].iov_len);

		dma_written(q->dev->dma, e->in_gpa[i], len);
		left -= len;
	}
	q->in_flight--;
	entry = q->used_host + RING_ENTRIES + (size_t)(q->used_idx % q->size) * USED_ENTRY;
	memcpy(entry, &(u32[]){e->head, (u32)MIN(written, e->in_len)}, USED_ENTRY);
	dma_written(q->dev->dma, q->used, used_size(q));
	__atomic_thread_fence(__ATOMIC_RELEASE);
	store16(q->used_host + RING_IDX, ++q->used_idx);
}

/* --- the bytes of a chain --- */

/* Copy between buf and the segments of one kind; to_guest says which way. */
static size_t copy(const struct iovec *seg, unsigned segs, u64 at, u8 *buf, size_t len,
		   bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < segs && done < len; i++) {
		size_t n;
		u8 *p;

		if (at >= seg[i].iov_len) {
			at -= seg[i].iov_len;
			continue;
		}
		p = (u8 *)seg[i].iov_base + at;
		n = MIN(len - done, seg[i].iov_len - at);
		memcpy(to_guest ? p : buf + done, to_guest ? buf + done : p, n);
		done += n;
		at = 0;
	}
	return done;
}

size_t virtq_read(const struct virtq_elem *e, u64 at, void *buf, size_t len)
{
	return copy(e->out, e->out_count, at, buf, len, false);
}

size_t virtq_write(const struct virtq_elem *e, u64 at, const void *buf, size_t len)
{
	return copy(e->in, e->in_count, at, (u8 *)buf, len, true);
}
