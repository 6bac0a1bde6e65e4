/* What the image formats and disk.c share. */
#ifndef RINGSHIFT_DISK_IMPL_H
#define RINGSHIFT_DISK_IMPL_H

#include "disk.h"
#include "hostfile.h"
#include "iov.h"

struct disk_format {
	const char *name;
	/* d->file is open. Sets d->size, and d->backing_name if there is one. */
	int (*open)(struct disk *d, char *err, size_t errlen);
	int (*close)(struct disk *d);
	int (*readv)(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
	int (*readv_now)(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
	int (*writev_now)(struct disk *d, const struct iovec *iov, unsigned n, u64 off,
			  bool *waited);
	int (*writev)(struct disk *d, const struct iovec *iov, unsigned n, u64 off);
	int (*flush)(struct disk *d);
	int (*discard)(struct disk *d, u64 off, u64 len);
	int (*zero)(struct disk *d, u64 off, u64 len, bool unmap);
	int (*resize)(struct disk *d, u64 size);
	void (*info)(const struct disk *d, struct disk_info *info);
	int (*check)(struct disk *d, struct disk_check *result, FILE *out);
};

struct disk {
	const struct disk_format *format;
	void *state; /* the format's */
	struct hostfile *file;
	struct disk *backing; /* NULL: zeros */
	char *backing_name, *backing_format;
	u64 size;
	bool writable, discard;
	bool guessed; /* nobody said it is raw: it must not come to look like something else */
};

extern const struct disk_format disk_raw, disk_qcow2;

/* The format that the first bytes of an image (DISK_PROBE_SIZE) belong to, NULL if none: raw. Of
 * those only qcow2 is one of ours. */
#define DISK_PROBE_SIZE 512
const char *disk_probe(const u8 *head);

/* An image on a file that is open already; takes the file, also when it fails. */
MUST_CHECK int disk_open_file(struct disk **disk, const struct disk_format *format,
			      struct hostfile *file, bool write, bool discard, char *err,
			      size_t errlen);

/* qcow2_create.c. An empty image on an empty file. */
MUST_CHECK int qcow2_create(struct hostfile *file, u64 size, const char *backing,
			    const char *backing_format);

/* Read from a backing image, NULL or too short: zeros there. */
MUST_CHECK int disk_read_backing(struct disk *backing, const struct iovec *iov, unsigned n,
				 u64 off);

#endif
