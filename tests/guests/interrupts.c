/*
 * Hardware interrupts: 8259 masks, priorities, nesting, in-service, rotation, poll; the
 * serial port's level-triggered line; IOAPIC and local APIC routing, priorities, self-IPIs and
 * NMIs; HLT; the shadow of STI; interrupts between iterations of a repeated
 * instruction. Intel 8259A data sheet; SDM vol. 3, 6.8 and chapter 10; 82093AA data sheet.
 *
 * Sources are the PIT's channel 0 (IRQ 0), the UART's transmitter (IRQ 4) and self-IPIs.
 */
#include "lib.h"

enum { IRQ0 = 0x20, IRQ4 = 0x24 };

static volatile u32 count[256];
static u8 order[32];
static unsigned order_used;

static void log_vector(unsigned vector)
{
	count[vector]++;
	if (order_used < sizeof(order))
		order[order_used++] = vector;
}

static void put_order(const char *name)
{
	unsigned i;

	put(name);
	put(":");
	for (i = 0; i < order_used; i++) {
		put_char(' ');
		put_hex(order[i]);
	}
	put("\n");
	order_used = 0;
}

static void mask(u16 m)
{
	outb(0x21, m);
	outb(0xa1, m >> 8);
}

static void eoi(void)
{
	outb(0x20, 0x20);
}

/* IRQ 0 in about so many microseconds, once. */
static void pit_one_shot(u32 us)
{
	u32 ticks = us * 12 / 10;

	outb(0x43, 0x30);
	outb(0x40, ticks);
	outb(0x40, ticks >> 8);
}

/* Until the 8259 has the request, with interrupts off. */
static u8 wait_irr(u8 bit)
{
	u32 i;

	for (i = 0; i < 3000000; i++) {
		outb(0x20, 0x0a);
		if (inb(0x20) & bit)
			break;
	}
	return inb(0x20) & bit;
}

static u8 isr(void)
{
	outb(0x20, 0x0b);
	return inb(0x20);
}

static void simple(struct regs *r)
{
	log_vector(r->vector);
	eoi();
}

/* One instruction window. */
static void window(void)
{
	ASM("sti; nop; cli" : : : "memory");
}

/* Raise the UART's transmitter interrupt: a level that stays until IIR is read. */
static void uart_irq(bool on)
{
	outb(0x3fc, on ? 0x0b : 0x03);
	outb(0x3f9, on ? 2 : 0);
}

/* --- 8259 --- */

static void test_masks(void)
{
	u8 irr;

	handlers[IRQ0] = simple;
	mask(0xffff);
	pit_one_shot(100);
	irr = wait_irr(1);
	check("request while masked", irr == 1);
	window();
	say("delivered while masked", count[IRQ0]);
	mask(0xfffe);
	check("IMR reads back", inb(0x21) == 0xfe && inb(0xa1) == 0xff);
	window();
	say("delivered once unmasked", count[IRQ0]);
	window();
	say("and once only", count[IRQ0]);
	check("request gone", ({
		      outb(0x20, 0x0a);
		      !(inb(0x20) & 1);
	      }));
}

static volatile u8 isr_inside, isr_after;

static void with_isr(struct regs *r)
{
	log_vector(r->vector);
	isr_inside = isr();
	eoi();
	isr_after = isr();
}

static void test_isr(void)
{
	handlers[IRQ0] = with_isr;
	pit_one_shot(50);
	wait_irr(1);
	window();
	say("ISR inside", isr_inside);
	say("ISR after EOI", isr_after);
	order_used = 0;
}

/* IRQ 4's handler is interrupted by IRQ 0; IRQ 0's is not by IRQ 4. */
static void nesting_uart(struct regs *r)
{
	log_vector(r->vector);
	pit_one_shot(50);
	wait_irr(1);
	ASM("sti; nop; nop; cli");
	log_vector(0xe4);
	inb(0x3fa);
	uart_irq(false);
	eoi();
}

static void nesting_pit(struct regs *r)
{
	log_vector(r->vector);
	uart_irq(true);
	wait_irr(0x10);
	ASM("sti; nop; nop; cli");
	log_vector(0xe0);
	eoi();
}

static void uart_simple(struct regs *r)
{
	log_vector(r->vector);
	uart_irq(false);
	inb(0x3fa);
	eoi();
}

