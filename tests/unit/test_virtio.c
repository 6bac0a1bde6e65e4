/* virtio: the status machine, split rings right and wrong, who is told what. */
#include <criterion/criterion.h>
#include <errno.h>

#include "virtio_rig.h"

static struct virtio_rig rig;
static struct virtio_dev dev;
static struct virtq_elem elem;
static unsigned notified, starts, resets, queue_resets;
static bool refuse;

static void on_notify(struct virtio_dev *d, unsigned q)
{
	(void)d;
	notified += q + 1;
}

static bool on_features(struct virtio_dev *d)
{
	(void)d;
	return !refuse;
}

static void on_start(struct virtio_dev *d)
{
	(void)d;
	starts++;
}

static void on_reset(struct virtio_dev *d)
{
	(void)d;
	resets++;
}

static void on_queue_reset(struct virtio_dev *d, unsigned q)
{
	(void)d;
	(void)q;
	queue_resets++;
}

static void read_config(struct virtio_dev *d, unsigned offset, void *buf, unsigned len)
{
	static const u8 bytes[6] = {1, 2, 3, 4, 5, 6};

	(void)d;
	BUG_ON(offset + len > sizeof(bytes));
	memcpy(buf, bytes + offset, len);
}

static const struct virtio_type type = {.name = "test",
					.id = VIRTIO_ID_RNG,
					.features = BIT(3) | BIT(5),
					.queues = 2,
					.queue_size = 64,
					.notify = on_notify,
					.features_ok = on_features,
					.start = on_start,
					.reset = on_reset,
					.queue_reset = on_queue_reset,
					.config_read = read_config,
					.config_len = 6};

static void setup(void)
{
	virtio_rig_init(&rig);
	virtio_init(&dev, &type, &rig.dma, &rig.stats);
	virtio_rig_connect(&rig, &dev);
}

TestSuite(virtio, .init = setup);

/* A device that runs, with a queue of 8; without: features it does not take. */
static struct vring run(u64 without)
{
	struct vring r;

	virtio_rig_start(&dev, without);
	r = vring_make(&rig, &dev, 0, 8);
	virtio_rig_ok(&dev);
	return r;
}

Test(virtio, status)
{
	cr_expect_eq(dev.offered,
		     BIT(3) | BIT(5) | BIT(28) | BIT(29) | BIT(32) | VIRTIO_F_RING_RESET);
	virtio_set_status(&dev, 1);
	virtio_set_status(&dev, 3);
	virtio_set_status(&dev, 7); /* before there is agreement on features */
	cr_expect_eq(dev.status, 3);
	virtio_set_features(&dev, BIT(3));
	virtio_set_status(&dev, 11);
	cr_expect_eq(dev.status, 3, "without VERSION_1");
	virtio_set_features(&dev, BIT(32) | BIT(40) | BIT(4));
	virtio_set_status(&dev, 11);
	cr_expect_eq(dev.status, 3, "a feature not offered");
	virtio_set_features(&dev, BIT(32) | BIT(3));
	refuse = true;
	virtio_set_status(&dev, 11);
	cr_expect_eq(dev.status, 3, "refused by the type");
	refuse = false;
	virtio_set_status(&dev, 11);
	cr_expect_eq(dev.status, 11);
	virtio_set_features(&dev, BIT(32));
	cr_expect(virtio_has(&dev, BIT(3)), "too late to change");
	virtio_set_status(&dev, 15);
	virtio_set_status(&dev, 15);
	cr_expect_eq(dev.status, 15);
	cr_expect_eq(starts, 1);
	virtio_set_status(&dev, 1);
	cr_expect_eq(dev.status, 15, "bits do not go off");
	virtio_set_status(&dev, 0x8f);
	cr_expect_eq(dev.status, 0x8f, "the driver has given up");
	virtio_set_status(&dev, 0);
	cr_expect_eq(dev.status, 0);
	cr_expect_eq(dev.driver_features, 0);
	cr_expect_eq(resets, 1);
}

Test(virtio, config_space)
{
	cr_expect_eq(virtio_config_read(&dev, 0, 4), 0x04030201);
	cr_expect_eq(virtio_config_read(&dev, 4, 4), 0x0605);
	cr_expect_eq(virtio_config_read(&dev, 5, 8), 0x06);
	cr_expect_eq(virtio_config_read(&dev, 6, 1), 0);
	cr_expect_eq(virtio_config_read(&dev, ~0ull, 4), 0);
	virtio_config_write(&dev, 0, 4, 1); /* read-only */
}

