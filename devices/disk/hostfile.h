/*
 * A file or block device of the host that holds an image: positioned reads and writes that are
 * whole or fail, cache bypass (O_DIRECT) with bounce buffers where the request is not aligned,
 * holes, and locks against a second user.
 *
 * Any thread, several at once. Overlapping requests at the same time: the caller's business, except
 * that neighbours within a block of the device do not harm each other.
 */
#ifndef RINGSHIFT_HOSTFILE_H
#define RINGSHIFT_HOSTFILE_H

#include <sys/uio.h>

#include "base.h"

enum {
	HOSTFILE_WRITE = 1,   /* else read only */
	HOSTFILE_DIRECT = 2,  /* past the host's page cache */
	HOSTFILE_NO_SYNC = 4, /* hostfile_sync does nothing: cache=unsafe */
	HOSTFILE_NO_LOCK = 8, /* look in spite of a user that writes */
	HOSTFILE_CREATE = 16, /* make it if it is not there */
};

struct hostfile;

/* Open path and lock it: -EBUSY if another process uses it in a way that excludes this one (both
 * reading is fine). Negative errno and a line of text that begins with the path. */
MUST_CHECK int hostfile_open(struct hostfile **file, const char *path, unsigned flags, char *err,
			     size_t errlen);
/* A new file without a name, in $TMPDIR or /var/tmp, gone when closed. */
MUST_CHECK int hostfile_temporary(struct hostfile **file, char *err, size_t errlen);
void hostfile_close(struct hostfile *file);

const char *hostfile_path(const struct hostfile *file);
/* Bytes; of a file now, of a device when it was opened. */
u64 hostfile_size(const struct hostfile *file);
/* Bytes of the host's disk in use; 0 if unknown. */
u64 hostfile_allocated(const struct hostfile *file);
MUST_CHECK int hostfile_resize(struct hostfile *file, u64 size);

/* 0 or a negative errno. Behind the end of the file there are zeros. */
MUST_CHECK int hostfile_preadv(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off);
MUST_CHECK int hostfile_pwritev(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off);
MUST_CHECK int hostfile_pread(struct hostfile *f, void *buf, u64 len, u64 off);
MUST_CHECK int hostfile_pwrite(struct hostfile *f, const void *buf, u64 len, u64 off);

/* Read only what the host has in memory, without waiting: -EAGAIN if it may take time. */
MUST_CHECK int hostfile_preadv_now(struct hostfile *f, const struct iovec *iov, unsigned n,
				   u64 off);

/* Write to the host's page cache. -EAGAIN if that may take time, as it lately did; nothing has been
 * done then. Always the same thread. *waited: it has taken time. */
MUST_CHECK int hostfile_pwritev_now(struct hostfile *f, const struct iovec *iov, unsigned n,
				    u64 off, bool *waited);

/* What was written before is on the disk afterwards. After a failure it fails for ever: the host
 * has forgotten what it could not write, so nothing can make it good. */
MUST_CHECK int hostfile_sync(struct hostfile *f);

/* Make a range read as zeros: by a hole if unmap, else by space that is kept. */
MUST_CHECK int hostfile_zero(struct hostfile *f, u64 off, u64 len, bool unmap);
/* Give a range's space back; what it reads as is not defined. -ENOTSUP if the host cannot. */
MUST_CHECK int hostfile_discard(struct hostfile *f, u64 off, u64 len);

#endif
