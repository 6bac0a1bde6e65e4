/* The I/O APIC: registers, edge and level pins, remote IRR and its ends, delivery modes. */
#include <criterion/criterion.h>

#include "ioapic.h"

struct message {
	u8 vector;
	unsigned mode;
	bool level, logical;
	u32 dest;
};

static struct bus bus;
static struct ioapic io;
static struct message last;
static unsigned sent;
static bool eoi_at_once;

static void deliver(void *opaque, u8 vector, unsigned mode, bool level, u32 dest, bool logical)
{
	(void)opaque;
	last = (struct message){vector, mode, level, logical, dest};
	sent++;
	if (eoi_at_once) {
		eoi_at_once = false;
		ioapic_eoi(&io, vector);
	}
}

static u32 reg_read(u8 index)
{
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE, 4, index);
	return (u32)bus_read(&bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4);
}

static void reg_write(u8 index, u32 val)
{
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE, 4, index);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4, val);
}

static void redirect(unsigned pin, u32 low, u32 high)
{
	reg_write((u8)(0x11 + 2 * pin), high);
	reg_write((u8)(0x10 + 2 * pin), low);
}

static u32 entry_low(unsigned pin)
{
	return reg_read((u8)(0x10 + 2 * pin));
}

static void setup(void)
{
	bus_init(&bus, NULL);
	ioapic_init(&io, deliver, NULL);
	cr_assert_eq(ioapic_register(&io, &bus), 0);
}

#define LEVEL      0x8000u
#define REMOTE_IRR 0x4000u
#define MASKED     0x10000u

TestSuite(ioapic, .init = setup);

Test(ioapic, registers)
{
	cr_assert_eq(reg_read(1), 0x00170020);
	reg_write(1, 0);
	cr_assert_eq(reg_read(1), 0x00170020);
	reg_write(0, 0xffffffff);
	cr_assert_eq(reg_read(0), 0x0f000000);
	cr_assert_eq(reg_read(2), 0x0f000000);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, IOAPIC_BASE, 4), 2);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		cr_assert_eq(entry_low(pin), MASKED);
		redirect(pin, 0xffffffff, 0xffffffff);
		cr_assert_eq(entry_low(pin), 0x1afff, "status bits are read-only");
		cr_assert_eq(reg_read((u8)(0x11 + 2 * pin)), 0xff000000);
	}
	/* What does not exist. */
	cr_assert_eq(reg_read(0x40), 0);
	cr_assert_eq(reg_read(3), 0);
	reg_write(0x40, 1);
	reg_write(0xff, 1);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, IOAPIC_BASE + 0x80, 4), 0);
	cr_assert_eq(sent, 0);
}

Test(ioapic, narrow_writes_to_the_window_are_ignored)
{
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE, 1, 0x10);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE + 0x10, 1, 0x55);
	cr_assert_eq(entry_low(0), MASKED);
}

Test(ioapic, edge)
{
	redirect(4, 0x0934, 0x03000000);
	ioapic_set_irq(&io, 4, 1);
	cr_assert_eq(sent, 1);
	cr_assert_eq(last.vector, 0x34);
	cr_assert_eq(last.mode, APIC_LOWEST);
	cr_assert_eq(last.dest, 3);
	cr_assert(last.logical);
	cr_assert_not(last.level);
	ioapic_set_irq(&io, 4, 1);
	cr_assert_eq(sent, 1);
	cr_assert_eq(entry_low(4) & REMOTE_IRR, 0);
	ioapic_set_irq(&io, 4, 0);
	ioapic_set_irq(&io, 4, 1);
	cr_assert_eq(sent, 2, "an edge needs no EOI");
}

Test(ioapic, edge_while_masked_is_lost)
{
	redirect(4, MASKED | 0x34, 0);
	ioapic_set_irq(&io, 4, 1);
	redirect(4, 0x34, 0);
	cr_assert_eq(sent, 0);
}

