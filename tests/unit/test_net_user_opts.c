/* What -netdev user takes, and what it refuses. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>

#include "net_user_opts.h"

static struct keyval k;
static struct net_user_opts o;
static char err[256];

static bool parse(const char *text)
{
	err[0] = 0;
	return !keyval_parse(&k, "-netdev", text, "type", err, sizeof(err)) &&
	       !net_user_parse(&k, &o);
}

static const char *text(struct in_addr a)
{
	static char buf[4][INET_ADDRSTRLEN];
	static unsigned n;

	return inet_ntop(AF_INET, &a, buf[n++ % 4], INET_ADDRSTRLEN);
}

Test(net_user_opts, defaults)
{
	cr_assert(parse("user,id=n"));
	cr_assert(o.ipv4 && o.ipv6 && !o.restricted);
	cr_assert_str_eq(text(o.net), "10.0.2.0");
	cr_assert_str_eq(text(o.mask), "255.255.255.0");
	cr_assert_str_eq(text(o.host), "10.0.2.2");
	cr_assert_str_eq(text(o.dns), "10.0.2.3");
	cr_assert_str_eq(text(o.dhcp), "10.0.2.15");
	cr_assert_eq(o.fwds, 0);
}

Test(net_user_opts, networks)
{
	cr_assert(parse("user,net=192.168.7.9/20"));
	cr_assert_str_eq(text(o.net), "192.168.0.0");
	cr_assert_str_eq(text(o.host), "192.168.0.2");
	cr_assert(
	    parse("user,net=10.1.0.0/255.255.0.0,host=10.1.9.9,dhcpstart=10.1.0.99,dns=10.1.1.1"));
	cr_assert_str_eq(text(o.mask), "255.255.0.0");
	cr_assert_str_eq(text(o.host), "10.1.9.9");
	cr_assert_not(parse("user,net=10.1.0.0/33"));
	cr_assert_not(parse("user,net=10.1.0.0/31"));
	cr_assert_not(parse("user,net=10.1.0.0/255.0.255.0"));
	cr_assert_not(parse("user,net=10.1.0"));
	cr_assert_not(parse("user,net=10.1.0.0/"));
	cr_assert_not(parse("user,host=10.0.3.2"));
	cr_assert_not(parse("user,dns=10.0.2.2"));
	cr_assert_not(parse("user,dhcpstart=10.0.2.3"));
}

Test(net_user_opts, families)
{
	cr_assert(parse("user,ipv6=off") && o.ipv4 && !o.ipv6);
	cr_assert(parse("user,ipv4=on") && o.ipv4 && !o.ipv6);
	cr_assert(parse("user,ipv6=on") && !o.ipv4 && o.ipv6);
	cr_assert(parse("user,ipv6=on,ipv4=on") && o.ipv4 && o.ipv6);
	cr_assert_not(parse("user,ipv6=off,ipv4=off"));
}

Test(net_user_opts, forwards)
{
	cr_assert(parse("user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-10.0.2.20:5353,"
			"hostfwd=::80-:8080"));
	cr_assert_eq(o.fwds, 3);
	cr_assert(!o.fwd[0].udp && o.fwd[0].host_port == 2222 && o.fwd[0].guest_port == 22);
	cr_assert_eq(o.fwd[0].host.s_addr, 0);
	cr_assert(o.fwd[1].udp && o.fwd[1].guest_port == 5353);
	cr_assert_str_eq(text(o.fwd[1].host), "127.0.0.1");
	cr_assert_str_eq(text(o.fwd[1].guest), "10.0.2.20");
	cr_assert(!o.fwd[2].udp && o.fwd[2].host_port == 80);
}

Test(net_user_opts, forwards_refused)
{
	static const char *const bad[] = {
	    "tcp",
	    "tcp:",
	    "tcp::22",
	    "tcp::22-",
	    "tcp::22-:",
	    "tcp::0-:22",
	    "tcp::22-:0",
	    "tcp::65536-:22",
	    "tcp::22-:x",
	    "tcp:a:22-:22",
	    "sctp::22-:22",
	    "tcp::-22-:22",
	    "tcp::22-:22x",
	    "tcp::22:-:22",
	    "tcp:1.2.3:22-:22",
	    "tcp::22-1.2.3:22",
	    "unix:/x-:22",
	    "",
	};
	char arg[100];

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		snprintf(arg, sizeof(arg), "user,hostfwd=%s", bad[i]);
		cr_assert_not(parse(arg), "%s", arg);
		cr_assert(strstr(err, "hostfwd="), "%s", err);
	}
}
