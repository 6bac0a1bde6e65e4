/*
 * Guest paging as the processor does it: walker (paging off, 32-bit with PSE, PAE, 4-level) and a
 * software TLB in front of it.
 *
 * The TLB is direct mapped, one half for supervisor accesses and one for user accesses. An entry
 * covers 4 KiB of linear space and has one tag per kind of access: a tag that does not match sends
 * the access to mmu_translate, which walks, sets A and D, and fills. Write tags exist only for RAM
 * pages whose D bit is set and whose code mark (ram.h) is clear; no tag exists for MMIO, whose
 * pages mmu_translate remembers in a table of its own. Thus a fast hit needs no further check.
 * Intel SDM vol. 3, chapter 4.
 */
#ifndef RINGSHIFT_MMU_H
#define RINGSHIFT_MMU_H

#include "base.h"
#include "ram.h"

#define CR0_PE         0x00000001ull
#define CR0_MP         0x00000002ull
#define CR0_EM         0x00000004ull
#define CR0_TS         0x00000008ull
#define CR0_ET         0x00000010ull
#define CR0_NE         0x00000020ull
#define CR0_WP         0x00010000ull
#define CR0_AM         0x00040000ull
#define CR0_NW         0x20000000ull
#define CR0_CD         0x40000000ull
#define CR0_PG         0x80000000ull
#define CR4_VME        0x00000001ull
#define CR4_PVI        0x00000002ull
#define CR4_TSD        0x00000004ull
#define CR4_DE         0x00000008ull
#define CR4_PSE        0x00000010ull
#define CR4_PAE        0x00000020ull
#define CR4_MCE        0x00000040ull
#define CR4_PGE        0x00000080ull
#define CR4_PCE        0x00000100ull
#define CR4_OSFXSR     0x00000200ull
#define CR4_OSXMMEXCPT 0x00000400ull
#define CR4_UMIP       0x00000800ull
#define CR4_FSGSBASE   0x00010000ull
#define CR4_PCIDE      0x00020000ull
#define CR4_OSXSAVE    0x00040000ull
#define CR4_SMEP       0x00100000ull
#define CR4_SMAP       0x00200000ull
#define EFER_SCE       0x001ull
#define EFER_LME       0x100ull
#define EFER_LMA       0x400ull
#define EFER_NXE       0x800ull

#define PTE_P  0x001ull
#define PTE_W  0x002ull
#define PTE_U  0x004ull
#define PTE_A  0x020ull
#define PTE_D  0x040ull
#define PTE_PS 0x080ull
#define PTE_G  0x100ull
#define PTE_NX (1ull << 63)

/* #PF error code bits. */
#define PF_P    0x01u
#define PF_W    0x02u
#define PF_U    0x04u
#define PF_RSVD 0x08u
#define PF_I    0x10u

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

/* The registers that steer translation; the owner keeps them current by mmu_set_paging. */
struct paging {
	u64 cr0, cr3, cr4, efer;
	u64 pdpte[4];        /* PAE only: as loaded by the last MOV to CR3/CR0/CR4 */
	unsigned maxphyaddr; /* bits */
};

/* A page-table entry that a walk went through: where it is, and its value as the walk left it. */
struct walk_entry {
	gpa_t gpa;
	u64 val;
};

struct walk {
	gpa_t gpa;      /* of the byte asked for */
	unsigned shift; /* log2 of the page: 12, 21, 22, 30; 12 without paging */
	bool writable;  /* a write with the same privilege needs no further walk (W and D) */
	bool user, nx, global;
	u32 error;                 /* #PF error code if the walk faulted */
	struct walk_entry path[4]; /* from the root to the leaf; unless it faulted */
	unsigned levels;           /* of these */
};

/*
 * Walk for one access. user: CPL 3 access (explicit); false: supervisor. Sets A (and, for a write,
 * D) atomically in guest RAM as hardware does, only if the access is allowed. Returns 0, or -EFAULT
 * with w->error. A page-table entry outside RAM reads as all ones.
 */
MUST_CHECK int mmu_walk(struct ram *ram, const struct paging *pg, gva_t va, enum mmu_access access,
			bool user, struct walk *w);

/* The same without side effects (no A/D): for logs, debuggers and checks. */
MUST_CHECK int mmu_probe(struct ram *ram, const struct paging *pg, gva_t va, enum mmu_access access,
			 bool user, struct walk *w);

/* Bits that are reserved in a present entry of a 4-level table: level 4 is the PML4E, 1 the PTE. */
u64 mmu_reserved_bits(const struct paging *pg, unsigned level, u64 entry);

/* PAE: read the four PDPTEs for a CR3 value. -EINVAL if a present one has reserved bits (the guest
 * gets #GP); out is then untouched. */
MUST_CHECK int mmu_load_pdptes(struct ram *ram, u64 cr3, unsigned maxphyaddr, u64 out[4]);

#define TLB_BITS    11
#define TLB_SIZE    (1u << TLB_BITS)
#define TLB_INVALID (~0ull)

