/* The 8259 pair: initialisation, priorities, every way to end an interrupt, levels, polling. */
#include <criterion/criterion.h>

#include "i8259.h"

static struct bus bus;
static struct i8259 pic;
static int out;
static unsigned edges;

static void set_out(void *opaque, unsigned n, int level)
{
	(void)opaque;
	(void)n;
	cr_assert_neq(level, out, "the line is driven on changes only");
	out = level;
	edges++;
}

static void outb(u16 port, u8 val)
{
	bus_write(&bus, BUS_PORT, port, 1, val);
}

static u8 inb(u16 port)
{
	return (u8)bus_read(&bus, BUS_PORT, port, 1);
}

/* As every PC system does: vectors 0x30 and 0x38, everything unmasked. */
static void program(u8 master_icw4, u8 slave_icw4)
{
	outb(0x20, 0x11);
	outb(0x21, 0x30);
	outb(0x21, 4);
	outb(0x21, master_icw4);
	outb(0xa0, 0x11);
	outb(0xa1, 0x38);
	outb(0xa1, 2);
	outb(0xa1, slave_icw4);
	outb(0x21, 0);
	outb(0xa1, 0);
}

static void setup(void)
{
	struct irq_line line = {set_out, NULL, 0};

	out = 0;
	bus_init(&bus, NULL);
	i8259_init(&pic, &line);
	cr_assert_eq(i8259_register(&pic, &bus), 0);
	program(1, 1);
}

static void pulse(unsigned n)
{
	i8259_set_irq(&pic, n, 1);
	i8259_set_irq(&pic, n, 0);
}

static u8 read_irr(u16 port)
{
	outb(port, 0x0a);
	return inb(port);
}

static u8 read_isr(u16 port)
{
	outb(port, 0x0b);
	return inb(port);
}

TestSuite(i8259, .init = setup);

Test(i8259, edge_is_latched_and_acknowledged)
{
	pulse(1);
	cr_assert(i8259_pending(&pic));
	cr_assert_eq(out, 1);
	cr_assert_eq(read_irr(0x20), 2);
	cr_assert_eq(i8259_ack(&pic), 0x31);
	cr_assert_eq(out, 0);
	cr_assert_eq(read_irr(0x20), 0);
	cr_assert_eq(read_isr(0x20), 2);
	outb(0x20, 0x20);
	cr_assert_eq(read_isr(0x20), 0);
	cr_assert_not(i8259_pending(&pic));
}

Test(i8259, a_held_edge_line_requests_once)
{
	i8259_set_irq(&pic, 4, 1);
	cr_assert_eq(i8259_ack(&pic), 0x34);
	outb(0x20, 0x20);
	i8259_set_irq(&pic, 4, 1);
	cr_assert_not(i8259_pending(&pic));
	i8259_set_irq(&pic, 4, 0);
	i8259_set_irq(&pic, 4, 1);
	cr_assert(i8259_pending(&pic));
}

Test(i8259, slave_is_cascaded)
{
	pulse(12);
	cr_assert_eq(read_irr(0x20), 4);
	cr_assert_eq(read_irr(0xa0), 0x10);
	cr_assert_eq(i8259_ack(&pic), 0x3c);
	cr_assert_eq(read_isr(0x20), 4);
	cr_assert_eq(read_isr(0xa0), 0x10);
	/* A lower one of the slave waits for both EOIs, whichever order they come in. */
	pulse(13);
	cr_assert_not(i8259_pending(&pic));
	outb(0xa0, 0x20);
	cr_assert_not(i8259_pending(&pic));
	outb(0x20, 0x20);
	cr_assert(i8259_pending(&pic));
	cr_assert_eq(i8259_ack(&pic), 0x3d);
	pulse(14);
	outb(0x20, 0x20);
	cr_assert_not(i8259_pending(&pic));
	outb(0xa0, 0x20);
	cr_assert_eq(i8259_ack(&pic), 0x3e);
}

Test(i8259, priorities_and_nesting)
{
	pulse(5);
	pulse(3);
	pulse(9);
	cr_assert_eq(i8259_ack(&pic), 0x39, "the slave ranks as input 2");
	cr_assert_not(i8259_pending(&pic));
	pulse(0);
	cr_assert(i8259_pending(&pic), "higher priority nests");
	cr_assert_eq(i8259_ack(&pic), 0x30);
	cr_assert_eq(read_isr(0x20), 5);
	outb(0x20, 0x20); /* ends 0 */
	cr_assert_eq(read_isr(0x20), 4);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	cr_assert_eq(i8259_ack(&pic), 0x33);
	outb(0x20, 0x63); /* specific */
	cr_assert_eq(i8259_ack(&pic), 0x35);
}

