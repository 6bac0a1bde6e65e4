/* The CPU model: the table's policies on hosts of our own making, consistency of the leaves, and
 * the real host. */
#include <criterion/criterion.h>
#include <string.h>

#include "cpuid_model.h"
#include "mmu.h"
#include "xstate.h"

enum { EAX, EBX, ECX, EDX };

/* --- hosts --- */

/* Everything there is, all feature bits set. */
static void rich_cpuid(u32 leaf, u32 sub, u32 out[4])
{
	static const u32 xcomp[CPUID_XCOMPS][3] = {
	    [2] = {256, 576, 0}, [5] = {64, 1088, 0}, [6] = {512, 1152, 0}, [7] = {1024, 1664, 2}};

	memset(out, 0xff, 16);
	switch (leaf) {
	case 0:
		out[EAX] = 0x24;
		memcpy(out + EBX, "GenuntelineI", 12); /* EBX, ECX, EDX */
		break;
	case 1: out[EAX] = 0x000a0671; break;
	case 4:
		memset(out, 0, 16);
		if (sub < 3)
			out[EAX] = 0xfc00c121 + (sub << 5);
		break;
	case 7: out[EAX] = 2; break;
	case 0xd:
		if (sub >= 2 && sub < CPUID_XCOMPS)
			memcpy(out, xcomp[sub], 12);
		break;
	case 0x80000000: out[EAX] = 0x80000021; break;
	case 0x80000008: out[EAX] = 0x3934; break;
	}
}

static void amd_cpuid(u32 leaf, u32 sub, u32 out[4])
{
	rich_cpuid(leaf, sub, out);
	if (leaf == 0)
		memcpy(out + EBX, "AuthcAMDenti", 12);
}

/* An early 64-bit processor; leaves beyond its last answer nonsense. */
static void old_cpuid(u32 leaf, u32 sub, u32 out[4])
{
	(void)sub;
	memset(out, 0xff, 16);
	switch (leaf) {
	case 0:
		out[EAX] = 5;
		memcpy(out + EBX, "GenuntelineI", 12);
		break;
	case 1:
		out[EAX] = 0xf4a;
		out[EBX] = 0;
		out[ECX] = 1;
		out[EDX] = 0x0789fbff;
		break;
	case 0x80000000: out[EAX] = 0x80000001; break;
	case 0x80000001:
		out[ECX] = 0;
		out[EDX] = 0x20100800;
		break;
	}
}

static const struct cpuid_host rich = {rich_cpuid, 0xffffff};
static const struct cpuid_host amd = {amd_cpuid, 0xffffff};
static const struct cpuid_host old = {old_cpuid, 0};

static const struct cpuid_dynamic plain = {.xcr0 = 1, .apic_enabled = true};

static void model_of(struct cpuid_model *m, enum cpuid_kind kind, const struct cpuid_host *h)
{
	cpuid_model_init(m, kind, h, 2699998, 1000000);
}

/* --- the table --- */

