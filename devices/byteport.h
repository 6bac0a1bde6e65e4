/*
 * Eight-bit chips on a wider bus. The ISA bridge turns a 16- or 32-bit access to such a chip into
 * byte cycles at rising addresses; these two loops do the same for a range handler.
 */
#ifndef RINGSHIFT_BYTEPORT_H
#define RINGSHIFT_BYTEPORT_H

#include "base.h"

static inline u64 byteport_read(u8 (*read)(void *dev, u64 offset), void *dev, u64 offset,
				unsigned size)
{
	u64 val = 0;

	for (unsigned i = 0; i < size; i++)
		val |= (u64)read(dev, offset + i) << (8 * i);
	return val;
}

static inline void byteport_write(void (*write)(void *dev, u64 offset, u8 val), void *dev,
				  u64 offset, unsigned size, u64 val)
{
	for (unsigned i = 0; i < size; i++)
		write(dev, offset + i, (u8)(val >> (8 * i)));
}

#endif
