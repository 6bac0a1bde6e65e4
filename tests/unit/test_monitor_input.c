/* What monitors read: JSON values out of a stream, lines out of keys. */
#include <criterion/criterion.h>
#include <string.h>

#include "json_stream.h"
#include "line_edit.h"

/* ---- JSON ---- */

/* The events of a text: each value's text, "!" for what is bad; separated by '|'. */
static const char *events(struct json_stream *s, const char *text, size_t len)
{
	static char out[4096];
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		enum json_event e = json_stream_byte(s, (u8)text[i]);

		if (e == JSON_VALUE)
			n += (size_t)snprintf(out + n, sizeof(out) - n, "%.*s|", (int)s->len,
					      s->text);
		else if (e == JSON_BAD)
			n += (size_t)snprintf(out + n, sizeof(out) - n, "!|");
	}
	out[n] = 0;
	return out;
}

Test(json_stream, where_values_end)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
	    {"{}", "{}|"},
	    {" {\"a\": [1, {}]}\r\n[2]{}", "{\"a\": [1, {}]}|[2]|{}|"},
	    {"{\"}\": \"\\\"}{\"}", "{\"}\": \"\\\"}{\"}|"},
	    {"{\"\\\\\"}{}", "{\"\\\\\"}|{}|"},
	    {"nonsense {}\n{}", "!|{}|"},
	    {"}{}\n{}", "!|{}|"},
	    {"5\n", "!|"},
	    {"{\"unfinished\xff{}", "!|{}|"},
	    {"\xff{}", "{}|"},
	    {"{]", "{]|"}, /* the parser's matter */
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct json_stream s = {0};

		cr_expect_str_eq(events(&s, cases[i].in, strlen(cases[i].in)), cases[i].out, "%s",
				 cases[i].in);
		json_stream_free(&s);
	}
}

Test(json_stream, limits)
{
	struct json_stream s = {0};
	static char deep[2 * JSON_DEPTH_MAX + 2], big[JSON_SIZE_MAX + 2];

	memset(deep, '[', JSON_DEPTH_MAX);
	memset(deep + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
	cr_assert_eq(strlen(events(&s, deep, 2 * JSON_DEPTH_MAX)), 2 * JSON_DEPTH_MAX + 1);
	memset(deep, '[', JSON_DEPTH_MAX + 1);
	cr_assert_str_eq(events(&s, deep, JSON_DEPTH_MAX + 1), "!|");
	cr_assert_str_eq(events(&s, "]]]\n{}", 6), "{}|");
	memset(big, ' ', sizeof(big));
	big[0] = '{';
	cr_assert_str_eq(events(&s, big, sizeof(big)), "!|");
	cr_assert_leq(s.size, JSON_SIZE_MAX);
	cr_assert_str_eq(events(&s, "\n{}", 3), "{}|");
	json_stream_free(&s);
}

/* ---- lines ---- */

static char shown[8192], ran[8192];

static void put(void *opaque, const char *text, size_t len)
{
	(void)opaque;
	strncat(shown, text, len);
}

static void run(void *opaque, const char *line)
{
	(void)opaque;
	strcat(ran, line);
	strcat(ran, "|");
}

static const char *complete(const char *text, size_t *skip, unsigned i)
{
	static const char *const words[] = {"stop", "system_powerdown", "system_reset"};

	*skip = strncmp(text, "do ", 3) ? 0 : 3;
	text += *skip;
	for (size_t k = 0; k < ARRAY_LEN(words); k++)
		if (!strncmp(words[k], text, strlen(text)) && i-- == 0)
			return words[k];
	return NULL;
}

static void keys(struct line_edit *e, const char *text)
{
	shown[0] = ran[0] = 0;
	line_edit_receive(e, (const u8 *)text, strlen(text));
}

Test(line_edit, lines)
{
	static struct line_edit e;

	line_edit_init(&e, put, run, complete, NULL);
	keys(&e, "ab\r\ncd\n\re\r");
	cr_expect_str_eq(ran, "ab|cd||e|");
	cr_expect_str_eq(shown, "ab\r\ncd\r\n\r\ne\r\n");
	keys(&e, "abc\b\x7fx\r");
	cr_expect_str_eq(ran, "ax|");
	cr_expect_str_eq(shown, "abc\b \b\b \bx\r\n");
	keys(&e, "one two\x17three\r");
	cr_expect_str_eq(ran, "one three|");
	keys(&e, "junk\x15"
		 "a\x03"
		 "b\r");
	cr_expect_str_eq(ran, "b|");
	keys(&e, "\x1b[D\x1b[3~\x01\x02x\r");
	cr_expect_str_eq(ran, "x|", "other keys mean nothing");
}

Test(line_edit, history)
{
	static struct line_edit e;
	char line[16];

	line_edit_init(&e, put, run, complete, NULL);
	keys(&e, "\x1b[A\x1b[B\r");
	cr_expect_str_eq(ran, "|", "there is none");
	for (int i = 0; i < 2 * LINE_HISTORY; i++) {
		snprintf(line, sizeof(line), "line%d\r", i);
		keys(&e, line);
	}
	keys(&e, "line31\r\x1b[A\x1b[A\r");
	cr_expect_str_eq(ran, "line31|line30|");
	keys(&e, "\x1b[A\x1b[A\x1b[B\r");
	cr_expect_str_eq(ran, "line30|");
	for (int i = 0; i < 3 * LINE_HISTORY; i++)
		keys(&e, "\x1bOA");
	keys(&e, "\r");
	cr_expect_str_eq(ran, "line17|", "the oldest");
}

Test(line_edit, completion)
{
	static struct line_edit e;

	line_edit_init(&e, put, run, complete, NULL);
	keys(&e, "st\t\r");
	cr_expect_str_eq(ran, "stop |");
	keys(&e, "sy\tr\t\r");
	cr_expect_str_eq(ran, "system_reset |");
	keys(&e, "system_\t");
	cr_expect_str_eq(shown, "system_\r\nsystem_powerdown  system_reset\r\nsystem_");
	keys(&e, "\x15"
		 "do st\t\r");
	cr_expect_str_eq(ran, "do stop |");
	keys(&e, "zz\t\r");
	cr_expect_str_eq(ran, "zz|");
}

Test(line_edit, a_line_has_an_end)
{
	static struct line_edit e;

	line_edit_init(&e, put, run, complete, NULL);
	for (int i = 0; i < 3 * LINE_MAX_LEN; i++)
		keys(&e, "x");
	keys(&e, "\r");
	cr_expect_eq(strlen(ran), LINE_MAX_LEN + 1);
}
