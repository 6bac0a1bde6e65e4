/* Threads: futexes in all their uses, thread-local storage, locked instructions. */
#define _GNU_SOURCE
#include "user.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long total, turn;

static void in_threads(unsigned n, void *(*f)(void *))
{
	pthread_t threads[64];
	unsigned long i;
	void *rc;

	CHECK(n <= LENGTH(threads));
	for (i = 0; i < n; i++)
		CHECK(!pthread_create(&threads[i], NULL, f, (void *)i));
	for (i = 0; i < n; i++) {
		CHECK(!pthread_join(threads[i], &rc));
		EQUAL((unsigned long)rc, i + 1);
	}
}

static void *add(void *arg)
{
	unsigned i;

	for (i = 0; i < 20000; i++) {
		pthread_mutex_lock(&lock);
		total++;
		if (i % 1000 == 0)
			sched_yield(); /* with the lock held: others have to sleep */
		pthread_mutex_unlock(&lock);
	}
	return (u8 *)arg + 1;
}

void threads_mutex(void)
{
	in_threads(THREADS, add);
	EQUAL(total, THREADS * 20000);
}

static void *take_turns(void *arg)
{
	unsigned i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < 500; i++) {
		while (turn % 4 != (unsigned long)arg)
			pthread_cond_wait(&changed, &lock);
		turn++;
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	return (u8 *)arg + 1;
}

void threads_condition(void)
{
	struct timespec t;
	double begin;

	in_threads(4, take_turns);
	EQUAL(turn, 2000);
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec++;
	begin = now();
	pthread_mutex_lock(&lock);
	EQUAL(pthread_cond_timedwait(&changed, &lock, &t), ETIMEDOUT);
	CHECK(now() - begin > 0.9 && now() - begin < 30);
}

static __thread unsigned long local = 5, block[100];

static void *use_local(void *arg)
{
	unsigned i, round;

	EQUAL(local, 5);
	for (round = 0; round < 200; round++) {
		for (i = 0; i < 100; i++)
			block[i] = (unsigned long)arg * 1000 + i + round;
		local = (unsigned long)arg;
		if (round % 4 == 0)
			sched_yield();
		for (i = 0; i < 100; i++)
			EQUAL(block[i], (unsigned long)arg * 1000 + i + round);
		EQUAL(local, (unsigned long)arg);
	}
	return (u8 *)arg + 1;
}

void threads_local(void)
{
	in_threads(THREADS, use_local);
	EQUAL(local, 5);
}

static void *nothing(void *arg)
{
	return (u8 *)arg + 1;
}

void threads_many(void)
{
	unsigned i;

	for (i = 0; i < 20; i++)
		in_threads(50, nothing);
}

static atomic_ulong counter;
#ifdef __x86_64__
static u64 pair[2] __attribute__((aligned(16)));
#endif
static u8 across[128] __attribute__((aligned(64)));

static void *count(void *arg)
{
	unsigned i;

	for (i = 0; i < 300000; i++) {
		atomic_fetch_add(&counter, 1);
#ifdef __x86_64__
		if (i % 16 == 0) {
			u64 low = pair[0], high = pair[1];
			bool done;

			do
				__asm__ volatile("lock cmpxchg16b %2"
						 : "+a"(low), "+d"(high), "+m"(pair), "=@ccz"(done)
						 : "b"(low + 1), "c"(high + 2));
			while (!done);
		}
#endif
		if (i % 64 == 0) /* across two cache lines */
			__asm__ volatile("lock incl %0" : "+m"(*(u32 *)(across + 62)));
	}
	return (u8 *)arg + 1;
}

void threads_atomics(void)
{
	u32 got;

	in_threads(4, count);
	EQUAL(counter, 4 * 300000);
	memcpy(&got, across + 62, 4);
	EQUAL(got, 4 * ((300000 + 63) / 64));
#ifdef __x86_64__
	EQUAL(pair[0], 4 * 300000 / 16);
	EQUAL(pair[1], 2 * pair[0]);
#endif
}
