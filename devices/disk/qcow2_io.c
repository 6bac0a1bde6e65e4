/*
 * Reading, and writing with copy on write.
 *
 * New clusters are filled before an L2 entry says they are there, so a crash in between shows the
 * old data. What a request does not write of a new cluster comes from what was read there before.
 */
#include <errno.h>
#include <string.h>

#include "qcow2.h"

#define FILL_MAX (4 * MIB) /* new clusters at a time, in bytes; at least one cluster */

/* --- reading --- */

/* Part of one compressed cluster. */
static int read_packed(struct qcow2 *q, u64 entry, const struct iovec *iov, unsigned n, u64 at,
		       u64 off, u64 len)
{
	void *cluster = malloc(q->cluster_size);
	int rc = cluster ? qcow2_unpack(q, entry, cluster) : -ENOMEM;

	if (!rc)
		iov_fill(iov, n, at, (u8 *)cluster + (off & (q->cluster_size - 1)), len);
	free(cluster);
	return rc;
}

/* One extent, whose bytes go to iov at `at`. */
static int read_extent(struct qcow2 *q, const struct qcow2_extent *e, const struct iovec *iov,
		       unsigned n, u64 at, u64 off)
{
	struct iovec part[IOV_SEGS_MAX];

	switch (e->kind) {
	case QCOW2_ZEROS: iov_zero(iov, n, at, e->len); return 0;
	case QCOW2_PACKED: return read_packed(q, e->entry, iov, n, at, off, e->len);
	case QCOW2_UNALLOCATED:
		n = iov_slice(part, iov, n, at, e->len);
		return disk_read_backing(q->disk->backing, part, n, off);
	case QCOW2_DATA:
		n = iov_slice(part, iov, n, at, e->len);
		return hostfile_preadv(q->file, part, n, e->host);
	}
	return -EIO;
}

/* The gate is held. */
static int read_range(struct qcow2 *q, const struct iovec *iov, unsigned n, u64 off, u64 len)
{
	struct qcow2_extent e;
	int rc = 0;

	for (u64 at = 0; at < len && !rc; at += e.len) {
		pthread_mutex_lock(&q->lock);
		rc = qcow2_map(q, off + at, len - at, false, &e);
		pthread_mutex_unlock(&q->lock);
		if (rc)
			break;
		rc = read_extent(q, &e, iov, n, at, off + at);
	}
	return rc;
}

int qcow2_readv(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	struct qcow2 *q = d->state;
	int rc;

	pthread_rwlock_rdlock(&q->gate);
	rc = read_range(q, iov, n, off, iov_length(iov, n));
	pthread_rwlock_unlock(&q->gate);
	return rc;
}

static int extent_now(struct qcow2 *q, const struct qcow2_extent *e, const struct iovec *iov,
		      unsigned n, u64 at, u64 off)
{
	struct disk *b = q->disk->backing;
	struct iovec part[IOV_SEGS_MAX];

	if (e->kind == QCOW2_ZEROS || (e->kind == QCOW2_UNALLOCATED && !b)) {
		iov_zero(iov, n, at, e->len);
		return 0;
	}
	n = iov_slice(part, iov, n, at, e->len);
	if (e->kind == QCOW2_DATA)
		return hostfile_preadv_now(q->file, part, n, e->host);
	if (e->kind == QCOW2_PACKED || off > b->size || e->len > b->size - off)
		return -EAGAIN;
	return b->format->readv_now(b, part, n, off);
}

int qcow2_readv_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	u64 len = iov_length(iov, n);
	struct qcow2 *q = d->state;
	struct qcow2_extent e;
	int rc = 0;

	if (pthread_rwlock_tryrdlock(&q->gate))
		return -EAGAIN;
	for (u64 at = 0; at < len && !rc; at += e.len) {
		rc = pthread_mutex_trylock(&q->lock) ? -EAGAIN : 0;
		if (rc)
			break;
		rc = qcow2_map(q, off + at, len - at, true, &e);
		pthread_mutex_unlock(&q->lock);
		if (!rc)
			rc = extent_now(q, &e, iov, n, at, off + at);
	}
	pthread_rwlock_unlock(&q->gate);
	return rc ? -EAGAIN : 0;
}

