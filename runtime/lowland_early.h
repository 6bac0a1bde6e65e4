/* Between lowland.S, lowland_early.c and lowland.c. */
#ifndef RINGSHIFT_LOWLAND_EARLY_H
#define RINGSHIFT_LOWLAND_EARLY_H

#include "lowland.h"

/* The process came in through lowland_start. */
extern bool lowland_started;
/* By how much the arguments are lower than where the kernel put them. */
extern u64 lowland_stack_moved;

/* Copy the initial stack at sp (argc) to the low stack; the RSP to go on with. Ends the process if
 * that cannot be done. */
u64 lowland_early(u64 *sp);

#endif
