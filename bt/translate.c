/*
 * What becomes of each guest instruction in translated code. All sixteen registers stand for
 * themselves, guest arithmetic flags are the host's, RSP holds guest RSP + the bias of the block's
 * regime (regime.c), the GS base is that bias and the FS base the guest's GS base + the bias
 * (design, sections 2 and 4).
 *
 *	registers only		copied
 *	memory operand		GS prefix (FS if the guest says GS; none if the base is RSP);
 *				RIP-relative becomes absolute, extended from 32 bits
 *	RSP as data		un-biased on the way out, biased on the way in
 *	vector state		loaded into the host's registers once (tr_vector.c)
 *	strings			RDI and RSI biased around them (tr_string.c)
 *	direct branches		chained
 *	returns, indirect ones	by landing pads (landing.c), flags untouched
 *	promoted (site.c)	the operand is looked up in the software TLB
 *	everything else		a callout: the block ends and the single-step engine executes it
 *
 * Every host byte belongs to a recovery record (struct recovery) that says which guest instruction
 * is about to be executed and which registers are spilled, so that a fault or a signal can stop
 * anywhere. Instructions that commit in more than one host instruction are avoided; where that
 * cannot be (LEAVE), the bytes in between are RECOVER_NEVER and a signal steps over them.
 */
#include <errno.h>
#include <string.h>

#include "tr.h"

void tr_begin(struct tr *t, struct bt *bt, u32 at, u32 room)
{
	memset(t, 0, offsetof(struct tr, rec));
	t->bt = bt;
	t->start = bt->rw + at;
	t->e = (struct emit){.p = t->start, .end = t->start + room};
}

/* From here on: the state before the instruction at guest address pc, with these spills. */
void tr_record(struct tr *t, u64 pc, u16 spills)
{
	struct recovery *r = &t->rec[t->n_rec];

	BUG_ON(t->n_rec >= ARRAY_LEN(t->rec));
	r->host = t->e.p - t->start;
	r->guest = pc - t->pc;
	r->spills =
	    spills | (pc == t->behind_sti ? RECOVER_STI : 0) | (t->swapped ? RECOVER_SWAPPED : 0);
	t->n_rec++;
}

/* jmp rel32 to an area offset */
void tr_jmp_to(struct tr *t, u32 area_off)
{
	u32 here = t->e.p - t->bt->rw;

	emit_u8(&t->e, 0xe9);
	emit_u32(&t->e, area_off - (here + 5));
}

/* --- exits --- */

void tr_exit_direct(struct tr *t, u64 target)
{
	BUG_ON(t->n_exits >= BT_MAX_EXITS);
	t->exit[t->n_exits].rel32 = t->e.p;
	t->exit[t->n_exits++].target = target;
	emit_u32(&t->e, 0);
}

void tr_jump_direct(struct tr *t, u64 target)
{
	emit_u8(&t->e, 0xe9);
	tr_exit_direct(t, target);
}

u32 tr_op(const struct tr *t)
{
	return t->in ? op_known(t->bt->c, t->in) : 0;
}

void tr_callout(struct tr *t)
{
	tr_settle_bases(t);
	tr_record(t, t->at, 0);
	t->stop = t->at - t->pc;
	emit_store_imm64_abs(&t->e, CTX(t->bt, rip), t->at);
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.step), STEP_CALLOUT);
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.op), tr_op(t));
	tr_jmp_to(t, t->bt->exit_at);
}

void tr_light_callout(struct tr *t, const struct insn *in)
{
	u32 jump;
	u8 *resume;

	tr_settle_bases(t);
	emit_store_imm64_abs(&t->e, CTX(t->bt, rip), t->at);
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.jump), 0);
	resume = t->e.p - 4;
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.op), tr_op(t));
	tr_jmp_to(t, t->bt->light_at[t->fs == FS_HOST ? LIGHT_FS_HOST : LIGHT_FS_LEFT]);
	jump = (u32)(uintptr_t)t->bt->rx + (t->e.p - t->bt->rw);
	if (!t->e.full)
		memcpy(resume, &jump, 4);
	tr_record(t, t->at + in->len, 0);
	t->vec_checked = 0; /* C code has the registers in between */
	t->fs = FS_HOST;
	t->base_written = false;
}

