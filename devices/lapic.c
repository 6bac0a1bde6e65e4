/*
 * Local APIC of a one-CPU machine (SDM vol. 3, chapter "Advanced Programmable Interrupt
 * Controller"; section numbers below are those of its 10.x edition).
 *
 * Registers are numbered as x2APIC does: MMIO offset / 16 = MSR - 0x800. One table says what exists
 * in which mode; xAPIC answers an access to anything else with an ESR bit, x2APIC with #GP.
 *
 * A vector in IRR is deliverable if its priority class is above PPR's; nothing is cached, both sets
 * are eight words. ops.changed is called whenever the answer may be another one; what to do about
 * it (set a flag, kick the CPU) is the machine's business.
 *
 * The timer counts at 1 GHz (one tick is one nanosecond of VM time), as under KVM. Counting is
 * never done: the current count is a function of the time. A host timer is armed only while the LVT
 * entry is not masked. Deadlines are multiples of the period after the start, so periods do not
 * drift; periods missed become one interrupt; those shorter than MIN_PERIOD are thinned out to
 * that.
 *
 * Limits: the ID is read-only; a page relocated onto RAM is not seen there; interrupts of the APIC
 * itself (thermal, performance) have registers but no source; fixed IPIs are always edge triggered,
 * as on all 64-bit CPUs; EOI broadcast suppression and CMCI are not offered (version register).
 */
#include <string.h>

#include "ioapic.h"
#include "lapic.h"

#define MIN_PERIOD 20000ull /* ns */

/* Version 0x14, six LVT entries. */
#define VERSION (0x14 | (LVT_COUNT - 1) << 16)

/* Registers. */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32,
	REG_INITIAL = 0x38,
	REG_CURRENT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
	REG_COUNT = 0x40,
};

/* XR, XW: exists in xAPIC mode for reading, writing; MR, MW: in x2APIC mode. */
enum { XR = 1, XW = 2, MR = 4, MW = 8, RO = XR | MR, RW = XR | XW | MR | MW };

/* mask: bits that can be written. In x2APIC mode the others are reserved unless in fixed (bits only
 * the APIC writes). */
static const struct {
	u8 access;
	u64 mask;
	u32 fixed;
} regs[REG_COUNT] = {
    [REG_ID] = {RO | XW, 0, 0},
    [REG_VERSION] = {RO | XW, 0, 0},
    [REG_TPR] = {RW, 0xff, 0},
    [REG_APR] = {XR, 0, 0},
    [REG_PPR] = {RO | XW, 0, 0},
    [REG_EOI] = {RW & ~MR, 0, 0},
    [REG_RRD] = {XR, 0, 0},
    [REG_LDR] = {RO | XW, 0xff000000, 0},
    [REG_DFR] = {XR | XW, 0xf0000000, 0},
    [REG_SVR] = {RW, 0x3ff, 0},
    [REG_ISR... REG_ISR + 7] = {RO | XW, 0, 0},
    [REG_TMR... REG_TMR + 7] = {RO | XW, 0, 0},
    [REG_IRR... REG_IRR + 7] = {RO | XW, 0, 0},
    [REG_ESR] = {RW, 0, 0},
    [REG_ICR] = {RW, 0xffffffff000ccfff, 0},
    [REG_ICR_HIGH] = {XR | XW, 0xff000000, 0},
    [REG_LVT + LVT_TIMER] = {RW, 0x700ff, 0x1000},
    [REG_LVT + LVT_THERMAL] = {RW, 0x107ff, 0x1000},
    [REG_LVT + LVT_PERF] = {RW, 0x107ff, 0x1000},
    [REG_LVT + LVT_LINT0] = {RW, 0x1a7ff, 0x5000},
    [REG_LVT + LVT_LINT1] = {RW, 0x1a7ff, 0x5000},
    [REG_LVT + LVT_ERROR] = {RW, 0x100ff, 0x1000},
    [REG_INITIAL] = {RW, 0xffffffff, 0},
    [REG_CURRENT] = {RO | XW, 0, 0},
    [REG_DIVIDE] = {RW, 0xb, 0},
    [REG_SELF_IPI] = {MW, 0xff, 0},
};

