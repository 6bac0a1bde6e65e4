/*
 * Opening images with what stands behind them, and what all formats have in common.
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

/* --- opening --- */

static const struct disk_format *format_named(const char *name)
{
	static const struct disk_format *const formats[] = {&disk_raw, &disk_qcow2};

	for (unsigned i = 0; i < ARRAY_LEN(formats); i++)
		if (!strcmp(formats[i]->name, name))
			return formats[i];
	return NULL;
}

static int guess(struct hostfile *file, const char **name)
{
	u8 head[DISK_PROBE_SIZE];
	int rc = hostfile_pread(file, head, sizeof(head), 0);

	if (!rc)
		*name = disk_probe(head);
	return rc;
}

int disk_open_file(struct disk **disk, const struct disk_format *format, struct hostfile *file,
		   bool write, bool discard, char *err, size_t errlen)
{
	struct disk *d = calloc(1, sizeof(*d));
	int rc;

	if (!d) {
		hostfile_close(file);
		return fail(err, errlen, -ENOMEM, "out of memory");
	}
	d->file = file;
	d->writable = write;
	d->discard = discard;
	d->format = format;
	rc = format->open(d, err, errlen);
	if (rc) {
		hostfile_close(file);
		free(d->backing_name);
		free(d->backing_format);
		free(d);
		return rc;
	}
	*disk = d;
	return 0;
}

/* "nbd://", "json:", "rbd:": what QEMU would take for something else than a file. */
static bool names_a_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':';
}

/* The path of an image's backing file: relative to the image's own folder. */
static int backing_path(const struct disk *d, char *path, size_t size, char *err, size_t errlen)
{
	const char *name = d->backing_name, *own = hostfile_path(d->file);
	const char *slash = strrchr(own, '/');
	int n;

	if (!strncmp(name, "file:", 5))
		name += 5;
	if (names_a_protocol(name))
		return fail(err, errlen, -ENOTSUP, "%s: backing file '%s' is no file", own, name);
	if (*name == '/' || !slash)
		n = snprintf(path, size, "%s", name);
	else
		n = snprintf(path, size, "%.*s%s", (int)(slash + 1 - own), own, name);
	if (n < 0 || (size_t)n >= size)
		return fail(err, errlen, -ENAMETOOLONG, "%s: backing file: name too long", own);
	return 0;
}

static int open_chain(struct disk **disk, const struct disk_config *cfg, unsigned depth, char *note,
		      char *err, size_t errlen);

static int open_backing(struct disk *d, const struct disk_config *cfg, unsigned depth, char *note,
			char *err, size_t errlen)
{
	struct disk_config below = *cfg;
	char path[4096], why[400];
	int rc;

	if (!d->backing_name || cfg->no_backing)
		return 0;
	if (depth + 1 == DISK_CHAIN_MAX)
		return fail(err, errlen, -ELOOP, "%s: more than %d backing files, or a circle",
			    hostfile_path(d->file), DISK_CHAIN_MAX);
	rc = backing_path(d, path, sizeof(path), err, errlen);
	if (rc)
		return rc;
	below.path = path;
	below.format = d->backing_format;
	below.write = false;
	rc = open_chain(&d->backing, &below, depth + 1, note, why, sizeof(why));
	if (rc)
		return fail(err, errlen, rc, "%s: backing file %s", hostfile_path(d->file), why);
	return 0;
}

static int choose_format(const struct disk_config *cfg, struct hostfile *file,
			 const struct disk_format **format, bool *guessed, char *err, size_t errlen)
{
	const char *name = cfg->format;
	int rc = 0;

	*guessed = false;
	if (!name) {
		rc = guess(file, &name);
		*guessed = !name;
		name = name ? name : "raw";
	}
	if (rc)
		return fail(err, errlen, rc, "%s: %s", cfg->path, strerror(-rc));
	*format = format_named(name);
	if (!*format)
		return fail(err, errlen, -ENOTSUP,
			    "%s: format '%s' is not in this version, only raw and qcow2", cfg->path,
			    name);
	return 0;
}

static int open_chain(struct disk **disk, const struct disk_config *cfg, unsigned depth, char *note,
		      char *err, size_t errlen)
{
	unsigned flags = (cfg->write ? HOSTFILE_WRITE : 0) | (cfg->direct ? HOSTFILE_DIRECT : 0) |
			 (cfg->no_sync ? HOSTFILE_NO_SYNC : 0) |
			 (cfg->no_lock ? HOSTFILE_NO_LOCK : 0);
	const struct disk_format *format;
	struct hostfile *file;
	bool guessed;
	int rc = hostfile_open(&file, cfg->path, flags, err, errlen);

	if (rc)
		return rc;
	rc = choose_format(cfg, file, &format, &guessed, err, errlen);
	if (rc) {
		hostfile_close(file);
		return rc;
	}
	rc = disk_open_file(disk, format, file, cfg->write, cfg->discard, err, errlen);
	if (rc)
		return rc;
	(*disk)->guessed = guessed && cfg->write;
	if ((*disk)->guessed && note)
		snprintf(note, errlen,
			 "%s: no format was given, and it looks raw: its first sector cannot be "
			 "made to look otherwise (format=raw lifts that)",
			 cfg->path);
	rc = open_backing(*disk, cfg, depth, note, err, errlen);
	if (rc) {
		disk_close(*disk);
		*disk = NULL;
	}
	return rc;
}

