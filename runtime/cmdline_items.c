/*
 * Taking option values apart.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "cmdline_impl.h"

/* Fail with "-opt: message". */
int cmdline_fail(struct parser *p, const char *fmt, ...)
{
	va_list ap;
	int n = 0;

	if (p->opt)
		n = snprintf(p->err, p->err_size, "%.*s: ", (int)strcspn(p->opt, "="), p->opt);
	if (n >= 0 && (size_t)n < p->err_size) {
		va_start(ap, fmt);
		vsnprintf(p->err + n, p->err_size - n, fmt, ap);
		va_end(ap);
	}
	return -EINVAL;
}

/* The rest of s after prefix, or NULL. */
const char *cmdline_after(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(s, prefix, n) ? NULL : s + n;
}

struct item cmdline_take_item(const char **list)
{
	struct item it = {*list, (int)strcspn(*list, ",")};

	*list = it.text[it.len] ? it.text + it.len + 1 : NULL;
	return it;
}

bool cmdline_next_item(const char **list, struct item *it)
{
	if (!*list)
		return false;
	*it = cmdline_take_item(list);
	return true;
}

bool cmdline_item_is(const struct item *it, const char *s)
{
	return strlen(s) == (size_t)it->len && !memcmp(it->text, s, it->len);
}

/* If the item is "key=value", the value. */
bool cmdline_item_value(const struct item *it, const char *key, struct item *value)
{
	size_t n = strlen(key);

	if ((size_t)it->len <= n || memcmp(it->text, key, n) || it->text[n] != '=')
		return false;
	value->text = it->text + n + 1;
	value->len = it->len - (int)n - 1;
	return true;
}

/* A whole number, decimal or 0x hexadecimal, no sign. */
bool cmdline_item_number(const struct item *it, u64 *val)
{
	char buf[32], *end;

	if (it->len <= 0 || it->len >= (int)sizeof(buf) || !isdigit((unsigned char)it->text[0]))
		return false;
	memcpy(buf, it->text, it->len);
	buf[it->len] = 0;
	errno = 0;
	*val = strtoull(buf, &end, cmdline_after(buf, "0x") || cmdline_after(buf, "0X") ? 16 : 10);
	return !errno && !*end;
}

static int suffix_shift(char c)
{
	switch (toupper((unsigned char)c)) {
	case 'B': return 0;
	case 'K': return 10;
	case 'M': return 20;
	case 'G': return 30;
	case 'T': return 40;
	default: return -1;
	}
}

/* A size in bytes; without a suffix in MiB. */
bool cmdline_item_size(const struct item *it, u64 *bytes)
{
	struct item number = *it;
	int shift = 20;
	u64 n;

	if (it->len > 0 && !isdigit((unsigned char)it->text[it->len - 1])) {
		shift = suffix_shift(it->text[it->len - 1]);
		number.len--;
	}
	if (shift < 0 || !cmdline_item_number(&number, &n) || n > (~0ull >> shift))
		return false;
	*bytes = n << shift;
	return true;
}
