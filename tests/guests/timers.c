/*
 * The timers: PIT modes 0, 2 and 3 and its latches, RTC periodic and update interrupts, local APIC
 * timer one-shot, periodic and by TSC deadline, the ACPI PM timer. Rates are compared with each
 * other within bounds that a loaded machine keeps. Intel 8254 and Motorola MC146818 data sheets;
 * SDM vol. 3, 10.5.4; ACPI 4.8.3.3.
 */
#include "lib.h"

enum { IRQ0 = 0x20, IRQ8 = 0x28, TIMER = 0x60 };

static volatile u32 pit_count, rtc_count, apic_count;
static volatile u8 rtc_reason;

#define LAPIC(reg) (*(volatile u32 *)(0xfee00000ul + (reg)))

static void pit_irq(struct regs *r)
{
	(void)r;
	pit_count++;
	outb(0x20, 0x20);
}

static u8 cmos(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void cmos_write(u8 reg, u8 v)
{
	outb(0x70, reg);
	outb(0x71, v);
}

static void rtc_irq(struct regs *r)
{
	(void)r;
	rtc_count++;
	rtc_reason |= cmos(0xc);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void apic_irq(struct regs *r)
{
	(void)r;
	apic_count++;
	LAPIC(0xb0) = 0;
}

static void mask(u16 m)
{
	outb(0x21, m);
	outb(0xa1, m >> 8);
}

static void pit(u8 mode, u32 divisor)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, divisor);
	outb(0x40, divisor >> 8);
}

static u32 pit_read(void)
{
	u32 v;

	outb(0x43, 0);
	v = inb(0x40);
	return v | inb(0x40) << 8;
}

/* Handle interrupts that may be waiting. */
static void window(void)
{
	ASM("sti; nop; nop; cli" : : : "memory");
}

static void wait_hlt(volatile u32 *counter, u32 until)
{
	while (*counter < until)
		ASM("sti; hlt; cli" : : : "memory");
}

/* Busy for so many hundredths of a second, by channel 2, in pieces as long as it can count. */
static void delay_10ms(unsigned n)
{
	u8 port = inb(0x61) & ~3;

	while (n) {
		unsigned piece = n > 5 ? 5 : n;
		u32 count = piece * 11932;

		outb(0x61, port);
		outb(0x43, 0xb0);
		outb(0x42, count);
		outb(0x42, count >> 8);
		outb(0x61, port | 1);
		while (!(inb(0x61) & 0x20))
			window();
		n -= piece;
	}
	outb(0x61, port);
}

/* A last tick and no more. */
static void pit_stop(void)
{
	pit(0, 2);
	delay_10ms(5);
}

static bool between(u32 v, u32 low, u32 high)
{
	return v >= low && v <= high;
}

/* A rate. On a loaded machine ticks are late or lost, so it is measured again: a wrong one stays
 * wrong. */
static void check_rate(const char *name, bool (*measure)(void))
{
	unsigned tries = 0;

	while (tries < 20 && !measure())
		tries++;
	check(name, tries < 20);
}

/* Events come, though late: so many of them, and then no more. */
static void say_events(const char *name, volatile u32 *counter, u32 expected)
{
	unsigned i;

	for (i = 0; i < 200 && *counter < expected; i++)
		delay_10ms(1);
	delay_10ms(3);
	say_dec(name, *counter);
}

static volatile u32 *quiet_counter;

static bool is_quiet(void)
{
	*quiet_counter = 0;
	delay_10ms(5);
	return !*quiet_counter;
}

/* Once a last event has come there are no more. */
static void check_quiet(const char *name, volatile u32 *counter)
{
	quiet_counter = counter;
	check_rate(name, is_quiet);
}

/* --- PIT --- */

static void test_pit(void)
{
	u32 a, b, i;
	bool good = true;

	pit(2, 0xffff);
	/* Counts down. */
	a = pit_read();
	for (i = 0; i < 2000 && pit_read() == a; i++)
		;
	check("PIT counts", pit_read() != a);
	/* A latched value stays until it is read. */
	outb(0x43, 0);
	delay_10ms(1);
	outb(0x43, 0);
	a = inb(0x40);
	a |= inb(0x40) << 8;
	b = pit_read();
	check("PIT latch holds", a != b);
	/* Never above the divisor. */
	pit(2, 1000);
	for (i = 0; i < 500; i++)
		good &= pit_read() <= 1000;
	check("PIT below its divisor", good);
	/* Status read-back: mode 2, both bytes, count loaded. */
	outb(0x43, 0xe2);
	say("PIT status", inb(0x40) & 0x3f);
	pit(3, 1000);
	outb(0x43, 0xe2);
	say("PIT status, mode 3", inb(0x40) & 0x3f);
	/* Mode 0: OUT is low until the end. */
	pit(0, 20000);
	outb(0x43, 0xe2);
	say("PIT status, mode 0", inb(0x40) & 0xbf);
	delay_10ms(3);
	outb(0x43, 0xe2);
	say("and later", inb(0x40) & 0xbf);
}

