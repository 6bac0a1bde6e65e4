/*
 * The code all blocks share: entry, exit, and the lookup of indirect targets.
 */
#include "tr.h"

_Static_assert(2 * THUNK_AREA_SIZE == 0x4000000, "LOWLAND_TRANSLATIONS");

static const u8 kept_by_c[] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

static void emit_base(struct emit *e, bool gs) /* wrfsbase/wrgsbase rax */
{
	emit_bytes(e, gs ? "\xf3\x48\x0f\xae\xd8" : "\xf3\x48\x0f\xae\xd0", 5);
}

/*
 * Attention may have been set since bt_run looked: the entry looks once more, from a place where a
 * kick's handler knows what to do (bt_on_kick). Until the jump the guest's state is in the context.
 */
static void emit_enter(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(kept_by_c); i++)
		emit_push(e, kept_by_c[i]);
	emit_store_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	t->bt->entered_at = e->p - t->bt->rw;
	emit_bytes(e, "\x8b\x0c\x25", 3); /* mov ecx, [attention] */
	emit_u32(e, CTX(t->bt, attention));
	emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
	tr_jmp_to(t, t->bt->leave_at);
	emit_store_abs(e, GPR_RDI, CTX(t->bt, bt.jump));
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.fs_base));
	emit_base(e, false);
	emit_movabs(e, GPR_RAX, SHADOW_BIAS);
	emit_base(e, true);
	emit_bytes(e, "\xff\x34\x25", 3); /* push qword [aflags] */
	emit_u32(e, CTX(t->bt, aflags));
	emit_popfq(e);
	for (i = 0; i < 16; i++)
		emit_load_abs(e, i, CTX(t->bt, gpr[i]));
	emit_bytes(e, "\xff\x24\x25", 3); /* jmp [bt.jump] */
	emit_u32(e, CTX(t->bt, bt.jump));
	t->bt->enter_end = e->p - t->bt->rw;
}

static void emit_exit(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	t->bt->exit_at = e->p - t->bt->rw;
	for (i = 0; i < 16; i++)
		emit_store_abs(e, i, CTX(t->bt, gpr[i]));
	emit_load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	emit_pushfq(e);
	emit_bytes(e, "\x8f\x04\x25", 3); /* pop qword [aflags] */
	emit_u32(e, CTX(t->bt, aflags));
	t->bt->exit_end = t->bt->leave_at = e->p - t->bt->rw;
	emit_load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.host_fs));
	emit_base(e, false);
	emit_bytes(e, "\xfc", 1); /* cld */
	tr_emit_vector_save(t);
	for (i = ARRAY_LEN(kept_by_c); i-- > 0;)
		emit_pop(e, kept_by_c[i]);
	emit_ret(e);
	t->bt->exit_end = e->p - t->bt->rw;
}

/* RAX: guest target; RAX, RCX, RDX spilled. */
static void emit_lookup(struct tr *t)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;
	u8 *to_miss;

	bt->lookup_at = e->p - bt->rw;
	emit_bytes(e, "\x89\xc1", 2);         /* mov ecx, eax */
	emit_bytes(e, "\x0f\xc9", 2);         /* bswap ecx */
	emit_bytes(e, "\x8d\x0c\x08", 3);     /* lea ecx, [rax+rcx] */
	emit_bytes(e, "\x0f\xb7\xc9", 3);     /* movzx ecx, cx */
	emit_bytes(e, "\x48\x8b\x14\xcd", 4); /* mov rdx, [front_tag + rcx*8] */
	emit_u32(e, (u32)(uintptr_t)bt->front_tag);
	emit_bytes(e, "\x48\x8d\x14\x10", 4); /* lea rdx, [rax+rdx]: 0 if it is the tag */
	emit_bytes(e, "\x48\x87\xca", 3);     /* xchg rdx, rcx */
	emit_bytes(e, "\xe3\x05", 2);         /* jrcxz hit */
	emit_u8(e, 0xe9);
	to_miss = e->p;
	emit_u32(e, 0);
	emit_bytes(e, "\x48\x8b\x0c\xd5", 4); /* hit: mov rcx, [front_host + rdx*8] */
	emit_u32(e, (u32)(uintptr_t)bt->front_host);
	emit_store_abs(e, GPR_RCX, CTX(bt, bt.jump));
	emit_load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	emit_load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	emit_bytes(e, "\xff\x24\x25", 3);
	emit_u32(e, CTX(bt, bt.jump));
	*(u32 *)(void *)to_miss = e->p - to_miss - 4;
	emit_store_abs(e, GPR_RAX, CTX(bt, rip));
	emit_load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	emit_load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	tr_jmp_to(t, bt->exit_at);
}

void bt_emit_common(struct bt *bt)
{
	struct tr t = {.bt = bt};

	t.start = bt->rw + bt->used;
	t.e = (struct emit){.p = t.start, .end = t.start + BT_BLOCK_ROOM};
	emit_exit(&t);
	bt->enter = (void (*)(u64))(void *)(bt->rx + (t.e.p - bt->rw));
	emit_enter(&t);
	emit_lookup(&t);
	tr_emit_checked_miss(&t);
	tr_emit_vector_load(&t);
	BUG_ON(t.e.full);
	bt->used = bt->fixed = ALIGN_UP(t.e.p - bt->rw, 64);
}
