/*
 * Control and debug registers: MOV to and from them, and what else writes them.
 */
#ifndef RINGSHIFT_CONTROL_REGS_H
#define RINGSHIFT_CONTROL_REGS_H

#include "exec.h"

/* Write with all checks (#GP) and consequences (EFER.LMA, PDPTEs, TLB). SDM vol. 3, 2.5 and 4.1.2.
 */
void cr0_write(struct cpu *c, u64 val);
void cr3_write(struct cpu *c, u64 val);
void cr4_write(struct cpu *c, u64 val);

/* 0F 20..23. */
exec_fn exec_mov_cr_dr;

#endif
