/*
 * The keys of -netdev user, with QEMU's names, defaults and rules.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "net_user_opts.h"

static bool address(const char *text, struct in_addr *a)
{
	return inet_pton(AF_INET, text, a) == 1;
}

static int get_address(struct keyval *k, const char *key, struct in_addr *a)
{
	const char *val = keyval_get(k, key);

	if (val && !address(val, a))
		return keyval_fail(k, "%s=%s: not an IPv4 address", key, val);
	return 0;
}

static int get_address6(struct keyval *k, const char *key, struct in6_addr *a)
{
	const char *val = keyval_get(k, key);

	if (val && inet_pton(AF_INET6, val, a) != 1)
		return keyval_fail(k, "%s=%s: not an IPv6 address", key, val);
	return 0;
}

static struct in_addr make(u32 host_order)
{
	return (struct in_addr){htonl(host_order)};
}

/* "10.0.2.0/24", "10.0.2.0/255.255.255.0", "10.0.2.0". */
static int get_net(struct keyval *k, struct net_user_opts *o)
{
	const char *val = keyval_get(k, "net"), *slash;
	char text[32], *end;
	unsigned long bits = 24;

	o->net = make(0x0a000200);
	o->mask = make(0xffffff00);
	if (!val)
		return 0;
	slash = strchr(val, '/');
	snprintf(text, sizeof(text), "%.*s", slash ? (int)(slash - val) : (int)strlen(val), val);
	if (strlen(val) >= sizeof(text) || !address(text, &o->net))
		return keyval_fail(k, "net=%s: not an IPv4 network", val);
	if (slash && strchr(slash, '.')) {
		u32 holes;

		if (!address(slash + 1, &o->mask))
			return keyval_fail(k, "net=%s: the mask is not one", val);
		holes = ~ntohl(o->mask.s_addr);
		if (holes & (holes + 1))
			return keyval_fail(k, "net=%s: the mask has holes", val);
	} else if (slash) {
		bits = strtoul(slash + 1, &end, 10);
		if (*end || end == slash + 1 || bits < 4)
			bits = 0;
	}
	if (!bits || bits > 30 || ~ntohl(o->mask.s_addr) < 3)
		return keyval_fail(k, "net=%s: a network of /4 to /30 is what it takes", val);
	if (!slash || !strchr(slash, '.'))
		o->mask = make(~0u << (32 - bits));
	o->net.s_addr &= o->mask.s_addr;
	return 0;
}

static bool outside(const struct net_user_opts *o, struct in_addr a)
{
	return (a.s_addr & o->mask.s_addr) != o->net.s_addr;
}

static int get_ipv4(struct keyval *k, struct net_user_opts *o)
{
	int rc = get_net(k, o);
	u32 net = ntohl(o->net.s_addr), hosts = ~ntohl(o->mask.s_addr);

	o->host = make(net | (2 & hosts));
	o->dns = make(net | (3 & hosts));
	o->dhcp = make(net | (15 & hosts));
	rc = rc ? rc : get_address(k, "host", &o->host);
	rc = rc ? rc : get_address(k, "dns", &o->dns);
	rc = rc ? rc : get_address(k, "dhcpstart", &o->dhcp);
	if (rc)
		return rc;
	if (outside(o, o->host))
		return keyval_fail(k, "host= is not in the network");
	if (outside(o, o->dns) || o->dns.s_addr == o->host.s_addr)
		return keyval_fail(k, "dns= is not in the network, or the host's address");
	if (outside(o, o->dhcp) || o->dhcp.s_addr == o->host.s_addr ||
	    o->dhcp.s_addr == o->dns.s_addr)
		return keyval_fail(k, "dhcpstart= is not in the network, or the host's or the "
				      "name server's address");
	return 0;
}

