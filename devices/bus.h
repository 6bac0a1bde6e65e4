/*
 * The bus: who answers at which port and at which guest-physical address. One registration path for
 * both. A device type owns one const array of its ranges; that array serves registration and,
 * later, save and restore. Reads nobody claims give all ones, writes nobody claims are dropped,
 * both counted.
 */
#ifndef RINGSHIFT_BUS_H
#define RINGSHIFT_BUS_H

#include "base.h"

enum bus_space { BUS_PORT, BUS_MMIO };

struct bus_range {
	enum bus_space space;
	u64 base, len;
	/* offset is relative to base; size is 1, 2, 4 or 8 (ports: 1, 2, 4). An access never leaves
	 * the range: the bus splits a wider one into bytes. */
	u64 (*read)(void *dev, u64 offset, unsigned size);
	void (*write)(void *dev, u64 offset, unsigned size, u64 val);
	const char *name;
};

/* The chips, and six BARs for each of the functions a PCI bus may have. */
#define BUS_MAX_RANGES 256

struct bus {
	struct {
		struct bus_range r; /* len 0: a free place */
		void *dev;
	} range[BUS_MAX_RANGES];
	u16 port_map[65536];      /* index + 1 into range[], 0: nobody */
	u16 mmio[BUS_MAX_RANGES]; /* indices of the MMIO ranges, by base */
	unsigned mmio_count;
	unsigned last_mmio; /* range the last MMIO access hit */
	struct stats *stats;
};

void bus_init(struct bus *bus, struct stats *stats);

/* Claim n ranges for dev (not owned). -EEXIST if one overlaps another's, -ENOSPC if the table is
 * full; then none of them is registered. */
MUST_CHECK int bus_add(struct bus *bus, const struct bus_range *ranges, unsigned n, void *dev);
/* Move or remove a device's range (local APIC base, PCI BARs): by dev and name. */
MUST_CHECK int bus_move(struct bus *bus, void *dev, const char *name, u64 new_base);
void bus_remove(struct bus *bus, void *dev, const char *name);

u64 bus_read(struct bus *bus, enum bus_space space, u64 addr, unsigned size);
void bus_write(struct bus *bus, enum bus_space space, u64 addr, unsigned size, u64 val);

#endif
