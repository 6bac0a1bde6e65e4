#include "vec_image.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "xstate.h"

#define XSAVE_BV 512 /* XSTATE_BV in the header; XCOMP_BV behind it */

enum { BIT_AVX = 2, BIT_OPMASK = 5, BIT_ZMM_HI256 = 6, BIT_HI16_ZMM = 7 };

int vec_layout_init(struct vec_layout *l)
{
	unsigned a, b, c, d, i;
	u32 low, high;

	memset(l, 0, sizeof(*l));
	__cpuid(1, a, b, c, d);
	if (!(c & BIT(27)))
		return -ENOTSUP;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	l->features = low & XFEATURE_ALL;
	l->size = XSAVE_BV + 64;
	for (i = BIT_AVX; i < 8; i++) {
		if (!(l->features >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		l->off[i] = b;
		l->size = MAX(l->size, a + b);
	}
	return 0;
}

void vec_to_image(const struct vec_state *v, const struct vec_layout *l, u8 *image)
{
	unsigned i;

	memcpy(image, v->fx, FX_XMM);
	memcpy(image + FX_MXCSR, &v->mxcsr, 4);
	memset(image + FX_MXCSR_MASK, 0, 4);
	memset(image + XSAVE_BV, 0, 64);
	memcpy(image + XSAVE_BV, &l->features, 8);
	for (i = 0; i < 16; i++) {
		memcpy(image + FX_XMM + 16 * i, v->zmm[i], 16);
		if (l->off[BIT_AVX])
			memcpy(image + l->off[BIT_AVX] + 16 * i, v->zmm[i] + 16, 16);
		if (l->off[BIT_ZMM_HI256])
			memcpy(image + l->off[BIT_ZMM_HI256] + 32 * i, v->zmm[i] + 32, 32);
	}
	if (l->off[BIT_OPMASK])
		memcpy(image + l->off[BIT_OPMASK], v->k, 64);
	if (l->off[BIT_HI16_ZMM])
		memcpy(image + l->off[BIT_HI16_ZMM], v->zmm[16], 1024);
}

/* A component of the image, or zeros. */
static const u8 *component(const struct vec_layout *l, const u8 *image, u64 bv, unsigned bit)
{
	static const u8 zeros[1024];

	return (bv >> bit & 1) && l->off[bit] ? image + l->off[bit] : zeros;
}

void vec_from_image(struct vec_state *v, const struct vec_layout *l, const u8 *image)
{
	const u8 *avx, *hi256;
	unsigned i;
	u64 bv;

	memcpy(&bv, image + XSAVE_BV, 8);
	memset(v, 0, sizeof(*v));
	if (bv & XFEATURE_X87) {
		memcpy(v->fx, image, FX_MXCSR);
		memcpy(v->fx + FX_ST, image + FX_ST, FX_XMM - FX_ST);
	} else {
		v->fx[FX_FCW] = 0x7f;
		v->fx[FX_FCW + 1] = 0x03;
	}
	/* The standard form keeps MXCSR whether SSE is in use or not. */
	memcpy(&v->mxcsr, image + FX_MXCSR, 4);
	avx = component(l, image, bv, BIT_AVX);
	hi256 = component(l, image, bv, BIT_ZMM_HI256);
	for (i = 0; i < 16; i++) {
		if (bv & XFEATURE_SSE)
			memcpy(v->zmm[i], image + FX_XMM + 16 * i, 16);
		memcpy(v->zmm[i] + 16, avx + 16 * i, 16);
		memcpy(v->zmm[i] + 32, hi256 + 32 * i, 32);
	}
	memcpy(v->k, component(l, image, bv, BIT_OPMASK), 64);
	memcpy(v->zmm[16], component(l, image, bv, BIT_HI16_ZMM), 1024);
}
