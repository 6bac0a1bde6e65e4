/*
 * Lockstep: a translated block and the single-step engine from the same state, and whatever
 * differs afterwards in registers, flags, RIP or memory ends ringshift with a report.
 *
 *	step	the engine runs the block's instructions. Each page it is about to write is
 *		copied first (while the check is on the TLB holds no supervisor write tags,
 *		mmu.watch_writes, so every write passes resolve() in mem.c)
 *	undo	registers and pages are put back
 *	run	the block is entered, nothing is chained to it, and it comes back to C
 *	compare	registers, and the pages that the engine wrote
 *
 * Vector state is compared, too, if the block has vector instructions.
 *
 * Translated code may stop early, to have the next instruction stepped: a write to a page with
 * code, a user address, MMIO. Then the engine does it once more up to that instruction. The engine
 * may stop early too: at a guest fault, and before an access to a device. Translated code must
 * then not have passed that place.
 *
 * A and D bits that the engine set stay set, if their page was not also written: the shadow sets
 * the same ones. Not seen: writes of translated code to pages that the engine did not write.
 * Kicks are held back while the check is on (recover.c): each block comes back soon anyway.
 */
#include "lockstep.h"

#include <string.h>

#include "translate.h"

#define MAX_PAGES   128
#define CHECK_EVERY 1024 /* after the first ones */

enum how {
	STEPPING,
	AT_END,     /* behind the last instruction */
	AT_CALLOUT, /* before the one that translated code leaves to the engine */
	AT_PLACE,   /* where the caller wanted it to stop */
	AT_FAULT,
	AT_DEVICE,
	UNCHECKABLE, /* results that differ from run to run, or too much memory written */
};

struct regs {
	u64 gpr[16], rip, aflags, sflags, gs, other_gs;
	u64 fs, star, lstar, cstar, fmask, sysenter[3], tsc_aux; /* by WRMSR, WRFSBASE */
};

struct page {
	gpa_t gpa;
	u8 before[PAGE_SIZE], after[PAGE_SIZE]; /* after the run that came first */
};

struct lockstep {
	struct bt *bt;
	u64 first;
	u32 *runs; /* of each block of this generation */
	u32 generation;
	/* The block being checked: a copy, since stepping may drop it. */
	u64 pc;
	u32 len, stop;
	bool vector; /* vec_state is to be compared, too */
	bool recording;
	enum how how;
	u64 place, place_rcx; /* RIP to stop at, and RCX if that is a repeated instruction */
	struct regs start, stepped;
	struct vec_state vec_start, vec_stepped, vec_translated;
	unsigned n_pages;
	struct page page[MAX_PAGES];
};

struct lockstep *lockstep_new(struct bt *bt, u64 first)
{
	struct lockstep *l = aligned_alloc(64, sizeof(*l)); /* as vec_state wants it */

	if (l) {
		memset(l, 0, sizeof(*l));
		l->bt = bt;
		l->first = first;
		l->generation = bt->generation;
		l->runs = calloc(BT_MAX_BLOCKS, sizeof(l->runs[0]));
	}
	if (l && l->runs)
		return l;
	lockstep_free(l);
	return NULL;
}

void lockstep_free(struct lockstep *l)
{
	if (l)
		free(l->runs);
	free(l);
}

/* --- state --- */

static struct regs regs_of(const struct cpu *c)
{
	struct regs r = {.rip = c->rip,
			 .aflags = c->aflags & FL_ARITH,
			 .sflags = c->sflags,
			 .gs = c->seg[SEG_GS].base,
			 .other_gs = c->kernel_gs_base,
			 .fs = c->seg[SEG_FS].base,
			 .star = c->star,
			 .lstar = c->lstar,
			 .cstar = c->cstar,
			 .fmask = c->fmask,
			 .sysenter = {c->sysenter_cs, c->sysenter_esp, c->sysenter_eip},
			 .tsc_aux = c->tsc_aux};

