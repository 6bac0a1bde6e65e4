/*
 * MC146818 real-time clock and CMOS RAM.
 *
 * Time. While the clock runs (SET clear, divider chain not held in reset) no register ticks: the
 * guest's time is the host's UTC clock plus an offset, computed at each access. A write to a time
 * register folds the difference into the offset. While it is stopped, the time registers are plain
 * memory, and the offset is worked out anew when it goes on. Host clock steps therefore reach the
 * guest, as they should: a guest reads this clock to learn the real time.
 *
 * Flags. PF, AF and UF are settled lazily (rtc_settle) from how far time has moved since the last
 * look; a host timer is armed only while an interrupt is enabled and its flag not yet set. An idle
 * guest with the chip's interrupts off costs nothing, and one that does not read register C is not
 * interrupted again, which is what the held IRQ line does to it anyway.
 *
 * The update cycle. With the 32768 Hz time base an update takes 1984 us and UIP rises 244 us ahead
 * of it (data sheet, "Update Cycle"); here the registers change in one go when UIP falls.
 *
 * Not modelled: daylight saving (DSE is stored), the square-wave pin, time bases other than
 * 32768 Hz (any running divider value counts as that).
 */
#include <string.h>
#include <time.h>

#include "mc146818.h"
#include "byteport.h"

#define RTC_HZ         32768ull
#define UIP_NS         ((244 + 1984) * 1000ull)
#define DIV_RESUME_NS  (NS_PER_SEC / 2) /* first update after the divider is let go */
#define RECHECK_S      60               /* longest sleep: the host's clock may be stepped */
#define SECONDS_A_DAY  86400
#define ALARM_ANY      0xc0
#define B_INTERRUPTS   (RTC_B_PIE | RTC_B_AIE | RTC_B_UIE)
#define C_FLAGS        (RTC_C_PF | RTC_C_AF | RTC_C_UF)
#define DEFAULT_A      0x26 /* 32768 Hz, 1024 Hz periodic rate */
#define BASE_MEMORY_KB 640
#define EQUIPMENT_FPU  0x02

