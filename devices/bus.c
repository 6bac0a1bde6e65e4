/*
 * The bus. Ports are found through a map of all 65536 of them, MMIO in the range the last access
 * hit, or by bisection: guests poll one chip at a time. A range keeps its place in the table as
 * long as it is there; places are given again.
 *
 * An access that lies in one range goes to its device whole. One that straddles an end is split
 * into bytes, each looked up by itself, so a device never sees an offset past its range. A port
 * access does not wrap from 0xffff to 0: what lies beyond is nobody's.
 *
 * Counted here is only what nobody claims; accesses as such are counted by the CPU that makes them.
 */
#include <errno.h>
#include <string.h>

#include "bus.h"

#define PORT_COUNT 65536ull

void bus_init(struct bus *bus, struct stats *stats)
{
	memset(bus, 0, sizeof(*bus));
	bus->stats = stats;
}

static ALWAYS_INLINE void bus_count(struct bus *bus, enum stat_id id)
{
	if (bus->stats)
		bus->stats->n[id]++;
}

/* Written so that a range ending at 2^64 works. */
static bool bus_overlap(u64 base_a, u64 len_a, u64 base_b, u64 len_b)
{
	return base_a <= base_b ? base_b - base_a < len_a : base_a - base_b < len_b;
}

/* Enter range i, or its absence, in the port map. */
static void bus_map_ports(struct bus *bus, unsigned i, bool there)
{
	const struct bus_range *r = &bus->range[i].r;

	for (u64 port = r->base; port < r->base + r->len; port++)
		bus->port_map[port] = there ? (u16)(i + 1) : 0;
}

/* How many MMIO ranges begin at addr or below. */
static unsigned bus_mmio_rank(const struct bus *bus, u64 addr)
{
	unsigned low = 0, high = bus->mmio_count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (bus->range[bus->mmio[mid]].r.base <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Make range i, which overlaps no other, answer. */
static void bus_enter(struct bus *bus, unsigned i)
{
	unsigned at;

	if (bus->range[i].r.space == BUS_PORT) {
		bus_map_ports(bus, i, true);
		return;
	}
	at = bus_mmio_rank(bus, bus->range[i].r.base);
	memmove(&bus->mmio[at + 1], &bus->mmio[at], (bus->mmio_count - at) * sizeof(bus->mmio[0]));
	bus->mmio[at] = (u16)i;
	bus->mmio_count++;
}

static void bus_leave(struct bus *bus, unsigned i)
{
	unsigned at;

	if (bus->range[i].r.space == BUS_PORT) {
		bus_map_ports(bus, i, false);
		return;
	}
	at = bus_mmio_rank(bus, bus->range[i].r.base) - 1;
	BUG_ON(bus->mmio[at] != i);
	bus->mmio_count--;
	memmove(&bus->mmio[at], &bus->mmio[at + 1], (bus->mmio_count - at) * sizeof(bus->mmio[0]));
}

/* Does a range overlap another than skip? */
static bool bus_overlaps(const struct bus *bus, const struct bus_range *r, int skip)
{
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++) {
		const struct bus_range *o = &bus->range[i].r;

		if ((int)i != skip && o->len && o->space == r->space &&
		    bus_overlap(o->base, o->len, r->base, r->len))
			return true;
	}
	return false;
}

static int bus_find_name(const struct bus *bus, const void *dev, const char *name)
{
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++)
		if (bus->range[i].r.len && bus->range[i].dev == dev &&
		    !strcmp(bus->range[i].r.name, name))
			return (int)i;
	return -1;
}

static void bus_drop(struct bus *bus, unsigned i)
{
	bus_leave(bus, i);
	bus->range[i].r.len = 0;
}

static int bus_add_one(struct bus *bus, const struct bus_range *r, void *dev, u16 *index)
{
	unsigned i = 0;

	BUG_ON(!r->len || !r->read || !r->write || !r->name);
	BUG_ON(r->base + r->len - 1 < r->base);
	BUG_ON(r->space == BUS_PORT && r->base + r->len > PORT_COUNT);
	if (bus_overlaps(bus, r, -1))
		return -EEXIST;
	while (i < BUS_MAX_RANGES && bus->range[i].r.len)
		i++;
	if (i == BUS_MAX_RANGES)
		return -ENOSPC;
	bus->range[i].r = *r;
	bus->range[i].dev = dev;
	bus_enter(bus, i);
	*index = (u16)i;
	return 0;
}

