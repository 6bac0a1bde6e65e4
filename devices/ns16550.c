/*
 * NS16550A UART.
 *
 * Transmission takes no time: a byte written to THR is with the chardev before the write returns,
 * so THRE and TEMT are set, unless the chardev takes no more for now: then they are clear until it
 * does, and a driver waits as for a slow line. What is written all the same goes to the chardev,
 * too, which knows best what to do with it. The THRE *interrupt* is still an event: it becomes
 * pending when THR runs empty, or when IER bit 1 goes from 0 to 1 (Linux tests for exactly that),
 * and is taken back by a read of IIR that reports it or by the next write to THR. The line drops
 * for a moment at each THR write, so that an edge-triggered PIC sees the next one.
 *
 * Reception is as fast as the chardev delivers, into one character without FIFOs and sixteen with
 * them. The chardev is told how much room there is, so that overruns come only from a loopback
 * the guest overfills or a break that finds the FIFO full. It is told of new room when the last
 * character has been read: a burst costs the guest one interrupt, not sixteen. RTS taken back by a
 * guest that has asserted it, with DTR, holds the chardev back, too (hardware flow control).
 *
 * PE, FE and BI travel with their character and appear in LSR when it is at the head of the FIFO
 * (PC16550D, 8.4). In loopback the chardev is cut off in both directions.
 *
 * Nothing is lost for a guest that never sets the word length: all eight bits always pass. OUT2 is
 * a bit that can be read back; on PCs it gates the interrupt, but not every guest sets it.
 */
#include <string.h>

#include "ns16550.h"
#include "byteport.h"

#define UART_CLOCK      1843200u
#define DEFAULT_DIVISOR 12 /* 9600 baud */
#define IER_MASK        0x0f
#define MCR_MASK        0x1f
#define LSR_ERRORS      (UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI)

static bool uart_fifo_on(const struct ns16550 *u)
{
	return u->fcr & UART_FCR_ENABLE;
}

static unsigned uart_depth(const struct ns16550 *u)
{
	return uart_fifo_on(u) ? NS16550_FIFO : 1;
}

static unsigned uart_trigger(const struct ns16550 *u)
{
	static const u8 level[4] = {1, 4, 8, 14};

	return uart_fifo_on(u) ? level[u->fcr >> 6] : 1;
}

/* The interrupt to report, by priority (8.7, table IV). */
static u8 uart_iir(const struct ns16550 *u)
{
	if ((u->ier & UART_IER_RLSI) && (u->lsr & LSR_ERRORS))
		return UART_IIR_RLSI;
	if ((u->ier & UART_IER_RDI) && u->rx.count >= uart_trigger(u))
		return UART_IIR_RDI;
	if ((u->ier & UART_IER_RDI) && u->timeout_pending)
		return UART_IIR_CTI;
	if ((u->ier & UART_IER_THRI) && u->thre_pending)
		return UART_IIR_THRI;
	if ((u->ier & UART_IER_MSI) && u->msr_delta)
		return UART_IIR_MSI;
	return UART_IIR_NONE;
}

static void uart_update_irq(struct ns16550 *u)
{
	irq_set(&u->cfg.irq, uart_iir(u) != UART_IIR_NONE);
}

/* ---- receiver ---- */

/* Four character times from now (8.8.4: from the last character in or out). */
static void uart_restart_timeout(struct ns16550 *u)
{
	unsigned bits = 1 + 5 + (u->lcr & 3) + 1;
	u64 divisor = u->divisor ? u->divisor : 1;

	u->timeout_pending = false;
	if (!uart_fifo_on(u) || !u->rx.count) {
		timer_cancel(&u->timeout);
		return;
	}
	bits += !!(u->lcr & UART_LCR_PARITY) + !!(u->lcr & UART_LCR_STOP);
	timer_arm(&u->timeout,
		  timerq_now(u->cfg.q) + muldiv64(4 * bits * 16 * divisor, NS_PER_SEC, UART_CLOCK));
}

static void uart_timeout(void *opaque)
{
	struct ns16550 *u = opaque;

	u->timeout_pending = u->rx.count > 0;
	uart_update_irq(u);
}

static void uart_clear_rx(struct ns16550 *u)
{
	u->rx.head = 0;
	u->rx.count = 0;
	uart_restart_timeout(u);
}

static void uart_count(struct ns16550 *u, enum stat_id stat)
{
	if (u->cfg.stats)
		u->cfg.stats->n[stat]++;
}

static void uart_push(struct ns16550 *u, u8 data, u8 err)
{
	unsigned depth = uart_depth(u), at;

	if (u->rx.count == depth) {
		u->lsr |= UART_LSR_OE;
		if (uart_fifo_on(u))
			return; /* lost in the shift register; the FIFO stays (8.4, bit 1) */
		u->rx.count = 0;
	}
	at = (u->rx.head + u->rx.count) % NS16550_FIFO;
	u->rx.data[at] = data;
	u->rx.err[at] = err;
	if (!u->rx.count++)
		u->lsr |= err;
	uart_count(u, STAT_serial_rx);
	uart_restart_timeout(u);
}

