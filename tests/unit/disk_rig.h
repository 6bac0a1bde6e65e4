/*
 * Disk images for tests: a folder of their own, qemu-img, random requests on an image beside a
 * model of what it must hold.
 */
#ifndef RINGSHIFT_DISK_RIG_H
#define RINGSHIFT_DISK_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk.h"

struct disk_rig {
	char dir[64];
	char err[512];
	u64 seed;
};

/* A shell command in the rig's folder; its exit status. */
static inline PRINTF(2, 3) int rig_sh(struct disk_rig *r, const char *fmt, ...)
{
	char cmd[2048];
	int n = snprintf(cmd, sizeof(cmd), "cd %s && ", r->dir), rc;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - n, fmt, ap);
	va_end(ap);
	rc = system(cmd);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

#define RIG_SH(r, ...) cr_assert_eq(rig_sh(r, __VA_ARGS__), 0)

static inline void rig_make(struct disk_rig *r)
{
	strcpy(r->dir, "/tmp/ringshift-disk.XXXXXX");
	cr_assert_not_null(mkdtemp(r->dir));
	r->seed = 0x1234567;
}

static inline void rig_remove(struct disk_rig *r)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", r->dir);
	cr_assert_eq(system(cmd), 0);
}

static inline void rig_need_qemu_img(void)
{
	if (system("qemu-img --version >/dev/null 2>&1"))
		cr_skip_test("no qemu-img (package qemu-utils)");
}

static inline const char *rig_path(struct disk_rig *r, const char *name)
{
	static char path[4][256];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", r->dir, name);
	return p;
}

static inline u64 rig_random(struct disk_rig *r)
{
	r->seed ^= r->seed << 13;
	r->seed ^= r->seed >> 7;
	r->seed ^= r->seed << 17;
	return r->seed;
}

static inline struct disk *rig_open(struct disk_rig *r, const char *name, bool write)
{
	struct disk_config cfg = {
	    .path = rig_path(r, name), .write = write, .discard = true, .no_sync = true};
	struct disk *d = NULL;

	cr_assert_eq(disk_open(&d, &cfg, NULL, r->err, sizeof(r->err)), 0, "%s", r->err);
	return d;
}

static inline void rig_read(struct disk *d, void *buf, u64 len, u64 off)
{
	struct iovec iov = {buf, len};

	cr_assert_eq(disk_readv(d, &iov, 1, off), 0);
}

static inline void rig_write(struct disk *d, const void *buf, u64 len, u64 off)
{
	struct iovec iov = {(void *)buf, len};

	cr_assert_eq(disk_writev(d, &iov, 1, off), 0);
}

/* As a device does it: at once if that can be, else with all the time it takes. */
static inline void rig_write_now(struct disk *d, const void *buf, u64 len, u64 off)
{
	struct iovec iov = {(void *)buf, len};
	bool waited;
	int rc = disk_writev_now(d, &iov, 1, off, &waited);

	if (rc == -EAGAIN)
		rig_write(d, buf, len, off);
	else
		cr_assert_eq(rc, 0);
}

/* The whole of a disk is what the model says. */
static inline void rig_compare(struct disk *d, const u8 *model)
{
	u64 size = disk_size(d);
	u8 *buf = malloc(size);

	rig_read(d, buf, size, 0);
	for (u64 i = 0; i < size; i += DISK_SECTOR)
		cr_assert_eq(memcmp(buf + i, model + i, DISK_SECTOR), 0, "sector at %#llx differs",
			     (unsigned long long)i);
	free(buf);
}

/* A random request of whole sectors, with its effect on the model. Sizes up to max bytes. */
static inline void rig_random_request(struct disk_rig *r, struct disk *d, u8 *model, u64 max)
{
	u64 size = disk_size(d), len = (1 + rig_random(r) % (max / DISK_SECTOR)) * DISK_SECTOR;
	u64 off = rig_random(r) % ((size - len) / DISK_SECTOR + 1) * DISK_SECTOR;
	u8 *buf = malloc(len);

	switch (rig_random(r) % 8) {
	case 0: cr_assert_eq(disk_flush(d), 0); break;
	case 1:
		cr_assert_eq(disk_zero(d, off, len, rig_random(r) & 1), 0);
		memset(model + off, 0, len);
		break;
	case 2: /* what it reads as now is not promised: zeros or what was there */
		cr_assert_eq(disk_discard(d, off, len), 0);
		rig_read(d, model + off, len, off);
		break;
	case 3:
		rig_read(d, buf, len, off);
		cr_assert_eq(memcmp(buf, model + off, len), 0, "read at %#llx",
			     (unsigned long long)off);
		break;
	default:
		for (u64 i = 0; i < len; i += 8)
			*(u64 *)(buf + i) = rig_random(r);
		if (rig_random(r) % 8 == 0)
			memset(buf, 0, len);
		rig_write_now(d, buf, len, off);
		memcpy(model + off, buf, len);
	}
	free(buf);
}

static inline void rig_fill_random(struct disk_rig *r, u8 *model, u64 size)
{
	for (u64 i = 0; i < size; i += 8)
		*(u64 *)(model + i) = rig_random(r);
}

static inline void rig_put_file(struct disk_rig *r, const char *name, const void *data, u64 size)
{
	FILE *f = fopen(rig_path(r, name), "w");

	cr_assert(f && fwrite(data, 1, size, f) == size && !fclose(f));
}

#endif