/* Leave for a block that the rel32 at area offset `at` will then lead to. */
static void emit_exit_to(struct tr *t, u64 target, u32 at)
{
	emit_store_imm64_abs(&t->e, CTX(t->bt, rip), target);
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.link), at);
	tr_jmp_to(t, t->bt->exit_at);
}

static void emit_stubs(struct tr *t)
{
	struct bt *bt = t->bt;
	unsigned i;

	for (i = 0; i < t->n_exits; i++) {
		u32 at = t->exit[i].rel32 - bt->rw, rel = t->e.p - t->exit[i].rel32 - 4;

		memcpy(t->exit[i].rel32, &rel, 4);
		/* The guest's state is that before the target: recovery by rip in the context would
		 * need another kind of tr_record, so a signal here waits for the exit, two moves
		 * off.
		 */
		if (i == 0)
			tr_record(t, t->pc, RECOVER_NEVER);
		emit_exit_to(t, t->exit[i].target, at);
	}
}

/* --- blocks --- */

/* An instruction that does not end the block. False: it needs a tr_callout. */
static bool tr_ordinary(struct tr *t, const struct insn *in)
{
	bool wants_thunk;
	exec_fn *f = op_bind(in, &wants_thunk);

	if (f == exec_string)
		return tr_string(t, in);
	if (t->promoted)
		return tr_checked(t, in, f);
	if (in->state)
		return tr_vector(t, in, f);
	if (f == exec_system || f == exec_mov_from_sreg)
		return tr_sensitive(t, in);
	if (f == exec_nop)
		return true;
	if (f == exec_lea)
		return tr_lea(t, in);
	if (tr_rsp_is_data(in))
		return tr_stack(t, in, f);
	if (f == exec_reg) {
		tr_copy_plain(t, in, 0);
		return true;
	}
	if ((f == exec_mem || f == exec_bit_string) && tr_relocatable(t, in)) {
		tr_copy_memory(t, in);
		return true;
	}
	return false;
}

/* Callouts behind which another block begins anyway. */
static bool goes_elsewhere(const struct insn *in, exec_fn *f)
{
	if (f == exec_system && in->map == INSN_MAP_1B)
		return in->opcode == 0xf4 || (in->opcode >= 0xcc && in->opcode <= 0xce) ||
		       in->opcode == 0xf1; /* hlt int3 int into int1 */
	return f == exec_syscall || f == exec_sysret || f == exec_sysenter || f == exec_sysexit ||
	       f == exec_ret_far || f == exec_jmp_far || f == exec_call_far || f == exec_ud ||
	       (in->map == INSN_MAP_0F && in->opcode == 0x0b);
}

/* What is not translated. False: the block ends here. With lockstep it always does, since that runs
 * a block twice, and what is stepped may not bear it. */
static bool tr_stepped(struct tr *t, const struct insn *in, exec_fn *f, bool last)
{
	if (last || t->bt->lockstep || goes_elsewhere(in, f)) {
		tr_callout(t);
		return false;
	}
	tr_light_callout(t, in);
	return true;
}

bool tr_ends_block(exec_fn *f)
{
	return f == exec_jcc || f == exec_jmp || f == exec_call || f == exec_ret ||
	       f == exec_jmp_ind || f == exec_call_ind || f == exec_loop || f == exec_iret;
}

/* No instruction takes more than this. */
static bool nearly_full(const struct tr *t)
{
	return t->e.end - t->e.p < 1024 || t->n_rec + t->n_misses + 32 > ARRAY_LEN(t->rec);
}

