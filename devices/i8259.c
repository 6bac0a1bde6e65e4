/*
 * 8259A programmable interrupt controller, a cascaded pair (Intel data sheet 231468).
 *
 * An input in edge mode latches its rise and keeps it until acknowledged, even if the line falls
 * before (a real chip would then report a spurious IRQ 7; QEMU and KVM latch as we do, and devices
 * that pulse their line rely on it). An input in level mode requests while it is high. The slave's
 * output is an edge into input 2 of the master; the output drops during the acknowledge cycle, so
 * a request that remains makes another edge.
 *
 * Not modelled: the 8080 call mode (ICW4 bit 0 clear is treated as 8086 mode), buffered mode (a
 * matter of board wiring), and LTIM in ICW1, which chipsets with an ELCR ignore.
 */
#include <string.h>

#include "i8259.h"

#define CASCADE 2 /* master input the slave is wired to */

/* Inputs whose mode the ELCR fixes to edge: timer, keyboard, cascade; RTC, FPU. */
static const u8 elcr_writable[2] = {0xf8, 0xde};

/* ICW1, by bit. */
enum {
	ICW1_NEED_ICW4 = 0x01,
	ICW1_SINGLE = 0x02,
	ICW1_INIT = 0x10,
};

/* ICW4. */
enum {
	ICW4_AUTO_EOI = 0x02,
	ICW4_SPECIAL_NESTED = 0x10,
};

/* OCW3, told from OCW2 by bit 3. */
enum {
	OCW3_READ_ISR = 0x01,
	OCW3_READ = 0x02,
	OCW3_POLL = 0x04,
	OCW3_SELECT = 0x08,
	OCW3_SPECIAL_MASK = 0x20,
	OCW3_SET_MASK_MODE = 0x40,
};

/* OCW2, bits 7..5. */
enum {
	OCW2_ROTATE_AUTO_OFF,
	OCW2_EOI,
	OCW2_NOP,
	OCW2_EOI_INPUT,
	OCW2_ROTATE_AUTO_ON,
	OCW2_ROTATE_EOI,
	OCW2_SET_LOWEST,
	OCW2_ROTATE_EOI_INPUT,
};

static u8 chip_irr(const struct i8259_chip *c)
{
	return (u8)((c->edge & ~c->elcr) | (c->pin & c->elcr));
}

/* Rank of the most urgent input of a set: 0 is the highest priority, 8 means the set is empty. */
static unsigned chip_rank(const struct i8259_chip *c, u8 set)
{
	unsigned rank = 0;

	if (!set)
		return 8;
	while (!(set & (1 << ((c->lowest + 1 + rank) & 7))))
		rank++;
	return rank;
}

static unsigned chip_input(const struct i8259_chip *c, unsigned rank)
{
	return (c->lowest + 1 + rank) & 7;
}

/* The input that INT is asserted for, or -1. */
static int chip_request(const struct i8259_chip *c)
{
	unsigned rank = chip_rank(c, chip_irr(c) & (u8)~c->imr);
	u8 in_service = c->isr;

	if (rank == 8)
		return -1;
	/* Special mask mode: a masked input in service inhibits nobody. */
	if (c->special_mask)
		in_service &= (u8)~c->imr;
	/* Special fully nested mode: the slave may interrupt its own service. */
	if (c->special_nested && !c->slave && chip_input(c, rank) == CASCADE)
		in_service &= (u8) ~(1 << CASCADE);
	return rank < chip_rank(c, in_service) ? (int)chip_input(c, rank) : -1;
}

static void chip_set_pin(struct i8259_chip *c, unsigned n, bool level)
{
	u8 bit = (u8)(1 << n);

	if (level && !(c->pin & bit))
		c->edge |= bit;
	c->pin = (u8)(level ? c->pin | bit : c->pin & ~bit);
}

/* Recompute both outputs and pass on what changed. */
static void i8259_update(struct i8259 *p)
{
	struct i8259_chip *master = &p->chip[0], *slave = &p->chip[1];
	bool out;

	slave->out = chip_request(slave) >= 0;
	chip_set_pin(master, CASCADE, slave->out);
	out = chip_request(master) >= 0;
	if (out != master->out) {
		master->out = out;
		irq_set(&p->out, out);
	}
}

