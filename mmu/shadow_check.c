/*
 * The shadow when the guest invalidates: what is mapped is compared with the tables, from the root
 * down, and what they no longer say is put right. The rules stand at the head of shadow.c.
 */
#include "shadow_tree.h"

#include <string.h>

#define FEW 8 /* entries, of 64, that are looked at one by one */

enum scope { CHECK_LOCAL, CHECK_ALL };

static u64 live_entry(const u64 *table, unsigned i)
{
	return table ? __atomic_load_n(&table[i], __ATOMIC_RELAXED) : 0;
}

/* --- one entry --- */

static void set_rights(struct shadow *s, struct node *n, unsigned i, u64 now, int prot)
{
	bool takes = n->prot[i] & ~prot;

	shadow_set_leaf(s, n, i, now, prot, n->level == 2 ? n->below[i].leaf : NULL);
	shadow_op(s, (struct pending){.kind = takes ? OP_PROTECT : OP_WIDEN,
				      .prot = prot,
				      .va = node_va(n, i),
				      .len = BIT(shadow_level_shift(n->level))});
}

/*
 * A leaf in use reads otherwise than when it was relied on. A small page that has moved is mapped
 * where it is now, which costs no more than unmapping and spares a miss; so does giving one the
 * rights it has by now.
 */
static void check_leaf(struct shadow *s, const struct paging *pg, struct node *n, unsigned i,
		       u64 now)
{
	gpa_t frame = shadow_frame(now, n->level);
	int prot;

	if (shadow_entry_keeps(n, i, now)) {
		prot = shadow_leaf_prot(s, pg, n, now);
		if (n->level != 1)
			prot &= n->prot[i];
		else if (s->ram->code[frame >> 12])
			prot &= ~PROT_WRITE;
		if (prot != n->prot[i])
			set_rights(s, n, i, now, prot);
		else
			shadow_set_leaf(s, n, i, now, prot,
					n->level == 2 ? n->below[i].leaf : NULL);
		return;
	}
	s->stats->n[STAT_shadow_changed]++;
	if (n->level != 1 || !shadow_leaf_ready(s, pg, n, now)) {
		shadow_drop(s, n, i);
		return;
	}
	prot = shadow_leaf_prot(s, pg, n, now);
	if (s->ram->code[frame >> 12])
		prot &= ~PROT_WRITE;
	shadow_set_leaf(s, n, i, now, prot, NULL);
	shadow_op(s, (struct pending){.kind = OP_MAP,
				      .prot = prot,
				      .va = node_va(n, i),
				      .len = PAGE_SIZE,
				      .offset = ram_offset(s->ram, frame)});
}

static void check_entry(struct shadow *s, const struct paging *pg, struct node *n, unsigned i,
			u64 now)
{
	if (n->prot[i]) {
		check_leaf(s, pg, n, i, now);
	} else if (shadow_entry_keeps(n, i, now)) {
		n->entry[i] = now;
	} else {
		s->stats->n[STAT_shadow_changed]++;
		shadow_drop(s, n, i);
		n->entry[i] = now;
	}
}

/* --- all of it --- */

/* Has the scope anything to say on an entry? */
static bool concerned(const struct node *n, unsigned i, enum scope scope)
{
	if (n->prot[i])
		return scope == CHECK_ALL || !(n->entry[i] & PTE_G);
	if (n->level > 1 && n->below[i].node)
		return scope == CHECK_ALL ? n->below[i].node->mapped : n->below[i].node->local;
	return false;
}

static void check_node(struct shadow *s, const struct paging *pg, struct node *n, enum scope scope);

static void check_used(struct shadow *s, const struct paging *pg, struct node *n, unsigned i,
		       u64 now, enum scope scope)
{
	if (!concerned(n, i, scope))
		return;
	if (now != n->entry[i])
		check_entry(s, pg, n, i, now);
	if (n->level > 1 && !n->prot[i] && n->below[i].node && n->below[i].node->table != NO_TABLE)
		check_node(s, pg, n->below[i].node, scope);
}

/* 64 entries of a page table, most of them in use. */
static void check_stretch(struct shadow *s, const struct paging *pg, struct node *n, unsigned first,
			  const u64 *live, enum scope scope)
{
	unsigned i;

	if (!memcmp(live + first, n->entry + first, 64 * sizeof(live[0])))
		return;
	for (i = first; i < first + 64; i++) {
		u64 now = live_entry(live, i);

		if (node_in_use(n, i))
			check_used(s, pg, n, i, now, scope);
		else
			n->entry[i] = now;
	}
}