/* Errors already shown in LSR stay there until LSR is read (8.4). */
static u8 uart_pop(struct ns16550 *u)
{
	u8 data = u->rx.data[u->rx.head];

	if (!u->rx.count)
		return 0; /* undefined */
	if (uart_fifo_on(u))
		u->rx.head = (u->rx.head + 1) % NS16550_FIFO;
	if (--u->rx.count)
		u->lsr |= u->rx.err[u->rx.head];
	uart_restart_timeout(u);
	return data;
}

static void uart_receive_one(struct ns16550 *u, u8 data, u8 err)
{
	uart_push(u, data, err);
	uart_update_irq(u);
}

/* A guest that has the line (DTR) and had RTS asserted has taken it back: it is busy. */
static bool uart_rx_held(const struct ns16550 *u)
{
	return u->rts_used && (u->mcr & (UART_MCR_DTR | UART_MCR_RTS)) == UART_MCR_DTR;
}

/* Ask for more if more was refused. The back end may call straight back into uart_receive: nothing
 * of the chip may be half done. */
static void uart_offer_room(struct ns16550 *u)
{
	struct chardev *c = u->cfg.chr;

	if (!u->starved || u->rx.count || (u->mcr & UART_MCR_LOOP) || uart_rx_held(u))
		return;
	u->starved = false;
	if (c && c->room)
		c->room(c);
}

static void uart_event(void *dev, enum chardev_event event)
{
	if (event == CHARDEV_BREAK)
		ns16550_receive_break(dev);
}

static size_t uart_can_receive(void *dev)
{
	struct ns16550 *u = dev;
	bool closed = (u->mcr & UART_MCR_LOOP) || uart_rx_held(u);
	size_t room = closed ? 0 : uart_depth(u) - u->rx.count;

	if (!room)
		u->starved = true;
	return room;
}

static void uart_receive(void *dev, const u8 *buf, size_t len)
{
	struct ns16550 *u = dev;

	for (size_t i = 0; i < len; i++)
		uart_push(u, buf[i], 0);
	uart_update_irq(u);
}

void ns16550_receive_break(struct ns16550 *u)
{
	if (!(u->mcr & UART_MCR_LOOP))
		uart_receive_one(u, 0, UART_LSR_BI);
}

/* ---- modem lines ---- */