static void chip_ack(struct i8259_chip *c, unsigned n)
{
	u8 bit = (u8)(1 << n);

	c->edge &= (u8)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_on_auto_eoi)
		c->lowest = (u8)n;
}

int i8259_ack(struct i8259 *p)
{
	struct i8259_chip *master = &p->chip[0], *slave = &p->chip[1];
	int n = chip_request(master), vector;

	if (n < 0) {
		n = 7;
		vector = master->base + n;
	} else if (n == CASCADE) {
		chip_ack(master, CASCADE);
		n = chip_request(slave);
		if (n < 0)
			n = 7;
		else
			chip_ack(slave, (unsigned)n);
		vector = slave->base + n;
		/* INT of the slave drops during the cycle. */
		chip_set_pin(master, CASCADE, false);
	} else {
		chip_ack(master, (unsigned)n);
		vector = master->base + n;
	}
	i8259_update(p);
	return vector;
}

bool i8259_pending(const struct i8259 *p)
{
	return p->chip[0].out;
}

void i8259_set_irq(void *opaque, unsigned n, int level)
{
	struct i8259 *p = opaque;

	BUG_ON(n > 15);
	if (n == CASCADE)
		return;
	chip_set_pin(&p->chip[n >> 3], n & 7, level);
	i8259_update(p);
}

/* ICW1. Edge latches are cleared: a line that is high has to fall and rise again. */
static void chip_start_init(struct i8259_chip *c, u8 val)
{
	c->edge = 0;
	c->imr = 0;
	c->isr = 0;
	c->lowest = 7;
	c->auto_eoi = c->rotate_on_auto_eoi = false;
	c->special_mask = c->special_nested = false;
	c->read_isr = c->poll = false;
	c->single = val & ICW1_SINGLE;
	c->need_icw4 = val & ICW1_NEED_ICW4;
	c->icw = 2;
}

static void chip_end_of_interrupt(struct i8259_chip *c, u8 val)
{
	unsigned command = val >> 5, n = val & 7, rank;
	u8 in_service = c->isr;

	switch (command) {
	case OCW2_ROTATE_AUTO_ON:
	case OCW2_ROTATE_AUTO_OFF: c->rotate_on_auto_eoi = command == OCW2_ROTATE_AUTO_ON; break;
	case OCW2_EOI:
	case OCW2_ROTATE_EOI:
		/* In special mask mode a masked input is not ended by a nonspecific EOI. */
		if (c->special_mask)
			in_service &= (u8)~c->imr;
		rank = chip_rank(c, in_service);
		if (rank == 8)
			break;
		n = chip_input(c, rank);
		c->isr &= (u8) ~(1 << n);
		if (command == OCW2_ROTATE_EOI)
			c->lowest = (u8)n;
		break;
	case OCW2_EOI_INPUT: c->isr &= (u8) ~(1 << n); break;
	case OCW2_ROTATE_EOI_INPUT:
		c->isr &= (u8) ~(1 << n);
		c->lowest = (u8)n;
		break;
	case OCW2_SET_LOWEST: c->lowest = (u8)n; break;
	case OCW2_NOP: break;
	}
}

static void chip_write_command(struct i8259_chip *c, u8 val)
{
	if (val & ICW1_INIT) {
		chip_start_init(c, val);
	} else if (val & OCW3_SELECT) {
		if (val & OCW3_SET_MASK_MODE)
			c->special_mask = val & OCW3_SPECIAL_MASK;
		if (val & OCW3_READ)
			c->read_isr = val & OCW3_READ_ISR;
		if (val & OCW3_POLL)
			c->poll = true;
	} else {
		chip_end_of_interrupt(c, val);
	}
}

static void chip_write_data(struct i8259_chip *c, u8 val)
{
	switch (c->icw) {
	case 2:
		c->base = val & 0xf8;
		c->icw = !c->single ? 3 : c->need_icw4 ? 4 : 0;
		break;
	case 3: /* where the slave sits: fixed by the board */ c->icw = c->need_icw4 ? 4 : 0; break;
	case 4:
		c->auto_eoi = val & ICW4_AUTO_EOI;
		c->special_nested = val & ICW4_SPECIAL_NESTED;
		c->icw = 0;
		break;
	default: c->imr = val;
	}
}

