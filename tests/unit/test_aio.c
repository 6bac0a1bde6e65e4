/* Work beside the vCPU: jobs, descriptors, and what must not happen after a removal. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "aio.h"

static struct aio *aio;
static struct stats stats;
static atomic_uint kicks, threads;
static bool no_threads;
static pthread_t main_thread;

static void *spawn(void *(*fn)(void *), void *arg)
{
	pthread_t *t = malloc(sizeof(*t));

	if (no_threads || pthread_create(t, NULL, fn, arg)) {
		free(t);
		return NULL;
	}
	threads++;
	return t;
}

static void join(void *thread)
{
	pthread_join(*(pthread_t *)thread, NULL);
	free(thread);
}

static void kick(void *opaque)
{
	(void)opaque;
	kicks++;
}

static const struct aio_host host = {.spawn = spawn, .join = join, .kick = kick};

static void setup(void)
{
	main_thread = pthread_self();
	cr_assert_eq(aio_create(&aio, &host, &stats), 0);
}

static void teardown(void)
{
	aio_destroy(aio);
}

TestSuite(aio, .init = setup, .fini = teardown, .timeout = 60);

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Wait for the machine's side of aio_run. */
static void run_until(atomic_uint *count, unsigned n)
{
	while (*count < n) {
		aio_run(aio);
		nap();
	}
}

struct job {
	struct aio_job job;
	bool worked_elsewhere, done_here;
	unsigned again;
};

static atomic_uint worked, done;

static void on_work(struct aio_job *j)
{
	struct job *job = container_of(j, struct job, job);

	job->worked_elsewhere = !pthread_equal(pthread_self(), main_thread);
	nap();
	worked++;
}

static void on_done(struct aio_job *j)
{
	struct job *job = container_of(j, struct job, job);

	job->done_here = pthread_equal(pthread_self(), main_thread);
	done++;
	if (job->again) {
		job->again--;
		aio_submit(aio, j);
	}
}

static struct job new_job(void)
{
	return (struct job){.job = {.work = on_work, .done = on_done}};
}

Test(aio, jobs_work_elsewhere_and_end_here)
{
	struct job job[40];

	for (unsigned i = 0; i < ARRAY_LEN(job); i++) {
		job[i] = new_job();
		aio_submit(aio, &job[i].job);
	}
	run_until(&done, ARRAY_LEN(job));
	for (unsigned i = 0; i < ARRAY_LEN(job); i++)
		cr_assert(job[i].worked_elsewhere && job[i].done_here, "job %u", i);
	cr_assert_eq(threads, AIO_WORKERS);
	cr_assert_geq(kicks, 1);
	cr_assert_eq(stats.n[STAT_aio_jobs], ARRAY_LEN(job));
}

Test(aio, one_job_at_a_time_takes_one_thread)
{
	for (unsigned i = 0; i < 5; i++) {
		struct job job = new_job();

		aio_submit(aio, &job.job);
		aio_drain(aio);
		for (unsigned k = 0; k < 20; k++)
			nap(); /* the worker is idle again */
	}
	cr_assert_eq(done, 5);
	cr_assert_eq(threads, 1);
}

Test(aio, drain_waits_for_what_done_submits)
{
	struct job job[3];

	for (unsigned i = 0; i < ARRAY_LEN(job); i++) {
		job[i] = new_job();
		job[i].again = i;
		aio_submit(aio, &job[i].job);
	}
	aio_drain(aio);
	cr_assert_eq(worked, 6);
	cr_assert_eq(done, 6);
}

Test(aio, without_threads_the_caller_works)
{
	struct job job = new_job();

	no_threads = true;
	aio_submit(aio, &job.job);
	cr_assert_eq(worked, 1);
	cr_assert_eq(done, 0, "done from within aio_submit");
	cr_assert_eq(kicks, 1);
	aio_run(aio);
	cr_assert_eq(done, 1);
	cr_assert_eq(stats.n[STAT_aio_jobs_inline], 1);
}

struct pipe_watch {
	struct aio_watch w;
	int in;
	char got[16];
	size_t len;
	unsigned events;
};

static atomic_uint readies;

static void on_ready(void *opaque, unsigned events)
{
	struct pipe_watch *p = opaque;
	ssize_t n = events & EPOLLIN ? read(p->w.fd, p->got + p->len, 1) : 0;

	p->events |= events;
	p->len += n > 0;
	readies++;
}

static void pipe_open(struct pipe_watch *p)
{
	int fd[2];

	cr_assert_eq(pipe(fd), 0);
	*p = (struct pipe_watch){.w = {.fd = fd[0], .ready = on_ready, .opaque = p}, .in = fd[1]};
	cr_assert_eq(aio_watch_add(aio, &p->w, EPOLLIN), 0);
}

static void pipe_close(struct pipe_watch *p)
{
	aio_watch_remove(aio, &p->w);
	close(p->w.fd);
	close(p->in);
}

Test(aio, watches_are_one_shot)
{
	struct pipe_watch p;

	pipe_open(&p);
	cr_assert_eq(write(p.in, "ab", 2), 2);
	run_until(&readies, 1);
	for (unsigned i = 0; i < 20; i++) {
		nap();
		aio_run(aio);
	}
	cr_assert_eq(readies, 1, "not armed again, but called");
	aio_watch_arm(aio, &p.w, EPOLLIN);
	run_until(&readies, 2);
	cr_assert_eq(memcmp(p.got, "ab", 2), 0);
	pipe_close(&p);
}

Test(aio, a_peer_that_leaves_is_seen)
{
	struct pipe_watch p;

	pipe_open(&p);
	close(p.in);
	p.in = -1;
	run_until(&readies, 1);
	cr_assert(p.events & EPOLLHUP);
	pipe_close(&p);
}

Test(aio, removed_watches_stay_silent)
{
	struct pipe_watch p, other;

	pipe_open(&p);
	pipe_open(&other);
	cr_assert_eq(write(p.in, "a", 1), 1);
	cr_assert_eq(write(other.in, "b", 1), 1);
	while (kicks < 1)
		nap();
	for (unsigned i = 0; i < 20; i++)
		nap(); /* both are on the list of those ready */
	pipe_close(&p);
	run_until(&readies, 1);
	for (unsigned i = 0; i < 20; i++) {
		aio_run(aio);
		nap();
	}
	cr_assert_eq(p.len, 0);
	cr_assert_eq(other.len, 1);
	pipe_close(&other);
}

Test(aio, a_slot_used_again_gets_no_old_events)
{
	for (unsigned i = 0; i < 300; i++) {
		struct pipe_watch old, next;
		unsigned before = readies;

		pipe_open(&old);
		cr_assert_eq(write(old.in, "x", 1), 1);
		pipe_close(&old);
		pipe_open(&next);
		cr_assert_eq(next.w.slot, old.w.slot);
		aio_run(aio);
		cr_assert_eq(readies, before);
		pipe_close(&next);
	}
}

Test(aio, what_cannot_be_waited_for_is_an_error)
{
	FILE *file = tmpfile();
	struct aio_watch w = {.fd = fileno(file), .ready = on_ready}, never = {.fd = -1};

	cr_assert_eq(aio_watch_add(aio, &w, EPOLLIN), -EPERM);
	aio_watch_remove(aio, &w);
	aio_watch_remove(aio, &never);
	fclose(file);
}
