/* The local APIC: both register interfaces, priorities, messages, LINT pins, errors, timer. */
#include <string.h>

#include <criterion/criterion.h>

#include "ioapic.h"
#include "lapic.h"

#define TSC_KHZ 3000000ull /* 3 ticks a nanosecond */

static u64 now, passes; /* ns, and how many of them between two looks at the clock */
static struct timerq q;
static struct bus bus;
static struct lapic apic;

static struct {
	unsigned changed, nmis, eois, ipis;
	u8 eoi, vector;
	unsigned mode;
	u32 dest;
	bool logical, to_self;
} seen;

static u64 clock_now(void *opaque)
{
	(void)opaque;
	now += passes;
	return now;
}

static u64 tsc(void *opaque)
{
	(void)opaque;
	return now * 3;
}

static void on_changed(void *opaque)
{
	(void)opaque;
	seen.changed++;
}

static void on_eoi(void *opaque, u8 vector)
{
	(void)opaque;
	seen.eois++;
	seen.eoi = vector;
}

static void on_nmi(void *opaque)
{
	(void)opaque;
	seen.nmis++;
}

static void on_ipi(void *opaque, u8 vector, unsigned mode, u32 dest, bool logical, bool to_self)
{
	(void)opaque;
	seen.ipis++;
	seen.vector = vector;
	seen.mode = mode;
	seen.dest = dest;
	seen.logical = logical;
	seen.to_self = to_self;
}

static u32 rd(u32 reg)
{
	return (u32)bus_read(&bus, BUS_MMIO, LAPIC_BASE + reg, 4);
}

static void wr(u32 reg, u32 val)
{
	bus_write(&bus, BUS_MMIO, LAPIC_BASE + reg, 4, val);
}

static int wrmsr(u32 msr, u64 val)
{
	return lapic_msr_write(&apic, msr, val);
}

static u64 rdmsr(u32 msr)
{
	u64 val = 0xdead;

	cr_assert_eq(lapic_msr_read(&apic, msr, &val), 0, "MSR %x", msr);
	return val;
}

static bool msr_faults(u32 msr)
{
	u64 val;

	return lapic_msr_read(&apic, msr, &val) == -1;
}

enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR2 = 0x310,
	TIMER = 0x320,
	LINT0 = 0x350,
	LINT1 = 0x360,
	ERROR = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0,
	MASKED = 0x10000,
	PERIODIC = 0x20000,
	DEADLINE = 0x40000,
};

#define X2APIC_ON (LAPIC_BASE | APIC_BASE_BSP | APIC_BASE_ENABLE | APIC_BASE_X2APIC)

static struct lapic_ops ops = {
    .changed = on_changed,
    .eoi = on_eoi,
    .nmi = on_nmi,
    .ipi = on_ipi,
    .tsc = tsc,
    .tsc_khz = TSC_KHZ,
    .phys_bits = 40,
    .id = 3,
};

static void setup(void)
{
	now = 1000000;
	timerq_init(&q, clock_now, NULL, NULL);
	bus_init(&bus, NULL);
	lapic_init(&apic, &q, &ops);
	cr_assert_eq(lapic_register(&apic, &bus), 0);
	wr(SVR, 0x1ff);
	memset(&seen, 0, sizeof(seen));
}

static void enter_x2apic(void)
{
	cr_assert_eq(wrmsr(MSR_APIC_BASE, X2APIC_ON), 0);
}

static void run_to(u64 end)
{
	while (timerq_next(&q) <= end) {
		now = MAX(now, timerq_next(&q));
		timerq_run(&q);
	}
	now = end;
}

/* How often a vector is taken up to a time, each one ended at once. */
static unsigned count_interrupts(u64 end, int vector)
{
	unsigned n = 0;

	while (now < end) {
		run_to(MIN(end, timerq_next(&q)));
		while (lapic_pending(&apic)) {
			cr_assert_eq(lapic_ack(&apic), vector);
			wr(EOI, 0);
			n++;
		}
	}
	return n;
}

