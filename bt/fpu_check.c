/* Which register file the system software has switched on. SDM vol. 3, 2.5, 13.1; vol. 2, 2.4. */
#include "fpu_check.h"

#include "xstate.h"

static NOINLINE NORETURN void refuse(struct cpu *c, bool ud)
{
	cpu_raise(c, ud ? EXC_UD : EXC_NM);
}

static bool vex_state_enabled(const struct cpu *c, unsigned state)
{
	u64 need = XFEATURE_SSE | XFEATURE_AVX;

	if (state & (STATE_AVX512 | STATE_OPMASK))
		need |= XFEATURE_AVX512;
	return (c->cr4 & CR4_OSXSAVE) && !cpu_real_or_v86(c) && (c->xcr0 & need) == need;
}

void fpu_check(struct cpu *c, unsigned state)
{
	if (state & (STATE_AVX | STATE_AVX512 | STATE_OPMASK)) {
		if (unlikely(!vex_state_enabled(c, state)))
			refuse(c, true);
	} else {
		if ((state & STATE_SSE) && unlikely(!(c->cr4 & CR4_OSFXSR)))
			refuse(c, true);
		if ((state & (STATE_SSE | STATE_MMX)) && unlikely(c->cr0 & CR0_EM))
			refuse(c, true);
		if ((state & STATE_X87) && unlikely(c->cr0 & CR0_EM))
			refuse(c, false);
	}
	if (unlikely(c->cr0 & CR0_TS) && state)
		refuse(c, false);
	cpu_fetch_vec(c);
}

void fpu_denied(const struct cpu *c, u8 denied[VEC_CLASSES])
{
	bool ts = (c->cr0 & CR0_TS) || c->vec_away; /* the engine fetches it */

	denied[0] = ts || (c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR);
	denied[1] = ts || !vex_state_enabled(c, STATE_AVX);
	denied[2] = ts || !vex_state_enabled(c, STATE_AVX512);
}

void fpu_check_wait(struct cpu *c)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		refuse(c, false);
	cpu_fetch_vec(c);
}
