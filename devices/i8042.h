/*
 * i8042 keyboard controller at ports 0x60 and 0x64 with an AT keyboard behind it, interrupt 1.
 * There is no auxiliary (mouse) port. Reference: IBM PS/2 Hardware Interface Technical Reference,
 * "Keyboard and Auxiliary Device Controller".
 */
#ifndef RINGSHIFT_I8042_H
#define RINGSHIFT_I8042_H

#include "base.h"
#include "bus.h"
#include "irq.h"

#define I8042_RAM       32
#define I8042_REPLIES   16
#define I8042_SCANCODES 64

enum {
	I8042_STR_OBF = 0x01,
	I8042_STR_SYS = 0x04,
	I8042_STR_CMD = 0x08,
	I8042_STR_UNLOCKED = 0x10,
	I8042_STR_AUX = 0x20,
	I8042_STR_TIMEOUT = 0x40,
	I8042_CTR_KBD_INT = 0x01,
	I8042_CTR_AUX_INT = 0x02,
	I8042_CTR_SYS = 0x04,
	I8042_CTR_KBD_OFF = 0x10,
	I8042_CTR_AUX_OFF = 0x20,
	I8042_CTR_XLATE = 0x40,
};

struct i8042_config {
	struct irq_line irq;         /* IRQ 1 */
	void (*reset)(void *opaque); /* the guest pulls the processor's reset line */
	void *opaque;
};

/* Bytes on their way to the output buffer. */
struct i8042_queue {
	u8 byte[I8042_SCANCODES];
	u8 status[I8042_SCANCODES]; /* AUX and TIMEOUT bits that come with it */
	unsigned head, count;
};

struct i8042_keyboard {
	bool scanning;
	u8 set;      /* scan code set 1 or 2 */
	u8 leds;     /* bit 0 scroll, 1 num, 2 caps lock */
	u8 rate;     /* typematic rate and delay, as written */
	u8 wants;    /* command whose argument comes next, or 0 */
	u8 last;     /* what RESEND sends */
	bool breaks; /* set-2 prefix 0xf0 seen on the way to set 1 */
};

struct i8042 {
	struct i8042_config cfg;
	u8 ram[I8042_RAM]; /* [0] is the command byte */
	u8 out_port;       /* bits 1..0 are wired: A20 on, no reset */
	u8 wants;          /* controller command whose argument comes next, or 0 */
	bool last_was_cmd;
	bool sys;  /* status bit 2: self-test passed */
	bool full; /* output buffer, with what is in it */
	u8 out, out_status;
	bool xlate_break;           /* translation has swallowed a 0xf0 */
	struct i8042_queue replies; /* the controller's own */
	struct i8042_queue answers; /* the keyboard's, to commands */
	struct i8042_queue scancodes;
	struct i8042_keyboard kbd;
};

void i8042_init(struct i8042 *k, const struct i8042_config *cfg);
void i8042_reset(struct i8042 *k);
MUST_CHECK int i8042_register(struct i8042 *k, struct bus *bus);

/* A key went down or up: its whole set-2 code, n bytes at most I8042_SCANCODES. False: dropped,
 * because the keyboard is not scanning or its buffer is full. Device lock held. */
bool i8042_send_key(struct i8042 *k, const u8 *set2, unsigned n);

#endif
