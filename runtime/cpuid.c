/*
 * The CPU model. The table in cpuid.def decides feature bits; this file makes the rest agree with
 * it: vector state with XCR0, the XSAVE layout, caches and topology of one core with one thread,
 * clocks, and the hypervisor leaves.
 *
 * The hypervisor leaves speak KVM's language (signature, clock pages, no-I/O-delay), because every
 * Linux of the last decade understands it. Leaf 0x40000010 gives the TSC frequency in the form
 * VMware introduced. Intel SDM vol. 2, CPUID; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "cpuid_model.h"

#include <string.h>

#include "mmu.h"
#include "xstate.h"

#define LEAF_HV           0x40000000u
#define LEAF_HV_FEATURES  0x40000001u
#define LEAF_HV_FREQUENCY 0x40000010u
#define LEAF_EXT          0x80000000u
#define MAX_BASIC         0x1fu
#define MAX_EXT           0x80000008u
#define MAX_EXT_AMD       0x80000021u

#define KVM_CLOCKSOURCE        BIT(0)
#define KVM_NOP_IO_DELAY       BIT(1)
#define KVM_CLOCKSOURCE2       BIT(3)
#define KVM_CLOCKSOURCE_STABLE BIT(24)

#define XSAVE_FIXED       576u  /* legacy region and header */
#define XSAVE_AREA_MAX    4096u /* bt/xstate.c moves an area in one go */
#define MAXPHYADDR_LIMIT  46u
#define MAXPHYADDR_QEMU64 40u
#define LINEAR_BITS       48u

enum { EAX, EBX, ECX, EDX };
enum policy { POLICY_BASE, POLICY_SHOW, POLICY_FORCE, POLICY_HIDE };

static const struct feature {
	u8 word, bit, policy;
} features[] = {
#define BASE(w, b, n)       {CPUID_##w, b, POLICY_BASE},
#define SHOW(w, b, n)       {CPUID_##w, b, POLICY_SHOW},
#define FORCE(w, b, n, why) {CPUID_##w, b, POLICY_FORCE},
#define HIDE(w, b, n, why)  {CPUID_##w, b, POLICY_HIDE},
#include "cpuid.def"
#undef BASE
#undef SHOW
#undef FORCE
#undef HIDE
};

/* Where each word is found. */
static const struct {
	u32 leaf, subleaf;
	u8 reg;
} word_source[CPUID_WORDS] = {
    [CPUID_1_ECX] = {1, 0, ECX},
    [CPUID_1_EDX] = {1, 0, EDX},
    [CPUID_6_EAX] = {6, 0, EAX},
    [CPUID_7_EBX] = {7, 0, EBX},
    [CPUID_7_ECX] = {7, 0, ECX},
    [CPUID_7_EDX] = {7, 0, EDX},
    [CPUID_7_1_EAX] = {7, 1, EAX},
    [CPUID_D_1_EAX] = {0xd, 1, EAX},
    [CPUID_80000001_ECX] = {0x80000001, 0, ECX},
    [CPUID_80000001_EDX] = {0x80000001, 0, EDX},
    [CPUID_80000007_EDX] = {0x80000007, 0, EDX},
    [CPUID_80000008_EBX] = {0x80000008, 0, EBX},
    [CPUID_80000021_EAX] = {0x80000021, 0, EAX},
    [CPUID_80000021_ECX] = {0x80000021, 0, ECX},
};