	memcpy(r.gpr, c->gpr, sizeof(r.gpr));
	return r;
}

static void set_regs(struct cpu *c, const struct regs *r)
{
	memcpy(c->gpr, r->gpr, sizeof(r->gpr));
	c->rip = r->rip;
	c->aflags = r->aflags;
	c->sflags = r->sflags;
	c->seg[SEG_GS].base = r->gs;
	c->kernel_gs_base = r->other_gs;
	c->seg[SEG_FS].base = r->fs;
	c->star = r->star;
	c->lstar = r->lstar;
	c->cstar = r->cstar;
	c->fmask = r->fmask;
	c->sysenter_cs = r->sysenter[0];
	c->sysenter_esp = r->sysenter[1];
	c->sysenter_eip = r->sysenter[2];
	c->tsc_aux = r->tsc_aux;
}

static void keep_vector(struct lockstep *l, struct vec_state *v)
{
	cpu_fetch_vec(l->bt->c);
	if (l->vector)
		memcpy(v, &l->bt->c->vec, sizeof(*v));
}

static void reset_state(struct lockstep *l)
{
	set_regs(l->bt->c, &l->start);
	if (l->vector)
		memcpy(&l->bt->c->vec, &l->vec_start, sizeof(l->vec_start));
}

static u8 *page_host(struct lockstep *l, unsigned i)
{
	return l->bt->c->mmu.ram->window + l->page[i].gpa;
}

static NORETURN void stop_stepping(struct lockstep *l, enum how how)
{
	l->how = how;
	__builtin_longjmp(l->bt->c->unwind, 1);
}

void lockstep_note_access(struct lockstep *l, enum mmu_kind k, enum mmu_access access, gpa_t gpa)
{
	unsigned i;

	if (!l->recording)
		return;
	if (k == MMU_IO)
		stop_stepping(l, AT_DEVICE);
	if (access != MMU_WRITE)
		return;
	for (i = 0; i < l->n_pages; i++)
		if (l->page[i].gpa == (gpa & PAGE_MASK))
			return;
	if (l->n_pages == MAX_PAGES)
		stop_stepping(l, UNCHECKABLE);
	l->page[i].gpa = gpa & PAGE_MASK;
	l->n_pages++;
	memcpy(l->page[i].before, page_host(l, i), PAGE_SIZE);
}

/* Keep what the pages hold now, and put back what they held at the start. */
static void undo_memory(struct lockstep *l)
{
	struct ram *ram = l->bt->c->mmu.ram;
	unsigned i;

	for (i = 0; i < l->n_pages; i++) {
		struct page *p = &l->page[i];

		memcpy(p->after, page_host(l, i), PAGE_SIZE);
		memcpy(page_host(l, i), p->before, PAGE_SIZE);
		if (ram->code[p->gpa >> 12] && memcmp(p->after, p->before, PAGE_SIZE))
			ram_note_write(ram, p->gpa, PAGE_SIZE);
	}
}

/* --- stepping --- */

static bool differs_from_run_to_run(const struct insn *in) /* RDRAND RDSEED */
{
	return in->map == INSN_MAP_0F && in->opcode == 0xc7 && !in->has_mem;
}

/*
 * Translated code has stopped in the middle of a repeated string instruction, RCX at `left`: bring
 * the engine, which is in front of it, as far. A fault leaves the flags as they were before, unless
 * the host does otherwise.
 */
static NOINLINE void step_some_repetitions(struct lockstep *l, u64 left)
{
	struct cpu *c = l->bt->c;
	u64 rip = c->rip, aflags = c->aflags;

	c->gpr[GPR_RCX] -= left;
	while (c->gpr[GPR_RCX] && c->rip == rip)
		op_step(c);
	c->gpr[GPR_RCX] += left;
	c->rip = rip;
	if (!c->host.rep_fault_flags)
		c->aflags = aflags;
}