static void test_nesting(void)
{
	mask(0xffee);
	handlers[IRQ0] = simple;
	handlers[IRQ4] = nesting_uart;
	uart_irq(true);
	wait_irr(0x10);
	window();
	put_order("higher nests in lower");
	handlers[IRQ0] = nesting_pit;
	handlers[IRQ4] = uart_simple;
	pit_one_shot(50);
	wait_irr(1);
	window();
	put_order("lower waits for higher");
	window();
	put_order("and comes once");
	/* Both at once: the higher first. */
	handlers[IRQ0] = simple;
	mask(0xffff);
	uart_irq(true);
	pit_one_shot(50);
	wait_irr(1);
	mask(0xffee);
	ASM("sti; nop; nop; nop; cli");
	put_order("both at once");
	check("ISR empty", isr() == 0);
}

static void test_poll(void)
{
	order_used = 0;
	/* The poll command acknowledges. */
	mask(0xfffe);
	pit_one_shot(50);
	wait_irr(1);
	outb(0x20, 0x0c);
	say("poll", inb(0x20));
	say("in service", isr());
	eoi();
	say("after EOI", isr());
	window();
	put_order("nothing left");
	/* Rotation: after a rotating EOI of IRQ 0, IRQ 0 is lowest; IRQ 4 goes first. */
	handlers[IRQ0] = simple;
	handlers[IRQ4] = uart_simple;
	outb(0x20, 0xc0);
	mask(0xffff);
	uart_irq(true);
	pit_one_shot(50);
	wait_irr(1);
	mask(0xffee);
	ASM("sti; nop; nop; nop; cli");
	put_order("rotated");
	outb(0x20, 0xc7);
	mask(0xffff);
}

/* Automatic EOI, other vectors. */
static void count_only(struct regs *r)
{
	log_vector(r->vector);
}

static void init_8259(u8 base, u8 icw4)
{
	outb(0x20, 0x11);
	outb(0x21, base);
	outb(0x21, 4);
	outb(0x21, icw4);
	outb(0x21, 0xff);
}

static void test_init(void)
{
	init_8259(0x50, 3);
	handlers[0x50] = count_only;
	mask(0xfffe);
	pit_one_shot(50);
	wait_irr(1);
	window();
	put_order("vector moved, automatic EOI");
	say("ISR", isr());
	init_8259(0x20, 1);
	say("IMR after ICW1", ({
		    outb(0x20, 0x11);
		    outb(0x21, 0x20);
		    outb(0x21, 4);
		    outb(0x21, 1);
		    inb(0x21);
	    }));
	mask(0xffff);
}

/* --- the CPU's side --- */

SNIPPET(sti_shadow, "sti\nincl %eax\nincl %eax\nincl %eax\ncli\n" STOP);
SNIPPET(sti_cli, "sti; cli; incl %eax\n" STOP);
SNIPPET(sti_sti, "sti; sti; incl %eax; incl %eax; cli\n" STOP);
SNIPPET(sti_hlt, "sti; hlt; incl %eax; cli\n" STOP);
SNIPPET(popf_if, "pushf; orl $0x200,(%esp); popf; incl %eax; incl %eax; cli\n" STOP);
SNIPPET(iret_if, "pushl $0x202; push %cs; push $1f; iret; 1: incl %eax; incl %eax; cli\n" STOP);

static volatile ulong taken_at, taken_ax;

static void note_place(struct regs *r)
{
	log_vector(r->vector);
	taken_at = r->ip;
	taken_ax = r->ax;
	eoi();
}

/* An interrupt is pending, IF is off. Where is it taken? */
static void place(const char *name, const u8 *code)
{
	struct regs r = regs_kernel(code);

	handlers[IRQ0] = note_place;
	taken_at = 0;
	mask(0xfffe);
	pit_one_shot(50);
	wait_irr(1);
	guest_run(&r);
	put(name);
	if (taken_at) {
		put(": taken at +");
		put_hex(taken_at - (ulong)code);
		put(" eax ");
		put_hex(taken_ax);
	} else {
		put(": not taken");
	}
	say(" end", r.ax);
	window(); /* in case it was not */
	mask(0xffff);
}

static void test_shadows(void)
{
	place("sti", sti_shadow);
	place("sti; cli", sti_cli);
	place("sti; sti", sti_sti);
	place("sti; hlt", sti_hlt);
	place("popf", popf_if);
	place("iret", iret_if);
	order_used = 0;
}