Test(virtio, kicks_reach_running_queues_only)
{
	struct vring r;

	virtio_notify(&dev, 0);
	virtio_rig_start(&dev, 0);
	r = vring_make(&rig, &dev, 0, 8);
	(void)r;
	virtio_notify(&dev, 0);
	cr_expect_eq(notified, 0);
	virtio_rig_ok(&dev);
	cr_expect_eq(notified, 1, "too early, but not lost");
	virtio_notify(&dev, 0);
	cr_expect_eq(notified, 2);
	notified = 1;
	virtio_notify(&dev, 1); /* not enabled */
	virtio_notify(&dev, 2);
	virtio_notify(&dev, ~0u);
	cr_expect_eq(notified, 1);
	virtio_hold(&dev, true);
	virtio_notify(&dev, 0);
	cr_expect_eq(notified, 1);
	virtio_hold(&dev, false);
	cr_expect_eq(notified, 2, "what has been missed");
	virtio_hold(&dev, false);
	cr_expect_eq(notified, 2);
	virtio_break(&dev, "test");
	virtio_notify(&dev, 0);
	cr_expect_eq(notified, 2);
}

static void expect_broken_queue(u16 size, u64 desc, u64 avail, u64 used)
{
	virtio_rig_start(&dev, 0);
	dev.queue[0].size = size;
	dev.queue[0].desc = desc;
	dev.queue[0].avail = avail;
	dev.queue[0].used = used;
	virtio_enable_queue(&dev, 0);
	cr_expect(dev.broken && !dev.queue[0].enabled, "%u %#llx %#llx %#llx", size,
		  (unsigned long long)desc, (unsigned long long)avail, (unsigned long long)used);
	cr_expect(dev.status & VIRTIO_S_NEEDS_RESET);
	virtio_rig_start(&dev, 0);
	cr_expect(!dev.broken, "reset mends it");
}

Test(virtio, queues_that_cannot_be)
{
	expect_broken_queue(0, 0, 0x4000, 0x5000);
	expect_broken_queue(3, 0, 0x4000, 0x5000);
	expect_broken_queue(128, 0, 0x4000, 0x5000); /* 64 are offered */
	expect_broken_queue(8, 8, 0x4000, 0x5000);
	expect_broken_queue(8, 0, 0x4001, 0x5000);
	expect_broken_queue(8, 0, 0x4000, 0x5002);
	expect_broken_queue(8, RIG_RAM - 16 * 7, 0x4000, 0x5000);
	expect_broken_queue(8, 0, RIG_RAM - 20, 0x5000);
	expect_broken_queue(8, 0, 0x4000, RIG_RAM - 64);
	expect_broken_queue(8, ~0ull << 4, 0x4000, 0x5000);
	expect_broken_queue(8, 0, 0x4000, ~0ull << 2);
	virtio_rig_start(&dev, 0);
	dev.queue[0] = (struct virtq){
	    .dev = &dev, .size = 8, .desc = RIG_RAM - 16 * 8, .avail = 0x4000, .used = 0x5000};
	virtio_enable_queue(&dev, 0);
	cr_expect(dev.queue[0].enabled, "to the last byte of RAM");
}

Test(virtio, a_chain)
{
	struct vring r = run(0);
	char buf[32] = "";
	u32 id;

	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0);
	memcpy(rig.ram + RIG_BUFFER, "hello, world", 12);
	vring_desc(&r, 5, RIG_BUFFER, 5, RIG_NEXT, 2);
	vring_desc(&r, 2, RIG_BUFFER + 5, 7, RIG_NEXT, 3);
	vring_desc(&r, 3, RIG_BUFFER + 0x100, 0, RIG_NEXT, 7); /* empty */
	vring_desc(&r, 7, RIG_BUFFER + 0x1000, 4, RIG_NEXT | RIG_WRITE, 0);
	vring_desc(&r, 0, RIG_BUFFER + 0x2000, 100, RIG_WRITE, 99);
	vring_add(&r, 5);
	cr_expect(virtq_more(&dev.queue[0]));
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	cr_expect_eq(elem.head, 5);
	cr_expect_eq(elem.out_count, 2);
	cr_expect_eq(elem.in_count, 2);
	cr_expect_eq(elem.out_len, 12);
	cr_expect_eq(elem.in_len, 104);
	cr_expect_eq(elem.in_gpa[1], RIG_BUFFER + 0x2000);
	cr_expect_eq(virtq_read(&elem, 3, buf, 6), 6);
	cr_expect_str_eq(buf, "lo, wo");
	cr_expect_eq(virtq_read(&elem, 10, buf, 32), 2);
	cr_expect_eq(virtq_read(&elem, 12, buf, 32), 0);
	cr_expect_eq(virtq_write(&elem, 2, "abcdef", 6), 6);
	cr_expect_eq(memcmp(rig.ram + RIG_BUFFER + 0x1002, "ab", 3), 0);
	cr_expect_eq(memcmp(rig.ram + RIG_BUFFER + 0x2000, "cdef", 5), 0);
	cr_expect_eq(virtq_write(&elem, 102, "xyz", 3), 2);
	rig.noted = 0;
	virtq_push(&dev.queue[0], &elem, 8);
	cr_expect_geq(rig.noted, 8);
	cr_expect_eq(vring_take(&r, &id), 8);
	cr_expect_eq(id, 5);
	cr_expect_eq(vring_take(&r, &id), -1);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0);
	cr_expect_eq(dev.queue[0].in_flight, 0);
}

