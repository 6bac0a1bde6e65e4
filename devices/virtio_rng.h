/*
 * Entropy device (Virtual I/O Device Version 1.2, section 5.4): buffers the driver provides are
 * filled with the host kernel's random bytes, not more of them in a period than the user allows.
 */
#ifndef RINGSHIFT_VIRTIO_RNG_H
#define RINGSHIFT_VIRTIO_RNG_H

#include "timer.h"
#include "virtio.h"

struct virtio_rng {
	struct virtio_dev dev;
	struct timer refill;
	u64 max_bytes, period; /* per period (ns); ~0: no limit */
	u64 left;              /* in this period */
	struct virtq_elem elem;
};

void virtio_rng_init(struct virtio_rng *rng, const struct dma *dma, struct timerq *q,
		     struct stats *stats, u64 max_bytes, u64 period);

#endif
