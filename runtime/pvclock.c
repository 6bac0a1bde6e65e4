/*
 * A guest computes
 *
 *	time = system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32)
 *
 * from a structure we fill when it tells us the place. The TSC is the host's, unscaled and the same
 * for everybody, so the structure says TSC_STABLE and stays valid for ever. Its version is odd
 * while it is being written. Linux Documentation/virt/kvm/x86/msr.rst.
 */
#include "pvclock.h"

#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

#include "cpuid_model.h"
#include "timer.h"

#define SYSTEM_TIME_ENABLE 1u
#define PVCLOCK_TSC_STABLE 1u
#define PVCLOCK_STOPPED    2u /* the guest clears it when it has seen it */
#define MEASURE_NS         20000000ull
#define CHECK_NS           2000000ull
#define BRACKETS           16u

struct pvclock_time {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags, pad[2];
};
_Static_assert(sizeof(struct pvclock_time) == 32, "as the guest has it");

struct pvclock_wall {
	u32 version, sec, nsec;
};

/* mul and shift with mul between 2^31 and 2^32: nanoseconds per tick is mul * 2^(shift - 32). */
static void scale_set(struct pvclock *p, u64 tsc_khz)
{
	int shift = 0;

	while (muldiv64(1000000, 1ull << (32 - shift), tsc_khz) < 1ull << 31)
		shift--;
	while (muldiv64(1000000, 1ull << (32 - shift), tsc_khz) >= 1ull << 32)
		shift++;
	p->shift = shift;
	p->mul = muldiv64(1000000, 1ull << (32 - shift), tsc_khz);
}

void pvclock_init(struct pvclock *p, struct ram *ram, u64 tsc_khz, u64 (*tsc)(void *),
		  u64 (*now)(void *), u64 (*wall_at_zero)(void *), void *opaque)
{
	BUG_ON(tsc_khz < 1000);
	*p = (struct pvclock){
	    .ram = ram, .tsc = tsc, .now = now, .wall_at_zero = wall_at_zero, .opaque = opaque};
	scale_set(p, tsc_khz);
}

void pvclock_reset(struct pvclock *p)
{
	p->wall_clock = p->system_time = 0;
}

/* Write a structure that begins with a version: odd version, body, even version. That the place is
 * RAM was checked when the guest named it. */
static void publish(struct pvclock *p, gpa_t gpa, void *structure, u32 len)
{
	u32 *version = structure;

	*version = p->version + 1;
	BUG_ON(ram_write(p->ram, gpa, version, sizeof(*version)));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	BUG_ON(ram_write(p->ram, gpa + 4, (u8 *)structure + 4, len - 4));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	p->version += 2;
	*version = p->version;
	BUG_ON(ram_write(p->ram, gpa, version, sizeof(*version)));
}

static void fill_time(struct pvclock *p, u8 flags)
{
	struct pvclock_time t = {
	    .tsc_to_system_mul = p->mul, .tsc_shift = p->shift, .flags = flags};

	if (!(p->system_time & SYSTEM_TIME_ENABLE))
		return;
	t.tsc_timestamp = p->tsc(p->opaque);
	t.system_time = p->now(p->opaque);
	publish(p, p->system_time & ~1ull, &t, sizeof(t));
}

void pvclock_refresh(struct pvclock *p)
{
	fill_time(p, PVCLOCK_TSC_STABLE);
}

void pvclock_resume(struct pvclock *p)
{
	fill_time(p, PVCLOCK_TSC_STABLE | PVCLOCK_STOPPED);
}

static void fill_wall(struct pvclock *p)
{
	u64 ns = p->wall_at_zero(p->opaque);
	struct pvclock_wall w = {.sec = ns / NS_PER_SEC, .nsec = ns % NS_PER_SEC};

	publish(p, p->wall_clock, &w, sizeof(w));
}

u64 pvclock_msr(const struct pvclock *p, u32 index)
{
	return index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_WALL_CLOCK_OLD ? p->wall_clock
									      : p->system_time;
}

static bool fits(const struct pvclock *p, gpa_t gpa, u32 len)
{
	return !(gpa & 3) && ram_ptr(p->ram, gpa, len);
}

int pvclock_set_msr(struct pvclock *p, u32 index, u64 val)
{
	if (index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_WALL_CLOCK_OLD) {
		if (val && !fits(p, val, sizeof(struct pvclock_wall)))
			return -1;
		p->wall_clock = val;
		if (val)
			fill_wall(p);
		return 0;
	}
	if ((val & SYSTEM_TIME_ENABLE) && !fits(p, val & ~1ull, sizeof(struct pvclock_time)))
		return -1;
	p->system_time = val;
	pvclock_refresh(p);
	return 0;
}

/* --- the host's TSC --- */

struct stamp {
	u64 tsc, ns;
};

static u64 host_tsc(void)
{
	u32 lo, hi;

	asm volatile("lfence\n\trdtsc\n\tlfence" : "=a"(lo), "=d"(hi)::"memory");
	return (u64)hi << 32 | lo;
}

static u64 raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

/* Both clocks at one moment: of several readings the one whose two TSC values are closest. */
static struct stamp stamp_now(void)
{
	struct stamp best = {0};
	u64 width = ~0ull;
	unsigned i;

	for (i = 0; i < BRACKETS; i++) {
		u64 before = host_tsc(), ns = raw_ns(), after = host_tsc();

		if (after - before < width) {
			width = after - before;
			best = (struct stamp){.tsc = before + width / 2, .ns = ns};
		}
	}
	return best;
}

static u64 measure_khz(u64 for_ns)
{
	struct stamp a = stamp_now(), b;
	struct timespec ts = {.tv_nsec = for_ns};

	nanosleep(&ts, NULL); /* longer is as good, shorter (a signal) is repeated */
	while (raw_ns() - a.ns < for_ns)
		;
	b = stamp_now();
	return muldiv64(b.tsc - a.tsc, 1000000, b.ns - a.ns);
}

/* What CPUID says: leaf 0x15, or the hypervisor's leaf 0x40000010; 0 if neither. */
static u64 cpuid_khz(void)
{
	struct cpuid_host h = cpuid_host_real();
	u32 r[4];

	h.cpuid(0, 0, r);
	if (r[0] >= 0x15) {
		h.cpuid(0x15, 0, r);
		if (r[0] && r[1] && r[2])
			return muldiv64(r[2], r[1], (u64)r[0] * 1000);
	}
	h.cpuid(1, 0, r);
	if (!(r[2] >> CPUID_BIT_HYPERVISOR & 1))
		return 0;
	h.cpuid(0x40000000, 0, r);
	if (r[0] < 0x40000010 || r[0] > 0x400000ff)
		return 0;
	h.cpuid(0x40000010, 0, r);
	return r[0];
}

u64 tsc_calibrate_khz(void)
{
	u64 said = cpuid_khz(), measured;

	/* A hypervisor may scale the TSC and pass leaf 0x15 through: believe, but check. */
	if (said) {
		measured = measure_khz(CHECK_NS);
		if (MAX(measured, said) - MIN(measured, said) <= said / 100)
			return said;
	}
	return measure_khz(MEASURE_NS);
}
