/* 16550A: registers, FIFOs, every interrupt and its priority, loopback, flow to the back end. */
#include <criterion/criterion.h>

#include "chip_rig.h"
#include "ns16550.h"

#define BASE      0x3f8
#define CHAR_NS   (10ull * 16 * 1 * NS_PER_SEC / 1843200) /* 8N1 at 115200 */
#define LSR_EMPTY (UART_LSR_THRE | UART_LSR_TEMT)

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = 0, FCR = 2 };

static struct chip_rig rig;
static struct ns16550 uart;
static struct stats counts;

static u8 in(unsigned reg)
{
	return rig_in(&rig, (u16)(BASE + reg));
}

static void out(unsigned reg, u8 val)
{
	rig_out(&rig, (u16)(BASE + reg), val);
}

static void setup(void)
{
	struct ns16550_config cfg;

	rig_init(&rig);
	cfg = (struct ns16550_config){BASE, rig_line(&rig), &rig.q, &rig.chr, &counts};
	ns16550_init(&uart, &cfg);
	cr_assert_eq(ns16550_register(&uart, &rig.bus), 0);
	out(LCR, UART_LCR_DLAB);
	out(0, 1);
	out(1, 0);
	out(LCR, 3);
}

/* Offer text as a back end does; how much was taken. */
static size_t type(const char *text)
{
	size_t len = strlen(text), done = 0, room;

	while (done < len && (room = rig.chr.can_receive(rig.chr.dev))) {
		room = MIN(room, len - done);
		rig.chr.receive(rig.chr.dev, (const u8 *)text + done, room);
		done += room;
	}
	return done;
}

TestSuite(ns16550, .init = setup);

Test(ns16550, reset_state)
{
	ns16550_reset(&uart);
	cr_expect_eq(in(IER), 0);
	cr_expect_eq(in(IIR), UART_IIR_NONE);
	cr_expect_eq(in(LCR), 0);
	cr_expect_eq(in(MCR), 0);
	cr_expect_eq(in(LSR), LSR_EMPTY);
	cr_expect_eq(in(MSR), UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD);
	cr_expect_eq(rig.level, 0);
}

Test(ns16550, register_masks)
{
	out(IER, 0xff);
	cr_expect_eq(in(IER), 0x0f);
	out(IER, 0);
	out(MCR, 0xef);
	cr_expect_eq(in(MCR), 0x0f);
	out(MCR, 0);
	out(SCR, 0xa5);
	cr_expect_eq(in(SCR), 0xa5);
	out(LCR, UART_LCR_DLAB | 3);
	out(0, 0x34);
	out(1, 0x12);
	cr_expect_eq(in(0), 0x34);
	cr_expect_eq(in(1), 0x12);
	out(LCR, 3);
	cr_expect_eq(in(IER), 0, "DLM is not IER");
	out(LSR, 0xff);
	out(MSR, 0xff);
	cr_expect_eq(in(LSR), LSR_EMPTY);
}

/* The steps of a PC driver that tells 8250, 16450, 16550 and 16550A apart. */
Test(ns16550, is_found_to_be_a_16550a)
{
	out(IER, 0);
	cr_expect_eq(in(IER)&0x0f, 0);
	out(IER, 0x0f);
	cr_expect_eq(in(IER)&0x0f, 0x0f);
	out(IER, 0);
	out(MCR, UART_MCR_LOOP | 0x0a);
	cr_expect_eq(in(MSR)&0xf0, 0x90);
	out(MCR, 0);
	out(FCR, UART_FCR_ENABLE);
	cr_expect_eq(in(IIR) >> 6, 3);
	out(LCR, 0xbf);
	cr_expect_neq(in(2), 0, "no extended feature register");
	out(LCR, 0xe0);
	out(MCR, UART_MCR_LOOP);
	cr_expect_eq(in(2) & UART_MCR_LOOP, 0, "no second bank");
	out(MCR, 0);
	out(LCR, 0);
	out(IER, 0x40);
	cr_expect_eq(in(IER)&0x40, 0, "no XScale unit enable");
	out(FCR, 0);
	cr_expect_eq(in(IIR) >> 6, 0);
}

