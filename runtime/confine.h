/*
 * The monitor confines itself before the guest's first instruction: a guest that finds a hole in it
 * gains what the process holds open, and no more. No file is opened, no program started, no process
 * made or looked into, no connection begun, no memory writable and executable at a time. What a
 * command line asks for on top is allowed if it does ask. docs/security.md has the list.
 */
#ifndef RINGSHIFT_CONFINE_H
#define RINGSHIFT_CONFINE_H

#include "base.h"

/* What must still be possible. */
enum confine_need {
	CONFINE_REMOVE = 1,  /* remove files: sockets and the pid file, at the end */
	CONFINE_CONNECT = 2, /* begin connections, again and again */
	CONFINE_OPEN = 4,    /* open and make files: QMP's pmemsave */
};

/* All threads of this process, for good. needs: of enum confine_need. Negative errno if the host
 * does not take the filter. */
MUST_CHECK int confine(unsigned needs);

/* Is there any point in trying? Not with sanitizers, which look into /proc when they please, and
 * not on a host without seccomp. */
bool confine_can(void);

#endif
