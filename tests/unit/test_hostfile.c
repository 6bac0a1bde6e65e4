/* Host files: alignment in direct files, holes, locks, ends of files. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "disk_rig.h"
#include "hostfile.h"
#include "iov.h"

#define SIZE (256 * KIB)

static struct disk_rig rig;
static char err[256];

static void setup(void)
{
	rig_make(&rig);
}

static void teardown(void)
{
	rig_remove(&rig);
}

TestSuite(hostfile, .init = setup, .fini = teardown, .timeout = 60);

static struct hostfile *open_file(unsigned flags)
{
	struct hostfile *f = NULL;
	int rc = hostfile_open(&f, rig_path(&rig, "f"), flags, err, sizeof(err));

	/* Not every file system has O_DIRECT. */
	if (rc == -EINVAL && (flags & HOSTFILE_DIRECT))
		return NULL;
	cr_assert_eq(rc, 0, "%s", err);
	return f;
}

static void exercise(unsigned flags)
{
	struct hostfile *f = open_file(flags | HOSTFILE_WRITE | HOSTFILE_CREATE);
	u8 *model = calloc(1, SIZE), *buf = malloc(SIZE);

	if (!f)
		cr_skip_test("no O_DIRECT here");
	for (unsigned i = 0; i < 500; i++) {
		u64 off = rig_random(&rig) % (SIZE / 2), len = rig_random(&rig) % (SIZE / 2);
		u64 cut = len ? rig_random(&rig) % len : 0;
		struct iovec iov[2] = {{buf + i % 7, cut}, {buf + i % 7 + cut, len - cut}};

		if (rig_random(&rig) & 1) {
			off &= ~511ull;
			len &= ~511ull;
			iov[0].iov_len = 0;
			iov[1] = (struct iovec){buf, len};
		}
		len = iov_length(iov, 2);
		if (rig_random(&rig) & 1) {
			cr_assert_eq(hostfile_preadv(f, iov, 2, off), 0);
			cr_assert_eq(memcmp(iov[0].iov_base, model + off, iov[0].iov_len), 0);
			cr_assert_eq(
			    memcmp(iov[1].iov_base, model + off + iov[0].iov_len, iov[1].iov_len),
			    0);
			continue;
		}
		for (u64 k = 0; k < len; k++)
			((u8 *)iov[k >= iov[0].iov_len]
			     .iov_base)[k >= iov[0].iov_len ? k - iov[0].iov_len : k] =
			    model[off + k] = (u8)rig_random(&rig);
		cr_assert_eq(hostfile_pwritev(f, iov, 2, off), 0);
		cr_assert_leq(hostfile_size(f), SIZE);
	}
	cr_assert_eq(hostfile_sync(f), 0);
	cr_assert_eq(hostfile_pread(f, buf, SIZE, 0), 0);
	cr_assert_eq(memcmp(buf, model, SIZE), 0);
	hostfile_close(f);
	free(model);
	free(buf);
}

Test(hostfile, any_request)
{
	exercise(0);
}

Test(hostfile, any_request_to_a_direct_file)
{
	exercise(HOSTFILE_DIRECT);
}

/* The size stays what was written, also where a direct file had to write more. */
Test(hostfile, odd_sizes)
{
	struct hostfile *f = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE | HOSTFILE_DIRECT);
	u8 buf[100];

	if (!f)
		cr_skip_test("no O_DIRECT here");
	memset(buf, 5, sizeof(buf));
	cr_assert_eq(hostfile_pwrite(f, buf, 100, 5000), 0);
	cr_assert_eq(hostfile_size(f), 5100);
	cr_assert_eq(hostfile_pwrite(f, buf, 100, 10), 0);
	cr_assert_eq(hostfile_size(f), 5100);
	cr_assert_eq(hostfile_pread(f, buf, 100, 5050), 0);
	cr_assert(buf[49] == 5 && buf[50] == 0);
	hostfile_close(f);
}

