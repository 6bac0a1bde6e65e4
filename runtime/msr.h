/*
 * Model-specific registers: RDMSR and WRMSR by the table msr.def. The registers that the engine
 * itself uses live in struct cpu, the local APIC's in the APIC, the clock's in pvclock; the rest
 * here. CPU thread only.
 */
#ifndef RINGSHIFT_MSR_H
#define RINGSHIFT_MSR_H

#include "cpu.h"
#include "cpuid_model.h"
#include "pvclock.h"

#define MTRR_VARIABLE 8u /* pairs */

struct msr_ops {
	/* IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800-0x83f. 0, or -1: #GP. */
	int (*apic_read)(void *opaque, u32 index, u64 *val);
	int (*apic_write)(void *opaque, u32 index, u64 val);
	void *opaque;
};

struct msr_state {
	struct cpu *cpu;
	const struct cpuid_model *model;
	struct pvclock *clock; /* NULL: no paravirtual clock */
	struct msr_ops ops;
	u64 spec_ctrl, mcg_status;
	u64 mtrr_def_type, mtrr_fixed[11];
	u64 mtrr_phys[2 * MTRR_VARIABLE]; /* base, mask, base, ... */
};

/* cpu must have its ops, stats and maxphyaddr; resets the registers held here. */
void msr_init(struct msr_state *m, struct cpu *cpu, const struct cpuid_model *model,
	      struct pvclock *clock, const struct msr_ops *ops);
/* Power-on values of what is held here (cpu_reset does the CPU's). */
void msr_reset(struct msr_state *m);
/* What firmware would leave in the MTRRs: everything write-back but the VGA range and
 * [hole_start, 4 GiB). hole_start: 4 GiB less a power of two. For direct boot. */
void msr_set_boot_mtrrs(struct msr_state *m, gpa_t hole_start);

/* RDMSR, WRMSR: 0, or -1 for #GP. These fit cpu_ops with the state as vm. */
MUST_CHECK int msr_read(struct msr_state *m, u32 index, u64 *val);
MUST_CHECK int msr_write(struct msr_state *m, u32 index, u64 val);

/* Is the MSR a word that may be read without msr_read? See cpu_ops. */
bool msr_word(struct msr_state *m, u32 index, struct msr_word *w);

#endif
