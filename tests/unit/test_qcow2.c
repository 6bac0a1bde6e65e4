/* qcow2 images beside a model, with qemu-img as the judge of what is written. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "disk_rig.h"

#define SIZE (4 * MIB)

static struct disk_rig rig;
static u8 *model;

static void setup(void)
{
	rig_need_qemu_img();
	rig_make(&rig);
	model = calloc(1, SIZE);
}

static void teardown(void)
{
	if (!rig.dir[0])
		return;
	free(model);
	rig_remove(&rig);
}

TestSuite(qcow2, .init = setup, .fini = teardown, .timeout = 240);

/* Random requests, reopened now and then; the image is right, and QEMU reads the same. */
static void exercise(const char *name, unsigned rounds, unsigned requests, u64 max)
{
	struct disk *d;

	for (unsigned round = 0; round < rounds; round++) {
		d = rig_open(&rig, name, true);
		cr_assert_eq(disk_size(d), SIZE);
		rig_compare(d, model);
		for (unsigned i = 0; i < requests; i++)
			rig_random_request(&rig, d, model, max);
		rig_compare(d, model);
		cr_assert_eq(disk_close(d), 0);
		RIG_SH(&rig, "qemu-img check -q %s", name);
	}
	rig_put_file(&rig, "model", model, SIZE);
	RIG_SH(&rig, "qemu-img compare -q -f raw -F qcow2 model %s", name);
	d = rig_open(&rig, name, false);
	rig_compare(d, model);
	disk_close(d);
}

Test(qcow2, our_own_images)
{
	cr_assert_eq(
	    disk_create(rig_path(&rig, "a"), "qcow2", SIZE, NULL, NULL, rig.err, sizeof(rig.err)),
	    0, "%s", rig.err);
	RIG_SH(&rig, "qemu-img check -q a");
	exercise("a", 4, 200, 256 * KIB);
}

/* In place, in one piece, and only then. */
Test(qcow2, writes_at_once)
{
	u8 buf[64 * KIB], back[64 * KIB];
	struct iovec iov = {buf, 4 * KIB};
	struct disk *d;
	bool waited;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=16k a 4M");
	d = rig_open(&rig, "a", true);
	memset(buf, 1, sizeof(buf));
	cr_assert_eq(disk_writev_now(d, &iov, 1, 0, &waited), -EAGAIN, "a new cluster");
	rig_write(d, buf, 16 * KIB, 0);
	rig_write(d, buf, 16 * KIB, 32 * KIB);
	memset(buf, 2, sizeof(buf));
	cr_assert_eq(disk_writev_now(d, &iov, 1, 4 * KIB, &waited), 0);
	cr_assert_eq(disk_writev_now(d, &iov, 1, 14 * KIB, &waited), -EAGAIN, "half of it is new");
	cr_assert_eq(disk_writev_now(d, &iov, 1, SIZE, &waited), -EINVAL);
	rig_read(d, back, 64 * KIB, 0);
	for (unsigned i = 0; i < 64; i++)
		cr_assert_eq(back[i * KIB], i >= 4 && i < 8 ? 2 : i < 16 || (i >= 32 && i < 48),
			     "%u", i);
	cr_assert_eq(disk_close(d), 0);
	d = rig_open(&rig, "a", false);
	cr_assert_eq(disk_writev_now(d, &iov, 1, 0, &waited), -EROFS);
	disk_close(d);
	RIG_SH(&rig, "qemu-img check -q a");
}

Test(qcow2, small_clusters)
{
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=512 a 4M");
	exercise("a", 3, 150, 64 * KIB);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=1 b 4M");
	memset(model, 0, SIZE);
	exercise("b", 3, 150, 64 * KIB);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=1k,refcount_bits=64 c 4M");
	memset(model, 0, SIZE);
	exercise("c", 3, 150, 64 * KIB);
}

Test(qcow2, refcounts_of_all_widths)
{
	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=%u a 4M",
		       bits);
		memset(model, 0, SIZE);
		exercise("a", 1, 100, 128 * KIB);
	}
}

Test(qcow2, large_clusters)
{
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=2M a 4M");
	exercise("a", 3, 100, 256 * KIB);
}

