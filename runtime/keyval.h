/*
 * Option values of QEMU's form "first,key=value,key=value": a doubled comma stands for one, the
 * first item may lack its key, "key" alone means key=on and "nokey" is not known. Whoever asks for
 * keys marks them used, and keyval_rest refuses what nobody asked for.
 */
#ifndef RINGSHIFT_KEYVAL_H
#define RINGSHIFT_KEYVAL_H

#include "base.h"

#define KEYVAL_MAX  32
#define KEYVAL_TEXT 4096

struct keyval {
	const char *opt; /* "-device", for messages */
	unsigned count;
	struct {
		const char *key, *val;
		bool used;
	} kv[KEYVAL_MAX];
	char *err; /* the caller's, for all functions here */
	size_t err_size;
	char text[KEYVAL_TEXT];
};

/* Take an argument apart. first: the key of an item without one at the start ("driver", "file"), or
 * NULL if there is none. -EINVAL and "opt: ..." in err. */
MUST_CHECK int keyval_parse(struct keyval *k, const char *opt, const char *arg, const char *first,
			    char *err, size_t err_size);

/* The value of a key given, the last one if several; NULL if it was not. */
const char *keyval_get(struct keyval *k, const char *key);

/* Each leaves *val alone if the key was not given; -EINVAL and a message if it makes no sense. */
MUST_CHECK int keyval_bool(struct keyval *k, const char *key, bool *val); /* on, off, true, false */
MUST_CHECK int keyval_number(struct keyval *k, const char *key, u64 *val, u64 max);
MUST_CHECK int keyval_size(struct keyval *k, const char *key, u64 *val); /* bytes; K, M, G, T */
/* One of n names: its index. */
MUST_CHECK int keyval_choice(struct keyval *k, const char *key, const char *const *names,
			     unsigned n, unsigned *val);

/* -EINVAL and "opt: value: message", for the caller's own checks. */
PRINTF(2, 3) int keyval_fail(struct keyval *k, const char *fmt, ...);

/* Refuse the first key nobody asked for. */
MUST_CHECK int keyval_rest(struct keyval *k);

#endif
