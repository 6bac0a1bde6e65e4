/*
 * The software TLB: filling it, and every way a translation leaves it.
 *
 * Invariants, on which the inline fast path rests:
 *   - all valid tags of a slot name the same page, and addend belongs to that page; a slot filled
 *     for another page, or for another translation of the same one, loses its old tags first;
 *   - a write tag exists only for RAM whose leaf has D set and whose code mark is clear;
 *   - a slot with any valid tag is in one of two lists: that of global pages or that of others.
 *     Flushes walk the lists, not the array, so a process switch costs what was used since the
 *     last one.
 *
 * A slot remembers the size of the page it was cut from, since INVLPG of one address drops every
 * piece of a large page (SDM vol. 3, 4.10.4.1). large_start and large_last of a list bound the
 * large pages cached, so that an INVLPG elsewhere looks at one slot of each half only.
 */
#include <string.h>

#include "mmu.h"
#include "shadow.h"

static struct tlb_entry *slot(struct mmu *m, bool user, gva_t va)
{
	return &m->tlb[user][(va >> 12) & (TLB_SIZE - 1)];
}

static struct tlb_entry *filled_slot(struct mmu *m, const struct tlb_list *l, unsigned i)
{
	return &m->tlb[l->slot[i] >> TLB_BITS][l->slot[i] & (TLB_SIZE - 1)];
}

static unsigned entry_shift(const struct tlb_entry *e)
{
	return (e->flags & TLB_SHIFT_MASK) >> TLB_SHIFT_POS;
}

/* The page a slot holds, or TLB_INVALID if no tag is valid. */
static gva_t entry_page(const struct tlb_entry *e)
{
	/* Tags are equal or all ones. */
	return e->tag[MMU_READ] & e->tag[MMU_WRITE] & e->tag[MMU_EXEC];
}

static void drop_tags(struct tlb_entry *e)
{
	e->tag[MMU_READ] = e->tag[MMU_WRITE] = e->tag[MMU_EXEC] = TLB_INVALID;
}

static void drop_io(struct mmu *m)
{
	if (m->io_used)
		memset(m->io, 0xff, sizeof(m->io)); /* TLB_INVALID */
	m->io_used = false;
}

static void forget_large(struct tlb_list *l)
{
	l->large_start = ~0ull;
	l->large_last = 0;
}

static void note_large(struct tlb_list *l, gva_t page, unsigned shift)
{
	l->large_start = MIN(l->large_start, ALIGN_DOWN(page, BIT(shift)));
	l->large_last = MAX(l->large_last, page | (BIT(shift) - 1));
}

void mmu_init(struct mmu *m, struct ram *ram, struct stats *stats, unsigned maxphyaddr)
{
	unsigned half, i;

	memset(m, 0, sizeof(*m));
	for (half = 0; half < 2; half++)
		for (i = 0; i < TLB_SIZE; i++)
			drop_tags(&m->tlb[half][i]);
	m->io_used = true;
	drop_io(m);
	for (half = 0; half < 2; half++)
		forget_large(&m->filled[half]);
	m->ram = ram;
	m->stats = stats;
	m->pg.maxphyaddr = maxphyaddr;
}

static void flush_tlb(struct mmu *m)
{
	unsigned global, i;

	m->stats->n[STAT_tlb_flushes]++;
	for (global = 0; global < 2; global++) {
		struct tlb_list *l = &m->filled[global];

		for (i = 0; i < l->n; i++) {
			struct tlb_entry *e = filled_slot(m, l, i);

			drop_tags(e);
			e->flags = 0;
		}
		l->n = 0;
		forget_large(l);
	}
	drop_io(m);
}

void mmu_flush_all(struct mmu *m)
{
	flush_tlb(m);
	if (m->shadow)
		shadow_flush_all(m->shadow);
	if (m->follower)
		m->follower->flush(m->follower->opaque, true);
}

