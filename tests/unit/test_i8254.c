/* The 8254: modes, latches, the periodic interrupt's accuracy, port 0x61. */
#include <criterion/criterion.h>

#include "i8254.h"

static u64 now;
static struct timerq q;
static struct bus bus;
static struct i8254 pit;
static unsigned rises;
static int level;

static u64 passes; /* between two looks at the clock, ns */

static u64 clock_now(void *opaque)
{
	(void)opaque;
	now += passes;
	return now;
}

static void set_irq0(void *opaque, unsigned n, int l)
{
	(void)opaque;
	(void)n;
	rises += l && !level;
	level = l;
}

static void outb(u16 port, u8 val)
{
	bus_write(&bus, BUS_PORT, port, 1, val);
}

static u8 inb(u16 port)
{
	return (u8)bus_read(&bus, BUS_PORT, port, 1);
}

static u64 tick_ns(u64 tick)
{
	return (tick * NS_PER_SEC + I8254_HZ - 1) / I8254_HZ;
}

/* Set the clock to a tick without serving timers. */
static void jump(u64 tick)
{
	now = tick_ns(tick);
}

/* Let time pass up to a tick as the VM would, firing timers on the way. */
static void run_to(u64 tick)
{
	u64 end = tick_ns(tick);

	while (timerq_next(&q) <= end) {
		now = MAX(now, timerq_next(&q));
		timerq_run(&q);
	}
	now = end;
}

static void program(unsigned channel, unsigned mode, u16 count)
{
	outb(0x43, (u8)(channel << 6 | 0x30 | mode << 1));
	outb((u16)(0x40 + channel), (u8)count);
	outb((u16)(0x40 + channel), (u8)(count >> 8));
}

static u16 latch(unsigned channel)
{
	u16 low;

	outb(0x43, (u8)(channel << 6));
	low = inb((u16)(0x40 + channel));
	return (u16)(low | inb((u16)(0x40 + channel)) << 8);
}

static u8 status(unsigned channel)
{
	outb(0x43, (u8)(0xe0 | 2 << channel));
	return inb((u16)(0x40 + channel));
}

static bool out2(void)
{
	return inb(0x61) & 0x20;
}

static void setup(void)
{
	struct irq_line line = {set_irq0, NULL, 0};

	now = 0;
	timerq_init(&q, clock_now, NULL, NULL);
	bus_init(&bus, NULL);
	i8254_init(&pit, &q, &line);
	cr_assert_eq(i8254_register(&pit, &bus), 0);
	outb(0x61, 1);
	jump(1000);
	rises = 0;
}

TestSuite(i8254, .init = setup);

Test(i8254, firmware_state)
{
	cr_assert_eq(status(0), 0x80 | 0x30 | 3 << 1);
	run_to(1000000);
	cr_assert_eq(rises, 1000000 / 65536);
}

Test(i8254, mode0_interrupts_once)
{
	program(0, 0, 100);
	cr_assert_eq(level, 0);
	rises = 0;
	run_to(1100);
	cr_assert_eq(rises, 0, "one clock is spent loading");
	run_to(1101);
	cr_assert_eq(rises, 1);
	run_to(500000);
	cr_assert_eq(rises, 1);
	cr_assert_eq(level, 1);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
}

Test(i8254, mode0_counter_and_gate)
{
	program(2, 0, 1000);
	cr_assert_not(out2());
	jump(1101);
	cr_assert_eq(latch(2), 900);
	outb(0x61, 0);
	jump(5000);
	cr_assert_eq(latch(2), 900, "a low gate stops the count");
	outb(0x61, 1);
	jump(5899);
	cr_assert_eq(latch(2), 1);
	cr_assert_not(out2());
	jump(5900);
	cr_assert(out2());
	jump(5901);
	cr_assert_eq(latch(2), 0xffff, "it wraps and counts on");
	cr_assert(out2());
	outb(0x42, 1); /* the first byte of a new count */
	cr_assert_not(out2());
	jump(9000);
	cr_assert_not(out2(), "half a count does not run");
	outb(0x42, 0);
	jump(9002);
	cr_assert(out2());
}

Test(i8254, mode0_count_written_while_the_gate_is_low)
{
	outb(0x61, 0);
	program(2, 0, 50);
	jump(3000);
	cr_assert_eq(latch(2), 50);
	cr_assert_not(out2());
	outb(0x61, 1);
	jump(3051);
	cr_assert(out2());
}

Test(i8254, mode1_one_shot)
{
	outb(0x61, 0);
	program(2, 1, 20);
	cr_assert(out2(), "waits for the gate");
	cr_assert(status(2) & 0x40);
	jump(2000);
	outb(0x61, 1);
	cr_assert_not(out2());
	jump(2015);
	outb(0x61, 0); /* the level of the gate does not matter, and a rise retriggers */
	outb(0x61, 1);
	jump(2030);
	cr_assert_not(out2());
	jump(2036);
	cr_assert(out2());
	/* A new count waits for the next trigger. */
	outb(0x61, 0);
	outb(0x42, 5);
	outb(0x42, 0);
	jump(2100);
	cr_assert(out2());
	outb(0x61, 1);
	jump(2105);
	cr_assert_not(out2());
	jump(2106);
	cr_assert(out2());
}

