/*
 * Landing pads: where returns and indirect jumps and calls come down. The instruction itself does
 * not search or compare,
 *
 *	RCX spilled; RCX = target
 *	ecx = landing[low 16 bits]; jmp rcx
 *
 * but goes wherever the last target with those bits has its pad. That knows the one it is for:
 *
 *	RCX = target - the pad's; if that is not 0: to the front table (common_code.c)
 *	RCX back; RSP += 8, of a return
 *
 * and the block is right behind. Returns and jumps have a table each, because a return is executed
 * by the pad: up to there it has done nothing, and the target is still on the stack. A jump's is in
 * bt.target.
 *
 * A place that belongs to nobody leads out of translated code: the block is made, with a pad before
 * it. Who has lost the place to another is found in the front table, but each 256th of them leaves
 * as well and takes it back, so that it is most often that of the busiest. A block that has the
 * other kind of pad, or is where a pad cannot compare, is always found in the front table. The pad
 * of a dropped block stays where it is, and nobody is sent there any more.
 *
 * Between the instruction and the block there is no guest state to recover, and nothing faults: a
 * kick's handler steps to the block.
 */
#include "tr.h"

#define PAD_SIZE  32u
#define PAD_ALIGN 16u

static u32 host_of(const struct bt *bt, u32 at)
{
	return (u32)(uintptr_t)bt->rx + at;
}

static u32 *slot_of(const struct bt *bt, u64 pc, enum via via)
{
	return &bt->landing[regime_of(pc)][via][(u16)pc];
}

bool bt_landing_init(struct bt *bt, enum regime r)
{
	bt->landing[r][VIA_RETURN] = malloc(BT_FRONT_SIZE * sizeof(u32));
	bt->landing[r][VIA_JUMP] = malloc(BT_FRONT_SIZE * sizeof(u32));
	return bt->landing[r][VIA_RETURN] && bt->landing[r][VIA_JUMP];
}

void bt_landing_free(struct bt *bt, enum regime r)
{
	free(bt->landing[r][VIA_RETURN]);
	free(bt->landing[r][VIA_JUMP]);
}

void bt_landing_clear(struct bt *bt, enum regime r)
{
	enum via via;
	u32 i;

	for (via = VIA_RETURN; via < VIAS; via++)
		for (i = 0; i < BT_FRONT_SIZE; i++)
			bt->landing[r][via][i] = host_of(bt, bt->stray_at[via]);
	bt->landings[r] = true;
}

void bt_landing_forget(struct bt *bt, u64 pc)
{
	enum via via;

	for (via = VIA_RETURN; bt->landings[regime_of(pc)] && via < VIAS; via++)
		*slot_of(bt, pc, via) = host_of(bt, bt->stray_at[via]);
}

bool bt_landing_can(u64 pc)
{
	return fits_s32(-pc);
}

void bt_landing_pad(struct bt *bt, u64 pc, enum via via)
{
	struct tr t;
	struct emit *e = &t.e;

	bt->used = ALIGN_UP(bt->used, PAD_ALIGN);
	tr_begin(&t, bt, bt->used, PAD_SIZE);
	if (via == VIA_RETURN)
		emit_bytes(e, "\x48\x8b\x0c\x24", 4); /* mov rcx, [rsp] */
	else
		emit_load_abs(e, GPR_RCX, CTX(bt, bt.target));
	emit_bytes(e, "\x48\x8d\x89", 3); /* lea rcx, [rcx - pc] */
	emit_u32(e, (u32)-pc);
	emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
	tr_jmp_to(&t, bt->lookup_at[regime_of(pc)][via]);
	emit_load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	if (via == VIA_RETURN)
		emit_bytes(e, "\x48\x8d\x64\x24\x08\x90", 6); /* lea rsp, [rsp+8]; nop */
	else
		emit_bytes(e, "\x66\x90", 2); /* nop */
	BUG_ON(e->full || e->p != e->end);
	bt->used += PAD_SIZE;
	bt->c->stats->n[STAT_bt_pads]++;
}

void bt_landing_set(struct bt *bt, const struct block *b, enum via via)
{
	u32 *slot = slot_of(bt, b->pc, via);

	if (!bt->landings[regime_of(b->pc)])
		return; /* the other regime's, which will be filled when it is entered */
	if (b->pad == via)
		*slot = host_of(bt, b->host - PAD_SIZE);
	else if (*slot == host_of(bt, bt->stray_at[via]))
		*slot = host_of(bt, bt->lookup_at[regime_of(b->pc)][via]);
}
