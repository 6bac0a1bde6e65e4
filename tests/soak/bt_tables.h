/*
 * bt_step's look at page tables: dirty bits must be the same on both machines. (Accessed bits may be
 * set by accesses that do not come about.)
 */
#ifndef RINGSHIFT_TESTS_BT_TABLES_H
#define RINGSHIFT_TESTS_BT_TABLES_H

#include "cpu.h"

/* Clear A and D in all page tables of [first, end), and forget all translations. */
void tables_clean(struct cpu *c, gpa_t first, gpa_t end);
/* The number of entries that differ, which are printed. */
unsigned tables_compare(const struct cpu *bt, const struct cpu *step, gpa_t first, gpa_t end);

#endif
