/*
 * The guest's GS base, and SWAPGS, which exchanges it with another one. Both are in struct cpu; the
 * host's FS holds the first with the bias added, and to write that costs more than ten
 * instructions. So SWAPGS is not executed but noted while a block is made, and costs nothing until
 * something depends on it:
 *
 *	tr->swapped	the two bases stand in struct cpu the wrong way round. Recovery records
 *			say so (RECOVER_SWAPPED). Stays over RDGSBASE, WRGSBASE and what only
 *			computes in registers; before anything else they are exchanged
 *			(tr_settle_bases).
 *	tr->fs_stale	the host's FS is not what struct cpu says. Stays until an operand in GS
 *			or the way to another block (tr_settle_fs).
 *
 * In Linux the SWAPGS before SYSRET never reaches FS, and those around an access to the inactive
 * base vanish.
 *
 * A base that FS cannot hold with the bias (a user's, mostly) is noticed when FS is to be written:
 * the block is left, and what follows is stepped (bt_eligible). bt.unfit and bt.no_swap say which
 * of the two is like that.
 */
#include <string.h>

#include "tr.h"

static void emit_exchange(struct tr *t, u32 a, u32 b)
{
	emit_load_abs(&t->e, GPR_RAX, a);
	emit_load_abs(&t->e, GPR_RCX, b);
	emit_store_abs(&t->e, GPR_RAX, b);
	emit_store_abs(&t->e, GPR_RCX, a);
}

static void take_two(struct tr *t)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
}

static void give_two_back(struct tr *t)
{
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, 0);
}

static void base_written(struct tr *t)
{
	t->base_written = true;
	if (t->fs == FS_GUEST)
		t->fs = FS_UNKNOWN;
}

void tr_settle_bases(struct tr *t)
{
	struct bt *bt = t->bt;

	if (!t->swapped)
		return;
	take_two(t);
	t->swapped = false;
	base_written(t);
	tr_record(t, t->at, RECOVER_NEVER);
	emit_exchange(t, CTX(bt, seg[SEG_GS].base), CTX(bt, kernel_gs_base));
	emit_exchange(t, CTX(bt, bt.unfit), CTX(bt, bt.no_swap));
	give_two_back(t);
}

/* FS has been C's meanwhile: the base that C code left behind. */
static void emit_fs_back(struct tr *t)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.fs_base));
	emit_bytes(&t->e, "\xf3\x48\x0f\xae\xd0", 5); /* wrfsbase rax */
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	tr_record(t, t->at, 0);
}

/* RAX, RCX spilled. If FS cannot hold the base the block is left. */
static void emit_check_fit(struct tr *t, bool at_end)
{
	struct emit *e = &t->e;
	u32 stop = t->stop;
	u8 *skip;

	emit_load_abs(e, GPR_RCX, CTX(t->bt, bt.unfit));
	emit_bytes(e, "\xe3\x00", 2); /* jrcxz */
	skip = e->p;
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	if (at_end) {
		tr_record(t, t->at, 0);
		emit_store_imm64_abs(e, CTX(t->bt, rip), t->at);
		tr_jmp_to(t, t->bt->exit_at);
	} else {
		tr_callout(t);
		t->stop = stop; /* not the block's end */
	}
	emit_here8(e, skip);
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
}

/* at_end: the block ends here anyway, and need not have its next instruction stepped. */
void tr_settle_fs(struct tr *t, bool at_end)
{
	struct emit *e = &t->e;

	tr_settle_bases(t);
	if (t->fs == FS_GUEST)
		return;
	if (t->base_written) {
		take_two(t);
		emit_check_fit(t, at_end);
		emit_load_abs(e, GPR_RCX, CTX(t->bt, seg[SEG_GS].base));
		emit_movabs(e, GPR_RAX, t->bias);
		emit_lea_sum(e, GPR_RAX, GPR_RAX, GPR_RCX, 0);
		emit_bytes(e, "\xf3\x48\x0f\xae\xd0", 5); /* wrfsbase rax */
		give_two_back(t);
	} else {
		emit_fs_back(t);
	}
	t->fs = FS_GUEST;
	t->base_written = false;
}

/* SWAPGS, RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE. */
static bool is_base_insn(const struct insn *in, exec_fn *f)
{
	return f == exec_system && in->map == INSN_MAP_0F &&
	       (in->opcode == 0xae || (in->opcode == 0x01 && in->modrm == 0xf8));
}

void tr_settle_for(struct tr *t, const struct insn *in, exec_fn *f)
{
	bool computes = (f == exec_reg || f == exec_nop) && !in->state && !t->promoted;

	if (t->swapped && !computes && !is_base_insn(in, f))
		tr_settle_bases(t);
	if (in->seg == SEG_GS || tr_ends_block(f))
		tr_settle_fs(t, false);
}

void tr_swapgs(struct tr *t)
{
	t->swapped = !t->swapped;
}

/* --- writing a base --- */

