/*
 * bt_step's part for what the processor keeps beside general registers: MSRs, segment bases, CPUID.
 */
#ifndef RINGSHIFT_TESTS_BT_SYSTEM_H
#define RINGSHIFT_TESTS_BT_SYSTEM_H

#include "cpu.h"

/* What the machines of bt_step have; vm is the CPU. */
extern const struct cpu_ops soak_ops;

/* One or more instructions that keep RBX; bytes put. percpu: a GS base under which something lies.
 */
unsigned system_insn(u64 *rng, u64 percpu, u8 out[48]);
/* The same values on both machines. */
void system_state(u64 *rng, struct cpu *bt, struct cpu *step);
/* The number of differences, which are printed. */
unsigned system_compare(const struct cpu *bt, const struct cpu *step);

#endif
