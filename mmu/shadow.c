/*
 * A virtual TLB that revalidates: filling it. SDM vol. 3, 4.10.
 *
 * What it may hold. A processor may cache the translation of an address at any time if the entries
 * that lead to it are present, accessed and not reserved (4.10.2.3), whether or not the address is
 * used; one that allows writing only if the leaf is dirty, too (4.8). So a mapping is made, of the
 * page that was missed and of its neighbours, if the tables read like that now. It is writable only
 * if W is set all the way (or CR0.WP is clear and the access a supervisor's), D is set in the leaf
 * and the page is not marked as code; executable in user shadows if no entry says NX. Walks set A
 * and D, for the page that was asked for and no other. Thus A and D read what a processor could
 * have left: a page is never read with A clear or written with D clear, unless the guest has
 * cleared the bit and not yet invalidated.
 *
 * How long it may hold it. Until the guest invalidates (4.10.4.1):
 *	INVLPG, and a page fault	what maps the address, global or not, all of a large page
 *	CR3				what is not global
 *	CR4.PGE				all
 * After any of these a processor could at once have cached the same translation again, if the
 * tables still allowed it. So instead of dropping, we look: what the tables, as they read now,
 * would have mapped at least as it is, stays; what they map elsewhere is mapped there; rights they
 * no longer give are taken; the rest is dropped. More may be dropped than must be: an entry above
 * the leaves that has changed takes with it all that was reached through it.
 *
 * Where is one translation for each address, while a processor's TLB might still have several; and
 * a global translation survives a CR3 whose tables map the address differently, as it may.
 */
#include "shadow_tree.h"

#include <string.h>

/*
 * Pages, aligned; docs/spaces.md has what was measured. Each costs the host a mapping, if it does
 * not go on where the one before it ends; and of what programs have, they seldom use all.
 */
#define FAULT_AROUND      16u
#define FAULT_AROUND_USER 8u
#define FAULT_AROUND_RUN  32u /* where frames follow each other */

static bool is_code(const struct shadow *s, gpa_t gpa)
{
	return s->ram->code[gpa >> 12];
}

static void report_fill(struct shadow *s, gva_t va, gpa_t gpa, u64 size, u64 entry, int prot)
{
	SHADOW_REPORT(s, .kind = SHADOW_EV_FILL, .va = va, .gpa = gpa, .size = size,
		      .write = prot & PROT_WRITE, .global = entry & PTE_G);
}

/* --- 4 KiB --- */

static void map_page(struct shadow *s, struct node *n, unsigned i, u64 entry, int prot)
{
	gpa_t gpa = shadow_frame(entry, 1);
	gva_t va = node_va(n, i);
	int was = shadow_frame(n->entry[i], 1) == gpa ? n->prot[i] : 0;
	struct pending op = {.kind = OP_MAP, .prot = prot, .va = va, .len = PAGE_SIZE};

	if (is_code(s, gpa))
		op.prot = prot &= ~PROT_WRITE;
	op.offset = ram_offset(s->ram, gpa);
	/* Only rights have been missing. If not even these, what is mapped is not what we think. */
	if (was && was != prot) {
		op.kind = was & ~prot ? OP_PROTECT : OP_WIDEN;
		op.offset = 0;
	}
	shadow_set_leaf(s, n, i, entry, prot, NULL);
	report_fill(s, va, gpa, PAGE_SIZE, entry, prot);
	shadow_op(s, op);
}

/* The entries around i, from first to before end, that are worth mapping along with it. */
static void find_around(const struct shadow *s, const u64 *live, unsigned i, unsigned *first,
			unsigned *end)
{
	unsigned around = s->range.user ? FAULT_AROUND_USER : FAULT_AROUND;
	unsigned low = i & ~(FAULT_AROUND_RUN - 1), high = low + FAULT_AROUND_RUN;

	*first = i & ~(around - 1);
	*end = *first + around;
	while (*first > low && live[*first - 1] + PAGE_SIZE == live[*first])
		--*first;
	while (*end < high && live[*end - 1] + PAGE_SIZE == live[*end])
		++*end;
}

