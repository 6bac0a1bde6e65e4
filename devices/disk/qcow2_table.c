/*
 * Clusters that hold tables, in memory. Dirty refcount blocks may be written back at any time;
 * dirty L2 tables only by a flush, after the counts they rely on: while all are dirty the cache
 * grows.
 */
#include <errno.h>
#include <string.h>

#include "qcow2.h"

#define CACHE_BYTES (4 * MIB) /* L2 tables of 64 KiB: 32 GiB of disk */
#define CACHE_MIN   4
#define CACHE_MAX   256

void qcow2_cache_init(struct qcow2_cache *c, u64 cluster_size)
{
	*c = (struct qcow2_cache){
	    .target = (unsigned)MIN(MAX(CACHE_BYTES / cluster_size, CACHE_MIN), CACHE_MAX)};
}

void qcow2_cache_free(struct qcow2_cache *c)
{
	for (unsigned i = 0; i < c->count; i++) {
		free(c->table[i]->data);
		free(c->table[i]);
	}
	free(c->table);
	*c = (struct qcow2_cache){0};
}

struct qcow2_table *qcow2_table_peek(struct qcow2_cache *c, u64 offset)
{
	for (unsigned i = 0; i < c->count; i++) {
		struct qcow2_table *t = c->table[i];

		if (t->offset == offset) {
			t->used = ++c->clock;
			return t;
		}
	}
	return NULL;
}

static struct qcow2_table *add(struct qcow2 *q, struct qcow2_cache *c)
{
	struct qcow2_table *t = calloc(1, sizeof(*t));

	if (c->count == c->room) {
		unsigned room = c->room ? 2 * c->room : 8;
		void *table = realloc(c->table, room * sizeof(*c->table));

		if (!table) {
			free(t);
			return NULL;
		}
		c->table = table;
		c->room = room;
	}
	if (t)
		t->data = aligned_alloc(4096, ALIGN_UP(q->cluster_size, 4096));
	if (!t || !t->data) {
		free(t);
		return NULL;
	}
	c->table[c->count++] = t;
	return t;
}

/* Refcount blocks need no order to go to the file. */
static bool try_write_back(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t)
{
	if (c != &q->refblocks || hostfile_pwrite(q->file, t->data, q->cluster_size, t->offset))
		return false;
	t->dirty = false;
	return true;
}

/* A table nobody needs, or a new one. */
static struct qcow2_table *take(struct qcow2 *q, struct qcow2_cache *c)
{
	struct qcow2_table *oldest = NULL;

	for (unsigned i = 0; i < c->count; i++) {
		struct qcow2_table *t = c->table[i];

		if (!t->offset)
			return t;
		if (t->writing || (t->dirty && c != &q->refblocks))
			continue;
		if (!oldest || t->used < oldest->used)
			oldest = t;
	}
	if (c->count < c->target || !oldest || (oldest->dirty && !try_write_back(q, c, oldest)))
		return add(q, c);
	oldest->offset = 0;
	return oldest;
}

static bool is_place(const struct qcow2 *q, u64 offset)
{
	return offset && !(offset & (q->cluster_size - 1));
}

int qcow2_table_get(struct qcow2 *q, struct qcow2_cache *c, u64 offset, struct qcow2_table **t)
{
	struct qcow2_table *found;
	int rc;

	if (!is_place(q, offset))
		return -EIO; /* the image is corrupt */
	found = qcow2_table_peek(c, offset);
	if (!found) {
		found = take(q, c);
		if (!found)
			return -ENOMEM;
		rc = hostfile_pread(q->file, found->data, q->cluster_size, offset);
		if (rc)
			return rc;
		found->offset = offset;
		found->used = ++c->clock;
	}
	*t = found;
	return 0;
}

int qcow2_table_new(struct qcow2 *q, struct qcow2_cache *c, u64 offset, const void *data,
		    struct qcow2_table **t)
{
	struct qcow2_table *table;
	void *copy = NULL;
	int rc;

	/* data may be a table of this cache, which take could choose. */
	if (data) {
		copy = malloc(q->cluster_size);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, data, q->cluster_size);
	}
	qcow2_table_forget(c, offset);
	table = take(q, c);
	if (!table) {
		free(copy);
		return -ENOMEM;
	}
	if (copy)
		memcpy(table->data, copy, q->cluster_size);
	else
		memset(table->data, 0, q->cluster_size);
	free(copy);
	rc = hostfile_pwrite(q->file, table->data, q->cluster_size, offset);
	if (rc)
		return rc;
	table->offset = offset;
	table->used = ++c->clock;
	table->dirty = false;
	*t = table;
	return 0;
}

void qcow2_table_forget(struct qcow2_cache *c, u64 offset)
{
	for (unsigned i = 0; i < c->count; i++)
		if (c->table[i]->offset == offset) {
			c->table[i]->offset = 0;
			c->table[i]->dirty = false;
		}
}

int qcow2_write_l1(struct qcow2 *q, const u64 *l1, u64 from, u64 to)
{
	u64 n = to - from;
	u64 *be_l1 = malloc(MAX(n, 1) * sizeof(*be_l1));
	int rc;

	if (!be_l1)
		return -ENOMEM;
	for (u64 i = 0; i < n; i++)
		put_be64_at(be_l1, i, l1[i]);
	rc = hostfile_pwrite(q->file, be_l1, n * sizeof(*be_l1),
			     q->l1_offset + from * sizeof(*be_l1));
	free(be_l1);
	return rc;
}