static int get_ipv6(struct keyval *k, struct net_user_opts *o)
{
	const char *prefix = keyval_get(k, "ipv6-prefix");
	u64 len = 64;
	int rc;

	if (inet_pton(AF_INET6, prefix ? prefix : "fec0::", &o->prefix6) != 1)
		return keyval_fail(k, "ipv6-prefix=%s: not an IPv6 address", prefix);
	rc = keyval_number(k, "ipv6-prefixlen", &len, 126);
	o->prefix6_len = (u8)len;
	o->host6 = o->dns6 = o->prefix6;
	o->host6.s6_addr[15] |= 2;
	o->dns6.s6_addr[15] |= 3;
	rc = rc ? rc : get_address6(k, "ipv6-host", &o->host6);
	return rc ? rc : get_address6(k, "ipv6-dns", &o->dns6);
}

/* "[addr]:port" up to the end character; where it ends, NULL if it is none. */
static const char *endpoint(const char *s, char end, struct in_addr *a, u16 *port)
{
	size_t len = strcspn(s, ":");
	char text[32], *stop;
	unsigned long n;

	if (s[len] != ':' || len >= sizeof(text))
		return NULL;
	snprintf(text, sizeof(text), "%.*s", (int)len, s);
	a->s_addr = INADDR_ANY;
	if (len && !address(text, a))
		return NULL;
	s += len + 1;
	n = strtoul(s, &stop, 10);
	if (stop == s || *stop != end || n > 65535 || !n || *s == '-' || *s == '+')
		return NULL;
	*port = (u16)n;
	return end ? stop + 1 : stop;
}

static bool parse_fwd(const char *s, struct net_fwd *f)
{
	size_t len = strcspn(s, ":");

	f->udp = len == 3 && !strncmp(s, "udp", 3);
	if (s[len] != ':' || (len && !f->udp && (len != 3 || strncmp(s, "tcp", 3))))
		return false;
	s = endpoint(s + len + 1, '-', &f->host, &f->host_port);
	return s && endpoint(s, 0, &f->guest, &f->guest_port);
}

static int get_fwds(struct keyval *k, struct net_user_opts *o)
{
	for (unsigned i = 0; i < k->count; i++) {
		const char *val = k->kv[i].val;

		if (strcmp(k->kv[i].key, "hostfwd"))
			continue;
		k->kv[i].used = true;
		if (o->fwds == NET_FWD_MAX)
			return keyval_fail(k, "more than %d hostfwd", NET_FWD_MAX);
		if (!parse_fwd(val, &o->fwd[o->fwds++]))
			return keyval_fail(k,
					   "hostfwd=%s: not of the form "
					   "[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
					   val);
	}
	return 0;
}

static int get_search(struct keyval *k, struct net_user_opts *o)
{
	unsigned n = 0;

	for (unsigned i = 0; i < k->count; i++) {
		if (strcmp(k->kv[i].key, "dnssearch"))
			continue;
		k->kv[i].used = true;
		if (n == NET_SEARCH_MAX)
			return keyval_fail(k, "more than %d dnssearch", NET_SEARCH_MAX);
		o->search[n++] = k->kv[i].val;
	}
	return 0;
}

int net_user_parse(struct keyval *k, struct net_user_opts *o)
{
	int rc;

	memset(o, 0, sizeof(*o));
	o->ipv4 = o->ipv6 = true;
	o->hostname = keyval_get(k, "hostname");
	o->domain = keyval_get(k, "domainname");
	rc = keyval_bool(k, "ipv4", &o->ipv4);
	rc = rc ? rc : keyval_bool(k, "ipv6", &o->ipv6);
	/* If only one is said to be on, the other is off. */
	if (!rc && keyval_get(k, "ipv4") && !keyval_get(k, "ipv6"))
		o->ipv6 = !o->ipv4;
	if (!rc && keyval_get(k, "ipv6") && !keyval_get(k, "ipv4"))
		o->ipv4 = !o->ipv6;
	rc = rc ? rc : keyval_bool(k, "restrict", &o->restricted);
	rc = rc ? rc : get_ipv4(k, o);
	rc = rc ? rc : get_ipv6(k, o);
	rc = rc ? rc : get_fwds(k, o);
	rc = rc ? rc : get_search(k, o);
	if (!rc && !o->ipv4 && !o->ipv6)
		return keyval_fail(k, "both ipv4 and ipv6 are off");
	return rc;
}
