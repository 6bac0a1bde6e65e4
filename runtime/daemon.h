/*
 * -daemonize: the command returns when the VM is ready, and the VM goes on without a terminal.
 */
#ifndef RINGSHIFT_DAEMON_H
#define RINGSHIFT_DAEMON_H

#include "base.h"

/* Before there are threads: the caller goes on in a child, in a session of its own, with a
 * descriptor for daemon_ready; the parent waits for that and ends, with the child's status if it
 * ends before. Negative errno. */
MUST_CHECK int daemon_begin(void);

/* Let the parent end; standard input, output and error lead nowhere from here on. fd -1: nothing.
 */
void daemon_ready(int fd);

#endif
