/*
 * Writing back what changed, in the order qcow2.h gives.
 *
 * While the host syncs, requests go on: L2 tables are copied first, so what is written relies only
 * on counts that are on the disk by then.
 */
#include <errno.h>
#include <string.h>

#include "qcow2.h"

#define FREES_MAX                                                                                  \
	1024 /* clusters that wait for being given free before a flush is made for them            \
	      */

/* What a flush takes along when it gives the lock back. */
struct batch {
	struct qcow2_table **table; /* stay in the cache: `writing` */
	void **copy;
	unsigned tables;
	u64 *l1; /* entries [l1_from, l1_to) */
	u64 l1_from, l1_to;
	struct qcow2_ranges frees;
};

static bool changed(const struct qcow2 *q)
{
	bool dirty = q->l1_dirty_from != q->l1_dirty_to || q->frees.count ||
		     q->reftable_dirty_from != q->reftable_dirty_to;

	for (unsigned i = 0; i < q->l2.count && !dirty; i++)
		dirty = q->l2.table[i]->dirty;
	for (unsigned i = 0; i < q->refblocks.count && !dirty; i++)
		dirty = q->refblocks.table[i]->dirty;
	return dirty;
}

static int write_reftable(struct qcow2 *q)
{
	u64 from = q->reftable_dirty_from, n = q->reftable_dirty_to - from;
	u64 *out = n ? malloc(n * sizeof(*out)) : NULL;
	int rc;

	if (!n)
		return 0;
	if (!out)
		return -ENOMEM;
	for (u64 i = 0; i < n; i++)
		put_be64_at(out, i, q->reftable[from + i]);
	rc = hostfile_pwrite(q->file, out, n * sizeof(*out),
			     q->reftable_offset + from * sizeof(*out));
	if (!rc)
		q->reftable_dirty_from = q->reftable_dirty_to = 0;
	free(out);
	return rc;
}

static int write_counts(struct qcow2 *q)
{
	int rc = 0;

	for (unsigned i = 0; i < q->refblocks.count && !rc; i++) {
		struct qcow2_table *t = q->refblocks.table[i];

		if (!t->dirty)
			continue;
		rc = hostfile_pwrite(q->file, t->data, q->cluster_size, t->offset);
		t->dirty = rc;
	}
	return rc ? rc : write_reftable(q);
}

static void batch_free(struct batch *b)
{
	for (unsigned i = 0; i < b->tables; i++)
		free(b->copy[i]);
	free(b->copy);
	free(b->table);
	free(b->l1);
	free(b->frees.range);
}

static int copy_tables(struct qcow2 *q, struct batch *b)
{
	b->table = malloc((q->l2.count + 1) * sizeof(*b->table));
	b->copy = malloc((q->l2.count + 1) * sizeof(*b->copy));
	if (!b->table || !b->copy)
		return -ENOMEM;
	for (unsigned i = 0; i < q->l2.count; i++) {
		struct qcow2_table *t = q->l2.table[i];
		void *copy;

		if (!t->dirty)
			continue;
		copy = aligned_alloc(4096, ALIGN_UP(q->cluster_size, 4096));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, t->data, q->cluster_size);
		b->table[b->tables] = t;
		b->copy[b->tables++] = copy;
	}
	return 0;
}

/* The lock is held. What changes from here on is the next flush's. */
static int collect(struct qcow2 *q, struct batch *b)
{
	u64 n = q->l1_dirty_to - q->l1_dirty_from;
	int rc = copy_tables(q, b);

	b->l1 = malloc(MAX(n, 1) * sizeof(*b->l1));
	if (rc || !b->l1)
		return -ENOMEM;
	memcpy(b->l1, q->l1 + q->l1_dirty_from, n * sizeof(*b->l1));
	b->l1_from = q->l1_dirty_from;
	b->l1_to = q->l1_dirty_to;
	q->l1_dirty_from = q->l1_dirty_to = 0;
	b->frees = q->frees;
	q->frees = (struct qcow2_ranges){0};
	for (unsigned i = 0; i < b->tables; i++) {
		b->table[i]->dirty = false;
		b->table[i]->writing = true;
	}
	return 0;
}

