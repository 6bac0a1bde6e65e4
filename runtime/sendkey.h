/*
 * Keys pressed for the user, by a monitor: several go down together and come up again after a
 * while.
 */
#ifndef RINGSHIFT_SENDKEY_H
#define RINGSHIFT_SENDKEY_H

#include "i8042.h"
#include "timer.h"

#define SENDKEY_MAX       8   /* keys at a time */
#define SENDKEY_HOLD_MS   100 /* what they stay down unless somebody says otherwise */
#define SENDKEY_HOLD_MOST 60000u

struct sendkey_code {
	u8 prefix, code; /* prefix 0: none */
};

struct sendkey {
	struct i8042 *kbd;
	struct timer release;
	struct sendkey_code held[SENDKEY_MAX];
	unsigned count;
};

void sendkey_init(struct sendkey *s, struct i8042 *kbd, struct timerq *q);

/* The machine was reset: nothing is down. */
void sendkey_reset(struct sendkey *s);

/* The key of a QKeyCode's name, which is len bytes long; false: there is none. */
bool sendkey_find(const char *name, size_t len, struct sendkey_code *key);

/*
 * Keys go down, in this order, and come up after hold_ms in the opposite one; those that are still
 * down from last time come up first. count: at most SENDKEY_MAX. False: the keyboard takes none, or
 * not so many. Device lock held.
 */
MUST_CHECK bool sendkey_press(struct sendkey *s, const struct sendkey_code *keys, unsigned count,
			      unsigned hold_ms);

#endif
