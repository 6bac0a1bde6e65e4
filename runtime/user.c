/*
 * Ring 3 runs natively, in spaces (space.h): processes that hold nothing but shadow pages of one
 * guest address space. There is one for each CR3 that has lately run user code; they are a cache,
 * and the least recently used one goes when there are too many.
 *
 * A space's pages are a shadow (mmu/shadow.h) like that of the kernel half, only that it lives in
 * another process. It is filled on faults and checked against the guest's tables when the guest
 * flushes: a load of CR3 sends for the space of that CR3 and compares all of it before the next
 * entry, INVLPG compares one page. Entries of other spaces need no attention: before they run again
 * their CR3 is loaded.
 *
 * What came out of a space is believed as far as a program could have done it itself:
 *
 *	SYSCALL			enters the guest's kernel as the instruction does
 *	page fault		hidden: map, go on; true: #PF as the guest's tables have it
 *	anything else		the single-step engine executes the instruction and raises what
 *				there is to raise. So #GP, #UD, INT n, CPUID under
 *				faulting, I/O, MMIO need no code of their own.
 *
 * A program that lies (writes the page it shares with us) can only bring its own registers into a
 * state it could have reached anyway. It could also claim to have left and run on: so before the
 * guest's kernel goes on past a flush that takes something from it, or leaves its tables, the space
 * is parked (space.h).
 *
 * The vector state stays in the space's signal frame until somebody asks (cpu_fetch_vec).
 *
 * A space that dies while its program runs takes the program's registers along, or its vector
 * state. There is no going on from where it was entered, since some of what follows has been done:
 * the program gets a #GP, which is the end of it.
 *
 * Not run here: code and stacks in segments other than the host's own flat ones (same selectors, as
 * Linux has them), data segments the host does not let programs have (user_desc.c), anything while
 * breakpoints are armed or TF is set, 16-bit and v86 code.
 */
#include "user.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <uthash.h>

#include "mmu.h"
#include "op.h"
#include "shadow.h"
#include "space.h"
#include "user_desc.h"
#include "user_fast.h"
#include "user_syscall32.h"
#include "vec_image.h"
#include "xstate.h"

#define MAX_SPACES   64u
#define NOTHING_LOST 1ull
#define USER_LIMIT   0x7ffffffff000ull /* what the host lets a process have */
#define USER_FLAGS   (FL_ARITH | FL_TF | FL_DF | FL_AC | FL_ID | FL_NT)
#define HOST_CS64    0x33
#define HOST_CS32    0x23
#define HOST_DATA    0x2b

/* System calls of Linux that map something without saying how much: 64-bit, 32-bit, and the way old
 * C libraries take. */
#define LINUX_SHMAT     30
#define LINUX_SHMAT_32  397
#define LINUX_IPC_32    117
#define LINUX_IPC_SHMAT 21
#define SHMAT_MAX       (256 * MIB)

#define LINUX_MREMAP_FIXED 2u
#define LINUX_MREMAP_FLAGS 7u

#define RANGE_MAX BIT(46) /* more than half of what there is; most pointers lie above */

struct user_space {
	u64 cr3;
	u64 used; /* the clock when it last ran */
	struct space *space;
	struct shadow *shadow;
	unsigned avoid; /* places of the stub that have not done */
	bool collided;  /* the guest maps something where the stub lies */
	struct user_fast_space fast;
	struct user_desc desc;
	bool quick;        /* it has left by a fast system call */
	bool fresh;        /* has not been run */
	bool expecting;    /* the guest's kernel has been told of a page fault at */
	gva_t expected;    /* so that there is a page by now, probably */
	UT_hash_handle hh; /* by cr3 */
};

