/*
 * From guest bytes to ops.
 *
 * An op is found by its bytes and code size alone, so the same instruction anywhere in the guest is
 * decoded once; nothing in an op depends on its place. Code pages are the way there: for each
 * guest-physical page that has been executed, and each code size it was executed in, an array gives
 * the op by page offset. A page so used is marked in the RAM's code bitmap; a write to it comes
 * back through code_written, which empties the slots whose instructions could hold a written byte.
 * Ops themselves stay: they are still the truth about their bytes.
 *
 * Instructions that cross a page are fetched anew each time, because nothing watches their second
 * page for them. Instructions outside RAM too.
 */
#include "callouts.h"

#include <errno.h>
#include <string.h>

#include "bt_log.h"
#include "mem.h"
#include "translate.h"

#define XXH_INLINE_ALL
#include <xxhash.h>
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, len, hashv) ((hashv) = (unsigned)XXH3_64bits(key, len))

/* --- code pages --- */

/*
 * Pages are given up as code when they have been written many times and nothing new in them was
 * decoded in between: a kernel's init text becomes data, and each write to a marked page is slow.
 */
#define WRITES_TO_GIVE_UP 16

static void give_up_page(struct cpu *c, gpa_t page)
{
	struct engine *e = c->engine;
	struct code_page **head = &e->page[page >> 12];

	if (bt_log_wants(c, LOG_SMC))
		bt_log_give_up(c, page);
	if (c->translator)
		bt_code_written(c->translator, page, PAGE_SIZE);
	while (*head) {
		struct code_page *p = *head;

		*head = p->next;
		free(p);
		e->code_pages--;
	}
	c->code_page = CODE_PAGE_NONE; /* it may be the page we are in */
	c->mmu.ram->code[page >> 12] = 0;
	c->stats->n[STAT_code_pages_given_up]++;
}

static unsigned slots_used(const struct code_page *p, unsigned first, unsigned last)
{
	unsigned n = 0;

	while (first < last)
		n += p->slot[first++] != 0;
	return n;
}

static void code_written(void *opaque, gpa_t gpa, u64 len)
{
	struct cpu *c = opaque;
	struct code_page *p = c->engine->page[gpa >> 12];
	unsigned first = gpa & ~PAGE_MASK, last = first + len, slots = 0;
	u64 dropped = c->stats->n[STAT_bt_dropped];

	first = first < INSN_MAX_LEN ? 0 : first - (INSN_MAX_LEN - 1);
	for (; p; p = p->next) {
		if (bt_log_wants(c, LOG_SMC))
			slots += slots_used(p, first, last);
		memset(p->slot + first, 0, (last - first) * sizeof(p->slot[0]));
	}
	if (c->translator)
		bt_code_written(c->translator, gpa, len);
	mmu_code_gone(&c->mmu, gpa & PAGE_MASK);
	if (bt_log_wants(c, LOG_SMC))
		bt_log_code_write(c, gpa, len, slots, c->stats->n[STAT_bt_dropped] - dropped);
	c->stats->n[STAT_code_writes]++;
	if (++c->engine->quiet_writes[gpa >> 12] >= WRITES_TO_GIVE_UP)
		give_up_page(c, gpa & PAGE_MASK);
}

void op_note_code(struct cpu *c, gpa_t page)
{
	c->engine->quiet_writes[page >> 12] = 0;
	if (c->mmu.ram->code[page >> 12])
		return;
	c->mmu.ram->code[page >> 12] = 1;
	mmu_revoke_write(&c->mmu, page);
}

static struct code_page *code_page_get(struct cpu *c, gpa_t gpa)
{
	struct engine *e = c->engine;
	struct code_page **head = &e->page[gpa >> 12], *p;

	c->stats->n[STAT_code_page_lookups]++;
	for (p = *head; p; p = p->next)
		if (p->mode == c->mode)
			return p;
	p = calloc(1, sizeof(*p));
	BUG_ON(!p);
	if (++e->code_pages >= CODE_PAGES_MAX)
		c->flush_wanted = c->slow = true;
	p->mode = c->mode;
	p->next = *head;
	*head = p;
	op_note_code(c, gpa & PAGE_MASK);
	return p;
}

