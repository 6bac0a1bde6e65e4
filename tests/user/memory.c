/* What mappings promise: which access faults and how, what is where after moving, copying, sharing.
 */
#define _GNU_SOURCE
#include "user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_I 16u
#define RW   (PROT_READ | PROT_WRITE)

static void expect_fault(struct caught c, const volatile void *at, int code, u32 err)
{
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.code, code);
	EQUAL(c.trapno, 14);
	EQUAL(c.addr, (unsigned long)at);
	EQUAL(c.cr2, (unsigned long)at);
	EQUAL(c.err, err);
}

#define FINE(c) EQUAL((c).sig, 0)

void memory_faults(void)
{
	u8 *p = map_pages(4, RW);

	munmap(p, PAGE);
	expect_fault(try_read(p + 5), p + 5, SEGV_MAPERR, PF_U);
	expect_fault(try_write(p + 6), p + 6, SEGV_MAPERR, PF_U | PF_W);
	expect_fault(try_exec(p + 7), p + 7, SEGV_MAPERR, PF_U | PF_I);
	p += PAGE;
	*p = 0xc3;
	expect_fault(try_exec(p), p, SEGV_ACCERR, PF_U | PF_I | PF_P);
	CHECK(!mprotect(p, PAGE, PROT_READ));
	FINE(try_read(p));
	expect_fault(try_write(p + 8), p + 8, SEGV_ACCERR, PF_U | PF_W | PF_P);
	CHECK(!mprotect(p, PAGE, PROT_READ | PROT_EXEC));
	FINE(try_exec(p));
	expect_fault(try_write(p + 9), p + 9, SEGV_ACCERR, PF_U | PF_W | PF_P);
	CHECK(!mprotect(p, PAGE, PROT_NONE));
	expect_fault(try_read(p + 10), p + 10, SEGV_ACCERR, PF_U);
	expect_fault(try_write(p + 11), p + 11, SEGV_ACCERR, PF_U | PF_W);
	expect_fault(try_read((void *)16), (void *)16, SEGV_MAPERR, PF_U);
#ifdef __x86_64__
	/* The kernel's half: it pretends that something is there. */
	p = (void *)0xffffffff81000000ul;
	expect_fault(try_read(p), p, SEGV_MAPERR, PF_U | PF_P);
	p = (void *)0xffff888000001000ul;
	expect_fault(try_write(p), p, SEGV_MAPERR, PF_U | PF_P | PF_W);
	p = (void *)0x7ffffffff000ul; /* the page no process may have */
	expect_fault(try_read(p), p, SEGV_MAPERR, PF_U | PF_P);
#endif
}

void memory_protect(void)
{
	const unsigned n = 64;
	u8 *p = map_pages(n, RW);
	unsigned round, i;

	for (i = 0; i < n; i++)
		p[i * PAGE] = (u8)i;
	for (round = 0; round < 20; round++) {
		for (i = round % 2; i < n; i += 2)
			CHECK(!mprotect(p + i * PAGE, PAGE, PROT_READ));
		for (i = 0; i < n; i++) {
			struct caught c = try_write(p + i * PAGE + 1);

			EQUAL(c.sig, i % 2 == round % 2 ? SIGSEGV : 0);
			EQUAL(p[i * PAGE], i);
		}
		CHECK(!mprotect(p, n * PAGE, PROT_NONE));
		EQUAL(try_read(p + round * PAGE).sig, SIGSEGV);
		CHECK(!mprotect(p, n * PAGE, RW));
		p[round * PAGE + 1] = 1;
	}
	for (i = 1; i < n; i += 2)
		CHECK(!munmap(p + i * PAGE, PAGE));
	for (i = 0; i < n; i++)
		EQUAL(try_read(p + i * PAGE).sig, i % 2 ? SIGSEGV : 0);
}

void memory_remap(void)
{
	u8 *p = map_pages(16, RW), *q = map_pages(64, PROT_NONE), *r;
	unsigned i;

	for (i = 0; i < 16; i++)
		p[i * PAGE] = (u8)(i + 1);
	for (i = 0; i < 16; i++) {
		r = mremap(p + i * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   q + (15 - i) * PAGE);
		CHECK(r == q + (15 - i) * PAGE);
		EQUAL(try_read(p + i * PAGE).sig, SIGSEGV);
		EQUAL(*r, i + 1);
	}
	for (i = 0; i < 16; i++)
		EQUAL(q[i * PAGE], 16 - i);
	p = map_pages(8, RW);
	memset(p, 0x11, 8 * PAGE);
	for (i = 8; i < 1024; i *= 2) {
		r = mremap(p, i * PAGE, 2 * i * PAGE, MREMAP_MAYMOVE);
		CHECK(r != MAP_FAILED);
		if (r != p)
			EQUAL(try_read(p).sig, SIGSEGV);
		EQUAL(r[i * PAGE - 1], 0x11);
		EQUAL(r[i * PAGE], 0);
		memset(r, 0x11, 2 * i * PAGE);
		p = r;
	}
	CHECK(mremap(p, 1024 * PAGE, PAGE, 0) == p);
	EQUAL(try_read(p).sig, 0);
	EQUAL(try_read(p + PAGE).sig, SIGSEGV);
}

