/*
 * Reference counts: finding free clusters, giving clusters back.
 *
 * The counts of an image may be wrong. They are believed as to what is free, except that the header
 * and the tables in memory are never given out; what breaks by it is the image, never us.
 */
#include <errno.h>
#include <string.h>

#include "qcow2.h"

#define SCAN_MAX (1ull << 28) /* clusters looked at for one free one: bounds a hostile image */

u64 qcow2_refcount_in(const struct qcow2 *q, const void *block, u64 i)
{
	const u8 *b = block;
	unsigned order = q->refcount_order;

	if (order >= 3)
		return be(b + (i << (order - 3)), 1u << (order - 3));
	return b[i >> (3 - order)] >> ((i << order) & 7) & ((1u << (1u << order)) - 1);
}

void qcow2_refcount_put(const struct qcow2 *q, void *block, u64 i, u64 count)
{
	u8 *b = block;
	unsigned order = q->refcount_order, shift, mask;

	if (order >= 3) {
		put_be(b + (i << (order - 3)), 1u << (order - 3), count);
		return;
	}
	b += i >> (3 - order);
	shift = (i << order) & 7;
	mask = ((1u << (1u << order)) - 1) << shift;
	*b = (u8)((*b & ~mask) | (count << shift & mask));
}

/* The refcount block of a cluster; NULL if there is none. */
static int refblock(struct qcow2 *q, u64 cluster, struct qcow2_table **t)
{
	u64 i = cluster >> q->refblock_bits;

	*t = NULL;
	if (i >= q->reftable_size || !(q->reftable[i] & ~511ull))
		return 0;
	return qcow2_table_get(q, &q->refblocks, q->reftable[i] & ~511ull, t);
}

int qcow2_refcount(struct qcow2 *q, u64 cluster, u64 *count)
{
	struct qcow2_table *t;
	int rc = refblock(q, cluster, &t);

	*count = 0;
	if (!rc && t)
		*count = qcow2_refcount_in(q, t->data, cluster & (BIT(q->refblock_bits) - 1));
	return rc;
}

static void mark_reftable(struct qcow2 *q, u64 i)
{
	if (q->reftable_dirty_from == q->reftable_dirty_to) {
		q->reftable_dirty_from = i;
		q->reftable_dirty_to = i + 1;
	}
	q->reftable_dirty_from = MIN(q->reftable_dirty_from, i);
	q->reftable_dirty_to = MAX(q->reftable_dirty_to, i + 1);
}

static bool overlaps(u64 a, u64 alen, u64 b, u64 blen)
{
	return a < b + blen && b < a + alen;
}

/* Counts that are wrong must not make us overwrite what we rely on. */
static bool is_ours(const struct qcow2 *q, u64 offset)
{
	u64 size = q->cluster_size;

	return offset < size || overlaps(offset, size, q->l1_offset, q->l1_size * 8) ||
	       overlaps(offset, size, q->reftable_offset, q->reftable_size * 8) ||
	       qcow2_table_peek((struct qcow2_cache *)&q->l2, offset) ||
	       qcow2_table_peek((struct qcow2_cache *)&q->refblocks, offset);
}

static bool take_fresh(struct qcow2 *q, u64 offset, u64 clusters)
{
	bool fresh = offset >= q->fresh_from;

	q->fresh_from = MAX(q->fresh_from, offset + clusters * q->cluster_size);
	return fresh;
}

/* --- a longer refcount table --- */

/*
 * The clusters right behind those the table can count are free by definition: the new table goes
 * there, and the blocks that count it and themselves. first: that cluster.
 */
struct growth {
	u64 first, table_clusters, blocks;
	u64 *table;
};