Test(i8259, mask_hides_but_keeps)
{
	outb(0x21, 0x02);
	cr_assert_eq(inb(0x21), 2);
	pulse(1);
	cr_assert_not(i8259_pending(&pic));
	cr_assert_eq(read_irr(0x20), 2);
	outb(0x21, 0);
	cr_assert_eq(i8259_ack(&pic), 0x31);
	outb(0x20, 0x20);
	outb(0x21, 0x04); /* the cascade masked: no slave at all */
	pulse(8);
	cr_assert_not(i8259_pending(&pic));
}

Test(i8259, level_triggered)
{
	outb(0x4d1, 0x08); /* IRQ 11 */
	cr_assert_eq(inb(0x4d1), 8);
	i8259_set_irq(&pic, 11, 1);
	cr_assert_eq(i8259_ack(&pic), 0x3b);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	cr_assert(i8259_pending(&pic), "still high: again");
	cr_assert_eq(i8259_ack(&pic), 0x3b);
	i8259_set_irq(&pic, 11, 0);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	cr_assert_not(i8259_pending(&pic));
}

Test(i8259, elcr_of_fixed_inputs)
{
	bus_write(&bus, BUS_PORT, 0x4d0, 2, 0xffff);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x4d0, 2), 0xdef8);
}

Test(i8259, spurious_vectors)
{
	cr_assert_eq(i8259_ack(&pic), 0x37);
	cr_assert_eq(read_isr(0x20), 0, "a spurious interrupt is not in service");
	/* A level of the slave that goes away between request and acknowledge. */
	outb(0x4d1, 0x08);
	i8259_set_irq(&pic, 11, 1);
	i8259_set_irq(&pic, 11, 0);
	cr_assert_eq(i8259_ack(&pic), 0x3f);
	cr_assert_eq(read_isr(0xa0), 0);
	cr_assert_eq(read_isr(0x20), 4, "the master believes it was real and wants its EOI");
	/* A level of the master. */
	outb(0x20, 0x20);
	outb(0x4d0, 0x20);
	i8259_set_irq(&pic, 5, 1);
	i8259_set_irq(&pic, 5, 0);
	cr_assert_not(i8259_pending(&pic));
	cr_assert_eq(i8259_ack(&pic), 0x37);
}

Test(i8259, auto_eoi)
{
	program(3, 3);
	pulse(9);
	pulse(12);
	cr_assert_eq(i8259_ack(&pic), 0x39);
	cr_assert_eq(read_isr(0xa0), 0);
	cr_assert_eq(read_isr(0x20), 0);
	cr_assert_eq(i8259_ack(&pic), 0x3c, "the slave's other request is not lost");
	cr_assert_not(i8259_pending(&pic));
}

Test(i8259, rotation)
{
	/* Rotate on nonspecific EOI: the one served becomes the lowest. */
	pulse(3);
	cr_assert_eq(i8259_ack(&pic), 0x33);
	outb(0x20, 0xa0);
	pulse(3);
	pulse(5);
	cr_assert_eq(i8259_ack(&pic), 0x35);
	outb(0x20, 0xe5); /* rotate on specific EOI: 5 lowest, 6 highest */
	pulse(6);
	cr_assert_eq(i8259_ack(&pic), 0x36);
	outb(0x20, 0x20);
	outb(0x20, 0xc0); /* set priority: 0 lowest, 1 highest */
	pulse(0);
	cr_assert_eq(i8259_ack(&pic), 0x33);
	outb(0x20, 0x20);
	cr_assert_eq(i8259_ack(&pic), 0x30);
	outb(0x20, 0x40); /* no operation */
	cr_assert_eq(read_isr(0x20), 1);
}

Test(i8259, rotation_in_auto_eoi)
{
	program(3, 1);
	outb(0x20, 0x80);
	pulse(1);
	cr_assert_eq(i8259_ack(&pic), 0x31);
	pulse(1);
	pulse(7);
	cr_assert_eq(i8259_ack(&pic), 0x37);
	outb(0x20, 0x00);
	cr_assert_eq(i8259_ack(&pic), 0x31);
	pulse(1);
	pulse(7);
	cr_assert_eq(i8259_ack(&pic), 0x31, "rotation is off: 7 stayed the lowest");
}