void op_flush_all(struct cpu *c)
{
	struct engine *e = c->engine;
	u64 i;

	HASH_CLEAR(hh, e->table);
	e->count = 1;
	thunks_flush(e->thunks);
	for (i = 0; e->code_pages && i < e->pages; i++)
		while (e->page[i]) {
			struct code_page *p = e->page[i];

			e->page[i] = p->next;
			free(p);
			e->code_pages--;
		}
	memset(c->mmu.ram->code, 0, c->mmu.ram->high_end >> 12);
	mmu_code_gone(&c->mmu, ~0ull);
	if (c->translator)
		bt_flush(c->translator);
	c->code_page = CODE_PAGE_NONE;
	c->flush_wanted = false;
	cpu_update_slow(c);
	c->stats->n[STAT_thunk_flushes]++;
}

/* --- ops --- */

static struct op *op_alloc(struct cpu *c)
{
	struct engine *e = c->engine;
	struct op **chunk = &e->chunk[e->count / OP_CHUNK];

	if (!*chunk)
		*chunk = calloc(OP_CHUNK, sizeof(struct op));
	BUG_ON(!*chunk);
	/* The flush comes at the next boundary, when no op is in use. */
	if (e->count + OP_CHUNK >= OP_MAX)
		c->flush_wanted = c->slow = true;
	BUG_ON(e->count + 1 >= OP_MAX);
	return &(*chunk)[e->count % OP_CHUNK];
}

/* The bytes an op is found by. */
static void op_key(const struct cpu *c, const u8 *bytes, unsigned len, u8 key[INSN_MAX_LEN + 1])
{
	memset(key, 0, INSN_MAX_LEN);
	memcpy(key, bytes, len);
	key[INSN_MAX_LEN] = c->mode;
}

/* To be given its thunk, if it needs one, before it is listed. */
static struct op *op_new(struct cpu *c, const struct insn *in, exec_fn *exec)
{
	struct op *o = op_alloc(c);

	memset(o, 0, sizeof(*o));
	o->in = *in;
	o->exec = exec;
	return o;
}

static void op_list(struct engine *e, struct op *o, const u8 key[INSN_MAX_LEN + 1])
{
	memcpy(o->key, key, sizeof(o->key));
	o->index = e->count++;
	HASH_ADD(hh, e->table, key, sizeof(o->key), o);
}

u32 op_known(struct cpu *c, const struct insn *in)
{
	struct engine *e = c->engine;
	u8 key[INSN_MAX_LEN + 1];
	bool wants_thunk;
	exec_fn *exec = op_bind(in, &wants_thunk);
	struct op *o;

	op_key(c, in->bytes, in->len, key);
	HASH_FIND(hh, e->table, key, sizeof(key), o);
	if (!o && !wants_thunk) {
		o = op_new(c, in, exec);
		op_list(e, o, key);
	}
	return o ? o->index : 0;
}

static void op_log(struct cpu *c, const struct op *o)
{
	u64 la = c->seg[SEG_CS].base + c->rip;
	char text[128], name[LOG_NAME_LEN];
	unsigned i;

	fprintf(c->engine->log, "0x%016llx%s: ", (unsigned long long)la, log_name(c, la, name));
	for (i = 0; i < o->in.len; i++)
		fprintf(c->engine->log, " %02x", o->in.bytes[i]);
	fprintf(c->engine->log, "  %s\n",
		decoder_format(c->engine->decoder, &o->in, c->rip, text, sizeof(text)));
}

static NORETURN void undecodable(struct cpu *c, const u8 *bytes, size_t n)
{
	struct engine *e = c->engine;
	size_t i;

	c->stats->n[STAT_decode_failed]++;
	if (e->log_items & LOG_UNIMP) {
		fprintf(e->log, "undecodable at %#llx:",
			(unsigned long long)(c->seg[SEG_CS].base + c->rip));
		for (i = 0; i < n; i++)
			fprintf(e->log, " %02x", bytes[i]);
		fprintf(e->log, "\n");
	}
	cpu_raise(c, EXC_UD);
}

/* Of several prefixes in a group one counts, and REX only as the last of all; 0: no prefix. */
enum prefix_group {
	PREFIX_NONE,
	PREFIX_SEG,
	PREFIX_REP,
	PREFIX_LOCK,
	PREFIX_66,
	PREFIX_67,
	PREFIX_REX
};

