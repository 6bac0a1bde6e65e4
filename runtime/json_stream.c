/*
 * Outside of strings braces and brackets are counted, of either kind: which closes which is for the
 * parser to say. A byte that cannot begin a value spoils its line. 0xff, which is in no JSON text,
 * puts the stream in order again, as QEMU's does.
 */
#include <string.h>

#include "json_stream.h"

#define FIRST_SIZE 256

void json_stream_reset(struct json_stream *s)
{
	s->len = 0;
	s->depth = 0;
	s->in_string = s->escaped = s->skip = false;
}

void json_stream_free(struct json_stream *s)
{
	free(s->text);
	memset(s, 0, sizeof(*s));
}

static bool keep(struct json_stream *s, u8 b)
{
	if (s->len == s->size) {
		size_t size = s->size ? s->size * 2 : FIRST_SIZE;
		char *text = size > JSON_SIZE_MAX ? NULL : realloc(s->text, size);

		if (!text)
			return false;
		s->text = text;
		s->size = size;
	}
	s->text[s->len++] = (char)b;
	return true;
}

static enum json_event spoil(struct json_stream *s)
{
	json_stream_reset(s);
	s->skip = true;
	return JSON_BAD;
}

static void in_string(struct json_stream *s, u8 b)
{
	if (s->escaped)
		s->escaped = false;
	else if (b == '\\')
		s->escaped = true;
	else if (b == '"')
		s->in_string = false;
}

static bool is_space(u8 b)
{
	return b == ' ' || b == '\t' || b == '\r' || b == '\n';
}

enum json_event json_stream_byte(struct json_stream *s, u8 b)
{
	bool begun = s->depth;

	if (b == 0xff) {
		json_stream_reset(s);
		return begun ? JSON_BAD : JSON_MORE;
	}
	if (s->skip) {
		s->skip = b != '\n';
		return JSON_MORE;
	}
	if (!begun) {
		s->len = 0;
		if (is_space(b))
			return JSON_MORE;
		if (b != '{' && b != '[')
			return spoil(s);
	}
	if (!keep(s, b))
		return spoil(s);
	if (s->in_string) {
		in_string(s, b);
	} else if (b == '"') {
		s->in_string = true;
	} else if (b == '{' || b == '[') {
		if (++s->depth > JSON_DEPTH_MAX)
			return spoil(s);
	} else if (b == '}' || b == ']') {
		s->depth--;
	}
	return s->depth ? JSON_MORE : JSON_VALUE;
}
