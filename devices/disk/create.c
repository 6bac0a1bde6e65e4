/*
 * New images.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "disk_impl.h"

static PRINTF(4, 5) int fail(char *err, size_t errlen, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return rc;
}

/* Open an image's backing image as the image itself will: by a name relative to its folder. */
static int open_base(struct disk **base, const char *path, const char *backing, const char *format,
		     char *err, size_t errlen)
{
	const char *slash = strrchr(path, '/');
	char full[4096];
	struct disk_config cfg = {.path = full, .format = format};
	int n;

	if (*backing == '/' || !slash)
		n = snprintf(full, sizeof(full), "%s", backing);
	else
		n = snprintf(full, sizeof(full), "%.*s%s", (int)(slash + 1 - path), path, backing);
	if (n < 0 || (size_t)n >= sizeof(full))
		return fail(err, errlen, -ENAMETOOLONG, "%s: name too long", backing);
	return disk_open(base, &cfg, NULL, err, errlen);
}

static int make_raw(struct hostfile *file, u64 size)
{
	int rc = hostfile_resize(file, 0);

	return rc ? rc : hostfile_resize(file, size);
}

static int make_qcow2(struct hostfile *file, u64 size, const char *backing, const char *format)
{
	int rc = hostfile_resize(file, 0);

	return rc ? rc : qcow2_create(file, size, backing, format);
}

static int make(const char *path, bool qcow2, u64 size, const char *backing,
		const char *backing_format, char *err, size_t errlen)
{
	struct hostfile *file;
	int rc = hostfile_open(&file, path, HOSTFILE_WRITE | HOSTFILE_CREATE, err, errlen);

	if (rc)
		return rc;
	rc = qcow2 ? make_qcow2(file, size, backing, backing_format) : make_raw(file, size);
	if (rc)
		fail(err, errlen, rc, "%s: %s", path, strerror(-rc));
	hostfile_close(file);
	return rc;
}

int disk_create(const char *path, const char *format, u64 size, const char *backing,
		const char *backing_format, char *err, size_t errlen)
{
	bool qcow2 = !strcmp(format, "qcow2");
	struct disk *base = NULL;
	int rc = 0;

	if (!qcow2 && strcmp(format, "raw"))
		return fail(err, errlen, -ENOTSUP,
			    "format '%s' is not in this version, only raw and qcow2", format);
	if (!qcow2 && backing)
		return fail(err, errlen, -ENOTSUP, "a raw image has no backing file");
	if (backing && !backing_format)
		return fail(err, errlen, -EINVAL, "a backing file needs its format (-F)");
	if (backing)
		rc = open_base(&base, path, backing, backing_format, err, errlen);
	if (rc)
		return rc;
	if (size == ~0ull && base)
		size = disk_size(base);
	if (size == ~0ull)
		rc = fail(err, errlen, -EINVAL, "a size is needed");
	else if (size > INT64_MAX - DISK_SECTOR)
		rc = fail(err, errlen, -EFBIG, "the size is too large");
	if (!rc)
		rc = make(path, qcow2, ALIGN_UP(size, DISK_SECTOR), backing, backing_format, err,
			  errlen);
	disk_close(base);
	return rc;
}
