/*
 * Opening, closing, sizes and holes; hostfile_io.c reads and writes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostfile_impl.h"
#include "iov.h"

#define DEFAULT_ALIGN 4096u /* right, if not the least, for every disk there is */

static int fail(char *err, size_t errlen, const char *path, int rc, const char *what)
{
	snprintf(err, errlen, "%s: %s", path, what ? what : strerror(-rc));
	return rc;
}

static int open_fd(const char *path, unsigned flags)
{
	int how = O_CLOEXEC | O_NONBLOCK | O_NOCTTY; /* a FIFO would make us wait for a writer */
	int fd;

	how |= flags & HOSTFILE_WRITE ? O_RDWR : O_RDONLY;
	how |= flags & HOSTFILE_DIRECT ? O_DIRECT : 0;
	how |= flags & HOSTFILE_CREATE ? O_CREAT : 0;
	fd = open(path, how, 0644);
	return fd < 0 ? -errno : fd;
}

static u32 direct_alignment(int fd, bool device)
{
	int block = 0;

#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) &&
	    (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align) {
		u32 align = MAX(stx.stx_dio_offset_align, stx.stx_dio_mem_align);

		if (!(align & (align - 1)))
			return align;
	}
#endif
	if (device && !ioctl(fd, BLKSSZGET, &block) && block > 0 && !(block & (block - 1)))
		return (u32)block;
	return DEFAULT_ALIGN;
}

/* What kind of file it is, and how large. NULL, or why not. */
static const char *look_at(struct hostfile *f)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return strerror(errno);
	if (S_ISDIR(st.st_mode))
		return strerror(EISDIR);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return "neither a file nor a block device";
	f->device = S_ISBLK(st.st_mode);
	if (f->device && ioctl(f->fd, BLKGETSIZE64, &f->device_size))
		return strerror(errno);
	f->align = f->flags & HOSTFILE_DIRECT ? direct_alignment(f->fd, f->device) : 1;
	fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK);
	return NULL;
}

/* Takes fd and the name. */
static int make(struct hostfile **file, int fd, const char *path, unsigned flags)
{
	struct hostfile *f = calloc(1, sizeof(*f));

	if (!f || !(f->path = strdup(path))) {
		free(f);
		close(fd);
		return -ENOMEM;
	}
	f->fd = fd;
	f->flags = flags;
	pthread_rwlock_init(&f->blocks, NULL);
	*file = f;
	return 0;
}

int hostfile_open(struct hostfile **file, const char *path, unsigned flags, char *err,
		  size_t errlen)
{
	const char *why = NULL;
	int fd = open_fd(path, flags), rc;

	if (fd < 0)
		return fail(err, errlen, path, fd,
			    fd == -EINVAL && (flags & HOSTFILE_DIRECT)
				? "its file system has no O_DIRECT: no cache=none or directsync"
				: NULL);
	rc = make(file, fd, path, flags);
	if (rc)
		return fail(err, errlen, path, rc, NULL);
	why = look_at(*file);
	rc = why ? -EINVAL : 0;
	if (!why && !(flags & HOSTFILE_NO_LOCK))
		rc = hostfile_lock(fd, flags & HOSTFILE_WRITE, &why);
	if (rc == -EBUSY)
		snprintf(err, errlen,
			 "%s: failed to get \"%s\" lock; is another process using the image?", path,
			 why);
	else if (rc)
		fail(err, errlen, path, rc, why);
	if (rc) {
		hostfile_close(*file);
		*file = NULL;
	}
	return rc;
}

int hostfile_temporary(struct hostfile **file, char *err, size_t errlen)
{
	const char *dir = getenv("TMPDIR");
	char path[4096];
	int fd, rc;

	snprintf(path, sizeof(path), "%s/ringshift.XXXXXX", dir && *dir ? dir : "/var/tmp");
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return fail(err, errlen, path, -errno, NULL);
	unlink(path);
	rc = make(file, fd, path, HOSTFILE_WRITE | HOSTFILE_NO_SYNC);
	if (rc)
		return fail(err, errlen, path, rc, NULL);
	(*file)->align = 1;
	return 0;
}

