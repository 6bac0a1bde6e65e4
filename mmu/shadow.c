/*
 * Bookkeeping is by 2 MiB regions of guest-linear space, in a hash: a region is either one large
 * mapping or up to 512 small ones. The host kernel merges what is adjacent. Near the limit on VMAs
 * (vm.max_map_count) everything is dropped: that is only a TLB flush.
 */
#define _GNU_SOURCE
#include "shadow.h"

#include <string.h>
#include <sys/mman.h>

#include <uthash.h>

#include "mmu.h"

#define REGION_SHIFT 21
#define REGION_SIZE  (1ull << REGION_SHIFT)
#define REGION_PAGES 512u
#define GIB_SHIFT    30
#define MAX_MAPPINGS 30000u /* each costs up to two VMAs; the default limit is 65530 */

enum { PAGE_MAPPED = 1, PAGE_WRITE = 2, PAGE_GLOBAL = 4 };

struct region {
	u64 key;    /* va >> REGION_SHIFT */
	bool large; /* page[0] speaks for all */
	bool cut;   /* small pages of a leaf that would not fit as one */
	u16 used;   /* small pages mapped */
	u32 gpfn[REGION_PAGES];
	u8 flags[REGION_PAGES];
	UT_hash_handle hh;
};

struct shadow {
	struct ram *ram;
	struct stats *stats;
	struct region *regions;
	unsigned mappings;
	gva_t *non_global; /* addresses of non-global mappings, some stale */
	unsigned n_non_global, cap_non_global;
	/* 1 GiB leaves of which a part is mapped, a bit per GiB from SHADOW_FIRST: INVLPG of one
	 * address in such a leaf drops all of it (SDM vol. 3, 4.10.4.1). */
	u8 gib_leaf[-SHADOW_FIRST >> GIB_SHIFT >> 3];
	unsigned n_gib_leaves;
	void (*watch)(void *opaque, const struct shadow_event *ev);
	void *watch_opaque;
};

#define REPORT(s, ...)                                                                             \
	do {                                                                                       \
		if (unlikely((s)->watch))                                                          \
			(s)->watch((s)->watch_opaque, &(struct shadow_event){__VA_ARGS__});        \
	} while (0)

void shadow_watch(struct shadow *s, void (*fn)(void *opaque, const struct shadow_event *ev),
		  void *opaque)
{
	s->watch = fn;
	s->watch_opaque = opaque;
}

static u8 *host_of(gva_t va)
{
	return (u8 *)(va + SHADOW_BIAS);
}

struct shadow *shadow_new(struct ram *ram, struct stats *stats)
{
	struct shadow *s = calloc(1, sizeof(*s));

	if (s) {
		s->ram = ram;
		s->stats = stats;
	}
	return s;
}

static void region_drop(struct shadow *s, struct region *r)
{
	munmap(host_of(r->key << REGION_SHIFT | 0), REGION_SIZE);
	s->mappings -= r->large ? 1 : r->used;
	HASH_DEL(s->regions, r);
	free(r);
}

void shadow_flush_all(struct shadow *s)
{
	struct region *r, *tmp;

	REPORT(s, .kind = SHADOW_EV_FLUSH_ALL, .count = s->mappings);
	HASH_ITER(hh, s->regions, r, tmp)
	{
		region_drop(s, r);
	}
	s->n_non_global = 0;
	if (s->n_gib_leaves)
		memset(s->gib_leaf, 0, sizeof(s->gib_leaf));
	s->n_gib_leaves = 0;
	s->stats->n[STAT_shadow_flushes]++;
}

void shadow_free(struct shadow *s)
{
	if (!s)
		return;
	shadow_flush_all(s);
	free(s->non_global);
	free(s);
}

static struct region *region_find(struct shadow *s, gva_t va)
{
	u64 key = va >> REGION_SHIFT;
	struct region *r;

	HASH_FIND(hh, s->regions, &key, sizeof(key), r);
	return r;
}

static struct region *region_get(struct shadow *s, gva_t va)
{
	struct region *r = region_find(s, va);

