/* The block device under a driver that asks rightly and wrongly; the disk is a real image. */
#include <pthread.h>

#include "disk_rig.h"
#include "virtio_blk.h"
#include "virtio_rig.h"

#define SECTORS 2048u /* of the disk */
#define HEADER  RIG_BUFFER
#define STATUS  (RIG_BUFFER + 0x100)
#define DATA    (RIG_BUFFER + 0x1000)

enum { IN, OUT, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK, IOERR, UNSUPP };

static struct disk_rig files;
static struct virtio_rig rig;
static struct virtio_blk blk;
static struct disk *disk;
static struct aio *aio;
static struct vring ring;
static _Atomic int kicks;

static void *spawn(void *(*fn)(void *), void *arg)
{
	pthread_t *t = malloc(sizeof(*t));

	cr_assert_eq(pthread_create(t, NULL, fn, arg), 0);
	return t;
}

static void join(void *thread)
{
	pthread_join(*(pthread_t *)thread, NULL);
	free(thread);
}

static void kick(void *opaque)
{
	(void)opaque;
	kicks++;
}

static void start(u64 without)
{
	virtio_rig_start(&blk.dev, without);
	ring = vring_make(&rig, &blk.dev, 0, 16);
	virtio_rig_ok(&blk.dev);
}

static void make(const struct virtio_blk_config *with)
{
	const struct aio_host host = {spawn, join, kick, NULL};
	struct virtio_blk_config cfg = *with;

	rig_make(&files);
	cr_assert_eq(disk_create(rig_path(&files, "d"), "raw", SECTORS * 512ull, NULL, NULL,
				 files.err, sizeof(files.err)),
		     0);
	struct disk_config dc = {.path = rig_path(&files, "d"),
				 .format = "raw",
				 .write = !cfg.readonly,
				 .discard = true};

	cr_assert_eq(disk_open(&disk, &dc, NULL, files.err, sizeof(files.err)), 0);
	virtio_rig_init(&rig);
	cr_assert_eq(aio_create(&aio, &host, &rig.stats), 0);
	cfg.disk = disk;
	cfg.aio = aio;
	cfg.queue_size = 256;
	cfg.queues = MAX(cfg.queues, 1);
	cfg.logical_block = 512;
	cfg.physical_block = 4096;
	virtio_blk_init(&blk, &cfg, &rig.dma, &rig.stats);
	virtio_rig_connect(&rig, &blk.dev);
	start(0);
}

static void setup(void)
{
	make(&(struct virtio_blk_config){.serial = "serial-number-0123456789",
					 .writeback = true,
					 .discard = true,
					 .write_zeroes = true,
					 .config_wce = true});
}

static void teardown(void)
{
	virtio_blk_end(&blk);
	disk_close(disk);
	aio_destroy(aio);
	rig_remove(&files);
}

TestSuite(virtio_blk, .init = setup, .fini = teardown, .timeout = 120);

static void put_header(u32 type, u64 sector)
{
	u32 words[2] = {type, 0};

	memcpy(rig.ram + HEADER, words, 8);
	memcpy(rig.ram + HEADER + 8, &sector, 8);
	rig.ram[STATUS] = 0xee;
}

/* Kick and wait: the used length, -1 if nothing was answered. */
static s64 complete(void)
{
	u32 id;

	virtio_notify(&blk.dev, 0);
	aio_drain(aio);
	return vring_take(&ring, &id);
}

/* A request of the usual shape; its status. */
static int request(u32 type, u64 sector, u32 len)
{
	bool in = type == IN || type == GET_ID;

	put_header(type, sector);
	vring_desc(&ring, 0, HEADER, 16, RIG_NEXT, len ? 1 : 2);
	vring_desc(&ring, 1, DATA, len, RIG_NEXT | (in ? RIG_WRITE : 0), 2);
	vring_desc(&ring, 2, STATUS, 1, RIG_WRITE, 0);
	vring_add(&ring, 0);
	cr_assert_eq(complete(), in ? (s64)len + 1 : 1);
	return rig.ram[STATUS];
}

static void fill(u32 len, int seed)
{
	for (u32 i = 0; i < len; i++)
		rig.ram[DATA + i] = (u8)(i * 7 + (u32)seed);
}