TestSuite(lapic, .init = setup);

Test(lapic, reset_state)
{
	lapic_reset(&apic);
	cr_assert_eq(rd(ID), 3u << 24);
	cr_assert_eq(rd(VERSION), 0x50014);
	cr_assert_eq(rd(SVR), 0xff);
	cr_assert_eq(rd(DFR), 0xffffffff);
	for (u32 reg = TIMER; reg <= ERROR; reg += 16)
		cr_assert_eq(rd(reg), MASKED);
	cr_assert_eq(rd(CURRENT), 0);
	cr_assert_eq(rdmsr(MSR_APIC_BASE), 0xfee00900);
	cr_assert_not(lapic_extint_enabled(&apic));
	lapic_deliver(&apic, 0x40, false);
	cr_assert_eq(rd(IRR + 0x20), 0, "software-disabled: fixed interrupts are not accepted");
}

Test(lapic, accept_and_end)
{
	lapic_deliver(&apic, 0x41, false);
	cr_assert_gt(seen.changed, 0);
	cr_assert(lapic_pending(&apic));
	cr_assert_eq(rd(IRR + 0x20), 2);
	cr_assert_eq(lapic_ack(&apic), 0x41);
	cr_assert_eq(rd(IRR + 0x20), 0);
	cr_assert_eq(rd(ISR + 0x20), 2);
	cr_assert_eq(rd(PPR), 0x40);
	cr_assert_not(lapic_pending(&apic));
	seen.changed = 0;
	wr(EOI, 0);
	cr_assert_eq(rd(ISR + 0x20), 0);
	cr_assert_gt(seen.changed, 0);
	cr_assert_eq(seen.eois, 0, "no broadcast for an edge");
	wr(EOI, 0); /* nothing in service */
}

Test(lapic, nothing_to_accept_is_spurious)
{
	wr(SVR, 0x1ef);
	cr_assert_eq(lapic_ack(&apic), 0xef);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(rd(ISR + 16 * i), 0);
}

Test(lapic, level_is_broadcast)
{
	lapic_deliver(&apic, 0x55, true);
	cr_assert_eq(rd(TMR + 0x20), 1u << 21);
	cr_assert_eq(lapic_ack(&apic), 0x55);
	wr(EOI, 0);
	cr_assert_eq(seen.eois, 1);
	cr_assert_eq(seen.eoi, 0x55);
	lapic_deliver(&apic, 0x55, false);
	cr_assert_eq(rd(TMR + 0x20), 0);
}

Test(lapic, priorities)
{
	lapic_deliver(&apic, 0x45, false);
	lapic_deliver(&apic, 0x62, false);
	lapic_deliver(&apic, 0x4f, false);
	cr_assert_eq(lapic_ack(&apic), 0x62);
	cr_assert_not(lapic_pending(&apic));
	lapic_deliver(&apic, 0x6f, false);
	cr_assert_not(lapic_pending(&apic), "same class");
	lapic_deliver(&apic, 0x70, false);
	cr_assert_eq(lapic_ack(&apic), 0x70);
	wr(EOI, 0);
	cr_assert_not(lapic_pending(&apic));
	wr(EOI, 0);
	cr_assert_eq(lapic_ack(&apic), 0x6f);
	wr(EOI, 0);
	cr_assert_eq(lapic_ack(&apic), 0x4f);
}

Test(lapic, task_priority)
{
	lapic_cr8_set(&apic, 4);
	cr_assert_eq(rd(TPR), 0x40);
	lapic_deliver(&apic, 0x4f, false);
	cr_assert_not(lapic_pending(&apic));
	seen.changed = 0;
	wr(TPR, 0x3a);
	cr_assert_gt(seen.changed, 0);
	cr_assert_eq(lapic_cr8_get(&apic), 3);
	cr_assert_eq(rd(PPR), 0x3a);
	cr_assert(lapic_pending(&apic));
	cr_assert_eq(lapic_ack(&apic), 0x4f);
	cr_assert_eq(rd(PPR), 0x40);
	wr(TPR, 0x4b);
	cr_assert_eq(rd(PPR), 0x4b, "same class: TPR with its subclass");
}