	if (!r) {
		r = calloc(1, sizeof(*r));
		BUG_ON(!r);
		r->key = va >> REGION_SHIFT;
		HASH_ADD(hh, s->regions, key, sizeof(r->key), r);
	}
	return r;
}

static u8 *gib_leaf_bit(struct shadow *s, gva_t va, u8 *bit)
{
	u64 i = (va - SHADOW_FIRST) >> GIB_SHIFT;

	*bit = 1u << (i & 7);
	return &s->gib_leaf[i >> 3];
}

static void note_gib_leaf(struct shadow *s, gva_t va)
{
	u8 bit, *p = gib_leaf_bit(s, va, &bit);

	s->n_gib_leaves += !(*p & bit);
	*p |= bit;
}

/* If va may lie in a 1 GiB leaf, drop everything around it. */
static bool drop_gib_leaf(struct shadow *s, gva_t va)
{
	u8 bit, *p = gib_leaf_bit(s, va, &bit);
	gva_t at = ALIGN_DOWN(va, GIB);
	unsigned i;

	if (!(*p & bit))
		return false;
	*p &= ~bit;
	s->n_gib_leaves--;
	for (i = 0; i < GIB >> REGION_SHIFT; i++, at += REGION_SIZE) {
		struct region *r = region_find(s, at);

		if (r)
			region_drop(s, r);
	}
	return true;
}

/* Drop the mapping that holds va; its size, 0: there was none. */
static u64 drop_at(struct shadow *s, gva_t va)
{
	struct region *r = region_find(s, va);
	unsigned i = va >> 12 & (REGION_PAGES - 1);

	if (!r)
		return 0;
	if (r->large || r->cut) {
		region_drop(s, r);
		return REGION_SIZE;
	}
	if (!r->flags[i])
		return 0;
	munmap(host_of(va & PAGE_MASK), PAGE_SIZE);
	r->flags[i] = 0;
	r->used--;
	s->mappings--;
	return PAGE_SIZE;
}

void shadow_invlpg(struct shadow *s, gva_t va)
{
	u64 size = 0;

	if (va >= SHADOW_FIRST)
		size = s->n_gib_leaves && drop_gib_leaf(s, va) ? GIB : drop_at(s, va);
	REPORT(s, .kind = SHADOW_EV_INVLPG, .va = va, .size = size);
}

void shadow_flush_non_global(struct shadow *s)
{
	unsigned i, before = s->mappings;

	for (i = 0; i < s->n_non_global; i++) {
		struct region *r = region_find(s, s->non_global[i]);
		u8 flags;

		if (!r)
			continue;
		flags = r->flags[r->large ? 0 : s->non_global[i] >> 12 & (REGION_PAGES - 1)];
		if (flags && !(flags & PAGE_GLOBAL))
			drop_at(s, s->non_global[i]);
	}
	s->n_non_global = 0;
	REPORT(s, .kind = SHADOW_EV_FLUSH_NON_GLOBAL, .count = before - s->mappings);
}

static void note_non_global(struct shadow *s, gva_t va)
{
	if (s->n_non_global == s->cap_non_global) {
		s->cap_non_global = MAX(64u, 2 * s->cap_non_global);
		s->non_global = realloc(s->non_global, s->cap_non_global * sizeof(gva_t));
		BUG_ON(!s->non_global);
	}
	s->non_global[s->n_non_global++] = va;
}

/* False: the host has no more room for mappings, and now there are none of ours. */
static bool map(struct shadow *s, gva_t va, gpa_t gpa, u64 len, bool write)
{
	void *p = mmap(host_of(va), len, PROT_READ | (write ? PROT_WRITE : 0),
		       MAP_SHARED | MAP_FIXED, s->ram->fd, ram_offset(s->ram, gpa));

	s->stats->n[STAT_shadow_fills]++;
	if (p != MAP_FAILED)
		return true;
	shadow_flush_all(s);
	return false;
}

/* The same. */
static bool make_read_only(struct shadow *s, gva_t page)
{
	REPORT(s, .kind = SHADOW_EV_READ_ONLY, .va = page);
	if (!mprotect(host_of(page), PAGE_SIZE, PROT_READ))
		return true;
	shadow_flush_all(s);
	return false;
}

