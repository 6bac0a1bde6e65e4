/*
 * The address space of the kernel half and of the low window: the monitor's own.
 *
 * Small mappings are populated at once. The access that missed would otherwise fault a second time,
 * in the host, and what fault-around adds has been accessed by the guest before; 2 MiB mappings are
 * left to fault page by page.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "shadow_tree.h"

#define POPULATE_MAX (256 * KIB)

const struct shadow_range shadow_kernel_half = {.first = SHADOW_FIRST, .last = ~0ull};
const struct shadow_range shadow_low_window = {.last = SHADOW_LOW_SIZE - 1};

static u8 *host_of(gva_t va)
{
	return (u8 *)(va + ((s64)va < 0 ? SHADOW_BIAS : SHADOW_LOW_BIAS));
}

static int host_map(void *opaque, gva_t va, u64 len, int prot, u64 offset)
{
	struct ram *ram = opaque;
	int flags = MAP_SHARED | MAP_FIXED | (len <= POPULATE_MAX ? MAP_POPULATE : 0);

	return mmap(host_of(va), len, prot, flags, ram->fd, (off_t)offset) == MAP_FAILED ? -errno
											 : 0;
}

static int host_protect(void *opaque, gva_t va, u64 len, int prot)
{
	(void)opaque;
	return mprotect(host_of(va), len, prot) ? -errno : 0;
}

static int host_unmap(void *opaque, gva_t va, u64 len)
{
	(void)opaque;
	return munmap(host_of(va), len) ? -errno : 0;
}

const struct shadow_ops shadow_host_ops = {host_map, host_protect, host_unmap};
