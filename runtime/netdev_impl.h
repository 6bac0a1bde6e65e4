/*
 * What the types of network back ends have in common: netdev.c calls them through struct
 * netdev_type. Socket addresses are netdev_addr.c's.
 */
#ifndef RINGSHIFT_NETDEV_IMPL_H
#define RINGSHIFT_NETDEV_IMPL_H

#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "net_user_opts.h"
#include "net_wire.h"
#include "netdev.h"
#include "netdevs.h"
#include "vm.h"

struct net_address {
	union {
		struct sockaddr sa;
		struct sockaddr_un un;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
	socklen_t len;
};

/* All that is said about one back end. Strings belong to the keyval, but for id and text. */
struct netdev_opts {
	const char *id, *text;
	struct net_user_opts user;
	/* stream, socket */
	struct net_address addr;
	bool server;
	u64 reconnect; /* seconds, 0: never */
	int fd;        /* stream, socket, tap: -1 if there is none */
	/* tap */
	char ifname[IFNAMSIZ];
	bool vnet_hdr;
};

struct netdev_type {
	const char *name;
	/* -EINVAL and a line of text in the keyval. */
	int (*parse)(struct keyval *k, struct netdev_opts *o);
	/* NULL and a line of text. */
	struct netdev *(*create)(struct vm *vm, const struct netdev_opts *o, char *err,
				 size_t err_size);
};

extern const struct netdev_type netdev_user, netdev_stream, netdev_socket, netdev_tap;

/* A descriptor given on the command line: open, and not one of the first three. */
MUST_CHECK int netdev_get_fd(struct keyval *k, const char *key, int *fd);

/* "host:port", numeric or localhost; nothing in front of the colon means all addresses. */
MUST_CHECK bool net_address_inet(struct net_address *a, const char *host, const char *port);
MUST_CHECK bool net_address_unix(struct net_address *a, const char *path);
/* A listening socket, or one that is connected or (*pending) about to be: negative errno. */
MUST_CHECK int net_address_listen(const struct net_address *a);
MUST_CHECK int net_address_connect(const struct net_address *a, bool *pending);
/* What a socket is called in messages. */
void net_address_print(const struct net_address *a, char *buf, size_t size);

/*
 * A back end over a stream socket (netdev_stream.c). With a descriptor, it begins connected to it;
 * gone is called when the other end has closed it (NULL: nobody cares). The base of what
 * netdev_user makes.
 */
struct stream_setup {
	const struct netdev_opts *opts;
	int fd; /* ours from now on; -1: connect or listen as opts says */
	void (*gone)(void *opaque);
	void (*destroy)(void *opaque); /* after the socket has been closed */
	void *opaque;
};
struct netdev *netdev_stream_create(struct vm *vm, const struct stream_setup *setup, char *err,
				    size_t err_size);

#endif
