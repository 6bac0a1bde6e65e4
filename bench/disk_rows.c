/*
 * What a disk gives past the page cache: sequential and random, reading and writing, one request at
 * a time and many. Linked statically; bench/disk.py packs it, starts it in guests and reads
 *
 *	ROW name bytes-per-second operations-per-second
 *
 *	disk_rows DEVICE SECONDS [ROWS]
 *
 * DEVICE is overwritten; SECONDS for each row; ROWS: digits, 0 is the first one.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KIB       1024ul
#define MAX_DEPTH 32
#define MAX_BLOCK (1024 * KIB)

struct row {
	const char *name;
	size_t block;
	unsigned depth;
	int write, random, sync;
};

static const struct row rows[] = {
    {"sequential write, 1 MiB", 1024 * KIB, 1, 1, 0, 0},
    {"sequential read, 1 MiB", 1024 * KIB, 1, 0, 0, 0},
    {"sequential write, 4 KiB", 4 * KIB, 1, 1, 0, 0},
    {"sequential read, 4 KiB", 4 * KIB, 1, 0, 0, 0},
    {"random write, 4 KiB", 4 * KIB, 1, 1, 1, 0},
    {"random read, 4 KiB", 4 * KIB, 1, 0, 1, 0},
    {"random write, 4 KiB, 32 deep", 4 * KIB, 32, 1, 1, 0},
    {"random read, 4 KiB, 32 deep", 4 * KIB, 32, 0, 1, 0},
    {"write + fdatasync, 4 KiB", 4 * KIB, 1, 1, 1, 1},
};

static uint64_t seed = 88172645463325252ull;
static uint64_t size, at;
static int fd;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(long ok, const char *what)
{
	if (ok >= 0)
		return;
	perror(what);
	exit(1);
}

static uint64_t next_offset(const struct row *r)
{
	if (r->random) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		return seed % (size / r->block) * r->block;
	}
	at = at + 2 * r->block > size ? 0 : at + r->block;
	return at;
}

static void submit(aio_context_t ctx, struct iocb *cb, const struct row *r, void *buf)
{
	*cb = (struct iocb){.aio_data = (uintptr_t)cb,
			    .aio_lio_opcode = r->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
			    .aio_fildes = (unsigned)fd,
			    .aio_buf = (uintptr_t)buf,
			    .aio_nbytes = r->block,
			    .aio_offset = (int64_t)next_offset(r)};
	check(syscall(SYS_io_submit, ctx, 1, &cb) == 1 ? 0 : -1, "io_submit");
}

static uint64_t deep(const struct row *r, char *buf, double end)
{
	struct io_event done[MAX_DEPTH];
	struct iocb cb[MAX_DEPTH];
	aio_context_t ctx = 0;
	uint64_t count = 0;
	unsigned running = r->depth;

	check(syscall(SYS_io_setup, MAX_DEPTH, &ctx), "io_setup");
	for (unsigned i = 0; i < r->depth; i++)
		submit(ctx, &cb[i], r, buf + i * r->block);
	while (running) {
		long n = syscall(SYS_io_getevents, ctx, 1, MAX_DEPTH, done, NULL);

		check(n, "io_getevents");
		for (long i = 0; i < n; i++) {
			struct iocb *c = (struct iocb *)(uintptr_t)done[i].data;

			check(done[i].res == (int64_t)r->block ? 0 : -1, "aio");
			count++;
			running--;
			if (now() < end) {
				submit(ctx, c, r, (void *)(uintptr_t)c->aio_buf);
				running++;
			}
		}
	}
	syscall(SYS_io_destroy, ctx);
	return count;
}

static uint64_t one_by_one(const struct row *r, char *buf, double end)
{
	uint64_t count = 0;

	while (now() < end) {
		off_t off = (off_t)next_offset(r);
		ssize_t n =
		    r->write ? pwrite(fd, buf, r->block, off) : pread(fd, buf, r->block, off);

		check(n == (ssize_t)r->block ? 0 : -1, r->name);
		if (r->sync)
			check(fdatasync(fd), "fdatasync");
		count++;
	}
	return count;
}

int main(int argc, char **argv)
{
	double seconds = argc > 2 ? atof(argv[2]) : 1;
	char *buf = mmap(NULL, MAX_BLOCK, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	fd = open(argc > 1 ? argv[1] : "/dev/vda", O_RDWR | O_DIRECT);
	check(fd, "open");
	check(buf == MAP_FAILED ? -1 : 0, "mmap");
	check(ioctl(fd, BLKGETSIZE64, &size), "BLKGETSIZE64");
	memset(buf, 0x5a, MAX_BLOCK);
	/* Every place is written once: none of the rows is about new space. */
	for (uint64_t off = 0; off + MAX_BLOCK <= size; off += MAX_BLOCK)
		check(pwrite(fd, buf, MAX_BLOCK, (off_t)off), "fill");
	check(fsync(fd), "fsync");
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];
		double begin = now(), took;
		uint64_t n;

		if (argc > 3 && !strchr(argv[3], '0' + (int)i))
			continue;
		n = r->depth > 1 ? deep(r, buf, begin + seconds)
				 : one_by_one(r, buf, begin + seconds);
		took = now() - begin;

		printf("ROW %s\t%.0f\t%.1f\n", r->name, (double)(n * r->block) / took,
		       (double)n / took);
	}
	printf("ROWS END\n");
	return 0;
}