static void map_large(struct shadow *s, gva_t va, gpa_t gpa, u8 flags)
{
	struct region *r = region_get(s, va);
	u64 off;

	if (!r->large) {
		s->mappings += 1 - r->used;
		memset(r->flags, 0, sizeof(r->flags));
		r->used = 0;
		r->large = true;
	}
	r->gpfn[0] = gpa >> 12;
	r->flags[0] = flags;
	REPORT(s, .kind = SHADOW_EV_FILL, .va = va, .gpa = gpa, .size = REGION_SIZE,
	       .write = flags & PAGE_WRITE, .global = flags & PAGE_GLOBAL);
	if (!map(s, va, gpa, REGION_SIZE, flags & PAGE_WRITE))
		return;
	for (off = 0; (flags & PAGE_WRITE) && off < REGION_SIZE; off += PAGE_SIZE)
		if (s->ram->code[(gpa + off) >> 12] && !make_read_only(s, va + off))
			return;
}

static void map_small(struct shadow *s, gva_t va, gpa_t gpa, u8 flags, bool cut)
{
	struct region *r = region_get(s, va);
	unsigned i = va >> 12 & (REGION_PAGES - 1);

	if (r->large) { /* the guest has split a leaf without telling us yet: allowed, drop ours */
		region_drop(s, r);
		r = region_get(s, va);
	}
	if (!r->flags[i]) {
		r->used++;
		s->mappings++;
	}
	r->cut |= cut;
	r->gpfn[i] = gpa >> 12;
	r->flags[i] = flags;
	REPORT(s, .kind = SHADOW_EV_FILL, .va = va, .gpa = gpa, .size = PAGE_SIZE,
	       .write = flags & PAGE_WRITE, .global = flags & PAGE_GLOBAL);
	map(s, va, gpa, PAGE_SIZE, flags & PAGE_WRITE);
}

enum shadow_fill shadow_fill(struct shadow *s, const struct paging *pg, gva_t va, bool write)
{
	struct walk w;
	gpa_t chunk;
	bool large, code;
	u8 flags;

	if (mmu_walk(s->ram, pg, va, write ? MMU_WRITE : MMU_READ, false, &w))
		return SHADOW_FAULT;
	if (!ram_contains(s->ram, w.gpa))
		return SHADOW_IO;
	code = s->ram->code[w.gpa >> 12];
	if (write && code)
		return SHADOW_CODE;
	if (s->mappings >= MAX_MAPPINGS)
		shadow_flush_all(s);
	flags = PAGE_MAPPED | (w.writable ? PAGE_WRITE : 0) | (w.global ? PAGE_GLOBAL : 0);
	chunk = w.gpa - (va & (REGION_SIZE - 1));
	large = w.shift >= REGION_SHIFT && ram_ptr(s->ram, chunk, REGION_SIZE);
	if (!w.global)
		note_non_global(s, va);
	if (w.shift == GIB_SHIFT)
		note_gib_leaf(s, va);
	if (large)
		map_large(s, va & ~(REGION_SIZE - 1), chunk, flags);
	else
		map_small(s, va & PAGE_MASK, w.gpa & PAGE_MASK, code ? flags & ~PAGE_WRITE : flags,
			  w.shift >= REGION_SHIFT);
	return SHADOW_MAPPED;
}

void shadow_revoke_write(struct shadow *s, gpa_t page)
{
	u32 gpfn = page >> 12;
	struct region *r, *tmp;
	unsigned i;

	HASH_ITER(hh, s->regions, r, tmp)
	{
		gva_t va = r->key << REGION_SHIFT;

		if (r->large) {
			if ((r->flags[0] & PAGE_WRITE) && gpfn - r->gpfn[0] < REGION_PAGES)
				if (!make_read_only(s, va + (u64)(gpfn - r->gpfn[0]) * PAGE_SIZE))
					return;
			continue;
		}
		for (i = 0; r->used && i < REGION_PAGES; i++)
			if ((r->flags[i] & PAGE_WRITE) && r->gpfn[i] == gpfn) {
				r->flags[i] &= ~PAGE_WRITE;
				if (!make_read_only(s, va + i * PAGE_SIZE))
					return;
			}
	}
}
