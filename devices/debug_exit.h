/*
 * Two ports for tests, as QEMU has them: isa-debug-exit ends the virtual machine with a status of
 * the guest's choosing, and the debug console at 0xe9 prints what is written to it.
 */
#ifndef RINGSHIFT_DEBUG_EXIT_H
#define RINGSHIFT_DEBUG_EXIT_H

#include "base.h"
#include "bus.h"
#include "chardev.h"

#define DEBUG_EXIT_IOBASE 0x501
#define DEBUG_EXIT_IOSIZE 2
#define DEBUGCON_PORT     0xe9

struct debug_exit {
	u16 iobase, iosize;
	/* The guest wrote val: status is val << 1 | 1, of which a process can return 8 bits. Called
	 * once; later writes (the other bytes of a wide one, say) change nothing. */
	void (*exit)(void *opaque, int status);
	void *opaque;
	bool done;
};

void debug_exit_init(struct debug_exit *d, u16 iobase, u16 iosize,
		     void (*exit)(void *opaque, int status), void *opaque);
/* -EINVAL if the ports are none or run past 0xffff, else as bus_add. */
MUST_CHECK int debug_exit_register(struct debug_exit *d, struct bus *bus);

struct debugcon {
	struct chardev *chr;
};

/* chr may be NULL: the port answers and prints nothing. */
void debugcon_init(struct debugcon *d, struct chardev *chr);
MUST_CHECK int debugcon_register(struct debugcon *d, struct bus *bus);

#endif
