/*
 * Pages that move: a guest that maps one thing after another at the same address, uses it and
 * invalidates it (fixmap, kmap, vmap of single pages) has the host map or unmap a page each time,
 * which takes some 10,000 cycles. Such pages are no longer mapped: an access to one faults, is
 * executed by the single-step engine, and its site is promoted (bt/site.c). From then on it looks
 * in the software TLB, and INVLPG finds nothing mapped.
 *
 *	MOVES		invalidations that found an entry changed make a page one that moves
 *	REFUSALS	accesses that faulted since the last invalidation make it an ordinary one:
 *			it stays where it is, or is used by code that is not promoted
 *
 * So code that is never promoted (pushes, string instructions) pays for it REFUSALS times, after
 * MOVES mappings that it has paid for anyway. Forgetting a page costs time only: what is mapped is
 * right in either case. Only small pages of the kernel half: user code cannot be promoted.
 */
#include "shadow_tree.h"

#define MOVES    16u
#define REFUSALS 4u

static struct moving *slot_of(struct shadow *s, gva_t va)
{
	return &s->moving[va / PAGE_SIZE % ARRAY_LEN(s->moving)];
}

static struct moving *find(struct shadow *s, gva_t va)
{
	struct moving *m = slot_of(s, va);

	return m->page == (va & PAGE_MASK) && m->moves ? m : NULL;
}

static void forget(struct shadow *s, struct moving *m)
{
	s->n_moving -= m->moves == MOVES;
	m->moves = 0;
}

bool shadow_note_move(struct shadow *s, gva_t va)
{
	struct moving *m = slot_of(s, va);

	if (s->range.user)
		return false;
	if (m->page != (va & PAGE_MASK)) {
		forget(s, m);
		m->page = va & PAGE_MASK;
	}
	if (m->moves < MOVES && ++m->moves == MOVES) {
		m->refusals = 0;
		s->n_moving++;
		s->stats->n[STAT_shadow_moving]++;
	}
	return m->moves == MOVES;
}

void shadow_note_invalidation(struct shadow *s, gva_t va)
{
	struct moving *m = s->n_moving ? find(s, va) : NULL;

	if (m)
		m->refusals = 0;
}

bool shadow_moves(struct shadow *s, gva_t va)
{
	const struct moving *m = s->n_moving ? find(s, va) : NULL;

	return m && m->moves == MOVES;
}

bool shadow_refuse(struct shadow *s, gva_t va)
{
	struct moving *m = slot_of(s, va);

	if (!shadow_moves(s, va))
		return false;
	if (m->refusals == REFUSALS) {
		forget(s, m);
		return false;
	}
	m->refusals++;
	s->stats->n[STAT_shadow_refused]++;
	return true;
}
