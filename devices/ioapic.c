/*
 * I/O APIC (Intel 82093AA data sheet 290566; the EOI register is from the ICH family, which calls
 * itself version 0x20).
 *
 * Edge pins send one message per rise; a rise while the entry is masked is lost, as the data sheet
 * says. Level pins (fixed and lowest priority only) send one message, set remote IRR, and may send
 * again after the EOI of their vector. An entry turned from level to edge loses its remote IRR:
 * operating systems use that to end an interrupt on chips without the EOI register.
 *
 * The polarity bit is kept but has no effect: devices report "asserted".
 */
#include <string.h>

#include "ioapic.h"

/* MMIO offsets. */
enum {
	IOREGSEL = 0x00,
	IOWIN = 0x10,
	IOEOI = 0x40,
};

/* Indirect registers. */
enum {
	REG_ID,
	REG_VERSION,
	REG_ARBITRATION,
	REG_ENTRY = 0x10,
};

#define VERSION (0x20 | (IOAPIC_PINS - 1) << 16)

#define ENTRY_LOGICAL    BIT(11)
#define ENTRY_REMOTE_IRR BIT(14)
#define ENTRY_LEVEL      BIT(15)
#define ENTRY_MASKED     BIT(16)
#define ENTRY_WRITABLE   0xff0000000001afffull

static unsigned entry_mode(u64 e)
{
	return e >> 8 & 7;
}

/* Only fixed and lowest priority can be level triggered; the others are sent once per rise. */
static bool entry_is_level(u64 e)
{
	return (e & ENTRY_LEVEL) && entry_mode(e) <= APIC_LOWEST;
}

static void ioapic_send(struct ioapic *io, unsigned pin)
{
	u64 e = io->entry[pin];
	bool level = entry_is_level(e);

	/* Set first: delivering may end in an EOI before it returns. */
	if (level)
		io->entry[pin] |= ENTRY_REMOTE_IRR;
	io->deliver(io->opaque, (u8)e, entry_mode(e), level, (u32)(e >> 56), e & ENTRY_LOGICAL);
}

static void ioapic_service_level(struct ioapic *io, unsigned pin)
{
	u64 e = io->entry[pin];

	if (entry_is_level(e) && (io->pin & 1u << pin) && !(e & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
		ioapic_send(io, pin);
}

void ioapic_set_irq(void *opaque, unsigned pin, int level)
{
	struct ioapic *io = opaque;
	u32 bit = 1u << pin;
	bool rise;

	BUG_ON(pin >= IOAPIC_PINS);
	rise = level && !(io->pin & bit);
	io->pin = level ? io->pin | bit : io->pin & ~bit;
	if (!rise)
		return;
	if (entry_is_level(io->entry[pin]))
		ioapic_service_level(io, pin);
	else if (!(io->entry[pin] & ENTRY_MASKED))
		ioapic_send(io, pin);
}

void ioapic_eoi(struct ioapic *io, u8 vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if ((u8)io->entry[pin] != vector || !(io->entry[pin] & ENTRY_REMOTE_IRR))
			continue;
		io->entry[pin] &= ~ENTRY_REMOTE_IRR;
		ioapic_service_level(io, pin);
	}
}

static u32 ioapic_read_reg(const struct ioapic *io)
{
	unsigned n = io->index - REG_ENTRY;

	switch (io->index) {
	case REG_ID:
	case REG_ARBITRATION: return (u32)io->id << 24;
	case REG_VERSION: return VERSION;
	}
	if (n < 2 * IOAPIC_PINS)
		return (u32)(io->entry[n / 2] >> (n & 1 ? 32 : 0));
	return 0;
}

static void ioapic_write_reg(struct ioapic *io, u32 val)
{
	unsigned n = io->index - REG_ENTRY, pin = n / 2;
	u64 e, half;

	if (io->index == REG_ID)
		io->id = val >> 24 & 15;
	if (n >= 2 * IOAPIC_PINS)
		return;
	half = n & 1 ? ENTRY_WRITABLE & ~0xffffffffull : ENTRY_WRITABLE & 0xffffffffull;
	e = (io->entry[pin] & ~half) | ((n & 1 ? (u64)val << 32 : val) & half);
	if (!(e & ENTRY_LEVEL))
		e &= ~ENTRY_REMOTE_IRR;
	io->entry[pin] = e;
	ioapic_service_level(io, pin);
}

/* Registers are 32 bits wide and to be accessed so; narrower reads give a register's low bytes. */
static u64 ioapic_read(void *dev, u64 offset, unsigned size)
{
	const struct ioapic *io = dev;

	(void)size;
	switch (offset) {
	case IOREGSEL: return io->index;
	case IOWIN: return ioapic_read_reg(io);
	default: return 0;
	}
}

static void ioapic_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct ioapic *io = dev;

	switch (offset) {
	case IOREGSEL: io->index = (u8)val; break;
	case IOWIN:
		if (size >= 4)
			ioapic_write_reg(io, (u32)val);
		break;
	case IOEOI: ioapic_eoi(io, (u8)val); break;
	}
}

static const struct bus_range ioapic_ranges[] = {
    {BUS_MMIO, IOAPIC_BASE, PAGE_SIZE, ioapic_read, ioapic_write, "ioapic"},
};

int ioapic_register(struct ioapic *io, struct bus *bus)
{
	return bus_add(bus, ioapic_ranges, ARRAY_LEN(ioapic_ranges), io);
}

/* The levels at the pins belong to the devices that drive them and survive. */
void ioapic_reset(struct ioapic *io)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin] = ENTRY_MASKED;
	io->index = 0;
	io->id = 0;
}

void ioapic_init(struct ioapic *io,
		 void (*deliver)(void *opaque, u8 vector, unsigned delivery_mode, bool level,
				 u32 dest, bool logical),
		 void *opaque)
{
	memset(io, 0, sizeof(*io));
	io->deliver = deliver;
	io->opaque = opaque;
	ioapic_reset(io);
}
