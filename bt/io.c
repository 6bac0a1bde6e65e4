/* I/O permission and I/O breakpoints. SDM vol. 1, 19.5 and vol. 3, 17.2.4. */
#include "io.h"

#include "mem.h"

#define TSS_IO_BASE 0x66u /* of a 32-bit or 64-bit TSS: offset of its bitmap */

static gva_t tss_linear(const struct cpu *c, u32 off)
{
	gva_t la = c->tr.base + off;

	return cpu_long_mode(c) ? la : (u32)la;
}

static bool bitmap_allows(struct cpu *c, u16 port, unsigned size)
{
	u32 type = c->tr.attr & SEG_TYPE, at;
	u16 bits;

	if ((c->tr.attr & (SEG_P | SEG_NULL)) != SEG_P || (type & ~2u) != 9 ||
	    c->tr.limit < TSS_IO_BASE + 1)
		return false;
	at = sys_read(c, tss_linear(c, TSS_IO_BASE), 2) + port / 8;
	/* Two bytes are read always, since the ports may straddle; hence the bitmap's extra byte.
	 */
	if (at + 1 > c->tr.limit)
		return false;
	bits = sys_read(c, tss_linear(c, at), 2) >> (port & 7);
	return !(bits & ((1u << size) - 1));
}

static void note_breakpoints(struct cpu *c, u16 port, unsigned size)
{
	static const u8 length[4] = {1, 2, 8, 4};
	unsigned i;

	for (i = 0; i < 4; i++) {
		unsigned n = length[c->dr[7] >> (18 + 4 * i) & 3];
		u64 at = c->dr[i] & ~(u64)(n - 1);

		if ((c->dr[7] >> (2 * i) & 3) && (c->dr[7] >> (16 + 4 * i) & 3) == 2 &&
		    at < (u64)port + size && port < at + n)
			c->debug_hits |= 1u << i;
	}
	if (c->debug_hits)
		c->slow = true;
}

void io_check(struct cpu *c, u16 port, unsigned size)
{
	if (cpu_protected(c) && (cpu_v86(c) || c->cpl > cpu_iopl(c)) &&
	    !bitmap_allows(c, port, size))
		cpu_raise_error(c, EXC_GP, 0);
	if (unlikely(c->dr[7] & 0xff) && (c->cr4 & CR4_DE))
		note_breakpoints(c, port, size);
}
