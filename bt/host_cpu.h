/*
 * What the manuals leave to the processor model and guest user code sees of the host's. The
 * hand-written instructions ask here, so that they do what the same instruction does natively.
 */
#ifndef RINGSHIFT_HOST_CPU_H
#define RINGSHIFT_HOST_CPU_H

#include "base.h"

#define MXCSR_MM 0x20000u /* AMD's: misaligned 16-byte operands of legacy SSE do not fault */

struct host_cpu {
	u32 mxcsr_mask; /* the bits MXCSR has */
	/* FOP, FIP and FDP always follow the last instruction, as FNSTENV shows; but FXSAVE and
	 * XSAVE store them as zero unless an unmasked exception is pending, and they do not count
	 * for XINUSE: AMD's. (Else what FXSAVE stores is all there is.) */
	bool x87_pointers_hidden;
	/* AMD's: in long mode SYSCALL exists in 32-bit code, too (through CSTAR), SYSENTER and
	 * SYSEXIT do not exist at all. Intel's the other way round. */
	bool syscall32;
	/* In 64-bit mode, which registers a repeated string instruction with 32-bit addresses cuts
	 * to 32 bits although the count is zero. Bit per GPR_*, by host_rep_index(opcode). */
	u16 rep_zero_cuts[8];
	/* A repeated CMPS or SCAS that faults has the flags of the comparisons done by then: AMD's.
	 * (Else those before the instruction.) */
	bool rep_fault_flags;
};

/* INS and OUTS, which cannot be asked without I/O privilege, stand with LODS and SCAS: on Intel's
 * none of the four cuts its index register. */
static inline unsigned host_rep_index(u8 opcode)
{
	return opcode >> 1 & 7;
}

/* Some instructions' worth of time; any thread, not while guest x87 state is live. */
void host_cpu_probe(struct host_cpu *h);

#endif
