/*
 * The page walker: paging off, 32-bit two-level with PSE and PSE-36, PAE, 4-level (Intel SDM vol.
 * 3, chapter 4).
 *
 * A walk has two halves. descend() reads entries from the root to the leaf without touching them,
 * remembers each, and gathers the rights; it can fail as not present or as reserved bit set. After
 * the rights have allowed the access, commit() sets A in every entry used and D in the leaf of a
 * write, each by compare-exchange against the value that was judged. If one has changed meanwhile
 * the walk starts again, so a translation is never built on an entry that is already gone and no
 * update by another party is lost. Unlike some processors we leave A alone when a walk faults.
 *
 * An entry outside RAM reads as all ones, which always has A and D set, so it never needs a write.
 *
 * Limits: no SMAP, protection keys, PCID or 5-level paging (none is offered to guests). Whether a
 * 4-level address is canonical is the caller's business; bits 48 to 63 are not looked at.
 */
#include <errno.h>
#include <string.h>

#include "mmu.h"

struct descent {
	struct walk_entry used[4];
	unsigned n;
	unsigned entry_size; /* 4 or 8 bytes */
	u64 rights;          /* PTE_W and PTE_U as they hold at every level */
	bool nx;
	u64 leaf;
	gpa_t gpa;
	unsigned shift;
};

enum outcome { DESCENT_OK, DESCENT_NOT_PRESENT, DESCENT_RESERVED };

/* Bits hi down to lo; none if hi < lo. */
static u64 bits(unsigned hi, unsigned lo)
{
	if (hi < lo)
		return 0;
	return (~0ull >> (63 - hi)) & (~0ull << lo);
}

static u64 read_entry(struct ram *ram, gpa_t gpa, unsigned size)
{
	void *p = ram_ptr(ram, gpa, size);

	if (!p)
		return size == 4 ? 0xffffffffull : ~0ull;
	if (size == 4)
		return __atomic_load_n((u32 *)p, __ATOMIC_RELAXED);
	return __atomic_load_n((u64 *)p, __ATOMIC_RELAXED);
}

/* Read one entry and account for it. */
static u64 visit(struct ram *ram, struct descent *d, gpa_t gpa)
{
	u64 e = read_entry(ram, gpa, d->entry_size);

	d->used[d->n++] = (struct walk_entry){.gpa = gpa, .val = e};
	d->rights &= e;
	return e;
}

/* 4.3: bits 20..13 of a 4 MiB entry are physical bits 39..32, as far as MAXPHYADDR goes. */
static enum outcome leaf_4m(const struct paging *pg, struct descent *d, u32 va, u64 e)
{
	unsigned m = MIN(MAX(pg->maxphyaddr, 32u), 40u);

	if (e & bits(21, m - 19))
		return DESCENT_RESERVED;
	d->leaf = e;
	d->shift = 22;
	d->gpa = (e & bits(31, 22)) | (e & bits(20, 13)) << 19 | (va & bits(21, 0));
	return DESCENT_OK;
}

static enum outcome descend_32(struct ram *ram, const struct paging *pg, u32 va, struct descent *d)
{
	u64 e;

	d->entry_size = 4;
	e = visit(ram, d, (pg->cr3 & 0xfffff000) + (va >> 22) * 4);
	if (!(e & PTE_P))
		return DESCENT_NOT_PRESENT;
	if ((e & PTE_PS) && (pg->cr4 & CR4_PSE))
		return leaf_4m(pg, d, va, e);
	e = visit(ram, d, (e & 0xfffff000) + (va >> 12 & 0x3ff) * 4);
	if (!(e & PTE_P))
		return DESCENT_NOT_PRESENT;
	d->leaf = e;
	d->shift = 12;
	d->gpa = (e & 0xfffff000) | (va & 0xfff);
	return DESCENT_OK;
}

/* Reserved bits of a present 8-byte entry. Level 4 is the PML4E, 1 the PTE. */
static u64 reserved_wide(const struct paging *pg, bool long_mode, unsigned level, u64 e)
{
	u64 r = bits(long_mode ? 51 : 62, pg->maxphyaddr);

	if (!(pg->efer & EFER_NXE))
		r |= PTE_NX;
	if (e & PTE_PS) {
		if (level == 4)
			r |= PTE_PS;
		else if (level == 3)
			r |= bits(29, 13);
		else if (level == 2)
			r |= bits(20, 13);
	}
	return r;
}

/* PAE and 4-level: from the table at the given level down to the leaf. */
static enum outcome descend_wide(struct ram *ram, const struct paging *pg, gva_t va, gpa_t table,
				 unsigned level, bool long_mode, struct descent *d)
{
	u64 address = bits(pg->maxphyaddr - 1, 12);
	u64 e;

	d->entry_size = 8;
	for (;; level--) {
		unsigned shift = 3 + 9 * level;

		e = visit(ram, d, (table & address) + (va >> shift & 0x1ff) * 8);
		if (!(e & PTE_P))
			return DESCENT_NOT_PRESENT;
		if (e & reserved_wide(pg, long_mode, level, e))
			return DESCENT_RESERVED;
		d->nx |= (e & PTE_NX) != 0;
		if (level == 1 || (e & PTE_PS)) {
			u64 offset = bits(shift - 1, 0);

			d->leaf = e;
			d->shift = shift;
			d->gpa = (e & address & ~offset) | (va & offset);
			return DESCENT_OK;
		}
		table = e;
	}
}

