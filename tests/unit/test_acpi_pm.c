/* ACPI fixed hardware: timer, SCI, power button, S5, the two reset registers. */
#include <criterion/criterion.h>

#include "acpi_pm.h"
#include "chip_rig.h"

static struct chip_rig rig;
static struct acpi_pm pm;

static void setup(void)
{
	struct acpi_pm_config cfg;

	rig_init(&rig);
	cfg = (struct acpi_pm_config){.q = &rig.q,
				      .sci = rig_line(&rig),
				      .power_off = rig_on_power_off,
				      .reset = rig_on_reset,
				      .opaque = &rig};
	acpi_pm_init(&pm, &cfg);
	cr_assert_eq(acpi_pm_register(&pm, &rig.bus), 0);
}

static u32 in(u16 port, unsigned size)
{
	return (u32)bus_read(&rig.bus, BUS_PORT, port, size);
}

static void out(u16 port, unsigned size, u32 val)
{
	bus_write(&rig.bus, BUS_PORT, port, size, val);
}

TestSuite(acpi_pm, .init = setup);

Test(acpi_pm, timer_runs_at_its_rate)
{
	u32 a = in(0x608, 4);

	rig_pass(&rig, NS_PER_SEC);
	cr_expect_eq(in(0x608, 4) - a, ACPI_PM_TMR_HZ);
	cr_expect_eq(in(0x609, 1), in(0x608, 4) >> 8 & 0xff);
	cr_expect_eq(in(0x60a, 2), in(0x608, 4) >> 16);
	out(0x608, 4, 0);
	cr_expect_eq(in(0x608, 4) - a, ACPI_PM_TMR_HZ, "read-only");
	rig_pass(&rig, 4 * NS_PER_SEC);
	cr_expect_eq(in(0x608, 4), 5 * ACPI_PM_TMR_HZ & 0xffffff, "24 bits");
}

Test(acpi_pm, timer_carry)
{
	u64 half = (u64)(1 << 23) * NS_PER_SEC / ACPI_PM_TMR_HZ;

	cr_expect_eq(in(0x600, 2) & ACPI_PM1_TMR, 0);
	rig_pass(&rig, half - 1000);
	cr_expect_eq(in(0x600, 2) & ACPI_PM1_TMR, 0);
	rig_pass(&rig, 2000);
	cr_expect_eq(in(0x600, 2) & ACPI_PM1_TMR, 1);
	cr_expect_eq(rig.level, 0);
	out(0x602, 2, ACPI_PM1_TMR);
	cr_expect_eq(rig.level, 1, "enabling it with the status set");
	out(0x600, 2, ACPI_PM1_TMR);
	cr_expect_eq(rig.level, 0);
	rig_pass(&rig, half);
	cr_expect_eq(rig.level, 1, "every half round");
	out(0x600, 2, ACPI_PM1_TMR);
	out(0x602, 2, 0);
	cr_expect_eq(timerq_next(&rig.q), TIMER_NEVER);
}

Test(acpi_pm, power_button)
{
	acpi_pm_power_button(&pm);
	cr_expect_eq(rig.level, 0, "nobody listens");
	cr_expect_eq(in(0x600, 2), ACPI_PM1_PWRBTN);
	out(0x600, 2, ACPI_PM1_PWRBTN);
	out(0x603, 1, ACPI_PM1_PWRBTN >> 8);
	acpi_pm_power_button(&pm);
	cr_expect_eq(rig.level, 1);
	out(0x600, 2, (u16)~ACPI_PM1_PWRBTN);
	cr_expect_eq(rig.level, 1, "zeroes clear nothing");
	out(0x601, 1, ACPI_PM1_PWRBTN >> 8);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(in(0x600, 2), 0);
}

Test(acpi_pm, enable_register_masks)
{
	out(0x602, 2, 0xffff);
	cr_expect_eq(in(0x602, 2), ACPI_PM1_TMR | ACPI_PM1_GBL | ACPI_PM1_PWRBTN | ACPI_PM1_RTC);
	out(0x600, 4, 0);
	cr_expect_eq(in(0x602, 2), 0, "a dword reaches both");
}

