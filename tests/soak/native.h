/*
 * Run user-mode code on the host CPU from a given state and get the state it leaves, faults
 * included.
 */
#ifndef RINGSHIFT_TEST_NATIVE_H
#define RINGSHIFT_TEST_NATIVE_H

#include "base.h"

/* Where code, data and stack of a test lie, in this process and in the guest alike. */
#define AREA_BASE  0x10000000ull
#define AREA_SIZE  0x400000ull
#define CODE_AT    (AREA_BASE + 0x1000)
#define DATA_AT    (AREA_BASE + 0x200000)
#define DATA_SIZE  0x4000ull
#define STACK_AT   (AREA_BASE + 0x300000) /* grows down from the end */
#define STACK_SIZE 0x1000ull
#define STACK_TOP  (STACK_AT + STACK_SIZE / 2)

/* Offsets are known to native_entry.S. */
struct native_state {
	u64 gpr[16];
	u64 rflags;
	u64 host_rsp;
	u64 entry;
	u64 xsave_mask;
	/* A fault, if trapno is not ~0. */
	u64 trapno, error, cr2, rip;
	u8 xsave[4096] __attribute__((aligned(64)));
};

extern struct native_state native_state;

/* Map the area. */
void native_init(void);
/* Run the code at native_state.entry until it jumps to native_exit or faults. */
void native_run(void);
/* Where code under test goes when it is done. */
extern void native_exit(void);
/* Offset of a state component (SDM vol. 1, 13.4.2) in the standard XSAVE format, 0 if absent. */
unsigned native_xsave_offset(unsigned component);
/* Does the host store x87 selectors as zero (CPUID leaf 7, EBX bit 13)? */
bool native_fcs_fds_zero(void);

#endif
