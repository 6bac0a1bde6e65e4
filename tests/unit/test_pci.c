/* PCI: both ways to configuration space, BARs wherever the guest puts them, pins, MSI-X. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "pci.h"
#include "pci_msix.h"

#define HIGH_BASE 0x200000000ull
#define NONE      0xffffffffu

static struct bus bus;
static struct pci_bus pci;
static struct stats stats;
static struct pci_dev dev[PCI_SLOTS];
static struct pci_msix msix;
static int level[PCI_PIRQS];
static unsigned rises[PCI_PIRQS], resets;
static u8 reset_port;
static struct {
	unsigned count;
	u8 vector;
	unsigned mode;
	bool level, logical;
	u32 dest;
} message;

static void on_intx(void *opaque, unsigned pirq, int to)
{
	(void)opaque;
	rises[pirq] += to && !level[pirq];
	level[pirq] = to;
}

static void on_msi(void *opaque, u8 vector, unsigned mode, bool is_level, u32 dest, bool logical)
{
	(void)opaque;
	message.count++;
	message.vector = vector;
	message.mode = mode;
	message.level = is_level;
	message.dest = dest;
	message.logical = logical;
}

static u8 read_reset(void *opaque)
{
	(void)opaque;
	return reset_port;
}

static void write_reset(void *opaque, u8 val)
{
	(void)opaque;
	reset_port = val;
}

/* A BAR answers with its tag, the low byte of its opaque pointer, and the offset. */
static u64 bar_read(void *opaque, u64 offset, unsigned size)
{
	(void)size;
	return (u64)((u8 *)opaque - (u8 *)dev) << 16 | offset;
}

static u64 tag(const struct pci_dev *d, u64 offset)
{
	return (u64)((u8 *)d - (u8 *)dev) << 16 | offset;
}

static void bar_write(void *opaque, u64 offset, unsigned size, u64 val)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)val;
}

static void on_reset(struct pci_dev *d)
{
	(void)d;
	resets++;
}

static struct pci_dev *make(unsigned n, unsigned bar, u64 size, bool is64)
{
	pci_dev_init(&dev[n], "test", 0x1234, (u16)(0x100 + n), 0x020000);
	dev[n].reset = on_reset;
	if (size)
		dev[n].bar[bar] = (struct pci_bar){.size = size,
						   .is64 = is64,
						   .read = bar_read,
						   .write = bar_write,
						   .opaque = &dev[n]};
	return &dev[n];
}

static void setup(void)
{
	const struct pci_config cfg = {.bus = &bus,
				       .intx = on_intx,
				       .reset_read = read_reset,
				       .reset_write = write_reset,
				       .msi = on_msi,
				       .high_base = HIGH_BASE,
				       .high_size = 16 * GIB,
				       .stats = &stats};

	bus_init(&bus, &stats);
	pci_init(&pci, &cfg);
	cr_assert_eq(pci_register(&pci), 0);
}

TestSuite(pci, .init = setup);

static u32 cfg_read(unsigned slot, unsigned reg, unsigned size)
{
	bus_write(&bus, BUS_PORT, 0xcf8, 4, 0x80000000 | slot << 11 | (reg & 0xfc));
	return (u32)bus_read(&bus, BUS_PORT, 0xcfc + (reg & 3), size);
}

static void cfg_write(unsigned slot, unsigned reg, unsigned size, u32 val)
{
	bus_write(&bus, BUS_PORT, 0xcf8, 4, 0x80000000 | slot << 11 | (reg & 0xfc));
	bus_write(&bus, BUS_PORT, 0xcfc + (reg & 3), size, val);
}

static u64 ecam(unsigned slot, unsigned reg)
{
	return PCI_ECAM_BASE + (slot << 15) + reg;
}

