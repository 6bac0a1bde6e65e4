/* The bus: claims and their conflicts, routing, straddling accesses, moving and removing. */
#include <errno.h>
#include <string.h>

#include <criterion/criterion.h>

#include "bus.h"

/* A device that logs what it is asked and answers with its tag and the offset. */
struct probe {
	u8 tag;
	unsigned reads, writes, size;
	u64 offset, val;
};

static u64 probe_read(void *dev, u64 offset, unsigned size)
{
	struct probe *p = dev;

	p->reads++;
	p->offset = offset;
	p->size = size;
	return 0xffffffffffff0000ull | (u64)p->tag << 8 | offset;
}

static void probe_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct probe *p = dev;

	p->writes++;
	p->offset = offset;
	p->size = size;
	p->val = val;
}

static struct bus bus;
static struct stats stats;

static struct bus_range range(enum bus_space space, u64 base, u64 len, const char *name)
{
	return (struct bus_range){space, base, len, probe_read, probe_write, name};
}

static void setup(void)
{
	memset(&stats, 0, sizeof(stats));
	bus_init(&bus, &stats);
}

TestSuite(bus, .init = setup);

Test(bus, unclaimed_is_all_ones_and_counted)
{
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x80, 1), 0xff);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x80, 4), 0xffffffff);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0xd0000000, 8), ~0ull);
	bus_write(&bus, BUS_PORT, 0x80, 2, 0x1234);
	bus_write(&bus, BUS_MMIO, 0xd0000000, 4, 1);
	cr_assert_eq(stats.n[STAT_unassigned_pio], 3);
	cr_assert_eq(stats.n[STAT_unassigned_mmio], 2);
}

Test(bus, works_without_counters)
{
	bus_init(&bus, NULL);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x80, 2), 0xffff);
}

Test(bus, routes_by_space_and_cuts_to_size)
{
	struct probe a = {.tag = 1}, b = {.tag = 2};
	struct bus_range ra = range(BUS_PORT, 0x70, 8, "a"), rb = range(BUS_MMIO, 0x70, 8, "b");

	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, &rb, 1, &b), 0);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x73, 2), 0x103);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x73, 1), 0x03);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x70, 8), 0xffffffffffff0200ull);
	bus_write(&bus, BUS_PORT, 0x74, 2, 0xabcd1234);
	cr_assert_eq(a.val, 0x1234);
	cr_assert_eq(a.offset, 4);
	cr_assert_eq(a.size, 2);
	cr_assert_eq(b.writes, 0);
	cr_assert_eq(stats.n[STAT_unassigned_pio] + stats.n[STAT_unassigned_mmio], 0);
}

Test(bus, overlap_is_refused_as_a_whole)
{
	struct probe a = {.tag = 1}, b = {.tag = 2};
	struct bus_range ra = range(BUS_PORT, 0x100, 4, "a");
	struct bus_range two[] = {range(BUS_PORT, 0x200, 1, "x"), range(BUS_PORT, 0xff, 2, "y")};

	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, two, 2, &b), -EEXIST);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x200, 1), 0xff);
	cr_assert_eq(b.reads, 0);
	/* Ranges of one call may not overlap each other either. */
	two[1].base = 0x200;
	cr_assert_eq(bus_add(&bus, two, 2, &b), -EEXIST);
	/* Touching is not overlapping. */
	two[1].base = 0x104;
	cr_assert_eq(bus_add(&bus, two, 2, &b), 0);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x103, 1), 0x03);
	bus_read(&bus, BUS_PORT, 0x104, 1);
	cr_assert_eq(b.reads, 1);
}

Test(bus, full_table)
{
	struct probe a = {0};
	struct bus_range r[2];

	for (unsigned i = 0; i < BUS_MAX_RANGES - 1; i++) {
		r[0] = range(BUS_PORT, 0x100 + i, 1, "r");
		cr_assert_eq(bus_add(&bus, r, 1, &a), 0);
	}
	r[0] = range(BUS_PORT, 0x10, 1, "p");
	r[1] = range(BUS_PORT, 0x11, 1, "q");
	cr_assert_eq(bus_add(&bus, r, 2, &a), -ENOSPC);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x10, 1), 0xff);
	cr_assert_eq(bus_add(&bus, r, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, r + 1, 1, &a), -ENOSPC);
	bus_read(&bus, BUS_PORT, 0x100 + BUS_MAX_RANGES - 2, 1);
	cr_assert_eq(a.reads, 1);
}

