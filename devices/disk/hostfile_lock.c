/*
 * Locks on images, the same bytes of the file that QEMU locks (block/file-posix.c), so that the two
 * see each other: for each thing a user does a read lock on byte 100 + n, for each thing it does
 * not bear others to do one on byte 200 + n. Read locks never fail; then everybody looks whether
 * there is somebody whose locks contradict his own. Open file description locks: they go when the
 * last descriptor is closed, whatever ended the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "hostfile_impl.h"

#define USED_BASE   100
#define SHARED_BASE 200

enum { PERM_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };

static const char *const perm_name[PERM_COUNT] = {
    [PERM_READ] = "consistent read", [PERM_WRITE] = "write", [PERM_RESIZE] = "resize"};

static int lock_byte(int fd, u64 byte)
{
	struct flock fl = {
	    .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &fl) ? -errno : 0;
}

/* Has another a read lock on this byte? */
static bool byte_taken(int fd, u64 byte)
{
	struct flock fl = {
	    .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

	return !fcntl(fd, F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
}

int hostfile_lock(int fd, bool write, const char **what)
{
	const bool used[PERM_COUNT] = {[PERM_READ] = true,
				       [PERM_WRITE] = write,
				       [PERM_WRITE_UNCHANGED] = false,
				       [PERM_RESIZE] = write};
	const bool excluded[PERM_COUNT] = {[PERM_WRITE] = true, [PERM_RESIZE] = true};
	int rc = 0;

	for (unsigned p = 0; p < PERM_COUNT && !rc; p++) {
		rc = used[p] ? lock_byte(fd, USED_BASE + p) : 0;
		if (!rc && excluded[p])
			rc = lock_byte(fd, SHARED_BASE + p);
	}
	if (rc && rc != -EAGAIN && rc != -EACCES)
		return 0; /* a file system without locks: no protection, as in QEMU */
	for (unsigned p = 0; p < PERM_COUNT; p++) {
		bool clash = rc || (used[p] && byte_taken(fd, SHARED_BASE + p)) ||
			     (excluded[p] && byte_taken(fd, USED_BASE + p));

		if (clash) {
			*what = perm_name[p];
			return -EBUSY;
		}
	}
	return 0;
}