Test(ns16550, transmits)
{
	static const char text[] = "hello";

	for (const char *p = text; *p; p++) {
		cr_expect(in(LSR)&UART_LSR_THRE);
		out(THR, (u8)*p);
	}
	cr_expect_eq(rig.sent_len, 5);
	cr_expect_eq(memcmp(rig.sent, text, 5), 0);
}

Test(ns16550, nothing_connected)
{
	struct ns16550_config cfg = {0x2f8, {0}, &rig.q, NULL, &counts};
	struct ns16550 bare;

	ns16550_init(&bare, &cfg);
	cr_assert_eq(ns16550_register(&bare, &rig.bus), 0);
	rig_out(&rig, 0x2f8, 'x');
	cr_expect_eq(rig_in(&rig, 0x2f8 + LSR), LSR_EMPTY);
	cr_expect_eq(rig_in(&rig, 0x2f8 + MSR), 0);
	cr_expect_eq(ns16550_register(&bare, &rig.bus) < 0, 1, "ports taken");
}

Test(ns16550, thre_interrupt)
{
	out(IER, UART_IER_THRI);
	cr_expect_eq(rig.level, 1, "enabling it with THR empty raises it");
	cr_expect_eq(in(IIR), UART_IIR_THRI);
	cr_expect_eq(rig.level, 0, "reading IIR takes it back");
	cr_expect_eq(in(IIR), UART_IIR_NONE);
	out(IER, UART_IER_THRI);
	cr_expect_eq(rig.level, 0, "no change, no interrupt");
	out(IER, 0);
	out(IER, UART_IER_THRI);
	cr_expect_eq(in(IIR), UART_IIR_THRI, "off and on raises it again");
	out(THR, 'a');
	cr_expect_eq(rig.level, 1);
	unsigned edges = rig.edges;
	out(THR, 'b');
	cr_expect_eq(rig.edges, edges + 1, "each write makes an edge");
	cr_expect_eq(in(IIR), UART_IIR_THRI);
	cr_expect_eq(in(IIR), UART_IIR_NONE);
}

Test(ns16550, iir_read_clears_only_what_it_reports)
{
	out(IER, UART_IER_THRI | UART_IER_RDI);
	type("x");
	cr_expect_eq(in(IIR), UART_IIR_RDI);
	cr_expect_eq(in(IIR), UART_IIR_RDI);
	cr_expect_eq(in(RBR), 'x');
	cr_expect_eq(in(IIR), UART_IIR_THRI, "still pending underneath");
	cr_expect_eq(in(IIR), UART_IIR_NONE);
}

Test(ns16550, receives_one_without_fifo)
{
	cr_expect_eq(type("ab"), 1);
	cr_expect_eq(rig.level, 0, "not enabled");
	out(IER, UART_IER_RDI);
	cr_expect_eq(rig.level, 1);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR);
	cr_expect_eq(rig.rooms, 0);
	cr_expect_eq(in(RBR), 'a');
	cr_expect_eq(rig.rooms, 1, "the refused back end is called");
	cr_expect_eq(in(LSR), LSR_EMPTY);
	cr_expect_eq(rig.level, 0);
	(void)in(RBR);
	cr_expect_eq(rig.rooms, 1);
}

Test(ns16550, fifo_trigger_levels)
{
	static const u8 level[] = {1, 4, 8, 14};

	for (unsigned i = 0; i < 4; i++) {
		out(FCR, (u8)(i << 6 | UART_FCR_CLEAR_RX | UART_FCR_ENABLE));
		out(IER, UART_IER_RDI);
		for (unsigned n = 1; n <= 16; n++) {
			cr_expect_eq(type("x"), 1);
			cr_expect_eq(rig.level, n >= level[i], "level %u at %u", level[i], n);
		}
		cr_expect_eq(type("x"), 0, "full");
		cr_expect_eq(in(IIR), UART_IIR_FIFO | UART_IIR_RDI);
		for (unsigned n = 15; n + 1 > 0; n--) {
			(void)in(RBR);
			cr_expect_eq(rig.level, n >= level[i], "level %u at %u", level[i], n);
		}
	}
}

