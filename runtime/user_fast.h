/*
 * Patched user code: system calls that leave a space without a signal, and the number of the
 * processor. Which instructions to patch, and which spaces see the copies. See user_fast.c; space.h
 * has the mechanism.
 */
#ifndef RINGSHIFT_USER_FAST_H
#define RINGSHIFT_USER_FAST_H

#include "cpu.h"
#include "shadow.h"
#include "space.h"

struct user_fast;

#define USER_FAST_FOUND 4

/* What of it concerns one space: part of its owner, zeroed to begin with. */
struct user_fast_space {
	struct user_fast *fast; /* NULL: no patches in this space */
	struct space *space;
	struct shadow *shadow;
	struct user_fast_space *next;
	unsigned mapped;        /* entries of va that are set */
	gva_t va[SPACE_COPIES]; /* where a copy is mapped in place of its page, 0: nowhere */
	bool broken;            /* a copy that had to go may still be there: drop the space */
	unsigned found;         /* pages mapped of late that are to be patched: */
	gva_t at[USER_FAST_FOUND];
};

/* NULL if out of memory. */
struct user_fast *user_fast_new(struct cpu *c, struct space_pool *pool);
void user_fast_free(struct user_fast *f);

/* A space, and its end, before the space itself goes. f may be NULL. */
void user_fast_attach(struct user_fast *f, struct user_fast_space *s);
void user_fast_detach(struct user_fast_space *s);

/* The shadow's operations, as in shadow.h. */
MUST_CHECK int user_fast_map(struct user_fast_space *s, gva_t va, u64 len, int prot, u64 ram_off);
MUST_CHECK int user_fast_protect(struct user_fast_space *s, gva_t va, u64 len, int prot);
MUST_CHECK int user_fast_unmap(struct user_fast_space *s, gva_t va, u64 len);

/* Before s runs: patch what has been found as it was mapped. */
void user_fast_settle(struct user_fast_space *s);
/* A system call has left s by a signal; the CPU's registers are those of that moment. */
void user_fast_note(struct user_fast_space *s);
/* What was read from a guest-physical page as code is out of date; ~0: from any. f may be NULL. */
void user_fast_code_gone(struct user_fast *f, gpa_t page);

#endif
