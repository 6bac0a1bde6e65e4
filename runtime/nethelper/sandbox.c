/*
 * The sandbox of the helper. A guest that finds a hole in libslirp gains a process that can talk
 * to the network as the NAT it took over could, compute, and nothing else: no file or directory can
 * be opened, no program started, no other process touched, no memory made executable, no port
 * listened on, no socket made that is not IPv4's or IPv6's.
 *
 * Trying to start a program or touch another process ends the helper; what else is not listed
 * fails with EPERM, as libraries may try harmless things.
 */
#include <errno.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox.h"
#include "seccomp_filter.h"

#define MEMORY_MAX (1 * GIB)

static struct sock_filter filter[] = {
    ONLY_64_BIT_CALLS,
    /* Frames, sockets of the guest's connections. */
    ALLOW(poll),
    ALLOW(ppoll),
    ALLOW(recvfrom),
    ALLOW(sendto),
    ALLOW(recvmsg),
    ALLOW(sendmsg),
    ALLOW(read),
    ALLOW(write),
    ALLOW_EITHER(socket, 0, AF_INET, AF_INET6),
    ALLOW(connect),
    ALLOW(accept),
    ALLOW(accept4),
    ALLOW(shutdown),
    ALLOW(close),
    ALLOW(setsockopt),
    ALLOW(getsockopt),
    ALLOW(getsockname),
    ALLOW(getpeername),
    ALLOW(fcntl),
    ALLOW_EITHER(ioctl, 1, 0x541b, 0x5421), /* FIONREAD, FIONBIO */
    /* Time, memory, the end. */
    ALLOW(clock_gettime),
    ALLOW(gettimeofday),
    ALLOW(clock_nanosleep),
    ALLOW(brk),
    ALLOW_WITHOUT(mmap, 2, PROT_EXEC),
    ALLOW_WITHOUT(mprotect, 2, PROT_EXEC),
    ALLOW(munmap),
    ALLOW(mremap),
    ALLOW(madvise),
    ALLOW(futex),
    ALLOW(getrandom),
    ALLOW(rt_sigreturn),
    ALLOW(rt_sigprocmask),
    ALLOW(restart_syscall),
    ALLOW(getpid),
    ALLOW(gettid),
    ALLOW(exit),
    ALLOW(exit_group),
    END_ATTACKS_REFUSE_THE_REST,
};

static int limit(int what, rlim_t most)
{
	struct rlimit r;

	if (getrlimit(what, &r))
		return -errno;
	r.rlim_max = MIN(r.rlim_max, most);
	r.rlim_cur = MIN(r.rlim_cur, r.rlim_max);
	return setrlimit(what, &r) ? -errno : 0;
}

int sandbox_enter(void)
{
	const struct sock_fprog prog = {ARRAY_LEN(filter), filter};
	int rc = limit(RLIMIT_CORE, 0);

	rc = rc ? rc : limit(RLIMIT_NPROC, 0);
	rc = rc ? rc : limit(RLIMIT_AS, MEMORY_MAX);
	if (rc)
		return rc;
	if (prctl(PR_SET_DUMPABLE, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return -errno;
	return 0;
}