#define SVR_ENABLE 0x100u
#define DFR_FLAT   0xffffffffu

#define LVT_REMOTE_IRR 0x4000u
#define LVT_LEVEL      0x8000u
#define LVT_MASKED     0x10000u

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };

/* ESR, 10.5.3. */
enum {
	ESR_SEND_VECTOR = 0x20,
	ESR_RECEIVE_VECTOR = 0x40,
	ESR_REGISTER = 0x80,
};

/* ICR, 10.6.1. */
enum {
	ICR_LOGICAL = 0x800,
	ICR_ASSERT = 0x4000,
	ICR_LEVEL = 0x8000,
};

enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

/* Highest vector of a set, or -1. */
static int vectors_highest(const u32 set[8])
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return 32 * i + 31 - __builtin_clz(set[i]);
	return -1;
}

static void vectors_put(u32 set[8], unsigned v, bool on)
{
	u32 bit = 1u << (v & 31);

	set[v >> 5] = on ? set[v >> 5] | bit : set[v >> 5] & ~bit;
}

static bool vectors_have(const u32 set[8], unsigned v)
{
	return set[v >> 5] >> (v & 31) & 1;
}

static bool lapic_enabled(const struct lapic *l)
{
	return (l->base & APIC_BASE_ENABLE) && (l->svr & SVR_ENABLE);
}

static unsigned lvt_mode(u32 lvt)
{
	return lvt >> 8 & 7;
}

/* 10.8.3.1: TPR, unless an interrupt of a higher class is in service. */
static u32 lapic_ppr(const struct lapic *l)
{
	int v = vectors_highest(l->isr);

	return v >= 0 && (u32)v >> 4 > l->tpr >> 4 ? (u32)v & 0xf0 : l->tpr;
}

bool lapic_pending(const struct lapic *l)
{
	int v;

	if (!lapic_enabled(l))
		return false;
	v = vectors_highest(l->irr);
	return v >= 0 && (u32)v >> 4 > lapic_ppr(l) >> 4;
}

int lapic_ack(struct lapic *l)
{
	unsigned v;

	if (!lapic_pending(l))
		return (int)(l->svr & 0xff);
	v = (unsigned)vectors_highest(l->irr);
	vectors_put(l->irr, v, false);
	vectors_put(l->isr, v, true);
	return (int)v;
}

bool lapic_extint_enabled(const struct lapic *l)
{
	u32 lint0 = l->lvt[LVT_LINT0];

	if (!(l->base & APIC_BASE_ENABLE))
		return true;
	return !(lint0 & LVT_MASKED) && lvt_mode(lint0) == APIC_EXTINT;
}

static void lapic_error(struct lapic *l, u32 bit)
{
	u32 lvt = l->lvt[LVT_ERROR];

	l->errors |= bit;
	if (lvt & LVT_MASKED)
		return;
	if ((u8)lvt < 16)
		l->errors |= ESR_RECEIVE_VECTOR; /* an error about the error goes no further */
	else
		lapic_deliver(l, (u8)lvt, false);
}

void lapic_deliver(struct lapic *l, u8 vector, bool level)
{
	if (!lapic_enabled(l))
		return;
	if (vector < 16) {
		lapic_error(l, ESR_RECEIVE_VECTOR);
		return;
	}
	vectors_put(l->irr, vector, true);
	vectors_put(l->tmr, vector, level);
	l->ops.changed(l->ops.opaque);
}

static void lapic_nmi(struct lapic *l)
{
	if (l->ops.nmi)
		l->ops.nmi(l->ops.opaque);
}

static void lapic_report(struct lapic *l, u8 vector, unsigned mode, u32 dest, bool logical,
			 bool to_self)
{
	if (l->ops.ipi)
		l->ops.ipi(l->ops.opaque, vector, mode, dest, logical, to_self);
}