Test(pci, mechanism_1)
{
	cr_assert_eq(pci_plug(&pci, make(0, 0, 0, false), 7), 0);
	cr_expect_eq(cfg_read(0, 0, 4), 0x00081b36, "host bridge");
	cr_expect_eq(cfg_read(0, 8, 4) >> 8, 0x060000);
	cr_expect_eq(cfg_read(7, 0, 4), 0x01001234);
	cr_expect_eq(cfg_read(7, 2, 2), 0x0100);
	cr_expect_eq(cfg_read(7, 3, 1), 0x01);
	cr_expect_eq(cfg_read(7, 0xb, 1), 0x02);
	cr_expect_eq(bus_read(&bus, BUS_PORT, 0xcf8, 4), 0x80000000 | 7 << 11 | 8);
	cr_expect_eq(cfg_read(6, 0, 4), NONE);
	cr_expect_eq(cfg_read(7 | 1 << 5, 0, 4), NONE, "bus 1");
	bus_write(&bus, BUS_PORT, 0xcf8, 4, 0x80000000 | 7 << 11 | 1 << 8);
	cr_expect_eq(bus_read(&bus, BUS_PORT, 0xcfc, 4), NONE, "function 1");
	bus_write(&bus, BUS_PORT, 0xcf8, 4, 7 << 11);
	cr_expect_eq(bus_read(&bus, BUS_PORT, 0xcfc, 4), NONE, "not enabled");
	cfg_write(7, 0, 4, 0);
	cfg_write(6, 0, 4, 0);
	cr_expect_eq(cfg_read(7, 0, 4), 0x01001234, "read-only");
	cfg_write(7, 0x3c, 1, 0x5a);
	cr_expect_eq(cfg_read(7, 0x3c, 2), 0x015a);
	/* Narrow accesses to the address register are none, but for the reset register in it. */
	bus_write(&bus, BUS_PORT, 0xcf8, 2, 0xffff);
	cr_expect_eq(bus_read(&bus, BUS_PORT, 0xcf8, 4), 0x80000000 | 7 << 11 | 0x3c);
	bus_write(&bus, BUS_PORT, 0xcf9, 1, 0x0e);
	cr_expect_eq(reset_port, 0x0e);
	cr_expect_eq(bus_read(&bus, BUS_PORT, 0xcf9, 1), 0x0e);
	bus_write(&bus, BUS_PORT, 0xcf8, 4, 0x80000600);
	cr_expect_eq(reset_port, 0x0e);
}

Test(pci, ecam)
{
	cr_assert_eq(pci_plug(&pci, make(0, 0, 0, false), 31), 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0), 4), 0x01001234);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0), 8), 0x0000000001001234ull);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0x100), 4), NONE, "no more than 256 bytes");
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0xfc), 8), 0xffffffff00000000ull);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0xfff), 2), 0xffff);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(31, 0x1000), 4), NONE, "function 1");
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(30, 0), 4), NONE);
	bus_write(&bus, BUS_MMIO, ecam(31, 0x3c), 1, 0x33);
	cr_expect_eq(cfg_read(31, 0x3c, 1), 0x33);
	bus_write(&bus, BUS_MMIO, ecam(31, 0xff), 8, ~0ull);
	bus_write(&bus, BUS_MMIO, ecam(31, 0xffc), 8, ~0ull);
}

Test(pci, slots)
{
	cr_assert_eq(pci_plug(&pci, make(0, 0, 0, false), 2), 0);
	cr_expect_eq(pci_plug(&pci, make(1, 0, 0, false), 2), -EEXIST);
	for (unsigned n = 1; n < PCI_SLOTS - 1; n++)
		cr_expect_eq(pci_plug(&pci, make(n, 0, 0, false), -1), 0);
	cr_expect_eq(dev[1].slot, 1);
	cr_expect_eq(dev[2].slot, 3);
	cr_expect_eq(pci_plug(&pci, make(31, 0, 0, false), -1), -ENOSPC);
}