Test(ns16550, fifo_order)
{
	static const char text[] = "abcdefghijklmnopqrstuvwxyz";

	out(FCR, UART_FCR_ENABLE);
	for (unsigned round = 0; round < 3; round++) {
		cr_expect_eq(type(text), 16);
		for (unsigned i = 0; i < 16; i++)
			cr_expect_eq(in(RBR), text[i]);
		cr_expect_eq(in(LSR)&UART_LSR_DR, 0);
		type("12345"); /* move the head */
		for (unsigned i = 0; i < 5; i++)
			(void)in(RBR);
	}
}

Test(ns16550, character_timeout)
{
	out(FCR, 0x80 | UART_FCR_ENABLE);
	out(IER, UART_IER_RDI);
	type("ab");
	cr_expect_eq(rig.level, 0);
	rig_pass(&rig, 4 * CHAR_NS - 2000);
	cr_expect_eq(rig.level, 0);
	type("c");
	rig_pass(&rig, 4 * CHAR_NS - 2000);
	cr_expect_eq(rig.level, 0, "each character starts it anew");
	rig_pass(&rig, 4000);
	cr_expect_eq(rig.level, 1);
	cr_expect_eq(in(IIR), UART_IIR_FIFO | UART_IIR_CTI);
	cr_expect_eq(in(RBR), 'a');
	cr_expect_eq(rig.level, 0, "a read takes it back");
	rig_pass(&rig, 5 * CHAR_NS);
	cr_expect_eq(rig.level, 1, "and starts it anew");
	(void)in(RBR);
	(void)in(RBR);
	rig_pass(&rig, 100 * CHAR_NS);
	cr_expect_eq(rig.level, 0, "empty: never");
}

Test(ns16550, no_character_timeout_without_fifo)
{
	type("a");
	out(FCR, UART_FCR_ENABLE);
	out(FCR, 0);
	type("a");
	cr_expect_eq(timerq_next(&rig.q), TIMER_NEVER);
}

Test(ns16550, slow_line_with_divisor_zero)
{
	out(LCR, UART_LCR_DLAB | 0x1f);
	out(0, 0);
	out(1, 0);
	out(LCR, 0x1f);
	out(FCR, 0xc0 | UART_FCR_ENABLE);
	out(IER, UART_IER_RDI);
	type("a");
	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(rig.level, 1);
}

Test(ns16550, fifo_clear_and_toggle)
{
	out(FCR, UART_FCR_ENABLE);
	type("abc");
	out(FCR, 0x02); /* bit 0 clear: leaves FIFO mode, which clears too */
	cr_expect_eq(in(LSR)&UART_LSR_DR, 0);
	cr_expect_eq(in(IIR), UART_IIR_NONE);
	type("a");
	out(FCR, UART_FCR_ENABLE);
	cr_expect_eq(in(LSR)&UART_LSR_DR, 0);
	type("abcdefghijklmnopqrs");
	rig.rooms = 0;
	out(FCR, UART_FCR_ENABLE | UART_FCR_CLEAR_RX);
	cr_expect_eq(rig.rooms, 1);
	cr_expect_eq(in(LSR)&UART_LSR_DR, 0);
	cr_expect_eq(in(RBR), 0);
}

/* A back end that hands over more from inside room(). */
static void pushy_room(struct chardev *c)
{
	static const u8 more[] = "MORE";

	cr_assert_geq(c->can_receive(c->dev), 4);
	c->receive(c->dev, more, 4);
}

