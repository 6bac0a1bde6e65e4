/*
 * Linux bzImages, by the boot protocol (Documentation/arch/x86/boot.rst). Three ways in:
 *
 *	unpacked   x86-64 with a payload: unpack it here, load the ELF file inside at its link
 *	           address and enter at its entry point in 64-bit mode. No relocation, no KASLR.
 *	64-bit     x86-64 with -boot stub or without a payload (memtest86+): load the protected-mode
 *	           part and enter it 0x200 bytes in; it unpacks itself.
 *	32-bit     everything else: load the protected-mode part, enter it in protected mode. Also
 *	           x86-64 kernels before 3.8 (protocol 2.12), which do not announce the 64-bit
 * entry.
 *
 * What is handed over lies in one piece, usually at 0x10000:
 *
 *	0x0000  boot_params ("zero page")
 *	0x1000  page tables: PML4, PDPT, four page directories of 2 MiB pages
 *	0x7000  GDT
 *	0x7020  command line
 */
#include <asm/bootparam.h>
#include <errno.h>

#include "load.h"
#include "mmu.h"
#include "unpack.h"

#define PROTO_CMDLINE   0x0202 /* cmd_line_ptr */
#define PROTO_INITRD    0x0203 /* initrd_addr_max */
#define PROTO_SYSSIZE   0x0204 /* syssize has 32 bits; */
#define PROTO_RELOC     0x0205 /* relocatable_kernel */
#define PROTO_CMDSIZE   0x0206 /* cmdline_size */
#define PROTO_PAYLOAD   0x0208 /* payload_offset, payload_length */
#define PROTO_INIT_SIZE 0x020a /* pref_address, init_size */
#define PROTO_XLOAD     0x020c /* xloadflags */

#define HDR_AT           0x1f1
#define HDR_END_BYTE     0x201 /* header ends at 0x202 + this byte */
#define SECTOR           512
#define ENTRY64          0x200
#define DEFAULT_START    0x100000u
#define OLD_INITRD_MAX   0x37ffffffu
#define OLD_CMDLINE_SIZE 255u

#define INFO_START 0x10000ull
#define PAGES_AT   PAGE_SIZE
#define PAGES_LEN  (6 * PAGE_SIZE)
#define GDT_AT     (PAGES_AT + PAGES_LEN)
#define CMDLINE_AT (GDT_AT + LOAD_GDT_SIZE)
#define MAPPED_END (4 * GIB)
#define LARGE_PAGE (2 * MIB)

struct bzimage {
	struct setup_header hdr; /* fields that the protocol version lacks are 0 */
	u8 *prot;                /* protected-mode part */
	u64 prot_len;
	gpa_t start;   /* where it belongs */
	u64 init_size; /* what the kernel needs from there, before it knows the memory map */
	bool long64;
};

bool bzimage_probe(const struct load *l)
{
	const u8 *p = l->kernel.buf.bytes;

	return l->kernel.size >= HDR_AT + sizeof(struct setup_header) &&
	       get16(p + 0x1fe) == 0xaa55 && !memcmp(p + 0x202, "HdrS", 4);
}

/* --- the header --- */

static int check_header(struct load *l, const struct bzimage *bz)
{
	const char *path = l->kernel.path;
	const struct setup_header *h = &bz->hdr;
	u32 max = h->version >= PROTO_CMDSIZE ? h->cmdline_size : OLD_CMDLINE_SIZE;

	if (h->version < PROTO_CMDLINE)
		return load_fail(l, path, -ENOEXEC, "boot protocol %u.%02u is too old: 2.02 needed",
				 h->version >> 8, h->version & 0xff);
	if (!(h->loadflags & LOADED_HIGH))
		return load_fail(l, path, -ENOEXEC,
				 "a zImage, to be loaded below 1 MiB; only bzImages are accepted");
	max = MIN(max, LOAD_MAX_CMDLINE - 1);
	if (strlen(l->cmdline) > max)
		return load_fail(l, path, -E2BIG,
				 "the command line has %zu bytes, but this kernel takes %u at most",
				 strlen(l->cmdline), max);
	return 0;
}