static enum prefix_group prefix_group(u8 b, enum insn_mode mode)
{
	switch (b) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65: return PREFIX_SEG;
	case 0x66: return PREFIX_66;
	case 0x67: return PREFIX_67;
	case 0xf0: return PREFIX_LOCK;
	case 0xf2:
	case 0xf3: return PREFIX_REP;
	default: return mode == INSN_MODE_64 && (b & 0xf0) == 0x40 ? PREFIX_REX : PREFIX_NONE;
	}
}

/*
 * 15 bytes are no instruction: because it is longer (#GP, SDM vol. 2, 2.3.11), or because there is
 * none (#UD)? Only prefixes that do not count make one too long; without them the decoder asks for
 * more bytes if the first is the case.
 */
static bool too_long(struct decoder *d, const u8 *bytes, size_t n, enum insn_mode mode)
{
	size_t prefixes = 0, len = 0, i, k;
	u8 needed[INSN_MAX_LEN];
	struct insn in;

	if (n < INSN_MAX_LEN)
		return false;
	while (prefixes < n && prefix_group(bytes[prefixes], mode))
		prefixes++;
	for (i = 0; i < n; i++) {
		enum prefix_group group = prefix_group(bytes[i], mode);
		bool counts = true;

		for (k = i + 1; k < prefixes; k++)
			counts &= prefix_group(bytes[k], mode) != group && group != PREFIX_REX;
		if (counts)
			needed[len++] = bytes[i];
	}
	return len < n && decoder_decode(d, needed, len, mode, &in) == -ENODATA;
}

/*
 * The op of n available bytes, its index through *index; NULL if more bytes are needed. The lookup
 * tries the bytes as they are: an op is keyed by its own length only, so lengths are tried from the
 * decoder's answer.
 */
static struct op *op_make(struct cpu *c, const u8 *bytes, size_t n, u32 *index)
{
	struct engine *e = c->engine;
	u8 key[INSN_MAX_LEN + 1];
	struct insn in;
	struct op *o;
	bool wants_thunk = false;
	int len = decoder_decode(e->decoder, bytes, n, c->mode, &in), err;

	if (len == -ENODATA)
		return NULL;
	if (len < 0) {
		if (too_long(e->decoder, bytes, n, c->mode))
			cpu_raise_error(c, EXC_GP, 0);
		undecodable(c, bytes, n);
	}
	op_key(c, bytes, len, key);
	HASH_FIND(hh, e->table, key, sizeof(key), o);
	if (!o) {
		o = op_new(c, &in, op_bind(&in, &wants_thunk));
		if (wants_thunk) {
			err = thunk_get(e->thunks, &o->in, &o->thunk);
			BUG_ON(err && err != -ENOSPC);
			if (err) { /* full: start afresh, nothing is executing */
				op_flush_all(c);
				return op_make(c, bytes, n, index);
			}
		}
		op_list(e, o, key);
		if (e->log_items & LOG_IN_ASM)
			op_log(c, o);
	}
	*index = o->index;
	return o;
}

/* Fetch byte by byte where there is no RAM, or across a page. */
static struct op *fetch_slow(struct cpu *c, gva_t la, size_t have, const u8 *bytes)
{
	u8 buf[INSN_MAX_LEN];
	struct mmu_target t;
	struct op *o;
	u32 index;
	size_t n;

	if (have)
		memcpy(buf, bytes, have);
	for (n = have; n < INSN_MAX_LEN;) {
		gva_t at = la + n;

		if (c->mode != INSN_MODE_64) {
			if (c->rip + n > c->seg[SEG_CS].limit)
				cpu_raise_error(c, EXC_GP, 0);
			at = (u32)at;
		}
		switch (mmu_translate(&c->mmu, at, MMU_EXEC, c->user, &t)) {
		case MMU_FAULT: cpu_raise_pf(c, at, t.error);
		case MMU_RAM: buf[n++] = *t.host; break;
		case MMU_IO: buf[n++] = c->ops->mmio_read(c->vm, t.gpa, 1); break;
		}
		o = op_make(c, buf, n, &index);
		if (o)
			return o;
	}
	undecodable(c, buf, n);
}

/* Linear address of the instruction at c->rip, checked. */
static gva_t fetch_address(struct cpu *c)
{
	if (c->mode == INSN_MODE_64) {
		if (!cpu_canonical(c->rip))
			cpu_raise_error(c, EXC_GP, 0);
		return c->rip;
	}
	if (c->rip > c->seg[SEG_CS].limit)
		cpu_raise_error(c, EXC_GP, 0);
	return (u32)(c->seg[SEG_CS].base + c->rip);
}

