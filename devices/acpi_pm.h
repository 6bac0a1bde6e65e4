/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0 block, SCI; and the two reset
 * registers of a PC, 0xcf9 and 0x92. Reference: ACPI specification 5.0, chapter 4.8.
 */
#ifndef RINGSHIFT_ACPI_PM_H
#define RINGSHIFT_ACPI_PM_H

#include "base.h"
#include "bus.h"
#include "irq.h"
#include "timer.h"

/* Where things are, and what the FADT says of them. 0x604 and sleep type 0 for S5 are QEMU's: a
 * guest that writes 0x2000 to port 0x604 to power off does so here too. */
#define ACPI_PM1_EVT_PORT 0x600
#define ACPI_PM1_EVT_LEN  4
#define ACPI_PM1_CNT_PORT 0x604
#define ACPI_PM1_CNT_LEN  2
#define ACPI_PM_TMR_PORT  0x608
#define ACPI_PM_TMR_LEN   4
#define ACPI_GPE0_PORT    0x620
#define ACPI_GPE0_LEN     16
#define ACPI_RESET_PORT   0xcf9
#define ACPI_RESET_VALUE  0x0e
#define ACPI_SCI_IRQ      9
#define ACPI_SLP_TYP_S5   0 /* as \_S5 in dsdt.asl */
#define ACPI_PM_TMR_HZ    3579545
#define ACPI_PM_TMR_BITS  24

enum {
	ACPI_PM1_TMR = 0x0001,
	ACPI_PM1_BM = 0x0010,
	ACPI_PM1_GBL = 0x0020,
	ACPI_PM1_PWRBTN = 0x0100,
	ACPI_PM1_RTC = 0x0400, /* enable bit only: there is no sleep to wake from */
	ACPI_PM1_WAK = 0x8000, /* status only */
	ACPI_CNT_SCI_EN = 0x0001,
	ACPI_CNT_SLP_TYP_SHIFT = 10,
	ACPI_CNT_SLP_EN = 0x2000,
};

struct acpi_pm_config {
	struct timerq *q;
	struct irq_line sci; /* level, IRQ 9 */
	void (*power_off)(void *opaque);
	void (*reset)(void *opaque);
	void *opaque;
	/* A PCI host bridge answers at 0xcf8..0xcff and passes bytes at 0xcf9 to
	 * acpi_pm_read_reset and acpi_pm_write_reset. False: this chip claims 0xcf8..0xcfb. */
	bool pci_has_cf9;
};

struct acpi_pm {
	struct acpi_pm_config cfg;
	u16 pm1_sts, pm1_en, pm1_cnt;
	u8 gpe_sts[ACPI_GPE0_LEN / 2], gpe_en[ACPI_GPE0_LEN / 2];
	u8 reset_control; /* 0xcf9 */
	u8 port92;
	u64 last_carry; /* up to which TMR_STS is settled: changes of the timer's top bit */
	struct timer carry;
};

void acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *cfg);
void acpi_pm_reset(struct acpi_pm *pm);
MUST_CHECK int acpi_pm_register(struct acpi_pm *pm, struct bus *bus);

/* Somebody pressed the power button: the guest is told, if it listens. Device lock held. */
void acpi_pm_power_button(struct acpi_pm *pm);
/* Raise general-purpose event n (below 8 * ACPI_GPE0_LEN / 2). Device lock held. */
void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n);

u8 acpi_pm_read_reset(struct acpi_pm *pm);
void acpi_pm_write_reset(struct acpi_pm *pm, u8 val);

#endif
