/*
 * What the files of the command line share: the parser's state, the functions of options.def, and
 * what takes values apart.
 */
#ifndef RINGSHIFT_CMDLINE_IMPL_H
#define RINGSHIFT_CMDLINE_IMPL_H

#include "cmdline_char.h"

struct parser {
	struct config *cfg;
	const char *opt; /* the option being parsed, as typed */
	char *err;
	size_t err_size;
	bool nographic, nodefaults;
	const char *max_insns; /* the option as typed, if given */
	const char *bt_aid;    /* as typed: the last option that is about translation only */
};

#define OPTION(id, name, arg, help) int opt_##id(struct parser *p, const char *arg_);
#include "options.def"
#undef OPTION

/* Fail with "-opt: message". */
PRINTF(2, 3) int cmdline_fail(struct parser *p, const char *fmt, ...);

/* Where cmdline_char.c puts its message. */
static inline struct cmdline_err cmdline_char_err(struct parser *p)
{
	return (struct cmdline_err){.opt = p->opt, .text = p->err, .size = p->err_size};
}

/* The rest of s after prefix, or NULL. */
const char *cmdline_after(const char *s, const char *prefix);

/* One item of a comma-separated list; *list moves on, NULL at the end. */
struct item {
	const char *text;
	int len;
};

struct item cmdline_take_item(const char **list);
bool cmdline_next_item(const char **list, struct item *it);
bool cmdline_item_is(const struct item *it, const char *s);
/* If the item is "key=value", the value. */
bool cmdline_item_value(const struct item *it, const char *key, struct item *value);
/* A whole number, decimal or 0x hexadecimal, no sign. */
bool cmdline_item_number(const struct item *it, u64 *val);
/* A size in bytes; without a suffix in MiB. */
bool cmdline_item_size(const struct item *it, u64 *bytes);

#endif