struct op *op_fetch(struct cpu *c)
{
	gva_t la = fetch_address(c);
	unsigned off = la & ~PAGE_MASK;
	u8 *host = mmu_fast(&c->mmu, la, 1, MMU_EXEC, c->user);
	struct mmu_target t;
	size_t avail;
	struct op *o;
	u32 index;

	if (unlikely(!host)) {
		switch (mmu_translate(&c->mmu, la, MMU_EXEC, c->user, &t)) {
		case MMU_FAULT: cpu_raise_pf(c, la, t.error);
		case MMU_IO: return fetch_slow(c, la, 0, NULL);
		case MMU_RAM: host = t.host;
		}
	}
	if (c->code_page != (la & PAGE_MASK)) {
		c->code_slots = code_page_get(c, (gpa_t)(host - c->mmu.ram->window))->slot;
		c->code_page = la & PAGE_MASK;
		if (c->code_slots[off])
			return op_at(c->engine, c->code_slots[off]);
	}
	avail = MIN((size_t)INSN_MAX_LEN, PAGE_SIZE - off);
	if (c->mode != INSN_MODE_64)
		avail = MIN(avail, (size_t)(c->seg[SEG_CS].limit - c->rip + 1));
	c->engine->quiet_writes[(host - c->mmu.ram->window) >> 12] = 0;
	o = op_make(c, host, avail, &index);
	if (!o)
		return fetch_slow(c, la, avail, host);
	if (c->code_page != CODE_PAGE_NONE) /* unless making the op flushed everything */
		c->code_slots[off] = index;
	return o;
}

/* --- the engine's life --- */

int engine_init(struct cpu *c, void *code_area)
{
	struct engine *e = calloc(1, sizeof(*e));
	int err = -ENOMEM;

	if (!e)
		return -ENOMEM;
	c->engine = e;
	e->count = 1;
	e->pages = c->mmu.ram->high_end >> 12;
	e->page = ram_page_array(c->mmu.ram, sizeof(e->page[0]));
	e->quiet_writes = ram_page_array(c->mmu.ram, sizeof(e->quiet_writes[0]));
	e->chunk = calloc(OP_MAX / OP_CHUNK, sizeof(e->chunk[0]));
	e->decoder = decoder_new();
	if (e->page && e->quiet_writes && e->chunk && e->decoder) {
		decoder_count(e->decoder, c->stats);
		e->thunks = thunks_new(c->stats, code_area);
		err = e->thunks ? thunk_thread_enter(e->thunks, c) : -errno;
	}
	if (err) {
		engine_free(c);
		return err;
	}
	c->mmu.ram->code_written = code_written;
	c->mmu.ram->code_opaque = c;
	c->code_page = CODE_PAGE_NONE;
	return 0;
}

void engine_reset(struct cpu *c)
{
	op_flush_all(c);
}

void engine_free(struct cpu *c)
{
	struct engine *e = c->engine;
	unsigned i;

	if (!e)
		return;
	if (e->thunks) {
		op_flush_all(c);
		thunk_thread_leave(e->thunks);
		thunks_free(e->thunks);
	}
	c->mmu.ram->code_written = NULL;
	for (i = 0; e->chunk && i < OP_MAX / OP_CHUNK; i++)
		free(e->chunk[i]);
	if (e->decoder)
		decoder_free(e->decoder);
	callouts_free(e);
	free(e->chunk);
	ram_page_array_free(c->mmu.ram, e->quiet_writes, sizeof(e->quiet_writes[0]));
	ram_page_array_free(c->mmu.ram, e->page, sizeof(e->page[0]));
	free(e);
	c->engine = NULL;
}

int engine_catch_kick(struct cpu *c, void (*kick)(struct cpu *c))
{
	return thunk_catch_kick(c->engine->thunks, kick);
}

void engine_set_log(struct cpu *c, FILE *f, unsigned items)
{
	c->engine->log = f;
	c->engine->log_items = items;
	c->trace = items & LOG_CPU;
	cpu_update_slow(c);
	bt_log_watch_shadow(c);
}

void engine_set_symbols(struct cpu *c, const char *(*fn)(void *opaque, u64 addr, u64 *off),
			void *opaque)
{
	c->engine->symbol = fn;
	c->engine->symbol_opaque = opaque;
}