void memory_fixed(void)
{
	u8 *p = map_pages(4, RW);
	int fd = memfd_create("x", 0);
	unsigned i;

	CHECK(fd >= 0 && !ftruncate(fd, PAGE) && pwrite(fd, "file", 4, 0) == 4);
	for (i = 0; i < 200; i++) {
		p[PAGE] = (u8)i;
		CHECK(mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		      p + PAGE);
		EQUAL(p[PAGE], 0);
		CHECK(mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd, 0) == p + PAGE);
		CHECK(!memcmp(p + PAGE, "file", 4));
		p[PAGE] = 'F'; /* a copy: the file stays */
		EQUAL(p[PAGE], 'F');
	}
	CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		  MAP_FAILED &&
	      errno == EEXIST);
}

void memory_dontneed(void)
{
	u8 *p = map_pages(32, RW);
	unsigned i, j;

	for (i = 0; i < 200; i++) {
		for (j = 0; j < 32; j++) {
			EQUAL(p[j * PAGE + i], 0);
			p[j * PAGE + i] = 1;
		}
		CHECK(!madvise(p, 32 * PAGE, MADV_DONTNEED));
	}
}

/* --- copy on write --- */

#define COW_PAGES 256

static u32 *cow;

static void check_cow(u32 tag)
{
	unsigned i;

	for (i = 0; i < COW_PAGES; i++)
		EQUAL(cow[i * 1024 + tag % 7], (i ^ tag) * 3);
}

static void fill_cow(u32 tag)
{
	unsigned i, j;

	for (i = 0; i < COW_PAGES; i++)
		for (j = 0; j < 8; j++)
			cow[i * 1024 + j] = (i ^ tag) * 3;
}

static void cow_child(unsigned id)
{
	unsigned i;

	check_cow(1000);
	for (i = 0; i < 5; i++) {
		fill_cow(id * 100 + i);
		check_cow(id * 100 + i);
		usleep(1000);
		check_cow(id * 100 + i);
	}
}

void memory_cow(void)
{
	unsigned i;
	pid_t pid;

	cow = map_pages(COW_PAGES, RW);
	for (i = 0; i < 10; i++) {
		fill_cow(1000);
		in_processes(6, cow_child);
		check_cow(1000);
	}
	/* The parent writes while the child looks on. */
	for (i = 0; i < 50; i++) {
		fill_cow(i);
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			if (i % 2)
				usleep(2000);
			check_cow(i);
			_exit(0);
		}
		fill_cow(i + 5000);
		check_cow(i + 5000);
		join(pid);
		check_cow(i + 5000);
	}
}

static volatile u32 *shared;

static void share(unsigned id)
{
	unsigned i;

	for (i = 0; i < 300; i++) {
		while (shared[0] != i * 2 + id)
			usleep(100);
		EQUAL(shared[1024 * 5], i * 2 + id);
		shared[1024 * 5] = i * 2 + id + 1;
		shared[0] = i * 2 + id + 1;
	}
}

void memory_shared(void)
{
	volatile u32 *other;
	int fd = memfd_create("x", 0);

	CHECK(fd >= 0 && !ftruncate(fd, 8 * PAGE));
	shared = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0);
	other = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0);
	CHECK(shared != MAP_FAILED && other != MAP_FAILED);
	in_processes(2, share);
	EQUAL(other[0], 600);
	/* Rights belong to the address, not to the page. */
	CHECK(!mprotect((void *)other, PAGE, PROT_READ));
	shared[1] = 77;
	EQUAL(other[1], 77);
	EQUAL(try_write((u8 *)other).sig, SIGSEGV);
	EQUAL(try_write((u8 *)shared + 9).sig, 0);
	EQUAL(((u8 *)other)[9], 0x5a);
}