Test(lapic, software_disable)
{
	wr(TIMER, 0x40);
	wr(SVR, 0xff);
	cr_assert_eq(rd(TIMER), MASKED | 0x40);
	wr(TIMER, 0x41);
	cr_assert_eq(rd(TIMER), MASKED | 0x41, "cannot be unmasked while disabled");
	lapic_deliver(&apic, 0x50, false);
	wr(SVR, 0x1ff);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(rd(TIMER), MASKED | 0x41, "enabling does not unmask");
}

Test(lapic, errors)
{
	wr(ERROR, 0x33);
	bus_read(&bus, BUS_MMIO, LAPIC_BASE + 0x3f0, 4); /* no such register */
	cr_assert_eq(lapic_ack(&apic), 0x33);
	wr(EOI, 0);
	cr_assert_eq(rd(ESR), 0, "not latched before a write");
	wr(ESR, 0);
	cr_assert_eq(rd(ESR), 0x80);
	wr(ESR, 0);
	cr_assert_eq(rd(ESR), 0);
	lapic_deliver(&apic, 15, false);
	wr(ICR2, 3u << 24);
	wr(ICR, 5);
	wr(0x400, 1);
	wr(ESR, 0);
	cr_assert_eq(rd(ESR), 0xe0);
	wr(ERROR, 0x02); /* an illegal vector for errors themselves */
	wr(0x0, 1);
	wr(ESR, 0);
	cr_assert_eq(rd(ESR), 0xc0);
}

Test(lapic, odd_accesses)
{
	cr_assert_eq(bus_read(&bus, BUS_MMIO, LAPIC_BASE + ID + 3, 1), 3);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, LAPIC_BASE + VERSION + 2, 2), 5);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, LAPIC_BASE + ID + 4, 4), 0);
	bus_write(&bus, BUS_MMIO, LAPIC_BASE + TPR, 1, 0x20);
	bus_write(&bus, BUS_MMIO, LAPIC_BASE + TPR + 4, 4, 0x20);
	cr_assert_eq(rd(TPR), 0);
	wr(ID, 0xffffffff);
	wr(VERSION, 0);
	cr_assert_eq(rd(ID), 3u << 24);
	wr(TIMER, 0xffffffff);
	cr_assert_eq(rd(TIMER), 0x700ff);
	wr(LINT0, 0xffffffff);
	cr_assert_eq(rd(LINT0), 0x1a7ff);
	wr(DIVIDE, 0xffffffff);
	cr_assert_eq(rd(DIVIDE), 0xb);
	wr(DFR, 0);
	cr_assert_eq(rd(DFR), 0x0fffffff);
}

Test(lapic, ipi_to_self)
{
	wr(ICR, 0x40000 | 0x51); /* shorthand */
	cr_assert_eq(lapic_ack(&apic), 0x51);
	wr(EOI, 0);
	wr(ICR2, 3u << 24);
	wr(ICR, 0x52);
	cr_assert_eq(lapic_ack(&apic), 0x52);
	wr(EOI, 0);
	cr_assert_eq(rd(ICR), 0x52);
	cr_assert_eq(rd(ICR2), 3u << 24);
	cr_assert_eq(seen.ipis, 0);
	wr(ICR, 0x80000 | 0x53); /* all including self */
	cr_assert_eq(lapic_ack(&apic), 0x53);
	wr(EOI, 0);
	cr_assert_eq(seen.ipis, 1);
	cr_assert_eq(seen.dest, ~0u);
	wr(ICR2, 3u << 24);
	wr(ICR, APIC_NMI << 8);
	cr_assert_eq(seen.nmis, 1);
}

