/*
 * --check-lockstep: translated blocks against the single-step engine. See lockstep.c.
 */
#ifndef RINGSHIFT_LOCKSTEP_H
#define RINGSHIFT_LOCKSTEP_H

#include "mmu.h"

struct bt;
struct cpu;
struct lockstep;

/* first: executions of every block that are checked. NULL if out of memory. */
struct lockstep *lockstep_new(struct bt *bt, u64 first);
void lockstep_free(struct lockstep *l);

/* If the execution of the block at c->rip is due for a check: run it both ways, compare, and leave
 * the CPU as translated code did (with bt.step set if the instruction at rip is still to be
 * stepped). False: nothing has happened, run it as usual. */
bool lockstep_run(struct lockstep *l);

/* mem.c: the single-step engine is about to access a page. Does not return if the access is a
 * device's and a comparison is on: its effects cannot be undone. */
void lockstep_note_access(struct lockstep *l, enum mmu_kind k, enum mmu_access access, gpa_t gpa);

#endif