Test(virtio_blk, read_write)
{
	fill(4096, 1);
	cr_assert_eq(request(OUT, 8, 4096), OK);
	memset(rig.ram + DATA, 0, 4096);
	cr_assert_eq(request(IN, 8, 4096), OK);
	for (u32 i = 0; i < 4096; i++)
		cr_assert_eq(rig.ram[DATA + i], (u8)(i * 7 + 1));
	cr_assert_eq(request(FLUSH, 0, 0), OK);
	cr_assert_eq(rig.stats.n[STAT_disk_reads], 1);
	cr_assert_eq(rig.stats.n[STAT_disk_writes], 1);
	cr_assert_eq(rig.stats.n[STAT_disk_flushes], 1);
	cr_assert_geq(rig.interrupts, 1);
	cr_assert_geq(rig.noted, 4096);
	/* The last sector, and none. */
	cr_assert_eq(request(IN, SECTORS - 1, 512), OK);
	cr_assert_eq(request(OUT, 0, 0), OK);
	cr_assert_eq(request(IN, SECTORS, 0), OK);
}

/* Header, data and status in pieces that ignore what is what. */
Test(virtio_blk, any_layout)
{
	u32 id;

	fill(1024, 3);
	put_header(OUT, 4);
	memcpy(rig.ram + DATA - 4, rig.ram + HEADER + 12, 4);
	vring_desc(&ring, 0, HEADER, 5, RIG_NEXT, 1);
	vring_desc(&ring, 1, HEADER + 5, 7, RIG_NEXT, 2);
	vring_desc(&ring, 2, DATA - 4, 4 + 100, RIG_NEXT, 3);
	vring_desc(&ring, 3, DATA + 100, 924, RIG_NEXT, 4);
	vring_desc(&ring, 4, STATUS, 1, RIG_WRITE, 0);
	vring_add(&ring, 0);
	cr_assert_eq(complete(), 1);
	cr_assert_eq(rig.ram[STATUS], OK);
	put_header(IN, 4);
	memset(rig.ram + DATA, 0, 2048);
	vring_desc(&ring, 0, HEADER, 16, RIG_NEXT, 1);
	vring_desc(&ring, 1, DATA, 3, RIG_NEXT | RIG_WRITE, 2);
	vring_desc(&ring, 2, DATA + 3, 1022, RIG_WRITE, 0); /* the status is its last byte */
	vring_add(&ring, 0);
	virtio_notify(&blk.dev, 0);
	aio_drain(aio);
	cr_assert_eq(vring_take(&ring, &id), 1025);
	for (u32 i = 0; i < 1024; i++)
		cr_assert_eq(rig.ram[DATA + i], (u8)(i * 7 + 3));
	cr_assert_eq(rig.ram[DATA + 1024], OK);
}

Test(virtio_blk, errors)
{
	cr_assert_eq(request(IN, SECTORS, 512), IOERR);
	cr_assert_eq(request(IN, SECTORS - 1, 1024), IOERR);
	cr_assert_eq(request(OUT, ~0ull, 512), IOERR);
	cr_assert_eq(request(OUT, ~0ull / 512, 1024), IOERR);
	cr_assert_eq(request(IN, 0, 511), IOERR);
	cr_assert_eq(request(OUT, 0, 513), IOERR);
	cr_assert_eq(request(2, 0, 512), UNSUPP); /* SCSI commands */
	cr_assert_eq(request(14, 0, 16), UNSUPP); /* secure erase */
	cr_assert_eq(request(0x80000000, 0, 0), UNSUPP);
	cr_assert_eq(rig.stats.n[STAT_disk_refused], 9);
	cr_assert_eq(rig.stats.n[STAT_disk_errors], 6);
	cr_assert_eq(request(IN, 0, 512), OK);
}

/* What is no request at all breaks the device, until it is reset. */
Test(virtio_blk, no_requests)
{
	put_header(IN, 0);
	vring_desc(&ring, 0, HEADER, 15, RIG_NEXT, 1);
	vring_desc(&ring, 1, DATA, 513, RIG_WRITE, 0);
	vring_add(&ring, 0);
	cr_assert_eq(complete(), -1);
	cr_assert(blk.dev.broken && (blk.dev.status & VIRTIO_S_NEEDS_RESET));
	start(0);
	cr_assert_eq(request(IN, 0, 512), OK);
	put_header(OUT, 0);
	vring_desc(&ring, 0, HEADER, 16, 0, 0);
	vring_add(&ring, 0);
	cr_assert_eq(complete(), -1);
	cr_assert(blk.dev.broken);
	start(0);
	cr_assert_eq(request(IN, 0, 512), OK);
	cr_assert_eq(rig.stats.n[STAT_virtio_broken], 2);
}

Test(virtio_blk, serial_number)
{
	cr_assert_eq(request(GET_ID, 0, 20), OK);
	cr_assert_eq(memcmp(rig.ram + DATA, "serial-number-012345", 20), 0);
	memset(rig.ram + DATA, 0xaa, 32);
	cr_assert_eq(request(GET_ID, 0, 6), OK);
	cr_assert_eq(memcmp(rig.ram + DATA, "serial\xaa", 7), 0);
}