/* The read after a poll command acknowledges like the CPU would, one chip at a time. */
static u8 chip_poll(struct i8259 *p, struct i8259_chip *c)
{
	int n = chip_request(c);

	c->poll = false;
	if (n < 0)
		return 0;
	chip_ack(c, (unsigned)n);
	if (c->slave) {
		/* Served behind the master's back: its request is void. */
		chip_set_pin(&p->chip[0], CASCADE, false);
		p->chip[0].edge &= (u8) ~(1 << CASCADE);
	}
	i8259_update(p);
	return (u8)(0x80 | n);
}

static u8 chip_read(struct i8259 *p, struct i8259_chip *c, bool data)
{
	if (c->poll)
		return chip_poll(p, c);
	if (data)
		return c->imr;
	return c->read_isr ? c->isr : chip_irr(c);
}

static void chip_write(struct i8259 *p, struct i8259_chip *c, bool data, u8 val)
{
	if (data)
		chip_write_data(c, val);
	else
		chip_write_command(c, val);
	i8259_update(p);
}

/* These ranges are two ports of one byte each; a wider access is two of them. */
static u64 master_read(void *dev, u64 offset, unsigned size)
{
	struct i8259 *p = dev;
	u64 val = chip_read(p, &p->chip[0], offset);

	return size == 1 ? val : val | (u64)chip_read(p, &p->chip[0], true) << 8;
}

static void master_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct i8259 *p = dev;

	chip_write(p, &p->chip[0], offset, (u8)val);
	if (size == 2)
		chip_write(p, &p->chip[0], true, (u8)(val >> 8));
}

static u64 slave_read(void *dev, u64 offset, unsigned size)
{
	struct i8259 *p = dev;
	u64 val = chip_read(p, &p->chip[1], offset);

	return size == 1 ? val : val | (u64)chip_read(p, &p->chip[1], true) << 8;
}

static void slave_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct i8259 *p = dev;

	chip_write(p, &p->chip[1], offset, (u8)val);
	if (size == 2)
		chip_write(p, &p->chip[1], true, (u8)(val >> 8));
}

static u64 elcr_read(void *dev, u64 offset, unsigned size)
{
	struct i8259 *p = dev;

	if (size == 2)
		return p->chip[0].elcr | p->chip[1].elcr << 8;
	return p->chip[offset].elcr;
}

static void elcr_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct i8259 *p = dev;

	for (unsigned i = 0; i < size; i++, val >>= 8) {
		struct i8259_chip *c = &p->chip[offset + i];

		c->elcr = (u8)val & elcr_writable[offset + i];
		/* What an input latched as an edge is no request once it means a level. */
		c->edge &= (u8)~c->elcr;
	}
	i8259_update(p);
}

static const struct bus_range i8259_ranges[] = {
    {BUS_PORT, 0x20, 2, master_read, master_write, "i8259 master"},
    {BUS_PORT, 0xa0, 2, slave_read, slave_write, "i8259 slave"},
    {BUS_PORT, 0x4d0, 2, elcr_read, elcr_write, "i8259 elcr"},
};

int i8259_register(struct i8259 *p, struct bus *bus)
{
	return bus_add(bus, i8259_ranges, ARRAY_LEN(i8259_ranges), p);
}

/* The levels at the inputs belong to the devices that drive them and survive. */
void i8259_reset(struct i8259 *p)
{
	for (unsigned i = 0; i < 2; i++) {
		struct i8259_chip *c = &p->chip[i];
		u8 pin = c->pin;
		bool out = c->out;

		*c = (struct i8259_chip){.pin = pin, .lowest = 7, .slave = i == 1, .out = out};
	}
	i8259_update(p);
}

void i8259_init(struct i8259 *p, const struct irq_line *out)
{
	memset(p, 0, sizeof(*p));
	p->out = *out;
	i8259_reset(p);
}
