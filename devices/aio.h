/*
 * Work beside the vCPU. Jobs run on worker threads (blocking file I/O), watches wait for
 * descriptors on a poll thread; what follows from either (done, ready) is called on the vCPU thread
 * with the device lock held, from aio_run. So devices need no locks of their own, and the guest
 * runs on while the host's kernel works.
 */
#ifndef RINGSHIFT_AIO_H
#define RINGSHIFT_AIO_H

#include "base.h"

struct aio;

/* What aio needs of the machine. */
struct aio_host {
	/* A thread for fn(arg), on a stack of the caller's choosing, with signals blocked: a
	 * handle, or NULL. join waits for its end and frees the handle. */
	void *(*spawn)(void *(*fn)(void *), void *arg);
	void (*join)(void *thread);
	/* Have aio_run called on the vCPU thread soon. Any thread. */
	void (*kick)(void *opaque);
	void *opaque;
};

/* Embedded in the owner's request; not touched by the owner between aio_submit and done. */
struct aio_job {
	struct aio_job *next;
	void (*work)(struct aio_job *job); /* worker thread: may block, must not touch devices */
	void (*done)(struct aio_job *job); /* vCPU thread: may free the job or submit it again */
	/* A hint: work copies memory rather than waits. Several that follow each other quickly are
	 * announced to the vCPU together. */
	bool quick;
};

/* A descriptor somebody waits for. One-shot: after ready it sleeps until armed again. */
struct aio_watch {
	int fd;
	void (*ready)(void *opaque, unsigned events); /* EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP */
	void *opaque;
	/* aio.c's */
	struct aio_watch *next;
	unsigned pending; /* events seen, ready not yet called */
	u32 slot;
};

#define AIO_WORKERS 4 /* started when first needed, one by one */

/* Negative errno on failure. No thread is started before it is needed. */
MUST_CHECK int aio_create(struct aio **aio, const struct aio_host *host, struct stats *stats);
/* Every job must be done and every watch removed before; ends the threads. NULL is fine. */
void aio_destroy(struct aio *aio);

/* vCPU thread (or before it starts): have job->work run. It cannot fail: without a worker thread
 * the work is done at once, by the caller, and done is called from the next aio_run. */
void aio_submit(struct aio *aio, struct aio_job *job);

/* vCPU thread: call what is due. */
void aio_run(struct aio *aio);

/* vCPU thread: wait until no job submitted is still at work or waiting, calling done for each (for
 * device reset and the end of the VM). Jobs that done functions submit are waited for as well. */
void aio_drain(struct aio *aio);

/* vCPU thread. fd (borrowed, non-blocking), ready and opaque are set; armed for events at once.
 * Negative errno on failure. */
MUST_CHECK int aio_watch_add(struct aio *aio, struct aio_watch *w, unsigned events);
/* Once more, from ready or later; other events than before if wished. */
void aio_watch_arm(struct aio *aio, struct aio_watch *w, unsigned events);
/* From here on ready is not called; fd may be closed. Fine for one never added (fd -1). */
void aio_watch_remove(struct aio *aio, struct aio_watch *w);

#endif