static void check_node(struct shadow *s, const struct paging *pg, struct node *n, enum scope scope)
{
	const u64 *live = ram_ptr(s->ram, n->table, PAGE_SIZE);
	unsigned w;

	s->stats->n[STAT_shadow_compares]++;
	for (w = 0; w < ARRAY_LEN(n->used); w++) {
		u64 bits = n->used[w];

		if (n->level == 1 && live && __builtin_popcountll(bits) > FEW) {
			check_stretch(s, pg, n, w * 64, live, scope);
			continue;
		}
		for (; bits; bits &= bits - 1) {
			unsigned i = w * 64 + (unsigned)__builtin_ctzll(bits);

			check_used(s, pg, n, i, live_entry(live, i), scope);
		}
	}
}

static void check(struct shadow *s, const struct paging *pg, enum scope scope)
{
	struct node *r = s->root;
	unsigned before = r->mapped;

	shadow_adopt_mode(s, pg);
	r->table = pg->cr3 & PTE_ADDRESS;
	if (scope == CHECK_ALL ? r->mapped : r->local) {
		check_node(s, pg, r, scope);
		shadow_settle(s);
	}
	SHADOW_REPORT(s, .kind = SHADOW_EV_REVALIDATE, .count = before - r->mapped);
}

void shadow_revalidate(struct shadow *s, const struct paging *pg)
{
	check(s, pg, s->range.user || !(pg->cr4 & CR4_PGE) ? CHECK_ALL : CHECK_LOCAL);
}

void shadow_revalidate_all(struct shadow *s, const struct paging *pg)
{
	check(s, pg, CHECK_ALL);
}

/* --- one address --- */

/* An entry on the way to the address reads otherwise. */
static void check_invalidated(struct shadow *s, const struct paging *pg, struct node *n, unsigned i,
			      u64 now)
{
	if (n->level == 1 && n->prot[i] && !shadow_entry_keeps(n, i, now) &&
	    shadow_note_move(s, node_va(n, i))) {
		s->stats->n[STAT_shadow_changed]++;
		shadow_drop(s, n, i);
		return;
	}
	check_entry(s, pg, n, i, now);
}

void shadow_invlpg(struct shadow *s, const struct paging *pg, gva_t va)
{
	struct node *n = s->root;
	unsigned before = n->mapped;

	if (va < s->range.first || va > s->range.last)
		return;
	shadow_note_invalidation(s, va);
	n->table = pg->cr3 & PTE_ADDRESS;
	while (n && n->mapped && n->table != NO_TABLE) {
		unsigned i = shadow_index(va, n->level);
		u64 now = live_entry(ram_ptr(s->ram, n->table, PAGE_SIZE), i);

		if (!node_in_use(n, i))
			break;
		if (now != n->entry[i])
			check_invalidated(s, pg, n, i, now);
		if (n->prot[i] || n->level == 1)
			break;
		n = n->below[i].node;
	}
	shadow_settle(s);
	SHADOW_REPORT(s, .kind = SHADOW_EV_INVLPG, .va = va, .count = before - s->root->mapped);
}

/* --- code --- */

static void revoke_in_large(struct shadow *s, struct node *n, unsigned i, u64 gpfn)
{
	u64 page = gpfn - (shadow_frame(n->entry[i], 2) >> 12);
	gva_t va = node_va(n, i) + page * PAGE_SIZE;

	if (page >= SHADOW_ENTRIES || shadow_is_carved(n->below[i].leaf, (unsigned)page))
		return;
	SHADOW_REPORT(s, .kind = SHADOW_EV_READ_ONLY, .va = va);
	shadow_set_carved(s, n, i, (unsigned)page, true);
	shadow_op(s, (struct pending){.kind = OP_PROTECT,
				      .prot = n->prot[i] & ~PROT_WRITE,
				      .va = va,
				      .len = PAGE_SIZE});
}

static void revoke_in_node(struct shadow *s, struct node *n, u64 gpfn)
{
	unsigned i;

	if (!n->writable)
		return;
	for (i = node_next(n, 0); i < SHADOW_ENTRIES && s->ram->writable[gpfn];
	     i = node_next(n, i + 1)) {
		if (!n->prot[i]) {
			revoke_in_node(s, n->below[i].node, gpfn);
		} else if (!(n->prot[i] & PROT_WRITE)) {
			continue;
		} else if (n->level == 2) {
			revoke_in_large(s, n, i, gpfn);
		} else if (shadow_frame(n->entry[i], 1) >> 12 == gpfn) {
			SHADOW_REPORT(s, .kind = SHADOW_EV_READ_ONLY, .va = node_va(n, i));
			set_rights(s, n, i, n->entry[i], n->prot[i] & ~PROT_WRITE);
		}
	}
}

void shadow_revoke_write(struct shadow *s, gpa_t page)
{
	if (!s->ram->writable[page >> 12])
		return;
	revoke_in_node(s, s->root, page >> 12);
	shadow_settle(s);
}
