/*
 * Scattered buffers: parts of them, copies to and from them.
 */
#ifndef RINGSHIFT_IOV_H
#define RINGSHIFT_IOV_H

#include <sys/uio.h>

#include "base.h"

/* More segments than the kernel takes in one call, nobody passes. */
#define IOV_SEGS_MAX 1024

/* dst (room for as many as src has) becomes bytes [at, at+len) of src, which has them: the number
 * of segments. */
unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned n, u64 at, u64 len);

u64 iov_length(const struct iovec *iov, unsigned n);

/* Between bytes [at, at+len) and a buffer. */
void iov_fill(const struct iovec *iov, unsigned n, u64 at, const void *buf, u64 len);
void iov_copy(const struct iovec *iov, unsigned n, u64 at, void *buf, u64 len);
void iov_zero(const struct iovec *iov, unsigned n, u64 at, u64 len);

#endif
