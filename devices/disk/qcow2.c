/*
 * Opening and closing: the header, its extensions, what this version can open and what not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "qcow2.h"

#define HEADER_MAX (64 * KIB) /* it is in the first cluster; more of that is not looked at */

struct opening {
	struct qcow2 *q;
	const char *path;
	char *err;
	size_t errlen;
	u8 *header; /* the first cluster */
	u64 header_len;
};

static PRINTF(3, 4) int fail(struct opening *o, int rc, const char *fmt, ...)
{
	int n = snprintf(o->err, o->errlen, "%s: ", o->path);
	va_list ap;

	if (n >= 0 && (size_t)n < o->errlen) {
		va_start(ap, fmt);
		vsnprintf(o->err + n, o->errlen - n, fmt, ap);
		va_end(ap);
	}
	return rc;
}

static u64 field(const struct opening *o, unsigned at, unsigned bytes)
{
	return be(o->header + at, bytes);
}

/* --- features --- */

static const char *const feature_names[] = {
    "dirty (refcounts not up to date: repair with qemu-img check -r all)",
    "corrupt (repair with qemu-img check -r all)",
    "external data file",
    "compression type",
    "extended L2 entries",
};

static int refuse_feature(struct opening *o, unsigned bit)
{
	if (bit < ARRAY_LEN(feature_names))
		return fail(o, -ENOTSUP, "qcow2 feature not in this version: %s",
			    feature_names[bit]);
	return fail(o, -ENOTSUP, "unknown incompatible qcow2 feature, bit %u", bit);
}

static int check_features(struct opening *o)
{
	struct qcow2 *q = o->q;
	u64 bad = q->incompatible & ~QCOW2_I_COMPRESSION;

	/* A look at the guest's data is fine with wrong counts. */
	if (!q->disk->writable)
		bad &= ~(QCOW2_I_DIRTY | QCOW2_I_CORRUPT);
	if (bad)
		return refuse_feature(o, (unsigned)__builtin_ctzll(bad));
	if (field(o, QCOW2_H_CRYPT, 4))
		return fail(o, -ENOTSUP, "encrypted images are not in this version");
	if (!(q->incompatible & QCOW2_I_COMPRESSION))
		return 0;
	switch (field(o, QCOW2_H_COMPRESSION, 1)) {
	case 0: return 0;
	case 1: q->zstd = true; return 0;
	default: return fail(o, -ENOTSUP, "unknown compression type");
	}
}

/* --- the header --- */

static int read_header(struct opening *o)
{
	struct qcow2 *q = o->q;
	unsigned bits;
	int rc;

	o->header_len = HEADER_MAX;
	o->header = calloc(1, o->header_len);
	if (!o->header)
		return fail(o, -ENOMEM, "out of memory");
	rc = hostfile_pread(q->file, o->header, o->header_len, 0);
	if (rc)
		return fail(o, rc, "%s", strerror(-rc));
	if (field(o, QCOW2_H_MAGIC, 4) != QCOW2_MAGIC)
		return fail(o, -EINVAL, "not a qcow2 image");
	q->version = (unsigned)field(o, QCOW2_H_VERSION, 4);
	if (q->version != 2 && q->version != 3)
		return fail(o, -ENOTSUP, "qcow2 version %u is not in this version, only 2 and 3",
			    q->version);
	bits = (unsigned)field(o, QCOW2_H_CLUSTER_BITS, 4);
	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return fail(o, -EINVAL, "corrupt qcow2 header: cluster size 2^%u", bits);
	q->cluster_bits = bits;
	q->cluster_size = BIT(bits);
	q->l2_bits = bits - 3;
	o->header_len = MIN(q->cluster_size, HEADER_MAX);
	return 0;
}

