/*
 * The two 8259A interrupt controllers of a PC and the edge/level control registers (ELCR) that the
 * chipsets added. Inputs 0..7 are the master's, 8..15 the slave's; the slave's output is wired to
 * the master's input 2.
 */
#ifndef RINGSHIFT_I8259_H
#define RINGSHIFT_I8259_H

#include "bus.h"
#include "irq.h"

struct i8259_chip {
	u8 pin;      /* levels at the inputs */
	u8 edge;     /* requests latched by a rise, for inputs in edge mode */
	u8 elcr;     /* 1: the input is level triggered */
	u8 isr, imr; /* in service, masked */
	u8 base;     /* vector of input 0 */
	u8 lowest;   /* input of lowest priority: 7 unless rotated */
	u8 icw;      /* initialisation word the data port waits for: 0 none, 2, 3, 4 */
	bool single, need_icw4;
	bool auto_eoi, rotate_on_auto_eoi;
	bool special_mask, special_nested;
	bool read_isr, poll;
	bool slave;
	bool out; /* INT output */
};

struct i8259 {
	struct i8259_chip chip[2]; /* master, slave */
	struct irq_line out;       /* master's INT */
};

void i8259_init(struct i8259 *p, const struct irq_line *out);
void i8259_reset(struct i8259 *p);
/* Ports 20-21, a0-a1, 4d0-4d1. */
MUST_CHECK int i8259_register(struct i8259 *p, struct bus *bus);

/* Input n (0..15, not 2) of struct i8259 *p; has the form of irq_line.set. */
void i8259_set_irq(void *p, unsigned n, int level);
/* Is INT asserted? */
bool i8259_pending(const struct i8259 *p);
/* The CPU's interrupt acknowledge cycle: the vector. With nothing to acknowledge that is the one
 * of IRQ 7 or 15 and no in-service bit is set there (spurious). */
MUST_CHECK int i8259_ack(struct i8259 *p);

#endif
