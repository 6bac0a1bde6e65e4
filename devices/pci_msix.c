/*
 * MSI-X. A message is a write of `data` to an address in 0xfeeXXXXX, which is how local APICs are
 * reached (Intel SDM, volume 3, 10.11); a message anywhere else goes nowhere and is counted. One
 * that cannot be sent now, because its vector or the function is masked or the function may not
 * master the bus, is pending and sent when it can be.
 */
#include <string.h>

#include "pci_msix.h"

#define CONTROL        2 /* offset in the capability */
#define CONTROL_ENABLE 0x8000
#define CONTROL_MASK   0x4000
#define ENTRY          16
#define ENTRY_DATA     8
#define ENTRY_CONTROL  12
#define PBA            0x800
#define BAR_SIZE       0x1000
#define APIC_WINDOW    0xfeeu
#define LOGICAL        0x4 /* destination mode, in the address */

_Static_assert(MSIX_MAX *ENTRY <= PBA, "the table runs into the pending bits");

static u32 get32(const u8 *p)
{
	return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static void count(struct pci_dev *d, enum stat_id id)
{
	if (d->bus && d->bus->cfg.stats)
		d->bus->cfg.stats->n[id]++;
}

static u16 control(const struct pci_dev *d)
{
	return (u16)pci_get(d, d->msix->cap + CONTROL, 2);
}

bool pci_msix_enabled(const struct pci_dev *d)
{
	return d->msix && (control(d) & CONTROL_ENABLE);
}

static bool can_send(const struct pci_dev *d, unsigned vector)
{
	return (control(d) & (CONTROL_ENABLE | CONTROL_MASK)) == CONTROL_ENABLE &&
	       (pci_get(d, PCI_COMMAND, 2) & PCI_COMMAND_MASTER) &&
	       !(d->msix->table[vector * ENTRY + ENTRY_CONTROL] & 1);
}

static void send(struct pci_dev *d, unsigned vector)
{
	const u8 *e = &d->msix->table[vector * ENTRY];
	u32 addr = get32(e), high = get32(e + 4), data = get32(e + ENTRY_DATA);
	const struct pci_config *cfg = &d->bus->cfg;

	if (high || addr >> 20 != APIC_WINDOW) {
		count(d, STAT_msi_lost);
		return;
	}
	count(d, STAT_msi_sent);
	cfg->msi(cfg->msi_opaque, (u8)data, data >> 8 & 7, data >> 15 & 1, addr >> 12 & 0xff,
		 addr & LOGICAL);
}

void pci_msix_notify(struct pci_dev *d, unsigned vector)
{
	if (vector >= d->msix->count || !pci_msix_enabled(d))
		return;
	if (can_send(d, vector))
		send(d, vector);
	else
		d->msix->pending[vector / 8] |= (u8)(1u << vector % 8);
}

static void update_vector(struct pci_dev *d, unsigned vector)
{
	u8 *byte = &d->msix->pending[vector / 8], bit = (u8)(1u << vector % 8);

	if (!(*byte & bit) || !can_send(d, vector))
		return;
	*byte &= (u8)~bit;
	send(d, vector);
}

void pci_msix_update(struct pci_dev *d)
{
	for (unsigned v = 0; d->msix && v < d->msix->count; v++)
		update_vector(d, v);
}

/* --- the BAR --- */

static u64 msix_read(void *opaque, u64 offset, unsigned size)
{
	const struct pci_msix *m = ((struct pci_dev *)opaque)->msix;
	u64 val = 0;

	while (size--) {
		u64 at = offset + size;
		u8 byte = 0;

		if (at < m->count * ENTRY)
			byte = m->table[at];
		else if (at >= PBA && at < PBA + sizeof(m->pending))
			byte = m->pending[at - PBA];
		val = val << 8 | byte;
	}
	return val;
}

/* Doublewords and quadwords only, says 6.8.2; narrower writes have no effect here. */
static void msix_write(void *opaque, u64 offset, unsigned size, u64 val)
{
	struct pci_dev *d = opaque;
	struct pci_msix *m = d->msix;
	unsigned vector = (unsigned)(offset / ENTRY);
	u8 *e;

	if (vector >= m->count || size < 4 || offset % size)
		return;
	e = &m->table[vector * ENTRY];
	memcpy(e + offset % ENTRY, &val, size);
	e[0] &= (u8)~3;
	memset(e + ENTRY_CONTROL + 1, 0, 3);
	e[ENTRY_CONTROL] &= 1;
	update_vector(d, vector);
}

void pci_msix_reset(struct pci_dev *d)
{
	struct pci_msix *m = d->msix;

	if (!m)
		return;
	memset(m->table, 0, sizeof(m->table));
	memset(m->pending, 0, sizeof(m->pending));
	for (unsigned v = 0; v < m->count; v++)
		m->table[v * ENTRY + ENTRY_CONTROL] = 1;
}

void pci_msix_init(struct pci_dev *d, struct pci_msix *m, unsigned bar, unsigned vectors)
{
	u8 cap = pci_dev_add_cap(d, PCI_CAP_MSIX, MSIX_CAP_LEN);

	BUG_ON(!vectors || vectors > MSIX_MAX);
	m->cap = cap;
	m->count = vectors;
	d->msix = m;
	pci_put(d, cap + CONTROL, 2, vectors - 1);
	d->wmask[cap + CONTROL + 1] = (CONTROL_ENABLE | CONTROL_MASK) >> 8;
	pci_put(d, cap + 4, 4, bar);
	pci_put(d, cap + 8, 4, PBA | bar);
	d->bar[bar] =
	    (struct pci_bar){.size = BAR_SIZE, .read = msix_read, .write = msix_write, .opaque = d};
	pci_msix_reset(d);
}
