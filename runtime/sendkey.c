#include "sendkey.h"

#include <string.h>

#define BREAK    0xf0 /* set 2: what follows went up */
#define RETRY_NS 10000000ull

static const struct {
	const char *name;
	struct sendkey_code key;
} keys[] = {
#define KEY(n, p, c) {.name = (n), .key = {.prefix = (p), .code = (c)}},
#include "keys.def"
#undef KEY
};

bool sendkey_find(const char *name, size_t len, struct sendkey_code *key)
{
	for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
		if (strlen(keys[i].name) == len && !memcmp(keys[i].name, name, len)) {
			*key = keys[i].key;
			return true;
		}
	}
	return false;
}

static bool move(struct sendkey *s, struct sendkey_code key, bool down)
{
	u8 bytes[3];
	unsigned n = 0;

	if (key.prefix)
		bytes[n++] = key.prefix;
	if (!down)
		bytes[n++] = BREAK;
	bytes[n++] = key.code;
	return i8042_send_key(s->kbd, bytes, n);
}

/* False: the keyboard's buffer is full. One that no longer listens has nothing down. */
static bool release(struct sendkey *s)
{
	while (s->count && (move(s, s->held[s->count - 1], false) || !s->kbd->kbd.scanning))
		s->count--;
	return !s->count;
}

static void on_timer(void *opaque)
{
	struct sendkey *s = opaque;

	if (!release(s))
		timer_arm(&s->release, timerq_now(s->release.q) + RETRY_NS);
}

void sendkey_init(struct sendkey *s, struct i8042 *kbd, struct timerq *q)
{
	*s = (struct sendkey){.kbd = kbd};
	timer_init(&s->release, q, on_timer, s);
}

void sendkey_reset(struct sendkey *s)
{
	timer_cancel(&s->release);
	s->count = 0;
}

bool sendkey_press(struct sendkey *s, const struct sendkey_code *which, unsigned count,
		   unsigned hold_ms)
{
	bool took = release(s);

	for (unsigned i = 0; took && i < MIN(count, (unsigned)SENDKEY_MAX); i++) {
		took = move(s, which[i], true);
		if (took)
			s->held[s->count++] = which[i];
	}
	timer_arm(&s->release, timerq_now(s->release.q) + (took ? hold_ms * 1000000ull : 0));
	return took;
}