int disk_open(struct disk **disk, const struct disk_config *cfg, char *note, char *err,
	      size_t errlen)
{
	if (note)
		*note = 0;
	return open_chain(disk, cfg, 0, note, err, errlen);
}

int disk_open_snapshot(struct disk **disk, const struct disk_config *cfg, char *note, char *err,
		       size_t errlen)
{
	struct disk_config below = *cfg;
	struct hostfile *file;
	struct disk *base;
	int rc;

	below.write = false;
	rc = disk_open(&base, &below, note, err, errlen);
	if (rc)
		return rc;
	rc = hostfile_temporary(&file, err, errlen);
	if (rc)
		goto close_base;
	rc = qcow2_create(file, base->size, NULL, NULL);
	if (rc) {
		fail(err, errlen, rc, "%s: %s", hostfile_path(file), strerror(-rc));
		hostfile_close(file);
		goto close_base;
	}
	rc = disk_open_file(disk, &disk_qcow2, file, true, cfg->discard, err, errlen);
	if (rc)
		goto close_base;
	(*disk)->backing = base;
	return 0;
close_base:
	disk_close(base);
	return rc;
}

int disk_close(struct disk *d)
{
	int rc;

	if (!d)
		return 0;
	rc = d->format->close(d);
	disk_close(d->backing);
	hostfile_close(d->file);
	free(d->backing_name);
	free(d->backing_format);
	free(d);
	return rc;
}

/* --- requests --- */

u64 disk_size(const struct disk *d)
{
	return d->size;
}

bool disk_is_writable(const struct disk *d)
{
	return d->writable;
}

const char *disk_format(const struct disk *d)
{
	return d->format->name;
}

const char *disk_path(const struct disk *d)
{
	return hostfile_path(d->file);
}

unsigned disk_depth(const struct disk *d)
{
	unsigned depth = 0;

	for (d = d->backing; d; d = d->backing)
		depth++;
	return depth;
}

static bool within(const struct disk *d, u64 off, u64 len)
{
	return off <= d->size && len <= d->size - off;
}

int disk_readv(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	if (!within(d, off, iov_length(iov, n)))
		return -EINVAL;
	return d->format->readv(d, iov, n, off);
}

int disk_readv_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	if (!within(d, off, iov_length(iov, n)))
		return -EINVAL;
	return d->format->readv_now(d, iov, n, off);
}

static int may_write(const struct disk *d, u64 off, u64 len)
{
	if (!d->writable)
		return -EROFS;
	return within(d, off, len) ? 0 : -EINVAL;
}

int disk_writev(struct disk *d, const struct iovec *iov, unsigned n, u64 off)
{
	int rc = may_write(d, off, iov_length(iov, n));

	return rc ? rc : d->format->writev(d, iov, n, off);
}

int disk_writev_now(struct disk *d, const struct iovec *iov, unsigned n, u64 off, bool *waited)
{
	int rc = may_write(d, off, iov_length(iov, n));

	*waited = false;
	return rc ? rc : d->format->writev_now(d, iov, n, off, waited);
}

int disk_flush(struct disk *d)
{
	return d->writable ? d->format->flush(d) : 0;
}

int disk_discard(struct disk *d, u64 off, u64 len)
{
	int rc = may_write(d, off, len);

	if (rc || !len || !d->discard)
		return rc;
	return d->format->discard(d, off, len);
}

int disk_zero(struct disk *d, u64 off, u64 len, bool unmap)
{
	int rc = may_write(d, off, len);

	return rc || !len ? rc : d->format->zero(d, off, len, unmap && d->discard);
}

int disk_read_backing(struct disk *b, const struct iovec *iov, unsigned n, u64 off)
{
	u64 len = iov_length(iov, n), there = b && off < b->size ? MIN(len, b->size - off) : 0;
	struct iovec part[IOV_SEGS_MAX];

	if (there < len)
		iov_zero(iov, n, there, len - there);
	if (!there)
		return 0;
	n = iov_slice(part, iov, n, 0, there);
	return b->format->readv(b, part, n, off);
}

/* --- tools --- */

int disk_resize(struct disk *d, u64 size)
{
	if (!d->writable)
		return -EROFS;
	if (size % DISK_SECTOR || size > INT64_MAX)
		return -EINVAL;
	return d->format->resize(d, size);
}

void disk_get_info(const struct disk *d, struct disk_info *info)
{
	*info = (struct disk_info){.format = d->format->name,
				   .size = d->size,
				   .file_size = hostfile_size(d->file),
				   .allocated = hostfile_allocated(d->file)};
	if (d->backing_name)
		snprintf(info->backing, sizeof(info->backing), "%s", d->backing_name);
	if (d->backing_format)
		snprintf(info->backing_format, sizeof(info->backing_format), "%s",
			 d->backing_format);
	d->format->info(d, info);
}

int disk_check(struct disk *d, struct disk_check *result, FILE *out)
{
	*result = (struct disk_check){0};
	return d->format->check(d, result, out);
}