static bool pit_rate(void)
{
	pit_count = 0;
	delay_10ms(50);
	return between(pit_count, 20, 80);
}

static void test_pit_irq(void)
{
	handlers[IRQ0] = pit_irq;
	pit_stop();
	mask(0xfffe);
	window();
	pit_count = 0;
	pit(0, 5000);
	say_events("one-shot interrupts", &pit_count, 1);
	pit(2, 11932);
	check_rate("100 Hz against channel 2", pit_rate);
	pit_count = 0;
	pit(3, 11932);
	wait_hlt(&pit_count, 20);
	check("mode 3 ticks", pit_count >= 20);
	pit_stop();
	check_quiet("stopped", &pit_count);
	mask(0xffff);
}

/* --- RTC --- */

static u32 bcd(u8 v)
{
	return (v >> 4) * 10 + (v & 15);
}

/* A second of the clock is a second of the PIT. */
static bool seconds_agree(void)
{
	u8 second = cmos(0);
	u32 start;

	while (cmos(0) == second)
		window();
	second = cmos(0);
	start = pit_count;
	while (cmos(0) == second)
		window();
	return between(pit_count - start, 30, 140);
}

static bool rtc_rate(void)
{
	u32 start = pit_count;

	rtc_count = 0;
	wait_hlt(&rtc_count, 200);
	return between(pit_count - start, 6, 80);
}

static void test_rtc(void)
{
	u8 a = cmos(0xa);

	check("RTC divider", (a & 0x70) == 0x20);
	check("RTC valid", cmos(0xd) & 0x80);
	cmos_write(0xb, 2);
	check("RTC date", between(bcd(cmos(8)), 1, 12) && between(bcd(cmos(7)), 1, 31) &&
			      bcd(cmos(4)) < 24 && bcd(cmos(2)) < 60);
	handlers[IRQ8] = rtc_irq;
	handlers[IRQ0] = pit_irq;
	cmos(0xc);
	mask(0xfefa); /* 0, 2 and 8 */
	pit_stop();
	window();
	pit(2, 11932);
	check_rate("a second is a second", seconds_agree);
	/* Periodic: 1024 Hz. */
	rtc_reason = 0;
	cmos_write(0xa, 0x26);
	cmos_write(0xb, 0x42);
	check_rate("RTC rate", rtc_rate);
	check("RTC periodic interrupts", rtc_reason & 0x40);
	cmos_write(0xb, 2);
	window();
	cmos(0xc);
	check_quiet("RTC off", &rtc_count);
	/* Without reading register C there is no further interrupt. */
	handlers[IRQ8] = NULL;
	mask(0xfffb);
	cmos_write(0xb, 0x42);
	delay_10ms(3);
	check("RTC flags", (cmos(0xc) & 0xc0) == 0xc0);
	cmos_write(0xb, 2);
	cmos(0xc);
	/* End of update. */
	handlers[IRQ8] = rtc_irq;
	mask(0xfefb);
	window();
	rtc_count = 0;
	rtc_reason = 0;
	cmos_write(0xb, 0x12);
	wait_hlt(&rtc_count, 1);
	check("RTC update interrupt", rtc_reason & 0x10);
	cmos_write(0xb, 2);
	cmos(0xc);
	pit_stop();
	mask(0xffff);
}

/* --- local APIC timer --- */

/* How far does the APIC timer get in 20 ms? */
static u32 apic_20ms(u32 divider)
{
	u32 n;

	LAPIC(0x3e0) = divider;
	LAPIC(0x380) = 0xffffffff;
	delay_10ms(2);
	n = ~LAPIC(0x390);
	LAPIC(0x380) = 0;
	return n;
}

/* By 1 against by 16. */
static bool apic_divides(void)
{
	u32 by_16 = apic_20ms(3);

	return between(apic_20ms(0xb) / by_16, 8, 32);
}

static bool apic_rate(void)
{
	apic_count = 0;
	delay_10ms(30);
	return between(apic_count, 10, 50);
}

