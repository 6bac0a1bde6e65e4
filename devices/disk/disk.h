/*
 * Disk images: raw and qcow2, each on a file or block device, with a chain of backing images.
 *
 * Every call may block and may be made by several threads at once, but for open, close and resize.
 * Requests that overlap in time and place have no order among each other; a flush covers what was
 * answered before it began.
 *
 * An image's content is hostile: whatever is in it, the answers are data, zeros or an error.
 */
#ifndef RINGSHIFT_DISK_H
#define RINGSHIFT_DISK_H

#include <sys/uio.h>

#include "base.h"

#define DISK_SECTOR    512ull
#define DISK_CHAIN_MAX 32 /* images behind each other */

struct disk;

struct disk_config {
	const char *path;
	const char *format; /* "raw", "qcow2"; NULL: what it looks like */
	bool write;
	bool direct;  /* past the host's page cache */
	bool no_sync; /* flush leaves it to the host when data reaches the disk */
	bool discard; /* give space back; else discard does nothing */
	bool no_lock; /* look even if somebody is writing */
	/* Do not open backing images (they read as zeros): for information about one file. */
	bool no_backing;
};

/* Negative errno and a line of text in err. A note (of a format guessed) goes to note if that is
 * not NULL: text of at most errlen, or "". */
MUST_CHECK int disk_open(struct disk **disk, const struct disk_config *cfg, char *note, char *err,
			 size_t errlen);
/* The same, but what is written goes to a temporary file that is gone afterwards. cfg->write is
 * not looked at: the image itself is only read. */
MUST_CHECK int disk_open_snapshot(struct disk **disk, const struct disk_config *cfg, char *note,
				  char *err, size_t errlen);
/* Writes back what is still in memory first: 0 or what kept it from that. NULL is fine. */
int disk_close(struct disk *disk);

u64 disk_size(const struct disk *disk); /* bytes, a multiple of 512 */
bool disk_is_writable(const struct disk *disk);
const char *disk_format(const struct disk *disk);
unsigned disk_depth(const struct disk *disk); /* images behind it */
const char *disk_path(const struct disk *disk);

/* 0 or a negative errno; all or nothing is promised to have been done. Ranges are within the disk
 * (-EINVAL if not), any alignment. Writes: -EROFS on a disk opened for reading. */
MUST_CHECK int disk_readv(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
MUST_CHECK int disk_writev(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
MUST_CHECK int disk_flush(struct disk *d);
/* What the range holds does not matter any more. A hint: 0 also if nothing was done. */
MUST_CHECK int disk_discard(struct disk *d, u64 off, u64 len);
/* unmap: space may be given back (if the disk does that at all). */
MUST_CHECK int disk_zero(struct disk *d, u64 off, u64 len, bool unmap);

/* Read if that needs no waiting for the host's disk; -EAGAIN: use disk_readv. */
MUST_CHECK int disk_readv_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
/* Write if that is most likely a matter of copying; -EAGAIN: use disk_writev. Always the same
 * thread. *waited: it was not. */
MUST_CHECK int disk_writev_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off,
			       bool *waited);

/* Make an image, over one that is there. size ~0: the backing image's. backing may be NULL. */
MUST_CHECK int disk_create(const char *path, const char *format, u64 size, const char *backing,
			   const char *backing_format, char *err, size_t errlen);
MUST_CHECK int disk_resize(struct disk *d, u64 size);

struct disk_info {
	const char *format;
	u64 size, file_size, allocated;
	u32 cluster_size; /* 0: raw */
	unsigned version;
	const char *compression; /* NULL: raw */
	unsigned refcount_bits, snapshots;
	bool lazy_refcounts, corrupt, dirty;
	char backing[1024];      /* as it stands in the image, "" if none */
	char backing_format[32]; /* "" if none is given */
};
void disk_get_info(const struct disk *d, struct disk_info *info);

struct disk_check {
	u64 corruptions; /* what may lose data */
	u64 leaks;       /* clusters nobody uses */
	u64 clusters, allocated, compressed, end;
};
/* Compare an image's reference counts with its tables, saying what is wrong to out. -ENOTSUP: a
 * format without such. */
MUST_CHECK int disk_check(struct disk *d, struct disk_check *result, FILE *out);

#endif
