/*
 * Regimes: ring-0 code of the upper half (R64H: kernels), and of the lower one up to 512 GiB (R64L:
 * identity-mapped boot code, decompressors, bare-metal programs). What differs is where the
 * addresses it uses are found in the host, so the bias; and that is in every block, in GS, FS and
 * RSP. Blocks belong to the regime of their PC. They are chained, and found in the front table,
 * only from their own.
 *
 *	R64H	the upper half lies at + SHADOW_BIAS. A lower-half address faults in the host.
 *	R64L	the first 512 GiB lie at + SHADOW_LOW_BIAS, the rest of the lower half faults in the
 *		host, and so does the upper half, because nothing of it is mapped meanwhile.
 *
 * What faults like that is promoted to a checked site (site.c), which reaches everything. So code
 * may use either half in either regime, and has the speed of its own half in one.
 *
 * The host has room for one of the two halves at a time, and code of one must not see what the
 * other has mapped: 2^47 bytes of either would have to fault. Therefore one of the shadows is
 * empty, and going over drops the other: some ten microseconds, and the faults afterwards. A guest
 * that goes to and fro all the time (code below, interrupt handlers above, say, at thousands of
 * interrupts a second) would do nothing else. It may enter R64L at most once in SWITCH_TICKS, after
 * a burst of SWITCH_BURST; beyond that its low code is stepped.
 */
#include "translate.h"

#include <x86intrin.h>

#define SWITCH_TICKS (1ull << 20)
#define SWITCH_BURST 64u

struct fs_bases regime_fs_bases(enum regime r)
{
	/* Those that lead where nothing is mapped do, too; most of all, 0. */
	if (r == R64H)
		return (struct fs_bases){.first = SHADOW_FIRST, .bits = 30};
	return (struct fs_bases){.first = SHADOW_FIRST + SHADOW_LOW_SIZE, .bits = 39};
}

bool regime_fits_fs(enum regime r, u64 base)
{
	struct fs_bases fit = regime_fs_bases(r);

	return base >= fit.first || !(base >> fit.bits);
}

bool regime_may_enter(const struct bt *bt, enum regime r)
{
	return r == bt->regime || r == R64H || bt->switch_freely || bt->low_due <= __rdtsc();
}

/* low_due lies behind the time by what is left of the burst. */
static void charge(struct bt *bt)
{
	u64 burst = SWITCH_BURST * SWITCH_TICKS, now = __rdtsc();

	bt->low_due = MAX(bt->low_due, now > burst ? now - burst : 0) + SWITCH_TICKS;
}

void regime_enter(struct bt *bt, enum regime r)
{
	if (r == R64L)
		charge(bt);
	if (bt->shadow) {
		shadow_flush_all(bt->shadow);
		bt->c->stats->n[STAT_bt_regime_switches]++;
	}
	if (!bt->landings[r])
		bt_landing_clear(bt, r);
	bt->regime = r;
	bt->bias = regime_bias(r);
	bt->shadow = bt->c->mmu.shadow = bt->shadows[r];
	/* Nothing of ours uses GS: it keeps what translated code wants, which saves 30 cycles at
	 * each entry. */
	asm volatile("wrgsbase %0" ::"r"(bt->bias));
}
