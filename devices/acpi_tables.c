/*
 * ACPI tables.
 *
 * Everything lies in one buffer: RSDP first, then FACS (64-byte aligned), DSDT and the SSDTs (made
 * by iasl at build time, but for one of two constants), FADT, MADT, MCFG, RSDT and XSDT. The first
 * two are referred to by number only, the rest are listed; each is placed, and its address noted,
 * as it is written.
 *
 * The FADT is that of ACPI 5.0 with both the 32-bit and the X_ fields; there is no SMI command
 * port, so the machine is in ACPI mode from the start. Reference: ACPI specification 5.0,
 * chapter 5.2.
 */
#include <errno.h>
#include <string.h>

#include "acpi_tables.h"
#include "acpi_pm.h"
#include "mc146818.h"
#include "pci.h"
#include "aml.h"

#define RSDP_LEN        36
#define RSDP_V1_LEN     20
#define HEADER_LEN      36
#define FACS_LEN        64
#define FADT_LEN        268
#define FADT_REV        5
#define MADT_REV        3
#define LAPIC_BASE      0xfee00000u
#define IOAPIC_BASE     0xfec00000u
#define PROFILE_DESKTOP 1
#define BOOT_ARCH       0x0007 /* legacy devices, 8042, no VGA */
#define FADT_FLAGS      0x0465 /* WBINVD, PROC_C1, SLP_BUTTON, FIX_RTC: none; RESET_REG_SUP */
#define NO_LATENCY      0x0fff /* above the limits: no C2, C3 */
#define MAX_LISTED      8
#define ISO_ACTIVE_HIGH 0x01
#define ISO_LEVEL       0x0c
#define ALL_PROCESSORS  0xff
#define GAS_SYSTEM_IO   1

struct builder {
	u8 *buf;
	size_t cap, len;
	gpa_t base;
	bool full; /* something did not fit */
	gpa_t listed[MAX_LISTED];
	unsigned listed_count;
};

/* len zeroed bytes at the next multiple of align; NULL if they do not fit. */
static u8 *take(struct builder *b, size_t len, size_t align)
{
	size_t at = ALIGN_UP(b->len, align);

	if (b->full || at > b->cap || len > b->cap - at) {
		b->full = true;
		return NULL;
	}
	memset(b->buf + b->len, 0, at + len - b->len);
	b->len = at + len;
	return b->buf + at;
}

static gpa_t address_of(const struct builder *b, const u8 *p)
{
	return p ? b->base + (gpa_t)(p - b->buf) : 0;
}

static void put(u8 *table, unsigned offset, unsigned bytes, u64 val)
{
	for (unsigned i = 0; i < bytes; i++)
		table[offset + i] = (u8)(val >> (8 * i));
}

static u8 checksum(const u8 *p, size_t len)
{
	u8 sum = 0;

	while (len--)
		sum += *p++;
	return (u8)-sum;
}

/* Space for a table with its header filled in but for the checksum. */
static u8 *begin_table(struct builder *b, const char *signature, u8 revision, size_t len)
{
	u8 *t = take(b, len, 16);

	if (!t)
		return NULL;
	memcpy(t, signature, 4);
	put(t, 4, 4, len);
	t[8] = revision;
	memcpy(t + 10, "RNGSFTRNGSFTPC", 14); /* OEM id and OEM table id */
	put(t, 24, 4, 1);
	memcpy(t + 28, "RNGS", 4);
	put(t, 32, 4, 1);
	return t;
}

static void finish_table(u8 *t, size_t len)
{
	t[9] = 0;
	t[9] = checksum(t, len);
}

static void list_table(struct builder *b, const u8 *t)
{
	BUG_ON(b->listed_count == MAX_LISTED);
	b->listed[b->listed_count++] = address_of(b, t);
}

static u8 *copy_aml(struct builder *b, const unsigned char *aml, size_t len)
{
	u8 *t = take(b, len, 16);

	if (t)
		memcpy(t, aml, len);
	return t;
}

static u8 *build_facs(struct builder *b)
{
	u8 *t = take(b, FACS_LEN, 64);

	if (t) {
		memcpy(t, "FACS", 4);
		put(t, 4, 4, FACS_LEN);
		t[32] = 2; /* version */
	}
	return t;
}

