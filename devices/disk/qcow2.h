/*
 * qcow2 images (docs/interop/qcow2.txt of QEMU describes the format), what the files qcow2*.c
 * share.
 *
 * A guest offset leads through the L1 table (in memory as a whole) and an L2 table (cached) to a
 * cluster of the file. Every cluster of the file has a reference count, in refcount blocks (cached)
 * that the refcount table (in memory) lists.
 *
 * What stands in memory and not yet in the file never matters for consistency, because of the order
 * in which qcow2_flush.c writes:
 *
 *	1. Refcount blocks, then the refcount table. A crash here leaves clusters counted that
 * nobody uses: leaks.
 *	2. fdatasync: counts, and the data the guest wrote to new clusters, are on the disk.
 *	3. L2 tables and L1: new clusters become part of the image.
 *	4. fdatasync. Now the guest's flush is answered.
 *	5. Only now the counts of clusters that step 3 ceased to use go down, and these clusters can
 * be used again. Until then they are in `frees`.
 *
 * A new L2 table or refcount block is written, empty, before anything points to it.
 *
 * Locks, in this order:
 *	gate	held shared by every request while it reads or writes the file; exclusively to give
 *		clusters free, so that none is used anew while somebody still reads or writes it.
 *	lock	all of the struct's changeable parts and the tables. Not held while data is moved.
 * Requests that allocate the same guest cluster wait for each other (allocs, changed).
 */
#ifndef RINGSHIFT_QCOW2_H
#define RINGSHIFT_QCOW2_H

#include <pthread.h>

#include "disk_impl.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_L1_BYTES     (32 * MIB) /* as QEMU */
#define QCOW2_MAX_REFTABLE     (8 * MIB)
#define QCOW2_MAX_SNAPSHOTS    65536

#define QCOW2_COPIED     BIT(63) /* reference count is exactly one: may be written in place */
#define QCOW2_COMPRESSED BIT(62)
#define QCOW2_ZERO       BIT(0)
#define QCOW2_OFFSET     0x00fffffffffffe00ull

/* Header, byte offsets. All numbers are big-endian. */
enum {
	QCOW2_H_MAGIC = 0,
	QCOW2_H_VERSION = 4,
	QCOW2_H_BACKING_OFFSET = 8,
	QCOW2_H_BACKING_SIZE = 16,
	QCOW2_H_CLUSTER_BITS = 20,
	QCOW2_H_SIZE = 24,
	QCOW2_H_CRYPT = 32,
	QCOW2_H_L1_SIZE = 36,
	QCOW2_H_L1_OFFSET = 40,
	QCOW2_H_REFTABLE_OFFSET = 48,
	QCOW2_H_REFTABLE_CLUSTERS = 56,
	QCOW2_H_SNAPSHOTS = 60,
	QCOW2_H_SNAPSHOTS_OFFSET = 64,
	QCOW2_H_V2_LENGTH = 72,
	QCOW2_H_INCOMPATIBLE = 72,
	QCOW2_H_COMPATIBLE = 80,
	QCOW2_H_AUTOCLEAR = 88,
	QCOW2_H_REFCOUNT_ORDER = 96,
	QCOW2_H_LENGTH = 100,
	QCOW2_H_V3_LENGTH = 104,
	QCOW2_H_COMPRESSION = 104,
};

#define QCOW2_I_DIRTY       BIT(0)
#define QCOW2_I_CORRUPT     BIT(1)
#define QCOW2_I_EXTERNAL    BIT(2)
#define QCOW2_I_COMPRESSION BIT(3)
#define QCOW2_I_EXTENDED_L2 BIT(4)
#define QCOW2_C_LAZY        BIT(0)

#define QCOW2_EXT_END            0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURES       0x6803f857u
#define QCOW2_EXT_BITMAPS        0x23852875u

static inline u64 be(const void *p, unsigned bytes)
{
	const u8 *b = p;
	u64 v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | b[i];
	return v;
}

static inline void put_be(void *p, unsigned bytes, u64 v)
{
	u8 *b = p;

	for (; bytes; v >>= 8)
		b[--bytes] = (u8)v;
}

static inline u64 be64_at(const void *table, u64 i)
{
	return __builtin_bswap64(((const u64 *)table)[i]);
}

static inline void put_be64_at(void *table, u64 i, u64 v)
{
	((u64 *)table)[i] = __builtin_bswap64(v);
}

/* A cluster of the file in memory: an L2 table or a refcount block, as it stands there. A pointer
 * to one is good until the lock is given back or the next one is asked for from the same cache. */
struct qcow2_table {
	u64 offset; /* 0: none */
	void *data;
	bool dirty;
	bool writing; /* a copy is on its way to the file: not to be read back yet */
	u64 used;     /* when, for eviction */
};

struct qcow2_cache {
	struct qcow2_table **table;
	unsigned count, room;
	unsigned target; /* more are kept only while all are dirty */
	u64 clock;
};

struct qcow2_range {
	u64 offset, clusters;
};

struct qcow2_ranges {
	struct qcow2_range *range;
	u64 count, room, clusters;
};

