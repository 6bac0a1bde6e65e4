/*
 * Worker threads, a poll thread, and the two lists that lead from them to the vCPU thread. One lock
 * guards all; it is never held while somebody's function runs.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "aio.h"

#define MAX_WATCHES 256
#define BATCH       32
#define STOP_EVENT  (~0ull)

#define QUICK_NS 200000u /* a job that took longer was not quick */
#define HELD_MAX 8       /* jobs announced together */

struct job_list {
	struct aio_job *first, **end;
};

struct aio {
	struct aio_host host;
	struct stats *stats;
	pthread_mutex_t lock;
	pthread_cond_t to_work, finished_one;
	struct job_list queued, finished;
	unsigned outstanding; /* submitted, done not yet called */
	unsigned waiting;     /* in queued */
	unsigned idle;        /* workers that wait for a job */
	unsigned held;        /* in finished, not announced */
	bool announced;       /* aio_run has been asked for, and has not begun */
	bool stop;
	void *worker[AIO_WORKERS];
	unsigned workers;

	/* A number that outlives its watch: an event that was on its way when a watch was removed
	 * must not hit the next owner of the slot. */
	struct {
		struct aio_watch *w;
		u32 generation;
	} slot[MAX_WATCHES];
	struct aio_watch *ready, **ready_end;
	int epoll, wake;
	void *poller;
};

/* --- jobs --- */

static void list_init(struct job_list *l)
{
	l->first = NULL;
	l->end = &l->first;
}

static void list_put(struct job_list *l, struct aio_job *job)
{
	job->next = NULL;
	*l->end = job;
	l->end = &job->next;
}

static struct aio_job *list_take(struct job_list *l)
{
	struct aio_job *job = l->first;

	if (job) {
		l->first = job->next;
		if (!l->first)
			l->end = &l->first;
	}
	return job;
}

/* With the lock. Is it for the caller to kick? */
static bool announce(struct aio *aio)
{
	bool first = !aio->announced;

	aio->announced = true;
	aio->held = 0;
	return first;
}

/* With the lock. Interrupting the vCPU for each of many short jobs costs more than they do: while
 * another one of these waits for a worker, its end is soon enough. */
static bool may_wait(const struct aio *aio, const struct aio_job *job, u64 took)
{
	return job->quick && took < QUICK_NS && aio->held < HELD_MAX && aio->queued.first &&
	       aio->queued.first->quick;
}

static void finish(struct aio *aio, struct aio_job *job, u64 took)
{
	bool kick = false;

	pthread_mutex_lock(&aio->lock);
	if (may_wait(aio, job, took))
		aio->held++;
	else
		kick = announce(aio);
	list_put(&aio->finished, job);
	pthread_cond_signal(&aio->finished_one);
	pthread_mutex_unlock(&aio->lock);
	if (kick)
		aio->host.kick(aio->host.opaque);
}

static u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

static void *work(void *opaque)
{
	struct aio *aio = opaque;
	u64 begin;

	pthread_mutex_lock(&aio->lock);
	for (;;) {
		struct aio_job *job = list_take(&aio->queued);

		if (job) {
			aio->waiting--;
			pthread_mutex_unlock(&aio->lock);
			begin = now();
			job->work(job);
			finish(aio, job, now() - begin);
			pthread_mutex_lock(&aio->lock);
		} else if (aio->stop) {
			break;
		} else {
			aio->idle++;
			pthread_cond_wait(&aio->to_work, &aio->lock);
			aio->idle--;
		}
	}
	pthread_mutex_unlock(&aio->lock);
	return NULL;
}

/* With the lock. `idle` also counts those woken for an earlier job and not yet running. */
static void want_worker(struct aio *aio)
{
	if (aio->idle >= aio->waiting || aio->workers == AIO_WORKERS)
		return;
	aio->worker[aio->workers] = aio->host.spawn(work, aio);
	if (aio->worker[aio->workers])
		aio->workers++;
}

