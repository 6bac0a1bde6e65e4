/*
 * Model-specific registers. SDM vol. 4; vol. 3, 12.11 (MTRR), 12.12 (PAT), 16.3 (machine check).
 *
 * The MTRRs and the PAT are stored and otherwise without effect: guest memory is the host's, cached
 * as the host likes. The time-stamp counter is the host's own, which user code reads without us, so
 * a write to it is ignored.
 */
#include "msr.h"

#include <string.h>

#define MTRRCAP_FIX     BIT(8)
#define MTRRCAP_WC      BIT(10)
#define MTRR_DEF_FE     BIT(10)
#define MTRR_DEF_E      BIT(11)
#define MTRR_MASK_VALID BIT(11)

enum { TYPE_UC = 0, TYPE_WC = 1, TYPE_WT = 4, TYPE_WP = 5, TYPE_WB = 6, TYPE_UC_MINUS = 7 };

#define MISC_ENABLE_FAST_STRING      BIT(0)
#define MISC_ENABLE_BTS_UNAVAILABLE  BIT(11)
#define MISC_ENABLE_PEBS_UNAVAILABLE BIT(12)

#define DEBUGCTL_LBR BIT(0)
#define DEBUGCTL_BTF BIT(1)

/* IA32_ARCH_CAPABILITIES: none of the known speculation problems is the guest's to mitigate, and
 * IBRS once set stays effective, so that a guest settles for it and builds no retpolines. */
#define ARCH_CAPS                                                                                  \
	(BIT(0) /* RDCL_NO: no Meltdown, no L1TF */ | BIT(1) /* IBRS_ALL */ |                      \
	 BIT(3) /* SKIP_L1DFL_VMENTRY */ | BIT(4) /* SSB_NO */ | BIT(5) /* MDS_NO */ |             \
	 BIT(6) /* PSCHANGE_MC_NO */ | BIT(8) /* TAA_NO */ | BIT(13) /* SBDR_SSDP_NO */ |          \
	 BIT(14) /* FBSDP_NO */ | BIT(15) /* PSDP_NO */ | BIT(20) /* BHI_NO */ |                   \
	 BIT(24) /* PBRSB_NO */ | BIT(26) /* GDS_NO */ | BIT(27) /* RFDS_NO */ |                   \
	 BIT(62) /* ITS_NO */)

enum on_write { IGNORED, REFUSED, ONLY_ZERO };

static int fixed_write(enum on_write rule, u64 val)
{
	return rule == REFUSED || (rule == ONLY_ZERO && val) ? -1 : 0;
}

/* --- what a value must be --- */

static bool valid_any(const struct msr_state *m, u64 v)
{
	(void)m;
	(void)v;
	return true;
}

static bool valid_32(const struct msr_state *m, u64 v)
{
	(void)m;
	return !(v >> 32);
}

static bool valid_canonical(const struct msr_state *m, u64 v)
{
	(void)m;
	return cpu_canonical(v);
}

static bool valid_spec_ctrl(const struct msr_state *m, u64 v)
{
	(void)m;
	return !(v & ~7ull); /* IBRS STIBP SSBD, all without effect */
}

static bool valid_mcg_status(const struct msr_state *m, u64 v)
{
	(void)m;
	return !(v & ~7ull); /* RIPV EIPV MCIP */
}

static bool valid_mtrr_type(u8 t)
{
	return t == TYPE_UC || t == TYPE_WC || t == TYPE_WT || t == TYPE_WP || t == TYPE_WB;
}

static bool valid_pat(const struct msr_state *m, u64 v)
{
	unsigned i;

	(void)m;
	for (i = 0; i < 8; i++) {
		u8 t = v >> (8 * i);

		if (!valid_mtrr_type(t) && t != TYPE_UC_MINUS)
			return false;
	}
	return true;
}

static bool valid_mtrr_def_type(const struct msr_state *m, u64 v)
{
	(void)m;
	return !(v & ~(MTRR_DEF_E | MTRR_DEF_FE | 0xffull)) && valid_mtrr_type(v);
}

