/* The balloon: pages named in whatever way go back, runs of them at once; statistics; the target.
 */
#include <criterion/criterion.h>

#include "virtio_balloon.h"
#include "virtio_rig.h"

static struct virtio_rig rig;
static struct virtio_balloon balloon;
static struct timerq timers;
static u64 now;

static u64 clock_now(void *opaque)
{
	(void)opaque;
	return now;
}

static void start(u64 features, u64 interval, u64 without)
{
	virtio_rig_init(&rig);
	timerq_init(&timers, clock_now, NULL, NULL);
	virtio_balloon_init(&balloon, &rig.dma, &timers, &rig.stats, features, interval);
	virtio_rig_connect(&rig, &balloon.dev);
	virtio_rig_start(&balloon.dev, without);
}

static void give(struct vring *r, u64 addr, u32 len, u16 flags)
{
	vring_desc(r, 0, addr, len, flags, 0);
	vring_add(r, 0);
	virtio_notify(&balloon.dev, r->q);
}

Test(virtio_balloon, inflate_gathers_runs)
{
	static const u32 pfn[] = {9, 8, 7, 6, 20, 21, 22, 5, 0xffffffff};
	struct vring r;
	u32 id;

	start(0, 0, 0);
	r = vring_make(&rig, &balloon.dev, 0, 8);
	virtio_rig_ok(&balloon.dev);
	memcpy(rig.ram + RIG_BUFFER, pfn, sizeof(pfn));
	give(&r, RIG_BUFFER, sizeof(pfn) + 3, 0);
	cr_expect_eq(vring_take(&r, &id), 0);
	cr_expect_eq(rig.discards, 4);
	cr_expect_eq(rig.discarded, 9 * 4096);
	cr_expect_eq(rig.discarded_at, 0xffffffffull << 12);
	cr_expect_eq(rig.interrupts, 1);
}

Test(virtio_balloon, one_chain_is_bounded)
{
	struct vring r;

	start(0, 0, 0);
	r = vring_make(&rig, &balloon.dev, 0, 8);
	virtio_rig_ok(&balloon.dev);
	for (u32 i = 0; i < 8192; i++) /* no two neighbours */
		memcpy(rig.ram + RIG_BUFFER + 4 * i, &(u32){2 * i}, 4);
	give(&r, RIG_BUFFER, 4 * 8192, 0);
	cr_expect_eq(rig.discards, 4096);
}

Test(virtio_balloon, deflate_changes_nothing)
{
	struct vring r;
	u32 id;

	start(0, 0, 0);
	r = vring_make(&rig, &balloon.dev, 1, 8);
	virtio_rig_ok(&balloon.dev);
	give(&r, RIG_BUFFER, 64, 0);
	cr_expect_eq(vring_take(&r, &id), 0);
	cr_expect_eq(rig.discards, 0);
}

Test(virtio_balloon, reporting)
{
	for (unsigned q = 3; q < 5; q++) {
		struct vring r = {0};
		u32 id;

		start(VIRTIO_BALLOON_F_REPORTING, 0, VIRTIO_BALLOON_F_PAGE_POISON);
		cr_expect_eq(balloon.dev.queue_count, 5);
		r = (struct vring){.rig = &rig, .q = 0, .size = 8};
		balloon.dev.queue[q] = (struct virtq){.dev = &balloon.dev,
						      .index = q,
						      .size = 8,
						      .desc = RIG_DESC,
						      .avail = RIG_AVAIL,
						      .used = RIG_USED};
		virtio_enable_queue(&balloon.dev, q);
		virtio_rig_ok(&balloon.dev);
		vring_desc(&r, 0, RIG_BUFFER, 0x2000, RIG_WRITE | RIG_NEXT, 1);
		vring_desc(&r, 1, RIG_BUFFER + 0x3000, 0x1000, RIG_WRITE, 0);
		vring_add(&r, 0);
		virtio_notify(&balloon.dev, q);
		cr_expect_eq(vring_take(&r, &id), 0);
		cr_expect_eq(rig.discards, 2);
		cr_expect_eq(rig.discarded, 0x3000);
		cr_expect_eq(rig.discarded_at, RIG_BUFFER + 0x3000);
	}
	start(0, 0, 0);
	cr_expect_eq(balloon.dev.queue_count, 3);
}