int tr_decode_at(struct bt *bt, struct code_bytes *code, unsigned at, struct insn *in)
{
	struct decoder *d = bt->c->engine->decoder;
	int len;

	do
		len =
		    decoder_decode(d, code->bytes + at,
				   MIN(code->avail - at, (unsigned)INSN_MAX_LEN), INSN_MODE_64, in);
	while (len == -ENODATA && code->avail == code->in_page && bt_code_next_page(bt, code));
	return len;
}

/* Translate instructions until the block ends; guest bytes covered. */
static unsigned tr_block(struct tr *t, struct code_bytes *code)
{
	struct bt *bt = t->bt;
	unsigned done = 0, n = 0, most = bt->one_insn ? 1 : BT_MAX_INSNS;
	struct insn in;

	for (;;) {
		int len;
		bool wants_thunk, last, sti_last;
		unsigned run, bytes;
		exec_fn *f;

		t->at = t->pc + done;
		tr_record(t, t->at, 0);
		len = tr_decode_at(bt, code, done, &in);
		t->in = len > 0 ? &in : NULL;
		if (len <= 0) {
			tr_callout(t);
			return done + 1;
		}
		f = op_bind(&in, &wants_thunk);
		t->promoted = bt_is_promoted(bt, t->at);
		tr_settle_for(t, &in, f);
		if (tr_ends_block(f) && !t->promoted) {
			if (!tr_control(t, &in, f))
				tr_callout(t);
			return done + len;
		}
		last = nearly_full(t) || n + 1 == most || done + len >= code->in_page;
		run = t->promoted && !last ? tr_run(t, code, &in, most - 1 - n, &bytes) : 0;
		if (run) {
			t->ecx_known = false;
			done += bytes;
			n += run;
			continue;
		}
		/* An interrupt may come between blocks, but not behind STI. */
		sti_last = last && in.map == INSN_MAP_1B && in.opcode == 0xfb;
		if ((sti_last || !tr_ordinary(t, &in)) &&
		    !tr_stepped(t, &in, f, tr_ends_block(f) || sti_last))
			return done + len;
		tr_track_ecx(t, &in);
		done += len;
		n++;
		if (last) {
			t->at = t->pc + done;
			tr_record(t, t->at, 0);
			tr_settle_fs(t, true);
			tr_jump_direct(t, t->at);
			return done;
		}
	}
}

void bt_emit_tail(struct bt *bt, const struct block *b, u32 at)
{
	struct tr t;

	tr_begin(&t, bt, at, BT_TAIL_ROOM);
	emit_exit_to(&t, b->pc, b->host + 1);
	BUG_ON(t.e.full);
}

struct block *bt_translate(struct bt *bt, struct code_bytes *code)
{
	static const unsigned align = 16;
	struct block *b = &bt->block[bt->n_blocks];
	struct tr t;

	bt->used = ALIGN_UP(bt->used, align);
	tr_begin(&t, bt, bt->used, BT_BLOCK_ROOM);
	t.pc = bt->c->rip;
	t.regime = regime_of(t.pc);
	t.bias = regime_bias(t.regime);
	t.stop = ~0u;
	*b = (struct block){.pc = t.pc, .host = bt->used};
	b->len = tr_block(&t, code);
	b->stop = MIN(t.stop, b->len);
	b->vector = t.vector;
	emit_stubs(&t);
	tr_emit_misses(&t);
	BUG_ON(t.e.full);
	b->host_len = t.e.p - t.start;
	b->records = bt->records_used;
	b->records_len = records_pack(t.rec, t.n_rec, bt->records + b->records);
	bt->used += b->host_len;
	bt->records_used += b->records_len;
	bt->c->stats->n[STAT_bt_blocks]++;
	bt->c->stats->n[STAT_bt_guest_bytes] += b->len;
	bt->c->stats->n[STAT_bt_host_bytes] += b->host_len;
	if (unlikely(bt->check_recovery))
		bt_check_recovery(bt, b, code->bytes);
	return b;
}
