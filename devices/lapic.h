/*
 * The local APIC of the one CPU: accepts interrupts, keeps their priorities, sends interprocessor
 * interrupts, and holds the timer most guests use. Seen by the guest as a page of MMIO (xAPIC) or
 * as MSRs 0x800-0x83f (x2APIC).
 */
#ifndef RINGSHIFT_LAPIC_H
#define RINGSHIFT_LAPIC_H

#include "bus.h"
#include "timer.h"

#define LAPIC_BASE 0xfee00000ull

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u
#define MSR_X2APIC_LAST  0x83fu

#define APIC_BASE_BSP    BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)

/* What the APIC asks of the machine around it. nmi, ipi and eoi may be NULL. */
struct lapic_ops {
	/* lapic_pending or lapic_extint_enabled may give another answer from now on. */
	void (*changed)(void *opaque);
	/* A level-triggered interrupt was ended: the I/O APIC wants to know. */
	void (*eoi)(void *opaque, u8 vector);
	void (*nmi)(void *opaque);
	/* A message beyond this APIC: for another CPU, or INIT, start-up or SMI for this one. dest
	 * is as the guest wrote it, ~0 for everybody; to_self: this CPU is among those addressed.
	 */
	void (*ipi)(void *opaque, u8 vector, unsigned delivery_mode, u32 dest, bool logical,
		    bool to_self);
	u64 (*tsc)(void *opaque); /* the guest's TSC now */
	void *opaque;
	u64 tsc_khz;
	unsigned phys_bits; /* of the CPU model: bounds the APIC base */
	u32 id;
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

struct lapic {
	struct lapic_ops ops;
	struct bus *bus;
	bool mapped; /* the MMIO page is on the bus */
	u64 base;    /* IA32_APIC_BASE */
	u32 tpr, ldr, dfr, svr;
	u32 irr[8], isr[8], tmr[8];
	u32 lvt[LVT_COUNT];
	u32 esr, errors; /* as read; collected since the last write to ESR */
	u64 icr;
	u8 lint; /* levels at LINT0, LINT1 */

	struct timerq *q;
	struct timer timer;
	u32 initial, divide;
	u64 start;        /* ns at which the initial count was loaded, modulo 2^64 */
	u64 now;          /* ns at which the timer's registers change, when they do */
	u64 tsc_deadline; /* 0: disarmed */
};

void lapic_init(struct lapic *l, struct timerq *q, const struct lapic_ops *ops);
/* Power-up state: enabled at LAPIC_BASE, but software-disabled and all of the LVT masked. */
void lapic_reset(struct lapic *l);
/* The MMIO page; it follows IA32_APIC_BASE from then on. */
MUST_CHECK int lapic_register(struct lapic *l, struct bus *bus);
/* What firmware sets up before it starts a system (MultiProcessor Specification, 3.6.2.2): APIC
 * software-enabled, LINT0 takes the 8259, LINT1 is NMI. For direct boot. */
void lapic_set_virtual_wire(struct lapic *l);

/* Is there an interrupt the CPU would accept now if IF is set? */
bool lapic_pending(const struct lapic *l);
/* Accept it: its vector, now in service. The spurious vector if there is none. */
MUST_CHECK int lapic_ack(struct lapic *l);
/* Does the output of the 8259 reach the CPU? */
bool lapic_extint_enabled(const struct lapic *l);

/* A fixed interrupt for this APIC. */
void lapic_deliver(struct lapic *l, u8 vector, bool level);
/* A message on the interrupt bus (fits ioapic's deliver, and MSIs): taken if it is for us. */
void lapic_message(void *l, u8 vector, unsigned delivery_mode, bool level, u32 dest, bool logical);
/* Pin LINT0 or LINT1 (n 0, 1); has the form of irq_line.set. */
void lapic_set_lint(void *l, unsigned n, int level);

/* The TSC has moved against the VM's clock: fit the timer to its deadline anew. */
void lapic_tsc_moved(struct lapic *l);

u64 lapic_cr8_get(const struct lapic *l);
void lapic_cr8_set(struct lapic *l, u64 val); /* 0..15 */

/* MSRs 0x1b, 0x6e0, 0x800-0x83f. 0, or -1: the guest gets #GP. */
MUST_CHECK int lapic_msr_read(struct lapic *l, u32 msr, u64 *val);
MUST_CHECK int lapic_msr_write(struct lapic *l, u32 msr, u64 val);

static inline bool lapic_x2apic(const struct lapic *l)
{
	return l->base & APIC_BASE_X2APIC;
}

#endif
