/* ACPI tables: found and summed the way an operating system does it, then read back by iasl. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acpi_pm.h"
#include "acpi_tables.h"

#define BASE 0xe0000u
#define CAP  0x10000u

static u8 mem[CAP]; /* guest memory from BASE */
static int used;
static gpa_t rsdp;

static const u8 *at(u64 gpa)
{
	cr_assert(gpa >= BASE && gpa < BASE + (u64)used, "address %#llx outside the tables",
		  (unsigned long long)gpa);
	return mem + (gpa - BASE);
}

static u64 le(const u8 *p, unsigned bytes)
{
	u64 v = 0;

	while (bytes--)
		v = v << 8 | p[bytes];
	return v;
}

static u8 sum(const u8 *p, size_t len)
{
	u8 s = 0;

	while (len--)
		s += *p++;
	return s;
}

static void build(unsigned cpus, bool com1, bool com2)
{
	struct acpi_config cfg = {.cpus = cpus,
				  .ioapic_id = 5,
				  .com1 = com1,
				  .com2 = com2,
				  .pci_high_base = 0x123456789000,
				  .pci_high_size = 0x40000000};

	memset(mem, 0xcc, sizeof(mem));
	used = acpi_tables_build(mem, CAP, BASE, &cfg, &rsdp);
	cr_assert_gt(used, 0);
}

/* The nth table with this signature, checked; NULL if there are fewer. */
static const u8 *find(const char *signature, unsigned nth)
{
	const u8 *xsdt = at(le(at(rsdp) + 24, 8));

	for (unsigned i = 36; i < le(xsdt + 4, 4); i += 8) {
		const u8 *t = at(le(xsdt + i, 8));

		if (!memcmp(t, signature, 4) && !nth--) {
			cr_expect_eq(sum(t, le(t + 4, 4)), 0, "%s checksum", signature);
			cr_expect_eq(memcmp(t + 10, "RNGSFT", 6), 0);
			return t;
		}
	}
	return NULL;
}

static bool contains(const u8 *table, const void *what, size_t len)
{
	return memmem(table, le(table + 4, 4), what, len) != NULL;
}

Test(acpi_tables, rsdp)
{
	build(1, true, false);
	cr_expect_eq(rsdp % 16, 0);
	const u8 *r = at(rsdp);
	cr_expect_eq(memcmp(r, "RSD PTR ", 8), 0);
	cr_expect_eq(r[15], 2);
	cr_expect_eq(sum(r, 20), 0);
	cr_expect_eq(sum(r, 36), 0);
	const u8 *rsdt = at(le(r + 16, 4)), *xsdt = at(le(r + 24, 8));
	cr_expect_eq(memcmp(rsdt, "RSDT", 4), 0);
	cr_expect_eq(memcmp(xsdt, "XSDT", 4), 0);
	cr_expect_eq(sum(rsdt, le(rsdt + 4, 4)), 0);
	cr_expect_eq(sum(xsdt, le(xsdt + 4, 4)), 0);
	unsigned n = (unsigned)(le(rsdt + 4, 4) - 36) / 4;
	cr_expect_eq(n, 5);
	cr_expect_eq((le(xsdt + 4, 4) - 36) / 8, n);
	for (unsigned i = 0; i < n; i++)
		cr_expect_eq(le(rsdt + 36 + 4 * i, 4), le(xsdt + 36 + 8 * i, 8));
	for (int i = used; i < (int)CAP; i++)
		cr_assert_eq(mem[i], 0xcc, "written past the end");
}

