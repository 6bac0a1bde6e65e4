/* Guest RAM: size checks, where RAM is and is not, bounds of every copy, code marks. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ram.h"

static void make(struct ram *ram, u64 size)
{
	cr_assert_eq(ram_init(ram, size, NULL), 0);
}

Test(ram, refuses_bad_sizes)
{
	static const u64 bad[] = {0,
				  PAGE_SIZE,
				  MIB - PAGE_SIZE,
				  MIB + 1,
				  2 * MIB - 512,
				  BIT(40),
				  BIT(40) - GIB + PAGE_SIZE,
				  ~0ull,
				  ~0ull & PAGE_MASK};
	struct ram ram;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		cr_assert_eq(ram_init(&ram, bad[i], NULL), -EINVAL, "size %#lx", bad[i]);
		cr_assert_null(ram.window);
		ram_destroy(&ram);
	}
}

Test(ram, smallest)
{
	struct ram ram;

	make(&ram, MIB);
	cr_assert_eq(ram.size, MIB);
	cr_assert_eq(ram.low_end, MIB);
	cr_assert_eq(ram.high_end, RAM_HIGH_START);
	cr_assert(ram_contains(&ram, 0));
	cr_assert(ram_contains(&ram, 0x9ffff));
	cr_assert(!ram_contains(&ram, 0xa0000));
	cr_assert(!ram_contains(&ram, 0xbffff));
	cr_assert(ram_contains(&ram, 0xc0000));
	cr_assert(ram_contains(&ram, MIB - 1));
	cr_assert(!ram_contains(&ram, MIB));
	cr_assert(!ram_contains(&ram, RAM_HIGH_START));
	cr_assert(!ram_contains(&ram, ~0ull));
	ram_destroy(&ram);
}

/* Where RAM ends for sizes around the 3 GiB hole. */
Test(ram, split_at_the_hole)
{
	static const struct {
		u64 size, low_end, high_end;
	} want[] = {
	    {3 * GIB - PAGE_SIZE, 3 * GIB - PAGE_SIZE, 4 * GIB},
	    {3 * GIB, 3 * GIB, 4 * GIB},
	    {3 * GIB + PAGE_SIZE, 3 * GIB, 4 * GIB + PAGE_SIZE},
	    {4 * GIB, 3 * GIB, 5 * GIB},
	    {5 * GIB, 3 * GIB, 6 * GIB},
	};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(want); i++) {
		struct ram ram;

		make(&ram, want[i].size);
		cr_assert_eq(ram.low_end, want[i].low_end);
		cr_assert_eq(ram.high_end, want[i].high_end);
		cr_assert(ram_contains(&ram, ram.low_end - 1));
		cr_assert(!ram_contains(&ram, ram.low_end));
		cr_assert(!ram_contains(&ram, 4 * GIB - 1));
		cr_assert_eq(ram_contains(&ram, 4 * GIB), ram.high_end > 4 * GIB);
		cr_assert(!ram_contains(&ram, ram.high_end));
		ram_destroy(&ram);
	}
}