/* The driver counts on its poison being in what it reported. */
Test(virtio_balloon, poison)
{
	for (u32 poison = 0; poison < 2; poison++) {
		struct vring r;

		start(VIRTIO_BALLOON_F_REPORTING, 0, 0);
		virtio_config_write(&balloon.dev, 12, 4, poison);
		cr_expect_eq(virtio_config_read(&balloon.dev, 12, 4), poison);
		r = vring_make(&rig, &balloon.dev, 3, 8);
		virtio_rig_ok(&balloon.dev);
		vring_desc(&r, 0, RIG_BUFFER, 0x1000, RIG_WRITE, 0);
		vring_add(&r, 0);
		virtio_notify(&balloon.dev, 3);
		cr_expect_eq(rig.discards, !poison);
	}
}

static void put_stat(unsigned n, u16 tag, u64 val)
{
	memcpy(rig.ram + RIG_BUFFER + 10 * n, &tag, 2);
	memcpy(rig.ram + RIG_BUFFER + 10 * n + 2, &val, 8);
}

Test(virtio_balloon, statistics)
{
	struct vring r;
	u32 id;

	now = 5;
	start(0, 1000, 0);
	r = vring_make(&rig, &balloon.dev, 2, 8);
	virtio_rig_ok(&balloon.dev);
	put_stat(0, 4, 1234);
	put_stat(1, 99, 1);
	put_stat(2, 9, 77);
	give(&r, RIG_BUFFER, 35, 0);
	cr_expect_eq(balloon.stats[4], 1234);
	cr_expect_eq(balloon.stats[9], 77);
	cr_expect_eq(balloon.stats[0], ~0ull);
	cr_expect_eq(vring_take(&r, &id), -1, "kept, to ask with");
	now = 1005;
	timerq_run(&timers);
	cr_expect_eq(vring_take(&r, &id), 0);
	cr_expect_eq(rig.interrupts, 1);
	cr_expect_eq(timerq_next(&timers), TIMER_NEVER, "not before there is an answer");
	put_stat(0, 4, 4321);
	give(&r, RIG_BUFFER, 10, 0);
	cr_expect_eq(balloon.stats[4], 4321);
	cr_expect_eq(timerq_next(&timers), 2005);
	/* Two at once: the first goes back. */
	give(&r, RIG_BUFFER, 10, 0);
	cr_expect_eq(vring_take(&r, &id), 0);
	cr_expect_eq(vring_take(&r, &id), -1);
	virtio_set_status(&balloon.dev, 0);
	cr_expect_eq(timerq_next(&timers), TIMER_NEVER);
	cr_expect_eq(balloon.stats[4], ~0ull);
}

Test(virtio_balloon, reset_of_the_statistics_queue)
{
	struct vring r;

	start(0, 1000, 0);
	r = vring_make(&rig, &balloon.dev, 2, 8);
	virtio_rig_ok(&balloon.dev);
	give(&r, RIG_BUFFER, 10, 0);
	virtio_reset_queue(&balloon.dev, 2);
	now += 5000;
	timerq_run(&timers); /* pushes nothing to a queue that is gone */
	cr_expect(!balloon.stats_held);
}

Test(virtio_balloon, target)
{
	start(0, 0, 0);
	virtio_rig_ok(&balloon.dev);
	virtio_balloon_set_target(&balloon, 100);
	cr_expect_eq(rig.config_interrupts, 1);
	virtio_balloon_set_target(&balloon, 100);
	cr_expect_eq(rig.config_interrupts, 1);
	cr_expect_eq(virtio_config_read(&balloon.dev, 0, 4), 100);
	virtio_config_write(&balloon.dev, 4, 4, 60);
	cr_expect_eq(balloon.actual, 60);
	virtio_config_write(&balloon.dev, 0, 4, 7); /* read-only */
	cr_expect_eq(virtio_config_read(&balloon.dev, 0, 8), 60ull << 32 | 100);
	virtio_set_status(&balloon.dev, 0);
	cr_expect_eq(balloon.actual, 0);
	cr_expect_eq(virtio_config_read(&balloon.dev, 0, 4), 100, "the user's wish stays");
}