/* High half of MSR: the outside's lines, or in loopback our own outputs (8.6, bit 4). */
static u8 uart_modem(const struct ns16550 *u)
{
	u8 mcr = u->mcr;

	if (!(mcr & UART_MCR_LOOP))
		return u->lines;
	return (
	    u8)((mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) | (mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
		(mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) | (mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0));
}

/* The lines may have changed from what they were. TERI is the trailing edge of RI only. */
static void uart_note_modem(struct ns16550 *u, u8 was)
{
	u8 now = uart_modem(u), changed = was ^ now;

	if (now & UART_MSR_RI)
		changed &= (u8)~UART_MSR_RI;
	u->msr_delta |= changed >> 4;
	uart_update_irq(u);
}

void ns16550_set_modem(struct ns16550 *u, u8 lines)
{
	u8 was = uart_modem(u);

	u->lines = lines & 0xf0;
	uart_note_modem(u, was);
}

static void uart_write_mcr(struct ns16550 *u, u8 val)
{
	u8 was = uart_modem(u);

	u->mcr = val & MCR_MASK;
	u->rts_used |= (val & (UART_MCR_RTS | UART_MCR_LOOP)) == UART_MCR_RTS;
	uart_note_modem(u, was);
	uart_offer_room(u);
}

/* ---- registers ---- */

static void uart_write_thr(struct ns16550 *u, u8 val)
{
	u->thre_pending = false;
	uart_update_irq(u);
	uart_count(u, STAT_serial_tx);
	if (u->mcr & UART_MCR_LOOP) {
		uart_push(u, val, 0);
	} else {
		chardev_write(u->cfg.chr, &val, 1);
		u->tx_full = !chardev_can_write(u->cfg.chr);
	}
	if (u->tx_full)
		uart_count(u, STAT_serial_tx_stalls);
	u->thre_pending = !u->tx_full;
	uart_update_irq(u);
}

/* The back end takes more again. */
static void uart_writable(void *dev)
{
	struct ns16550 *u = dev;

	if (!u->tx_full)
		return;
	u->tx_full = false;
	u->thre_pending = true;
	uart_update_irq(u);
}

static void uart_write_ier(struct ns16550 *u, u8 val)
{
	u8 changed = (u->ier ^ val) & IER_MASK;

	u->ier = val & IER_MASK;
	if (changed & UART_IER_THRI)
		u->thre_pending = (u->ier & UART_IER_THRI) && !u->tx_full;
	uart_update_irq(u);
}

static void uart_write_fcr(struct ns16550 *u, u8 val)
{
	bool toggled = (u->fcr ^ val) & UART_FCR_ENABLE;

	if (toggled || (val & UART_FCR_CLEAR_RX)) {
		u->lsr &= UART_LSR_OE;
		u->fcr = val & UART_FCR_ENABLE;
		uart_clear_rx(u);
	}
	/* Without bit 0 the others are not programmed (8.5). */
	u->fcr = val & UART_FCR_ENABLE ? val & (UART_IIR_FIFO | UART_FCR_ENABLE) : 0;
	uart_update_irq(u);
	uart_offer_room(u);
}

static void uart_write_lcr(struct ns16550 *u, u8 val)
{
	bool break_begins = (val & ~u->lcr) & UART_LCR_BREAK;

	u->lcr = val;
	if (break_begins && (u->mcr & UART_MCR_LOOP))
		uart_receive_one(u, 0, UART_LSR_BI);
}

static u8 uart_read_rbr(struct ns16550 *u)
{
	u8 val = uart_pop(u);

	uart_update_irq(u);
	uart_offer_room(u);
	return val;
}

static u8 uart_read_iir(struct ns16550 *u)
{
	u8 val = uart_iir(u);

	if (val == UART_IIR_THRI) {
		u->thre_pending = false;
		uart_update_irq(u);
	}
	return uart_fifo_on(u) ? val | UART_IIR_FIFO : val;
}

static bool uart_fifo_has_error(const struct ns16550 *u)
{
	if (!uart_fifo_on(u))
		return false;
	for (unsigned i = 0; i < u->rx.count; i++) {
		if (u->rx.err[(u->rx.head + i) % NS16550_FIFO])
			return true;
	}
	return false;
}

static u8 uart_read_lsr(struct ns16550 *u)
{
	u8 val = u->lsr;

	if (!u->tx_full)
		val |= UART_LSR_THRE | UART_LSR_TEMT;
	if (u->rx.count)
		val |= UART_LSR_DR;
	if (uart_fifo_has_error(u))
		val |= UART_LSR_FIFO_ERR;
	u->lsr = 0;
	u->rx.err[u->rx.head] = 0;
	uart_update_irq(u);
	return val;
}

static u8 uart_read_msr(struct ns16550 *u)
{
	u8 val = uart_modem(u) | u->msr_delta;

	u->msr_delta = 0;
	uart_update_irq(u);
	return val;
}

static u8 uart_read_byte(void *dev, u64 offset)
{
	struct ns16550 *u = dev;
	bool dlab = u->lcr & UART_LCR_DLAB;

	switch (offset) {
	case 0: return dlab ? (u8)u->divisor : uart_read_rbr(u);
	case 1: return dlab ? (u8)(u->divisor >> 8) : u->ier;
	case 2: return uart_read_iir(u);
	case 3: return u->lcr;
	case 4: return u->mcr;
	case 5: return uart_read_lsr(u);
	case 6: return uart_read_msr(u);
	default: return u->scr;
	}
}

static void uart_write_byte(void *dev, u64 offset, u8 val)
{
	struct ns16550 *u = dev;
	bool dlab = u->lcr & UART_LCR_DLAB;

	switch (offset) {
	case 0:
		if (dlab)
			u->divisor = (u16)((u->divisor & 0xff00) | val);
		else
			uart_write_thr(u, val);
		break;
	case 1:
		if (dlab)
			u->divisor = (u16)((u->divisor & 0xff) | val << 8);
		else
			uart_write_ier(u, val);
		break;
	case 2: uart_write_fcr(u, val); break;
	case 3: uart_write_lcr(u, val); break;
	case 4: uart_write_mcr(u, val); break;
	case 7: u->scr = val; break;
	default: break; /* LSR and MSR: writing is for factory tests */
	}
}

static u64 uart_read(void *dev, u64 offset, unsigned size)
{
	return byteport_read(uart_read_byte, dev, offset, size);
}

static void uart_write(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(uart_write_byte, dev, offset, size, val);
}

static const struct bus_range uart_ranges[] = {
    {BUS_PORT, 0, 8, uart_read, uart_write, "ns16550"},
};

void ns16550_init(struct ns16550 *u, const struct ns16550_config *cfg)
{
	memset(u, 0, sizeof(*u));
	u->cfg = *cfg;
	/* A console is a peer that is there and ready. */
	if (cfg->chr)
		u->lines = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	u->divisor = DEFAULT_DIVISOR;
	timer_init(&u->timeout, cfg->q, uart_timeout, u);
	if (cfg->chr) {
		cfg->chr->can_receive = uart_can_receive;
		cfg->chr->receive = uart_receive;
		cfg->chr->writable = uart_writable;
		cfg->chr->event = uart_event;
		cfg->chr->dev = u;
	}
}

void ns16550_reset(struct ns16550 *u)
{
	u->ier = u->lcr = u->mcr = u->fcr = u->scr = 0;
	u->lsr = u->msr_delta = 0;
	u->divisor = DEFAULT_DIVISOR;
	u->thre_pending = u->rts_used = false;
	uart_clear_rx(u);
	uart_update_irq(u);
	uart_offer_room(u);
}

int ns16550_register(struct ns16550 *u, struct bus *bus)
{
	struct bus_range r = uart_ranges[0];

	r.base = u->cfg.base;
	return bus_add(bus, &r, 1, u);
}