static void test_hlt(void)
{
	u32 i, before;

	handlers[IRQ0] = simple;
	mask(0xfffe);
	before = count[IRQ0];
	for (i = 0; i < 20; i++) {
		pit_one_shot(200);
		ASM("sti; hlt; cli" : : : "memory");
	}
	say_dec("woken from HLT", count[IRQ0] - before);
	/* Periodic. */
	before = count[IRQ0];
	outb(0x43, 0x34);
	outb(0x40, 0);
	outb(0x40, 0x10);
	for (i = 0; i < 20; i++)
		ASM("sti; hlt; cli" : : : "memory");
	/* A tick that is late may come together with the next. */
	check("and periodically", count[IRQ0] - before >= 20);
	pit_one_shot(50);
	wait_irr(1);
	window();
	order_used = 0;
}

/* A long repeated instruction is interrupted, and goes on. */
static u8 big[1 << 20] ALIGNED(16);
static volatile u32 inside_rep;

SNIPPET(rep_stos, "rep stosb\n" STOP);

static void note_rep(struct regs *r)
{
	if (r->ip == (ulong)rep_stos && r->cx && r->di - (ulong)big == sizeof(big) - r->cx)
		inside_rep++;
	count[IRQ0]++;
	eoi();
}

static void test_rep(void)
{
	struct regs r;
	bool good = true;
	u32 i, tries;

	handlers[IRQ0] = note_rep;
	mask(0xfffe);
	outb(0x43, 0x34); /* every 100 us or so */
	outb(0x40, 120);
	outb(0x40, 0);
	for (tries = 0; tries < 2000 && inside_rep < 3; tries++) {
		r = regs_kernel(rep_stos);
		r.flags |= F_IF;
		r.di = (ulong)big;
		r.cx = sizeof(big);
		r.ax = tries;
		guest_run(&r);
		good &= !r.cx && r.di == (ulong)big + sizeof(big);
		for (i = 0; i < sizeof(big); i += 4093)
			good &= big[i] == (u8)tries;
	}
	mask(0xffff);
	pit_one_shot(50);
	wait_irr(1);
	check("interrupted inside rep", inside_rep >= 3);
	check("and all done", good);
}

/* --- local APIC and IOAPIC --- */

#define LAPIC(reg)  (*(volatile u32 *)(0xfee00000ul + (reg)))
#define IOAPIC_SEL  (*(volatile u32 *)0xfec00000ul)
#define IOAPIC_DATA (*(volatile u32 *)0xfec00010ul)
#define SELF        0x40000u

static void ioapic_write(u32 reg, u32 v)
{
	IOAPIC_SEL = reg;
	IOAPIC_DATA = v;
}

static u32 ioapic_read(u32 reg)
{
	IOAPIC_SEL = reg;
	return IOAPIC_DATA;
}

static void lapic_handler(struct regs *r)
{
	log_vector(r->vector);
	LAPIC(0xb0) = 0;
}

static void self_ipi(u32 vector)
{
	LAPIC(0x300) = SELF | vector;
}

static void lapic_nesting(struct regs *r)
{
	log_vector(r->vector);
	self_ipi(0x71); /* same class: waits */
	self_ipi(0x61); /* lower: waits */
	self_ipi(0x91); /* higher: nests */
	ASM("sti; nop; nop; cli");
	log_vector(0xff);
	LAPIC(0xb0) = 0;
}

static void test_lapic(void)
{
	unsigned v;

	check("LAPIC enabled in MSR", rdmsr(0x1b) & 0x800);
	LAPIC(0xf0) = 0x1ff;
	check("version", (LAPIC(0x30) & 0xf0) == 0x10);
	for (v = 0x51; v < 0x100; v += 0x10)
		handlers[v] = lapic_handler;
	handlers[0x72] = lapic_handler;
	handlers[0xff] = lapic_handler;
	order_used = 0;
	self_ipi(0x51);
	check("IRR", LAPIC(0x200 + 0x20) & 1u << 17);
	window();
	put_order("self IPI");
	check("ISR empty", !LAPIC(0x100 + 0x20));
	self_ipi(0x61);
	self_ipi(0x81);
	self_ipi(0x51);
	self_ipi(0x61);
	ASM("sti; nop; nop; nop; cli");
	put_order("by priority");
	handlers[0x72] = lapic_nesting;
	self_ipi(0x72);
	ASM("sti; nop; cli");
	ASM("sti; nop; cli");
	ASM("sti; nop; cli");
	put_order("nested");
	LAPIC(0x80) = 0x70;
	self_ipi(0x71);
	self_ipi(0x81);
	window();
	put_order("TPR 0x70");
	say("PPR", LAPIC(0xa0));
	LAPIC(0x80) = 0;
	window();
	put_order("TPR 0");
	/* Nothing has been signalled: an EOI without an interrupt does nothing. */
	LAPIC(0xb0) = 0;
	check("EOI of nothing", !LAPIC(0x100 + 0x40));
}

