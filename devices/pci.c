/*
 * PCI bus 0 (PCI Local Bus Specification 3.0, chapters 3.2.2.3.2, 6 and, for ECAM, PCI Express Base
 * Specification, 7.2.2).
 *
 * A function's configuration space is two arrays: what is in it, and which bits can be written.
 * Sizing a BAR, read-only ids and reserved bits follow from the second. ECAM shows the same 256
 * bytes; the rest of a function's 4 KiB reads as all ones, which means that there are no more, and
 * so does everything of a function that is not there.
 *
 * BARs are the guest's to place, and it may place them anywhere: over each other, over a chip, over
 * RAM. RAM wins, since the CPU asks the bus last. Elsewhere who came first keeps the range: a BAR
 * that cannot be entered on the bus does not answer, and is tried again whenever another one moves.
 */
#include <errno.h>
#include <string.h>

#include "pci.h"
#include "pci_msix.h"

#define CONFIG_ADDRESS  0xcf8
#define RESET_OFFSET    1 /* of port 0xcf9 */
#define DATA_OFFSET     4
#define ADDRESS_ENABLE  0x80000000u
#define ADDRESS_BITS    0x80fffffcu
#define BAR_64          0x4
#define BAR_PREFETCH    0x8
#define HOSTBRIDGE      0x0008
#define HOSTBRIDGE_MAKE 0x1b36

static void count(struct pci_bus *pci, enum stat_id id)
{
	if (pci->cfg.stats)
		pci->cfg.stats->n[id]++;
}

/* --- interrupt pins --- */

static unsigned pirq_of(const struct pci_dev *d)
{
	return d->slot % PCI_PIRQS;
}

static bool intx_effective(const struct pci_dev *d)
{
	return d->intx && !(pci_get(d, PCI_COMMAND, 2) & PCI_COMMAND_NO_INTX) &&
	       !pci_msix_enabled(d);
}

void pci_update_intx(struct pci_dev *d)
{
	struct pci_bus *pci = d->bus;
	unsigned pirq = pirq_of(d);
	u16 status = (u16)(pci_get(d, PCI_STATUS, 2) & ~PCI_STATUS_INTX);
	bool level = false;

	pci_put(d, PCI_STATUS, 2, status | (d->intx ? PCI_STATUS_INTX : 0));
	if (!pci)
		return;
	for (unsigned slot = pirq; slot < PCI_SLOTS; slot += PCI_PIRQS)
		level |= pci->dev[slot] && intx_effective(pci->dev[slot]);
	if (level == !!(pci->pirq_level & 1u << pirq))
		return;
	pci->pirq_level ^= (u8)(1u << pirq);
	if (level)
		count(pci, STAT_pci_intx);
	pci->cfg.intx(pci->cfg.opaque, pirq, level);
}

void pci_set_intx(struct pci_dev *d, bool level)
{
	if (d->intx == level)
		return;
	d->intx = level;
	pci_update_intx(d);
}

/* --- BARs --- */

static const char *const bar_name[PCI_BARS] = {"bar0", "bar1", "bar2", "bar3", "bar4", "bar5"};

static u64 bar_address(const struct pci_dev *d, unsigned n)
{
	u64 addr = pci_get(d, PCI_BAR0 + 4 * n, 4) & ~15u;

	if (d->bar[n].is64)
		addr |= (u64)pci_get(d, PCI_BAR0 + 4 * n + 4, 4) << 32;
	return addr;
}

/* Does it answer, as far as the function is concerned? 0 is how software switches one off. */
static bool bar_wanted(const struct pci_dev *d, unsigned n)
{
	return d->bar[n].size && (pci_get(d, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY) &&
	       bar_address(d, n);
}

static void unmap_bars(struct pci_dev *d)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		struct pci_bar *b = &d->bar[n];

		if (!b->mapped || (bar_wanted(d, n) && bar_address(d, n) == b->base))
			continue;
		bus_remove(d->bus->cfg.bus, b->opaque, bar_name[n]);
		b->mapped = false;
	}
}

static void map_bars(struct pci_dev *d)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		struct pci_bar *b = &d->bar[n];
		struct bus_range r = {BUS_MMIO, bar_address(d, n), b->size,
				      b->read,  b->write,          bar_name[n]};

		if (b->mapped || !bar_wanted(d, n))
			continue;
		b->base = r.base;
		b->mapped = !bus_add(d->bus->cfg.bus, &r, 1, b->opaque);
		if (!b->mapped)
			count(d->bus, STAT_pci_bars_blocked);
	}
}

/* All of them: one that moves may make room for another. */
static void update_bars(struct pci_bus *pci)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		if (pci->dev[slot])
			unmap_bars(pci->dev[slot]);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		if (pci->dev[slot])
			map_bars(pci->dev[slot]);
}

/* --- configuration space --- */

static u64 config_read(struct pci_dev *d, unsigned offset, unsigned len)
{
	u64 val = 0;

	if (!d || offset >= PCI_CFG_SIZE)
		return ~0ull;
	if (d->config_reading)
		d->config_reading(d, offset, len);
	while (len--) {
		unsigned at = offset + len;

		val = val << 8 | (at < PCI_CFG_SIZE ? d->cfg[at] : 0xff);
	}
	return val;
}

