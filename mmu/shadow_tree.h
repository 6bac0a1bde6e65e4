/*
 * Inside of the shadow: what is mapped, and the entries it relies on. Only shadow*.c includes this.
 *
 * A node stands for one page table of the guest at one place of the linear address space, and holds
 * a snapshot of its entries. For an entry that is in use (it has a mapping or a node below) the
 * snapshot is what the mapping, or all of them below, rely on; elsewhere it is only what was seen
 * last, so that a comparison of whole stretches finds nothing. Nodes with table NO_TABLE hold the
 * pieces of a large leaf that could not be mapped at once; their entries are made up, and the
 * parent's entry is what they rely on.
 *
 * Mappings are 4 KiB (level 1) or 2 MiB (level 2); entry[] says what of, prot[] how.
 */
#ifndef RINGSHIFT_SHADOW_TREE_H
#define RINGSHIFT_SHADOW_TREE_H

#include <sys/mman.h>

#include "shadow.h"

#define SHADOW_ENTRIES 512u
#define NO_TABLE       (~0ull)
#define PTE_ADDRESS    0x000ffffffffff000ull

struct node {
	struct node *parent;
	gva_t base;                    /* of entry 0 */
	gpa_t table;                   /* the root's: as of the last fill or comparison */
	u64 rights;                    /* PTE_W and PTE_U as the entries above grant them */
	bool nx;                       /* and whether they forbid execution */
	u8 level;                      /* 4 is the PML4, 1 a page table */
	u16 index;                     /* in the parent */
	u32 mapped;                    /* mappings here and below */
	u32 local;                     /* of these, not global */
	u32 writable;                  /* and writable */
	u64 used[SHADOW_ENTRIES / 64]; /* a bit for each entry in use */
	u64 entry[SHADOW_ENTRIES];
	u8 prot[SHADOW_ENTRIES]; /* PROT_*, 0: no mapping of this entry's own */
	union {
		struct node *node;   /* prot is 0 */
		struct carved *leaf; /* a 2 MiB mapping */
	} below[];                   /* only above level 1 */
};

/* Code pages that a writable 2 MiB mapping has read-only: a bit each. */
struct carved {
	u64 read_only[SHADOW_ENTRIES / 64];
};

/* The last operation, not yet done: its neighbours may join it. */
struct pending {
	enum { OP_NONE, OP_MAP, OP_PROTECT, OP_WIDEN, OP_UNMAP } kind;
	int prot;
	gva_t va;
	u64 len, offset;
};

/* A small page that has moved so many times, or the last one that had this place. */
struct moving {
	gva_t page;
	u8 moves, refusals;
};

struct shadow {
	struct ram *ram;
	struct stats *stats;
	struct shadow_range range;
	const struct shadow_ops *ops;
	void *opaque;
	struct node *root;
	u64 mode; /* paging mode that verdicts were made under; see shadow_adopt_mode */
	struct pending pending;
	bool failed;     /* an operation was refused: all must go */
	gva_t low, high; /* all that was mapped since the last flush lies here, inclusive */
	unsigned nodes;  /* without the root */
	unsigned calls;  /* map and protect since the last flush; with the next, a bound on VMAs */
	unsigned carvings;
	struct moving moving[64]; /* by page */
	unsigned n_moving;        /* of these, which are not mapped for it */
	void (*watch)(void *opaque, const struct shadow_event *ev);
	void *watch_opaque;
};

#define SHADOW_REPORT(s, ...)                                                                      \
	do {                                                                                       \
		if (unlikely((s)->watch))                                                          \
			(s)->watch((s)->watch_opaque, &(struct shadow_event){__VA_ARGS__});        \
	} while (0)

static inline unsigned shadow_level_shift(unsigned level)
{
	return 3 + 9 * level;
}

static inline unsigned shadow_index(gva_t va, unsigned level)
{
	return va >> shadow_level_shift(level) & (SHADOW_ENTRIES - 1);
}

static inline gva_t node_va(const struct node *n, unsigned i)
{
	return n->base + ((u64)i << shadow_level_shift(n->level));
}

static inline bool node_in_use(const struct node *n, unsigned i)
{
	return n->used[i / 64] >> (i % 64) & 1;
}

static inline void node_note_use(struct node *n, unsigned i, bool in_use)
{
	n->used[i / 64] &= ~BIT(i % 64);
	n->used[i / 64] |= (u64)in_use << (i % 64);
}

/* The first entry in use from i on; SHADOW_ENTRIES if there is none. */
static inline unsigned node_next(const struct node *n, unsigned i)
{
	while (i < SHADOW_ENTRIES) {
		u64 bits = n->used[i / 64] >> (i % 64);

		if (bits)
			return i + (unsigned)__builtin_ctzll(bits);
		i = (i | 63) + 1;
	}
	return i;
}

/* Where a leaf entry of a level leads. */
static inline gpa_t shadow_frame(u64 entry, unsigned level)
{
	return entry & PTE_ADDRESS & ~(BIT(shadow_level_shift(level)) - 1);
}

/* Operations on the host; adjacent ones of a kind become one. Bookkeeping is the caller's. */
void shadow_op(struct shadow *s, struct pending op);
/* Do what is pending. False: the host refused something since the last call, and now everything
 * has been dropped; no node but the root is left. */
bool shadow_settle(struct shadow *s);

/* NULL: too many nodes, or no memory. */
struct node *shadow_node_new(struct shadow *s, struct node *parent, unsigned i, gpa_t table);
/* Unmap what hangs on an entry, and forget it. */
void shadow_drop(struct shadow *s, struct node *n, unsigned i);
/* Note that entry i is mapped like this (prot 0: not at all), whatever it was before. carved, for
 * 2 MiB: becomes the node's. */
void shadow_set_leaf(struct shadow *s, struct node *n, unsigned i, u64 entry, int prot,
		     struct carved *carved);
/* Note that one 4 KiB page of a writable 2 MiB mapping is now writable, or not. */
void shadow_set_carved(struct shadow *s, struct node *n, unsigned i, unsigned page, bool read_only);

static inline bool shadow_is_carved(const struct carved *c, unsigned page)
{
	return c->read_only[page / 64] >> (page % 64) & 1;
}

/* shadow_moving.c: an entry that maps va has been found changed: is it one of a page that moves? */
bool shadow_note_move(struct shadow *s, gva_t va);
/* The guest has invalidated va. */
void shadow_note_invalidation(struct shadow *s, gva_t va);
/* Is va not to be mapped? An access has missed: shall it do without? */
bool shadow_moves(struct shadow *s, gva_t va);
bool shadow_refuse(struct shadow *s, gva_t va);

/* Drop everything if what else decides on rights has changed: a user space may have been away. */
void shadow_adopt_mode(struct shadow *s, const struct paging *pg);

/* Would a walk find this leaf entry of a node (accessed, allowed, RAM) without touching it? */
bool shadow_leaf_ready(const struct shadow *s, const struct paging *pg, const struct node *n,
		       u64 entry);
/* The rights it gives, code marks aside. */
int shadow_leaf_prot(const struct shadow *s, const struct paging *pg, const struct node *n,
		     u64 entry);
/* Does what relies on an entry still stand when it reads as now? W and D of a 4 KiB or 2 MiB leaf
 * aside, which are a matter of protection. */
bool shadow_entry_keeps(const struct node *n, unsigned i, u64 now);

#endif
