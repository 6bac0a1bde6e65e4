/*
 * i8042 keyboard controller and keyboard.
 *
 * Three sources feed the one-byte output buffer, in this order: the controller's replies, the
 * keyboard's answers to commands, scan codes. A byte moves in when the buffer is empty, so each
 * byte makes its own rising edge on IRQ 1. Bit 4 of the command byte (keyboard clock held low)
 * stops the keyboard's two sources.
 *
 * The keyboard speaks set 2; with command byte bit 6 the controller translates to set 1, and the
 * break prefix 0xf0 becomes bit 7 of the byte after it. All that the keyboard sends goes through
 * this, so a translated identification reads AB 41, as on any PC.
 *
 * The command byte after reset is what a PC firmware leaves behind (interrupt on, translation on),
 * because guests are started without one.
 *
 * No auxiliary port: its commands are taken, the interface test fails, loopback bytes come back
 * without the AUX mark (Linux stops looking at once instead of waiting half a second), and what is
 * sent to the device answers with a time-out.
 */
#include <string.h>

#include "i8042.h"
#include "byteport.h"

#define DEFAULT_CTR  (I8042_CTR_KBD_INT | I8042_CTR_SYS | I8042_CTR_AUX_OFF | I8042_CTR_XLATE)
#define DEFAULT_RATE 0x2b /* 10.9 characters a second after 500 ms */
#define KBD_ACK      0xfa
#define KBD_RESEND   0xfe
#define KBD_BAT_OK   0xaa
#define SET2_BREAK   0xf0
#define OUT_RESET    0x01 /* 0 resets the processor */
#define OUT_A20      0x02
#define OUT_OBF      0x10
#define OUT_CLOCK    0x40
#define OUT_DATA     0x80

enum controller_command {
	CTL_READ_RAM = 0x20,  /* .. 0x3f */
	CTL_WRITE_RAM = 0x60, /* .. 0x7f */
	CTL_TEST_PASSWORD = 0xa4,
	CTL_AUX_OFF = 0xa7,
	CTL_AUX_ON = 0xa8,
	CTL_AUX_TEST = 0xa9,
	CTL_SELF_TEST = 0xaa,
	CTL_KBD_TEST = 0xab,
	CTL_KBD_OFF = 0xad,
	CTL_KBD_ON = 0xae,
	CTL_READ_INPUT = 0xc0,
	CTL_READ_OUTPUT = 0xd0,
	CTL_WRITE_OUTPUT = 0xd1,
	CTL_WRITE_KBD_BUF = 0xd2,
	CTL_WRITE_AUX_BUF = 0xd3,
	CTL_WRITE_AUX = 0xd4,
	CTL_READ_TEST = 0xe0,
	CTL_PULSE = 0xf0, /* .. 0xff */
};

enum keyboard_command {
	KBD_SET_LEDS = 0xed,
	KBD_ECHO = 0xee,
	KBD_SCANCODE_SET = 0xf0,
	KBD_IDENTIFY = 0xf2,
	KBD_SET_RATE = 0xf3,
	KBD_ENABLE = 0xf4,
	KBD_DISABLE = 0xf5,
	KBD_DEFAULTS = 0xf6,
	KBD_ALL_KEYS_FIRST = 0xf7, /* .. 0xfa: of set 3 only, accepted */
	KBD_ALL_KEYS_LAST = 0xfa,
	KBD_SEND_AGAIN = 0xfe,
	KBD_RESET = 0xff,
};