/* RAX, RCX, RDX are spilled and the flags saved: unless condition cc holds, a callout. */
static void leave_unless(struct tr *t, u8 cc)
{
	bool swapped = t->swapped, written = t->base_written;
	u32 stop = t->stop, rel, fs = t->fs;
	u8 *over;

	emit_bytes(&t->e, (u8[]){0x0f, 0x80 | cc}, 2);
	emit_u32(&t->e, 0);
	over = t->e.p;
	tr_restore_flags(t);
	tr_record(t, t->at, SPILL_ALL);
	tr_spill(t, false, REG_NONE);
	tr_callout(t);
	t->swapped = swapped;
	t->base_written = written;
	t->fs = fs;
	t->stop = stop; /* not the block's end */
	rel = t->e.p - over;
	if (!t->e.full)
		memcpy(over - 4, &rel, 4);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
}

void tr_check_canonical(struct tr *t)
{
	emit_bytes(&t->e, "\x48\x89\xd0\x48\xc1\xf8\x2f", 7); /* mov rax, rdx; sar rax, 47 */
	emit_bytes(&t->e, "\x48\xff\xc0\x48\x83\xf8\x01", 7); /* inc rax; cmp rax, 1 */
	leave_unless(t, 6);                                   /* not above */
}

void tr_check_32(struct tr *t)
{
	emit_bytes(&t->e, "\x48\x89\xd0\x48\xc1\xe8\x20", 7); /* mov rax, rdx; shr rax, 32 */
	leave_unless(t, 4);                                   /* zero */
}

/* [where] = 1 if FS cannot hold RDX with the bias, else 0. RAX, RCX and the flags are free. */
static void emit_fits(struct tr *t, u32 where)
{
	struct fs_bases fit = regime_fs_bases(t->regime);
	struct emit *e = &t->e;

	emit_movabs(e, GPR_RCX, fit.first);
	emit_bytes(e, "\x48\x39\xca\x0f\x92\xc1", 6); /* cmp rdx, rcx; setb cl */
	emit_bytes(e, (u8[]){0x48, 0x89, 0xd0, 0x48, 0xc1, 0xe8, fit.bits},
		   7);                            /* mov rax, rdx; shr */
	emit_bytes(e, "\x0f\x95\xc0\x20\xc8", 5); /* setnz al; and al, cl */
	emit_bytes(e, "\x0f\xb6\xc0", 3);         /* movzx eax, al */
	emit_store_abs(e, GPR_RAX, where);
}

void tr_write_base(struct tr *t, enum base which)
{
	struct bt *bt = t->bt;

	if (which != BASE_FS && t->swapped)
		which = which == BASE_GS ? BASE_OTHER : BASE_GS;
	switch (which) {
	case BASE_NONE: break;
	case BASE_FS: emit_store_abs(&t->e, GPR_RDX, CTX(bt, seg[SEG_FS].base)); break;
	case BASE_GS:
		emit_fits(t, CTX(bt, bt.unfit));
		emit_store_abs(&t->e, GPR_RDX, CTX(bt, seg[SEG_GS].base));
		base_written(t);
		break;
	case BASE_OTHER:
		emit_fits(t, CTX(bt, bt.no_swap));
		emit_store_abs(&t->e, GPR_RDX, CTX(bt, kernel_gs_base));
		break;
	}
}

void tr_end_write(struct tr *t, u64 next)
{
	tr_record(t, next, SPILL_ALL | RECOVER_FLAGS);
	tr_restore_flags(t);
	tr_record(t, next, SPILL_ALL);
	tr_spill(t, false, REG_NONE);
}

static void tr_wrbase(struct tr *t, const struct insn *in, enum base which)
{
	tr_spill(t, true, REG_NONE);
	tr_record(t, t->at, SPILL_ALL);
	emit_u8(&t->e, (in->opsize == 8 ? 0x48 : 0x40) | (in->rm >> 3) << 2);
	emit_bytes(&t->e, (u8[]){0x89, 0xc2 | (in->rm & 7) << 3}, 2); /* mov rdx, reg */
	tr_save_flags(t);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
	if (in->opsize == 8)
		tr_check_canonical(t);
	tr_write_base(t, which);
	tr_end_write(t, t->at + in->len);
}

/* Blocks are dropped when CR4.FSGSBASE changes (cr4_write). */
bool tr_fsgsbase(struct tr *t, const struct insn *in)
{
	struct bt *bt = t->bt;
	unsigned ext = in->modrm >> 3 & 7;
	bool gs = ext & 1;
	u32 from;

	if (!(bt->c->cr4 & CR4_FSGSBASE) || in->rm == GPR_RSP)
		return false;
	if (ext >= 2) {
		tr_wrbase(t, in, gs ? BASE_GS : BASE_FS);
		return true;
	}
	from = !gs          ? CTX(bt, seg[SEG_FS].base)
	       : t->swapped ? CTX(bt, kernel_gs_base)
			    : CTX(bt, seg[SEG_GS].base);
	if (in->opsize == 8) {
		emit_load_abs(&t->e, in->rm, from);
		return true;
	}
	if (in->rm >= 8)
		emit_u8(&t->e, 0x44);
	emit_bytes(&t->e, (u8[]){0x8b, 4 | (in->rm & 7) << 3, 0x25}, 3); /* mov r32, [from] */
	emit_u32(&t->e, from);
	return true;
}
