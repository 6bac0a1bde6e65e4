/*
 * The ACPI tables of the machine, built once at start-up for a place in guest memory.
 */
#ifndef RINGSHIFT_ACPI_TABLES_H
#define RINGSHIFT_ACPI_TABLES_H

#include "base.h"

#define ACPI_MAX_CPUS 254 /* xAPIC ids 0..253 */

struct acpi_config {
	unsigned cpus; /* local APIC ids 0..cpus-1 */
	u8 ioapic_id;
	bool com1, com2; /* serial ports the DSDT's machine has */
	/* PCI's window above RAM; size 0: there is none. The other places are pci.h's. */
	gpa_t pci_high_base;
	u64 pci_high_size;
};

/*
 * Write all tables to buf, for placement at guest-physical base (a multiple of 64 below 4 GiB; the
 * RSDP is found by scanning only in 0xe0000..0xfffff). *rsdp is the RSDP's guest-physical address.
 * Bytes used, at most cap; -ENOSPC if they do not fit, -EINVAL for a base or number of processors
 * that cannot be.
 */
MUST_CHECK int acpi_tables_build(u8 *buf, size_t cap, gpa_t base, const struct acpi_config *cfg,
				 gpa_t *rsdp);

#endif
