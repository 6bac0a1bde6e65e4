/*
 * A qcow2 image of any bytes: opened, read, written, flushed, checked. Answers are data or errors;
 * the sanitizers say what else happens. The input is the image; its last bytes choose the requests.
 * Seeds: tests/fuzz/seeds_qcow2.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "disk.h"

#define REQUEST  (256 * KIB)
#define REQUESTS 8
#define GROW_MAX (64 * MIB)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void request(struct disk *d, u8 choice, u8 place, u8 *buf)
{
	u64 size = disk_size(d), len = MIN(REQUEST, size), off = (size - len) / 255 * place;
	struct iovec iov = {buf, len};
	int rc;

	switch (choice % 8) {
	case 0: rc = disk_flush(d); break;
	case 1: rc = disk_discard(d, off, len); break;
	case 2: rc = disk_zero(d, off, len, choice & 8); break;
	case 3: rc = disk_readv_now(d, &iov, 1, off); break;
	case 4:
	case 5: rc = disk_readv(d, &iov, 1, off); break;
	default: rc = disk_writev(d, &iov, 1, off); break;
	}
	BUG_ON(rc > 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static u8 buf[REQUEST];
	char path[64], err[256] = "";
	struct disk_config cfg = {.path = path,
				  .format = "qcow2",
				  .write = true,
				  .discard = true,
				  .no_sync = true,
				  .no_backing = true};
	struct disk_check result;
	struct disk *d;
	int fd = memfd_create("fuzz", 0);

	if (fd < 0 || size < 2 * REQUESTS || ftruncate(fd, 0) ||
	    write(fd, data, size) != (ssize_t)size) {
		close(fd);
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (disk_open(&d, &cfg, NULL, err, sizeof(err))) {
		BUG_ON(!err[0] || strchr(err, '\n'));
	} else {
		const u8 *choice = data + size - 2 * REQUESTS;

		for (unsigned i = 0; i < REQUESTS; i++)
			request(d, choice[2 * i], choice[2 * i + 1], buf);
		/* A hostile offset makes a file of any size; what it takes to check grows with
		 * that. */
		if (lseek(fd, 0, SEEK_END) < (off_t)GROW_MAX)
			BUG_ON(disk_check(d, &result, NULL) > 0);
		BUG_ON(disk_close(d) > 0);
	}
	close(fd);
	return 0;
}
