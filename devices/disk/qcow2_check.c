/*
 * Do the reference counts agree with what refers to clusters? Counts too low lose data sooner or
 * later, counts too high waste space.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "qcow2.h"

#define LINES_MAX       100 /* of complaints */
#define SNAPSHOT_HEADER 40
#define CLUSTERS_MAX    (1ull << 32)

struct check {
	struct qcow2 *q;
	u32 *count; /* references found, by cluster */
	u64 clusters;
	struct disk_check *result;
	FILE *out;
	unsigned lines;
};

static PRINTF(2, 3) void say(struct check *c, const char *fmt, ...)
{
	va_list ap;

	if (!c->out || c->lines++ >= LINES_MAX)
		return;
	va_start(ap, fmt);
	vfprintf(c->out, fmt, ap);
	va_end(ap);
	fputc('\n', c->out);
}

static PRINTF(2, 3) void corrupt(struct check *c, const char *fmt, ...)
{
	va_list ap;

	c->result->corruptions++;
	if (!c->out || c->lines++ >= LINES_MAX)
		return;
	fputs("ERROR ", c->out);
	va_start(ap, fmt);
	vfprintf(c->out, fmt, ap);
	va_end(ap);
	fputc('\n', c->out);
}

static void refer(struct check *c, u64 offset, u64 len, const char *what)
{
	unsigned bits = c->q->cluster_bits;

	if (!len)
		return;
	for (u64 i = offset >> bits; i <= (offset + len - 1) >> bits; i++) {
		if (i >= c->clusters) {
			corrupt(c, "%s at %#llx is behind the end of the file", what,
				(unsigned long long)offset);
			return;
		}
		if (c->count[i] != UINT32_MAX)
			c->count[i]++;
		c->result->end = MAX(c->result->end, (i + 1) << bits);
	}
}

static bool at_cluster(struct check *c, u64 offset, const char *what)
{
	if (!(offset & (c->q->cluster_size - 1)))
		return true;
	corrupt(c, "%s at %#llx is not at a cluster", what, (unsigned long long)offset);
	return false;
}

/* The flag that says "exactly one reference", in the tables in use. */
static void check_copied(struct check *c, u64 entry, const char *what)
{
	u64 offset = entry & QCOW2_OFFSET, count;

	if (qcow2_refcount(c->q, offset >> c->q->cluster_bits, &count))
		return;
	if ((count == 1) != !!(entry & QCOW2_COPIED))
		corrupt(c, "%s: entry %#llx, refcount %llu: wrong COPIED flag", what,
			(unsigned long long)entry, (unsigned long long)count);
}

static void walk_entry(struct check *c, u64 entry, bool active)
{
	u64 offset = entry & QCOW2_OFFSET, len = c->q->cluster_size;

	if (entry & QCOW2_COMPRESSED) {
		qcow2_compressed_place(c->q, entry, &offset, &len);
		refer(c, offset, len, "compressed cluster");
		c->result->compressed += active;
		c->result->allocated += active;
		return;
	}
	if (!offset || !at_cluster(c, offset, "data cluster"))
		return;
	refer(c, offset, len, "data cluster");
	c->result->allocated += active;
	if (active)
		check_copied(c, entry, "data cluster");
}

static int walk_l2(struct check *c, u64 offset, bool active)
{
	u64 *l2;
	int rc;

	if (!at_cluster(c, offset, "L2 table"))
		return 0;
	refer(c, offset, c->q->cluster_size, "L2 table");
	if (offset >> c->q->cluster_bits >= c->clusters)
		return 0;
	l2 = aligned_alloc(4096, ALIGN_UP(c->q->cluster_size, 4096));
	if (!l2)
		return -ENOMEM;
	rc = hostfile_pread(c->q->file, l2, c->q->cluster_size, offset);
	for (u64 i = 0; i < BIT(c->q->l2_bits) && !rc; i++)
		walk_entry(c, be64_at(l2, i), active);
	free(l2);
	return rc;
}

static int walk_l1(struct check *c, const u64 *l1, u64 entries, u64 offset, bool active)
{
	int rc = 0;

	refer(c, offset, entries * 8, "L1 table");
	for (u64 i = 0; i < entries && !rc; i++) {
		if (!(l1[i] & QCOW2_OFFSET))
			continue;
		if (active)
			check_copied(c, l1[i], "L2 table");
		rc = walk_l2(c, l1[i] & QCOW2_OFFSET, active);
	}
	return rc;
}

