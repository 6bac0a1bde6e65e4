/*
 * qcow2 images after a crash of the host: fdatasync and writes are ours here. Of what was written
 * since the last sync that ended, any part may be in the file afterwards, in any order, sectors
 * apart from each other. Whatever part it is, the image is consistent but for leaks, and holds all
 * that was flushed.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include "disk_rig.h"
#include "hostfile.h"

#define SIZE     (2 * MIB)
#define FILE_MAX (16 * MIB)
#define LOG_MAX  4096

/* What has been written since the last sync; `durable` is the file as of then. */
struct logged {
	u64 off, len, size; /* size: of the file afterwards */
	u8 *data;           /* NULL: zeros */
};

static bool recording;
static struct logged wlog[LOG_MAX];
static unsigned logged;
static u8 *durable;
static u64 durable_size, current_size;

static void add(u64 off, const void *data, u64 len)
{
	u8 *copy = data ? memcpy(malloc(len + 1), data, len) : NULL;

	BUG_ON(logged == LOG_MAX || off + len > FILE_MAX);
	current_size = MAX(current_size, off + len);
	wlog[logged++] = (struct logged){off, len, current_size, copy};
}

static void apply(u8 *file, const struct logged *w, u64 from, u64 to)
{
	if (w->data)
		memcpy(file + w->off + from, w->data + from, to - from);
	else
		memset(file + w->off + from, 0, to - from);
}

/* These take the C library's place. */
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off);
int fdatasync(int fd);
int fallocate(int fd, int mode, off_t off, off_t len);

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
	ssize_t done = 0;

	for (int i = 0; i < n; i++) {
		ssize_t got = pwrite(fd, iov[i].iov_base, iov[i].iov_len, off + done);

		if (got < 0)
			return -1;
		if (recording)
			add((u64)(off + done), iov[i].iov_base, (u64)got);
		done += got;
	}
	return done;
}

int fdatasync(int fd)
{
	(void)fd;
	for (unsigned i = 0; i < logged && recording; i++) {
		apply(durable, &wlog[i], 0, wlog[i].len);
		durable_size = MAX(durable_size, wlog[i].size);
		free(wlog[i].data);
	}
	logged = 0;
	return 0;
}

/* No holes, no zero ranges: it is all writes. */
int fallocate(int fd, int mode, off_t off, off_t len)
{
	(void)fd, (void)mode, (void)off, (void)len;
	errno = EOPNOTSUPP;
	return -1;
}

static struct disk_rig rig;
static u8 *model, *flushed; /* the disk; as of the last flush */
static bool *since;         /* sectors written since then: either is fine, or zeros */

static void setup(void)
{
	rig_make(&rig);
	model = calloc(1, SIZE);
	flushed = calloc(1, SIZE);
	since = calloc(SIZE / DISK_SECTOR, sizeof(*since));
	durable = calloc(1, FILE_MAX);
}

static void teardown(void)
{
	rig_remove(&rig);
}

TestSuite(qcow2_crash, .init = setup, .fini = teardown, .timeout = 240);

/* The file as it may be found: each sector of each write is there or not. */
static void crash_into(const char *name)
{
	u8 *file = memcpy(malloc(FILE_MAX), durable, FILE_MAX);
	u64 size = durable_size, chance = rig_random(&rig) % 5;

	for (unsigned i = 0; i < logged; i++) {
		const struct logged *w = &wlog[i];

		for (u64 at = 0, next; at < w->len; at = next) {
			next = MIN(w->len, ALIGN_DOWN(w->off + at + 512, 512) - w->off);
			if (rig_random(&rig) % 4 < chance) {
				apply(file, w, at, next);
				size = MAX(size, w->off + next);
			}
		}
	}
	rig_put_file(&rig, name, file, size);
	free(file);
}

static void judge(const char *name)
{
	struct disk_check result;
	u8 got[DISK_SECTOR];
	struct disk *d;
	bool was = recording;

	recording = false;
	d = rig_open(&rig, name, false);
	cr_assert_eq(disk_check(d, &result, NULL), 0);
	if (result.corruptions)
		cr_assert_eq(disk_check(d, &result, stderr), 0);
	cr_assert_eq(result.corruptions, 0);
	for (u64 s = 0; s < SIZE / DISK_SECTOR; s++) {
		if (since[s])
			continue;
		rig_read(d, got, sizeof(got), s * DISK_SECTOR);
		cr_assert_eq(memcmp(got, flushed + s * DISK_SECTOR, sizeof(got)), 0,
			     "sector %llu, flushed, is lost", (unsigned long long)s);
	}
	disk_close(d);
	recording = was;
}