Test(qcow2, version_2)
{
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k a 4M");
	exercise("a", 3, 150, 128 * KIB);
}

Test(qcow2, raw_backing)
{
	rig_fill_random(&rig, model, SIZE / 2);
	rig_put_file(&rig, "base", model, SIZE);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -b base -F raw a");
	exercise("a", 3, 150, 256 * KIB);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o compat=0.10 -b base -F raw b");
	RIG_SH(&rig, "qemu-img convert -O raw base model");
	struct disk *base = rig_open(&rig, "base", false);

	rig_read(base, model, SIZE, 0);
	disk_close(base);
	exercise("b", 3, 150, 256 * KIB);
}

/* The base is shorter than the overlay, and not a whole number of clusters. */
Test(qcow2, short_backing)
{
	rig_fill_random(&rig, model, SIZE / 2 + 512);
	rig_put_file(&rig, "base", model, SIZE / 2 + 512);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -b base -F raw a 4M");
	exercise("a", 3, 150, 256 * KIB);
}

Test(qcow2, compressed_backing_chain)
{
	rig_fill_random(&rig, model, SIZE / 4);
	memset(model + SIZE / 4, 0x5a, SIZE / 2);
	rig_put_file(&rig, "raw", model, SIZE);
	RIG_SH(&rig, "qemu-img convert -q -c -O qcow2 raw zlib");
	RIG_SH(&rig, "qemu-img convert -q -c -O qcow2 -o compression_type=zstd raw zstd");
	cr_assert_eq(disk_create(rig_path(&rig, "a"), "qcow2", ~0ull, "zlib", "qcow2", rig.err,
				 sizeof(rig.err)),
		     0, "%s", rig.err);
	exercise("a", 2, 100, 256 * KIB);
	rig_put_file(&rig, "raw", model, SIZE);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -b a -F qcow2 b");
	exercise("b", 2, 100, 256 * KIB);
}

/* Compressed clusters in the image that is written. */
Test(qcow2, compressed_itself)
{
	static const char *const types[] = {"zlib", "zstd"};

	for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
		rig_fill_random(&rig, model, SIZE / 8);
		memset(model + SIZE / 4, 0x5a, SIZE / 2);
		rig_put_file(&rig, "raw", model, SIZE);
		RIG_SH(&rig, "qemu-img convert -q -c -O qcow2 -o compression_type=%s raw a",
		       types[i]);
		exercise("a", 3, 60, 128 * KIB);
	}
}

Test(qcow2, snapshots_keep_their_data)
{
	u8 *then = malloc(SIZE);

	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k a 4M");
	exercise("a", 1, 150, 128 * KIB);
	memcpy(then, model, SIZE);
	rig_put_file(&rig, "then", then, SIZE);
	RIG_SH(&rig, "qemu-img snapshot -c one a");
	exercise("a", 2, 150, 128 * KIB);
	RIG_SH(&rig, "qemu-img snapshot -c two a");
	exercise("a", 2, 150, 128 * KIB);
	RIG_SH(&rig, "qemu-img convert -q -l one -O raw a old && cmp old then");
	RIG_SH(&rig, "qemu-img snapshot -d one a && qemu-img check -q a");
	exercise("a", 1, 150, 128 * KIB);
	free(then);
}

/* More than the refcount table of a new image counts: it grows. */
Test(qcow2, refcount_table_grows)
{
	const u64 size = 64 * MIB;
	u8 *buf = malloc(MIB);
	struct disk *d;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 a 64M");
	d = rig_open(&rig, "a", true);
	for (u64 at = 0; at < size; at += MIB) {
		memset(buf, (int)(1 + at / MIB), MIB);
		rig_write(d, buf, MIB, at);
	}
	cr_assert_eq(disk_close(d), 0);
	RIG_SH(&rig, "qemu-img check -q a");
	d = rig_open(&rig, "a", false);
	for (u64 at = 0; at < size; at += MIB) {
		rig_read(d, buf, MIB, at);
		for (u64 i = 0; i < MIB; i++)
			cr_assert_eq(buf[i], 1 + at / MIB);
	}
	disk_close(d);
	free(buf);
}