struct user {
	struct cpu *c;
	struct space_pool *pool;
	struct user_fast *fast; /* NULL: no patched system calls */
	struct vec_layout layout;
	struct user_space *spaces; /* by CR3 */
	struct user_space *now;    /* the one of the current CR3, NULL: look for it */
	struct user_space *vec_in; /* c->vec_away: where the state is */
	u64 lost; /* CR3 of a program whose vector state went with its space; NOTHING_LOST */
	u64 clock;
	u64 fault_rip, fault_cr2;       /* of the last hidden fault */
	struct space *volatile running; /* for user_kick */
	u8 *image;                      /* a vector state on its way */
	struct mmu_follower follower;
};

/* --- flushes --- */

static void park(struct user *u)
{
	if (u->now && space_park(u->now->space))
		u->c->stats->n[STAT_user_park_failures]++;
}

/* What the tables no longer give has been queued: guest code must not use it any longer. */
static void park_if_changed(struct user *u)
{
	if (space_takes(u->now->space))
		park(u);
	else
		u->c->stats->n[STAT_user_parks_spared]++;
}

static void on_flush(void *opaque, bool mode)
{
	struct user *u = opaque;
	struct user_space *s, *tmp;

	/* The same tables: nothing can change there before we are told again. */
	if (!mode && u->now && u->now->cr3 == (u->c->mmu.pg.cr3 & PAGE_MASK)) {
		shadow_revalidate(u->now->shadow, &u->c->mmu.pg);
		park_if_changed(u);
		return;
	}
	park(u);
	u->now = NULL;
	if (!mode)
		return;
	HASH_ITER(hh, u->spaces, s, tmp)
	{
		shadow_flush_all(s->shadow);
	}
}

static void on_invlpg(void *opaque, gva_t va)
{
	struct user *u = opaque;

	if (!u->now || va >= USER_LIMIT)
		return;
	shadow_invlpg(u->now->shadow, &u->c->mmu.pg, va);
	park_if_changed(u);
}

static void on_revoke_write(void *opaque, gpa_t page)
{
	struct user *u = opaque;
	struct user_space *s, *tmp;

	HASH_ITER(hh, u->spaces, s, tmp)
	{
		shadow_revoke_write(s->shadow, page);
	}
}

static void on_code_gone(void *opaque, gpa_t page)
{
	struct user *u = opaque;

	user_fast_code_gone(u->fast, page);
}

/* --- spaces by CR3 --- */

static int map_in_space(void *opaque, gva_t va, u64 len, int prot, u64 ram_off)
{
	struct user_space *s = opaque;
	int rc = user_fast_map(&s->fast, va, len, prot, ram_off);

	s->collided |= rc == -EBUSY;
	return rc;
}

static int protect_in_space(void *opaque, gva_t va, u64 len, int prot)
{
	struct user_space *s = opaque;

	return user_fast_protect(&s->fast, va, len, prot);
}

static int widen_in_space(void *opaque, gva_t va, u64 len, int prot)
{
	struct user_space *s = opaque;

	return user_fast_widen(&s->fast, va, len, prot);
}

static int unmap_in_space(void *opaque, gva_t va, u64 len)
{
	struct user_space *s = opaque;
	int rc = user_fast_unmap(&s->fast, va, len);

	/* Else the space is dead, which the next entry finds out. */
	BUG_ON(rc == -EINVAL || rc == -EBUSY);
	return 0;
}

static const struct shadow_ops space_ops = {.map = map_in_space,
					    .protect = protect_in_space,
					    .widen = widen_in_space,
					    .unmap = unmap_in_space};

static void drop(struct user *u, struct user_space *s)
{
	if (u->vec_in == s)
		user_fetch_vec(u);
	if (u->now == s)
		u->now = NULL;
	HASH_DEL(u->spaces, s);
	shadow_free(s->shadow);
	user_fast_detach(&s->fast);
	space_put(s->space);
	free(s);
}

static void drop_oldest(struct user *u)
{
	struct user_space *s, *tmp, *oldest = u->spaces;

	HASH_ITER(hh, u->spaces, s, tmp)
	{
		if (s->used < oldest->used)
			oldest = s;
	}
	drop(u, oldest);
	u->c->stats->n[STAT_user_spaces_evicted]++;
}