Test(i8254, mode2_rate_generator)
{
	program(2, 2, 10);
	jump(1001);
	cr_assert_eq(latch(2), 10);
	jump(1009);
	cr_assert_eq(latch(2), 2);
	cr_assert(out2());
	jump(1010);
	cr_assert_eq(latch(2), 1);
	cr_assert_not(out2());
	jump(1011);
	cr_assert_eq(latch(2), 10);
	cr_assert(out2());
	/* A low gate forces the output high; its rise starts over. */
	jump(1020);
	cr_assert_not(out2());
	outb(0x61, 0);
	cr_assert(out2());
	jump(1030);
	outb(0x61, 1);
	jump(1031);
	cr_assert_eq(latch(2), 10);
}

Test(i8254, mode2_new_count_after_the_present_period)
{
	program(2, 2, 100);
	jump(1050);
	outb(0x42, 30);
	outb(0x42, 0);
	cr_assert(status(2) & 0x40);
	jump(1100);
	cr_assert_eq(latch(2), 1);
	jump(1101);
	cr_assert_eq(latch(2), 30);
	cr_assert_not(status(2) & 0x40);
}

Test(i8254, mode3_square_wave)
{
	program(2, 3, 10);
	for (unsigned t = 0; t < 30; t++) {
		jump(1001 + t);
		cr_assert_eq(out2(), t % 10 < 5, "clock %u", t);
		cr_assert_eq(latch(2), 10 - 2 * (t % 5), "clock %u", t);
	}
	jump(2000);
	program(2, 3, 7); /* odd: high for 4, low for 3 */
	for (unsigned t = 0; t < 21; t++) {
		jump(2001 + t);
		cr_assert_eq(out2(), t % 7 < 4, "clock %u", t);
		cr_assert_eq(latch(2) & 1, 0, "clock %u", t);
	}
}

Test(i8254, mode4_software_strobe)
{
	program(0, 4, 100);
	rises = 0;
	run_to(1101);
	cr_assert_eq(rises, 0);
	run_to(1102);
	cr_assert_eq(rises, 1);
	run_to(200000);
	cr_assert_eq(rises, 1);
	program(2, 4, 10);
	jump(200011);
	cr_assert_not(out2());
	jump(200012);
	cr_assert(out2());
}

Test(i8254, mode5_hardware_strobe)
{
	outb(0x61, 0);
	program(2, 5, 10);
	jump(2000);
	cr_assert(out2());
	outb(0x61, 1);
	jump(2010);
	cr_assert(out2());
	jump(2011);
	cr_assert_not(out2());
	jump(2012);
	cr_assert(out2());
}

Test(i8254, modes_6_and_7_are_2_and_3)
{
	outb(0x43, 0xbc);
	cr_assert_eq(status(2) >> 1 & 7, 2);
	outb(0x43, 0xbe);
	cr_assert_eq(status(2) >> 1 & 7, 3);
}

Test(i8254, periodic_interrupt_does_not_drift)
{
	/* 1000 Hz as Linux programs it: 1193 ticks, not a whole number of nanoseconds. */
	program(0, 2, 1193);
	rises = 0;
	run_to(1000 + 1193 * 10000);
	cr_assert_eq(rises, 9999);
	run_to(1001 + 1193 * 10000);
	cr_assert_eq(rises, 10000);
	cr_assert_eq(timerq_next(&q), tick_ns(1001 + 1193ull * 10001));
}

Test(i8254, missed_periods_become_one)
{
	program(0, 2, 1193);
	rises = 0;
	jump(1001 + 1193 * 7 + 500);
	timerq_run(&q);
	cr_assert_eq(rises, 1);
	cr_assert_eq(timerq_next(&q), tick_ns(1001 + 1193 * 8), "the phase is kept");
}

Test(i8254, absurdly_short_periods_are_thinned_out)
{
	program(0, 2, 2);
	rises = 0;
	run_to(1001 + 24000);
	cr_assert_leq(rises, 1000);
	cr_assert_geq(rises, 500);
	program(0, 2, 1); /* illegal, must not hang or divide by zero */
	run_to(80000);
	program(0, 3, 1);
	run_to(90000);
	latch(0);
}

Test(i8254, due_interrupt_survives_reprogramming)
{
	program(0, 0, 100);
	rises = 0;
	jump(2000); /* long past, and nobody ran the timers yet */
	program(0, 0, 100);
	cr_assert_eq(rises, 1);
	run_to(2101);
	cr_assert_eq(rises, 2);
}