Test(cpuid, table_is_obeyed)
{
	struct cpuid_model host, base, poor;

	model_of(&host, CPU_MODEL_HOST, &rich);
	model_of(&base, CPU_MODEL_QEMU64, &rich);
	model_of(&poor, CPU_MODEL_HOST, &old);
#define BASE(word, bit, name)                                                                      \
	cr_expect(cpuid_has(&host, CPUID_##word, bit), "%s", #name);                               \
	cr_expect(cpuid_has(&base, CPUID_##word, bit), "%s in qemu64", #name);
#define SHOW(word, bit, name)                                                                      \
	cr_expect(cpuid_has(&host, CPUID_##word, bit), "%s", #name);                               \
	cr_expect(!cpuid_has(&base, CPUID_##word, bit), "%s in qemu64", #name);                    \
	if (CPUID_##word != CPUID_1_EDX)                                                           \
		cr_expect(!cpuid_has(&poor, CPUID_##word, bit), "%s invented", #name);
#define FORCE(word, bit, name, why) cr_expect(cpuid_has(&poor, CPUID_##word, bit), "%s", #name);
#define HIDE(word, bit, name, why)  cr_expect(!cpuid_has(&host, CPUID_##word, bit), "%s", #name);
#include "cpuid.def"
#undef BASE
#undef SHOW
#undef FORCE
#undef HIDE
}

Test(cpuid, no_bit_stands_twice)
{
	u32 seen[CPUID_WORDS] = {0};

#define ONCE(word, bit, name)                                                                      \
	cr_expect(!(seen[CPUID_##word] >> (bit)&1), "%s", #name);                                  \
	seen[CPUID_##word] |= 1u << (bit);
#define BASE(word, bit, name)       ONCE(word, bit, name)
#define SHOW(word, bit, name)       ONCE(word, bit, name)
#define FORCE(word, bit, name, why) ONCE(word, bit, name)
#define HIDE(word, bit, name, why)  ONCE(word, bit, name)
#include "cpuid.def"
#undef BASE
#undef SHOW
#undef FORCE
#undef HIDE
}

Test(cpuid, unlisted_bits_stay_hidden)
{
	struct cpuid_model m;
	u32 out[4];

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &plain, 1, 0, out);
	cr_expect(!(out[ECX] >> 16 & 1));
	cr_expect(!(out[EDX] >> 10 & 1));
	cpuid_query(&m, &plain, 7, 0, out);
	cr_expect_eq(out[EAX], 1);
	cr_expect(!(out[EDX] & 3));
	cpuid_query(&m, &plain, 7, 2, out);
	cr_expect_eq(out[EDX], 0);
}

Test(cpuid, every_hidden_or_forced_bit_has_a_reason)
{
#define BASE(word, bit, name)
#define SHOW(word, bit, name)
#define FORCE(word, bit, name, why) cr_expect_gt(strlen(why), 8, "%s", #name);
#define HIDE(word, bit, name, why)  cr_expect_gt(strlen(why), 8, "%s", #name);
#include "cpuid.def"
#undef BASE
#undef SHOW
#undef FORCE
#undef HIDE
}

/* --- vector state --- */

static void model_with_xcr0(struct cpuid_model *m, u64 xcr0)
{
	struct cpuid_host h = {rich_cpuid, xcr0};

	model_of(m, CPU_MODEL_HOST, &h);
}

Test(cpuid, vector_features_follow_xcr0)
{
	struct cpuid_model m;

	model_with_xcr0(&m, 0x602e7);
	cr_expect_eq(m.xcr0, 0xe7);
	cr_expect(cpuid_has(&m, CPUID_7_EBX, CPUID_BIT_AVX512F));
	model_with_xcr0(&m, 7);
	cr_expect_eq(m.xcr0, 7);
	cr_expect(cpuid_has(&m, CPUID_7_EBX, CPUID_BIT_AVX2));
	cr_expect(!cpuid_has(&m, CPUID_7_EBX, CPUID_BIT_AVX512F));
	cr_expect(!cpuid_has(&m, CPUID_7_EBX, CPUID_BIT_AVX512VL));
	cr_expect(!cpuid_has(&m, CPUID_7_ECX, CPUID_BIT_AVX512_VBMI));
	model_with_xcr0(&m, 0x67); /* AVX-512 in part */
	cr_expect_eq(m.xcr0, 7);
	model_with_xcr0(&m, 3);
	cr_expect_eq(m.xcr0, 3);
	cr_expect(!cpuid_has(&m, CPUID_1_ECX, CPUID_BIT_AVX));
	cr_expect(!cpuid_has(&m, CPUID_1_ECX, CPUID_BIT_FMA));
	cr_expect(!cpuid_has(&m, CPUID_7_EBX, CPUID_BIT_AVX2));
	cr_expect(cpuid_has(&m, CPUID_1_ECX, CPUID_BIT_AES));
	model_with_xcr0(&m, 0); /* the host's kernel has not switched XSAVE on */
	cr_expect_eq(m.xcr0, 0);
	cr_expect(!cpuid_has(&m, CPUID_1_ECX, CPUID_BIT_XSAVE));
	cr_expect(!(cpuid_cr4_allowed(&m) & CR4_OSXSAVE));
}

Test(cpuid, leaf_d)
{
	struct cpuid_dynamic dyn = {.xcr0 = 7};
	struct cpuid_model m;
	u32 out[4];

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &dyn, 0xd, 0, out);
	cr_expect_eq(out[EAX], 0xe7);
	cr_expect_eq(out[EBX], 832);
	cr_expect_eq(out[ECX], 2688);
	cpuid_query(&m, &dyn, 0xd, 1, out);
	cr_expect_eq(out[EAX], 7);
	cr_expect_eq(out[EBX], 832);
	dyn.xcr0 = 0xe7;
	cpuid_query(&m, &dyn, 0xd, 0, out);
	cr_expect_eq(out[EBX], 2688);
	cpuid_query(&m, &dyn, 0xd, 1, out);
	cr_expect_eq(out[EBX], 832 + 64 + 512 + 1024 + 32 /* component 7 is aligned */ - 32);
	cpuid_query(&m, &dyn, 0xd, 5, out);
	cr_expect_eq(out[EAX], 64);
	cr_expect_eq(out[EBX], 1088);
	cpuid_query(&m, &dyn, 0xd, 9, out); /* PKRU, AMX: hidden */
	cr_expect_eq(out[EAX] | out[EBX] | out[ECX] | out[EDX], 0);
	cpuid_query(&m, &dyn, 0xd, 18, out);
	cr_expect_eq(out[EAX], 0);
	model_of(&m, CPU_MODEL_HOST, &old);
	cpuid_query(&m, &dyn, 0xd, 0, out);
	cr_expect_eq(out[EAX] | out[EBX] | out[ECX], 0);
}

/* --- dynamic bits --- */

Test(cpuid, bits_that_follow_registers)
{
	struct cpuid_dynamic dyn = {.xcr0 = 1};
	struct cpuid_model m;
	u32 out[4];

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &dyn, 1, 0, out);
	cr_expect(!(out[ECX] >> CPUID_BIT_OSXSAVE & 1));
	cr_expect(!(out[EDX] >> CPUID_BIT_APIC & 1));
	dyn.cr4 = CR4_OSXSAVE;
	dyn.apic_enabled = true;
	cpuid_query(&m, &dyn, 1, 0, out);
	cr_expect(out[ECX] >> CPUID_BIT_OSXSAVE & 1);
	cr_expect(out[EDX] >> CPUID_BIT_APIC & 1);
}

/* --- other leaves --- */

Test(cpuid, one_thread)
{
	struct cpuid_model m;
	u32 out[4], i;

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &plain, 1, 0, out);
	cr_expect_eq(out[EBX], 0x00010800);
	for (i = 0; i < 3; i++) {
		cpuid_query(&m, &plain, 4, i, out);
		cr_expect_eq(out[EAX] >> 14, 0);
		cr_expect_eq(out[EAX] >> 5 & 7, 1 + i);
	}
	cpuid_query(&m, &plain, 4, 3, out);
	cr_expect_eq(out[EAX], 0);
	cpuid_query(&m, &plain, 4, 1000, out);
	cr_expect_eq(out[EAX], 0);
	for (i = 0; i < 4; i++) {
		cpuid_query(&m, &plain, 0xb, i, out);
		cr_expect_eq(out[EBX], i < 2);
		cr_expect_eq(out[ECX], (i < 2 ? (i + 1) << 8 : 0) | i);
		cr_expect_eq(out[EDX], 0);
	}
}

static void expect_clock(u64 khz)
{
	struct cpuid_model m;
	u32 out[4];
	double said;

	cpuid_model_init(&m, CPU_MODEL_HOST, &rich, khz, 1000000);
	cpuid_query(&m, &plain, 0x15, 0, out);
	cr_assert(out[EAX] && out[EBX] && out[ECX]);
	cr_expect_eq(out[ECX], 1000000000);
	cr_expect_leq((u64)out[EBX] * 1000000, 0xffffffffull);
	said = 1e6 * out[EBX] / out[EAX];
	/* The worst cases lie next to simple fractions. */
	cr_expect_lt(said > khz ? said - khz : khz - said, khz * 120e-6, "%f for %llu", said,
		     (unsigned long long)khz);
	cpuid_query(&m, &plain, 0x16, 0, out);
	cr_expect_eq(out[EAX], khz / 1000);
	cpuid_query(&m, &plain, 0x40000010, 0, out);
	cr_expect_eq(out[EAX], khz);
	cr_expect_eq(out[EBX], 1000000);
}

Test(cpuid, clocks)
{
	struct cpuid_model m;

	cpuid_model_init(&m, CPU_MODEL_HOST, &rich, 2700000, 1000000);
	cr_expect_eq(m.tsc_ratio[0], 27);
	cr_expect_eq(m.tsc_ratio[1], 10);
	expect_clock(2700000);
	expect_clock(2699998);
	expect_clock(3187201);
	expect_clock(4199999);
	expect_clock(999983);
	expect_clock(1000000);
}

Test(cpuid, hypervisor_leaves)
{
	struct cpuid_model m;
	u32 out[4];

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &plain, 0x40000000, 0, out);
	cr_expect_eq(out[EAX], 0x40000010);
	cr_expect_eq(memcmp(out + EBX, "KVMKVMKVM\0\0\0", 12), 0);
	cpuid_query(&m, &plain, 0x40000001, 0, out);
	cr_expect_eq(out[EAX], 0x0100000b);
	cpuid_query(&m, &plain, 0x40000100, 0, out); /* no second hypervisor */
	cr_expect_neq(memcmp(out + EBX, "KVMKVMKVM\0\0\0", 12), 0);
}

Test(cpuid, identity)
{
	struct cpuid_model m;
	char brand[49] = "";
	u32 out[4], i;

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &plain, 0, 0, out);
	cr_expect_eq(out[EAX], 0x1f);
	cr_expect_eq(memcmp(out + EBX, "GenuntelineI", 12), 0);
	for (i = 0; i < 3; i++)
		cpuid_query(&m, &plain, 0x80000002 + i, 0, (u32 *)(brand + 16 * i));
	cr_expect_str_eq(brand, "ringshift virtual CPU");
	cpuid_query(&m, &plain, 0x80000008, 0, out);
	cr_expect_eq(out[EAX] & 0xffff, 0x302e); /* 46 bits physical, 48 linear */
	model_of(&m, CPU_MODEL_QEMU64, &rich);
	cpuid_query(&m, &plain, 0x80000008, 0, out);
	cr_expect_eq(out[EAX] & 0xffff, 0x3028);
	model_of(&m, CPU_MODEL_HOST, &old);
	cr_expect_eq(m.maxphyaddr, 36); /* the host does not say */
}

Test(cpuid, beyond_the_last_leaf)
{
	struct cpuid_model m;
	u32 a[4], b[4];

	model_of(&m, CPU_MODEL_HOST, &rich);
	cpuid_query(&m, &plain, 0x1f, 0, a);
	cpuid_query(&m, &plain, 0x77, 0, b);
	cr_expect_eq(memcmp(a, b, 16), 0);
	cpuid_query(&m, &plain, 0x80000055, 0, b);
	cr_expect_eq(memcmp(a, b, 16), 0);
	model_of(&m, CPU_MODEL_HOST, &amd);
	cpuid_query(&m, &plain, 0x77, 0, b);
	cr_expect_eq(b[0] | b[1] | b[2] | b[3], 0);
}

Test(cpuid, amd_repeats_leaf_1)
{
	struct cpuid_model m;
	u32 one[4], ext[4];

	model_of(&m, CPU_MODEL_HOST, &amd);
	cpuid_query(&m, &plain, 1, 0, one);
	cpuid_query(&m, &plain, 0x80000001, 0, ext);
	cr_expect_eq(ext[EDX] & 0x0183f1ff, one[EDX] & 0x0183f1ff);
	cpuid_query(&m, &plain, 0x80000000, 0, ext);
	cr_expect_eq(ext[EAX], 0x80000021);
	cpuid_query(&m, &plain, 0x80000021, 0, ext);
	cr_expect(ext[EAX] >> CPUID_BIT_SRSO_NO & 1);
}

Test(cpuid, control_register_bits)
{
	struct cpuid_model m;

	model_of(&m, CPU_MODEL_HOST, &rich);
	cr_expect_eq(cpuid_cr4_allowed(&m) & (CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_PCIDE | CR4_VME),
		     0);
	cr_expect(cpuid_cr4_allowed(&m) & CR4_FSGSBASE);
	cr_expect_eq(cpuid_efer_allowed(&m), EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);
	model_of(&m, CPU_MODEL_QEMU64, &rich);
	cr_expect(!(cpuid_cr4_allowed(&m) & (CR4_FSGSBASE | CR4_OSXSAVE)));
	cr_expect(cpuid_cr4_allowed(&m) & CR4_OSFXSR);
}

Test(cpuid, the_real_host)
{
	struct cpuid_host h = cpuid_host_real();
	struct cpuid_model m;
	u32 real[4], out[4];
	unsigned i;

	model_of(&m, CPU_MODEL_HOST, &h);
	h.cpuid(0, 0, real);
	cpuid_query(&m, &plain, 0, 0, out);
	cr_expect_eq(memcmp(real + 1, out + 1, 12), 0);
	h.cpuid(1, 0, real);
	cpuid_query(&m, &plain, 1, 0, out);
	cr_expect_eq(out[EDX] & ~real[EDX] & ~(u32)BIT(CPUID_BIT_APIC), 0);
	cr_expect_eq(m.xcr0 & ~(h.xcr0 & XFEATURE_ALL), 0);
	for (i = 2; i < CPUID_XCOMPS; i++) {
		if (!(m.xcr0 >> i & 1))
			continue;
		h.cpuid(0xd, i, real);
		cpuid_query(&m, &plain, 0xd, i, out);
		cr_expect_eq(real[EAX], out[EAX]);
		cr_expect_eq(real[EBX], out[EBX]);
	}
}