Test(ns16550, room_may_deliver_at_once)
{
	out(FCR, UART_FCR_ENABLE);
	out(IER, UART_IER_RDI);
	cr_expect_eq(type("0123456789abcdefX"), 16);
	rig.chr.room = pushy_room;
	for (unsigned i = 0; i < 16; i++)
		(void)in(RBR);
	cr_expect_eq(rig.level, 1);
	cr_expect_eq(in(RBR), 'M');
	cr_expect_eq(in(RBR), 'O');
}

Test(ns16550, loopback_data)
{
	out(MCR, UART_MCR_LOOP);
	out(FCR, UART_FCR_ENABLE);
	cr_expect_eq(type("outside"), 0, "the line is cut");
	for (u8 i = 0; i < 16; i++)
		out(THR, i);
	cr_expect_eq(rig.sent_len, 0);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR);
	out(THR, 99);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR | UART_LSR_OE);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR, "read clears");
	for (u8 i = 0; i < 16; i++)
		cr_expect_eq(in(RBR), i);
	cr_expect_eq(in(LSR), LSR_EMPTY, "the overrun character is lost");
	cr_expect_eq(rig.rooms, 0);
	out(MCR, 0);
	cr_expect_eq(rig.rooms, 1, "the line is back");
}

Test(ns16550, overrun_without_fifo_keeps_the_last)
{
	out(MCR, UART_MCR_LOOP);
	out(IER, UART_IER_RLSI | UART_IER_RDI);
	out(THR, 'a');
	cr_expect_eq(in(IIR), UART_IIR_RDI);
	out(THR, 'b');
	cr_expect_eq(in(IIR), UART_IIR_RLSI, "line status comes first");
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR | UART_LSR_OE);
	cr_expect_eq(in(IIR), UART_IIR_RDI);
	cr_expect_eq(in(RBR), 'b');
}

Test(ns16550, loopback_modem)
{
	static const u8 pair[][2] = {{UART_MCR_DTR, UART_MSR_DSR},
				     {UART_MCR_RTS, UART_MSR_CTS},
				     {UART_MCR_OUT1, UART_MSR_RI},
				     {UART_MCR_OUT2, UART_MSR_DCD}};

	for (unsigned i = 0; i < ARRAY_LEN(pair); i++) {
		out(MCR, UART_MCR_LOOP | pair[i][0]);
		cr_expect_eq(in(MSR)&0xf0, pair[i][1]);
	}
}

Test(ns16550, modem_deltas)
{
	ns16550_set_modem(&uart, 0);
	cr_expect_eq(in(MSR), UART_MSR_DCTS | UART_MSR_DDSR | UART_MSR_DDCD);
	cr_expect_eq(in(MSR), 0);
	ns16550_set_modem(&uart, UART_MSR_RI);
	cr_expect_eq(in(MSR), UART_MSR_RI, "no delta when RI begins");
	out(IER, UART_IER_MSI);
	cr_expect_eq(rig.level, 0);
	ns16550_set_modem(&uart, UART_MSR_CTS);
	cr_expect_eq(rig.level, 1);
	cr_expect_eq(in(IIR), UART_IIR_MSI);
	cr_expect_eq(in(MSR), UART_MSR_CTS | UART_MSR_DCTS | UART_MSR_TERI);
	cr_expect_eq(rig.level, 0);
}

Test(ns16550, break_comes_with_its_character)
{
	out(FCR, UART_FCR_ENABLE);
	out(IER, UART_IER_RLSI);
	type("a");
	ns16550_receive_break(&uart);
	type("b");
	cr_expect_eq(rig.level, 0, "not yet at the head");
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR | UART_LSR_FIFO_ERR);
	cr_expect_eq(in(RBR), 'a');
	cr_expect_eq(rig.level, 1);
	cr_expect_eq(in(IIR), UART_IIR_FIFO | UART_IIR_RLSI);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR | UART_LSR_BI | UART_LSR_FIFO_ERR);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(in(RBR), 0);
	cr_expect_eq(in(RBR), 'b');
	cr_expect_eq(in(LSR), LSR_EMPTY);
}