/* Sources inside the APIC that know only fixed delivery: timer, LINT pins in fixed mode. */
static void lvt_deliver(struct lapic *l, enum lapic_lvt n, bool level)
{
	if (!(l->lvt[n] & LVT_MASKED))
		lapic_deliver(l, (u8)l->lvt[n], level);
}

/* LINT pins, 10.5.1. */

static bool lint_is_level(u32 lvt)
{
	return (lvt & LVT_LEVEL) && lvt_mode(lvt) == APIC_FIXED;
}

static void lint_service_level(struct lapic *l, unsigned n)
{
	u32 *lvt = &l->lvt[LVT_LINT0 + n];

	if (!lint_is_level(*lvt) || !(l->lint & 1 << n) || (*lvt & (LVT_MASKED | LVT_REMOTE_IRR)))
		return;
	*lvt |= LVT_REMOTE_IRR;
	lvt_deliver(l, LVT_LINT0 + n, true);
}

void lapic_set_lint(void *opaque, unsigned n, int level)
{
	struct lapic *l = opaque;
	u8 bit = (u8)(1 << n);
	bool rise;
	u32 lvt;

	BUG_ON(n > 1);
	rise = level && !(l->lint & bit);
	l->lint = (u8)(level ? l->lint | bit : l->lint & ~bit);
	lvt = l->lvt[LVT_LINT0 + n];
	if (!(l->base & APIC_BASE_ENABLE) || lvt_mode(lvt) == APIC_EXTINT)
		l->ops.changed(l->ops.opaque);
	else if (lint_is_level(lvt))
		lint_service_level(l, n);
	else if (rise && lvt_mode(lvt) == APIC_FIXED)
		lvt_deliver(l, LVT_LINT0 + n, false);
	else if (rise && lvt_mode(lvt) == APIC_NMI && !(lvt & LVT_MASKED))
		lapic_nmi(l);
}

static void lapic_end_of_interrupt(struct lapic *l)
{
	int v = vectors_highest(l->isr);

	if (v < 0)
		return;
	vectors_put(l->isr, (unsigned)v, false);
	if (vectors_have(l->tmr, (unsigned)v)) {
		for (unsigned n = 0; n < 2; n++) {
			u32 *lvt = &l->lvt[LVT_LINT0 + n];

			if ((*lvt & LVT_REMOTE_IRR) && (u8)*lvt == v) {
				*lvt &= ~LVT_REMOTE_IRR;
				lint_service_level(l, n);
			}
		}
		if (l->ops.eoi)
			l->ops.eoi(l->ops.opaque, (u8)v);
	}
	l->ops.changed(l->ops.opaque);
}

/* Messages, 10.6. */

static u32 lapic_ldr(const struct lapic *l)
{
	/* 10.12.10.2: derived from the ID, not programmable. */
	if (lapic_x2apic(l))
		return l->ops.id >> 4 << 16 | 1u << (l->ops.id & 15);
	return l->ldr;
}

static bool lapic_addressed(const struct lapic *l, u32 dest, bool logical)
{
	u32 ldr = lapic_ldr(l);

	if (dest == (lapic_x2apic(l) ? ~0u : 0xff))
		return true;
	if (!logical)
		return dest == l->ops.id;
	if (lapic_x2apic(l))
		return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
	ldr >>= 24;
	if (l->dfr >> 28 == 15)
		return dest & ldr;
	return dest >> 4 == ldr >> 4 && (dest & ldr & 15);
}

static void lapic_take(struct lapic *l, u8 vector, unsigned mode, bool level, u32 dest,
		       bool logical)
{
	if (mode == APIC_FIXED || mode == APIC_LOWEST)
		lapic_deliver(l, vector, level);
	else if (mode == APIC_NMI)
		lapic_nmi(l);
	else
		lapic_report(l, vector, mode, dest, logical, true);
}

void lapic_message(void *opaque, u8 vector, unsigned delivery_mode, bool level, u32 dest,
		   bool logical)
{
	struct lapic *l = opaque;

	if (!(l->base & APIC_BASE_ENABLE))
		return;
	/* An 8-bit destination of all ones is a broadcast in x2APIC mode too. */
	if ((dest == 0xff && !logical) || lapic_addressed(l, dest, logical))
		lapic_take(l, vector, delivery_mode, level, dest, logical);
}