static const struct shadow_range user_half = {.last = USER_LIMIT - 1, .user = true};

void user_print(const struct user *u, FILE *out)
{
	struct user_space *s, *tmp;

	fprintf(out, "%u user spaces of at most %u\n", HASH_COUNT(u->spaces), MAX_SPACES);
	HASH_ITER(hh, u->spaces, s, tmp)
	{
		fprintf(out, "cr3 %012llx  last run %llu runs ago%s%s\n",
			(unsigned long long)s->cr3, (unsigned long long)(u->clock - s->used),
			s == u->now ? ", current" : "", s->fresh ? ", not yet run" : "");
	}
}

static struct user_space *make(struct user *u, u64 cr3, unsigned avoid)
{
	struct user_space *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	if (HASH_COUNT(u->spaces) >= MAX_SPACES)
		drop_oldest(u);
	s->cr3 = cr3;
	s->fresh = true;
	s->avoid = avoid;
	s->space = space_get(u->pool, avoid);
	s->shadow = shadow_new(u->c->mmu.ram, u->c->stats, &user_half, &space_ops, s);
	if (!s->space || !s->shadow) {
		if (s->space)
			space_put(s->space);
		shadow_free(s->shadow);
		free(s);
		return NULL;
	}
	s->fast.space = s->space;
	s->fast.shadow = s->shadow;
	user_fast_attach(u->fast, &s->fast);
	HASH_ADD(hh, u->spaces, cr3, sizeof(s->cr3), s);
	return s;
}

/* Map what the program is going to touch at once, which spares a fault. */
static void foresee(struct cpu *c, struct user_space *s)
{
	if (s->fresh) {
		shadow_expect(s->shadow, &c->mmu.pg, c->rip);
		shadow_expect(s->shadow, &c->mmu.pg, c->gpr[GPR_RSP]);
	}
	if (s->expecting)
		shadow_expect(s->shadow, &c->mmu.pg, s->expected);
	s->fresh = s->expecting = false;
}

/* The space of the current CR3, with nothing in it that the guest has flushed. NULL: the host has
 * none for us. */
static struct user_space *current(struct user *u)
{
	struct cpu *c = u->c;
	struct user_space *s = u->now;

	if (s && s->fast.broken) {
		drop(u, s);
		s = NULL;
	}
	if (!s) {
		u64 cr3 = c->cr3 & PAGE_MASK;

		HASH_FIND(hh, u->spaces, &cr3, sizeof(cr3), s);
		if (s && s->fast.broken) {
			drop(u, s);
			s = NULL;
		}
		if (!s)
			s = make(u, cr3, 0);
		if (!s)
			return NULL;
		u->now = s;
		s->used = ++u->clock;
		shadow_revalidate(s->shadow, &c->mmu.pg);
	}
	foresee(c, s);
	return s;
}

/* --- registers --- */

static bool is_flat(const struct seg_reg *s, u16 sel, u32 type)
{
	return s->sel == sel && s->base == 0 && s->limit == 0xffffffff && (s->attr & SEG_P) &&
	       (s->attr & (SEG_CODE | SEG_S)) == (type | SEG_S);
}

static bool runs_natively(const struct cpu *c)
{
	const struct seg_reg *cs = &c->seg[SEG_CS];

	if (!cpu_long_mode(c) || (c->sflags & (FL_IOPL | FL_TF | FL_RF | FL_VM)) ||
	    !(c->sflags & FL_IF) || c->rip >= USER_LIMIT)
		return false;
	if ((c->sflags & FL_AC) && !(c->cr0 & CR0_AM))
		return false;
	if (c->cr0 & (CR0_TS | CR0_EM))
		return false;
	if (!is_flat(cs, c->mode == INSN_MODE_64 ? HOST_CS64 : HOST_CS32, SEG_CODE) ||
	    c->mode == INSN_MODE_16 || c->seg[SEG_SS].sel != HOST_DATA)
		return false;
	return true;
}

