/*
 * The paravirtual clock in KVM's form: two structures in guest memory, at places the guest gives by
 * MSR, from which it computes time without leaving guest code; and the calibration of the host's
 * TSC. See pvclock.c.
 */
#ifndef RINGSHIFT_PVCLOCK_H
#define RINGSHIFT_PVCLOCK_H

#include "base.h"
#include "ram.h"

/* MSR numbers, the old ones and those of KVM_CLOCKSOURCE2. */
#define MSR_KVM_WALL_CLOCK_OLD  0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u
#define MSR_KVM_WALL_CLOCK      0x4b564d00u
#define MSR_KVM_SYSTEM_TIME     0x4b564d01u

struct pvclock {
	struct ram *ram;
	u64 (*tsc)(void *opaque);
	u64 (*now)(void *opaque);          /* VM clock, ns */
	u64 (*wall_at_zero)(void *opaque); /* host's UTC in ns when the VM clock was 0 */
	void *opaque;
	u32 mul;
	int shift;
	u64 wall_clock, system_time; /* the MSRs, as written */
	u32 version;
};

void pvclock_init(struct pvclock *p, struct ram *ram, u64 tsc_khz, u64 (*tsc)(void *),
		  u64 (*now)(void *), u64 (*wall_at_zero)(void *), void *opaque);
/* Forget where the guest had its structures. */
void pvclock_reset(struct pvclock *p);
/* The MSRs. Writing fills the structure; -1 (#GP) if it would not lie in RAM or is misaligned. */
u64 pvclock_msr(const struct pvclock *p, u32 index);
MUST_CHECK int pvclock_set_msr(struct pvclock *p, u32 index, u64 val);
/* Fill the time structure anew from the clocks, if there is one: after the VM clock has moved
 * against the TSC (host suspend). CPU thread. */
void pvclock_refresh(struct pvclock *p);
/* The same after the VM was stopped, with a mark for the guest that it was. */
void pvclock_resume(struct pvclock *p);

/* Frequency of the host's TSC: from CPUID if that is credible, else measured (takes 20 ms). */
u64 tsc_calibrate_khz(void);

#endif