/* Send what ICR holds. */
static void lapic_send(struct lapic *l)
{
	u32 low = (u32)l->icr, dest = (u32)(l->icr >> (lapic_x2apic(l) ? 32 : 56));
	unsigned mode = low >> 8 & 7, shorthand = low >> 18 & 3;
	bool logical = low & ICR_LOGICAL, to_self, only_self;

	if ((mode == APIC_FIXED || mode == APIC_LOWEST) && (u8)low < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	/* INIT level de-assert did something on the Pentium only. */
	if (mode == APIC_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))
		return;
	if (shorthand == SHORTHAND_NONE) {
		to_self = lapic_addressed(l, dest, logical);
		only_self = !logical && dest == l->ops.id;
	} else {
		to_self = shorthand != SHORTHAND_OTHERS;
		only_self = shorthand == SHORTHAND_SELF;
		dest = only_self ? l->ops.id : ~0u;
		logical = false;
	}
	if (!only_self && !(to_self && mode >= APIC_INIT))
		lapic_report(l, (u8)low, mode, dest, logical, false);
	if (to_self)
		lapic_take(l, (u8)low, mode, false, dest, logical);
}

/* Timer, 10.5.4. */

static enum timer_mode lapic_timer_mode(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] >> 17 & 3;
}

/* Ticks per count: 10.5.4, figure "Divide Configuration Register". */
static unsigned lapic_divide_shift(const struct lapic *l)
{
	return ((l->divide >> 1 & 4) + (l->divide & 3) + 1) & 7;
}

static u64 lapic_period(const struct lapic *l)
{
	return (u64)l->initial << lapic_divide_shift(l);
}

static u32 lapic_current_count(struct lapic *l, u64 now)
{
	u64 period = lapic_period(l), elapsed = now - l->start, left;
	unsigned shift = lapic_divide_shift(l);

	if (!period || lapic_timer_mode(l) >= TIMER_DEADLINE)
		return 0;
	if (lapic_timer_mode(l) == TIMER_PERIODIC)
		elapsed %= period;
	left = elapsed < period ? period - elapsed : 0;
	return (u32)((left + (1u << shift) - 1) >> shift);
}

/* Arm for the TSC deadline, or expire if it has passed. */
static void lapic_check_deadline(struct lapic *l)
{
	u64 tsc = l->ops.tsc(l->ops.opaque);
	unsigned __int128 ns;

	timer_cancel(&l->timer);
	if (!l->tsc_deadline)
		return;
	if (tsc >= l->tsc_deadline) {
		l->tsc_deadline = 0;
		lvt_deliver(l, LVT_TIMER, false);
		return;
	}
	if (l->lvt[LVT_TIMER] & LVT_MASKED)
		return;
	ns = (unsigned __int128)(l->tsc_deadline - tsc) * 1000000 / l->ops.tsc_khz + 1;
	timer_arm(&l->timer, timerq_now(l->q) + (u64)MIN(ns, (unsigned __int128)BIT(62)));
}

/* Make the host timer fit the registers, as of l->now. */
static void lapic_timer_update(struct lapic *l)
{
	u64 now = l->now, elapsed = now - l->start, period = lapic_period(l), from;
	u64 deadline = TIMER_NEVER;

	if (lapic_timer_mode(l) == TIMER_DEADLINE) {
		lapic_check_deadline(l);
		return;
	}
	if (period && !(l->lvt[LVT_TIMER] & LVT_MASKED)) {
		if (lapic_timer_mode(l) == TIMER_ONE_SHOT && elapsed < period) {
			deadline = now + period - elapsed;
		} else if (lapic_timer_mode(l) == TIMER_PERIODIC) {
			from = period < MIN_PERIOD ? MIN_PERIOD : 0;
			deadline = now + from + period - (elapsed + from) % period;
		}
	}
	timer_arm(&l->timer, deadline);
}

