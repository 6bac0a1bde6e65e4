/*
 * bt_step's vector part: random SSE, AVX, AVX-512, x87 and MMX instructions, random vector state,
 * and the comparison of it.
 */
#ifndef RINGSHIFT_TESTS_BT_VECTOR_H
#define RINGSHIFT_TESTS_BT_VECTOR_H

#include "cpu.h"

struct form { /* of a memory operand */
	bool gs, x, b;
	u8 mod_rm, sib;
	bool has_sib;
	unsigned disp_size;
	s32 disp;
};

static inline u64 soak_rnd(u64 *rng)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng;
}

/* One instruction with this operand, or on registers; bytes put, 0: try again. kept: general
 * registers it may not write. */
unsigned vector_insn(u64 *rng, struct decoder *d, const struct form *f, u16 kept, u8 out[16]);
/* If its operand is relative to RIP: make that this address. */
void vector_aim(struct decoder *d, u8 code[16], u64 at, u64 target);
/* Fill c's vector state; switch it off by CR0 or CR4 now and then. */
void vector_state(u64 *rng, struct cpu *c);
/* The number of differences, which are printed. */
unsigned vector_compare(const struct cpu *bt, const struct cpu *step);

#endif
