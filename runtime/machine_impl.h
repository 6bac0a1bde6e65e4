/*
 * What machine.c and machine_cpu.c share.
 */
#ifndef RINGSHIFT_MACHINE_IMPL_H
#define RINGSHIFT_MACHINE_IMPL_H

#include "vm.h"

/* machine.c. The level of ISA IRQ n, at both interrupt controllers; has the form of irq_line.set.
 */
void machine_isa_irq(void *vm, unsigned n, int level);
/* The vector of the interrupt the CPU takes now; -1: there is none after all. */
int machine_intr_ack(void *vm);

/* machine_cpu.c */
extern const struct cpu_ops machine_cpu_ops;
extern const struct bus_range machine_fpu_error_range;

#endif
