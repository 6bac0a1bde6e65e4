/*
 * How a device reaches guest memory. Pointers stay valid as long as the VM lives; several threads
 * may use them. Every address and length a guest gives may be wrong: NULL says so.
 */
#ifndef RINGSHIFT_DMA_H
#define RINGSHIFT_DMA_H

#include "base.h"

struct dma {
	/* Host address of [gpa, gpa+len) if all of that is RAM, without a gap; else NULL. */
	void *(*ptr)(void *opaque, gpa_t gpa, u64 len);
	/* len bytes at gpa were written, or are about to be: translations made from them go. vCPU
	 * thread only, before the guest can learn of the write. */
	void (*written)(void *opaque, gpa_t gpa, u64 len);
	/* Nobody needs what these pages hold: they give back their memory and read as zero from now
	 * on. What is not RAM, or not a whole page, is left alone. vCPU thread only. */
	void (*discard)(void *opaque, gpa_t gpa, u64 len);
	void *opaque;
};

static inline void *dma_ptr(const struct dma *d, gpa_t gpa, u64 len)
{
	return d->ptr(d->opaque, gpa, len);
}

static inline void dma_written(const struct dma *d, gpa_t gpa, u64 len)
{
	d->written(d->opaque, gpa, len);
}

static inline void dma_discard(const struct dma *d, gpa_t gpa, u64 len)
{
	d->discard(d->opaque, gpa, len);
}

#endif
