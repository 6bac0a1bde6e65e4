/*
 * The timer queue: a list in deadline order. A PC has half a dozen timers, most of them idle, so a
 * list beats a heap.
 *
 * The owner's rearm is called with the new first deadline (TIMER_NEVER if the queue became empty)
 * when arming or cancelling changed it, and once after timerq_run has fired something. It may be
 * told the same deadline twice.
 */
#include "timer.h"

void timerq_init(struct timerq *q, u64 (*now)(void *), void *opaque, struct stats *stats)
{
	*q = (struct timerq){.now = now, .opaque = opaque, .stats = stats};
}

static void timerq_first_changed(struct timerq *q, u64 old)
{
	if (q->rearm && timerq_next(q) != old)
		q->rearm(q->opaque, timerq_next(q));
}

static void timerq_unlink(struct timerq *q, struct timer *t)
{
	for (struct timer **p = &q->first; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	t->next = NULL;
	t->deadline = TIMER_NEVER;
}

void timer_init(struct timer *t, struct timerq *q, void (*fire)(void *), void *opaque)
{
	*t = (struct timer){.deadline = TIMER_NEVER, .fire = fire, .opaque = opaque, .q = q};
}

void timer_arm(struct timer *t, u64 deadline)
{
	struct timerq *q = t->q;
	u64 old = timerq_next(q);
	struct timer **p = &q->first;

	if (timer_armed(t))
		timerq_unlink(q, t);
	if (deadline != TIMER_NEVER) {
		/* After those of the same deadline: first armed, first fired. */
		while (*p && (*p)->deadline <= deadline)
			p = &(*p)->next;
		t->deadline = deadline;
		t->next = *p;
		*p = t;
	}
	timerq_first_changed(q, old);
}

void timer_cancel(struct timer *t)
{
	timer_arm(t, TIMER_NEVER);
}

/* The clock is read once: a timer that its own function arms again for later than that waits for
 * the next run, so a short period cannot keep this loop alive. */
void timerq_run(struct timerq *q)
{
	u64 now = timerq_now(q);
	bool fired = false;

	while (q->first && q->first->deadline <= now) {
		struct timer *t = q->first;

		timerq_unlink(q, t);
		if (q->stats)
			q->stats->n[STAT_timer_fires]++;
		fired = true;
		t->fire(t->opaque);
	}
	if (fired && q->rearm)
		q->rearm(q->opaque, timerq_next(q));
}
