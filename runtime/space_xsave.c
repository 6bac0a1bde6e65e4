/*
 * The vector state of a space: an XSAVE image in standard format that the host's kernel leaves in
 * the signal frame and the stub's XRSTOR takes from there.
 *
 * XRSTOR faults on a header with unknown bits and on reserved MXCSR bits; the image is made right
 * before every entry. Components whose bit in XSTATE_BV is clear are in their initial state and
 * what the image holds of them is old. Intel SDM vol. 1, chapter 13.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "space_impl.h"

#define LEGACY_SIZE  512
#define HEADER_SIZE  64
#define FCW_INIT     0x037f
#define MXCSR_INIT   0x1f80
#define MXCSR_AT     24
#define MXCSR_MASK   28
#define MXCSR_USUAL  0xffbf /* of a processor that leaves the mask zero */
#define XMM_AT       160
#define XMM_SIZE     256
#define X87          BIT(0)
#define SSE          BIT(1)
#define WANTED       0xe7ull /* x87, SSE, AVX, AVX-512: no protection keys, no tile data */
#define CPUID_XSAVE  0xd
#define FRAME_BESIDE 640 /* bytes of a signal frame besides the image, alignment included */

struct header {
	u64 xstate_bv, xcomp_bv, reserved[6];
};

static struct header *header_of(u8 *image)
{
	return (struct header *)(image + LEGACY_SIZE);
}

static u64 xgetbv0(void)
{
	u32 lo, hi;

	asm("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

int space_xsave_probe(struct space_pool *pool, char *err, size_t err_size)
{
	u8 legacy[LEGACY_SIZE] __attribute__((aligned(16)));
	u32 a, b, c, d, host_size;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) ||
	    !__get_cpuid_count(CPUID_XSAVE, 0, &a, &host_size, &c, &d)) {
		snprintf(err, err_size, "this processor has no XSAVE");
		return -ENOTSUP;
	}
	pool->xsave_mask = xgetbv0() & WANTED;
	pool->xsave_size = LEGACY_SIZE + HEADER_SIZE;
	for (unsigned i = 2; i < 64; i++) {
		if (!(pool->xsave_mask & BIT(i)))
			continue;
		__get_cpuid_count(CPUID_XSAVE, i, &a, &b, &c, &d);
		pool->component[i].size = a;
		pool->component[i].offset = b;
		pool->xsave_size = MAX(pool->xsave_size, a + b);
	}
	asm volatile("fxsave64 %0" : "=m"(legacy));
	memcpy(&pool->mxcsr_mask, legacy + MXCSR_MASK, 4);
	if (!pool->mxcsr_mask)
		pool->mxcsr_mask = MXCSR_USUAL;
	if (pool->xsave_size > sizeof(((struct space_state *)0)->xsave) ||
	    pool->xsave_size + FRAME_BESIDE > SPACE_FRAME_MAX) {
		snprintf(err, err_size, "this processor's vector state of %u bytes is too large",
			 pool->xsave_size);
		return -ENOTSUP;
	}
	return 0;
}

size_t space_xsave_size(const struct space_pool *pool)
{
	return pool->xsave_size;
}

u64 space_xsave_mask(const struct space_pool *pool)
{
	return pool->xsave_mask;
}

static void clean_mxcsr(const struct space_pool *pool, u8 *image)
{
	u32 mxcsr;

	memcpy(&mxcsr, image + MXCSR_AT, 4);
	if (mxcsr & ~pool->mxcsr_mask) {
		mxcsr &= pool->mxcsr_mask;
		memcpy(image + MXCSR_AT, &mxcsr, 4);
	}
}

void space_xsave_clean(struct space *sp)
{
	u8 *image = sp->slot + sp->xsave_off;
	struct header *h = header_of(image);
	u64 rest = h->xcomp_bv;

	for (unsigned i = 0; i < ARRAY_LEN(h->reserved); i++)
		rest |= h->reserved[i];
	if (rest || h->xstate_bv & ~sp->pool->xsave_mask)
		*h = (struct header){.xstate_bv = h->xstate_bv & sp->pool->xsave_mask};
	clean_mxcsr(sp->pool, image);
}

/* Give the components that are not in XSTATE_BV the contents they have then. */
static void fill_initial(const struct space_pool *pool, u8 *image)
{
	u64 absent = pool->xsave_mask & ~header_of(image)->xstate_bv;
	u16 fcw = FCW_INIT;

	if (absent & X87) {
		memset(image, 0, MXCSR_AT);
		memset(image + MXCSR_AT + 8, 0, XMM_AT - MXCSR_AT - 8);
		memcpy(image, &fcw, 2);
	}
	if (absent & SSE)
		memset(image + XMM_AT, 0, XMM_SIZE);
	for (unsigned i = 2; i < 64; i++)
		if (absent & BIT(i))
			memset(image + pool->component[i].offset, 0, pool->component[i].size);
}

void space_xsave_reset(struct space *sp)
{
	u8 *image = sp->slot + ST_XSAVE;
	u32 mxcsr = MXCSR_INIT;

	sp->xsave_off = ST_XSAVE;
	sp->live = false;
	memset(image, 0, sp->pool->xsave_size);
	fill_initial(sp->pool, image);
	memcpy(image + MXCSR_AT, &mxcsr, 4);
}

bool space_xsave_read(struct space *sp, void *image)
{
	struct space_pool *pool = sp->pool;
	struct header *h = header_of(image);
	bool there = !sp->live || space_save_vec(sp);

	sp->asked = true;
	if (!there)
		space_xsave_reset(sp);
	memcpy(image, sp->slot + sp->xsave_off, pool->xsave_size);
	*h = (struct header){.xstate_bv = h->xstate_bv & pool->xsave_mask};
	clean_mxcsr(pool, image);
	fill_initial(pool, image);
	memset((u8 *)image + XMM_AT + XMM_SIZE, 0, LEGACY_SIZE - XMM_AT - XMM_SIZE);
	return there;
}

void space_xsave_write(struct space *sp, const void *image)
{
	if (sp->live)
		sp->xsave_off = ST_XSAVE;
	sp->live = false;
	memcpy(sp->slot + sp->xsave_off, image, sp->pool->xsave_size);
	space_xsave_clean(sp);
}