Test(ns16550, break_in_loopback)
{
	out(MCR, UART_MCR_LOOP);
	out(LCR, UART_LCR_BREAK | 3);
	out(LCR, UART_LCR_BREAK | 3);
	cr_expect_eq(in(LSR), LSR_EMPTY | UART_LSR_DR | UART_LSR_BI);
	cr_expect_eq(in(RBR), 0);
	cr_expect_eq(in(LSR), LSR_EMPTY, "one break, not two");
}

Test(ns16550, reset_drops_the_line)
{
	out(FCR, UART_FCR_ENABLE);
	out(IER, 0x0f);
	type("abc");
	cr_expect_eq(rig.level, 1);
	ns16550_reset(&uart);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(in(LSR), LSR_EMPTY);
	cr_expect_eq(timerq_next(&rig.q), TIMER_NEVER);
}

Test(ns16550, bytes_are_counted)
{
	setup();
	out(LCR, 3);
	out(0, 'x');
	rig.chr.receive(rig.chr.dev, (const u8 *)"yz", 2);
	cr_assert_eq(counts.n[STAT_serial_tx], 1);
	cr_assert_eq(counts.n[STAT_serial_rx], 2);
}

static size_t writable_bytes;
static size_t limited(struct chardev *c)
{
	(void)c;
	return writable_bytes;
}

Test(ns16550, a_full_back_end_holds_the_driver_back)
{
	rig.chr.can_write = limited;
	writable_bytes = 100;
	out(IER, UART_IER_THRI);
	cr_assert_eq(in(IIR), UART_IIR_THRI);
	out(THR, 'a');
	cr_assert_eq(in(LSR), LSR_EMPTY);
	cr_assert_eq(in(IIR), UART_IIR_THRI);
	writable_bytes = 0;
	out(THR, 'b');
	cr_assert_eq(in(LSR), 0, "taken, but no more");
	cr_assert_eq(in(IIR), UART_IIR_NONE);
	cr_assert_eq(rig.level, 0);
	out(IER, 0);
	out(IER, UART_IER_THRI);
	cr_assert_eq(in(IIR), UART_IIR_NONE, "THR is not empty");
	out(THR, 'c'); /* the rest of a FIFO's worth */
	cr_assert_eq(rig.sent_len, 3);
	writable_bytes = 1;
	rig.chr.writable(rig.chr.dev);
	cr_assert_eq(rig.level, 1);
	cr_assert_eq(in(LSR), LSR_EMPTY);
	cr_assert_eq(in(IIR), UART_IIR_THRI);
	cr_assert_eq(counts.n[STAT_serial_tx_stalls], 2);
	rig.chr.writable(rig.chr.dev);
	cr_assert_eq(in(IIR), UART_IIR_NONE, "nothing has changed");
}

static int rooms;
static void count_room(struct chardev *c)
{
	(void)c;
	rooms++;
}

Test(ns16550, rts_holds_the_other_side)
{
	rig.chr.room = count_room;
	out(FCR, UART_FCR_ENABLE);
	cr_assert_eq(type("a"), 1, "a guest that knows nothing of RTS");
	out(MCR, UART_MCR_DTR);
	cr_assert_eq(type("b"), 1);
	out(MCR, UART_MCR_DTR | UART_MCR_RTS);
	cr_assert_eq(type("c"), 1);
	out(MCR, UART_MCR_DTR);
	cr_assert_eq(type("d"), 0, "held");
	cr_assert_eq(in(RBR), 'a');
	cr_assert_eq(in(RBR), 'b');
	cr_assert_eq(in(RBR), 'c');
	cr_assert_eq(rooms, 0);
	out(MCR, UART_MCR_DTR | UART_MCR_RTS);
	cr_assert_eq(rooms, 1);
	cr_assert_eq(type("d"), 1);
	out(MCR, 0);
	cr_assert_eq(type("e"), 1, "closed: what comes is lost later, as it always was");
}
