/*
 * I/O APIC: 24 interrupt pins, each with a redirection entry that says which vector goes where.
 */
#ifndef RINGSHIFT_IOAPIC_H
#define RINGSHIFT_IOAPIC_H

#include "bus.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24

/* Delivery modes, as in redirection entries, LVT entries and the ICR. */
enum apic_delivery {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_SIPI = 6,
	APIC_EXTINT = 7,
};

struct ioapic {
	u64 entry[IOAPIC_PINS];
	u32 pin;  /* levels at the pins: 1 is asserted, whatever the entry's polarity says */
	u8 index; /* IOREGSEL */
	u8 id;
	/* The message that leaves: dest is the 8-bit destination field. */
	void (*deliver)(void *opaque, u8 vector, unsigned delivery_mode, bool level, u32 dest,
			bool logical);
	void *opaque;
};

void ioapic_init(struct ioapic *io,
		 void (*deliver)(void *opaque, u8 vector, unsigned delivery_mode, bool level,
				 u32 dest, bool logical),
		 void *opaque);
void ioapic_reset(struct ioapic *io);
/* One page of MMIO at IOAPIC_BASE. */
MUST_CHECK int ioapic_register(struct ioapic *io, struct bus *bus);

/* Pin (0..23) of struct ioapic *io; has the form of irq_line.set. */
void ioapic_set_irq(void *io, unsigned pin, int level);
/* The EOI broadcast of a local APIC: ends level-triggered interrupts of this vector and sends those
 * again whose pin is still asserted. */
void ioapic_eoi(struct ioapic *io, u8 vector);

#endif
