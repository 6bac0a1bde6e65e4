/*
 * From guest offsets to clusters of the file.
 */
#include <errno.h>

#include "qcow2.h"

static enum qcow2_kind kind_of(const struct qcow2 *q, u64 entry)
{
	if (entry & QCOW2_COMPRESSED)
		return QCOW2_PACKED;
	if (q->version >= 3 && (entry & QCOW2_ZERO))
		return QCOW2_ZEROS;
	return entry & QCOW2_OFFSET ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

static bool misplaced(const struct qcow2 *q, u64 entry)
{
	return (entry & QCOW2_OFFSET) & (q->cluster_size - 1);
}

/* Does entry continue, `distance` clusters on, what first began? */
static bool alike(const struct qcow2 *q, u64 first, u64 entry, u64 distance)
{
	enum qcow2_kind kind = kind_of(q, first);

	if (kind != kind_of(q, entry) || kind == QCOW2_PACKED)
		return false;
	if (kind != QCOW2_DATA)
		return true;
	return (entry & (QCOW2_OFFSET | QCOW2_COPIED)) ==
	       (first & (QCOW2_OFFSET | QCOW2_COPIED)) + (distance << q->cluster_bits);
}

/* The offset of the L2 table for off, 0 if there is none, and how far it reaches from off. */
static int l2_place(const struct qcow2 *q, u64 off, u64 *place, u64 *reach)
{
	u64 span = BIT(q->cluster_bits + q->l2_bits), i = off / span;

	if (i >= q->l1_size)
		return -EIO;
	*place = q->l1[i] & QCOW2_OFFSET;
	*reach = span - off % span;
	return 0;
}

int qcow2_map(struct qcow2 *q, u64 off, u64 len, bool now, struct qcow2_extent *e)
{
	u64 in_cluster = off & (q->cluster_size - 1), place, reach, index, n = 1;
	u64 clusters = (in_cluster + len + q->cluster_size - 1) >> q->cluster_bits;
	struct qcow2_table *t;
	int rc = l2_place(q, off, &place, &reach);

	if (rc)
		return rc;
	*e = (struct qcow2_extent){.kind = QCOW2_UNALLOCATED, .len = MIN(len, reach)};
	if (!place)
		return 0;
	if (now && !qcow2_table_peek(&q->l2, place))
		return -EAGAIN;
	rc = qcow2_table_get(q, &q->l2, place, &t);
	if (rc)
		return rc;
	index = (off >> q->cluster_bits) & (BIT(q->l2_bits) - 1);
	e->entry = be64_at(t->data, index);
	e->kind = kind_of(q, e->entry);
	if (e->kind != QCOW2_PACKED && misplaced(q, e->entry))
		return -EIO;
	clusters = MIN(clusters, BIT(q->l2_bits) - index);
	while (n < clusters && alike(q, e->entry, be64_at(t->data, index + n), n))
		n++;
	e->len = MIN(len, (n << q->cluster_bits) - in_cluster);
	e->host = (e->entry & QCOW2_OFFSET) + in_cluster;
	/* A table that a snapshot shares is copied first. */
	e->in_place = e->kind == QCOW2_DATA && (e->entry & QCOW2_COPIED) &&
		      (q->l1[off >> (q->cluster_bits + q->l2_bits)] & QCOW2_COPIED);
	return 0;
}

void qcow2_set_l1(struct qcow2 *q, u64 i, u64 entry)
{
	q->l1[i] = entry;
	if (q->l1_dirty_from == q->l1_dirty_to) {
		q->l1_dirty_from = i;
		q->l1_dirty_to = i + 1;
	}
	q->l1_dirty_from = MIN(q->l1_dirty_from, i);
	q->l1_dirty_to = MAX(q->l1_dirty_to, i + 1);
}

/* A table of our own for L1 entry i: empty, or a copy of the one a snapshot shares. */
static int own_table(struct qcow2 *q, u64 i, struct qcow2_table **t)
{
	u64 old = q->l1[i] & QCOW2_OFFSET, offset, got;
	struct qcow2_table *from = NULL;
	bool fresh;
	int rc = old ? qcow2_table_get(q, &q->l2, old, &from) : 0;

	if (rc)
		return rc;
	rc = qcow2_alloc(q, 1, &offset, &got, &fresh);
	if (rc)
		return rc;
	rc = qcow2_table_new(q, &q->l2, offset, from ? from->data : NULL, t);
	if (rc) {
		qcow2_release(q, offset, 1);
		return rc;
	}
	if (old)
		qcow2_free_later(q, old, 1);
	qcow2_set_l1(q, i, offset | QCOW2_COPIED);
	return 0;
}

int qcow2_l2_for_write(struct qcow2 *q, u64 off, struct qcow2_table **t, u64 *index)
{
	u64 i = off >> (q->cluster_bits + q->l2_bits);

	*index = (off >> q->cluster_bits) & (BIT(q->l2_bits) - 1);
	if (i >= q->l1_size)
		return -EIO;
	if ((q->l1[i] & QCOW2_OFFSET) && (q->l1[i] & QCOW2_COPIED))
		return qcow2_table_get(q, &q->l2, q->l1[i] & QCOW2_OFFSET, t);
	return own_table(q, i, t);
}