int bus_add(struct bus *bus, const struct bus_range *ranges, unsigned n, void *dev)
{
	u16 added[BUS_MAX_RANGES];
	int rc = 0;

	BUG_ON(n > BUS_MAX_RANGES);
	for (unsigned i = 0; i < n && !rc; i++) {
		rc = bus_add_one(bus, &ranges[i], dev, &added[i]);
		while (rc && i)
			bus_drop(bus, added[--i]);
	}
	return rc;
}

int bus_move(struct bus *bus, void *dev, const char *name, u64 new_base)
{
	int i = bus_find_name(bus, dev, name);
	struct bus_range r;

	if (i < 0)
		return -ENOENT;
	r = bus->range[i].r;
	r.base = new_base;
	if (r.base + r.len - 1 < r.base || (r.space == BUS_PORT && r.base + r.len > PORT_COUNT))
		return -EINVAL;
	if (bus_overlaps(bus, &r, i))
		return -EEXIST;
	bus_leave(bus, (unsigned)i);
	bus->range[i].r = r;
	bus_enter(bus, (unsigned)i);
	return 0;
}

void bus_remove(struct bus *bus, void *dev, const char *name)
{
	int i = bus_find_name(bus, dev, name);

	if (i >= 0)
		bus_drop(bus, (unsigned)i);
}

static ALWAYS_INLINE bool bus_hits(const struct bus *bus, unsigned i, u64 addr)
{
	const struct bus_range *r = &bus->range[i].r;

	return addr - r->base < r->len && r->space == BUS_MMIO;
}

/* Index of the range addr lies in, or -1. */
static int bus_find(struct bus *bus, enum bus_space space, u64 addr)
{
	unsigned rank;

	if (space == BUS_PORT)
		return addr < PORT_COUNT ? (int)bus->port_map[addr] - 1 : -1;
	if (likely(bus_hits(bus, bus->last_mmio, addr)))
		return (int)bus->last_mmio;
	rank = bus_mmio_rank(bus, addr);
	if (!rank || !bus_hits(bus, bus->mmio[rank - 1], addr))
		return -1;
	bus->last_mmio = bus->mmio[rank - 1];
	return (int)bus->last_mmio;
}

/* Does an access that no single range holds touch any at all? */
static bool bus_touches(struct bus *bus, enum bus_space space, u64 addr, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		if (bus_find(bus, space, addr + i) >= 0)
			return true;
	return false;
}

static bool bus_holds(const struct bus *bus, int i, u64 addr, unsigned size)
{
	return i >= 0 && bus->range[i].r.len - (addr - bus->range[i].r.base) >= size;
}

static u64 bus_all_ones(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

static u64 bus_read_slow(struct bus *bus, enum bus_space space, u64 addr, unsigned size)
{
	u64 val = 0;

	if (!bus_touches(bus, space, addr, size)) {
		bus_count(bus, space == BUS_PORT ? STAT_unassigned_pio : STAT_unassigned_mmio);
		return bus_all_ones(size);
	}
	for (unsigned b = 0; b < size; b++) {
		int i = bus_find(bus, space, addr + b);
		u64 byte = 0xff;

		if (i >= 0)
			byte = bus->range[i].r.read(bus->range[i].dev,
						    addr + b - bus->range[i].r.base, 1);
		val |= (byte & 0xff) << (8 * b);
	}
	return val;
}

u64 bus_read(struct bus *bus, enum bus_space space, u64 addr, unsigned size)
{
	int i = bus_find(bus, space, addr);

	if (likely(bus_holds(bus, i, addr, size)))
		return bus->range[i].r.read(bus->range[i].dev, addr - bus->range[i].r.base, size) &
		       bus_all_ones(size);
	return bus_read_slow(bus, space, addr, size);
}

static void bus_write_slow(struct bus *bus, enum bus_space space, u64 addr, unsigned size, u64 val)
{
	if (!bus_touches(bus, space, addr, size)) {
		bus_count(bus, space == BUS_PORT ? STAT_unassigned_pio : STAT_unassigned_mmio);
		return;
	}
	for (unsigned b = 0; b < size; b++) {
		/* Looked up anew each time: a write may move or remove a range. */
		int i = bus_find(bus, space, addr + b);

		if (i >= 0)
			bus->range[i].r.write(bus->range[i].dev, addr + b - bus->range[i].r.base, 1,
					      (val >> (8 * b)) & 0xff);
	}
}

void bus_write(struct bus *bus, enum bus_space space, u64 addr, unsigned size, u64 val)
{
	int i = bus_find(bus, space, addr);

	if (likely(bus_holds(bus, i, addr, size)))
		bus->range[i].r.write(bus->range[i].dev, addr - bus->range[i].r.base, size,
				      val & bus_all_ones(size));
	else
		bus_write_slow(bus, space, addr, size, val);
}
