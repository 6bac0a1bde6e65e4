/*
 * May the current instruction use x87, MMX, SSE, AVX or AVX-512 state?
 */
#ifndef RINGSHIFT_FPU_CHECK_H
#define RINGSHIFT_FPU_CHECK_H

#include "cpu.h"

/*
 * state: bits of enum insn_state. Raises #UD or #NM as CR0.EM, CR0.TS, CR4.OSFXSR, CR4.OSXSAVE and
 * XCR0 demand; #UD comes first. Fetches the state if it is in a user space. Pending x87 errors
 * (#MF) are not looked at. SDM vol. 3, 2.5 and vol. 2, 2.4.
 */
void fpu_check(struct cpu *c, unsigned state);
/* For which classes of vector instructions (tr_vector.c) fpu_check would raise or fetch: not 0. */
void fpu_denied(const struct cpu *c, u8 denied[VEC_CLASSES]);
/* As fpu_check for WAIT, which heeds CR0.MP and TS together and nothing else. */
void fpu_check_wait(struct cpu *c);
/* An unmasked x87 exception is pending: #MF, or FERR# and a stop if CR0.NE is 0. For the waiting
 * instructions that do not run in a thunk. */
void fpu_check_pending(struct cpu *c);

#endif
