/*
 * Extended processor state: the names of its components, and the x87 part of struct vec_state. See
 * xstate.c and x87env.c.
 */
#ifndef RINGSHIFT_XSTATE_H
#define RINGSHIFT_XSTATE_H

#include "exec.h"

/* XCR0 and XSTATE_BV. SDM vol. 1, 13.1. */
#define XFEATURE_X87    0x01ull
#define XFEATURE_SSE    0x02ull
#define XFEATURE_AVX    0x04ull
#define XFEATURE_AVX512 0xe0ull /* opmask, upper halves of ZMM0-15, ZMM16-31 */
#define XFEATURE_ALL    (XFEATURE_X87 | XFEATURE_SSE | XFEATURE_AVX | XFEATURE_AVX512)

#define MXCSR_INIT 0x1f80u

/* The x87 part of an FXSAVE image (SDM vol. 1, 10.5.1), as kept in vec_state.fx with REX.W. */
enum {
	FX_FCW = 0,
	FX_FSW = 2,
	FX_FTW = 4, /* abridged: a bit per physical register, set if not empty */
	FX_FOP = 6,
	FX_FIP = 8,
	FX_FDP = 16,
	FX_MXCSR = 24,
	FX_MXCSR_MASK = 28,
	FX_ST = 32, /* ST(0) to ST(7), 16 bytes each */
	FX_XMM = 160,
	FX_END_XMM = 416,
};

/* FNINIT. */
void x87_init(struct cpu *c);
/* Bring control and status word into a form the processor can be in: reserved bits, ES and B. */
void x87_normalise(struct cpu *c);
/* Are FOP, FIP and FDP such as FXSAVE does not show? */
bool x87_pointers_hidden(const struct cpu *c);
/* What FXSAVE and XSAVE store of the x87 state: bytes 0 to 23 and 32 to 159 of the legacy area. The
 * instruction pointers have 64 bits with REX.W, else 32 and a selector, which we keep as zero. */
void x87_encode(const struct cpu *c, bool w, u8 *out);
/* Is the x87 part as after FNINIT, as far as FXSAVE shows it? */
bool x87_is_init(const struct cpu *c);
/* MMX register n (0..7). */
void mmx_read(const struct cpu *c, unsigned n, u8 out[8]);
/* What every MMX instruction but EMMS does to the x87 state: TOP 0, no register empty. */
void mmx_enter(struct cpu *c);

/* x87env.c: FLDENV FNSTENV FRSTOR FNSAVE. */
exec_fn exec_x87_env;

#endif