void aio_submit(struct aio *aio, struct aio_job *job)
{
	bool queued;

	aio->stats->n[STAT_aio_jobs]++;
	pthread_mutex_lock(&aio->lock);
	aio->outstanding++;
	aio->waiting++;
	want_worker(aio);
	queued = aio->workers;
	if (queued) {
		list_put(&aio->queued, job);
		pthread_cond_signal(&aio->to_work);
	} else {
		aio->waiting--;
	}
	pthread_mutex_unlock(&aio->lock);
	if (queued)
		return;
	aio->stats->n[STAT_aio_jobs_inline]++;
	job->work(job);
	finish(aio, job, ~0ull);
}

/* Call done for one finished job. */
static bool run_finished(struct aio *aio)
{
	struct aio_job *job;

	pthread_mutex_lock(&aio->lock);
	job = list_take(&aio->finished);
	aio->outstanding -= job != NULL;
	pthread_mutex_unlock(&aio->lock);
	if (job)
		job->done(job);
	return job;
}

static bool await_finished(struct aio *aio)
{
	bool any;

	pthread_mutex_lock(&aio->lock);
	while (aio->outstanding && !aio->finished.first)
		pthread_cond_wait(&aio->finished_one, &aio->lock);
	any = aio->outstanding;
	pthread_mutex_unlock(&aio->lock);
	return any;
}

void aio_drain(struct aio *aio)
{
	while (await_finished(aio))
		run_finished(aio);
}

/* --- watches --- */

static u64 event_id(const struct aio *aio, u32 slot)
{
	return (u64)aio->slot[slot].generation << 32 | slot;
}

/* With the lock. */
static void note_event(struct aio *aio, u64 id, unsigned events)
{
	struct aio_watch *w = aio->slot[(u32)id].w;

	if (!w || event_id(aio, (u32)id) != id)
		return; /* removed meanwhile */
	if (!w->pending) {
		w->next = NULL;
		*aio->ready_end = w;
		aio->ready_end = &w->next;
	}
	w->pending |= events;
}

static void *poll_descriptors(void *opaque)
{
	struct aio *aio = opaque;
	struct epoll_event ev[BATCH];

	for (;;) {
		int n = epoll_wait(aio->epoll, ev, BATCH, -1), i;
		bool kick, stop = false;

		pthread_mutex_lock(&aio->lock);
		kick = false;
		for (i = 0; i < n; i++) {
			if (ev[i].data.u64 == STOP_EVENT)
				stop = true;
			else
				note_event(aio, ev[i].data.u64, ev[i].events);
		}
		if (aio->ready)
			kick = announce(aio);
		pthread_mutex_unlock(&aio->lock);
		if (stop)
			return NULL;
		if (kick)
			aio->host.kick(aio->host.opaque);
	}
}

static int start_poller(struct aio *aio)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = STOP_EVENT};

	if (aio->poller)
		return 0;
	if (epoll_ctl(aio->epoll, EPOLL_CTL_ADD, aio->wake, &ev) && errno != EEXIST)
		return -errno;
	aio->poller = aio->host.spawn(poll_descriptors, aio);
	return aio->poller ? 0 : -EAGAIN;
}

static int control(struct aio *aio, int op, struct aio_watch *w, unsigned events)
{
	struct epoll_event ev = {.events = events | EPOLLONESHOT,
				 .data.u64 = event_id(aio, w->slot)};

	return epoll_ctl(aio->epoll, op, w->fd, &ev) ? -errno : 0;
}

int aio_watch_add(struct aio *aio, struct aio_watch *w, unsigned events)
{
	u32 i = 0;
	int rc = start_poller(aio);

	if (rc)
		return rc;
	while (i < MAX_WATCHES && aio->slot[i].w)
		i++;
	if (i == MAX_WATCHES)
		return -ENOSPC;
	w->slot = i;
	w->pending = 0;
	pthread_mutex_lock(&aio->lock);
	aio->slot[i].w = w;
	pthread_mutex_unlock(&aio->lock);
	rc = control(aio, EPOLL_CTL_ADD, w, events);
	if (rc) {
		pthread_mutex_lock(&aio->lock);
		aio->slot[i].w = NULL;
		pthread_mutex_unlock(&aio->lock);
	}
	return rc;
}