static int write_new_blocks(struct qcow2 *q, const struct growth *g)
{
	u64 used = g->table_clusters + g->blocks, per_block = BIT(q->refblock_bits);
	int rc = 0;

	for (u64 b = 0; b < g->blocks && !rc; b++) {
		u64 at = (g->first + g->table_clusters + b) << q->cluster_bits, n;
		struct qcow2_table *t;

		rc = qcow2_table_new(q, &q->refblocks, at, NULL, &t);
		if (rc)
			break;
		n = MIN(used - b * per_block, per_block);
		for (u64 i = 0; i < n; i++)
			qcow2_refcount_put(q, t->data, i, 1);
		rc = hostfile_pwrite(q->file, t->data, q->cluster_size, at);
		g->table[(g->first >> q->refblock_bits) + b] = at;
	}
	return rc;
}

/* A table where the header says is always a whole one: header last, in one piece. */
static int write_new_table(struct qcow2 *q, const struct growth *g)
{
	u64 size = g->table_clusters << q->cluster_bits;
	u8 place[12], *out = malloc(size);
	int rc;

	if (!out)
		return -ENOMEM;
	for (u64 i = 0; i < size / 8; i++)
		put_be64_at(out, i, g->table[i]);
	rc = hostfile_pwrite(q->file, out, size, g->first << q->cluster_bits);
	free(out);
	rc = rc ? rc : hostfile_sync(q->file);
	put_be(place, 8, g->first << q->cluster_bits);
	put_be(place + 8, 4, g->table_clusters);
	rc = rc ? rc : hostfile_pwrite(q->file, place, sizeof(place), QCOW2_H_REFTABLE_OFFSET);
	return rc ? rc : hostfile_sync(q->file);
}

static int grow_reftable(struct qcow2 *q)
{
	u64 per_block = BIT(q->refblock_bits), per_cluster = q->cluster_size / 8;
	u64 old_clusters = q->reftable_size / per_cluster, old_offset = q->reftable_offset;
	struct growth g = {.first = q->reftable_size << q->refblock_bits,
			   .table_clusters = old_clusters + old_clusters / 2 + 1};
	int rc;

	if (g.table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE)
		return -EFBIG;
	do /* blocks count themselves */
		g.blocks++;
	while (g.blocks * per_block < g.table_clusters + g.blocks);
	g.table = calloc(g.table_clusters * per_cluster, sizeof(*g.table));
	if (!g.table)
		return -ENOMEM;
	memcpy(g.table, q->reftable, q->reftable_size * sizeof(*g.table));
	rc = write_new_blocks(q, &g);
	rc = rc ? rc : write_new_table(q, &g);
	if (rc) {
		free(g.table);
		return rc;
	}
	take_fresh(q, g.first << q->cluster_bits, g.table_clusters + g.blocks);
	free(q->reftable);
	q->reftable = g.table;
	q->reftable_size = g.table_clusters * per_cluster;
	q->reftable_offset = g.first << q->cluster_bits;
	q->reftable_dirty_from = q->reftable_dirty_to = 0;
	qcow2_free_later(q, old_offset, old_clusters);
	return 0;
}

/* A refcount block for a range that has none: the range's first cluster from `cluster` on becomes
 * it, and is the first that it counts. */
static int new_refblock(struct qcow2 *q, u64 cluster)
{
	u64 offset = cluster << q->cluster_bits, i = cluster >> q->refblock_bits;
	struct qcow2_table *t;
	int rc;

	if (is_ours(q, offset))
		return -EIO;
	rc = qcow2_table_new(q, &q->refblocks, offset, NULL, &t);
	if (rc)
		return rc;
	take_fresh(q, offset, 1);
	qcow2_refcount_put(q, t->data, cluster & (BIT(q->refblock_bits) - 1), 1);
	rc = hostfile_pwrite(q->file, t->data, q->cluster_size, offset);
	rc = rc ? rc : hostfile_sync(q->file);
	if (rc) {
		qcow2_table_forget(&q->refblocks, offset);
		return rc;
	}
	q->reftable[i] = offset;
	mark_reftable(q, i);
	return 0;
}

/* --- clusters --- */

