/*
 * ACPI fixed hardware and the PC's reset registers.
 *
 * There is no SMI and no legacy mode: FADT.SMI_CMD is 0 and SCI_EN reads as 1, always. The PM timer
 * has 24 bits, the width every driver understands; its status bit is settled lazily, and a host
 * timer runs only while TMR_EN asks for the interrupt. Of the sleep states only S5 exists; SLP_EN
 * with another type does nothing.
 */
#include <string.h>

#include "acpi_pm.h"
#include "byteport.h"

#define PM1_STS_BITS (ACPI_PM1_TMR | ACPI_PM1_BM | ACPI_PM1_GBL | ACPI_PM1_PWRBTN | ACPI_PM1_WAK)
#define PM1_EN_BITS  (ACPI_PM1_TMR | ACPI_PM1_GBL | ACPI_PM1_PWRBTN | ACPI_PM1_RTC)
#define PM1_CNT_BITS 0x1c06 /* BM_RLD, GBL_RLS, SLP_TYP; SCI_EN is wired */
#define CARRY_TICKS  (1ull << (ACPI_PM_TMR_BITS - 1))
#define GPE_BYTES    (ACPI_GPE0_LEN / 2)
#define RESET_CPU    0x04 /* 0xcf9: the act; the other bits say how thoroughly */
#define RESET_BITS   0x0a
#define PORT92_RESET 0x01
#define PORT92_A20   0x02

/* ---- timer and SCI ---- */

static u64 pm_ticks(const struct acpi_pm *pm)
{
	return muldiv64(timerq_now(pm->cfg.q), ACPI_PM_TMR_HZ, NS_PER_SEC);
}

static bool pm_gpe_active(const struct acpi_pm *pm)
{
	for (unsigned i = 0; i < GPE_BYTES; i++) {
		if (pm->gpe_sts[i] & pm->gpe_en[i])
			return true;
	}
	return false;
}

/* Settle TMR_STS, drive the SCI, arm the timer if the guest waits for the next carry. */
static void pm_update(struct acpi_pm *pm)
{
	u64 carry = pm_ticks(pm) / CARRY_TICKS;

	if (carry != pm->last_carry) {
		pm->last_carry = carry;
		pm->pm1_sts |= ACPI_PM1_TMR;
	}
	irq_set(&pm->cfg.sci, (pm->pm1_sts & pm->pm1_en & PM1_EN_BITS) || pm_gpe_active(pm));
	/* Rounded up, so that the carry has happened when the timer fires. */
	if (pm->pm1_en & ~pm->pm1_sts & ACPI_PM1_TMR)
		timer_arm(&pm->carry,
			  muldiv64((carry + 1) * CARRY_TICKS, NS_PER_SEC, ACPI_PM_TMR_HZ) + 1);
	else
		timer_cancel(&pm->carry);
}

static void pm_carry(void *opaque)
{
	pm_update(opaque);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pm->pm1_sts |= ACPI_PM1_PWRBTN;
	pm_update(pm);
}

void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n)
{
	BUG_ON(n >= 8 * GPE_BYTES);
	pm->gpe_sts[n / 8] |= (u8)BIT(n % 8);
	pm_update(pm);
}

/* ---- PM1 event, PM1 control ---- */

static u8 pm1_read_byte(void *dev, u64 offset)
{
	struct acpi_pm *pm = dev;
	const u16 reg[4] = {pm->pm1_sts, pm->pm1_en, pm->pm1_cnt | ACPI_CNT_SCI_EN, 0};

	return (u8)(reg[offset / 2] >> (8 * (offset & 1)));
}

static void pm1_write_control(struct acpi_pm *pm, unsigned shift, u8 val)
{
	u16 mask = (u16)(0xff << shift), bits = (u16)(val << shift);

	pm->pm1_cnt = (u16)(((pm->pm1_cnt & ~mask) | bits) & PM1_CNT_BITS);
	if (!(bits & ACPI_CNT_SLP_EN))
		return;
	if ((pm->pm1_cnt >> ACPI_CNT_SLP_TYP_SHIFT & 7) == ACPI_SLP_TYP_S5 && pm->cfg.power_off)
		pm->cfg.power_off(pm->cfg.opaque);
}

static void pm1_write_byte(void *dev, u64 offset, u8 val)
{
	struct acpi_pm *pm = dev;
	unsigned shift = 8 * (offset & 1);

	switch (offset / 2) {
	case 0: pm->pm1_sts &= (u16) ~(val << shift); break; /* write 1 to clear */
	case 1:
		pm->pm1_en = (u16)(((pm->pm1_en & ~(0xff << shift)) | val << shift) & PM1_EN_BITS);
		break;
	case 2: pm1_write_control(pm, shift, val); break;
	}
}

static u64 pm1_read(void *dev, u64 offset, unsigned size)
{
	pm_update(dev);
	return byteport_read(pm1_read_byte, dev, offset, size);
}

