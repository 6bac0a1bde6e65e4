/*
 * What -netdev user says. The monitor parses it to refuse what makes no sense; the helper, which
 * does the work, parses the same text again.
 */
#ifndef RINGSHIFT_NET_USER_OPTS_H
#define RINGSHIFT_NET_USER_OPTS_H

#include <netinet/in.h>

#include "keyval.h"

#define NET_FWD_MAX    24 /* each takes one of KEYVAL_MAX items */
#define NET_SEARCH_MAX 8

/* A port of the host that leads into the guest. A guest address of 0: the first that DHCP gives. */
struct net_fwd {
	bool udp;
	struct in_addr host, guest;
	u16 host_port, guest_port;
};

/* Strings belong to the keyval. */
struct net_user_opts {
	bool ipv4, ipv6, restricted;
	struct in_addr net, mask, host, dhcp, dns;
	struct in6_addr prefix6, host6, dns6;
	u8 prefix6_len;
	const char *hostname, *domain; /* NULL if not given */
	const char *search[NET_SEARCH_MAX + 1];
	unsigned fwds;
	struct net_fwd fwd[NET_FWD_MAX];
};

MUST_CHECK int net_user_parse(struct keyval *k, struct net_user_opts *o);

#endif
