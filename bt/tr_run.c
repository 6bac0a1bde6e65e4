/*
 * Runs of checked sites: instructions behind one another that use the same base register, as a
 * kernel's stores to a signal frame or a stat buffer do. One look into the software TLB serves all
 * of them if everything from the lowest to the highest byte lies in one page:
 *
 *	what tr_checked.c does, for that range; for writing, if one of them writes
 *	the instructions, with [the third register + what they lie above the lowest]
 *	the third register back
 *	jump behind all
 *	if it misses: each as a checked site of its own
 *
 * A processor may use a translation that it has looked up once as long as nothing invalidates it,
 * and none of these instructions can. Writes to pages with code miss, so a run does not change what
 * it consists of. Between two of them a signal finds the guest's state but for the third register.
 *
 * Not handled: an index register, RSP or RIP as the base, GS; runs across the end of a page of
 * code.
 */
#include "tr.h"

#define MAX_RUN   16u
#define SITE_ROOM 256u /* host bytes of one of them on both ways, with its miss */
#define SITE_RECS 8u

struct run {
	struct insn in[MAX_RUN];
	unsigned n, bytes;
	s64 low, end; /* of displacements */
	u16 free;     /* registers for the address: a bit each */
	bool writes;
};

static bool fits(const struct tr *t, unsigned n)
{
	return (u64)(t->e.end - t->e.p) > 1024 + n * SITE_ROOM &&
	       t->n_rec + t->n_misses + 32 + n * SITE_RECS <= ARRAY_LEN(t->rec);
}

/* Can in, the next instruction, be part of the run? Then it is. */
static bool take(struct tr *t, struct run *r, const struct insn *in, exec_fn *f)
{
	s64 low = MIN(r->n ? r->low : in->disp, in->disp);
	s64 end = MAX(r->n ? r->end : in->disp, in->disp + in->mem_size);
	u16 busy;

	if (f != exec_mem || in->state || tr_rsp_is_data(in) || !tr_relocatable(t, in) ||
	    in->base >= 16 || in->base == GPR_RSP || in->index != REG_NONE || in->seg >= SEG_FS ||
	    in->len + 4 > INSN_MAX_LEN || !fits_s32(in->disp))
		return false;
	if ((r->n && in->base != r->in[0].base) || end - low > (s64)PAGE_SIZE ||
	    !tr_operands(t, in, &busy) || !(r->free & ~busy))
		return false;
	r->free &= ~busy;
	r->low = low;
	r->end = end;
	r->writes |= in->access & ACCESS_W;
	r->bytes += in->len;
	r->in[r->n++] = *in;
	return true;
}

/* The longest run that begins with first. */
static void collect(struct tr *t, struct run *r, struct code_bytes *code, const struct insn *first,
		    unsigned most)
{
	unsigned at = t->at - t->pc;
	struct insn in = *first;
	bool wants_thunk;

	while (take(t, r, &in, op_bind(&in, &wants_thunk))) {
		int len;

		if (r->n == most || (in.gpr_written >> in.base & 1) || !fits(t, r->n + 1))
			break;
		if (at + r->bytes >= code->in_page || !bt_is_promoted(t->bt, t->pc + at + r->bytes))
			break;
		len = tr_decode_at(t->bt, code, at + r->bytes, &in);
		if (len <= 0 || at + r->bytes + len >= code->in_page)
			break;
	}
}

static void emit_fast(struct tr *t, const struct run *r, unsigned scratch)
{
	u64 at = t->at;
	unsigned i, len;
	u8 bytes[INSN_MAX_LEN];

	if (scratch != GPR_RDX)
		emit_mov64(&t->e, scratch, GPR_RDX);
	tr_spill(t, false, scratch);
	for (i = 0; i < r->n; i++) {
		len = tr_with_base(&r->in[i], scratch, (s32)(r->in[i].disp - r->low), bytes);
		emit_bytes(&t->e, bytes, len);
		at += r->in[i].len;
		tr_record(t, at, 1u << scratch);
	}
	emit_load_abs(&t->e, scratch, CTX(t->bt, bt.spill[scratch]));
	tr_record(t, at, 0);
}

static void emit_slow(struct tr *t, const struct run *r)
{
	const struct insn *in = t->in;
	u64 at = t->at;
	unsigned i;

	tr_record(t, at, SPILL_ALL | RECOVER_FLAGS);
	tr_restore_flags(t);
	tr_record(t, at, SPILL_ALL);
	tr_spill(t, false, REG_NONE);
	for (i = 0; i < r->n; i++) {
		tr_record(t, t->at, 0);
		t->in = &r->in[i];
		BUG_ON(!tr_checked(t, t->in, exec_mem));
		t->at += t->in->len;
	}
	t->in = in;
	t->at = at;
	tr_record(t, at + r->bytes, 0);
}

unsigned tr_run(struct tr *t, struct code_bytes *code, const struct insn *first, unsigned most,
		unsigned *bytes)
{
	struct run r = {.free = 1u << GPR_RAX | 1u << GPR_RCX | 1u << GPR_RDX};
	struct insn all;
	u8 *miss, *end;

	if (most < 2 || !fits(t, 2))
		return 0;
	collect(t, &r, code, first, MIN(most, MAX_RUN));
	if (r.n < 2)
		return 0;
	t->bt->c->stats->n[STAT_bt_runs]++;
	all = *first;
	all.disp = r.low;
	all.mem_size = (u16)(r.end - r.low);
	all.access = r.writes ? ACCESS_W : ACCESS_R;
	miss = tr_look_up(t, &all);
	emit_fast(t, &r, tr_scratch(r.free));
	emit_u8(&t->e, 0xe9);
	end = t->e.p;
	emit_u32(&t->e, 0);
	emit_here32(&t->e, miss);
	emit_slow(t, &r);
	emit_here32(&t->e, end);
	*bytes = r.bytes;
	return r.n;
}