Test(i8259, special_mask_mode)
{
	pulse(4);
	cr_assert_eq(i8259_ack(&pic), 0x34);
	pulse(6);
	cr_assert_not(i8259_pending(&pic));
	outb(0x21, 0x10);
	cr_assert_not(i8259_pending(&pic), "masking alone is not enough");
	outb(0x20, 0x68);
	cr_assert(i8259_pending(&pic));
	cr_assert_eq(i8259_ack(&pic), 0x36);
	outb(0x20, 0x20);
	cr_assert_eq(read_isr(0x20), 0x10, "a masked input wants a specific EOI");
	outb(0x20, 0x64);
	cr_assert_eq(read_isr(0x20), 0);
	outb(0x20, 0x48);
	cr_assert_not(pic.chip[0].special_mask);
}

Test(i8259, special_fully_nested_mode)
{
	program(0x11, 1);
	pulse(14);
	cr_assert_eq(i8259_ack(&pic), 0x3e);
	pulse(10);
	cr_assert(i8259_pending(&pic), "a higher input of the same slave nests");
	cr_assert_eq(i8259_ack(&pic), 0x3a);
	cr_assert_eq(read_isr(0xa0), 0x44);
	pulse(3);
	cr_assert_not(i8259_pending(&pic));
}

Test(i8259, poll_mode)
{
	outb(0x20, 0x0c);
	cr_assert_eq(inb(0x20), 0, "nothing to poll");
	pulse(1);
	outb(0x20, 0x0c);
	cr_assert_eq(inb(0x20), 0x81);
	cr_assert_not(i8259_pending(&pic));
	cr_assert_eq(read_isr(0x20), 2, "a poll acknowledges");
	outb(0x20, 0x20);
	pulse(10);
	outb(0xa0, 0x0c);
	cr_assert_eq(inb(0xa0), 0x82);
	cr_assert_not(i8259_pending(&pic), "the master has heard of it");
	cr_assert_eq(read_isr(0xa0), 4);
}

Test(i8259, initialisation)
{
	outb(0x21, 0xff);
	pulse(3);
	outb(0x20, 0x0b);
	i8259_set_irq(&pic, 6, 1);
	outb(0x20, 0x13); /* single, with ICW4 */
	cr_assert_eq(inb(0x21), 0, "ICW1 clears the mask");
	cr_assert_eq(inb(0x20), 0, "and the edges, and selects IRR");
	outb(0x21, 0x47);
	outb(0x21, 0x01);
	outb(0x21, 0x40); /* already OCW1 */
	cr_assert_eq(inb(0x21), 0x40);
	outb(0x21, 0);
	cr_assert_not(i8259_pending(&pic), "a line that stayed high is no new edge");
	pulse(1);
	cr_assert_eq(i8259_ack(&pic), 0x41, "the low bits of ICW2 are not the vector's");
	outb(0x20, 0x12); /* without ICW4 and ICW3 */
	outb(0x21, 0x50);
	outb(0x21, 0x81);
	cr_assert_eq(inb(0x21), 0x81);
}

Test(i8259, sixteen_bit_access)
{
	bus_write(&bus, BUS_PORT, 0x20, 2, 0x550b);
	cr_assert_eq(inb(0x21), 0x55);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0x20, 2), 0x5500);
	bus_write(&bus, BUS_PORT, 0xa0, 2, 0xaa0a);
	cr_assert_eq(bus_read(&bus, BUS_PORT, 0xa0, 4), 0xffffaa00);
}

Test(i8259, reset)
{
	outb(0x4d0, 0x20);
	i8259_set_irq(&pic, 5, 1);
	cr_assert_eq(out, 1);
	i8259_reset(&pic);
	cr_assert_eq(out, 0);
	cr_assert_eq(inb(0x4d0), 0);
	i8259_set_irq(&pic, 5, 0);
	i8259_set_irq(&pic, 5, 1);
	cr_assert_eq(out, 1);
}

Test(i8259, nobody_drives_the_cascade_input)
{
	i8259_set_irq(&pic, 2, 1);
	cr_assert_not(i8259_pending(&pic));
}