/* A disk larger than the tables kept in memory. */
Test(qcow2, more_tables_than_memory)
{
	const u64 step = 32 * KIB; /* what a table of 64 entries maps, with clusters of 512 bytes */
	u64 buf[64] = {0};
	struct disk *d;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=512 a 256M");
	d = rig_open(&rig, "a", true);
	for (u64 i = 0; i < 8192; i++) {
		u64 at = i * 5077 % 8192;

		buf[0] = at + 1;
		rig_write(d, buf, sizeof(buf), at * step);
	}
	for (u64 i = 0; i < 8192; i++) {
		rig_read(d, buf, sizeof(buf), i * step);
		cr_assert_eq(buf[0], i + 1);
	}
	cr_assert_eq(disk_close(d), 0);
	RIG_SH(&rig, "qemu-img check -q a");
}

Test(qcow2, discard_gives_space_back)
{
	u8 *buf = malloc(SIZE);
	struct disk_info info;
	struct disk *d;

	memset(buf, 7, SIZE);
	cr_assert_eq(
	    disk_create(rig_path(&rig, "a"), "qcow2", SIZE, NULL, NULL, rig.err, sizeof(rig.err)),
	    0);
	d = rig_open(&rig, "a", true);
	rig_write(d, buf, SIZE, 0);
	cr_assert_eq(disk_flush(d), 0);
	disk_get_info(d, &info);
	cr_assert_geq(info.allocated, SIZE);
	cr_assert_eq(disk_discard(d, 0, SIZE), 0);
	cr_assert_eq(disk_flush(d), 0);
	disk_get_info(d, &info);
	cr_assert_lt(info.allocated, MIB);
	/* And the clusters are used again. */
	rig_write(d, buf, SIZE, 0);
	cr_assert_eq(disk_close(d), 0);
	cr_assert_eq(rig_sh(&rig, "test $(stat -c %%s a) -lt 5000000"), 0);
	RIG_SH(&rig, "qemu-img check -q a");
	free(buf);
}

/* The host has no more room: what was written stays, what could not be is an error, and it goes on
 * once there is room. */
Test(qcow2, a_host_without_room)
{
	struct rlimit all, little = {MIB, RLIM_INFINITY};
	unsigned failed = 0, i;
	u8 buf[16 * KIB];
	struct disk *d;

	signal(SIGXFSZ, SIG_IGN);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=4k a 4M");
	d = rig_open(&rig, "a", true);
	getrlimit(RLIMIT_FSIZE, &all);
	little.rlim_max = all.rlim_max;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &little), 0);
	for (i = 0; i < SIZE / sizeof(buf) && failed < 20; i++) {
		struct iovec iov = {buf, sizeof(buf)};

		memset(buf, (int)i + 1, sizeof(buf));
		if (disk_writev(d, &iov, 1, i * sizeof(buf)))
			failed++;
		else
			memset(model + i * sizeof(buf), (int)i + 1, sizeof(buf));
		if (i % 16 == 0)
			failed += disk_flush(d) != 0;
	}
	cr_assert_geq(failed, 20);
	cr_assert_gt(i, 40);
	/* Parts of a request that failed may be there. */
	rig_read(d, buf, sizeof(buf), 0);
	cr_assert_eq(memcmp(buf, model, sizeof(buf)), 0);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	memset(buf, 0x77, sizeof(buf));
	for (i = 0; i < SIZE / sizeof(buf); i++) {
		if (model[i * sizeof(buf)])
			continue;
		rig_write(d, buf, sizeof(buf), i * sizeof(buf));
		memset(model + i * sizeof(buf), 0x77, sizeof(buf));
	}
	rig_compare(d, model);
	cr_assert_eq(disk_close(d), 0);
	RIG_SH(&rig, "qemu-img check -q a");
	d = rig_open(&rig, "a", false);
	rig_compare(d, model);
	disk_close(d);
}

/* --- several threads --- */

struct worker {
	pthread_t thread;
	struct disk *d;
	u8 *model;
	u64 seed;
	unsigned n;
};

