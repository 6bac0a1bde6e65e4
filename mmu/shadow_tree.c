/*
 * Nodes, counts and host operations of a shadow.
 *
 * A Linux process may have some 65000 VMAs. Ours are at most two for each map or protect call, and,
 * code pages carved out of 2 MiB mappings aside, at most two for each mapping; the smaller bound
 * counts. A guest cannot have us keep nodes without end either: past MAX_NODES all is dropped.
 */
#include "shadow_tree.h"

#include <string.h>

#define MAX_CALLS 30000u
#define MAX_NODES 8192u /* of 4.6 or 8.7 KiB */

/* --- host operations --- */

static void do_pending(struct shadow *s)
{
	struct pending *p = &s->pending;
	u64 *n = s->stats->n;
	int err = 0;

	switch (p->kind) {
	case OP_NONE: return;
	case OP_MAP:
		n[STAT_shadow_fills]++;
		s->low = MIN(s->low, p->va);
		s->high = MAX(s->high, p->va + (p->len - 1));
		err = s->ops->map(s->opaque, p->va, p->len, p->prot, p->offset);
		break;
	case OP_PROTECT:
		n[STAT_shadow_protects]++;
		err = s->ops->protect(s->opaque, p->va, p->len, p->prot);
		break;
	case OP_WIDEN:
		n[STAT_shadow_protects]++;
		err = s->ops->widen(s->opaque, p->va, p->len, p->prot);
		break;
	case OP_UNMAP:
		n[STAT_shadow_unmaps]++;
		err = s->ops->unmap(s->opaque, p->va, p->len);
		break;
	}
	s->calls++;
	p->kind = OP_NONE;
	s->failed |= err != 0;
}

void shadow_op(struct shadow *s, struct pending op)
{
	struct pending *p = &s->pending;

	if (p->kind == op.kind && p->va + p->len == op.va && p->prot == op.prot &&
	    (op.kind != OP_MAP || p->offset + p->len == op.offset)) {
		p->len += op.len;
		return;
	}
	do_pending(s);
	*p = op;
}

/* A node's or entry's part of the address space, cut to the shadow's range. */
static void op_unmap(struct shadow *s, gva_t va, u64 len)
{
	gva_t last = MIN(va + (len - 1), s->range.last);

	va = MAX(va, s->range.first);
	shadow_op(s, (struct pending){.kind = OP_UNMAP, .va = va, .len = last - va + 1});
}

bool shadow_settle(struct shadow *s)
{
	do_pending(s);
	if (likely(!s->failed && s->nodes < MAX_NODES &&
		   MIN(s->root->mapped, s->calls) + s->carvings < MAX_CALLS))
		return true;
	s->stats->n[STAT_shadow_full]++;
	shadow_flush_all(s);
	return false;
}

/* --- counts --- */

static void count_writable(struct shadow *s, const struct node *n, unsigned i, u32 by)
{
	u32 *count = &s->ram->writable[shadow_frame(n->entry[i], n->level) >> 12];
	unsigned page;

	if (n->level == 1) {
		*count += by;
		return;
	}
	for (page = 0; page < SHADOW_ENTRIES; page++)
		if (!shadow_is_carved(n->below[i].leaf, page))
			count[page] += by;
}

/* by: 1, or -1 modulo 2^32. */
static void count_leaf(struct shadow *s, struct node *n, unsigned i, u32 by)
{
	bool local = !(n->entry[i] & PTE_G), writable = n->prot[i] & PROT_WRITE;
	struct node *p;

	for (p = n; p; p = p->parent) {
		p->mapped += by;
		p->local += local ? by : 0;
		p->writable += writable ? by : 0;
	}
	if (writable)
		count_writable(s, n, i, by);
}

void shadow_set_leaf(struct shadow *s, struct node *n, unsigned i, u64 entry, int prot,
		     struct carved *carved)
{
	if (n->prot[i])
		count_leaf(s, n, i, -1u);
	if (n->level == 2 && n->prot[i] && n->below[i].leaf != carved)
		free(n->below[i].leaf);
	n->entry[i] = entry;
	n->prot[i] = (u8)prot;
	node_note_use(n, i, prot);
	if (n->level == 2)
		n->below[i].leaf = carved;
	if (prot)
		count_leaf(s, n, i, 1);
}

void shadow_set_carved(struct shadow *s, struct node *n, unsigned i, unsigned page, bool read_only)
{
	u64 *bits = &n->below[i].leaf->read_only[page / 64];
	u32 *count = &s->ram->writable[(shadow_frame(n->entry[i], 2) >> 12) + page];

	if (read_only == (bool)(*bits >> page % 64 & 1))
		return;
	*bits ^= BIT(page % 64);
	if (n->prot[i] & PROT_WRITE)
		*count += read_only ? -1u : 1;
	s->carvings++;
}

/* --- nodes --- */

struct node *shadow_node_new(struct shadow *s, struct node *parent, unsigned i, gpa_t table)
{
	unsigned level = parent ? parent->level - 1u : 4;
	struct node *n =
	    calloc(1, sizeof(*n) + (level > 1 ? SHADOW_ENTRIES : 0) * sizeof(n->below[0]));