static int read_v3_fields(struct opening *o)
{
	struct qcow2 *q = o->q;
	u64 length = QCOW2_H_V2_LENGTH;

	q->refcount_order = 4;
	if (q->version == 3) {
		length = field(o, QCOW2_H_LENGTH, 4);
		q->incompatible = field(o, QCOW2_H_INCOMPATIBLE, 8);
		q->compatible = field(o, QCOW2_H_COMPATIBLE, 8);
		q->refcount_order = (unsigned)field(o, QCOW2_H_REFCOUNT_ORDER, 4);
		if (length < QCOW2_H_V3_LENGTH || length > o->header_len)
			return fail(o, -EINVAL, "corrupt qcow2 header: length %llu",
				    (unsigned long long)length);
		if ((q->incompatible & QCOW2_I_COMPRESSION) && length <= QCOW2_H_COMPRESSION)
			return fail(o, -EINVAL, "corrupt qcow2 header: no compression type");
	}
	if (q->refcount_order > 6)
		return fail(o, -EINVAL, "corrupt qcow2 header: refcounts of 2^%u bits",
			    q->refcount_order);
	q->refblock_bits = q->cluster_bits + 3 - q->refcount_order;
	return 0;
}

/* A table within the file, at a cluster. */
static int check_table(struct opening *o, const char *name, u64 offset, u64 bytes, u64 max)
{
	struct qcow2 *q = o->q;
	u64 size = hostfile_size(q->file);

	if (bytes > max)
		return fail(o, -EFBIG, "qcow2 %s is too large", name);
	if (bytes && (offset & (q->cluster_size - 1) || offset > size || bytes > size - offset))
		return fail(o, -EINVAL, "corrupt qcow2 image: the %s is not within the file", name);
	return 0;
}

static u64 *read_table(struct opening *o, const char *name, u64 offset, u64 entries)
{
	u64 *table = aligned_alloc(4096, ALIGN_UP(MAX(entries, 1) * 8, 4096));
	int rc;

	if (!table) {
		fail(o, -ENOMEM, "out of memory");
		return NULL;
	}
	rc = entries ? hostfile_pread(o->q->file, table, entries * 8, offset) : 0;
	if (rc) {
		fail(o, rc, "cannot read the qcow2 %s: %s", name, strerror(-rc));
		free(table);
		return NULL;
	}
	for (u64 i = 0; i < entries; i++)
		table[i] = __builtin_bswap64(table[i]);
	return table;
}

static int read_l1(struct opening *o)
{
	struct qcow2 *q = o->q;
	u64 size = field(o, QCOW2_H_SIZE, 8), span = BIT(q->cluster_bits + q->l2_bits);
	int rc;

	if (size > INT64_MAX)
		return fail(o, -EFBIG, "the disk is too large");
	q->disk->size = ALIGN_DOWN(size, DISK_SECTOR);
	q->l1_size = field(o, QCOW2_H_L1_SIZE, 4);
	q->l1_offset = field(o, QCOW2_H_L1_OFFSET, 8);
	rc = check_table(o, "L1 table", q->l1_offset, q->l1_size * 8, QCOW2_MAX_L1_BYTES);
	if (rc)
		return rc;
	if (q->l1_size < size / span + (size % span != 0))
		return fail(o, -EINVAL, "corrupt qcow2 image: the L1 table is too small");
	q->l1 = read_table(o, "L1 table", q->l1_offset, q->l1_size);
	return q->l1 ? 0 : -EIO;
}

static int read_reftable(struct opening *o)
{
	struct qcow2 *q = o->q;
	u64 clusters = field(o, QCOW2_H_REFTABLE_CLUSTERS, 4);
	int rc;

	q->reftable_offset = field(o, QCOW2_H_REFTABLE_OFFSET, 8);
	if (!clusters)
		return fail(o, -EINVAL, "corrupt qcow2 image: no refcount table");
	rc = check_table(o, "refcount table", q->reftable_offset, clusters << q->cluster_bits,
			 QCOW2_MAX_REFTABLE);
	if (rc)
		return rc;
	q->reftable_size = (clusters << q->cluster_bits) / 8;
	q->reftable = read_table(o, "refcount table", q->reftable_offset, q->reftable_size);
	return q->reftable ? 0 : -EIO;
}