static int read_header(struct load *l, struct bzimage *bz)
{
	u8 *bytes = l->kernel.buf.bytes;
	u64 size = l->kernel.size, setup, hdr_len;
	struct setup_header *h = &bz->hdr;

	*bz = (struct bzimage){0};
	hdr_len = 0x202 + bytes[HDR_END_BYTE] - HDR_AT;
	memcpy(h, bytes + HDR_AT, MIN(hdr_len, sizeof(*h)));
	setup = (h->setup_sects ? h->setup_sects + 1u : 5u) * SECTOR;
	if (setup >= size)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "cut short: %llu bytes, all setup code", (unsigned long long)size);
	bz->prot = bytes + setup;
	bz->prot_len = size - setup;
	/* syssize counts 16 bytes and is rounded up. */
	if (h->version >= PROTO_SYSSIZE && h->syssize * 16ull >= bz->prot_len + 16)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "cut short: %llu of %llu KiB are there",
				 (unsigned long long)(size / KIB),
				 (unsigned long long)((setup + h->syssize * 16ull) / KIB));
	bz->long64 = h->version >= PROTO_XLOAD && (h->xloadflags & XLF_KERNEL_64);
	bz->start = h->code32_start ? h->code32_start : DEFAULT_START;
	if (h->version >= PROTO_INIT_SIZE) {
		bz->init_size = h->init_size;
		if (h->relocatable_kernel)
			bz->start = h->pref_address;
	}
	return check_header(l, bz);
}

/* --- the kernel --- */

static int no_room(struct load *l, gpa_t start, u64 len)
{
	return load_fail(l, l->kernel.path, -ENOSPC,
			 "the kernel needs %llu KiB at %#llx and does not fit into %llu MiB of RAM",
			 (unsigned long long)((len + KIB - 1) / KIB), (unsigned long long)start,
			 (unsigned long long)(l->ram->size / MIB));
}

/* The protected-mode part as it is. */
static int load_prot(struct load *l, struct bzimage *bz, struct boot_state *out)
{
	u64 len = MAX(bz->prot_len, bz->init_size);

	if (bz->start >= MAPPED_END || load_take(l, bz->start, len))
		return no_room(l, bz->start, len);
	memcpy(load_host(l, bz->start, bz->prot_len), bz->prot, bz->prot_len);
	bz->hdr.code32_start = (u32)bz->start;
	out->kind = bz->long64 ? BOOT_LONG64 : BOOT_PROT32;
	out->rip = bz->start + (bz->long64 ? ENTRY64 : 0);
	return 0;
}

static int load_elf_inside(struct load *l, const struct bzimage *bz, u8 *bytes, u64 size,
			   struct boot_state *out)
{
	struct elf_image img;
	int r = elf_image_read(l, "the kernel inside", bytes, size, &img);

	if (r)
		return r;
	if (!img.is64 || img.end > MAPPED_END || !elf_image_contains(&img, img.entry))
		return load_fail(l, l->kernel.path, -ENOEXEC, "the kernel inside: %s",
				 !img.is64              ? "a 32-bit ELF file"
				 : img.end > MAPPED_END ? "linked above 4 GiB"
							: "the entry point lies in no segment");
	r = elf_image_load(l, "the kernel inside", &img);
	if (r)
		return r;
	if (load_take_over(l, bz->start, bz->init_size))
		return no_room(l, bz->start, bz->init_size);
	out->kind = BOOT_LONG64;
	out->rip = img.entry;
	return 0;
}