static void pm1_write(void *dev, u64 offset, unsigned size, u64 val)
{
	pm_update(dev);
	byteport_write(pm1_write_byte, dev, offset, size, val);
	pm_update(dev);
}

/* ---- PM timer ---- */

static u64 pm_timer_read(void *dev, u64 offset, unsigned size)
{
	u64 val = pm_ticks(dev) & (BIT(ACPI_PM_TMR_BITS) - 1);

	(void)size; /* the bus keeps what was asked for */
	return val >> (8 * offset);
}

static void pm_write_nothing(void *dev, u64 offset, unsigned size, u64 val)
{
	(void)dev;
	(void)offset;
	(void)size;
	(void)val;
}

/* ---- GPE0: status half, enable half ---- */

static u8 gpe_read_byte(void *dev, u64 offset)
{
	struct acpi_pm *pm = dev;

	return offset < GPE_BYTES ? pm->gpe_sts[offset] : pm->gpe_en[offset - GPE_BYTES];
}

static void gpe_write_byte(void *dev, u64 offset, u8 val)
{
	struct acpi_pm *pm = dev;

	if (offset < GPE_BYTES)
		pm->gpe_sts[offset] &= (u8)~val;
	else
		pm->gpe_en[offset - GPE_BYTES] = val;
}

static u64 gpe_read(void *dev, u64 offset, unsigned size)
{
	return byteport_read(gpe_read_byte, dev, offset, size);
}

static void gpe_write(void *dev, u64 offset, unsigned size, u64 val)
{
	byteport_write(gpe_write_byte, dev, offset, size, val);
	pm_update(dev);
}

/* ---- resets ---- */

static void pm_pull_reset(struct acpi_pm *pm)
{
	if (pm->cfg.reset)
		pm->cfg.reset(pm->cfg.opaque);
}

u8 acpi_pm_read_reset(struct acpi_pm *pm)
{
	return pm->reset_control;
}

void acpi_pm_write_reset(struct acpi_pm *pm, u8 val)
{
	pm->reset_control = val & RESET_BITS;
	if (val & RESET_CPU)
		pm_pull_reset(pm);
}

/* 0xcf8..0xcfb with nobody's configuration address register in it: only a byte access to 0xcf9 is
 * meant for the reset register. A guest that probes for PCI writes all four, with any bits. */
static u64 cf8_read(void *dev, u64 offset, unsigned size)
{
	return offset == 1 && size == 1 ? acpi_pm_read_reset(dev) : ~0ull;
}

static void cf8_write(void *dev, u64 offset, unsigned size, u64 val)
{
	if (offset == 1 && size == 1)
		acpi_pm_write_reset(dev, (u8)val);
}

/* Port 0x92: A20 is on for good; a rise of bit 0 resets the processor. */
static u64 port92_read(void *dev, u64 offset, unsigned size)
{
	struct acpi_pm *pm = dev;

	(void)offset;
	(void)size;
	return pm->port92 | PORT92_A20;
}

static void port92_write(void *dev, u64 offset, unsigned size, u64 val)
{
	struct acpi_pm *pm = dev;
	u8 rose = (u8)val & (u8)~pm->port92;

	(void)offset;
	(void)size;
	pm->port92 = (u8)val;
	if (rose & PORT92_RESET)
		pm_pull_reset(pm);
}

static const struct bus_range pm_ranges[] = {
    {BUS_PORT, ACPI_PM1_EVT_PORT, 8, pm1_read, pm1_write, "acpi-pm1"},
    {BUS_PORT, ACPI_PM_TMR_PORT, ACPI_PM_TMR_LEN, pm_timer_read, pm_write_nothing, "acpi-timer"},
    {BUS_PORT, ACPI_GPE0_PORT, ACPI_GPE0_LEN, gpe_read, gpe_write, "acpi-gpe0"},
    {BUS_PORT, 0x92, 1, port92_read, port92_write, "port92"},
    {BUS_PORT, ACPI_RESET_PORT - 1, 4, cf8_read, cf8_write, "reset-control"}, /* last */
};

void acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *cfg)
{
	memset(pm, 0, sizeof(*pm));
	pm->cfg = *cfg;
	timer_init(&pm->carry, cfg->q, pm_carry, pm);
	acpi_pm_reset(pm);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
	pm->pm1_sts = pm->pm1_en = pm->pm1_cnt = 0;
	memset(pm->gpe_sts, 0, sizeof(pm->gpe_sts));
	memset(pm->gpe_en, 0, sizeof(pm->gpe_en));
	pm->reset_control = 0;
	pm->port92 = PORT92_A20;
	pm->last_carry = pm_ticks(pm) / CARRY_TICKS;
	pm_update(pm);
}

int acpi_pm_register(struct acpi_pm *pm, struct bus *bus)
{
	return bus_add(bus, pm_ranges, ARRAY_LEN(pm_ranges) - pm->cfg.pci_has_cf9, pm);
}