Test(hostfile, zeros_and_holes)
{
	struct hostfile *f = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE);
	u8 *buf = malloc(SIZE);

	for (int unmap = 0; unmap < 2; unmap++) {
		memset(buf, 1, SIZE);
		cr_assert_eq(hostfile_pwrite(f, buf, SIZE, 0), 0);
		cr_assert_eq(hostfile_zero(f, 100, SIZE - 300, unmap), 0);
		cr_assert_eq(hostfile_pread(f, buf, SIZE, 0), 0);
		for (u64 i = 0; i < SIZE; i++)
			cr_assert_eq(buf[i], i < 100 || i >= SIZE - 200);
		cr_assert_eq(hostfile_size(f), SIZE);
	}
	/* Behind the end the file grows. */
	cr_assert_eq(hostfile_zero(f, SIZE - 100, 200, true), 0);
	cr_assert_eq(hostfile_size(f), SIZE + 100);
	cr_assert_eq(hostfile_zero(f, INT64_MAX, 2, true), -EFBIG);
	hostfile_close(f);
	free(buf);
}

Test(hostfile, impossible_offsets)
{
	struct hostfile *f = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE);
	u8 buf[512] = {1};

	cr_assert_eq(hostfile_pwrite(f, buf, 512, ~0ull - 100), -EFBIG);
	cr_assert_eq(hostfile_pread(f, buf, 512, INT64_MAX), -EFBIG);
	cr_assert_eq(hostfile_pread(f, buf, 512, MIB), 0);
	cr_assert_eq(buf[0], 0);
	hostfile_close(f);
}

Test(hostfile, what_is_no_file)
{
	struct hostfile *f;
	char path[300];

	cr_assert_eq(hostfile_open(&f, rig.dir, 0, err, sizeof(err)), -EINVAL);
	cr_assert(strstr(err, "directory"), "%s", err);
	snprintf(path, sizeof(path), "%s/fifo", rig.dir);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_assert_eq(hostfile_open(&f, path, 0, err, sizeof(err)), -EINVAL);
	cr_assert(strstr(err, "neither"), "%s", err);
	cr_assert_eq(hostfile_open(&f, "/nonexistent/x", 0, err, sizeof(err)), -ENOENT);
	cr_assert_eq(strncmp(err, "/nonexistent/x: ", 16), 0, "%s", err);
}

Test(hostfile, locks)
{
	struct hostfile *a = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE), *b;
	const char *path = rig_path(&rig, "f");

	cr_assert_eq(hostfile_open(&b, path, 0, err, sizeof(err)), -EBUSY);
	cr_assert_eq(hostfile_open(&b, path, HOSTFILE_WRITE, err, sizeof(err)), -EBUSY);
	cr_assert(strstr(err, "lock"), "%s", err);
	hostfile_close(a);
	cr_assert_eq(hostfile_open(&a, path, 0, err, sizeof(err)), 0);
	cr_assert_eq(hostfile_open(&b, path, HOSTFILE_WRITE, err, sizeof(err)), -EBUSY);
	cr_assert_eq(hostfile_open(&b, path, 0, err, sizeof(err)), 0);
	hostfile_close(a);
	hostfile_close(b);
	cr_assert_eq(hostfile_open(&b, path, HOSTFILE_WRITE, err, sizeof(err)), 0);
	hostfile_close(b);
}

/* --- raw disks --- */

Test(hostfile, a_guessed_raw_disk_stays_raw)
{
	static const u8 magic[512] = "QFI\xfb\0\0\0\x03";
	struct disk_config cfg = {.path = rig_path(&rig, "f"), .write = true};
	u8 buf[1024] = {0}, got[512];
	char note[256];
	struct iovec iov = {buf, sizeof(buf)};
	struct disk *d;

	rig_put_file(&rig, "f", buf, sizeof(buf));
	cr_assert_eq(disk_open(&d, &cfg, note, err, sizeof(note)), 0);
	cr_assert(strstr(note, "format"), "%s", note);
	memcpy(buf, magic, sizeof(magic));
	cr_assert_eq(disk_writev(d, &iov, 1, 0), -EPERM);
	rig_write(d, buf, 3, 0);
	cr_assert_eq(disk_writev(d, &(struct iovec){buf + 3, 509}, 1, 3), -EPERM);
	rig_read(d, got, 512, 0);
	cr_assert(got[0] == 'Q' && !got[3]);
	memset(buf, 4, sizeof(buf));
	rig_write(d, buf, sizeof(buf), 0);
	disk_close(d);
	cfg.format = "raw";
	cr_assert_eq(disk_open(&d, &cfg, note, err, sizeof(err)), 0);
	cr_assert_str_empty(note);
	rig_write(d, magic, 512, 0);
	disk_close(d);
}