static int write_batch(struct qcow2 *q, const struct batch *b)
{
	bool tables = b->tables || b->l1_from != b->l1_to;
	int rc = tables ? hostfile_sync(q->file) : 0;

	for (unsigned i = 0; i < b->tables && !rc; i++)
		rc = hostfile_pwrite(q->file, b->copy[i], q->cluster_size, b->table[i]->offset);
	if (!rc && b->l1_from != b->l1_to)
		rc = qcow2_write_l1(q, b->l1, b->l1_from, b->l1_to);
	return rc ? rc : hostfile_sync(q->file);
}

/* The lock is held. All that did not reach the file is still to be done. */
static void put_back(struct qcow2 *q, struct batch *b, int rc)
{
	for (unsigned i = 0; i < b->tables; i++) {
		b->table[i]->writing = false;
		b->table[i]->dirty |= rc != 0;
	}
	if (rc && b->l1_from != b->l1_to) {
		qcow2_set_l1(q, b->l1_from, q->l1[b->l1_from]);
		qcow2_set_l1(q, b->l1_to - 1, q->l1[b->l1_to - 1]);
	}
}

/* The lock is held. */
static void return_frees(struct qcow2 *q, const struct batch *b)
{
	for (u64 i = 0; i < b->frees.count; i++)
		qcow2_free_later(q, b->frees.range[i].offset, b->frees.range[i].clusters);
}

/* discard=unmap: the host gets back what is free now. */
static void punch_holes(struct qcow2 *q, const struct qcow2_range *r)
{
	u64 from = r->offset >> q->cluster_bits, end = from + r->clusters, n;

	for (u64 c = from; c < end; c += MAX(n, 1)) {
		u64 count = 0;

		for (n = 0; c + n < end; n++)
			if (qcow2_refcount(q, c + n, &count) || count)
				break;
		/* A hint: the image is right without. */
		if (n && hostfile_discard(q->file, c << q->cluster_bits, n << q->cluster_bits))
			return;
	}
}

/*
 * Neither lock nor gate is held; what the ranges held is out of the tables, on the disk. Requests
 * that still use them began before: if there are any requests at all, that is left to the next
 * flush, unless there is much to give back.
 */
static void give_free(struct qcow2 *q, const struct batch *b)
{
	bool alone = b->frees.clusters > FREES_MAX;

	if (!b->frees.count)
		return;
	alone = alone ? !pthread_rwlock_wrlock(&q->gate) : !pthread_rwlock_trywrlock(&q->gate);
	pthread_mutex_lock(&q->lock);
	if (!alone)
		return_frees(q, b);
	for (u64 i = 0; i < b->frees.count && alone; i++) {
		const struct qcow2_range *r = &b->frees.range[i];

		qcow2_release(q, r->offset, r->clusters);
		if (q->disk->discard)
			punch_holes(q, r);
	}
	pthread_mutex_unlock(&q->lock);
	if (alone)
		pthread_rwlock_unlock(&q->gate);
}

static int flush_all(struct qcow2 *q)
{
	struct batch b = {0};
	int rc;

	pthread_mutex_lock(&q->lock);
	while (q->flushing)
		pthread_cond_wait(&q->changed, &q->lock);
	if (!changed(q)) {
		pthread_mutex_unlock(&q->lock);
		return hostfile_sync(q->file);
	}
	q->flushing = true;
	rc = write_counts(q);
	rc = rc ? rc : collect(q, &b);
	pthread_mutex_unlock(&q->lock);
	if (!rc)
		rc = write_batch(q, &b);
	pthread_mutex_lock(&q->lock);
	put_back(q, &b, rc);
	if (rc)
		return_frees(q, &b);
	pthread_mutex_unlock(&q->lock);
	if (!rc)
		give_free(q, &b);
	pthread_mutex_lock(&q->lock);
	q->flushing = false;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	batch_free(&b);
	return rc;
}

int qcow2_flush(struct disk *d)
{
	return flush_all(d->state);
}

void qcow2_relieve(struct qcow2 *q)
{
	unsigned dirty = 0;
	bool much;

	pthread_mutex_lock(&q->lock);
	for (unsigned i = 0; i < q->l2.count; i++)
		dirty += q->l2.table[i]->dirty;
	much = dirty >= q->l2.target || q->frees.clusters > FREES_MAX;
	pthread_mutex_unlock(&q->lock);
	/* What cannot be written now is still there for the guest's own flush to fail on. */
	if (much && flush_all(q))
		return;
}