static bool added(const struct aio *aio, const struct aio_watch *w)
{
	return w->slot < MAX_WATCHES && aio->slot[w->slot].w == w;
}

void aio_watch_arm(struct aio *aio, struct aio_watch *w, unsigned events)
{
	BUG_ON(!added(aio, w) || control(aio, EPOLL_CTL_MOD, w, events));
}

/* With the lock. */
static void unlink_ready(struct aio *aio, struct aio_watch *w)
{
	struct aio_watch **p = &aio->ready;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	if (!*p)
		aio->ready_end = p;
	w->pending = 0;
}

void aio_watch_remove(struct aio *aio, struct aio_watch *w)
{
	if (!added(aio, w))
		return;
	control(aio, EPOLL_CTL_DEL, w, 0);
	pthread_mutex_lock(&aio->lock);
	if (w->pending)
		unlink_ready(aio, w);
	aio->slot[w->slot].w = NULL;
	aio->slot[w->slot].generation++;
	pthread_mutex_unlock(&aio->lock);
}

/* Call ready for one watch. */
static bool run_ready(struct aio *aio)
{
	struct aio_watch *w;
	unsigned events = 0;

	pthread_mutex_lock(&aio->lock);
	w = aio->ready;
	if (w) {
		events = w->pending;
		unlink_ready(aio, w);
	}
	pthread_mutex_unlock(&aio->lock);
	if (!w)
		return false;
	aio->stats->n[STAT_aio_events]++;
	w->ready(w->opaque, events);
	return true;
}

void aio_run(struct aio *aio)
{
	pthread_mutex_lock(&aio->lock);
	aio->announced = false;
	pthread_mutex_unlock(&aio->lock);
	while (run_finished(aio) || run_ready(aio))
		;
}

/* --- life --- */

int aio_create(struct aio **out, const struct aio_host *host, struct stats *stats)
{
	struct aio *aio = calloc(1, sizeof(*aio));

	if (!aio)
		return -ENOMEM;
	aio->host = *host;
	aio->stats = stats;
	list_init(&aio->queued);
	list_init(&aio->finished);
	aio->ready_end = &aio->ready;
	pthread_mutex_init(&aio->lock, NULL);
	pthread_cond_init(&aio->to_work, NULL);
	pthread_cond_init(&aio->finished_one, NULL);
	aio->epoll = epoll_create1(EPOLL_CLOEXEC);
	aio->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (aio->epoll < 0 || aio->wake < 0) {
		int rc = -errno;

		aio_destroy(aio);
		return rc;
	}
	*out = aio;
	return 0;
}

static void end_workers(struct aio *aio)
{
	unsigned i;

	pthread_mutex_lock(&aio->lock);
	aio->stop = true;
	pthread_cond_broadcast(&aio->to_work);
	pthread_mutex_unlock(&aio->lock);
	for (i = 0; i < aio->workers; i++)
		aio->host.join(aio->worker[i]);
}

static void end_poller(struct aio *aio)
{
	const u64 one = 1;

	if (!aio->poller)
		return;
	BUG_ON(write(aio->wake, &one, sizeof(one)) != sizeof(one));
	aio->host.join(aio->poller);
}

void aio_destroy(struct aio *aio)
{
	u32 i;

	if (!aio)
		return;
	BUG_ON(aio->outstanding);
	for (i = 0; i < MAX_WATCHES; i++)
		BUG_ON(aio->slot[i].w);
	end_workers(aio);
	end_poller(aio);
	if (aio->epoll >= 0)
		close(aio->epoll);
	if (aio->wake >= 0)
		close(aio->wake);
	pthread_cond_destroy(&aio->finished_one);
	pthread_cond_destroy(&aio->to_work);
	pthread_mutex_destroy(&aio->lock);
	free(aio);
}
