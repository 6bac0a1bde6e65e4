/*
 * What thunk.c (making thunks) and thunk_fault.c (leaving them by a host exception) share.
 */
#ifndef RINGSHIFT_THUNK_FAULT_H
#define RINGSHIFT_THUNK_FAULT_H

#include "thunk.h"

#define ALT_STACK_SIZE (64 * KIB)
#define LANDING_SIZE   (16 * KIB)

struct thunk_entry;

/* Stands at the low end of the alternate stack's memory, which is aligned to its size: a handler
 * finds it without TLS. signal_entry.S knows the first two fields. */
#define ALT_MAGIC 0x74667368676e6972ull
struct alt_head {
	u64 magic;
	u64 host_fs;
	struct cpu *cpu;
	struct thunks *thunks;
	void (*kick)(struct cpu *c);
};

struct thunks {
	u8 *rx, *rw;
	u32 used;
	int fd;
	struct thunk_entry *table;
	struct stats *stats;
	unsigned vec_width; /* 16, 32, 64: bytes of vector registers the host has */
	bool mxcsr_mm;      /* the host has MXCSR.MM */
	u8 *alt;            /* alt_head + alternate stack */
	u8 *landing;        /* stack for what runs after an abandoned thunk */
	u8 *guard;          /* three pages: none, read-write, none */
	struct masked_operand masked;
	u8 *masked_at;
	int trapno;
	u64 fault_addr;
	u32 fault_mxcsr;
	u8 fault_fx[160]; /* x87 part of the FP state at the fault */
};

#endif
