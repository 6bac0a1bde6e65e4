#define _GNU_SOURCE
#include "confine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "seccomp_filter.h"

#define FILTER_MAX 1024

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* newer C libraries name their arenas */
#endif

/* Those that are called most stand first: older kernels go through the list each time. */
static const struct sock_filter always[] = {
    ONLY_64_BIT_CALLS,
    /* User spaces, faults, mappings. */
    ALLOW(futex),
    ALLOW(sched_yield),
    ALLOW(rt_sigreturn),
    ALLOW_WITHOUT_ALL(mmap, 2, PROT_WRITE | PROT_EXEC),
    ALLOW(munmap),
    ALLOW_WITHOUT_ALL(mprotect, 2, PROT_WRITE | PROT_EXEC),
    ALLOW(clock_gettime),
    ALLOW(timer_settime),
    ALLOW(tgkill),
    ALLOW(kill),
    ALLOW(waitid),
    ALLOW(wait4),
    ALLOW(sched_setaffinity),
    ALLOW(sched_getaffinity),
    ALLOW(sched_setattr),
    ALLOW(sched_getattr),
    /* Descriptors that are open. */
    ALLOW(read),
    ALLOW(write),
    ALLOW(readv),
    ALLOW(writev),
    ALLOW(pread64),
    ALLOW(pwrite64),
    ALLOW(preadv),
    ALLOW(pwritev),
    ALLOW(preadv2),
    ALLOW(pwritev2),
    ALLOW(getrusage), /* has a write slept? */
    ALLOW(fdatasync),
    ALLOW(fsync),
    ALLOW(fallocate),
    ALLOW(ftruncate),
    ALLOW(lseek),
    ALLOW(fstat),
    ALLOW_WITH(newfstatat, 3, AT_EMPTY_PATH), /* fstat, as the C library calls it */
    ALLOW(fcntl),
    ALLOW(flock),
    ALLOW(dup),
    ALLOW(close),
    ALLOW(poll),
    ALLOW(ppoll),
    ALLOW(epoll_wait),
    ALLOW(epoll_pwait),
    ALLOW(epoll_ctl),
    ALLOW(eventfd2),
    ALLOW(accept),
    ALLOW(accept4),
    ALLOW(shutdown),
    ALLOW(recvfrom),
    ALLOW(recvmsg),
    ALLOW(sendto),
    ALLOW(sendmsg),
    ALLOW(getsockopt),
    ALLOW(setsockopt),
    ALLOW(getsockname),
    ALLOW(getpeername),
};

/* A terminal's modes; what can be read; a block device's holes. Not TIOCSTI, which types. */
static const u32 ioctls[] = {TCGETS,   TCSETS,     TCSETSW,    TCSETSF,   TCFLSH,
			     FIONREAD, TIOCGWINSZ, BLKDISCARD, BLKZEROOUT};

static const struct sock_filter rest[] = {
    /* Memory, threads, time, the end. */
    ALLOW(brk),
    ALLOW(mremap),
    ALLOW(madvise),
    ALLOW_WITH(clone, 0, CLONE_THREAD),
    ANSWER(clone3, SECCOMP_RET_ERRNO | ENOSYS), /* its flags are in memory: clone will do */
    ALLOW(set_robust_list),
    ALLOW(rseq),
    ALLOW_EITHER(prctl, 0, PR_SET_NAME, PR_SET_VMA),
    ALLOW(sigaltstack),
    ALLOW(rt_sigaction),
    ALLOW(rt_sigprocmask),
    ALLOW(rt_sigpending),
    ALLOW(rt_sigsuspend),
    ALLOW(rt_sigtimedwait),
    ALLOW(pause),
    ALLOW(tkill),
    ALLOW(restart_syscall),
    ALLOW(alarm),
    ALLOW(timerfd_create),
    ALLOW(timerfd_settime),
    ALLOW(getcpu),
    ALLOW(timer_gettime),
    ALLOW(timer_delete),
    ALLOW(clock_nanosleep),
    ALLOW(nanosleep),
    ALLOW(gettimeofday),
    ALLOW(getrandom),
    ALLOW(sysinfo), /* the C library's qsort */
    ALLOW(getpid),
    ALLOW(gettid),
    ALLOW(getuid),
    ALLOW(geteuid),
    ALLOW(exit),
    ALLOW(exit_group),
    END_ATTACKS_REFUSE_THE_REST,
};

static const struct sock_filter remove_files[] = {ALLOW(unlink), ALLOW(unlinkat)};
static const struct sock_filter open_files[] = {ALLOW(open), ALLOW(openat)};
static const struct sock_filter begin_connections[] = {ALLOW(connect)};
static const u32 families[] = {AF_UNIX, AF_INET, AF_INET6};

bool confine_can(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return false;
#else
	return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
#endif
}

struct program {
	struct sock_filter f[FILTER_MAX];
	unsigned short n;
};

static void put(struct program *p, const struct sock_filter *f, size_t n)
{
	BUG_ON(p->n + n > FILTER_MAX);
	memcpy(p->f + p->n, f, n * sizeof(*f));
	p->n += (unsigned short)n;
}
#define PUT(p, part) put(p, part, ARRAY_LEN(part))

/* The call nr is allowed if its argument is one of n. */
static void put_one_of(struct program *p, u32 nr, unsigned arg, const u32 *values, unsigned n)
{
	const struct sock_filter begin[] = {
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, (u8)(n + 3)),
	    FILTER_LOAD(FILTER_ARG(arg)),
	};
	const struct sock_filter end[] = {REFUSE, VERDICT(SECCOMP_RET_ALLOW)};

	PUT(p, begin);
	for (unsigned i = 0; i < n; i++) {
		const struct sock_filter is[] = {
		    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, values[i], (u8)(n - i), 0)};

		PUT(p, is);
	}
	PUT(p, end);
}

int confine(unsigned needs)
{
	struct program p = {.n = 0};
	struct sock_fprog prog = {.filter = p.f};

	PUT(&p, always);
	put_one_of(&p, __NR_ioctl, 1, ioctls, ARRAY_LEN(ioctls));
	if (needs & CONFINE_REMOVE)
		PUT(&p, remove_files);
	if (needs & CONFINE_OPEN)
		PUT(&p, open_files);
	if (needs & CONFINE_CONNECT) {
		PUT(&p, begin_connections);
		put_one_of(&p, __NR_socket, 0, families, ARRAY_LEN(families));
	}
	PUT(&p, rest);
	prog.len = p.n;
	tzset(); /* or gmtime would look for leap seconds in a file later */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* Older kernels would switch a mitigation on that costs the guest's kernel dear. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		    SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog))
		return -errno;
	return 0;
}
