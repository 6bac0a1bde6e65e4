/* RTC: time in every format, setting it, UIP, the three interrupts, what CMOS says of the machine.
 */
#include <criterion/criterion.h>
#include <time.h>

#include "chip_rig.h"
#include "mc146818.h"

#define START  1709210096ull /* Thu 2024-02-29 12:34:56 UTC */
#define MS     1000000ull
#define MINUTE (60 * NS_PER_SEC)

static struct chip_rig rig;
static struct mc146818 rtc;

static u64 wall(void *opaque)
{
	return START * NS_PER_SEC + ((struct chip_rig *)opaque)->now;
}

static void setup(void)
{
	struct mc146818_config cfg;

	rig_init(&rig);
	cfg = (struct mc146818_config){.q = &rig.q,
				       .irq = rig_line(&rig),
				       .wall = wall,
				       .wall_opaque = &rig,
				       .ram_low = 3 * GIB,
				       .ram_high = 2 * GIB,
				       .cpus = 1};
	mc146818_init(&rtc, &cfg);
	cr_assert_eq(mc146818_register(&rtc, &rig.bus), 0);
}

static u8 get(u8 index)
{
	rig_out(&rig, 0x70, index);
	return rig_in(&rig, 0x71);
}

static void set(u8 index, u8 val)
{
	rig_out(&rig, 0x70, index);
	rig_out(&rig, 0x71, val);
}

static void expect_bcd(u8 century, u8 year, u8 month, u8 day, u8 h, u8 m, u8 s)
{
	cr_expect_eq(get(CMOS_CENTURY), century, "century %x", get(CMOS_CENTURY));
	cr_expect_eq(get(RTC_YEAR), year, "year %x", get(RTC_YEAR));
	cr_expect_eq(get(RTC_MONTH), month, "month %x", get(RTC_MONTH));
	cr_expect_eq(get(RTC_MDAY), day, "day %x", get(RTC_MDAY));
	cr_expect_eq(get(RTC_HOURS), h, "hours %x", get(RTC_HOURS));
	cr_expect_eq(get(RTC_MINUTES), m, "minutes %x", get(RTC_MINUTES));
	cr_expect_eq(get(RTC_SECONDS), s, "seconds %x", get(RTC_SECONDS));
}

/* Write a time the way an operating system does, in the mode register B will have. */
static void set_time(u8 b, const u8 *v)
{
	static const u8 index[] = {CMOS_CENTURY, RTC_YEAR,    RTC_MONTH,  RTC_MDAY,
				   RTC_HOURS,    RTC_MINUTES, RTC_SECONDS};

	set(RTC_REG_B, RTC_B_SET | b);
	for (unsigned i = 0; i < ARRAY_LEN(index); i++)
		set(index[i], v[i]);
	set(RTC_REG_B, b);
}

TestSuite(mc146818, .init = setup);

Test(mc146818, bcd_time)
{
	expect_bcd(0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56);
	cr_expect_eq(get(RTC_WEEKDAY), 5);
	rig_pass(&rig, 12 * 3600 * NS_PER_SEC);
	expect_bcd(0x20, 0x24, 0x03, 0x01, 0x00, 0x34, 0x56);
	cr_expect_eq(get(RTC_WEEKDAY), 6);
}

Test(mc146818, binary_and_12_hours)
{
	set(RTC_REG_B, RTC_B_24H | RTC_B_DM);
	expect_bcd(20, 24, 2, 29, 12, 34, 56);
	set(RTC_REG_B, RTC_B_DM);
	cr_expect_eq(get(RTC_HOURS), 0x80 | 12); /* noon */
	rig_pass(&rig, 12 * 3600 * NS_PER_SEC);
	cr_expect_eq(get(RTC_HOURS), 12); /* midnight */
	rig_pass(&rig, 23 * 3600 * NS_PER_SEC);
	set(RTC_REG_B, 0);
	cr_expect_eq(get(RTC_HOURS), 0x80 | 0x11);
}

