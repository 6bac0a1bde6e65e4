/*
 * Host exceptions and kicks in translated code, as thunk_fault.c hands them over.
 */
#ifndef RINGSHIFT_RECOVER_H
#define RINGSHIFT_RECOVER_H

#include "cpu.h"

struct host_frame { /* the interrupted host state; changes are taken over */
	u64 gpr[16];
	u64 rip, rflags;
	u64 trapno, error, cr2;
};

enum recover_action {
	RECOVER_NOT_OURS, /* not in translated code, or nothing that could explain it */
	RECOVER_RESUME,   /* go on as the frame says */
};

/* Handler context: async-signal-safe, on the alternate stack. */
enum recover_action bt_on_fault(struct cpu *c, struct host_frame *f);
enum recover_action bt_on_kick(struct cpu *c, struct host_frame *f);

#endif