static void to_space(const struct cpu *c, struct space_regs *r)
{
	memcpy(r->gpr, c->gpr, sizeof(r->gpr));
	r->rip = c->rip;
	r->rflags = cpu_rflags(c) & (USER_FLAGS | FL_FIXED1);
	r->fs_base = c->seg[SEG_FS].base;
	r->gs_base = c->seg[SEG_GS].base;
	r->cs = c->seg[SEG_CS].sel;
	r->ss = c->seg[SEG_SS].sel;
	r->ds = c->seg[SEG_DS].sel;
	r->es = c->seg[SEG_ES].sel;
	r->fs = c->seg[SEG_FS].sel;
	r->gs = c->seg[SEG_GS].sel;
}

/* The program may have loaded it itself. */
static void segment_from_space(const struct user_space *s, struct cpu *c, unsigned seg, u16 sel)
{
	if (sel != c->seg[seg].sel)
		c->seg[seg] = user_desc_loaded(c, s->space, seg, sel);
}

static void from_space(const struct user_space *s, struct cpu *c, const struct space_regs *r)
{
	bool mode = r->cs != c->seg[SEG_CS].sel || ((r->rflags ^ c->sflags) & FL_AC);

	memcpy(c->gpr, r->gpr, sizeof(c->gpr));
	c->rip = r->rip;
	cpu_set_rflags(c, (cpu_rflags(c) & ~(u64)USER_FLAGS) | (r->rflags & USER_FLAGS));
	segment_from_space(s, c, SEG_CS, r->cs);
	segment_from_space(s, c, SEG_SS, r->ss);
	if (mode)
		cpu_update_mode(c);
	segment_from_space(s, c, SEG_DS, r->ds);
	segment_from_space(s, c, SEG_ES, r->es);
	segment_from_space(s, c, SEG_FS, r->fs);
	segment_from_space(s, c, SEG_GS, r->gs);
	if (cpu_canonical(r->fs_base))
		c->seg[SEG_FS].base = r->fs_base;
	if (cpu_canonical(r->gs_base))
		c->seg[SEG_GS].base = r->gs_base;
}

void user_fetch_vec(struct user *u)
{
	struct cpu *c = u->c;

	if (!space_xsave_read(u->vec_in->space, u->image))
		u->lost = u->vec_in->cr3;
	vec_from_image(&c->vec, &u->layout, u->image);
	x87_normalise(c);
	c->vec_away = false;
	u->vec_in = NULL;
	c->stats->n[STAT_user_vec_fetches]++;
}

static void give_vec(struct user *u, struct user_space *s)
{
	if (u->vec_in == s)
		return;
	cpu_fetch_vec(u->c);
	vec_to_image(&u->c->vec, &u->layout, u->image);
	space_xsave_write(s->space, u->image);
	u->vec_in = s;
	u->c->vec_away = true;
}

/* --- running --- */

/* Execute the instruction the space could not. */
static void step(struct user *u)
{
	u->c->stats->n[STAT_user_steps]++;
	op_step(u->c);
}

/* Another space, with the stub at a place that is none of avoid. False: there is none. */
static bool move_stub(struct user *u, struct user_space *s, unsigned avoid)
{
	drop(u, s);
	u->now = make(u, u->c->cr3 & PAGE_MASK, avoid);
	u->c->stats->n[STAT_user_stub_moves]++;
	return u->now;
}

/* An argument that a system call has not is what the program left in the register, a pointer often:
 * no length. */
static unsigned pages_met(u64 va, u64 len)
{
	return va & ~PAGE_MASK || va < PAGE_SIZE || va >= USER_LIMIT || len > RANGE_MAX
		   ? 0
		   : space_places_met(va, len);
}

/* The new place of Linux's mremap counts if its flags say that there is one. */
static unsigned new_place_met(u64 flags, u64 va, u64 len)
{
	return (flags & LINUX_MREMAP_FIXED) && !(flags & ~LINUX_MREMAP_FLAGS) ? pages_met(va, len)
									      : 0;
}