static int load_payload(struct load *l, const struct bzimage *bz, struct boot_state *out)
{
	const struct setup_header *h = &bz->hdr;
	const u8 *in = bz->prot + h->payload_offset;
	struct load_buffer buf = {0};
	const char *why;
	u64 size;
	int r;

	if (h->payload_offset > bz->prot_len ||
	    h->payload_length > bz->prot_len - h->payload_offset)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "the payload is not all in the file: cut short or corrupt");
	size = unpack_size(in, h->payload_length);
	if (size > l->ram->size)
		return load_fail(
		    l, l->kernel.path, -EFBIG,
		    "the payload claims to unpack to %llu MiB, more than the %llu MiB of "
		    "RAM: corrupt, or RAM is too small",
		    (unsigned long long)(size / MIB), (unsigned long long)(l->ram->size / MIB));
	if (load_buffer_alloc(&buf, LOAD_SLOT_UNPACKED, size))
		return load_fail(l, l->kernel.path, -ENOMEM, "no memory to unpack the payload");
	r = unpack_payload(in, h->payload_length, buf.bytes, size, &why);
	if (r)
		r = load_fail(l, l->kernel.path, r, "the payload %s", why);
	else
		r = load_elf_inside(l, bz, buf.bytes, size, out);
	load_buffer_free(&buf);
	return r;
}

/* --- what is handed over --- */

static void write_page_tables(u8 *at, gpa_t gpa)
{
	u8 *pdpt = at + PAGE_SIZE, *pd = at + 2 * PAGE_SIZE;

	put64(at, (gpa + PAGE_SIZE) | PTE_P | PTE_W);
	for (u64 i = 0; i < 4; i++)
		put64(pdpt + i * 8, (gpa + (2 + i) * PAGE_SIZE) | PTE_P | PTE_W);
	for (u64 i = 0; i < MAPPED_END / LARGE_PAGE; i++)
		put64(pd + i * 8, i * LARGE_PAGE | PTE_P | PTE_W | PTE_PS);
}

static void write_boot_params(const struct load *l, const struct bzimage *bz,
			      const struct span *initrd, u8 *at, gpa_t gpa)
{
	struct boot_params bp = {.hdr = bz->hdr};
	struct load_mem map[LOAD_MEM_MAX];
	unsigned n = load_mem_map(l->ram, map);
	u64 above_1m = (l->ram->low_end - MIB) / KIB;

	bp.hdr.type_of_loader = 0xff; /* no assigned number */
	bp.hdr.cmd_line_ptr = (u32)(gpa + CMDLINE_AT);
	bp.hdr.ramdisk_image = (u32)initrd->start;
	bp.hdr.ramdisk_size = (u32)(initrd->end - initrd->start);
	bp.hdr.setup_data = 0;
	bp.acpi_rsdp_addr = l->cfg->rsdp;
	bp.screen_info.ext_mem_k = (u16)MIN(above_1m, 0xfc00);
	bp.alt_mem_k = (u32)above_1m;
	bp.e820_entries = (u8)n;
	for (unsigned i = 0; i < n; i++)
		bp.e820_table[i] = (struct boot_e820_entry){map[i].start, map[i].size, map[i].type};
	memcpy(at, &bp, sizeof(bp));
}

static int hand_over(struct load *l, const struct bzimage *bz, struct boot_state *out)
{
	u64 max = bz->hdr.version >= PROTO_INITRD ? bz->hdr.initrd_addr_max : OLD_INITRD_MAX;
	u64 len = CMDLINE_AT + strlen(l->cmdline) + 1;
	struct span initrd;
	gpa_t gpa;
	u8 *host;
	int r;

	r = load_initrd(l, max + 1, &initrd);
	if (r)
		return r;
	r = load_take_info(l, len, INFO_START, &gpa, &host);
	if (r)
		return r;
	write_boot_params(l, bz, &initrd, host, gpa);
	write_page_tables(host + PAGES_AT, gpa + PAGES_AT);
	load_write_gdt(out, host + GDT_AT, gpa + GDT_AT, LOAD_CS_LINUX);
	memcpy(host + CMDLINE_AT, l->cmdline, strlen(l->cmdline) + 1);
	out->rsi = gpa;
	if (out->kind == BOOT_LONG64)
		out->cr3 = gpa + PAGES_AT;
	return 0;
}

int bzimage_load(struct load *l, struct boot_state *out)
{
	struct bzimage bz;
	int r = read_header(l, &bz);

	if (r)
		return r;
	*out = (struct boot_state){0};
	if (bz.long64 && !l->cfg->stub && bz.hdr.payload_length)
		r = load_payload(l, &bz, out);
	else
		r = load_prot(l, &bz, out);
	return r ? r : hand_over(l, &bz, out);
}