/* A generic address structure for I/O ports (5.2.3.1). access: 1 byte, 2 word, 3 dword. */
static void put_gas(u8 *t, unsigned offset, unsigned bytes, unsigned access, u16 port)
{
	t[offset] = GAS_SYSTEM_IO;
	t[offset + 1] = (u8)(bytes * 8);
	t[offset + 3] = (u8)access;
	put(t, offset + 4, 8, port);
}

/* 5.2.9, table 5-34; the numbers are its offsets. */
static void build_fadt(struct builder *b, gpa_t facs, gpa_t dsdt)
{
	u8 *t = begin_table(b, "FACP", FADT_REV, FADT_LEN);

	if (!t)
		return;
	put(t, 36, 4, facs);
	put(t, 40, 4, dsdt);
	t[45] = PROFILE_DESKTOP;
	put(t, 46, 2, ACPI_SCI_IRQ);
	put(t, 56, 4, ACPI_PM1_EVT_PORT);
	put(t, 64, 4, ACPI_PM1_CNT_PORT);
	put(t, 76, 4, ACPI_PM_TMR_PORT);
	put(t, 80, 4, ACPI_GPE0_PORT);
	t[88] = ACPI_PM1_EVT_LEN;
	t[89] = ACPI_PM1_CNT_LEN;
	t[91] = ACPI_PM_TMR_LEN;
	t[92] = ACPI_GPE0_LEN;
	put(t, 96, 2, NO_LATENCY);
	put(t, 98, 2, NO_LATENCY);
	t[108] = CMOS_CENTURY;
	put(t, 109, 2, BOOT_ARCH);
	put(t, 112, 4, FADT_FLAGS);
	put_gas(t, 116, 1, 1, ACPI_RESET_PORT);
	t[128] = ACPI_RESET_VALUE;
	/* X_FIRMWARE_CTRL stays 0: the 32-bit field is in use (5.2.9). */
	put(t, 140, 8, dsdt);
	put_gas(t, 148, ACPI_PM1_EVT_LEN, 2, ACPI_PM1_EVT_PORT);
	put_gas(t, 172, ACPI_PM1_CNT_LEN, 2, ACPI_PM1_CNT_PORT);
	put_gas(t, 208, ACPI_PM_TMR_LEN, 3, ACPI_PM_TMR_PORT);
	put_gas(t, 220, ACPI_GPE0_LEN, 1, ACPI_GPE0_PORT);
	finish_table(t, FADT_LEN);
	list_table(b, t);
}

/* Interrupt source override (5.2.12.5): ISA interrupt to IOAPIC input. */
static u8 *put_override(u8 *e, u8 irq, u32 gsi, u16 flags)
{
	e[0] = 2;
	e[1] = 10;
	e[3] = irq;
	put(e, 4, 4, gsi);
	put(e, 8, 2, flags);
	return e + 10;
}

/* 5.2.12. */
static void build_madt(struct builder *b, const struct acpi_config *cfg)
{
	size_t len = HEADER_LEN + 8 + 8 * cfg->cpus + 12 + 2 * 10 + 6;
	u8 *t = begin_table(b, "APIC", MADT_REV, len), *e;

	if (!t)
		return;
	put(t, 36, 4, LAPIC_BASE);
	put(t, 40, 4, 1); /* PCAT_COMPAT: there is a pair of 8259 too */
	e = t + 44;
	for (unsigned i = 0; i < cfg->cpus; i++, e += 8) {
		e[1] = 8;
		e[2] = (u8)i; /* processor */
		e[3] = (u8)i; /* local APIC */
		e[4] = 1;     /* enabled */
	}
	e[0] = 1;
	e[1] = 12;
	e[2] = cfg->ioapic_id;
	put(e, 4, 4, IOAPIC_BASE);
	e = put_override(e + 12, 0, 2, 0); /* the PIT is wired to input 2 */
	e = put_override(e, ACPI_SCI_IRQ, ACPI_SCI_IRQ, ISO_ACTIVE_HIGH | ISO_LEVEL);
	e[0] = 4; /* NMI at LINT1 of every processor */
	e[1] = 6;
	e[2] = ALL_PROCESSORS;
	e[5] = 1;
	finish_table(t, len);
	list_table(b, t);
}

