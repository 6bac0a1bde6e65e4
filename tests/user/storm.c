/*
 * Much of one thing, for the host side to look at what is left afterwards:
 *
 *	fork N		N times fork, exec (this program), wait
 *	robin N S	N processes that run in turn for S seconds
 *	map N		map, touch and unmap N scattered pages
 *	pressure M	touch M MiB in a child; it may be killed for it
 *	twins N		N times two threads, one of which unmaps what the other uses
 */
#define _GNU_SOURCE
#include "user.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)

static void storm_fork(unsigned long n)
{
	char *argv[] = {"user", "x", "y", NULL}, *envp[] = {"USER_EXEC=1", NULL};
	unsigned long i;
	int status;

	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			execve("/proc/self/exe", argv, envp);
			_exit(0);
		}
		EQUAL(waitpid(pid, &status, 0), pid);
		EQUAL(status, 3 << 8);
	}
}

static double robin_end;

static void robin(unsigned id)
{
	u64 *p = map_pages(8, RW), n = 0;
	unsigned i;

	while (now() < robin_end || !n) {
		for (i = 0; i < 8; i++) {
			EQUAL(p[i * 512 + id], n);
			p[i * 512 + id]++;
		}
		n++;
		sched_yield();
	}
}

/* Every page of one in sixteen: nothing merges. */
static void storm_map(unsigned long n)
{
	const unsigned long window = 4096, spread = 16;
	u8 *base = map_pages(window * spread, PROT_NONE);
	unsigned long i;

	for (i = 0; i < n; i++) {
		u8 *p = base + i * 37 % window * spread * PAGE;

		if (i >= window / 2) {
			u8 *old = base + (i - window / 2) * 37 % window * spread * PAGE;

			EQUAL(*old, (u8)(i - window / 2));
			CHECK(mmap(old, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				   -1, 0) == old);
		}
		CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
		EQUAL(*p, 0);
		*p = (u8)i;
	}
}

static void storm_pressure(unsigned long mib)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		unsigned long i, n = (mib << 20) / PAGE;
		u8 *p =
		    mmap(NULL, n * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		CHECK(p != MAP_FAILED);
		for (i = 0; i < n; i++)
			p[i * PAGE] = (u8)i;
		for (i = 0; i < n; i++)
			EQUAL(p[i * PAGE], (u8)i);
		_exit(0);
	}
	EQUAL(waitpid(pid, &status, 0), pid);
	printf("pressure: status %#x\n", status);
	CHECK(status == SIGKILL || status == 0);
}

static u8 *volatile used;
static volatile bool done;

static void *use(void *arg)
{
	while (!done)
		used[0]++;
	return arg;
}

static void storm_twins(unsigned long n)
{
	u8 *p = map_pages(1, RW);
	pthread_t t;
	unsigned long i;

	used = p;
	CHECK(!pthread_create(&t, NULL, use, NULL));
	for (i = 0; i < n; i++) {
		u8 *q = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(q != MAP_FAILED);
		CHECK(mremap(q, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p);
	}
	done = true;
	CHECK(!pthread_join(t, NULL));
}

int storm(int argc, char **argv)
{
	unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;

	CHECK(n);
	if (!strcmp(argv[0], "fork")) {
		storm_fork(n);
	} else if (!strcmp(argv[0], "robin")) {
		robin_end = now() + (argc > 2 ? atoi(argv[2]) : 5);
		in_processes((unsigned)n, robin);
	} else if (!strcmp(argv[0], "map")) {
		storm_map(n);
	} else if (!strcmp(argv[0], "pressure")) {
		storm_pressure(n);
	} else if (!strcmp(argv[0], "state")) {
		state_storm((double)n);
	} else if (!strcmp(argv[0], "twins")) {
		storm_twins(n);
	} else {
		fail(__FILE__, __LINE__, "no storm is called %s", argv[0]);
	}
	printf("STORM OK %s\n", argv[0]);
	return 0;
}
