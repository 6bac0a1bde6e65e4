/* The paravirtual clock read as a guest reads it, and the calibration of the TSC. */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "pvclock.h"

struct clocks {
	u64 tsc, now, wall;
};

static u64 tsc(void *o)
{
	return ((struct clocks *)o)->tsc;
}
static u64 now(void *o)
{
	return ((struct clocks *)o)->now;
}
static u64 wall(void *o)
{
	return ((struct clocks *)o)->wall;
}

#define PLACE 0x5004u

static u64 field(const struct ram *ram, gpa_t at, unsigned size)
{
	u64 v = 0;

	memcpy(&v, ram->window + at, size);
	return v;
}

/* What a guest makes of the structure for a TSC value. */
static u64 guest_time(const struct ram *ram, u64 at_tsc)
{
	u64 delta = at_tsc - field(ram, PLACE + 8, 8);
	s8 shift = (s8)field(ram, PLACE + 28, 1);

	delta = shift < 0 ? delta >> -shift : delta << shift;
	return field(ram, PLACE + 16, 8) +
	       (u64)((unsigned __int128)delta * (u32)field(ram, PLACE + 24, 4) >> 32);
}

static void clock_runs_at(u64 khz)
{
	struct clocks c = {.tsc = 777777777, .now = 123456789};
	struct pvclock p;
	struct ram ram;
	u64 second = khz * 1000, error, t;
	unsigned i;

	cr_assert_eq(ram_init(&ram, MIB, NULL), 0);
	pvclock_init(&p, &ram, khz, tsc, now, wall, &c);
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME, PLACE | 1), 0);
	cr_expect_eq(field(&ram, PLACE, 4) & 1, 0);
	cr_expect_neq(field(&ram, PLACE, 4), 0);
	cr_expect_eq(field(&ram, PLACE + 29, 1), 1, "TSC_STABLE");
	cr_expect_eq(guest_time(&ram, c.tsc), c.now);
	for (i = 1; i <= 100000; i *= 10) { /* up to more than a day */
		t = guest_time(&ram, c.tsc + i * second) - c.now;
		error = t > i * 1000000000ull ? t - i * 1000000000ull : i * 1000000000ull - t;
		cr_expect_leq(error, i + 2, "%llu kHz, %u s: off by %llu ns",
			      (unsigned long long)khz, i, (unsigned long long)error);
	}
	ram_destroy(&ram);
}

Test(pvclock, keeps_time)
{
	clock_runs_at(2700000);
	clock_runs_at(2699998);
	clock_runs_at(1000000);
	clock_runs_at(999999);
	clock_runs_at(5800001);
	clock_runs_at(500000);
	clock_runs_at(33000);
}

Test(pvclock, versions_are_even_and_grow)
{
	struct clocks c = {.tsc = 1, .now = 1};
	struct pvclock p;
	struct ram ram;
	u64 first;

	cr_assert_eq(ram_init(&ram, MIB, NULL), 0);
	pvclock_init(&p, &ram, 2000000, tsc, now, wall, &c);
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME_OLD, PLACE | 1), 0);
	first = field(&ram, PLACE, 4);
	c.tsc = 5000;
	c.now = 9000;
	pvclock_refresh(&p);
	cr_expect_eq(field(&ram, PLACE, 4), first + 2);
	cr_expect_eq(field(&ram, PLACE + 8, 8), 5000);
	cr_expect_eq(field(&ram, PLACE + 16, 8), 9000);
	/* Switched off: memory is the guest's again. */
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME, PLACE), 0);
	c.now = 10000;
	pvclock_refresh(&p);
	cr_expect_eq(field(&ram, PLACE + 16, 8), 9000);
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME, PLACE | 1), 0);
	pvclock_reset(&p);
	cr_expect_eq(pvclock_msr(&p, MSR_KVM_SYSTEM_TIME), 0);
	c.now = 11000;
	pvclock_refresh(&p);
	cr_expect_eq(field(&ram, PLACE + 16, 8), 10000);
	ram_destroy(&ram);
}

Test(pvclock, wall_clock)
{
	struct clocks c = {.wall = 1700000000123456789ull};
	struct pvclock p;
	struct ram ram;

	cr_assert_eq(ram_init(&ram, MIB, NULL), 0);
	pvclock_init(&p, &ram, 2000000, tsc, now, wall, &c);
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_WALL_CLOCK, PLACE), 0);
	cr_expect_eq(field(&ram, PLACE, 4) & 1, 0);
	cr_expect_eq(field(&ram, PLACE + 4, 4), 1700000000);
	cr_expect_eq(field(&ram, PLACE + 8, 4), 123456789);
	cr_expect_eq(field(&ram, PLACE + 12, 4), 0);
	cr_expect_eq(pvclock_msr(&p, MSR_KVM_WALL_CLOCK_OLD), PLACE);
	cr_assert_eq(pvclock_set_msr(&p, MSR_KVM_WALL_CLOCK, 0), 0);
	cr_expect_eq(field(&ram, 4, 4), 0, "0 means none");
	ram_destroy(&ram);
}

Test(pvclock, places_that_are_no_ram)
{
	static const u64 bad[] = {MIB,    MIB - 16,       0x9fff0,      0xa0000,
				  0x5002, 0x5003 & ~1ull, ~0ull & ~3ull};
	struct clocks c = {0};
	struct pvclock p;
	struct ram ram;
	unsigned i;

	cr_assert_eq(ram_init(&ram, MIB, NULL), 0);
	pvclock_init(&p, &ram, 2000000, tsc, now, wall, &c);
	for (i = 0; i < ARRAY_LEN(bad); i++) {
		cr_expect_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME, bad[i] | 1), -1, "%#llx",
			     (unsigned long long)bad[i]);
		cr_expect_eq(pvclock_msr(&p, MSR_KVM_SYSTEM_TIME), 0);
	}
	cr_expect_eq(pvclock_set_msr(&p, MSR_KVM_WALL_CLOCK, MIB - 8), -1);
	/* Not enabled, so not looked at. */
	cr_expect_eq(pvclock_set_msr(&p, MSR_KVM_SYSTEM_TIME, MIB), 0);
	ram_destroy(&ram);
}

static u64 host_tsc(void)
{
	u32 lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

Test(pvclock, calibration_agrees_with_the_clock)
{
	u64 khz = tsc_calibrate_khz(), t0, t1, ns;
	struct timespec a, b, pause = {.tv_nsec = 200000000};

	clock_gettime(CLOCK_MONOTONIC_RAW, &a);
	t0 = host_tsc();
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC_RAW, &b);
	t1 = host_tsc();
	ns = (b.tv_sec - a.tv_sec) * 1000000000ull + b.tv_nsec - a.tv_nsec;
	cr_expect_lt(khz, (t1 - t0) * 1002000 / ns, "%llu kHz", (unsigned long long)khz);
	cr_expect_gt(khz, (t1 - t0) * 998000 / ns, "%llu kHz", (unsigned long long)khz);
}