/* Features that are useless without AVX or AVX-512 state. */
static const struct {
	u8 word;
	u32 bits;
} needs_avx[] =
    {
	{CPUID_1_ECX, BIT(CPUID_BIT_FMA) | BIT(CPUID_BIT_AVX) | BIT(CPUID_BIT_F16C)},
	{CPUID_7_EBX, BIT(CPUID_BIT_AVX2)},
	{CPUID_7_ECX, BIT(CPUID_BIT_VAES) | BIT(CPUID_BIT_VPCLMULQDQ)},
	{CPUID_7_1_EAX, BIT(CPUID_BIT_AVX_VNNI)},
},
  needs_avx512[] = {
      {CPUID_7_EBX, BIT(CPUID_BIT_AVX512F) | BIT(CPUID_BIT_AVX512DQ) | BIT(CPUID_BIT_AVX512_IFMA) |
			BIT(CPUID_BIT_AVX512PF) | BIT(CPUID_BIT_AVX512ER) |
			BIT(CPUID_BIT_AVX512CD) | BIT(CPUID_BIT_AVX512BW) |
			BIT(CPUID_BIT_AVX512VL)},
      {CPUID_7_ECX, BIT(CPUID_BIT_AVX512_VBMI) | BIT(CPUID_BIT_AVX512_VBMI2) |
			BIT(CPUID_BIT_AVX512_VNNI) | BIT(CPUID_BIT_AVX512_BITALG) |
			BIT(CPUID_BIT_AVX512_VPOPCNTDQ)},
      {CPUID_7_EDX, BIT(CPUID_BIT_AVX512_4VNNIW) | BIT(CPUID_BIT_AVX512_4FMAPS) |
			BIT(CPUID_BIT_AVX512_VP2INTERSECT) | BIT(CPUID_BIT_AVX512_FP16)},
      {CPUID_7_1_EAX, BIT(CPUID_BIT_AVX512_BF16)},
};

/* --- the host --- */

static void host_cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
	asm volatile("cpuid"
		     : "=a"(out[EAX]), "=b"(out[EBX]), "=c"(out[ECX]), "=d"(out[EDX])
		     : "a"(leaf), "c"(subleaf));
}

struct cpuid_host cpuid_host_real(void)
{
	struct cpuid_host h = {.cpuid = host_cpuid};
	u32 r[4], lo, hi;

	host_cpuid(1, 0, r);
	if (r[ECX] >> CPUID_BIT_OSXSAVE & 1) {
		asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		h.xcr0 = (u64)hi << 32 | lo;
	}
	return h;
}

/* A leaf the host does not have reads as zero here, whatever it answers. */
static void host_leaf(const struct cpuid_host *h, u32 leaf, u32 subleaf, u32 out[4])
{
	u32 range[4];

	h->cpuid(leaf & LEAF_EXT, 0, range); /* the last leaf of its group */
	if (leaf > range[EAX])
		memset(out, 0, 4 * sizeof(out[0]));
	else
		h->cpuid(leaf, subleaf, out);
}

/* --- making the model --- */

static void feature_words(struct cpuid_model *m, enum cpuid_kind kind, const struct cpuid_host *h)
{
	u32 host[CPUID_WORDS], r[4];
	unsigned i;

	for (i = 0; i < CPUID_WORDS; i++) {
		host_leaf(h, word_source[i].leaf, word_source[i].subleaf, r);
		host[i] = r[word_source[i].reg];
	}
	host_leaf(h, 7, 0, r);
	if (r[EAX] < 1)
		host[CPUID_7_1_EAX] = 0;
	for (i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature *f = &features[i];
		u32 bit = 1u << f->bit;

		if (f->policy == POLICY_FORCE ||
		    (f->policy == POLICY_BASE && (host[f->word] & bit)) ||
		    (f->policy == POLICY_SHOW && kind == CPU_MODEL_HOST && (host[f->word] & bit)))
			m->word[f->word] |= bit;
	}
}

static u32 xsave_size(const struct cpuid_model *m, u64 features_on, bool compact)
{
	u32 size = XSAVE_FIXED;
	unsigned i;

	for (i = 2; i < CPUID_XCOMPS; i++) {
		if (!(features_on >> i & 1))
			continue;
		if (compact && (m->xcomp[i][2] & 2))
			size = ALIGN_UP(size, 64);
		size = compact ? size + m->xcomp[i][0] : MAX(size, m->xcomp[i][0] + m->xcomp[i][1]);
	}
	return size;
}

