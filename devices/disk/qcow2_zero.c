/*
 * Discard and write zeroes: whole clusters by their L2 entries, the rest by writing.
 */
#include <errno.h>

#include "qcow2.h"

/* What an entry becomes, and whether its cluster is given up. */
static u64 emptied(const struct qcow2 *q, u64 entry, bool keep_cluster, bool *give_up)
{
	bool own = (entry & QCOW2_OFFSET) && (entry & QCOW2_COPIED) && !(entry & QCOW2_COMPRESSED);

	*give_up = entry && !(keep_cluster && own && q->version >= 3);
	if (!*give_up && entry)
		return entry | QCOW2_ZERO;
	return q->disk->backing || q->disk->backing_name ? QCOW2_ZERO : 0;
}

/* The lock is held; the clusters are in one L2 table. */
static int empty_entries(struct qcow2 *q, u64 first, u64 count, bool keep)
{
	struct qcow2_table *t;
	u64 index;
	int rc = qcow2_l2_for_write(q, first << q->cluster_bits, &t, &index);

	for (u64 i = index; i < index + count && !rc; i++) {
		u64 old = be64_at(t->data, i), entry;
		bool give_up;

		entry = emptied(q, old, keep, &give_up);
		if (entry == old)
			continue;
		if (give_up)
			qcow2_free_entry(q, old);
		put_be64_at(t->data, i, entry);
		t->dirty = true;
	}
	return rc;
}

static int empty_clusters(struct qcow2 *q, u64 first, u64 count, bool keep)
{
	u64 per_table = BIT(q->l2_bits), n;
	bool below = q->disk->backing || q->disk->backing_name;
	int rc = 0;

	pthread_mutex_lock(&q->lock);
	for (u64 c = first; c < first + count && !rc; c += n) {
		n = MIN(first + count - c, per_table - (c & (per_table - 1)));
		while (qcow2_in_flight(q, c, n))
			pthread_cond_wait(&q->changed, &q->lock);
		if (!below && !(q->l1[c >> q->l2_bits] & QCOW2_OFFSET))
			continue; /* zeros, already */
		rc = empty_entries(q, c, n, keep);
	}
	pthread_mutex_unlock(&q->lock);
	return rc;
}

/* Version 2 has no entry that says zeros: an absent one shows the backing image. */
static bool can_empty(const struct qcow2 *q)
{
	return q->version >= 3 || !(q->disk->backing || q->disk->backing_name);
}

static int write_zeros(struct disk *d, u64 off, u64 len)
{
	static const u8 zeros[64 * 1024] __attribute__((aligned(4096)));
	int rc = 0;

	for (u64 n; len && !rc; off += n, len -= n) {
		struct iovec iov = {(void *)zeros, n = MIN(len, sizeof(zeros))};

		rc = qcow2_writev(d, &iov, 1, off);
	}
	return rc;
}

/* The whole clusters of a range; the last one of the disk may be short. */
static void whole_clusters(const struct qcow2 *q, u64 off, u64 len, u64 *first, u64 *count)
{
	u64 end = off + len;

	if (end == q->disk->size)
		end = ALIGN_UP(end, q->cluster_size);
	*first = ALIGN_UP(off, q->cluster_size) >> q->cluster_bits;
	*count = end >> q->cluster_bits > *first ? (end >> q->cluster_bits) - *first : 0;
}

int qcow2_discard(struct disk *d, u64 off, u64 len)
{
	struct qcow2 *q = d->state;
	u64 first, count;
	int rc;

	whole_clusters(q, off, len, &first, &count);
	if (!count || !can_empty(q))
		return 0;
	pthread_rwlock_rdlock(&q->gate);
	rc = empty_clusters(q, first, count, false);
	pthread_rwlock_unlock(&q->gate);
	qcow2_relieve(q);
	return rc;
}

int qcow2_zero(struct disk *d, u64 off, u64 len, bool unmap)
{
	struct qcow2 *q = d->state;
	u64 first, count, start, end;
	int rc;

	whole_clusters(q, off, len, &first, &count);
	if (!count || !can_empty(q))
		return write_zeros(d, off, len);
	start = first << q->cluster_bits;
	end = MIN((first + count) << q->cluster_bits, off + len);
	rc = write_zeros(d, off, start - off);
	if (!rc) {
		pthread_rwlock_rdlock(&q->gate);
		rc = empty_clusters(q, first, count, !unmap);
		pthread_rwlock_unlock(&q->gate);
	}
	rc = rc ? rc : write_zeros(d, end, off + len - end);
	qcow2_relieve(q);
	return rc;
}