Test(lapic, ipi_to_others)
{
	wr(ICR2, 1u << 24);
	wr(ICR, 0x4500); /* INIT */
	cr_assert_eq(seen.ipis, 1);
	cr_assert_eq(seen.mode, APIC_INIT);
	cr_assert_eq(seen.dest, 1);
	cr_assert_not(seen.to_self);
	wr(ICR, 0x8500); /* INIT level de-assert */
	cr_assert_eq(seen.ipis, 1);
	wr(ICR, 0x4608); /* start-up */
	cr_assert_eq(seen.mode, APIC_SIPI);
	cr_assert_eq(seen.vector, 8);
	wr(ICR, 0xc0000 | 0x60); /* all but self */
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(seen.ipis, 3);
	wr(ICR2, 3u << 24);
	wr(ICR, 0x4500);
	cr_assert_eq(seen.ipis, 4);
	cr_assert(seen.to_self);
}

Test(lapic, physical_messages)
{
	lapic_message(&apic, 0x40, APIC_FIXED, false, 2, false);
	cr_assert_not(lapic_pending(&apic));
	lapic_message(&apic, 0x40, APIC_FIXED, false, 3, false);
	cr_assert_eq(lapic_ack(&apic), 0x40);
	lapic_message(&apic, 0x50, APIC_LOWEST, false, 0xff, false);
	cr_assert_eq(lapic_ack(&apic), 0x50);
	lapic_message(&apic, 0, APIC_NMI, false, 3, false);
	cr_assert_eq(seen.nmis, 1);
	lapic_message(&apic, 0, APIC_SMI, false, 3, false);
	cr_assert_eq(seen.ipis, 1);
	cr_assert(seen.to_self);
	enter_x2apic();
	lapic_message(&apic, 0x60, APIC_FIXED, false, 0xff, false);
	cr_assert_eq(lapic_ack(&apic), 0x60, "an 8-bit broadcast");
}

Test(lapic, logical_messages)
{
	wr(LDR, 0xffffffff);
	cr_assert_eq(rd(LDR), 0xff000000);
	wr(LDR, 0x22000000);
	lapic_message(&apic, 0x40, APIC_FIXED, false, 0x1d, true);
	cr_assert_not(lapic_pending(&apic));
	lapic_message(&apic, 0x40, APIC_FIXED, false, 0x20, true);
	cr_assert(lapic_pending(&apic), "flat: any common bit");
	wr(DFR, 0x0fffffff);
	lapic_message(&apic, 0x50, APIC_FIXED, false, 0x12, true);
	cr_assert_eq(lapic_ack(&apic), 0x40, "cluster: another one");
	lapic_message(&apic, 0x50, APIC_FIXED, false, 0x23, true);
	cr_assert_eq(lapic_ack(&apic), 0x50);
	enter_x2apic();
	cr_assert_eq(rdmsr(0x80d), 8);
	lapic_message(&apic, 0x60, APIC_FIXED, false, 0x10008, true);
	cr_assert_not(lapic_pending(&apic));
	lapic_message(&apic, 0x60, APIC_FIXED, false, 0x9, true);
	cr_assert_eq(lapic_ack(&apic), 0x60);
}

Test(lapic, extint)
{
	cr_assert_not(lapic_extint_enabled(&apic));
	lapic_set_virtual_wire(&apic);
	cr_assert(lapic_extint_enabled(&apic));
	cr_assert_eq(rd(LINT0), 0x8700);
	cr_assert_eq(rd(LINT1), 0x8400);
	cr_assert(rd(SVR) & 0x100);
	seen.changed = 0;
	lapic_set_lint(&apic, 0, 1);
	cr_assert_gt(seen.changed, 0);
	cr_assert_not(lapic_pending(&apic));
	wr(LINT0, MASKED | 0x700);
	cr_assert_not(lapic_extint_enabled(&apic));
	wr(LINT0, 0x31);
	cr_assert_not(lapic_extint_enabled(&apic));
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE | APIC_BASE_BSP), 0);
	cr_assert(lapic_extint_enabled(&apic), "no APIC: the 8259 is wired to the CPU");
}