Test(acpi_tables, fadt)
{
	build(1, true, false);
	const u8 *f = find("FACP", 0);
	cr_assert_not_null(f);
	cr_expect_eq(le(f + 4, 4), 268);
	cr_expect_geq(f[8], 5);
	const u8 *facs = at(le(f + 36, 4)), *dsdt = at(le(f + 40, 4));
	cr_expect_eq(le(f + 36, 4) % 64, 0);
	cr_expect_eq(memcmp(facs, "FACS", 4), 0);
	cr_expect_eq(le(facs + 4, 4), 64);
	cr_expect_eq(memcmp(dsdt, "DSDT", 4), 0);
	cr_expect_eq(sum(dsdt, le(dsdt + 4, 4)), 0);
	cr_expect_eq(le(f + 140, 8), le(f + 40, 4));
	cr_expect_eq(le(f + 46, 2), 9, "SCI");
	cr_expect_eq(le(f + 48, 4), 0, "no SMI command port");
	cr_expect_eq(f[108], 0x32, "century");
	cr_expect_eq(le(f + 109, 2) & 3, 3, "legacy devices, 8042");
	u32 flags = (u32)le(f + 112, 4);
	cr_expect(flags & BIT(10), "reset register");
	cr_expect_not(flags & BIT(20), "not hardware-reduced");
	cr_expect_not(flags & BIT(8), "24-bit timer");
	cr_expect_not(flags & BIT(4), "fixed power button");
	static const struct {
		unsigned old, gas, len_at;
		u16 port;
	} block[] = {
	    {56, 148, 88, 0x600}, {64, 172, 89, 0x604}, {76, 208, 91, 0x608}, {80, 220, 92, 0x620}};
	for (unsigned i = 0; i < ARRAY_LEN(block); i++) {
		const u8 *gas = f + block[i].gas;

		cr_expect_eq(le(f + block[i].old, 4), block[i].port);
		cr_expect_eq(gas[0], 1, "I/O space");
		cr_expect_eq(gas[1], f[block[i].len_at] * 8);
		cr_expect_eq(le(gas + 4, 8), block[i].port);
	}
	cr_expect_eq(le(f + 116 + 4, 8), 0xcf9);
	cr_expect_eq(f[128] & 0x04, 0x04, "the value does reset");
}

Test(acpi_tables, s5_is_the_sleep_type_the_chip_knows)
{
	static const u8 s5[] = {0x08, '_', 'S', '5', '_', 0x12, 0x06, 0x04};

	build(1, true, false);
	const u8 *f = find("FACP", 0), *dsdt = at(le(f + 40, 4));
	const u8 *p = memmem(dsdt, le(dsdt + 4, 4), s5, sizeof(s5));
	cr_assert_not_null(p);
	cr_expect_eq(p[8], ACPI_SLP_TYP_S5); /* ZeroOp encodes 0 */
}

static void check_madt(unsigned cpus)
{
	unsigned lapics = 0, ioapics = 0, overrides = 0, nmis = 0;

	build(cpus, true, true);
	const u8 *m = find("APIC", 0);
	cr_assert_not_null(m);
	const u8 *end = m + le(m + 4, 4), *e = m + 44;
	cr_expect_eq(le(m + 36, 4), 0xfee00000);
	cr_expect_eq(le(m + 40, 4), 1);
	for (; e < end; e += e[1]) {
		cr_assert_gt(e[1], 1);
		switch (e[0]) {
		case 0:
			cr_expect_eq(e[3], lapics++);
			cr_expect_eq(le(e + 4, 4), 1);
			break;
		case 1:
			ioapics++;
			cr_expect_eq(e[2], 5);
			cr_expect_eq(le(e + 4, 4), 0xfec00000);
			cr_expect_eq(le(e + 8, 4), 0);
			break;
		case 2:
			cr_expect_eq(e[2], 0);
			cr_expect_eq(le(e + 4, 4), overrides ? 9 : 2);
			cr_expect_eq(e[3], overrides ? 9 : 0);
			cr_expect_eq(le(e + 8, 2), overrides ? 0x0d : 0);
			overrides++;
			break;
		case 4:
			nmis++;
			cr_expect_eq(e[2], 0xff);
			cr_expect_eq(e[5], 1);
			break;
		default: cr_expect_fail("entry type %u", e[0]);
		}
	}
	cr_expect_eq(e, end);
	cr_expect_eq(lapics, cpus);
	cr_expect_eq(ioapics, 1);
	cr_expect_eq(overrides, 2);
	cr_expect_eq(nmis, 1);
}

Test(acpi_tables, madt)
{
	check_madt(1);
	check_madt(4);
	check_madt(ACPI_MAX_CPUS);
}

/* The first SSDT is PCI's window. */
Test(acpi_tables, serial_ports)
{
	static const u8 com1_io[] = {0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08, 0x22, 0x10};
	static const u8 com2_io[] = {0x47, 0x01, 0xf8, 0x02, 0xf8, 0x02, 0x01, 0x08, 0x22, 0x08};

	build(1, false, false);
	cr_expect_null(find("SSDT", 1));
	build(1, true, false);
	cr_expect(contains(find("SSDT", 1), com1_io, sizeof(com1_io)));
	cr_expect_null(find("SSDT", 2));
	build(1, false, true);
	cr_expect(contains(find("SSDT", 1), com2_io, sizeof(com2_io)));
	build(1, true, true);
	cr_expect(contains(find("SSDT", 2), com2_io, sizeof(com2_io)));
}

