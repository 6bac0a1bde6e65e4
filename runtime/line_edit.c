/*
 * Keys: Backspace, Ctrl-u (the line), Ctrl-w (a word), Ctrl-c (start again), up and down (history),
 * Tab. The cursor is always at the end.
 */
#include <string.h>

#include "line_edit.h"

enum {
	CTRL_C = 3,
	BACKSPACE = 8,
	TAB = 9,
	LF = 10,
	CR = 13,
	CTRL_U = 21,
	CTRL_W = 23,
	ESC = 27,
	DELETE = 127
};

void line_edit_init(struct line_edit *e, void (*put)(void *, const char *, size_t),
		    void (*run)(void *, const char *),
		    const char *(*complete)(const char *, size_t *, unsigned), void *opaque)
{
	memset(e, 0, sizeof(*e));
	e->put = put;
	e->run = run;
	e->complete = complete;
	e->opaque = opaque;
}

void line_edit_reset(struct line_edit *e)
{
	e->len = 0;
	e->escape = 0;
	e->after_cr = false;
	e->shown = e->lines;
}

static void put(struct line_edit *e, const char *text)
{
	e->put(e->opaque, text, strlen(text));
}

static void rub_out(struct line_edit *e, size_t n)
{
	for (; n && e->len; n--, e->len--)
		put(e, "\b \b");
}

static void append(struct line_edit *e, const char *text, size_t n)
{
	n = MIN(n, LINE_MAX_LEN - e->len);
	memcpy(e->text + e->len, text, n);
	e->len += n;
	e->put(e->opaque, text, n);
}

static void rub_out_word(struct line_edit *e)
{
	while (e->len && e->text[e->len - 1] == ' ')
		rub_out(e, 1);
	while (e->len && e->text[e->len - 1] != ' ')
		rub_out(e, 1);
}

static void remember(struct line_edit *e)
{
	if (!e->len || (e->lines && !strcmp(e->history[(e->lines - 1) % LINE_HISTORY], e->text)))
		return;
	strcpy(e->history[e->lines++ % LINE_HISTORY], e->text);
}

static void finish(struct line_edit *e)
{
	put(e, "\r\n");
	e->text[e->len] = 0;
	remember(e);
	/* The line is run in place: what it is made of does not change before the next key. */
	e->len = 0;
	e->shown = e->lines;
	e->run(e->opaque, e->text);
}

static void show_history(struct line_edit *e, int step)
{
	unsigned oldest = e->lines > LINE_HISTORY ? e->lines - LINE_HISTORY : 0;
	unsigned at = e->shown + (unsigned)step;

	if (step < 0 ? e->shown == oldest : e->shown == e->lines)
		return;
	rub_out(e, e->len);
	e->shown = at;
	if (at != e->lines)
		append(e, e->history[at % LINE_HISTORY], strlen(e->history[at % LINE_HISTORY]));
}

/* Append what all completions have in common; list them if that is nothing. */
static void complete(struct line_edit *e)
{
	const char *first, *other;
	size_t common, skip;
	unsigned i;

	e->text[e->len] = 0;
	first = e->complete(e->text, &skip, 0);
	if (!first)
		return;
	common = strlen(first);
	for (i = 1; (other = e->complete(e->text, &skip, i)); i++)
		for (size_t k = 0; k < common; k++)
			if (first[k] != other[k])
				common = k;
	if (skip + common > e->len || i == 1) {
		append(e, first + (e->len - skip), common - (e->len - skip));
		if (i == 1)
			append(e, " ", 1);
		return;
	}
	for (i = 0; (other = e->complete(e->text, &skip, i)); i++) {
		put(e, i ? "  " : "\r\n");
		put(e, other);
	}
	put(e, "\r\n");
	e->put(e->opaque, e->text, e->len);
}

/* After ESC [: up and down; other keys mean nothing. */
static void escape_byte(struct line_edit *e, u8 b)
{
	if (e->escape == 1) {
		e->escape = b == '[' || b == 'O' ? 2 : 0;
		return;
	}
	if (b >= '0' && b <= '?')
		return; /* parameters */
	e->escape = 0;
	if (b == 'A')
		show_history(e, -1);
	else if (b == 'B')
		show_history(e, 1);
}

static void key(struct line_edit *e, u8 b)
{
	switch (b) {
	case CR:
	case LF: finish(e); break;
	case BACKSPACE:
	case DELETE: rub_out(e, 1); break;
	case CTRL_C:
	case CTRL_U: rub_out(e, e->len); break;
	case CTRL_W: rub_out_word(e); break;
	case TAB: complete(e); break;
	case ESC: e->escape = 1; break;
	default:
		if (b >= ' ')
			append(e, (const char *)&b, 1);
	}
}

void line_edit_receive(struct line_edit *e, const u8 *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		bool lf_of_crlf = e->after_cr && buf[i] == LF;

		e->after_cr = buf[i] == CR;
		if (e->escape)
			escape_byte(e, buf[i]);
		else if (!lf_of_crlf)
			key(e, buf[i]);
	}
}