void lapic_tsc_moved(struct lapic *l)
{
	l->now = timerq_now(l->q);
	lapic_timer_update(l);
}

static void lapic_timer_fire(void *opaque)
{
	struct lapic *l = opaque;

	if (lapic_timer_mode(l) != TIMER_DEADLINE)
		lvt_deliver(l, LVT_TIMER, false);
	l->now = timerq_now(l->q);
	lapic_timer_update(l);
}

/*
 * Before a register of the timer changes: an expiry that is due but not served yet counts. The
 * change happens at this time, the only one that is looked at: between two looks the host may have
 * had other work for longer than the timer runs, which would then be neither running nor expired.
 */
static void lapic_timer_catch_up(struct lapic *l)
{
	l->now = timerq_now(l->q);
	if (timer_armed(&l->timer) && l->timer.deadline <= l->now) {
		timer_cancel(&l->timer);
		lapic_timer_fire(l);
	}
}

static void lapic_write_divide(struct lapic *l, u32 val)
{
	u64 counted = l->initial - lapic_current_count(l, l->now);

	/* The count stays, its speed changes. */
	l->divide = val;
	l->start = l->now - (counted << lapic_divide_shift(l));
	lapic_timer_update(l);
}

static void lapic_write_initial(struct lapic *l, u32 val)
{
	if (lapic_timer_mode(l) == TIMER_DEADLINE)
		return;
	l->initial = val;
	l->start = l->now;
	lapic_timer_update(l);
}

static void lapic_write_lvt(struct lapic *l, enum lapic_lvt n, u32 val)
{
	u32 old = l->lvt[n];

	if (!(l->svr & SVR_ENABLE))
		val |= LVT_MASKED; /* 10.4.7.2 */
	if (val & LVT_LEVEL)
		val |= old & LVT_REMOTE_IRR;
	l->lvt[n] = val;
	if (n == LVT_TIMER) {
		/* Into or out of TSC-deadline mode: whatever ran is disarmed. */
		if ((old >> 17 & 3) != (val >> 17 & 3) &&
		    ((old >> 17 & 3) >= TIMER_DEADLINE || (val >> 17 & 3) >= TIMER_DEADLINE)) {
			l->initial = 0;
			l->tsc_deadline = 0;
		}
		lapic_timer_update(l);
	} else if (n == LVT_LINT0 || n == LVT_LINT1) {
		lint_service_level(l, n - LVT_LINT0);
		l->ops.changed(l->ops.opaque);
	}
}

static void lapic_write_svr(struct lapic *l, u32 val)
{
	l->svr = val;
	if (!(val & SVR_ENABLE)) {
		for (unsigned n = 0; n < LVT_COUNT; n++)
			l->lvt[n] |= LVT_MASKED;
		lapic_timer_update(l);
	}
	l->ops.changed(l->ops.opaque);
}

/* Registers. */

static u64 lapic_read_reg(struct lapic *l, unsigned reg)
{
	switch (reg) {
	case REG_ID: return lapic_x2apic(l) ? l->ops.id : l->ops.id << 24;
	case REG_VERSION: return VERSION;
	case REG_TPR: return l->tpr;
	case REG_PPR: return lapic_ppr(l);
	case REG_LDR: return lapic_ldr(l);
	case REG_DFR: return l->dfr;
	case REG_SVR: return l->svr;
	case REG_ISR ... REG_ISR + 7: return l->isr[reg - REG_ISR];
	case REG_TMR ... REG_TMR + 7: return l->tmr[reg - REG_TMR];
	case REG_IRR ... REG_IRR + 7: return l->irr[reg - REG_IRR];
	case REG_ESR: return l->esr;
	case REG_ICR: return lapic_x2apic(l) ? l->icr : (u32)l->icr;
	case REG_ICR_HIGH: return l->icr >> 32;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1: return l->lvt[reg - REG_LVT];
	case REG_INITIAL: return l->initial;
	case REG_CURRENT: return lapic_current_count(l, timerq_now(l->q));
	case REG_DIVIDE: return l->divide;
	default: return 0;
	}
}

