/*
 * The shadow of the guest's kernel half: host page tables, steered with mmap, that let translated
 * code reach guest memory at host = guest + SHADOW_BIAS without a check.
 *
 * It is a TLB, not a copy of the guest's tables: filled on faults by walking, and emptied when the
 * guest invalidates (INVLPG, CR3, CR4). A mapping is writable only if the guest's entry is writable
 * and dirty and the page holds no translated or decoded code. Large leaves are mapped 2 MiB at a
 * time. SDM vol. 3, 4.10.
 */
#ifndef RINGSHIFT_SHADOW_H
#define RINGSHIFT_SHADOW_H

#include "base.h"
#include "ram.h"

struct paging;
struct shadow;

/* host = guest + bias, modulo 2^64: 2^47 - 1 GiB, so that 0xffff_8000_0000_0000 + bias + 1 GiB is
 * 0. */
#define SHADOW_BIAS 0x7fffc0000000ull
/* Guest addresses whose host address lies above lowland: nothing but the shadow is mapped there. */
#define SHADOW_FIRST 0xffff880000000000ull

/* NULL if out of memory. Both are borrowed. */
struct shadow *shadow_new(struct ram *ram, struct stats *stats);
void shadow_free(struct shadow *s);

enum shadow_fill {
	SHADOW_MAPPED, /* try the access again */
	SHADOW_FAULT,  /* the guest's tables do not allow it */
	SHADOW_IO,     /* not RAM */
	SHADOW_CODE,   /* a write to a page that holds code */
};
/* A supervisor data access to va missed. Sets A and D as the access demands. */
enum shadow_fill shadow_fill(struct shadow *s, const struct paging *pg, gva_t va, bool write);

/* What happens to mappings, for logs. */
enum shadow_event_kind {
	SHADOW_EV_FILL,   /* va, gpa, size, write, global */
	SHADOW_EV_INVLPG, /* va, size: of what was dropped, 0 if nothing was mapped */
	SHADOW_EV_FLUSH_NON_GLOBAL,
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

void shadow_invlpg(struct shadow *s, gva_t va);
void shadow_flush_non_global(struct shadow *s);
void shadow_flush_all(struct shadow *s);
/* A guest-physical page has been marked as code: no mapping of it may be writable any more. */
void shadow_revoke_write(struct shadow *s, gpa_t page);

#endif