/* Low and high RAM are the memfd's bytes at ram_offset, seen from both sides. */
Test(ram, window_is_the_memfd)
{
	static const gpa_t at[] = {0, 0x9f000, MIB, 3 * GIB - 8, 4 * GIB, 6 * GIB - 8};
	struct ram ram;
	struct stat st;
	unsigned i;

	make(&ram, 5 * GIB);
	cr_assert_eq(fstat(ram.fd, &st), 0);
	cr_assert_eq((u64)st.st_size, 5 * GIB);
	cr_assert(fcntl(ram.fd, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(ram_offset(&ram, 3 * GIB - 8), 3 * GIB - 8);
	cr_assert_eq(ram_offset(&ram, 4 * GIB), 3 * GIB);
	cr_assert_eq(ram_offset(&ram, 6 * GIB - 8), 5 * GIB - 8);
	for (i = 0; i < ARRAY_LEN(at); i++) {
		u64 val = 0x1122334455667788ull + i, got = 0;

		cr_assert_eq(ram_write(&ram, at[i], &val, 8), 0);
		cr_assert_eq(memcmp(ram.window + at[i], &val, 8), 0);
		cr_assert_eq(pread(ram.fd, &got, 8, (off_t)ram_offset(&ram, at[i])), 8);
		cr_assert_eq(got, val);
		val = ~val;
		cr_assert_eq(pwrite(ram.fd, &val, 8, (off_t)ram_offset(&ram, at[i])), 8);
		cr_assert_eq(ram_read(&ram, at[i], &got, 8), 0);
		cr_assert_eq(got, val);
	}
	ram_destroy(&ram);
}

/* Ranges that touch anything but RAM: no pointer, -EFAULT, nothing written. */
Test(ram, ranges)
{
	static const struct {
		gpa_t gpa;
		u64 len;
		bool ok;
	} want[] = {
	    {0, 0xa0000, true},
	    {0, 0xa0001, false},
	    {0x9ffff, 1, true},
	    {0x9ffff, 2, false},
	    {0xa0000, 1, false},
	    {0xbffff, 2, false},
	    {0xc0000, 1, true},
	    {0x90000, 0x40000, false},
	    {3 * GIB - 4096, 4096, true},
	    {3 * GIB - 4096, 4097, false},
	    {3 * GIB, 1, false},
	    {3 * GIB - 8, GIB + 16, false},
	    {4 * GIB - 1, 2, false},
	    {4 * GIB, 4096, true},
	    {5 * GIB - 1, 1, true},
	    {5 * GIB - 1, 2, false},
	    {5 * GIB, 1, false},
	    {0, ~0ull, false},
	    {0x1000, ~0ull - 0xfff, false},
	    {4 * GIB, ~0ull - 4 * GIB + 1, false},
	    {~0ull, 1, false},
	    {~0ull, 2, false},
	    {~0ull - 7, 16, false},
	};
	u8 *buf = calloc(1, MIB);
	struct ram ram;
	unsigned i;

	make(&ram, 4 * GIB);
	for (i = 0; i < ARRAY_LEN(want); i++) {
		gpa_t gpa = want[i].gpa;
		u64 len = want[i].len;

		cr_assert_eq(ram_ptr(&ram, gpa, len), want[i].ok ? ram.window + gpa : NULL,
			     "%#lx+%#lx", gpa, len);
		if (len > MIB && want[i].ok)
			continue;
		memset(buf, 0x5a, MIB);
		cr_assert_eq(ram_write(&ram, gpa, buf, len), want[i].ok ? 0 : -EFAULT);
		if (want[i].ok)
			cr_assert_eq(ram.window[gpa], 0x5a);
		else if (ram_contains(&ram, gpa))
			cr_assert_neq(ram.window[gpa], 0x77);
		memset(buf, 0x77, MIB);
		cr_assert_eq(ram_read(&ram, gpa, buf, len), want[i].ok ? 0 : -EFAULT);
		cr_assert_eq(buf[0], want[i].ok ? 0x5a : 0x77);
	}
	ram_destroy(&ram);
	free(buf);
}

Test(ram, refused_write_leaves_ram_alone)
{
	u8 buf[64];
	struct ram ram;
	unsigned i;

	make(&ram, MIB);
	memset(buf, 0xee, sizeof(buf));
	cr_assert_eq(ram_write(&ram, 0xa0000 - 32, buf, 64), -EFAULT);
	cr_assert_eq(ram_write(&ram, MIB - 32, buf, 64), -EFAULT);
	for (i = 0; i < 32; i++) {
		cr_assert_eq(ram.window[0xa0000 - 32 + i], 0);
		cr_assert_eq(ram.window[MIB - 32 + i], 0);
	}
	cr_assert_eq(ram_write(&ram, ~0ull, buf, 0), 0, "nothing to write is no error");
	cr_assert_eq(ram_read(&ram, ~0ull, buf, 0), 0);
	ram_destroy(&ram);
}

/* An address range that is free. */
static void *free_window(void)
{
	struct ram ram;
	void *at;

	make(&ram, 2 * MIB);
	at = ram.window;
	ram_destroy(&ram);
	return at;
}

Test(ram, fixed_address)
{
	void *at = free_window();
	struct ram a, b;

	cr_assert_eq(ram_init(&a, 2 * MIB, at), 0);
	cr_assert_eq(a.window, at);
	a.window[2 * MIB - 1] = 7;
	cr_assert_eq(ram_init(&b, 2 * MIB, at), -EEXIST, "never over something mapped");
	cr_assert_null(b.window);
	cr_assert_eq(a.window[2 * MIB - 1], 7);
	ram_destroy(&a);
	cr_assert_null(a.window);
	cr_assert_eq(ram_init(&b, 2 * MIB, at), 0, "destroy gives the address back");
	cr_assert_eq(b.window[2 * MIB - 1], 0);
	ram_destroy(&b);
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;
	int fd;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(ram, failure_leaves_no_descriptor)
{
	void *at = free_window();
	unsigned before = open_descriptors();
	struct ram a, b;

	cr_assert_eq(ram_init(&a, MIB, at), 0);
	cr_assert_eq(open_descriptors(), before + 1);
	cr_assert_eq(ram_init(&b, MIB, at), -EEXIST);
	cr_assert_eq(open_descriptors(), before + 1);
	ram_destroy(&a);
	cr_assert_eq(open_descriptors(), before);
}

/* The pages of the hole at 3 GiB and of the guard behind high RAM are not accessible. */
Test(ram, hole_is_reserved)
{
	struct ram ram;

	make(&ram, 4 * GIB);
	/* write(2) reports EFAULT instead of raising a signal */
	cr_assert_eq(pwrite(ram.fd, ram.window + 3 * GIB, 1, 0), -1);
	cr_assert_eq(errno, EFAULT);
	cr_assert_eq(pwrite(ram.fd, ram.window + 4 * GIB - 1, 1, 0), -1);
	cr_assert_eq(pwrite(ram.fd, ram.window + ram.high_end, 1, 0), -1);
	cr_assert_eq(pwrite(ram.fd, ram.window + ram.high_end - 1, 1, 0), 1);
	ram_destroy(&ram);
}

struct notes {
	unsigned n;
	gpa_t gpa[8];
	u64 len[8];
};

static void note(void *opaque, gpa_t gpa, u64 len)
{
	struct notes *s = opaque;

	if (s->n < 8) {
		s->gpa[s->n] = gpa;
		s->len[s->n] = len;
	}
	s->n++;
}

Test(ram, code_marks)
{
	static u8 buf[5 * 4096];
	struct notes s = {0};
	struct ram ram;

	make(&ram, 4 * GIB);
	ram.code_written = note;
	ram.code_opaque = &s;
	cr_assert_eq(ram_write(&ram, 0x100000, buf, sizeof(buf)), 0);
	cr_assert_eq(s.n, 0, "no page is marked at first");

	ram.code[0x101] = ram.code[0x103] = 1;
	ram.code[(5 * GIB - 1) >> 12] = 1;
	cr_assert_eq(ram_write(&ram, 0x100800, buf, 0x3000), 0);
	cr_assert_eq(s.n, 2, "each marked page once, unmarked ones never");
	cr_assert_eq(s.gpa[0], 0x101000);
	cr_assert_eq(s.len[0], 0x1000);
	cr_assert_eq(s.gpa[1], 0x103000);
	cr_assert_eq(s.len[1], 0x800);

	s.n = 0;
	cr_assert_eq(ram_write(&ram, 0x101ffc, buf, 4), 0);
	cr_assert_eq(s.n, 1);
	cr_assert_eq(s.gpa[0], 0x101ffc);
	cr_assert_eq(s.len[0], 4);

	s.n = 0;
	cr_assert_eq(ram_write(&ram, 5 * GIB - 1, buf, 1), 0);
	cr_assert_eq(s.n, 1, "high RAM is covered");

	s.n = 0;
	cr_assert_eq(ram_write(&ram, 5 * GIB - 1, buf, 2), -EFAULT);
	cr_assert_eq(ram_read(&ram, 0x101000, buf, 64), 0);
	cr_assert_eq(s.n, 0, "neither reads nor refused writes count");

	ram_note_write(&ram, 5 * GIB - 1, ~0ull);
	cr_assert_eq(s.n, 1, "a range past the end is cut there");
	cr_assert_eq(s.len[0], 1);
	ram_note_write(&ram, ~0ull, 1);
	ram_note_write(&ram, ~0ull, ~0ull);
	ram_note_write(&ram, 5 * GIB, 1);
	ram_note_write(&ram, 0x101000, 0);
	cr_assert_eq(s.n, 1);

	ram.code_written = NULL;
	ram_note_write(&ram, 0x101000, 1);
	ram_destroy(&ram);
}

/* A hole: zero everywhere, the memory is the host's again, and translations go. */
static unsigned told;

static void code_gone(void *opaque, gpa_t gpa, u64 len)
{
	(void)opaque;
	(void)gpa;
	told += (unsigned)(len / PAGE_SIZE);
}

Test(ram, discard)
{
	struct ram ram;
	struct stat before, after;
	u8 *other;

	cr_assert_eq(ram_init(&ram, 5 * GIB, NULL), 0);
	memset(ram.window + MIB, 1, 4 * PAGE_SIZE);
	memset(ram.window + RAM_HIGH_START + MIB, 2, 4 * PAGE_SIZE);
	other = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, ram.fd, MIB + PAGE_SIZE);
	cr_assert_neq(other, MAP_FAILED);
	cr_expect_eq(other[5], 1);
	ram.code_written = code_gone;
	ram.code[(MIB + PAGE_SIZE) >> 12] = 1;
	fstat(ram.fd, &before);
	cr_assert_eq(ram_discard(&ram, MIB + PAGE_SIZE, 2 * PAGE_SIZE), 0);
	cr_assert_eq(ram_discard(&ram, RAM_HIGH_START + MIB, PAGE_SIZE), 0);
	fstat(ram.fd, &after);
	cr_expect_eq(before.st_blocks - after.st_blocks, 3 * 8);
	cr_expect_eq(told, 1);
	cr_expect_eq(other[5], 0);
	cr_expect_eq(ram.window[MIB + PAGE_SIZE - 1], 1);
	cr_expect_eq(ram.window[MIB + PAGE_SIZE], 0);
	cr_expect_eq(ram.window[MIB + 3 * PAGE_SIZE], 1);
	cr_expect_eq(ram.window[RAM_HIGH_START + MIB], 0);
	cr_expect_eq(ram.window[RAM_HIGH_START + MIB + PAGE_SIZE], 2);
	cr_expect_eq(ram_discard(&ram, 0, 0), 0);
	cr_expect_eq(ram_discard(&ram, RAM_VGA_START - PAGE_SIZE, 2 * PAGE_SIZE), -EFAULT);
	cr_expect_eq(ram_discard(&ram, 3 * GIB, PAGE_SIZE), -EFAULT);
	cr_expect_eq(ram_discard(&ram, ~0ull << 12, PAGE_SIZE), -EFAULT);
	munmap(other, PAGE_SIZE);
	ram_destroy(&ram);
}