/* A request that fills new clusters; on its stack. */
struct qcow2_alloc {
	struct qcow2_alloc *next;
	u64 first, count; /* guest clusters */
};

struct qcow2 {
	struct disk *disk;
	struct hostfile *file;
	unsigned version, cluster_bits, l2_bits, refcount_order, refblock_bits;
	u64 cluster_size;
	bool zstd;
	u64 incompatible, compatible;
	u64 snapshots_offset, bitmaps_offset, bitmaps_size;
	unsigned snapshots, bitmaps;

	pthread_rwlock_t gate;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* allocs, flushing */

	u64 *l1; /* host order */
	u64 l1_size, l1_offset;
	u64 l1_dirty_from, l1_dirty_to; /* entries; from == to: none */
	u64 *reftable;
	u64 reftable_size, reftable_offset; /* entries */
	u64 reftable_dirty_from, reftable_dirty_to;
	struct qcow2_cache l2, refblocks;
	struct qcow2_alloc *allocs;
	struct qcow2_ranges frees;
	bool flushing;
	u64 free_hint;  /* cluster below which none is free */
	u64 fresh_from; /* from here on the file has never been written: it reads as zeros */
};

/* --- qcow2_table.c --- */
void qcow2_cache_init(struct qcow2_cache *c, u64 cluster_size);
void qcow2_cache_free(struct qcow2_cache *c);
/* The cluster at offset, read if need be. */
MUST_CHECK int qcow2_table_get(struct qcow2 *q, struct qcow2_cache *c, u64 offset,
			       struct qcow2_table **t);
/* If it is in memory. */
struct qcow2_table *qcow2_table_peek(struct qcow2_cache *c, u64 offset);
/* A cluster that was allocated for a table: zeros, or a copy of another's data; written at once. */
MUST_CHECK int qcow2_table_new(struct qcow2 *q, struct qcow2_cache *c, u64 offset, const void *data,
			       struct qcow2_table **t);
/* The cluster is no table any more. */
void qcow2_table_forget(struct qcow2_cache *c, u64 offset);
MUST_CHECK int qcow2_write_l1(struct qcow2 *q, const u64 *l1, u64 from, u64 to);

/* --- qcow2_alloc.c; the lock is held --- */
MUST_CHECK int qcow2_refcount(struct qcow2 *q, u64 cluster, u64 *count);
u64 qcow2_refcount_in(const struct qcow2 *q, const void *block, u64 i);
void qcow2_refcount_put(const struct qcow2 *q, void *block, u64 i, u64 count);
/* Up to want adjacent clusters: how many, and where. fresh: they read as zeros. */
MUST_CHECK int qcow2_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got, bool *fresh);
/* Count clusters down at once: nothing in the file may refer to them. */
void qcow2_release(struct qcow2 *q, u64 offset, u64 clusters);
/* The same once the tables are written. Without memory to remember them they leak. */
void qcow2_free_later(struct qcow2 *q, u64 offset, u64 clusters);
/* The clusters that an L2 entry leads to. */
void qcow2_free_entry(struct qcow2 *q, u64 entry);
/* Where in the file a compressed cluster is: bytes at most. */
void qcow2_compressed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *len);

/* --- qcow2_map.c; the lock is held --- */
enum qcow2_kind { QCOW2_UNALLOCATED, QCOW2_ZEROS, QCOW2_DATA, QCOW2_PACKED };

struct qcow2_extent {
	enum qcow2_kind kind;
	u64 host; /* QCOW2_DATA: of the first byte asked for */
	u64 entry;
	u64 len;       /* bytes from the offset asked for that are alike */
	bool in_place; /* may be written where it is */
};

/* What [off, off+len) begins with. now: -EAGAIN if that would need reading. */
MUST_CHECK int qcow2_map(struct qcow2 *q, u64 off, u64 len, bool now, struct qcow2_extent *e);
/* The L2 table for off, allocated or copied if need be; *index: off's entry. */
MUST_CHECK int qcow2_l2_for_write(struct qcow2 *q, u64 off, struct qcow2_table **t, u64 *index);
void qcow2_set_l1(struct qcow2 *q, u64 i, u64 entry);

/* --- qcow2_io.c --- */
int qcow2_readv(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
int qcow2_readv_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
int qcow2_writev(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
int qcow2_writev_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off, bool *waited);

/* --- qcow2_zero.c --- */
int qcow2_discard(struct disk *d, u64 off, u64 len);
int qcow2_zero(struct disk *d, u64 off, u64 len, bool unmap);
/* The lock is held. Does somebody fill one of these? */
bool qcow2_in_flight(const struct qcow2 *q, u64 first, u64 count);

/* --- qcow2_flush.c; neither gate nor lock is held --- */
int qcow2_flush(struct disk *d);
/* After a request: write back if too much has gathered. */
void qcow2_relieve(struct qcow2 *q);

/* --- qcow2_unpack.c --- */
/* The whole cluster that a compressed entry stands for. */
MUST_CHECK int qcow2_unpack(struct qcow2 *q, u64 entry, void *cluster);

/* --- qcow2_check.c --- */
int qcow2_check(struct disk *d, struct disk_check *result, FILE *out);

#endif