static bool touches(unsigned offset, unsigned len, unsigned first, unsigned end)
{
	return offset < end && first < offset + len;
}

static void config_write(struct pci_dev *d, unsigned offset, unsigned len, u64 val)
{
	if (!d || offset >= PCI_CFG_SIZE)
		return;
	for (unsigned i = 0; i < len && offset + i < PCI_CFG_SIZE; i++) {
		u8 mask = d->wmask[offset + i], *byte = &d->cfg[offset + i];

		*byte = (u8)((*byte & ~mask) | (val >> (8 * i) & mask));
	}
	if (touches(offset, len, PCI_COMMAND, PCI_COMMAND + 2) ||
	    touches(offset, len, PCI_BAR0, PCI_BAR0 + 4 * PCI_BARS))
		update_bars(d->bus);
	if (touches(offset, len, PCI_COMMAND, PCI_COMMAND + 2)) {
		pci_update_intx(d);
		pci_msix_update(d);
	}
	if (d->msix && touches(offset, len, d->msix->cap, d->msix->cap + MSIX_CAP_LEN)) {
		pci_update_intx(d);
		pci_msix_update(d);
	}
	if (d->config_written)
		d->config_written(d, offset, len);
}

/* Mechanism 1: which function, NULL if none. */
static struct pci_dev *addressed(const struct pci_bus *pci)
{
	u32 a = pci->address;

	if (!(a & ADDRESS_ENABLE) || (a >> 16 & 0xff) || (a >> 8 & 7))
		return NULL;
	return pci->dev[a >> 11 & 31];
}

/* 0xcf8 is a register for doublewords only (3.2.2.3.2); 0xcf9 is the reset register's. */
static u64 ports_read(void *opaque, u64 offset, unsigned size)
{
	struct pci_bus *pci = opaque;

	if (offset >= DATA_OFFSET) {
		count(pci, STAT_pci_config);
		return config_read(addressed(pci),
				   (pci->address & 0xfc) + (unsigned)(offset - DATA_OFFSET), size);
	}
	if (offset == 0 && size == 4)
		return pci->address;
	if (offset == RESET_OFFSET && size == 1)
		return pci->cfg.reset_read(pci->cfg.opaque);
	return ~0ull;
}

static void ports_write(void *opaque, u64 offset, unsigned size, u64 val)
{
	struct pci_bus *pci = opaque;

	if (offset >= DATA_OFFSET) {
		count(pci, STAT_pci_config);
		config_write(addressed(pci),
			     (pci->address & 0xfc) + (unsigned)(offset - DATA_OFFSET), size, val);
	} else if (offset == 0 && size == 4) {
		pci->address = (u32)val & ADDRESS_BITS;
	} else if (offset == RESET_OFFSET && size == 1) {
		pci->cfg.reset_write(pci->cfg.opaque, (u8)val);
	}
}

/* Which function an offset in ECAM belongs to: bits 12 to 14 are its number in the slot. */
static struct pci_dev *ecam_addressed(const struct pci_bus *pci, u64 offset)
{
	return offset >> 12 & 7 ? NULL : pci->dev[offset >> 15 & 31];
}

static u64 ecam_read(void *opaque, u64 offset, unsigned size)
{
	struct pci_bus *pci = opaque;

	count(pci, STAT_pci_config);
	return config_read(ecam_addressed(pci, offset), offset & 0xfff, size);
}

static void ecam_write(void *opaque, u64 offset, unsigned size, u64 val)
{
	struct pci_bus *pci = opaque;

	count(pci, STAT_pci_config);
	config_write(ecam_addressed(pci, offset), offset & 0xfff, size, val);
}

/* Two ranges of ports: an access that runs from one into the other is split by the bus. */
static const struct bus_range pci_ranges[] = {
    {BUS_PORT, CONFIG_ADDRESS, 8, ports_read, ports_write, "pci-config"},
    {BUS_MMIO, PCI_ECAM_BASE, PCI_ECAM_SIZE, ecam_read, ecam_write, "pci-ecam"},
};

/* --- functions --- */

