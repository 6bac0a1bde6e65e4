/*
 * Reading and writing. A request that a direct file cannot take as it is goes through a bounce
 * buffer, in pieces; one that covers blocks in part reads them first and holds others off
 * meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hostfile_impl.h"
#include "iov.h"

#define BOUNCE_MAX       (1 * MIB)
#define PAUSE_AFTER_WAIT 64 /* writes left to others after one that has waited */

/* Drop the first `done` bytes. */
static void advance(struct iovec **iov, unsigned *n, size_t done)
{
	while (*n && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (done) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

/* All of it, however many calls that takes. */
static int transfer(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off, bool write)
{
	struct iovec left[IOV_SEGS_MAX], *p = left;
	u64 len = iov_length(iov, n);

	BUG_ON(n > IOV_SEGS_MAX);
	if (off > INT64_MAX || len > INT64_MAX - off)
		return -EFBIG;
	memcpy(left, iov, n * sizeof(*iov));
	while (len) {
		ssize_t got = write ? pwritev(f->fd, p, (int)n, (off_t)off)
				    : preadv(f->fd, p, (int)n, (off_t)off);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got) { /* the end of the file */
			if (write)
				return -ENOSPC;
			iov_zero(p, n, 0, len);
			return 0;
		}
		off += (u64)got;
		len -= (u64)got;
		advance(&p, &n, (size_t)got);
		/* A direct read that ends within a block has met the end of the file. */
		if (!write && len && (u64)got % f->align) {
			iov_zero(p, n, 0, len);
			return 0;
		}
	}
	return 0;
}

static bool aligned(const struct hostfile *f, const struct iovec *iov, unsigned n, u64 off)
{
	u64 bits = off;

	for (unsigned i = 0; i < n; i++)
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return !(bits & (f->align - 1));
}

static int bounce_read(struct hostfile *f, void *buf, const struct iovec *iov, unsigned n, u64 at,
		       u64 off, u64 len)
{
	u64 start = ALIGN_DOWN(off, f->align), end = ALIGN_UP(off + len, f->align);
	struct iovec whole = {buf, end - start};
	int rc;

	pthread_rwlock_rdlock(&f->blocks);
	rc = transfer(f, &whole, 1, start, false);
	pthread_rwlock_unlock(&f->blocks);
	if (!rc)
		iov_fill(iov, n, at, (u8 *)buf + (off - start), len);
	return rc;
}

/* Blocks covered in part come from the file; a file that grew by the rest of its last block is cut
 * back. */
static int bounce_write(struct hostfile *f, u8 *buf, const struct iovec *iov, unsigned n, u64 at,
			u64 off, u64 len)
{
	u64 start = ALIGN_DOWN(off, f->align), end = ALIGN_UP(off + len, f->align), size;
	struct iovec head = {buf, f->align}, tail = {buf + (end - start) - f->align, f->align};
	struct iovec whole = {buf, end - start};
	bool partly = start != off || end != off + len;
	int rc = 0;

	if (partly)
		pthread_rwlock_wrlock(&f->blocks);
	else
		pthread_rwlock_rdlock(&f->blocks);
	size = partly ? hostfile_size(f) : 0;
	if (start != off)
		rc = transfer(f, &head, 1, start, false);
	if (!rc && end != off + len && (tail.iov_base != head.iov_base || start == off))
		rc = transfer(f, &tail, 1, end - f->align, false);
	iov_copy(iov, n, at, buf + (off - start), len);
	if (!rc)
		rc = transfer(f, &whole, 1, start, true);
	if (!rc && partly && !f->device && end > MAX(size, off + len))
		rc = hostfile_resize(f, MAX(size, off + len));
	pthread_rwlock_unlock(&f->blocks);
	return rc;
}

static int bounce(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off, bool write)
{
	u64 len = iov_length(iov, n), room = MIN(ALIGN_UP(len, f->align) + f->align, BOUNCE_MAX);
	void *buf;
	int rc = 0;

	if (off > INT64_MAX / 2 || len > INT64_MAX / 2)
		return -EFBIG;
	buf = aligned_alloc(MAX(f->align, 4096), ALIGN_UP(room, MAX(f->align, 4096)));
	if (!buf)
		return -ENOMEM;
	for (u64 at = 0, part; at < len && !rc; at += part) {
		u64 from = off + at;

		part = MIN(len - at, room - (from & (f->align - 1)));
		if (part < len - at)
			part = ALIGN_DOWN(from + part, f->align) - from;
		rc = write ? bounce_write(f, buf, iov, n, at, from, part)
			   : bounce_read(f, buf, iov, n, at, from, part);
	}
	free(buf);
	return rc;
}

int hostfile_preadv(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off)
{
	if (f->align > 1 && !aligned(f, iov, n, off))
		return bounce(f, iov, n, off, false);
	return transfer(f, iov, n, off, false);
}

int hostfile_pwritev(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off)
{
	int rc;

	if (f->align == 1)
		return transfer(f, iov, n, off, true);
	if (!aligned(f, iov, n, off))
		return bounce(f, iov, n, off, true);
	pthread_rwlock_rdlock(&f->blocks);
	rc = transfer(f, iov, n, off, true);
	pthread_rwlock_unlock(&f->blocks);
	return rc;
}

int hostfile_pread(struct hostfile *f, void *buf, u64 len, u64 off)
{
	struct iovec iov = {buf, len};

	return hostfile_preadv(f, &iov, 1, off);
}

int hostfile_pwrite(struct hostfile *f, const void *buf, u64 len, u64 off)
{
	struct iovec iov = {(void *)buf, len};

	return hostfile_pwritev(f, &iov, 1, off);
}

int hostfile_preadv_now(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off)
{
	u64 len = iov_length(iov, n);
	ssize_t got;

	if (f->align > 1 || f->no_nowait || off > INT64_MAX || len > INT64_MAX - off)
		return -EAGAIN;
	got = preadv2(f->fd, iov, (int)n, (off_t)off, RWF_NOWAIT);
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
		f->no_nowait = true;
	return got >= 0 && (u64)got == len ? 0 : -EAGAIN;
}

/* How often this thread has slept. */
static long sleeps(void)
{
	struct rusage u;

	return getrusage(RUSAGE_THREAD, &u) ? 0 : u.ru_nvcsw;
}

/*
 * Most file systems cannot say beforehand whether a write to the page cache would wait (RWF_NOWAIT
 * is an error). It does when too much is dirty or a page is on its way to the disk, which lasts: so
 * one that has waited is a reason not to try for a while.
 */
int hostfile_pwritev_now(struct hostfile *f, const struct iovec *iov, unsigned n, u64 off,
			 bool *waited)
{
	long before;
	int rc;

	*waited = false;
	if (f->align > 1)
		return -EAGAIN;
	if (f->not_now) {
		f->not_now--;
		return -EAGAIN;
	}
	before = sleeps();
	rc = transfer(f, iov, n, off, true);
	*waited = sleeps() != before;
	if (*waited)
		f->not_now = PAUSE_AFTER_WAIT;
	return rc;
}