enum { WORKERS = 4 };

/* Each has every WORKERS'th sector run of its own: neighbours share clusters. */
static void *work(void *opaque)
{
	struct worker *w = opaque;
	struct disk_rig r = {.seed = w->seed};
	u8 buf[2048], got[2048];

	for (unsigned i = 0; i < 3000; i++) {
		u64 slot = rig_random(&r) % (SIZE / sizeof(buf) / WORKERS);
		u64 off = (slot * WORKERS + w->n) * sizeof(buf);

		switch (rig_random(&r) % 8) {
		case 0:
			if (disk_flush(w->d))
				return w;
			break;
		case 1:
			if (disk_zero(w->d, off, sizeof(buf), true))
				return w;
			memset(w->model + off, 0, sizeof(buf));
			break;
		case 2:
		case 3: {
			struct iovec iov = {got, sizeof(got)};

			if (disk_readv(w->d, &iov, 1, off) ||
			    memcmp(got, w->model + off, sizeof(got)))
				return w;
			break;
		}
		default: {
			struct iovec iov = {buf, sizeof(buf)};

			for (u64 k = 0; k < sizeof(buf); k += 8)
				*(u64 *)(buf + k) = rig_random(&r);
			if (disk_writev(w->d, &iov, 1, off))
				return w;
			memcpy(w->model + off, buf, sizeof(buf));
		}
		}
	}
	return NULL;
}

static void exercise_threads(const char *name)
{
	struct worker w[WORKERS];
	struct disk *d = rig_open(&rig, name, true);
	void *failed;

	for (unsigned i = 0; i < WORKERS; i++) {
		w[i] = (struct worker){.d = d, .model = model, .seed = 77 + i, .n = i};
		cr_assert_eq(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		pthread_join(w[i].thread, &failed);
		cr_assert_null(failed);
	}
	rig_compare(d, model);
	cr_assert_eq(disk_close(d), 0);
	RIG_SH(&rig, "qemu-img check -q %s", name);
	d = rig_open(&rig, name, false);
	rig_compare(d, model);
	disk_close(d);
}

Test(qcow2, threads_share_clusters)
{
	RIG_SH(&rig, "qemu-img create -q -f qcow2 a 4M");
	exercise_threads("a");
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -o cluster_size=1k b 4M");
	memset(model, 0, SIZE);
	exercise_threads("b");
}

Test(qcow2, threads_on_compressed_clusters)
{
	rig_fill_random(&rig, model, SIZE / 8);
	rig_put_file(&rig, "raw", model, SIZE);
	RIG_SH(&rig, "qemu-img convert -q -c -O qcow2 raw a");
	exercise_threads("a");
}

/* --- tools --- */

Test(qcow2, resize)
{
	u8 buf[512];
	struct disk *d;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 a 1M");
	d = rig_open(&rig, "a", true);
	memset(buf, 3, sizeof(buf));
	rig_write(d, buf, sizeof(buf), MIB - 512);
	cr_assert_eq(disk_resize(d, 4096 * MIB), 0);
	rig_write(d, buf, sizeof(buf), 4096 * MIB - 512);
	cr_assert_eq(disk_resize(d, MIB), -ENOTSUP);
	cr_assert_eq(disk_close(d), 0);
	RIG_SH(&rig, "qemu-img check -q a");
	d = rig_open(&rig, "a", false);
	cr_assert_eq(disk_size(d), 4096 * MIB);
	rig_read(d, buf, sizeof(buf), 4096 * MIB - 512);
	cr_assert_eq(buf[0], 3);
	disk_close(d);
}

/* Our check and qemu-img's say the same of what is right, leaks, and is broken. */
Test(qcow2, check_finds_what_is_wrong)
{
	struct disk_check result;
	u8 buf[8192];
	struct disk *d;
	FILE *f;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 a 4M");
	d = rig_open(&rig, "a", true);
	memset(buf, 9, sizeof(buf));
	rig_write(d, buf, sizeof(buf), 0);
	cr_assert_eq(disk_close(d), 0);
	d = rig_open(&rig, "a", false);
	cr_assert_eq(disk_check(d, &result, NULL), 0);
	cr_assert(!result.corruptions && !result.leaks);
	cr_assert_eq(result.allocated, 1);
	disk_close(d);
	RIG_SH(&rig, "truncate -s 1M a");
	/* The first refcount block is the third cluster. Count the seventh cluster once... */
	f = fopen(rig_path(&rig, "a"), "r+");
	fseek(f, 2 * 65536 + 2 * 7, SEEK_SET);
	fwrite("\0\1", 1, 2, f);
	fclose(f);
	cr_assert_eq(rig_sh(&rig, "qemu-img check -q a >/dev/null 2>&1"), 3);
	d = rig_open(&rig, "a", false);
	cr_assert_eq(disk_check(d, &result, NULL), 0);
	cr_assert(!result.corruptions && result.leaks == 1);
	disk_close(d);
	/* ... and the header's not at all. */
	f = fopen(rig_path(&rig, "a"), "r+");
	fseek(f, 2 * 65536, SEEK_SET);
	fwrite("\0\0", 1, 2, f);
	fclose(f);
	cr_assert_eq(rig_sh(&rig, "qemu-img check -q a >/dev/null 2>&1"), 2);
	d = rig_open(&rig, "a", false);
	cr_assert_eq(disk_check(d, &result, NULL), 0);
	cr_assert(result.corruptions && result.leaks == 1);
	disk_close(d);
}

Test(qcow2, what_we_cannot_open_is_named)
{
	static const struct {
		const char *options, *text;
	} cases[] = {
	    {"-o extended_l2=on", "extended L2 entries"},
	    {"-o data_file=ext", "external data file"},
	    {"--object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s",
	     "encrypted"},
	};
	struct disk *d;

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct disk_config cfg = {.path = rig_path(&rig, "a")};

		/* It measures the processor for the key's sake, and now and then fails at that. */
		for (unsigned tries = 0; tries < 10; tries++)
			if (!rig_sh(&rig, "rm -f a ext; qemu-img create -q -f qcow2 %s a 4M",
				    cases[i].options))
				break;
		cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), -ENOTSUP);
		cr_assert(strstr(rig.err, cases[i].text), "%s", rig.err);
	}
	for (unsigned i = 0; i < 2; i++) {
		static const char *const formats[] = {"vmdk", "vdi"};
		struct disk_config cfg = {.path = rig_path(&rig, "b")};

		RIG_SH(&rig, "qemu-img create -q -f %s b 4M", formats[i]);
		cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), -ENOTSUP);
		cr_assert(strstr(rig.err, formats[i]), "%s", rig.err);
	}
}

