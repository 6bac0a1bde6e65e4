/*
 * Ring 3 of the guest on the host's own processor: user spaces by CR3, what goes in and comes out
 * of them. See user.c.
 */
#ifndef RINGSHIFT_USER_H
#define RINGSHIFT_USER_H

#include "cpu.h"

struct user;

/*
 * Make spaces for a CPU whose engine exists. To be called before the process has threads. Negative
 * errno and a line of text in err if the host does not let us: the CPU is then as before. fast: hot
 * system calls are patched (user_fast.c).
 */
MUST_CHECK int user_init(struct user **out, struct cpu *c, bool fast, char *err, size_t errlen);
void user_free(struct user *u);

/* The spaces there are, one a line. */
void user_print(const struct user *u, FILE *out);

/* For cpu_ops. */
bool user_run(struct user *u);
void user_fetch_vec(struct user *u);

/* In a signal handler on the vCPU's thread: have user_run come back soon. u may be NULL. */
void user_kick(struct user *u);

#endif
