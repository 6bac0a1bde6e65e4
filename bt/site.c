/*
 * Sites: instructions with a memory operand that are no longer translated as if it lay in the
 * kernel half, because it has not. By guest PC, with no regard to what code is there now: any kind
 * of site executes any instruction, if not at the same speed.
 */
#include "translate.h"

#define XXH_INLINE_ALL
#include <xxhash.h>
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, len, hashv) ((hashv) = (unsigned)XXH3_64bits(key, len))

/* Linux has some hundred. A guest that has more loses them all, and promotes them anew. */
#define MAX_SITES 65536u

struct site {
	u64 pc;
	enum bt_site kind;
	UT_hash_handle hh; /* by pc */
};

static struct site *find(const struct bt *bt, u64 pc)
{
	struct site *s;

	HASH_FIND(hh, bt->sites, &pc, sizeof(pc), s);
	return s;
}

enum bt_site bt_site(const struct bt *bt, u64 pc)
{
	const struct site *s = find(bt, pc);

	return s ? s->kind : SITE_BIASED;
}

void bt_promote(struct bt *bt, u64 pc, enum bt_site kind)
{
	struct stats *stats = bt->c->stats;
	struct site *s = find(bt, pc);

	if (!s) {
		if (HASH_COUNT(bt->sites) >= MAX_SITES)
			bt_forget_sites(bt);
		s = calloc(1, sizeof(*s));
		BUG_ON(!s);
		s->pc = pc;
		HASH_ADD(hh, bt->sites, pc, sizeof(s->pc), s);
	}
	s->kind = kind;
	stats->n[STAT_bt_promotions]++;
	stats->n[kind == SITE_DEVICE ? STAT_bt_promotions_device : STAT_bt_promotions_checked]++;
	bt_drop_at(bt, pc);
}

void bt_forget_sites(struct bt *bt)
{
	struct site *s, *tmp;

	HASH_ITER(hh, bt->sites, s, tmp)
	{
		HASH_DEL(bt->sites, s);
		free(s);
	}
}
