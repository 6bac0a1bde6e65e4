/*
 * The zygote: a child that gives up everything it inherited, address space included, and from then
 * on only clones spaces. What it does in C ends with a jump into its copy of the stub; the rest is
 * a script.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "space_impl.h"

#define START_MS 5000

/* Where the zygote's stub may lie: no place of a space, and free in the monitor. */
static const u64 zygote_place[] = {0x50000000, 0x58000000, 0x68000000, 0x6f000000};

static u64 find_place(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(zygote_place); i++) {
		void *at = (void *)zygote_place[i];
		void *p = mmap(at, SPACE_SIZE, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == MAP_FAILED)
			continue;
		munmap(p, SPACE_SIZE);
		if (p == at)
			return zygote_place[i];
	}
	return 0;
}

/* What the kernel keeps of the C library by address: it would be written to after it is gone. */
static int forget_libc(void)
{
	static const unsigned rseq_size[] = {32, 20, 24, 28};
	void *rseq = (u8 *)__builtin_thread_pointer() + __rseq_offset;
	int ret = 0;

	syscall(SYS_set_robust_list, NULL, 24);
	if (__rseq_size) {
		ret = syscall(SYS_rseq, rseq, __rseq_size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
		for (unsigned i = 0; ret && i < ARRAY_LEN(rseq_size); i++)
			ret = syscall(SYS_rseq, rseq, rseq_size[i], RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
	}
	return ret;
}

/* Only three descriptors stay, at their fixed numbers; errno on failure. */
static int keep_fds(int ram_fd, const struct space_pool *p)
{
	int ram = fcntl(ram_fd, F_DUPFD, 10), copies = fcntl(p->copies_fd, F_DUPFD, 10);
	int pool = fcntl(p->fd, F_DUPFD, 10);

	if (ram < 0 || copies < 0 || pool < 0)
		return -1;
	if (dup2(ram, SPACE_RAM_FD) < 0 || dup2(copies, SPACE_COPIES_FD) < 0 ||
	    dup2(pool, SPACE_POOL_FD) < 0)
		return -1;
	return syscall(SYS_close_range, SPACE_POOL_FD + 1, ~0u, 0);
}

static void forget_signals(void)
{
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int map_stub(const struct space_pool *pool)
{
	u8 *at = (u8 *)pool->zygote.base;
	const int flags = MAP_SHARED | MAP_FIXED_NOREPLACE;

	if (mmap(at, SPACE_CODE_SIZE, PROT_READ | PROT_EXEC, flags, SPACE_POOL_FD, 0) != at ||
	    mmap(at + SPACE_CTL, SPACE_STATE - SPACE_CTL, PROT_READ, flags, SPACE_POOL_FD,
		 SPACE_CTL) == MAP_FAILED ||
	    mmap(at + SPACE_STATE, SPACE_SIZE - SPACE_STATE, PROT_READ | PROT_WRITE, flags,
		 SPACE_POOL_FD, SPACE_STATE) == MAP_FAILED)
		return -1;
	return 0;
}

/* The life of the zygote. */
static NORETURN void zygote_main(const struct space_pool *pool, int ram_fd)
{
	register u64 base asm("r15") = pool->zygote.base;
	u64 script = base + SPACE_SETUP + offsetof(struct space_setup, mapper);
	u64 code = base + (space_stub_script - space_stub);

	forget_signals();
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != pool->monitor)
		_exit(1);
	prctl(PR_SET_NAME, "ringshift-space");
	prctl(PR_SET_DUMPABLE, 0);
	setpgid(0, 0); /* the terminal's signals are the monitor's */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || keep_fds(ram_fd, pool) || map_stub(pool) ||
	    forget_libc()) {
		atomic_store(&space_state(&pool->zygote)->fail_rax, (u64)-errno);
		_exit(1);
	}
	asm volatile("jmp *%[code]" : : [code] "r"(code), "b"(script), "r"(base) : "memory");
	__builtin_unreachable();
}

/* Wait until the zygote's mapper loop says that it is there. */
static int await_start(struct space_pool *pool, char *err, size_t err_size)
{
	struct space_state *st = space_state(&pool->zygote);
	u64 end = space_now_ms() + START_MS;

	while (atomic_load(&st->ack) != 0) {
		s64 why = atomic_load(&st->fail_rax);

		if (space_gone(pool->zygote.mapper)) {
			pool->zygote.dead = true;
			snprintf(err, err_size, "the process user spaces are cloned from ended: %s",
				 why ? strerror(-why) : "killed");
			return -ENOTSUP;
		}
		if (space_now_ms() > end) {
			snprintf(err, err_size, "the zygote of user spaces does not start");
			return -ETIMEDOUT;
		}
		space_futex_wait(&st->ack, ~0u, 1);
	}
	return 0;
}

int space_zygote_start(struct space_pool *pool, int ram_fd, char *err, size_t err_size)
{
	struct space *z = &pool->zygote;
	pid_t pid;

	z->base = find_place();
	if (!z->base) {
		snprintf(err, err_size, "no place below 2 GiB for the zygote of user spaces");
		return -ENOTSUP;
	}
	atomic_store(&space_state(z)->ack, ~0u);
	atomic_store(&space_state(z)->k_waits, 1);
	space_script_zygote(z);
	/* Not fork(3): no handlers of libraries, no SIGCHLD when a space dies. */
	pid = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
	if (pid == 0)
		zygote_main(pool, ram_fd);
	if (pid < 0) {
		int ret = -errno;

		snprintf(err, err_size, "cannot fork: %s", strerror(-ret));
		return ret;
	}
	z->mapper = pid;
	return await_start(pool, err, err_size);
}
