/*
 * NS16550A UART: eight byte ports at a base of the machine's choosing, one interrupt, one chardev.
 * Data sheet: PC16550D, National Semiconductor, sections 8.1-8.11.
 */
#ifndef RINGSHIFT_NS16550_H
#define RINGSHIFT_NS16550_H

#include "base.h"
#include "bus.h"
#include "chardev.h"
#include "irq.h"
#include "timer.h"

#define NS16550_FIFO 16

enum {
	UART_IER_RDI = 0x01,
	UART_IER_THRI = 0x02,
	UART_IER_RLSI = 0x04,
	UART_IER_MSI = 0x08,
	UART_IIR_MSI = 0x00,
	UART_IIR_NONE = 0x01,
	UART_IIR_THRI = 0x02,
	UART_IIR_RDI = 0x04,
	UART_IIR_RLSI = 0x06,
	UART_IIR_CTI = 0x0c,
	UART_IIR_FIFO = 0xc0,
	UART_FCR_ENABLE = 0x01,
	UART_FCR_CLEAR_RX = 0x02,
	UART_FCR_CLEAR_TX = 0x04,
	UART_LCR_PARITY = 0x08,
	UART_LCR_STOP = 0x04,
	UART_LCR_BREAK = 0x40,
	UART_LCR_DLAB = 0x80,
	UART_MCR_DTR = 0x01,
	UART_MCR_RTS = 0x02,
	UART_MCR_OUT1 = 0x04,
	UART_MCR_OUT2 = 0x08,
	UART_MCR_LOOP = 0x10,
	UART_LSR_DR = 0x01,
	UART_LSR_OE = 0x02,
	UART_LSR_PE = 0x04,
	UART_LSR_FE = 0x08,
	UART_LSR_BI = 0x10,
	UART_LSR_THRE = 0x20,
	UART_LSR_TEMT = 0x40,
	UART_LSR_FIFO_ERR = 0x80,
	UART_MSR_DCTS = 0x01,
	UART_MSR_DDSR = 0x02,
	UART_MSR_TERI = 0x04,
	UART_MSR_DDCD = 0x08,
	UART_MSR_CTS = 0x10,
	UART_MSR_DSR = 0x20,
	UART_MSR_RI = 0x40,
	UART_MSR_DCD = 0x80,
};

struct ns16550_config {
	u16 base; /* 0x3f8 for COM1 */
	struct irq_line irq;
	struct timerq *q;
	struct chardev *chr; /* may be NULL: nothing connected; its front end is filled in */
	struct stats *stats; /* bytes in and out; may be NULL */
};

struct ns16550 {
	struct ns16550_config cfg;
	u8 ier, lcr, mcr, scr, fcr;
	u8 lsr;       /* OE PE FE BI of the head character; the rest is computed */
	u8 msr_delta; /* low half of MSR */
	u8 lines;     /* CTS DSR RI DCD as they come in from outside */
	u16 divisor;
	bool thre_pending;    /* THR ran empty and nobody has been told yet */
	bool timeout_pending; /* characters have lain in the FIFO for four character times */
	bool starved;         /* the back end was told there is no room */
	bool rts_used;        /* RTS has been asserted since reset: the guest knows it */
	bool tx_full;         /* the back end takes no more for now */
	struct {
		u8 data[NS16550_FIFO];
		u8 err[NS16550_FIFO]; /* PE FE BI of that character */
		unsigned head, count;
	} rx;
	struct timer timeout;
};

/* All in cfg must outlive the chip. */
void ns16550_init(struct ns16550 *u, const struct ns16550_config *cfg);
/* Master reset. Lets the back end send what it has kept back. */
void ns16550_reset(struct ns16550 *u);
MUST_CHECK int ns16550_register(struct ns16550 *u, struct bus *bus);

/* A break condition arrived on the line. */
void ns16550_receive_break(struct ns16550 *u);
/* The other side changed the modem lines (UART_MSR_CTS | DSR | RI | DCD). */
void ns16550_set_modem(struct ns16550 *u, u8 lines);

#endif