Test(lapic, lint_edge_and_nmi)
{
	wr(LINT0, 0x31);
	lapic_set_lint(&apic, 0, 1);
	cr_assert_eq(lapic_ack(&apic), 0x31);
	wr(EOI, 0);
	lapic_set_lint(&apic, 0, 1);
	cr_assert_not(lapic_pending(&apic));
	lapic_set_lint(&apic, 1, 1);
	cr_assert_eq(seen.nmis, 0, "masked");
	lapic_set_lint(&apic, 1, 0);
	wr(LINT1, APIC_NMI << 8);
	lapic_set_lint(&apic, 1, 1);
	cr_assert_eq(seen.nmis, 1);
}

Test(lapic, lint_level)
{
	wr(LINT0, MASKED | 0x8031);
	lapic_set_lint(&apic, 0, 1);
	cr_assert_not(lapic_pending(&apic));
	wr(LINT0, 0x8031);
	cr_assert_eq(rd(LINT0), 0xc031, "remote IRR");
	cr_assert_eq(lapic_ack(&apic), 0x31);
	wr(EOI, 0);
	cr_assert_eq(lapic_ack(&apic), 0x31, "still asserted");
	wr(LINT0, 0x8031);
	cr_assert_eq(rd(LINT0), 0xc031, "remote IRR is not the guest's to clear");
	cr_assert_eq(rd(IRR + 0x10), 0);
	lapic_set_lint(&apic, 0, 0);
	wr(EOI, 0);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(rd(LINT0), 0x8031);
}

Test(lapic, base_transitions)
{
	static const u64 en = LAPIC_BASE | APIC_BASE_ENABLE, x2 = en | APIC_BASE_X2APIC;

	cr_assert_eq(wrmsr(MSR_APIC_BASE, en | 1), -1, "reserved bit");
	cr_assert_eq(wrmsr(MSR_APIC_BASE, en | BIT(40)), -1, "beyond the physical address width");
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE | APIC_BASE_X2APIC), -1);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, x2), 0);
	cr_assert_eq(rdmsr(MSR_APIC_BASE), x2);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, en), -1, "x2APIC to xAPIC");
	cr_assert_eq(rdmsr(MSR_APIC_BASE), x2);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, x2), 0);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE), 0);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, x2), -1, "disabled to x2APIC");
	cr_assert_eq(wrmsr(MSR_APIC_BASE, en), 0);
	cr_assert_eq(rd(SVR), 0xff, "power-up state");
}

Test(lapic, page_follows_the_base)
{
	cr_assert_eq(wrmsr(MSR_APIC_BASE, 0xd0000000 | APIC_BASE_ENABLE), 0);
	cr_assert_eq(rd(ID), 0xffffffff);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0xd0000020, 4), 3u << 24);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE), 0);
	cr_assert_eq(bus_read(&bus, BUS_MMIO, 0xd0000020, 4), 0xffffffff);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE | APIC_BASE_ENABLE), 0);
	cr_assert_eq(rd(ID), 3u << 24);
	enter_x2apic();
	cr_assert_eq(rd(ID), 0xffffffff, "no MMIO in x2APIC mode");
	lapic_reset(&apic);
	cr_assert_eq(rd(ID), 3u << 24);
}

static void no_deliver(void *opaque, u8 v, unsigned mode, bool level, u32 dest, bool logical)
{
	(void)opaque, (void)v, (void)mode, (void)level, (void)dest, (void)logical;
}

Test(lapic, page_on_top_of_another_device)
{
	static struct ioapic io;

	ioapic_init(&io, no_deliver, NULL);
	cr_assert_eq(ioapic_register(&io, &bus), 0);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, IOAPIC_BASE | APIC_BASE_ENABLE), 0);
	cr_assert_eq(rd(ID), 0xffffffff);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE | APIC_BASE_ENABLE), 0);
	cr_assert_eq(rd(ID), 3u << 24);
}