/* val holds writable bits only. */
static void lapic_write_reg(struct lapic *l, unsigned reg, u64 val)
{
	if (reg == REG_SVR || (reg >= REG_LVT && reg <= REG_DIVIDE))
		lapic_timer_catch_up(l);
	switch (reg) {
	case REG_TPR:
		l->tpr = (u32)val;
		l->ops.changed(l->ops.opaque);
		break;
	case REG_EOI: lapic_end_of_interrupt(l); break;
	case REG_LDR: l->ldr = (u32)val; break;
	case REG_DFR: l->dfr = (u32)val | ~(u32)regs[REG_DFR].mask; break;
	case REG_SVR: lapic_write_svr(l, (u32)val); break;
	case REG_ESR:
		l->esr = l->errors;
		l->errors = 0;
		break;
	case REG_ICR:
		l->icr = lapic_x2apic(l) ? val : (l->icr & ~0xffffffffull) | (u32)val;
		lapic_send(l);
		break;
	case REG_ICR_HIGH: l->icr = (u32)l->icr | val << 32; break;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		lapic_write_lvt(l, reg - REG_LVT, (u32)val);
		break;
	case REG_INITIAL: lapic_write_initial(l, (u32)val); break;
	case REG_DIVIDE: lapic_write_divide(l, (u32)val); break;
	case REG_SELF_IPI:
		if (val < 16)
			lapic_error(l, ESR_SEND_VECTOR);
		else
			lapic_deliver(l, (u8)val, false);
		break;
	}
}

/* xAPIC: registers are 32 bits at multiples of 16. Only whole aligned accesses are defined;
 * narrower reads give the bytes asked for, narrower writes do nothing. */
static u64 lapic_mmio_read(void *dev, u64 offset, unsigned size)
{
	struct lapic *l = dev;
	unsigned reg = (unsigned)(offset >> 4);

	(void)size;
	if (unlikely(reg >= REG_COUNT || !(regs[reg].access & (XR | XW)))) {
		lapic_error(l, ESR_REGISTER);
		return 0;
	}
	if (unlikely(offset & 12) || !(regs[reg].access & XR))
		return 0;
	return lapic_read_reg(l, reg) >> (8 * (offset & 3));
}

static void lapic_mmio_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct lapic *l = dev;
	unsigned reg = (unsigned)(offset >> 4);

	if (reg >= REG_COUNT || !(regs[reg].access & (XR | XW))) {
		lapic_error(l, ESR_REGISTER);
		return;
	}
	if ((regs[reg].access & XW) && !(offset & 15) && size >= 4)
		lapic_write_reg(l, reg, (u32)val & regs[reg].mask);
}

static const struct bus_range lapic_ranges[] = {
    {BUS_MMIO, LAPIC_BASE, PAGE_SIZE, lapic_mmio_read, lapic_mmio_write, "lapic"},
};

/* Put the page where IA32_APIC_BASE says, if it is to be seen at all. Where another device already
 * is, that one stays and the page cannot be reached. */
static int lapic_map(struct lapic *l)
{
	struct bus_range r = lapic_ranges[0];
	int err = 0;

	if (!l->bus)
		return 0;
	r.base = l->base & PAGE_MASK;
	if (l->mapped && (l->base & APIC_BASE_ENABLE) && !lapic_x2apic(l)) {
		err = bus_move(l->bus, l, r.name, r.base);
		if (!err)
			return 0;
	}
	if (l->mapped)
		bus_remove(l->bus, l, r.name);
	l->mapped = false;
	if (!err && (l->base & APIC_BASE_ENABLE) && !lapic_x2apic(l)) {
		err = bus_add(l->bus, &r, 1, l);
		l->mapped = !err;
	}
	return err;
}

int lapic_register(struct lapic *l, struct bus *bus)
{
	l->bus = bus;
	return lapic_map(l);
}

