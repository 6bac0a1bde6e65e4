/*
 * Callouts counted by instruction: what shares a line, what does not, and the order of lines.
 */
#define _GNU_SOURCE
#include <stdio.h>

#include "callouts.h"
#include "engine_rig.h"

/* The instruction of these bytes was called out so often. */
static void called_out(struct engine *e, const char *bytes, size_t n, unsigned times)
{
	struct op o = {.callout = NULL};

	cr_assert_eq(decoder_decode(e->decoder, (const u8 *)bytes, n, INSN_MODE_64, &o.in), (int)n);
	while (times--)
		callout_count(e, &o);
}
#define CALLED_OUT(e, bytes, times) called_out(e, bytes, sizeof(bytes) - 1, times)

static void expect_lines(const struct engine *e, const char *want)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	callouts_print(e, f);
	fclose(f);
	cr_assert_str_eq(text, want);
	free(text);
}

Test(callouts, lines_are_names_and_reasons)
{
	struct erig *r = erig_new_long(0);
	struct engine *e = r->c->engine;

	expect_lines(e, "");
	CALLED_OUT(e, "\x0f\x20\xd8", 3);         /* mov rax, cr3 */
	CALLED_OUT(e, "\x0f\x22\xd8", 2);         /* mov cr3, rax */
	CALLED_OUT(e, "\x48\x8b\x03", 7);         /* mov rax, [rbx] */
	CALLED_OUT(e, "\xf0\x48\x0f\xb1\x0b", 1); /* lock cmpxchg [rbx], rcx */
	CALLED_OUT(e, "\x48\x0f\xb1\x0b", 1);     /* cmpxchg [rbx], rcx */
	CALLED_OUT(e, "\xf3\xa4", 9);             /* rep movsb */
	CALLED_OUT(e, "\xa4", 8);                 /* movsb */
	expect_lines(e, "callouts, by instruction:\n"
			"               9  rep movsb (string)\n"
			"               8  movsb (string)\n"
			"               7  mov (memory)\n"
			"               5  mov (reads or writes a control register)\n"
			"               2  cmpxchg (memory)\n");
	erig_free(r);
}
