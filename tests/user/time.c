/* Clocks agree with each other, and none runs backwards. */
#define _GNU_SOURCE
#include "user.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile u64 *newest; /* shared by the processes */

static void watch_tsc(unsigned id)
{
	double end = now() + 1;
	u64 last = 0, t;
	unsigned i = id;

	do {
		u64 seen = *newest; /* another process read that before */

		t = rdtsc();
		CHECK(t >= last);
		CHECK(t >= seen);
		*newest = last = t;
		if (++i % 64 == 0)
			sched_yield();
	} while (i % 4096 || now() < end);
}

void time_tsc(void)
{
	newest = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(newest != MAP_FAILED);
	in_processes(3, watch_tsc);
}

static double clock_of(clockid_t id, bool by_syscall)
{
	struct timespec t;

	if (by_syscall)
		CHECK(!syscall(SYS_clock_gettime, id, &t));
	else
		CHECK(!clock_gettime(id, &t));
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Ticks per second, measured for about half a second. The shortest of some tries bounds the time
 * between the two clocks' readings. */
static double tsc_rate(void)
{
	double t0 = 0, t1 = 0;
	u64 c0 = 0, c1 = 0, best = ~0ull, a, b;
	unsigned side, i;

	for (side = 0; side < 2; side++, best = ~0ull) {
		for (i = 0; i < 50; i++) {
			double t;

			a = rdtsc();
			t = clock_of(CLOCK_MONOTONIC, false);
			b = rdtsc();
			if (b - a >= best)
				continue;
			best = b - a;
			*(side ? &t1 : &t0) = t;
			*(side ? &c1 : &c0) = a + best / 2;
		}
		if (!side)
			usleep(500000);
	}
	return (double)(c1 - c0) / (t1 - t0);
}

void time_clocks(void)
{
	double first = tsc_rate(), second = tsc_rate(), last = 0, real, mono;
	unsigned i;

	if (second / first < 0.99 || second / first > 1.01)
		fail(__FILE__, __LINE__, "TSC at %.0f, then at %.0f", first, second);
	for (i = 0; i < 20000; i++) {
		double t = clock_of(CLOCK_MONOTONIC, i % 16 == 0);

		if (t < last)
			fail(__FILE__, __LINE__, "CLOCK_MONOTONIC: %.9f after %.9f", t, last);
		last = t;
	}
	real = clock_of(CLOCK_REALTIME, false) - clock_of(CLOCK_MONOTONIC, false);
	usleep(300000);
	mono = clock_of(CLOCK_REALTIME, false) - clock_of(CLOCK_MONOTONIC, false);
	CHECK(mono - real < 0.05 && real - mono < 0.05);
}

void time_sleep(void)
{
	struct timespec t = {.tv_nsec = 20000000};
	double begin = now(), cpu;
	unsigned i;

	for (i = 0; i < 10; i++)
		CHECK(!nanosleep(&t, NULL));
	CHECK(now() - begin >= 0.2 && now() - begin < 20);
	cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID, false);
	for (begin = now(); now() < begin + 0.3;)
		;
	CHECK(clock_of(CLOCK_PROCESS_CPUTIME_ID, false) - cpu > 0.02);
}