struct tlb_entry {
	gva_t tag[3];     /* page address per enum mmu_access, or TLB_INVALID */
	uintptr_t addend; /* host address = linear + addend */
	u64 flags;        /* TLB_GLOBAL and what tlb.c keeps for itself */
};
#define TLB_GLOBAL         1ull
#define TLB_LISTED(global) ((global) ? 4ull : 2ull) /* the slot is in mmu.filled[global] */
#define TLB_SHIFT_POS      8 /* bits 8 to 15: log2 of the size of the guest's page */
#define TLB_SHIFT_MASK     0xff00ull

struct shadow;

/* Who else follows flushes: the user spaces. All fields are set, or the pointer to it is NULL. */
struct mmu_follower {
	void (*invlpg)(void *opaque, gva_t va);
	void (*flush)(void *opaque, bool mode); /* mode: the paging mode has changed, too */
	void (*revoke_write)(void *opaque, gpa_t page);
	/* A page marked as code has been written, or the mark goes; ~0: all marks go. */
	void (*code_gone)(void *opaque, gpa_t page);
	void *opaque;
};

/* Where a page of a device lies: no tag of the TLB leads there, but mmu_translate need not walk. */
#define TLB_IO_SIZE 8u
struct tlb_io {
	gva_t tag[2]; /* page address for MMU_READ, MMU_WRITE, or TLB_INVALID */
	gpa_t frame;
};

struct mmu {
	struct tlb_entry tlb[2][TLB_SIZE]; /* [user] */
	struct ram *ram;
	struct paging pg;
	struct stats *stats;
	struct shadow *shadow;               /* follows every flush; NULL: none */
	const struct mmu_follower *follower; /* the same */
	/* Data breakpoints are armed: every read and write goes to mmu_translate. Whoever sets it
	 * calls mmu_flush_all, since entries made before would still hit. */
	bool no_fill;
	/* Supervisor writes shall all go to mmu_translate, too (the lockstep check). Set while the
	 * TLB is empty. */
	bool watch_writes;
	struct tlb_list {
		u16 slot[2 * TLB_SIZE]; /* that may hold a tag: user << TLB_BITS | index */
		unsigned n;
		/* linear range of all large pages cached, both inclusive */
		gva_t large_start, large_last;
	} filled[2]; /* [global]: each slot with a tag is in that of its flags */
	struct tlb_io io[2][TLB_IO_SIZE]; /* [user]; any flush of any address empties it */
	bool io_used;
};

void mmu_init(struct mmu *m, struct ram *ram, struct stats *stats, unsigned maxphyaddr);

/*
 * Adopt new paging registers; flushes what the change requires (SDM vol. 3, 4.10.4.1): a new CR3 or
 * new PDPTEs flush non-global entries, changes of PG, WP, PSE, PGE, PAE, PCIDE, SMEP, SMAP, LMA and
 * NXE flush everything. Writing CR3 with the value it has flushes too, but does not show as a
 * difference: MOV to CR3 and task switches call mmu_flush_non_global themselves.
 */
void mmu_set_paging(struct mmu *m, const struct paging *pg);
void mmu_flush_all(struct mmu *m);
void mmu_flush_non_global(struct mmu *m);
void mmu_invlpg(struct mmu *m, gva_t va);
/* Withdraw every write tag that maps a guest-physical page (it has just been marked as code). */
void mmu_revoke_write(struct mmu *m, gpa_t page);
/* Tell the follower that a page marked as code has been written, or that its mark goes; ~0: all. */
static inline void mmu_code_gone(const struct mmu *m, gpa_t page)
{
	if (m->follower)
		m->follower->code_gone(m->follower->opaque, page);
}

enum mmu_kind { MMU_RAM, MMU_IO, MMU_FAULT };
struct mmu_target {
	u8 *host;  /* MMU_RAM: host address of the byte */
	gpa_t gpa; /* MMU_RAM and MMU_IO */
	u32 error; /* MMU_FAULT: #PF error code */
};
/*
 * Slow path: translate one linear address for an access that stays within its 4 KiB page; fills the
 * TLB. A write to a page marked as code is reported as MMU_RAM without a write tag: the caller
 * writes and then calls ram_note_write. A fault drops what the TLB holds for the page.
 */
enum mmu_kind mmu_translate(struct mmu *m, gva_t va, enum mmu_access access, bool user,
			    struct mmu_target *out);

/* Fast path: host address for size bytes at va, or NULL (miss, page crossing, MMIO, code page). */
static ALWAYS_INLINE void *mmu_fast(struct mmu *m, gva_t va, unsigned size, enum mmu_access access,
				    bool user)
{
	struct tlb_entry *e = &m->tlb[user][(va >> 12) & (TLB_SIZE - 1)];

	/* A crossing access has its last byte on another page, so the tags differ. */
	if (likely(e->tag[access] == (va & PAGE_MASK) && ((va ^ (va + size - 1)) & PAGE_MASK) == 0))
		return (void *)(va + e->addend);
	return NULL;
}

#endif
