/*
 * The code cache: blocks by guest PC, the front table that translated code looks in, and what drops
 * blocks. The area is mapped twice (execute, write) and filled from the bottom; when it is full
 * everything goes. A dropped block's first bytes become a jump to its tail, an exit that is made
 * then at the area's other end, so whatever was chained to it leaves; its room comes back with the
 * next flush. It stays in the lists of its pages until somebody goes through them.
 */
#define _GNU_SOURCE
#include "bt_log.h"
#include "lockstep.h"
#include "translate.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, len, hashv) ((hashv) = (unsigned)XXH3_64bits(key, len))

_Static_assert(sizeof(struct block) == 32, "as translate.h says");
_Static_assert(BT_MAX_BLOCKS < BLOCK_TABLE_MAX, "block_table.h");
_Static_assert(BT_BLOCK_ROOM <= UINT16_MAX && BT_MAX_INSNS * INSN_MAX_LEN <= UINT16_MAX,
	       "struct block");

#define RECORDS_ROOM (BT_MAX_RECORDS * RECORD_PACKED) /* those of a block take no more */

static u32 front_index(u64 pc)
{
	/* Two kernel functions are often 64 KiB apart: bits 16..23 go in as well. The emitted code
	 * computes the same without touching flags. */
	return (u16)((u32)pc + __builtin_bswap32(pc));
}

/* The tag of a place that holds nothing: that of a PC which belongs elsewhere. PC 0, of tag 0, has
 * index 0, and PC -1, of tag 1, another one. */
static u64 front_empty(u32 i)
{
	return i == 0;
}

static void front_set(struct bt *bt, u64 pc, u64 host)
{
	enum regime r = regime_of(pc);
	u32 i = front_index(pc);

	bt->front_tag[r][i] = -pc;
	bt->front_host[r][i] = host;
}

static u64 front_get(const struct bt *bt, u64 pc)
{
	enum regime r = regime_of(pc);
	u32 i = front_index(pc);

	return bt->front_tag[r][i] == -pc ? bt->front_host[r][i] : 0;
}

static void front_drop(struct bt *bt, u64 pc)
{
	u32 i = front_index(pc);
	u64 *tag = &bt->front_tag[regime_of(pc)][i];

	if (*tag == -pc)
		*tag = front_empty(i);
}

static void front_clear(struct bt *bt, enum regime r)
{
	u32 i;

	for (i = 0; i < BT_FRONT_SIZE; i++)
		bt->front_tag[r][i] = front_empty(i);
}

/* --- dropping --- */

static void block_forget(struct bt *bt, struct block *b)
{
	u8 *p = bt->rw + b->host;
	u32 rel;

	/* Whoever is chained to it leaves by its tail, for which make() has left room. */
	bt->tails -= BT_TAIL_ROOM;
	BUG_ON(bt->tails < bt->used);
	bt_emit_tail(bt, b, bt->tails);
	front_drop(bt, b->pc);
	bt_landing_forget(bt, b->pc);
	block_table_remove(&bt->blocks, b->pc);
	p[0] = 0xe9;
	rel = bt->tails - (b->host + 5);
	memcpy(p + 1, &rel, 4);
	b->dropped = true;
	bt->n_dropped++;
	bt->drops++;
	bt->c->stats->n[STAT_bt_dropped]++;
	if (bt_log_wants(bt->c, LOG_SMC))
		bt_log_dropped(bt->c, b);
}

/* Does it hold one of these bytes of its page, or (beyond PAGE_SIZE) of the next one? */
static bool holds(const struct block *b, unsigned first, unsigned last)
{
	unsigned at = b->pc & ~PAGE_MASK;

	return at < last && at + b->len > first;
}

/* Blocks of this page that hold one of the bytes. */
static void starting_drop(struct bt *bt, struct code_va *v, unsigned first, unsigned last)
{
	u32 *p = &v->blocks;

	while (*p) {
		struct block *b = &bt->block[*p - 1];

		if (!b->dropped && holds(b, first, last))
			block_forget(bt, b);
		if (b->dropped)
			*p = b->next;
		else
			p = &b->next;
	}
}

/* Blocks of the page before that do; at the same time those that have been dropped leave the list.
 */