static enum msr_rule rule_of(bool (*check)(const struct msr_state *m, u64 v))
{
	return check == valid_any         ? MSR_WRITE_ANY
	       : check == valid_32        ? MSR_WRITE_32
	       : check == valid_canonical ? MSR_WRITE_CANONICAL
					  : MSR_WRITE_OTHER;
}

/* --- the registers with a function of their own --- */

static u64 platform_info(const struct msr_state *m)
{
	return m->model->tsc_khz / 100000 << 8; /* ratio to 100 MHz */
}

static int tsc_read(struct msr_state *m, u32 index, u64 *val)
{
	(void)index;
	*val = m->cpu->ops->tsc(m->cpu->vm);
	return 0;
}

static int tsc_write(struct msr_state *m, u32 index, u64 val)
{
	(void)m;
	(void)index;
	(void)val;
	return 0;
}

static int clock_read(struct msr_state *m, u32 index, u64 *val)
{
	if (!m->clock)
		return -1;
	*val = pvclock_msr(m->clock, index);
	return 0;
}

static int clock_write(struct msr_state *m, u32 index, u64 val)
{
	return m->clock ? pvclock_set_msr(m->clock, index, val) : -1;
}

static int apic_read(struct msr_state *m, u32 index, u64 *val)
{
	return m->ops.apic_read(m->ops.opaque, index, val);
}

static int apic_write(struct msr_state *m, u32 index, u64 val)
{
	return m->ops.apic_write(m->ops.opaque, index, val);
}

static int pred_cmd_read(struct msr_state *m, u32 index, u64 *val)
{
	(void)m;
	(void)index;
	(void)val;
	return -1; /* write-only */
}

static int pred_cmd_write(struct msr_state *m, u32 index, u64 val)
{
	(void)m;
	(void)index;
	return val & ~1ull ? -1 : 0;
}

static int misc_enable_read(struct msr_state *m, u32 index, u64 *val)
{
	(void)index;
	*val = m->cpu->misc_enable | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
	return 0;
}

/* Of what may be written, fast strings alone exist here. */
static int misc_enable_write(struct msr_state *m, u32 index, u64 val)
{
	(void)index;
	m->cpu->misc_enable = val & MISC_ENABLE_FAST_STRING;
	return 0;
}

static int debugctl_read(struct msr_state *m, u32 index, u64 *val)
{
	(void)m;
	(void)index;
	*val = 0;
	return 0;
}

/* Last-branch records and branch stepping are asked for without a feature bit: quietly not given.
 */
static int debugctl_write(struct msr_state *m, u32 index, u64 val)
{
	(void)m;
	(void)index;
	return val & ~(DEBUGCTL_LBR | DEBUGCTL_BTF) ? -1 : 0;
}

static int mtrr_variable_read(struct msr_state *m, u32 index, u64 *val)
{
	*val = m->mtrr_phys[index - 0x200];
	return 0;
}

static int mtrr_variable_write(struct msr_state *m, u32 index, u64 val)
{
	u64 beyond = ~0ull << m->model->maxphyaddr;
	u64 reserved = beyond | (index & 1 ? 0x7ff : 0xf00);

	if ((val & reserved) || (!(index & 1) && !valid_mtrr_type(val)))
		return -1;
	m->mtrr_phys[index - 0x200] = val;
	return 0;
}

static unsigned mtrr_fixed_slot(u32 index)
{
	return index == 0x250 ? 0 : index <= 0x259 ? index - 0x257 : index - 0x265;
}

static int mtrr_fixed_read(struct msr_state *m, u32 index, u64 *val)
{
	*val = m->mtrr_fixed[mtrr_fixed_slot(index)];
	return 0;
}

static int mtrr_fixed_write(struct msr_state *m, u32 index, u64 val)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		if (!valid_mtrr_type(val >> (8 * i)))
			return -1;
	m->mtrr_fixed[mtrr_fixed_slot(index)] = val;
	return 0;
}

static int efer_read(struct msr_state *m, u32 index, u64 *val)
{
	(void)index;
	*val = m->cpu->efer;
	return 0;
}