Test(lapic, x2apic_registers)
{
	cr_assert(msr_faults(0x802), "not in xAPIC mode");
	cr_assert_eq(wrmsr(0x80b, 0), -1);
	enter_x2apic();
	cr_assert_eq(rdmsr(0x802), 3);
	cr_assert_eq(rdmsr(0x803), 0x50014);
	cr_assert_eq(rdmsr(0x80f), 0x1ff);
	/* What is not there, read-only or write-only. */
	cr_assert(msr_faults(0x800));
	cr_assert(msr_faults(0x809));
	cr_assert(msr_faults(0x80b));
	cr_assert(msr_faults(0x80e));
	cr_assert(msr_faults(0x82f));
	cr_assert(msr_faults(0x831));
	cr_assert(msr_faults(0x83f));
	cr_assert(msr_faults(0x840));
	cr_assert_eq(wrmsr(0x802, 0), -1);
	cr_assert_eq(wrmsr(0x80d, 0), -1);
	cr_assert_eq(wrmsr(0x810, 0), -1);
	cr_assert_eq(wrmsr(0x839, 0), -1);
	/* Reserved bits. */
	cr_assert_eq(wrmsr(0x80b, 1), -1);
	cr_assert_eq(wrmsr(0x828, 1), -1);
	cr_assert_eq(wrmsr(0x808, 0x100), -1);
	cr_assert_eq(wrmsr(0x808, BIT(32)), -1);
	cr_assert_eq(wrmsr(0x80f, 0x400), -1);
	cr_assert_eq(wrmsr(0x832, 0x80000), -1);
	cr_assert_eq(wrmsr(0x835, 0x20000), -1);
	cr_assert_eq(wrmsr(0x835, 0x5700), 0, "delivery status and remote IRR are read-only");
	cr_assert_eq(rdmsr(0x835), 0x700);
	cr_assert_eq(wrmsr(0x838, BIT(32)), -1);
	cr_assert_eq(wrmsr(0x83f, 0x100), -1);
}

Test(lapic, x2apic_interrupts)
{
	enter_x2apic();
	cr_assert_eq(wrmsr(0x83f, 0x71), 0);
	cr_assert_eq(rdmsr(0x823), 1u << 17);
	cr_assert_eq(lapic_ack(&apic), 0x71);
	cr_assert_eq(rdmsr(0x813), 1u << 17);
	cr_assert_eq(rdmsr(0x80a), 0x70);
	cr_assert_eq(wrmsr(0x80b, 0), 0);
	cr_assert_eq(wrmsr(0x830, (u64)3 << 32 | 0x72), 0);
	cr_assert_eq(rdmsr(0x830), (u64)3 << 32 | 0x72);
	cr_assert_eq(lapic_ack(&apic), 0x72);
	cr_assert_eq(wrmsr(0x80b, 0), 0);
	cr_assert_eq(wrmsr(0x830, (u64)0xff << 32 | 0x73), 0);
	cr_assert_not(lapic_pending(&apic), "0xff is an ordinary ID here");
	cr_assert_eq(wrmsr(0x830, (u64)~0u << 32 | 0x74), 0);
	cr_assert_eq(lapic_ack(&apic), 0x74);
	cr_assert_eq(wrmsr(0x83f, 3), 0);
	cr_assert_eq(wrmsr(0x828, 0), 0);
	cr_assert_eq(rdmsr(0x828), 0x20);
}