/* A page of a guest page table, and what lies around it. */
static void map_around(struct shadow *s, const struct paging *pg, struct node *n, unsigned i,
		       u64 entry)
{
	const u64 *live = ram_ptr(s->ram, n->table, PAGE_SIZE);
	unsigned first, end, j;

	BUG_ON(!live);
	find_around(s, live, i, &first, &end);
	for (j = first; j < end; j++) {
		u64 e = j == i ? entry : __atomic_load_n(&live[j], __ATOMIC_RELAXED);

		if (j != i) {
			gva_t va = node_va(n, j);

			if (n->prot[j] || !shadow_leaf_ready(s, pg, n, e) || va < s->range.first ||
			    va > s->range.last || shadow_moves(s, va))
				continue;
			s->stats->n[STAT_shadow_around]++;
		}
		map_page(s, n, j, e, shadow_leaf_prot(s, pg, n, e));
	}
}

/* --- 2 MiB --- */

/* Give the pages of a 2 MiB mapping that hold no code (more rights than they had), or those that do
 * (less), their protection. */
static void protect_pages(struct shadow *s, struct node *n, unsigned i, const struct carved *c,
			  bool code, int prot)
{
	unsigned page;

	for (page = 0; page < SHADOW_ENTRIES; page++)
		if (shadow_is_carved(c, page) == code)
			shadow_op(s, (struct pending){.kind = code ? OP_PROTECT : OP_WIDEN,
						      .prot = prot,
						      .va = node_va(n, i) + page * PAGE_SIZE,
						      .len = PAGE_SIZE});
}

static struct carved *carve(struct shadow *s, gpa_t gpa)
{
	const u8 *code = &s->ram->code[gpa >> 12];
	struct carved *c = calloc(1, sizeof(*c));
	unsigned page;

	for (page = 0; c && page < SHADOW_ENTRIES; page++) {
		if (!code[page])
			continue;
		c->read_only[page / 64] |= BIT(page % 64);
		s->carvings += !page || !code[page - 1];
	}
	return c;
}

static void map_large(struct shadow *s, struct node *n, unsigned i, u64 entry, int prot)
{
	gpa_t gpa = shadow_frame(entry, 2);
	gva_t va = node_va(n, i);
	bool mapped = n->prot[i] && shadow_frame(n->entry[i], 2) == gpa;
	bool widen = mapped && prot == (n->prot[i] | PROT_WRITE) && prot != n->prot[i];
	struct carved *c = carve(s, gpa);

	if (!c) {
		s->failed = true;
		return;
	}
	if (!n->prot[i])
		shadow_drop(s, n, i); /* the guest has joined pages without telling us yet */
	shadow_set_leaf(s, n, i, entry, prot, c);
	report_fill(s, va, gpa, 2 * MIB, entry, prot);
	if (widen) {
		protect_pages(s, n, i, c, false, prot);
		return;
	}
	shadow_op(s, (struct pending){.kind = OP_MAP,
				      .prot = prot,
				      .va = va,
				      .len = 2 * MIB,
				      .offset = ram_offset(s->ram, gpa)});
	if (prot & PROT_WRITE)
		protect_pages(s, n, i, c, true, prot & ~PROT_WRITE);
}

/* One access to a 2 MiB mapping missed. */
static void fill_large(struct shadow *s, const struct paging *pg, struct node *n, gva_t va,
		       u64 entry)
{
	unsigned i = shadow_index(va, 2), page = shadow_index(va, 1);
	int prot = shadow_leaf_prot(s, pg, n, entry);
	bool same = n->prot[i] == prot && shadow_frame(n->entry[i], 2) == shadow_frame(entry, 2);

	/* A page that held code once, in a mapping that is otherwise as it should be. */
	if (same && (prot & PROT_WRITE) && shadow_is_carved(n->below[i].leaf, page) &&
	    !is_code(s, shadow_frame(entry, 2) + page * PAGE_SIZE)) {
		shadow_set_leaf(s, n, i, entry, prot, n->below[i].leaf);
		shadow_set_carved(s, n, i, page, false);
		shadow_op(
		    s, (struct pending){
			   .kind = OP_WIDEN, .prot = prot, .va = va & PAGE_MASK, .len = PAGE_SIZE});
		return;
	}
	map_large(s, n, i, entry, prot);
}

/* --- the way down --- */

/* The node below an entry: a table, or NO_TABLE for the pieces of a leaf. */
static struct node *below(struct shadow *s, struct node *n, unsigned i, u64 entry, gpa_t table)
{
	struct node *b;