/* One number of the header wrong at a time: one line that says what. */
Test(qcow2, headers_that_cannot_be)
{
	static const struct {
		unsigned at, len;
		u64 value;
		const char *text;
	} cases[] = {
	    {0, 4, 0x51464900, "not a qcow2 image"},
	    {4, 4, 1, "version 1"},
	    {4, 4, 4, "version 4"},
	    {16, 4, 2000, "backing file"}, /* with the offset of the next line */
	    {20, 4, 8, "cluster size 2^8"},
	    {20, 4, 22, "cluster size 2^22"},
	    {20, 4, 0xffffffff, "cluster size"},
	    {24, 8, BIT(63), "too large"},
	    {24, 8, 8192 * GIB, "L1 table is too small"},
	    {32, 4, 3, "encrypted"},
	    {36, 4, 0xffffffff, "L1 table is too large"},
	    {36, 4, 0, "L1 table is too small"},
	    {40, 8, 1, "L1 table is not within"},
	    {40, 8, BIT(62), "L1 table is not within"},
	    {48, 8, 12345, "refcount table is not within"},
	    {48, 8, ~0ull & ~0xffffull, "refcount table is not within"},
	    {56, 4, 0, "no refcount table"},
	    {56, 4, 0xffffffff, "refcount table is too large"},
	    {60, 4, 0xffffffff, "too many qcow2 snapshots"},
	    {60, 4, 1, "snapshot table is not within"}, /* with the next but one */
	    {72, 8, 1, "dirty"},
	    {72, 8, 2, "corrupt"},
	    {72, 8, BIT(63), "bit 63"},
	    {96, 4, 7, "refcounts of 2^7 bits"},
	    {100, 4, 64, "length 64"},
	    {100, 4, 0xfffffff8, "length"},
	};
	struct disk *d;

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct disk_config cfg = {
		    .path = rig_path(&rig, "a"), .format = "qcow2", .write = true};
		u8 bytes[8];
		FILE *f;

		RIG_SH(&rig, "rm -f a; qemu-img create -q -f qcow2 a 4M");
		f = fopen(cfg.path, "r+");
		for (unsigned k = 0; k < cases[i].len; k++)
			bytes[k] = (u8)(cases[i].value >> (8 * (cases[i].len - 1 - k)));
		fseek(f, cases[i].at, SEEK_SET);
		fwrite(bytes, 1, cases[i].len, f);
		if (cases[i].at == 16) {
			fseek(f, 8, SEEK_SET);
			fwrite("\0\0\0\0\0\0\x02\0", 1, 8, f);
		}
		if (cases[i].at == 60) {
			fseek(f, 64, SEEK_SET);
			fwrite("\0\0\0\0\0\0\x02\0", 1, 8, f);
		}
		fclose(f);
		cr_expect_lt(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), 0);
		cr_expect(strstr(rig.err, cases[i].text) && !strchr(rig.err, '\n') &&
			      strstr(rig.err, cfg.path) == rig.err,
			  "case %u: '%s' does not say '%s'", i, rig.err, cases[i].text);
	}
}