	if (!n)
		return NULL;
	n->parent = parent;
	n->table = table;
	n->level = (u8)level;
	n->index = (u16)i;
	if (parent) {
		n->base = node_va(parent, i);
		parent->below[i].node = n;
		node_note_use(parent, i, true);
		s->nodes++;
	} else {
		n->base = s->range.first >> 63 ? ~0ull << 48 : 0;
	}
	return n;
}

static void node_free(struct shadow *s, struct node *n);

/* Forget what hangs on an entry, in the node and below; counts follow. */
static void forget(struct shadow *s, struct node *n, unsigned i)
{
	if (n->prot[i]) {
		shadow_set_leaf(s, n, i, n->entry[i], 0, NULL);
	} else if (n->level > 1 && n->below[i].node) {
		node_free(s, n->below[i].node);
		n->below[i].node = NULL;
		node_note_use(n, i, false);
	}
}

static void node_free(struct shadow *s, struct node *n)
{
	unsigned i;

	for (i = node_next(n, 0); i < SHADOW_ENTRIES; i = node_next(n, i + 1))
		forget(s, n, i);
	free(n);
	s->nodes--;
}

void shadow_drop(struct shadow *s, struct node *n, unsigned i)
{
	if (n->prot[i] || (n->level > 1 && n->below[i].node && n->below[i].node->mapped))
		op_unmap(s, node_va(n, i), BIT(shadow_level_shift(n->level)));
	forget(s, n, i);
}

void shadow_flush_all(struct shadow *s)
{
	unsigned i;

	SHADOW_REPORT(s, .kind = SHADOW_EV_FLUSH_ALL, .count = s->root->mapped);
	s->stats->n[STAT_shadow_flushes]++;
	for (i = node_next(s->root, 0); i < SHADOW_ENTRIES; i = node_next(s->root, i + 1))
		forget(s, s->root, i);
	/* In one piece, so that no mapping has to be split, and nothing an operation that failed
	 * has left behind escapes. */
	s->pending.kind = OP_NONE;
	s->failed = false;
	if (s->low <= s->high)
		shadow_op(s, (struct pending){
				 .kind = OP_UNMAP, .va = s->low, .len = s->high - s->low + 1});
	do_pending(s);
	BUG_ON(s->failed);
	s->low = ~0ull;
	s->high = 0;
	s->calls = s->carvings = 0;
}

struct shadow *shadow_new(struct ram *ram, struct stats *stats, const struct shadow_range *range,
			  const struct shadow_ops *ops, void *opaque)
{
	struct shadow *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->ram = ram;
	s->stats = stats;
	s->range = *range;
	s->ops = ops;
	s->opaque = opaque;
	s->root = shadow_node_new(s, NULL, 0, NO_TABLE);
	if (!s->root) {
		free(s);
		return NULL;
	}
	s->root->rights = PTE_W | PTE_U;
	s->low = ~0ull;
	return s;
}

void shadow_free(struct shadow *s)
{
	if (!s)
		return;
	shadow_flush_all(s);
	free(s->root);
	free(s);
}

void shadow_watch(struct shadow *s, void (*fn)(void *opaque, const struct shadow_event *ev),
		  void *opaque)
{
	s->watch = fn;
	s->watch_opaque = opaque;
}

/* --- what an entry says --- */

void shadow_adopt_mode(struct shadow *s, const struct paging *pg)
{
	u64 mode = (pg->efer & (EFER_NXE | EFER_LMA)) | pg->maxphyaddr |
		   (s->range.user ? 0 : pg->cr0 & CR0_WP);

	if (mode != s->mode && s->root->mapped)
		shadow_flush_all(s);
	s->mode = mode;
}

bool shadow_leaf_ready(const struct shadow *s, const struct paging *pg, const struct node *n,
		       u64 entry)
{
	u64 size = BIT(shadow_level_shift(n->level));

	return (entry & PTE_P) && (entry & PTE_A) && (n->level == 1 || (entry & PTE_PS)) &&
	       !(entry & mmu_reserved_bits(pg, n->level, entry)) &&
	       (!s->range.user || (entry & n->rights & PTE_U)) &&
	       ram_ptr(s->ram, shadow_frame(entry, n->level), size);
}

int shadow_leaf_prot(const struct shadow *s, const struct paging *pg, const struct node *n,
		     u64 entry)
{
	bool write = (entry & n->rights & PTE_W) || (!s->range.user && !(pg->cr0 & CR0_WP));
	bool exec = s->range.user && !n->nx && !(entry & PTE_NX);

	return PROT_READ | (write && (entry & PTE_D) ? PROT_WRITE : 0) | (exec ? PROT_EXEC : 0);
}

bool shadow_entry_keeps(const struct node *n, unsigned i, u64 now)
{
	u64 was = n->entry[i], lost = was & ~now;
	u64 needed = PTE_U | PTE_A;

	if (!n->prot[i]) { /* a table, or a leaf in pieces */
		needed |= PTE_W;
		if (n->level > 1 && (was & PTE_PS))
			needed |= PTE_D | PTE_G;
	}
	return !((was ^ now) & (PTE_P | PTE_PS | PTE_ADDRESS)) && !(lost & needed) &&
	       !(now & ~was & PTE_NX);
}
