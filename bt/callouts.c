/*
 * Callouts by instruction, for --stats: which ones would be worth translating? Counted under the
 * instruction's name and the reason why it is sensitive, so that `mov` from CR3 is another line
 * than a `mov` that was promoted because it meets MMIO. Each decoded instruction remembers its
 * counter.
 */
#include "callouts.h"

#include <stdlib.h>
#include <string.h>

#define LINES 24

/* The name without operands; LOCK does not make it another instruction, REP does. */
static void name_of(struct engine *e, const struct insn *in, char *name, size_t size)
{
	char text[128], *p = text, *end;

	decoder_format(e->decoder, in, 0, text, sizeof(text));
	if (!strncmp(p, "lock ", 5))
		p += 5;
	end = strchr(p, ' ');
	if (end && !strncmp(p, "rep", 3))
		end = strchr(end + 1, ' ');
	if (end)
		*end = 0;
	snprintf(name, size, "%.*s", (int)size - 1, p);
}

struct callout *callout_of(struct engine *e, const struct insn *in)
{
	struct callout_key key;
	struct callout *k;

	memset(&key, 0, sizeof(key));
	name_of(e, in, key.name, sizeof(key.name));
	key.class = in->class;
	key.why = in->why;
	HASH_FIND(hh, e->callouts, &key, sizeof(key), k);
	if (!k) {
		k = calloc(1, sizeof(*k));
		BUG_ON(!k);
		k->key = key;
		HASH_ADD(hh, e->callouts, key, sizeof(k->key), k);
	}
	return k;
}

static int more_first(const void *a, const void *b)
{
	const struct callout *const *x = a, *const *y = b;

	return ((*x)->count < (*y)->count) - ((*x)->count > (*y)->count);
}

void callouts_print(const struct engine *e, FILE *out)
{
	unsigned n = HASH_COUNT(e->callouts), i = 0;
	struct callout **all, *k;

	if (!n)
		return;
	all = calloc(n, sizeof(*all));
	BUG_ON(!all);
	for (k = e->callouts; k; k = k->hh.next)
		all[i++] = k;
	qsort(all, n, sizeof(*all), more_first);
	fprintf(out, "callouts, by instruction:\n");
	for (i = 0; i < MIN(n, (unsigned)LINES); i++)
		fprintf(out, "%16llu  %s (%s)\n", (unsigned long long)all[i]->count,
			all[i]->key.name,
			all[i]->key.why ? insn_why_text(all[i]->key.why)
					: insn_class_name(all[i]->key.class));
	free(all);
}

void callouts_free(struct engine *e)
{
	struct callout *k, *tmp;

	HASH_ITER(hh, e->callouts, k, tmp)
	{
		HASH_DEL(e->callouts, k);
		free(k);
	}
}
