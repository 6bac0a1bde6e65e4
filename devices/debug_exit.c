/* isa-debug-exit and the port 0xe9 debug console. Neither has a register, so neither has a reset.
 */
#include <errno.h>

#include "debug_exit.h"
#include "byteport.h"

static u64 debug_exit_read(void *dev, u64 offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

static void debug_exit_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct debug_exit *d = dev;

	(void)offset;
	(void)size;
	if (d->done)
		return;
	d->done = true;
	d->exit(d->opaque, (int)((u32)val << 1 | 1));
}

static const struct bus_range debug_exit_ranges[] = {
    {BUS_PORT, 0, 0, debug_exit_read, debug_exit_write, "isa-debug-exit"},
};

void debug_exit_init(struct debug_exit *d, u16 iobase, u16 iosize,
		     void (*exit)(void *opaque, int status), void *opaque)
{
	*d =
	    (struct debug_exit){.iobase = iobase, .iosize = iosize, .exit = exit, .opaque = opaque};
}

int debug_exit_register(struct debug_exit *d, struct bus *bus)
{
	struct bus_range r = debug_exit_ranges[0];

	if (!d->iosize || d->iobase + d->iosize > 0x10000)
		return -EINVAL;
	r.base = d->iobase;
	r.len = d->iosize;
	return bus_add(bus, &r, 1, d);
}

/* Guests look for this very value to find out that the console is there. */
static u8 debugcon_read_byte(void *dev, u64 offset)
{
	(void)dev;
	(void)offset;
	return DEBUGCON_PORT;
}

static void debugcon_write_byte(void *dev, u64 offset, u8 val)
{
	struct debugcon *d = dev;

	(void)offset;
	chardev_write(d->chr, &val, 1);
}

static u64 debugcon_read(void *dev, u64 offset, unsigned size)
{
	return byteport_read(debugcon_read_byte, dev, offset, size);
}

static void debugcon_write(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(debugcon_write_byte, dev, offset, size, val);
}

static const struct bus_range debugcon_ranges[] = {
    {BUS_PORT, DEBUGCON_PORT, 1, debugcon_read, debugcon_write, "debugcon"},
};

void debugcon_init(struct debugcon *d, struct chardev *chr)
{
	d->chr = chr;
}

int debugcon_register(struct debugcon *d, struct bus *bus)
{
	return bus_add(bus, debugcon_ranges, ARRAY_LEN(debugcon_ranges), d);
}
