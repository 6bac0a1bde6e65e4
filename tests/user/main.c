/*
 *	user			all checks
 *	user --oracle		those QEMU TCG can pass
 *	user NAME...		these
 *	user --storm ...	storm.c
 *
 * Prints a line for each check, and "USER OK N" at the end if none failed.
 */
#define _GNU_SOURCE
#include "user.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SKIPPED 77
#define TIMEOUT 300 /* seconds for one check: a slow emulator on a busy host */

struct check {
	const char *name;
	void (*run)(void);
	bool hw;
};

static const struct check checks[] = {
#define CHECK_FUNCTION(f) {.name = #f, .run = f},
#ifdef __x86_64__
#define CHECK64(f)    {.name = #f, .run = f},
#define CHECK64_HW(f) {.name = #f, .run = f, .hw = true},
#else
#define CHECK64(f)
#define CHECK64_HW(f)
#endif
#define CHECK_HW(f) {.name = #f, .run = f, .hw = true},
#include "checks.def"
};

void fail(const char *file, int line, const char *fmt, ...)
{
	const char *base = strrchr(file, '/');
	va_list args;

	printf("  %s:%d: ", base ? base + 1 : file, line);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

void skip(const char *why)
{
	printf("  %s\n", why);
	fflush(stdout);
	_exit(SKIPPED);
}

void join(pid_t pid)
{
	int status;
	pid_t got;

	CHECK(pid > 0);
	while ((got = waitpid(pid, &status, 0)) < 0)
		;
	EQUAL(got, pid);
	EQUAL(status, 0);
}

void in_processes(unsigned n, void (*f)(unsigned))
{
	pid_t pids[64];
	unsigned i;

	CHECK(n <= LENGTH(pids));
	for (i = 0; i < n; i++) {
		pids[i] = fork();
		CHECK(pids[i] >= 0);
		if (!pids[i]) {
			f(i);
			_exit(0);
		}
	}
	for (i = 0; i < n; i++)
		join(pids[i]);
}

void *map_pages(unsigned long pages, int prot)
{
	void *p = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

u64 next_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void on_signal(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	CHECK(!sigaction(sig, &sa, NULL));
}

void set_timer(unsigned microseconds)
{
	struct itimerval t = {.it_interval.tv_usec = microseconds,
			      .it_value.tv_usec = microseconds};

	CHECK(!setitimer(ITIMER_REAL, &t, NULL));
}

/* True: it passed, or does not apply. */
static bool run(const struct check *check)
{
	double begin = now();
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		alarm(TIMEOUT);
		check->run();
		fflush(stdout);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	kill(-pid, SIGKILL); /* what a failed check has left */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		printf("skipped %s\n", check->name);
	else if (status)
		printf("FAILED %s (status %#x)\n", check->name, status);
	else
		printf("ok %s %.2f s\n", check->name, now() - begin);
	return !status || (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED);
}

static bool wanted(const struct check *check, int argc, char **argv)
{
	int i;

	if (argc < 2)
		return true;
	if (!strcmp(argv[1], "--oracle"))
		return !check->hw;
	for (i = 1; i < argc; i++) {
		if (!strcmp(check->name, argv[i]))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	unsigned i, n = 0, bad = 0;

	if (getenv("USER_EXEC")) /* process.c has executed us */
		return argc;
	if (argc > 2 && !strcmp(argv[1], "--storm"))
		return storm(argc - 2, argv + 2);
	for (i = 0; i < LENGTH(checks); i++) {
		if (!wanted(&checks[i], argc, argv))
			continue;
		bad += !run(&checks[i]);
		n++;
	}
	if (bad || !n)
		printf("USER FAILED %u of %u\n", bad, n);
	else
		printf("USER OK %u\n", n);
	return bad || !n;
}
