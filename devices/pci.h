/*
 * PCI: one bus with a host bridge in slot 0 and single functions in slots 1 to 31, seen through
 * configuration mechanism 1 (ports 0xcf8, 0xcfc) and a window of memory (ECAM). A function has
 * memory BARs, interrupt pin A, and MSI-X if it wants (pci_msix.h). See pci.c.
 */
#ifndef RINGSHIFT_PCI_H
#define RINGSHIFT_PCI_H

#include "bus.h"

#define PCI_SLOTS     32
#define PCI_BARS      6
#define PCI_PIRQS     4 /* interrupt wires of the bus */
#define PCI_CFG_SIZE  256
#define PCI_ECAM_BASE 0xe0000000ull
#define PCI_ECAM_SIZE MIB /* of bus 0 */

/* Where BARs go: below 4 GiB, and above RAM what does not fit there. As the DSDT says. */
#define PCI_LOW_BASE  0xc0000000ull
#define PCI_LOW_SIZE  0x20000000ull
#define PCI_HIGH_SIZE (64 * GIB) /* at most */

/* Wire n leads to I/O APIC input 16 + n and to one of two 8259 inputs. */
#define PCI_GSI(n) (16 + (n))
#define PCI_IRQ(n) (10 + ((n)&1))

/* Configuration header (PCI Local Bus Specification 3.0, 6.1). */
enum {
	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08, /* class code in the 24 bits behind */
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d,
	PCI_FIRST_CAPABILITY = 0x40,
};

#define PCI_COMMAND_MEMORY   0x0002
#define PCI_COMMAND_MASTER   0x0004
#define PCI_COMMAND_NO_INTX  0x0400
#define PCI_STATUS_INTX      0x0008
#define PCI_STATUS_CAPS      0x0010
#define PCI_CAP_VENDOR       0x09
#define PCI_CAP_MSIX         0x11
#define PCI_VENDOR_REDHAT    0x1af4 /* virtio's */
#define PCI_SUBSYSTEM_QEMU   0x1100
#define PCI_CLASS_HOSTBRIDGE 0x060000

struct pci_bus;
struct pci_dev;
struct pci_msix;

struct pci_bar {
	u64 size; /* a power of two, 16 at least; 0: there is none */
	bool is64, prefetch;
	u64 (*read)(void *opaque, u64 offset, unsigned size);
	void (*write)(void *opaque, u64 offset, unsigned size, u64 val);
	void *opaque; /* no other BAR with the same number has it */
	/* pci.c's: where it answers */
	bool mapped;
	u64 base;
};

struct pci_dev {
	const char *name; /* for listings */
	struct pci_bus *bus;
	u8 slot;
	u8 cfg[PCI_CFG_SIZE];
	u8 wmask[PCI_CFG_SIZE]; /* bits that the guest can write */
	u8 cap_end;             /* first byte not in use by a capability */
	bool intx;              /* pin A is asserted by the function */
	struct pci_bar bar[PCI_BARS];
	struct pci_msix *msix; /* NULL: has none */
	/* The guest is about to read len bytes of configuration space, or has written them; both
	 * may be NULL. */
	void (*config_reading)(struct pci_dev *d, unsigned offset, unsigned len);
	void (*config_written)(struct pci_dev *d, unsigned offset, unsigned len);
	/* What lies behind the registers goes back to the state after power-up. May be NULL. */
	void (*reset)(struct pci_dev *d);
};

struct pci_config {
	struct bus *bus;
	void (*intx)(void *opaque, unsigned pirq, int level);
	/* Bytes at port 0xcf9, which is not ours. */
	u8 (*reset_read)(void *opaque);
	void (*reset_write)(void *opaque, u8 val);
	void *opaque;
	/* An interrupt message; has the form of lapic_message. */
	void (*msi)(void *opaque, u8 vector, unsigned delivery_mode, bool level, u32 dest,
		    bool logical);
	void *msi_opaque;
	gpa_t high_base; /* of the window above RAM, */
	u64 high_size;   /* 0: there is none */
	struct stats *stats;
};

struct pci_bus {
	struct pci_config cfg;
	u32 address; /* 0xcf8 */
	struct pci_dev bridge;
	struct pci_dev *dev[PCI_SLOTS];
	u8 pirq_level; /* bit n: wire n is asserted */
};

void pci_init(struct pci_bus *pci, const struct pci_config *cfg);
MUST_CHECK int pci_register(struct pci_bus *pci);
/* All functions as after power-up, then what firmware does: BARs assigned and switched on,
 * interrupt lines entered. */
void pci_reset(struct pci_bus *pci);

/* The window above RAM that ends at high_end: its size, 0 if processors with phys_bits address bits
 * have no room for one. */
u64 pci_high_window(u64 high_end, unsigned phys_bits, gpa_t *base);

/* An empty function: ids, class, pin A. The caller then fills in BARs and capabilities. */
void pci_dev_init(struct pci_dev *d, const char *name, u16 vendor, u16 device, u32 class_code);
/* Room for a capability of len bytes, linked into the list: its offset. */
u8 pci_dev_add_cap(struct pci_dev *d, u8 id, u8 len);
/* Plug it into a slot, -1: the first free one. -EEXIST, -ENOSPC. Before the machine runs. */
MUST_CHECK int pci_plug(struct pci_bus *pci, struct pci_dev *d, int slot);

/* Assert or release pin A. */
void pci_set_intx(struct pci_dev *d, bool level);
/* Its effect has changed: MSI-X was switched on or off. */
void pci_update_intx(struct pci_dev *d);

static inline u32 pci_get(const struct pci_dev *d, unsigned offset, unsigned len)
{
	u32 val = 0;

	while (len--)
		val = val << 8 | d->cfg[offset + len];
	return val;
}

static inline void pci_put(struct pci_dev *d, unsigned offset, unsigned len, u32 val)
{
	for (unsigned i = 0; i < len; i++)
		d->cfg[offset + i] = (u8)(val >> (8 * i));
}

#endif