void memory_bus(void)
{
	int fd = memfd_create("x", 0);
	struct caught c;
	u8 *p;

	CHECK(fd >= 0 && !ftruncate(fd, 2 * PAGE));
	p = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	p[PAGE] = 1;
	c = try_read(p + 2 * PAGE + 3);
	EQUAL(c.sig, SIGBUS);
	EQUAL(c.code, BUS_ADRERR);
	EQUAL(c.addr, (unsigned long)p + 2 * PAGE + 3);
	CHECK(!ftruncate(fd, PAGE)); /* what has been there goes */
	EQUAL(try_write(p + PAGE).sig, SIGBUS);
	EQUAL(try_write(p).sig, 0);
	CHECK(!ftruncate(fd, 4 * PAGE));
	EQUAL(p[PAGE], 0);
	EQUAL(try_write(p + 3 * PAGE).sig, 0);
}

static unsigned long megabytes(const char *field)
{
	char line[128];
	FILE *f = fopen("/proc/meminfo", "r");
	unsigned long kb, found = 0;
	size_t n = strlen(field);

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, field, n) && sscanf(line + n, ": %lu", &kb) == 1)
			found = kb >> 10;
	}
	fclose(f);
	return found;
}

void memory_large(void)
{
	unsigned long mib = megabytes("MemAvailable") > 350 ? 256 : 32, n = (mib << 20) / PAGE, i;
	u8 *p = mmap(NULL, n * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	u64 seed = 1;

	CHECK(p != MAP_FAILED);
	for (i = 0; i < n; i++) {
		EQUAL(*(u64 *)(p + i * PAGE), 0);
		*(u64 *)(p + i * PAGE + 8) = next_random(&seed);
	}
	seed = 1;
	for (i = 0; i < n; i++)
		EQUAL(*(u64 *)(p + i * PAGE + 8), next_random(&seed));
}

void memory_huge(void)
{
	const unsigned long huge = 2ul << 20, n = 8;
	u8 *p = mmap(NULL, (n + 1) * huge, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long i;
	pid_t pid;

	CHECK(p != MAP_FAILED);
	p = (u8 *)(((unsigned long)p + huge - 1) & -huge);
	madvise(p, n * huge, MADV_HUGEPAGE); /* not everywhere: ordinary pages then */
	for (i = 0; i < n * huge; i += PAGE)
		p[i + 1] = (u8)(i / PAGE * 7 + 1);
	CHECK(!mprotect(p + huge + 5 * PAGE, PAGE, PROT_READ)); /* splits one */
	CHECK(!munmap(p + 3 * huge + 100 * PAGE, PAGE));
	EQUAL(try_write(p + huge + 5 * PAGE).sig, SIGSEGV);
	EQUAL(try_write(p + huge + 6 * PAGE).sig, 0);
	EQUAL(try_read(p + 3 * huge + 100 * PAGE).sig, SIGSEGV);
	pid = fork();
	for (i = 0; i < n * huge; i += PAGE) {
		if (i == huge + 5 * PAGE || i == 3 * huge + 100 * PAGE)
			continue;
		EQUAL(p[i + 1], (u8)(i / PAGE * 7 + 1));
		p[i + 1] = (u8)(i / PAGE * 3 + !pid);
		EQUAL(p[i + 1], (u8)(i / PAGE * 3 + !pid));
	}
	if (!pid)
		_exit(0);
	join(pid);
	EQUAL(p[PAGE + 1], 3);
}

/* The first and the last page a process may have. */
void memory_edges(void)
{
	static const unsigned long edges[] = {0x10000,
#ifdef __x86_64__
					      0x7fffffffe000, 0x7fff00000000, 0x100000000000,
					      0xffffffff000,  0x100000000,    0xfffff000,
#else
					      0xbfff0000, 0xf0000000, 0x80000000,
#endif
					      0x7ffff000};
	unsigned i;

	for (i = 0; i < LENGTH(edges); i++) {
		u8 *p = mmap((void *)edges[i], PAGE, RW,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == MAP_FAILED && errno == EEXIST)
			continue;
		CHECK((unsigned long)p == edges[i]);
		EQUAL(p[PAGE - 1], 0);
		memset(p, (int)i + 1, PAGE);
		usleep(100);
		EQUAL(p[PAGE - 1], i + 1);
		CHECK(!munmap(p, PAGE));
		EQUAL(try_read(p).sig, SIGSEGV);
	}
}

/* All of the low 2 GiB belongs to the program, wherever somebody might hide. */
static void all_low(bool write)
{
	const unsigned long chunk = 1ul << 20, stride = 9 * PAGE;
	unsigned long at, i, n = 0;

	for (at = chunk; at < 0x7ff00000; at += chunk) {
		u8 *p =
		    mmap((void *)at, chunk, RW,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == MAP_FAILED && errno == EEXIST)
			continue;
		CHECK((unsigned long)p == at);
		for (i = 0; i < chunk; i += stride) {
			if (write)
				p[i + 4] = 1;
			EQUAL(p[i + 3], 0);
		}
		CHECK(!munmap(p, chunk));
		n++;
	}
	CHECK(n > 1000);
}

void memory_low(void)
{
	all_low(true);
}

/* The same where nothing has been written before. */
void memory_low_untouched(void)
{
	all_low(false);
}

/* Does the program have anything in [at, at + len)? Asked without naming it to the kernel. */
static bool is_taken(const char *maps, unsigned long at, unsigned long len)
{
	unsigned long from, to;

	for (; maps && *maps; maps = strchr(maps, '\n') ? strchr(maps, '\n') + 1 : NULL)
		if (sscanf(maps, "%lx-%lx", &from, &to) == 2 && at < to && at + len > from)
			return true;
	return false;
}

#define LOW_CHUNK  (1ul << 20)
#define LOW_STRIDE (9 * PAGE)

static void mark(u8 *p)
{
	for (unsigned long i = 0; i < LOW_CHUNK; i += LOW_STRIDE)
		p[i + 3] = (u8)(i / LOW_STRIDE + 1);
}

/* The same with what has been filled elsewhere and is brought there: by a function that says where
 * it then is. */
static void bring_low(u8 *(*bring)(unsigned long at), void (*remove)(u8 *p))
{
	static char maps[65536];
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long at, i, n = 0;

	CHECK(f && fread(maps, 1, sizeof(maps) - 1, f) > 0);
	for (at = LOW_CHUNK; at < 0x7ff00000; at += LOW_CHUNK) {
		u8 *p;

		if (is_taken(maps, at, LOW_CHUNK))
			continue;
		p = bring(at);
		CHECK((unsigned long)p == at);
		for (i = 0; i < LOW_CHUNK; i += LOW_STRIDE)
			EQUAL(p[i + 3], (u8)(i / LOW_STRIDE + 1));
		remove(p);
		n++;
	}
	CHECK(n > 1000);
	fclose(f);
}

static u8 *move_there(unsigned long at)
{
	u8 *p = map_pages(LOW_CHUNK / PAGE, RW);

	mark(p);
	return mremap(p, LOW_CHUNK, LOW_CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)at);
}

static void unmap_there(u8 *p)
{
	CHECK(!munmap(p, LOW_CHUNK));
}

void memory_low_moved(void)
{
	bring_low(move_there, unmap_there);
}

static int segment;

static u8 *attach_there(unsigned long at)
{
	return shmat(segment, (void *)at, 0);
}

static void detach_there(u8 *p)
{
	CHECK(!shmdt(p));
}

void memory_low_attached(void)
{
	u8 *p;

	segment = shmget(IPC_PRIVATE, LOW_CHUNK, IPC_CREAT | 0600);
	CHECK(segment >= 0);
	p = shmat(segment, NULL, 0);
	CHECK(p != (void *)-1);
	CHECK(!shmctl(segment, IPC_RMID, NULL));
	mark(p);
	bring_low(attach_there, detach_there);
}

/* Thousands of random operations against a model. */
#define SLOTS 96

void memory_random(void)
{
	u8 *p = map_pages(SLOTS, PROT_NONE), value[SLOTS] = {0};
	int prot[SLOTS] = {0};
	u64 seed = 4711;
	unsigned i, n;

	for (n = 0; n < 20000; n++) {
		u64 r = next_random(&seed);
		unsigned slot = r % SLOTS;
		u8 *page = p + slot * PAGE;

		switch (r >> 32 & 7) {
		case 0:
			CHECK(mmap(page, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				   0) == page);
			prot[slot] = RW;
			value[slot] = 0;
			break;
		case 1:
			CHECK(!mprotect(page, PAGE, PROT_READ));
			prot[slot] = PROT_READ;
			break;
		case 2:
			CHECK(!mprotect(page, PAGE, PROT_NONE));
			prot[slot] = PROT_NONE;
			break;
		case 3:
			CHECK(!mprotect(page, PAGE, RW));
			prot[slot] = RW;
			break;
		case 4:
			CHECK(!madvise(page, PAGE, MADV_DONTNEED));
			value[slot] = 0;
			break;
		case 5:
			if (prot[slot] == RW)
				page[17] = value[slot] = (u8)r | 1;
			break;
		default:
			EQUAL(try_read(page + 17).sig, prot[slot] & PROT_READ ? 0 : SIGSEGV);
			EQUAL(try_write(page).sig, prot[slot] & PROT_WRITE ? 0 : SIGSEGV);
		}
		for (i = slot; i < SLOTS && i < slot + 3; i++) {
			if (prot[i] & PROT_READ)
				EQUAL(p[i * PAGE + 17], value[i]);
		}
	}
}
