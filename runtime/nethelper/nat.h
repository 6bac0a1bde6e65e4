/*
 * ringshift-net, the network helper: a NAT between one virtual machine and the host's sockets.
 *
 *	main.c     start: options, sandbox, the loop
 *	nat.c      libslirp: sockets, timers, frames in and out
 *	mangle.c   frames made to fit libslirp, and what it sends made to fit a card
 *	sandbox.c  what the process gives up before it looks at the first frame
 *	resolv.c   the host's name servers, remembered from before that
 */
#ifndef RINGSHIFT_NETHELPER_NAT_H
#define RINGSHIFT_NETHELPER_NAT_H

#include "net_user_opts.h"
#include "net_wire.h"

struct nat;

/* Begin: libslirp with all ports forwarded that are asked for. NULL and a line of text. */
struct nat *nat_create(const struct net_user_opts *o, struct net_wire *wire, char *err,
		       size_t err_size);
/* Work until the monitor is gone: errno, 0 if it has closed its end. */
int nat_run(struct nat *nat);

#endif