Test(virtio, more_written_than_there_is_room)
{
	struct vring r = run(0);
	u32 id;

	vring_desc(&r, 0, RIG_BUFFER, 16, RIG_WRITE, 0);
	vring_add(&r, 0);
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	virtq_push(&dev.queue[0], &elem, 1000);
	cr_expect_eq(vring_take(&r, &id), 16);
}

Test(virtio, unpop)
{
	struct vring r = run(0);

	vring_desc(&r, 1, RIG_BUFFER, 16, RIG_WRITE, 0);
	vring_add(&r, 1);
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	cr_expect(!virtq_more(&dev.queue[0]));
	virtq_unpop(&dev.queue[0]);
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	cr_expect_eq(elem.head, 1);
}

/* Indices pass 65535. */
Test(virtio, around_the_ring)
{
	struct vring r = run(0);
	u32 id;

	for (unsigned i = 0; i < 70000; i++) {
		vring_desc(&r, i % 8, RIG_BUFFER, 1 + i % 50, RIG_WRITE, 0);
		vring_add(&r, (u16)(i % 8));
		cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
		virtq_push(&dev.queue[0], &elem, 1 + i % 50);
		cr_assert_eq(vring_take(&r, &id), 1 + i % 50);
		cr_assert_eq(id, i % 8);
	}
	cr_expect(!dev.broken);
}

#define TABLE RIG_BUFFER

Test(virtio, indirect)
{
	struct vring r = run(0);

	for (unsigned i = 0; i < 32; i++) /* more than the queue has */
		rig_desc(&rig, TABLE, i, RIG_BUFFER + 0x1000 + 16 * i, 16,
			 RIG_WRITE | (i < 31 ? RIG_NEXT : 0), (u16)(i + 1));
	vring_desc(&r, 3, RIG_BUFFER + 0x100, 10, RIG_NEXT, 4);
	vring_desc(&r, 4, TABLE, 32 * 16, RIG_INDIRECT, 0);
	memset(rig.ram + TABLE + 31 * 16 + 12, RIG_WRITE, 1);
	vring_desc(&r, 3, RIG_BUFFER + 0x800, 10, RIG_NEXT, 4);
	vring_add(&r, 3);
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	cr_expect_eq(elem.out_count, 1);
	cr_expect_eq(elem.in_count, 32);
	cr_expect_eq(elem.in_len, 512);
}

static void expect_broken(struct vring *r, u16 head)
{
	unsigned before = rig.config_interrupts;

	vring_add(r, head);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), -EIO, "head %u", head);
	cr_expect(dev.broken);
	cr_expect(dev.status & VIRTIO_S_NEEDS_RESET);
	cr_expect_eq(rig.config_interrupts, before + 1);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0, "nothing more until reset");
	*r = run(0);
	cr_expect(!dev.broken);
}

Test(virtio, chains_that_cannot_be)
{
	struct vring r = run(0);

	expect_broken(&r, 8);
	expect_broken(&r, 0xffff);
	vring_desc(&r, 0, RIG_BUFFER, 1, RIG_NEXT, 0); /* itself */
	expect_broken(&r, 0);
	vring_desc(&r, 0, RIG_BUFFER, 0, RIG_NEXT, 1); /* a circle of nothing */
	vring_desc(&r, 1, RIG_BUFFER, 0, RIG_NEXT, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, RIG_BUFFER, 1, RIG_NEXT, 8);
	expect_broken(&r, 0);
	vring_desc(&r, 0, RIG_BUFFER, 1, RIG_NEXT | RIG_WRITE, 1); /* read behind write */
	vring_desc(&r, 1, RIG_BUFFER, 1, 0, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, RIG_RAM - 1, 2, 0, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, ~0ull, 2, 0, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, 0, 0xffffffff, RIG_WRITE, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, TABLE, 0, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, TABLE, 17, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
	vring_desc(&r, 0, TABLE, 16, RIG_INDIRECT | RIG_NEXT, 1);
	expect_broken(&r, 0);
	vring_desc(&r, 0, RIG_RAM - 16, 32, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
	rig_desc(&rig, TABLE, 0, TABLE, 16, RIG_INDIRECT, 0); /* a table in a table */
	vring_desc(&r, 0, TABLE, 16, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
	rig_desc(&rig, TABLE, 0, RIG_BUFFER, 1, RIG_NEXT, 1); /* past its end */
	vring_desc(&r, 0, TABLE, 16, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
	r.avail = 8; /* nine entries in a ring of eight */
	expect_broken(&r, 0);
}

Test(virtio, indirect_needs_the_feature)
{
	struct vring r = run(VIRTIO_F_INDIRECT_DESC);

	rig_desc(&rig, TABLE, 0, RIG_BUFFER, 1, 0, 0);
	vring_desc(&r, 0, TABLE, 16, RIG_INDIRECT, 0);
	expect_broken(&r, 0);
}

/* The driver offers the same chain for ever; a device that keeps what it popped must not have to
 * keep more than there are descriptors. */
Test(virtio, in_flight_is_bounded)
{
	struct vring r = run(0);

	vring_desc(&r, 0, RIG_BUFFER, 1, RIG_WRITE, 0);
	for (unsigned i = 0; i < 8; i++) {
		vring_add(&r, 0);
		cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	}
	expect_broken(&r, 0);
}

static void push_one(struct vring *r)
{
	vring_desc(r, 0, RIG_BUFFER, 1, RIG_WRITE, 0);
	vring_add(r, 0);
	cr_assert_eq(virtq_pop(&dev.queue[0], &elem), 1);
	virtq_push(&dev.queue[0], &elem, 1);
}

Test(virtio, interrupts_by_flag)
{
	struct vring r = run(VIRTIO_F_EVENT_IDX);

	dev.queue[0].vector = 7;
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 1);
	cr_expect_eq(rig.vector, 7);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 1, "nothing new");
	rig_put16(&rig, RIG_AVAIL, 1); /* not now */
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 1);
	rig_put16(&rig, RIG_AVAIL, 0);
	push_one(&r);
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 2);
}