static void put_range(unsigned n, u64 sector, u32 sectors, u32 flags)
{
	memcpy(rig.ram + DATA + 16 * n, &sector, 8);
	memcpy(rig.ram + DATA + 16 * n + 8, &sectors, 4);
	memcpy(rig.ram + DATA + 16 * n + 12, &flags, 4);
}

Test(virtio_blk, discard_and_write_zeroes)
{
	fill(8192, 5);
	cr_assert_eq(request(OUT, 0, 8192), OK);
	put_range(0, 0, 1, 0);
	put_range(1, 2, 2, 1);
	cr_assert_eq(request(ZEROES, 0, 32), OK);
	put_range(0, 8, 8, 0);
	cr_assert_eq(request(DISCARD, 0, 16), OK);
	cr_assert_eq(request(IN, 0, 8192), OK);
	for (u32 i = 0; i < 8192; i++) {
		bool zero = i / 512 == 0 || i / 512 == 2 || i / 512 == 3 || i >= 4096;

		cr_assert_eq(rig.ram[DATA + i], zero ? 0 : (u8)(i * 7 + 5), "byte %u", i);
	}
	put_range(0, SECTORS - 1, 2, 0);
	cr_assert_eq(request(DISCARD, 0, 16), IOERR);
	cr_assert_eq(request(ZEROES, 0, 16), IOERR);
	put_range(0, 0, ~0u, 0);
	cr_assert_eq(request(ZEROES, 0, 16), IOERR);
	put_range(0, 0, 1, 1);
	cr_assert_eq(request(DISCARD, 0, 16), UNSUPP);
	put_range(0, 0, 1, 2);
	cr_assert_eq(request(ZEROES, 0, 16), UNSUPP);
	cr_assert_eq(request(ZEROES, 0, 15), IOERR);
	cr_assert_eq(request(ZEROES, 0, 65 * 16), IOERR);
	cr_assert_eq(request(ZEROES, 0, 0), OK);
}

/* A driver that has not taken a feature does not get it. */
Test(virtio_blk, features_not_taken)
{
	start(BIT(13) | BIT(14));
	put_range(0, 0, 1, 0);
	cr_assert_eq(request(DISCARD, 0, 16), UNSUPP);
	cr_assert_eq(request(ZEROES, 0, 16), UNSUPP);
}

static u32 config(unsigned offset, unsigned size)
{
	return (u32)virtio_config_read(&blk.dev, offset, size);
}

Test(virtio_blk, configuration)
{
	cr_assert_eq(config(0, 4), SECTORS);
	cr_assert_eq(config(4, 4), 0);
	cr_assert_eq(config(12, 4), 254); /* seg_max */
	cr_assert_eq(config(20, 4), 512);
	cr_assert_eq(config(24, 1), 3); /* eight logical blocks are a physical one */
	cr_assert_eq(config(34, 2), 1); /* queues */
	cr_assert_eq(config(60, 4), 0);
	cr_assert_eq(config(32, 1), 1);
	virtio_config_write(&blk.dev, 32, 1, 0);
	cr_assert_eq(config(32, 1), 0);
	cr_assert_eq(request(OUT, 0, 512), OK);
	virtio_config_write(&blk.dev, 0, 4, 1);
	cr_assert_eq(config(0, 4), SECTORS);
	virtio_set_status(&blk.dev, 0);
	cr_assert_eq(config(32, 1), 1);
	/* A driver that cannot flush gets no cache. */
	start(BIT(9) | BIT(11));
	cr_assert_eq(config(32, 1), 0);
}

TestSuite(virtio_blk_read_only, .fini = teardown, .timeout = 120);

Test(virtio_blk_read_only, requests)
{
	make(&(struct virtio_blk_config){.readonly = true, .discard = true, .write_zeroes = true});
	cr_assert(blk.dev.offered & BIT(5));
	cr_assert_not(blk.dev.offered & (BIT(13) | BIT(14)));
	cr_assert_eq(request(IN, 0, 512), OK);
	cr_assert_eq(request(OUT, 0, 512), IOERR);
	put_range(0, 0, 1, 0);
	cr_assert_eq(request(DISCARD, 0, 16), UNSUPP);
	cr_assert_eq(request(FLUSH, 0, 0), OK);
}