static int walk_snapshot_l1(struct check *c, u64 offset, u64 entries)
{
	u64 *l1;
	int rc;

	if (!at_cluster(c, offset, "snapshot's L1 table"))
		return 0;
	if (entries * 8 > QCOW2_MAX_L1_BYTES) {
		corrupt(c, "snapshot's L1 table is too large");
		return 0;
	}
	l1 = malloc(MAX(entries, 1) * 8);
	if (!l1)
		return -ENOMEM;
	rc = hostfile_pread(c->q->file, l1, entries * 8, offset);
	for (u64 i = 0; i < entries; i++)
		l1[i] = __builtin_bswap64(l1[i]);
	rc = rc ? rc : walk_l1(c, l1, entries, offset, false);
	free(l1);
	return rc;
}

static int walk_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	u64 at = q->snapshots_offset;
	int rc = 0;

	for (unsigned i = 0; i < q->snapshots && !rc; i++) {
		u8 h[SNAPSHOT_HEADER];

		rc = hostfile_pread(q->file, h, sizeof(h), at);
		if (rc)
			return rc;
		rc = walk_snapshot_l1(c, be(h, 8), be(h + 8, 4));
		at = ALIGN_UP(at + sizeof(h) + be(h + 36, 4) + be(h + 12, 2) + be(h + 14, 2), 8);
	}
	refer(c, q->snapshots_offset, at - q->snapshots_offset, "snapshot table");
	return rc;
}

static void walk_refcounts(struct check *c)
{
	struct qcow2 *q = c->q;

	refer(c, q->reftable_offset, q->reftable_size * 8, "refcount table");
	for (u64 i = 0; i < q->reftable_size; i++) {
		u64 offset = q->reftable[i] & ~511ull;

		if (offset && at_cluster(c, offset, "refcount block"))
			refer(c, offset, q->cluster_size, "refcount block");
	}
}

static void compare(struct check *c, u64 i, u64 is, u64 should)
{
	if (is < should)
		corrupt(c, "cluster %llu refcount=%llu reference=%llu", (unsigned long long)i,
			(unsigned long long)is, (unsigned long long)should);
	if (is > should) {
		c->result->leaks++;
		say(c, "Leaked cluster %llu refcount=%llu reference=%llu", (unsigned long long)i,
		    (unsigned long long)is, (unsigned long long)should);
	}
}

static int compare_all(struct check *c)
{
	struct qcow2 *q = c->q;
	u64 per_block = BIT(q->refblock_bits);
	int rc = 0;

	for (u64 b = 0; b < q->reftable_size && !rc; b++) {
		u64 first = b * per_block;

		if (!(q->reftable[b] & ~511ull) && first >= c->clusters)
			continue;
		for (u64 i = first; i < first + per_block && !rc; i++) {
			u64 is;

			if (i >= c->clusters && !(q->reftable[b] & ~511ull))
				break;
			rc = qcow2_refcount(q, i, &is);
			if (!rc)
				compare(c, i, is, i < c->clusters ? c->count[i] : 0);
		}
	}
	for (u64 i = q->reftable_size * per_block; i < c->clusters; i++)
		compare(c, i, 0, c->count[i]);
	return rc == -EIO ? 0 : rc; /* a misplaced block, which has been reported */
}

int qcow2_check(struct disk *d, struct disk_check *result, FILE *out)
{
	struct qcow2 *q = d->state;
	u64 size = hostfile_size(q->file);
	struct check c = {.q = q,
			  .clusters = ALIGN_UP(size, q->cluster_size) >> q->cluster_bits,
			  .result = result,
			  .out = out};
	int rc;

	if (q->bitmaps)
		return -ENOTSUP;
	c.count = c.clusters < CLUSTERS_MAX ? calloc(c.clusters + 1, sizeof(*c.count)) : NULL;
	if (!c.count)
		return -ENOMEM;
	result->clusters = ALIGN_UP(d->size, q->cluster_size) >> q->cluster_bits;
	refer(&c, 0, 1, "header");
	rc = walk_l1(&c, q->l1, q->l1_size, q->l1_offset, true);
	rc = rc ? rc : walk_snapshots(&c);
	walk_refcounts(&c);
	rc = rc ? rc : compare_all(&c);
	if (c.lines > LINES_MAX && out)
		fprintf(out, "... and %u more\n", c.lines - LINES_MAX);
	free(c.count);
	return rc;
}