/* Where Linux's shmat maps something; 0: nowhere, or it is not that. */
static u64 attached_at(const struct cpu *c)
{
	const u64 *r = c->gpr;

	if (c->mode == INSN_MODE_64)
		return r[GPR_RAX] == LINUX_SHMAT ? r[GPR_RSI] : 0;
	if ((u32)r[GPR_RAX] == LINUX_IPC_32 && (u16)r[GPR_RBX] == LINUX_IPC_SHMAT)
		return (u32)r[GPR_RDI];
	return (u32)r[GPR_RAX] == LINUX_SHMAT_32 ? (u32)r[GPR_RCX] : 0;
}

/* The places of the stub that meet what a system call is about: see make_way. */
static unsigned places_named(const struct cpu *c)
{
	const u64 *r = c->gpr;
	u64 at = attached_at(c);

	if (unlikely(at))
		return pages_met(at, SHMAT_MAX);
	if (c->mode != INSN_MODE_64)
		return pages_met((u32)r[GPR_RBX], (u32)r[GPR_RCX]) |
		       new_place_met((u32)r[GPR_RSI], (u32)r[GPR_RDI], (u32)r[GPR_RDX]);
	return pages_met(r[GPR_RDI], r[GPR_RSI]) | new_place_met(r[GPR_R10], r[GPR_R8], r[GPR_RDX]);
}

/*
 * The stub can be read. What the guest's kernel gives a program there is found when it is first
 * written or executed, but the kernel may put it into its tables no sooner than it is touched, and
 * until then there is no fault for reading it. So a system call that names a range of pages where
 * the stub is moves it: the first two arguments, an address and a length with whatever maps; the
 * fifth and the third, those of the new place with mremap; and Linux's shmat, which does not say
 * how much it maps. If it was something else no harm is done.
 */
static void make_way(struct user *u, struct user_space *s)
{
	unsigned met = places_named(u->c);

	if (likely(!(met & 1u << space_place(s->space))))
		return;
	if ((s->avoid | met) == BIT(SPACE_PLACES) - 1)
		move_stub(u, s, met);
	else
		move_stub(u, s, s->avoid | met);
}

/* True: mapped, go on. False: step. */
static bool page_fault(struct user *u, struct user_space *s, const struct space_exit *e)
{
	enum mmu_access access = e->error & PF_I   ? MMU_EXEC
				 : e->error & PF_W ? MMU_WRITE
						   : MMU_READ;
	struct cpu *c = u->c;
	u32 error;

	switch (shadow_fill(s->shadow, &c->mmu.pg, e->cr2, access, &error)) {
	case SHADOW_MAPPED:
		/* The same again: the host did not take the mapping. Let the engine get by. */
		if (u->fault_rip == c->rip && u->fault_cr2 == e->cr2) {
			u->fault_rip = 0;
			return false;
		}
		u->fault_rip = c->rip;
		u->fault_cr2 = e->cr2;
		c->stats->n[STAT_user_hidden_faults]++;
		return true;
	case SHADOW_FAULT:
		s->expecting = true;
		s->expected = e->cr2;
		cpu_raise_pf(c, e->cr2, error);
	case SHADOW_FAILED:
		return s->collided && move_stub(u, s, s->avoid | 1u << space_place(s->space));
	default: return false; /* MMIO, a write to code, nothing of a user's */
	}
}

static NORETURN void lose(struct user *u)
{
	u->lost = NOTHING_LOST;
	u->c->stats->n[STAT_user_lost]++;
	cpu_raise_error(u->c, EXC_GP, 0);
}