Test(hostfile, raw_disks_of_odd_size)
{
	u8 buf[512] = {0};
	struct disk *d;

	memset(buf, 6, 300);
	rig_put_file(&rig, "f", buf, 300);
	d = rig_open(&rig, "f", true);
	cr_assert_eq(disk_size(d), 512);
	memset(buf, 0xff, sizeof(buf));
	rig_read(d, buf, 512, 0);
	cr_assert(buf[299] == 6 && buf[300] == 0);
	rig_write(d, buf, 512, 0);
	struct iovec iov = {buf, 512};

	cr_assert_eq(disk_writev(d, &iov, 1, 512), -EINVAL);
	cr_assert_eq(disk_readv(d, &iov, 1, ~0ull - 100), -EINVAL);
	disk_close(d);
	d = rig_open(&rig, "f", false);
	cr_assert_eq(disk_writev(d, &iov, 1, 0), -EROFS);
	cr_assert_eq(disk_zero(d, 0, 512, true), -EROFS);
	disk_close(d);
}

/* Memory that is there only some time after somebody has wanted it. */
struct late {
	int fd;
	u8 *page;
	pthread_t thread;
};

static void *bring(void *opaque)
{
	struct late *l = opaque;
	struct uffd_msg msg;
	struct uffdio_zeropage zero = {.range = {(u64)(uintptr_t)l->page, PAGE_SIZE}};

	cr_assert_eq(read(l->fd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	usleep(20000);
	cr_assert_eq(ioctl(l->fd, UFFDIO_ZEROPAGE, &zero), 0);
	return NULL;
}

static bool late_make(struct late *l)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	l->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (l->fd < 0)
		return false;
	l->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range = (struct uffdio_range){(u64)(uintptr_t)l->page, PAGE_SIZE};
	cr_assert(l->page != MAP_FAILED && !ioctl(l->fd, UFFDIO_API, &api) &&
		  !ioctl(l->fd, UFFDIO_REGISTER, &reg));
	cr_assert_eq(pthread_create(&l->thread, NULL, bring, l), 0);
	return true;
}

/* One that has waited is done, and for a while others are refused. */
Test(hostfile, writes_at_once)
{
	struct hostfile *f = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE);
	u8 buf[PAGE_SIZE], back[PAGE_SIZE];
	struct iovec iov = {buf, sizeof(buf)}, slow;
	unsigned tries = 0;
	struct late late;
	bool waited;

	if (!late_make(&late))
		cr_skip_test("no userfaultfd here");
	memset(buf, 1, sizeof(buf));
	slow = (struct iovec){late.page, PAGE_SIZE};
	cr_assert_eq(hostfile_pwritev_now(f, &slow, 1, 0, &waited), 0);
	cr_assert(waited);
	pthread_join(late.thread, NULL);
	cr_assert_eq(hostfile_pread(f, back, sizeof(back), 0), 0);
	cr_assert(!back[0] && !memcmp(back, back + 1, sizeof(back) - 1));
	while (hostfile_pwritev_now(f, &iov, 1, 0, &waited) == -EAGAIN) {
		cr_assert_not(waited);
		cr_assert_eq(hostfile_pread(f, back, 1, 0), 0);
		cr_assert_eq(back[0], 0, "nothing has been done");
		cr_assert_lt(++tries, 10000u);
	}
	cr_expect_geq(tries, 10u);
	cr_assert_eq(hostfile_pread(f, back, sizeof(back), 0), 0);
	cr_assert_eq(memcmp(buf, back, sizeof(buf)), 0);
	hostfile_close(f);
	close(late.fd);
}

Test(hostfile, a_direct_file_takes_no_write_at_once)
{
	struct hostfile *f = open_file(HOSTFILE_WRITE | HOSTFILE_CREATE | HOSTFILE_DIRECT);
	u8 *buf = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	struct iovec iov = {buf, PAGE_SIZE};
	bool waited;

	if (!f)
		cr_skip_test("no O_DIRECT here");
	cr_assert_eq(hostfile_pwritev_now(f, &iov, 1, 0, &waited), -EAGAIN);
	cr_assert_eq(hostfile_size(f), 0);
	hostfile_close(f);
	free(buf);
}