Test(lapic, one_shot)
{
	wr(TIMER, 0x40);
	wr(DIVIDE, 0xb); /* 1 */
	wr(INITIAL, 100000);
	cr_assert_eq(rd(CURRENT), 100000);
	now += 40000;
	timerq_run(&q);
	cr_assert_eq(rd(CURRENT), 60000);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(count_interrupts(now + 60000, 0x40), 1);
	cr_assert_eq(rd(CURRENT), 0);
	cr_assert_eq(rd(INITIAL), 100000);
	cr_assert_eq(count_interrupts(now + 1000000, 0x40), 0);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
}

/* The host may have other work between any two instructions of ours. */
Test(lapic, no_expiry_is_lost_in_a_write)
{
	wr(TIMER, 0x40);
	wr(DIVIDE, 0xb);
	passes = 150000;
	wr(INITIAL, 100000);
	passes = 0;
	cr_assert_eq(count_interrupts(now + 100000, 0x40), 1, "while it is armed");
	wr(INITIAL, 100000);
	now += 40000;
	passes = 40000;
	wr(TIMER, 0x41);
	passes = 0;
	cr_assert_eq(count_interrupts(now + 50000, 0x41), 1, "while its vector changes");
	wr(INITIAL, 100000);
	now += 20000;
	passes = 70000;
	wr(DIVIDE, 0);
	passes = 0;
	cr_assert_eq(count_interrupts(now + 200000, 0x41), 1, "while its speed does");
}

Test(lapic, zero_count_stops)
{
	wr(TIMER, PERIODIC | 0x40);
	wr(INITIAL, 100000);
	wr(INITIAL, 0);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
	cr_assert_eq(rd(CURRENT), 0);
}

Test(lapic, divide)
{
	static const unsigned by[8] = {2, 4, 8, 16, 32, 64, 128, 1};

	wr(TIMER, 0x40);
	for (unsigned i = 0; i < 8; i++) {
		wr(DIVIDE, (i & 3) | (i & 4) << 1);
		wr(INITIAL, 1000);
		cr_assert_eq(timerq_next(&q), now + 1000 * by[i]);
		now += 400 * by[i];
		cr_assert_eq(rd(CURRENT), 600);
	}
	/* Changing it keeps the count. */
	wr(DIVIDE, 0);
	cr_assert_eq(rd(CURRENT), 600);
	cr_assert_eq(timerq_next(&q), now + 1200);
}

Test(lapic, longest_count)
{
	wr(TIMER, 0x40);
	wr(DIVIDE, 0xa); /* 128 */
	wr(INITIAL, 0xffffffff);
	cr_assert_eq(timerq_next(&q), now + 0xffffffffull * 128);
	cr_assert_eq(rd(CURRENT), 0xffffffff);
}

Test(lapic, periodic_keeps_phase_and_coalesces)
{
	u64 start = now;

	wr(TIMER, PERIODIC | 0x40);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 333333);
	cr_assert_eq(count_interrupts(start + 333333 * 1000, 0x40), 1000);
	now = start + 333333 * 1007 + 1234; /* seven missed */
	timerq_run(&q);
	cr_assert_eq(lapic_ack(&apic), 0x40);
	wr(EOI, 0);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(timerq_next(&q), start + 333333ull * 1008);
	cr_assert_eq(rd(CURRENT), 333333 - 1234);
}

Test(lapic, absurdly_short_periods_are_thinned_out)
{
	u64 start = now;
	unsigned n;

	wr(TIMER, PERIODIC | 0x40);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 1);
	n = count_interrupts(start + 20000000, 0x40);
	cr_assert(n >= 500 && n <= 1001, "%u", n);
}

Test(lapic, masked_timer_counts_without_a_host_timer)
{
	wr(TIMER, MASKED | PERIODIC | 0x40);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 100000);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
	now += 250000;
	cr_assert_eq(rd(CURRENT), 50000);
	wr(TIMER, PERIODIC | 0x40);
	cr_assert_not(lapic_pending(&apic), "what expired while masked is gone");
	cr_assert_eq(timerq_next(&q), now + 50000);
}

