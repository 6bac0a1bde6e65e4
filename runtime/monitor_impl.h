/*
 * One monitor, for monitor.c, line_edit.c, qmp.c.
 */
#ifndef RINGSHIFT_MONITOR_IMPL_H
#define RINGSHIFT_MONITOR_IMPL_H

#include "cmdline.h"
#include "json_stream.h"
#include "line_edit.h"
#include "monitor.h"
#include "vm.h"

struct monitor {
	struct monitor *next;
	struct vm *vm;
	const struct mon_spec *spec;
	struct chardev *chr;
	bool open; /* somebody is there */

	char *out; /* said, not yet taken by the character device */
	size_t out_len, out_size;

	struct line_edit line; /* readline */
	bool greeted;

	struct json_stream json; /* control */
	bool negotiated;
};

struct monitors {
	struct monitor *first;
};

/* Say something. Dropped if nobody is there. */
void monitor_put(struct monitor *m, const char *text, size_t len);

/* Control: a client has come; and what it sends. */
void qmp_greet(struct monitor *m);
void qmp_receive(struct monitor *m, const u8 *buf, size_t len);
void qmp_event(struct monitor *m, const char *name, bool has_reason, bool guest,
	       const char *reason);

#endif
