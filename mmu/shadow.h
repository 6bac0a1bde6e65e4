/*
 * A shadow: host page tables, steered with mmap, that hold what a processor's TLB could hold for
 * one part of the guest's linear address space. One shadow serves the kernel half, in the monitor's
 * own process at host = guest + SHADOW_BIAS, one the low window of ring-0 code that runs in the
 * lower half; one for each user space serves that space's lower half, in another process. Where the
 * mappings go is up to struct shadow_ops.
 *
 * Like a TLB it is filled by walking the guest's tables when an access misses, and need not notice
 * that they change. When the guest invalidates, what is mapped is compared with the tables and kept
 * where they still say the same. The rules stand at the head of shadow.c. 4-level paging only.
 *
 * Nothing here locks: a shadow, the RAM's counts of writable mappings and whoever marks code belong
 * to one thread. shadow_fill may run in a signal handler that interrupted generated code.
 */
#ifndef RINGSHIFT_SHADOW_H
#define RINGSHIFT_SHADOW_H

#include "base.h"
#include "mmu.h"
#include "ram.h"

/* host = guest + bias, modulo 2^64: 2^47 - 1 GiB, so that 0xffff_8000_0000_0000 + bias + 1 GiB is
 * 0. */
#define SHADOW_BIAS 0x7fffc0000000ull
/* Guest addresses whose host address lies above lowland: nothing but the shadow is mapped there. */
#define SHADOW_FIRST 0xffff880000000000ull
/*
 * The low window: the first 512 GiB of the guest's lower half, at host = guest + SHADOW_LOW_BIAS.
 * It ends where the host's topmost GiB begins, so whatever lies above it in the lower half is
 * nowhere, or not canonical. It takes the place of part of the kernel half: only one of the two
 * shadows has mappings at any time (bt/regime.c).
 */
#define SHADOW_LOW_SIZE 0x8000000000ull
#define SHADOW_LOW_BIAS (SHADOW_BIAS - SHADOW_LOW_SIZE)

/*
 * What a shadow does to its address space. va and len are multiples of the page size, prot is that
 * of mmap. map replaces what is mapped there; widen is protect where no right is taken, so that it
 * need not be complete when it returns; unmap may name a range with holes. 0, or a negative errno
 * (-ENOMEM: no more mappings), whatever has become of the range by then: all that was ever mapped
 * is then unmapped in one call. That must succeed: a backend whose process is gone reports success.
 */
struct shadow_ops {
	int (*map)(void *opaque, gva_t va, u64 len, int prot, u64 ram_offset);
	int (*protect)(void *opaque, gva_t va, u64 len, int prot);
	int (*widen)(void *opaque, gva_t va, u64 len, int prot);
	int (*unmap)(void *opaque, gva_t va, u64 len);
};
/* In this process, at va + SHADOW_BIAS, or, in the lower half, SHADOW_LOW_BIAS. opaque: the struct
 * ram. */
extern const struct shadow_ops shadow_host_ops;

struct shadow_range {
	gva_t first, last; /* its first and last byte; whole pages, within one half */
	bool user;         /* for CPL 3 accesses, fetches among them; false: for CPL 0 data */
};
extern const struct shadow_range shadow_kernel_half, shadow_low_window;

/* NULL if out of memory. All but range are borrowed. */
struct shadow *shadow_new(struct ram *ram, struct stats *stats, const struct shadow_range *range,
			  const struct shadow_ops *ops, void *opaque);
void shadow_free(struct shadow *s);

enum shadow_fill {
	SHADOW_MAPPED,  /* try the access again */
	SHADOW_FAULT,   /* the guest's tables do not allow it: *error is the #PF error code */
	SHADOW_IO,      /* not RAM */
	SHADOW_CODE,    /* a write to a page that is marked as code */
	SHADOW_MOVING,  /* it could be mapped, but moves too often: do without (kernel half only) */
	SHADOW_OUTSIDE, /* not in this shadow's range */
	SHADOW_FAILED,  /* the host refuses, although nothing else is mapped any more */
};
/* An access to va missed. Sets A and D as it demands. error: may be NULL. */
enum shadow_fill shadow_fill(struct shadow *s, const struct paging *pg, gva_t va,
			     enum mmu_access access, u32 *error);

/* An access to va is to be expected: map it, too, if the tables allow, unless it is mapped. */
void shadow_expect(struct shadow *s, const struct paging *pg, gva_t va);

/* INVLPG, or a page fault at va. pg: as of now. */
void shadow_invlpg(struct shadow *s, const struct paging *pg, gva_t va);
/*
 * CR3 was loaded: pg is the new state. For a user space also whenever it is entered after another
 * CR3 was in force, since what was invalidated in between did not reach it; therefore all of it is
 * compared, in the kernel half only what is not global.
 */
void shadow_revalidate(struct shadow *s, const struct paging *pg);
/* CR4.PGE changed: global mappings, too. */
void shadow_revalidate_all(struct shadow *s, const struct paging *pg);
/* Any other change of the paging mode. */
void shadow_flush_all(struct shadow *s);
/* A guest-physical page has been marked as code: no mapping of it may be writable any more. Call it
 * for every shadow there is; cheap for those that come after the last writable mapping. */
void shadow_revoke_write(struct shadow *s, gpa_t page);

/* What happens to mappings, for logs. */
enum shadow_event_kind {
	SHADOW_EV_FILL,   /* va, gpa, size, write, global */
	SHADOW_EV_INVLPG, /* va, count: mappings dropped */
	SHADOW_EV_REVALIDATE,
	SHADOW_EV_FLUSH_ALL, /* count: mappings dropped, here and in the one above */
	SHADOW_EV_READ_ONLY, /* va: holds code, in a mapping that is writable otherwise */
};
struct shadow_event {
	enum shadow_event_kind kind;
	gva_t va;
	gpa_t gpa;
	u64 size;
	bool write, global;
	unsigned count;
};
/* fn: NULL for none. */
void shadow_watch(struct shadow *s, void (*fn)(void *opaque, const struct shadow_event *ev),
		  void *opaque);

#endif
