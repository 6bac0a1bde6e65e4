/*
 * Raw images: the file is the disk. Its last sector may be there in part only.
 */
#include <errno.h>

#include "disk_impl.h"

static int raw_open(struct disk *d, char *err, size_t errlen)
{
	u64 size = hostfile_size(d->file);

	if (size > INT64_MAX - DISK_SECTOR) {
		snprintf(err, errlen, "%s: too large", hostfile_path(d->file));
		return -EFBIG;
	}
	d->size = ALIGN_UP(size, DISK_SECTOR);
	return 0;
}

static int raw_close(struct disk *d)
{
	return d->writable ? hostfile_sync(d->file) : 0;
}

static int raw_readv(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	return hostfile_preadv(d->file, iov, n, off);
}

static int raw_readv_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	return hostfile_preadv_now(d->file, iov, n, off);
}

/*
 * The first bytes of a disk whose format was guessed. A guest that writes another format's magic
 * there would have its disk taken for that the next time, with a backing file of its choice. The
 * bytes looked at are the bytes written: the guest may change its memory meanwhile.
 */
static int write_head(struct disk *d, const struct iovec *iov, unsigned n, u64 off, u64 *done)
{
	u8 head[DISK_PROBE_SIZE];
	int rc = hostfile_pread(d->file, head, sizeof(head), 0);

	if (rc)
		return rc;
	*done = MIN(iov_length(iov, n), sizeof(head) - off);
	iov_copy(iov, n, 0, head + off, *done);
	if (disk_probe(head))
		return -EPERM;
	return hostfile_pwrite(d->file, head + off, *done, off);
}

static int raw_writev(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	struct iovec rest[IOV_SEGS_MAX];
	u64 done = 0, len;
	int rc;

	if (!d->guessed || off >= DISK_PROBE_SIZE)
		return hostfile_pwritev(d->file, iov, n, off);
	rc = write_head(d, iov, n, off, &done);
	len = iov_length(iov, n) - done;
	if (rc || !len)
		return rc;
	n = iov_slice(rest, iov, n, done, len);
	return hostfile_pwritev(d->file, rest, n, off + done);
}

static int raw_writev_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off,
			  bool *waited)
{
	if (d->guessed && off < DISK_PROBE_SIZE)
		return -EAGAIN;
	return hostfile_pwritev_now(d->file, iov, n, off, waited);
}

static int raw_flush(struct disk *d)
{
	return hostfile_sync(d->file);
}

static int raw_discard(struct disk *d, u64 off, u64 len)
{
	int rc = hostfile_discard(d->file, off, len);

	return rc == -ENOTSUP ? 0 : rc;
}

static int raw_zero(struct disk *d, u64 off, u64 len, bool unmap)
{
	return hostfile_zero(d->file, off, len, unmap);
}

static int raw_resize(struct disk *d, u64 size)
{
	int rc = hostfile_resize(d->file, size);

	if (!rc)
		d->size = size;
	return rc;
}

static void raw_info(const struct disk *d, struct disk_info *info)
{
	(void)d;
	(void)info;
}

static int raw_check(struct disk *d, struct disk_check *result, FILE *out)
{
	(void)d;
	(void)result;
	(void)out;
	return -ENOTSUP;
}

const struct disk_format disk_raw = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .readv = raw_readv,
    .readv_now = raw_readv_now,
    .writev = raw_writev,
    .writev_now = raw_writev_now,
    .flush = raw_flush,
    .discard = raw_discard,
    .zero = raw_zero,
    .resize = raw_resize,
    .info = raw_info,
    .check = raw_check,
};
