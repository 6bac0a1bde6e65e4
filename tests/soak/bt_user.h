/*
 * bt_step's part for accesses of the kernel to the user half: instructions, and the look at page
 * tables. Dirty bits must be the same on both machines; accessed bits may be set by accesses that
 * do not come about.
 */
#ifndef RINGSHIFT_TESTS_BT_USER_H
#define RINGSHIFT_TESTS_BT_USER_H

#include "cpu.h"

/* An instruction as in get_user, put_user and futexes, with the load of its address, which is often
 * such that it crosses from one of the three pages at `user` to the next; bytes put. */
unsigned user_insn(u64 *rng, gva_t user, u8 out[16]);

/* Clear A and D in all page tables of [first, end), and forget all translations. */
void tables_clean(struct cpu *c, gpa_t first, gpa_t end);
/* The number of entries that differ, which are printed. */
unsigned tables_compare(const struct cpu *bt, const struct cpu *step, gpa_t first, gpa_t end);

#endif