Test(qcow2, backing_files_that_cannot_be)
{
	struct disk_config cfg = {.path = rig_path(&rig, "a")};
	struct disk *d;

	RIG_SH(&rig, "qemu-img create -q -f qcow2 -u -b b -F qcow2 a 4M");
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -u -b a -F qcow2 b 4M");
	cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), -ELOOP);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -u -b missing -F qcow2 a 4M");
	cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), -ENOENT);
	cr_assert(strstr(rig.err, "missing"), "%s", rig.err);
	RIG_SH(&rig, "qemu-img create -q -f qcow2 -u -b nbd://localhost/x -F raw a 4M");
	cr_assert_eq(disk_open(&d, &cfg, NULL, rig.err, sizeof(rig.err)), -ENOTSUP);
	cr_assert(strstr(rig.err, "nbd://"), "%s", rig.err);
}

/* QEMU sees our locks and we see QEMU's. */
Test(qcow2, locks_are_qemus)
{
	struct disk *d, *e;
	struct disk_config cfg = {.path = rig_path(&rig, "a"), .write = true};

	RIG_SH(&rig, "qemu-img create -q -f qcow2 a 4M");
	d = rig_open(&rig, "a", true);
	cr_assert_neq(rig_sh(&rig, "qemu-img info a >/dev/null 2>err"), 0);
	RIG_SH(&rig, "grep -q 'shared \"write\" lock' err");
	cr_assert_eq(disk_open(&e, &cfg, NULL, rig.err, sizeof(rig.err)), -EBUSY);
	cfg.write = false;
	cr_assert_eq(disk_open(&e, &cfg, NULL, rig.err, sizeof(rig.err)), -EBUSY);
	cr_assert(strstr(rig.err, "lock"), "%s", rig.err);
	cfg.no_lock = true;
	cr_assert_eq(disk_open(&e, &cfg, NULL, rig.err, sizeof(rig.err)), 0, "%s", rig.err);
	disk_close(e);
	disk_close(d);
	cfg.no_lock = false;
	d = rig_open(&rig, "a", false);
	RIG_SH(&rig, "qemu-img info a >/dev/null");
	cr_assert_eq(disk_open(&e, &cfg, NULL, rig.err, sizeof(rig.err)), 0, "%s", rig.err);
	disk_close(e);
	cr_assert_neq(rig_sh(&rig, "qemu-io -c 'write 0 512' a >/dev/null 2>&1"), 0);
	disk_close(d);
	RIG_SH(&rig, "qemu-io -c 'write 0 512' a >/dev/null");
}