/* PCI Firmware Specification 3.0, 4.1.2: where ECAM is, and of which buses. */
static void build_mcfg(struct builder *b)
{
	size_t len = HEADER_LEN + 8 + 16;
	u8 *t = begin_table(b, "MCFG", 1, len);

	if (!t)
		return;
	put(t, 44, 8, PCI_ECAM_BASE); /* segment 0, buses 0 to 0 */
	finish_table(t, len);
	list_table(b, t);
}

/* Name (\name, val) in AML (ACPI 5.0, 20.2.5.1): NameOp, the name, QWordPrefix, the value. */
static u8 *put_name(u8 *t, const char *name, u64 val)
{
	t[0] = 0x08;
	memcpy(t + 1, name, 4);
	t[5] = 0x0e;
	put(t, 6, 8, val);
	return t + 14;
}

/* An SSDT with what the DSDT cannot know: PCI's window above RAM. */
static void build_window(struct builder *b, const struct acpi_config *cfg)
{
	size_t len = HEADER_LEN + 2 * 14;
	u8 *t = begin_table(b, "SSDT", 2, len), *end;

	if (!t)
		return;
	end = put_name(t + HEADER_LEN, "PHBA", cfg->pci_high_base);
	put_name(end, "PHSZ", cfg->pci_high_size);
	finish_table(t, len);
	list_table(b, t);
}

/* RSDT or XSDT, by the width of its entries. */
static gpa_t build_root(struct builder *b, const char *signature, unsigned width)
{
	size_t len = HEADER_LEN + (size_t)b->listed_count * width;
	u8 *t = begin_table(b, signature, 1, len);

	if (!t)
		return 0;
	for (unsigned i = 0; i < b->listed_count; i++)
		put(t, HEADER_LEN + i * width, width, b->listed[i]);
	finish_table(t, len);
	return address_of(b, t);
}

/* 5.2.5.3: two checksums, of the first 20 bytes and of the whole. */
static void fill_rsdp(u8 *r, gpa_t rsdt, gpa_t xsdt)
{
	memcpy(r, "RSD PTR ", 8);
	memcpy(r + 9, "RNGSFT", 6);
	r[15] = 2;
	put(r, 16, 4, rsdt);
	put(r, 20, 4, RSDP_LEN);
	put(r, 24, 8, xsdt);
	r[8] = checksum(r, RSDP_V1_LEN);
	r[32] = checksum(r, RSDP_LEN);
}

int acpi_tables_build(u8 *buf, size_t cap, gpa_t base, const struct acpi_config *cfg, gpa_t *rsdp)
{
	struct builder b = {.buf = buf, .cap = cap, .base = base};
	gpa_t facs, dsdt, rsdt, xsdt;
	u8 *r;

	if (base % 64 || base >= 4 * GIB || !cfg->cpus || cfg->cpus > ACPI_MAX_CPUS)
		return -EINVAL;
	r = take(&b, RSDP_LEN, 16);
	facs = address_of(&b, build_facs(&b));
	dsdt = address_of(&b, copy_aml(&b, aml_dsdt, sizeof(aml_dsdt)));
	build_fadt(&b, facs, dsdt);
	build_madt(&b, cfg);
	build_mcfg(&b);
	build_window(&b, cfg);
	if (cfg->com1)
		list_table(&b, copy_aml(&b, aml_com1, sizeof(aml_com1)));
	if (cfg->com2)
		list_table(&b, copy_aml(&b, aml_com2, sizeof(aml_com2)));
	rsdt = build_root(&b, "RSDT", 4);
	xsdt = build_root(&b, "XSDT", 8);
	if (b.full || b.len > INT32_MAX || base + b.len > 4 * GIB)
		return -ENOSPC;
	fill_rsdp(r, rsdt, xsdt);
	*rsdp = address_of(&b, r);
	return (int)b.len;
}
