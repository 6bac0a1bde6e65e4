#include <string.h>

#include "iov.h"

u64 iov_length(const struct iovec *iov, unsigned n)
{
	u64 len = 0;

	for (unsigned i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned n, u64 at, u64 len)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n && len; i++) {
		u64 part;

		if (at >= src[i].iov_len) {
			at -= src[i].iov_len;
			continue;
		}
		part = MIN(src[i].iov_len - at, len);
		dst[count++] = (struct iovec){(char *)src[i].iov_base + at, part};
		len -= part;
		at = 0;
	}
	BUG_ON(len);
	return count;
}

/* A walk over the parts of [at, at+len), shared by the three below. */
enum iov_what { IOV_FILL, IOV_COPY, IOV_ZERO };

static void walk(const struct iovec *iov, unsigned n, u64 at, u8 *buf, u64 len, enum iov_what what)
{
	for (unsigned i = 0; i < n && len; i++) {
		u64 part;
		char *p;

		if (at >= iov[i].iov_len) {
			at -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - at, len);
		p = (char *)iov[i].iov_base + at;
		if (what == IOV_FILL)
			memcpy(p, buf, part);
		else if (what == IOV_COPY)
			memcpy(buf, p, part);
		else
			memset(p, 0, part);
		buf = buf ? buf + part : NULL;
		len -= part;
		at = 0;
	}
	BUG_ON(len);
}

void iov_fill(const struct iovec *iov, unsigned n, u64 at, const void *buf, u64 len)
{
	walk(iov, n, at, (u8 *)buf, len, IOV_FILL);
}

void iov_copy(const struct iovec *iov, unsigned n, u64 at, void *buf, u64 len)
{
	walk(iov, n, at, buf, len, IOV_COPY);
}

void iov_zero(const struct iovec *iov, unsigned n, u64 at, u64 len)
{
	walk(iov, n, at, NULL, len, IOV_ZERO);
}
