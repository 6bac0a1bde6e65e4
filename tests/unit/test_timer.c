/* The timer queue: order, re-arming, cancelling, what the owner is told. */
#include <string.h>

#include <criterion/criterion.h>

#include "timer.h"

static u64 now;
static char order[32];
static unsigned fired;
static u64 told;
static unsigned tellings;

static u64 clock_now(void *opaque)
{
	(void)opaque;
	return now;
}

static void tell(void *opaque, u64 deadline)
{
	(void)opaque;
	told = deadline;
	tellings++;
}

static void log_fire(void *opaque)
{
	order[fired++] = *(char *)opaque;
}

static struct timerq q;
static struct stats stats;
static struct timer a, b, c;

static void setup(void)
{
	now = 1000;
	memset(&stats, 0, sizeof(stats));
	timerq_init(&q, clock_now, NULL, &stats);
	q.rearm = tell;
	timer_init(&a, &q, log_fire, "a");
	timer_init(&b, &q, log_fire, "b");
	timer_init(&c, &q, log_fire, "c");
}

TestSuite(timer, .init = setup);

Test(timer, fires_in_deadline_order)
{
	timer_arm(&b, 2000);
	timer_arm(&a, 1500);
	timer_arm(&c, 2500);
	cr_assert_eq(timerq_next(&q), 1500);
	timerq_run(&q);
	cr_assert_eq(fired, 0, "nothing is due yet");
	now = 2000;
	timerq_run(&q);
	cr_assert_str_eq(order, "ab");
	cr_assert_not(timer_armed(&a));
	cr_assert(timer_armed(&c));
	cr_assert_eq(timerq_next(&q), 2500);
	cr_assert_eq(stats.n[STAT_timer_fires], 2);
}

Test(timer, equal_deadlines_fire_in_the_order_armed)
{
	timer_arm(&c, 2000);
	timer_arm(&a, 2000);
	timer_arm(&b, 2000);
	now = 3000;
	timerq_run(&q);
	cr_assert_str_eq(order, "cab");
}

Test(timer, rearming_moves)
{
	timer_arm(&a, 2000);
	timer_arm(&b, 3000);
	timer_arm(&a, 4000);
	cr_assert_eq(timerq_next(&q), 3000);
	timer_arm(&b, 5000);
	now = 9000;
	timerq_run(&q);
	cr_assert_str_eq(order, "ab");
	cr_assert_null(q.first);
}

Test(timer, cancel)
{
	timer_arm(&a, 2000);
	timer_arm(&b, 3000);
	timer_cancel(&a);
	timer_cancel(&a);
	timer_cancel(&c); /* never armed */
	timer_arm(&b, TIMER_NEVER);
	cr_assert_eq(timerq_next(&q), TIMER_NEVER);
	now = 9000;
	timerq_run(&q);
	cr_assert_eq(fired, 0);
}

Test(timer, owner_hears_of_a_new_first_deadline)
{
	timer_arm(&a, 5000);
	cr_assert_eq(told, 5000);
	tellings = 0;
	timer_arm(&b, 6000);
	cr_assert_eq(tellings, 0, "the first deadline is the same");
	timer_arm(&c, 4000);
	cr_assert_eq(told, 4000);
	timer_cancel(&c);
	cr_assert_eq(told, 5000);
	now = 7000;
	timerq_run(&q);
	cr_assert_eq(told, TIMER_NEVER);
}

Test(timer, past_deadline_fires_at_the_next_run)
{
	timer_arm(&a, 1);
	cr_assert_eq(told, 1);
	timerq_run(&q);
	cr_assert_str_eq(order, "a");
}

static void fire_again_later(void *opaque)
{
	fired++;
	timer_arm(opaque, now + 1);
}

static void fire_and_cancel_b(void *opaque)
{
	(void)opaque;
	fired++;
	timer_cancel(&b);
}

Test(timer, rearmed_by_its_own_function)
{
	timer_init(&a, &q, fire_again_later, &a);
	timer_arm(&a, 1000);
	timerq_run(&q);
	cr_assert_eq(fired, 1, "once per run, however short the period");
	cr_assert_eq(timerq_next(&q), 1001);
	cr_assert_eq(told, 1001);
}

Test(timer, function_cancels_another_that_is_due)
{
	timer_init(&a, &q, fire_and_cancel_b, NULL);
	timer_arm(&a, 500);
	timer_arm(&b, 600);
	timerq_run(&q);
	cr_assert_eq(fired, 1);
	cr_assert_not(timer_armed(&b));
}

Test(timer, queue_without_owner_or_counters)
{
	timerq_init(&q, clock_now, NULL, NULL);
	timer_arm(&a, 10);
	timerq_run(&q);
	cr_assert_eq(fired, 1);
}

Test(timer, muldiv)
{
	cr_assert_eq(muldiv64(~0ull, 1000, 1000), ~0ull);
	cr_assert_eq(muldiv64(7, 3, 2), 10);
}
