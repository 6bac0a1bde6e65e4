/*
 * The code all blocks share: entry, exit, and the lookup of indirect targets.
 */
#include "tr.h"

_Static_assert(2 * THUNK_AREA_SIZE == 0x4000000, "LOWLAND_TRANSLATIONS");

static const u8 kept_by_c[] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

static void emit_wrfsbase_rax(struct emit *e)
{
	emit_bytes(e, "\xf3\x48\x0f\xae\xd0", 5);
}

/*
 * Attention may have been set since bt_run looked: the entry looks once more, from a place where a
 * kick's handler knows what to do (bt_on_kick). Until the jump the guest's state is in the context.
 */
static void emit_entered(struct tr *t, bool fs)
{
	struct emit *e = &t->e;
	unsigned i;

	emit_bytes(e, "\x8b\x0c\x25", 3); /* mov ecx, [attention] */
	emit_u32(e, CTX(t->bt, attention));
	emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
	tr_jmp_to(t, t->bt->leave_at);
	emit_store_abs(e, GPR_RDI, CTX(t->bt, bt.jump));
	if (fs) {
		emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.fs_base));
		emit_wrfsbase_rax(e);
	}
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.flags));
	emit_bytes(e, "\x04\x7f", 2); /* add al, 127: OF */
	emit_bytes(e, "\x9e", 1);     /* sahf: the rest, 8 cycles sooner than POPF */
	for (i = 0; i < 16; i++)
		emit_load_abs(e, i, CTX(t->bt, gpr[i]));
	emit_bytes(e, "\xff\x24\x25", 3); /* jmp [bt.jump] */
	emit_u32(e, CTX(t->bt, bt.jump));
}

static void emit_enter(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(kept_by_c); i++)
		emit_push(e, kept_by_c[i]);
	emit_store_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	t->bt->entered_fs_at = e->p - t->bt->rw;
	emit_entered(t, true);
	t->bt->entered_at = e->p - t->bt->rw;
	emit_entered(t, false);
	t->bt->enter_end = e->p - t->bt->rw;
}

/* The guest's state to the context; the monitor's stack. */
static void emit_save(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	for (i = 0; i < 16; i++)
		emit_store_abs(e, i, CTX(t->bt, gpr[i]));
	emit_load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	emit_pushfq(e);
	emit_bytes(e, "\x8f\x04\x25", 3); /* pop qword [aflags] */
	emit_u32(e, CTX(t->bt, aflags));
}

static void emit_exit(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	t->bt->exit_at = e->p - t->bt->rw;
	emit_save(t);
	t->bt->exit_end = t->bt->leave_at = e->p - t->bt->rw;
	emit_load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.host_fs));
	emit_wrfsbase_rax(e);
	emit_bytes(e, "\xfc", 1); /* cld */
	tr_emit_vector_save(t);
	for (i = ARRAY_LEN(kept_by_c); i-- > 0;)
		emit_pop(e, kept_by_c[i]);
	emit_ret(e);
	t->bt->exit_end = e->p - t->bt->rw;
}

/*
 * A light callout: the instruction at cpu->rip is stepped by a C function that is called from here,
 * and the block goes on at bt.jump. A kick that comes in between just returns: the C function looks
 * at attention, and so does the entry.
 */
static void emit_light(struct tr *t, enum light kind)
{
	struct emit *e = &t->e;
	u64 f = (u64)(uintptr_t)bt_light_callout;

	t->bt->light_at[kind] = e->p - t->bt->rw;
	emit_save(t);
	if (kind != LIGHT_FS_HOST) {
		emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.host_fs));
		emit_wrfsbase_rax(e);
	}
	emit_bytes(e, "\xfc", 1); /* cld */
	tr_emit_vector_save(t);
	emit_movabs(e, GPR_RDI, (u64)(uintptr_t)t->bt);
	emit_movabs(e, GPR_RAX, f);
	emit_bytes(e, "\x48\x83\xec\x08", 4);             /* sub rsp, 8: aligned as the ABI asks */
	emit_bytes(e, "\xff\xd0", 2);                     /* call rax */
	emit_bytes(e, "\x48\x83\xc4\x08", 4);             /* add rsp, 8 */
	emit_store_abs(e, GPR_RSP, CTX(t->bt, host_rsp)); /* thunks use it, too */
	emit_bytes(e, "\x84\xc0", 2);                     /* test al, al */
	emit_bytes(e, "\x75\x05", 2);                     /* jnz over the jump */
	tr_jmp_to(t, t->bt->leave_at);
	emit_load_abs(e, GPR_RDI, CTX(t->bt, bt.jump));
	tr_jmp_to(t, kind == LIGHT_FS_BACK ? t->bt->entered_fs_at : t->bt->entered_at);
	t->bt->light_end = e->p - t->bt->rw;
}

/* RCX is spilled and free: spill RAX and RDX, the target into RAX, as if the instruction had been
 * executed. */