void hostfile_close(struct hostfile *f)
{
	if (!f)
		return;
	close(f->fd);
	pthread_rwlock_destroy(&f->blocks);
	free(f->path);
	free(f);
}

const char *hostfile_path(const struct hostfile *f)
{
	return f->path;
}

u64 hostfile_size(const struct hostfile *f)
{
	struct stat st;

	if (f->device)
		return f->device_size;
	return fstat(f->fd, &st) ? 0 : (u64)st.st_size;
}

u64 hostfile_allocated(const struct hostfile *f)
{
	struct stat st;

	return fstat(f->fd, &st) ? 0 : (u64)st.st_blocks * 512;
}

int hostfile_resize(struct hostfile *f, u64 size)
{
	if (f->device)
		return size <= f->device_size ? 0 : -ENOSPC;
	if (size > INT64_MAX)
		return -EFBIG;
	return ftruncate(f->fd, (off_t)size) ? -errno : 0;
}

int hostfile_sync(struct hostfile *f)
{
	int rc = f->sync_error;

	if (rc || (f->flags & HOSTFILE_NO_SYNC) || !(f->flags & HOSTFILE_WRITE))
		return rc;
	if (fdatasync(f->fd)) {
		rc = -errno;
		f->sync_error = rc;
	}
	return rc;
}

/* --- zeros and holes --- */

static bool cannot(int e)
{
	return e == EOPNOTSUPP || e == ENOTTY || e == ENOSYS || e == EINVAL;
}

static int zeros_written(struct hostfile *f, u64 off, u64 len)
{
	static const u8 zeros[64 * 1024] __attribute__((aligned(4096)));
	struct iovec iov[64];
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_LEN(iov); i++)
		iov[i] = (struct iovec){(void *)zeros, sizeof(zeros)};
	while (len && !rc) {
		struct iovec part[ARRAY_LEN(iov)];
		u64 n = MIN(len, sizeof(zeros) * ARRAY_LEN(iov));

		rc = hostfile_pwritev(f, part, iov_slice(part, iov, ARRAY_LEN(iov), 0, n), off);
		off += n;
		len -= n;
	}
	return rc;
}

static int device_range(struct hostfile *f, unsigned long request, u64 off, u64 len)
{
	u64 range[2] = {off, len};

	return ioctl(f->fd, request, range) ? -errno : 0;
}

/* A hole in a file that may be shorter than where it ends. */
static int punch(struct hostfile *f, u64 off, u64 len)
{
	if (f->device)
		return device_range(f, BLKDISCARD, off, len);
	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len))
		return -errno;
	return 0;
}

int hostfile_discard(struct hostfile *f, u64 off, u64 len)
{
	int rc;

	if (f->no_holes)
		return -ENOTSUP;
	rc = punch(f, off, len);
	if (rc && cannot(-rc)) {
		f->no_holes = true;
		rc = -ENOTSUP;
	}
	return rc;
}

int hostfile_zero(struct hostfile *f, u64 off, u64 len, bool unmap)
{
	int rc;

	if (off > INT64_MAX || len > INT64_MAX - off)
		return -EFBIG;
	/* A device may discard without zeroing; a hole behind the end does not make a file longer.
	 */
	if (unmap && !f->device && off + len <= hostfile_size(f) && !hostfile_discard(f, off, len))
		return 0;
	if (f->no_zero_range)
		return zeros_written(f, off, len);
	if (f->device)
		rc = device_range(f, BLKZEROOUT, off, len);
	else
		rc = fallocate(f->fd, FALLOC_FL_ZERO_RANGE, (off_t)off, (off_t)len) ? -errno : 0;
	if (rc && cannot(-rc)) {
		f->no_zero_range = true;
		return zeros_written(f, off, len);
	}
	return rc;
}
