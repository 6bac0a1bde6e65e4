/*
 * Lowland: the first 8 TiB (less 1 GiB) of the address space, where the whole monitor lives, so
 * that the rest of the lower half is free to hold the upper half of a guest's address space. See
 * lowland.c.
 *
 * The layout is fixed and stands here. An executable built without lowland (sanitizers) and the
 * unit tests let the kernel choose addresses instead: lowland_at then gives NULL.
 */
#ifndef RINGSHIFT_LOWLAND_H
#define RINGSHIFT_LOWLAND_H

#include <pthread.h>

#include "base.h"

#define LOWLAND_END                                                                                \
	0x7ffc0000000ull /* 8 TiB - 1 GiB: host address of guest 0xffff_8800_0000_0000 */

/* Host code made at run time lies below 2 GiB, so that it reaches the vCPU context, which is on the
 * heap (brk, at most 1 GiB and a bit above the image at 4 MiB), by absolute addresses. */
#define LOWLAND_CODE         0x70000000ull
#define LOWLAND_CODE_SIZE    0x10000000
#define LOWLAND_TRANSLATIONS 0x74000000 /* within it: thunks come first */

/* The initial thread's stack: 8 MiB and room for the arguments and the environment, of which the
 * kernel takes at most 6 MiB (execve(2), "Limits on size of arguments"). */
#define LOWLAND_STACK       0x1000000000ull
#define LOWLAND_STACK_SIZE  0x1000000ull
#define LOWLAND_STACK_GUARD 0x10000ull /* inaccessible, at the low end, within the size */

/* Stacks of other threads: one slot each, guard included. */
#define LOWLAND_THREADS      0x2000000000ull
#define LOWLAND_THREAD_SLOT  0x1000000ull
#define LOWLAND_THREAD_SIZE  0x100000ull
#define LOWLAND_THREAD_SLOTS 64

/* The monitor's view of what it shares with user spaces (space_layout.h). */
#define LOWLAND_SPACES 0x3000000000ull

/* Guest RAM is one window: host = LOWLAND_RAM + guest-physical. */
#define LOWLAND_RAM     0x10000000000ull
#define LOWLAND_RAM_END 0x70000000000ull

/*
 * To be called first thing in main: keeps malloc on the heap, unmaps all that lies above lowland
 * (the old stack, vDSO, vvar), and checks. Negative errno and one line of text in err if the
 * process cannot be brought into that shape. Does nothing in a build without lowland.
 */
MUST_CHECK int lowland_enter(char *err, size_t err_size);

/* Check that nothing of the lower half at or above LOWLAND_END is mapped and the heap has room.
 * -EFAULT and a line of text if not; 0 in a process that was not started in lowland. */
MUST_CHECK int lowland_check(char *err, size_t err_size);

/* Is this process in lowland? */
bool lowland_active(void);

/* The fixed address for a mapping, or NULL (any) in a process that is not in lowland. */
void *lowland_at(u64 addr);

/* Print the memory map by area and say whether it is as it should be; exit status. */
int lowland_report(FILE *out);

/* A thread on a low stack, with all signals blocked but those of its own faults. */
struct lowland_thread {
	pthread_t id;
	int slot; /* of LOWLAND_THREADS; -1: libc's choice */
};
/* Negative errno on failure; lowland_thread_join, once, frees what it holds. */
MUST_CHECK int lowland_thread_create(struct lowland_thread *t, void *(*fn)(void *), void *arg);
void lowland_thread_join(struct lowland_thread *t);

#endif