/* All but the base MSR: the state after power-up and after the APIC was switched off, 10.4.7. */
static void lapic_reset_regs(struct lapic *l)
{
	timer_cancel(&l->timer);
	l->tpr = l->ldr = 0;
	l->dfr = DFR_FLAT;
	l->svr = 0xff;
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	for (unsigned n = 0; n < LVT_COUNT; n++)
		l->lvt[n] = LVT_MASKED;
	l->esr = l->errors = 0;
	l->icr = 0;
	l->initial = l->divide = 0;
	l->tsc_deadline = 0;
}

/* 10.12.5.1: the transitions allowed are disabled -> xAPIC -> x2APIC -> disabled and xAPIC ->
 * disabled. */
static int lapic_write_base(struct lapic *l, u64 val)
{
	u64 allowed = ((BIT(l->ops.phys_bits) - 1) & PAGE_MASK) | APIC_BASE_BSP | APIC_BASE_X2APIC |
		      APIC_BASE_ENABLE;
	bool enable = val & APIC_BASE_ENABLE, x2apic = val & APIC_BASE_X2APIC;

	if ((val & ~allowed) || (x2apic && !enable))
		return -1;
	if (x2apic && !(l->base & APIC_BASE_ENABLE))
		return -1;
	if (lapic_x2apic(l) && enable && !x2apic)
		return -1;
	if (!enable)
		lapic_reset_regs(l);
	l->base = val;
	/* In conflict with another device the page is unreachable: the guest asked for that. */
	(void)!lapic_map(l);
	l->ops.changed(l->ops.opaque);
	return 0;
}

int lapic_msr_read(struct lapic *l, u32 msr, u64 *val)
{
	unsigned reg = msr - MSR_X2APIC;

	if (msr == MSR_APIC_BASE) {
		*val = l->base;
		return 0;
	}
	if (msr == MSR_TSC_DEADLINE) {
		if (lapic_timer_mode(l) == TIMER_DEADLINE)
			lapic_check_deadline(l);
		*val = l->tsc_deadline;
		return 0;
	}
	if (!lapic_x2apic(l) || reg >= REG_COUNT || !(regs[reg].access & MR))
		return -1;
	*val = lapic_read_reg(l, reg);
	return 0;
}

int lapic_msr_write(struct lapic *l, u32 msr, u64 val)
{
	unsigned reg = msr - MSR_X2APIC;

	if (msr == MSR_APIC_BASE)
		return lapic_write_base(l, val);
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_catch_up(l);
		if (lapic_timer_mode(l) == TIMER_DEADLINE) {
			l->tsc_deadline = val;
			lapic_check_deadline(l);
		}
		return 0;
	}
	if (!lapic_x2apic(l) || reg >= REG_COUNT || !(regs[reg].access & MW) ||
	    (val & ~(regs[reg].mask | regs[reg].fixed)))
		return -1;
	lapic_write_reg(l, reg, val & regs[reg].mask);
	return 0;
}

u64 lapic_cr8_get(const struct lapic *l)
{
	return l->tpr >> 4;
}

void lapic_cr8_set(struct lapic *l, u64 val)
{
	lapic_write_reg(l, REG_TPR, (val & 15) << 4);
}

void lapic_set_virtual_wire(struct lapic *l)
{
	l->svr |= SVR_ENABLE;
	lapic_write_lvt(l, LVT_LINT0, LVT_LEVEL | APIC_EXTINT << 8);
	lapic_write_lvt(l, LVT_LINT1, LVT_LEVEL | APIC_NMI << 8);
}

void lapic_reset(struct lapic *l)
{
	lapic_reset_regs(l);
	l->base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
	(void)!lapic_map(l);
	l->ops.changed(l->ops.opaque);
}

void lapic_init(struct lapic *l, struct timerq *q, const struct lapic_ops *ops)
{
	BUG_ON(!ops->changed || !ops->tsc || !ops->tsc_khz);
	BUG_ON(ops->phys_bits < 32 || ops->phys_bits > 52);
	memset(l, 0, sizeof(*l));
	l->ops = *ops;
	l->q = q;
	timer_init(&l->timer, q, lapic_timer_fire, l);
	lapic_reset_regs(l);
	l->base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
}