static int read_snapshot_place(struct opening *o)
{
	struct qcow2 *q = o->q;

	q->snapshots = (unsigned)field(o, QCOW2_H_SNAPSHOTS, 4);
	q->snapshots_offset = field(o, QCOW2_H_SNAPSHOTS_OFFSET, 8);
	if (q->snapshots > QCOW2_MAX_SNAPSHOTS)
		return fail(o, -EFBIG, "too many qcow2 snapshots");
	return check_table(o, "snapshot table", q->snapshots_offset, q->snapshots ? 1 : 0, 1);
}

/* --- the backing file and extensions --- */

static int read_backing_name(struct opening *o)
{
	u64 at = field(o, QCOW2_H_BACKING_OFFSET, 8), len = field(o, QCOW2_H_BACKING_SIZE, 4);
	struct disk *d = o->q->disk;

	if (!at || !len)
		return 0;
	if (len > 1023 || at > o->header_len || len > o->header_len - at)
		return fail(o, -EINVAL, "corrupt qcow2 header: name of the backing file");
	d->backing_name = strndup((const char *)o->header + at, len);
	if (!d->backing_name)
		return fail(o, -ENOMEM, "out of memory");
	if (strlen(d->backing_name) != len)
		return fail(o, -EINVAL, "corrupt qcow2 header: name of the backing file");
	return 0;
}

static int take_extension(struct opening *o, u32 type, const u8 *data, u64 len)
{
	struct disk *d = o->q->disk;

	if (type == QCOW2_EXT_BACKING_FORMAT && !d->backing_format) {
		if (len > 31 || memchr(data, 0, len))
			return fail(o, -EINVAL, "corrupt qcow2 header: backing format");
		d->backing_format = len ? strndup((const char *)data, len) : NULL;
	}
	if (type == QCOW2_EXT_BITMAPS && len >= 24 && (field(o, QCOW2_H_AUTOCLEAR, 8) & 1)) {
		o->q->bitmaps = (unsigned)be(data, 4);
		o->q->bitmaps_size = be(data + 8, 8);
		o->q->bitmaps_offset = be(data + 16, 8);
	}
	return 0;
}

static int read_extensions(struct opening *o)
{
	u64 at = o->q->version == 3 ? field(o, QCOW2_H_LENGTH, 4) : QCOW2_H_V2_LENGTH;
	u64 name = field(o, QCOW2_H_BACKING_OFFSET, 8);
	u64 end = name && name < o->header_len ? name : o->header_len;
	int rc = 0;

	while (!rc && at + 8 <= end) {
		u32 type = (u32)field(o, (unsigned)at, 4);
		u64 len = field(o, (unsigned)at + 4, 4);

		at += 8;
		if (type == QCOW2_EXT_END)
			break;
		if (len > end - at)
			return fail(o, -EINVAL, "corrupt qcow2 header: extension %#x", type);
		rc = take_extension(o, type, o->header + at, len);
		at += ALIGN_UP(len, 8);
	}
	return rc;
}

/* Whoever does not know what an autoclear bit stands for clears it before writing: bitmaps and the
 * like are not kept up to date from here on. */
static int clear_autoclear(struct opening *o)
{
	static const u8 none[8];
	struct qcow2 *q = o->q;
	int rc;

	if (q->version < 3 || !q->disk->writable || !field(o, QCOW2_H_AUTOCLEAR, 8))
		return 0;
	q->bitmaps = 0;
	rc = hostfile_pwrite(q->file, none, sizeof(none), QCOW2_H_AUTOCLEAR);
	rc = rc ? rc : hostfile_sync(q->file);
	return rc ? fail(o, rc, "%s", strerror(-rc)) : 0;
}

/* --- opening and closing --- */

static int read_all(struct opening *o)
{
	int (*const steps[])(struct opening *) = {
	    read_header,         read_v3_fields,    check_features,  read_l1,        read_reftable,
	    read_snapshot_place, read_backing_name, read_extensions, clear_autoclear};
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_LEN(steps) && !rc; i++)
		rc = steps[i](o);
	return rc;
}

static void init_locks(struct qcow2 *q)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&q->gate, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
}