/* Set 2 to set 1, indexed by the set-2 code; codes from 0x80 up pass but for 0x83 and 0x84. */
static const u8 set1_of[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

/* ---- queues and the output buffer ---- */

static bool queue_put(struct i8042_queue *q, u8 byte, u8 status)
{
	unsigned at = (q->head + q->count) % I8042_SCANCODES;

	if (q->count == I8042_SCANCODES)
		return false;
	q->byte[at] = byte;
	q->status[at] = status;
	q->count++;
	return true;
}

static u8 queue_get(struct i8042_queue *q, u8 *status)
{
	u8 byte = q->byte[q->head];

	*status = q->status[q->head];
	q->head = (q->head + 1) % I8042_SCANCODES;
	q->count--;
	return byte;
}

/* Set 2 to set 1. False: a break prefix, to be folded into the byte after it. */
static bool translate(bool *broke, u8 *byte)
{
	u8 b = *byte;

	if (b == SET2_BREAK) {
		*broke = true;
		return false;
	}
	if (b < ARRAY_LEN(set1_of))
		b = set1_of[b];
	else if (b == 0x83 || b == 0x84)
		b = b == 0x83 ? 0x41 : 0x54;
	/* Unbroken by answers: FA, AA and EE have bit 7 set anyway. */
	*byte = *broke ? b | 0x80 : b;
	*broke = false;
	return true;
}

/* The next byte from the keyboard as the controller passes it on. False: nothing yet. */
static bool i8042_from_keyboard(struct i8042 *k, u8 *byte, u8 *status)
{
	while (k->answers.count || k->scancodes.count) {
		struct i8042_queue *q = k->answers.count ? &k->answers : &k->scancodes;

		*byte = queue_get(q, status);
		k->kbd.last = *byte;
		if (!(k->ram[0] & I8042_CTR_XLATE) || translate(&k->xlate_break, byte))
			return true;
	}
	return false;
}

static void i8042_update(struct i8042 *k)
{
	if (!k->full) {
		if (k->replies.count) {
			k->out = queue_get(&k->replies, &k->out_status);
			k->full = true;
		} else if (!(k->ram[0] & I8042_CTR_KBD_OFF)) {
			k->full = i8042_from_keyboard(k, &k->out, &k->out_status);
		}
	}
	irq_set(&k->cfg.irq,
		k->full && !(k->out_status & I8042_STR_AUX) && (k->ram[0] & I8042_CTR_KBD_INT));
}

static void i8042_reply(struct i8042 *k, u8 byte, u8 status)
{
	/* A guest that never reads: the oldest stay, as in a controller that is busy. */
	if (k->replies.count < I8042_REPLIES)
		(void)queue_put(&k->replies, byte, status);
}

/* ---- the keyboard ---- */

static void kbd_answer(struct i8042 *k, u8 byte)
{
	if (k->answers.count < I8042_REPLIES)
		(void)queue_put(&k->answers, byte, 0);
}

static void kbd_defaults(struct i8042 *k, bool scanning)
{
	k->kbd.scanning = scanning;
	k->kbd.set = 2;
	k->kbd.rate = DEFAULT_RATE;
	k->kbd.breaks = false;
	k->scancodes.count = 0;
}

static void kbd_argument(struct i8042 *k, u8 val)
{
	u8 command = k->kbd.wants;

	k->kbd.wants = 0;
	switch (command) {
	case KBD_SET_LEDS: k->kbd.leds = val & 7; break;
	case KBD_SET_RATE: k->kbd.rate = val; break;
	case KBD_SCANCODE_SET:
		if (val > 2) { /* no set 3 in this keyboard */
			kbd_answer(k, KBD_RESEND);
			return;
		}
		if (val)
			k->kbd.set = val;
		break;
	}
	kbd_answer(k, KBD_ACK);
	if (command == KBD_SCANCODE_SET && !val)
		kbd_answer(k, k->kbd.set);
}

static void kbd_command(struct i8042 *k, u8 val)
{
	switch (val) {
	case KBD_ECHO: kbd_answer(k, KBD_ECHO); return;
	case KBD_SEND_AGAIN: kbd_answer(k, k->kbd.last); return;
	case KBD_SET_LEDS:
	case KBD_SET_RATE:
	case KBD_SCANCODE_SET:
		k->kbd.wants = val;
		kbd_answer(k, KBD_ACK);
		return;
	case KBD_IDENTIFY:
		kbd_answer(k, KBD_ACK);
		kbd_answer(k, 0xab);
		kbd_answer(k, 0x83);
		return;
	case KBD_ENABLE:
		k->kbd.scanning = true;
		k->scancodes.count = 0;
		break;
	case KBD_DISABLE: kbd_defaults(k, false); break;
	case KBD_DEFAULTS: kbd_defaults(k, k->kbd.scanning); break;
	case KBD_RESET:
		kbd_defaults(k, true);
		k->kbd.leds = 0;
		kbd_answer(k, KBD_ACK);
		kbd_answer(k, KBD_BAT_OK);
		return;
	default:
		if (val < KBD_ALL_KEYS_FIRST || val > KBD_ALL_KEYS_LAST) {
			kbd_answer(k, KBD_RESEND);
			return;
		}
	}
	kbd_answer(k, KBD_ACK);
}

/* A byte from the host. It lets the keyboard's clock go, and what the keyboard had meant to answer
 * before is off. An argument has bit 7 clear; anything else is a new command. */
static void kbd_write(struct i8042 *k, u8 val)
{
	k->ram[0] &= (u8)~I8042_CTR_KBD_OFF;
	k->answers.count = 0;
	if (k->kbd.wants && val < 0x80) {
		kbd_argument(k, val);
	} else {
		k->kbd.wants = 0;
		kbd_command(k, val);
	}
}

bool i8042_send_key(struct i8042 *k, const u8 *set2, unsigned n)
{
	struct i8042_queue *q = &k->scancodes;

	if (!k->kbd.scanning || n > I8042_SCANCODES - q->count)
		return false;
	for (unsigned i = 0; i < n; i++) {
		u8 byte = set2[i];

		if (k->kbd.set == 2 || translate(&k->kbd.breaks, &byte))
			(void)queue_put(q, byte, 0);
	}
	i8042_update(k);
	return true;
}

/* ---- the controller ---- */

static void i8042_pull_reset(struct i8042 *k)
{
	if (k->cfg.reset)
		k->cfg.reset(k->cfg.opaque);
}

static void i8042_argument(struct i8042 *k, u8 val)
{
	u8 command = k->wants;

	k->wants = 0;
	switch (command) {
	case CTL_WRITE_OUTPUT:
		k->out_port = val;
		if (!(val & OUT_RESET))
			i8042_pull_reset(k);
		break;
	case CTL_WRITE_KBD_BUF:
	case CTL_WRITE_AUX_BUF: i8042_reply(k, val, 0); break;
	case CTL_WRITE_AUX: i8042_reply(k, KBD_RESEND, I8042_STR_AUX | I8042_STR_TIMEOUT); break;
	default:
		k->ram[command & (I8042_RAM - 1)] = val;
		if (command == CTL_WRITE_RAM)
			k->sys = val & I8042_CTR_SYS;
	}
}

static u8 i8042_output_port(const struct i8042 *k)
{
	u8 fixed = OUT_RESET | OUT_A20 | OUT_CLOCK | OUT_DATA;

	return (u8)((k->out_port & 0x0c) | fixed | (k->full ? OUT_OBF : 0));
}

static void i8042_command(struct i8042 *k, u8 val)
{
	k->wants = 0;
	if (val >= CTL_READ_RAM && val < CTL_READ_RAM + I8042_RAM) {
		i8042_reply(k, k->ram[val & (I8042_RAM - 1)], 0);
		return;
	}
	if (val >= CTL_WRITE_RAM && val < CTL_WRITE_RAM + I8042_RAM) {
		k->wants = val;
		return;
	}
	if (val >= CTL_PULSE) {
		if (!(val & OUT_RESET))
			i8042_pull_reset(k);
		return;
	}
	switch (val) {
	case CTL_TEST_PASSWORD: i8042_reply(k, 0xf1, 0); break; /* none installed */
	case CTL_AUX_OFF: k->ram[0] |= I8042_CTR_AUX_OFF; break;
	case CTL_AUX_ON: k->ram[0] &= (u8)~I8042_CTR_AUX_OFF; break;
	case CTL_AUX_TEST: i8042_reply(k, 0x02, 0); break; /* clock line stuck high */
	case CTL_SELF_TEST:
		k->sys = true;
		i8042_reply(k, 0x55, 0);
		break;
	case CTL_KBD_TEST: i8042_reply(k, 0x00, 0); break;
	case CTL_KBD_OFF: k->ram[0] |= I8042_CTR_KBD_OFF; break;
	case CTL_KBD_ON: k->ram[0] &= (u8)~I8042_CTR_KBD_OFF; break;
	case CTL_READ_INPUT: i8042_reply(k, 0x80, 0); break; /* not locked */
	case CTL_READ_OUTPUT: i8042_reply(k, i8042_output_port(k), 0); break;
	case CTL_READ_TEST: i8042_reply(k, 0x00, 0); break;
	case CTL_WRITE_OUTPUT:
	case CTL_WRITE_KBD_BUF:
	case CTL_WRITE_AUX_BUF:
	case CTL_WRITE_AUX: k->wants = val; break;
	default: break; /* A20 gate (DD, DF) and what this controller does not have */
	}
}

static u8 i8042_read_data_byte(void *dev, u64 offset)
{
	struct i8042 *k = dev;

	(void)offset;
	/* An empty buffer still holds its last byte. */
	u8 val = k->out;
	if (k->full) {
		k->full = false;
		irq_set(&k->cfg.irq, 0);
		i8042_update(k);
	}
	return val;
}

static u8 i8042_read_status_byte(void *dev, u64 offset)
{
	struct i8042 *k = dev;

	(void)offset;
	return (u8)(I8042_STR_UNLOCKED | (k->sys ? I8042_STR_SYS : 0) |
		    (k->last_was_cmd ? I8042_STR_CMD : 0) |
		    (k->full ? I8042_STR_OBF | k->out_status : 0));
}

static void i8042_write_data_byte(void *dev, u64 offset, u8 val)
{
	struct i8042 *k = dev;

	(void)offset;
	k->last_was_cmd = false;
	if (k->wants)
		i8042_argument(k, val);
	else
		kbd_write(k, val);
	i8042_update(k);
}

static void i8042_write_command_byte(void *dev, u64 offset, u8 val)
{
	struct i8042 *k = dev;

	(void)offset;
	k->last_was_cmd = true;
	i8042_command(k, val);
	i8042_update(k);
}

static u64 i8042_read_data(void *dev, u64 offset, unsigned size)
{
	return byteport_read(i8042_read_data_byte, dev, offset, size);
}

static void i8042_write_data(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(i8042_write_data_byte, dev, offset, size, val);
}

static u64 i8042_read_status(void *dev, u64 offset, unsigned size)
{
	return byteport_read(i8042_read_status_byte, dev, offset, size);
}

static void i8042_write_command(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(i8042_write_command_byte, dev, offset, size, val);
}

static const struct bus_range i8042_ranges[] = {
    {BUS_PORT, 0x60, 1, i8042_read_data, i8042_write_data, "i8042-data"},
    {BUS_PORT, 0x64, 1, i8042_read_status, i8042_write_command, "i8042-command"},
};

void i8042_init(struct i8042 *k, const struct i8042_config *cfg)
{
	memset(k, 0, sizeof(*k));
	k->cfg = *cfg;
	i8042_reset(k);
}

void i8042_reset(struct i8042 *k)
{
	struct i8042_config cfg = k->cfg;

	memset(k, 0, sizeof(*k));
	k->cfg = cfg;
	k->ram[0] = DEFAULT_CTR;
	k->sys = true;
	kbd_defaults(k, true);
	i8042_update(k);
}

int i8042_register(struct i8042 *k, struct bus *bus)
{
	return bus_add(bus, i8042_ranges, ARRAY_LEN(i8042_ranges), k);
}
