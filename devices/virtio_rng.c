/*
 * Entropy device. A buffer gets a page of random bytes at most, which the specification allows: a
 * buffer of gigabytes does not hold up the machine.
 */
#include <sys/random.h>

#include "virtio_rng.h"

#define CHUNK 4096u

/* Fill the buffers of a chain; bytes written. */
static u32 fill(const struct virtq_elem *e, u64 most)
{
	u8 buf[CHUNK];
	ssize_t n = getrandom(buf, MIN(MIN(e->in_len, sizeof(buf)), most), 0);

	return n > 0 ? (u32)virtq_write(e, 0, buf, (size_t)n) : 0;
}

static bool limited(const struct virtio_rng *rng)
{
	return rng->max_bytes != ~0ull;
}

static void serve(struct virtio_dev *dev, unsigned index)
{
	struct virtio_rng *rng = container_of(dev, struct virtio_rng, dev);
	struct virtq *q = &dev->queue[index];

	while (rng->left && virtq_pop(q, &rng->elem) > 0) {
		u32 n = fill(&rng->elem, rng->left);

		if (limited(rng)) {
			rng->left -= n;
			if (!timer_armed(&rng->refill))
				timer_arm(&rng->refill, timerq_now(rng->refill.q) + rng->period);
		}
		virtq_push(q, &rng->elem, n);
	}
	virtq_signal(q);
}

static void on_refill(void *opaque)
{
	struct virtio_rng *rng = opaque;

	rng->left = rng->max_bytes;
	virtio_notify(&rng->dev, 0);
}

static const struct virtio_type rng_type = {
    .name = "virtio-rng", .id = VIRTIO_ID_RNG, .queues = 1, .queue_size = 8, .notify = serve};

void virtio_rng_init(struct virtio_rng *rng, const struct dma *dma, struct timerq *q,
		     struct stats *stats, u64 max_bytes, u64 period)
{
	virtio_init(&rng->dev, &rng_type, dma, stats);
	timer_init(&rng->refill, q, on_refill, rng);
	rng->max_bytes = rng->left = max_bytes;
	rng->period = period;
}