Test(acpi_pm, control_is_always_acpi_mode)
{
	cr_expect_eq(in(0x604, 2), ACPI_CNT_SCI_EN);
	out(0x604, 2, 0);
	cr_expect_eq(in(0x604, 2), ACPI_CNT_SCI_EN);
	out(0x604, 2, 5 << 10);
	cr_expect_eq(in(0x604, 2), 5 << 10 | ACPI_CNT_SCI_EN);
	cr_expect_eq(rig.power_offs, 0);
}

Test(acpi_pm, sleep)
{
	out(0x604, 2, 3 << 10 | ACPI_CNT_SLP_EN);
	cr_expect_eq(rig.power_offs, 0, "no S3");
	out(0x604, 2, 0);
	cr_expect_eq(rig.power_offs, 0);
	out(0x604, 2, ACPI_SLP_TYP_S5 << 10 | ACPI_CNT_SLP_EN);
	cr_expect_eq(rig.power_offs, 1);
	cr_expect_eq(in(0x604, 2) & ACPI_CNT_SLP_EN, 0, "write-only");
	out(0x605, 1, ACPI_CNT_SLP_EN >> 8);
	cr_expect_eq(rig.power_offs, 2, "a byte does it too");
}

Test(acpi_pm, general_purpose_events)
{
	acpi_pm_raise_gpe(&pm, 9);
	cr_expect_eq(in(0x620, 2), 1 << 9);
	cr_expect_eq(rig.level, 0);
	out(0x628 + 1, 1, 1 << 1);
	cr_expect_eq(rig.level, 1);
	out(0x621, 1, 1 << 1);
	cr_expect_eq(rig.level, 0);
	out(0x62f, 1, 0xff);
	cr_expect_eq(in(0x62f, 1), 0xff);
	acpi_pm_raise_gpe(&pm, 63);
	cr_expect_eq(rig.level, 1);
}

Test(acpi_pm, reset_register)
{
	out(0xcf9, 1, 0x02);
	cr_expect_eq(rig.resets, 0);
	cr_expect_eq(in(0xcf9, 1), 0x02);
	out(0xcf9, 1, 0x06);
	cr_expect_eq(rig.resets, 1);
	out(0xcf9, 1, 0x0e);
	cr_expect_eq(rig.resets, 2);
	/* A probe for PCI configuration registers must not reset the machine. */
	out(0xcf8, 4, 0x80000e00);
	out(0xcf8, 2, 0x0600);
	cr_expect_eq(rig.resets, 2);
	cr_expect_eq(in(0xcf8, 4), 0xffffffff);
	cr_expect_eq(in(0xcfb, 1), 0xff);
}

Test(acpi_pm, reset_register_behind_pci)
{
	pm.cfg.pci_has_cf9 = true;
	bus_init(&rig.bus, NULL);
	cr_assert_eq(acpi_pm_register(&pm, &rig.bus), 0);
	out(0xcf9, 1, 0x06);
	cr_expect_eq(rig.resets, 0);
	acpi_pm_write_reset(&pm, 0x06);
	cr_expect_eq(rig.resets, 1);
	cr_expect_eq(acpi_pm_read_reset(&pm), 0x02);
	cr_expect_eq(in(0x604, 2), ACPI_CNT_SCI_EN, "the rest is there");
}

Test(acpi_pm, port_92)
{
	cr_expect_eq(in(0x92, 1), 0x02);
	out(0x92, 1, 0x00);
	cr_expect_eq(in(0x92, 1), 0x02, "A20 stays on");
	out(0x92, 1, 0x03);
	cr_expect_eq(rig.resets, 1);
	out(0x92, 1, 0x03);
	cr_expect_eq(rig.resets, 1, "an edge does it");
	out(0x92, 1, 0x02);
	out(0x92, 1, 0x03);
	cr_expect_eq(rig.resets, 2);
}

Test(acpi_pm, reset_drops_the_sci)
{
	out(0x602, 2, ACPI_PM1_PWRBTN | ACPI_PM1_TMR);
	acpi_pm_power_button(&pm);
	acpi_pm_raise_gpe(&pm, 0);
	cr_expect_eq(rig.level, 1);
	acpi_pm_reset(&pm);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(in(0x600, 4), 0);
	cr_expect_eq(timerq_next(&rig.q), TIMER_NEVER);
}