static void ending_drop(struct bt *bt, struct code_va *v, unsigned first, unsigned last)
{
	struct ending **p = &v->ending;

	while (*p) {
		struct ending *e = *p;

		if (!e->block->dropped && holds(e->block, PAGE_SIZE + first, PAGE_SIZE + last))
			block_forget(bt, e->block);
		if (e->block->dropped) {
			*p = e->next;
			free(e);
		} else {
			p = &e->next;
		}
	}
}

static void page_drop(struct bt *bt, struct code_va *v, unsigned first, unsigned last)
{
	starting_drop(bt, v, first, last);
	ending_drop(bt, v, first, last);
}

void bt_code_written(struct bt *bt, gpa_t gpa, u64 len)
{
	struct code_va *v;
	unsigned first = gpa & ~PAGE_MASK;

	bt->busy_at = bt->c->stats->n[STAT_bt_entries];
	for (v = bt->by_gpa[gpa >> 12]; v; v = v->alias)
		page_drop(bt, v, first, first + len);
}

static void unlink_alias(struct bt *bt, struct code_va *v)
{
	struct code_va **p = &bt->by_gpa[v->gpa >> 12];

	while (*p != v)
		p = &(*p)->alias;
	*p = v->alias;
}

static void va_drop(struct bt *bt, struct code_va *v)
{
	if (bt_log_wants(bt->c, LOG_MMU))
		bt_log_moved(bt->c, v->page, v->gpa);
	page_drop(bt, v, 0, PAGE_SIZE);
	unlink_alias(bt, v);
	bt->n_non_global -= !v->global;
	bt->n_pages[regime_of(v->page)]--;
	HASH_DEL(bt->pages, v);
	BUG_ON(v->ending); /* all were dropped */
	free(v);
}

/* Is the page still mapped where it was? Takes note of how it is mapped now. */
static bool still_there(struct bt *bt, struct code_va *v)
{
	struct walk w;

	if (mmu_probe(bt->c->mmu.ram, &bt->c->mmu.pg, v->page, MMU_EXEC, false, &w) ||
	    (w.gpa & PAGE_MASK) != v->gpa)
		return false;
	bt->n_non_global += v->global - w.global;
	v->global = w.global;
	v->shift = w.shift;
	return true;
}

/* Guests invalidate data far more often than code. No page is larger than 1 GiB. */
static bool may_have_pages(const struct bt *bt, gva_t va)
{
	enum regime r = regime_of(va);

	return bt->n_pages[r] && va / GIB >= bt->first_gib[r] && va / GIB <= bt->last_gib[r];
}

static void count_page(struct bt *bt, gva_t page)
{
	enum regime r = regime_of(page);
	u64 gib = page / GIB;

	bt->first_gib[r] = bt->n_pages[r] ? MIN(bt->first_gib[r], gib) : gib;
	bt->last_gib[r] = bt->n_pages[r] ? MAX(bt->last_gib[r], gib) : gib;
	bt->n_pages[r]++;
}

void bt_revalidate(struct cpu *c, gva_t va, enum bt_scope scope)
{
	struct bt *bt = c->translator;
	struct code_va *v, *tmp;

	if (!bt || (scope == BT_NON_GLOBAL && !bt->n_non_global))
		return;
	if (scope == BT_PAGE && !may_have_pages(bt, va))
		return;
	HASH_ITER(hh, bt->pages, v, tmp)
	{
		bool concerned = scope == BT_ALL || (scope == BT_NON_GLOBAL && !v->global) ||
				 (scope == BT_PAGE && v->page >> v->shift == va >> v->shift);

		if (concerned && !still_there(bt, v))
			va_drop(bt, v);
	}
}

static void endings_free(struct code_va *v)
{
	while (v->ending) {
		struct ending *e = v->ending;

		v->ending = e->next;
		free(e);
	}
}

void bt_flush(struct bt *bt)
{
	struct code_va *v, *tmp;
	enum regime r;
	u32 i;

	block_table_clear(&bt->blocks);
	for (r = 0; r < REGIMES; r++) {
		if (bt->n_of[r] >= BT_FRONT_SIZE / 16) {
			front_clear(bt, r);
			bt_landing_clear(bt, r);
		}
		bt->n_of[r] = bt->n_pages[r] = 0;
	}
	for (i = 0; i < bt->n_blocks; i++) {
		front_drop(bt, bt->block[i].pc);
		bt_landing_forget(bt, bt->block[i].pc);
	}
	HASH_ITER(hh, bt->pages, v, tmp)
	{
		bt->by_gpa[v->gpa >> 12] = NULL;
		HASH_DEL(bt->pages, v);
		endings_free(v);
		free(v);
	}
	bt->n_blocks = bt->n_dropped = bt->n_non_global = bt->records_used = 0;
	bt->generation++;
	bt->used = bt->fixed;
	bt->tails = bt->limit;
	bt->c->stats->n[STAT_bt_flushes]++;
}