Test(pci, sizing)
{
	cr_assert_eq(pci_plug(&pci, make(0, 1, 0x1000, false), 1), 0);
	cr_assert_eq(pci_plug(&pci, make(1, 2, 8 * GIB, true), 2), 0);
	cfg_write(1, 0x14, 4, NONE);
	cr_expect_eq(cfg_read(1, 0x14, 4), 0xfffff000);
	cfg_write(1, 0x10, 4, NONE);
	cr_expect_eq(cfg_read(1, 0x10, 4), 0, "no such BAR");
	cfg_write(1, 0x30, 4, NONE);
	cr_expect_eq(cfg_read(1, 0x30, 4), 0, "no ROM");
	cfg_write(2, 0x18, 4, NONE);
	cfg_write(2, 0x1c, 4, NONE);
	cr_expect_eq(cfg_read(2, 0x18, 4), 4);
	cr_expect_eq(cfg_read(2, 0x1c, 4), 0xfffffffe);
}

Test(pci, reset_assigns)
{
	u64 base;

	cr_assert_eq(pci_plug(&pci, make(0, 0, 0x1000, false), 1), 0);
	cr_assert_eq(pci_plug(&pci, make(1, 0, 0x10000000, true), 2), 0);
	cr_assert_eq(pci_plug(&pci, make(2, 4, 8 * GIB, true), 3), 0);
	pci_reset(&pci);
	cr_expect_eq(resets, 3);
	cr_expect_eq(cfg_read(1, 4, 2), PCI_COMMAND_MEMORY);
	cr_expect_eq(cfg_read(1, 0x3c, 2), 0x010b);
	cr_expect_eq(cfg_read(2, 0x3c, 2), 0x010a);
	cr_expect_eq(cfg_read(2, 0x10, 4), PCI_LOW_BASE | 4);
	cr_expect_eq(cfg_read(1, 0x10, 4), PCI_LOW_BASE + 0x10000000);
	base = (u64)cfg_read(3, 0x24, 4) << 32 | (cfg_read(3, 0x20, 4) & ~15u);
	cr_expect_eq(base, HIGH_BASE);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, PCI_LOW_BASE + 0x1234, 4), tag(&dev[1], 0x1234));
	cr_expect_eq(bus_read(&bus, BUS_MMIO, HIGH_BASE + 5 * GIB, 8), tag(&dev[2], 5 * GIB));
	/* Whatever the guest has done since, reset undoes. */
	cfg_write(1, 4, 2, 0xffff);
	cfg_write(1, 0x10, 4, 0xd0000000);
	cfg_write(1, 0x3c, 1, 99);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd0000004, 4), tag(&dev[0], 4));
	pci_reset(&pci);
	cr_expect_eq(cfg_read(1, 4, 2), PCI_COMMAND_MEMORY);
	cr_expect_eq(cfg_read(1, 0x10, 4), PCI_LOW_BASE + 0x10000000);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, PCI_LOW_BASE + 0x10000008, 4), tag(&dev[0], 8));
}

Test(pci, no_room)
{
	cr_assert_eq(pci_plug(&pci, make(0, 0, 0x80000000, false), 1), 0);
	cr_assert_eq(pci_plug(&pci, make(1, 0, 32 * GIB, true), 2), 0);
	pci_reset(&pci);
	cr_expect_eq(cfg_read(1, 0x10, 4), 0);
	cr_expect_eq(cfg_read(2, 0x10, 4), 4);
	cr_expect_eq(cfg_read(2, 0x14, 4), 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0, 4), NONE);
}

