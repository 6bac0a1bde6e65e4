/*
 * What user programs ask of a kernel and of whatever runs both: memory touched first, processes,
 * pipes, protections, signals. Linked statically and run as the guest's first process, in place of
 * /init; bench/user.py packs it, starts it and reads the table it prints:
 *
 *	ROW name microseconds-per-operation
 *
 * each the best of several rounds. Runs as an ordinary program, too.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB  (1024 * 1024ul)

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void check(long ok, const char *what)
{
	if (ok >= 0)
		return;
	perror(what);
	exit(1);
}

static void *pages(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}

static void getpid_loop(unsigned n)
{
	while (n--)
		syscall(SYS_getppid);
}

/* A page each; huge pages off, so that it is the same on every kernel. */
static void first_touch(unsigned n)
{
	volatile char *p = pages(n * PAGE);

	madvise((void *)p, n * PAGE, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < n; i++)
		p[i * PAGE] = 1;
	munmap((void *)p, n * PAGE);
}

/* Again over pages that the program has had all the time. */
static void touch_again(unsigned n)
{
	static volatile char *p;

	if (!p)
		p = pages(n * PAGE);
	for (unsigned i = 0; i < n; i++)
		p[i * PAGE]++;
}

static void fork_exit(unsigned n)
{
	while (n--) {
		pid_t pid = fork();

		check(pid, "fork");
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
}

static void exec_each(unsigned n, char **argv)
{
	while (n--) {
		pid_t pid = fork();

		check(pid, "fork");
		if (!pid) {
			execv(argv[0], argv);
			_exit(127);
		}
		waitpid(pid, NULL, 0);
	}
}

static void exec_self(unsigned n)
{
	exec_each(n, (char *[]){"/rows", "exit", NULL});
}

static void exec_busybox(unsigned n)
{
	exec_each(n, (char *[]){"/bin/busybox", "true", NULL});
}

static void echo_bytes(int from, int to)
{
	char c;

	while (read(from, &c, 1) == 1)
		check(write(to, &c, 1), "write");
	_exit(0);
}

/* There and back between two processes. */
static void ping_pong(unsigned n)
{
	int there[2], back[2];
	pid_t pid;
	char c = 0;

	check(pipe(there), "pipe");
	check(pipe(back), "pipe");
	pid = fork();
	check(pid, "fork");
	if (!pid) {
		close(there[1]);
		close(back[0]);
		echo_bytes(there[0], back[1]);
	}
	close(there[0]);
	close(back[1]);
	while (n--) {
		check(write(there[1], &c, 1), "write");
		check(read(back[0], &c, 1), "read");
	}
	close(there[1]);
	close(back[0]);
	waitpid(pid, NULL, 0);
}

/* Protect a page, allow it again, write to it. */
static void protect(unsigned n)
{
	volatile char *p = pages(PAGE);

	while (n--) {
		check(mprotect((void *)p, PAGE, PROT_READ), "mprotect");
		check(mprotect((void *)p, PAGE, PROT_READ | PROT_WRITE), "mprotect");
		*p = 1;
	}
	munmap((void *)p, PAGE);
}

/* Map, write, unmap one page. */
static void map_unmap(unsigned n)
{
	while (n--) {
		volatile char *p = pages(PAGE);

		*p = 1;
		munmap((void *)p, PAGE);
	}
}

static void on_signal(int sig)
{
	(void)sig;
}

static void signal_self(unsigned n)
{
	pid_t me = getpid();

	signal(SIGUSR1, on_signal);
	while (n--)
		kill(me, SIGUSR1);
}

static const struct {
	const char *name;
	void (*run)(unsigned n);
	unsigned n, rounds;
} rows[] = {
    {"system call", getpid_loop, 20000, 5},
    {"first touch, a page of 64 MiB", first_touch, 64 * MIB / PAGE, 3},
    {"touch again, 16 MiB", touch_again, 16 * MIB / PAGE, 5},
    {"fork, exit, wait", fork_exit, 50, 5},
    {"fork, exec self, wait", exec_self, 30, 5},
    {"fork, exec busybox, wait", exec_busybox, 30, 5},
    {"pipe ping-pong", ping_pong, 1000, 5},
    {"mprotect twice, write", protect, 1000, 5},
    {"mmap, write, munmap", map_unmap, 1000, 5},
    {"signal to self", signal_self, 2000, 5},
};

static void measure(unsigned i)
{
	double best = 1e12;

	for (unsigned r = 0; r < rows[i].rounds; r++) {
		double t = now();

		rows[i].run(rows[i].n);
		t = (now() - t) / rows[i].n;
		if (t < best)
			best = t;
	}
	printf("ROW %s\t%.3f\n", rows[i].name, best);
	fflush(stdout);
}

/* Arguments: numbers of rows, all without. "rows=12" in the environment (the kernel puts unknown
 * command line words there) is the same for a first process. */
int main(int argc, char **argv)
{
	const char *only = getenv("rows");

	if (argc > 1 && !strcmp(argv[1], "exit"))
		return 0;
	if (argc > 1 && getpid() != 1)
		only = argv[1];
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!only || strchr(only, '0' + (int)i))
			measure(i);
	printf("ROWS END\n");
	fflush(stdout);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