void bt_forget(struct cpu *c)
{
	if (c->translator)
		bt_flush(c->translator);
}

/* --- finding --- */

static struct code_va *va_get(struct bt *bt, gva_t page, gpa_t gpa)
{
	struct code_va *v;

	HASH_FIND(hh, bt->pages, &page, sizeof(page), v);
	if (v && v->gpa != gpa) {
		va_drop(bt, v);
		v = NULL;
	}
	if (!v) {
		v = calloc(1, sizeof(*v));
		BUG_ON(!v);
		v->page = page;
		v->gpa = gpa;
		v->global = true;
		v->shift = 12;
		if (!still_there(bt, v)) /* an entry the software TLB remembers: ask at each CR3 */
			v->global = false, bt->n_non_global++;
		v->alias = bt->by_gpa[gpa >> 12];
		bt->by_gpa[gpa >> 12] = v;
		count_page(bt, page);
		HASH_ADD(hh, bt->pages, page, sizeof(v->page), v);
	}
	return v;
}

/* Where code can be read, or NULL; its guest-physical address. */
static u8 *code_host(struct cpu *c, gva_t va, gpa_t *gpa)
{
	u8 *host = mmu_fast(&c->mmu, va, 1, MMU_EXEC, false);
	struct mmu_target t;

	if (!host) {
		if (mmu_translate(&c->mmu, va, MMU_EXEC, false, &t) != MMU_RAM)
			return NULL; /* the single-step engine raises what there is to raise */
		host = t.host;
	}
	*gpa = (gpa_t)(host - c->mmu.ram->window);
	return host;
}

bool bt_code_next_page(struct bt *bt, struct code_bytes *code)
{
	struct cpu *c = bt->c;
	gva_t va = (c->rip & PAGE_MASK) + PAGE_SIZE;
	const u8 *host = va ? code_host(c, va, &code->next_gpa) : NULL;

	if (!host)
		return false;
	op_note_code(c, code->next_gpa);
	memcpy(code->bytes + code->avail, host, INSN_MAX_LEN - 1);
	code->avail += INSN_MAX_LEN - 1;
	return true;
}

static void enlist_ending(struct bt *bt, struct block *b, struct code_va *v)
{
	struct ending *e = malloc(sizeof(*e));

	BUG_ON(!e);
	ending_drop(bt, v, PAGE_SIZE,
		    PAGE_SIZE); /* of none; those that code writes have left there */
	*e = (struct ending){.block = b, .next = v->ending};
	v->ending = e;
}

static void block_enlist(struct bt *bt, struct block *b, gpa_t gpa, const struct code_bytes *code)
{
	gva_t page = b->pc & PAGE_MASK;
	struct code_va *v = va_get(bt, page, gpa & PAGE_MASK);

	b->next = v->blocks;
	v->blocks = ++bt->n_blocks;
	if (b->len > code->in_page)
		enlist_ending(bt, b, va_get(bt, page + PAGE_SIZE, code->next_gpa));
	bt->n_of[regime_of(b->pc)]++;
	block_table_add(&bt->blocks, v->blocks - 1);
}

static bool is_full(const struct bt *bt)
{
	u32 alive = bt->n_blocks - bt->n_dropped;

	return bt->used + 2 * BT_BLOCK_ROOM + (alive + 1) * BT_TAIL_ROOM > bt->tails ||
	       bt->n_blocks == BT_MAX_BLOCKS || bt->records_used + RECORDS_ROOM > RECORDS_SIZE;
}

static struct block *make(struct bt *bt, enum via via)
{
	struct cpu *c = bt->c;
	struct code_bytes code;
	struct block *b;
	gpa_t gpa;
	u8 *host = code_host(c, c->rip, &gpa);