static enum outcome descend(struct ram *ram, const struct paging *pg, gva_t va, struct descent *d)
{
	*d = (struct descent){.rights = PTE_W | PTE_U};
	if (pg->efer & EFER_LMA)
		return descend_wide(ram, pg, va, pg->cr3, 4, true, d);
	if (pg->cr4 & CR4_PAE) {
		/* 4.4.1: the PDPTEs come from registers and grant nothing but presence. */
		u64 pdpte = pg->pdpte[va >> 30 & 3];

		if (!(pdpte & PTE_P))
			return DESCENT_NOT_PRESENT;
		return descend_wide(ram, pg, (u32)va, pdpte, 2, false, d);
	}
	return descend_32(ram, pg, (u32)va, d);
}

/* 4.6: may this access use a page with these rights? */
static bool allowed(const struct paging *pg, const struct descent *d, enum mmu_access access,
		    bool user)
{
	bool page_user = d->rights & PTE_U;

	if (user && !page_user)
		return false;
	switch (access) {
	case MMU_READ: return true;
	case MMU_WRITE: return (d->rights & PTE_W) || (!user && !(pg->cr0 & CR0_WP));
	case MMU_EXEC: return !d->nx && !(page_user && !user && (pg->cr4 & CR4_SMEP));
	}
	return false;
}

/* 4.7: error code, without P and RSVD. */
static u32 error_base(const struct paging *pg, enum mmu_access access, bool user)
{
	u32 error = user ? PF_U : 0;

	if (access == MMU_WRITE)
		error |= PF_W;
	if (access == MMU_EXEC &&
	    ((pg->cr4 & CR4_SMEP) || ((pg->cr4 & CR4_PAE) && (pg->efer & EFER_NXE))))
		error |= PF_I;
	return error;
}

static bool update_entry(struct ram *ram, const struct walk_entry *u, unsigned size, u64 set)
{
	void *p = ram_ptr(ram, u->gpa, size);
	u32 old32 = (u32)u->val;
	u64 old64 = u->val;
	bool done;

	BUG_ON(!p);
	if (size == 4)
		done = __atomic_compare_exchange_n((u32 *)p, &old32, old32 | (u32)set, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	else
		done = __atomic_compare_exchange_n((u64 *)p, &old64, old64 | set, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (done)
		ram_note_write(ram, u->gpa, size);
	return done;
}

/* Set A and D. False if an entry has changed since it was read: walk again. */
static bool commit(struct ram *ram, struct descent *d, bool write)
{
	unsigned i;

	for (i = 0; i < d->n; i++) {
		bool leaf = i == d->n - 1;
		u64 set = leaf && write ? PTE_A | PTE_D : PTE_A;

		if ((d->used[i].val & set) == set)
			continue;
		if (!update_entry(ram, &d->used[i], d->entry_size, set))
			return false;
		d->used[i].val |= set;
		if (leaf)
			d->leaf |= set;
	}
	return true;
}

static void report(const struct paging *pg, const struct descent *d, bool user, struct walk *w)
{
	w->gpa = d->gpa;
	w->shift = d->shift;
	w->writable = (d->leaf & PTE_D) && allowed(pg, d, MMU_WRITE, user);
	w->user = d->rights & PTE_U;
	w->nx = d->nx;
	w->global = (d->leaf & PTE_G) && (pg->cr4 & CR4_PGE);
	w->error = 0;
	memcpy(w->path, d->used, sizeof(w->path));
	w->levels = d->n;
}

static int walk(struct ram *ram, const struct paging *pg, gva_t va, enum mmu_access access,
		bool user, bool mark, struct walk *w)
{
	struct descent d;

	*w = (struct walk){.shift = 12};
	if (!(pg->cr0 & CR0_PG)) {
		w->gpa = va & 0xffffffff;
		w->writable = true;
		w->user = true;
		return 0;
	}
	do {
		switch (descend(ram, pg, va, &d)) {
		case DESCENT_NOT_PRESENT: w->error = error_base(pg, access, user); return -EFAULT;
		case DESCENT_RESERVED:
			w->error = error_base(pg, access, user) | PF_P | PF_RSVD;
			return -EFAULT;
		case DESCENT_OK: break;
		}
		if (!allowed(pg, &d, access, user)) {
			w->error = error_base(pg, access, user) | PF_P;
			return -EFAULT;
		}
	} while (mark && !commit(ram, &d, access == MMU_WRITE));
	report(pg, &d, user, w);
	return 0;
}

int mmu_walk(struct ram *ram, const struct paging *pg, gva_t va, enum mmu_access access, bool user,
	     struct walk *w)
{
	return walk(ram, pg, va, access, user, true, w);
}

int mmu_probe(struct ram *ram, const struct paging *pg, gva_t va, enum mmu_access access, bool user,
	      struct walk *w)
{
	return walk(ram, pg, va, access, user, false, w);
}

u64 mmu_reserved_bits(const struct paging *pg, unsigned level, u64 entry)
{
	return reserved_wide(pg, true, level, entry);
}

int mmu_load_pdptes(struct ram *ram, u64 cr3, unsigned maxphyaddr, u64 out[4])
{
	/* 4.4.1, table 4-8: W, U, A, D, PS, G and everything above the address are reserved. */
	u64 reserved = bits(2, 1) | bits(8, 5) | bits(63, maxphyaddr);
	u64 pdpte[4];
	unsigned i;

	for (i = 0; i < 4; i++) {
		pdpte[i] = read_entry(ram, (cr3 & 0xffffffe0) + i * 8, 8);
		if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
			return -EINVAL;
	}
	for (i = 0; i < 4; i++)
		out[i] = pdpte[i];
	return 0;
}
