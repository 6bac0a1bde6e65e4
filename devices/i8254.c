/*
 * 8254 programmable interval timer (Intel data sheet 231164) and system port B.
 *
 * Nothing counts: a channel remembers the tick at which its count was loaded, and its counter and
 * output are functions of the present tick. Ticks are those of the VM's clock, floor(ns * HZ / 1e9)
 * since its start, so a deadline computed from a tick is exact however long a period repeats.
 *
 * Channel 0 drives IRQ 0. In the periodic modes 2 and 3 its line is kept high and pulsed low at the
 * start of each period: the rise is what interrupt controllers look for, and the falling edge would
 * cost a second host timer. When several periods went by unserved they become one interrupt and the
 * phase is kept. Periods shorter than MIN_PERIOD_TICKS are thinned out to that.
 *
 * Modes 1 and 5 need a rise of the gate, which only channel 2 has.
 */
#include <string.h>

#include "i8254.h"

#define MIN_PERIOD_TICKS 24 /* 20 us */
#define REFRESH_TICKS    18 /* the refresh request of a PC: about every 15 us */

/* Control word, port 43. */
enum {
	CONTROL_BCD = 0x01,
	CONTROL_READ_BACK = 0xc0,
	READ_BACK_NO_COUNT = 0x20,
	READ_BACK_NO_STATUS = 0x10,
	STATUS_OUT = 0x80,
	STATUS_NULL_COUNT = 0x40,
};

/* Port 61. */
enum {
	PORT_B_GATE2 = 0x01,
	PORT_B_WRITABLE = 0x0f, /* gate, speaker data, parity and channel check enables */
	PORT_B_REFRESH = 0x10,
	PORT_B_OUT2 = 0x20,
};

static s64 pit_ns_to_tick(u64 ns)
{
	return (s64)muldiv64(ns, I8254_HZ, NS_PER_SEC);
}

static s64 pit_now(struct i8254 *p)
{
	return pit_ns_to_tick(timerq_now(p->q));
}

/* The first nanosecond at which pit_now gives tick. */
static u64 pit_tick_to_ns(s64 tick)
{
	unsigned __int128 n = (unsigned __int128)(u64)tick * NS_PER_SEC;

	return (u64)((n + I8254_HZ - 1) / I8254_HZ);
}