	if (!host)
		return NULL;
	if (is_full(bt) || (bt->flush_every && bt->n_blocks >= bt->flush_every))
		bt_flush(bt);
	op_note_code(c, gpa & PAGE_MASK);
	code.in_page = code.avail =
	    MIN(BT_MAX_INSNS * INSN_MAX_LEN, PAGE_SIZE - (unsigned)(c->rip & ~PAGE_MASK));
	memcpy(code.bytes, host, code.in_page);
	if (via != VIA_OTHER)
		bt_landing_pad(bt, c->rip, via);
	b = bt_translate(bt, &code);
	b->pad = via;
	block_enlist(bt, b, gpa, &code);
	if (bt_log_wants(c, LOG_IN_ASM | LOG_OUT_ASM))
		bt_log_block(bt, b, gpa, code.bytes);
	return b;
}

struct block *bt_find_block(struct bt *bt)
{
	u64 pc = bt->c->rip;
	s64 number;

	bt->c->stats->n[STAT_bt_lookups]++;
	number = block_table_find(&bt->blocks, pc);
	return number >= 0 ? &bt->block[number] : make(bt, VIA_OTHER);
}

/* The block that a return or an indirect jump has not found. One without a pad is made again: there
 * are few. */
static struct block *find_landing(struct bt *bt, enum via via)
{
	u64 pc = bt->c->rip;
	s64 number = block_table_find(&bt->blocks, pc);
	struct block *b = number >= 0 ? &bt->block[number] : NULL;

	bt->c->stats->n[STAT_bt_lookups]++;
	if (!b || (b->pad == VIA_OTHER && bt_landing_can(pc))) {
		if (b)
			block_forget(bt, b);
		b = make(bt, bt_landing_can(pc) ? via : VIA_OTHER);
	}
	if (b)
		bt_landing_set(bt, b, via);
	return b;
}

u64 bt_find(struct bt *bt)
{
	u64 pc = bt->c->rip, host = front_get(bt, pc);
	enum via via = bt->lockstep ? VIA_OTHER : bt->c->bt.via;
	struct block *b;

	if (likely(host && via == VIA_OTHER))
		return host;
	bt->c->bt.via = VIA_OTHER;
	b = via == VIA_OTHER ? bt_find_block(bt) : find_landing(bt, via);
	if (!b)
		return 0;
	host = (u64)(bt->rx + b->host);
	if (likely(!bt->lockstep)) /* which wants each block to come back */
		front_set(bt, pc, host);
	return host;
}

void bt_link(struct bt *bt, u32 at, u64 to)
{
	u32 rel = (u32)(to - (u64)bt->rx) - (at + 4);

	memcpy(bt->rw + at, &rel, 4);
}

struct records bt_records(const struct bt *bt, const struct block *b)
{
	const u8 *p = bt->records + b->records;

	return (struct records){.p = p, .end = p + b->records_len};
}

struct block *bt_block_at(struct bt *bt, u64 host_pc)
{
	u64 off = host_pc - (u64)bt->rx;
	u32 lo = 0, hi = bt->n_blocks;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (bt->block[mid].host <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 0 || off >= bt->block[lo - 1].host + bt->block[lo - 1].host_len)
		return NULL;
	return &bt->block[lo - 1];
}

void bt_drop_at(struct bt *bt, u64 pc)
{
	gva_t page = pc & PAGE_MASK;
	struct code_va *v;

	HASH_FIND(hh, bt->pages, &page, sizeof(page), v);
	if (v)
		page_drop(bt, v, pc & ~PAGE_MASK, (pc & ~PAGE_MASK) + 1);
}

/* --- life --- */

void bt_free(struct cpu *c)
{
	struct bt *bt = c->translator;
	enum regime r;

	if (!bt)
		return;
	if (bt->block && bt->by_gpa && bt->front_tag[R64H] && bt->front_tag[R64L])
		bt_flush(bt);
	lockstep_free(bt->lockstep);
	c->mmu.shadow = NULL;
	c->mmu.watch_writes = false;
	if (bt->rx != MAP_FAILED)
		munmap(bt->rx, BT_AREA_SIZE);
	if (bt->rw != MAP_FAILED)
		munmap(bt->rw, BT_AREA_SIZE);
	if (bt->fd >= 0)
		close(bt->fd);
	block_table_free(&bt->blocks);
	free(bt->block);
	free(bt->records);
	ram_page_array_free(c->mmu.ram, bt->by_gpa, sizeof(bt->by_gpa[0]));
	for (r = 0; r < REGIMES; r++) {
		shadow_free(bt->shadows[r]);
		free(bt->front_tag[r]);
		free(bt->front_host[r]);
		bt_landing_free(bt, r);
	}
	bt_forget_sites(bt);
	free(bt);
	c->translator = NULL;
}

