/*
 * Device time. One queue per VM holds what chips wait for, in nanoseconds of the VM's clock
 * (CLOCK_MONOTONIC less the start of the VM). All calls are made on the vCPU thread, or with the
 * VM's device lock held. The owner of the queue arms a host timer for timerq_next and calls
 * timerq_run when it has passed; tests replace the clock by one they turn by hand.
 */
#ifndef RINGSHIFT_TIMER_H
#define RINGSHIFT_TIMER_H

#include "base.h"

#define NS_PER_SEC  1000000000ull
#define TIMER_NEVER (~0ull)

struct timerq;

struct timer {
	struct timer *next; /* in deadline order */
	u64 deadline;       /* ns, TIMER_NEVER if not armed */
	void (*fire)(void *opaque);
	void *opaque;
	struct timerq *q;
};

struct timerq {
	struct timer *first;
	u64 (*now)(void *opaque); /* ns */
	void *opaque;
	void (*rearm)(void *opaque, u64 deadline); /* the first deadline changed; may be NULL */
	struct stats *stats;
};

void timerq_init(struct timerq *q, u64 (*now)(void *), void *opaque, struct stats *stats);
static inline u64 timerq_now(struct timerq *q)
{
	return q->now(q->opaque);
}
static inline u64 timerq_next(const struct timerq *q)
{
	return q->first ? q->first->deadline : TIMER_NEVER;
}
/* Fire everything due, each timer disarmed before its function is called. */
void timerq_run(struct timerq *q);

void timer_init(struct timer *t, struct timerq *q, void (*fire)(void *), void *opaque);
void timer_arm(struct timer *t, u64 deadline); /* absolute; re-arms */
void timer_cancel(struct timer *t);
static inline bool timer_armed(const struct timer *t)
{
	return t->deadline != TIMER_NEVER;
}

/* a * b / c without overflow in between. */
static inline u64 muldiv64(u64 a, u64 b, u64 c)
{
	return (u64)((unsigned __int128)a * b / c);
}

#endif