Test(mc146818, host_clock_is_the_default)
{
	struct mc146818_config cfg = {.q = &rig.q};
	struct mc146818 real;
	time_t now = time(NULL);
	struct tm tm;

	mc146818_init(&real, &cfg);
	gmtime_r(&now, &tm);
	bus_init(&rig.bus, NULL);
	cr_assert_eq(mc146818_register(&real, &rig.bus), 0);
	unsigned year = get(RTC_YEAR);
	cr_expect_eq((year >> 4) * 10 + (year & 15), (unsigned)tm.tm_year % 100);
}

Test(mc146818, set_time_keeps_running_from_there)
{
	static const u8 bcd[] = {0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58};
	static const u8 pm[] = {20, 38, 1, 19, 0x80 | 3, 14, 7};

	rig_pass(&rig, 300 * MS);
	set_time(RTC_B_24H, bcd);
	expect_bcd(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
	rig_pass(&rig, 2 * NS_PER_SEC);
	expect_bcd(0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
	set_time(RTC_B_DM, pm);
	set(RTC_REG_B, RTC_B_24H);
	expect_bcd(0x20, 0x38, 0x01, 0x19, 0x15, 0x14, 0x07);
	mc146818_reset(&rtc);
	expect_bcd(0x20, 0x38, 0x01, 0x19, 0x15, 0x14, 0x07);
}

Test(mc146818, extreme_years)
{
	static const u8 last[] = {0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59};
	static const u8 first[] = {0x00, 0x01, 0x01, 0x01, 0x00, 0x00, 0x01};
	static const u8 junk[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	set_time(RTC_B_24H, last);
	expect_bcd(0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
	set_time(RTC_B_24H, first);
	expect_bcd(0x00, 0x01, 0x01, 0x01, 0x00, 0x00, 0x01);
	set_time(RTC_B_24H | RTC_B_DM, junk);
	set_time(0, junk);
	set(RTC_MONTH, 0);
	(void)get(RTC_YEAR);
}

Test(mc146818, weekday_is_a_counter_of_its_own)
{
	set(RTC_WEEKDAY, 1);
	cr_expect_eq(get(RTC_WEEKDAY), 1);
	cr_expect_eq(get(RTC_MDAY), 0x29);
	rig_pass(&rig, 24 * 3600 * NS_PER_SEC);
	cr_expect_eq(get(RTC_WEEKDAY), 2);
}

Test(mc146818, set_freezes_the_registers)
{
	set(RTC_REG_B, RTC_B_SET | RTC_B_24H);
	rig_pass(&rig, MINUTE);
	cr_expect_eq(get(RTC_SECONDS), 0x56);
	set(RTC_SECONDS, 0x10);
	cr_expect_eq(get(RTC_SECONDS), 0x10);
	cr_expect_not(get(RTC_REG_A) & RTC_A_UIP);
	set(RTC_REG_B, RTC_B_24H);
	rig_pass(&rig, NS_PER_SEC);
	expect_bcd(0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x11);
}

Test(mc146818, divider_reset_restarts_half_a_second_before_the_update)
{
	rig_pass(&rig, 900 * MS);
	set(RTC_REG_A, 0x70);
	set(RTC_SECONDS, 0x20);
	rig_pass(&rig, 10 * NS_PER_SEC);
	cr_expect_eq(get(RTC_SECONDS), 0x20);
	set(RTC_REG_A, 0x26);
	rig_pass(&rig, 499 * MS);
	cr_expect_eq(get(RTC_SECONDS), 0x20);
	rig_pass(&rig, 1 * MS);
	cr_expect_eq(get(RTC_SECONDS), 0x21);
}

Test(mc146818, uip_announces_the_update)
{
	rig_pass(&rig, NS_PER_SEC - 2300000);
	cr_expect_not(get(RTC_REG_A) & RTC_A_UIP);
	rig_pass(&rig, 100000);
	cr_expect(get(RTC_REG_A) & RTC_A_UIP);
	cr_expect_eq(get(RTC_SECONDS), 0x56);
	rig_pass(&rig, 2200000);
	cr_expect_not(get(RTC_REG_A) & RTC_A_UIP);
	cr_expect_eq(get(RTC_SECONDS), 0x57);
	set(RTC_REG_A, 0xa6); /* UIP is read-only */
	cr_expect_eq(get(RTC_REG_A), 0x26);
}

Test(mc146818, update_ended_interrupt)
{
	(void)get(RTC_REG_C);
	set(RTC_REG_B, RTC_B_24H | RTC_B_UIE);
	rig_pass(&rig, 999 * MS);
	cr_expect_eq(rig.level, 0);
	rig_pass(&rig, MS);
	cr_expect_eq(rig.level, 1);
	rig_pass(&rig, 5 * NS_PER_SEC);
	cr_expect_eq(rig.edges, 1);
	cr_expect_eq(get(RTC_REG_C) & ~RTC_C_PF, RTC_C_IRQF | RTC_C_UF);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(get(RTC_REG_C) & RTC_C_IRQF, 0);
	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(rig.edges, 2);
	set(RTC_REG_B, RTC_B_24H | RTC_B_UIE | RTC_B_SET);
	cr_expect_not(get(RTC_REG_B) & RTC_B_UIE, "SET clears UIE");
}

Test(mc146818, flags_are_set_without_interrupts)
{
	(void)get(RTC_REG_C);
	cr_expect_eq(get(RTC_REG_C), 0);
	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(get(RTC_REG_C), RTC_C_UF | RTC_C_PF);
	cr_expect_eq(rig.edges, 0);
	cr_expect_eq(timerq_next(&rig.q), TIMER_NEVER, "no timer while nobody waits");
}

Test(mc146818, periodic_interrupt_rate)
{
	unsigned fired = 0;

	(void)get(RTC_REG_C);
	set(RTC_REG_B, RTC_B_24H | RTC_B_PIE); /* 1024 Hz */
	for (unsigned ms = 0; ms < 10000; ms++) {
		rig_pass(&rig, MS / 10);
		if (rig.level) {
			fired++;
			cr_assert(get(RTC_REG_C) & RTC_C_PF);
		}
	}
	cr_expect(fired >= 1023 && fired <= 1025, "%u", fired);

	rig_pass(&rig, MS);   /* off the edge */
	set(RTC_REG_A, 0x2f); /* 2 Hz */
	(void)get(RTC_REG_C);
	unsigned before = rig.edges;
	for (unsigned i = 0; i < 400; i++) {
		rig_pass(&rig, 10 * MS);
		if (rig.level)
			(void)get(RTC_REG_C);
	}
	cr_expect_eq(rig.edges - before, 8, "%u", rig.edges - before);
	set(RTC_REG_A, 0x20);
	(void)get(RTC_REG_C);
	rig_pass(&rig, MINUTE);
	cr_expect_eq(get(RTC_REG_C) & RTC_C_PF, 0, "rate 0: none");
}

/* A rate of 3 is 8192 Hz, 1 and 2 are the oddities 256 and 128 Hz. */
Test(mc146818, rate_selection)
{
	static const struct {
		u8 rs;
		unsigned hz;
	} rates[] = {{1, 256}, {2, 128}, {3, 8192}, {4, 4096}, {9, 128}, {15, 2}};

	for (unsigned i = 0; i < ARRAY_LEN(rates); i++) {
		u64 period = NS_PER_SEC / rates[i].hz;

		set(RTC_REG_A, 0x20 | rates[i].rs);
		rig.now = (rig.now / NS_PER_SEC + 1) * NS_PER_SEC + 1000; /* just past a tick */
		(void)get(RTC_REG_C);
		rig.now += period - 2000;
		cr_expect_not(get(RTC_REG_C) & RTC_C_PF, "rs %u early", rates[i].rs);
		rig.now += 2000;
		cr_expect(get(RTC_REG_C) & RTC_C_PF, "rs %u late", rates[i].rs);
	}
}

Test(mc146818, alarm)
{
	(void)get(RTC_REG_C);
	set(RTC_HOURS_ALARM, 0x14);
	set(RTC_MINUTES_ALARM, 0x00);
	set(RTC_SECONDS_ALARM, 0x05);
	set(RTC_REG_B, RTC_B_24H | RTC_B_AIE);
	rig_pass(&rig, (85 * 60 + 8) * NS_PER_SEC);
	cr_expect_eq(rig.level, 0, "14:00:04");
	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(rig.level, 1, "14:00:05");
	cr_expect_eq(get(RTC_REG_C) & (RTC_C_IRQF | RTC_C_AF), RTC_C_IRQF | RTC_C_AF);
	rig_pass(&rig, 23 * 3600 * NS_PER_SEC);
	cr_expect_eq(rig.edges, 1);
	rig_pass(&rig, 3600 * NS_PER_SEC);
	cr_expect_eq(rig.edges, 2, "every day");
}

Test(mc146818, alarm_wildcards)
{
	(void)get(RTC_REG_C);
	set(RTC_HOURS_ALARM, 0xff);
	set(RTC_MINUTES_ALARM, 0xc0);
	set(RTC_SECONDS_ALARM, 0x00);
	set(RTC_REG_B, RTC_B_24H | RTC_B_AIE);
	for (unsigned i = 0; i < 600; i++) {
		rig_pass(&rig, NS_PER_SEC);
		if (rig.level)
			(void)get(RTC_REG_C);
	}
	cr_expect_eq(rig.edges, 10, "%u", rig.edges);
}

Test(mc146818, alarm_that_matches_no_time)
{
	set(RTC_HOURS_ALARM, 0x7f);
	set(RTC_REG_B, RTC_B_24H | RTC_B_AIE);
	rig_pass(&rig, 48 * 3600 * NS_PER_SEC);
	cr_expect_eq(rig.edges, 0);
}

Test(mc146818, alarm_in_12_hour_mode)
{
	(void)get(RTC_REG_C);
	set(RTC_HOURS_ALARM, 0x81); /* 1 pm */
	set(RTC_MINUTES_ALARM, 0x00);
	set(RTC_SECONDS_ALARM, 0x00);
	set(RTC_REG_B, RTC_B_AIE);
	rig_pass(&rig, (25 * 60 + 3) * NS_PER_SEC);
	cr_expect_eq(rig.level, 0);
	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(rig.level, 1);
}

Test(mc146818, reset_takes_the_interrupts)
{
	set(RTC_REG_B, RTC_B_24H | RTC_B_UIE | RTC_B_PIE | RTC_B_AIE);
	set(CMOS_SHUTDOWN, 0x0a);
	rig_pass(&rig, 2 * NS_PER_SEC);
	cr_expect_eq(rig.level, 1);
	mc146818_reset(&rtc);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(get(RTC_REG_B), RTC_B_24H);
	cr_expect_eq(get(CMOS_SHUTDOWN), 0x0a, "the firmware needs it after the reset");
	rig_pass(&rig, 2 * NS_PER_SEC);
	cr_expect_eq(rig.level, 0);
}

Test(mc146818, memory_sizes)
{
	cr_expect_eq(get(0x15) | get(0x16) << 8, 640);
	cr_expect_eq(get(0x17) | get(0x18) << 8, 0xffff);
	cr_expect_eq(get(0x30) | get(0x31) << 8, 0xffff);
	cr_expect_eq(get(0x34) | get(0x35) << 8, (int)((3 * GIB - 16 * MIB) / (64 * KIB)));
	cr_expect_eq(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, (int)(2 * GIB / (64 * KIB)));
	cr_expect_eq(get(0x5f), 0);

	struct mc146818_config cfg = {.q = &rig.q, .ram_low = MIB, .cpus = 4};
	mc146818_init(&rtc, &cfg);
	cr_expect_eq(get(0x17) | get(0x18) << 8, 0);
	cr_expect_eq(get(0x34) | get(0x35) << 8, 0);
	cr_expect_eq(get(0x5f), 3);
}

Test(mc146818, index_port)
{
	cr_expect_eq(rig_in(&rig, 0x70), 0xff);
	rig_out(&rig, 0x70, 0x80 | RTC_REG_D);
	cr_expect(mc146818_nmi_masked(&rtc));
	cr_expect_eq(rig_in(&rig, 0x71), RTC_D_VRT);
	rig_out(&rig, 0x70, RTC_REG_D);
	cr_expect_not(mc146818_nmi_masked(&rtc));
	rig_out(&rig, 0x71, 0);
	cr_expect_eq(rig_in(&rig, 0x71), RTC_D_VRT, "read-only");
	bus_write(&rig.bus, BUS_PORT, 0x70, 2, 0x5a << 8 | 0x7f);
	cr_expect_eq(get(0x7f), 0x5a, "a word is two bytes");
}