/* XCR0 and the XSAVE layout, and the features that hang on them. */
static void vector_state(struct cpuid_model *m, const struct cpuid_host *h)
{
	u32 r[4];
	unsigned i;

	if (cpuid_has(m, CPUID_1_ECX, CPUID_BIT_XSAVE) && (h->xcr0 & XFEATURE_SSE))
		m->xcr0 = h->xcr0 & XFEATURE_ALL;
	for (i = 2; i < CPUID_XCOMPS; i++) {
		host_leaf(h, 0xd, i, r);
		if (!(m->xcr0 >> i & 1))
			continue;
		m->xcomp[i][0] = r[EAX];
		m->xcomp[i][1] = r[EBX];
		m->xcomp[i][2] = r[ECX] & 2;
	}
	if ((m->xcr0 & XFEATURE_AVX512) != XFEATURE_AVX512 || !(m->xcr0 & XFEATURE_AVX) ||
	    xsave_size(m, m->xcr0, false) > XSAVE_AREA_MAX ||
	    !cpuid_has(m, CPUID_7_EBX, CPUID_BIT_AVX512F)) {
		m->xcr0 &= ~XFEATURE_AVX512;
		for (i = 0; i < ARRAY_LEN(needs_avx512); i++)
			m->word[needs_avx512[i].word] &= ~needs_avx512[i].bits;
	}
	if (!(m->xcr0 & XFEATURE_AVX) || !cpuid_has(m, CPUID_1_ECX, CPUID_BIT_AVX)) {
		m->xcr0 &= ~XFEATURE_AVX;
		for (i = 0; i < ARRAY_LEN(needs_avx); i++)
			m->word[needs_avx[i].word] &= ~needs_avx[i].bits;
	}
	if (!m->xcr0) {
		m->word[CPUID_1_ECX] &= ~(u32)BIT(CPUID_BIT_XSAVE);
		m->word[CPUID_D_1_EAX] = 0;
	}
}

/* Caches as the host's, but shared with nobody. */
static void caches(struct cpuid_model *m, const struct cpuid_host *h)
{
	unsigned i;

	host_leaf(h, 2, 0, m->leaf2);
	host_leaf(h, 0x80000005, 0, m->leaf5ext);
	host_leaf(h, 0x80000006, 0, m->leaf6ext);
	for (i = 0; i < CPUID_CACHES; i++) {
		host_leaf(h, 4, i, m->cache[i]);
		if (!(m->cache[i][EAX] & 0x1f)) {
			memset(m->cache[i], 0, sizeof(m->cache[i]));
			break;
		}
		m->cache[i][EAX] &= 0x3fff;
	}
}

/* The best fraction for khz / base whose numerator fits the product with base into 32 bits, which
 * is how Linux computes with leaf 0x15. It may be off by 100 ppm next to a simple fraction; leaf
 * 0x40000010 and the paravirtual clock have the exact frequency. */
static void clock_ratio(u64 khz, u64 base, u32 out[2])
{
	u64 max = 0xffffffffull / base, d, n, best = ~0ull;

	out[0] = MAX(1, MIN(khz / base, max));
	out[1] = 1;
	for (d = 1; d <= max; d++) {
		u64 error, exact = khz * d;

		n = (exact + base / 2) / base;
		if (!n || n > max)
			continue;
		error = (exact > n * base ? exact - n * base : n * base - exact) * 1000 / d;
		if (error < best) {
			best = error;
			out[0] = n;
			out[1] = d;
		}
		if (!error)
			break;
	}
}

static void identity(struct cpuid_model *m, enum cpuid_kind kind, const struct cpuid_host *h)
{
	u32 r[4];

	host_leaf(h, 0, 0, r);
	m->vendor[0] = r[EBX];
	m->vendor[1] = r[EDX];
	m->vendor[2] = r[ECX];
	m->intel = r[EBX] == 0x756e6547;
	m->max_ext = m->intel ? MAX_EXT : MAX_EXT_AMD;
	host_leaf(h, 1, 0, r);
	/* qemu64: an early 64-bit processor of the host's vendor, whose SYSCALL it must share. */
	m->signature = kind == CPU_MODEL_HOST ? r[EAX] & 0x0fff3fff : m->intel ? 0x6fb : 0x60fb1;
	host_leaf(h, 0x80000008, 0, r);
	m->maxphyaddr = r[EAX] & 0xff ? MIN(r[EAX] & 0xff, MAXPHYADDR_LIMIT) : 36;
	if (kind == CPU_MODEL_QEMU64)
		m->maxphyaddr = MIN(m->maxphyaddr, MAXPHYADDR_QEMU64);
}

void cpuid_model_init(struct cpuid_model *m, enum cpuid_kind kind, const struct cpuid_host *host,
		      u64 tsc_khz, u64 apic_khz)
{
	memset(m, 0, sizeof(*m));
	m->tsc_khz = tsc_khz;
	m->apic_khz = apic_khz;
	identity(m, kind, host);
	feature_words(m, kind, host);
	vector_state(m, host);
	caches(m, host);
	clock_ratio(tsc_khz, apic_khz, m->tsc_ratio);
	/* AMD repeats leaf 1's EDX there, bit for bit but for a few. */
	if (!m->intel)
		m->word[CPUID_80000001_EDX] |= m->word[CPUID_1_EDX] & 0x0183f3ff;
}