/* LMA is the processor's: what software writes there is ignored. */
static int efer_write(struct msr_state *m, u32 index, u64 val)
{
	struct cpu *c = m->cpu;

	(void)index;
	if (val & ~cpuid_efer_allowed(m->model))
		return -1;
	val = (val & ~EFER_LMA) | (c->efer & EFER_LMA);
	if (((val ^ c->efer) & EFER_LME) && (c->cr0 & CR0_PG))
		return -1;
	c->efer = val;
	cpu_update_paging(c);
	cpu_update_mode(c);
	return 0;
}

/* --- the table at work --- */

static int unknown(struct msr_state *m)
{
	m->cpu->stats->n[STAT_unknown_msrs]++;
	return -1;
}

/* It takes the end of one of these macros for the middle of another. */
/* clang-format off */
int msr_read(struct msr_state *m, u32 index, u64 *val)
{
	switch (index) {
#define FIELD(number, NAME, place, check)    case number: *val = m->place; return 0;
#define FIXED(number, NAME, value, on_write) case number: *val = value; return 0;
#define AMD(number, NAME, value, on_write)                                                         \
	case number: *val = value; return m->model->intel ? unknown(m) : 0;
#define CALL(first, last, NAME, function)                                                          \
	case first ... last: return function##_read(m, index, val);
#include "msr.def"
#undef FIELD
#undef FIXED
#undef AMD
#undef CALL
	default: return unknown(m);
	}
}

int msr_write(struct msr_state *m, u32 index, u64 val)
{
	switch (index) {
#define FIELD(number, NAME, place, check)                                                          \
	case number:                                                                               \
		if (!check(m, val))                                                                \
			return -1;                                                                 \
		m->place = val;                                                                    \
		return 0;
#define FIXED(number, NAME, value, on_write) case number: return fixed_write(on_write, val);
#define AMD(number, NAME, value, on_write)                                                         \
	case number: return m->model->intel ? unknown(m) : fixed_write(on_write, val);
#define CALL(first, last, NAME, function)                                                          \
	case first ... last: return function##_write(m, index, val);
#include "msr.def"
#undef FIELD
#undef FIXED
#undef AMD
#undef CALL
	default: return unknown(m);
	}
}

bool msr_word(struct msr_state *m, u32 index, struct msr_word *w)
{
	switch (index) {
#define FIELD(number, NAME, where, check)                                                          \
	case number:                                                                               \
		*w = (struct msr_word){.place = &m->where, .writes = rule_of(check)};              \
		return true;
#define FIXED(number, NAME, value, on_write)
#define AMD(number, NAME, value, on_write)
#define CALL(first, last, NAME, function)
#include "msr.def"
#undef FIELD
#undef FIXED
#undef AMD
#undef CALL
	default: return false;
	}
}

/* clang-format on */

void msr_init(struct msr_state *m, struct cpu *cpu, const struct cpuid_model *model,
	      struct pvclock *clock, const struct msr_ops *ops)
{
	m->cpu = cpu;
	m->model = model;
	m->clock = clock;
	m->ops = *ops;
	msr_reset(m);
}

void msr_reset(struct msr_state *m)
{
	m->spec_ctrl = m->mcg_status = m->mtrr_def_type = 0;
	memset(m->mtrr_fixed, 0, sizeof(m->mtrr_fixed));
	memset(m->mtrr_phys, 0, sizeof(m->mtrr_phys));
	if (m->clock)
		pvclock_reset(m->clock);
}

void msr_set_boot_mtrrs(struct msr_state *m, gpa_t hole_start)
{
	u64 address_mask = (1ull << m->model->maxphyaddr) - 1;
	u64 hole = 4 * GIB - hole_start;
	unsigned i;

	m->mtrr_def_type = MTRR_DEF_E | MTRR_DEF_FE | TYPE_WB;
	for (i = 0; i < ARRAY_LEN(m->mtrr_fixed); i++)
		m->mtrr_fixed[i] = 0x0606060606060606ull;
	m->mtrr_fixed[mtrr_fixed_slot(0x259)] = 0; /* 0xa0000 to 0xbffff */
	m->mtrr_phys[0] = hole_start | TYPE_UC;
	m->mtrr_phys[1] = (address_mask & ~(hole - 1)) | MTRR_MASK_VALID;
}
