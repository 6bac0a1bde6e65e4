/* Reset state and the derived parts of struct cpu; raising exceptions. SDM vol. 3, 10.1 (reset). */
#include "cpu.h"

#include <stdarg.h>
#include <string.h>

static void segment_reset(struct cpu *c, unsigned s, u16 sel, u64 base, u32 attr)
{
	c->seg[s] = (struct seg_reg){.base = base, .limit = 0xffff, .sel = sel, .attr = attr};
}

static void vec_reset(struct vec_state *v)
{
	memset(v, 0, sizeof(*v));
	v->fx[0] = 0x40; /* FCW at reset; FNINIT makes it 0x37f */
	v->mxcsr = 0x1f80;
}

void cpu_reset(struct cpu *c)
{
	unsigned i;

	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[GPR_RDX] = 0x600; /* family 6: what the reset state leaves of the signature */
	c->rip = 0xfff0;
	cpu_set_rflags(c, 0);
	for (i = 0; i < SEG_COUNT; i++)
		segment_reset(c, i, 0, 0, SEG_P | SEG_S | SEG_W | SEG_A);
	segment_reset(c, SEG_CS, 0xf000, 0xffff0000, SEG_P | SEG_S | SEG_CODE | SEG_W | SEG_A);
	c->ldtr = (struct seg_reg){.limit = 0xffff, .attr = SEG_P | 2};
	c->tr = (struct seg_reg){.limit = 0xffff, .attr = SEG_P | 0xb};
	c->gdtr = c->idtr = (struct table_reg){.limit = 0xffff};
	c->cr0 = CR0_ET | CR0_NW | CR0_CD;
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	c->xcr0 = 1;
	cpu_forget_cpuid(c);
	memset(c->dr, 0, sizeof(c->dr));
	c->dr[6] = 0xffff0ff0;
	c->dr[7] = 0x400;
	c->star = c->lstar = c->cstar = c->fmask = c->kernel_gs_base = 0;
	c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
	c->tsc_aux = 0;
	c->misc_enable = 1; /* fast strings */
	c->pat = 0x0007040600070406ull;
	c->cpl = 0;
	c->halted = c->nmi_pending = c->nmi_blocked = c->in_delivery = false;
	c->shadow = SHADOW_NONE;
	c->debug_hits = c->debug_held = 0;
	cpu_fetch_vec(c);
	vec_reset(&c->vec);
	memset(c->mmu.pg.pdpte, 0, sizeof(c->mmu.pg.pdpte));
	host_cpu_probe(&c->host);
	cpu_update_paging(c);
	mmu_flush_all(&c->mmu);
	cpu_update_mode(c);
}

void cpu_raise(struct cpu *c, unsigned vector)
{
	c->exc.vector = vector;
	c->exc.has_error = c->exc.soft = false;
	c->exc.error = 0;
	__builtin_longjmp(c->unwind, 1);
}

void cpu_raise_error(struct cpu *c, unsigned vector, u32 error)
{
	c->exc.vector = vector;
	c->exc.has_error = true;
	c->exc.soft = false;
	c->exc.error = error;
	__builtin_longjmp(c->unwind, 1);
}

void cpu_raise_pf(struct cpu *c, gva_t va, u32 error)
{
	c->cr2 = va;
	cpu_raise_error(c, EXC_PF, error);
}

void cpu_raise_soft(struct cpu *c, unsigned vector, u64 next_rip)
{
	c->exc.vector = vector;
	c->exc.has_error = false;
	c->exc.soft = true;
	c->exc.next_rip = next_rip;
	__builtin_longjmp(c->unwind, 1);
}

void cpu_unsupported(struct cpu *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->unsupported, sizeof(c->unsupported), fmt, ap);
	va_end(ap);
	c->exit = EXIT_UNSUPPORTED;
	c->exc.vector = EXC_NONE;
	__builtin_longjmp(c->unwind, 1);
}

/* A question that belongs into another place. */
void cpu_forget_cpuid(struct cpu *c)
{
	unsigned i;

	for (i = 0; i < CPUID_ANSWERS; i++)
		c->bt.cpuid[i].asked = i ^ 1;
}

/* DR7: L0..G3 of any breakpoint whose R/W field is not "execution", i.e. data or I/O. */
static bool data_breakpoints(const struct cpu *c)
{
	unsigned i;

	for (i = 0; i < 4; i++)
		if ((c->dr[7] >> (2 * i) & 3) && (c->dr[7] >> (16 + 4 * i) & 3))
			return true;
	return false;
}

void cpu_update_slow(struct cpu *c)
{
	c->slow = c->trace || c->halted || c->shadow || c->debug_hits || c->debug_held ||
		  c->flush_wanted || (c->sflags & (FL_TF | FL_RF)) || (c->dr[7] & 0xff) ||
		  (c->nmi_pending && !c->nmi_blocked) || (c->intr && (c->sflags & FL_IF));
}

void cpu_set_intr(struct cpu *c, bool level)
{
	c->intr = level;
	cpu_update_slow(c);
}

void cpu_update_mode(struct cpu *c)
{
	u32 attr = c->seg[SEG_CS].attr;
	u8 mode = c->mode;
	bool user = c->user, no_fill;

	if (cpu_long_mode(c) && (attr & SEG_L))
		c->mode = INSN_MODE_64;
	else
		c->mode = cpu_v86(c) || !(attr & SEG_DB) ? INSN_MODE_16 : INSN_MODE_32;
	c->user = c->cpl == 3;
	c->align_check = c->user && (c->cr0 & CR0_AM) && (c->sflags & FL_AC);
	no_fill = c->align_check || ((c->dr[7] & 0xff) && data_breakpoints(c));
	if (no_fill && !c->mmu.no_fill)
		mmu_flush_all(&c->mmu);
	c->mmu.no_fill = no_fill;
	if (c->mode != mode || c->user != user)
		c->code_page = CODE_PAGE_NONE;
	cpu_update_slow(c);
}

void cpu_update_paging(struct cpu *c)
{
	struct paging pg = {.cr0 = c->cr0,
			    .cr3 = c->cr3,
			    .cr4 = c->cr4,
			    .efer = c->efer,
			    .maxphyaddr = c->maxphyaddr};

	memcpy(pg.pdpte, c->mmu.pg.pdpte, sizeof(pg.pdpte));
	mmu_set_paging(&c->mmu, &pg);
	c->code_page = CODE_PAGE_NONE;
}