/* --- answering --- */

static void leaf_1(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, u32 out[4])
{
	out[EAX] = m->signature;
	out[EBX] = 1 << 16 | 8 << 8; /* APIC ID 0, one logical processor, 64-byte CLFLUSH */
	out[ECX] = m->word[CPUID_1_ECX];
	out[EDX] = m->word[CPUID_1_EDX];
	if (m->xcr0 && (dyn->cr4 & CR4_OSXSAVE))
		out[ECX] |= BIT(CPUID_BIT_OSXSAVE);
	if (dyn->apic_enabled)
		out[EDX] |= BIT(CPUID_BIT_APIC);
}

static void leaf_d(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, u32 sub,
		   u32 out[4])
{
	if (!m->xcr0)
		return;
	if (sub == 0) {
		out[EAX] = m->xcr0;
		out[EBX] = xsave_size(m, dyn->xcr0, false);
		out[ECX] = xsave_size(m, m->xcr0, false);
	} else if (sub == 1) {
		out[EAX] = m->word[CPUID_D_1_EAX];
		if (out[EAX] & BIT(CPUID_BIT_XSAVEC))
			out[EBX] = xsave_size(m, dyn->xcr0, true);
	} else if (sub < CPUID_XCOMPS) {
		memcpy(out, m->xcomp[sub], sizeof(m->xcomp[sub]));
	}
}

/* Leaves 0xb and 0x1f: one thread in one core. */
static void leaf_topology(u32 sub, u32 out[4])
{
	out[ECX] = sub & 0xff;
	if (sub < 2) {
		out[EBX] = 1;
		out[ECX] |= (sub + 1) << 8; /* level type: thread, core */
	}
}

static void leaf_hypervisor(const struct cpuid_model *m, u32 leaf, u32 out[4])
{
	switch (leaf) {
	case LEAF_HV:
		out[EAX] = LEAF_HV_FREQUENCY;
		memcpy(out + EBX, "KVMKVMKVM\0\0\0", 12);
		break;
	case LEAF_HV_FEATURES:
		out[EAX] =
		    KVM_CLOCKSOURCE | KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_CLOCKSOURCE_STABLE;
		break;
	case LEAF_HV_FREQUENCY:
		out[EAX] = m->tsc_khz;
		out[EBX] = m->apic_khz;
		break;
	}
}

static void leaf_extended(const struct cpuid_model *m, u32 leaf, u32 out[4])
{
	static const char brand[48] = "ringshift virtual CPU";

	switch (leaf) {
	case LEAF_EXT:
		out[EAX] = m->max_ext;
		if (!m->intel) {
			out[EBX] = m->vendor[0];
			out[EDX] = m->vendor[1];
			out[ECX] = m->vendor[2];
		}
		break;
	case 0x80000001:
		out[EAX] = m->intel ? 0 : m->signature;
		out[ECX] = m->word[CPUID_80000001_ECX];
		out[EDX] = m->word[CPUID_80000001_EDX];
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004: memcpy(out, brand + 16 * (leaf - 0x80000002), 16); break;
	case 0x80000005: memcpy(out, m->leaf5ext, 16); break;
	case 0x80000006: memcpy(out, m->leaf6ext, 16); break;
	case 0x80000007: out[EDX] = m->word[CPUID_80000007_EDX]; break;
	case 0x80000008:
		out[EAX] = m->maxphyaddr | LINEAR_BITS << 8;
		out[EBX] = m->word[CPUID_80000008_EBX];
		break;
	case 0x80000021:
		out[EAX] = m->word[CPUID_80000021_EAX];
		out[ECX] = m->word[CPUID_80000021_ECX];
		break;
	}
}

static void leaf_7(const struct cpuid_model *m, u32 sub, u32 out[4])
{
	if (sub == 0) {
		out[EAX] = 1;
		out[EBX] = m->word[CPUID_7_EBX];
		out[ECX] = m->word[CPUID_7_ECX];
		out[EDX] = m->word[CPUID_7_EDX];
	} else if (sub == 1) {
		out[EAX] = m->word[CPUID_7_1_EAX];
	}
}

