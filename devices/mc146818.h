/*
 * MC146818 real-time clock with 128 bytes of CMOS RAM, at ports 0x70 (index, NMI mask) and 0x71
 * (data), interrupt 8. The file head of mc146818.c says how time is kept.
 */
#ifndef RINGSHIFT_MC146818_H
#define RINGSHIFT_MC146818_H

#include "base.h"
#include "bus.h"
#include "irq.h"
#include "timer.h"

#define MC146818_BYTES 128

/* Indices, as the data sheet and the AT and QEMU's PC have them. */
enum mc146818_reg {
	RTC_SECONDS = 0x00,
	RTC_SECONDS_ALARM = 0x01,
	RTC_MINUTES = 0x02,
	RTC_MINUTES_ALARM = 0x03,
	RTC_HOURS = 0x04,
	RTC_HOURS_ALARM = 0x05,
	RTC_WEEKDAY = 0x06, /* 1: Sunday */
	RTC_MDAY = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_REG_A = 0x0a,
	RTC_REG_B = 0x0b,
	RTC_REG_C = 0x0c,
	RTC_REG_D = 0x0d,
	CMOS_SHUTDOWN = 0x0f, /* how the firmware goes on after a processor reset */
	CMOS_EQUIPMENT = 0x14,
	CMOS_BASE_KB = 0x15,  /* 16 bit: RAM below 1 MiB in KiB */
	CMOS_EXT_KB = 0x17,   /* 16 bit: RAM above 1 MiB in KiB, at most 65535 */
	CMOS_EXT_KB2 = 0x30,  /* the same again */
	CMOS_CENTURY = 0x32,  /* follows the clock; FADT.CENTURY names it */
	CMOS_EXT_64K = 0x34,  /* 16 bit: RAM from 16 MiB to 4 GiB in 64 KiB */
	CMOS_HIGH_64K = 0x5b, /* 24 bit: RAM above 4 GiB in 64 KiB */
	CMOS_CPUS = 0x5f,     /* processors less one */
};

enum {
	RTC_A_UIP = 0x80,
	RTC_A_DV = 0x70,
	RTC_A_RS = 0x0f,
	RTC_B_SET = 0x80,
	RTC_B_PIE = 0x40,
	RTC_B_AIE = 0x20,
	RTC_B_UIE = 0x10,
	RTC_B_SQWE = 0x08,
	RTC_B_DM = 0x04,  /* 1: binary, 0: BCD */
	RTC_B_24H = 0x02, /* 1: 24 hours */
	RTC_C_IRQF = 0x80,
	RTC_C_PF = 0x40,
	RTC_C_AF = 0x20,
	RTC_C_UF = 0x10,
	RTC_D_VRT = 0x80,
};

struct mc146818_config {
	struct timerq *q;
	struct irq_line irq;            /* IRQ 8 */
	u64 (*wall)(void *wall_opaque); /* UTC in ns since 1970; NULL: the host's clock */
	void *wall_opaque;
	u64 ram_low;   /* bytes of RAM below 4 GiB */
	u64 ram_high;  /* bytes of RAM above 4 GiB */
	unsigned cpus; /* 0 counts as 1 */
};

struct mc146818 {
	struct mc146818_config cfg;
	u8 reg[MC146818_BYTES];
	u8 index;
	bool nmi_masked;
	s64 offset_s;        /* the guest's clock less the host's, while it runs: seconds */
	u64 offset_ns;       /* and nanoseconds, below a second */
	u64 frozen_phase;    /* ns into the second at which a stopped clock goes on */
	unsigned wday_skew;  /* days the weekday counter is ahead of the calendar, 0..6 */
	s64 last_second;     /* up to which UF and AF are settled */
	u64 last_period;     /* up to which PF is settled */
	struct timer update; /* end of an update, or alarm */
	struct timer periodic;
};

/* q and irq must outlive the chip. The time starts as the host's, memory sizes are filled in. */
void mc146818_init(struct mc146818 *rtc, const struct mc146818_config *cfg);
/* The RESET pin: interrupts off; time, mode and CMOS RAM stay. */
void mc146818_reset(struct mc146818 *rtc);
MUST_CHECK int mc146818_register(struct mc146818 *rtc, struct bus *bus);

/* Bit 7 of port 0x70: 1 keeps NMIs from the processor. */
static inline bool mc146818_nmi_masked(const struct mc146818 *rtc)
{
	return rtc->nmi_masked;
}

#endif