/* Decoding switched off and on; to 0 and to the ends; over another BAR, ECAM. */
Test(pci, bars_anywhere)
{
	cr_assert_eq(pci_plug(&pci, make(0, 0, 0x1000, false), 1), 0);
	cr_assert_eq(pci_plug(&pci, make(1, 0, 0x1000, true), 2), 0);
	pci_reset(&pci);
	cfg_write(1, 0x10, 4, 0xd0000000);
	cfg_write(1, 4, 2, 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd0000000, 4), NONE);
	cfg_write(1, 4, 2, 2);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd0000010, 4), tag(&dev[0], 0x10));
	cfg_write(1, 0x10, 4, 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd0000010, 4), NONE);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0x10, 4), NONE);
	cfg_write(1, 0x10, 4, 0xfffff000);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xfffffffc, 4), tag(&dev[0], 0xffc));
	cfg_write(2, 0x10, 4, 0xfffff000);
	cfg_write(2, 0x14, 4, NONE);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ~7ull, 8), tag(&dev[1], 0xff8));
	/* Who came first keeps the place, until it leaves. */
	cfg_write(2, 0x14, 4, 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xfffffffc, 4), tag(&dev[0], 0xffc));
	cr_expect_geq(stats.n[STAT_pci_bars_blocked], 1);
	cfg_write(1, 0x10, 4, 0xd0000000);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xfffffffc, 4), tag(&dev[1], 0xffc));
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd0000000, 4), tag(&dev[0], 0));
	cfg_write(1, 0x10, 4, (u32)PCI_ECAM_BASE);
	cr_expect_eq(cfg_read(1, 0, 4), 0x01001234);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, ecam(1, 0), 4), 0x01001234);
	/* A write through ECAM can move a BAR just as well. */
	bus_write(&bus, BUS_MMIO, ecam(1, 0x10), 4, 0xd8000000);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xd8000000, 4), tag(&dev[0], 0));
	/* Byte by byte. */
	bus_write(&bus, BUS_MMIO, ecam(1, 0x13), 1, 0xc1);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, 0xc1000000, 4), tag(&dev[0], 0));
}

Test(pci, pins)
{
	for (unsigned n = 0; n < 5; n++)
		cr_assert_eq(pci_plug(&pci, make(n, 0, 0, false), (int)n + 1), 0);
	pci_reset(&pci);
	pci_set_intx(&dev[0], true); /* slot 1 */
	cr_expect_eq(level[1], 1);
	cr_expect(cfg_read(1, 6, 2) & PCI_STATUS_INTX);
	pci_set_intx(&dev[4], true); /* slot 5: the same wire */
	cr_expect_eq(rises[1], 1);
	pci_set_intx(&dev[0], false);
	cr_expect_eq(level[1], 1);
	cr_expect(!(cfg_read(1, 6, 2) & PCI_STATUS_INTX));
	cfg_write(5, 4, 2, PCI_COMMAND_NO_INTX);
	cr_expect_eq(level[1], 0);
	cr_expect(cfg_read(5, 6, 2) & PCI_STATUS_INTX, "the status stays");
	cfg_write(5, 4, 2, 0);
	cr_expect_eq(level[1], 1);
	pci_set_intx(&dev[3], true); /* slot 4 */
	cr_expect_eq(level[0], 1);
	pci_reset(&pci);
	cr_expect_eq(level[0] | level[1] | level[2] | level[3], 0);
	pci_set_intx(&pci.bridge, false);
}

Test(pci, high_window)
{
	gpa_t base;

	cr_expect_eq(pci_high_window(4 * GIB, 46, &base), 64 * GIB);
	cr_expect_eq(base, 4 * GIB);
	cr_expect_eq(pci_high_window(4 * GIB + MIB, 36, &base), 59 * GIB);
	cr_expect_eq(base, 5 * GIB);
	cr_expect_eq(pci_high_window(64 * GIB, 36, &base), 0);
	cr_expect_eq(pci_high_window(100 * GIB, 36, &base), 0);
}

/* --- MSI-X --- */

static u64 table;

static struct pci_dev *make_msix(void)
{
	struct pci_dev *d = make(0, 0, 0, false);

	pci_msix_init(d, &msix, 1, 3);
	cr_assert_eq(pci_plug(&pci, d, 1), 0);
	pci_reset(&pci);
	table = cfg_read(1, 0x14, 4);
	cr_expect_eq(cfg_read(1, 0x34, 1), 0x40);
	cr_expect_eq(cfg_read(1, 0x40, 4), 0x00020011);
	cr_expect_eq(cfg_read(1, 0x44, 4), 1);
	cr_expect_eq(cfg_read(1, 0x48, 4), 0x801);
	return d;
}

static void entry(unsigned n, u64 addr, u32 data, u32 control)
{
	bus_write(&bus, BUS_MMIO, table + 16 * n, 8, addr);
	bus_write(&bus, BUS_MMIO, table + 16 * n + 8, 4, data);
	bus_write(&bus, BUS_MMIO, table + 16 * n + 12, 4, control);
}

