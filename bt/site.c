/*
 * Sites: instructions with a memory operand that are no longer translated as if it lay in the
 * kernel half, because it has not. By guest PC, with no regard to what code is there now: a
 * promoted site executes any instruction, if not at the same speed.
 *
 * Those that have met a device are no special case: that the TLB does not know their operand costs
 * little beside the access (mmio_read of bench/nano.py), and a loop that has once copied to a
 * device is fast for RAM.
 *
 * Code that writes to code faults each time, some 10,000 cycles: a kernel that patches itself while
 * it boots does so thousands of times, from a few places. After some faults such a place is
 * promoted, too, and misses in the software TLB instead. So is a place that accesses a page which
 * moves all the time (mmu/shadow_moving.c), at once; and one that has had the guest take page
 * faults on kernel addresses, each of which is one of the host's before. Once there has been
 * nothing of the kind for a while such places are ordinary again, since it may be the kernel's
 * memcpy; what goes on has them promoted anew.
 */
#include "translate.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, len, hashv) ((hashv) = (unsigned)XXH3_64bits(key, len))

/* Linux has some hundred. A guest that has more loses them all, and promotes them anew. */
#define MAX_SITES 65536u

#define OFTEN         8u
#define QUIET_ENTRIES 20000u /* of translated code, without a write to code, or one promoted */

struct site {
	u64 pc;
	bool for_now;      /* until it is quiet */
	UT_hash_handle hh; /* by pc */
};

static struct site *find(const struct bt *bt, u64 pc)
{
	struct site *s;

	HASH_FIND(hh, bt->sites, &pc, sizeof(pc), s);
	return s;
}

/* Nearly every instruction that is translated is none: one look at a filter tells. */
static unsigned filter_bit(u64 pc)
{
	return pc * 0x9e3779b97f4a7c15ull >> 51; /* of 8192 */
}

bool bt_is_promoted(const struct bt *bt, u64 pc)
{
	unsigned i = filter_bit(pc);

	return (bt->site_filter[i / 64] & BIT(i % 64)) && find(bt, pc);
}

static enum stat_id counter_of(enum bt_step why)
{
	return why == STEP_DEVICE   ? STAT_bt_promotions_device
	       : why == STEP_CODE   ? STAT_bt_promotions_code
	       : why == STEP_MOVING ? STAT_bt_promotions_moving
	       : why == STEP_PAGE   ? STAT_bt_promotions_page
				    : STAT_bt_promotions;
}

void bt_promote(struct bt *bt, u64 pc, enum bt_step why)
{
	unsigned i = filter_bit(pc);
	struct site *s;

	if (find(bt, pc))
		return;
	if (HASH_COUNT(bt->sites) >= MAX_SITES)
		bt_forget_sites(bt);
	s = calloc(1, sizeof(*s));
	BUG_ON(!s);
	s->pc = pc;
	bt->site_filter[i / 64] |= BIT(i % 64);
	HASH_ADD(hh, bt->sites, pc, sizeof(s->pc), s);
	s->for_now = why != STEP_ADDRESS && why != STEP_DEVICE;
	bt->n_for_now += s->for_now;
	if (s->for_now)
		bt->busy_at = bt->c->stats->n[STAT_bt_entries];
	bt->c->stats->n[counter_of(why)]++;
	bt_drop_at(bt, pc);
}

void bt_promote_for_now(struct bt *bt, enum bt_step why)
{
	const struct op *o = op_fetch(bt->c);

	if (o->exec == exec_mem && !o->in.state) /* others would be stepped from then on */
		bt_promote(bt, bt->c->rip, why);
}

void bt_promote_if_often(struct bt *bt, enum bt_step why)
{
	u64 pc = bt->c->rip;
	unsigned i = (pc ^ pc >> 6) % ARRAY_LEN(bt->faulting);

	if (bt->faulting[i].pc != pc) {
		bt->faulting[i].pc = pc;
		bt->faulting[i].faults = 0;
	}
	if (++bt->faulting[i].faults >= OFTEN)
		bt_promote_for_now(bt, why);
}

void bt_forget_if_quiet(struct bt *bt)
{
	struct site *s, *tmp;
	u64 quiet = bt->c->stats->n[STAT_bt_entries] - bt->busy_at;

	if (likely(!bt->n_for_now) || quiet < QUIET_ENTRIES)
		return;
	HASH_ITER(hh, bt->sites, s, tmp)
	{
		if (s->for_now) {
			bt_drop_at(bt, s->pc);
			HASH_DEL(bt->sites, s);
			free(s);
		}
	}
	bt->n_for_now = 0;
}

void bt_forget_sites(struct bt *bt)
{
	struct site *s, *tmp;

	HASH_ITER(hh, bt->sites, s, tmp)
	{
		HASH_DEL(bt->sites, s);
		free(s);
	}
	memset(bt->site_filter, 0, sizeof(bt->site_filter));
	bt->n_for_now = 0;
}