static bool in_repetition(struct lockstep *l, u64 left)
{
	struct cpu *c = l->bt->c;
	const struct insn *in = &op_fetch(c)->in;

	return in->class == CLASS_STRING && (in->prefixes & (PFX_REP | PFX_REPNE)) &&
	       left < c->gpr[GPR_RCX];
}

static void step_block(struct lockstep *l)
{
	struct cpu *c = l->bt->c;
	bool last;

	for (;;) {
		struct op *o;

		if (c->rip == l->place) {
			if (in_repetition(l, l->place_rcx))
				step_some_repetitions(l, l->place_rcx);
			l->how = AT_PLACE;
			return;
		}
		if (c->rip - l->pc == l->stop) {
			l->how = AT_CALLOUT;
			return;
		}
		o = op_fetch(c);
		if (differs_from_run_to_run(&o->in)) {
			l->how = UNCHECKABLE;
			return;
		}
		last = c->rip - l->pc + o->in.len >= l->len;
		op_step(c);
		if (last) {
			l->how = AT_END;
			return;
		}
	}
}

/* The engine runs the block from here up to `place` at most (~0: all of it). What it left in the
 * CPU beside registers and memory is put back. */
static NOINLINE void step(struct lockstep *l, u64 place)
{
	struct cpu *c = l->bt->c;
	struct {
		void *unwind[5];
		u64 insns, cr2;
		struct seg_reg seg[SEG_COUNT];
		u8 cpl;
		bool nmi_blocked;
	} saved = {.insns = c->insns, .cr2 = c->cr2, .cpl = c->cpl, .nmi_blocked = c->nmi_blocked};
	u64 gs, fs;

	memcpy(saved.unwind, c->unwind, sizeof(saved.unwind));
	memcpy(saved.seg, c->seg, sizeof(saved.seg));
	l->place = place;
	l->how = STEPPING;
	l->recording = true;
	if (!__builtin_setjmp(c->unwind))
		step_block(l);
	else if (l->how == STEPPING)
		l->how = AT_FAULT;
	l->recording = false;
	memcpy(c->unwind, saved.unwind, sizeof(saved.unwind));
	c->insns = saved.insns;
	c->cr2 = saved.cr2;
	c->x87_live = false;
	c->shadow = SHADOW_NONE;
	/* IRET may have gone to another ring, where translated code leaves before it. */
	gs = c->seg[SEG_GS].base;
	fs = c->seg[SEG_FS].base;
	memcpy(c->seg, saved.seg, sizeof(saved.seg));
	c->seg[SEG_GS].base = gs;
	c->seg[SEG_FS].base = fs;
	c->cpl = saved.cpl;
	c->nmi_blocked = saved.nmi_blocked;
	cpu_update_mode(c);
	l->stepped = regs_of(c);
	keep_vector(l, &l->vec_stepped);
}

/* --- reports --- */

static const char *const how_text[] = {
    [STEPPING] = "was still stepping",
    [AT_END] = "ran the whole block",
    [AT_CALLOUT] = "stopped at the callout",
    [AT_PLACE] = "stopped where translated code did",
    [AT_FAULT] = "raised an exception",
    [AT_DEVICE] = "reached a device",
    [UNCHECKABLE] = "gave up",
};

static void print_code(struct lockstep *l, const char *what, const u8 *code, u32 len, u64 at)
{
	struct decoder *d = l->bt->c->engine->decoder;
	u32 done = 0;
	int n, i;

	fprintf(stderr, "%s:\n", what);
	while (done < len) {
		struct insn in;
		char text[128] = "?";

		n = decoder_decode(d, code + done, MIN(len - done, (u32)INSN_MAX_LEN), INSN_MODE_64,
				   &in);
		if (n > 0)
			decoder_format(d, &in, at + done, text, sizeof(text));
		n = MAX(n, 1);
		fprintf(stderr, "  %016llx  %-48s", (unsigned long long)at + done, text);
		for (i = 0; i < n; i++)
			fprintf(stderr, " %02x", code[done + i]);
		fprintf(stderr, "\n");
		done += n;
	}
}