/* The space has left with something that is not its own affair. May raise. */
static void finish(struct user *u, struct user_space *s, const struct space_exit *e)
{
	struct cpu *c = u->c;

	switch (e->kind) {
	case SPACE_SYSCALL:
		make_way(u, s);
		cpu_syscall(c, c->rip);
		break;
	case SPACE_KICKED: break;
	case SPACE_DEAD: drop(u, s); lose(u);
	case SPACE_INT80:
		make_way(u, s);
		if (!user_syscall32(c))
			step(u);
		break;
	case SPACE_FAULT:
		/* Traps leave RIP behind the instruction. */
		if (e->vector == EXC_BP)
			cpu_raise_soft(c, EXC_BP, c->rip);
		if (e->vector == EXC_DB) {
			c->dr[6] |= DR6_BS;
			cpu_raise(c, EXC_DB);
		}
		step(u);
		break;
	}
}

/* Run once. False: there was nothing to run it in. */
static bool run_once(struct user *u, struct user_space *s, struct space_exit *e)
{
	struct cpu *c = u->c;
	struct space_regs regs;
	int rc;

	if (s->fast.found)
		user_fast_settle(&s->fast);
	rc = user_desc_update(&s->desc, c, s->space, s->quick);
	if (rc) {
		drop(u, s);
		return false;
	}
	if (!user_desc_fits(c, s->space)) {
		c->stats->n[STAT_user_stepped_runs]++;
		return false;
	}
	give_vec(u, s);
	to_space(c, &regs);
	u->running = s->space;
	rc = space_run(s->space, &regs, &c->attention, e);
	u->running = NULL;
	if (rc && rc != -EINVAL)
		drop(u, s);
	if (rc)
		return false;
	from_space(s, c, &regs);
	s->quick = e->fast;
	if (e->kind == SPACE_SYSCALL && !e->fast)
		user_fast_note(&s->fast);
	c->stats->n[STAT_user_exits]++;
	return true;
}

bool user_run(struct user *u)
{
	struct user_space *s;
	struct space_exit e;

	if (!runs_natively(u->c)) {
		u->c->stats->n[STAT_user_stepped_runs]++;
		return false;
	}
	if (u->lost == (u->c->cr3 & PAGE_MASK))
		lose(u);
	do {
		s = current(u);
		if (!s || !run_once(u, s, &e))
			return false;
	} while (e.kind == SPACE_FAULT && e.vector == EXC_PF && page_fault(u, s, &e));
	finish(u, s, &e);
	return true;
}

void user_kick(struct user *u)
{
	struct space *sp = u ? u->running : NULL;

	if (sp)
		space_kick(sp);
}

int user_init(struct user **out, struct cpu *c, bool fast, char *err, size_t errlen)
{
	struct user *u = calloc(1, sizeof(*u));
	int rc = u ? vec_layout_init(&u->layout) : -ENOMEM;

	if (rc) {
		free(u);
		snprintf(err, errlen, "user spaces: %s", strerror(-rc));
		return rc;
	}
	rc = space_pool_new(&u->pool, c->mmu.ram->fd, c->stats, err, errlen);
	if (rc) {
		free(u);
		return rc;
	}
	u->image = aligned_alloc(64, ALIGN_UP(MAX(u->layout.size, space_xsave_size(u->pool)), 64));
	BUG_ON(!u->image);
	memset(u->image, 0, MAX(u->layout.size, space_xsave_size(u->pool)));
	u->c = c;
	u->lost = NOTHING_LOST;
	if (fast)
		u->fast = user_fast_new(c, u->pool);
	u->follower = (struct mmu_follower){.invlpg = on_invlpg,
					    .flush = on_flush,
					    .revoke_write = on_revoke_write,
					    .code_gone = on_code_gone,
					    .opaque = u};
	c->mmu.follower = &u->follower;
	*out = u;
	return 0;
}

void user_free(struct user *u)
{
	struct user_space *s, *tmp;

	if (!u)
		return;
	u->c->mmu.follower = NULL;
	HASH_ITER(hh, u->spaces, s, tmp)
	{
		drop(u, s);
	}
	user_fast_free(u->fast);
	space_pool_free(u->pool);
	free(u->image);
	free(u);
}