/* --- writing --- */

/* New clusters and what goes there. */
struct fill {
	struct qcow2_alloc alloc;
	u64 off, len; /* of the guest's data */
	u64 host;     /* of the first cluster */
	bool fresh;
};

static bool all_zero(const u8 *p, u64 len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* What the request leaves of the first and the last cluster. *buf: to be freed. */
static int read_margins(struct qcow2 *q, const struct fill *f, u8 **buf, struct iovec *head,
			struct iovec *tail)
{
	u64 start = f->alloc.first << q->cluster_bits;
	u64 end = (f->alloc.first + f->alloc.count) << q->cluster_bits;
	u64 before = f->off - start, after = end - (f->off + f->len);
	int rc;

	*buf = NULL;
	*head = *tail = (struct iovec){0};
	if (!before && !after)
		return 0;
	*buf = aligned_alloc(4096, ALIGN_UP(before, 4096) + ALIGN_UP(after, 4096));
	if (!*buf)
		return -ENOMEM;
	*head = (struct iovec){*buf, before};
	*tail = (struct iovec){*buf + ALIGN_UP(before, 4096), after};
	rc = before ? read_range(q, head, 1, start, before) : 0;
	if (!rc && after)
		rc = read_range(q, tail, 1, f->off + f->len, after);
	if (f->fresh && all_zero(head->iov_base, before))
		head->iov_len = 0;
	if (f->fresh && all_zero(tail->iov_base, after))
		tail->iov_len = 0;
	return rc;
}

/* In one piece, if it is not too many. */
static int write_filled(struct qcow2 *q, const struct fill *f, const struct iovec *data, unsigned n,
			const struct iovec *head, const struct iovec *tail)
{
	u64 to = f->host + (f->off & (q->cluster_size - 1)) - head->iov_len;
	struct iovec all[IOV_SEGS_MAX];
	unsigned count = 0;
	int rc;

	if (n + 2 > IOV_SEGS_MAX) {
		rc = hostfile_pwritev(q->file, head, 1, to);
		rc = rc ? rc : hostfile_pwritev(q->file, data, n, to + head->iov_len);
		return rc ? rc : hostfile_pwritev(q->file, tail, 1, to + head->iov_len + f->len);
	}
	if (head->iov_len)
		all[count++] = *head;
	memcpy(all + count, data, n * sizeof(*data));
	count += n;
	if (tail->iov_len)
		all[count++] = *tail;
	return hostfile_pwritev(q->file, all, count, to);
}

static int fill_clusters(struct qcow2 *q, const struct fill *f, const struct iovec *data,
			 unsigned n)
{
	struct iovec head, tail;
	u8 *buf;
	int rc = read_margins(q, f, &buf, &head, &tail);

	if (!rc)
		rc = write_filled(q, f, data, n, &head, &tail);
	free(buf);
	return rc;
}

/* The lock is held: the new clusters become the guest's. */
static int link_clusters(struct qcow2 *q, const struct fill *f)
{
	struct qcow2_table *t;
	u64 index;
	int rc = qcow2_l2_for_write(q, f->alloc.first << q->cluster_bits, &t, &index);

	for (u64 i = 0; i < f->alloc.count && !rc; i++) {
		qcow2_free_entry(q, be64_at(t->data, index + i));
		put_be64_at(t->data, index + i, (f->host + (i << q->cluster_bits)) | QCOW2_COPIED);
		t->dirty = true;
	}
	return rc;
}

static void remove_alloc(struct qcow2 *q, struct qcow2_alloc *a)
{
	struct qcow2_alloc **p = &q->allocs;

	while (*p != a)
		p = &(*p)->next;
	*p = a->next;
	pthread_cond_broadcast(&q->changed);
}

bool qcow2_in_flight(const struct qcow2 *q, u64 first, u64 count)
{
	for (const struct qcow2_alloc *a = q->allocs; a; a = a->next)
		if (first < a->first + a->count && a->first < first + count)
			return true;
	return false;
}

/* How many clusters from off on may be allocated together: in one L2 table, none of them to be
 * written in place, none being allocated by somebody else. 0: wait. */
static int fillable(struct qcow2 *q, u64 off, u64 len, u64 *clusters)
{
	u64 first = off >> q->cluster_bits, last = (off + len - 1) >> q->cluster_bits;
	u64 max = MAX(FILL_MAX >> q->cluster_bits, 1), n = 0;
	u64 in_table = BIT(q->l2_bits) - (first & (BIT(q->l2_bits) - 1));
	int rc = 0;

	max = MIN(MIN(max, in_table), last - first + 1);
	while (n < max && !qcow2_in_flight(q, first + n, 1)) {
		struct qcow2_extent e;

		rc = qcow2_map(q, (first + n) << q->cluster_bits, 1, false, &e);
		if (rc || e.in_place)
			break;
		n++;
	}
	*clusters = n;
	return n ? 0 : rc;
}

/* The lock is held, and given back. Writes a first part of the request. */
static int write_new(struct qcow2 *q, const struct iovec *iov, unsigned n, u64 at, u64 off, u64 len,
		     u64 clusters, u64 *done)
{
	struct fill f = {.off = off};
	struct iovec part[IOV_SEGS_MAX];
	struct qcow2_table *t;
	u64 index, got;
	int rc = qcow2_l2_for_write(q, off, &t, &index);

	if (!rc)
		rc = qcow2_alloc(q, clusters, &f.host, &got, &f.fresh);
	if (rc) {
		pthread_mutex_unlock(&q->lock);
		return rc;
	}
	f.alloc = (struct qcow2_alloc){q->allocs, off >> q->cluster_bits, got};
	q->allocs = &f.alloc;
	pthread_mutex_unlock(&q->lock);

	f.len = MIN(len, (got << q->cluster_bits) - (off & (q->cluster_size - 1)));
	n = iov_slice(part, iov, n, at, f.len);
	rc = fill_clusters(q, &f, part, n);

	pthread_mutex_lock(&q->lock);
	rc = rc ? rc : link_clusters(q, &f);
	if (rc)
		qcow2_release(q, f.host, got);
	remove_alloc(q, &f.alloc);
	pthread_mutex_unlock(&q->lock);
	*done = f.len;
	return rc;
}

static int write_some(struct qcow2 *q, const struct iovec *iov, unsigned n, u64 at, u64 off,
		      u64 len, u64 *done)
{
	struct iovec part[IOV_SEGS_MAX];
	struct qcow2_extent e;
	u64 clusters;
	int rc;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		rc = qcow2_map(q, off, len, false, &e);
		if (rc || e.in_place)
			break;
		rc = fillable(q, off, len, &clusters);
		if (rc)
			break;
		if (clusters)
			return write_new(q, iov, n, at, off, len, clusters, done);
		pthread_cond_wait(&q->changed, &q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	if (rc)
		return rc;
	*done = e.len;
	n = iov_slice(part, iov, n, at, e.len);
	return hostfile_pwritev(q->file, part, n, e.host);
}

int qcow2_writev(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	u64 len = iov_length(iov, n), done = 0;
	struct qcow2 *q = d->state;
	int rc = 0;

	pthread_rwlock_rdlock(&q->gate);
	for (u64 at = 0; at < len && !rc; at += done)
		rc = write_some(q, iov, n, at, off + at, len - at, &done);
	pthread_rwlock_unlock(&q->gate);
	qcow2_relieve(q);
	return rc;
}

/* Only what lies in one piece where it can be written in place. */
int qcow2_writev_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off, bool *waited)
{
	u64 len = iov_length(iov, n);
	struct qcow2 *q = d->state;
	struct qcow2_extent e;
	int rc = -EAGAIN;

	if (pthread_rwlock_tryrdlock(&q->gate))
		return -EAGAIN;
	if (!pthread_mutex_trylock(&q->lock)) {
		rc = qcow2_map(q, off, len, true, &e) || !e.in_place || e.len < len ? -EAGAIN : 0;
		pthread_mutex_unlock(&q->lock);
	}
	if (!rc)
		rc = hostfile_pwritev_now(q->file, iov, n, e.host, waited);
	pthread_rwlock_unlock(&q->gate);
	return rc;
}