static void lapic_uart(struct regs *r)
{
	log_vector(r->vector);
	if (count[r->vector] % 3 == 0) {
		uart_irq(false);
		inb(0x3fa);
	}
	LAPIC(0xb0) = 0;
}

static void test_ioapic(void)
{
	u32 i;

	mask(0xffff);
	check("IOAPIC version",
	      (ioapic_read(1) & 0xff) >= 0x11 && (ioapic_read(1) >> 16 & 0xff) == 23);
	for (i = 0; i < 24; i++)
		ioapic_write(0x10 + 2 * i, 0x10000);
	check("masked", ioapic_read(0x10 + 2 * 4) == 0x10000);
	handlers[0xa1] = lapic_handler;
	handlers[0xb1] = lapic_uart;
	/* The PIT is wired to pin 2. */
	ioapic_write(0x10 + 2 * 2 + 1, LAPIC(0x20) & 0xff000000);
	ioapic_write(0x10 + 2 * 2, 0xa1);
	order_used = 0;
	pit_one_shot(100);
	for (i = 0; i < 1000000 && !count[0xa1]; i++)
		window();
	put_order("PIT on pin 2");
	ioapic_write(0x10 + 2 * 2, 0x10000);
	/* A level-triggered line asks again after EOI for as long as it is up. */
	ioapic_write(0x10 + 2 * 4 + 1, LAPIC(0x20) & 0xff000000);
	ioapic_write(0x10 + 2 * 4, 0x80b1);
	uart_irq(true);
	for (i = 0; i < 1000; i++)
		window();
	put_order("UART, level");
	check("remote IRR clear", !(ioapic_read(0x10 + 2 * 4) & 0x4000));
	/* Edge: once. */
	ioapic_write(0x10 + 2 * 4, 0xb1);
	uart_irq(true);
	for (i = 0; i < 1000; i++)
		window();
	put_order("UART, edge");
	uart_irq(false);
	inb(0x3fa);
	ioapic_write(0x10 + 2 * 4, 0x10000);
	window();
	order_used = 0;
}

/* --- NMI --- */

static volatile u32 nmis, nmis_inside;

static void send_nmi(void)
{
	u32 i;

	LAPIC(0x300) = SELF | 0x400;
	for (i = 0; i < 2000; i++) /* it need not come at once */
		inb(0x61);
}

static void nmi_handler(struct regs *r)
{
	(void)r;
	nmis++;
	if (nmis == 1) {
		/* Blocked until IRET. */
		send_nmi();
		nmis_inside = nmis;
	}
}

/* The handler's IRET unblocks, though to a place in the handler itself. */
static void nmi_iret(struct regs *r)
{
	(void)r;
	nmis++;
	if (nmis == 1) {
		send_nmi();
		ASM("pushl $2; push %%cs; push $1f; iret; 1: nop" : : : "memory");
		inb(0x61);
		nmis_inside = nmis;
	}
}

static void test_nmi(void)
{
	handlers[NMI] = nmi_handler;
	nmis = 0;
	send_nmi();
	say_dec("NMIs inside the first", nmis_inside);
	say_dec("NMIs after it", nmis);
	handlers[NMI] = nmi_iret;
	nmis = 0;
	send_nmi();
	say_dec("NMIs after an inner IRET", nmis_inside);
	say_dec("in all", nmis);
	/* And unblocked in the end. */
	nmis = 5;
	send_nmi();
	say_dec("one more", nmis - 5);
}

void guest_main(void)
{
	test_masks();
	test_isr();
	test_nesting();
	test_poll();
	test_init();
	test_shadows();
	test_hlt();
	test_rep();
	test_lapic();
	test_ioapic();
	test_nmi();
}
