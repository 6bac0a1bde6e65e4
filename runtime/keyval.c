/*
 * "first,key=value": taking apart, asking, refusing.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "keyval.h"

/* "opt: text". */
static PRINTF(2, 0) int vfail(struct keyval *k, const char *fmt, va_list ap)
{
	int n = snprintf(k->err, k->err_size, "%s: ", k->opt);

	if (n >= 0 && (size_t)n < k->err_size)
		vsnprintf(k->err + n, k->err_size - n, fmt, ap);
	return -EINVAL;
}

int keyval_fail(struct keyval *k, const char *fmt, ...)
{
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vfail(k, fmt, ap);
	va_end(ap);
	return rc;
}

/* Copy one item to *out, a doubled comma as one; where the next begins, NULL at the end. */
static const char *copy_item(const char *arg, char **out)
{
	char *o = *out;

	while (*arg && (arg[0] != ',' || arg[1] == ',')) {
		arg += *arg == ',';
		*o++ = *arg++;
	}
	*o++ = 0;
	*out = o;
	return *arg ? arg + 1 : NULL;
}

/* What stands left of '=' may not contain what a value may. */
static bool has_key(const char *item)
{
	size_t n = strcspn(item, "=");

	if (!item[n] || !n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)item[i]) && !strchr("-_.", item[i]))
			return false;
	return true;
}

static int add_item(struct keyval *k, char *item, const char *first)
{
	char *val = "on";

	if (k->count == KEYVAL_MAX)
		return keyval_fail(k, "more than %d items", KEYVAL_MAX);
	if (has_key(item)) {
		val = item + strcspn(item, "=");
		*val++ = 0;
	} else if (!k->count && first) {
		val = item;
		item = (char *)first;
	} else if (!*item) {
		return keyval_fail(k, "an item is empty");
	}
	k->kv[k->count].key = item;
	k->kv[k->count].val = val;
	k->kv[k->count].used = false;
	k->count++;
	return 0;
}

int keyval_parse(struct keyval *k, const char *opt, const char *arg, const char *first, char *err,
		 size_t err_size)
{
	char *out = k->text;

	k->opt = opt;
	k->count = 0;
	k->err = err;
	k->err_size = err_size;
	/* Every comma becomes a terminator, so a copy is never longer than the argument and one. */
	if (strlen(arg) >= KEYVAL_TEXT)
		return keyval_fail(k, "longer than %d characters", KEYVAL_TEXT - 1);
	while (arg) {
		char *item = out;
		int rc;

		arg = copy_item(arg, &out);
		rc = add_item(k, item, first);
		if (rc)
			return rc;
	}
	return 0;
}

const char *keyval_get(struct keyval *k, const char *key)
{
	const char *val = NULL;

	for (unsigned i = 0; i < k->count; i++) {
		if (strcmp(k->kv[i].key, key))
			continue;
		k->kv[i].used = true;
		val = k->kv[i].val;
	}
	return val;
}

int keyval_bool(struct keyval *k, const char *key, bool *val)
{
	static const char *const words[] = {"off", "on", "false", "true", "no", "yes"};
	const char *s = keyval_get(k, key);

	if (!s)
		return 0;
	for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(s, words[i]))
			continue;
		*val = i & 1;
		return 0;
	}
	return keyval_fail(k, "%s=%s: on and off are what it takes", key, s);
}

/* Decimal or 0x hexadecimal, no sign; *end: what follows. */
static bool read_number(const char *s, u64 *val, const char **end)
{
	int base = s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10;
	char *e;

	if (!isdigit((unsigned char)s[0]))
		return false;
	errno = 0;
	*val = strtoull(s, &e, base);
	*end = e;
	return !errno;
}

int keyval_number(struct keyval *k, const char *key, u64 *val, u64 max)
{
	const char *s = keyval_get(k, key), *end;
	u64 n;

	if (!s)
		return 0;
	if (!read_number(s, &n, &end) || *end)
		return keyval_fail(k, "%s=%s: not a number", key, s);
	if (n > max)
		return keyval_fail(k, "%s=%s: %llu is the most", key, s, (unsigned long long)max);
	*val = n;
	return 0;
}

int keyval_size(struct keyval *k, const char *key, u64 *val)
{
	static const char suffixes[] = "BKMGTP";
	const char *s = keyval_get(k, key), *end, *suffix = NULL;
	unsigned shift;
	u64 n;

	if (!s)
		return 0;
	if (!read_number(s, &n, &end))
		return keyval_fail(k, "%s=%s: not a size", key, s);
	if (*end)
		suffix = strchr(suffixes, toupper((unsigned char)*end));
	shift = suffix ? 10 * (unsigned)(suffix - suffixes) : 0;
	if ((*end && (!suffix || end[1])) || n > ~0ull >> shift)
		return keyval_fail(k, "%s=%s: not a size", key, s);
	*val = n << shift;
	return 0;
}

int keyval_choice(struct keyval *k, const char *key, const char *const *names, unsigned n,
		  unsigned *val)
{
	const char *s = keyval_get(k, key);
	char list[256] = "";
	size_t len = 0;

	if (!s)
		return 0;
	for (unsigned i = 0; i < n; i++) {
		if (!strcmp(s, names[i])) {
			*val = i;
			return 0;
		}
		if (len < sizeof(list))
			len += snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "",
					names[i]);
	}
	return keyval_fail(k, "%s=%s: it is one of %s", key, s, list);
}

int keyval_rest(struct keyval *k)
{
	for (unsigned i = 0; i < k->count; i++)
		if (!k->kv[i].used)
			return keyval_fail(k, "'%s' is not known here", k->kv[i].key);
	return 0;
}