Test(virtio, interrupts_by_event)
{
	struct vring r = run(0);
	const u32 used_event = RIG_AVAIL + 4 + 2 * 8;

	rig_put16(&rig, used_event, 2); /* after the third */
	for (unsigned i = 0; i < 2; i++) {
		push_one(&r);
		virtq_signal(&dev.queue[0]);
	}
	cr_expect_eq(rig.interrupts, 0);
	rig_put16(&rig, RIG_AVAIL, 1); /* the flag means nothing */
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 1);
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 1, "passed already");
	rig_put16(&rig, used_event, 5);
	push_one(&r);
	push_one(&r);
	push_one(&r);
	virtq_signal(&dev.queue[0]);
	cr_expect_eq(rig.interrupts, 2, "passed in one go");
}

Test(virtio, kicks_by_flag)
{
	run(VIRTIO_F_EVENT_IDX);
	virtq_want_kicks(&dev.queue[0], false);
	cr_expect_eq(rig_get16(&rig, RIG_USED), 1);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0);
	cr_expect_eq(rig_get16(&rig, RIG_USED), 0, "nothing found: kicks wanted");
}

Test(virtio, kicks_by_event)
{
	const u32 avail_event = RIG_USED + 4 + 8 * 8;
	struct vring r = run(0);

	for (unsigned i = 0; i < 3; i++)
		push_one(&r);
	virtq_want_kicks(&dev.queue[0], false);
	cr_expect_eq(rig_get16(&rig, RIG_USED), 0);
	cr_expect_eq(rig_get16(&rig, avail_event), 0);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0);
	cr_expect_eq(rig_get16(&rig, avail_event), 3);
}

Test(virtio, held)
{
	struct vring r = run(0);

	vring_desc(&r, 0, RIG_BUFFER, 1, RIG_WRITE, 0);
	vring_add(&r, 0);
	virtio_hold(&dev, true);
	cr_expect(!virtq_more(&dev.queue[0]));
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 0);
	virtio_hold(&dev, false);
	cr_expect_eq(virtq_pop(&dev.queue[0], &elem), 1);
}

Test(virtio, queue_reset)
{
	struct vring r = run(0);

	push_one(&r);
	virtio_reset_queue(&dev, 0);
	cr_expect_eq(queue_resets, 1);
	cr_expect(!dev.queue[0].enabled);
	cr_expect_eq(dev.queue[0].size, 64);
	virtio_reset_queue(&dev, 0);
	virtio_reset_queue(&dev, 1000);
	cr_expect_eq(queue_resets, 1);
	r = vring_make(&rig, &dev, 0, 8);
	push_one(&r);
	cr_expect(!dev.broken);
	r = run(VIRTIO_F_RING_RESET);
	virtio_reset_queue(&dev, 0);
	cr_expect(dev.queue[0].enabled, "not agreed on");
}

Test(virtio, config_changes)
{
	virtio_config_changed(&dev);
	cr_expect_eq(dev.config_generation, 1);
	cr_expect_eq(rig.config_interrupts, 0, "nobody there");
	run(0);
	cr_expect_eq(dev.config_generation, 0);
	virtio_config_changed(&dev);
	cr_expect_eq(rig.config_interrupts, 1);
}