static void free_all(struct qcow2 *q)
{
	qcow2_cache_free(&q->l2);
	qcow2_cache_free(&q->refblocks);
	pthread_rwlock_destroy(&q->gate);
	pthread_mutex_destroy(&q->lock);
	pthread_cond_destroy(&q->changed);
	free(q->frees.range);
	free(q->l1);
	free(q->reftable);
	free(q);
}

static int qcow2_open(struct disk *d, char *err, size_t errlen)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	struct opening o = {.q = q, .path = hostfile_path(d->file), .err = err, .errlen = errlen};
	int rc;

	if (!q)
		return fail(&o, -ENOMEM, "out of memory");
	q->disk = d;
	q->file = d->file;
	init_locks(q);
	rc = read_all(&o);
	free(o.header);
	if (rc) {
		free_all(q);
		return rc;
	}
	qcow2_cache_init(&q->l2, q->cluster_size);
	qcow2_cache_init(&q->refblocks, q->cluster_size);
	q->fresh_from = ALIGN_UP(hostfile_size(d->file), q->cluster_size);
	d->state = q;
	return 0;
}

/* The first flush ends the use of clusters, the second writes that they are free. */
static int qcow2_close(struct disk *d)
{
	int rc = 0;

	if (d->writable) {
		rc = qcow2_flush(d);
		rc = rc ? rc : qcow2_flush(d);
	}
	free_all(d->state);
	return rc;
}

static void qcow2_info(const struct disk *d, struct disk_info *info)
{
	const struct qcow2 *q = d->state;

	info->version = q->version;
	info->cluster_size = (u32)q->cluster_size;
	info->compression = q->zstd ? "zstd" : "zlib";
	info->refcount_bits = 1u << q->refcount_order;
	info->snapshots = q->snapshots;
	info->lazy_refcounts = q->compatible & QCOW2_C_LAZY;
	info->dirty = q->incompatible & QCOW2_I_DIRTY;
	info->corrupt = q->incompatible & QCOW2_I_CORRUPT;
}

/* Growing within the clusters the L1 table has: with clusters of 64 KiB one of them maps 4 TiB. */
static int qcow2_resize(struct disk *d, u64 size)
{
	struct qcow2 *q = d->state;
	u64 span = BIT(q->cluster_bits + q->l2_bits), old = d->size, entries, room;
	u8 header[16];
	int rc = 0;

	if (size < old || q->snapshots)
		return -ENOTSUP;
	entries = size / span + (size % span != 0);
	room = ALIGN_UP(q->l1_size * 8, q->cluster_size) / 8;
	if (entries > room)
		return -ENOTSUP;
	if (entries > q->l1_size) {
		u64 *l1 = aligned_alloc(4096, ALIGN_UP(entries * 8, 4096));

		if (!l1)
			return -ENOMEM;
		memset(l1, 0, entries * 8);
		memcpy(l1, q->l1, q->l1_size * 8);
		rc = qcow2_write_l1(q, l1, q->l1_size, entries);
		rc = rc ? rc : hostfile_sync(q->file);
		if (rc) {
			free(l1);
			return rc;
		}
		free(q->l1);
		q->l1 = l1;
		q->l1_size = entries;
	}
	put_be(header, 4, q->l1_size);
	rc = hostfile_pwrite(q->file, header, 4, QCOW2_H_L1_SIZE);
	put_be(header, 8, size);
	rc = rc ? rc : hostfile_pwrite(q->file, header, 8, QCOW2_H_SIZE);
	rc = rc ? rc : hostfile_sync(q->file);
	if (rc)
		return rc;
	d->size = size;
	/* A longer backing image does not come to light. */
	if (d->backing && d->backing->size > old)
		rc = qcow2_zero(d, old, MIN(size, d->backing->size) - old, true);
	return rc;
}

const struct disk_format disk_qcow2 = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .readv = qcow2_readv,
    .readv_now = qcow2_readv_now,
    .writev_now = qcow2_writev_now,
    .writev = qcow2_writev,
    .flush = qcow2_flush,
    .discard = qcow2_discard,
    .zero = qcow2_zero,
    .resize = qcow2_resize,
    .info = qcow2_info,
    .check = qcow2_check,
};