void mmu_flush_non_global(struct mmu *m)
{
	struct tlb_list *l = &m->filled[false];
	unsigned i;

	m->stats->n[STAT_tlb_flushes]++;
	drop_io(m);
	for (i = 0; i < l->n; i++) {
		struct tlb_entry *e = filled_slot(m, l, i);

		if (e->flags &
		    TLB_GLOBAL) { /* holds another page by now, and is in the other list */
			e->flags &= ~TLB_LISTED(false);
		} else {
			drop_tags(e);
			e->flags &= TLB_LISTED(true);
		}
	}
	l->n = 0;
	forget_large(l);
	if (m->shadow)
		shadow_revalidate(m->shadow, &m->pg);
	if (m->follower)
		m->follower->flush(m->follower->opaque, false);
}

/* Drop what one 4 KiB page has in its slots. */
static void drop_page(struct mmu *m, gva_t va)
{
	unsigned half;

	for (half = 0; half < 2; half++) {
		struct tlb_entry *e = slot(m, half, va);

		if (entry_page(e) == (va & PAGE_MASK))
			drop_tags(e);
	}
}

/* Drop every piece of the large pages that hold va. */
static void drop_large(struct mmu *m, const struct tlb_list *l, gva_t va)
{
	unsigned i;

	if (va < l->large_start || va > l->large_last)
		return;
	for (i = 0; i < l->n; i++) {
		struct tlb_entry *e = filled_slot(m, l, i);
		unsigned shift = entry_shift(e);

		if (shift > 12 && entry_page(e) >> shift == va >> shift)
			drop_tags(e);
	}
}

void mmu_invlpg(struct mmu *m, gva_t va)
{
	m->stats->n[STAT_invlpgs]++;
	drop_io(m);
	drop_page(m, va);
	drop_large(m, &m->filled[false], va);
	drop_large(m, &m->filled[true], va);
	if (m->shadow)
		shadow_invlpg(m->shadow, &m->pg, va);
	if (m->follower)
		m->follower->invlpg(m->follower->opaque, va);
}

void mmu_revoke_write(struct mmu *m, gpa_t page)
{
	uintptr_t host = (uintptr_t)m->ram->window + (page & PAGE_MASK);
	unsigned global, i;

	for (global = 0; global < 2; global++)
		for (i = 0; i < m->filled[global].n; i++) {
			struct tlb_entry *e = filled_slot(m, &m->filled[global], i);

			if (e->tag[MMU_WRITE] != TLB_INVALID &&
			    e->tag[MMU_WRITE] + e->addend == host)
				e->tag[MMU_WRITE] = TLB_INVALID;
		}
	if (m->shadow)
		shadow_revoke_write(m->shadow, page);
	if (m->follower)
		m->follower->revoke_write(m->follower->opaque, page);
}