/* As rig_random_request, noting what a flush makes last. */
static void request(struct disk *d)
{
	u64 len = (1 + rig_random(&rig) % 64) * DISK_SECTOR;
	u64 off = rig_random(&rig) % ((SIZE - len) / DISK_SECTOR + 1) * DISK_SECTOR;
	u8 buf[64 * DISK_SECTOR];

	switch (rig_random(&rig) % 8) {
	case 0:
		cr_assert_eq(disk_flush(d), 0);
		memcpy(flushed, model, SIZE);
		memset(since, 0, SIZE / DISK_SECTOR);
		return;
	case 1:
		cr_assert_eq(disk_zero(d, off, len, rig_random(&rig) & 1), 0);
		memset(model + off, 0, len);
		break;
	case 2:
		cr_assert_eq(disk_discard(d, off, len), 0);
		rig_read(d, model + off, len, off);
		break;
	default:
		for (u64 i = 0; i < len; i += 8)
			*(u64 *)(buf + i) = rig_random(&rig);
		rig_write(d, buf, len, off);
		memcpy(model + off, buf, len);
	}
	memset(since + off / DISK_SECTOR, 1, len / DISK_SECTOR);
}

static void load_durable(const char *name)
{
	FILE *f = fopen(rig_path(&rig, name), "r");

	memset(durable, 0, FILE_MAX);
	durable_size = current_size = fread(durable, 1, FILE_MAX, f);
	fclose(f);
}

static void exercise(const char *name, unsigned requests)
{
	struct disk_config cfg = {.path = rig_path(&rig, name), .write = true, .discard = true};
	struct disk *d;

	load_durable(name);
	cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), 0, "%s", rig.err);
	rig_read(d, model, SIZE, 0);
	memcpy(flushed, model, SIZE);
	memset(since, 0, SIZE / DISK_SECTOR);
	recording = true;
	for (unsigned i = 0; i < requests; i++) {
		request(d);
		if (i % 3 == 0) {
			crash_into("crashed");
			judge("crashed");
		}
	}
	cr_assert_eq(disk_close(d), 0);
	recording = false;
}

Test(qcow2_crash, small_clusters)
{
	rig_need_qemu_img();
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k a 2M");
	exercise("a", 300);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 b 2M");
	exercise("b", 150);
}

Test(qcow2_crash, backing_snapshots_compressed)
{
	rig_need_qemu_img();
	rig_fill_random(&rig, model, SIZE / 4);
	rig_put_file(&rig, "raw", model, SIZE);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k -b raw -F raw crashed2");
	exercise("crashed2", 200);
	RIG_SH(&rig, "qemu-img convert -q -c -O qcow2 -o cluster_size=4k raw c");
	exercise("c", 200);
	RIG_SH(&rig, "qemu-img snapshot -c one c");
	exercise("c", 200);
}

/* Does this test notice an order that is wrong? Without syncs there is none. */
Test(qcow2_crash, the_test_can_fail)
{
	struct disk_check result;
	u8 buf[4096] = {1};
	struct disk *d;

	rig_need_qemu_img();
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k a 2M");
	load_durable("a");
	d = rig_open(&rig, "a", true); /* cache=unsafe: never syncs */
	recording = true;
	for (u64 i = 0; i < 64; i++) {
		rig_write(d, buf, sizeof(buf), i * 4096);
		cr_assert_eq(disk_flush(d), 0);
	}
	u64 corruptions = 0;

	for (unsigned i = 0; i < 50; i++) {
		crash_into("crashed");
		recording = false;
		struct disk *e = rig_open(&rig, "crashed", false);

		cr_assert_eq(disk_check(e, &result, NULL), 0);
		corruptions += result.corruptions;
		disk_close(e);
		recording = true;
	}
	cr_assert_gt(corruptions, 0);
	recording = false;
	disk_close(d);
}