static u64 pending(void)
{
	return bus_read(&bus, BUS_MMIO, table + 0x800, 8);
}

Test(pci, msix_messages)
{
	struct pci_dev *d = make_msix();

	entry(1, 0xfee03004, 0x41, 0);
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 0, "not enabled");
	cr_expect_eq(pending(), 0);
	cfg_write(1, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cfg_write(1, 0x42, 2, 0xffff);
	cr_expect_eq(cfg_read(1, 0x42, 2), 0xc002, "vectors are read-only");
	cfg_write(1, 0x42, 2, 0x8000);
	cr_expect(pci_msix_enabled(d));
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 1);
	cr_expect_eq(message.vector, 0x41);
	cr_expect_eq(message.dest, 3);
	cr_expect(message.logical && !message.level);
	entry(1, 0xfee01000, 0x8752, 0);
	pci_msix_notify(d, 1);
	cr_expect_eq(message.vector, 0x52);
	cr_expect_eq(message.mode, 7);
	cr_expect(!message.logical && message.level);
	pci_msix_notify(d, 3);
	pci_msix_notify(d, 0xffff);
	cr_expect_eq(message.count, 2, "no such vector");
	entry(1, 0xfed00000, 0x52, 0);
	pci_msix_notify(d, 1);
	entry(1, 0x1fee00000, 0x52, 0);
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 2, "nobody there");
	cr_expect_eq(stats.n[STAT_msi_lost], 2);
}

Test(pci, msix_masks)
{
	struct pci_dev *d = make_msix();

	cfg_write(1, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cfg_write(1, 0x42, 2, 0x8000);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 12, 4), 1, "masked after reset");
	pci_msix_notify(d, 0);
	entry(1, 0xfee00000, 0x41, 1);
	pci_msix_notify(d, 1);
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 0);
	cr_expect_eq(pending(), 3);
	bus_write(&bus, BUS_MMIO, table + 0x800, 8, 0); /* read-only */
	cr_expect_eq(pending(), 3);
	entry(1, 0xfee00000, 0x41, 0xfffffffe);
	cr_expect_eq(message.count, 1);
	cr_expect_eq(message.vector, 0x41);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 28, 4), 0, "reserved bits");
	cr_expect_eq(pending(), 1);
	cfg_write(1, 0x42, 2, 0xc000); /* the function's mask */
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 1);
	cfg_write(1, 0x42, 2, 0x8000);
	cr_expect_eq(message.count, 2);
	cfg_write(1, 4, 2, PCI_COMMAND_MEMORY); /* may not write to memory */
	pci_msix_notify(d, 1);
	cr_expect_eq(message.count, 2);
	cfg_write(1, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cr_expect_eq(message.count, 3);
	pci_set_intx(d, true);
	cr_expect_eq(level[1], 0, "MSI-X instead of the pin");
	cfg_write(1, 0x42, 2, 0);
	cr_expect_eq(level[1], 1);
	pci_reset(&pci);
	cr_expect_eq(pending(), 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 16, 8), 0);
}

Test(pci, msix_odd_accesses)
{
	make_msix();
	entry(0, 0xfee00000, 0x11223344, 1);
	bus_write(&bus, BUS_MMIO, table + 8, 1, 0);
	bus_write(&bus, BUS_MMIO, table + 8, 2, 0);
	bus_write(&bus, BUS_MMIO, table + 6, 4, 0);
	bus_write(&bus, BUS_MMIO, table + 4, 8, 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 8, 4), 0x11223344);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 9, 2), 0x2233);
	bus_write(&bus, BUS_MMIO, table + 48, 8, ~0ull); /* beyond the table */
	bus_write(&bus, BUS_MMIO, table + 0xff8, 8, ~0ull);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 48, 8), 0);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 0xff8, 8), 0);
	bus_write(&bus, BUS_MMIO, table + 32, 4, NONE);
	cr_expect_eq(bus_read(&bus, BUS_MMIO, table + 32, 4), 0xfffffffc, "addresses are aligned");
}