/* Writes to the host's page cache are done before the kick returns; not those that must last. */
Test(virtio_blk, writes_at_once)
{
	teardown();
	make(&(struct virtio_blk_config){.writeback = true, .config_wce = true, .cached = true});
	fill(4096, 1);
	for (unsigned i = 0; i < 300; i++)
		cr_assert_eq(request(OUT, 8, 4096), OK);
	/* How many depends on how many of them had to wait. */
	cr_expect_geq(rig.stats.n[STAT_disk_writes_inline], 1u);
	cr_assert_eq(rig.stats.n[STAT_disk_writes_inline] + rig.stats.n[STAT_aio_jobs], 300);
	memset(rig.ram + DATA, 0, 4096);
	cr_assert_eq(request(IN, 8, 4096), OK);
	cr_assert_eq(rig.ram[DATA + 5], 36);
	rig.stats.n[STAT_disk_reads_inline] = 0;
	for (u16 i = 0; i < 3; i++) { /* each of them could be, all of them are too much */
		u32 id;

		put_header(IN, 0);
		vring_desc(&ring, 5 * i, HEADER, 16, RIG_NEXT, 5 * i + 1);
		for (u16 k = 1; k < 4; k++)
			vring_desc(&ring, 5 * i + k, DATA, 120 * KIB, RIG_NEXT | RIG_WRITE,
				   5 * i + k + 1);
		vring_desc(&ring, 5 * i + 4, STATUS, 1, RIG_WRITE, 0);
		vring_add(&ring, 5 * i);
		if (i < 2)
			continue;
		virtio_notify(&blk.dev, 0);
		aio_drain(aio);
		for (u16 k = 0; k < 3; k++)
			cr_assert_eq(vring_take(&ring, &id), 360 * KIB + 1);
	}
	cr_assert_leq(rig.stats.n[STAT_disk_reads_inline], 2u);
	rig.stats.n[STAT_disk_writes_inline] = 0;
	blk.writeback = false;
	cr_assert_eq(request(OUT, 8, 4096), OK);
	cr_assert_eq(rig.stats.n[STAT_disk_writes_inline], 0);
}

/* Several requests at once; a reset while they are on their way. */
Test(virtio_blk, many_in_flight)
{
	for (int round = 0; round < 200; round++) {
		u32 id;

		for (u16 i = 0; i < 5; i++) {
			u32 at = DATA + 0x1000 * i;

			put_header(OUT, 8 * i);
			memcpy(rig.ram + HEADER + 0x20 * i, rig.ram + HEADER, 16);
			memset(rig.ram + at, round + i, 4096);
			vring_desc(&ring, 3 * i, HEADER + 0x20 * i, 16, RIG_NEXT, 3 * i + 1);
			vring_desc(&ring, 3 * i + 1, at, 4096, RIG_NEXT, 3 * i + 2);
			vring_desc(&ring, 3 * i + 2, STATUS + i, 1, RIG_WRITE, 0);
			vring_add(&ring, 3 * i);
		}
		put_header(OUT, 0);
		virtio_notify(&blk.dev, 0);
		if (round & 1) {
			start(0); /* nothing is pushed into the new ring */
			cr_assert_eq(vring_take(&ring, &id), -1);
			cr_assert_eq(blk.in_flight, 0);
			continue;
		}
		aio_drain(aio);
		for (u16 i = 0; i < 5; i++)
			cr_assert_eq(vring_take(&ring, &id), 1);
		cr_assert_eq(vring_take(&ring, &id), -1);
		for (u16 i = 0; i < 5; i++) {
			cr_assert_eq(request(IN, 8 * i, 512), OK);
			cr_assert_eq(rig.ram[DATA], (u8)(round + i));
		}
	}
}

/* Rings full of noise: whatever comes of it, the device answers after a reset. */
Test(virtio_blk, noise)
{
	struct disk_rig r = {.seed = 99};

	for (int round = 0; round < 20000; round++) {
		for (unsigned i = 0; i < 8; i++) {
			u64 n = rig_random(&r);
			u64 addr = n & 8 ? rig_random(&r) : RIG_BUFFER + n % 0x10000;

			vring_desc(&ring, i, addr, n & 16 ? (u32)rig_random(&r) : (u32)(n % 4096),
				   (u16)(rig_random(&r) & 7), (u16)(rig_random(&r) % 9));
		}
		put_header((u32)(rig_random(&r) % 16), rig_random(&r) % (SECTORS + 8));
		vring_desc(&ring, 0, HEADER, 16, RIG_NEXT, 1 + rig_random(&r) % 3);
		vring_add(&ring, (u16)(rig_random(&r) % 10 ? 0 : rig_random(&r)));
		virtio_notify(&blk.dev, 0);
		aio_run(aio);
		if (blk.dev.broken || round % 64 == 0)
			start(0);
	}
	start(0);
	cr_assert_eq(request(IN, 0, 512), OK);
	cr_assert_gt(rig.stats.n[STAT_virtio_broken], 100);
}