	if (node_in_use(n, i) && (n->prot[i] || !shadow_entry_keeps(n, i, entry)))
		shadow_drop(s, n, i);
	n->entry[i] = entry;
	b = n->below[i].node;
	if (!b)
		b = shadow_node_new(s, n, i, table);
	if (!b)
		return NULL;
	/* The entry may give more by now than it did. Pieces have its rights in theirs. */
	b->rights = n->rights & (table == NO_TABLE ? ~0ull : entry);
	b->nx = n->nx || (table != NO_TABLE && (entry & PTE_NX));
	return b;
}

/* The entry that one of its parts would have, were there a table. */
static u64 piece(u64 entry, unsigned level, gpa_t gpa)
{
	entry &= ~PTE_ADDRESS & ~PTE_PS;
	return entry | (gpa & ~(BIT(shadow_level_shift(level)) - 1)) | (level > 1 ? PTE_PS : 0);
}

/* Go to the node with the leaf, make what is missing, and map. False: out of memory. */
static bool descend(struct shadow *s, const struct paging *pg, gva_t va, const struct walk *w)
{
	struct node *n = s->root;
	unsigned k;
	u64 entry;

	n->table = w->path[0].gpa & PAGE_MASK;
	for (k = 0; k < w->levels - 1; k++) {
		entry = w->path[k].val;
		n = below(s, n, shadow_index(va, n->level), entry, entry & PTE_ADDRESS);
		if (!n)
			return false;
	}
	entry = w->path[k].val;
	while (n->level > 2 || (n->level == 2 && !shadow_leaf_ready(s, pg, n, entry))) {
		n = below(s, n, shadow_index(va, n->level), entry, NO_TABLE);
		if (!n)
			return false;
		entry = piece(entry, n->level, w->gpa);
	}
	if (n->level == 2)
		fill_large(s, pg, n, va, entry);
	else if (n->table == NO_TABLE)
		map_page(s, n, shadow_index(va, 1), entry, shadow_leaf_prot(s, pg, n, entry));
	else
		map_around(s, pg, n, shadow_index(va, 1), entry);
	return true;
}

enum shadow_fill shadow_fill(struct shadow *s, const struct paging *pg, gva_t va,
			     enum mmu_access access, u32 *error)
{
	struct walk w;
	unsigned tries;

	if (va < s->range.first || va > s->range.last)
		return SHADOW_OUTSIDE;
	BUG_ON(!(pg->efer & EFER_LMA));
	shadow_adopt_mode(s, pg);
	if (mmu_walk(s->ram, pg, va, access, s->range.user, &w)) {
		shadow_invlpg(s, pg, va);
		if (error)
			*error = w.error;
		return SHADOW_FAULT;
	}
	if (!ram_contains(s->ram, w.gpa)) {
		shadow_invlpg(s, pg, va);
		return SHADOW_IO;
	}
	if (access == MMU_WRITE && is_code(s, w.gpa))
		return SHADOW_CODE;
	if (w.shift == 12 && unlikely(shadow_refuse(s, va)))
		return SHADOW_MOVING;
	for (tries = 0; tries < 2; tries++) {
		s->failed = !descend(s, pg, va, &w) || s->failed;
		if (shadow_settle(s))
			return SHADOW_MAPPED;
	}
	return SHADOW_FAILED;
}

/* Is va mapped with all the rights its entry gives? */
static bool is_mapped(const struct shadow *s, const struct paging *pg, gva_t va)
{
	const struct node *n = s->root;
	unsigned i = shadow_index(va, n->level);
	const u64 *live;

	while (n->level > 1 && !n->prot[i]) {
		n = n->below[i].node;
		if (!n)
			return false;
		i = shadow_index(va, n->level);
	}
	if (n->level > 1 || !n->prot[i] || n->table == NO_TABLE)
		return n->prot[i];
	live = ram_ptr(s->ram, n->table, PAGE_SIZE);
	return live && shadow_frame(live[i], 1) == shadow_frame(n->entry[i], 1) &&
	       (is_code(s, shadow_frame(live[i], 1)) ||
		n->prot[i] == shadow_leaf_prot(s, pg, n, live[i]));
}

void shadow_expect(struct shadow *s, const struct paging *pg, gva_t va)
{
	if (va < s->range.first || va > s->range.last || is_mapped(s, pg, va))
		return;
	if (shadow_fill(s, pg, va, MMU_READ, NULL) == SHADOW_MAPPED)
		s->stats->n[STAT_shadow_expected]++;
}
