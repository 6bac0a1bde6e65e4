/*
 * A hostile driver for each device, 100,000 rounds: nothing crashes (asan looks on), nothing hangs,
 * other devices go on. A new device is one line in hostile_devices[].
 */
#include <criterion/criterion.h>
#include <time.h>

#include "hostile_driver.h"

#define ROUNDS 100000u

static u64 seed;

static u64 xorshift(void *opaque)
{
	(void)opaque;
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull >> 3;
}

static void attack(unsigned n)
{
	struct hostile h = {.number = xorshift};
	u64 served = 0, broken = 0;

	seed = 0x9e3779b97f4a7c15ull + n;
	hostile_init(&h, &hostile_devices[n]);
	for (unsigned i = 0; i < ROUNDS; i++) {
		hostile_step(&h);
		if (i % 500 == 0)
			cr_assert(hostile_others_go_on(&h), "%s: round %u", hostile_devices[n].name,
				  i);
	}
	served = h.vm->stats.n[STAT_virtio_interrupts];
	broken = h.vm->stats.n[STAT_virtio_broken];
	/* It has been at the rings, not only at the door. */
	cr_expect_gt(served, ROUNDS / 1000, "%s: %llu", hostile_devices[n].name,
		     (unsigned long long)served);
	cr_expect_gt(broken, ROUNDS / 100, "%s: %llu", hostile_devices[n].name,
		     (unsigned long long)broken);
	hostile_end(&h);
}

Test(hostile, drivers, .timeout = 280)
{
	for (unsigned n = 0; n < ARRAY_LEN(hostile_devices); n++)
		attack(n);
}
