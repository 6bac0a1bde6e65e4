/*
 * The options about character devices and who uses them: -chardev, -serial, -debugcon, -monitor,
 * -qmp, -mon. cmdline.c calls these; each returns 0, or -EINVAL and a line of text that begins with
 * the option's name.
 */
#ifndef RINGSHIFT_CMDLINE_CHAR_H
#define RINGSHIFT_CMDLINE_CHAR_H

#include "cmdline.h"

/* Where messages go; opt is the option as typed. */
struct cmdline_err {
	const char *opt;
	char *text;
	size_t size;
};

MUST_CHECK int cmdline_chardev(struct config *cfg, const char *arg, struct cmdline_err *e);
MUST_CHECK int cmdline_serial(struct config *cfg, const char *arg, struct cmdline_err *e);
MUST_CHECK int cmdline_debugcon(struct config *cfg, const char *arg, struct cmdline_err *e);
MUST_CHECK int cmdline_monitor(struct config *cfg, const char *arg, bool control, bool pretty,
			       struct cmdline_err *e);
MUST_CHECK int cmdline_mon(struct config *cfg, const char *arg, struct cmdline_err *e);

/* When all options are known: the default serial port, then whether every device named is there and
 * no two users quarrel over one. */
MUST_CHECK int cmdline_chars_finish(struct config *cfg, bool nographic, bool nodefaults,
				    struct cmdline_err *e);

#endif