Test(lapic, due_expiry_survives_reprogramming)
{
	wr(TIMER, 0x40);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 1000);
	now += 2000; /* expired, timers not run yet */
	wr(INITIAL, 500000);
	cr_assert_eq(lapic_ack(&apic), 0x40);
	cr_assert_eq(timerq_next(&q), now + 500000);
}

Test(lapic, tsc_deadline)
{
	u64 deadline = (now + 50000) * 3;

	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, deadline), 0);
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), 0, "ignored in other modes");
	wr(TIMER, DEADLINE | 0x40);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, deadline), 0);
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), deadline);
	wr(INITIAL, 100);
	cr_assert_eq(rd(INITIAL), 0);
	cr_assert_eq(rd(CURRENT), 0);
	run_to(now + 49999);
	cr_assert_not(lapic_pending(&apic));
	run_to(now + 3);
	cr_assert_eq(lapic_ack(&apic), 0x40);
	wr(EOI, 0);
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), 0);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
}

Test(lapic, tsc_deadline_in_the_past_fires_at_once)
{
	wr(TIMER, DEADLINE | 0x40);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, 1), 0);
	cr_assert_eq(lapic_ack(&apic), 0x40);
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), 0);
}

Test(lapic, tsc_deadline_is_disarmed)
{
	wr(TIMER, DEADLINE | 0x40);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, ~0ull), 0);
	cr_assert_neq(timerq_next(&q), TIMER_NEVER, "far away, but armed");
	cr_assert_gt(timerq_next(&q), now + NS_PER_SEC);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, 0), 0);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, (now + 1000) * 3), 0);
	wr(TIMER, 0x40);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER, "by a change of mode");
	wr(TIMER, DEADLINE | 0x40);
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), 0);
	/* Passing while masked: no interrupt, then or later. */
	wr(TIMER, MASKED | DEADLINE | 0x40);
	cr_assert_eq(wrmsr(MSR_TSC_DEADLINE, (now + 1000) * 3), 0);
	now += 5000;
	cr_assert_eq(rdmsr(MSR_TSC_DEADLINE), 0);
	wr(TIMER, DEADLINE | 0x40);
	cr_assert_not(lapic_pending(&apic));
}

Test(lapic, reserved_timer_mode_is_silent)
{
	wr(TIMER, PERIODIC | DEADLINE | 0x40);
	wr(INITIAL, 1000);
	run_to(now + 100000);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(rd(CURRENT), 0);
}

Test(lapic, illegal_timer_vector)
{
	wr(TIMER, 5);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 1000);
	run_to(now + 2000);
	cr_assert_not(lapic_pending(&apic));
	wr(ESR, 0);
	cr_assert_eq(rd(ESR), 0x40);
}

Test(lapic, disabling_stops_everything)
{
	wr(TIMER, PERIODIC | 0x40);
	wr(INITIAL, 100000);
	lapic_deliver(&apic, 0x60, true);
	cr_assert_eq(wrmsr(MSR_APIC_BASE, LAPIC_BASE), 0);
	cr_assert_not(lapic_pending(&apic));
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
	lapic_message(&apic, 0x60, APIC_NMI, false, 3, false);
	cr_assert_eq(seen.nmis, 0);
}

Test(lapic, works_with_the_io_apic)
{
	static struct ioapic io;

	ioapic_init(&io, lapic_message, &apic);
	cr_assert_eq(ioapic_register(&io, &bus), 0);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE, 4, 0x10 + 2 * 9 + 1);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4, 3u << 24);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE, 4, 0x10 + 2 * 9);
	bus_write(&bus, BUS_MMIO, IOAPIC_BASE + 0x10, 4, 0x8059);
	ioapic_set_irq(&io, 9, 1);
	cr_assert_eq(lapic_ack(&apic), 0x59);
	wr(EOI, 0);
	cr_assert_eq(seen.eoi, 0x59);
	ioapic_eoi(&io, seen.eoi);
	cr_assert(lapic_pending(&apic), "the line is still asserted");
}