static u64 host_wall(void *opaque)
{
	struct timespec ts;

	(void)opaque;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

/* ---- the clock ---- */

static bool rtc_divider_runs(const struct mc146818 *rtc)
{
	return (rtc->reg[RTC_REG_A] & RTC_A_DV) <= 0x20;
}

static bool rtc_runs(const struct mc146818 *rtc)
{
	return rtc_divider_runs(rtc) && !(rtc->reg[RTC_REG_B] & RTC_B_SET);
}

/* Host time shifted so that its seconds change when the guest's do. */
static u64 rtc_shifted(const struct mc146818 *rtc)
{
	return rtc->cfg.wall(rtc->cfg.wall_opaque) + rtc->offset_ns;
}

/* The guest's second, since 1970, and the nanoseconds into it. */
static s64 rtc_second(const struct mc146818 *rtc)
{
	return (s64)(rtc_shifted(rtc) / NS_PER_SEC) + rtc->offset_s;
}

static u64 rtc_phase(const struct mc146818 *rtc)
{
	return rtc_shifted(rtc) % NS_PER_SEC;
}

static u8 rtc_encode(const struct mc146818 *rtc, unsigned v)
{
	if (rtc->reg[RTC_REG_B] & RTC_B_DM)
		return (u8)v;
	return (u8)((v / 10) << 4 | v % 10);
}

static unsigned rtc_decode(const struct mc146818 *rtc, u8 v)
{
	if (rtc->reg[RTC_REG_B] & RTC_B_DM)
		return v;
	return (v >> 4) * 10u + (v & 15);
}

static u8 rtc_encode_hour(const struct mc146818 *rtc, unsigned hour)
{
	if (rtc->reg[RTC_REG_B] & RTC_B_24H)
		return rtc_encode(rtc, hour);
	return (u8)(rtc_encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static unsigned rtc_decode_hour(const struct mc146818 *rtc, u8 v)
{
	if (rtc->reg[RTC_REG_B] & RTC_B_24H)
		return rtc_decode(rtc, v);
	return rtc_decode(rtc, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

/* Write the running time into the registers. */
static void rtc_latch(struct mc146818 *rtc)
{
	time_t t = rtc_second(rtc);
	struct tm tm;

	gmtime_r(&t, &tm);
	unsigned year = (unsigned)(tm.tm_year + 1900);
	rtc->reg[RTC_SECONDS] = rtc_encode(rtc, (unsigned)tm.tm_sec);
	rtc->reg[RTC_MINUTES] = rtc_encode(rtc, (unsigned)tm.tm_min);
	rtc->reg[RTC_HOURS] = rtc_encode_hour(rtc, (unsigned)tm.tm_hour);
	rtc->reg[RTC_WEEKDAY] = rtc_encode(rtc, ((unsigned)tm.tm_wday + rtc->wday_skew) % 7 + 1);
	rtc->reg[RTC_MDAY] = rtc_encode(rtc, (unsigned)tm.tm_mday);
	rtc->reg[RTC_MONTH] = rtc_encode(rtc, (unsigned)tm.tm_mon + 1);
	rtc->reg[RTC_YEAR] = rtc_encode(rtc, year % 100);
	rtc->reg[CMOS_CENTURY] = rtc_encode(rtc, year / 100 % 100);
}

/* Set the running time from the registers, phase ns into that second. Values out of range carry
 * over into the next field. */
static void rtc_load(struct mc146818 *rtc, u64 phase)
{
	struct tm tm = {
	    .tm_sec = (int)rtc_decode(rtc, rtc->reg[RTC_SECONDS]),
	    .tm_min = (int)rtc_decode(rtc, rtc->reg[RTC_MINUTES]),
	    .tm_hour = (int)rtc_decode_hour(rtc, rtc->reg[RTC_HOURS]),
	    .tm_mday = (int)rtc_decode(rtc, rtc->reg[RTC_MDAY]),
	    .tm_mon = (int)rtc_decode(rtc, rtc->reg[RTC_MONTH]) - 1,
	    .tm_year = (int)(rtc_decode(rtc, rtc->reg[RTC_YEAR]) +
			     rtc_decode(rtc, rtc->reg[CMOS_CENTURY]) * 100) -
		       1900,
	};
	s64 t = timegm(&tm);
	u64 wall = rtc->cfg.wall(rtc->cfg.wall_opaque);
	unsigned wday = rtc_decode(rtc, rtc->reg[RTC_WEEKDAY]);

	rtc->wday_skew = (wday + 6 + 7 - (unsigned)tm.tm_wday) % 7;
	rtc->offset_ns = (phase + NS_PER_SEC - wall % NS_PER_SEC) % NS_PER_SEC;
	rtc->offset_s = t - (s64)((wall + rtc->offset_ns) / NS_PER_SEC);
	rtc->last_second = t;
}

/* ---- flags, interrupt, timers ---- */

static bool alarm_field_matches(u8 alarm, u8 field)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == field;
}

/* Seconds until the next alarm after second s, 1..86400, or 0: the registers match no time. The
 * chip compares the bytes as they stand, in whatever mode they were written. */
static unsigned rtc_next_alarm(const struct mc146818 *rtc, s64 s)
{
	s64 day = s % SECONDS_A_DAY;
	unsigned start = (unsigned)(day < 0 ? day + SECONDS_A_DAY : day) + 1, t = start;

	while (t < start + SECONDS_A_DAY) {
		unsigned h = t / 3600 % 24, m = t / 60 % 60;

		if (!alarm_field_matches(rtc->reg[RTC_HOURS_ALARM], rtc_encode_hour(rtc, h)))
			t += 3600 - t % 3600;
		else if (!alarm_field_matches(rtc->reg[RTC_MINUTES_ALARM], rtc_encode(rtc, m)))
			t += 60 - t % 60;
		else if (!alarm_field_matches(rtc->reg[RTC_SECONDS_ALARM], rtc_encode(rtc, t % 60)))
			t++;
		else
			return t - start + 1;
	}
	return 0;
}

/* Length of the periodic interrupt's period in 32768 Hz ticks, 0: none (data sheet, table 5). */
static unsigned rtc_period(const struct mc146818 *rtc)
{
	unsigned rs = rtc->reg[RTC_REG_A] & RTC_A_RS;

	if (!rs || !rtc_divider_runs(rtc))
		return 0;
	return 1u << (rs <= 2 ? rs + 6 : rs - 1);
}

static u64 rtc_period_count(const struct mc146818 *rtc, unsigned period)
{
	return muldiv64(timerq_now(rtc->cfg.q), RTC_HZ, NS_PER_SEC) / period;
}

/* Bring the flags of register C up to date and drive the interrupt line. */
static void rtc_settle(struct mc146818 *rtc)
{
	unsigned period = rtc_period(rtc);

	if (period && rtc_period_count(rtc, period) != rtc->last_period) {
		rtc->last_period = rtc_period_count(rtc, period);
		rtc->reg[RTC_REG_C] |= RTC_C_PF;
	}
	if (rtc_runs(rtc)) {
		s64 s = rtc_second(rtc);

		if (s != rtc->last_second) {
			unsigned alarm = rtc_next_alarm(rtc, rtc->last_second);

			if (alarm && s >= rtc->last_second + alarm)
				rtc->reg[RTC_REG_C] |= RTC_C_AF;
			rtc->reg[RTC_REG_C] |= RTC_C_UF;
			rtc->last_second = s;
		}
	}
	rtc->reg[RTC_REG_C] &= C_FLAGS;
	if (rtc->reg[RTC_REG_C] & rtc->reg[RTC_REG_B] & B_INTERRUPTS)
		rtc->reg[RTC_REG_C] |= RTC_C_IRQF;
	irq_set(&rtc->cfg.irq, !!(rtc->reg[RTC_REG_C] & RTC_C_IRQF));
}

/* Arm the timers for enabled interrupts whose flag is not set yet. */
static void rtc_rearm(struct mc146818 *rtc)
{
	u8 wanted = rtc->reg[RTC_REG_B] & (u8)~rtc->reg[RTC_REG_C] & B_INTERRUPTS;
	unsigned period = rtc_period(rtc), wait = 0;

	if ((wanted & RTC_B_PIE) && period) {
		u64 tick = (rtc->last_period + 1) * period;

		/* Rounded up, so that the tick has passed when the timer fires. */
		timer_arm(&rtc->periodic, muldiv64(tick, NS_PER_SEC, RTC_HZ) + 1);
	} else {
		timer_cancel(&rtc->periodic);
	}

	if (rtc_runs(rtc)) {
		if (wanted & RTC_B_UIE)
			wait = 1;
		else if (wanted & RTC_B_AIE)
			wait = MIN(rtc_next_alarm(rtc, rtc->last_second), RECHECK_S);
	}
	if (wait) {
		/* One look at the clock: it may have ticked since last_second was settled. */
		u64 t = rtc_shifted(rtc);
		s64 second = (s64)(t / NS_PER_SEC) + rtc->offset_s;
		s64 ahead =
		    (rtc->last_second + wait - second) * (s64)NS_PER_SEC - (s64)(t % NS_PER_SEC);

		timer_arm(&rtc->update, timerq_now(rtc->cfg.q) + (u64)MAX(ahead, 0));
	} else {
		timer_cancel(&rtc->update);
	}
}

static void rtc_refresh(struct mc146818 *rtc)
{
	rtc_settle(rtc);
	rtc_rearm(rtc);
}

static void rtc_timer(void *opaque)
{
	rtc_refresh(opaque);
}

/* ---- registers ---- */

static bool is_time_reg(unsigned index)
{
	return index == RTC_SECONDS || index == RTC_MINUTES || index == RTC_HOURS ||
	       (index >= RTC_WEEKDAY && index <= RTC_YEAR) || index == CMOS_CENTURY;
}

/* A or B gets a new value: the clock may stop or go on. */
static void rtc_write_control(struct mc146818 *rtc, unsigned index, u8 val)
{
	bool ran = rtc_runs(rtc), divider_ran = rtc_divider_runs(rtc);
	unsigned period = rtc_period(rtc);

	rtc_settle(rtc);
	if (ran)
		rtc_latch(rtc);
	if (index == RTC_REG_A) {
		rtc->reg[RTC_REG_A] = val & (u8)~RTC_A_UIP;
	} else {
		if (val & RTC_B_SET)
			val &= (u8)~RTC_B_UIE; /* SET clears UIE (data sheet, register B) */
		rtc->reg[RTC_REG_B] = val;
	}

	if (ran && !rtc_runs(rtc))
		rtc->frozen_phase = rtc_phase(rtc);
	if (!divider_ran && rtc_divider_runs(rtc))
		rtc->frozen_phase = DIV_RESUME_NS;
	if (!ran && rtc_runs(rtc))
		rtc_load(rtc, rtc->frozen_phase);

	if (rtc_period(rtc) != period && rtc_period(rtc))
		rtc->last_period = rtc_period_count(rtc, rtc_period(rtc));
	rtc_refresh(rtc);
}

static void rtc_write_data(struct mc146818 *rtc, u8 val)
{
	unsigned index = rtc->index;

	switch (index) {
	case RTC_REG_A:
	case RTC_REG_B: rtc_write_control(rtc, index, val); return;
	case RTC_REG_C:
	case RTC_REG_D: return; /* read-only */
	case RTC_SECONDS_ALARM:
	case RTC_MINUTES_ALARM:
	case RTC_HOURS_ALARM:
		rtc_settle(rtc); /* the past is judged by the old alarm */
		rtc->reg[index] = val;
		rtc_rearm(rtc);
		return;
	}
	if (!is_time_reg(index) || !rtc_runs(rtc)) {
		rtc->reg[index] = val;
		return;
	}
	rtc_settle(rtc);
	rtc_latch(rtc);
	u64 phase = rtc_phase(rtc);
	rtc->reg[index] = val;
	rtc_load(rtc, phase);
	rtc_rearm(rtc);
}

static u8 rtc_read_data(struct mc146818 *rtc)
{
	unsigned index = rtc->index;
	u8 val;

	switch (index) {
	case RTC_REG_A:
		val = rtc->reg[RTC_REG_A];
		if (rtc_runs(rtc) && rtc_phase(rtc) >= NS_PER_SEC - UIP_NS)
			val |= RTC_A_UIP;
		return val;
	case RTC_REG_C:
		rtc_settle(rtc);
		val = rtc->reg[RTC_REG_C];
		rtc->reg[RTC_REG_C] = 0;
		rtc_refresh(rtc);
		return val;
	case RTC_REG_D: return RTC_D_VRT;
	}
	if (is_time_reg(index) && rtc_runs(rtc))
		rtc_latch(rtc);
	return rtc->reg[index];
}

static u8 rtc_read_byte(void *dev, u64 offset)
{
	/* The index register is write-only. */
	return offset == 1 ? rtc_read_data(dev) : 0xff;
}

static void rtc_write_byte(void *dev, u64 offset, u8 val)
{
	struct mc146818 *rtc = dev;

	if (offset == 1) {
		rtc_write_data(rtc, val);
		return;
	}
	rtc->index = val & 0x7f;
	rtc->nmi_masked = val & 0x80;
}

static u64 rtc_read(void *dev, u64 offset, unsigned size)
{
	return byteport_read(rtc_read_byte, dev, offset, size);
}

static void rtc_write(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(rtc_write_byte, dev, offset, size, val);
}

static const struct bus_range rtc_ranges[] = {
    {BUS_PORT, 0x70, 2, rtc_read, rtc_write, "mc146818"},
};

/* ---- machine side ---- */

static void rtc_put(struct mc146818 *rtc, unsigned index, unsigned bytes, u64 val)
{
	for (unsigned i = 0; i < bytes; i++)
		rtc->reg[index + i] = (u8)(val >> (8 * i));
}

static void rtc_describe_memory(struct mc146818 *rtc)
{
	u64 low = rtc->cfg.ram_low, ext = low > MIB ? (low - MIB) / KIB : 0;
	u64 ext_64k = low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0;

	rtc_put(rtc, CMOS_BASE_KB, 2, MIN(low / KIB, BASE_MEMORY_KB));
	rtc_put(rtc, CMOS_EXT_KB, 2, MIN(ext, 0xffff));
	rtc_put(rtc, CMOS_EXT_KB2, 2, MIN(ext, 0xffff));
	rtc_put(rtc, CMOS_EXT_64K, 2, MIN(ext_64k, 0xffff));
	rtc_put(rtc, CMOS_HIGH_64K, 3, MIN(rtc->cfg.ram_high / (64 * KIB), 0xffffff));
}

void mc146818_init(struct mc146818 *rtc, const struct mc146818_config *cfg)
{
	memset(rtc, 0, sizeof(*rtc));
	rtc->cfg = *cfg;
	if (!rtc->cfg.wall)
		rtc->cfg.wall = host_wall;
	rtc->reg[RTC_REG_A] = DEFAULT_A;
	rtc->reg[RTC_REG_B] = RTC_B_24H;
	rtc->reg[CMOS_EQUIPMENT] = EQUIPMENT_FPU;
	rtc->reg[CMOS_CPUS] = (u8)(cfg->cpus ? cfg->cpus - 1 : 0);
	rtc_describe_memory(rtc);
	timer_init(&rtc->update, cfg->q, rtc_timer, rtc);
	timer_init(&rtc->periodic, cfg->q, rtc_timer, rtc);
	rtc->last_second = rtc_second(rtc);
	rtc->last_period = rtc_period_count(rtc, rtc_period(rtc));
}

void mc146818_reset(struct mc146818 *rtc)
{
	rtc_settle(rtc);
	rtc->reg[RTC_REG_B] &= (u8) ~(B_INTERRUPTS | RTC_B_SQWE);
	rtc->reg[RTC_REG_C] = 0;
	rtc->index = 0;
	rtc->nmi_masked = false;
	rtc_refresh(rtc);
}

int mc146818_register(struct mc146818 *rtc, struct bus *bus)
{
	return bus_add(bus, rtc_ranges, ARRAY_LEN(rtc_ranges), rtc);
}