static void print_guest_code(struct lockstep *l)
{
	struct cpu *c = l->bt->c;
	struct walk w;

	if (mmu_probe(c->mmu.ram, &c->mmu.pg, l->pc, MMU_EXEC, false, &w) == 0 &&
	    ram_contains(c->mmu.ram, w.gpa))
		print_code(l, "guest code", c->mmu.ram->window + w.gpa,
			   MIN(l->len, (u32)(PAGE_SIZE - (l->pc & ~PAGE_MASK))), l->pc);
}

static void print_reg(const char *name, u64 start, u64 a, u64 b)
{
	fprintf(stderr, "  %-6s %016llx  %016llx  %016llx%s\n", name, (unsigned long long)start,
		(unsigned long long)a, (unsigned long long)b, a != b ? "  <--" : "");
}

static void print_regs(const struct regs *s, const struct regs *a, const struct regs *b)
{
	static const char *const name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					     "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					     "r12", "r13", "r14", "r15"};
	unsigned i;

	fprintf(stderr, "         before            stepped           translated\n");
	for (i = 0; i < 16; i++)
		print_reg(name[i], s->gpr[i], a->gpr[i], b->gpr[i]);
	print_reg("rip", s->rip, a->rip, b->rip);
	print_reg("aflags", s->aflags, a->aflags, b->aflags);
	print_reg("sflags", s->sflags, a->sflags, b->sflags);
	print_reg("gs", s->gs, a->gs, b->gs);
	print_reg("swapgs", s->other_gs, a->other_gs, b->other_gs);
	print_reg("fs", s->fs, a->fs, b->fs);
	print_reg("lstar", s->lstar, a->lstar, b->lstar);
}

/* translated_after: which of a page's `after` and its present contents translated code wrote. */
static void print_memory(struct lockstep *l, bool translated_after)
{
	unsigned i, k, shown = 0;

	for (i = 0; i < l->n_pages; i++)
		for (k = 0; k < PAGE_SIZE; k += 8) {
			const u8 *first = l->page[i].after + k, *now = page_host(l, i) + k;
			u64 before, a, b;

			if (!memcmp(first, now, 8) || shown++ > 16)
				continue;
			memcpy(&before, l->page[i].before + k, 8);
			memcpy(&a, translated_after ? now : first, 8);
			memcpy(&b, translated_after ? first : now, 8);
			fprintf(stderr, "  physical %#llx:\n",
				(unsigned long long)l->page[i].gpa + k);
			print_reg("", before, a, b);
		}
}

static NORETURN void report(struct lockstep *l, const char *what, const struct regs *translated,
			    bool translated_after)
{
	struct bt *bt = l->bt;
	u32 i;

	fprintf(stderr,
		"\r\nringshift: lockstep: %s. Block at %#llx, %u bytes; the engine %s; translated "
		"code left with step=%llu\n",
		what, (unsigned long long)l->pc, l->len, how_text[l->how],
		(unsigned long long)bt->c->bt.step);
	print_regs(&l->start, &l->stepped, translated);
	print_memory(l, translated_after);
	print_guest_code(l);
	for (i = bt->n_blocks; i-- > 0;) { /* the newest one of this address */
		const struct block *b = &bt->block[i];

		if (b->pc != l->pc)
			continue;
		print_code(l, "host code", bt->rx + b->host, b->host_len, (u64)bt->rx + b->host);
		break;
	}
	bug_at(__FILE__, __LINE__, "translated code and the single-step engine disagree");
}