Test(acpi_tables, pci)
{
	static const u8 base[] = {0x08, 'P',  'H',  'B',  'A',  0x0e, 0x00,
				  0x90, 0x78, 0x56, 0x34, 0x12, 0x00, 0x00};
	static const u8 size[] = {0x08, 'P',  'H',  'S',  'Z',  0x0e, 0x00,
				  0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00};
	const u8 *mcfg, *ssdt;

	build(1, true, true);
	mcfg = find("MCFG", 0);
	cr_assert_not_null(mcfg);
	cr_expect_eq(le(mcfg + 4, 4), 60);
	cr_expect_eq(le(mcfg + 44, 8), 0xe0000000);
	cr_expect_eq(le(mcfg + 52, 4), 0, "segment 0, buses 0 to 0");
	ssdt = find("SSDT", 0);
	cr_expect(contains(ssdt, base, sizeof(base)));
	cr_expect(contains(ssdt, size, sizeof(size)));
}

Test(acpi_tables, refuses)
{
	struct acpi_config cfg = {.cpus = 1, .com1 = true, .com2 = true};
	int full;

	cr_expect_eq(acpi_tables_build(mem, CAP, BASE + 16, &cfg, &rsdp), -EINVAL);
	cr_expect_eq(acpi_tables_build(mem, CAP, 4 * GIB, &cfg, &rsdp), -EINVAL);
	cfg.cpus = 0;
	cr_expect_eq(acpi_tables_build(mem, CAP, BASE, &cfg, &rsdp), -EINVAL);
	cfg.cpus = ACPI_MAX_CPUS + 1;
	cr_expect_eq(acpi_tables_build(mem, CAP, BASE, &cfg, &rsdp), -EINVAL);
	cfg.cpus = 1;
	full = acpi_tables_build(mem, CAP, BASE, &cfg, &rsdp);
	cr_assert_gt(full, 0);
	cr_expect_eq(acpi_tables_build(mem, (size_t)full, BASE, &cfg, &rsdp), full);
	for (int cap = 0; cap < full; cap++) {
		u8 *tight = malloc(cap ? (size_t)cap : 1); /* an overrun shows under asan */

		cr_assert_eq(acpi_tables_build(tight, (size_t)cap, BASE, &cfg, &rsdp), -ENOSPC);
		free(tight);
	}
}

/* Write the table to a file and have iasl take it apart; its exit status. */
static int disassemble(const char *dir, const u8 *table)
{
	char path[128], command[320];
	FILE *f;

	snprintf(path, sizeof(path), "%s/table.dat", dir);
	f = fopen(path, "wb");
	cr_assert_not_null(f);
	cr_assert_eq(fwrite(table, le(table + 4, 4), 1, f), 1);
	cr_assert_eq(fclose(f), 0);
	snprintf(
	    command, sizeof(command),
	    "cd %s && iasl -d table.dat >log 2>&1 && ! grep -iE 'error|warning|invalid|mismatch' "
	    "log && ! grep -iE 'error|invalid checksum|should be' table.dsl >&2",
	    dir);
	return system(command);
}

Test(acpi_tables, iasl_reads_them)
{
	char dir[] = "/tmp/acpi-test-XXXXXX", command[64];
	static const char *const names[] = {"FACP", "APIC", "MCFG", "SSDT"};

	if (system("command -v iasl >/dev/null 2>&1"))
		cr_skip_test("no iasl");
	cr_assert_not_null(mkdtemp(dir));
	build(2, true, true);
	const u8 *f = find("FACP", 0);
	cr_expect_eq(disassemble(dir, at(le(f + 40, 4))), 0, "DSDT");
	cr_expect_eq(disassemble(dir, at(le(f + 36, 4))), 0, "FACS");
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		cr_expect_eq(disassemble(dir, find(names[i], 0)), 0, "%s", names[i]);
	cr_expect_eq(disassemble(dir, find("SSDT", 1)), 0, "second SSDT");
	cr_expect_eq(disassemble(dir, find("SSDT", 2)), 0, "third SSDT");
	cr_expect_eq(disassemble(dir, at(le(at(rsdp) + 16, 4))), 0, "RSDT");
	cr_expect_eq(disassemble(dir, at(le(at(rsdp) + 24, 8))), 0, "XSDT");
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_expect_eq(system(command), 0);
}
