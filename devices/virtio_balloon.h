/*
 * Traditional memory balloon (Virtual I/O Device Version 1.2, section 5.5): the guest is asked to
 * do with less memory and names pages it will not use; free page reporting, which names pages that
 * are free just now; and memory statistics. Whatever is named goes back to the host.
 */
#ifndef RINGSHIFT_VIRTIO_BALLOON_H
#define RINGSHIFT_VIRTIO_BALLOON_H

#include "timer.h"
#include "virtio.h"

#define VIRTIO_BALLOON_F_MUST_TELL_HOST BIT(0)
#define VIRTIO_BALLOON_F_STATS_VQ       BIT(1)
#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM BIT(2)
#define VIRTIO_BALLOON_F_PAGE_POISON    BIT(4)
#define VIRTIO_BALLOON_F_REPORTING      BIT(5)

#define BALLOON_STATS 10
#define BALLOON_PAGE  4096u

struct virtio_balloon {
	struct virtio_dev dev;
	u32 target, actual; /* pages in the balloon, as asked for and as the driver says */
	u32 poison;
	/* Statistics by tag, ~0: not told; as of stats_time (ns), 0: never. */
	u64 stats[BALLOON_STATS], stats_time;
	bool stats_held; /* stats_elem is the driver's buffer, which asks when it is pushed */
	u64 interval;    /* ns between questions, 0: never asked */
	struct timer poll;
	struct virtq_elem elem, stats_elem;
};

/* features: of the above that are offered beside what every balloon has; interval in ns. */
void virtio_balloon_init(struct virtio_balloon *b, const struct dma *dma, struct timerq *q,
			 struct stats *stats, u64 features, u64 interval);

/* Ask for so many pages in the balloon. */
void virtio_balloon_set_target(struct virtio_balloon *b, u32 pages);

/* QEMU's name of a statistic ("stat-free-memory"), by tag. */
extern const char *const virtio_balloon_stat_name[BALLOON_STATS];

#endif