void mmu_set_paging(struct mmu *m, const struct paging *pg)
{
	struct paging old = m->pg;
	u64 cr0 = old.cr0 ^ pg->cr0, cr4 = old.cr4 ^ pg->cr4, efer = old.efer ^ pg->efer;
	bool pae = (pg->cr4 & CR4_PAE) && !(pg->efer & EFER_LMA);

	m->pg = *pg;
	/* PE does not matter to translation. WP, SMEP and NXE must be here even where the manual
	 * lets a processor keep entries: ours hold the verdict, not the bits it was made from. */
	if ((cr0 & (CR0_PG | CR0_WP)) || (efer & (EFER_LMA | EFER_NXE)) ||
	    (cr4 & (CR4_PSE | CR4_PAE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) ||
	    old.maxphyaddr != pg->maxphyaddr) {
		mmu_flush_all(m);
	} else if (cr4 & CR4_PGE) {
		flush_tlb(m);
		if (m->shadow)
			shadow_revalidate_all(m->shadow, pg);
		if (m->follower)
			m->follower->flush(m->follower->opaque, false);
	} else if (old.cr3 != pg->cr3 || (pae && memcmp(old.pdpte, pg->pdpte, sizeof(old.pdpte)))) {
		mmu_flush_non_global(m);
	}
}

/* Ready the slot of a page for tags that say `addend` and `flags`. */
static struct tlb_entry *claim(struct mmu *m, gva_t page, bool user, uintptr_t addend, u64 flags)
{
	const u64 listed = TLB_LISTED(true) | TLB_LISTED(false);
	struct tlb_entry *e = slot(m, user, page);
	bool global = flags & TLB_GLOBAL;
	struct tlb_list *l = &m->filled[global];

	flags |= (e->flags & listed) | TLB_LISTED(global);
	if (!(e->flags & TLB_LISTED(global)))
		l->slot[l->n++] = (u16)(user << TLB_BITS | (e - m->tlb[user]));
	e->flags |= TLB_LISTED(global);
	if (entry_page(e) != page || e->addend != addend || e->flags != flags) {
		drop_tags(e);
		e->addend = addend;
		e->flags = flags;
	}
	return e;
}

static void fill(struct mmu *m, gva_t va, enum mmu_access access, bool user, const struct walk *w)
{
	gva_t page = va & PAGE_MASK;
	gpa_t frame = w->gpa & PAGE_MASK;
	u64 flags = (u64)w->shift << TLB_SHIFT_POS | (w->global ? TLB_GLOBAL : 0);
	struct tlb_entry *e;

	if (m->no_fill && access != MMU_EXEC)
		return;
	/* Outside 4-level mode linear addresses have 32 bits; a wider one must not leave an entry
	 * that no INVLPG would name. */
	if (!(m->pg.efer & EFER_LMA) && va >> 32)
		return;
	e = claim(m, page, user, (uintptr_t)m->ram->window + frame - page, flags);
	if (access == MMU_EXEC)
		e->tag[MMU_EXEC] = page;
	if (!m->no_fill) {
		/* What can be fetched or written can be read: x86 has no other pages. */
		e->tag[MMU_READ] = page;
		if (access != MMU_EXEC && w->writable && !m->ram->code[frame >> 12] &&
		    (user || !m->watch_writes))
			e->tag[MMU_WRITE] = page;
	}
	if (w->shift > 12)
		note_large(&m->filled[w->global], page, w->shift);
}

/* --- devices --- */

static struct tlb_io *io_slot(struct mmu *m, gva_t va, bool user)
{
	return &m->io[user][(va >> 12) % TLB_IO_SIZE];
}

static void fill_io(struct mmu *m, gva_t va, enum mmu_access access, bool user,
		    const struct walk *w)
{
	struct tlb_io *e = io_slot(m, va, user);
	gva_t page = va & PAGE_MASK;

	if (access == MMU_EXEC || (!(m->pg.efer & EFER_LMA) && va >> 32))
		return;
	m->io_used = true;
	e->frame = w->gpa & PAGE_MASK;
	e->tag[MMU_READ] = page;
	e->tag[MMU_WRITE] = access == MMU_WRITE || w->writable ? page : TLB_INVALID;
}

enum mmu_kind mmu_translate(struct mmu *m, gva_t va, enum mmu_access access, bool user,
			    struct mmu_target *out)
{
	const struct tlb_io *io = io_slot(m, va, user);
	struct walk w;

	*out = (struct mmu_target){0};
	if (access != MMU_EXEC && io->tag[access] == (va & PAGE_MASK)) {
		out->gpa = io->frame | (va & ~PAGE_MASK);
		return MMU_IO;
	}
	m->stats->n[STAT_tlb_misses]++;
	if (mmu_walk(m->ram, &m->pg, va, access, user, &w)) {
		/* A page fault invalidates what is cached for its address (4.10.4.1). */
		drop_page(m, va);
		drop_io(m);
		if (m->shadow)
			shadow_invlpg(m->shadow, &m->pg, va);
		out->error = w.error;
		return MMU_FAULT;
	}
	out->gpa = w.gpa;
	if (!ram_contains(m->ram, w.gpa)) {
		fill_io(m, va, access, user, &w);
		return MMU_IO;
	}
	out->host = m->ram->window + w.gpa;
	fill(m, va, access, user, &w);
	return MMU_RAM;
}