static void emit_take_target(struct tr *t, enum via via)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	if (via == VIA_RETURN)
		emit_pop(&t->e, GPR_RAX);
	else
		emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.target));
}

/* RAX: guest target, for which there is no block; RAX, RCX, RDX spilled. */
static void emit_leave_for(struct tr *t, enum via via)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;

	emit_store_abs(e, GPR_RAX, CTX(bt, rip));
	emit_store_imm_abs(e, CTX(bt, bt.via), via);
	emit_load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	emit_load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	tr_jmp_to(t, bt->exit_at);
}

static void emit_stray(struct tr *t, enum via via)
{
	t->bt->stray_at[via] = t->e.p - t->bt->rw;
	emit_take_target(t, via);
	emit_leave_for(t, via);
}

/* RCX is free, and the new count; the flags are the guest's. */
static void emit_count(struct tr *t, enum stat_id id)
{
	u32 at = (u32)(uintptr_t)&t->bt->c->stats->n[id];

	emit_load_abs(&t->e, GPR_RCX, at);
	emit_bytes(&t->e, "\x48\x8d\x49\x01", 4); /* lea rcx, [rcx+1] */
	emit_store_abs(&t->e, GPR_RCX, at);
}

/* The front table. Of VIA_OTHER: RAX: guest target; RAX, RCX, RDX spilled. */
static void emit_lookup(struct tr *t, enum regime r, enum via via)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;
	u8 *to_miss, *to_leave = NULL;

	bt->lookup_at[r][via] = e->p - bt->rw;
	if (via != VIA_OTHER) {
		emit_take_target(t, via);
		emit_count(t, STAT_bt_pad_misses);
		emit_bytes(e, "\x0f\xb6\xc9\xe3", 4); /* movzx ecx, cl; jrcxz */
		emit_u8(e, 0);
		to_leave = e->p;
	}
	emit_bytes(e, "\x89\xc1", 2);         /* mov ecx, eax */
	emit_bytes(e, "\x0f\xc9", 2);         /* bswap ecx */
	emit_bytes(e, "\x8d\x0c\x08", 3);     /* lea ecx, [rax+rcx] */
	emit_bytes(e, "\x0f\xb7\xc9", 3);     /* movzx ecx, cx */
	emit_bytes(e, "\x48\x8b\x14\xcd", 4); /* mov rdx, [front_tag + rcx*8] */
	emit_u32(e, (u32)(uintptr_t)bt->front_tag[r]);
	emit_bytes(e, "\x48\x8d\x14\x10", 4); /* lea rdx, [rax+rdx]: 0 if it is the tag */
	emit_bytes(e, "\x48\x87\xca", 3);     /* xchg rdx, rcx */
	emit_bytes(e, "\xe3\x05", 2);         /* jrcxz hit */
	emit_u8(e, 0xe9);
	to_miss = e->p;
	emit_u32(e, 0);
	emit_bytes(e, "\x8b\x0c\x95", 3); /* hit: mov ecx, [front_host + rdx*4] */
	emit_u32(e, (u32)(uintptr_t)bt->front_host[r]);
	emit_store_abs(e, GPR_RCX, CTX(bt, bt.jump));
	emit_load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	emit_load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	emit_bytes(e, "\xff\x24\x25", 3);
	emit_u32(e, CTX(bt, bt.jump));
	emit_here32(e, to_miss);
	if (to_leave)
		emit_here8(e, to_leave);
	emit_leave_for(t, via);
}

/* Byte 1 of RFLAGS has OF and IF, TF, DF, IOPL, NT and a bit that is 0. */
static void emit_flags_table(struct tr *t)
{
	const unsigned plain = (FL_OF | FL_IF) >> 8, interrupt = FL_IF >> 8;
	unsigned i;

	t->bt->flags_byte_at = t->e.p - t->bt->rw;
	for (i = 0; i < 256; i++)
		emit_u8(&t->e, (i & ~plain) != 0);
	for (i = 0; i < 256; i++)
		emit_u8(&t->e, i & interrupt);
}

void bt_emit_common(struct bt *bt)
{
	struct tr t;
	enum light kind;
	enum via via;

	tr_begin(&t, bt, bt->used, BT_BLOCK_ROOM);
	emit_exit(&t);
	bt->enter = (void (*)(u64))(void *)(bt->rx + (t.e.p - bt->rw));
	emit_enter(&t);
	for (kind = 0; kind < LIGHTS; kind++)
		emit_light(&t, kind);
	for (via = 0; via < VIAS; via++) {
		emit_lookup(&t, R64H, via);
		emit_lookup(&t, R64L, via);
	}
	emit_stray(&t, VIA_RETURN);
	emit_stray(&t, VIA_JUMP);
	emit_flags_table(&t);
	tr_emit_checked_miss(&t);
	tr_emit_vector_load(&t);
	BUG_ON(t.e.full);
	bt->used = bt->fixed = ALIGN_UP(t.e.p - bt->rw, 64);
}
