/*
 * Network back ends of the command line: -netdev TYPE,id=... and the back end half of -nic. The
 * types are in netdev_*.c; devices/netdev.h is what a card sees of them.
 */
#ifndef RINGSHIFT_NETDEVS_H
#define RINGSHIFT_NETDEVS_H

#include "keyval.h"

struct vm;
struct netdev;

/* -EINVAL and a line of text if a -netdev or -nic cannot be meant. */
MUST_CHECK int netdev_check(const char *opt, const char *arg, char *err, size_t err_size);

/* Make all back ends of vm->cfg. Negative errno and a line of text. */
MUST_CHECK int netdevs_create(struct vm *vm, char *err, size_t err_size);
/* All of -nic, with the cards in front of them. */
MUST_CHECK int nics_create(struct vm *vm, char *err, size_t err_size);
/* A line for each. */
void netdevs_list(struct vm *vm, FILE *out);
/* What they go on doing once the guest runs: of enum confine_need. */
unsigned netdevs_need(const struct vm *vm);
/* After the cards have gone. */
void netdevs_destroy(struct vm *vm);

/* "52:54:00:12:34:56" into mac, which is left alone if text is NULL. */
MUST_CHECK int net_parse_mac(struct keyval *k, const char *text, u8 mac[6]);

/* NULL if there is none of that name. */
struct netdev *netdev_find(struct vm *vm, const char *id);

/* Where the helper of -netdev user has to be: as the environment says, or beside the executable.
 * False: that is nowhere. */
bool netdev_user_helper(char *path, size_t size);

#endif
