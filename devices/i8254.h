/*
 * 8254 programmable interval timer: channel 0 drives IRQ 0, channel 1 once timed memory refresh,
 * channel 2 is the speaker's and has its gate, and its output to read, in system port B (0x61).
 */
#ifndef RINGSHIFT_I8254_H
#define RINGSHIFT_I8254_H

#include "bus.h"
#include "irq.h"
#include "timer.h"

#define I8254_HZ 1193182ull

struct i8254_channel {
	u8 mode;   /* 0..5 */
	u8 access; /* 1 low byte, 2 high byte, 3 low then high */
	bool bcd;
	bool gate;
	bool loaded;     /* a whole count was written since the control word */
	bool triggered;  /* modes 1 and 5: the gate rose since then */
	bool held;       /* modes 0 and 4: the gate is low, start is relative to now */
	bool reload;     /* modes 2 and 3: next_count takes over at switch_at */
	bool write_high; /* access 3: the next byte written, read, is the high one */
	bool read_high;
	u8 write_low;      /* access 3: the low byte already written */
	u32 count;         /* 1..0x10000 */
	u32 next_count;    /* reload, or modes 1 and 5: for the next trigger */
	s64 start;         /* tick the count was loaded at; held: minus the ticks elapsed */
	s64 switch_at;     /* reload: the end of the present period */
	u8 latched_status; /* valid if status_latched */
	u16 latched_count;
	u8 latched_bytes; /* of latched_count still to be read */
	bool status_latched;
};

struct i8254 {
	struct i8254_channel channel[3];
	u8 port_b; /* bits 0..3 of port 0x61 as written */
	struct timerq *q;
	struct timer timer; /* channel 0's next rise */
	struct irq_line out0;
};

void i8254_init(struct i8254 *p, struct timerq *q, const struct irq_line *out0);
/* As a PC's firmware leaves it: all channels in mode 3 with a count of 65536. */
void i8254_reset(struct i8254 *p);
/* Ports 40-43 and 61. */
MUST_CHECK int i8254_register(struct i8254 *p, struct bus *bus);

#endif