static bool periodic(const struct i8254_channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* Modes that the gate's rise starts. */
static bool hardware_triggered(const struct i8254_channel *c)
{
	return c->mode == 1 || c->mode == 5;
}

static u32 from_bcd(u32 v)
{
	return (v >> 12 & 15) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
}

static u32 to_bcd(u32 v)
{
	return v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
}

/* Let a new count of a periodic mode take over if its time has come. */
static void channel_sync(struct i8254_channel *c, s64 now)
{
	if (c->reload && now >= c->switch_at) {
		c->start = c->switch_at;
		c->count = c->next_count;
		c->reload = false;
	}
}

static bool channel_running(const struct i8254_channel *c)
{
	if (!c->loaded)
		return false;
	if (hardware_triggered(c))
		return c->triggered;
	return !(periodic(c) && !c->gate);
}

/* Ticks since the count was loaded; negative during the clock that loads it. */
static s64 channel_elapsed(const struct i8254_channel *c, s64 now)
{
	return c->held ? -c->start : now - c->start;
}

static bool channel_out(struct i8254_channel *c, s64 now)
{
	s64 n, elapsed;

	channel_sync(c, now);
	if (!channel_running(c))
		return c->mode != 0;
	n = c->count;
	elapsed = channel_elapsed(c, now);
	if (elapsed < 0)
		return c->mode > 1;
	switch (c->mode) {
	case 0:
	case 1: return elapsed >= n;
	case 2: return elapsed % n != n - 1;
	case 3: return elapsed % n < (n + 1) / 2;
	default: return elapsed != n;
	}
}

/* Mode 3 counts down by two, twice a period; an odd count gives the first half the extra clock. */
static u32 square_wave_counter(u32 n, u32 elapsed)
{
	u32 half = (n + 1) / 2;

	if (elapsed >= half)
		elapsed -= half;
	return (n & ~1u) - 2 * elapsed;
}

/* What a read of the counter gives. */
static u16 channel_counter(struct i8254_channel *c, s64 now)
{
	s64 elapsed, wrap = c->bcd ? 10000 : 0x10000;
	u32 n, val;

	channel_sync(c, now);
	n = c->count;
	elapsed = channel_running(c) ? channel_elapsed(c, now) : 0;
	if (elapsed < 0)
		elapsed = 0;
	if (c->mode == 2)
		val = n - (u32)(elapsed % n);
	else if (c->mode == 3)
		val = square_wave_counter(n, (u32)(elapsed % n));
	else
		val = (u32)(((s64)n - elapsed) % wrap + wrap);
	val %= (u32)wrap;
	return (u16)(c->bcd ? to_bcd(val) : val);
}

/* The tick of channel 0's next rise after now, or -1. */
static s64 channel_next_rise(const struct i8254_channel *c, s64 now)
{
	s64 n = c->count, rise;

	if (!channel_running(c) || c->held)
		return -1;
	if (periodic(c)) {
		/* The end of the period that now + MIN_PERIOD_TICKS falls into, if it is short. */
		s64 from = now + (n < MIN_PERIOD_TICKS ? MIN_PERIOD_TICKS : 0);

		if (c->reload)
			return c->switch_at;
		/* Also right one clock before start. */
		return from + n - (from - c->start) % n;
	}
	rise = c->start + n + (c->mode >= 4);
	return rise > now ? rise : -1;
}

/* Arm the timer for channel 0 and bring its line to the level it has now. */
static void channel0_update(struct i8254 *p, s64 now)
{
	struct i8254_channel *c = &p->channel[0];
	s64 rise;

	channel_sync(c, now);
	irq_set(&p->out0, c->mode == 0 ? channel_out(c, now) : 1);
	rise = channel_next_rise(c, now);
	timer_arm(&p->timer, rise < 0 ? TIMER_NEVER : pit_tick_to_ns(rise));
}

static void channel0_fire(void *opaque)
{
	struct i8254 *p = opaque;

	irq_set(&p->out0, 0);
	irq_set(&p->out0, 1);
	channel0_update(p, pit_now(p));
}

/* A rise that is due but has not been served must not be lost by reprogramming. ns: now. */
static void channel0_catch_up(struct i8254 *p, u64 ns)
{
	if (timer_armed(&p->timer) && p->timer.deadline <= ns) {
		timer_cancel(&p->timer);
		channel0_fire(p);
	}
}

/* A whole count has been written. */
static void channel_load(struct i8254_channel *c, u32 raw, s64 now)
{
	u32 count = c->bcd ? from_bcd(raw) : raw;

	if (!count)
		count = c->bcd ? 10000 : 0x10000;
	c->next_count = count;
	if (hardware_triggered(c)) {
		c->loaded = true;
		if (!c->triggered)
			c->count = count;
		return;
	}
	if (periodic(c) && c->loaded && c->gate && now >= c->start) {
		/* The present period ends as it began. */
		c->switch_at = now + c->count - (now - c->start) % c->count;
		c->reload = true;
		return;
	}
	c->count = count;
	c->loaded = true;
	c->held = !c->gate && !periodic(c);
	c->start = c->held ? 1 : now + 1; /* one clock moves the count into the counter */
}

static void channel_write(struct i8254_channel *c, u8 val, s64 now)
{
	channel_sync(c, now);
	switch (c->access) {
	case 1: channel_load(c, val, now); break;
	case 2: channel_load(c, (u32)val << 8, now); break;
	default:
		c->write_high = !c->write_high;
		if (c->write_high) {
			c->write_low = val;
			if (c->mode == 0)
				c->loaded = false; /* the first byte stops mode 0 */
		} else {
			channel_load(c, (u32)val << 8 | c->write_low, now);
		}
	}
}

static void channel_set_gate(struct i8254_channel *c, bool gate, s64 now)
{
	bool rise = gate && !c->gate;

	if (gate == c->gate)
		return;
	channel_sync(c, now);
	c->gate = gate;
	if (periodic(c)) {
		if (c->reload) {
			c->count = c->next_count;
			c->reload = false;
		}
		c->start = now + 1;
	} else if (hardware_triggered(c)) {
		if (rise && c->loaded) {
			c->count = c->next_count;
			c->start = now + 1;
			c->triggered = true;
		}
	} else if (c->loaded) {
		c->start = rise ? now + c->start : c->start - now;
		c->held = !rise;
	}
}

static void channel_latch_count(struct i8254_channel *c, s64 now)
{
	if (c->latched_bytes)
		return;
	c->latched_count = channel_counter(c, now);
	c->latched_bytes = c->access == 3 ? 2 : 1;
	if (c->access == 2)
		c->latched_count >>= 8;
}

static void channel_latch_status(struct i8254_channel *c, s64 now)
{
	bool null_count;

	if (c->status_latched)
		return;
	channel_sync(c, now);
	null_count = !c->loaded || c->reload ||
		     (hardware_triggered(c) && (!c->triggered || c->count != c->next_count));
	c->latched_status =
	    (u8)((channel_out(c, now) ? STATUS_OUT : 0) | (null_count ? STATUS_NULL_COUNT : 0) |
		 c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static u8 channel_read(struct i8254_channel *c, s64 now)
{
	u16 val;

	if (c->status_latched) {
		c->status_latched = false;
		return c->latched_status;
	}
	if (c->latched_bytes) {
		val = c->latched_count;
		c->latched_count >>= 8;
		c->latched_bytes--;
		return (u8)val;
	}
	val = channel_counter(c, now);
	if (c->access == 1)
		return (u8)val;
	if (c->access == 2)
		return (u8)(val >> 8);
	c->read_high = !c->read_high;
	return (u8)(c->read_high ? val : val >> 8);
}

static void channel_control(struct i8254_channel *c, u8 val)
{
	u8 mode = val >> 1 & 7;

	*c = (struct i8254_channel){
	    .mode = mode > 5 ? mode & 3 : mode, /* 6 and 7 are 2 and 3 */
	    .access = val >> 4 & 3,
	    .bcd = val & CONTROL_BCD,
	    .gate = c->gate,
	    .count = c->count,
	    .next_count = c->count,
	};
}

static void pit_control(struct i8254 *p, u8 val, s64 now)
{
	unsigned n = val >> 6;

	if ((val & CONTROL_READ_BACK) == CONTROL_READ_BACK) {
		for (n = 0; n < 3; n++) {
			if (!(val & 2 << n))
				continue;
			if (!(val & READ_BACK_NO_COUNT))
				channel_latch_count(&p->channel[n], now);
			if (!(val & READ_BACK_NO_STATUS))
				channel_latch_status(&p->channel[n], now);
		}
	} else if (!(val & 0x30)) {
		channel_latch_count(&p->channel[n], now);
	} else {
		channel_control(&p->channel[n], val);
		if (n == 0)
			channel0_update(p, now);
	}
}

static u64 pit_read(void *dev, u64 offset, unsigned size)
{
	struct i8254 *p = dev;
	u64 val = 0;

	/* Four ports of one byte; the control port cannot be read. */
	for (unsigned i = 0; i < size; i++)
		if (offset + i < 3)
			val |= (u64)channel_read(&p->channel[offset + i], pit_now(p)) << (8 * i);
	return val;
}

static void pit_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct i8254 *p = dev;
	/* One look at the clock: a count might end between two, and would not be heard of. */
	u64 ns = timerq_now(p->q);
	s64 now = pit_ns_to_tick(ns);

	channel0_catch_up(p, ns);
	for (unsigned i = 0; i < size; i++, val >>= 8) {
		unsigned n = (unsigned)offset + i;

		if (n == 3)
			pit_control(p, (u8)val, now);
		else
			channel_write(&p->channel[n], (u8)val, now);
		if (n == 0)
			channel0_update(p, now);
	}
}

static u64 port_b_read(void *dev, u64 offset, unsigned size)
{
	struct i8254 *p = dev;
	s64 now = pit_now(p);
	u64 val = p->port_b;

	(void)offset;
	(void)size;
	if (now / REFRESH_TICKS & 1)
		val |= PORT_B_REFRESH;
	if (channel_out(&p->channel[2], now))
		val |= PORT_B_OUT2;
	return val;
}

static void port_b_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct i8254 *p = dev;

	(void)offset;
	(void)size;
	p->port_b = val & PORT_B_WRITABLE;
	channel_set_gate(&p->channel[2], val & PORT_B_GATE2, pit_now(p));
}

static const struct bus_range i8254_ranges[] = {
    {BUS_PORT, 0x40, 4, pit_read, pit_write, "i8254"},
    {BUS_PORT, 0x61, 1, port_b_read, port_b_write, "port b"},
};

int i8254_register(struct i8254 *p, struct bus *bus)
{
	return bus_add(bus, i8254_ranges, ARRAY_LEN(i8254_ranges), p);
}

void i8254_reset(struct i8254 *p)
{
	s64 now = pit_now(p);

	p->port_b = 0;
	for (unsigned n = 0; n < 3; n++) {
		struct i8254_channel *c = &p->channel[n];

		*c = (struct i8254_channel){.mode = 3, .access = 3, .gate = n != 2};
		channel_load(c, 0, now);
	}
	channel0_update(p, now);
}

void i8254_init(struct i8254 *p, struct timerq *q, const struct irq_line *out0)
{
	memset(p, 0, sizeof(*p));
	p->q = q;
	p->out0 = *out0;
	timer_init(&p->timer, q, channel0_fire, p);
	i8254_reset(p);
}
