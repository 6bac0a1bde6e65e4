/*
 * Sites: instructions with a memory operand that are no longer translated as if it lay in the
 * kernel half, because it has not. By guest PC, with no regard to what code is there now: a
 * promoted site executes any instruction, if not at the same speed.
 *
 * Those that have met a device are no special case: that the TLB does not know their operand costs
 * little beside the access (mmio_read of bench/nano.py), and a loop that has once copied to a
 * device is fast for RAM.
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
	UT_hash_handle hh; /* by pc */
};

static struct site *find(const struct bt *bt, u64 pc)
{
	struct site *s;

	HASH_FIND(hh, bt->sites, &pc, sizeof(pc), s);
	return s;
}

bool bt_is_promoted(const struct bt *bt, u64 pc)
{
	return find(bt, pc);
}

void bt_promote(struct bt *bt, u64 pc, enum bt_step why)
{
	struct stats *stats = bt->c->stats;
	struct site *s;

	if (find(bt, pc))
		return;
	if (HASH_COUNT(bt->sites) >= MAX_SITES)
		bt_forget_sites(bt);
	s = calloc(1, sizeof(*s));
	BUG_ON(!s);
	s->pc = pc;
	HASH_ADD(hh, bt->sites, pc, sizeof(s->pc), s);
	stats->n[why == STEP_DEVICE ? STAT_bt_promotions_device : STAT_bt_promotions]++;
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