Test(ioapic, level)
{
	redirect(10, LEVEL | 0x45, 0);
	ioapic_set_irq(&io, 10, 1);
	cr_assert_eq(sent, 1);
	cr_assert(last.level);
	cr_assert(entry_low(10) & REMOTE_IRR);
	ioapic_set_irq(&io, 10, 0);
	ioapic_set_irq(&io, 10, 1);
	cr_assert_eq(sent, 1, "remote IRR holds it back");
	ioapic_eoi(&io, 0x44);
	cr_assert_eq(sent, 1);
	ioapic_eoi(&io, 0x45);
	cr_assert_eq(sent, 2);
	ioapic_set_irq(&io, 10, 0);
	ioapic_eoi(&io, 0x45);
	cr_assert_eq(sent, 2);
	cr_assert_eq(entry_low(10) & REMOTE_IRR, 0);
}

Test(ioapic, level_while_masked_waits)
{
	redirect(10, MASKED | LEVEL | 0x45, 0);
	ioapic_set_irq(&io, 10, 1);
	cr_assert_eq(sent, 0);
	redirect(10, LEVEL | 0x45, 0);
	cr_assert_eq(sent, 1);
	redirect(10, MASKED | LEVEL | 0x45, 0);
	ioapic_eoi(&io, 0x45);
	cr_assert_eq(sent, 1);
	cr_assert_eq(entry_low(10) & REMOTE_IRR, 0);
}

Test(ioapic, eoi_ends_every_entry_of_the_vector)
{
	redirect(3, LEVEL | 0x50, 0);
	redirect(20, LEVEL | 0x50, 0);
	ioapic_set_irq(&io, 3, 1);
	ioapic_set_irq(&io, 20, 1);
	cr_assert_eq(sent, 2);
	ioapic_set_irq(&io, 3, 0);
	ioapic_eoi(&io, 0x50);
	cr_assert_eq(sent, 3);
	cr_assert_eq(entry_low(3) & REMOTE_IRR, 0);
	cr_assert(entry_low(20) & REMOTE_IRR);
}

Test(ioapic, eoi_register)
{
	redirect(10, LEVEL | 0x45, 0);
	ioapic_set_irq(&io, 10, 1);
	ioapic_set_irq(&io, 10, 0);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE + 0x40, 4, 0x45);
	cr_assert_eq(entry_low(10) & REMOTE_IRR, 0);
}

/* The way systems end an interrupt where there is no EOI register. */
Test(ioapic, turning_to_edge_and_back_clears_remote_irr)
{
	redirect(10, LEVEL | 0x45, 0);
	ioapic_set_irq(&io, 10, 1);
	redirect(10, MASKED | 0x45, 0);
	cr_assert_eq(entry_low(10) & REMOTE_IRR, 0);
	redirect(10, LEVEL | 0x45, 0);
	cr_assert_eq(sent, 2, "still asserted");
}

Test(ioapic, eoi_during_delivery)
{
	redirect(10, LEVEL | 0x45, 0);
	eoi_at_once = true;
	ioapic_set_irq(&io, 10, 1);
	cr_assert_eq(sent, 2);
	cr_assert(entry_low(10) & REMOTE_IRR);
}

Test(ioapic, nmi_and_extint_are_sent_once_per_rise)
{
	redirect(0, APIC_EXTINT << 8, 0);
	ioapic_set_irq(&io, 0, 1);
	cr_assert_eq(last.mode, APIC_EXTINT);
	redirect(1, LEVEL | APIC_NMI << 8, 0);
	ioapic_set_irq(&io, 1, 1);
	cr_assert_eq(last.mode, APIC_NMI);
	cr_assert_not(last.level);
	cr_assert_eq(entry_low(1) & REMOTE_IRR, 0);
	cr_assert_eq(sent, 2);
}

Test(ioapic, polarity_changes_nothing)
{
	redirect(9, LEVEL | 0x2000 | 0x46, 0);
	cr_assert_eq(sent, 0);
	ioapic_set_irq(&io, 9, 1);
	cr_assert_eq(sent, 1);
}

Test(ioapic, reset)
{
	redirect(10, LEVEL | 0x45, 0);
	ioapic_set_irq(&io, 10, 1);
	reg_write(0, 5u << 24);
	ioapic_reset(&io);
	cr_assert_eq(entry_low(10), MASKED);
	cr_assert_eq(reg_read(0), 0);
	redirect(10, LEVEL | 0x45, 0);
	cr_assert_eq(sent, 2, "the pin is still asserted");
}