static void test_apic(void)
{
	u32 a, b, i;

	handlers[TIMER] = apic_irq;
	LAPIC(0xf0) = 0x1ff;
	LAPIC(0x3e0) = 0xb; /* by 1 */
	LAPIC(0x320) = 0x10000 | TIMER;
	LAPIC(0x380) = 0xffffffff;
	a = LAPIC(0x390);
	for (i = 0; i < 1000 && LAPIC(0x390) == a; i++)
		;
	b = LAPIC(0x390);
	check("APIC timer counts down", b < a);
	check("APIC initial count reads back", LAPIC(0x380) == 0xffffffff);
	LAPIC(0x380) = 0;
	check("APIC timer stopped", LAPIC(0x390) == 0);
	check_rate("APIC timer divides", apic_divides);
	a = apic_20ms(0xb);
	say_dec("APIC masked", apic_count);
	/* One-shot. */
	LAPIC(0x320) = TIMER;
	LAPIC(0x380) = a / 8;
	say_events("APIC one-shot", &apic_count, 1);
	check("APIC count at 0", LAPIC(0x390) == 0);
	/* Periodic. */
	apic_count = 0;
	LAPIC(0x320) = 0x20000 | TIMER;
	LAPIC(0x380) = a / 2; /* 10 ms */
	check_rate("APIC periodic", apic_rate);
	wait_hlt(&apic_count, 60);
	check("APIC periodic from HLT", apic_count >= 60);
	LAPIC(0x380) = 0;
	check_quiet("APIC periodic stopped", &apic_count);
	LAPIC(0x320) = 0x10000;
}

/* --- TSC --- */

static u64 rdtsc(void)
{
	u32 lo, hi;

	ASM("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

static void test_tsc(void)
{
	bool good = true;
	u64 a = rdtsc(), b, per_10ms;
	u32 i;

	for (i = 0; i < 1000; i++, a = b) {
		b = rdtsc();
		good &= b >= a;
	}
	check("TSC monotonic", good);
	a = rdtsc();
	delay_10ms(2);
	per_10ms = (rdtsc() - a) >> 1;
	check("TSC rate", per_10ms > 1000000 && per_10ms < 400000000);
	if (!(cpuid(1, 0).c & 1u << 24)) {
		put("[deadline] skipped\n");
		return;
	}
	apic_count = 0;
	LAPIC(0x320) = 0x40000 | TIMER;
	ASM("mfence");
	wrmsr(0x6e0, rdtsc() + per_10ms);
	check("[deadline] armed", rdmsr(0x6e0) != 0);
	say_events("[deadline] interrupts", &apic_count, 1);
	check("[deadline] disarmed", rdmsr(0x6e0) == 0);
	wrmsr(0x6e0, rdtsc() + per_10ms);
	wrmsr(0x6e0, 0);
	say_events("[deadline] cancelled", &apic_count, 1);
	wrmsr(0x6e0, 1);
	say_events("[deadline] in the past", &apic_count, 2);
	wrmsr(0x6e0, rdtsc() + per_10ms);
	wait_hlt(&apic_count, 3);
	say_dec("[deadline] from HLT", apic_count);
	LAPIC(0x320) = 0x10000;
}

/* --- PM timer --- */

static const u8 *find_table(const char *signature)
{
	const u8 *p, *rsdt;
	u32 i, n;

	for (p = (u8 *)0xe0000; p < (u8 *)0x100000; p += 16)
		if (!memcmp(p, "RSD PTR ", 8))
			break;
	if (p == (u8 *)0x100000)
		return NULL;
	rsdt = (u8 *)*(u32 *)(p + 16);
	if (rsdt) {
		n = (*(u32 *)(rsdt + 4) - 36) / 4;
		for (i = 0; i < n; i++) {
			const u8 *t = (u8 *)*(u32 *)(rsdt + 36 + 4 * i);

			if (!memcmp(t, signature, 4))
				return t;
		}
		return NULL;
	}
	rsdt = (u8 *)*(u32 *)(p + 24);
	n = (*(u32 *)(rsdt + 4) - 36) / 8;
	for (i = 0; i < n; i++) {
		const u8 *t = (u8 *)*(u32 *)(rsdt + 36 + 8 * i);

		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static u32 pm_port;

static bool pm_rate(void)
{
	u32 start = inl(pm_port);

	delay_10ms(2);
	/* 3.579545 MHz. */
	return between((inl(pm_port) - start) & 0xffffff, 60000, 140000);
}

static void test_pm(void)
{
	const u8 *fadt = find_table("FACP");
	bool good = true;
	u32 a, b, i;

	check("FADT", fadt != NULL);
	if (!fadt)
		return;
	pm_port = *(u32 *)(fadt + 76);
	a = inl(pm_port);
	for (i = 0; i < 1000; i++, a = b) {
		b = inl(pm_port);
		good &= ((b - a) & 0xffffff) < 0x800000;
	}
	check("PM timer monotonic", good);
	check_rate("PM timer rate", pm_rate);
}

void guest_main(void)
{
	test_pit();
	test_pit_irq();
	test_rtc();
	test_apic();
	test_tsc();
	test_pm();
}
