/* What the files hostfile*.c share. */
#ifndef RINGSHIFT_HOSTFILE_IMPL_H
#define RINGSHIFT_HOSTFILE_IMPL_H

#include <pthread.h>

#include "hostfile.h"

struct hostfile {
	int fd;
	char *path;
	unsigned flags;
	bool device;
	u64 device_size;
	u32 align; /* of offsets, lengths and memory if DIRECT, a power of two; else 1 */
	/* DIRECT: read for whole blocks, write for reading and writing back a part of one. */
	pthread_rwlock_t blocks;
	_Atomic int sync_error; /* negative errno, for ever */
	_Atomic bool no_zero_range, no_holes, no_nowait;
	unsigned not_now; /* hostfile_pwritev_now does not try so many more times */
};

/* hostfile_lock.c: -EBUSY and what it failed to get, in QEMU's words. */
MUST_CHECK int hostfile_lock(int fd, bool write, const char **what);

#endif