static void leaf_basic(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, u32 leaf,
		       u32 sub, u32 out[4])
{
	switch (leaf) {
	case 0:
		out[EAX] = MAX_BASIC;
		out[EBX] = m->vendor[0];
		out[EDX] = m->vendor[1];
		out[ECX] = m->vendor[2];
		break;
	case 1: leaf_1(m, dyn, out); break;
	case 2: memcpy(out, m->leaf2, 16); break;
	case 4:
		if (sub < CPUID_CACHES)
			memcpy(out, m->cache[sub], 16);
		break;
	case 6: out[EAX] = m->word[CPUID_6_EAX]; break;
	case 7: leaf_7(m, sub, out); break;
	case 0xb:
	case 0x1f: leaf_topology(sub, out); break;
	case 0xd: leaf_d(m, dyn, sub, out); break;
	case 0x15: /* the APIC timer's clock counts as the crystal: Linux takes it for that */
		out[EAX] = m->tsc_ratio[1];
		out[EBX] = m->tsc_ratio[0];
		out[ECX] = m->apic_khz * 1000;
		break;
	case 0x16:
		out[EAX] = out[EBX] = m->tsc_khz / 1000;
		out[ECX] = 100;
		break;
	}
}

void cpuid_query(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, u32 leaf,
		 u32 subleaf, u32 out[4])
{
	memset(out, 0, 4 * sizeof(out[0]));
	if (leaf - LEAF_HV < 0x100) {
		leaf_hypervisor(m, leaf, out);
		return;
	}
	if (leaf >= LEAF_EXT && leaf <= m->max_ext) {
		leaf_extended(m, leaf, out);
		return;
	}
	if (leaf > MAX_BASIC) { /* Intel answers with the last basic leaf, AMD with zeros */
		if (!m->intel)
			return;
		leaf = MAX_BASIC;
	}
	leaf_basic(m, dyn, leaf, subleaf, out);
}

/* --- what follows from the model --- */

u64 cpuid_cr4_allowed(const struct cpuid_model *m)
{
	static const struct {
		u8 word, bit;
		u32 cr4;
	} rule[] = {
	    {CPUID_1_EDX, CPUID_BIT_VME, CR4_VME | CR4_PVI},
	    {CPUID_1_EDX, CPUID_BIT_TSC, CR4_TSD},
	    {CPUID_1_EDX, CPUID_BIT_DE, CR4_DE},
	    {CPUID_1_EDX, CPUID_BIT_PSE, CR4_PSE},
	    {CPUID_1_EDX, CPUID_BIT_PAE, CR4_PAE},
	    {CPUID_1_EDX, CPUID_BIT_MCE, CR4_MCE},
	    {CPUID_1_EDX, CPUID_BIT_PGE, CR4_PGE},
	    {CPUID_1_EDX, CPUID_BIT_FXSR, CR4_OSFXSR},
	    {CPUID_1_EDX, CPUID_BIT_SSE, CR4_OSXMMEXCPT},
	    {CPUID_7_ECX, CPUID_BIT_UMIP, CR4_UMIP},
	    {CPUID_7_EBX, CPUID_BIT_FSGSBASE, CR4_FSGSBASE},
	    {CPUID_1_ECX, CPUID_BIT_PCID, CR4_PCIDE},
	    {CPUID_1_ECX, CPUID_BIT_XSAVE, CR4_OSXSAVE},
	    {CPUID_7_EBX, CPUID_BIT_SMEP, CR4_SMEP},
	    {CPUID_7_EBX, CPUID_BIT_SMAP, CR4_SMAP},
	};
	u64 bits = CR4_PCE;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(rule); i++)
		if (cpuid_has(m, rule[i].word, rule[i].bit))
			bits |= rule[i].cr4;
	return bits;
}

u64 cpuid_efer_allowed(const struct cpuid_model *m)
{
	u64 bits = 0;

	if (cpuid_has(m, CPUID_80000001_EDX, CPUID_BIT_SYSCALL))
		bits |= EFER_SCE;
	if (cpuid_has(m, CPUID_80000001_EDX, CPUID_BIT_LM))
		bits |= EFER_LME | EFER_LMA;
	if (cpuid_has(m, CPUID_80000001_EDX, CPUID_BIT_NX))
		bits |= EFER_NXE;
	return bits;
}