static int map_area(struct bt *bt, u8 *at)
{
	int flags = MAP_SHARED | MAP_FIXED_NOREPLACE;

	bt->fd = memfd_create("ringshift-translations", MFD_CLOEXEC);
	if (bt->fd < 0 || ftruncate(bt->fd, BT_AREA_SIZE))
		return -errno;
	bt->rx = mmap(at, BT_AREA_SIZE, PROT_READ | PROT_EXEC, flags, bt->fd, 0);
	if (bt->rx == MAP_FAILED)
		return -errno;
	bt->rw = mmap(at + BT_AREA_SIZE, BT_AREA_SIZE, PROT_READ | PROT_WRITE, flags, bt->fd, 0);
	return bt->rw == MAP_FAILED ? -errno : 0;
}

int bt_configure(struct cpu *c, const struct bt_options *o)
{
	struct bt *bt = c->translator;

	bt->one_insn = o->one_insn;
	bt->no_chain = o->no_chain || o->lockstep;
	bt->switch_freely = o->switch_freely;
	bt->flush_every = o->flush_every;
	bt->check_recovery = o->check_recovery;
	if (o->cache_size)
		bt->limit = bt->tails = MIN(MAX(o->cache_size, BT_CACHE_MIN), (u64)BT_AREA_SIZE);
	if (o->lockstep) {
		bt->lockstep = lockstep_new(bt, o->lockstep);
		c->mmu.watch_writes = true;
	}
	return o->lockstep && !bt->lockstep ? -ENOMEM : 0;
}

bool bt_host_can(void)
{
	return getauxval(AT_HWCAP2) & 2; /* HWCAP2_FSGSBASE */
}

static bool regime_init(struct bt *bt, enum regime r, const struct shadow_range *range)
{
	struct ram *ram = bt->c->mmu.ram;

	bt->front_tag[r] = calloc(BT_FRONT_SIZE, sizeof(u64));
	bt->front_host[r] = calloc(BT_FRONT_SIZE, sizeof(u32));
	bt->shadows[r] = shadow_new(ram, bt->c->stats, range, &shadow_host_ops, ram);
	if (!bt->front_tag[r] || !bt->front_host[r] || !bt->shadows[r] || !bt_landing_init(bt, r))
		return false;
	bt->front_tag[r][0] = front_empty(0); /* the others are */
	return true;
}

static u64 front_reach(const struct bt *bt, enum regime r)
{
	return (u64)bt->front_tag[r] | (u64)bt->front_host[r] | (u64)bt->landing[r][VIA_RETURN] |
	       (u64)bt->landing[r][VIA_JUMP];
}

int bt_init(struct cpu *c, void *area)
{
	struct bt *bt = calloc(1, sizeof(*bt));
	int err = -ENOMEM;

	if (!bt)
		return -ENOMEM;
	c->translator = bt;
	bt->c = c;
	bt->fd = -1;
	bt->limit = bt->tails = BT_AREA_SIZE;
	bt->rx = bt->rw = MAP_FAILED;
	/* Both are touched only as far as they are used. */
	bt->block = calloc(BT_MAX_BLOCKS, sizeof(bt->block[0]));
	bt->records = malloc(RECORDS_SIZE);
	block_table_init(&bt->blocks, bt->block);
	bt->by_gpa = ram_page_array(c->mmu.ram, sizeof(bt->by_gpa[0]));
	if (bt->block && bt->records && bt->by_gpa && regime_init(bt, R64H, &shadow_kernel_half) &&
	    regime_init(bt, R64L, &shadow_low_window))
		err = map_area(bt, area);
	/* Emitted code reaches all of these by absolute 31-bit addresses. */
	if (!err &&
	    (((u64)c | (u64)c->stats | front_reach(bt, R64H) | front_reach(bt, R64L)) >> 31))
		err = -EFAULT;
	if (err) {
		bt_free(c);
		return err;
	}
	memset(c->bt.vec_missing, 1, sizeof(c->bt.vec_missing));
	bt_emit_common(bt);
	regime_enter(bt, R64H);
	return 0;
}
