/*
 * The CPU model: what CPUID tells the guest, made once at start from the host's CPUID and the table
 * cpuid.def. Read-only afterwards; the few bits that follow control registers are computed per
 * query.
 */
#ifndef RINGSHIFT_CPUID_H
#define RINGSHIFT_CPUID_H

#include "base.h"

enum cpuid_word {
	CPUID_1_ECX,
	CPUID_1_EDX,
	CPUID_6_EAX,
	CPUID_7_EBX,
	CPUID_7_ECX,
	CPUID_7_EDX,
	CPUID_7_1_EAX,
	CPUID_D_1_EAX,
	CPUID_80000001_ECX,
	CPUID_80000001_EDX,
	CPUID_80000007_EDX,
	CPUID_80000008_EBX,
	CPUID_80000021_EAX,
	CPUID_80000021_ECX,
	CPUID_WORDS
};

/* Bit numbers by name: CPUID_BIT_AVX512F and so on. */
enum {
#define BASE(word, bit, name)       CPUID_BIT_##name = bit,
#define SHOW(word, bit, name)       CPUID_BIT_##name = bit,
#define FORCE(word, bit, name, why) CPUID_BIT_##name = bit,
#define HIDE(word, bit, name, why)  CPUID_BIT_##name = bit,
#include "cpuid.def"
#undef BASE
#undef SHOW
#undef FORCE
#undef HIDE
};

enum cpuid_kind { CPU_MODEL_HOST, CPU_MODEL_QEMU64 }; /* -cpu max is -cpu host */

#define CPUID_XCOMPS 8 /* state components 0..7 of XCR0 */
#define CPUID_CACHES 8

struct cpuid_model {
	u32 word[CPUID_WORDS];
	u32 vendor[3]; /* EBX EDX ECX of leaf 0 */
	u32 signature; /* EAX of leaf 1 */
	bool intel;
	u32 max_ext;
	u64 xcr0;                               /* bits XSETBV may set; 0 without XSAVE */
	u32 xcomp[CPUID_XCOMPS][3];             /* size, offset, ECX of leaf 0xd */
	u32 leaf2[4], leaf5ext[4], leaf6ext[4]; /* leaf 2, 0x80000005, 0x80000006 */
	u32 cache[CPUID_CACHES][4];             /* leaf 4 */
	unsigned maxphyaddr;
	u64 tsc_khz, apic_khz;
	u32 tsc_ratio[2]; /* TSC / APIC clock as a fraction: numerator, denominator */
};

/* What changes while the guest runs. */
struct cpuid_dynamic {
	u64 cr4, xcr0;
	bool apic_enabled; /* IA32_APIC_BASE bit 11 */
};

/* How to ask the host; tests ask hosts of their own making. */
struct cpuid_host {
	void (*cpuid)(u32 leaf, u32 subleaf, u32 out[4]);
	u64 xcr0; /* 0 if the host has no XSAVE */
};
struct cpuid_host cpuid_host_real(void);

/* apic_khz: input clock of the APIC timer. */
void cpuid_model_init(struct cpuid_model *m, enum cpuid_kind kind, const struct cpuid_host *host,
		      u64 tsc_khz, u64 apic_khz);

/* CPUID as the guest executes it; out: EAX EBX ECX EDX. */
void cpuid_query(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, u32 leaf,
		 u32 subleaf, u32 out[4]);

static inline bool cpuid_has(const struct cpuid_model *m, enum cpuid_word word, unsigned bit)
{
	return m->word[word] >> bit & 1;
}

/* Bits that the model lets software set in CR4 and EFER (EFER.LMA included). */
u64 cpuid_cr4_allowed(const struct cpuid_model *m);
u64 cpuid_efer_allowed(const struct cpuid_model *m);

#endif