void pci_dev_init(struct pci_dev *d, const char *name, u16 vendor, u16 device, u32 class_code)
{
	memset(d, 0, sizeof(*d));
	d->name = name;
	d->cap_end = PCI_FIRST_CAPABILITY;
	pci_put(d, PCI_VENDOR_ID, 2, vendor);
	pci_put(d, PCI_DEVICE_ID, 2, device);
	pci_put(d, PCI_REVISION, 4, class_code << 8);
	pci_put(d, PCI_SUBSYSTEM_VENDOR, 2, PCI_VENDOR_REDHAT);
	pci_put(d, PCI_SUBSYSTEM_ID, 2, PCI_SUBSYSTEM_QEMU);
	pci_put(d, PCI_INTERRUPT_PIN, 1, 1);
	d->wmask[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	d->wmask[PCI_COMMAND + 1] = PCI_COMMAND_NO_INTX >> 8;
	d->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

u8 pci_dev_add_cap(struct pci_dev *d, u8 id, u8 len)
{
	u8 at = d->cap_end;

	BUG_ON(ALIGN_UP(at + len, 4) > PCI_CFG_SIZE - 4);
	d->cfg[at] = id;
	d->cfg[at + 1] = d->cfg[PCI_CAPABILITIES];
	d->cfg[PCI_CAPABILITIES] = at;
	d->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
	d->cap_end = (u8)ALIGN_UP(at + len, 4);
	return at;
}

/* The writable bits of the BARs and their type bits. */
static void make_bar_registers(struct pci_dev *d)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		const struct pci_bar *b = &d->bar[n];
		unsigned reg = PCI_BAR0 + 4 * n;
		u64 mask = ~(b->size - 1);

		if (!b->size)
			continue;
		BUG_ON(b->size < 16 || (b->size & (b->size - 1)));
		BUG_ON(!b->is64 && b->size > BIT(31));
		BUG_ON(b->is64 && (n == PCI_BARS - 1 || d->bar[n + 1].size));
		d->cfg[reg] = (b->is64 ? BAR_64 : 0) | (b->prefetch ? BAR_PREFETCH : 0);
		for (unsigned i = 0; i < (b->is64 ? 8 : 4); i++)
			d->wmask[reg + i] = (u8)(mask >> (8 * i));
	}
}

int pci_plug(struct pci_bus *pci, struct pci_dev *d, int slot)
{
	if (slot < 0)
		for (slot = 1; slot < PCI_SLOTS && pci->dev[slot];)
			slot++;
	if (slot >= PCI_SLOTS)
		return -ENOSPC;
	if (pci->dev[slot])
		return -EEXIST;
	make_bar_registers(d);
	d->bus = pci;
	d->slot = (u8)slot;
	pci->dev[slot] = d;
	return 0;
}

/* --- reset --- */

/* Everything the guest can write is zero after power-up but for what devices put back themselves.
 */
static void reset_function(struct pci_dev *d)
{
	for (unsigned i = 0; i < PCI_CFG_SIZE; i++)
		d->cfg[i] &= (u8)~d->wmask[i];
	pci_msix_reset(d);
	if (d->reset)
		d->reset(d);
	pci_set_intx(d, false);
	pci_update_intx(d);
}

struct window {
	u64 next, end;
};

static bool place_bar(struct pci_dev *d, unsigned n, struct window *w)
{
	u64 size = d->bar[n].size, at = ALIGN_UP(w->next, size);

	if (at < w->next || at >= w->end || size > w->end - at)
		return false;
	pci_put(d, PCI_BAR0 + 4 * n, 4, (u32)at | pci_get(d, PCI_BAR0 + 4 * n, 1));
	if (d->bar[n].is64)
		pci_put(d, PCI_BAR0 + 4 * n + 4, 4, (u32)(at >> 32));
	w->next = at + size;
	return true;
}

/* As firmware does, largest first, so that nothing is lost to alignment. Below 4 GiB as long as
 * there is room: every guest can reach that. */
static void assign_bars(struct pci_bus *pci)
{
	struct window low = {PCI_LOW_BASE, PCI_LOW_BASE + PCI_LOW_SIZE};
	struct window high = {pci->cfg.high_base, pci->cfg.high_base + pci->cfg.high_size};

	for (unsigned shift = 64; shift-- > 4;)
		for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
			struct pci_dev *d = pci->dev[i / PCI_BARS];
			unsigned n = i % PCI_BARS;

			if (!d || d->bar[n].size != BIT(shift) || place_bar(d, n, &low))
				continue;
			if (d->bar[n].is64)
				(void)place_bar(d, n, &high);
		}
}

void pci_reset(struct pci_bus *pci)
{
	pci->address = 0;
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		if (pci->dev[slot])
			reset_function(pci->dev[slot]);
	assign_bars(pci);
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		struct pci_dev *d = pci->dev[slot];

		if (!d)
			continue;
		pci_put(d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
		pci_put(d, PCI_INTERRUPT_LINE, 1, PCI_IRQ(pirq_of(d)));
	}
	update_bars(pci);
}

u64 pci_high_window(u64 high_end, unsigned phys_bits, gpa_t *base)
{
	u64 limit = BIT(phys_bits);

	*base = ALIGN_UP(high_end, GIB);
	return *base >= limit ? 0 : MIN(limit - *base, PCI_HIGH_SIZE);
}

void pci_init(struct pci_bus *pci, const struct pci_config *cfg)
{
	memset(pci, 0, sizeof(*pci));
	pci->cfg = *cfg;
	pci_dev_init(&pci->bridge, "host bridge", HOSTBRIDGE_MAKE, HOSTBRIDGE,
		     PCI_CLASS_HOSTBRIDGE);
	pci_put(&pci->bridge, PCI_INTERRUPT_PIN, 1, 0);
	BUG_ON(pci_plug(pci, &pci->bridge, 0));
}

int pci_register(struct pci_bus *pci)
{
	return bus_add(pci->cfg.bus, pci_ranges, ARRAY_LEN(pci_ranges), pci);
}
