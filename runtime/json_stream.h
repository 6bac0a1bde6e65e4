/*
 * JSON values out of a stream of bytes: finds where each object or array ends, so that the parser
 * can be given one at a time. What lies between the braces is the parser's matter.
 */
#ifndef RINGSHIFT_JSON_STREAM_H
#define RINGSHIFT_JSON_STREAM_H

#include "base.h"

#define JSON_SIZE_MAX  (1u << 20)
#define JSON_DEPTH_MAX 256u

enum json_event {
	JSON_MORE,
	JSON_VALUE, /* text and len are one */
	JSON_BAD,   /* not JSON, or beyond the limits; what belongs to it is skipped */
};

struct json_stream {
	char *text;
	size_t len, size;
	unsigned depth;
	bool in_string, escaped;
	bool skip; /* to the end of the line */
};

enum json_event json_stream_byte(struct json_stream *s, u8 b);
/* Forget what has begun. */
void json_stream_reset(struct json_stream *s);
void json_stream_free(struct json_stream *s);

#endif
