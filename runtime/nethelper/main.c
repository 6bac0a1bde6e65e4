/*
 * ringshift-net FD MONITOR OPTIONS: started by ringshift, not by hand. FD is the socket frames go
 * through, MONITOR the process to live as long as, OPTIONS what was given to -netdev user.
 *
 * The first thing it sends, the hello of net_wire.h, says that all is set up and the sandbox
 * closed. If that cannot be, it sends '!' and a line of text instead, and ends with status 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nat.h"
#include "resolv.h"
#include "sandbox.h"

#define WIRE 3

static NORETURN void fail(const char *text)
{
	fprintf(stderr, "ringshift-net: %s\n", text);
	_exit(1);
}

/* The monitor says it, in its own words. */
static NORETURN void fail_to_start(const char *text)
{
	char line[600];
	int n = snprintf(line, sizeof(line), "!%s", text);

	send(WIRE, line, (size_t)n, MSG_NOSIGNAL);
	_exit(1);
}

/* Signals of the terminal are the monitor's; its death is ours. */
static void live_with(pid_t monitor)
{
	static const int ignored[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGPIPE, SIGTSTP};

	for (unsigned i = 0; i < ARRAY_LEN(ignored); i++)
		signal(ignored[i], SIG_IGN);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		fail(strerror(errno));
	if (getppid() != monitor)
		_exit(1);
}

/* All descriptors but stderr and the wire, which becomes WIRE. It may be one of the first three, if
 * whoever started the monitor had closed them. */
static void keep_only(int wire)
{
	int safe = fcntl(wire, F_DUPFD, WIRE + 1), null = open("/dev/null", O_RDWR);

	if (safe < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 ||
	    (wire == STDERR_FILENO && dup2(null, STDERR_FILENO) < 0) || dup2(safe, WIRE) < 0 ||
	    close_range(WIRE + 1, ~0u, 0))
		fail(strerror(errno));
}

int main(int argc, char **argv)
{
	static struct keyval k;
	static struct net_user_opts opts;
	static struct net_wire wire;
	char err[512];
	struct nat *nat;
	int rc;

	if (argc != 4)
		fail("this is a part of ringshift, which starts it for -netdev user");
	live_with(atoi(argv[2]));
	keep_only(atoi(argv[1]));
	if (keyval_parse(&k, "-netdev", argv[3], "type", err, sizeof(err)) ||
	    net_user_parse(&k, &opts))
		fail_to_start(err);
	if (net_wire_init(&wire))
		fail_to_start("out of memory");
	resolv_remember();
	nat = nat_create(&opts, &wire, err, sizeof(err));
	if (!nat)
		fail_to_start(err);
	rc = sandbox_enter();
	if (rc) {
		snprintf(err, sizeof(err), "cannot enter the sandbox: %s", strerror(-rc));
		fail_to_start(err);
	}
	net_wire_begin(&wire, WIRE);
	rc = nat_run(nat);
	if (rc)
		fail(strerror(-rc));
	_exit(0);
}