static NORETURN void report_vector(struct lockstep *l, const struct regs *translated,
				   const struct vec_state *vec, bool translated_after)
{
	const u8 *s = (const u8 *)&l->vec_start, *a = (const u8 *)&l->vec_stepped;
	const u8 *b = (const u8 *)vec;
	unsigned i;

	fprintf(stderr, "\r\nvec_state, by offset: before, stepped, translated\n");
	for (i = 0; i < sizeof(*vec); i++)
		if (a[i] != b[i])
			fprintf(stderr, "  %#x: %02x %02x %02x\n", i, s[i], a[i], b[i]);
	report(l, "vector state differs", translated, translated_after);
}

/* vec: what translated code left, if the block has vector instructions. */
static void compare(struct lockstep *l, const struct regs *translated, const struct vec_state *vec,
		    bool translated_after)
{
	unsigned i;

	if (memcmp(&l->stepped, translated, sizeof(*translated)))
		report(l, "registers differ", translated, translated_after);
	if (l->vector && memcmp(&l->vec_stepped, vec, sizeof(*vec)))
		report_vector(l, translated, vec, translated_after);
	for (i = 0; i < l->n_pages; i++)
		if (memcmp(l->page[i].after, page_host(l, i), PAGE_SIZE))
			report(l, "memory differs", translated, translated_after);
}

/* --- the check --- */

static bool due(struct lockstep *l, const struct block *b)
{
	u32 *runs = &l->runs[b - l->bt->block];

	if (l->generation != l->bt->generation) {
		memset(l->runs, 0, BT_MAX_BLOCKS * sizeof(l->runs[0]));
		l->generation = l->bt->generation;
	}
	return b->stop && (++*runs <= l->first || *runs % CHECK_EVERY == 0);
}

/* Translated code has run. */
static void judge(struct lockstep *l)
{
	struct cpu *c = l->bt->c;
	struct regs t = regs_of(c);
	u64 off = t.rip - l->pc;
	bool stopped = c->bt.step, at_callout = c->bt.step == STEP_CALLOUT && off == l->stop;

	if (!stopped && !memcmp(&t, &l->start, sizeof(t)) &&
	    atomic_load_explicit(&c->attention, memory_order_relaxed))
		return; /* kicked before it began */
	if (!stopped || at_callout) {
		if (l->how != (stopped ? AT_CALLOUT : AT_END))
			report(l, "the ends differ", &t, false);
		compare(l, &t, &c->vec, false);
		return;
	}
	if (off >= l->len)
		report(l, "translated code stopped outside its block", &t, false);
	if ((l->how == AT_FAULT || l->how == AT_DEVICE) && off > l->stepped.rip - l->pc)
		report(l, "translated code went on", &t, false);
	keep_vector(l, &l->vec_translated);
	undo_memory(l);
	reset_state(l);
	l->place_rcx = t.gpr[GPR_RCX];
	step(l, t.rip);
	/* The instruction that has ended in #XM has already set its flags; stepping it will, too.
	 */
	l->vec_translated.mxcsr &= l->vec_stepped.mxcsr | ~0x3fu;
	compare(l, &t, &l->vec_translated, true);
	set_regs(c, &t);
}

bool lockstep_run(struct lockstep *l)
{
	struct bt *bt = l->bt;
	struct cpu *c = bt->c;
	struct block *b = bt_find_block(bt);

	if (!b || !due(l, b))
		return false;
	l->pc = b->pc;
	l->len = b->len;
	l->stop = b->stop;
	l->n_pages = 0;
	l->vector = b->vector;
	l->start = regs_of(c);
	keep_vector(l, &l->vec_start);
	step(l, ~0ull);
	undo_memory(l);
	reset_state(l);
	cpu_update_slow(c);
	if (l->how == UNCHECKABLE)
		return false;
	b = bt_find_block(bt); /* the engine may have written into it, or flushed everything */
	if (!b || b->len != l->len || b->stop != l->stop)
		return false;
	bt_enter(bt, (u64)bt->rx + b->host);
	judge(l);
	cpu_update_slow(c);
	c->stats->n[STAT_bt_lockstep_checks]++;
	return true;
}
