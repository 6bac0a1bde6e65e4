/*
 * A line of text typed at a terminal in raw mode: echo, correction, history, completion.
 */
#ifndef RINGSHIFT_LINE_EDIT_H
#define RINGSHIFT_LINE_EDIT_H

#include "base.h"

#define LINE_MAX_LEN 1024
#define LINE_HISTORY 16

struct line_edit {
	void (*put)(void *opaque, const char *text, size_t len);
	void (*run)(void *opaque, const char *line);
	/* The i-th word that may stand at text + *skip (set by the call), NULL after the last. */
	const char *(*complete)(const char *text, size_t *skip, unsigned i);
	void *opaque;
	char text[LINE_MAX_LEN + 1]; /* no terminator but while it is run */
	size_t len;
	unsigned escape; /* how much of a key's sequence has come */
	bool after_cr;
	char history[LINE_HISTORY][LINE_MAX_LEN + 1];
	unsigned lines, shown; /* of history, free-running; the one shown, lines: the new one */
};

void line_edit_init(struct line_edit *e, void (*put)(void *, const char *, size_t),
		    void (*run)(void *, const char *),
		    const char *(*complete)(const char *, size_t *, unsigned), void *opaque);
/* Begin a line anew. */
void line_edit_reset(struct line_edit *e);
void line_edit_receive(struct line_edit *e, const u8 *buf, size_t len);

#endif
