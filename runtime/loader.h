/*
 * Direct boot: put a kernel, its initial RAM disk and what its boot protocol wants to know into
 * guest RAM, and say in which state the processor enters it. The kinds of kernel, in the order in
 * which they are tried:
 *
 *	bzImage      "HdrS" at 0x202: Linux, memtest86+ (load_bzimage.c)
 *	multiboot 1  header in the first 8192 bytes, ELF or a.out kludge (load_multiboot.c)
 *	PVH          ELF with a XEN_ELFNOTE_PHYS32_ENTRY note: vmlinux, BSD kernels (load_elf.c)
 *
 * All files are hostile: whatever is in them, the result is an error or a loaded kernel.
 */
#ifndef RINGSHIFT_LOADER_H
#define RINGSHIFT_LOADER_H

#include "base.h"
#include "load_keep.h"
#include "ram.h"

struct cpu;

struct boot_config {
	const char *kernel;      /* file */
	const char *initrd;      /* file, or for multiboot "file args,file args"; NULL: none */
	const char *cmdline;     /* NULL: empty */
	bool stub;               /* enter a bzImage's own decompressor, do not unpack it here */
	gpa_t rsdp;              /* ACPI root pointer, 0: none */
	struct load_keep *files; /* opened before are taken from here; NULL: nothing is kept */
};

/* What all protocols have in common: ring 0, flat segments, interrupts off, no IDT. */
enum boot_kind {
	BOOT_PROT32, /* 32-bit protected mode, paging off */
	BOOT_LONG64, /* 64-bit mode, the first 4 GiB mapped one to one */
};

struct boot_state {
	enum boot_kind kind;
	u64 rip;
	u64 rax, rbx, rsi; /* the other general registers are 0 */
	gpa_t cr3;         /* BOOT_LONG64 */
	gpa_t gdt;         /* holds cs and ds */
	u16 gdt_limit;
	u16 cs, ds; /* selectors; ds goes to all data segments */
};

/*
 * Load the kernel. What the protocol hands over is written to guest RAM below 1 MiB, or else where
 * there is room; nothing is put into 0x9fc00..0xfffff (EBDA, VGA, ROM and ACPI tables). Guest RAM
 * need not be clear. 0, or a negative errno and one line of text in err that begins with the file.
 */
MUST_CHECK int loader_load(struct ram *ram, const struct boot_config *cfg, struct boot_state *out,
			   char *err, size_t errlen);

/* Put a processor, fresh from cpu_reset, into the state a kernel is entered in. */
void boot_apply(struct cpu *c, const struct boot_state *s);

#endif
