/*
 * Waiting for other processes: futexes in shared memory, bounded spinning, CPU clocks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "space_impl.h"

#define SPIN_TICKS 60000 /* some 20 us: a sleeping waiter costs about as much to wake */

static long futex(_Atomic u32 *word, int op, u32 val, const void *timeout, u32 *word2, u32 val3)
{
	return syscall(SYS_futex, word, op, val, timeout, word2, val3);
}

int space_futex_wake(_Atomic u32 *word)
{
	return (int)futex(word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void space_futex_wait(_Atomic u32 *word, u32 value, unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	futex(word, FUTEX_WAIT, value, &t, NULL, 0);
}

bool space_futex_move(_Atomic u32 *from, u32 value, u32 *to)
{
	/* Wake none, move one: the fourth argument is a number here. */
	return futex(from, FUTEX_CMP_REQUEUE, 0, (void *)1, to, value) == 1;
}

u64 space_ticks(void)
{
	return __builtin_ia32_rdtsc();
}

u64 space_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

u64 space_cpu_us(pid_t pid)
{
	struct timespec t;

	/* The clock id of a process: clock_getcpuclockid(3), which is one more system call. */
	if (clock_gettime((clockid_t)(~(unsigned)pid << 3 | 2), &t))
		return 0;
	return (u64)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

bool space_gone(pid_t pid)
{
	siginfo_t info = {.si_pid = 0};
	int ret = waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL);

	if (ret < 0)
		return errno == ECHILD;
	/* A stop of a task that this process traces is reported, too. */
	return info.si_pid && (info.si_code == CLD_EXITED || info.si_code == CLD_KILLED ||
			       info.si_code == CLD_DUMPED);
}

u32 space_spin_limit(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1)
		return 0;
	return sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_TICKS : 0;
}