/* The host may have other work between any two instructions of ours. */
Test(i8254, no_rise_is_lost_in_a_write)
{
	static const unsigned modes[] = {0, 4};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		outb(0x43, (u8)(0x10 | modes[i] << 1)); /* counts of one byte */
		rises = 0;
		passes = tick_ns(150);
		outb(0x40, 100);
		passes = 0;
		timerq_run(&q);
		run_to(now / 838 + 200);
		cr_assert_eq(rises, 1, "mode %u", modes[i]);
	}
}

Test(i8254, reprogramming_cancels)
{
	program(0, 2, 1193);
	outb(0x43, 0x30); /* mode 0, no count: silence */
	cr_assert_eq(level, 0);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
}

Test(i8254, latch_holds_until_read)
{
	program(2, 0, 0x1234);
	jump(1001);
	outb(0x43, 0x80);
	jump(1101);
	outb(0x43, 0x80); /* a second latch command is ignored */
	cr_assert_eq(inb(0x42), 0x34);
	jump(1201);
	cr_assert_eq(inb(0x42), 0x12);
	cr_assert_eq(latch(2), 0x1234 - 200);
}

Test(i8254, read_back)
{
	program(1, 2, 0x300);
	program(2, 3, 0x400);
	jump(1001);
	outb(0x43, 0xc0 | 0x0c); /* count and status of channels 1 and 2 */
	jump(1100);
	cr_assert_eq(inb(0x41), 0x80 | 0x30 | 2 << 1, "the status comes first");
	cr_assert_eq(inb(0x41), 0x00);
	cr_assert_eq(inb(0x41), 0x03);
	cr_assert_eq(inb(0x42), 0x80 | 0x30 | 3 << 1);
	cr_assert_eq(inb(0x42), 0x00);
	cr_assert_eq(inb(0x42), 0x04);
	outb(0x43, 0xb0);
	cr_assert_eq(status(2), 0x40 | 0x30, "null count, output low");
}

Test(i8254, byte_access_modes)
{
	outb(0x43, 0x90); /* channel 2, low byte, mode 0 */
	outb(0x42, 200);
	jump(1101);
	cr_assert_eq(inb(0x42), 100);
	cr_assert_eq(inb(0x42), 100);
	outb(0x43, 0xa0); /* high byte */
	outb(0x42, 2);
	jump(1102);
	cr_assert_eq(inb(0x42), 2);
	outb(0x43, 0x80);
	jump(1400);
	cr_assert_eq(inb(0x42), 2, "the latch has the high byte too");
	cr_assert_eq(inb(0x42), 0);
	outb(0x43, 0xb0); /* both: reads alternate */
	outb(0x42, 0x10);
	outb(0x42, 0x20);
	jump(1401);
	cr_assert_eq(inb(0x42), 0x10);
	cr_assert_eq(inb(0x42), 0x20);
	cr_assert_eq(inb(0x42), 0x10);
}

Test(i8254, bcd)
{
	outb(0x43, 0xb1);
	outb(0x42, 0x00);
	outb(0x42, 0x10);
	jump(1002);
	cr_assert_eq(latch(2), 0x0999);
	outb(0x43, 0xb1);
	outb(0x42, 0);
	outb(0x42, 0);
	jump(1003 + 1);
	cr_assert_eq(latch(2), 0x9999, "zero is 10000");
	outb(0x43, 0xb1);
	outb(0x42, 0xff); /* no BCD digits: anything but a crash */
	outb(0x42, 0xff);
	jump(40000);
	latch(2);
}

Test(i8254, count_of_zero_is_65536)
{
	program(2, 0, 0);
	jump(1001);
	cr_assert_eq(latch(2), 0);
	jump(1001 + 65535);
	cr_assert_not(out2());
	jump(1001 + 65536);
	cr_assert(out2());
}

Test(i8254, port_b)
{
	unsigned toggles = 0;
	u8 last = inb(0x61) & 0x10;

	outb(0x61, 0xff);
	cr_assert_eq(inb(0x61) & 0xcf, 0x0f);
	outb(0x61, 0x02);
	cr_assert_eq(inb(0x61) & 0x0f, 0x02);
	for (unsigned i = 0; i < 1000; i++) {
		now += 1000;
		toggles += (inb(0x61) & 0x10) != last;
		last = inb(0x61) & 0x10;
	}
	cr_assert(toggles >= 65 && toggles <= 67, "%u toggles in 1 ms", toggles);
}

/* How Linux calibrates the TSC: channel 2 in mode 0 for 50 ms, watched through port 0x61. */
Test(i8254, tsc_calibration)
{
	u64 begin;

	outb(0x61, (inb(0x61) & ~2) | 1);
	program(2, 0, 59659);
	begin = now;
	while (!out2())
		now += 500;
	cr_assert(now - begin >= 50000000 && now - begin < 50003000, "%lu ns",
		  (unsigned long)(now - begin));
}

Test(i8254, wide_access_is_bytes)
{
	outb(0x43, 0x50); /* channel 1, low byte */
	outb(0x43, 0x90);
	bus_write(&bus, BUS_PORT, 0x41, 2, 0x2010);
	jump(1001);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x41, 2), 0x2010);
	cr_assert_eq(inb(0x43), 0);
}
