/*
 * Thunks: short host functions that run one ordinary guest instruction on the host CPU. See
 * thunk.c.
 */
#ifndef RINGSHIFT_THUNK_H
#define RINGSHIFT_THUNK_H

#include "cpu.h"

/* mem: host address that stands for the instruction's memory operand; ignored if it has none. */
typedef void thunk_fn(struct cpu *c, void *mem);

struct thunks;

/* code_area: fixed host address (room for 2 * THUNK_AREA_SIZE), or NULL for any. NULL on failure
 * with errno set. */
struct thunks *thunks_new(struct stats *stats, void *code_area);
void thunks_free(struct thunks *t);

#define THUNK_AREA_SIZE (32 * MIB)

/* The thunk of an instruction, made if need be; -ENOSPC if the area is full (flush and try again).
 */
MUST_CHECK int thunk_get(struct thunks *t, const struct insn *in, thunk_fn **out);
/* Forget all thunks: no pointer got before may be called after. */
void thunks_flush(struct thunks *t);

/*
 * Signals that thunks cause (SIGFPE, SIGILL, SIGSEGV, SIGBUS) become guest exceptions: each thread
 * that runs a CPU calls thunk_thread_enter first (gives it an alternate signal stack; the handlers
 * are process-wide) and thunk_thread_leave at the end. Negative errno.
 */
MUST_CHECK int thunk_thread_enter(struct thunks *t, struct cpu *c);
void thunk_thread_leave(struct thunks *t);
/* KICK_SIGNAL makes the thread leave guest code: kick runs in the handler, then translated code is
 * left at an instruction boundary if attention is set. Negative errno. */
#define KICK_SIGNAL SIGRTMIN
MUST_CHECK int thunk_catch_kick(struct thunks *t, void (*kick)(struct cpu *c));

/*
 * Run a thunk whose operand may be partly inaccessible because a mask suppresses faults. The
 * operand (len bytes at la) is laid out against guard pages so that the host CPU decides; a fault
 * it takes becomes the guest's #PF with error `pf_error` for reads or writes.
 */
struct masked_operand {
	gva_t la;
	unsigned len;
	unsigned first,
	    count; /* the accessible bytes [first, first+count): one end or none of it */
	u32 pf_error;
};
void *thunk_guard_operand(struct thunks *t, const struct masked_operand *m);

#endif