/* Adjacent free ones in the block of `cluster`, from it on; counts them as used. */
static u64 take_run(struct qcow2 *q, struct qcow2_table *t, u64 cluster, u64 want)
{
	u64 per_block = BIT(q->refblock_bits), i = cluster & (per_block - 1), n = 0;

	while (n < want && i + n < per_block && !qcow2_refcount_in(q, t->data, i + n) &&
	       !is_ours(q, (cluster + n) << q->cluster_bits))
		n++;
	for (u64 k = 0; k < n; k++)
		qcow2_refcount_put(q, t->data, i + k, 1);
	t->dirty |= n > 0;
	return n;
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got, bool *fresh)
{
	u64 per_block = BIT(q->refblock_bits), limit = q->free_hint + SCAN_MAX;

	while (q->free_hint < limit) {
		u64 c = q->free_hint, i = c & (per_block - 1);
		struct qcow2_table *t;
		int rc;

		if (c >> (56 - q->cluster_bits))
			return -EFBIG; /* more than an L2 entry can name */
		if (c >> q->refblock_bits >= q->reftable_size) {
			rc = grow_reftable(q);
			if (rc)
				return rc;
		}
		rc = refblock(q, c, &t);
		if (rc)
			return rc;
		if (!t) {
			rc = new_refblock(q, c);
			if (rc)
				return rc;
			continue;
		}
		while (i < per_block && qcow2_refcount_in(q, t->data, i))
			i++;
		c = (c & ~(per_block - 1)) + i;
		q->free_hint = c;
		if (i == per_block)
			continue;
		*got = take_run(q, t, c, want);
		q->free_hint = c + MAX(*got, 1);
		if (!*got)
			continue; /* ours, though not counted */
		*offset = c << q->cluster_bits;
		*fresh = take_fresh(q, *offset, *got);
		return 0;
	}
	return -ENOSPC;
}

void qcow2_release(struct qcow2 *q, u64 offset, u64 clusters)
{
	u64 first = offset >> q->cluster_bits;

	for (u64 c = first; c < first + clusters; c++) {
		u64 i = c & (BIT(q->refblock_bits) - 1), count;
		struct qcow2_table *t;

		if (refblock(q, c, &t) || !t)
			continue; /* a leak, or counts that were wrong before */
		count = qcow2_refcount_in(q, t->data, i);
		if (!count)
			continue;
		qcow2_refcount_put(q, t->data, i, count - 1);
		t->dirty = true;
		if (count > 1)
			continue;
		q->free_hint = MIN(q->free_hint, c);
		qcow2_table_forget(&q->l2, c << q->cluster_bits);
	}
}

void qcow2_free_later(struct qcow2 *q, u64 offset, u64 clusters)
{
	struct qcow2_ranges *f = &q->frees;
	struct qcow2_range *last = f->count ? &f->range[f->count - 1] : NULL;

	f->clusters += clusters;
	if (last && last->offset + (last->clusters << q->cluster_bits) == offset) {
		last->clusters += clusters;
		return;
	}
	if (f->count == f->room) {
		u64 room = f->room ? 2 * f->room : 64;
		void *range = realloc(f->range, room * sizeof(*f->range));

		if (!range) {
			f->clusters -= clusters;
			return;
		}
		f->range = range;
		f->room = room;
	}
	f->range[f->count++] = (struct qcow2_range){offset, clusters};
}

void qcow2_compressed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *len)
{
	unsigned bits = 62 - (q->cluster_bits - 8);

	*offset = entry & (BIT(bits) - 1);
	*len = ((entry & (QCOW2_COMPRESSED - 1)) >> bits) * 512 + 512 - (*offset & 511);
}

void qcow2_free_entry(struct qcow2 *q, u64 entry)
{
	u64 offset = entry & QCOW2_OFFSET, len = 1;

	if (entry & QCOW2_COMPRESSED)
		qcow2_compressed_place(q, entry, &offset, &len);
	if (!offset)
		return;
	len = ALIGN_UP(offset + len, q->cluster_size) - ALIGN_DOWN(offset, q->cluster_size);
	qcow2_free_later(q, ALIGN_DOWN(offset, q->cluster_size), len >> q->cluster_bits);
}