Test(bus, straddling_access_is_split_into_bytes)
{
	struct probe a = {.tag = 1}, b = {.tag = 2};
	struct bus_range ra = range(BUS_PORT, 0x60, 1, "a"), rb = range(BUS_PORT, 0x62, 2, "b");

	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, &rb, 1, &b), 0);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x60, 4), 0x0100ff00);
	cr_assert_eq(a.size, 1);
	cr_assert_eq(b.reads, 2);
	/* The first byte is nobody's, the second somebody's. */
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x5f, 2), 0x00ff);
	bus_write(&bus, BUS_PORT, 0x60, 4, 0x44332211);
	cr_assert_eq(a.val, 0x11);
	cr_assert_eq(b.val, 0x44);
	cr_assert_eq(b.writes, 2);
	cr_assert_eq(stats.n[STAT_unassigned_pio], 0);
}

Test(bus, ends_of_the_spaces)
{
	struct probe a = {.tag = 1};
	struct bus_range r[] = {range(BUS_PORT, 0xffff, 1, "top"), range(BUS_PORT, 0, 1, "bottom"),
				range(BUS_MMIO, ~0ull - 3, 4, "end")};

	cr_assert_eq(bus_add(&bus, r, 3, &a), 0);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0xffff, 2), 0xff00, "no wrap to port 0");
	cr_assert_eq(a.reads, 1);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x10000, 1), 0xff);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, ~0ull, 1), 3);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, ~0ull - 3, 4), 0xffff0100);
}

Test(bus, move)
{
	struct probe a = {.tag = 1}, b = {.tag = 2};
	struct bus_range ra = range(BUS_MMIO, 0x1000, 0x1000, "page");
	struct bus_range rb = range(BUS_MMIO, 0x5000, 0x1000, "page");

	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, &rb, 1, &b), 0);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x1004, 4), 0xffff0104);
	cr_assert_eq(bus_move(&bus, &a, "page", 0x1800), 0, "may overlap its old place");
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x1004, 4), 0xffffffff);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x1804, 4), 0xffff0104);
	cr_assert_eq(bus_move(&bus, &a, "page", 0x5800), -EEXIST);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x1804, 4), 0xffff0104);
	cr_assert_eq(bus_move(&bus, &a, "nothing", 0x9000), -ENOENT);
	cr_assert_eq(bus_move(&bus, &a, "page", ~0ull - 100), -EINVAL);
}

Test(bus, remove)
{
	struct probe a = {.tag = 1}, b = {.tag = 2}, c = {.tag = 3};
	struct bus_range ra = range(BUS_PORT, 0x10, 2, "a"), rb = range(BUS_PORT, 0x20, 2, "b"),
			 rc = range(BUS_MMIO, 0x3000, 16, "c");

	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_add(&bus, &rb, 1, &b), 0);
	cr_assert_eq(bus_add(&bus, &rc, 1, &c), 0);
	bus_read(&bus, BUS_MMIO, 0x3000, 4);
	bus_remove(&bus, &a, "a");
	bus_remove(&bus, &a, "a"); /* twice does no harm */
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x10, 1), 0xff);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x20, 2), 0x200);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0x3000, 2), 0x300);
	cr_assert_eq(bus_add(&bus, &ra, 1, &a), 0);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x11, 1), 0x01);
}

/* A write may take the very range away that the rest of the access would go to. */
static void suicide_write(void *dev, u64 offset, unsigned size, u64 val)
{
	probe_write(dev, offset, size, val);
	bus_remove(&bus, dev, "s");
}

Test(bus, range_removed_during_a_split_write)
{
	struct probe a = {0};
	struct bus_range r = range(BUS_PORT, 0x10, 2, "s");

	r.write = suicide_write;
	cr_assert_eq(bus_add(&bus, &r, 1, &a), 0);
	bus_write(&bus, BUS_PORT, 0x10, 4, 0);
	cr_assert_eq(a.writes, 1);
}
